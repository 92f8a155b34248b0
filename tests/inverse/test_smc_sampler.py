"""SMC samplers: posteriors and evidences of any model with continuous sites, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.inverse import SMCSampler
from pyrogen.inverse.latent_density import LatentDensity

torch.manual_seed(0)
FEATURES = torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
DATA = FEATURES @ torch.tensor([1.0, -1.0, 0.5]) + 0.5 * torch.randn(30, generator=torch.Generator().manual_seed(2))


def regression(y):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", len(FEATURES)):
        pyro.sample("y", dist.Normal((FEATURES * weights.unsqueeze(-2)).sum(-1), 0.5), obs=y)


def two_modes(y, share=0.8):
    """A normal above or below zero; the data tell how far away, and the prior how often which."""
    side = dist.Categorical(torch.tensor([1 - share, share]))
    parts = dist.Normal(torch.tensor([-2.0, 2.0]), 0.5)
    x = pyro.sample("x", dist.MixtureSameFamily(side, parts))
    pyro.sample("y", dist.Normal(x.abs(), 0.1), obs=y)


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    pyro.deterministic("twice", 2 * rate)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def below(y):
    """Uniform below a number that is itself drawn: the support moves with it."""
    top = pyro.sample("top", dist.Uniform(1.0, 3.0))
    x = pyro.sample("x", dist.Uniform(torch.zeros(()), top))
    pyro.sample("y", dist.Normal(x, 0.05), obs=y)


def branching(y):
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(x if x > -100 else -x, 1.0), obs=y)


def threshold():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.factor("above", torch.where(x > 1.5, 0.0, -torch.inf))


def evidences(model, *args, seeds=6, **settings):
    """Estimates of the log-evidence, ``(seeds,)``."""
    found = torch.stack([SMCSampler(model, seed=seed, **settings).run(*args).log_evidence for seed in range(seeds)])
    return found.double()


def assert_evidence(found, exact):
    """The mean of estimates that have no bias but that of order one over the particles."""
    ratio = (found - exact).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5 + 0.02, (found, exact)
    assert ratio.std() < 0.5


def test_a_regression_has_its_posterior_and_evidence():
    precision = torch.eye(3) + FEATURES.T @ FEATURES / 0.25
    mean, spread = precision.inverse() @ FEATURES.T @ DATA / 0.25, precision.inverse().diagonal().sqrt()
    answer = SMCSampler(regression, particles=2048, seed=0).run(DATA)
    draws = answer.get_samples()["weights"]
    independent = answer.diagnostics().independent.item()
    assert independent > 500
    assert ((draws.mean(0) - mean).abs() < 4 * spread / independent**0.5).all()
    assert ((draws.std(0) / spread - 1).abs() < 4 / (2 * independent) ** 0.5).all()
    exact = dist.MultivariateNormal(torch.zeros(30), FEATURES @ FEATURES.T + 0.25 * torch.eye(30)).log_prob(DATA)
    assert_evidence(evidences(regression, DATA, particles=256, moves=5), exact.double())
    assert not answer.diagnostics().collapsed


def test_modes_that_lie_apart_have_their_shares():
    y = torch.tensor(2.0)
    answer = SMCSampler(two_modes, particles=2048, seed=0).run(y)
    x = answer.get_samples()["x"]
    assert abs((x > 0).double().mean() - 0.8) < 4 * (0.16 / answer.diagnostics().independent.item()) ** 0.5
    exact = dist.Normal(2.0, math.hypot(0.5, 0.1)).log_prob(y)
    assert_evidence(evidences(two_modes, y, particles=256, moves=5), exact.double())


def test_a_rate_of_counts_is_gamma():
    y = torch.tensor([2.0, 3.0, 1.0])
    exact = (
        math.lgamma(8.0) - math.lgamma(2.0) - 8 * math.log(4.0) - sum(math.lgamma(count + 1) for count in y.tolist())
    )
    assert_evidence(evidences(counts, y, particles=256, moves=5), exact)
    draws = SMCSampler(counts, particles=2048, seed=0).run(y).get_samples()
    assert abs(draws["rate"].mean() - 2.0) < 0.06
    assert abs(draws["rate"].std() - math.sqrt(8) / 4) < 0.06
    torch.testing.assert_close(draws["twice"], 2 * draws["rate"])


def test_a_support_may_depend_on_another_site():
    """p(y) is the mean of 1 / top, as long as y is below 1 by far: log(3) / 2; so is the density of top."""
    y = torch.tensor(0.5)
    assert_evidence(evidences(below, y, particles=256, moves=5), math.log(math.log(3.0) / 2))
    top = SMCSampler(below, particles=2048, seed=0).run(y).get_samples()["top"]
    assert abs(top.mean() - 2 / math.log(3.0)) < 0.05


def test_no_gradient_is_needed():
    exact = dist.Normal(0.0, 1.0).cdf(torch.tensor(-1.5)).log()
    assert_evidence(evidences(threshold, particles=256, moves=5), exact.double())
    x = SMCSampler(threshold, particles=2048, seed=0).run().get_samples()["x"]
    assert (x > 1.5).all()
    mean = (dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.5)) - exact).exp()
    assert abs(x.mean() - mean) < 0.05


@pytest.mark.filterwarnings("ignore:the model runs chain by chain")
def test_a_model_that_branches_runs_particle_by_particle():
    answer = SMCSampler(branching, particles=64, moves=2, last_moves=4, seed=0).run(torch.tensor(1.0))
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(torch.tensor(1.0))
    assert abs(answer.log_evidence - exact) < 0.5
    assert abs(answer.get_samples()["x"].mean() - 0.5) < 0.5


def test_a_seed_decides_all_and_touches_no_other_draw():
    first, second = (SMCSampler(counts, particles=64, seed=3).run(torch.ones(2)) for _ in range(2))
    assert torch.equal(first.get_samples()["rate"], second.get_samples()["rate"])
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    SMCSampler(counts, particles=64, seed=3).run(torch.ones(2))
    assert torch.equal(torch.rand(1), expected)


def test_draws_go_to_arviz():
    tree = pg.analysis.to_arviz(SMCSampler(counts, particles=64, seed=0).run(torch.ones(2)), torch.ones(2))
    assert tree["posterior"]["rate"].shape[-1] == 64


def test_too_few_particles_are_told():
    def far(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(12), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x, 1e-3).to_event(1), obs=y)

    answer = SMCSampler(far, particles=32, moves=1, last_moves=1, seed=0).run(torch.full((12,), 2.0))
    assert answer.diagnostics().collapsed
    assert "use more moves or more particles" in answer.diagnostics().warning


@pytest.mark.filterwarnings("ignore:the model runs chain by chain")
def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="`particles` must be a multiple of `groups` = 4, at least 8 each, got 30"):
        SMCSampler(counts, particles=30)
    with pytest.raises(ValueError, match="`ess`"):
        SMCSampler(counts, ess=1.0)

    def discrete(y):
        k = pyro.sample("k", dist.Bernoulli(0.5))
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x + k, 1.0), obs=y)

    with pytest.raises(
        NotImplementedError, match=r"prior of \['k'\] cannot be told from the likelihood; use ManyChains"
    ):
        SMCSampler(discrete).run(torch.ones(()))

    def noisy():
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("noise", x + torch.rand(()))

    with pytest.raises(NotImplementedError, match="fresh noise at every call"):
        SMCSampler(noisy).run()

    def impossible():
        pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", torch.tensor(-torch.inf))

    with pytest.raises(RuntimeError, match="no draw of the prior makes the data possible"):
        SMCSampler(impossible).run()


@pytest.mark.parametrize("model", [regression, below, branching])
@pytest.mark.filterwarnings("ignore:the model runs chain by chain")
def test_the_parts_of_the_density_are_those_of_the_model(model):
    args = (DATA,) if model is regression else (torch.tensor(0.5),)
    density = LatentDensity(model, args, {})
    x = density.prior(6)
    prior, likelihood = density.parts(x)
    torch.testing.assert_close(prior + likelihood, density(x), rtol=1e-5, atol=1e-4)
    values = density.completed(x)
    for row in range(6):
        given = {name: value[row] for name, value in values.items()}
        trace = pyro.poutine.trace(pyro.poutine.condition(model, given)).get_trace(*args)
        trace.compute_log_prob()
        torch.testing.assert_close(likelihood[row], trace.nodes["y"]["log_prob"].sum(), rtol=1e-4, atol=1e-3)
    assert len(x.unique(dim=0)) == 6  # no draw is another's


def test_a_scaled_model_has_the_evidence_of_its_density():
    """The integral of the third power of N(x; 0, 1) N(1; x, 1)."""

    def model(y):
        with pyro.poutine.scale(scale=3.0):
            x = pyro.sample("x", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    exact = -3 * math.log(2 * math.pi) - 0.75 + math.log(2 * math.pi / 6) / 2
    assert_evidence(evidences(model, torch.tensor(1.0), particles=128, moves=3), exact)


@pytest.mark.parametrize("inner", [False, True])
def test_a_prior_that_a_mask_hides_is_refused(inner):
    shown = torch.tensor([True, False])

    def model(y):
        prior = dist.Normal(torch.zeros(2), 1.0)
        with pyro.plate("rows", 2), pyro.poutine.mask(mask=True if inner else shown):
            x = pyro.sample("x", prior.mask(shown) if inner else prior)
            pyro.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(NotImplementedError, match=r"a mask hides the density of the latent sites \['x'\]"):
        SMCSampler(model).run(torch.zeros(2))


def vague(y, dtype):
    rate = pyro.sample("rate", dist.Gamma(torch.tensor(0.02, dtype=dtype), torch.tensor(0.02, dtype=dtype)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def test_draws_beyond_the_smallest_number_are_refused():
    """A sixth of the draws are smaller than any number of single precision; in double precision none in a million."""
    y = torch.tensor([0.0, 1.0, 2.0])
    with pytest.raises(
        ValueError, match=r"different numbers .* of 1024 that are one and the same at 'rate': .*float32"
    ):
        SMCSampler(vague, seed=0).run(y, torch.float32)
    shape = 0.02
    exact = shape * math.log(shape) - math.lgamma(shape) + math.lgamma(shape + 3) - (shape + 3) * math.log(shape + 3)
    found = evidences(vague, y, torch.float64, seeds=4, particles=256, moves=3)
    assert_evidence(found, exact - math.log(2))


@pytest.mark.filterwarnings("ignore:the model runs chain by chain")
def test_a_branch_on_any_number_of_an_event_is_one_of_each_draw():
    def model():
        x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.factor("below", torch.tensor(-torch.inf) if (x > 2).any() else torch.tensor(0.0))

    answer = SMCSampler(model, particles=64, moves=1, last_moves=1, seed=0).run()
    exact = 3 * dist.Normal(0.0, 1.0).cdf(torch.tensor(2.0)).log()
    assert abs(answer.log_evidence - exact) < 0.15
    assert (answer.get_samples()["x"] <= 2).all()


def test_a_number_of_all_draws_together_is_found_out():
    """Of draws of the prior the sum is small, of one draw of the posterior too, but not of all of these."""

    def model(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x, 0.5), obs=y)
        pyro.factor("limit", torch.tensor(-2.0 if x.sum() > 30 else 0.0))

    with pytest.raises(ValueError, match="`model` must give a draw the log-density that it has alone"):
        SMCSampler(model, particles=64, moves=5, seed=0).run(torch.tensor(5.0))


def test_data_within_a_support_that_moves_are_possible():
    """Under validation, and whichever draws are impossible: those of a first draw tell nothing of others."""

    def model(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("y", dist.Uniform(x[0] - 0.5, x[0] + 0.5), obs=y)

    with pyro.validation_enabled(True):
        answer = SMCSampler(model, particles=512, moves=5, seed=0).run(torch.tensor(1.0))
        with pytest.raises(ValueError, match="`y` must lie in the support of Gamma, got -1"):
            SMCSampler(outside, particles=64, seed=0).run(torch.tensor(-1.0))
    normal = dist.Normal(0.0, 1.0)
    exact = normal.cdf(torch.tensor(1.5)) - normal.cdf(torch.tensor(0.5))
    assert abs(answer.log_evidence - exact.log()) < 0.2
    x = answer.get_samples()["x"]
    assert ((x >= 0.5) & (x <= 1.5)).all()
    mean = (normal.log_prob(torch.tensor(0.5)).exp() - normal.log_prob(torch.tensor(1.5)).exp()) / exact
    assert abs(x.mean() - mean) < 0.05


def outside(y):
    pyro.sample("x", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Gamma(1.0, 1.0), obs=y)
