"""Every recipe of diffusion over symbols passes the contract, with contexts of all kinds."""

import pytest
import torch

import pyrogen as pg
from pyrogen.diffusion import SymbolAncestral, masked, uniform
from pyrogen.testing import check_distribution

SMALL = {"width": 16, "depth": 1, "heads": 2, "draws": 2}


def quick(module):
    """With a sampler of few steps, where there is none that is exact: the contract draws a lot."""
    if isinstance(module.sampler, SymbolAncestral):
        module.sampler = SymbolAncestral(8)
    return module


CASES = {
    "masked sequence": (lambda: masked((3,), symbols=3, **SMALL), (3,), None),
    "masked table": (lambda: masked((3,), (2,), symbols=(2, 3, 4), **SMALL), (3,), torch.randn(4, 2)),
    "uniform sequence": (lambda: uniform((3,), symbols=3, **SMALL), (3,), None),
}
SLOW = {
    "masked image": (lambda: masked((1, 2, 3), classes=3, symbols=3, **SMALL), (1, 2, 3), torch.arange(3)),
    "uniform table": (lambda: uniform((2,), (2,), symbols=(2, 3), **SMALL), (2,), torch.randn(4, 2)),
    "masked, looking at sequences": (lambda: masked((3,), (2, 3), symbols=2, **SMALL), (3,), torch.randn(3, 2, 3)),
    "masked, beside images": (
        lambda: masked((1, 2, 2), (2, 2, 2), symbols=3, **SMALL),
        (1, 2, 2),
        torch.randn(3, 2, 2, 2),
    ),
    "uniform of several contexts": (
        lambda: uniform((2,), {"a": (), "b": (2, 2)}, symbols=3, classes={"a": 4}, **SMALL),
        (2,),
        {"a": torch.arange(4), "b": torch.randn(4, 2, 2)},
    ),
    "uniform image": (lambda: uniform((1, 2, 2), symbols=3, patch=1, **SMALL), (1, 2, 2), None),
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_contract(name):
    make, event_shape, context = {**CASES, **SLOW}[name]
    check_distribution(lambda: quick(make()), event_shape=event_shape, context=context).raise_if_failed()


@pytest.mark.slow
def test_a_bound_of_one_symbol_has_no_noise():
    # Draws random numbers all the same, so that `vmap` must say how.
    only = ["sample_shapes", "expand", "support", "normalization", "samples_follow_log_prob", "batch_invariance"]
    check_distribution(lambda: masked((1,), symbols=4, **SMALL), event_shape=(1,), only=only).raise_if_failed()


@pytest.mark.parametrize("recipe", [masked, uniform])
def test_frozen_noise_makes_rows_repeatable(recipe):
    def frozen():
        module = quick(recipe((3,), (4,), symbols=3, **SMALL))
        module.noise_seed = 0
        return module

    only = ["broadcasting", "batch_invariance", "bad_row", "empty_batch", "context_gradient", "own_draws"]
    only += ["global_state", "no_stale_answers", "repeatable_evaluation"]
    check_distribution(frozen, event_shape=(3,), context=torch.randn(5, 4), only=only).raise_if_failed()


@pytest.mark.parametrize("recipe", [masked, uniform])
def test_recipes_of_symbols_train_and_save(recipe, tmp_path):
    torch.manual_seed(0)
    module = recipe((1, 4, 4), classes=3, symbols=5, context_dropout=0.1, **SMALL)
    x, labels = torch.randint(5, (32, 1, 4, 4)), torch.randint(3, (32,))
    assert pg.fit(module, (x, labels), steps=2, seed=0).reason == "steps"
    pg.save(module, tmp_path / "module.pyrogen")
    loaded = pg.load(tmp_path / "module.pyrogen")
    scores = []
    for one in (module, loaded):
        torch.manual_seed(1)
        scores.append(one(labels).log_prob(x))
    assert torch.equal(*scores)
