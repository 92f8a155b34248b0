r"""Outlier scores from densities, larger for more unusual data, and how well they separate.

A high density does not make a datum typical. In many dimensions draws of a model have log-densities close to
:math:`-H`, minus its entropy, while the mode has a far higher one; and an image model gives smooth images high
densities whatever they show. So a constant image may score "more probable" than every datum. The scores:

===============================  ==========================================================================
:func:`density_p_value`          rank of log p(x) among held-out data, small where improbable (one-sided)
:func:`two_sided_p_value`        the same from both sides: small where improbable *or* too probable
:func:`typicality`               the distance of log p(x) from its mean over held-out data
:func:`typicality_test`          the same for a whole batch, with a p-value
:func:`joint_typicality`         the same of several statistics at once, such as bounds at several noise levels
:func:`likelihood_ratio`         against a background model that shares what makes both rate smooth data high
:func:`waic`                     over an ensemble: its mean log p(x), less the variance by which its members disagree
:func:`auroc`                    how well a score separates outliers from inliers
===============================  ==========================================================================

The one-sided rank is a monotone function of the log-probability, so its AUROC *is* that of the plain likelihood: it
turns the score into a p-value and repairs nothing. All take log-probabilities, from
:func:`pyrogen.evaluation.density.log_probs`. The background model may be a code,
:func:`~pyrogen.evaluation.complexity.code_length`; and whatever the score, its p-value is
``density_p_value(-score, -reference)``: an alarm at 0.05 is false for at most one of twenty inliers. Ranks and
typicality need them only up to a constant, so energies serve too; with a context the constant and the level differ
between contexts, and reference and data must share it.

References:
    Nalisnick et al. 2019, "Detecting out-of-distribution inputs to deep generative models using typicality",
    https://arxiv.org/abs/1906.02994
    Morningstar et al. 2021, "Density of states estimation for out-of-distribution detection",
    https://arxiv.org/abs/2006.09273 (several statistics)
    Choi, Jang and Alemi 2018, "WAIC, but why? Generative ensembles for robust anomaly detection",
    https://arxiv.org/abs/1810.01392
    Ren et al. 2019, "Likelihood ratios for out-of-distribution detection", https://arxiv.org/abs/1906.02845
    DeLong, DeLong and Clarke-Pearson 1988, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", https://doi.org/10.2307/2531595
    Song et al. 2018, "PixelDefend", https://arxiv.org/abs/1710.10766 (the density p-value)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import torch
from torch import Tensor

from pyrogen.arguments import numbers, vector, without_nan
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import TestResult, normal_quantile, permutation_p_value

from .samples import permuted


@takes_arrays
def density_p_value(log_probs: Tensor, reference: Tensor) -> Tensor:
    r"""The rank of a log-probability among those of held-out data, :math:`(1 + \#\{r_j \le \ell\}) / (1 + n)`.

    For a datum of the same source as the reference it is below :math:`\alpha` with probability at most :math:`\alpha`,
    however good or bad the model (a conformal p-value); no statement about data of other sources follows.

    Args:
        log_probs: Of the data in question.
        reference: Of held-out data, which the model was not trained on.

    Shape:
        ``log_probs`` of any shape; ``reference`` is ``(n,)``.

    Raises:
        TypeError: the log-probabilities are no tensors.
        ValueError: a log-probability is NaN, or the reference is not a vector.
    """
    ordered = _ordered(log_probs, reference)
    return (1 + torch.searchsorted(ordered, log_probs.double().contiguous(), right=True)) / (1 + len(ordered))


@takes_arrays
def two_sided_p_value(log_probs: Tensor, reference: Tensor) -> Tensor:
    """The rank of a log-probability from the nearer end, doubled: small where improbable or suspiciously probable.

    Arguments and errors are those of :func:`density_p_value`.
    """
    ordered = _ordered(log_probs, reference)
    above = 1 + len(ordered) - torch.searchsorted(ordered, log_probs.double().contiguous(), right=False)
    low = density_p_value(log_probs, reference)
    return (2 * torch.minimum(low, above / (1 + len(ordered)))).clamp(max=1)


@takes_arrays
def typicality(log_probs: Tensor, reference: Tensor) -> Tensor:
    r"""How far a log-probability is from the mean over held-out data, :math:`|\ell - \bar r|`, in nats.

    Arguments and errors are those of :func:`density_p_value`; the reference is finite.
    """
    mean = _ordered(log_probs, reference).mean()
    numbers(reference, "reference")
    return (log_probs.double() - mean).abs()


@takes_arrays
def typicality_test(
    log_probs: Tensor, reference: Tensor, *, permutations: int = 999, generator: torch.Generator | None = None
) -> TestResult:
    """Whether a batch as a whole has the mean log-probability of held-out data: a two-sided permutation test.

    It finds shifts far smaller than the spread of single data, but only shifts of the mean log-probability: a batch of
    other data with the same mean passes.

    Args:
        log_probs: Of the batch.
        reference: Of held-out data.
        permutations: How many random divisions of both into batch and reference.
        generator: Of the permutations.

    Shape:
        ``(m,)`` and ``(n,)``.

    Raises:
        TypeError: the log-probabilities are no tensors.
        ValueError: a log-probability is NaN or infinite, or one is not a vector or empty.
    """
    for name, values, shape in (("log_probs", log_probs, "(m,)"), ("reference", reference, "(n,)")):
        numbers(values, name)
        vector(values, name, shape)
    pooled = torch.cat([log_probs.double(), reference.double()])
    m = len(log_probs)
    labels = torch.zeros(len(pooled), 1, dtype=torch.double, device=pooled.device)
    labels[:m] = 1
    labels = torch.cat([labels, permuted(labels[:, 0], permutations, generator)], 1)
    batch_mean = pooled @ labels / m
    distance = (batch_mean - (pooled.sum() - batch_mean * m) / len(reference)).abs()
    return TestResult(
        float(distance[0]), permutation_p_value(float(distance[0]), distance[1:]), "typicality", distance[1:]
    )


@takes_arrays
def likelihood_ratio(log_probs: Tensor, background: Tensor | None = None) -> Tensor:
    r"""The log-probability under a background model minus that under the model, :math:`\log b(x) - \log p(x)`.

    What both models reward alike (smoothness, size) cancels. The background is trained on perturbed data or is a
    general model of the domain; the score is as good as that choice. Without densities, a
    :class:`~pyrogen.implicit.ratio.RatioEstimate` of data to background samples serves: ``likelihood_ratio(ratio(x))``.

    Args:
        log_probs: Under the model; or log-ratios of model to background.
        background: Under the background model, of the same data; ``None`` for log-ratios.

    Shape:
        Both of the same shape.

    Raises:
        TypeError: the log-probabilities are no tensors.
        ValueError: the shapes differ, a log-probability is NaN, or a datum has probability zero under both, so that it
            has no ratio.
    """
    without_nan(log_probs, "log_probs")
    if background is None:
        return -log_probs.double()
    without_nan(background, "background")
    if log_probs.shape != background.shape:
        raise ValueError(f"`background` must have shape {tuple(log_probs.shape)}, got {tuple(background.shape)}")
    ratio = background.double() - log_probs.double()
    if ratio.isnan().any():
        raise ValueError(f"`log_probs` and `background` must have a difference, got {int(ratio.isnan().sum())} NaN")
    return ratio


@takes_arrays
def joint_typicality(statistics: Tensor, reference: Tensor) -> Tensor:
    r"""How far several statistics are from their mean over held-out data, in standard deviations.

    .. math:: \sqrt{(s - \bar r)^\top C^{-1} (s - \bar r)} ,

    with :math:`C` the covariance over the reference (the distance of Mahalanobis): what is usual for each by itself may
    be unusual for them together. Statistics are log-probabilities under several models, terms of a variational bound by
    noise level, code lengths.

    Args:
        statistics: Of the data in question.
        reference: Of held-out data, which the model was not trained on.

    Shape:
        ``(*batch, k)`` and ``(n, k)`` to ``(*batch)``, with ``n`` above ``k``.

    Raises:
        TypeError: the statistics are no tensors.
        ValueError: shapes do not fit, an entry is not finite, or statistics of the reference depend on each other
            linearly.
    """
    numbers(statistics, "statistics")
    if numbers(reference, "reference").dim() != 2 or reference.shape[0] <= reference.shape[1] or not reference.shape[1]:
        raise ValueError(f"`reference` must have shape (n, k) with n above k, got {tuple(reference.shape)}")
    if statistics.shape[-1:] != reference.shape[1:]:
        raise ValueError(f"`statistics` must end in shape ({reference.shape[1]},), got {tuple(statistics.shape)}")
    reference = reference.double()
    centre, spread = reference.mean(0), reference.std(0)
    scaled = (reference - centre) / spread
    factor, failed = torch.linalg.cholesky_ex(scaled.T @ scaled / (len(reference) - 1))
    if failed or not factor.isfinite().all() or factor.diagonal().min() < 1e-6:
        raise ValueError("`reference` must hold statistics of which none is a linear function of the others")
    distance = ((statistics.double() - centre) / spread).reshape(-1, len(centre))
    whitened = torch.linalg.solve_triangular(factor, distance.T, upper=False)
    return whitened.square().sum(0).sqrt().reshape(statistics.shape[:-1])


@takes_arrays
def waic(log_probs: Tensor) -> Tensor:
    r"""How improbable data are to an ensemble and how much it disagrees, the variance less the mean of log p.

    .. math:: \operatorname{Var}_m[\log p_m(x)] - \operatorname{E}_m[\log p_m(x)]

    Minus the criterion of Watanabe and Akaike, with models that were trained apart in place of draws of a posterior. Of
    few the variance is rough, and where they disagree by more than a nat it rules.

    Args:
        log_probs: Of the same data under several models.

    Shape:
        ``(models, *batch)`` to ``(*batch)``, with two models at least.

    Raises:
        TypeError: the log-probabilities are no tensor.
        ValueError: there are fewer than two models, or a log-probability is not finite.
    """
    if numbers(log_probs, "log_probs").dim() < 1 or len(log_probs) < 2:
        raise ValueError(f"`log_probs` must have shape (models, *batch) with two or more, got {tuple(log_probs.shape)}")
    variance, mean = torch.var_mean(log_probs.double(), 0)
    return variance - mean


def _ordered(log_probs: Tensor, reference: Tensor) -> Tensor:
    for name, values in (("log_probs", log_probs), ("reference", reference)):
        without_nan(values, name)
    vector(reference, "reference")
    return reference.double().sort().values


@dataclass(frozen=True)
class Auroc:
    """The area under the receiver operating characteristic, with its interval.

    It is the probability that a random outlier scores above a random inlier (ties count half): 1/2 for a useless score,
    1 for perfect separation, below 1/2 where the score is upside down. It does not depend on a threshold, nor on how
    rare outliers are; what a detector is worth when one datum in a thousand is an outlier, it does not say.

    Args:
        value: The share of pairs in which the outlier scores higher.
        standard_error: DeLong's, over both samples.
        inliers: How many there were.
        outliers: How many there were.
    """

    value: float
    standard_error: float
    inliers: int
    outliers: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval: normal on the logit scale, so that it stays between 0 and 1.

        Where the samples are separated perfectly, DeLong's error is 0 and says nothing. The bound is then that of
        disjoint pairs: an area ``a`` gives ``k`` pairs in the same order with probability ``a**k`` at most.

        Raises:
            ValueError: ``level`` is not between 0 and 1.
        """
        quantile = normal_quantile(level)
        if self.value in (0.0, 1.0):
            bound = (1 - level) ** (1 / min(self.inliers, self.outliers))
            return (bound, 1.0) if self.value == 1.0 else (0.0, 1 - bound)
        logit = log(self.value / (1 - self.value))
        half_width = quantile * self.standard_error / (self.value * (1 - self.value))
        return _expit(logit - half_width), _expit(logit + half_width)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"AUROC {self.value:.3f} ({low:.3f} to {high:.3f})"


@takes_arrays
def auroc(inliers: Tensor, outliers: Tensor) -> Auroc:
    """How well a score separates outliers from inliers.

    Args:
        inliers: Scores of data that belong; larger means stranger.
        outliers: Scores of data that do not.

    Shape:
        ``(m,)`` and ``(n,)``.

    Raises:
        TypeError: the scores are no tensors.
        ValueError: there are fewer than two of either, or a score is NaN.
    """
    for name, group in (("inliers", inliers), ("outliers", outliers)):
        vector(without_nan(group, name), name, least=2)
    inliers, outliers = inliers.double(), outliers.double().to(inliers.device)
    above = _share_below(outliers, inliers)
    below = 1 - _share_below(inliers, outliers)
    error = sqrt(float(above.var()) / len(outliers) + float(below.var()) / len(inliers))
    return Auroc(float(above.mean()), error, len(inliers), len(outliers))


def _share_below(scores: Tensor, others: Tensor) -> Tensor:
    """For each score the share of the others below it, equal ones counted half."""
    ordered = others.sort().values
    low = torch.searchsorted(ordered, scores, right=False)
    high = torch.searchsorted(ordered, scores, right=True)
    return (low + high).double() / (2 * len(ordered))


def _expit(value: float) -> float:
    return 1 / (1 + exp(-value))
