"""Stochastic recurrent models against Kalman's answer where everything is linear; draws that feed back."""

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch import nn
from torch.distributions import MultivariateNormal

import pyrogen as pg
from pyrogen import families, latent
from pyrogen.latent.state_space.parts import Dynamics, Emissions
from pyrogen.latent.state_space.recurrent import FeedbackInference, FeedbackLikelihood
from pyrogen.networks.step_context import StepContext
from pyrogen.networks.transition import Transition
from pyrogen.testing import check_distribution

A, B, Q, C, E, R = 0.7, 0.4, 0.3, 0.8, -0.5, 0.2
"""z' ~ N(A z + B x, Q), x' ~ N(C z' + E x, R); first z ~ N(0, 1) and x before it 0."""
SMALL = {"latent_shape": 2, "width": 8, "hidden": (8,), "draws": 4}


class Linear(Transition):
    """The transition from a state and what is fed back, the observation itself."""

    def __init__(self):
        super().__init__()
        self.project = nn.Identity()

    def forward(self, z, projected=None):
        loc = A * z + B * projected
        return loc, torch.full_like(loc, Q).log() / 2


class Last(nn.Module):
    """Feeds back the last observation as it is."""

    units = 1

    def step(self, x, memory):
        return x


class Told(nn.Module):
    future = True

    def __init__(self, find):
        super().__init__()
        self.find = find

    def forward(self, x, given, gaps):
        return self.find(x)


def linear(length, find):
    """The linear-Gaussian model with feedback; ``find`` gives the messages."""
    dynamics = Dynamics(length, 1, Linear(), StepContext())
    network = nn.Linear(2, 1, bias=False)
    network.weight = nn.Parameter(torch.tensor([[C, E]]))
    emissions = Emissions(length, (1,), 1, network, families.normal(R**0.5), StepContext())
    likelihood = FeedbackLikelihood(dynamics, emissions, Last())
    posterior = FeedbackInference(likelihood, (1,), Told(find), StepContext())
    return latent.StochasticRecurrentModel(likelihood, posterior, draws=4).double()


def exact(x):
    """What the observations from a step on say about its state, given those before: for complete sequences."""
    linear, weight = torch.zeros_like(x), torch.zeros_like(x)
    before = nn.functional.pad(x[:, :-1], (0, 0, 1, 0))
    h = j = torch.zeros_like(x[:, 0])
    for step in reversed(range(x.shape[1])):
        push = B * x[:, step]  # the next state is A z + push, in noise Q
        h, j = A * (h - j * push) / (1 + Q * j), A * A * j / (1 + Q * j)
        h, j = h + C * (x[:, step] - E * before[:, step]) / R, j + C * C / R
        linear[:, step], weight[:, step] = h, j
    return linear / weight, 10 * torch.atanh(-0.05 * weight.log())


def rough(x):
    return x.nan_to_num() + 0.3, torch.full_like(x, -0.2)


def joint(length):
    """The covariance of all observations and, after them, all states, from the noises they are linear in."""
    noises = torch.eye(2 * length).double()
    states, seen = [noises[0]], []
    for step in range(length):
        if step:
            states.append(A * states[-1] + B * seen[-1] + Q**0.5 * noises[step])
        before = seen[-1] if seen else torch.zeros(2 * length).double()
        seen.append(C * states[-1] + E * before + R**0.5 * noises[length + step])
    rows = torch.stack(seen + states)
    return rows @ rows.mT


def evidence(x):
    whole, found = joint(x.shape[1]), []
    for row in x[..., 0]:
        known = (~row.isnan()).nonzero()[:, 0]
        there = whole[known][:, known]
        found.append(MultivariateNormal(torch.zeros(len(known)).double(), there).log_prob(row[known]))
    return torch.stack(found)


