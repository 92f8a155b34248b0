"""Amortized posteriors: supports, densities, training, copies."""

import copy
import importlib
import pickle
from functools import cache, partial

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.simulation import Joint, posterior

SMALL = partial(pg.flows.spline_autoregressive, hidden=(16, 16), layers=2, bins=4)


def normal(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


def bounded(x=None):
    mu = pyro.sample("mu", dist.Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([2.0, 1.0])).to_event(1))
    scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    pyro.sample("x", dist.Normal(mu.sum(-1), scale), obs=x)


def simplex(x=None):
    w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
    pyro.sample("x", dist.Normal(w, 0.1).to_event(1), obs=x)


def mixed(x=None):
    kind = pyro.sample("kind", dist.Bernoulli(0.3))
    mu = pyro.sample("mu", dist.Uniform(0.0, 2.0))
    count = pyro.sample("count", dist.Poisson(3.0))
    pyro.sample("x", dist.Normal(mu + kind + count, 1.0), obs=x)


def discrete(x=None):
    switch = pyro.sample("switch", dist.Bernoulli(0.3))
    with pyro.plate("places", 2):
        kind = pyro.sample("kind", dist.Categorical(torch.ones(3)))
        pyro.sample("x", dist.Normal(kind + switch, 1.0), obs=x)


def many(x=None):
    pyro.sample("root", dist.LKJCholesky(3, 1.0))
    with pyro.plate("rows", 2):
        low = pyro.sample("low", dist.Exponential(1.0))
        kind = pyro.sample("kind", dist.OneHotCategorical(torch.ones(3)))
        weight = pyro.sample("weight", dist.Dirichlet(torch.ones(2)))
        tries = pyro.sample("tries", dist.Binomial(torch.tensor([4.0, 1000.0]), 0.5))
        pyro.sample("x", dist.Normal(low + kind[..., 0] + weight[..., 0] + tries, 1.0), obs=x)


PROGRAMS = [normal, bounded, simplex, mixed, discrete]


@cache
def joint_of(program):
    return Joint(program, observed="x")


def make(program, **options):
    return posterior(joint_of(program), SMALL, **options)


@pytest.mark.parametrize(
    "program",
    [mixed, *(pytest.param(each, marks=pytest.mark.slow) for each in (normal, bounded, simplex, discrete))],
)
def test_keeps_the_contract(program):
    shapes = make(program)
    context = torch.randn((4, *shapes.context_shape))
    report = pg.testing.check_distribution(partial(make, program), event_shape=shapes.event_shape, context=context)
    report.raise_if_failed()


@pytest.mark.parametrize("program", [*PROGRAMS, many])
def test_draws_lie_in_the_supports_and_go_apart_by_site(program):
    joint = joint_of(program)
    learned, simulations = make(program), joint.draw(40, seed=0)
    draws = learned(simulations.observed["x"]).sample((50,))
    assert draws.shape == (50, 40, *learned.event_shape)
    sites = learned.sites(draws)
    assert list(sites) == list(joint.latents)
    for name, variable in joint.latents.items():
        assert sites[name].shape == (50, 40, *variable.shape)
        assert sites[name].dtype == simulations.latents[name].dtype
        assert variable.support.check(sites[name]).all()
    torch.testing.assert_close(learned.packed(sites), draws)
    assert learned(simulations.observed["x"]).log_prob(draws).isfinite().all()
    assert learned(simulations.observed["x"]).log_prob(learned.packed(simulations.latents)).isfinite().all()
    assert torch.equal(learned.sites(learned.packed(simulations.latents))[name], simulations.latents[name])


def test_nothing_leaks_out_of_the_support():
    learned = make(bounded)
    inside = torch.tensor([0.0, 0.5, 1.0])
    outside = torch.tensor([[-1.5, 0.5, 1.0], [0.0, 1.5, 1.0], [0.0, 0.5, -1.0], [-1.0, 0.5, 1.0]])
    with pyro.validation_enabled(False):
        assert learned(torch.tensor(0.0)).log_prob(inside).isfinite()
        assert (learned(torch.tensor(0.0)).log_prob(outside) == -torch.inf).all()
        assert (make(mixed)(torch.tensor(0.0)).log_prob(torch.tensor([2.0, 0.5, 1.0])) == -torch.inf).all()
    with pytest.raises(ValueError, match="`value` must lie within the support"):
        learned(torch.tensor(0.0)).log_prob(outside)


def test_mixed_densities_sum_and_integrate_to_one():
    learned = make(mixed).double()
    with torch.no_grad():
        for parameter in learned.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        reals = torch.linspace(-20, 20, 241, dtype=torch.double)
        kind, count = torch.tensor([0.0, 1.0], dtype=torch.double), torch.arange(150, dtype=torch.double)
        grid = torch.cartesian_prod(kind, reals, count)
        slope = (2 * grid[:, 1].sigmoid() * (-grid[:, 1]).sigmoid()).log()
        grid[:, 1] = 2 * grid[:, 1].sigmoid()
        score = learned(torch.tensor(0.7).double()).log_prob(grid) + slope
        total = score.logsumexp(0).exp() * (reals[1] - reals[0])
    assert total.item() == pytest.approx(1, abs=2e-3)


