"""Rows with gaps: bounds and imputations against the closed form, and patterns that carry information."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyrogen as pg
from pyrogen import latent
from pyrogen.distributions import Incomplete, families
from pyrogen.latent.missing import Imputation
from pyrogen.testing import check_distribution
from pyrogen.testing.contract import DISTRIBUTION_CHECKS

SCALE = 0.5
GAPS = torch.tensor([[True, True, False], [False, True, False], [False, False, True], [False, False, False]])


class ExactPosterior(nn.Module):
    """The true posterior given what is observed of a linear-Gaussian model, a little wider than it is."""

    def __init__(self, weight, bias, spread):
        super().__init__()
        self.weight, self.bias, self.spread = weight, bias, spread

    def forward(self, x):
        observed = (~x.isnan()).to(x.dtype)
        precision = 1 + (observed * self.weight.squeeze(-1).square()).sum(-1) / SCALE**2
        residual = torch.where(x.isnan(), 0.0, x - self.bias)
        loc = (residual * self.weight.squeeze(-1)).sum(-1) / SCALE**2 / precision
        log_scale = -0.5 * precision.log() + math.log(self.spread)
        return torch.stack([loc, 10 * (log_scale / 10).atanh()], -1)  # the family bounds log-scales by tanh


def linear_model(spread=1.0, draws=1, seed=0, missingness=None):
    """One latent, three features; the posterior is exact for a spread of one."""
    torch.manual_seed(seed)
    decoder = nn.Linear(1, 3).double()
    likelihood = pg.Parametric(decoder, families.normal(SCALE), event_shape=(3,), context_shape=(1,))
    posterior = pg.Parametric(
        ExactPosterior(decoder.weight.detach(), decoder.bias.detach(), spread),
        families.diagonal_normal,
        event_shape=(1,),
        context_shape=(3,),
    )
    prior = latent.StandardNormal((1,)).double()
    return latent.VAE(prior, latent.IncompleteLikelihood(likelihood, missingness), posterior, draws=draws)


def joint(vae):
    decoder = vae.likelihood.likelihood.network
    covariance = decoder.weight @ decoder.weight.T + SCALE**2 * torch.eye(3, dtype=torch.double)
    return decoder.bias.detach(), covariance.detach()


def exact_log_prob(vae, x):
    """The marginal of the observed entries of each row."""
    loc, covariance = joint(vae)
    rows = []
    for row in x:
        seen = ~row.isnan()
        normal = MultivariateNormal(loc[seen], covariance[seen][:, seen]) if seen.any() else None
        rows.append(normal.log_prob(row[seen]) if seen.any() else torch.zeros((), dtype=torch.double))
    return torch.stack(rows)


def conditional(vae, row):
    """Mean and covariance of the missing entries of a row."""
    loc, covariance = joint(vae)
    gap = row.isnan()
    gain = covariance[gap][:, ~gap] @ torch.linalg.inv(covariance[~gap][:, ~gap])
    return loc[gap] + gain @ (row - loc)[~gap], covariance[gap][:, gap] - gain @ covariance[~gap][:, gap]


def with_gaps(vae, rows=4):
    complete = vae().sample((rows,))
    return torch.where(GAPS[torch.arange(rows) % 4], math.nan, complete)


def test_the_bound_is_that_of_what_is_observed():
    vae = linear_model()
    x = with_gaps(vae)
    exact = exact_log_prob(vae, x)
    assert torch.allclose(vae().log_prob(x), exact, atol=1e-6)  # exact with the exact posterior, for any draw
    assert torch.allclose(latent.ImportanceWeighted(vae, draws=3)(x), -exact.mean(), atol=1e-6)
    assert torch.allclose(latent.BetaElbo(vae)(x), -exact.mean(), atol=1e-6)


def test_the_bound_grows_towards_the_log_likelihood_of_what_is_observed():
    torch.manual_seed(1)
    vae = linear_model(spread=1.7)
    x = with_gaps(vae)
    exact, gaps = exact_log_prob(vae, x), []
    for vae.draws in (1, 5, 50):
        with torch.no_grad():
            gaps.append(vae().log_prob(x.expand(4000, *x.shape)).mean(0) - exact)
    one, five, fifty = gaps
    divergence = -0.5 + 1.7**2 / 2 - math.log(1.7)  # of the widened posterior from the exact one, in all rows alike
    assert torch.allclose(one, torch.full_like(one, -divergence), atol=4 * 1.5 / 4000**0.5)
    assert (one < five).all()
    assert (five < fifty).all()
    assert (fifty < 0.005).all()
    assert (fifty > -0.02).all()


def test_imputations_are_the_conditional_normal():
    torch.manual_seed(2)
    vae = linear_model(spread=1.5)
    x = with_gaps(vae)
    found = latent.impute(vae, x, draws=40_000)
    assert torch.allclose(found.mean[~x.isnan()], x[~x.isnan()])
    assert (found.effective_draws > 10_000).all()
    for row in range(3):
        gap = x[row].isnan()
        loc, covariance = conditional(vae, x[row])
        draws = found.values[:, row][:, gap]
        weights = found.log_weights[:, row].exp()
        tolerance = 5 / found.effective_draws[row].sqrt() * covariance.diagonal().max().sqrt()
        assert torch.allclose(found.mean[row][gap], loc, atol=tolerance.item())
        centred = draws - loc
        spread = torch.einsum("k,ki,kj->ij", weights, centred, centred)
        assert torch.allclose(spread, covariance, atol=1.5 * tolerance.item() * covariance.max().sqrt().item() + 0.01)
        low, high = found.interval(0.9)
        width = 1.6449 * covariance.diagonal().sqrt()
        assert torch.allclose(low[row][gap], loc - width, atol=2.5 * tolerance.item())
        assert torch.allclose(high[row][gap], loc + width, atol=2.5 * tolerance.item())


def test_ninety_per_cent_intervals_hold_ninety_per_cent_of_what_was_removed():
    torch.manual_seed(3)
    vae = linear_model(spread=1.3)
    complete = vae().sample((800,))
    gaps = torch.rand(800, 3) < 0.5
    found = latent.impute(vae, torch.where(gaps, math.nan, complete), draws=1000)
    low, high = found.interval(0.9)
    inside = ((low <= complete) & (complete <= high))[gaps].double()
    assert abs(inside.mean() - 0.9) < 4 * (0.09 / len(inside)) ** 0.5 + 0.005
    drawn = found.sample(5)
    assert drawn.shape == (5, 800, 3)
    assert torch.equal(drawn[:, ~gaps], complete[~gaps].expand(5, -1))


def test_draws_anew_have_the_weights_distribution():
    torch.manual_seed(4)
    values = torch.arange(3.0).reshape(3, 1, 1)
    filled = Imputation(values, torch.tensor([[0.2], [0.5], [0.3]]).log())
    assert filled.mean.item() == pytest.approx(1.1)
    assert filled.probability(2.0).item() == pytest.approx(0.3)
    assert filled.quantile(0.19).item() == 0
    assert filled.quantile(0.5).item() == 1
    assert filled.quantile(1.0).item() == 2
    assert filled.effective_draws.item() == pytest.approx(1 / (0.04 + 0.25 + 0.09))
    share = torch.bincount(filled.sample(20_000).long().flatten()) / 20_000
    assert torch.allclose(share, torch.tensor([0.2, 0.5, 0.3]), atol=4 * 0.5 / 20_000**0.5)


def censored(slope=-3.0, start=0.5):
    """Entries are the likelier to be missing the larger they are."""
    model = latent.self_masking((3,)).double()
    with torch.no_grad():
        model.network.slope.fill_(slope)
        model.network.start.fill_(start)
    return model


def test_a_missingness_model_is_weighed_without_bias():
    """The average of the weights is p(x_obs, s), here by quadrature over the missing entry and the latent."""
    torch.manual_seed(5)
    vae = linear_model(missingness=censored())
    loc, covariance = joint(vae)
    x = torch.tensor([[0.3, math.nan, -0.2]], dtype=torch.double)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.double)
    rows = x.expand(len(grid), 3).clone()
    rows[:, 1] = grid
    pattern = torch.tensor([1.0, 0.0, 1.0], dtype=torch.double)
    score = MultivariateNormal(loc, covariance).log_prob(rows)
    score = score + vae.likelihood.missingness(rows).log_prob(pattern)
    exact = (score.logsumexp(0) + math.log(16 / 4000)).item()
    vae.draws = 50_000
    with torch.no_grad():
        assert vae().log_prob(x).item() == pytest.approx(exact, abs=0.02)
        vae.draws = 1
        assert vae().log_prob(x.expand(5000, 1, 3)).mean() < exact
    filled = latent.impute(vae, x, draws=50_000)
    weights = (score - score.logsumexp(0)).exp()
    assert filled.mean[0, 1].item() == pytest.approx((weights * grid).sum().item(), abs=0.02)


def test_draws_have_gaps_where_the_missingness_model_puts_them():
    torch.manual_seed(6)
    vae = linear_model(missingness=censored(slope=0.0, start=1.0))
    share = (~vae().sample((4000,)).isnan()).double().mean()
    assert share.item() == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item(), abs=4 * 0.5 / 12_000**0.5)
    assert not linear_model()().sample((100,)).isnan().any()


@pytest.mark.slow
def test_self_masked_data_are_recovered_with_the_pattern_and_biased_without():
    """Ipsen et al.: large values go missing; ignoring why, the mean comes out too low."""
    torch.manual_seed(7)
    weight = torch.tensor([1.0, 0.8, -0.7])
    complete = torch.randn(2000, 1) @ weight[None] + 0.3 * torch.randn(2000, 3)
    observed = torch.rand(2000, 3) < torch.sigmoid(-4 * complete)
    x = torch.where(observed, complete, math.nan)
    means = {}
    for name, missingness in (("ignored", None), ("modelled", latent.self_masking((3,), sign=-1))):
        torch.manual_seed(0)
        module = latent.missing_data_vae((3,), latent_shape=(1,), scale=0.3, missingness=missingness, hidden=(32,))
        module.likelihood.likelihood.network = Affine()  # a bias is the mean of a column
        objective = latent.ImportanceWeighted(module, draws=10)
        pg.fit(objective, x, steps=2500, seed=0, optimizer=lambda p: torch.optim.Adam(p, lr=3e-3))
        means[name] = module.likelihood.likelihood.network.linear.bias.detach()
    seen = torch.stack([column[~column.isnan()].mean() for column in x.T])
    assert (seen < -0.4).all()
    assert (means["ignored"].abs().sum() > 3 * means["modelled"].abs().sum()).item()
    assert (means["modelled"].abs() < 0.15).all()


class Affine(nn.Module):
    """A linear decoder."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 3)
        nn.init.normal_(self.linear.weight, std=0.01)  # away from loadings of the wrong sign, another maximum

    def forward(self, z):
        return self.linear(z)


