"""Patches of colour photographs that packages ship: no download."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from .images import Images

_SHOWN = 0.75  # of the width of a photograph, from the left, is for training


def photographs(size: int = 16, *, shrink: int = 4, stride: int | None = None) -> tuple[Images, Images]:
    """Square patches of six photographs, two that scikit-learn and four that scikit-image ship, for training and test.

    Training patches come from the left three quarters of each photograph and overlap; test patches come from the rest,
    side by side. No pixel is in both. Labels say from which photograph a patch is: china, flower, astronaut, cat,
    coffee, rocket.

    Args:
        size: Side of a patch, in pixels.
        shrink: The photographs, of 300 to 500 rows, are first made smaller by averaging squares with this side.
        stride: From one training patch to the next, in pixels; a quarter of the size if not given.

    Returns:
        Training and test images, ``(N, 3, size, size)``.

    Raises:
        ImportError: scikit-learn or scikit-image is not installed.
        ValueError: a number is not positive, or a patch is larger than the test part of a photograph.
    """
    for name, value in (("size", size), ("shrink", shrink), ("stride", 1 if stride is None else stride)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    parts = [_parts(photograph, shrink) for photograph in _photographs()]
    if any(size > min(test.shape[-2:]) for _, test in parts):
        sides = min(min(test.shape[-2:]) for _, test in parts)
        raise ValueError(f"`size` must be at most {sides}, the smaller side of the smallest test part, got {size}")
    stride = max(size // 4, 1) if stride is None else stride
    train, test = zip(*parts, strict=True)
    return _patches(train, size, stride), _patches(test, size, size)


def _photographs() -> Iterator[Tensor]:
    """Integers ``(3, height, width)``."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    shipped = (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())
    for photograph in (*load_sample_images().images, *shipped):
        yield torch.tensor(photograph).permute(2, 0, 1)


def _parts(photograph: Tensor, shrink: int) -> tuple[Tensor, Tensor]:
    """A photograph made smaller, and cut in two."""
    small = functional.avg_pool2d(photograph.float(), shrink).round().long()
    cut = int(_SHOWN * small.shape[-1])
    return small[..., :cut], small[..., cut:]


def _patches(parts: tuple[Tensor, ...], size: int, stride: int) -> Images:
    cut = (part.unfold(1, size, stride).unfold(2, size, stride) for part in parts)  # (3, rows, columns, size, size)
    found = [patches.permute(1, 2, 0, 3, 4).flatten(0, 1) for patches in cut]
    counts = torch.tensor([len(patches) for patches in found])
    return Images(torch.cat(found), torch.arange(len(parts)).repeat_interleave(counts), 256)
