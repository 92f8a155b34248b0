r"""Operators that are the same everywhere on a periodic signal: circular convolutions and shifts.

They multiply the Fourier transform by a transfer function, so that :math:`A A^\top` is known in closed form: its
eigenvectors are real waves, the rows of the Hartley transform (the real part of the Fourier transform less its
imaginary part), and its eigenvalues the squared absolute values of the transfer function. Where a signal does not
repeat itself, give it a margin.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial

import torch
from torch import Tensor

from pyrogen.arguments import sizes
from pyrogen.arrays import takes_arrays
from pyrogen.numerics.fourier import transformed

from .linear import Linear, flattened, floating
from .spectrum import ExactSpectrum


class _Periodic(Linear):
    """A circular convolution along the last dimensions, by its transfer function.

    Args:
        shape: The shape of one signal.
        dims: How many dimensions it acts along.
    """

    def __init__(self, shape: tuple[int, ...], dims: int) -> None:
        super().__init__(sizes(shape, "shape"))
        self._dims = tuple(range(-dims, 0))

    @abstractmethod
    def _transfer(self, like: Tensor) -> Tensor:
        """The transfer function at the frequencies of ``torch.fft.rfftn``."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    def __call__(self, x: Tensor) -> Tensor:
        return self._filtered(x, self._transfer(x), "x")

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, self._transfer(y).conj(), "y")

    def norm(self) -> float:
        return self._transfer(self.zero()).abs().max().item()

    def spectrum(self, dense: int = 4096) -> ExactSpectrum:
        point = self.zero()
        point[(..., *(0 for _ in self._dims))] = 1.0
        values = torch.fft.fftn(self(point), dim=self._dims).abs().square()
        if values.shape != self.shape:
            raise NotImplementedError(
                f"one operator has a spectrum, not several of batch shape {values.shape[: -len(self.shape)]}"
            )
        into = partial(hartley, dims=len(self._dims))
        return ExactSpectrum(self, values, into, into)

    def _filtered(self, signal: Tensor, transfer: Tensor, name: str) -> Tensor:
        flattened(signal, self.shape, name)
        sides = [self.shape[dim] for dim in self._dims]
        wave = transformed(partial(torch.fft.rfftn, dim=self._dims), signal) * transfer
        return transformed(partial(torch.fft.irfftn, s=sides, dim=self._dims), wave)


def hartley(signal: Tensor, dims: int) -> Tensor:
    """The Hartley transform along the last dimensions, which is its own inverse: coefficients of real waves."""
    wave = transformed(partial(torch.fft.fftn, dim=tuple(range(-dims, 0)), norm="ortho"), signal)
    return wave.real - wave.imag


class CircularConvolution(_Periodic):
    r"""The convolution of a signal that repeats itself with a kernel, along as many last dimensions as the kernel has.

    Along each of them :math:`y_n = \sum_k h_k x_{n + c - k}`, with the middle of the kernel at :math:`c`, half its size
    rounded down.

    Args:
        shape: The shape of one signal, such as ``(channels, height, width)`` or ``(length,)``.
        kernel: No larger than the signal; it may depend on a latent site.

    Shape:
        ``(*batch, *shape)`` to the same.

    Example:
        >>> blur = CircularConvolution((5,), torch.tensor([0.25, 0.5, 0.25]))
        >>> blur(torch.tensor([4.0, 0.0, 0.0, 0.0, 0.0])).abs().round(decimals=3)
        tensor([2., 1., 0., 0., 1.])
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], kernel: Tensor) -> None:
        super().__init__(shape, floating(kernel, "kernel").dim())
        fits = 0 < kernel.dim() <= len(self.shape)
        if not fits or any(k > n for k, n in zip(kernel.shape, self.shape[-kernel.dim() :], strict=True)):
            raise ValueError(f"`kernel` must be no larger than {self.shape}, got {tuple(kernel.shape)}")
        self.kernel = kernel

    def _transfer(self, like: Tensor) -> Tensor:
        kernel = self.kernel.to(like)
        size = [self.shape[dim] for dim in self._dims]
        padded = torch.nn.functional.pad(
            kernel, [n for dim in reversed(self._dims) for n in (0, size[dim] - kernel.shape[dim])]
        )
        centred = padded.roll([-(kernel.shape[dim] // 2) for dim in self._dims], self._dims)
        return torch.fft.rfftn(centred, dim=self._dims)


class Shift(_Periodic):
    r"""A shift by any part of a pixel, of a signal that repeats itself and holds no more than its samples resolve.

    The signal is interpolated by its Fourier series, :math:`y(r) = x(r - s)`. Whole pixels only move. The shift may be
    a latent site (registration); the operator is differentiable in it.

    Args:
        shape: The shape of one signal, such as ``(channels, height, width)`` or ``(length,)``.
        shift: How far, in pixels, along each of the last dimensions: ``(dims,)``, or ``(*batch, dims)`` for a shift of
            each signal of a batch. ``(1.0, 0.5)`` of an image is one down and half a pixel to the right.

    Shape:
        ``(*batch, *shape)`` to the same.

    Example:
        >>> Shift((4,), torch.tensor([1.0]))(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        tensor([4., 1., 2., 3.])
    """

    @takes_arrays
    def __init__(self, shape: tuple[int, ...], shift: Tensor) -> None:
        shape = sizes(shape, "shape")
        if not floating(shift, "shift").dim() or not 0 < shift.shape[-1] <= len(shape):
            raise ValueError(
                f"`shift` must have shape (*batch, dims) with dims at most {len(shape)}, got {tuple(shift.shape)}"
            )
        super().__init__(shape, shift.shape[-1])
        self.shift = shift

    def _transfer(self, like: Tensor) -> Tensor:
        shift, factors = self.shift.to(like), []
        for dim in self._dims:
            size = self.shape[dim]
            frequencies = torch.fft.rfftfreq if dim == -1 else torch.fft.fftfreq
            turn = -2 * math.pi * frequencies(size, dtype=like.dtype, device=like.device) * shift[..., dim, None]
            # The fastest wave that an even number of samples resolves has no direction: it is damped.
            directed = torch.arange(turn.shape[-1], device=like.device) != size / 2
            factor = torch.complex(turn.cos(), turn.sin() * directed)
            before, after = len(self.shape) + dim, -1 - dim
            factors.append(factor.reshape(*shift.shape[:-1], *(1,) * before, -1, *(1,) * after))
        return math.prod(factors)
