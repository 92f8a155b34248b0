"""Every generator passes the contract, with contexts of all kinds."""

import pytest
import torch

import pyrogen as pg
from pyrogen import implicit
from pyrogen.testing import check_distribution

SMALL = {"hidden": (8,)}
CASES = {
    "vectors": (lambda: implicit.mlp((3,), noise=(4,), **SMALL), (3,), None),
    "one number": (lambda: implicit.mlp((), (2,), noise=(1,), **SMALL), (), torch.randn(4, 2)),
    "images": (lambda: implicit.mlp((1, 2, 3), noise=(2, 2), **SMALL), (1, 2, 3), None),
    "classes": (lambda: implicit.mlp((3,), classes=3, **SMALL), (3,), torch.arange(3)),
    "several contexts": (
        lambda: implicit.mlp((2,), {"a": (), "b": (2, 2)}, classes={"a": 3}, **SMALL),
        (2,),
        {"a": torch.arange(3), "b": torch.randn(3, 2, 2)},
    ),
    "noise of a flow": (
        lambda: implicit.mlp((3,), (2,), noise=pg.flows.affine_coupling((2,), (2,), layers=1), **SMALL),
        (3,),
        torch.randn(4, 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name):
    make, event_shape, context = CASES[name]
    check_distribution(make, event_shape=event_shape, context=context).raise_if_failed()
