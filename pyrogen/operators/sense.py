r"""Parallel imaging: several coils and few columns of frequencies, which come apart into the rows of the image.

All frequencies of a measured column are there. A Fourier transform along the columns is undone without loss, and what
remains are :math:`H` small problems, one for each row of the image,

.. math:: y_r = A_r x_r, \qquad A_r \in \mathbb{R}^{m \times n} ,

with :math:`m` twice the number of coils times that of columns. So the spectrum of :math:`A A^\top` is known exactly for
images of any size.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from pyrogen.arrays import takes_arrays
from pyrogen.numerics.fourier import transformed

from .blocks import BlockMatrix
from .fourier import Coils, Fourier, as_channels, as_complex, complex_shape
from .linear import Linear
from .spectrum import ExactSpectrum


class Sense(Linear):
    """An image at some columns of frequencies, by several coils (sensitivity encoding): ``Fourier @ Coils``.

    Its :meth:`spectrum` is exact, however many numbers are measured.

    Args:
        shape: ``(2, height, width)``, or ``(1, height, width)`` for a real image.
        maps: The sensitivities, complex, of shape ``(coils, height, width)``, such as :func:`coil_maps` makes.
        columns: Which columns are measured, the zero frequency in the middle; booleans ``(width,)``, such as a row of
            what :func:`random_lines` makes.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, 2, coils, frequencies)``.

    References:
        Pruessmann, Weiger, Scheidegger and Boesiger 1999, "SENSE: sensitivity encoding for fast MRI",
        https://doi.org/10.1002/(SICI)1522-2594(199911)42:5%3C952::AID-MRM16%3E3.0.CO;2-S

    Example:
        >>> from pyrogen.operators import coil_maps, random_lines
        >>> columns = random_lines((64, 64), 4, centre=6)[0]
        >>> mri = Sense((2, 64, 64), coil_maps((64, 64), 8), columns)
        >>> mri(torch.randn(5, 2, 64, 64)).shape
        torch.Size([5, 2, 8, 1024])
        >>> mri.spectrum().values.shape
        torch.Size([2, 8, 1024])
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], maps: Tensor, columns: Tensor) -> None:
        super().__init__(complex_shape(shape))
        self.coils = Coils(self.shape, maps)
        if not isinstance(columns, Tensor) or columns.dtype != torch.bool or columns.shape != self.shape[-1:]:
            kind = f"{tuple(columns.shape)}, {columns.dtype}" if isinstance(columns, Tensor) else type(columns).__name__
            raise ValueError(f"`columns` must be booleans of shape {self.shape[-1:]}, got {kind}")
        if not columns.any():
            raise ValueError("`columns` must keep a column, got none")
        self.transform = Fourier(self.coils.output_shape, columns.expand(self.shape[-2:]))

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.transform.output_shape

    def __call__(self, x: Tensor) -> Tensor:
        return self.transform(self.coils(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.coils.adjoint(self.transform.adjoint(y))

    def norm(self) -> float:
        return self.spectrum().norm

    def spectrum(self, dense: int = 4096) -> ExactSpectrum:
        blocks = self._blocks()
        values, vectors = torch.linalg.eigh(blocks @ blocks.mT)  # (H, m), (H, m, m)
        rotation = _Rotation(self.output_shape, vectors)
        return ExactSpectrum(self, values.reshape(self.output_shape), rotation, rotation.adjoint)

    def _blocks(self) -> Tensor:
        """The matrices of the rows ``(H, m, n)``: an image that is one along a column shows a column of each."""
        channels, height, width = self.shape
        one = self.zero()
        columns = torch.eye(channels * width, dtype=one.dtype, device=one.device).reshape(-1, channels, 1, width)
        measured = self(columns.expand(-1, -1, height, -1))
        return _by_row(measured, self.output_shape, height).movedim(0, -1)


class _Rotation(Linear):
    """Measurements in eigenvectors of each row of the image; the adjoint is the inverse.

    Args:
        shape: Of the measurements.
        vectors: Of each row, ``(H, m, m)``.
    """

    def __init__(self, shape: tuple[int, ...], vectors: Tensor) -> None:
        super().__init__(shape)
        self.vectors = vectors

    def __call__(self, x: Tensor) -> Tensor:
        return BlockMatrix(self.vectors).transposed(_by_row(x, self.shape, len(self.vectors))).reshape(x.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return _together(BlockMatrix(self.vectors)(y.reshape(*y.shape[:-3], *self.vectors.shape[:2])), self.shape)


def _by_row(y: Tensor, shape: tuple[int, ...], height: int) -> Tensor:
    """Measurements of a shape as numbers of the rows of the image, ``(*batch, H, m)``, orthonormally."""
    measured = as_complex(y, shape, "y").unflatten(-1, (height, -1))  # (*batch, coils, H, L)
    rows = transformed(partial(torch.fft.ifft, dim=-2, norm="ortho"), torch.fft.ifftshift(measured, -2))
    rows = torch.view_as_real(torch.fft.fftshift(rows, -2))
    return rows.movedim(-3, -4).flatten(-3)  # (*batch, H, coils L 2)


def _together(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`_by_row`."""
    numbers = torch.view_as_complex(rows.unflatten(-1, (shape[1], -1, 2)).contiguous()).movedim(-3, -2)
    measured = transformed(partial(torch.fft.fft, dim=-2, norm="ortho"), torch.fft.ifftshift(numbers, -2))
    measured = torch.fft.fftshift(measured, -2)
    return as_channels(measured.flatten(-2), shape)
