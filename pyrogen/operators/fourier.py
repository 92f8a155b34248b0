r"""Fourier transforms of images, as magnetic resonance measures them.

Complex images and measurements are two real channels, the real part first: ``(2, *, height, width)`` and
``(2, *, frequencies)``; a first channel of one is a real image. The middle of the image is the origin (the pixel
``height // 2``, ``width // 2``), as it is in masks of frequencies, and transforms are orthonormal,

.. math:: y_k = \frac{1}{\sqrt{H W}} \sum_r x_r \, e^{-2 \pi i \, k \cdot r} ,

with frequencies in cycles a pixel, of rows first. So noise has one scale in both channels, whatever the size.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.arguments import sizes
from pyrogen.arrays import takes_arrays
from pyrogen.numerics.fourier import transformed

from .linear import Linear, flattened, floating, varies
from .sparse import SparseMatrix

_unitary = partial(torch.fft.fft2, norm="ortho")
_back = partial(torch.fft.ifft2, norm="ortho")

_WIDTH = 8  # of the kernel, in places of the grid of twice as many frequencies
_BETA = math.pi * math.sqrt((0.75 * _WIDTH) ** 2 - 0.8)  # its best shape there (Beatty and others 2005, eq. 5)


class Fourier(Linear):
    r"""The discrete Fourier transform of an image at some of its frequencies (Cartesian sampling).

    Without coils its rows are orthonormal: its norm is one, and the adjoint fills what is not measured with zeros.

    Args:
        shape: ``(2, *, height, width)``, or ``(1, *, height, width)`` for a real image.
        mask: Which frequencies are measured, the zero frequency in the middle; booleans ``(height, width)``, such as
            :func:`random_lines` makes. All of them if not given.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, 2, *, frequencies)``.

    Example:
        Four times fewer lines than an image has, by eight coils:

        >>> from pyrogen.operators import coil_maps, random_lines
        >>> mask = random_lines((64, 64), 4, centre=6)
        >>> coils = Coils((2, 64, 64), coil_maps((64, 64), 8))
        >>> mri = Fourier((2, 8, 64, 64), mask) @ coils
        >>> mri(torch.randn(5, 2, 64, 64)).shape
        torch.Size([5, 2, 8, 1024])
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], mask: Tensor | None = None) -> None:
        super().__init__(complex_shape(shape))
        size = self.shape[-2:]
        mask = torch.ones(size, dtype=torch.bool) if mask is None else mask
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"`mask` must be a tensor of booleans, got {kind}")
        if tuple(mask.shape) != size or not mask.any():
            raise ValueError(
                f"`mask` must have shape {size} and keep a frequency, got {tuple(mask.shape)} with "
                f"{int(mask.sum())} kept"
            )
        # The origin of torch's transforms is the first pixel: the middle as origin is a turn of every frequency.
        middle = [side // 2 for side in size]
        rows, columns = (kept - half for kept, half in zip(mask.nonzero(as_tuple=True), middle, strict=True))
        self.index = rows % size[0] * size[1] + columns % size[1]
        turn = 2 * math.pi * (rows.double() * middle[0] / size[0] + columns.double() * middle[1] / size[1])
        self.turn = torch.complex(turn.cos(), turn.sin())

    @property
    def output_shape(self) -> tuple[int, ...]:
        return 2, *self.shape[1:-2], len(self.index)

    def __call__(self, x: Tensor) -> Tensor:
        spectrum = transformed(_unitary, as_complex(x, self.shape, "x")).flatten(-2)[..., self.index]
        return as_channels(spectrum * self.turn.to(spectrum), self.output_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        measured = as_complex(y, self.output_shape, "y")
        whole = measured.new_zeros(*measured.shape[:-1], math.prod(self.shape[-2:]))
        whole = whole.index_copy(-1, self.index, measured * self.turn.conj().to(measured))
        return as_channels(transformed(_back, whole.unflatten(-1, self.shape[-2:])), self.shape)


class NonuniformFourier(Linear):
    r"""The Fourier transform of an image at any frequencies (radial, spiral and other non-Cartesian sampling).

    The transform on a grid of twice as many frequencies is read by a Kaiser-Bessel kernel of eight places each way,
    after dividing the image by the kernel's own transform: right to a relative error of about 1e-7. The adjoint is
    that of the very operator, to rounding.

    Frequencies that are differentiated, such as a latent delay of the gradients makes them, or mapped over, are summed
    over directly.

    Args:
        shape: ``(2, *, height, width)``, or ``(1, *, height, width)`` for a real image.
        frequencies: ``(*sampling, 2)``, in cycles a pixel, of rows first, from -0.5 to 0.5 (beyond, they are periodic);
            such as :func:`radial` makes.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, 2, *, *sampling)``.

    References:
        Beatty, Nishimura and Pauly 2005, "Rapid gridding reconstruction with a minimal oversampling ratio",
        https://doi.org/10.1109/TMI.2005.848376

    Example:
        >>> from pyrogen.operators import radial
        >>> spokes = radial((64, 64), torch.arange(16) * torch.pi / 16)
        >>> NonuniformFourier((2, 64, 64), spokes)(torch.randn(2, 64, 64)).shape
        torch.Size([2, 16, 64])
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], frequencies: Tensor) -> None:
        super().__init__(complex_shape(shape))
        floating(frequencies, "frequencies")
        if frequencies.dim() < 2 or frequencies.shape[-1] != 2 or not frequencies.numel():
            raise ValueError(f"`frequencies` must have shape (*sampling, 2), got {tuple(frequencies.shape)}")
        self.sampling, size = tuple(frequencies.shape[:-1]), self.shape[-2:]
        rows, columns = frequencies.double().reshape(-1, 2).unbind(-1)
        self._turns = self._weights = self._matrix = None
        if varies(frequencies):
            self._turns = tuple(_turn(side, along) for side, along in zip(size, (rows, columns), strict=True))
        else:
            transform = _kernel_transform(size[0], rows).unsqueeze(-1) * _kernel_transform(size[1], columns)
            self._weights = (1 / (math.sqrt(math.prod(size)) * transform)).to(frequencies.dtype)
            self._matrix = _reading(rows, columns, size).to(frequencies.dtype)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return 2, *self.shape[1:-2], *self.sampling

    def __call__(self, x: Tensor) -> Tensor:
        image = as_complex(x, self.shape, "x")
        if self._turns is not None:
            down, right = (turn.to(image) for turn in self._turns)  # (H, n), (W, n)
            return as_channels(((image @ right) * down).sum(-2).unflatten(-1, self.sampling), self.output_shape)
        height, width = self.shape[-2:]
        image = functional.pad(image * self._weights.to(x.dtype), (0, width, 0, height))
        image = image.roll((-(height // 2), -(width // 2)), (-2, -1))
        spectrum = transformed(torch.fft.fft2, image).flatten(-2)
        read = torch.complex(self._matrix(spectrum.real), self._matrix(spectrum.imag))
        return as_channels(read.unflatten(-1, self.sampling), self.output_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        measured = as_complex(y, self.output_shape, "y").flatten(-len(self.sampling))
        if self._turns is not None:
            down, right = (turn.conj().to(measured) for turn in self._turns)
            return as_channels((measured.unsqueeze(-2) * down) @ right.mT, self.shape)
        height, width = self.shape[-2:]
        spread = torch.complex(self._matrix.transposed(measured.real), self._matrix.transposed(measured.imag))
        spread = spread.unflatten(-1, (2 * height, 2 * width))
        image = transformed(partial(torch.fft.ifft2, norm="forward"), spread)
        image = image.roll((height // 2, width // 2), (-2, -1))[..., :height, :width]
        return as_channels(image * self._weights.to(y.dtype), self.shape)


class Coils(Linear):
    """An image as several receivers see it, each multiplied by its sensitivity; with one of them, a phase.

    Args:
        shape: ``(2, height, width)``, or ``(1, height, width)`` for a real image.
        maps: The sensitivities, complex, of shape ``(coils, height, width)``, such as :func:`coil_maps` makes. They may
            depend on a latent site.

    Shape:
        ``(*batch, *shape)`` to ``(*batch, 2, coils, height, width)``.
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], maps: Tensor) -> None:
        super().__init__(complex_shape(shape))
        if not isinstance(maps, Tensor) or not maps.is_complex():
            kind = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
            raise TypeError(f"`maps` must be a complex tensor, got {kind}")
        if len(self.shape) != 3 or maps.dim() != 3 or tuple(maps.shape[1:]) != self.shape[1:]:
            raise ValueError(f"`maps` must have shape (coils, *{self.shape[1:]}), got {tuple(maps.shape)}")
        self.maps = maps

    @property
    def output_shape(self) -> tuple[int, ...]:
        return 2, *self.maps.shape

    def __call__(self, x: Tensor) -> Tensor:
        image = as_complex(x, self.shape, "x").unsqueeze(-3)
        return as_channels(image * self.maps.to(image), self.output_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        seen = as_complex(y, self.output_shape, "y")
        return as_channels((seen * self.maps.conj().to(seen)).sum(-3), self.shape)

    def norm(self) -> float:
        squares = (self.maps.real.double().square() + self.maps.imag.double().square()).sum(0)
        return squares.max().sqrt().item()


def complex_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of an image with one or two channels."""
    shape = sizes(shape, "shape")
    if len(shape) < 3 or shape[0] > 2:
        raise ValueError(f"`shape` must be (2, *, height, width), or (1, *, height, width) if real, got {shape}")
    return shape


def as_complex(signal: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Channels ``(*batch, 1 or 2, *rest)`` as complex numbers ``(*batch, *rest)``."""
    channels = flattened(signal, shape, name).unflatten(-1, shape).movedim(-len(shape), 0)
    imaginary = channels[1] if len(channels) == 2 else torch.zeros_like(channels[0])
    return torch.complex(channels[0], imaginary)


def as_channels(signal: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Complex numbers ``(*batch, *shape[1:])`` as channels ``(*batch, *shape)``: the real part alone if one."""
    parts = (signal.real, signal.imag)[: shape[0]]
    return torch.stack(parts, signal.dim() - len(shape) + 1)


def _turn(size: int, frequencies: Tensor) -> Tensor:
    """The waves along one side of an image, divided by the root of its size: ``(size, n)``."""
    place = torch.arange(size, dtype=frequencies.dtype, device=frequencies.device) - size // 2
    angle = -2 * math.pi * place.unsqueeze(-1) * frequencies
    return torch.complex(angle.cos(), angle.sin()) / math.sqrt(size)


def _kernel(distance: Tensor) -> Tensor:
    inside = (1 - (2 * distance / _WIDTH).square()).clamp_min(0)
    return torch.special.i0e(_BETA * inside.sqrt()) * (_BETA * (inside.sqrt() - 1)).exp()


def _kernel_transform(size: int, like: Tensor) -> Tensor:
    """The kernel's Fourier transform at the places of pixels."""
    place = (torch.arange(size, dtype=like.dtype, device=like.device) - size // 2) / (2 * size)
    root = (_BETA**2 - (math.pi * _WIDTH * place).square()).sqrt()
    return _WIDTH * root.sinh() / root * math.exp(-_BETA)


def _reading(rows: Tensor, columns: Tensor, size: tuple[int, int]) -> SparseMatrix:
    """The weights by which frequencies are read off a grid of twice the size, each from the places nearest to it."""
    places, weights = [], []
    for frequency, length in zip((rows, columns), size, strict=True):
        wanted = 2 * length * frequency
        near = (wanted - _WIDTH / 2).ceil().unsqueeze(-1) + torch.arange(_WIDTH, device=wanted.device)  # (n, K)
        weights.append(_kernel(near - wanted.unsqueeze(-1)))
        places.append(near.long() % (2 * length))
    place = places[0].unsqueeze(-1) * 2 * size[1] + places[1].unsqueeze(-2)  # (n, K, K)
    weight = weights[0].unsqueeze(-1) * weights[1].unsqueeze(-2)
    sample = torch.arange(len(rows), device=rows.device).repeat_interleave(_WIDTH**2)
    return SparseMatrix(sample, place.flatten(), weight.flatten(), (len(rows), 4 * math.prod(size)))
