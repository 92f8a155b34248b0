r"""How probable the data are under a model.

:func:`log_likelihood` is the mean of :math:`\log p(x_i \mid c_i)` over held-out data, in nats per datum, with the
standard error of that mean. It needs a ``log_prob`` that is normalized, or a bound that says so; what a module's
density cannot support is refused by name. Modules are evaluated without gradients and in evaluation mode (no dropout),
and left as they were.
"""

from __future__ import annotations

from math import hypot, log, prod

import torch
from torch import Tensor

from pyrogen.arguments import integer, number, numbers, real_tensor
from pyrogen.arrays import takes_arrays
from pyrogen.core.density import weakest
from pyrogen.core.estimate import BITS_PER_DIMENSION, Estimate
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context

from .scoring import Model, broadcasts_to, name_of, require_baseline, require_model, require_normalized, score


@takes_arrays
def log_probs(module: Model, x: Tensor, context: Context = None, *, batch_size: int = 1024) -> Tensor:
    r"""The log-probability of each datum, :math:`\log p(x_i \mid c_i)`, in nats, computed in chunks.

    Args:
        module: A distribution module, or a distribution (which takes no context).
        x: The data.
        context: Its context, if the module takes one; its batch dimensions broadcast to those of ``x``.
        batch_size: How many data are scored at once.

    Shape:
        ``(*batch, *event_shape)`` to ``(*batch)``.

    Raises:
        NotImplementedError: the module is implicit: it has no ``log_prob``.
        ValueError: there are no data, a shape does not fit, or a log-probability is NaN (how many, and the first row).
    """
    return score(module, x, context, batch_size).log_probs


@takes_arrays
def log_likelihood(module: Model, x: Tensor, context: Context = None, *, batch_size: int = 1024) -> Estimate:
    r"""The mean log-likelihood of held-out data, in nats per datum.

    .. math:: \frac{1}{N} \sum_i \log p(x_i \mid c_i) \pm \frac{s}{\sqrt N}

    with :math:`s` the standard deviation over the data, which are independent of each other. The error says how the
    value would vary with another held-out set from the same source. It says nothing about another training run, and two
    models on the same data are compared by :func:`log_likelihood_difference`, whose error is usually far smaller.

    Arguments and errors are those of :func:`log_probs`.

    Raises:
        NotImplementedError: ``log_prob`` is unnormalized.
    """
    scores = score(module, x, context, batch_size)
    require_normalized(module, scores.density, "a log-likelihood")
    return Estimate.of_mean(scores.log_probs, density=scores.density, shared_error=scores.shared_error)


@takes_arrays
def log_likelihood_difference(
    module: Model,
    baseline: Model,
    x: Tensor,
    *,
    context: Context = None,
    baseline_context: Context = None,
    batch_size: int = 1024,
) -> Estimate:
    r"""By how many nats per datum a module beats a baseline on the same data, with the paired standard error.

    Both models find the same data hard, so the standard error of the mean of :math:`\log p(x_i) - \log q(x_i)` is
    usually far below those of the two means.

    Args:
        module: A distribution module, or a distribution. If its ``log_prob`` is a lower bound, so is the difference.
        baseline: Another. It must not be a bound: bound minus bound bounds nothing.
        x: Held-out data.
        context: Context of ``module``.
        baseline_context: Context of ``baseline``.
        batch_size: How many data are scored at once.

    Raises:
        NotImplementedError: a ``log_prob`` is missing or unnormalized, or the baseline's is a bound.
        ValueError: the events of both differ in shape, a shape does not fit, or a log-probability is NaN.
    """
    require_model(module, "module")
    require_model(baseline, "baseline")
    if tuple(module.event_shape) != tuple(baseline.event_shape):
        raise ValueError(
            f"`baseline` must have events of shape {tuple(module.event_shape)}, got {tuple(baseline.event_shape)}"
        )
    scores = score(module, x, context, batch_size)
    others = score(baseline, x, baseline_context, batch_size, name="baseline")
    require_normalized(module, scores.density, "a log-likelihood")
    require_baseline(others.density, f"`baseline` {name_of(baseline)}")
    if scores.distribution.support.is_discrete != others.distribution.support.is_discrete:
        kinds = ["discrete" if part.distribution.support.is_discrete else "continuous" for part in (scores, others)]
        raise ValueError(
            f"`baseline` must be of the kind of `module`, got a {kinds[1]} distribution beside a {kinds[0]} one: "
            "log-densities and log-probabilities have no difference"
        )
    return Estimate.of_mean(
        paired(scores.log_probs, others.log_probs),
        density=weakest(scores.density, others.density),
        shared_error=hypot(scores.shared_error, others.shared_error),
    )


