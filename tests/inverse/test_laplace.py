"""Laplace's approximation where the posterior is known: Gaussian, conjugate, of several modes, far from Gaussian."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.inverse import Laplace, ManyChains


def regression(y, design, noise=0.5):
    weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(weights @ design.T, noise).to_event(1), obs=y)


def test_linear_gaussian_posteriors_are_exact():
    torch.manual_seed(0)
    design = torch.randn(8, 3)
    y = design @ torch.tensor([1.0, -2.0, 0.5]) + 0.5 * torch.randn(8)
    covariance = torch.linalg.inv(torch.eye(3) / 4 + design.T @ design / 0.25)
    evidence = dist.MultivariateNormal(torch.zeros(8), 4 * design @ design.T + 0.25 * torch.eye(8)).log_prob(y)

    posterior = Laplace(regression, draws=2000, seed=0).run(y, design)
    diagnostics = posterior.diagnostics()
    assert diagnostics.approximation == pytest.approx(evidence.item(), abs=1e-3)
    assert diagnostics.concave
    assert not diagnostics.collapsed
    size = diagnostics.effective_sample_size
    assert size > 1500
    assert posterior.log_evidence.item() == pytest.approx(evidence.item(), abs=4 * (1 / size - 1 / 2000) ** 0.5)
    draws = posterior.get_samples()["weights"]
    error = 4 * (covariance.diagonal() / size).sqrt()
    assert ((draws.mean(0) - covariance @ design.T @ y / 0.25).abs() < error).all()
    assert torch.allclose(draws.T.cov(), covariance, rtol=0.2, atol=0.1 * covariance.diagonal().max().item())


@pytest.mark.parametrize("unit", [1e-5, 1e4, 1e8])
def test_units_make_no_difference(unit):
    def program(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(2), unit).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), unit), obs=y)

    y = torch.tensor(1.5 * unit)
    exact = dist.Normal(0.0, 3**0.5 * unit).log_prob(y).item()
    for initial in ({"x": unit * torch.ones(1, 2)}, pyro.infer.autoguide.init_to_sample):
        posterior = Laplace(program, initial=initial, seed=0).run(y)
        diagnostics = posterior.diagnostics()
        assert diagnostics.approximation == pytest.approx(exact, abs=1e-3)
        assert diagnostics.effective_sample_size > 800
        assert posterior.log_evidence.item() == pytest.approx(exact, abs=0.1)
        assert (posterior.get_samples()["x"].mean(0) / unit - 0.5).abs().max() < 0.15


def test_points_stay_apart_where_there_is_one_to_start_from():
    def program(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)  # of all points at once, this sum is another one

    posterior = Laplace(program, initial={"x": torch.zeros(1, 2)}, seed=0).run(torch.tensor(1.0))
    assert posterior.diagnostics().effective_sample_size > 800
    exact = dist.Normal(0.0, 3**0.5).log_prob(torch.tensor(1.0))
    assert posterior.log_evidence.item() == pytest.approx(exact.item(), abs=0.1)


def counts(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def test_weights_correct_a_skewed_posterior():
    y = torch.tensor([0.0, 1.0])
    exact = 2 * math.log(1) + math.lgamma(3) - 3 * math.log(3) - math.lgamma(2) - (y + 1).lgamma().sum().item()
    posterior = Laplace(counts, draws=2000, resample=False, seed=1).run(y)
    weights = posterior.log_weights.softmax(0)
    error = 4 * (1 / posterior.diagnostics().effective_sample_size - 1 / 2000) ** 0.5
    assert posterior.log_evidence.item() == pytest.approx(exact, abs=max(error, 0.01))
    draws = posterior.get_samples()["rate"].double()
    assert (weights * draws).sum().item() == pytest.approx(1.0, abs=5 / 3**0.5 / 2000**0.5)  # Gamma(3, 3)
    assert abs(posterior.diagnostics().approximation - exact) > 0.01  # it takes the weights


def hills(y, heights=(0.3, 0.7)):
    hill = pyro.sample("hill", dist.Categorical(torch.tensor(heights)))
    x = pyro.sample("x", dist.Normal(torch.tensor([-4.0, 4.0])[hill], 0.5))
    pyro.sample("y", dist.Normal(x.abs(), 1.0), obs=y)


def test_the_mode_is_that_of_the_start_and_its_evidence_is_of_it_alone():
    y = torch.tensor(4.0)
    whole = dist.Normal(4.0, 1.25**0.5).log_prob(y)
    found = [
        Laplace(hills, draws=2000, initial={"x": torch.tensor(starts)}, seed=0).run(y)
        for starts in ([-3.0], [3.0, 60.0])
    ]
    for posterior, share in zip(found, (0.3, 0.7), strict=True):
        assert posterior.log_evidence.item() == pytest.approx(whole.item() + math.log(share), abs=0.03)
        samples = posterior.get_samples()
        assert (samples["hill"] == (samples["x"] > 0)).all()
    assert (found[0].get_samples()["x"] < 0).all()


def saddle(y):
    x = pyro.sample("x", dist.Normal(0.0, 3.0))
    pyro.sample("y", dist.Normal(x.square(), 1.0), obs=y)


def test_what_is_no_mode_is_reported():
    posterior = Laplace(saddle, initial={"x": torch.zeros(1)}, seed=0).run(torch.tensor(4.0))
    assert not posterior.diagnostics().concave
    assert "no mode" in str(posterior.diagnostics())


def tails(y):
    x = pyro.sample("x", dist.Cauchy(torch.zeros(5), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(x.sum(), 100.0), obs=y)


def test_a_posterior_far_from_gaussian_is_not_to_be_trusted():
    diagnostics = Laplace(tails, seed=0).run(torch.tensor(1.0)).diagnostics()
    assert diagnostics.pareto_k > 0.7
    assert diagnostics.collapsed
    assert "COLLAPSED: the posterior is far from Gaussian" in str(diagnostics)


def test_kinks_are_refused():
    def program(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x.abs().sqrt(), 1.0), obs=y)

    with pytest.raises(ValueError, match="`model` must have a finite density and gradient where it starts"):
        Laplace(program, initial={"x": torch.zeros(1)}, seed=0).run(torch.tensor(-1.0))


def test_seeds_decide():
    y = torch.tensor([0.0, 1.0])
    first, again, other = (Laplace(counts, draws=50, seed=seed).run(y).get_samples()["rate"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_energy_has_no_evidence():
    energy = pg.energy.mlp((2,), hidden=(8,))

    def program(y):
        x = pyro.sample("x", energy())
        pyro.sample("y", dist.Normal(x, 0.1).to_event(1), obs=y)

    posterior = Laplace(program, draws=50, initial={"x": torch.zeros(1, 2)}, seed=0).run(torch.zeros(2))
    with pytest.raises(NotImplementedError, match="known up to a constant only"):
        _ = posterior.log_evidence


@pytest.mark.parametrize("wrong", [{"draws": 24}, {"degrees": 0.0}, {"steps": 0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        Laplace(counts, **wrong)


def test_bad_starts_are_refused():
    y = torch.tensor([0.0, 1.0])
    for method in (Laplace, ManyChains):
        for initial in ({"rate": [1.0]}, {"rate": torch.tensor(1.0)}, {"rate": torch.ones(0)}):
            with pytest.raises(ValueError, match="`initial` must hold tensors"):
                method(counts, initial=initial)
        with pytest.raises(TypeError, match="`initial` must be callable"):
            method(counts, initial=torch.ones(2))
    for initial in ({"rate": torch.ones(2, 3)}, {"speed": torch.ones(2)}, {}):
        with pytest.raises(ValueError, match="`initial` must hold equally many values of the continuous latent sites"):
            Laplace(counts, initial=initial).run(y)


@pytest.mark.parametrize("start", [-1.0, 4.0, 20.0])
@pytest.mark.parametrize(("link", "seen"), [(torch.log, [-2.0, 1.0]), (torch.sqrt, [0.4, 2.0])])
def test_climbs_where_the_density_is_no_number_beyond_an_edge(link, seen, start):
    """Steps that L-BFGS takes beyond the edge, where a logarithm or a root is NaN, are taken back."""
    y = torch.tensor(seen)

    def program(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        pyro.sample("y", dist.Normal(link(x + 3), 0.05, validate_args=False).to_event(1), obs=y)

    answer = pg.inverse.Laplace(program, initial={"x": torch.full((1, 2), start)}, seed=0).run(y)
    grid = torch.linspace(-3, 25, 2_000_001, dtype=torch.double)[1:]
    inside = dist.Normal(0.0, 3.0).log_prob(grid) + dist.Normal(link(grid + 3), 0.05).log_prob(y.double().unsqueeze(-1))
    exact = (inside.logsumexp(-1) + (grid[1] - grid[0]).log()).sum()
    assert answer.log_evidence.item() == pytest.approx(exact.item(), abs=0.03)
    assert not answer.diagnostics().collapsed
