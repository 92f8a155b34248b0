"""PixelCNN and WaveNet pass the contract, with every kind of output and context."""

import pytest
import torch

from pyrogen.autoregressive import pixel_cnn, wavenet
from pyrogen.testing import check_distribution

SMALL = {"width": 8, "depth": 2}
CASES = {
    "pixels, binary": (lambda: pixel_cnn((2, 2), symbols=2, **SMALL), (2, 2), None),
    "pixels, classes, attention": (
        lambda: pixel_cnn((1, 2, 2), symbols=3, classes=4, attention=1, heads=2, **SMALL),
        (1, 2, 2),
        torch.arange(4),
    ),
    "pixels, three channels": (
        lambda: pixel_cnn((3, 2, 2), (2,), symbols=4, components=2, **SMALL),
        (3, 2, 2),
        torch.randn(4, 2),
    ),
    "waves": (lambda: wavenet((4,), symbols=3, width=8, layers=2, skip=8), (4,), None),
    "waves, local context": (
        lambda: wavenet((3,), (3, 2), symbols=4, components=2, width=8, layers=2, skip=8),
        (3,),
        torch.randn(4, 3, 2),
    ),
}
SLOW = {
    "pixels, image context": (
        lambda: pixel_cnn((2, 3), (1, 2, 3), symbols=4, components=2, **SMALL),
        (2, 3),
        torch.randn(4, 1, 2, 3),
    ),
    "waves, classes": (
        lambda: wavenet((4,), symbols=2, classes=4, width=8, layers=2, cycles=2, kernel=3, skip=8),
        (4,),
        torch.arange(4),
    ),
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_contract(name):
    make, event_shape, context = {**CASES, **SLOW}[name]
    torch.manual_seed(0)
    check_distribution(make, event_shape=event_shape, context=context).raise_if_failed()
