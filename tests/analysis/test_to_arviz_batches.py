"""Minibatches from a loader give what the full batch gives."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from pyrogen.analysis import to_arviz

SIZE = 50


def model(x):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", SIZE, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.deterministic("mean", z.sum(-1) + shift, event_dim=0)
        pyro.sample("x", dist.Normal(z.sum(-1) + shift, 0.5), obs=x)


def guide(x):
    pyro.sample("shift", dist.Normal(0.2, 0.1))
    with pyro.plate("data", SIZE, subsample_size=len(x)):
        pyro.sample("z", dist.Normal((x / 2)[:, None].expand(-1, 2), 0.75).to_event(1))


def point_guide(x):
    pyro.sample("shift", dist.Delta(torch.tensor(0.2)))
    with pyro.plate("data", SIZE, subsample_size=len(x)):
        pyro.sample("z", dist.Delta((x / 2)[:, None].expand(-1, 2), event_dim=1))


def loader(x, size=8):
    return DataLoader(TensorDataset(x), batch_size=size)


def test_every_number_is_that_of_the_full_model():
    x = torch.randn(SIZE)
    tree = to_arviz(guide, model=model, batches=loader(x), draws=30, local_draws=500)
    posterior, stats_group = tree["posterior"], tree["sample_stats"]
    shift, z = posterior["shift"].values[0], posterior["z"].values[0]
    assert posterior["shift"].dims == ("chain", "draw")
    assert posterior["z"].dims == ("chain", "draw", "data", "z_dim_1")
    assert z.shape == (30, SIZE, 2)
    np.testing.assert_array_equal(posterior["data"].values, np.arange(SIZE))
    np.testing.assert_array_equal(tree["observed_data"]["x"].values, x)
    mean = z.sum(-1) + shift[:, None]
    np.testing.assert_allclose(posterior["mean"].values[0], mean, rtol=1e-5, atol=1e-5)
    stored = tree["log_likelihood"]["x"]
    marginal = stats.norm(shift[:, None], 2.25**0.5).logpdf(x.numpy())  # z is local, and integrated out
    np.testing.assert_allclose(stored.values[0], marginal, atol=0.5)
    error = stored.attrs["monte_carlo_error"]
    assert stored.attrs["marginal_over"] == "z"
    assert 0.05 < error < 0.7
    assert abs((stored.values[0] - marginal).sum(1)).mean() < 2 * error
    pointwise = stats.norm(mean, 0.5).logpdf(x.numpy())
    log_p = stats.norm(0, 1).logpdf(shift) + stats.norm(0, 1).logpdf(z).sum((1, 2)) + pointwise.sum(1)
    np.testing.assert_allclose(stats_group["lp"].values[0], log_p, rtol=1e-4)
    centre = (x / 2).numpy()[:, None]
    log_q = stats.norm(0.2, 0.1).logpdf(shift) + stats.norm(centre, 0.75).logpdf(z).sum((1, 2))
    np.testing.assert_allclose(stats_group["log_q"].values[0], log_q, rtol=1e-4)
    assert len(np.unique(shift)) == 30  # drawn once for all minibatches, anew for each draw


def test_equal_to_the_full_batch():
    x = torch.randn(SIZE)
    with pytest.warns(UserWarning, match="conditional on z.*the guide has point masses for them"):
        parts = to_arviz(point_guide, model=model, batches=loader(x), draws=4, predictive=False)
    with pytest.warns(UserWarning, match="conditional on z"):
        whole = to_arviz(point_guide, x, model=model, draws=4, predictive=False)
    for group in ("posterior", "log_likelihood", "observed_data"):
        for name, variable in whole[group].data_vars.items():
            assert parts[group][name].dims == variable.dims
            np.testing.assert_allclose(parts[group][name].values, variable.values, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts["sample_stats"]["lp"].values, whole["sample_stats"]["lp"].values, rtol=1e-5)


def test_prior_and_predictions_share_what_is_global():
    x = torch.randn(SIZE)
    tree = to_arviz(guide, model=model, batches=loader(x), draws=200, prior=2000, seed=0, log_likelihood=False)
    assert tree["prior"]["shift"].shape == (1, 2000)
    assert tree["prior_predictive"]["x"].shape == (1, 2000, SIZE)
    rows = tree["prior_predictive"]["x"].values[0]
    correlation = np.corrcoef(rows[:, 0], rows[:, -1])[0, 1]  # first and last minibatch: 1 / (1 + 2 + 0.25)
    assert abs(correlation - 1 / 3.25) < 5 / 2000**0.5
    residual = (tree["posterior_predictive"]["x"] - tree["posterior"]["mean"]).values
    assert abs(residual.std() - 0.5) < 5 * 0.5 / (2 * residual.size) ** 0.5


def test_draws_of_global_sites():
    x = torch.randn(SIZE)

    def shared(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(shift, 0.5), obs=x)

    draws = {"shift": torch.randn(20)}
    parts = to_arviz(draws, model=shared, batches=loader(x))
    whole = to_arviz(draws, x, model=shared)
    assert parts["log_likelihood"].equals(whole["log_likelihood"])
    np.testing.assert_allclose(parts["sample_stats"]["lp"].values, whole["sample_stats"]["lp"].values, rtol=1e-5)


def test_masks_of_minibatches():
    def masked(x, mask):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), poutine.mask(mask=mask):
            pyro.sample("x", dist.Normal(shift, 0.5), obs=x)

    x, mask = torch.arange(6.0), torch.tensor([True, True, True, False, True, False])
    tree = to_arviz({"shift": torch.zeros(2)}, model=masked, batches=DataLoader(TensorDataset(x, mask), batch_size=3))
    log_p = stats.norm(0, 1).logpdf(0) + stats.norm(0, 0.5).logpdf([0, 1, 2, 4]).sum()
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values, log_p, rtol=1e-5)
    np.testing.assert_array_equal(tree["observed_data"]["x"].values, [0, 1, 2, 4])
    np.testing.assert_array_equal(tree["observed_data"]["x_data"].values, [0, 1, 2, 4])


def test_the_data_plate_must_be_clear():
    def grid(x):
        with pyro.plate("a", len(x), dim=-2), pyro.plate("b", 2, dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def local(x):
        with pyro.plate("a", len(x), dim=-2), pyro.plate("b", 2, dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    batches = [torch.zeros(2, 2), torch.zeros(1, 2)]
    with pytest.raises(ValueError, match="`plate` must name"):
        to_arviz(local, model=grid, batches=batches)
    assert to_arviz(local, model=grid, batches=batches, plate="a", draws=5)["posterior"]["z"].shape == (1, 5, 3, 2)
    with pytest.raises(ValueError, match="at least one minibatch"):
        to_arviz(local, model=grid, batches=[])
