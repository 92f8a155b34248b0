"""Importance weights in a linear-Gaussian model, where the marginal likelihood is known."""

import math
import sys
import types
import warnings
from functools import partial
from math import log, sqrt

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyrogen.core.module import DistributionModule
from pyrogen.evaluation import (
    importance_log_weights,
    importance_weighted_log_likelihood,
    importance_weighted_log_probs,
    log_likelihood,
    pareto_k,
)
from pyrogen.evaluation.importance import pareto_k_of
from pyrogen.numerics.pareto import pareto_shape
from pyrogen.numerics.resampling import effective_sample_size

LOADINGS = torch.tensor([[1.0, 0.3], [-0.5, 0.8], [0.2, -1.0]])
NOISE = 0.5
COVARIANCE = torch.linalg.inv(torch.eye(2) + LOADINGS.T @ LOADINGS / NOISE**2)
MARGINAL = dist.MultivariateNormal(torch.zeros(3), LOADINGS @ LOADINGS.T + NOISE**2 * torch.eye(3))


def model(x=None, size=None):
    with pyro.plate("data", size if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(z @ LOADINGS.T, NOISE).to_event(1), obs=x)


def guide(x, scale=1.0):
    with pyro.plate("data", len(x)):
        root = scale * torch.linalg.cholesky(COVARIANCE)
        pyro.sample("z", dist.MultivariateNormal(x @ LOADINGS @ COVARIANCE / NOISE**2, scale_tril=root))


@pytest.fixture
def x():
    pyro.set_rng_seed(0)
    return model(size=400)


class Declaring(dist.TorchDistribution):
    """A normal that says its log_prob is something else, and may add noise to it."""

    arg_constraints: dict = {}
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, loc, density, noise=0.0):
        self.normal, self.density, self.noise = dist.Normal(loc, 1.0).to_event(1), density, noise
        super().__init__(self.normal.batch_shape, self.normal.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Declaring(self.normal.expand(batch_shape).base_dist.loc, self.density, self.noise)

    def rsample(self, sample_shape=torch.Size()):
        return self.normal.rsample(sample_shape)

    def log_prob(self, value):
        log_prob = self.normal.log_prob(value)
        return log_prob + self.noise * torch.randn_like(log_prob)


@pytest.mark.parametrize("batch_size", [1, 7, 4096])
def test_the_exact_posterior_gives_the_exact_likelihood_at_once(x, batch_size):
    weights = importance_log_weights(model, guide, x[:10], draws=5, batch_size=batch_size)
    assert weights.shape == (5, 10)
    torch.testing.assert_close(weights, MARGINAL.log_prob(x[:10]).double().expand(5, 10), atol=1e-4, rtol=1e-4)


def test_the_bound_rises_to_the_likelihood(x):
    exact = MARGINAL.log_prob(x).double()
    too_wide = partial(guide, scale=1.6)
    gaps = []
    for draws in (1, 8, 64, 512):
        values = importance_weighted_log_probs(model, too_wide, x, draws=draws)
        gap = values - exact
        assert float(gap.mean()) < 3 * float(gap.std()) / sqrt(len(x))
        gaps.append(float(gap.mean()))
    assert gaps == sorted(gaps)
    # One draw is the ELBO, whose gap is KL(q | p) = d (s^2 - 1 - log s^2) / 2.
    assert gaps[0] == pytest.approx(-(1.6**2 - 1 - log(1.6**2)), abs=4 * 1.6**2 / sqrt(len(x)))
    assert abs(gaps[-1]) < 0.01


def test_the_estimate_is_labelled_a_bound(x):
    estimate = importance_weighted_log_likelihood(model, guide, x, draws=4)
    assert (estimate.unit, estimate.density) == ("nats", "lower bound")
    assert estimate.value == pytest.approx(log_likelihood(MARGINAL, x).value, abs=1e-4)
    assert "lower bound" in str(estimate)


def test_every_module_is_a_pair():
    class Shifted(DistributionModule):
        def __init__(self):
            super().__init__((3,), (3,))

        def forward(self, context=None):
            return dist.Normal(context, 1.0).to_event(1)

    torch.manual_seed(0)
    module, x, context = Shifted(), torch.randn(9, 3), torch.randn(9, 3)
    values = importance_weighted_log_probs(module.model, module.guide, x, context, draws=3, batch_size=5)
    torch.testing.assert_close(values, module(context).log_prob(x).double(), atol=1e-5, rtol=1e-5)


def test_minibatch_scales_do_not_count_and_masks_do(x):
    scaled = poutine.scale(model, 7.0)
    torch.testing.assert_close(
        importance_weighted_log_probs(scaled, poutine.scale(guide, 7.0), x[:5], draws=3),
        MARGINAL.log_prob(x[:5]).double(),
        atol=1e-4,
        rtol=1e-4,
    )

    def masked(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=torch.arange(len(x)) != 1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x)):
            seen = (torch.arange(len(x)) != 1).float()
            pyro.sample("z", dist.Normal(x / 2 * seen, (1 - seen / 2).sqrt()))

    values = importance_weighted_log_probs(masked, its_guide, torch.tensor([0.3, 5.0]), draws=1)
    expected = torch.stack([dist.Normal(0.0, sqrt(2)).log_prob(torch.tensor(0.3)), torch.tensor(0.0)])
    torch.testing.assert_close(values, expected.double(), atol=1e-5, rtol=1e-5)