@torch.no_grad()
def test_exact_messages_leave_no_gap():
    torch.manual_seed(0)
    module = linear(12, exact)
    x = module().sample((3,))
    answer = evidence(x)
    for found in (
        module().log_prob(x),
        module.filter(x, particles=1).log_evidence,
        -latent.ImportanceWeighted(module, draws=2)(x) - answer.mean() + answer,
        -latent.BetaElbo(module)(x) - answer.mean() + answer,
    ):
        torch.testing.assert_close(found, answer, rtol=0, atol=1e-5)


@torch.no_grad()
def test_draws_have_the_covariance_of_the_model():
    torch.manual_seed(0)
    x = linear(6, rough)().sample((40_000,))[..., 0]
    expected = joint(6)[:6, :6]
    scale = expected.diagonal().sqrt()
    error = 5 * (2 / 40_000) ** 0.5
    assert ((x.mT.cov() - expected) / (scale * scale[:, None])).abs().max() < error


@pytest.mark.parametrize("gaps", [(), (2, 3, 6), (0,), (7,)])
@torch.no_grad()
def test_evidence_is_without_bias_where_steps_are_missing(gaps):
    """Draws that feed back integrate what is missing out: particles, weighted trajectories, and the likelihood."""
    torch.manual_seed(0)
    module = linear(8, rough)
    x = module().sample()
    x[list(gaps)] = torch.nan
    many = x.expand(20_000, 8, 1)
    noise = module.prior().sample((20_000,))
    for found in (
        module.filter(many, particles=4).log_evidence,
        module.log_weights(many).logsumexp(0) - torch.tensor(4.0).log(),
        module.likelihood_at(noise).log_prob(x),  # by draws of the prior
    ):
        ratio = (found - evidence(x[None])).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 20_000**0.5 < 0.25


@torch.no_grad()
def test_smoothing_filtering_and_filling_are_kalmans():
    torch.manual_seed(0)
    module = linear(8, rough)
    x = module().sample()
    x[[2, 3]] = torch.nan
    whole = joint(8)
    for last, found in ((8, module.smooth(x, particles=20_000)), (6, module.filter(x, particles=20_000))):
        known = [step for step in range(last) if step not in (2, 3)]
        gain = torch.linalg.solve(whole[known][:, known], whole[known]).mT
        mean, spread = gain @ x[known, 0], (whole - gain @ whole[known]).diagonal()
        steps = slice(0, 8) if last == 8 else slice(5, 6)
        torch.testing.assert_close(found.mean[steps, 0], mean[8:][steps], rtol=0, atol=0.03)
        torch.testing.assert_close(found.variance[steps, 0], spread[8:][steps], rtol=0, atol=0.03)
        if last == 8:
            filled = latent.impute(module, x, draws=40_000)
            torch.testing.assert_close(filled.mean[2:4, 0], mean[2:4], rtol=0, atol=0.04)


@pytest.mark.parametrize("gaps", [(), (1, 4)])
@torch.no_grad()
def test_forecasts_feed_back_what_they_draw(gaps):
    torch.manual_seed(0)
    module = linear(5, rough)
    x = module().sample()
    x[list(gaps)] = torch.nan
    draws = module.forecast(x, 3, particles=5000).sample((30_000,))[..., 0]
    whole, known = joint(8), [step for step in range(5) if step not in gaps]
    gain = torch.linalg.solve(whole[known][:, known], whole[known, 5:8]).mT
    expected = whole[5:8, 5:8] - gain @ whole[known, 5:8]
    torch.testing.assert_close(draws.mean(0), gain @ x[known, 0], rtol=0, atol=0.04)
    torch.testing.assert_close(draws.mT.cov(), expected, rtol=0, atol=0.04)


@torch.no_grad()
def test_a_posterior_is_scored_as_it_is_drawn():
    module = stochastic(memory=3).double()
    x = torch.randn(3, 6, 2).double()
    posterior = module.posterior_at(x)
    noise, log_prob = posterior.rsample_and_log_prob((2,))
    torch.testing.assert_close(posterior.log_prob(noise), log_prob, rtol=0, atol=1e-9)
    run, rate = posterior.run(torch.Size((2,)))
    torch.testing.assert_close(rate, posterior.log_prob(run.noise) - module.prior_at().log_prob(run.noise))
    torch.testing.assert_close(module.states(run.noise, x), run.states)


