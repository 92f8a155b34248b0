"""Linear-Gaussian models that switch between regimes, against sums over all paths of regimes."""

from itertools import product

import pytest
import torch
from markov_models import dense
from pyro.infer import Trace_ELBO
from torch.distributions import MultivariateNormal

import pyrogen as pg
from pyrogen import latent
from pyrogen.latent.state_space.hypotheses import kept
from pyrogen.testing import check_distribution

LENGTH, REGIMES = 4, 3


def model(seed=0, **more):
    torch.manual_seed(seed)
    options = {"latent_shape": 2, "regimes": REGIMES, "paths": 27} | more
    module = latent.switching_linear((LENGTH, 2), **options).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        module.likelihood.log_scale.sub_(1)
    return module


class OnePath:
    """The linear-Gaussian model along one path of regimes, from scratch."""

    def __init__(self, module, path, context=None):
        chains = [regime.chain(context) for regime in module.prior.regimes]
        self.likelihood, self.length, self.prior = module.likelihood, module.length, self
        start = chains[path[0]][0]
        moves = [chains[regime][1] for regime in path[1:]]
        parts = {
            name: torch.stack([getattr(move, name)[step] for step, move in enumerate(moves)])
            for name in ("matrix", "shift", "root")
        }
        self.found = start, type(moves[0])(**parts)

    def chain(self, context):
        return self.found


def enumerated(module, x, context=None):
    """All paths, the logarithm of the weight of each, and mean and covariance of all states given it and ``x``."""
    start, logits = module.prior.start.log_softmax(-1), module.prior.logits.log_softmax(-1)
    paths, weights, means, covariances = [*product(range(REGIMES), repeat=LENGTH)], [], [], []
    known = ~x.flatten().isnan()
    for path in paths:
        seen, covariance, mean, states, cross = dense(OnePath(module, path, context))
        prior = start[path[0]] + sum(logits[a, b] for a, b in zip(path, path[1:], strict=False))
        there = covariance[known][:, known]
        weights.append(prior + MultivariateNormal(seen[known], there).log_prob(x.flatten()[known]))
        gain = torch.linalg.solve(there, cross[:, known].T).T
        means.append(mean + gain @ (x.flatten()[known] - seen[known]))
        covariances.append(states - gain @ cross[:, known].T)
    return torch.tensor(paths), torch.stack(weights), torch.stack(means), torch.stack(covariances)