def test_sites_in_inner_plates_belong_to_their_datum():
    def nested(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("parts", 3, dim=-1):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(x.sum(-1, keepdim=True) / 4, 0.5))

    torch.manual_seed(0)
    x = torch.randn(6, 3)
    expected = dist.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(x).double()
    torch.testing.assert_close(
        importance_weighted_log_probs(nested, its_guide, x, draws=2), expected, atol=1e-5, rtol=0
    )


def test_dicts_and_none_are_entries_of_a_batch():
    def pair(x, context, nothing):
        assert nothing is None
        with pyro.plate("data", len(x)):
            return pyro.sample("x", dist.Normal(context["mean"], 1.0), obs=x)

    torch.manual_seed(0)
    x, mean = torch.randn(5), torch.randn(5)
    values = importance_weighted_log_probs(pair, lambda *_: None, x, {"mean": mean}, None, draws=2, batch_size=4)
    torch.testing.assert_close(values, dist.Normal(mean, 1.0).log_prob(x).double())


def test_modules_are_evaluated_as_such(x):
    class Encoder(nn.Module):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            guide(x)

    encoder = Encoder()
    importance_log_weights(model, encoder, x[:3], draws=2)
    assert encoder.training


@pytest.mark.parametrize("density", ["lower bound", "unnormalized", None])
def test_weights_refuse_what_is_not_a_density(x, density):
    def in_the_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Declaring(torch.zeros(len(x), 2), density))

    def in_the_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", Declaring(torch.zeros(len(x), 2), density))
            pyro.sample("x", dist.Normal(z @ LOADINGS.T, NOISE).to_event(1), obs=x)

    for pair in ((model, in_the_guide), (in_the_model, guide)):
        with pytest.raises(NotImplementedError, match=f"site 'z' has density {density!r}"):
            importance_log_weights(*pair, x, draws=2)


def test_weights_refuse_noise(x):
    def with_noise(x, noise):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Declaring(torch.zeros(len(x), 2), "estimate", noise))

    with pytest.raises(NotImplementedError, match="the log_prob of site 'z' is noisy"):
        importance_log_weights(model, partial(with_noise, noise=0.1), x, draws=2)
    importance_log_weights(model, partial(with_noise, noise=0.0), x, draws=2)


def test_pairs_that_do_not_fit_are_refused(x):
    def elsewhere(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    def point(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.zeros(len(x), 2), event_dim=1))

    def points(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.zeros(len(x), 2)).to_event(1))

    def shared(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).expand([3]).to_event(1), obs=x)

    def shared_guide(x):
        pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"`guide` must draw every latent site of the model, missing are \['z'\]"):
        importance_log_weights(model, lambda x: None, x, draws=2)
    with pytest.raises(ValueError, match="missing are"):
        importance_log_weights(model, elsewhere, x, draws=2)
    for guide_without_density in (point, points):
        with pytest.raises(ValueError, match=r"`guide` must have a density, got a point mass at \['z'\]"):
            importance_log_weights(model, guide_without_density, x, draws=2)
    with pytest.raises(ValueError, match=r"one data plate of 400 rows.*outside are \['w'\]"):
        importance_log_weights(shared, shared_guide, x, draws=2)
    with pytest.raises(ValueError, match="`model` must observe something"):
        importance_log_weights(lambda x: model(size=len(x)), draws_all, x, draws=2)
    with pytest.raises(ValueError, match="`draws` must be at least 1, got 0"):
        importance_log_weights(model, guide, x, draws=0)