def stochastic(length=6, **more):
    torch.manual_seed(0)
    return latent.stochastic_recurrent((length, 2), **SMALL, **more)


@torch.no_grad()
def test_the_past_feeds_back():
    module = stochastic()
    noise, x = module.prior().sample(), torch.randn(6, 2)
    moved = x.clone()
    moved[0] += 3
    first, second = (module.states(noise, rows) for rows in (x, moved))
    assert torch.equal(first[0], second[0])
    assert ((first - second)[1:].abs() > 1e-6).any(-1).all()


@pytest.mark.parametrize("more", [{}, {"memory": 3}, {"structured": False}, {"controls": 2, "irregular": True}])
@torch.no_grad()
def test_a_padded_batch_is_its_single_sequences_when_observations_feed_back(more):
    """With the same noise in the steps that count, whatever feeds back after them."""
    module = stochastic(7, **more).double()
    context = {"controls": torch.randn(2, 7, 2).double(), "times": torch.rand(2, 7).double().cumsum(-1)}
    context = context if more.get("irregular") else None
    x = torch.randn(2, 7, 2).double()
    short = latent.padded([x[0, :4], x[1]])
    noise, weights = torch.randn(2, 7, 2).double(), []
    for model, rows, u, given in [
        (module, short, noise, context),
        (module.over(4), x[:1, :4], noise[:1, :4], context and {key: part[:1, :4] for key, part in context.items()}),
        (module, x[1:], noise[1:], context and {key: part[1:] for key, part in context.items()}),
    ]:
        joint = model.prior_at(given).log_prob(u) + model.likelihood_at(u, given).log_prob(rows)
        weights.append(joint - model.posterior_at(rows, given).log_prob(u))
    torch.testing.assert_close(weights[0], torch.cat(weights[1:]), rtol=0, atol=1e-10)


@pytest.mark.slow
def test_gradients_of_discrete_draws_that_feed_back_have_their_score():
    """The average gradient of the bound is that of the bound as a sum over what is missing."""
    torch.manual_seed(0)
    module = latent.stochastic_recurrent((3, 1), binary=True, **SMALL).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    x = torch.tensor([[1.0], [torch.nan], [0.0]]).double()
    bias = module.likelihood.emissions.network.layers[-1].bias
    many = x.expand(10_000, 3, 1)

    def bound(shift):
        with torch.no_grad():
            bias.add_(shift)
            torch.manual_seed(1)
            found = -latent.BetaElbo(module)(x.expand(200_000, 3, 1))
            bias.sub_(shift)
        return found

    torch.manual_seed(2)
    gradients = []
    for _ in range(10):
        module.zero_grad()
        (-latent.BetaElbo(module)(many)).backward()
        gradients.append(bias.grad.clone())
    gradients = torch.stack(gradients)[:, 0]
    difference = (bound(0.1) - bound(-0.1)) / 0.2
    error = (gradients.var() / 10 + 2 * (1.0 / 0.2) ** 2 / 200_000).sqrt()
    assert abs(gradients.mean() - difference) < 4 * error < 0.1


@pytest.mark.parametrize("likelihood", [{}, {"symbols": 3}, {"binary": True}, {"counts": True, "zero_inflated": True}])
def test_every_family_feeds_back_with_gaps(likelihood):
    torch.manual_seed(0)
    module = latent.stochastic_recurrent((5, 2), 3, controls=1, irregular=True, **SMALL, **likelihood)
    context = {"context": torch.randn(16, 3), "controls": torch.randn(16, 5, 1), "times": torch.rand(16, 5).cumsum(-1)}
    x = module(context).sample().float()
    x[torch.rand(x.shape) < 0.2] = torch.nan
    for objective in (module, latent.Filtering(module, particles=3)):
        assert pg.fit(objective, (x, context), steps=2, batch_size=8, seed=0).reason == "steps"
    assert module(context).log_prob(x, lengths=[3] * 16).isfinite().all()
    assert latent.impute(module, x, draws=3, context=context).mean.isfinite().all()
    later = {"controls": torch.randn(16, 7, 1), "times": torch.rand(16, 7).cumsum(-1), "context": context["context"]}
    assert module.forecast(x, 2, later).sample((3,)).shape == (3, 16, 2, 2)