def test_learns_the_conjugate_posterior():
    """Between two normals of like spread half a squared error in standard deviations is the divergence in nats."""
    joint = Joint(normal, observed="x")
    torch.manual_seed(0)
    learned = posterior(joint, partial(pg.flows.affine_autoregressive, layers=2, hidden=(32,)))
    fit = partial(pg.fit, steps=600, batch_size=256)
    fit(learned, joint.draw(8000, seed=0))
    held_out = joint.draw(2000, seed=1)
    x, mu = held_out.observed["x"], held_out.latents["mu"]
    exact = dist.Normal(0.8 * x, 0.8**0.5).to_event(1)
    with torch.no_grad():
        drawn = exact.sample((8,))
        divergence = (exact.log_prob(drawn) - learned(x).log_prob(drawn)).mean()
        draws = learned(x[:50]).sample((2000,))
    assert 0 < divergence < 0.02
    assert (draws.mean(0) - 0.8 * x[:50]).square().mean() < 0.1**2
    assert abs(draws.var(0).mean() - 0.8) < 0.08
    torch.testing.assert_close(
        learned.log_posterior({"mu": mu}, {"x": x}), learned(x).log_prob(mu), rtol=1e-5, atol=1e-5
    )


def test_fresh_simulations_validation_and_averages():
    joint = Joint(bounded, observed="x")
    learned = make(bounded)
    pg.fit(learned, joint, steps=5)
    held_out = joint.draw(100, seed=1)
    run = pg.fit(learned, joint.draw(200, seed=0), validation=held_out, steps=5, ema=0.9)
    assert run.reason == "steps"


@pytest.mark.filterwarnings("ignore:.*loads with `into=` alone")
@pytest.mark.parametrize("program", [bounded, mixed])
def test_copies_and_files(program, tmp_path):
    learned = make(program)
    pg.fit(learned, learned.joint.draw(100, seed=0), steps=3)
    x, draws = torch.randn(6), learned(torch.zeros(6)).sample()
    score = learned(x).log_prob(draws)
    pg.save(learned, tmp_path / "posterior")
    twins = [copy.deepcopy(learned), pickle.loads(pickle.dumps(learned))]
    twins.append(pg.load(tmp_path / "posterior", into=make(program)))
    for twin in twins:
        torch.testing.assert_close(twin(x).log_prob(draws), score)
        assert torch.equal(twin.guide(torch.tensor(0.0))["mu"].isfinite().all(), torch.tensor(True))


@pytest.mark.parametrize(
    ("recipe", "density"),
    [
        (partial(pg.flows.continuous, hidden=(16,)), "estimate"),
        (partial(pg.diffusion.mlp, width=16, depth=1), "lower bound"),
        (partial(pg.flows.spline_coupling, hidden=(16,), layers=2), "exact"),
    ],
)
@pytest.mark.parametrize("program", [bounded, mixed])
def test_other_recipes_carry_their_density(program, recipe, density):
    joint = Joint(program, observed="x")
    learned = posterior(joint, recipe)
    pg.fit(learned, joint.draw(200, seed=0), steps=3)
    distribution = learned(torch.zeros(3))
    assert learned.density == pg.density_of(distribution) == density
    draws = distribution.sample()
    assert distribution.support.check(draws).all()
    assert distribution.log_prob(draws).isfinite().all()


