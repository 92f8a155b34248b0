"""Amortized posteriors as guides of their programs, and as priors of others."""

from functools import cache, partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO, TraceMeanField_ELBO

import pyrogen as pg
from pyrogen import evaluation
from pyrogen.simulation import Joint, posterior

SMALL = partial(pg.flows.affine_autoregressive, hidden=(16, 16), layers=2)
X = torch.tensor([1.0, -2.0])


def normal(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


def plated(x=None):
    scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    kind = pyro.sample("kind", dist.Bernoulli(0.5))
    with pyro.plate("groups", 3):
        z = pyro.sample("z", dist.Normal(kind, scale))
        with pyro.plate("rows", 2, dim=-2):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def smooth(x=None):
    scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    with pyro.plate("groups", 3):
        z = pyro.sample("z", dist.Normal(0.0, scale))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def together(x=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", 3):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x)


@cache
def learned_of(program, steps=150):
    joint = Joint(program, observed="x")
    torch.manual_seed(0)
    learned = posterior(joint, SMALL)
    pg.fit(learned, joint.draw(2000, seed=0), steps=steps, batch_size=128)
    return learned


def test_sites_sit_in_their_plates():
    learned = learned_of(plated, 3)
    trace = pyro.poutine.trace(learned.guide).get_trace(torch.zeros(2, 3))
    assert [frame.name for frame in trace.nodes["z"]["cond_indep_stack"]] == ["groups"]
    assert trace.nodes["z"]["value"].shape == (3,)
    assert trace.nodes["kind"]["cond_indep_stack"] == ()
    vector = learned.packed({name: trace.nodes[name]["value"] for name in ("scale", "kind", "z")})
    expected = learned(torch.zeros(2, 3)).log_prob(vector)
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@pytest.mark.parametrize("program", [plated, smooth, together])
def test_pyros_inference_takes_the_pair(program):
    learned = learned_of(program, 3)
    x = torch.zeros(learned.context_shape)
    elbos = [Trace_ELBO(), Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=2)]
    if program is not plated:
        elbos.append(TraceMeanField_ELBO())
    for elbo in elbos:
        module = elbo(learned.model, learned.guide)
        assert {id(part) for part in learned.parameters()} <= {id(part) for part in module.parameters()}
        loss = module(x)
        loss.backward()
        assert loss.isfinite()
        SVI(program, learned.guide, pyro.optim.Adam({"lr": 1e-6}), elbo).step(x)
    for parallel in (False, True):
        found = Predictive(learned.model, guide=learned.guide, num_samples=5, parallel=parallel)(x)
        assert found["z"].shape[0] == 5
    assert Importance(program, guide=learned.guide, num_samples=5).run(x).get_log_normalizer().isfinite()


def test_the_elbo_is_the_evidence_where_the_posterior_is_exact():
    """The average of the ELBO is the log evidence minus the divergence of what was learned, which is small."""
    learned = learned_of(normal)
    evidence = dist.Normal(0.0, 5**0.5).log_prob(X).sum()
    with torch.no_grad():
        elbo = -torch.stack([Trace_ELBO()(learned.model, learned.guide)(X) for _ in range(200)]).mean()
    assert -0.2 < elbo - evidence < 0.03


def test_elbo_tuning_on_one_datum_improves_an_undertrained_posterior():
    joint = Joint(normal, observed="x")
    torch.manual_seed(0)
    learned = posterior(joint, SMALL)
    pg.fit(learned, joint.draw(500, seed=0), steps=15)
    exact = dist.Normal(0.8 * X, 0.8**0.5).to_event(1)

    def divergence():
        with torch.no_grad():
            draws = learned(X).sample((4000,))
            return (learned(X).log_prob(draws) - exact.log_prob(draws)).mean()

    before = divergence()
    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=0)(learned.model, learned.guide)
    optimizer = torch.optim.Adam(learned.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        elbo(X).backward()
        optimizer.step()
    assert before > 0.3
    assert divergence() < 0.03


def test_importance_weights_give_the_evidence():
    learned = learned_of(normal)
    weights = evaluation.importance_log_weights(learned.model, learned.guide, X, draws=2000, whole=True)
    evidence = dist.Normal(0.0, 5**0.5).log_prob(X).sum()
    assert abs(weights.logsumexp(0) - torch.tensor(2000.0).log() - evidence).max() < 0.05
    assert evaluation.pareto_k(learned.model, learned.guide, X, draws=2000, whole=True).values.max() < 0.7


def test_arviz():
    learned = learned_of(plated, 3)
    tree = pg.analysis.to_arviz(learned, torch.zeros(2, 3), draws=20, log_likelihood=False)
    assert tree["posterior"]["z"].dims == ("chain", "draw", "groups")
    assert tree["posterior_predictive"]["x"].dims == ("chain", "draw", "rows", "groups")
    assert set(tree["posterior"].data_vars) == {"scale", "kind", "z"}


def test_arviz_of_the_learned_sites_alone():
    joint = Joint(smooth, observed="x", nuisance="z")
    learned = posterior(joint, SMALL)
    tree = pg.analysis.to_arviz(learned, torch.zeros(3), draws=20, predictive=False, log_likelihood=False)
    assert set(tree["posterior"].data_vars) == {"scale"}
    with pytest.warns(UserWarning, match="leaves out"):
        pg.analysis.to_arviz(learned, torch.zeros(3), draws=20)


def test_is_calibrated():
    learned = learned_of(normal, 400)
    torch.manual_seed(1)
    quantities = {"log_posterior": learned.log_posterior}
    found = evaluation.simulation_based_calibration(
        learned.joint, learned.draw, observed="x", simulations=300, draws=39, quantities=quantities
    )
    assert found.test().p_value > 0.01


def test_is_a_prior_in_another_program():
    learned = learned_of(smooth, 3)

    def program(y):
        with pyro.plate("data", 2):
            vector = pyro.sample("vector", learned(torch.zeros(2, 3)))
            pyro.sample("y", dist.Normal(vector[..., 0], 1.0), obs=y)

    chain = MCMC(NUTS(program, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    chain.run(torch.ones(2))
    vectors = chain.get_samples()["vector"]
    assert vectors.shape == (5, 2, 4)
    assert (learned.sites(vectors)["scale"] > 0).all()


class TestBadInput:
    def test_the_guide_needs_the_data(self):
        with pytest.raises(ValueError, match=r"must be called with the data of all observed sites \['x'\]"):
            learned_of(normal).guide()

    def test_nuisance_sites_have_no_guide(self):
        joint = Joint(smooth, observed="x", nuisance="z")
        learned = posterior(joint, SMALL)
        assert learned.event_shape == (1,)
        with pytest.raises(NotImplementedError, match=r"nuisance sites \['z'\]"):
            _ = learned.guide
