"""Recipes of state-space models that are linear, or of regimes alone, where everything is exact."""

from __future__ import annotations

from math import prod

from torch import nn

from pyrogen.arguments import checked, several, switch
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.context import Classes
from pyrogen.networks.step_context import StepContext

from .builder import likelihood_of
from .recipes import TEXTS
from .state_space.gaussian_process import MaternProcesses, ValueLoading
from .state_space.linear import LinearDynamics, LinearEmissions, LinearGaussianModel
from .state_space.regimes import HiddenMarkovModel
from .state_space.switching import SwitchingDynamics, SwitchingModel

SEQUENCE_TEXTS = {
    **TEXTS,
    "event_shape": "``(length, *observation)``: the number of steps, and the shape of what is observed at each.",
    "context_shape": "What is given of a whole sequence: ``None``, the shape of one tensor, or a dict of shapes.",
    "controls": 'How many numbers are given at each step: an entry ``"controls"`` of the context,'
    " ``(length, controls)``.",
    "irregular": 'Whether times between steps differ: an entry ``"times"`` of the context, ``(length,)``, increasing.',
    "latent_shape": "Size of a state.",
}


def sequence_shape(event_shape: Shape) -> tuple[int, Shape]:
    """The number of steps, and the shape of what is observed at each."""
    shape = as_shape(event_shape, "event_shape")
    if not shape:
        raise ValueError("`event_shape` must be (length, *observation), got ()")
    return shape[0], shape[1:]


def family_of(
    symbols: int | None, binary: bool, counts: bool, zero_inflated: bool, scale: float | None
) -> families.Family:
    """The distribution of one observation."""
    if zero_inflated and not counts:
        raise ValueError("`zero_inflated` must be False where `counts` is not given, got True")
    if not counts:
        return likelihood_of(scale, symbols, binary)
    if symbols is not None or binary or scale is not None:
        name = "symbols" if symbols is not None else "binary" if binary else "scale"
        raise ValueError(f"`counts` must be False where `{name}` is given, got True")
    return families.zero_inflated_negative_binomial if zero_inflated else families.negative_binomial


