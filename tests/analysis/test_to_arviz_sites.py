"""Every kind of site lands in its group, under the names of its plates, in its own numbers."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, init_to_value
from scipy import stats

from pyrogen.analysis import to_arviz
from pyrogen.core.density import density_of


def groups(tree):
    names = tree.groups() if not hasattr(tree, "children") else list(tree.children)
    return set(names)


def test_plates_and_events_name_the_dimensions():
    def model():
        with pyro.plate("school", 3, dim=-2):
            effect = pyro.sample("effect", dist.Normal(0.0, 1.0))  # (3, 1)
            pyro.deterministic("double", 2 * effect, event_dim=0)
            with pyro.plate("pupil", 4, dim=-1):
                pyro.sample("grades", dist.Normal(effect[..., None], 1.0).expand([3, 4, 2]).to_event(1), obs=data)
        with pyro.plate("pupil again", 4):
            pyro.deterministic("matrix", torch.ones(4, 5))
        pyro.sample("loose", dist.Normal(torch.zeros(2), 1.0))

    data = torch.randn(3, 4, 2)
    draws = {"effect": torch.randn(6, 3, 1), "loose": torch.randn(6, 2)}
    tree = to_arviz(draws, model=model, dims={"grades": ["subject"]}, coords={"school": ["a", "b", "c"]})
    posterior = tree["posterior"]
    assert posterior["effect"].dims == ("chain", "draw", "school", "effect_dim_1")
    assert posterior["double"].dims == ("chain", "draw", "school", "double_dim_1")
    assert posterior["matrix"].dims == ("chain", "draw", "pupil again", "matrix_dim_1")
    assert posterior["loose"].dims == ("chain", "draw", "loose_dim_0")
    assert list(posterior["school"].values) == ["a", "b", "c"]
    assert tree["posterior_predictive"]["grades"].dims == ("chain", "draw", "school", "pupil", "subject")
    assert tree["log_likelihood"]["grades"].dims == ("chain", "draw", "school", "pupil")
    assert tree["observed_data"]["grades"].dims == ("school", "pupil", "subject")
    expected = stats.norm(draws["effect"][:, :, :, None], 1).logpdf(data.numpy()).sum(-1)
    np.testing.assert_allclose(tree["log_likelihood"]["grades"].values[0], expected, rtol=1e-5, atol=1e-5)


def test_names_may_coincide():
    def model(y):
        with pyro.plate("x", 2), pyro.plate("draw", 3):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    tree = to_arviz({"z": torch.zeros(4)}, torch.zeros(3, 2), model=model, constant_data={"x": torch.arange(2)})
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "draw_dim", "x_dim")


def test_a_scalar_observation():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    tree = to_arviz({"z": torch.zeros(4)}, torch.tensor(1.0), model=model)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw")
    assert tree["observed_data"]["y"].shape == ()


def shrunk(x, size=None):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", size or len(x), subsample_size=len(x)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("scaled", [lambda x: shrunk(x, 500), poutine.scale(shrunk, 50.0)])
def test_the_scale_is_removed_from_the_pointwise_likelihood_and_kept_in_lp(scaled):
    x, z = torch.randn(10), torch.randn(7)
    tree = to_arviz({"z": z}, x, model=scaled)
    expected = stats.norm(z[:, None], 1).logpdf(x.numpy())
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-5)
    prior = stats.norm(0, 1).logpdf(z) * (1 if scaled.__name__ == "<lambda>" else 50)
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values[0], prior + 50 * expected.sum(1), rtol=1e-5)


def test_rows_of_a_subsampling_plate_are_its_coordinates():
    data = torch.arange(100.0)

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 100, subsample_size=5) as rows:
            pyro.sample("y", dist.Normal(z, 1.0), obs=data[rows])

    def guide():
        pyro.sample("z", dist.Normal(0.0, 1.0))

    for posterior in ({"z": torch.zeros(4)}, guide):
        tree = to_arviz(posterior, model=model, draws=4)
        np.testing.assert_array_equal(tree["observed_data"]["data"].values, tree["observed_data"]["y"].values)
        assert groups(tree) >= {"posterior", "log_likelihood"}
        assert set(tree["posterior"].data_vars) == {"z"}


def test_factors_count_in_lp_only():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("penalty", -3 * z**2)
        with pyro.plate("data", len(x)):
            pyro.factor("each", z * torch.ones(len(x)))
            pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    x, z = torch.randn(3), torch.randn(6)
    tree = to_arviz({"z": z}, x, model=model, prior=2)
    for group in groups(tree):
        assert not {"penalty", "each"} & set(tree[group].data_vars)
    expected = (
        stats.norm(0, 1).logpdf(z) + stats.norm(z[:, None], 1).logpdf(x.numpy()).sum(1) + (3 * z - 3 * z**2).numpy()
    )
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values[0], expected, rtol=1e-5, atol=1e-5)


def test_masked_entries_are_no_data(arviz):
    mask = torch.tensor([True, False, True, True, False])

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 5), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(z, 1.0).expand([5]), obs=x)
        with pyro.plate("more", 5):
            pyro.sample("w", dist.Normal(z, 1.0).mask(mask), obs=x)
        with poutine.mask(mask=False):
            pyro.sample("hidden", dist.Normal(z, 1.0), obs=torch.zeros(()))

    x, z = torch.randn(5), 0.1 * torch.randn(2000)
    tree = to_arviz({"z": z}, x, model=model, coords={"data": list("abcde")})
    expected = stats.norm(z[:, None], 1).logpdf(x[mask].numpy())
    for name, plate, entries in (("y", "data", ["a", "c", "d"]), ("w", "more", [0, 2, 3])):
        dim = f"{name}_{plate}"
        np.testing.assert_allclose(tree["log_likelihood"][name].values[0], expected, rtol=1e-5)
        assert list(tree["log_likelihood"][dim].values) == entries
        assert tree["observed_data"][name].dims == (dim,)
        assert tree["posterior_predictive"][name].dims == ("chain", "draw", dim)
    assert all("hidden" not in tree[group].data_vars for group in groups(tree))
    lp = stats.norm(0, 1).logpdf(z) + 2 * expected.sum(1)
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values[0], lp, rtol=1e-5, atol=1e-4)
    assert arviz.loo(tree, var_name="y").n_data_points == 3


def test_partly_observed_sites():
    mask = torch.tensor([True, False, True, True])

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 4):
            pyro.sample("y", dist.Normal(z, 0.01), obs=x, obs_mask=mask)

    x = torch.tensor([1.0, 0.0, 1.0, 1.0])
    z = torch.linspace(0.9, 1.1, 8)
    both = {"z": z, "y_unobserved": z[:, None].expand(8, 4) + 5}
    tree = to_arviz(both, x, model=model)
    np.testing.assert_allclose(tree["posterior"]["y"].values[0, :, 1], z + 5)
    np.testing.assert_allclose(tree["posterior"]["y"].values[0, :, 0], 1)
    expected = stats.norm(z[:, None], 0.01).logpdf(x[mask].numpy())
    np.testing.assert_allclose(tree["log_likelihood"]["y_observed"].values[0], expected, rtol=1e-3)
    imputed = to_arviz({"z": z}, x, model=model)  # without draws the hidden part comes from the model
    np.testing.assert_allclose(imputed["posterior"]["y"].values[0, :, 1], z, atol=0.06)
    np.testing.assert_allclose(imputed["log_likelihood"]["y_observed"].values[0], expected, rtol=1e-3)
    guide = AutoNormal(model)
    assert to_arviz(guide, x, draws=5)["posterior"]["y"].dims == ("chain", "draw", "data")


def mixture(x):
    location = pyro.sample("location", dist.Normal(0.0, 5.0))
    with pyro.plate("data", len(x)):
        side = pyro.sample("side", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        pyro.deterministic("mean", location * (2 * side - 1))
        pyro.sample("x", dist.Normal(location * (2 * side - 1), 1.0), obs=x)


def test_sites_that_nuts_sums_out_are_left_out_with_a_reason():
    x = torch.randn(10)
    mcmc = MCMC(NUTS(mixture), num_samples=10, warmup_steps=10, disable_progbar=True)
    mcmc.run(x)
    with pytest.warns(UserWarning, match=r"leaves out log_likelihood \(needs draws of side\)"):
        tree = to_arviz(mcmc)
    assert set(tree["posterior"].data_vars) == {"location"}
    assert "log_likelihood" not in groups(tree)
    assert "lp" not in tree["sample_stats"]
    left_out = tree["posterior"].attrs["left_out"]
    assert "side: not among the draws: a discrete site that inference sums out by enumeration" in left_out
    assert "mean: may depend on side" in left_out
    assert tree["posterior_predictive"]["x"].shape == (1, 10, 10)
    quiet = to_arviz(mcmc, log_likelihood=False)
    assert set(quiet["posterior"].data_vars) == {"location"}


def test_a_likelihood_given_numbers_outside_of_sites_is_left_out_with_a_reason():
    """The mean of x moves by numbers that no site has: log p(x | a) is not what a run of the model gives."""

    def model(x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(a + torch.randn(3), 1.0).to_event(1), obs=x)
        pyro.sample("y", dist.Normal(a, 1.0), obs=x[0])

    draws, x = {"a": torch.randn(20)}, torch.randn(3)
    reason = "the log-probability of x depends on numbers that the model draws outside its sites"
    with pytest.warns(UserWarning, match=rf"leaves out log_likelihood \({reason}\)"):
        tree = to_arviz(draws, x, model=model)
    assert "log_likelihood" not in groups(tree)
    assert "lp" not in tree.get("sample_stats", {})
    assert tree["posterior_predictive"]["x"].shape == (1, 20, 3)


def test_sites_without_draws_are_not_replaced_by_the_prior():
    def model(x):
        a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(a, b.exp()), obs=x)

    with pytest.warns(UserWarning, match="posterior_predictive"):
        tree = to_arviz({"a": torch.zeros(5)}, torch.zeros(3), model=model)
    assert groups(tree) == {"posterior", "observed_data"}
    meant = pytest.warns(UserWarning, match="log_likelihood")
    with meant:  # Predictive means to draw what it lacks
        tree = to_arviz(Predictive(model, {"a": torch.zeros(5)}), torch.zeros(3))
    assert set(tree["posterior_predictive"].data_vars) == {"x", "b"}


def test_draws_of_other_sites_go_where_they_belong():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    predicted = torch.randn(5, 3)
    draws = {"z": torch.zeros(5), "y": predicted, "extra": torch.ones(5, 2)}
    tree = to_arviz(draws, torch.zeros(3), model=model)
    np.testing.assert_array_equal(tree["posterior_predictive"]["y"].values[0], predicted)
    assert set(tree["posterior"].data_vars) == {"z", "extra"}


def test_a_structure_that_varies_from_draw_to_draw():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        if z > 0:
            pyro.deterministic("sometimes", z)
        pyro.sample("y", dist.Normal(z, 1.0), obs=x)

    tree = to_arviz({"z": torch.tensor([1.0, -1.0])}, torch.zeros(()), model=model)
    assert set(tree["posterior"].data_vars) == {"z"}
    assert "sometimes" in tree["posterior"].attrs["left_out"]
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], stats.norm(0, 1).logpdf([1, -1]), rtol=1e-6)


class Bound(dist.Normal):
    density = "lower bound"


class Implicit(dist.Normal):
    density = None

    def log_prob(self, value):
        raise NotImplementedError("implicit")


def test_a_log_prob_says_what_it_means():
    def model(x, kind):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", kind(z, 1.0), obs=x)

    assert density_of(Bound(0.0, 1.0)) == "lower bound"
    tree = to_arviz({"z": torch.zeros(3)}, torch.zeros(()), Bound, model=model)
    assert tree["log_likelihood"]["y"].attrs["density"] == "lower bound"
    assert tree["sample_stats"]["lp"].attrs["density"] == "lower bound"

    def guide(x, kind):
        pyro.sample("z", kind(0.0, 1.0))

    own = to_arviz(guide, torch.zeros(()), Bound, model=model, draws=3)
    assert own["sample_stats"]["log_q"].attrs["density"] == "lower bound"
    exact = to_arviz(guide, torch.zeros(()), dist.Normal, model=model, draws=3)
    assert "density" not in exact["sample_stats"]["log_q"].attrs
    implicit = to_arviz({"z": torch.zeros(3)}, torch.zeros(()), Implicit, model=model)
    assert "log_likelihood" not in groups(implicit)
    assert "its distribution has no log_prob" in implicit["posterior"].attrs["left_out"]
    assert implicit["posterior_predictive"]["y"].shape == (1, 3)


def test_double_precision_and_integers_stay():
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
        k = pyro.sample("k", dist.Poisson(torch.tensor(2.0)))
        pyro.sample("y", dist.Normal(z + k, 1.0), obs=x)

    draws = {"z": torch.zeros(4, dtype=torch.double), "k": torch.arange(4)}
    tree = to_arviz(draws, torch.zeros((), dtype=torch.double), model=model)
    assert tree["posterior"]["z"].dtype == np.float64
    assert tree["posterior"]["k"].dtype.kind == "i"


# Latents of single data

NOISE, COUNT = 0.5, 50


def one_latent_each(x):
    with pyro.plate("data", COUNT):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def its_posterior(x):
    with pyro.plate("data", COUNT):
        pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5))


def test_the_likelihood_of_data_with_latents_of_their_own_is_marginal(arviz):
    """No parameter is shared, so the exact elpd is the sum of log-marginals, N(0, 1.25)."""
    x = torch.randn(COUNT) * 1.25**0.5
    tree = to_arviz(its_posterior, x, model=one_latent_each, draws=500, seed=0)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(x)
    stored = tree["log_likelihood"]["x"]
    np.testing.assert_allclose(stored.values[0], exact.expand(500, -1), atol=1e-4)
    assert (stored.attrs["likelihood"], stored.attrs["marginal_over"]) == ("marginal", "z")
    assert stored.attrs["monte_carlo_error"] < 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same number in every draw has no tail that ArviZ could fit
        assert float(arviz.loo(tree).elpd_loo) == pytest.approx(float(exact.sum()), abs=1e-2)
        assert float(arviz.waic(tree).elpd_waic) == pytest.approx(float(exact.sum()), abs=1e-2)


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_of_local_latents(guide):
    x = torch.randn(COUNT) * 1.25**0.5
    guide = guide(one_latent_each, init_loc_fn=init_to_value(values={"z": 0.8 * x}), init_scale=0.2**0.5)
    guide(x)
    if isinstance(guide, AutoNormal):
        tree = to_arviz(guide, x, draws=200)
        exact = dist.Normal(0.0, 1.25**0.5).log_prob(x)
        np.testing.assert_allclose(tree["log_likelihood"]["x"].values[0], exact.expand(200, -1), atol=1e-3)
    else:
        with pytest.warns(UserWarning, match="conditional on z.*the guide draws them together with others"):
            tree = to_arviz(guide, x, draws=20)
        assert tree["log_likelihood"]["x"].attrs["likelihood"] == "conditional"


def test_a_shared_latent_stays_and_the_local_one_goes():
    """Given the shift, x is N(shift, 1.25)."""

    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("parts", 2, dim=-1), pyro.plate("data", COUNT, dim=-2):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    def guide(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 0.1))
        with pyro.plate("parts", 2, dim=-1), pyro.plate("data", COUNT, dim=-2):
            pyro.sample("z", dist.Normal(shift + 0.8 * (x - shift), 0.2**0.5))

    x = torch.randn(COUNT, 2)
    tree = to_arviz(guide, x, model=model, draws=40, local_draws=30)
    shift, stored = tree["posterior"]["shift"].values[0], tree["log_likelihood"]["x"]
    assert stored.dims == ("chain", "draw", "data", "parts")
    exact = stats.norm(shift[:, None, None], 1.25**0.5).logpdf(x.numpy())
    np.testing.assert_allclose(stored.values[0], exact, atol=1e-4)
    assert stored.attrs["draws_of_local_latents"] == 30


def test_an_autoguide_of_global_and_local_latents():
    """Given the mean, x is N(mean, 1.25): AutoNormal has auxiliary sites outside and inside the plate."""

    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", COUNT):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    x = torch.randn(COUNT)
    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"mean": torch.zeros(()), "z": 0.8 * x}), init_scale=0.4)
    guide(x)
    tree = to_arviz(guide, x, draws=20, local_draws=2000)
    mean, stored = tree["posterior"]["mean"].values[0], tree["log_likelihood"]["x"]
    exact = stats.norm(mean[:, None], 1.25**0.5).logpdf(x.numpy())
    assert stored.attrs["likelihood"] == "marginal"
    np.testing.assert_allclose(stored.values[0], exact, atol=0.3)
    assert abs((stored.values[0] - exact).sum(1)).mean() < 3 * stored.attrs["monte_carlo_error"]


def test_draws_of_local_latents_leave_the_likelihood_conditional_and_say_so():
    x = torch.randn(COUNT)
    with pytest.warns(UserWarning, match="conditional on z, local latents.*the draws are not from a guide"):
        tree = to_arviz({"z": torch.randn(20, COUNT)}, x, model=one_latent_each)
    assert tree["log_likelihood"]["x"].attrs["conditional_on"] == "z"
    quiet = to_arviz({"z": torch.randn(20, COUNT)}, x, model=one_latent_each, log_likelihood=False)
    assert "log_likelihood" not in groups(quiet)


def test_a_guide_far_from_the_local_posterior_is_reported():
    def far(x):
        with pyro.plate("data", COUNT):
            pyro.sample("z", dist.Normal(0.8 * x + 1, 0.1))

    x = torch.randn(COUNT)
    with pytest.warns(UserWarning, match="Pareto k-hat above 0.7: the guide is too far"):
        to_arviz(far, x, model=one_latent_each, draws=100)


def _latents_as_an_event(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, NOISE), obs=x)


def _latents_of_plates_of_one(x):
    with pyro.plate("groups", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("members", 1):
            pyro.sample("x", dist.Normal(z, NOISE), obs=x[:, None])


@pytest.mark.parametrize(("model", "shape"), [(_latents_as_an_event, ()), (_latents_of_plates_of_one, (1,))])
def test_latents_of_single_data_are_found_outside_the_plate_as_well(model, shape):
    x = torch.randn(COUNT)
    with pytest.warns(UserWarning, match="conditional on z.*they are not in all its plates"):
        tree = to_arviz({"z": torch.randn(20, COUNT, *shape)}, x, model=model)
    assert tree["log_likelihood"]["x"].attrs["likelihood"] == "conditional"


def _beside(prior, observe):
    """A model whose latents lie in a plate beside that of the data, in another order."""
    order = torch.randperm(COUNT)

    def model(x):
        with pyro.plate("people", COUNT):
            z = pyro.sample("z", prior)
        with pyro.plate("data", COUNT):
            pyro.sample("x", observe(z[order]), obs=x)

    return model


@pytest.mark.parametrize(
    ("prior", "observe"),
    [
        (dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), lambda z: dist.Normal(z.sum(-1), NOISE)),
        (dist.Dirichlet(torch.ones(3)), lambda z: dist.Normal(z[:, 0], NOISE)),
        (dist.Categorical(torch.ones(3)), lambda z: dist.Normal(z.float(), NOISE)),
        (dist.Bernoulli(0.5), lambda z: dist.Normal(z, NOISE)),
        (dist.Poisson(2.0), lambda z: dist.Normal(z, NOISE)),
    ],
)
def test_latents_of_single_data_are_found_in_a_plate_beside_theirs(prior, observe):
    x = torch.randn(COUNT)
    with pytest.warns(UserWarning, match="conditional on z.*they are not in all its plates"):
        to_arviz({"z": prior.expand([COUNT]).sample((20,))}, x, model=_beside(prior, observe))


@pytest.mark.parametrize("pairs", [torch.arange(COUNT) // 2, torch.arange(COUNT) % 2])
def test_discrete_latents_of_several_data_leave_the_likelihood_unmarked(pairs):
    x, prior = torch.randn(COUNT), dist.Categorical(torch.ones(3))
    model = _beside(prior, lambda z: dist.Normal(z[pairs].float(), NOISE))
    to_arviz({"z": prior.expand([COUNT]).sample((20,))}, x, model=model)


def test_data_without_a_plate_are_a_single_datum():
    """All latents in plates belong to it, whether these have a dimension or are iterated over."""

    def together(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=x)

    def one_by_one(x):
        for i in pyro.plate("data", 2):
            z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
            pyro.sample("x" if i == 0 else "w", dist.Normal(z, NOISE), obs=x[i])

    x = torch.randn(COUNT)
    for model, draws in (
        (together, {"z": torch.randn(20, COUNT)}),
        (one_by_one, {"z0": torch.randn(20), "z1": torch.randn(20)}),
    ):
        with pytest.warns(UserWarning, match="conditional on z.*without a plate all of it is a single datum"):
            tree = to_arviz(draws, x, model=model)
        assert tree["log_likelihood"]["x"].attrs["likelihood"] == "conditional"


def test_latents_of_several_data_leave_the_likelihood_unmarked():
    x, inputs, labels = torch.randn(COUNT), torch.randn(COUNT, COUNT), torch.arange(COUNT) // 2

    def model():
        weights = pyro.sample("weights", dist.Normal(torch.zeros(COUNT), 1.0).to_event(1))
        smooth = pyro.sample("smooth", dist.MultivariateNormal(torch.zeros(COUNT), 0.5 * torch.eye(COUNT) + 0.5))
        levels = pyro.sample("levels", dist.Normal(torch.zeros(COUNT), 1.0).to_event(1))
        with pyro.plate("data", COUNT):
            pyro.sample("x", dist.Normal(inputs @ weights + smooth + levels[labels], NOISE), obs=x)

    tree = to_arviz({name: torch.randn(20, COUNT) for name in ("weights", "smooth", "levels")}, model=model)
    assert "likelihood" not in tree["log_likelihood"]["x"].attrs
