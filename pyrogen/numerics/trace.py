r"""The divergence of a vector field: the trace of its Jacobian, exactly or by random probes.

.. math:: \operatorname{div} f(x) = \sum_i \frac{\partial f_i}{\partial x_i}
    = \mathbb{E}\, \varepsilon^\top \frac{\partial f}{\partial x} \varepsilon, \qquad \mathbb{E}\,
    \varepsilon \varepsilon^\top = I .

Rows of a batch must not see each other in ``f`` (no batch normalization): each direction is pulled back through all
rows at once. Vector-Jacobian products share one evaluation of ``f`` and cost, measured on perceptrons and on mixtures
of Gaussians, a quarter of Jacobian-vector products. The result is differentiable like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy
import torch
from torch import Tensor

from pyrogen.arguments import integer, seed_or_none

_CACHED = 2**15
"""How many numbers the vectors that are pulled back at once may have together."""


@dataclass(frozen=True)
class ExactTrace:
    """The sum of all ``D`` partial derivatives, by as many vector-Jacobian products.

    Args:
        chunk: How many directions at a time; if ``None``, as many as fit a cache (or one, for large events).
    """

    chunk: int | None = None

    def noise(self, x: Tensor) -> Tensor | None:
        """``None``: there is none."""
        return None

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """``function(x)`` and its divergence, ``(N, *event)`` and ``(N,)``."""
        size = prod(x.shape[1:])
        axes = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
        value, pull = torch.func.vjp(function, x)

        def along(axis: Tensor) -> Tensor:
            return _dot(pull(axis.expand_as(value))[0], axis)

        chunk = self.chunk or max(1, _CACHED // max(x.numel(), 1))
        return value, torch.func.vmap(along, chunk_size=chunk)(axes).sum(0)


def rademacher(normal: Tensor) -> Tensor:
    """Plus or minus one with equal chance, from standard normal numbers: of all probes the least variance."""
    return torch.where(normal < 0, -1.0, 1.0).to(normal.dtype)


def gaussian(normal: Tensor) -> Tensor:
    """Standard normal numbers as they are."""
    return normal


@dataclass(frozen=True)
class Hutchinson:
    r"""The mean of :math:`\varepsilon^\top J \varepsilon` over random probes: unbiased, more probes less variance.

    The variance is inversely proportional to their number.

    Args:
        probes: How many probes each row has.
        draw: Makes them of standard normal numbers: :func:`rademacher` or :func:`gaussian`.
        noise_seed: If given, all rows and all calls share the probes of this seed: the answer is then a fixed function
            of the row, as NUTS needs it, and its error no longer averages out.

    Raises:
        ValueError: ``probes`` is less than one.

    References:
        Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
        https://doi.org/10.1080/03610918908812806
        Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud 2019, "FFJORD: Free-form continuous dynamics for scalable
        reversible generative models", https://arxiv.org/abs/1810.01367
    """

    probes: int = 1
    draw: Callable[[Tensor], Tensor] = rademacher
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        integer(self.probes, "probes")
        seed_or_none(self.noise_seed, "noise_seed")

    @property
    def fresh(self) -> bool:
        """Whether each call draws probes of its own."""
        return self.noise_seed is None

    def noise(self, x: Tensor) -> Tensor:
        """Probes for rows ``x``, ``(N, probes, *event)``."""
        shape = (self.probes, *x.shape[1:])
        if self.noise_seed is None:
            normal = torch.randn(len(x), *shape, dtype=x.dtype, device=x.device)
        else:  # numpy's numbers are the same on every device, and allowed under vmap
            numbers = numpy.random.default_rng(self.noise_seed).standard_normal(shape)
            normal = torch.from_numpy(numbers).to(x).expand(len(x), *shape)
        return self.draw(normal)

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """``function(x)`` and an estimate of its divergence, ``(N, *event)`` and ``(N,)``."""
        value, pull = torch.func.vjp(function, x)

        def along(probe: Tensor) -> Tensor:
            return _dot(pull(probe)[0], probe)

        if self.probes == 1:
            return value, along(noise[:, 0])
        return value, torch.func.vmap(along, in_dims=1)(noise).mean(0)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """The sum over each event of products, ``(N,)``."""
    return (x * y).flatten(1).sum(1) if x.dim() > 1 else x * y


Trace = ExactTrace | Hutchinson
