"""Generators of images: the contract, and posteriors under them in the space of their noise."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.implicit import Game, Generator, convolutional, convolutional_critic
from pyrogen.testing import check_distribution

SMALL = {"noise": (3,), "channels": (16, 16)}
CASES = {
    "plain": (lambda: convolutional((1, 4, 4), **SMALL), (1, 4, 4), None),
    "interval": (lambda: convolutional((2, 5, 4), interval=(0.0, 16.0), **SMALL), (2, 5, 4), None),
    "labels": (lambda: convolutional((1, 4, 4), classes=3, interval=(-1.0, 1.0), **SMALL), (1, 4, 4), torch.arange(3)),
    "context": (lambda: convolutional((1, 4, 4), (2,), **SMALL), (1, 4, 4), torch.randn(4, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_image_generators_pass_the_contract(name):
    make, event_shape, context = CASES[name]
    check_distribution(make, event_shape=event_shape, context=context).raise_if_failed()


def test_draws_lie_in_the_interval():
    draws = convolutional((1, 8, 8), interval=(-3.0, 5.0), **SMALL)()
    assert draws.support.check(draws.sample((100,))).all()
    with pytest.raises(ValueError, match="`interval` must be"):
        convolutional((1, 8, 8), interval=(1.0, 0.0), **SMALL)


def test_a_game_of_images_trains_both():
    torch.manual_seed(0)
    images = torch.rand(64, 1, 4, 4)
    game = Game(convolutional((1, 4, 4), interval=(0.0, 1.0), **SMALL), convolutional_critic((1, 4, 4), channels=(16,)))
    before = {name: parameter.clone() for name, parameter in game.named_parameters()}
    pg.fit(game, images, steps=3, batch_size=32, seed=0)
    unmoved = [name for name, parameter in game.named_parameters() if torch.equal(parameter, before[name])]
    # The scores' common offset is no part of a relativistic game.
    assert unmoved == ["critic.readout.bias"]


@pytest.mark.slow
def test_the_posterior_of_an_image_in_the_space_of_noise():
    """A linear generator of images makes the problem one of normal distributions, whose answer is known."""
    torch.manual_seed(0)
    generator = Generator(nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, (1, 4, 4))), (1, 4, 4), noise=(3,))
    weight, bias = generator.network[0].weight.detach(), generator.network[0].bias.detach()
    operator, scale = torch.randn(5, 16), 0.3
    y = operator @ (weight @ torch.randn(3) + bias) + scale * torch.randn(5)

    def model(y):
        image = pyro.sample("image", generator())
        pyro.sample("y", dist.Normal(image.flatten(-3) @ operator.T, scale).to_event(1), obs=y)

    posterior = pg.inverse.NoiseMCMC(model, site="image", draws=200, warmup=60).run(y)
    design = operator @ weight
    precision = torch.eye(3) + design.T @ design / scale**2
    mean = torch.linalg.solve(precision, design.T @ (y - operator @ bias) / scale**2)
    images = posterior.get_samples()["image"].flatten(1)
    spread = (weight @ torch.linalg.inv(precision) @ weight.T).diagonal().sqrt()
    error = (images.mean(0) - (weight @ mean + bias)) / spread
    assert error.abs().max() < 5 / len(images) ** 0.5 * 2  # with a quarter of the draws independent
    assert torch.allclose(images.std(0), spread, rtol=0.3)
