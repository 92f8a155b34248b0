"""Truth: what ``to_arviz`` stores equals closed forms, whatever the posterior is and however it is computed."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, NUTS, SVI, EmpiricalMarginal, Importance, Predictive, Trace_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from scipy import stats

from pyrogen.analysis import draws, to_arviz

SCALE, PRIOR_SCALE = 0.7, 2.0


def data(size=20):
    return torch.randn(size, generator=torch.Generator().manual_seed(1)) + 1


def conjugate(x):
    location = pyro.sample("location", dist.Normal(0.0, PRIOR_SCALE))
    pyro.deterministic("twice", 2 * location)
    with pyro.plate("obs", len(x)):
        return pyro.sample("y", dist.Normal(location, SCALE), obs=x)


def exact_posterior(x):
    precision = 1 / PRIOR_SCALE**2 + len(x) / SCALE**2
    return x.sum().item() / SCALE**2 / precision, precision**-0.5


def exact_draws(x, count):
    mean, scale = exact_posterior(x)
    return mean + scale * torch.randn(count)


def log_likelihood(location, x):
    return stats.norm(location[..., None], SCALE).logpdf(x.numpy())


def joint(location, x):
    return stats.norm(0, PRIOR_SCALE).logpdf(location) + log_likelihood(location, x).sum(-1)


def check_conjugate(tree, x, draws):
    """Every number of the tree that is a function of the draws is right."""
    location = tree["posterior"]["location"].values
    assert location.shape == draws
    np.testing.assert_allclose(tree["posterior"]["twice"].values, 2 * location, rtol=1e-6)
    pointwise = tree["log_likelihood"]["y"]
    assert pointwise.dims == ("chain", "draw", "obs")
    np.testing.assert_allclose(pointwise.values, log_likelihood(location, x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values, joint(location, x), rtol=1e-4)
    assert set(tree["observed_data"].data_vars) == {"y"}
    np.testing.assert_array_equal(tree["observed_data"]["y"].values, x)
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "obs")


def test_leave_one_out_equals_the_hand_computation(arviz):
    x, count = data(), 20_000
    tree = to_arviz({"location": exact_draws(x, count)}, x, model=conjugate)
    expected = []
    for i in range(len(x)):  # p(y_i | y_-i) is normal
        mean, scale = exact_posterior(torch.cat([x[:i], x[i + 1 :]]))
        expected.append(stats.norm(mean, (scale**2 + SCALE**2) ** 0.5).logpdf(x[i]))
    result = arviz.loo(tree, pointwise=True)
    weights = np.exp(-log_likelihood(tree["posterior"]["location"].values[0], x))
    error = (weights.std(0) / weights.mean(0)).sum() / count**0.5  # at most, were all terms fully dependent
    old = "InferenceData" in vars(arviz)
    assert abs((result.elpd_loo if old else result.elpd) - np.sum(expected)) < 4 * error
    np.testing.assert_allclose((result.loo_i if old else result.elpd_i).values, expected, atol=0.05)


def test_predictive_draws_follow_the_posterior_predictive():
    x = data()
    tree = to_arviz({"location": exact_draws(x, 4000)}, x, model=conjugate, seed=0)
    mean, scale = exact_posterior(x)
    predicted = tree["posterior_predictive"]["y"].values
    assert stats.kstest(predicted[0, :, 0], stats.norm(mean, (scale**2 + SCALE**2) ** 0.5).cdf).pvalue > 1e-3
    between = predicted[0].mean(1)  # rows of a draw share its location
    assert abs(between.var() - (scale**2 + SCALE**2 / len(x))) < 5 * (2 / 4000) ** 0.5 * between.var()


def test_prior_draws_follow_the_prior():
    tree = to_arviz({"location": torch.zeros(10)}, data(), model=conjugate, prior=4000, seed=0)
    assert tree["prior"]["location"].shape == (1, 4000)
    assert stats.kstest(tree["prior"]["location"].values[0], stats.norm(0, PRIOR_SCALE).cdf).pvalue > 1e-3
    np.testing.assert_allclose(tree["prior"]["twice"].values, 2 * tree["prior"]["location"].values)
    assert tree["prior_predictive"]["y"].dims == ("chain", "draw", "obs")
    noise = (tree["prior_predictive"]["y"] - tree["prior"]["location"]).values.ravel()
    assert abs(noise.std() - SCALE) < 5 * SCALE / (2 * noise.size) ** 0.5


def test_prior_draws_of_an_autoguide_do_not_start_where_it_does():
    guide = AutoNormal(conjugate)
    guide(data())
    for posterior in (guide, SVI(conjugate, guide, pyro.optim.Adam({}), Trace_ELBO())):
        prior = to_arviz(posterior, data(), draws=10, prior=2000, seed=0)["prior"]["location"].values[0]
        assert stats.kstest(prior, stats.norm(0, PRIOR_SCALE).cdf).pvalue > 1e-3


def test_nuts(arviz):
    x = data()
    mcmc = MCMC(NUTS(conjugate), num_samples=300, warmup_steps=200, disable_progbar=True)
    mcmc.run(x)
    tree = to_arviz(mcmc)
    check_conjugate(tree, x, (1, 300))
    np.testing.assert_array_equal(tree["posterior"]["location"].values[0], mcmc.get_samples()["location"])
    assert not tree["sample_stats"]["diverging"].values.any()
    assert 0 < tree["posterior"].attrs["acceptance_rate"][0] <= 1
    mean, scale = exact_posterior(x)
    assert abs(arviz.summary(tree, kind="stats", round_to=6).loc["location", "mean"] - mean) < 5 * scale / 100**0.5


def test_chains_stay_apart():
    x = data()
    with pytest.warns(UserWarning, match="num_chains"):
        mcmc = MCMC(NUTS(conjugate), num_samples=30, warmup_steps=30, num_chains=9, disable_progbar=True)
    mcmc.run(x)
    tree = to_arviz(mcmc, x)
    check_conjugate(tree, x, (9, 30))
    np.testing.assert_array_equal(
        tree["posterior"]["location"].values, mcmc.get_samples(group_by_chain=True)["location"]
    )


def test_divergences_are_where_pyro_saw_them():
    def funnel():
        scale = pyro.sample("scale", dist.Normal(0.0, 3.0))
        with pyro.plate("all", 9):
            pyro.sample("x", dist.Normal(0.0, (scale / 2).exp()))

    mcmc = MCMC(
        HMC(funnel, step_size=1.2, num_steps=5, adapt_step_size=False), 60, warmup_steps=5, disable_progbar=True
    )
    mcmc.run()
    seen = mcmc.diagnostics()["divergences"]["chain 0"]
    tree = to_arviz(mcmc)
    assert 0 < len(seen) < 60
    assert list(np.flatnonzero(tree["sample_stats"]["diverging"].values[0])) == sorted(seen)
    assert tree["posterior"]["x"].dims == ("chain", "draw", "all")


AUTOGUIDES = [
    AutoDelta,
    AutoNormal,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoLowRankMultivariateNormal,
    AutoLaplaceApproximation,
    AutoStructured,
]


@pytest.mark.parametrize("make", AUTOGUIDES)
def test_autoguides(make):
    x = data()
    guide = make(conjugate)
    svi = SVI(conjugate, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(3):
        svi.step(x)
    tree = to_arviz(guide, x, draws=50)
    check_conjugate(tree, x, (1, 50))
    # Before `laplace_approximation()` the other one is a point, too: its mode.
    assert ("log_q" in tree["sample_stats"]) == (make not in (AutoDelta, AutoLaplaceApproximation))
    check_conjugate(to_arviz(svi, x, draws=7), x, (1, 7))


def positive(x):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("obs", len(x)):
        pyro.sample("y", dist.Normal(0.0, scale), obs=x)


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
def test_log_q_is_the_density_of_the_guide_on_the_constrained_space(make):
    x = data()
    guide = make(positive, init_scale=0.3)
    tree = to_arviz(guide, x, draws=20)
    scale = tree["posterior"]["scale"].values
    location = guide.median(x)["scale"].log().item()
    np.testing.assert_allclose(
        tree["sample_stats"]["log_q"].values,
        stats.lognorm(0.3, scale=np.exp(location)).logpdf(scale),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_list_of_guides():
    def model(x):
        location = pyro.sample("location", dist.Normal(0.0, PRIOR_SCALE).expand([3]).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("obs", len(x)):
            pyro.sample("y", dist.Normal(location, scale).to_event(1), obs=x)

    guide = AutoGuideList(model)
    guide.append(AutoMultivariateNormal(poutine.block(model, expose=["location"])))
    guide.append(AutoDelta(poutine.block(model, expose=["scale"])))
    x = torch.randn(5, 3)
    tree = to_arviz(guide, x, draws=11)
    assert tree["posterior"]["location"].shape == (1, 11, 3)
    assert tree["posterior"]["scale"].shape == (1, 11)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "obs")
    assert tree["observed_data"]["y"].dims == ("obs", "y_dim_1")
    assert "log_q" in tree["sample_stats"]


def hand_written_guide(x):
    location = pyro.param("guide location", torch.tensor(0.5))
    pyro.sample("location", dist.Normal(location, 0.1))


def test_guides_written_by_hand():
    x = data()
    elbo = Trace_ELBO()(conjugate, hand_written_guide)
    for posterior in (hand_written_guide, elbo):
        tree = to_arviz(posterior, x, model=conjugate, draws=40)
        check_conjugate(tree, x, (1, 40))
        location = tree["posterior"]["location"].values
        np.testing.assert_allclose(
            tree["sample_stats"]["log_q"].values, stats.norm(0.5, 0.1).logpdf(location), rtol=1e-4, atol=1e-5
        )
    with pytest.raises(ValueError, match="`model` must be given"):
        to_arviz(hand_written_guide, x)


def test_predictive():
    x = data()
    draws = {"location": exact_draws(x, 30)}
    check_conjugate(to_arviz(Predictive(conjugate, draws), x), x, (1, 30))
    check_conjugate(to_arviz(Predictive(conjugate, guide=hand_written_guide, num_samples=8), x), x, (1, 8))
    prior = to_arviz(Predictive(conjugate, num_samples=12), x)
    assert prior["prior"]["location"].shape == (1, 12)
    assert prior["prior_predictive"]["y"].shape == (1, 12, 20)


def test_predictive_of_new_data():
    def regression(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("obs", len(x)):
            pyro.sample("y", dist.Normal(slope * x, 0.1), obs=y)

    predictive = Predictive(regression, {"slope": torch.full((25,), 2.0)})
    tree = to_arviz(predictive, torch.arange(4.0))
    assert tree["posterior_predictive"]["y"].shape == (1, 25, 4)
    assert set(tree["posterior"].data_vars) == {"slope"}
    np.testing.assert_allclose(tree["posterior_predictive"]["y"].values.mean((0, 1)), [0, 2, 4, 6], atol=0.1)


def test_draws_of_predictive_keep_events_of_size_one():
    def model(x):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("obs", len(x)):
            pyro.sample("y", dist.Normal(weight * torch.ones(1), 1.0).to_event(1), obs=x)

    x = torch.randn(6, 1)
    draws = Predictive(model, num_samples=9, parallel=True, return_sites=["weight"])(x)
    assert draws["weight"].shape == (9, 1, 1)
    tree = to_arviz(draws, x, model=model, prior=5)
    assert tree["posterior"]["weight"].dims == ("chain", "draw", "weight_dim_0")
    assert tree["posterior"]["weight"].shape == (1, 9, 1)
    assert tree["prior"]["weight"].shape == (1, 5, 1)
    assert tree["posterior_predictive"]["y"].shape == (1, 9, 6, 1)


def test_importance_samples_are_resampled():
    x = data(2)
    importance = Importance(conjugate, num_samples=3000).run(x)
    mean, scale = exact_posterior(x)
    size = float(importance.get_ESS())
    marginals = {"location": EmpiricalMarginal(importance, "location")}
    for posterior in (importance, marginals):
        tree = to_arviz(posterior, x, model=conjugate, seed=1)
        location = tree["posterior"]["location"].values
        check_conjugate(tree, x, (1, 3000))
        assert abs(location.mean() - mean) < 5 * scale / size**0.5
        assert abs(location.std() - scale) < 5 * scale / (2 * size) ** 0.5
        assert tree["posterior"].attrs["effective_sample_size"] == pytest.approx(size, rel=1e-3)
    with pytest.raises(ValueError, match="site: marginal"):
        to_arviz(marginals["location"], x, model=conjugate)


class Sampler:
    """A posterior sampler of any kind."""

    def __init__(self, samples, log_weights=None):
        self.samples = samples
        self.log_weights = log_weights

    def get_samples(self):
        return self.samples


def test_any_sampler_with_weights():
    x = data(2)
    proposed = PRIOR_SCALE * torch.randn(500)
    weights = torch.as_tensor(log_likelihood(proposed.numpy(), x).sum(-1))
    kept = to_arviz(Sampler({"location": proposed}, weights), x, model=conjugate, resample=False)
    check_conjugate(kept, x, (1, 500))
    np.testing.assert_allclose(kept["sample_stats"]["log_weight"].values[0], weights)
    resampled = to_arviz(Sampler({"location": proposed}, weights), x, model=conjugate)
    check_conjugate(resampled, x, (1, 500))
    assert set(resampled["posterior"]["location"].values.ravel()) < set(proposed.tolist())
    heavy = proposed[weights.argmax()].item()
    expected = 500 * weights.softmax(0).max().item()
    assert abs((resampled["posterior"]["location"].values == heavy).sum() - expected) < 1 + 1e-3
    check_conjugate(to_arviz(Sampler({"location": proposed}), x, model=conjugate), x, (1, 500))
    sampler = Sampler({"location": proposed})
    sampler.model, sampler.sample_stats = conjugate, {"energy": torch.arange(500.0)}
    assert to_arviz(sampler, x)["sample_stats"]["energy"].values[0, 3] == 3


def test_draws_alone():
    tree = to_arviz(
        {"a": torch.zeros(8, 3), "b": np.arange(8.0)}, chains=2, dims={"a": ["axis"]}, coords={"axis": list("xyz")}
    )
    assert tree["posterior"]["a"].dims == ("chain", "draw", "axis")
    assert list(tree["posterior"]["axis"].values) == ["x", "y", "z"]
    np.testing.assert_array_equal(tree["posterior"]["b"].values, np.arange(8.0).reshape(2, 4))


def runs_once_only(location):
    return location.item()


def silently_mixes_draws(location):
    return location.mean()


@pytest.mark.parametrize("link", [runs_once_only, silently_mixes_draws])
def test_models_that_cannot_be_vectorized_give_the_same_numbers(link):
    """Many draws at once would raise in one model, and in the other quietly average over draws."""

    def model(x):
        location = pyro.sample("location", dist.Normal(0.0, PRIOR_SCALE))
        pyro.deterministic("twice", torch.as_tensor(2 * link(location)))
        with pyro.plate("obs", len(x)):
            pyro.sample("y", dist.Normal(link(location), SCALE), obs=x)

    x = data()
    tree = to_arviz({"location": exact_draws(x, 60)}, x, model=model, prior=3)
    check_conjugate(tree, x, (1, 60))


def test_many_draws_are_run_at_once(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("not vectorized")

    monkeypatch.setattr(draws.BoundProgram, "_one_by_one", refuse)
    x = data()
    check_conjugate(to_arviz(AutoMultivariateNormal(conjugate), x, draws=500, prior=10), x, (1, 500))
    monkeypatch.setattr(draws, "_NUMBERS_AT_ONCE", 1000)  # in several parts
    check_conjugate(to_arviz({"location": exact_draws(x, 500)}, x, model=conjugate), x, (1, 500))


def test_the_seed_decides_and_nothing_else_changes():
    x = data()
    guide = AutoNormal(conjugate)
    guide(x)
    before, names = torch.get_rng_state(), set(pyro.get_param_store().keys())
    with poutine.trace() as outside:
        first = to_arviz(guide, x, draws=5, prior=5, seed=3)
        second = to_arviz(guide, x, draws=5, prior=5, seed=3)
        by_hand = to_arviz(hand_written_guide, x, model=conjugate, draws=5, seed=4)
        exact = to_arviz({"location": torch.zeros(5)}, x, model=conjugate, predictive=False)
    assert torch.equal(before, torch.get_rng_state())
    assert set(pyro.get_param_store().keys()) == names
    assert len(outside.trace.nodes) == 0
    for group in ("posterior", "posterior_predictive", "prior", "log_likelihood"):
        assert first[group].equals(second[group])
    assert not first["posterior"].equals(by_hand["posterior"])
    assert "posterior_predictive" not in exact


def test_round_trip_to_netcdf(arviz, tmp_path):
    pytest.importorskip("h5netcdf", reason="netCDF files need h5netcdf or netCDF4")
    x = data()
    tree = to_arviz(AutoNormal(conjugate), x, draws=6, prior=4, constant_data={"covariate": torch.arange(3)})
    path = str(tmp_path / "posterior.nc")
    tree.to_netcdf(path, engine="h5netcdf")
    again = arviz.from_netcdf(path, engine="h5netcdf") if "InferenceData" in vars(arviz) else arviz.from_netcdf(path)
    for group in ("posterior", "prior", "log_likelihood", "sample_stats", "observed_data", "constant_data"):
        assert tree[group].equals(again[group])
    assert again["posterior"].attrs["inference_library"] == "pyro"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_arviz(3), "`posterior` must be"),
        (lambda: to_arviz({"a": torch.zeros(3), "b": torch.zeros(4)}), "equally many"),
        (lambda: to_arviz({"a": torch.zeros(3)}, chains=2), "`chains` must divide the 3 draws, got 2"),
        (lambda: to_arviz({"a": torch.zeros(3)}, data()), "`model` must be given"),
        (lambda: to_arviz(Sampler({"a": torch.zeros(3)}, torch.zeros(2))), r"`log_weights` must have shape \(3,\)"),
        (lambda: to_arviz({"location": torch.zeros(3, 2)}, data(), model=conjugate), "site `location`"),
        (lambda: to_arviz({"a": torch.zeros(3, 2)}, coords={"a_dim_0": [1]}), "must have 2 values"),
        (lambda: to_arviz({"a": torch.zeros(3, 2)}, dims={"a": ["x", "y"]}), r"`dims\['a'\]` must name"),
        (lambda: to_arviz({"a": torch.zeros(3)}, 1, model=conjugate, batches=[data()]), "`batches` take the place"),
        (
            lambda: to_arviz({"a": torch.zeros(3)}, dims={"b": ["x"]}),
            r"`dims` must name sites among \['a'\], got \['b'\]",
        ),
        (lambda: to_arviz(AutoNormal(conjugate), data(), draws=0), "`draws` must be at least 1"),
        (lambda: to_arviz(AutoNormal(conjugate), data(), draws=-1), "`draws` must be at least 1"),
        (lambda: to_arviz(AutoNormal(conjugate), data(), prior=-1), "`prior` must be at least 0"),
        (lambda: to_arviz(AutoNormal(conjugate), data(), chains=2), "`chains` must be 1 where the draws come from"),
        (lambda: to_arviz(Sampler({"a": torch.zeros(3)}, torch.full((3,), -torch.inf))), "at least one of them finite"),
        (
            lambda: to_arviz(Sampler({"a": torch.zeros(3)}, torch.full((3,), torch.nan))),
            "`log_weights` must be numbers",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