def test_the_program_has_the_noise_as_its_latent():
    module = stochastic(5)
    x = module().sample((16,))
    svi = SVI(module.model, module.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    before = [parameter.clone() for parameter in module.parameters()]
    svi.step(x, size=64)
    assert all((old != new).any() for old, new in zip(before, module.parameters(), strict=True))
    drawn = Predictive(module.model, guide=module.guide, num_samples=3, return_sites=("z", "x"))(x)
    assert drawn["z"].shape == (3, 16, 5, 2)
    assert Predictive(module.model, num_samples=3)(size=4)["x"].shape == (3, 4, 5, 2)
    trace = pyro.poutine.trace(module.model).get_trace(x)
    assert (trace.stochastic_nodes, trace.observation_nodes) == (["data", "z"], ["x"])
    report = pg.evaluation.collapse_report(module.model, module.guide, x, draws=4)
    assert report.sites["z"].activity.shape == (5, 2)
    dims = {"z": ["step", "state"]}
    data = pg.analysis.to_arviz(module.eval(), x[:3], dims=dims, draws=10, log_likelihood=False, seed=0)
    assert dict(data["posterior"]["z"].sizes) == {"chain": 1, "draw": 10, "data": 3, "step": 5, "state": 2}


def test_what_gaps_do_not_allow_is_said():
    x = torch.rand(4, 5, 2).round()
    x[2, 1, 0] = torch.nan
    module = stochastic(5, binary=True)
    with pytest.raises(NotImplementedError, match="no closed form: train by `pg.fit` with `BetaElbo`"):
        module.posterior_at(x).log_prob(torch.zeros(4, 5, 2))
    with pytest.raises(NotImplementedError, match="use `BetaElbo`"):
        latent.ImportanceWeighted(module, draws=2)(x)
    with pytest.raises(NotImplementedError, match="of discrete observations have no gradient"):
        module.likelihood_at(torch.zeros(4, 5, 2)).log_prob(x)
    ended = x.clone()
    ended[2, 1:] = torch.nan
    assert module.posterior_at(ended).log_prob(torch.zeros(4, 5, 2)).shape == (4,)
    irregular = stochastic(3, irregular=True)
    with pytest.raises(ValueError, match="must increase from step to step"):
        irregular.forecast(torch.zeros(2, 1, 2), 2, {"times": torch.tensor([0.0, 2.0, 1.0])})


def test_a_recurrent_model_is_saved(tmp_path):
    module = stochastic(memory=3, controls=1)
    pg.save(module, tmp_path / "model.pyrogen")
    loaded = pg.load(tmp_path / "model.pyrogen")
    assert loaded.posterior.likelihood is loaded.likelihood
    assert loaded.likelihood.feedback.standardizer is loaded.posterior.network.standardizer


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"counts": True}, {"memory": 3}, {"structured": False}])
def test_contract_of_stochastic_recurrent(more):
    check_distribution(
        lambda: latent.stochastic_recurrent((3, 2), **SMALL, **more), event_shape=(3, 2)
    ).raise_if_failed()


@pytest.mark.slow
def test_contract_of_stochastic_recurrent_with_a_context():
    context = {"context": torch.randn(4, 3), "controls": torch.randn(4, 3, 2), "times": torch.rand(4, 3).cumsum(-1)}
    check_distribution(
        lambda: latent.stochastic_recurrent((3, 2), (3,), controls=2, irregular=True, **SMALL),
        event_shape=(3, 2),
        context=context,
    ).raise_if_failed()
