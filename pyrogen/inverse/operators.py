r"""Operators: what an instrument does to an image, as plain functions of tensors.

Every operator is an object called with images ``(*batch, channels, height, width)`` (or any shape it names), linear
ones with an :meth:`Linear.adjoint`,

.. math:: \langle A x, y \rangle = \langle x, A^\top y \rangle ,

and usable in any Pyro model: ``pyro.sample("y", dist.Normal(operator(x), 0.1).to_event(3), obs=y)``. Values keep their
units: a grey value of data in [0, 1] is in [0, 1], a sum of four pixels is four times one. Lengths are in pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.arguments import integer, number, positive

from .arguments import image_shape, numbers

REC601 = (0.299, 0.587, 0.114)


class Linear:
    """A linear operator. Subclasses define :meth:`__call__`.

    Args:
        shape: The shape of one input; the output may have another.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)

    def __call__(self, x: Tensor) -> Tensor:
        """The measurement of ``x``, of shape ``(*batch, *shape)``, without noise."""
        raise NotImplementedError(f"{type(self).__name__} must define `__call__(x)`")

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint at ``y``, of shape ``(*batch, *shape)``; by differentiation unless a subclass knows it."""
        batch = y.shape[: y.dim() - self._output_dim(y)]
        start = torch.zeros(batch + self.shape, dtype=y.dtype, device=y.device)
        return torch.func.vjp(self, start)[1](y)[0]

    def _output_dim(self, y: Tensor) -> int:
        return self(torch.zeros(self.shape, dtype=y.dtype, device=y.device)).dim()


class Mask(Linear):
    """Keeps some entries, as a vector: inpainting, missing pixels.

    Args:
        kept: Which entries are measured, of shape ``(*shape)``, booleans.
    """

    def __init__(self, kept: Tensor) -> None:
        if not isinstance(kept, Tensor):
            raise TypeError(f"`kept` must be a tensor of booleans, got {type(kept).__name__}")
        if kept.dtype != torch.bool or not kept.any():
            raise ValueError(f"`kept` must be boolean and keep an entry, got {kept.dtype} with {int(kept.sum())} kept")
        super().__init__(tuple(kept.shape))
        self.index = kept.flatten().nonzero().squeeze(-1)

    def __call__(self, x: Tensor) -> Tensor:
        return _flat(x, self.shape)[..., self.index]

    def adjoint(self, y: Tensor) -> Tensor:
        whole = torch.zeros(y.shape[:-1] + (math.prod(self.shape),), dtype=y.dtype, device=y.device)
        return whole.index_copy(-1, self.index, y).reshape(y.shape[:-1] + self.shape)


class Matrix(Linear):
    """Any matrix, on the flattened input.

    Args:
        matrix: Of shape ``(measurements, size)``.
        shape: The shape of one input; a vector if not given.
    """

    def __init__(self, matrix: Tensor, shape: tuple[int, ...] | None = None) -> None:
        numbers(matrix, "matrix")
        shape = (matrix.shape[-1],) if shape is None else tuple(shape)
        if matrix.dim() != 2 or matrix.shape[-1] != math.prod(shape):
            raise ValueError(f"`matrix` must have shape (measurements, {math.prod(shape)}), got {tuple(matrix.shape)}")
        super().__init__(shape)
        self.matrix = matrix

    def __call__(self, x: Tensor) -> Tensor:
        return _flat(x, self.shape) @ self.matrix.T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix).reshape(y.shape[:-1] + self.shape)


class Grey(Linear):
    """The luminance of a colour image, a weighted mean of its channels: colorization.

    Args:
        shape: ``(3, height, width)``.
        weights: Of red, green and blue; those of ITU-R BT.601 if not given.
    """

    def __init__(self, shape: tuple[int, ...], weights: tuple[float, float, float] = REC601) -> None:
        image_shape(shape, channels=3)
        if len(weights) != 3:
            raise ValueError(f"`weights` must be three numbers, got {len(weights)}")
        super().__init__(shape)
        self.weights = torch.tensor([number(weight, "weights") for weight in weights]).reshape(3, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        return (self.weights.to(x) * x).sum(-3, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.weights.to(y) * y


class Separable(Linear):
    """A linear map of rows and one of columns, alike for all channels.

    Args:
        shape: ``(channels, height, width)``.
        vertical: Of shape ``(new height, height)``.
        horizontal: Of shape ``(new width, width)``.
    """

    def __init__(self, shape: tuple[int, ...], vertical: Tensor, horizontal: Tensor) -> None:
        image_shape(shape)
        for name, factor, size in (("vertical", vertical, shape[-2]), ("horizontal", horizontal, shape[-1])):
            if numbers(factor, name).dim() != 2 or factor.shape[-1] != size:
                raise ValueError(f"`{name}` must have shape (new size, {size}), got {tuple(factor.shape)}")
        super().__init__(shape)
        self.vertical, self.horizontal = vertical, horizontal

    def __call__(self, x: Tensor) -> Tensor:
        return self.vertical.to(x) @ x @ self.horizontal.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        return self.vertical.to(y).T @ y @ self.horizontal.to(y)


def box_downsampling(shape: tuple[int, ...], factor: int) -> Separable:
    """The mean of each block of pixels.

    Args:
        shape: ``(channels, height, width)``.
        factor: The side of a block, in pixels; divides height and width.
    """
    _check_factor(shape, factor)
    rows = [torch.kron(torch.eye(size // factor), torch.full((1, factor), 1 / factor)) for size in shape[-2:]]
    return Separable(shape, *rows)


def bicubic_downsampling(shape: tuple[int, ...], factor: int) -> Separable:
    """Antialiased bicubic downsampling.

    The cubic kernel of Keys (a = -0.5), widened by the factor and normalised at the edges.

    Args:
        shape: ``(channels, height, width)``.
        factor: How many pixels become one; divides height and width.

    References:
        Keys 1981, "Cubic convolution interpolation for digital image processing",
        https://doi.org/10.1109/TASSP.1981.1163711
    """
    _check_factor(shape, factor)
    return Separable(shape, *(_cubic_rows(size, factor) for size in shape[-2:]))


def gaussian_blur(shape: tuple[int, ...], width: float) -> Separable:
    """A Gaussian blur; at the edges the kernel is normalised over what it sees.

    Args:
        shape: ``(channels, height, width)``.
        width: The standard deviation of the kernel, in pixels.
    """
    image_shape(shape)
    positive(width, "width")
    rows = []
    for size in shape[-2:]:
        place = torch.arange(size, dtype=torch.double)
        weights = torch.exp(-0.5 * ((place - place.unsqueeze(-1)) / width).square())
        rows.append((weights / weights.sum(-1, keepdim=True)).float())
    return Separable(shape, *rows)


class Convolution(Linear):
    """Any blur: the correlation of each channel with one kernel, zeros outside the image.

    The kernel may be a tensor that depends on a latent site.

    Args:
        shape: ``(channels, height, width)``.
        kernel: Of shape ``(odd, odd)``.
    """

    def __init__(self, shape: tuple[int, ...], kernel: Tensor) -> None:
        if not isinstance(kernel, Tensor):
            raise TypeError(f"`kernel` must be a tensor, got {type(kernel).__name__}")
        if kernel.dim() != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
            raise ValueError(f"`kernel` must have two odd sizes, got {tuple(kernel.shape)}")
        super().__init__(image_shape(shape))
        self.kernel = kernel

    def __call__(self, x: Tensor) -> Tensor:
        return self._filter(x, self.kernel)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filter(y, self.kernel.flip(0, 1))

    def _filter(self, x: Tensor, kernel: Tensor) -> Tensor:
        single = x.reshape(-1, 1, *x.shape[-2:])
        padding = (kernel.shape[0] // 2, kernel.shape[1] // 2)
        return functional.conv2d(single, kernel.to(x)[None, None], padding=padding).reshape(x.shape)


class PhaseRetrieval:
    """The magnitudes of the two-dimensional Fourier transform, orthonormal: not linear, and blind to many symmetries.

    The image is padded with zeros to ``oversampling`` times its size.

    Args:
        oversampling: How much larger the transform is than the image, in each direction.
    """

    def __init__(self, oversampling: float = 2.0) -> None:
        if number(oversampling, "oversampling") < 1:
            raise ValueError(f"`oversampling` must be at least 1, got {oversampling}")
        self.oversampling = oversampling

    def __call__(self, x: Tensor) -> Tensor:
        size = [math.ceil(self.oversampling * side) for side in x.shape[-2:]]
        spectrum = torch.fft.fft2(x, s=size, norm="ortho")
        # A tiny constant keeps the slope finite where a magnitude is zero.
        return (spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt()


def _flat(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(x.shape[x.dim() - len(shape) :]) != shape:
        raise ValueError(f"`x` must end in shape {shape}, got {tuple(x.shape)}")
    return x.reshape(x.shape[: x.dim() - len(shape)] + (-1,))


def _check_factor(shape: tuple[int, ...], factor: int) -> None:
    image_shape(shape)
    if integer(factor, "factor") < 1 or any(size % factor for size in shape[-2:]):
        raise ValueError(f"`factor` must divide height and width {tuple(shape[-2:])}, got {factor}")


def _cubic_rows(size: int, factor: int) -> Tensor:
    centres = (torch.arange(size // factor, dtype=torch.double) + 0.5) * factor - 0.5
    distance = (torch.arange(size, dtype=torch.double) - centres.unsqueeze(-1)).abs() / factor
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    zero = torch.zeros_like(distance)
    weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, zero))
    return (weights / weights.sum(-1, keepdim=True)).float()