@recipe(texts=SEQUENCE_TEXTS)
@checked(irregular=switch)
def linear_gaussian(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    controls: int = 0,
    irregular: bool = False,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> LinearGaussianModel:
    r"""The linear-Gaussian state-space model: exact ``log_prob``, filter, smoother and forecasts.

    Raises:
        ValueError: shapes do not fit.

    References:
        Kalman 1960, "A new approach to linear filtering and prediction problems", https://doi.org/10.1115/1.3662552

    Example:
        >>> module = linear_gaussian((20, 3), latent_shape=2)
        >>> module().log_prob(torch.zeros(20, 3)).shape, pg.density_of(module())
        (torch.Size([]), 'exact')
    """
    length, observation = sequence_shape(event_shape)
    states = prod(as_shape(latent_shape, "latent_shape"))
    context = StepContext(context_shape, controls=controls, irregular=irregular, classes=classes, embedding=embedding)
    prior = LinearDynamics(length, states, context)
    return LinearGaussianModel(prior, LinearEmissions(length, observation, states, context))


@recipe(texts=SEQUENCE_TEXTS | {"latent_shape": "How many processes there are."})
@checked(irregular=switch)
def gaussian_process(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    smoothness: float = 1.5,
    length_scale: float = 10.0,
    controls: int = 0,
    irregular: bool = False,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> LinearGaussianModel:
    r"""Gaussian processes over time, seen through linear combinations with independent errors, in linear time.

    Everything that :func:`linear_gaussian` gives is exact here, too: ``log_prob``, filter, smoother and forecasts.
    Controls and contexts move what is observed.

    Args:
        smoothness: That of the Matérn kernels: 0.5, 1.5 or 2.5.
        length_scale: That of the kernels before training, in units of the times, which else are one apart.

    Raises:
        ValueError: ``smoothness`` is none of the three, ``length_scale`` is not positive, or shapes do not fit.

    References:
        Hartikainen and Särkkä 2010, "Kalman filtering and smoothing solutions to temporal Gaussian process regression
        models", https://doi.org/10.1109/MLSP.2010.5589113

    Example:
        >>> module = gaussian_process((20, 3), latent_shape=2, irregular=True)
        >>> module({"times": torch.rand(20).cumsum(0)}).log_prob(torch.zeros(20, 3)).shape
        torch.Size([])
    """
    length, observation = sequence_shape(event_shape)
    processes = prod(as_shape(latent_shape, "latent_shape"))
    context = StepContext(context_shape, controls=controls, irregular=irregular, classes=classes, embedding=embedding)
    prior = MaternProcesses(length, processes, context, smoothness=smoothness, length_scale=length_scale)
    loading = ValueLoading(processes, prior.order, prod(observation))
    return LinearGaussianModel(prior, LinearEmissions(length, observation, prior.event_shape[1], context, loading))


@recipe(texts=SEQUENCE_TEXTS)
@checked(regimes=several, irregular=switch)
def switching_linear(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    regimes: int,
    paths: int = 64,
    controls: int = 0,
    irregular: bool = False,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> SwitchingModel:
    r"""A linear-Gaussian model whose transition switches between regimes, which are summed out.

    ``log_prob`` is exact while no more than ``paths`` paths of regimes lead to the last step; beyond that it is the
    logarithm of an estimate of the evidence without bias, a lower bound in expectation.

    Args:
        regimes: How many regimes there are.
        paths: How many paths of regimes are kept.

    Raises:
        ValueError: shapes do not fit.

    References:
        Kim 1994, "Dynamic linear models with Markov-switching", https://doi.org/10.1016/0304-4076(94)90036-1
        Fearnhead and Clifford 2003, "On-line inference for hidden Markov models via particle filters",
        https://doi.org/10.1111/1467-9868.00421

    Example:
        >>> module = switching_linear((20, 3), latent_shape=2, regimes=2)
        >>> module.smooth_regimes(torch.zeros(20, 3)).probs.shape, pg.density_of(module())
        (torch.Size([20, 2]), 'lower bound')
    """
    length, observation = sequence_shape(event_shape)
    states = prod(as_shape(latent_shape, "latent_shape"))
    context = StepContext(context_shape, controls=controls, irregular=irregular, classes=classes, embedding=embedding)
    prior = SwitchingDynamics(length, states, regimes, context)
    return SwitchingModel(prior, LinearEmissions(length, observation, states, context), paths=paths)


@recipe(texts=SEQUENCE_TEXTS)
@checked(regimes=several, **dict.fromkeys(("counts", "zero_inflated", "binary"), switch))
def hidden_markov(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    regimes: int,
    controls: int = 0,
    symbols: int | None = None,
    binary: bool = False,
    counts: bool = False,
    zero_inflated: bool = False,
    scale: float | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> HiddenMarkovModel:
    r"""A hidden Markov model: sequences that switch between regimes, which are summed out; ``log_prob`` is exact.

    Observations are as for :func:`deep_markov`, of a distribution of their own in each regime, which controls and
    contexts move.

    Args:
        regimes: How many regimes there are.
        counts: Whether observations are counts, with a negative binomial likelihood.
        zero_inflated: Whether counts have zeros of their own beside.

    Raises:
        ValueError: more than one of ``symbols``, ``binary``, ``counts`` and ``scale`` is given, or ``zero_inflated``
            without ``counts``.

    References:
        Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition",
        https://doi.org/10.1109/5.18626

    Example:
        >>> module = hidden_markov((20, 3), regimes=2)
        >>> module.smooth(torch.zeros(20, 3)).probs.shape
        torch.Size([20, 2])
    """
    length, observation = sequence_shape(event_shape)
    context = StepContext(context_shape, controls=controls, classes=classes, embedding=embedding)
    family = family_of(symbols, binary, counts, zero_inflated, scale)
    real = family is families.diagonal_normal
    return HiddenMarkovModel(length, observation, regimes, family, context, standardized=real)