def draws_all(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def test_k_hat_is_low_for_a_good_guide_and_high_for_a_bad_one(x):
    exact = pareto_k(model, guide, x[:50], draws=500)
    wide = pareto_k(model, partial(guide, scale=1.5), x[:50], draws=500)
    narrow = pareto_k(model, partial(guide, scale=0.3), x[:50], draws=500)
    assert float(exact.values.max()) == 0
    torch.testing.assert_close(
        exact.effective_sample_size, torch.full((50,), 500.0, dtype=torch.double), rtol=1e-3, atol=0
    )
    assert wide.share_above == 0
    # For a normal narrower by s than the posterior the weights have k = 1 - s^2; ArviZ shrinks the fit towards 0.5.
    assert float(narrow.values.median()) == pytest.approx(1 - 0.3**2, abs=0.15)
    assert narrow.share_above > 0.6
    assert narrow.threshold == pytest.approx(1 - 1 / np.log10(500))
    assert float(narrow.effective_sample_size.median()) < 50
    assert "of 50 data above 0.63" in str(narrow)
    with pytest.raises(ValueError, match="`draws` must be at least 25"):
        pareto_k(model, guide, x, draws=10)


@pytest.mark.parametrize("k", [0.3, 0.8])
def test_k_hat_finds_the_tail_of_pareto_weights(k):
    """Weights u^-k have a tail of index 1 / k; with 20,000 draws the fit uses 425 of them: error about (1 + k) / 20."""
    uniform = np.random.default_rng(0).random((20, 20_000))
    assert pareto_shape(-k * np.log(uniform)).mean() == pytest.approx(k, abs=4 * (1 + k) / 20 / sqrt(20))


def test_both_lines_of_arviz_give_the_same(monkeypatch):
    """ArviZ 1.x takes log-likelihoods where 0.x takes log-weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
    if not hasattr(arviz, "psislw"):
        pytest.skip("ArviZ 1.x is the one installed")
    log_weights = 2 * np.random.default_rng(0).standard_normal((3, 500))
    expected = arviz.psislw(log_weights)[1]
    monkeypatch.setitem(sys.modules, "arviz_stats", None)
    np.testing.assert_allclose(pareto_shape(log_weights), expected)
    later = types.ModuleType("arviz_stats.base")
    later.array_stats = types.SimpleNamespace(psislw=lambda log_likelihood: arviz.psislw(-log_likelihood))
    monkeypatch.setitem(sys.modules, "arviz_stats", types.ModuleType("arviz_stats"))
    monkeypatch.setitem(sys.modules, "arviz_stats.base", later)
    np.testing.assert_allclose(pareto_shape(log_weights), expected)


def test_no_data_have_no_weights(x):
    with pytest.raises(ValueError, match="`batch` must hold at least one datum"):
        importance_log_weights(model, guide, x[:0], draws=2)


def test_weights_that_are_all_zero_are_trusted_by_nobody():
    def interval(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(torch.tensor(0.0), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def beyond(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(torch.tensor(2.0), 3.0))

    with pyro.validation_enabled(False):
        result = pareto_k(interval, beyond, torch.zeros(3), draws=100)
    assert (result.values == float("inf")).all()
    assert (result.effective_sample_size == 0).all()
    assert result.share_above == 1.0


def test_the_effective_sample_size_of_equal_and_of_single_weights():
    log_weights = torch.stack([torch.zeros(8), torch.full((8,), -float("inf"))], 1).double()
    log_weights[0, 1] = -900.0
    torch.testing.assert_close(effective_sample_size(log_weights), torch.tensor([8.0, 1.0], dtype=torch.double))


def test_few_weights_have_no_tail():
    with pytest.raises(ValueError, match="`log_weights` must hold at least 25 draws"):
        pareto_k_of(torch.randn(24, 3))


def test_k_hat_is_that_of_arviz_on_the_same_weights():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
    if "psislw" not in dir(arviz):
        pytest.skip("ArviZ 1.x is the one installed")
    log_weights = 1.5 * torch.randn(400, 6, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    expected = arviz.psislw(log_weights.T.numpy())[1]
    np.testing.assert_allclose(pareto_k_of(log_weights).values, expected)
    weights = log_weights.softmax(0)
    torch.testing.assert_close(pareto_k_of(log_weights).effective_sample_size, 1 / weights.square().sum(0))


def test_what_a_mask_hides_may_be_nan():
    """Inside an event, under validation; against the marginal of what is shown."""

    def program(y):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z.unsqueeze(-1), 1.0).mask(~y.isnan()).to_event(1), obs=y)

    def exact_guide(y):
        shown = (~y.isnan()).sum(-1)
        with pyro.plate("data", len(y)):
            pyro.sample("z", dist.Normal(y.nan_to_num(0.0).sum(-1) / (1 + shown), (1.0 + shown) ** -0.5))

    y = torch.tensor([[1.0, math.nan], [math.nan, 0.5], [2.0, 1.0]])
    with pyro.validation_enabled(True):
        found = importance_weighted_log_probs(program, exact_guide, y, draws=3)
    both = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + 1.0)
    one = dist.Normal(0.0, sqrt(2.0))
    exact = torch.stack([one.log_prob(y[0, 0]), one.log_prob(y[1, 1]), both.log_prob(y[2])])
    torch.testing.assert_close(found.float(), exact)