def test_several_observed_sites_are_a_dict():
    def program(x=None, y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        kind = pyro.sample("kind", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
        pyro.sample("y", dist.Normal(kind[..., None] + torch.zeros(3), 1.0).to_event(1), obs=y)

    joint = Joint(program, observed=["x", "y"])
    learned = posterior(joint, SMALL)
    simulations = joint.draw(100, seed=0)
    pg.fit(learned, simulations, steps=3)
    assert learned.context_shape == {"x": (), "y": (3,)}
    assert learned(simulations.observed).log_prob(learned.packed(simulations.latents)).shape == (100,)
    assert learned.draw(simulations.observed, 7)["kind"].shape == (7, 100)


def test_a_single_observed_site_is_a_tensor_or_a_dict():
    module, x = make(normal), torch.randn(4, *joint_of(normal).observed["x"].shape)
    theta = module(x).sample()
    torch.testing.assert_close(module({"x": x}).log_prob(theta), module(x).log_prob(theta))
    with pytest.raises(ValueError, match=r"`observed` must hold values of the sites \['x'\], got \['y'\]"):
        module({"y": x})


def test_an_embedding_of_ones_own():
    def program(x=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        kind = pyro.sample("kind", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal((mu + kind)[..., None] + torch.zeros(8), 1.0).to_event(1), obs=x)

    joint = Joint(program, observed="x")
    network = torch.nn.Linear(8, 2)
    learned = posterior(joint, SMALL, embedding=network)
    before = network.weight.clone()
    pg.fit(learned, joint.draw(100, seed=0), steps=3)
    assert not torch.equal(before, network.weight)


def rows(x=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    kind = pyro.sample("kind", dist.Bernoulli(0.5))
    with pyro.plate("rows", 6):
        pyro.sample("x", dist.Normal(mu + kind, 1.0), obs=x)


def test_plates_of_varying_size_take_any_number_of_rows():
    joint = Joint(rows, observed="x", sizes={"rows": (2, 5)})
    learned, simulations = posterior(joint, SMALL), joint.draw(300, seed=0)
    pg.fit(learned, simulations, steps=3)
    x = torch.randn(4, 3)
    draws = learned(x).sample((7,))
    score = learned(x).log_prob(draws)
    torch.testing.assert_close(learned(x.flip(-1)).log_prob(draws), score, rtol=1e-4, atol=1e-4)
    wide = torch.cat([x, x.new_full((4, 3), torch.nan)], -1)
    torch.testing.assert_close(learned(wide).log_prob(draws), score)
    assert learned.log_posterior(simulations.latents, simulations.observed).isfinite().all()
    assert learned.draw({"x": x}, 5)["kind"].shape == (5, 4)
    with pytest.raises(ValueError, match="`context` must have from 2 to 5 rows in plate 'rows' of site 'x', got 7"):
        learned(torch.zeros(7))
    with pytest.raises(ValueError, match="from 2 to 5 rows in plate 'rows' of site 'x', got 6 to 6"):
        learned(torch.zeros(6))
    with pytest.raises(ValueError, match="got 1 to 1"):
        learned(torch.tensor([0.0, *[torch.nan] * 5]))


class TestBadInput:
    def test_latents(self):
        learned = make(bounded)
        with pytest.raises(
            ValueError, match=r"`latents` must hold values of the sites \['mu', 'scale'\], got \['mu'\]"
        ):
            learned.packed({"mu": torch.zeros(2)})
        with pytest.raises(ValueError, match=r"`latents\['mu'\]` must end in shape \(2,\), got shape \(3,\)"):
            learned.packed({"mu": torch.zeros(3), "scale": torch.ones(())})
        with pytest.raises(ValueError, match=r"`draws` must end in shape \(3,\)"):
            learned.sites(torch.zeros(4))

    def test_what_is_observed(self):
        learned = make(normal)
        with pytest.raises(ValueError, match=r"`context` must end in shape \(2,\), got \(3,\)"):
            learned(torch.zeros(3))
        for number in (torch.nan, torch.inf):
            with pytest.raises(ValueError, match=f"`context` must hold finite numbers, got {number:g}"):
                learned(torch.tensor([1.0, number]))
        with pytest.raises(ValueError, match=r"`observed` must hold values of the sites \['x'\], got \['y'\]"):
            learned.draw({"y": torch.zeros(4, 2)}, 3)
        with pytest.raises((TypeError, ValueError), match="draws"):
            learned.draw({"x": torch.zeros(4, 2)}, 0)

    def test_training_data(self):
        learned = make(bounded)
        simulations = learned.joint.draw(50, seed=0)
        latents = {**simulations.latents, "scale": -simulations.latents["scale"]}
        with pytest.raises(ValueError, match=r"`latents\['scale'\]` must lie in the support .* in rows? 0"):
            pg.fit(learned, (latents, simulations.observed), steps=1)
        x = simulations.observed["x"].clone()
        x[3] = torch.nan
        with pytest.raises(ValueError, match="`context` must hold finite numbers, got nan in row 3"):
            pg.fit(learned, (simulations.latents, {"x": x}), steps=1)

    def test_supports_without_a_bijection(self):
        def program(x=None):
            mu = pyro.sample("mu", dist.ProjectedNormal(torch.tensor([1.0, 0.0, 0.0])))
            pyro.sample("x", dist.Normal(mu.sum(-1), 1.0), obs=x)

        with pytest.raises(ValueError, match="got site 'mu' within Sphere"):
            posterior(Joint(program, observed="x"))


def test_simulations_are_fitted_until_held_out_ones_improve_no_more():
    joint = Joint(normal, observed="x")
    learned = posterior(joint, SMALL)
    found = pg.fit(learned, joint.draw(300, seed=0), seed=0)
    assert found.reason == "patience"
    assert found.best_step <= 3 * (len(found.history.validation) - 20)


def test_weights_are_averaged_on_simulations_alone(monkeypatch):
    decays = []
    module = importlib.import_module("pyrogen.training.fit")
    monkeypatch.setattr(module, "averaged", lambda ema, trained: decays.append(ema))
    joint = Joint(normal, observed="x")
    learned = posterior(joint, SMALL)
    simulations = joint.draw(60, seed=0)
    for data, options in (
        (simulations, {}),
        (joint, {}),
        (joint.fresh(8), {}),
        (simulations.entries, {}),
        (joint, {"ema": 0.5}),
        (joint, {"ema": 0}),
        (joint, {"ema": 0.0}),
    ):
        pg.fit(learned, data, steps=1, **options)
    assert decays == [0.99, 0.99, 0.99, None, 0.5, None, None]