MISSING = {
    "real": lambda: latent.missing_data_vae((3,), latent_shape=(2,), hidden=(16,), draws=8),
    "image": lambda: latent.missing_data_vae((2, 2), latent_shape=(2,), hidden=(16,), scale=0.5, draws=8),
    "mixed": lambda: latent.missing_data_vae(
        (4,), latent_shape=(2,), hidden=(16,), counts=[0], binary=[1], categories={3: 3}, draws=8
    ),
    "not at random": lambda: latent.missing_data_vae(
        (3,), latent_shape=(2,), hidden=(16,), missingness=latent.self_masking((3,)), draws=8
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_contract_of_missing_data_vae(name):
    shape = MISSING[name]().event_shape
    # Draws with gaps are no real numbers: what compares or transforms them does not apply.
    gaps = ("normalization", "handlers") if name == "not at random" else ()
    only = [check.__name__ for check in DISTRIBUTION_CHECKS if check.__name__ not in gaps]
    check_distribution(MISSING[name], event_shape=shape, only=only).raise_if_failed()


def test_contract_with_labels_as_context():
    check_distribution(
        lambda: latent.missing_data_vae((3,), latent_shape=(2,), hidden=(16,), classes=3, draws=8),
        event_shape=(3,),
        context=torch.arange(3),
    ).raise_if_failed()


@pytest.mark.parametrize("name", MISSING)
def test_gaps_touch_neither_other_rows_nor_their_gradients_and_the_model_saves(name, tmp_path):
    torch.manual_seed(8)
    module = MISSING[name]()
    x = module().sample((40,))
    x = torch.where(torch.rand(x.shape) < 0.4, math.nan, x)
    x[0] = math.nan
    discrete = name == "mixed"
    pg.fit(latent.ImportanceWeighted(module, draws=4), x, steps=3, batch_size=16, seed=0)
    assert all(p.isfinite().all() for p in module.parameters())
    assert module().log_prob(x).isfinite().all()
    filled = latent.impute(module, x, draws=7)
    assert filled.values.isfinite().all()
    assert torch.equal(filled.values[3][~x.isnan()], x[~x.isnan()])
    if discrete:
        assert set(filled.values[..., 1].unique().tolist()) <= {0.0, 1.0}
        assert filled.probability(2.0)[..., 3].le(1 + 1e-6).all()
    pg.save(module, tmp_path / "module.pyrogen")
    loaded = pg.load(tmp_path / "module.pyrogen")
    scores = []
    for one in (module, loaded):
        torch.manual_seed(1)
        scores.append(one().log_prob(x))
    assert torch.equal(*scores)


def test_pyro_trains_it_on_rows_with_gaps():
    import pyro
    from pyro.infer import SVI, Trace_ELBO

    pyro.set_rng_seed(9)
    module = MISSING["real"]()
    x = torch.where(torch.rand(20, 3) < 0.4, math.nan, torch.randn(20, 3))
    svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    assert math.isfinite(svi.step(x))
    pyro.set_rng_seed(10)
    ours = latent.BetaElbo(module)(x)
    pyro.set_rng_seed(10)
    theirs = Trace_ELBO()(module.model, module.guide)(x) / len(x)
    assert torch.allclose(ours, theirs)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`vae` must have an IncompleteLikelihood, got Parametric"):
        latent.impute(latent.vae((3,), latent_shape=(2,)), torch.zeros(3), draws=2)
    with pytest.raises(ValueError, match="`draws` must be at least 1, got 0"):
        latent.impute(MISSING["real"](), torch.zeros(3), draws=0)
    with pytest.raises(ValueError, match="named once"):
        latent.missing_data_vae((3,), latent_shape=(2,), counts=[1], binary=[1])
    with pytest.raises(ValueError, match="named once"):
        latent.tabular_vae((3,), latent_shape=(2,), counts=[3])
    with pytest.raises(ValueError, match=r"`missingness` must have event and context shape \(3,\)"):
        latent.missing_data_vae((3,), latent_shape=(2,), missingness=latent.self_masking((2,)))
    with pytest.raises(ValueError, match="`sign` must be -1, 1 or None, got 2"):
        latent.self_masking((3,), sign=2)
    discrete = latent.missing_data_vae((1,), latent_shape=(1,), binary=[0], missingness=latent.self_masking((1,)))
    with pytest.raises(NotImplementedError, match="differentiable"):
        latent.ImportanceWeighted(discrete, draws=2)(torch.tensor([[math.nan]]))
    with pytest.raises(NotImplementedError, match="not known to be independent"):
        Incomplete(MultivariateNormal(torch.zeros(2), torch.eye(2))).log_prob(torch.zeros(2))
    with pytest.raises(ValueError, match="within the support"):
        Incomplete(families.bernoulli(torch.zeros(1, 3), 1)).log_prob(torch.tensor([0.5, math.nan, 1.0]))
