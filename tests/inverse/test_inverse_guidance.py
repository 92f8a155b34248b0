"""Guidance: what is exact for Gaussians, and what is known to be biased."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian, mixture

from pyrogen import inverse
from pyrogen.inverse.slopes import Tangents

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 1.5]])
OPERATOR = torch.tensor([[1.0, 0.5]])


def draws_of(prior, guidance, y=2.0, noise=0.5):
    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(OPERATOR @ x, noise).to_event(1), obs=y)

    torch.manual_seed(0)
    sampling = inverse.GuidedSampling(model, site="x", guidance=guidance, draws=4000, steps=200)
    return sampling.run(torch.tensor([y])).get_samples()["x"]


def exact(covariance, y=2.0, noise=0.5):
    marginal = OPERATOR @ covariance @ OPERATOR.T + noise**2
    gain = covariance @ OPERATOR.T / marginal
    return gain.squeeze(-1) * y, covariance - gain @ OPERATOR @ covariance


@pytest.mark.parametrize(
    ("guidance", "covariance"),
    [(inverse.MomentMatching(), COVARIANCE), (inverse.PiGDM(2.0), 2.0 * torch.eye(2))],
    ids=["MomentMatching", "PiGDM"],
)
def test_exact_for_the_gaussians_they_are_made_for(guidance, covariance):
    draws = draws_of(gaussian(torch.zeros(2), covariance), guidance)
    mean, spread = exact(covariance)
    # Ancestral steps lose some variance: a twentieth at 200 steps.
    assert ((draws.mean(0) - mean).abs() < 5 * (spread.diagonal() / 4000).sqrt() + 0.03).all()
    assert ((draws.T.cov() - spread).abs() < 0.12 * spread.diagonal().max()).all()


@pytest.mark.parametrize("guidance", [inverse.DPS(0.05), inverse.DiffPIR()], ids=lambda g: type(g).__name__)
def test_the_others_go_towards_the_measurement(guidance):
    draws = draws_of(gaussian(torch.zeros(2), COVARIANCE), guidance)
    assert draws.isfinite().all()
    assert 0.5 < (draws @ OPERATOR.T).mean() < 3.0


def test_moment_matching_weighs_modes_wrongly_where_twisted_smc_does_not():
    density, prior = mixture([0.9, 0.1], [[-4.0, 0.0], [4.0, 0.0]], 0.5)

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x[0], 4.0), obs=y)

    y = torch.tensor(3.0)
    weights = torch.tensor([0.9, 0.1]).log() + dist.Normal(torch.tensor([-4.0, 4.0]), 16.25**0.5).log_prob(y)
    right = weights.softmax(0)[1].item()
    found = inverse.TwistedSMC(model, site="x", particles=2000, steps=50).run(y).get_samples()["x"]
    error = 5 * (right * (1 - right) / 1000) ** 0.5
    assert abs((found[:, 0] > 0).float().mean() - right) < error
    guided = inverse.GuidedSampling(model, site="x", guidance=inverse.MomentMatching(), draws=2000, steps=50).run(y)
    assert abs((guided.get_samples()["x"][:, 0] > 0).float().mean() - right) > error


def long_axis(guidance, noise=0.1, draws=50):
    """Draws where one axis of the prior is thirty times the other, and both are measured."""
    prior = gaussian(torch.zeros(2), torch.diag(torch.tensor([900.0, 1.0])))

    def model(y):
        pyro.sample("y", dist.Normal(pyro.sample("x", prior()), noise).to_event(1), obs=y)

    torch.manual_seed(0)
    sampling = inverse.GuidedSampling(model, site="x", guidance=guidance, draws=draws, steps=100)
    return sampling.run(torch.tensor([30.0, 1.0])).get_samples()["x"]


def test_a_guidance_that_diverges_is_refused():
    with pytest.raises(ValueError, match="`guidance` must lead particles to data.*DPS diverged"):
        long_axis(inverse.DPS(10.0))


@pytest.mark.parametrize("noise", [0.1, 10.0])
@pytest.mark.parametrize("variance", [0.1, 10.0, 900.0])
def test_no_step_of_pigdm_goes_beyond_the_top_of_the_posterior(variance, noise):
    draws = long_axis(inverse.PiGDM(variance), noise, draws=500)
    covariance = 1 / (1 / torch.tensor([900.0, 1.0]) + noise**-2)
    mean = covariance / noise**2 * torch.tensor([30.0, 1.0])
    assert ((draws.mean(0) - mean).abs() < 5 * (covariance / 500).sqrt() + 0.03).all()
    # Ancestral steps lose some of the variance.
    assert ((draws.std(0) / covariance.sqrt() - 1).abs() < 0.15).all()


def test_conjugate_gradients_match_moments_of_more_numbers_than_there_are_passes():
    """Twenty numbers, of which three directions matter."""
    torch.manual_seed(0)
    root = torch.randn(20, 3)
    operator = torch.cat([root, 1e-3 * torch.randn(20, 17)], 1)
    prior = gaussian(torch.zeros(20), torch.eye(20))
    y = operator @ torch.randn(20)

    def draws(passes):
        def model(y):
            pyro.sample("y", dist.Normal(operator @ pyro.sample("x", prior()), 0.2).to_event(1), obs=y)

        torch.manual_seed(1)
        guidance = inverse.MomentMatching(passes)
        return inverse.GuidedSampling(model, site="x", guidance=guidance, draws=20, steps=20).run(y).get_samples()["x"]

    exact = draws(20)
    assert (draws(4) - exact).abs().max() < 1e-3
    assert (draws(1) - exact).abs().max() > 0.02


@pytest.mark.parametrize(
    "guidance",
    [inverse.PiGDM(1.0), inverse.DiffPIR(), inverse.DAPS(1, variance=1.0), inverse.DPS(0.3)],
    ids=lambda guidance: type(guidance).__name__,
)
def test_counts_are_served_without_a_matrix(guidance, monkeypatch):
    """Poisson counts of many numbers: the slopes are applied, and never written down."""
    prior = gaussian(torch.zeros(12), torch.eye(12))
    operator = torch.eye(12)[:9]

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Poisson((2.0 + operator @ x).exp()).to_event(1), obs=y)

    monkeypatch.setattr(Tangents, "matrix", property(lambda _: pytest.fail("the matrix was asked for")))
    torch.manual_seed(0)
    sampling = inverse.GuidedSampling(model, site="x", guidance=guidance, draws=100, steps=15, calibrate=True)
    draws = sampling.run(torch.full((9,), 20.0)).get_samples()["x"]
    grid = torch.linspace(-4, 4, 4001)
    weights = (
        dist.Normal(0.0, 1.0).log_prob(grid) + dist.Poisson((2.0 + grid).exp()).log_prob(torch.tensor(20.0))
    ).softmax(0)
    mean = (weights * grid).sum()
    if isinstance(guidance, inverse.PiGDM | inverse.DAPS):  # Laplace's approximation is near
        assert (draws[:, :9].mean() - mean).abs() < 0.05
        assert (draws[:, 9:].mean()).abs() < 5 / 300**0.5
    assert draws.isfinite().all()


@pytest.mark.parametrize(
    "guidance",
    [inverse.MomentMatching(), inverse.PiGDM(1.0), inverse.DPS(0.3), inverse.DiffPIR(), inverse.DDRM(),
     inverse.DAPS(1, variance=1.0), inverse.RePaint(10)],
    ids=lambda guidance: type(guidance).__name__,
)  # fmt: skip
@pytest.mark.parametrize("noise", [1e-4, 0.1])
def test_an_operator_without_full_rank_is_served_by_every_guidance(guidance, noise):
    """The same number three times, and one that measures nothing: what is measured is found, the rest left alone."""
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    prior = gaussian(torch.zeros(3), torch.eye(3))

    def model(y):
        pyro.sample("y", dist.Normal(rows @ pyro.sample("x", prior()), noise).to_event(1), obs=y)

    torch.manual_seed(0)
    sampling = inverse.GuidedSampling(model, site="x", guidance=guidance, draws=400, steps=60, calibrate=True)
    draws = sampling.run(torch.tensor([1.5, 1.5, 1.5, 0.0])).get_samples()["x"]
    assert draws.isfinite().all()
    # DPS takes steps of one length, whatever the noise, and never settles.
    assert abs(draws[:, 0].mean() - 1.5) < (0.6 if isinstance(guidance, inverse.DPS) else 0.1)
    assert draws[:, 1:].mean(0).abs().max() < 0.3
    assert draws[:, 1:].var(0).min() > 0.5


def test_other_latent_sites_are_refused():
    def model(y):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        x = pyro.sample("x", gaussian(torch.zeros(2), COVARIANCE)())
        pyro.sample("y", dist.Normal(x.sum(), scale), obs=y)

    with pytest.raises(ValueError, match="no other latent sites"):
        inverse.GuidedSampling(model, site="x", guidance=inverse.DPS()).run(torch.tensor(0.0))
