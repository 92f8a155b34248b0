"""Restorations: a posterior over images in numbers, beside the truth where it is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.arguments import checked, finite, integer, positive
from pyrogen.arrays import takes_arrays


@dataclass(frozen=True)
class RestorationReport:
    """A posterior over images.

    Attributes:
        mean: The posterior mean, ``(*shape)``.
        deviation: The posterior standard deviation of each pixel, in data units.
        low: The lower end of each pixel's interval.
        high: Its upper end.
        probability: The probability of the intervals.
        psnr: Of the mean against the truth, in decibels; ``None`` without a truth, as the next two.
        ssim: Of the mean against the truth.
        coverage: The share of pixels whose truth lies in its interval.
        coverage_of_exact: What that is on average for as many draws of the exact posterior, nearly: intervals between
            quantiles of few draws are too narrow, and hold less than their probability.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor
    probability: float
    psnr: float | None = None
    ssim: float | None = None
    coverage: float | None = None
    coverage_of_exact: float | None = None

    def __str__(self) -> str:
        text = f"posterior standard deviation {self.deviation.square().mean().sqrt():.3f} a pixel (root mean square)"
        if self.psnr is None:
            return text
        return (
            f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}, {self.coverage:.0%} of the pixels in their "
            f"{self.probability:.0%} intervals ({self.coverage_of_exact:.0%} if exact); {text}"
        )


@takes_arrays
@checked(draws=finite, span=positive)
def restoration_report(
    draws: Tensor, truth: Tensor | None = None, *, probability: float = 0.9, span: float = 1.0
) -> RestorationReport:
    """Mean, spread and intervals of posterior draws, and how they compare with the truth.

    Args:
        draws: Equally weighted draws ``(draws, *shape)``, the last two dimensions being height and width.
        truth: The true image, if it is known.
        probability: The probability of the central intervals.
        span: The largest less the smallest value that data have: one for [0, 1], two for [-1, 1].
    """
    if draws.dim() < 3 or len(draws) < 2:
        raise ValueError(f"`draws` must be at least two draws (draws, ..., height, width), got {tuple(draws.shape)}")
    if truth is not None and finite(truth, "truth").shape != draws.shape[1:]:
        raise ValueError(f"`truth` must have shape {tuple(draws.shape[1:])}, got {tuple(truth.shape)}")
    rest = (1 - probability) / 2
    low, high = torch.quantile(draws, torch.tensor([rest, 1 - rest], dtype=draws.dtype, device=draws.device), dim=0)
    mean, deviation = draws.mean(0), draws.std(0)
    if truth is None:
        return RestorationReport(mean, deviation, low, high, probability)
    covered = ((low <= truth) & (truth <= high)).float().mean().item()
    scores = psnr(mean, truth, span=span), ssim(mean, truth, span=span)
    exact = probability * (len(draws) - 1) / (len(draws) + 1)  # the k-th of n draws is the quantile k / (n + 1)
    return RestorationReport(mean, deviation, low, high, probability, *scores, covered, exact)


@takes_arrays
def psnr(image: Tensor, truth: Tensor, *, span: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels; infinite for equal images.

    Args:
        image: Of any shape.
        truth: Of the same shape.
        span: The largest less the smallest value that data have.
    """
    _check_pair(image, truth, span)
    error = (image - truth).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(span**2 / error)


@takes_arrays
def ssim(image: Tensor, truth: Tensor, *, span: float = 1.0, window: int = 7) -> float:
    """Structural similarity, with a uniform window, averaged over windows inside the image.

    Args:
        image: Of shape ``(..., height, width)``.
        truth: Of the same shape.
        span: The range of the data.
        window: The side of the window in pixels.

    References:
        Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to structural
        similarity", https://doi.org/10.1109/TIP.2003.819861
    """
    _check_pair(image, truth, span)
    integer(window, "window", least=2)
    if image.dim() < 2 or min(image.shape[-2:]) < window:
        raise ValueError(f"`window` must fit into images of {tuple(image.shape[-2:])} pixels, got {window}")
    x, y = (value.reshape(-1, 1, *value.shape[-2:]).double() for value in (image, truth))

    def average(value: Tensor) -> Tensor:
        return functional.avg_pool2d(value, window, stride=1)

    unbiased = window**2 / (window**2 - 1)
    mean_x, mean_y = average(x), average(y)
    variance_x, variance_y = (unbiased * (average(v * v) - m * m) for v, m in ((x, mean_x), (y, mean_y)))
    covariance = unbiased * (average(x * y) - mean_x * mean_y)
    first, second = (0.01 * span) ** 2, (0.03 * span) ** 2
    top = (2 * mean_x * mean_y + first) * (2 * covariance + second)
    bottom = (mean_x.square() + mean_y.square() + first) * (variance_x + variance_y + second)
    return (top / bottom).mean().item()


@takes_arrays
def predictive_p_values(replicated: Tensor, y: Tensor) -> Tensor:
    """Posterior predictive checks: the share of replicated measurements at least as large as the observed ones.

    Values near zero or one say that prior or likelihood does not fit the measurement.

    Args:
        replicated: Measurements drawn given posterior draws, ``(draws, *shape)``.
        y: The observed measurements.
    """
    finite(replicated, "replicated")
    if replicated.shape[1:] != finite(y, "y").shape or not len(replicated):
        raise ValueError(f"`replicated` must have shape (draws, *{tuple(y.shape)}), got {tuple(replicated.shape)}")
    return (replicated >= y).float().mean(0)


def _check_pair(image: Tensor, truth: Tensor, span: float) -> None:
    positive(span, "span")
    if finite(image, "image").shape != finite(truth, "truth").shape or not image.numel():
        raise ValueError(f"`image` must have the shape of `truth`, {tuple(truth.shape)}, got {tuple(image.shape)}")
