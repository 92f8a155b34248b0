"""Every energy passes the contract, with contexts of all kinds."""

import pytest
import torch

import pyrogen as pg
from pyrogen import energy
from pyrogen.testing import check_distribution

SMALL = {"hidden": (8,)}
QUICK = ("vectors", "bits")


def short(module):
    """The same with chains of fewer steps."""
    module.chains.steps = 20
    return module


CASES = {
    "vectors": (lambda: energy.mlp((3,), **SMALL), (3,), None),
    "one number": (lambda: energy.mlp((), (2,), **SMALL), (), torch.randn(4, 2)),
    "bounds": (lambda: energy.mlp((2,), interval=(0.0, 2.0), **SMALL), (2,), None),
    "bits": (lambda: energy.mlp((2, 2), symbols=2, **SMALL), (2, 2), None),
    "symbols": (lambda: energy.mlp((3,), (2,), symbols=3, **SMALL), (3,), torch.randn(3, 2)),
    "several contexts": (
        lambda: energy.mlp((2,), {"a": (), "b": (2, 2)}, classes={"a": 3}, **SMALL),
        (2,),
        {"a": torch.arange(3), "b": torch.randn(3, 2, 2)},
    ),
    "images": (
        lambda: energy.convolutional((1, 4, 4), channels=(4, 8), group=4, classes=3, **SMALL),
        (1, 4, 4),
        torch.arange(3),
    ),
    "a flow as base": (
        lambda: energy.Energy(
            energy.mlp((2,), **SMALL).network, (2,), base=pg.flows.affine_coupling((2,), layers=1, **SMALL)
        ),
        (2,),
        None,
    ),
}


def case(name):
    return name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [*map(case, CASES)])
def test_contract(name):
    make, event_shape, context = CASES[name]
    check_distribution(lambda: short(make()), event_shape=event_shape, context=context).raise_if_failed()
