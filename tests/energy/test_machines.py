"""Restricted Boltzmann machines against sums over all states, and integrals."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen import energy


def machine(seed=0, scale=0.8, **arguments):
    torch.manual_seed(seed)
    module = energy.rbm(**arguments)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale)
    return module.double()


KINDS = {
    "bits by hidden": {"event_shape": (6,), "symbols": 2, "units": 3},
    "bits by visible": {"event_shape": (2, 2), "symbols": 2, "units": 7},
    "symbols by hidden": {"event_shape": (4,), "symbols": 3, "units": 3},
    "symbols by visible": {"event_shape": (3,), "symbols": 3, "units": 9},
}


def states_of(module):
    symbols, size = module.visible.states, math.prod(module.event_shape)
    grid = torch.cartesian_prod(*[torch.arange(symbols)] * size).reshape(-1, *module.event_shape)
    return grid.double() if symbols == 2 else grid


@pytest.mark.parametrize("name", KINDS)
def test_probabilities_and_their_gradient_are_those_of_all_states(name):
    module = machine(**KINDS[name], context_shape=(2,))
    states, context = states_of(module), torch.randn(2, dtype=torch.double)
    assert module.density == "exact"
    numbers = module.numbers(states)
    rows = context.expand(len(states), 2)
    brute = -module.energies(numbers, rows)
    log_z = module.log_normalizer(context)
    assert torch.allclose(log_z, brute.logsumexp(0))
    ours = torch.autograd.grad(log_z, list(module.parameters()), allow_unused=True)
    theirs = torch.autograd.grad(brute.logsumexp(0), list(module.parameters()), allow_unused=True)
    assert all(torch.allclose(one, other) for one, other in zip(ours, theirs, strict=True))
    assert module(context).log_prob(states).exp().sum().item() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_draws_occur_as_often_as_they_should(name):
    module = machine(**KINDS[name])
    states = states_of(module)
    for draw in (module().sample, partial(blocks, module)):
        x = draw((20_000,))
        base = (module.visible.states ** torch.arange(states[0].numel() - 1, -1, -1)).double()
        counts = torch.bincount((x.reshape(len(x), -1).double() @ base).long(), minlength=len(states))
        expected = 20_000 * module().log_prob(states).exp()
        seen = expected > 5
        chi_square = ((counts - expected).square() / expected)[seen].sum()
        degrees = int(seen.sum())
        assert chi_square < degrees + 5 * math.sqrt(2 * degrees)


def blocks(module, shape):
    """By chains of block Gibbs sampling."""
    chains = energy.FreshChains(energy.BlockGibbs(), steps=60)
    return module.events(chains.draw(module, *shape).x)


def test_a_machine_of_real_units_integrates_to_one_and_draws_by_it():
    module = machine(event_shape=(2,), units=4)
    module.learn_statistics(torch.tensor([[0.0, 1.0], [2.0, 5.0], [4.0, 3.0]]).double())
    axis = torch.linspace(-60, 60, 1201, dtype=torch.double)
    grid = torch.cartesian_prod(axis, axis)
    density = module().log_prob(grid).exp()
    assert (density.sum() * 0.1**2).item() == pytest.approx(1, abs=1e-3)
    mean = (density.unsqueeze(-1) * grid).sum(0) * 0.1**2
    for x in (module().sample((20_000,)), blocks(module, (20_000,))):
        assert ((x.mean(0) - mean).abs() < 5 * x.std(0) / 20_000**0.5).all()


@pytest.mark.slow
def test_twenty_hidden_units_are_enumerated_with_their_gradient():
    module = machine(event_shape=(12,), symbols=2, units=20, scale=0.3)
    small = module._visible_bits
    assert small == 12  # by the visible layer
    one = module.log_normalizer()
    module.visible.states = None  # by the hidden one
    other = module.log_normalizer()
    assert torch.allclose(one, other)
    ours, theirs = (torch.autograd.grad(value, module.weight)[0] for value in (one, other))
    assert torch.allclose(ours, theirs)


@pytest.mark.parametrize("classes", [None, 3])
def test_draws_of_contexts_follow_their_probabilities(classes):
    torch.manual_seed(0)
    module = energy.rbm((3,), None if classes else (1,), symbols=2, units=2, classes=classes)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    contexts = torch.tensor([2, 0, 2]) if classes else torch.tensor([[-1.0], [2.0], [0.5]])
    states = torch.cartesian_prod(*[torch.arange(2.0)] * 3)
    expected = module(contexts).log_prob(states.unsqueeze(1)).exp()  # (states, contexts)
    draws = module(contexts).sample((3000,)) @ torch.tensor([4.0, 2.0, 1.0])
    shares = torch.stack([torch.bincount(part.long(), minlength=8) for part in draws.T], -1) / 3000
    assert ((shares - expected).square() / expected).sum() * 3000 < 60  # of 21 degrees of freedom


def test_labels_are_summed_over_once_each():
    """All states of eighteen units for each of a thousand rows would take gigabytes."""
    module = energy.rbm((20,), symbols=2, units=18, classes=2)
    assert module(torch.arange(1000) % 2).sample().shape == (1000, 20)


def test_layers_of_many_states_are_unnormalized():
    module = energy.rbm((64,), symbols=2, units=64)
    assert module.density == "unnormalized"
    assert isinstance(module.chains.kernel, energy.BlockGibbs)
    assert module().sample((3,)).shape == (3, 64)
    with pytest.raises(NotImplementedError, match="log_normalizer"):
        module.log_normalizer()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["likelihood", "chains"])
def test_training_finds_what_drew_the_data(how):
    truth = machine(event_shape=(5,), symbols=2, units=2, scale=1.0).float()
    x = truth().sample((4000,))
    torch.manual_seed(1)
    module = energy.rbm((5,), symbols=2, units=3)
    target = pg.MaximumLikelihood(module) if how == "likelihood" else module
    pg.fit(target, x, steps=1500, lr=0.02, ema=0.99, seed=0)
    states = torch.cartesian_prod(*[torch.arange(2.0)] * 5)
    frequencies = torch.bincount((x @ 2.0 ** torch.arange(4, -1, -1)).long(), minlength=32) / len(x)
    kl = (frequencies * (frequencies.clamp(min=1e-9).log() - module().log_prob(states))).sum().item()
    assert kl < 2.5 * 32 / (2 * len(x)) + 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"event_shape": (3,), "units": 4},
        {"event_shape": (2, 2), "symbols": 2, "units": 6, "classes": 3},
        {"event_shape": (3,), "symbols": 3, "units": 3, "context_shape": (2,)},
    ],
)
def test_contract_of_machines(arguments):
    contexts = {"classes": torch.arange(3), "context_shape": torch.randn(3, 2)}
    context = next((contexts[key] for key in arguments if key in contexts), None)
    make = partial(energy.rbm, **arguments)
    pg.testing.check_distribution(make, event_shape=arguments["event_shape"], context=context).raise_if_failed()