@pytest.mark.parametrize("irregular", [False, True])
@torch.no_grad()
def test_all_paths_of_regimes_are_summed(irregular):
    module = model(irregular=irregular)
    context = {"times": torch.tensor([0.0, 1.0, 1.5, 3.0]).double()} if irregular else None
    x = module(context).sample((3,))
    x[1, 1] = x[2, 0, 1] = x[2, 3] = torch.nan
    assert module.density == pg.density_of(module(context)) == "exact"
    score, smoothed = module(context).log_prob(x), module.smooth(x, context)
    regimes, filtered = module.smooth_regimes(x, context).probs, module.filter(x, context)
    for row in range(3):
        paths, weights, means, covariances = enumerated(module, x[row], context)
        torch.testing.assert_close(score[row], weights.logsumexp(0), rtol=0, atol=1e-9)
        share = weights.softmax(0)
        mean = share @ means
        variance = share @ (covariances.diagonal(dim1=1, dim2=2) + (means - mean).square())
        torch.testing.assert_close(smoothed.mean[row].flatten(), mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(smoothed.variance[row].flatten(), variance, rtol=0, atol=1e-9)
        torch.testing.assert_close(filtered.mean[row, -1], mean[-2:], rtol=0, atol=1e-9)
        torch.testing.assert_close(filtered.variance[row, -1], variance[-2:], rtol=0, atol=1e-9)
        for step, regime in product(range(LENGTH), range(REGIMES)):
            expected = share[paths[:, step] == regime].sum()
            torch.testing.assert_close(regimes[row, step, regime], expected, rtol=0, atol=1e-9)
        short = x[row].clone()
        short[2:] = torch.nan
        _, weights, means, _ = enumerated(module, short, context)
        torch.testing.assert_close(filtered.mean[row, 1], (weights.softmax(0) @ means)[2:4], rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_guide_is_the_true_posterior():
    module = model()
    x = module().sample((5,))
    x[0, 2] = torch.nan
    posterior = module.posterior_at(x)
    z = posterior.sample((4,))
    gap = module.prior_at().log_prob(z) + module.likelihood_at(z).log_prob(x) - posterior.log_prob(z)
    torch.testing.assert_close(gap, module().log_prob(x).expand(4, 5), rtol=0, atol=1e-9)
    assert abs(Trace_ELBO().loss(module.model, module.guide, x) + module().log_prob(x).sum()) < 1e-8


@torch.no_grad()
def test_fewer_paths_leave_the_evidence_without_bias():
    whole, few = model(), model(paths=5)
    x = whole().sample()
    assert few.density == pg.density_of(few()) == "lower bound"
    found = few().log_prob(x.expand(4000, -1, -1))
    ratio = (found - whole().log_prob(x)).exp()
    assert ratio.std() > 0.01
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5
    assert found.mean() < whole().log_prob(x)


def test_so_has_its_gradient():
    whole, few = model(), model(paths=5)
    with torch.no_grad():
        x = whole().sample()
        total = whole().log_prob(x)
    exact = torch.autograd.grad(whole().log_prob(x), whole.prior.logits)[0]
    found = []
    for _ in range(8):  # the gradient of a mean of estimates is the mean of their gradients
        estimates = (few().log_prob(x.expand(500, -1, -1)) - total).exp().mean()
        found.append(torch.autograd.grad(estimates, few.prior.logits)[0])
    found = torch.stack(found)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() < 6 * error + 1e-9).all()
    assert (error < 0.2 * exact.abs().max()).all()


def test_paths_are_kept_as_fearnhead_and_clifford_do():
    torch.manual_seed(0)
    log_weights = torch.randn(7).double() * 2
    log_weights[3] = -torch.inf
    chosen, found = kept(log_weights.expand(20_000, -1), 3)
    totals = torch.zeros(20_000, 7).double().scatter(1, chosen, found.exp())
    error = totals.std(0) / len(totals) ** 0.5
    assert ((totals.mean(0) - log_weights.exp()).abs() <= 4 * error + 1e-9).all()
    assert (chosen.sort(-1).values.diff() > 0).all()  # each at most once
    largest = log_weights.argmax()
    assert (chosen == largest).any(-1).all()
    assert found[chosen == largest].eq(log_weights[largest]).all()
    chosen, found = kept(torch.tensor([0.0, -torch.inf, -torch.inf, 1.0]), 3)
    assert sorted(found.tolist()) == [-torch.inf, 0.0, 1.0]


@torch.no_grad()
def test_forecasts_go_on_from_regime_and_state():
    module = model(paths=27)
    x = module().sample((2,))
    forecast = module.forecast(x[:, :2], 2)
    assert forecast.density == "exact"
    draws = forecast.sample((20_000,)).flatten(2)
    known = x.clone()
    known[:, 2:] = torch.nan
    torch.testing.assert_close(
        forecast.log_prob(x[:, 2:]), module().log_prob(x) - module().log_prob(known), rtol=0, atol=1e-9
    )
    for row in range(2):
        _, weights, means, covariances = enumerated(module, known[row])
        loading, base = module.likelihood.loading.weight, module.likelihood.loading.bias
        share, noise = weights.softmax(0), (2 * module.likelihood.log_scale).exp()
        for step in range(2):
            here = slice(2 * (step + 2), 2 * (step + 3))
            loc = means[:, here] @ loading.T + base
            mean = share @ loc
            spread = torch.einsum("ij,pjk,ik->pi", loading, covariances[:, here, here], loading) + noise
            variance = share @ (spread + (loc - mean).square())
            part = draws[:, row, 2 * step : 2 * step + 2]
            error = (variance / len(draws)).sqrt()
            assert ((part.mean(0) - mean).abs() < 4 * error).all()
            assert ((part.var(0) / variance - 1).abs() < 0.15).all()


@torch.no_grad()
def test_trajectories_sum_regimes_out():
    module = model()
    z = module.prior().sample((20_000,))
    parts = [(regime.chain()) for regime in module.prior.regimes]
    share = module.prior.start.softmax(-1)
    mean = sum(weight * start.loc for weight, (start, _) in zip(share, parts, strict=True))
    error = z[:, 0].std(0) / len(z) ** 0.5
    assert ((z[:, 0].mean(0) - mean).abs() < 4 * error).all()
    share = share @ module.prior.logits.softmax(-1)
    first = z[:, 0].mean(0)
    joint = module.prior.start.softmax(-1)[:, None] * module.prior.logits.softmax(-1)
    mean = sum(
        joint[a, b] * (parts[b][1].matrix[0] @ parts[a][0].loc + parts[b][1].shift[0])
        for a, b in product(range(REGIMES), repeat=2)
    )
    assert first.shape == mean.shape
    assert ((z[:, 1].mean(0) - mean).abs() < 4 * z[:, 1].std(0) / len(z) ** 0.5).all()


def test_contract_of_switching_linear():
    def make():
        return latent.switching_linear((3, 2), latent_shape=2, regimes=2)

    only = ["declaration", "expand", "bad_row", "empty_batch", "vmap", "normalization", "samples_follow_log_prob"]
    check_distribution(make, event_shape=(3, 2), only=only).raise_if_failed()


@pytest.mark.slow
def test_contract_of_switching_linear_with_a_context():
    def make():
        return latent.switching_linear((3, 2), (3,), latent_shape=2, regimes=2, controls=2, irregular=True)

    given = {"context": torch.randn(4, 3), "controls": torch.randn(4, 3, 2), "times": torch.rand(4, 3).cumsum(-1)}
    check_distribution(make, event_shape=(3, 2), context=given).raise_if_failed()


@pytest.mark.parametrize("part", ["prior", "posterior"])
def test_contract_of_parts_that_switch(part):
    own = {"prior": None, "posterior": torch.randn(4, 3, 1)}[part]

    def make():
        return getattr(latent.switching_linear((3, 1), latent_shape=2, regimes=2), part)

    only = ["declaration", "sample_shapes", "expand", "broadcasting", "bad_row", "empty_batch", "value_gradient"]
    only += ["normalization", "deepcopy", "pickling"]
    check_distribution(make, event_shape=(3, 2), context=own, only=only).raise_if_failed()


def test_switching_bad_input_is_named():
    with pytest.raises(ValueError, match="`regimes` must be"):
        latent.switching_linear((3, 1), latent_shape=1, regimes=1)
    with pytest.raises(ValueError, match="`paths` must be at least 1"):
        latent.switching_linear((3, 1), latent_shape=1, regimes=2, paths=0)
    with pytest.raises(ValueError, match="`x` must be finite, or NaN where it is missing, got inf in row 1"):
        model().smooth(torch.stack([torch.zeros(LENGTH, 2), torch.full((LENGTH, 2), torch.inf)]).double())


@pytest.mark.slow
def test_maximum_likelihood_finds_where_the_transition_switches():
    torch.manual_seed(0)
    regimes = (torch.rand(100, 40) < 0.1).cumsum(1) % 2
    z, rows = torch.randn(100, 2), []
    angles = torch.tensor([0.1, 1.2])
    for step in range(40):
        cos, sin = angles[regimes[:, step]].cos(), angles[regimes[:, step]].sin()
        z = 0.98 * torch.stack([cos * z[:, 0] - sin * z[:, 1], sin * z[:, 0] + cos * z[:, 1]], 1)
        z = z + 0.1 * torch.randn_like(z)
        rows.append(z)
    x = torch.stack(rows, 1) + 0.05 * torch.randn(100, 40, 2)
    module = latent.switching_linear((40, 2), latent_shape=2, regimes=2, paths=8)
    single = latent.linear_gaussian((40, 2), latent_shape=2)
    for one in (module, single):
        pg.fit(one, x, steps=80, lr=3e-2, batch_size=50, seed=0)
    found = module.smooth_regimes(x).probs.argmax(-1)
    right = (found == regimes)[:, 1:].float().mean()
    assert max(right, 1 - right) > 0.9
    assert module().log_prob(x).mean() > single().log_prob(x).mean() + 10
