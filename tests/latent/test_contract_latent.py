"""Recipes and compositions pass the contract; every prior goes with every posterior and likelihood."""

from itertools import product

import pytest
import torch

import pyrogen as pg
from pyrogen import flows, latent
from pyrogen.testing import check_distribution

SMALL = {"latent_shape": (2,), "hidden": (16,), "draws": 8}
FLOW = {"layers": 2, "hidden": (8,)}
RECIPES = {
    "vae": lambda *shapes, **more: latent.vae(*shapes, **SMALL, **more),
    "vae of fixed scale": lambda *shapes, **more: latent.vae(*shapes, scale=0.5, **SMALL, **more),
    "binary_vae": lambda *shapes, **more: latent.binary_vae(*shapes, **SMALL, **more),
    "categorical_vae": lambda *shapes, **more: latent.categorical_vae(*shapes, symbols=3, **SMALL, **more),
}
PRIORS = {"standard": lambda: None, "flow": lambda: flows.affine_coupling((2,), **FLOW)}
POSTERIORS = {
    "normal": lambda: None,
    "coupling": lambda: flows.spline_coupling((2,), (3,), **FLOW),
    "autoregressive": lambda: flows.affine_autoregressive((2,), (3,), fast_sampling=True, **FLOW),
}
MATRIX = list(product(RECIPES, PRIORS, POSTERIORS))


def composed(recipe, prior, posterior):
    return RECIPES[recipe]((3,), prior=PRIORS[prior](), posterior=POSTERIORS[posterior]())


@pytest.mark.parametrize("name", RECIPES)
def test_contract_without_context(name):
    check_distribution(lambda: RECIPES[name]((3,)), event_shape=(3,)).raise_if_failed()


def test_contract_with_context():
    context = torch.randn(5, 4)
    check_distribution(lambda: RECIPES["vae"]((2, 2), (4,)), event_shape=(2, 2), context=context).raise_if_failed()


def test_contract_with_labels():
    labels = torch.arange(4)
    check_distribution(
        lambda: RECIPES["binary_vae"]((3,), classes=4), event_shape=(3,), context=labels
    ).raise_if_failed()


def test_contract_with_several_contexts_and_a_conditional_prior():
    shapes = {"a": (2,), "b": (1,)}
    context = {"a": torch.randn(5, 2), "b": torch.randn(5, 1)}
    check_distribution(
        lambda: RECIPES["vae"]((3,), shapes, prior=flows.affine_coupling((2,), shapes, **FLOW)),
        event_shape=(3,),
        context=context,
    ).raise_if_failed()


@pytest.mark.parametrize(("recipe", "prior", "posterior"), MATRIX[:6])
def test_contract_of_compositions(recipe, prior, posterior):
    check_distribution(lambda: composed(recipe, prior, posterior), event_shape=(3,)).raise_if_failed()


@pytest.mark.parametrize(("recipe", "prior", "posterior"), MATRIX)
def test_every_composition_trains_and_saves(recipe, prior, posterior, tmp_path):
    torch.manual_seed(0)
    module = composed(recipe, prior, posterior)
    x = module().sample((64,)).float()
    fit = pg.fit(module, x, steps=5, batch_size=32, seed=0)
    assert fit.reason == "steps"
    pg.save(module, tmp_path / "module.pyrogen")
    loaded = pg.load(tmp_path / "module.pyrogen")
    for objective in (latent.StickingTheLanding, lambda vae: latent.ImportanceWeighted(vae, draws=3)):
        scores = []
        for one in (module, loaded):
            torch.manual_seed(1)
            scores.append(objective(one)(x).item())
        assert scores[0] == scores[1]


def test_frozen_noise_makes_rows_repeatable():
    def frozen():
        module = RECIPES["vae"]((3,), (4,))
        module.noise_seed = 0
        return module

    only = ["broadcasting", "batch_invariance", "bad_row", "empty_batch", "value_gradient", "context_gradient"]
    only += ["own_draws", "global_state", "no_stale_answers", "repeatable_evaluation"]
    check_distribution(frozen, event_shape=(3,), context=torch.randn(5, 4), only=only).raise_if_failed()
