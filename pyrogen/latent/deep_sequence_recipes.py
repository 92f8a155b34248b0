"""Recipes of state-space models whose parts are networks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import nn

from pyrogen.arguments import checked, count, switch
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.context import Classes
from pyrogen.networks.feedback import Feedback
from pyrogen.networks.forms import Form, OneHot, WithLogarithm
from pyrogen.networks.messages import LocalMessages, RecurrentMessages
from pyrogen.networks.mlp import MLP
from pyrogen.networks.step_context import StepContext
from pyrogen.networks.transition import GatedTransition, RecurrentTransition, Transition

from .sequence_recipes import SEQUENCE_TEXTS, family_of, sequence_shape
from .state_space.gaussian_process import MaternProcesses, OfValues
from .state_space.model import StateSpaceModel
from .state_space.parts import Dynamics, Emissions, Inference
from .state_space.process_inference import ProcessInference
from .state_space.recurrent import FeedbackInference, FeedbackLikelihood, StochasticRecurrentModel


@recipe(texts=SEQUENCE_TEXTS)
@checked(
    memory=count,
    **dict.fromkeys(("irregular", "structured", "smoothing", "counts", "zero_inflated", "binary"), switch),
)
def deep_markov(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    controls: int = 0,
    irregular: bool = False,
    symbols: int | None = None,
    binary: bool = False,
    counts: bool = False,
    zero_inflated: bool = False,
    scale: float | None = None,
    width: int = 64,
    memory: int = 0,
    hidden: Sequence[int] = (64,),
    structured: bool = True,
    smoothing: bool = True,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    draws: int = 100,
) -> StateSpaceModel:
    r"""A deep Markov model: a gated transition of states, and any family of observations.

    Observations are real numbers, unless one of ``symbols``, ``binary`` and ``counts`` is given. Real numbers are
    brought to mean zero and scale one by moments of the data set, unless ``scale`` is given; the network of the
    posterior sees symbols one-hot, and counts beside their logarithms. NaN marks what is missing, whole steps or single
    elements. What comes after the end of a sequence is missing, too:
    :func:`~pyrogen.latent.state_space.sequences.padded` makes a tensor of sequences of different lengths.

    Args:
        counts: Whether observations are counts, with a negative binomial likelihood.
        zero_inflated: Whether counts have zeros of their own beside.
        width: Units of the transition's hidden layers and of the posterior's recurrent network.
        memory: Units of a recurrent path without noise, by which the transition remembers all states before; 0 for
            none, with which states are a Markov chain.
        hidden: Sizes of the hidden layers from a state to its observation.
        structured: Whether the posterior of a state follows the one before, by the prior's transition and a message of
            the observations; else states are independent under the posterior (mean field).
        smoothing: Whether the posterior of a state knows the observations after it; else it knows those up to it, as
            a filter does.

    Raises:
        ValueError: more than one of ``symbols``, ``binary``, ``counts`` and ``scale`` is given, or ``zero_inflated``
            without ``counts``.

    References:
        Krishnan, Shalit and Sontag 2017, "Structured inference networks for nonlinear state space models",
        https://arxiv.org/abs/1609.09869
        Hafner et al. 2019, "Learning latent dynamics for planning from pixels" (with ``memory``),
        https://arxiv.org/abs/1811.04551

    Example:
        >>> module = deep_markov((20, 3), latent_shape=2, width=16)
        >>> x = module().sample((5,))
        >>> module().log_prob(x, lengths=[20, 10, 3, 1, 20]).shape
        torch.Size([5])
    """
    length, observation = sequence_shape(event_shape)
    states = prod(as_shape(latent_shape, "latent_shape"))
    family = family_of(symbols, binary, counts, zero_inflated, scale)

    def context() -> StepContext:
        return StepContext(context_shape, controls=controls, irregular=irregular, classes=classes, embedding=embedding)

    prior = Dynamics(length, states, _transition(states, memory, context().size, width), context())
    network = MLP(states + context().size, prod(family.numbers_shape(observation)), hidden=hidden)
    messages = RecurrentMessages(
        prod(observation),
        states,
        inputs=context().size,
        irregular=irregular,
        width=width,
        form=_form(symbols, counts),
        past=not (smoothing and structured),
        future=smoothing,
    )
    units = messages.standardizer if family is families.diagonal_normal else None
    likelihood = Emissions(length, observation, states, network, family, context(), units)
    posterior = Inference(prior, observation, messages, context(), structured=structured)
    return StateSpaceModel(prior, likelihood, posterior, draws=draws)


@recipe(texts=SEQUENCE_TEXTS)
@checked(
    memory=count,
    **dict.fromkeys(("irregular", "structured", "smoothing", "counts", "zero_inflated", "binary"), switch),
)
def stochastic_recurrent(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    controls: int = 0,
    irregular: bool = False,
    symbols: int | None = None,
    binary: bool = False,
    counts: bool = False,
    zero_inflated: bool = False,
    scale: float | None = None,
    width: int = 64,
    memory: int = 0,
    hidden: Sequence[int] = (64,),
    structured: bool = True,
    smoothing: bool = True,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    draws: int = 100,
) -> StochasticRecurrentModel:
    r"""A stochastic recurrent model: :func:`deep_markov` whose observations feed back into the recurrence (SRNN).

    A recurrent network reads what was observed; states and observations are given what it remembers. With ``memory``
    states enter a recurrence, too, as in a variational recurrent network (VRNN). Where an observation is missing,
    what feeds back is a draw of it. The Pyro program has the noise that drives the states as its site ``"z"``, and
    takes sequences without gaps before their last observation.

    Args:
        counts: Whether observations are counts, with a negative binomial likelihood.
        zero_inflated: Whether counts have zeros of their own beside.
        width: Units of the transition's hidden layers, of the network that reads what feeds back, and of the
            posterior's recurrent network.
        memory: Units of a recurrent path of the states, by which the transition remembers all before; 0 for none.
        hidden: Sizes of the hidden layers from a state, and what was fed back, to its observation.
        structured: Whether a message of the observations meets the prior of each state; else states are independent
            under the posterior (mean field).
        smoothing: Whether the posterior of a state knows the observations after it; else it knows those up to it, as
            a filter does.

    Raises:
        ValueError: more than one of ``symbols``, ``binary``, ``counts`` and ``scale`` is given, or ``zero_inflated``
            without ``counts``.

    References:
        Chung, Kastner, Dinh, Goel, Courville and Bengio 2015, "A recurrent latent variable model for sequential data",
        https://arxiv.org/abs/1506.02216
        Fraccaro, Sønderby, Paquet and Winther 2016, "Sequential neural models with stochastic layers",
        https://arxiv.org/abs/1605.07571

    Example:
        >>> module = stochastic_recurrent((20, 3), latent_shape=2, width=16)
        >>> x = module().sample((5,))
        >>> module().log_prob(x, lengths=[20, 10, 3, 1, 20]).shape
        torch.Size([5])
    """
    length, observation = sequence_shape(event_shape)
    states, size = prod(as_shape(latent_shape, "latent_shape")), prod(observation)
    family = family_of(symbols, binary, counts, zero_inflated, scale)

    def context() -> StepContext:
        return StepContext(context_shape, controls=controls, irregular=irregular, classes=classes, embedding=embedding)

    inputs = context().size
    messages = RecurrentMessages(
        size,
        states,
        inputs=inputs,
        irregular=irregular,
        width=width,
        form=_form(symbols, counts),
        past=True,  # what feeds back moves what an observation says about its state
        future=smoothing,
    )
    feedback = Feedback(size, units=width, form=_form(symbols, counts), standardizer=messages.standardizer)
    dynamics = Dynamics(length, states, _transition(states, memory, inputs + width, width), context())
    network = MLP(states + inputs + width, prod(family.numbers_shape(observation)), hidden=hidden)
    units = messages.standardizer if family is families.diagonal_normal else None
    emissions = Emissions(length, observation, states, network, family, context(), units)
    likelihood = FeedbackLikelihood(dynamics, emissions, feedback)
    posterior = FeedbackInference(likelihood, observation, messages, context(), structured=structured)
    return StochasticRecurrentModel(likelihood, posterior, draws=draws)


@recipe(texts=SEQUENCE_TEXTS | {"latent_shape": "How many processes there are."})
@checked(**dict.fromkeys(("irregular", "counts", "zero_inflated", "binary"), switch))
def gaussian_process_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    smoothness: float = 1.5,
    length_scale: float = 10.0,
    controls: int = 0,
    irregular: bool = False,
    symbols: int | None = None,
    binary: bool = False,
    counts: bool = False,
    zero_inflated: bool = False,
    scale: float | None = None,
    hidden: Sequence[int] = (64,),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    draws: int = 100,
) -> StateSpaceModel:
    r"""Gaussian processes over time as latents of any family of observations (GP-VAE).

    The prior of the latents is that of :func:`gaussian_process`: independent processes with Matérn kernels, whose
    length scales are learned. A network gives observations from their values, and another tells from each observation
    what the values there may have been. Observations, gaps and lengths are as for :func:`deep_markov`; controls and
    contexts move what is observed.

    Args:
        smoothness: That of the Matérn kernels: 0.5, 1.5 or 2.5.
        length_scale: That of the kernels before training, in units of the times, which else are one apart.
        counts: Whether observations are counts, with a negative binomial likelihood.
        zero_inflated: Whether counts have zeros of their own beside.
        hidden: Sizes of the hidden layers, from values to observations and back.

    Raises:
        ValueError: more than one of ``symbols``, ``binary``, ``counts`` and ``scale`` is given, ``zero_inflated``
            without ``counts``, ``smoothness`` is none of the three, or ``length_scale`` is not positive.

    References:
        Casale, Dalca, Saglietti, Listgarten and Fusi 2018, "Gaussian process prior variational autoencoders",
        https://arxiv.org/abs/1810.11738
        Fortuin, Baranchuk, Rätsch and Mandt 2020, "GP-VAE: deep probabilistic time series imputation",
        https://arxiv.org/abs/1907.04155

    Example:
        >>> module = gaussian_process_vae((20, 3), latent_shape=2, counts=True)
        >>> module.smooth(module().sample((5,)), particles=10).mean.shape  # values and derivatives
        torch.Size([5, 20, 4])
    """
    length, observation = sequence_shape(event_shape)
    processes = prod(as_shape(latent_shape, "latent_shape"))
    family = family_of(symbols, binary, counts, zero_inflated, scale)

    def context() -> StepContext:
        return StepContext(context_shape, controls=controls, irregular=irregular, classes=classes, embedding=embedding)

    prior = MaternProcesses(length, processes, context(), smoothness=smoothness, length_scale=length_scale)
    size, inputs = prod(observation), context().size
    decoder = MLP(processes + inputs, prod(family.numbers_shape(observation)), hidden=hidden)
    messages = LocalMessages(size, processes, inputs=inputs, hidden=hidden, form=_form(symbols, counts))
    units = messages.standardizer if family is families.diagonal_normal else None
    states = prior.event_shape[1]
    network = OfValues(processes, prior.order, decoder)
    likelihood = Emissions(length, observation, states, network, family, context(), units)
    return StateSpaceModel(prior, likelihood, ProcessInference(prior, observation, messages, context()), draws=draws)


def _form(symbols: int | None, counts: bool) -> Form | None:
    """What a network sees of each number that is observed."""
    return OneHot(symbols) if symbols is not None else WithLogarithm(counts=True) if counts else None


def _transition(states: int, memory: int, inputs: int, width: int) -> Transition:
    if memory:
        return RecurrentTransition(states, memory=memory, inputs=inputs, width=width)
    return GatedTransition(states, inputs=inputs, width=width)
