"""Every recipe passes the contract, with contexts of all kinds."""

import pytest
import torch

import pyrogen as pg
from pyrogen import diffusion, latent
from pyrogen.diffusion import FlowGrid, LearnedSchedule, Multistep
from pyrogen.testing import check_distribution

SMALL = {"width": 16, "depth": 1, "draws": 2}
IMAGES = {"channels": (4,), "heads": 2, **SMALL}


def quick(module):
    """With a sampler of few steps: the contract draws a lot."""
    module.sampler = Multistep(FlowGrid(5))
    return module


CASES = {
    "mlp": (lambda: diffusion.mlp((3,), **SMALL), (3,), None),
    "mlp of one number": (lambda: diffusion.mlp((), (2,), **SMALL), (), torch.randn(4, 2)),
    "mlp of several contexts": (
        lambda: diffusion.mlp((2,), {"a": (), "b": (2, 2)}, **SMALL),
        (2,),
        {"a": torch.randn(4), "b": torch.randn(4, 2, 2)},
    ),
    "mlp of integers": (lambda: diffusion.mlp((3,), classes=3, symbols=3, **SMALL), (3,), torch.arange(3)),
    "mlp of many integers": (lambda: diffusion.mlp((3,), symbols=40, **SMALL), (3,), None),
    "mlp, learned schedule": (lambda: diffusion.mlp((3,), schedule=LearnedSchedule(), **SMALL), (3,), None),
    "unet": (lambda: diffusion.unet((1, 2, 3), classes=3, **IMAGES), (1, 2, 3), torch.arange(3)),
    "transformer": (lambda: diffusion.transformer((2, 2), (3,), **SMALL), (2, 2), torch.randn(3, 3)),
}
SLOW = {
    "unet of integers": (lambda: diffusion.unet((1, 4, 4), symbols=3, **IMAGES), (1, 4, 4), None),
    "unet looking at sequences": (lambda: diffusion.unet((1, 3, 3), (2, 3), **IMAGES), (1, 3, 3), torch.randn(3, 2, 3)),
    "unet beside images": (lambda: diffusion.unet((1, 3, 3), (2, 3, 3), **IMAGES), (1, 3, 3), torch.randn(3, 2, 3, 3)),
    "unet of sequences": (
        lambda: diffusion.unet((4, 2), (4,), classes=3, **IMAGES),
        (4, 2),
        torch.arange(12).reshape(3, 4) % 3,
    ),
    "unet of videos": (lambda: diffusion.unet((2, 1, 3, 3), **IMAGES), (2, 1, 3, 3), None),
    "transformer of videos": (
        lambda: diffusion.transformer((2, 1, 3, 3), (2, 3), **SMALL),
        (2, 1, 3, 3),
        torch.randn(3, 2, 3),
    ),
    "transformer of images": (
        lambda: diffusion.transformer((1, 3, 4), (4,), classes=5, symbols=3, **SMALL),
        (1, 3, 4),
        torch.arange(12).reshape(3, 4) % 5,
    ),
}


@pytest.mark.parametrize("name", [*CASES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_contract(name):
    make, event_shape, context = {**CASES, **SLOW}[name]
    check_distribution(lambda: quick(make()), event_shape=event_shape, context=context).raise_if_failed()


def test_contract_of_latent_diffusion():
    def make():
        prior = quick(diffusion.mlp((2,), **SMALL))
        return latent.vae((3,), latent_shape=(2,), hidden=(8,), prior=prior, draws=1)

    check_distribution(make, event_shape=(3,)).raise_if_failed()


def test_frozen_noise_makes_rows_repeatable():
    def frozen():
        module = quick(diffusion.mlp((3,), (4,), **SMALL))
        module.noise_seed = 0
        return module

    only = ["broadcasting", "batch_invariance", "bad_row", "empty_batch", "value_gradient", "context_gradient"]
    only += ["own_draws", "global_state", "no_stale_answers", "repeatable_evaluation"]
    check_distribution(frozen, event_shape=(3,), context=torch.randn(5, 4), only=only).raise_if_failed()


@pytest.mark.parametrize("recipe", [diffusion.mlp, diffusion.unet, diffusion.transformer])
def test_recipes_train_and_save(recipe, tmp_path):
    torch.manual_seed(0)
    module = recipe((1, 4, 4), classes=3, context_dropout=0.1)
    x, labels = torch.randn(32, 1, 4, 4), torch.randint(3, (32,))
    assert pg.fit(module, (x, labels), steps=2, seed=0).reason == "steps"
    pg.save(module, tmp_path / "module.pyrogen")
    loaded = pg.load(tmp_path / "module.pyrogen")
    scores = []
    for one in (module, loaded):
        torch.manual_seed(1)
        scores.append(one(labels).log_prob(x))
    assert torch.equal(*scores)