@takes_arrays
def bits_per_dimension(
    module: Model, x: Tensor, context: Context = None, *, log_volume: float | Tensor, batch_size: int = 1024
) -> Estimate:
    r"""The cost of coding discrete data with the model, in bits for each of the :math:`D` numbers of an event.

    .. math:: -\frac{1}{D \ln 2} \cdot \frac{1}{N} \sum_i \left[ \log p(x_i) + \log V_i \right]

    :math:`V_i` is the volume, in the space of ``x``, of the cell that stands for the discrete datum :math:`i`. For
    pixels in :math:`\{0, \dots, L - 1\}` that were dequantized and divided by :math:`L`, a cell is a cube with edge
    :math:`1 / L`: ``log_volume = -D * log(L)``. Divided by the scale :math:`s` afterwards (standardized), it is
    ``-D * (log(L) + log(s))``. After a non-linear map of the dequantized numbers (logit) it differs for every datum:
    the sum of the logarithms of the map's derivative there, from integers to the space of ``x``.

    A continuous model scores ``x`` with uniform noise inside the cells. By Jensen's inequality the mean of its
    log-density over the cell is at most the log of the cell's probability, so the log-probability is a lower bound and
    the bits are an upper bound, though ``log_prob`` itself be exact. Data without the noise give neither a cost nor a
    bound. A discrete model has no cells: ``log_volume=0``, and its density stays as it is.

    Args:
        module: A distribution module, or a distribution.
        x: Held-out data: dequantized for a continuous model, discrete for a discrete one.
        context: Its context.
        log_volume: :math:`\log V`, one for all data or one for each.
        batch_size: How many data are scored at once.

    Raises:
        NotImplementedError: ``log_prob`` is missing or unnormalized.
        ValueError: a shape does not fit, a log-probability is NaN, or a discrete model is given a volume.

    References:
        Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models",
        https://arxiv.org/abs/1511.01844
        Ho et al. 2019, "Flow++", https://arxiv.org/abs/1902.00275 (section 3.1: dequantization as a bound)

    Example:
        >>> uniform = torch.distributions.Uniform(torch.zeros(4), torch.ones(4))
        >>> uniform = torch.distributions.Independent(uniform, 1)
        >>> print(bits_per_dimension(uniform, torch.rand(10, 4), log_volume=-4 * log(256)))
        8 ± 0 bits per dimension (upper bound)
    """
    scores = score(module, x, context, batch_size)
    require_normalized(module, scores.density, "a coding cost")
    if not isinstance(log_volume, Tensor):
        number(log_volume, "log_volume")
    volume = torch.as_tensor(log_volume, dtype=scores.log_probs.dtype, device=x.device)
    numbers(volume, "log_volume")
    shape = scores.log_probs.shape
    if not broadcasts_to(volume.shape, shape):
        raise ValueError(f"`log_volume` must be one number or of shape {tuple(shape)}, got {tuple(volume.shape)}")
    density = scores.density
    if not scores.distribution.support.is_discrete:
        density = weakest(density, "lower bound")
    elif (volume != 0).any():
        raise ValueError(f"`log_volume` must be 0 for {name_of(module)}, whose support is discrete, got {log_volume}")
    if not prod(module.event_shape):
        raise ValueError(f"`module` must have events of at least one number, got shape {tuple(module.event_shape)}")
    nats = prod(module.event_shape) * log(2)
    bits, error = -(scores.log_probs + volume) / nats, scores.shared_error / nats
    return Estimate.of_mean(bits, unit=BITS_PER_DIMENSION, density=density, shared_error=error)


