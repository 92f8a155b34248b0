r"""The Frechet distance between samples: that of Gaussians with their means and covariances.

It is the squared Wasserstein-2 distance of the two Gaussians (Dowson and Landau 1982; in the features of an Inception
network it is the FID of Heusel et al. 2017). With :math:`\Sigma = L L^\top`,

.. math::
    F = |\mu_x - \mu_y|^2 + \operatorname{tr} \big( \Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2} \big)
      = |\mu_x - \mu_y|^2 + \min_{Q^\top Q = 1} \| L_x - L_y Q \|^2 .

The second form is what is computed, with :math:`Q = U V^\top` from the singular values
:math:`L_y^\top L_x = U s V^\top`. It is a sum of squares: it needs no square root of a matrix that is not symmetric, is
never negative or complex, is as exact for singular covariances as for others, and vanishes to the last digit for equal
ones. The factor of a sample is that of the QR decomposition of its centred draws; their covariance, whose eigenvalues
are squares, is never formed.

The distance of *samples* is biased upwards, by nearly :math:`c / n` with a constant that depends on the model (Chong
and Forsyth 2020); for equal Gaussians of :math:`d` independent elements of variance one it is
:math:`(\tfrac1m + \tfrac1n)(d + d(d+1)/4)`. So distances at different numbers of draws cannot be compared, and at equal
ones the order of two models may be wrong. The line through the distances at :math:`n` draws and at :math:`n/2`, the
mean over random halves of both samples, is extrapolated to infinitely many, :math:`F_\infty = 2 F_n - \bar F_{n/2}`.

References:
    Dowson and Landau 1982, "The Frechet distance between multivariate normal distributions",
    https://doi.org/10.1016/0047-259X(82)90077-X
    Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter 2017, "GANs trained by a two time-scale update rule converge
    to a local Nash equilibrium", https://arxiv.org/abs/1706.08500
    Chong and Forsyth 2020, "Effectively unbiased FID and Inception score and where to find them",
    https://arxiv.org/abs/1911.07023
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyrogen.arguments import checked, finite, integer
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate

from .embedding import NamedEmbedding, embedded
from .halves import over_halves, standard_errors

_ROUNDING = 1e-6  # of the largest eigenvalue or deviation: what single precision leaves of zeros


@dataclass(frozen=True)
class FrechetDistance:
    """The Frechet distance of two samples.

    Args:
        extrapolated: To infinitely many draws, which takes the bias away; it may be below zero by chance.
        plug_in: That of the samples as they are, biased upwards: the number that is published as "FID", comparable
            at equal numbers of draws only.
        draws: How many draws of the first and of the second sample.
    """

    extrapolated: Estimate
    plug_in: Estimate
    draws: tuple[int, int]

    @property
    def bias(self) -> float:
        """By how much that of the samples is too large."""
        return self.plug_in.value - self.extrapolated.value

    def __str__(self) -> str:
        counts = " and ".join(f"{count:,}" for count in self.draws)
        return f"{self.extrapolated}; {self.plug_in.rounded()} from {counts} draws, of which {self.bias:.3g} is bias"


@takes_arrays
@checked(divisions=integer)
def frechet_distance(
    x: Tensor,
    y: Tensor,
    *,
    embedding: NamedEmbedding | None = None,
    divisions: int = 20,
    generator: torch.Generator | None = None,
) -> FrechetDistance:
    """The Frechet distance of two samples in an embedding, with its bias taken away.

    Zero means equal means and covariances of the features, not equal distributions. Standard errors are from halves of
    both samples (:mod:`pyrogen.evaluation.halves`); for equal distributions they are too large by up to 1.4.

    Args:
        x: Independent draws.
        y: Independent draws, not necessarily as many.
        embedding: In what they are compared; ``None`` for their own coordinates.
        divisions: How many random divisions into halves; each takes two more distances.
        generator: Of the divisions.

    Shape:
        ``x`` is ``(m, *event_shape)``, ``y`` is ``(n, *event_shape)``.

    Raises:
        TypeError: a sample is no tensor, one holds integers and the other not, or ``embedding`` is none.
        ValueError: there are too few draws for halves to span the features, more than two for each dimension; the
            events differ in shape, or a draw is not finite.

    Example:
        >>> distance = frechet_distance(torch.randn(1000, 2), torch.randn(1000, 2) + 1.0).extrapolated
        >>> distance.unit
        "Frechet distance in the data's own coordinates"
        >>> abs(distance.value - 2.0) < 5 * distance.standard_error
        True
    """
    first, second, name = embedded(x, y, embedding)
    _require_enough(first, second)
    whole = _of_samples(first, second)
    halves = over_halves(_of_samples, first, second, divisions=divisions, generator=generator)
    error, unit = float(standard_errors(halves)), f"Frechet distance in {name}"
    return FrechetDistance(
        Estimate(float(2 * whole - halves.mean()), error, unit, None),
        Estimate(float(whole), error, unit, None),
        (len(first), len(second)),
    )


@takes_arrays
@torch.no_grad()
def gaussian_frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """The Frechet distance of two Gaussians: their squared Wasserstein-2 distance, without gradients.

    Args:
        mean: Of the first.
        covariance: Of the first; singular ones are as good as others.
        other_mean: Of the second.
        other_covariance: Of the second.

    Shape:
        Means ``(*batch, d)`` and covariances ``(*batch, d, d)``, to ``batch``, in double precision.

    Raises:
        TypeError: one is no tensor of floating-point numbers.
        ValueError: the shapes do not fit, an entry is not finite, or a covariance is not symmetric or has an
            eigenvalue below zero.

    Example:
        >>> mean, covariance = torch.zeros(2), torch.eye(2)
        >>> float(gaussian_frechet_distance(mean, covariance, mean + 1, 4 * covariance))
        4.0
    """
    factors = _factor(mean, covariance, ""), _factor(other_mean, other_covariance, "other_")
    if mean.shape[-1] != other_mean.shape[-1]:
        raise ValueError(f"`other_mean` must have shape (..., {mean.shape[-1]}), got {tuple(other_mean.shape)}")
    return _distance(mean.double(), factors[0], other_mean.double(), factors[1])


def _require_enough(x: Tensor, y: Tensor) -> None:
    """Refuses samples of which a half does not span the dimensions that their features have."""
    both = torch.cat([_factor_of(x), _factor_of(y)], 1)
    dimensions = int(torch.linalg.matrix_rank(both, rtol=_ROUNDING))
    if min(len(x), len(y)) // 2 <= dimensions:
        raise ValueError(
            f"`x` and `y` must hold at least {2 * (dimensions + 1):,} draws each for a Frechet distance in "
            f"{dimensions:,} or more dimensions, got {len(x):,} and {len(y):,}: take more draws, an embedding with "
            "fewer features, or `kernel_distance`, which is unbiased at any number"
        )


def _of_samples(x: Tensor, y: Tensor) -> Tensor:
    """The distance of samples ``(m, d)`` and ``(n, d)``, of shape ``(1,)``."""
    return _distance(x.mean(0), _factor_of(x), y.mean(0), _factor_of(y)).unsqueeze(0)


def _distance(mean: Tensor, factor: Tensor, other_mean: Tensor, other_factor: Tensor) -> Tensor:
    columns = max(factor.shape[-1], other_factor.shape[-1])  # fewer where there are fewer draws than features
    factor, other_factor = (pad(each, (0, columns - each.shape[-1])) for each in (factor, other_factor))
    left, _, right = torch.linalg.svd(other_factor.mT @ factor, full_matrices=False)
    rotated = other_factor @ (left @ right)
    return (mean - other_mean).square().sum(-1) + (factor - rotated).square().sum((-2, -1))


def _factor_of(sample: Tensor) -> Tensor:
    """The factor of a sample's covariance, ``(d, min(n, d))``."""
    return torch.linalg.qr(sample - sample.mean(0), mode="r").R.mT / (len(sample) - 1) ** 0.5


def _factor(mean: Tensor, covariance: Tensor, prefix: str) -> Tensor:
    """The symmetric square root of a covariance."""
    finite(mean, f"{prefix}mean")
    size = mean.shape[-1] if mean.dim() else 0
    if finite(covariance, f"{prefix}covariance").shape[-2:] != (size, size) or not size:
        raise ValueError(
            f"`{prefix}mean` and `{prefix}covariance` must have shapes (..., d) and (..., d, d), got "
            f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
    covariance = covariance.double()
    slack = _ROUNDING * covariance.abs().amax((-2, -1))
    if ((covariance - covariance.mT).abs().amax((-2, -1)) > slack).any():
        raise ValueError(f"`{prefix}covariance` must be symmetric, got one that is not")
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
    if (values.amin(-1) < -slack).any():
        raise ValueError(f"`{prefix}covariance` must have no eigenvalue below zero, got {float(values.min()):.4g}")
    return (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT
