"""Discrete sites of amortized posteriors: cells of integers, and exact posteriors by enumeration."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.simulation import Joint, posterior
from pyrogen.simulation.joint.variable import Variable
from pyrogen.simulation.latents.discrete import Alphabets


def finite(x=None):
    kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
    switch = pyro.sample("switch", dist.Bernoulli(0.4))
    tries = pyro.sample("tries", dist.Binomial(3, 0.5))
    pyro.sample("x", dist.Normal(kind + 2 * switch + tries, 1.0), obs=x)


def counted(x=None):
    count = pyro.sample("count", dist.Poisson(4.0))
    pyro.sample("x", dist.Normal(count, 2.0), obs=x)


def mixed(x=None):
    kind = pyro.sample("kind", dist.Bernoulli(0.3))
    mu = pyro.sample("mu", dist.Normal(4 * kind, 1.0))
    pyro.sample("x", dist.Normal(mu, 0.5), obs=x)


def learned_of(program, steps=400, **options):
    joint = Joint(program, observed="x")
    torch.manual_seed(0)
    learned = posterior(joint, **options)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
    pg.fit(learned, joint.draw(10_000, seed=0), steps=steps, batch_size=256, lr=3e-3, schedule=schedule, seed=0)
    return learned


def total_variation(learned, states, likelihood, x):
    """Between what was learned and what enumeration gives."""
    exact = likelihood.softmax(0)
    with torch.no_grad():
        found = learned(x).log_prob(states).exp()
    return (found - exact).abs().sum() / 2 + abs(1 - found.sum()) / 2


@pytest.mark.parametrize("x", [-1.0, 2.0, 5.0])
def test_finite_sites_against_enumeration(x, finite_posterior):
    states = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0), torch.arange(4.0))
    kind, switch, tries = states.unbind(-1)
    score = (
        dist.Categorical(torch.tensor([0.5, 0.3, 0.2])).log_prob(kind)
        + dist.Bernoulli(0.4).log_prob(switch)
        + dist.Binomial(3, 0.5).log_prob(tries)
        + dist.Normal(kind + 2 * switch + tries, 1.0).log_prob(torch.tensor(x))
    )
    assert total_variation(finite_posterior, states, score, torch.tensor(x)) < 0.06


@pytest.fixture(scope="module")
def finite_posterior():
    return learned_of(finite)


def test_counts_without_bound_against_enumeration():
    learned, x = learned_of(counted), torch.tensor(5.0)
    states = torch.arange(200.0)
    score = dist.Poisson(4.0).log_prob(states) + dist.Normal(states, 2.0).log_prob(x)
    assert total_variation(learned, states[:, None], score, x) < 0.06
    draws = learned(x).sample((4000,))
    assert abs(draws.mean() - (score.softmax(0) * states).sum()) < 0.25


def test_mixed_sites_against_the_closed_form():
    """Given the kind the mean is normal; the evidence of each kind is normal too."""
    learned = learned_of(mixed)
    for x in (1.0, 2.0, 3.0):
        evidence = torch.stack(
            [
                torch.tensor(0.7).log() + dist.Normal(0.0, 1.25**0.5).log_prob(torch.tensor(x)),
                torch.tensor(0.3).log() + dist.Normal(4.0, 1.25**0.5).log_prob(torch.tensor(x)),
            ]
        )
        draws = learned.sites(learned(torch.tensor(x)).sample((4000,)))
        assert abs(draws["kind"].mean() - evidence.softmax(0)[1]) < 0.06
        for kind in (0, 1):
            mu = draws["mu"][draws["kind"] == kind]
            if len(mu) > 500:
                assert abs(mu.mean() - (0.2 * 4 * kind + 0.8 * x)) < 0.15
                assert abs(mu.std() - 0.2**0.5) < 0.1


def alphabets(support, draws, shape=()):
    variable = Variable("k", shape, 0, support, torch.float32)
    return Alphabets([variable], {"k": draws})


@pytest.mark.parametrize(
    ("support", "draws", "most"),
    [
        (constraints.nonnegative_integer, dist.Poisson(3.0).sample((1000,)), 2000),
        (constraints.nonnegative_integer, dist.Poisson(5e4).sample((1000,)), 200_000),
        (constraints.nonnegative_integer, 10 ** dist.Uniform(0, 5).sample((1000,)).round(), 2_000_000),
        (constraints.positive_integer, 1 + dist.Geometric(0.1).sample((1000,)), 3000),
        (constraints.integer_interval(-3, 7), torch.zeros(1000), 7),
        (constraints.integer_interval(0, 10_000), dist.Binomial(10_000, 0.5).sample((1000,)), 10_000),
        (constraints.boolean, torch.ones(1000), 1),
    ],
)
def test_cells_hold_every_integer_once(support, draws, most):
    cells = alphabets(support, draws)
    least = 0 if support is constraints.boolean else int(support.lower_bound)
    numbers = torch.arange(least, most + 1, dtype=torch.float64)[:, None]
    symbols, within = cells.encode(numbers)
    assert bool((symbols.diff(dim=0) >= 0).all())
    assert bool((symbols >= 0).all() and (symbols < cells.counts).all())
    total = torch.zeros(cells.symbols, dtype=torch.float64).index_add(0, symbols[:, 0], within[:, 0].exp())
    count = int(cells.counts) - int(bool(cells.tails))
    torch.testing.assert_close(total[:count], torch.ones(count, dtype=torch.float64))
    if cells.tails:
        assert 0.9 < total[count] <= 1 + 1e-9 or most < 5 * int(cells.tails)
    everywhere = torch.arange(int(cells.counts)).repeat(20)[:, None]
    decoded = cells.decode(everywhere, numbers)
    assert support.check(decoded).all()
    torch.testing.assert_close(cells.encode(decoded)[0], everywhere)


def test_integers_without_a_least_one_are_refused():
    variable = Variable("k", (), 0, pyro.distributions.constraints.integer, torch.float32)
    with pytest.raises(ValueError, match="got site 'k' within"):
        Alphabets([variable], {"k": torch.zeros(5)})
