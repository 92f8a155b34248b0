"""Blurs: a Gaussian one, and any other given its kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.arguments import image_shape, positive
from pyrogen.arrays import takes_arrays

from .linear import Linear, floating, varies
from .sampling import Separable


@takes_arrays
def gaussian_blur(shape: tuple[int, ...], width: float | Tensor) -> Separable:
    """A Gaussian blur; at the edges the kernel is normalized over what it sees.

    Args:
        shape: ``(channels, height, width)``.
        width: The standard deviation of the kernel, in pixels: a number, or a tensor ``()``, which may be a latent
            site.
    """
    image_shape(shape)
    if not isinstance(width, Tensor):
        width = torch.tensor(float(positive(width, "width")))
    elif floating(width, "width").dim() or not (varies(width) or width > 0):
        raise ValueError(f"`width` must be one positive number, got {width}")
    rows = []
    for size in shape[-2:]:
        place = torch.arange(size, dtype=torch.double, device=width.device)
        weights = torch.exp(-0.5 * ((place - place.unsqueeze(-1)) / width).square())
        rows.append((weights / weights.sum(-1, keepdim=True)).to(width.dtype))
    return Separable(shape, *rows)


class Convolution(Linear):
    """Any blur: the correlation of each channel with one kernel, zeros outside the image.

    The kernel may be a tensor that depends on a latent site.

    Args:
        shape: ``(channels, height, width)``.
        kernel: Of shape ``(odd, odd)``.
    """

    @takes_arrays
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
