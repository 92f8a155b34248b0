"""What a log_prob means, through everything that wraps a distribution."""

import pyro.distributions as dist
import pytest
import torch
from small_programs import Draws, Gaussian, decoder, encoder
from torch.distributions import AffineTransform, MixtureSameFamily, TransformedDistribution

import pyrogen as pg
from pyrogen.core.density import weakest


def bound(batch_shape=()):
    return Draws(dist.Normal(torch.zeros(2), 1.0).to_event(1), decoder(), encoder(), batch_shape)


class Components(Draws):
    """A mixture's components: bounds, one for each."""

    density = "estimate"

    def __init__(self):
        super().__init__(dist.Normal(torch.zeros(2), 1.0).to_event(1), decoder(), encoder(), (3,))


WRAPPERS = {
    "itself": lambda d: d,
    "independent": lambda d: dist.Independent(d.expand((4,)), 1),
    "to_event": lambda d: d.expand((4,)).to_event(1),
    "masked": lambda d: d.mask(torch.tensor(True)),
    "expanded": lambda d: dist.torch_distribution.ExpandedDistribution(d, torch.Size((4,))),
    "torch transformed": lambda d: TransformedDistribution(d, AffineTransform(0.0, 2.0, event_dim=1)),
    "pyro transformed": lambda d: dist.TransformedDistribution(d, AffineTransform(0.0, 2.0, event_dim=1)),
    "ours transformed": lambda d: pg.transforms.TransformedDistribution(d, AffineTransform(0.0, 2.0, event_dim=1)),
    "all at once": lambda d: dist.Independent(
        dist.TransformedDistribution(d.expand((4,)), AffineTransform(0.0, 2.0, event_dim=1)).mask(torch.tensor(True)), 1
    ),
}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("density", ["exact", "estimate", "lower bound", "unnormalized", None])
def test_wrappers_carry_the_density(wrap, density):
    distribution = bound()
    distribution.density = density
    distribution.expand = lambda batch_shape: marked(bound(batch_shape), density)
    assert pg.density_of(WRAPPERS[wrap](distribution)) == density


def marked(distribution, density):
    distribution.density = density
    return distribution


def test_mixtures_carry_the_density_of_their_components():
    weights = dist.Categorical(torch.ones(3))
    assert pg.density_of(MixtureSameFamily(weights, Components(), validate_args=False)) == "estimate"
    assert pg.density_of(dist.MixtureSameFamily(weights, Components(), validate_args=False)) == "estimate"


def test_what_says_nothing_is_exact():
    assert pg.density_of(dist.Normal(0.0, 1.0)) == "exact"
    assert pg.density_of(torch.distributions.Normal(0.0, 1.0)) == "exact"
    assert pg.density_of(Gaussian()()) == "exact"


def test_the_weakest_part_counts():
    assert weakest() == "exact"
    assert weakest("exact", "estimate") == "estimate"
    assert weakest("lower bound", "estimate", "exact") == "lower bound"
    assert weakest("lower bound", "unnormalized") == "unnormalized"
    assert weakest("unnormalized", None) is None
