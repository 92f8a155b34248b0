"""Ensembles and linear pools: mixtures of models that are objects of their own."""

import itertools
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import pyrogen as pg
from pyrogen.distributions import LinearPool
from pyrogen.testing import check_distribution


def flows(members=3, context_shape=None):
    return pg.Ensemble([pg.flows.affine_coupling((2,), context_shape, layers=2) for _ in range(members)])


@pytest.mark.parametrize(
    ("make", "event_shape", "context"),
    [
        (lambda: flows(2, (3,)), (2,), torch.randn(4, 3)),
        (lambda: pg.Ensemble([pg.autoregressive.made((3,), symbols=2, hidden=(8,)) for _ in range(2)]), (3,), None),
    ],
    ids=["flows given contexts", "bits"],
)
def test_an_ensemble_passes_the_contract(make, event_shape, context):
    check_distribution(make, event_shape=event_shape, context=context).raise_if_failed()


def test_an_ensemble_of_bounds_is_a_bound():
    vaes = pg.Ensemble([pg.latent.vae((3,), latent_shape=(1,), hidden=(4,)) for _ in range(2)])
    assert vaes.density == "lower bound"
    assert pg.density_of(vaes()) == "lower bound"


def test_a_pool_has_the_weakest_density_of_its_components():
    bound = pg.latent.vae((2,), latent_shape=(1,), hidden=(4,))()
    assert pg.density_of(LinearPool([dist.Normal(torch.zeros(2), 1.0).to_event(1), bound])) == "lower bound"


def test_log_prob_is_that_of_the_mixture():
    model, x = flows(3, (1,)), torch.randn(6, 2)
    context = torch.randn(6, 1)
    densities = torch.stack([member(context).log_prob(x).exp() for member in model.members])
    torch.testing.assert_close(model(context).log_prob(x).exp(), densities.mean(0))


def test_each_batch_element_draws_its_components_by_its_own_weights():
    weights = torch.tensor([[0.1, 0.5, 1.0], [0.9, 0.5, 0.0]])
    pool = LinearPool([dist.Normal(torch.zeros(3), 0.01), dist.Laplace(torch.ones(3), 0.01)], weights.log())
    draws = pool.sample((4000,))
    shares = (draws < 0.5).float().mean(0)
    error = (weights[0] * weights[1] / 4000).sqrt()
    assert ((shares - weights[0]).abs() <= 4 * error).all()
    torch.testing.assert_close(pool.mean, weights[1], rtol=1e-6, atol=1e-6)
    assert ((draws.var(0) - pool.variance).abs() < 0.02).all()
    together = torch.corrcoef((draws[:, :2] < 0.5).float().T)[0, 1]  # elements choose independently
    assert together.abs() < 4 / math.sqrt(4000)


def test_draws_of_one_batch_element_have_no_order():
    pool = LinearPool([dist.Delta(torch.zeros(2)), dist.Delta(torch.ones(2))])
    first, second = pool.sample((4000,))[:, 0].view(2, 2000)
    assert (first.mean() - second.mean()).abs() < 4 * 0.5 * math.sqrt(2 / 2000)


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 0)])
def test_draws_have_the_shapes_asked_for(shape):
    assert flows(2)().sample(shape).shape == (*shape, 2)
    assert flows(2)().expand((4,)).sample(shape).shape == (*shape, 4, 2)


def test_a_part_that_is_known_weighs_the_members():
    members = [pg.autoregressive.made((3,), symbols=2, hidden=(8,)) for _ in range(2)]
    for member in members:
        for parameter in member.parameters():
            torch.nn.init.normal_(parameter, std=1.0)
    pool = pg.Ensemble(members)()
    every = torch.tensor(list(itertools.product((0, 1), repeat=3)))
    known = torch.tensor([True, False, False])
    joint = pool.log_prob(every).exp()
    for value in (0, 1):
        matches = every[:, 0] == value
        expected = joint * matches / (joint * matches).sum()
        found = pool.given(torch.tensor([value, 0, 0]), known).log_prob(every).exp()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            pool.part_log_prob(torch.tensor([value, 0, 0]), known).exp(), (joint * matches).sum()
        )


def test_members_learn_what_they_learn_alone():
    x = torch.randn(64, 2) * torch.tensor([1.0, 5.0])
    together, apart = flows(2), flows(2)
    apart.load_state_dict(together.state_dict())
    options = {"steps": 3, "batch_size": 64, "optimizer": partial(torch.optim.SGD, lr=1e-2), "seed": 0}
    pg.fit(together, x, **options)
    for member in apart.members:
        pg.fit(member, x, **options)
    torch.testing.assert_close(parameters_to_vector(together.parameters()), parameters_to_vector(apart.parameters()))


def test_an_ensemble_of_posteriors_has_the_sites_of_one():
    def program(x=None):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    joint = pg.simulation.Joint(program, observed="x")
    build = pg.ensemble(pg.flows.spline_autoregressive, members=2)
    learned = pg.simulation.posterior(joint, recipe=build)
    pg.fit(learned, joint.draw(64, seed=0), steps=2)
    draws = learned.sites(learned(torch.tensor(1.0)).sample((5,)))
    assert draws["z"].shape == (5,)
    assert (draws["z"] > 0).all()


def test_what_is_no_ensemble_is_refused():
    flow = pg.flows.affine_coupling((2,), layers=1)
    with pytest.raises(ValueError, match="at least one model, got none"):
        pg.Ensemble([])
    with pytest.raises(ValueError, match=r"`members` must have one event shape"):
        pg.Ensemble([flow, pg.flows.affine_coupling((3,), layers=1)])
    with pytest.raises(ValueError, match=r"`members\[1\]` must be a DistributionModule, got Linear"):
        pg.Ensemble([flow, torch.nn.Linear(2, 2)])
    with pytest.raises(NotImplementedError, match="an ensemble needs a normalized log_prob"):
        pg.Ensemble([pg.energy.mlp((2,)), pg.energy.mlp((2,))])
    with pytest.raises(ValueError, match="`components` must have one support, got .*, and .* at 1"):
        pg.Ensemble([flow, pg.flows.circular((2,), layers=1)])().log_prob(torch.zeros(2))
    with pytest.raises(ValueError, match="`components` must have one shape"):
        LinearPool([dist.Normal(0.0, 1.0), dist.Normal(torch.zeros(2), 1.0)])
