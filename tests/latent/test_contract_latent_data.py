"""Recipes for images, tables and contexts pass the contract, train and save."""

import pytest
import torch

import pyrogen as pg
from pyrogen import latent
from pyrogen.testing import check_distribution

SMALL = {"latent_shape": (2,), "draws": 8}
IMAGE = {**SMALL, "channels": (4, 8), "hidden": 16}
RECIPES = {
    "tabular_vae": lambda **more: latent.tabular_vae(
        (5,), counts=[0], binary=[1], categories={4: 3}, hidden=(16,), **SMALL, **more
    ),
    "convolutional_vae": lambda **more: latent.convolutional_vae((1, 4, 5), scale=0.5, **IMAGE, **more),
    "convolutional_vae of two levels": lambda **more: latent.convolutional_vae((1, 3, 3), binary=True, **IMAGE, **more),
    "convolutional_vae of levels": lambda **more: latent.convolutional_vae((2, 2, 3), symbols=5, **IMAGE, **more),
}


@pytest.mark.parametrize("name", RECIPES)
def test_contract_without_context(name):
    shape = RECIPES[name]().event_shape
    check_distribution(RECIPES[name], event_shape=shape).raise_if_failed()


@pytest.mark.parametrize("name", ["tabular_vae", "convolutional_vae of levels"])
def test_contract_with_labels(name):
    shape = RECIPES[name]().event_shape
    check_distribution(lambda: RECIPES[name](classes=3), event_shape=shape, context=torch.arange(3)).raise_if_failed()


@pytest.mark.slow
def test_contract_of_images_with_several_contexts():
    shapes = {"a": (2,), "b": (1, 2)}
    context = {"a": torch.randn(4, 2), "b": torch.randn(4, 1, 2)}
    check_distribution(
        lambda: latent.convolutional_vae((1, 3, 3), shapes, **IMAGE), event_shape=(1, 3, 3), context=context
    ).raise_if_failed()


@pytest.mark.parametrize("settings", [{}, {"binary": True}, {"symbols": 4}, {"scale": 0.5}])
def test_contract_of_conditional_vae(settings):
    check_distribution(
        lambda: latent.conditional_vae((3,), classes=3, hidden=(16,), **SMALL, **settings),
        event_shape=(3,),
        context=torch.arange(3),
        only=["declaration", "sample_shapes", "support", "broadcasting", "wrong_context", "pickling", "svi_guide"],
    ).raise_if_failed()


def test_contract_of_conditional_vae_with_several_contexts():
    check_distribution(
        lambda: latent.conditional_vae((3,), {"a": (2,), "b": ()}, hidden=(16,), **SMALL),
        event_shape=(3,),
        context={"a": torch.randn(4, 2), "b": torch.randn(4)},
    ).raise_if_failed()


@pytest.mark.parametrize("name", [*RECIPES, "conditional_vae"])
def test_recipes_train_and_save(name, tmp_path):
    torch.manual_seed(0)
    conditional = name == "conditional_vae"
    module = latent.conditional_vae((3,), (2,), hidden=(16,), **SMALL) if conditional else RECIPES[name]()
    context = (torch.randn(40, 2),) if conditional else ()
    x = module(*context).sample(() if conditional else (40,))
    data = (x, *context)
    before = latent.BetaElbo(module)(*data)
    pg.fit(module, data, steps=20, batch_size=20, seed=0, optimizer=lambda p: torch.optim.Adam(p, lr=3e-3))
    assert latent.BetaElbo(module)(*data) < before + 1
    pg.save(module, tmp_path / "module.pyrogen")
    loaded = pg.load(tmp_path / "module.pyrogen")
    scores = []
    for one in (module, loaded):
        torch.manual_seed(1)
        scores.append(latent.BetaElbo(one)(*data).item())
    assert scores[0] == scores[1]


def test_the_prior_of_a_conditional_vae_moves_with_the_context():
    torch.manual_seed(1)
    module = latent.conditional_vae((3,), classes=4, hidden=(16,), **SMALL)
    prior = module.prior_at(torch.arange(4))
    assert (prior.mean[1:] != prior.mean[:1]).all()
    assert module.context_shape == ()


def test_images_learn_stripes_of_two_orientations():
    torch.manual_seed(2)
    stripes = torch.zeros(2, 1, 8, 8)
    stripes[0, :, ::2] = 3
    stripes[1, :, :, ::2] = 3
    x = stripes[torch.randint(2, (256,))]
    module = latent.convolutional_vae((1, 8, 8), symbols=4, latent_shape=(2,), channels=(8, 16), hidden=32, draws=50)
    pg.fit(module, x, steps=150, batch_size=64, seed=0, optimizer=lambda p: torch.optim.Adam(p, lr=5e-3))
    with torch.no_grad():
        scores = (
            module().log_prob(x[:20]),
            module().log_prob(x[:20].flatten(2)[..., torch.randperm(64)].view(20, 1, 8, 8)),
        )
    assert scores[0].mean() > -30  # 64 pixels of four equally likely levels have 88.7 nats
    assert scores[1].mean() < -88.7


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="got neither; without a context, use `vae`"):
        latent.conditional_vae((3,), latent_shape=(2,))
    with pytest.raises(ValueError, match="`scale` must be None where `symbols` is given"):
        latent.convolutional_vae((1, 8, 8), latent_shape=(2,), symbols=4, scale=0.5)
    with pytest.raises(ValueError, match=r"\(channels, height, width\), got \(8,\)"):
        latent.convolutional_vae((8,), latent_shape=(2,))
    with pytest.raises(ValueError, match="`context_shape` must be None where `classes` is given"):
        latent.tabular_vae((3,), (2,), latent_shape=(2,), classes=3)
    with pytest.raises(ValueError, match=r"`event_shape` must be \(columns,\)"):
        latent.tabular_vae((3, 2), latent_shape=(2,))
