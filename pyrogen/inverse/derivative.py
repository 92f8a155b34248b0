r"""The derivative of what is measured at a point, as a linear operator.

In units of the noise, and for each of several problems, which are the last dimension of all batches. Where it has few
entries it is a matrix; where it has many, products with it are derivatives of the program, so that nothing is larger
than data and measurements.

What it makes of independent noise in the data has the covariance :math:`A A^\top`. That is diagonal for masks, means of
blocks and Fourier transforms, and diagonal in waves for what is the same everywhere on a signal that repeats itself;
random probes find out. Any other is decomposed if it measures few numbers. Of what is left only products are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from pyrogen.operators.linear import Linear, row_sizes
from pyrogen.operators.periodic import hartley
from pyrogen.operators.spectrum import ExactSpectrum, KrylovSpectrum, Spectrum

from .slopes import Tangents

_ROOM = 2**24  # entries of a matrix, or of products at once
_LEAST = 0.1  # of the largest row, before the noise: far less is rounding, where programs run in single precision
_STEPS = 40  # of Lanczos' method, enough for the moves, whose matrices have a condition of ten


class Derivative(Linear):
    """A derivative in units of the noise.

    Args:
        tangents: The derivatives at as many copies of the point as one likes.
        root: What one unit of each measured number is in units of its noise, ``(1, N, m)``.
        shape: The shape of the unknown of one problem, as it may lie on a grid.
    """

    def __init__(self, tangents: Callable[[int], Tangents], root: Tensor, shape: tuple[int, ...]) -> None:
        self._tangents, self._root, self._grid = tangents, root.double(), shape
        first = tangents(1)
        super().__init__((first.size,))
        self._known = 1, first
        few = root[0].numel() * first.size <= _ROOM
        self.matrix = self._root[0].unsqueeze(-1) * first.matrix[0].double() if few else None  # (N, m, D)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self._root.shape[-1],)

    def zero(self) -> Tensor:
        return self._root.new_zeros(self._root.shape[1], *self.shape)

    def __call__(self, x: Tensor) -> Tensor:
        if self.matrix is not None:
            return _times(self.matrix, x.to(self.matrix))
        return self._by_parts(lambda part: self._root * self._at(len(part)).push(part), x)

    def adjoint(self, y: Tensor) -> Tensor:
        if self.matrix is not None:
            return _times(self.matrix.mT, y.to(self.matrix))
        return self._by_parts(lambda part: self._at(len(part)).pull(self._root * part), y)

    def spectrum(self, dense: int = 4096) -> Spectrum:
        if (diagonal := self._diagonal()) is not None:
            return ExactSpectrum(self, diagonal)
        for dims in range(min(len(self._grid), 2), 0, -1):
            if (waves := self._in_waves(dims)) is not None:
                return waves
        if self._root.shape[-1] > dense:
            return KrylovSpectrum(self, steps=_STEPS)
        values, vectors = torch.linalg.eigh(self._covariance())
        return ExactSpectrum(self, values, lambda y: _times(vectors.mT, y), lambda y: _times(vectors, y))

    def _covariance(self) -> Tensor:
        if self.matrix is not None:
            return self.matrix @ self.matrix.mT
        rows = torch.eye(self._root.shape[-1], dtype=torch.double, device=self._root.device)
        rows = rows.unsqueeze(1).expand(-1, self._root.shape[1], -1)
        found = torch.cat([self(self.adjoint(part)) for part in rows.split(64)]).movedim(0, 1)
        return 0.5 * (found + found.mT)

    def _diagonal(self) -> Tensor | None:
        probe, product = self._probe()
        diagonal = self._sizes * self(self.adjoint(1 / self._sizes))
        return diagonal if self._alike(product, diagonal * probe) else None

    def _in_waves(self, dims: int) -> ExactSpectrum | None:
        """The spectrum of what is the same everywhere along the last dimensions of a grid."""
        probe, product = self._probe()
        if probe.shape[-1] != self.shape[0]:
            return None

        def into(y: Tensor) -> Tensor:
            return hartley(y.unflatten(-1, self._grid), dims).flatten(-len(self._grid))

        point = torch.zeros_like(probe).unflatten(-1, self._grid)
        point[(..., *(0,) * dims)] = 1.0
        answer = self(self.adjoint(point.flatten(-len(self._grid)))).unflatten(-1, self._grid)
        values = torch.fft.fftn(answer, dim=tuple(range(-dims, 0))).real.flatten(-len(self._grid))
        return ExactSpectrum(self, values, into, into) if self._alike(product, into(values * into(probe))) else None

    def _probe(self) -> tuple[Tensor, Tensor]:
        """A random measurement, and what the covariance makes of it."""
        probe = torch.randn_like(self._root[0]) / self._sizes
        return probe, self(self.adjoint(probe))

    @cached_property
    def _sizes(self) -> Tensor:
        """About how large rows are, ``(N, m)``: precise measurements must not hide what others have in common."""
        return row_sizes(self, _LEAST, torch.where(self._root[0] > 0, self._root[0], 1.0))

    def _alike(self, product: Tensor, other: Tensor) -> bool:
        """Equal but for rounding: programs may run in single precision."""
        product, other = product / self._sizes, other / self._sizes
        return bool(((product - other).abs() <= 1e-5 * product.abs().amax(-1, keepdim=True)).all())

    def _by_parts(self, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        rows = vectors.reshape(-1, *vectors.shape[-2:])
        count = max(1, _ROOM // max(self._root[0].numel(), self._root.shape[1] * self.shape[0]))
        found = torch.cat([function(part) for part in rows.split(count)])
        return found.reshape(*vectors.shape[:-1], found.shape[-1])

    def _at(self, count: int) -> Tangents:
        if self._known[0] != count:
            self._known = count, self._tangents(count)
        return self._known[1]


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Matrices ``(N, a, b)`` times vectors ``(..., N, b)``."""
    return torch.einsum("nab,...nb->...na", matrix, vectors)
