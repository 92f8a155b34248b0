"""Integers under a density over the unit interval."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.distributions import UniformDequantized, UnitNormal
from pyrogen.transforms import Interval, TransformedDistribution


def uniform(size):
    return dist.Uniform(torch.zeros(size), torch.ones(size)).to_event(1)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_uniform_density_gives_every_integer_its_share(levels):
    torch.manual_seed(0)
    distribution = UniformDequantized(uniform(3), levels)
    x = distribution.sample((1000,))
    assert torch.allclose(distribution.log_prob(x), torch.tensor(-3 * math.log(levels)))
    assert distribution.density == "lower bound"


@pytest.mark.parametrize("value", [0.0, 255.0])
def test_noise_at_the_ends_stays_inside_the_interval(value):
    torch.manual_seed(0)
    distribution = UniformDequantized(uniform(500), 256)
    for _ in range(10):
        assert distribution.log_prob(torch.full((1000, 500), value)).isfinite().all()


def test_the_bound_is_the_mean_over_the_cell():
    torch.manual_seed(0)
    base = dist.Beta(torch.tensor([2.0]), torch.tensor([1.0])).to_event(1)  # density 2 u
    scores = UniformDequantized(base, 4).log_prob(torch.ones(200_000, 1)).double()
    exact = math.log(2) + 4 * (0.5 * math.log(0.5) - 0.5 - 0.25 * math.log(0.25) + 0.25) - math.log(4)
    assert abs(scores.mean() - exact) < 5 * scores.std() / math.sqrt(len(scores))
    assert scores.mean() < math.log(0.5**2 - 0.25**2)


def test_empty_batches_and_wrong_integers():
    base = TransformedDistribution(UnitNormal((3,), torch.zeros(())), [Interval(event_dim=1)])
    assert UniformDequantized(base, 4).log_prob(torch.zeros(0, 3)).shape == (0,)  # torch's own do not all take nothing
    with pyro.validation_enabled(), pytest.raises(ValueError, match="support"):
        UniformDequantized(uniform(3), 4).log_prob(torch.full((3,), 4.0))
    with pytest.raises(ValueError, match="`symbols` must be positive"):
        UniformDequantized(uniform(3), 0)
