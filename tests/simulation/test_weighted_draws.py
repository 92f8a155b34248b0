"""Weighted draws of a learned posterior: those of the program on its data."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Importance

import pyrogen as pg
from pyrogen.simulation import Joint, likelihood, posterior, ratio, weighted_draws


def program(x=None):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
    with pyro.plate("rows", 4):
        pyro.sample("x", dist.Normal(theta, scale), obs=x)


X = torch.tensor([0.5, 1.5, 0.2, 0.9])
JOINT = Joint(program, observed="x", vectorized=False)


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    recipe = partial(pg.flows.spline_autoregressive, layers=1, hidden=(32,))
    module = posterior(JOINT, recipe)
    pg.fit(module, JOINT.draw(2000, seed=0), steps=200, seed=0, batch_size=128)
    return module.eval()


class Known(pg.DistributionModule):
    """The true distribution of a row; its context is theta, scale and the logarithm of scale."""

    def __init__(self, event_shape, context_shape, *, embedding=None):
        super().__init__(event_shape, context_shape)

    def forward(self, context=None):
        return dist.Normal(context[..., 0], context[..., 1])


def grid():
    """The exact evidence and posterior means by quadrature."""
    theta, scale = torch.linspace(-4, 5, 400), torch.linspace(0.02, 5, 500)
    a, b = torch.meshgrid(theta, scale, indexing="ij")
    log_joint = dist.Normal(0.0, 1.0).log_prob(a) + dist.Gamma(4.0, 4.0).log_prob(b)
    log_joint = log_joint + dist.Normal(a.unsqueeze(-1), b.unsqueeze(-1)).log_prob(X).sum(-1)
    cell = (theta[1] - theta[0]) * (scale[1] - scale[0])
    weights = log_joint.flatten().softmax(0).reshape(a.shape)
    return log_joint.logsumexp((0, 1)) + cell.log(), (weights * a).sum(), (weights * b).sum()


def test_the_posterior_and_the_evidence_of_a_learned_likelihood(learned):
    module = likelihood(JOINT, Known)
    found = weighted_draws(learned, module.program, X, draws=4000, seed=1)
    evidence, theta, scale = grid()
    assert found.density == "exact"
    assert abs(found.log_evidence - evidence) < 0.05
    draws = found.resample(3000, seed=2)
    assert draws["theta"].shape == draws["scale"].shape == (3000,)
    assert abs(draws["theta"].mean() - theta) < 0.05
    assert abs(draws["scale"].mean() - scale) < 0.05
    assert float(pg.evaluation.pareto_k_of(found.log_weights).values) < 0.7
    assert 500 < found.effective_sample_size <= 4000
    # The simulator itself has a `log_prob` here, and the same weights.
    exact = weighted_draws(learned, program, X, draws=4000, seed=1)
    torch.testing.assert_close(found.log_weights, exact.log_weights, rtol=1e-4, atol=1e-4)


def test_pyro_and_evaluation_find_the_same(learned):
    module, (evidence, *_) = likelihood(JOINT, Known), grid()
    pyro.set_rng_seed(0)
    value = pg.evaluation.importance_weighted_log_likelihood(
        module.program, learned.guide, X, draws=400, whole=True
    ).value
    assert abs(value - evidence) < 0.15
    importance = Importance(module.program, learned.guide, num_samples=50).run(X)
    assert abs(importance.get_log_normalizer() - evidence) < 0.4


def test_a_ratio_has_the_posterior_and_no_evidence(learned):
    module = ratio(JOINT)
    marginal = dist.Normal(0.0, 1.5)  # whatever it is: it cancels
    module.log_ratio = lambda x, c: dist.Normal(c[..., 0], c[..., 1]).log_prob(x) - marginal.log_prob(x)
    module.features = lambda context: torch.stack(torch.broadcast_tensors(context["theta"], context["scale"]), -1)
    found = weighted_draws(learned, module.program, X, draws=4000, seed=1)
    exact = weighted_draws(learned, program, X, draws=4000, seed=1)
    difference = found.log_weights - exact.log_weights
    torch.testing.assert_close(difference, -marginal.log_prob(X).sum().double().expand(4000, 1), rtol=1e-3, atol=1e-3)
    with pytest.raises(NotImplementedError, match="unnormalized.*likelihood"):
        found.log_evidence  # noqa: B018


def test_programs_that_take_one_draw_at_a_time(learned):
    def indexed(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", dist.Normal(theta.item(), scale.item()), obs=x)

    found = weighted_draws(learned, indexed, X, draws=50, seed=1)
    exact = weighted_draws(learned, program, X, draws=50, seed=1)
    torch.testing.assert_close(found.log_weights, exact.log_weights, rtol=1e-4, atol=1e-4)


def test_tempered_sites_and_masked_rows_count_as_in_the_program(learned):
    kept = torch.tensor([True, True, True, False])

    def tempered(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(4.0, 4.0))
        with pyro.plate("rows", 4), poutine.scale(scale=0.5), poutine.mask(mask=kept):
            pyro.sample("x", dist.Normal(theta, scale), obs=x)

    found = weighted_draws(learned, tempered, X, draws=20, seed=1)
    exact = weighted_draws(learned, program, X, draws=20, seed=1)
    theta, scale = (found.latents[name].unsqueeze(-1) for name in ("theta", "scale"))
    rows = dist.Normal(theta, scale).log_prob(X).double()
    expected = exact.log_weights - rows.sum(-1, keepdim=True) + 0.5 * rows[:, :3].sum(-1, keepdim=True)
    torch.testing.assert_close(found.log_weights, expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_weighted_is_refused_by_name(learned):
    with pytest.raises(TypeError, match="`posterior` must be a Posterior"):
        weighted_draws(program, program, X)
    with pytest.raises(ValueError, match="`program` must be called with the data"):
        weighted_draws(learned, program)
    with pytest.raises(ValueError, match="`program` must be called with one datum"):
        weighted_draws(learned, program, torch.randn(3, 4))

    def other(x=None):
        more = pyro.sample("more", dist.Normal(0.0, 1.0))
        program(None if x is None else x + 0 * more)

    with pytest.raises(ValueError, match="latent sites of the posterior.*'more'"):
        weighted_draws(learned, other, X)
    bound = likelihood(JOINT, partial(pg.diffusion.mlp, width=16))
    with pytest.raises(NotImplementedError, match="site 'x' has density 'lower bound'"):
        weighted_draws(learned, bound.program, X)


@pytest.mark.slow
def test_rounds_sharpen_a_likelihood_at_one_observation():
    def curved(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        mean = torch.stack([theta[..., 0], theta[..., 1] + theta[..., 0].square()], -1)
        pyro.sample("x", dist.Normal(mean, 0.1).to_event(1), obs=x)

    joint = Joint(curved, observed="x")
    x = torch.tensor([1.5, 2.0])
    torch.manual_seed(0)
    proposal, module = posterior(joint), likelihood(joint)
    simulations = joint.draw(500, seed=0)
    pg.fit(proposal, simulations, steps=300, seed=0)
    first, second = torch.meshgrid(torch.linspace(0.9, 2.0, 400), torch.linspace(-1.5, 1.5, 600), indexing="ij")
    theta = torch.stack([first, second], -1).reshape(-1, 2)
    mean = torch.stack([theta[:, 0], theta[:, 1] + theta[:, 0].square()], -1)
    log_joint = dist.Normal(0.0, 1.0).log_prob(theta).sum(-1) + dist.Normal(mean, 0.1).log_prob(x).sum(-1)
    evidence = log_joint.logsumexp(0) + torch.tensor((1.1 / 399) * (3.0 / 599)).log()
    weights = log_joint.softmax(0).unsqueeze(-1)
    middle = (weights * theta).sum(0)
    spread = (weights * (theta - middle).square()).sum(0).sqrt()
    gaps = []
    for number in range(3):
        pg.fit(module, simulations, steps=500, seed=number)
        found = weighted_draws(proposal, module.program, x, draws=4000, seed=3)
        draws = found.resample(500, seed=number)
        gaps.append(abs(found.log_evidence - evidence))
        simulations = simulations + joint.simulate(draws, seed=number)
    assert len(simulations) == 2000
    assert gaps[-1] < 0.3
    assert ((draws["theta"].mean(0) - middle).abs() < 0.5 * spread).all()
    assert ((draws["theta"].std(0) / spread).log().abs() < 0.4).all()
