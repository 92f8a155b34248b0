"""Modules as their recipes build them with other arguments, with the parameters that they have."""

import math

import pytest
import torch
from small_programs import same, weights
from torch import nn

import pyrogen as pg


@pg.recipe
def square(size):
    """A recipe of one's own."""
    return nn.Linear(size, size)


@pytest.fixture
def windowed():
    module = pg.autoregressive.wavenet((8,), (8, 3), width=4, layers=2, kernel=2, skip=4, symbols=4, components=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


def test_a_longer_sequence_has_the_shorter_one_for_a_marginal(windowed):
    """p(x_1, ..., x_8) is the sum over x_9 of p(x_1, ..., x_9)."""
    longer = pg.rebuilt(windowed, event_shape=(9,), context_shape=(9, 3))
    x, context = torch.randint(0, 4, (5, 8)).float(), torch.randn(5, 9, 3)
    ways = torch.stack([torch.cat((x, torch.full((5, 1), symbol)), 1) for symbol in (0.0, 1.0, 2.0, 3.0)])
    torch.testing.assert_close(longer(context).log_prob(ways).logsumexp(0), windowed(context[:, :8]).log_prob(x))
    assert same(weights(longer), weights(windowed))


def test_the_parameters_are_copies(windowed):
    longer, before = pg.rebuilt(windowed, event_shape=(12,), context_shape=(12, 3)), weights(windowed)
    with torch.no_grad():
        next(longer.parameters()).add_(1.0)
    assert same(weights(windowed), before)
    assert not same(weights(longer), before)


def test_precision_modes_and_frozen_parts_stay(windowed):
    windowed.double().eval()
    next(windowed.parameters()).requires_grad_(False)
    longer = pg.rebuilt(windowed, event_shape=(12,), context_shape=(12, 3))
    assert not longer.training
    assert next(longer.parameters()).dtype == torch.float64
    frozen = [[parameter.requires_grad for parameter in module.parameters()] for module in (windowed, longer)]
    assert frozen[0] == frozen[1]


def test_statistics_of_data_are_kept():
    flow = pg.flows.affine_coupling((2,), layers=2, hidden=(4,))
    flow.learn_statistics(torch.randn(50, 2) * 3 + 5)
    wider = pg.rebuilt(flow, layers=2)
    x = torch.randn(20, 2)
    assert torch.equal(wider().log_prob(x), flow().log_prob(x))


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_an_interval_is_the_one_that_is_given(precision):
    flow = pg.flows.affine_coupling((2,), layers=2, hidden=(4,), interval=(0.0, 1.0)).to(precision)
    wider = pg.rebuilt(flow, interval=(0.0, 10.0))
    x = torch.rand(20, 2, dtype=precision)
    torch.testing.assert_close(wider().log_prob(10 * x), flow().log_prob(x) - 2 * math.log(10), rtol=1e-4, atol=1e-4)
    assert wider().support.check(torch.tensor([9.0, 9.0], dtype=precision))
    assert wider().log_prob(x).dtype == precision


def test_random_numbers_are_not_used(windowed):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    pg.rebuilt(windowed, event_shape=(12,), context_shape=(12, 3))
    assert torch.equal(torch.rand(1), expected)


def test_a_recipe_of_ones_own_is_named():
    module = square(3)
    assert same(weights(pg.rebuilt(module, recipes=[square])), weights(module))
    with pytest.raises(ValueError, match="not a recipe of pyrogen's"):
        pg.rebuilt(module)


def test_what_cannot_be_rebuilt_is_refused(windowed):
    with pytest.raises(TypeError, match="`module` must be an nn.Module, got str"):
        pg.rebuilt("flow")
    with pytest.raises(ValueError, match="`module` cannot be rebuilt: it was put together by hand"):
        pg.rebuilt(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"with other width: it does not fit the module: '.*' must have shape"):
        pg.rebuilt(windowed, width=6)
    with pytest.raises(ValueError, match=r"with other length: it .* does not take the arguments: unknown \['length'\]"):
        pg.rebuilt(windowed, length=6)
    windowed.network = nn.Identity()
    with pytest.raises(ValueError, match="cannot be rebuilt: it was edited after its recipe"):
        pg.rebuilt(windowed, event_shape=(12,))


def test_lengthened_is_rebuilt_with_contexts_as_long_as_the_sequence(windowed):
    longer, expected = pg.lengthened(windowed, 12), pg.rebuilt(windowed, event_shape=(12,), context_shape=(12, 3))
    x, context = torch.randint(4, (2, 12)), torch.randn(2, 12, 3)
    assert torch.equal(longer(context).log_prob(x), expected(context).log_prob(x))
    shapes = {"phone": (8,), "speaker": (3,)}
    unet = pg.diffusion.unet((8, 4), shapes, classes={"phone": 5}, channels=(8,), depth=1, attention=0)
    longer = pg.lengthened(unet, 20)
    assert (longer.event_shape, longer.context_shape) == ((20, 4), {"phone": (20,), "speaker": (3,)})
    assert longer({"phone": torch.randint(5, (20,)), "speaker": torch.randn(3)}).sample().shape == (20, 4)


def test_what_has_no_length_is_refused():
    with pytest.raises(TypeError, match="`module` must be a DistributionModule, got Linear"):
        pg.lengthened(nn.Linear(2, 2), 3)
    with pytest.raises(ValueError, match=r"events of shape \(length, ...\), got \(\)"):
        pg.lengthened(
            pg.Parametric(nn.Linear(2, 2), pg.families.diagonal_normal, event_shape=(), context_shape=(2,)), 3
        )
