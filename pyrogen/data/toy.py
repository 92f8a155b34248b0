"""Two-dimensional densities for plots: small, sharp, and hard in one way each."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer


@checked
def two_moons(size: int, *, seed: int, noise: float = 0.05) -> Tensor:
    """Two interleaved half circles with Gaussian noise.

    Args:
        size: How many points.
        seed: Of the points.
        noise: Standard deviation of the noise, in data units (the circles have radius 1).

    Shape:
        ``(size, 2)``.
    """
    generator = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(size, generator=generator)
    lower = torch.rand(size, generator=generator) < 0.5
    circle = torch.stack((angle.cos(), angle.sin()), -1)
    moons = torch.where(lower.unsqueeze(-1), torch.tensor([1.0, 0.5]) - circle, circle)
    return moons + noise * torch.randn(size, 2, generator=generator)


@checked
def ring_of_gaussians(size: int, *, seed: int, modes: int = 8, radius: float = 2.0, noise: float = 0.1) -> Tensor:
    """Gaussians of equal weight on a circle.

    Args:
        size: How many points.
        seed: Of the points.
        modes: How many Gaussians.
        radius: Of the circle.
        noise: Standard deviation of each Gaussian.

    Shape:
        ``(size, 2)``.
    """
    generator = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi / modes * torch.randint(modes, (size,), generator=generator)
    return radius * torch.stack((angle.cos(), angle.sin()), -1) + noise * torch.randn(size, 2, generator=generator)


@checked(cells=integer)
def checkerboard(size: int, *, seed: int, cells: int = 4) -> Tensor:
    """Uniform on the dark cells of a board that covers ``[-2, 2]`` squared.

    Args:
        size: How many points.
        seed: Of the points.
        cells: Cells along each side; even.

    Shape:
        ``(size, 2)``. The density is ``2 / 16`` on the dark cells.

    Raises:
        ValueError: ``cells`` is odd or less than two.
    """
    if cells < 2 or cells % 2:
        raise ValueError(f"`cells` must be even and at least 2, got {cells}")
    generator = torch.Generator().manual_seed(seed)
    row = torch.randint(cells, (size,), generator=generator)
    column = 2 * torch.randint(cells // 2, (size,), generator=generator) + row % 2
    corner = torch.stack((column, row), -1)
    return 4 / cells * (corner + torch.rand(size, 2, generator=generator)) - 2


@checked
def funnel(size: int, *, seed: int, dimensions: int = 2) -> Tensor:
    """Neal's funnel: a normal log-variance, and normals of that variance.

    Args:
        size: How many points.
        seed: Of the points.
        dimensions: How many, the log-variance among them.

    Shape:
        ``(size, dimensions)``, the log-variance first (standard deviation 3).

    References:
        Neal 2003, "Slice sampling", https://doi.org/10.1214/aos/1056562461
    """
    generator = torch.Generator().manual_seed(seed)
    log_variance = 3 * torch.randn(size, 1, generator=generator)
    rest = (log_variance / 2).exp() * torch.randn(size, dimensions - 1, generator=generator)
    return torch.cat((log_variance, rest), -1)
