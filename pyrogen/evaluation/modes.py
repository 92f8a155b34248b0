r"""Mode counts: which modes of a known mixture do samples reach, how many lie near one, and how evenly?

A sample belongs to the centre that is the fewest standard deviations away, and is of high quality within three. Of the
draws of well separated round Gaussians in :math:`d` dimensions the share :math:`P(d/2, 9/2)` is so (the regularized
gamma function), 98.89 % in two: more is collapse within the modes.

The reverse Kullback-Leibler divergence of the modes' frequencies :math:`\hat q` from their probabilities :math:`p`,

.. math:: \operatorname{KL}(\hat q \,\|\, p) = \sum_k \hat q_k \log \frac{\hat q_k}{p_k} ,

is finite where modes are missing. It is biased upwards: of :math:`n` exact samples over :math:`K` modes it is nearly
:math:`(K - 1) / 2n` on average where all modes have several.

References:
    Srivastava, Valkov, Russell, Gutmann and Sutton 2017, "VEEGAN: Reducing mode collapse in GANs using implicit
    variational learning", https://arxiv.org/abs/1705.07761
    Lin, Khetan, Fanti and Oh 2018, "PacGAN: The power of two samples in generative adversarial networks",
    https://arxiv.org/abs/1712.04086
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked, finite, numbers, positive, real_tensor, several, vector
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate
from pyrogen.numerics.pairwise import distance_blocks

_WITHIN = 3.0  # standard deviations


@dataclass(frozen=True)
class ModeCounts:
    """How samples spread over the modes of a mixture.

    Args:
        counts: How many samples belong to each mode, ``(modes,)``.
        probabilities: The true probability of each mode, ``(modes,)``.
        captured: How many modes hold a sample, one of high quality where that is known.
        reverse_kl: Of the frequencies from the probabilities, in nats; that of the samples as they are.
        high_quality: The share of samples within three standard deviations of their mode; ``None`` for labels.
        high_quality_of_exact: The share of an exact sampler; ``None`` for labels.
    """

    counts: Tensor = field(repr=False, compare=False)
    probabilities: Tensor = field(repr=False, compare=False)
    captured: int
    reverse_kl: Estimate
    high_quality: Estimate | None = None
    high_quality_of_exact: float | None = None

    @property
    def reverse_kl_of_exact(self) -> float:
        """What the reverse divergence of as many exact samples is on average, in nats: its bias."""
        probabilities, modes = self.probabilities.cpu().unique(return_counts=True)
        each = [_mean_divergence(int(self.counts.sum()), float(probability)) for probability in probabilities]
        return float(modes.double() @ torch.tensor(each, dtype=torch.double))

    @property
    def captured_of_exact(self) -> float:
        """How many modes as many exact samples reach on average."""
        return float((1 - (1 - self.probabilities) ** int(self.counts.sum())).sum())

    def __str__(self) -> str:
        quality = ""
        if self.high_quality is not None:
            quality = f"{self.high_quality} (exact sampler {self.high_quality_of_exact:.4f}), "
        return (
            f"{self.captured} of {len(self.counts)} modes, {quality}"
            f"reverse KL {self.reverse_kl} (exact sampler {self.reverse_kl_of_exact:.2g})"
        )


@takes_arrays
@checked(scale=anything)
def mode_counts(
    x: Tensor, centers: Tensor, scale: float | Tensor, *, probabilities: Tensor | None = None
) -> ModeCounts:
    """Counts samples at the modes of a mixture of round Gaussians.

    Args:
        x: Independent draws of a model.
        centers: The modes.
        scale: The standard deviation of every mode, or of each, in data units.
        probabilities: Of the modes; equal ones if ``None``.

    Shape:
        ``x`` is ``(n, *event_shape)``, ``centers`` is ``(modes, *event_shape)``, ``scale`` a number or ``(modes,)``.

    Raises:
        TypeError: an argument is no tensor or number.
        ValueError: there are no draws, fewer than two centres, or two centres nearer to each other than six standard
            deviations, whose spheres would overlap; a shape does not fit, or a number makes no sense.

    Example:
        >>> centers = torch.cartesian_prod(torch.arange(3.0), torch.arange(3.0))
        >>> x = centers.repeat(100, 1) + 0.05 * torch.randn(900, 2)
        >>> mode_counts(x, centers, 0.05).captured
        9
    """
    finite(x, "x"), finite(centers, "centers")
    if x.dim() < 2 or not x.numel() or x.shape[1:] != centers.shape[1:] or len(centers) < 2:
        raise ValueError(
            "`x` and `centers` must have shapes (n, *event) and (modes, *event), with at least two modes, got "
            f"{tuple(x.shape)} and {tuple(centers.shape)}"
        )
    points, places = x.detach().double().flatten(1), centers.to(x.device).double().flatten(1)
    scales = _scales(scale, places)
    _require_apart(places, scales)
    labels = torch.cat([(distance / scales).argmin(1) for _, distance in distance_blocks(points, places)])
    good = (points - places[labels]).norm(dim=1) <= _WITHIN * scales[labels]  # exact, which that of a block is not
    counted = label_counts(labels, len(centers), probabilities=probabilities)
    half_squared = torch.tensor([points.shape[1] / 2, _WITHIN**2 / 2], dtype=torch.double)
    return ModeCounts(
        counted.counts,
        counted.probabilities,
        len(labels[good].unique()),
        counted.reverse_kl,
        Estimate.of_share(good, unit="of high quality"),
        float(torch.special.gammainc(*half_squared)),
    )


@takes_arrays
@checked(classes=several)
def label_counts(labels: Tensor, classes: int, *, probabilities: Tensor | None = None) -> ModeCounts:
    """Counts the labels that a classifier gives to samples: its classes are the modes.

    A classifier's errors reach modes that the samples do not: what it makes of held-out data is the figure to compare
    with.

    Args:
        labels: Of independent draws of a model, integers from zero.
        classes: How many there are; of three digits stacked, 1,000.
        probabilities: Of the classes; equal ones if ``None``.

    Shape:
        ``labels`` is ``(n,)``, ``probabilities`` is ``(classes,)``.

    Raises:
        TypeError: ``labels`` is no tensor of integers.
        ValueError: there are none, one is out of range, or the probabilities are not positive or do not sum to one.

    Example:
        >>> print(label_counts(torch.arange(1000) % 10, 10))
        10 of 10 modes, reverse KL 0.0000 ± 0.0021 nats (exact sampler 0.0045)
    """
    vector(real_tensor(labels, "labels"), "labels")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"`labels` must hold integers, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"`labels` must be from 0 to {classes - 1}, got {low} to {high}")
    truth = _probabilities(probabilities, classes, labels.device)
    counts = torch.bincount(labels, minlength=classes)
    return ModeCounts(counts, truth, int((counts > 0).sum()), _reverse_kl(counts, truth))


def _reverse_kl(counts: Tensor, probabilities: Tensor) -> Estimate:
    """The divergence, with the delta method's variance, and that of chance where frequencies are the probabilities.

    Twice n times the divergence of exact samples has a chi-square distribution with K - 1 degrees of freedom, and the
    delta method's term is (K - 1) / n^2 for them, which is taken off it.
    """
    n, free = int(counts.sum()), len(counts) - 1
    frequencies = counts / n
    log_ratio = torch.where(counts > 0, frequencies / probabilities, 1.0).log()
    value = (frequencies * log_ratio).sum()
    delta = (frequencies * (log_ratio - value).square()).sum() / n
    variance = max(float(delta) - free / n**2, 0.0) + free / (2 * n**2)
    return Estimate(max(float(value), 0.0), sqrt(variance), "nats", None)


def _mean_divergence(n: int, probability: float) -> float:
    """What one mode adds to the divergence on average: a sum over its binomial count, as far as that ever comes."""
    far = 30 + 12 * sqrt(n * probability * (1 - probability))
    low, high = max(int(n * probability - far), 1), min(int(n * probability + far), n)
    counts = torch.arange(low, high + 1, dtype=torch.double)
    chances = torch.distributions.Binomial(n, torch.tensor(probability, dtype=torch.double)).log_prob(counts).exp()
    return float((chances * counts / n * (counts / (n * probability)).log()).sum())


def _scales(scale: float | Tensor, centers: Tensor) -> Tensor:
    """The standard deviation of each mode."""
    if not isinstance(scale, Tensor):
        return torch.full_like(centers[:, 0], positive(scale, "scale"))
    numbers(scale, "scale")
    if scale.shape not in ((), (len(centers),)) or not (scale > 0).all():
        raise ValueError(
            f"`scale` must be positive, a number or one for each of {len(centers)} modes, got {tuple(scale.shape)}"
        )
    return scale.detach().to(centers).expand(len(centers))


def _require_apart(centers: Tensor, scales: Tensor) -> None:
    """Refuses modes whose spheres overlap: what an exact sampler does would have no closed form."""
    gaps = torch.cdist(centers, centers) / (scales + scales.unsqueeze(1))
    gaps.fill_diagonal_(torch.inf)
    if float(gaps.min()) < _WITHIN:
        raise ValueError(
            f"`centers` must lie at least {_WITHIN:.0f} standard deviations of both modes apart, got "
            f"{float(gaps.min()):.3g}: is `scale` the standard deviation?"
        )


def _probabilities(probabilities: Tensor | None, classes: int, device: torch.device) -> Tensor:
    if probabilities is None:
        return torch.full((classes,), 1 / classes, dtype=torch.double, device=device)
    numbers(probabilities, "probabilities")
    truth = probabilities.detach().to(device).double()
    if truth.shape != (classes,) or not (truth > 0).all() or abs(float(truth.sum()) - 1) > 1e-5:
        raise ValueError(f"`probabilities` must be {classes} positive numbers that sum to one, got {probabilities}")
    return truth / truth.sum()
