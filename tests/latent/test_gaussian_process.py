"""Gaussian processes over time against dense multivariate normals, with the kernels in closed form."""

import pytest
import torch
from torch.distributions import MultivariateNormal

import pyrogen as pg
from pyrogen import latent
from pyrogen.testing import check_distribution

KERNELS = {
    0.5: lambda r: (-r).exp(),
    1.5: lambda r: (1 + 3**0.5 * r) * (-(3**0.5) * r).exp(),
    2.5: lambda r: (1 + 5**0.5 * r + 5 / 3 * r**2) * (-(5**0.5) * r).exp(),
}
TIMES = torch.tensor([0.0, 0.4, 1.7, 2.0, 5.5, 6.0, 9.0]).double()


def model(smoothness=1.5, irregular=True, **more):
    torch.manual_seed(0)
    options = {"latent_shape": 2, "smoothness": smoothness, "length_scale": 3.0, "irregular": irregular}
    module = latent.gaussian_process((7, 2), **options, **more).double()
    with torch.no_grad():
        module.prior.log_length_scale[1] -= 1
        module.likelihood.log_scale.sub_(torch.tensor([1.0, 0.5]))
    return module


def dense(module, times):
    """Covariance of all values of the processes ``(2 n, 2 n)``, loading, and mean and covariance of observations."""
    gaps = (times[:, None] - times).abs()
    values = torch.block_diag(*(KERNELS[module.prior.smoothness](gaps / scale) for scale in module.prior.length_scale))
    weight = module.likelihood.loading.values.weight
    one = torch.eye(len(times)).to(weight)
    loading = torch.einsum("oq,ts->toqs", weight, one).reshape(2 * len(times), -1)
    noise = (2 * module.likelihood.log_scale).exp().repeat(len(times)).diag()
    mean = module.likelihood.loading.bias.repeat(len(times))
    return values, loading, mean, loading @ values @ loading.T + noise


@pytest.mark.parametrize("smoothness", KERNELS)
@pytest.mark.parametrize("irregular", [True, False])
@torch.no_grad()
def test_log_prob_is_that_of_a_dense_normal(smoothness, irregular):
    module = model(smoothness, irregular)
    times = TIMES if irregular else torch.arange(7).double()
    context = {"times": times} if irregular else None
    x = module(context).sample((3,))
    x[1, 2] = x[2, 4, 0] = torch.nan
    values, loading, mean, covariance = dense(module, times)
    smoothed = module.smooth(x, context).mean[..., :: module.prior.order]
    for row, found, states in zip(x.flatten(1), module(context).log_prob(x), smoothed, strict=True):
        known = ~row.isnan()
        there = covariance[known][:, known]
        torch.testing.assert_close(
            found, MultivariateNormal(mean[known], there).log_prob(row[known]), rtol=0, atol=1e-8
        )
        expected = values @ loading[known].T @ torch.linalg.solve(there, row[known] - mean[known])
        torch.testing.assert_close(states, expected.reshape(2, -1).T, rtol=0, atol=1e-8)


@pytest.mark.parametrize("smoothness", KERNELS)
@pytest.mark.parametrize("length_scale", [1e-3, 1e3, 1e6])
@torch.no_grad()
def test_log_prob_holds_where_a_process_moves_very_little_over_a_step(smoothness, length_scale):
    torch.manual_seed(0)
    module = latent.gaussian_process((60, 1), latent_shape=1, smoothness=smoothness, length_scale=length_scale).double()
    module.likelihood.log_scale.fill_(-2.3)
    x, gaps = module().sample((3,)), (torch.arange(60.0)[:, None] - torch.arange(60.0)).abs().double()
    x[0, 7] = torch.nan
    loading = module.likelihood.loading.values
    covariance = loading.weight.square() * KERNELS[smoothness](gaps / length_scale)
    covariance.diagonal().add_((2 * module.likelihood.log_scale).exp())
    for row, found in zip(x[..., 0] - loading.bias, module().log_prob(x), strict=True):
        known = ~row.isnan()
        exact = MultivariateNormal(torch.zeros_like(row[known]), covariance[known][:, known]).log_prob(row[known])
        torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)


@torch.no_grad()
def test_forecasts_are_those_of_the_process():
    module = model()
    x = module({"times": TIMES}).sample()
    forecast = module.forecast(x[:5], 2, {"times": TIMES})
    _, _, mean, covariance = dense(module, TIMES)
    gain = torch.linalg.solve(covariance[:10, :10], covariance[:10, 10:]).T
    loc = mean[10:] + gain @ (x[:5].flatten() - mean[:10])
    spread = covariance[10:, 10:] - gain @ covariance[:10, 10:]
    expected = MultivariateNormal(loc, 0.5 * (spread + spread.T)).log_prob(x[5:].flatten())
    torch.testing.assert_close(forecast.log_prob(x[5:]), expected, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_length_scales_are_learned():
    torch.manual_seed(0)
    gaps = (torch.arange(60.0)[:, None] - torch.arange(60.0)).abs()
    covariance = KERNELS[1.5](gaps / 4) + 0.01 * torch.eye(60)
    x = MultivariateNormal(torch.zeros(60), covariance).sample((40,)).unsqueeze(-1)
    module = latent.gaussian_process((60, 1), latent_shape=1, length_scale=10.0)
    pg.fit(module, x, steps=100, lr=5e-2, batch_size=40, seed=0)
    assert abs(module.prior.length_scale.item() / 4 - 1) < 0.15
    gain = module().log_prob(x).mean() - MultivariateNormal(torch.zeros(60), covariance).log_prob(x[..., 0]).mean()
    assert -0.1 < gain < 0.3  # four numbers fitted to 40 rows gain 4 / 2 / 40 nats a row


def test_contract_of_gaussian_process():
    def make():
        return latent.gaussian_process((3, 2), latent_shape=1, irregular=True)

    only = ["declaration", "expand", "bad_row", "empty_batch", "vmap", "normalization", "samples_follow_log_prob"]
    context = {"times": torch.rand(4, 3).cumsum(-1)}
    check_distribution(make, event_shape=(3, 2), context=context, only=only).raise_if_failed()


def test_a_process_is_saved(tmp_path):
    module = model()
    pg.save(module, tmp_path / "model.pyrogen")
    loaded = pg.load(tmp_path / "model.pyrogen")
    x = torch.randn(7, 2).double()
    assert torch.equal(loaded({"times": TIMES}).log_prob(x), module({"times": TIMES}).log_prob(x))


def test_bad_arguments_of_a_process_are_named():
    with pytest.raises(ValueError, match=r"`smoothness` must be one of \[0.5, 1.5, 2.5\], got 1"):
        latent.gaussian_process((3, 1), latent_shape=1, smoothness=1.0)
    with pytest.raises(ValueError, match="`length_scale` must be positive"):
        latent.gaussian_process((3, 1), latent_shape=1, length_scale=-1.0)