def paired(first: Tensor, second: Tensor, name: str = "x") -> Tensor:
    """The differences of two models' log-probabilities of the same data, which the argument ``name`` is.

    Raises:
        ValueError: a datum has probability zero under both.
    """
    impossible = first.isneginf() & second.isneginf()
    if impossible.any():
        raise ValueError(
            f"`{name}` must be possible under one of both models, got {int(impossible.sum())} data of probability zero "
            "under both, whose difference is not defined"
        )
    return first - second


@takes_arrays
def bayes_classifier(
    module: DistributionModule,
    x: Tensor,
    classes: int,
    log_prior: Tensor | None = None,
    *,
    batch_size: int = 1024,
) -> Tensor:
    r"""Class probabilities by Bayes' rule, :math:`\log p(c \mid x) \propto \log p(x \mid c) + \log p(c)`.

    Args:
        module: A class-conditional module: its context is an integer label, ``context_shape=()``.
        x: The data.
        classes: How many classes there are, labelled from 0.
        log_prior: :math:`\log p(c)`, of shape ``(classes,)``; uniform if ``None``; normalized here.
        batch_size: How many data are scored at once.

    Shape:
        ``(*batch, *event_shape)`` to ``(*batch, classes)``: normalized log-probabilities; NaN for a datum to which no
        class gives any probability.

    Raises:
        NotImplementedError: ``log_prob`` is not exact or an estimate. How loose a bound is, and how large an unknown
            constant, depends on the class, so their softmax is no posterior.
        TypeError: ``x`` or ``log_prior`` is no tensor.
        ValueError: the module does not take labels, there are no classes, a shape does not fit, or ``log_prior`` holds
            NaN or gives no class any probability.
    """
    return _class_log_joint(module, x, classes, log_prior, batch_size).log_softmax(-1)


@takes_arrays
def class_marginal(
    module: DistributionModule,
    x: Tensor,
    classes: int,
    log_prior: Tensor | None = None,
    *,
    batch_size: int = 1024,
) -> Tensor:
    r"""The log-probability of data of unknown class, :math:`\log p(x) = \log \sum_c p(x \mid c) \, p(c)`, in nats.

    Arguments and errors are those of :func:`bayes_classifier`.

    Shape:
        ``(*batch, *event_shape)`` to ``(*batch)``.
    """
    log_joint = _class_log_joint(module, x, classes, log_prior, batch_size)
    total = torch.zeros(classes).logsumexp(-1) if log_prior is None else log_prior.double().logsumexp(-1)
    return log_joint.logsumexp(-1) - total.to(log_joint)


def _class_log_joint(
    module: DistributionModule, x: Tensor, classes: int, log_prior: Tensor | None, batch_size: int
) -> Tensor:
    """Log-probabilities of data and each class, but for the normalizer of the prior, ``(*batch, classes)``."""
    if not isinstance(module, DistributionModule) or module.context_shape != ():
        got = f"`context_shape` {module.context_shape}" if isinstance(module, DistributionModule) else name_of(module)
        raise ValueError(f"`module` must take labels (`context_shape` ()), got {got}")
    integer(classes, "classes")
    real_tensor(x, "x")
    if log_prior is not None:
        check_log_prior(log_prior, classes)
    joint = []
    for label in range(classes):
        scores = score(module, x, torch.tensor(label, device=x.device), batch_size)
        if scores.density not in ("exact", "estimate"):
            raise NotImplementedError(
                f"{name_of(module)} has density {scores.density!r}: its gap to log p(x | c) depends on the class, "
                "so Bayes' rule gives no posterior; use a module whose density is exact or an estimate, such as "
                "pyrogen.diffusion.ProbabilityFlow of a diffusion model's denoiser"
            )
        joint.append(scores.log_probs)
    log_joint = torch.stack(joint, -1)
    return log_joint if log_prior is None else log_joint + log_prior.to(log_joint)


def check_log_prior(log_prior: Tensor, classes: int) -> None:
    """Raises a ValueError unless these are log-probabilities of so many classes, one of them possible."""
    numbers(log_prior, "log_prior", minus_infinity=True)
    if log_prior.shape != (classes,):
        raise ValueError(f"`log_prior` must have shape {(classes,)}, got {tuple(log_prior.shape)}")
    if log_prior.isneginf().all():
        raise ValueError("`log_prior` must give a class some probability, got minus infinity for all")
