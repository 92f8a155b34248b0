"""Recipes refuse sizes that make no network."""

import pytest

from pyrogen.diffusion import mlp, transformer, unet


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: mlp((2,), width=0), "width"),
        (lambda: mlp((2,), depth=-1), "depth"),
        (lambda: mlp((2,), depth=0), "depth"),
        (lambda: mlp((2,), dropout=1.5), "dropout"),
        (lambda: mlp((2,), draws=0), "draws"),
        (lambda: mlp((2,), data_scale=-1.0), "data_scale"),
        (lambda: mlp((2,), symbols=1), "symbols"),
        (lambda: unet((1, 8, 8), channels=()), "channels"),
        (lambda: unet((1, 8, 8), channels=(8, 10)), "channels"),
        (lambda: unet((1, 8, 8), channels=(8, 0)), "channels"),
        (lambda: unet((1, 8, 8), attention=3), "attention"),
        (lambda: unet((1, 8, 8), heads=0), "heads"),
        (lambda: transformer((4, 2), width=30), "width"),
        (lambda: transformer((1, 8, 8), patch=0), "patch"),
        (lambda: transformer((4, 2), depth=2.5), "depth"),
    ],
)
def test_sizes_that_make_no_network_are_refused(make, argument):
    with pytest.raises((ValueError, TypeError), match=f"`{argument}"):
        make()
