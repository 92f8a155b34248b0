r"""Slopes: what is measured as a linear map :math:`A` of the unknowns, near each particle.

Twists of few measured numbers take the matrix. All else applies :math:`A` and its transpose to vectors, so that nothing
is larger than data and measurements: hundreds of particles may measure thousands of numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor

_CHUNK = 64  # rows of the matrix at once


class Slopes(ABC):
    """A linear map of :math:`D` unknowns to :math:`m` measured numbers, for :math:`P` particles of :math:`N` problems.

    Subclasses define :attr:`matrix`, :meth:`push` and :meth:`pull`.

    Args:
        size: :math:`D`.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    @abstractmethod
    def matrix(self) -> Tensor:
        """The map, of shape ``(P, N, m, D)`` or broadcasting with it."""

    @abstractmethod
    def push(self, x: Tensor) -> Tensor:
        """The map of vectors ``(P, N, D)``, of shape ``(P, N, m)``, in double precision."""

    @abstractmethod
    def pull(self, w: Tensor) -> Tensor:
        """Its transpose of vectors ``(P, N, m)``, of shape ``(P, N, D)``, in double precision."""


class Tangents(Slopes):
    """The derivative of a differentiable function of the particles.

    Where a slope is not a number it counts as zero: such a particle is not guided.

    Args:
        x: The particles ``(P, N, D)``, which require gradients.
        eta: What is measured of each, ``(P, N, m)``, with its graph.
    """

    def __init__(self, x: Tensor, eta: Tensor) -> None:
        super().__init__(x.shape[-1])
        # What does not depend on the particles, steps among them, has slopes of zero.
        self._x, self._eta = x, eta if eta.requires_grad else eta + 0 * x.sum(-1, keepdim=True)

    @cached_property
    def matrix(self) -> Tensor:
        basis = torch.eye(self._eta.shape[-1], dtype=self._eta.dtype, device=self._eta.device)
        rows = [
            torch.autograd.grad(
                self._eta,
                self._x,
                part[:, None, None].expand(-1, *self._eta.shape),
                retain_graph=True,
                is_grads_batched=True,
            )[0]
            for part in basis.split(_CHUNK)
        ]
        return _numbers(torch.cat(rows)).movedim(0, -2)

    def push(self, x: Tensor) -> Tensor:
        pulled, dual = self._transposed
        return _numbers(torch.autograd.grad(pulled, dual, x.to(pulled), retain_graph=True)[0]).double()

    def pull(self, w: Tensor) -> Tensor:
        return _numbers(torch.autograd.grad(self._eta, self._x, w.to(self._eta), retain_graph=True)[0]).double()

    @cached_property
    @torch.enable_grad()
    def _transposed(self) -> tuple[Tensor, Tensor]:
        """The transpose as a function of its argument: its own transpose is the map."""
        dual = torch.zeros_like(self._eta, requires_grad=True)
        return torch.autograd.grad(self._eta, self._x, dual, create_graph=True)[0], dual


class SingularSlopes(Slopes):
    r"""One map for all particles, :math:`S V^\top`.

    Args:
        values: The diagonal of :math:`S`, of shape ``(1, N, m)``; zero where nothing is measured.
        axes: The rows of :math:`V^\top`, of shape ``(1, N, m, D)``.
    """

    def __init__(self, values: Tensor, axes: Tensor) -> None:
        super().__init__(axes.shape[-1])
        self.values, self.axes = values, axes

    @property
    def matrix(self) -> Tensor:
        return self.values.unsqueeze(-1) * self.axes

    @property
    def inverse(self) -> Tensor:
        """The diagonal of the pseudo-inverse of :math:`S`."""
        return torch.where(self.values > 0, 1 / self.values, 0.0)

    def push(self, x: Tensor) -> Tensor:
        return self.values * self.along(x)

    def pull(self, w: Tensor) -> Tensor:
        return self.back(self.values * w)

    def along(self, x: Tensor) -> Tensor:
        r"""Vectors along the axes, :math:`V^\top x`."""
        return torch.einsum("nmd,pnd->pnm", self.axes[0], x.to(self.axes))

    def back(self, w: Tensor) -> Tensor:
        r"""Vectors given along the axes, :math:`V w`."""
        return torch.einsum("nmd,pnm->pnd", self.axes[0], w.to(self.axes))


def _numbers(slopes: Tensor) -> Tensor:
    return slopes.nan_to_num(0.0, posinf=0.0, neginf=0.0)
