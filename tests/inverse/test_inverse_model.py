"""What models twisted SMC takes: plates, masks, several measurements, predictions, control flow; and what it
refuses."""

from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import Centred, gaussian, mixture
from pyro import poutine

import pyrogen as pg
from pyrogen.diffusion import Diffusion
from pyrogen.inverse import TemperedSMC, TwistedSMC
from pyrogen.inverse.problem import InverseProblem

COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 1.5]])
PRIOR = gaussian(torch.zeros(2), COVARIANCE)
OPERATOR = torch.tensor([[1.0, 0.5], [0.0, 1.0], [2.0, -1.0]])


def exact_evidence(y, operator=OPERATOR, scale=0.5):
    marginal = operator @ COVARIANCE @ operator.T + scale**2 * torch.eye(len(operator))
    return dist.MultivariateNormal(torch.zeros(len(operator)), marginal).log_prob(y)


def test_plates_are_independent_problems():
    def model(y):
        with pyro.plate("problems", len(y)):
            x = pyro.sample("x", PRIOR())
            pyro.sample("y", dist.Normal(x @ OPERATOR.T, 0.5).to_event(1), obs=y)

    y = torch.tensor([[0.5, 0.2, 1.0], [-3.0, 1.0, 0.0], [8.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
    posterior = TwistedSMC(model, site="x", particles=1000, steps=50).run(y)
    assert posterior.log_evidence.shape == (4,)
    assert posterior.get_samples()["x"].shape == (1000, 4, 2)
    assert posterior.log_weights.shape == (1000,)
    torch.testing.assert_close(posterior.log_evidence, exact_evidence(y), atol=0.3, rtol=0.0)


def test_nested_plates_in_any_place():
    def model(y):
        with pyro.plate("columns", 2, dim=-1), pyro.plate("rows", 3, dim=-2):
            x = pyro.sample("x", PRIOR())
            with pyro.plate("entries", 3, dim=-3):
                pyro.sample("y", dist.Normal((x @ OPERATOR.T).permute(2, 0, 1), 0.5), obs=y)

    y = torch.randn(3, 3, 2)
    posterior = TwistedSMC(model, site="x", particles=500, steps=50).run(y)
    assert posterior.get_samples()["x"].shape == (500, 3, 2, 2)
    torch.testing.assert_close(posterior.log_evidence, exact_evidence(y.permute(1, 2, 0)), atol=0.3, rtol=0.0)


def test_a_plate_that_a_measurement_joins_is_one_problem():
    def model(y):
        with pyro.plate("parts", 2):
            x = pyro.sample("x", PRIOR())
        pyro.sample("y", dist.Normal(x.sum(), 0.5), obs=y)

    posterior = TwistedSMC(model, site="x", particles=1000, steps=50).run(torch.tensor(3.0))
    assert posterior.log_evidence.shape == ()
    variance = 2 * COVARIANCE.sum() + 0.25
    exact = dist.Normal(0.0, variance.sqrt()).log_prob(torch.tensor(3.0))
    torch.testing.assert_close(posterior.log_evidence, exact, atol=0.2, rtol=0.0)


def test_several_and_masked_measurements():
    y = torch.tensor([0.5, torch.nan, 1.0])

    def model(y, z):
        x = pyro.sample("x", PRIOR())
        with pyro.plate("entries", 3), poutine.mask(mask=~y.isnan()):
            pyro.sample("y", dist.Normal(OPERATOR @ x, 0.5), obs=y)
        pyro.sample("z", dist.MultivariateNormal(x, 0.25 * torch.eye(2)), obs=z)
        pyro.sample("unseen", dist.Normal(x.sum(), 1.0))

    posterior = TwistedSMC(model, site="x", particles=2000, steps=50).run(y, torch.tensor([0.2, -0.3]))
    seen = torch.cat([OPERATOR[[0, 2]], torch.eye(2)])
    exact = exact_evidence(torch.tensor([0.5, 1.0, 0.2, -0.3]), seen)
    torch.testing.assert_close(posterior.log_evidence, exact, atol=0.2, rtol=0.0)
    assert set(posterior.get_samples()) == {"x"}


def test_a_scaled_measurement_counts_as_often():
    def model(y):
        x = pyro.sample("x", PRIOR())
        with poutine.scale(scale=4.0):
            pyro.sample("y", dist.Normal(OPERATOR @ x, 0.5).to_event(1), obs=y)

    y = torch.tensor([0.5, 0.2, 1.0])
    posterior = TwistedSMC(model, site="x", particles=2000, steps=50).run(y)
    # Four times the log-likelihood is a quarter of the variance, and three Gaussian constants in each of three entries.
    constant = 3 * (-1.5 * torch.log(torch.tensor(2 * torch.pi * 0.25)) - 0.5 * torch.log(torch.tensor(4.0)))
    torch.testing.assert_close(posterior.log_evidence, exact_evidence(y, scale=0.25) + constant, atol=0.2, rtol=0.0)


def test_a_factor_is_a_measurement():
    def model():
        x = pyro.sample("x", PRIOR())
        pyro.factor("y", dist.Normal(x[0], 0.5).log_prob(torch.tensor(1.0)))

    posterior = TwistedSMC(model, site="x", particles=2000, steps=50).run()
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(torch.tensor(1.0))
    torch.testing.assert_close(posterior.log_evidence, exact, atol=0.2, rtol=0.0)


def test_control_flow_runs_particle_by_particle():
    def model(y):
        x = pyro.sample("x", PRIOR())
        scale = 0.5 if x.sum() > -100 else 1.0
        pyro.sample("y", dist.Normal(OPERATOR @ x, scale).to_event(1), obs=y)

    y = torch.tensor([0.5, 0.2, 1.0])
    posterior = TwistedSMC(model, site="x", particles=60, steps=8).run(y)
    assert not posterior.diagnostics().mapped
    assert "particle by particle" in str(posterior.diagnostics())
    torch.testing.assert_close(posterior.log_evidence, exact_evidence(y), atol=0.6, rtol=0.0)


def test_contexts_in_a_plate():
    table = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    prior, labels = Diffusion(Centred(table)), torch.tensor([0, 1, 1])

    def model(y):
        with pyro.plate("data", 3):
            x = pyro.sample("x", prior(labels))
            pyro.sample("y", dist.Normal(x, 0.7).to_event(1), obs=y)

    y = torch.randn(3, 2)
    posterior = TwistedSMC(model, site="x", particles=1000, steps=50).run(y)
    exact = dist.Normal(table[labels], (0.25 + 0.49) ** 0.5).log_prob(y).sum(-1)
    torch.testing.assert_close(posterior.log_evidence, exact, atol=0.2, rtol=0.0)


def test_sites_are_sorted_by_what_depends_on_what():
    table = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    prior = Diffusion(Centred(table))

    def model(y):
        share = pyro.sample("share", dist.Beta(1.0, 1.0))
        noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
        label = pyro.sample("label", dist.Bernoulli(share))
        x = pyro.sample("x", prior(label))
        pyro.sample("other", dist.Normal(noise, 1.0), obs=torch.tensor(0.0))
        pyro.sample("y", dist.Normal(x, noise).to_event(1), obs=y)
        pyro.sample("predicted", dist.Normal(x, noise).to_event(1))

    setting = InverseProblem(model, (torch.zeros(2),), {}, "x")
    assert set(setting.upstream) == {"share", "label"}
    assert setting.downstream == ("noise",)
    assert setting.scored == ("y",)


def test_draws_go_to_arviz():
    def model(y):
        x = pyro.sample("x", PRIOR())
        pyro.sample("y", dist.Normal(OPERATOR @ x, 0.5).to_event(1), obs=y)

    posterior = TwistedSMC(model, site="x", particles=100, steps=10).run(torch.zeros(3))
    data = pg.analysis.to_arviz(posterior, torch.zeros(3), log_likelihood=False)
    assert data["posterior"]["x"].shape == (1, 100, 2)
    assert data["posterior_predictive"]["y"].shape == (1, 100, 3)
    assert data["posterior"].attrs.get("particles", data.attrs.get("particles")) == 100


def test_unweighted_and_weighted_draws_agree():
    def model(y):
        x = pyro.sample("x", PRIOR())
        pyro.sample("y", dist.Normal(OPERATOR @ x, 0.5).to_event(1), obs=y)

    posterior = TwistedSMC(model, site="x", particles=500, steps=20).run(torch.ones(3))
    assert not posterior.log_weights.any()
    values, log_weights = posterior.cloud
    weighted = (log_weights.softmax(0).unsqueeze(-1) * values).sum(0)
    torch.testing.assert_close(posterior.get_samples()["x"].mean(0), weighted, atol=0.05, rtol=0.0)
    kept = TwistedSMC(model, site="x", particles=50, steps=20, resample=False).run(torch.ones(3))
    assert kept.log_weights.any()


def test_collapse_is_said():
    _, prior = mixture([0.5, 0.5], torch.stack([-torch.ones(20), torch.ones(20)]), 0.3)

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal((4 * x).sin(), 0.001).to_event(1), obs=y)

    diagnostics = TwistedSMC(model, site="x", particles=50, steps=10).run(torch.zeros(20)).diagnostics()
    assert diagnostics.collapsed
    assert "COLLAPSED" in str(diagnostics)


def test_a_dead_cloud_is_said_problem_by_problem():
    """Where no value is possible the evidence is zero; the other problems keep their answers."""

    def model(y):
        with pyro.plate("problems", len(y)):
            x = pyro.sample("x", PRIOR())
            pyro.sample("y", dist.Normal(x[:, 0], 0.5), obs=y)
            pyro.factor("possible", torch.where(y > 100, -torch.inf, 0 * x[:, 0]))

    y = torch.tensor([0.5, 200.0, -0.5])
    posterior = TwistedSMC(model, site="x", particles=200, steps=10).run(y)
    diagnostics = posterior.diagnostics()
    assert posterior.log_evidence[1] == -torch.inf
    assert (diagnostics.effective_sample_size[:, 1] == 0).any()
    assert diagnostics.collapsed_problems.tolist() == [False, True, False]
    assert "COLLAPSED in 1 of 3 problems" in str(diagnostics)
    exact = dist.Normal(0.0, 1.25**0.5).log_prob(y[[0, 2]])
    torch.testing.assert_close(posterior.log_evidence[[0, 2]], exact, atol=0.3, rtol=0)


def test_data_that_are_no_numbers_are_refused_by_name_and_place():
    def model(y):
        with pyro.plate("problems", len(y)):
            x = pyro.sample("x", PRIOR())
            pyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    for bad in (torch.nan, torch.inf):
        y = torch.zeros(4, 2)
        y[2, 1] = bad
        with pytest.raises(ValueError, match=rf"`y` must be finite wherever it counts, got {bad}.*\(at \(2, 1\)\)"):
            TwistedSMC(model, site="x").run(y)


@pytest.mark.parametrize(
    ("measure", "y", "words"),
    [
        (lambda x: dist.Normal(x, 0.5).to_event(1), torch.zeros(3), r"of shape \(2,\), got \(3,\)"),
        (lambda x: dist.Normal(x, 0.5).to_event(1), torch.zeros(5, 2), r"of shape \(2,\), got \(5, 2\)"),
        (lambda x: dist.Normal(x, 0.5).to_event(1), torch.tensor(0.0), r"of shape \(2,\), got \(\)"),
        (lambda x: dist.Normal(x[0], 0.5), torch.zeros(7), r"of shape \(\), got \(7,\)"),
        (lambda x: dist.Poisson(x[0].exp()), torch.tensor(-1.0), "in the support of Poisson, got -1.0"),
        (lambda x: dist.Bernoulli(logits=x).to_event(1), torch.tensor([0.0, 2.0]), r"Bernoulli, got 2.0 \(at 1\)"),
        (lambda x: dist.LogNormal(x[0], 1.0), torch.tensor(-2.0), "must be finite|in the support"),
        (lambda x: dist.Delta(x[0]), torch.tensor(1.0), "`y` must be measured with noise, got a Delta"),
    ],
)
def test_data_that_the_model_cannot_give_are_refused(measure, y, words):
    def model(y):
        pyro.sample("y", measure(pyro.sample("x", PRIOR())), obs=y)

    with pytest.raises(ValueError, match=words):
        TwistedSMC(model, site="x").run(y)


def test_a_minibatch_is_refused():
    def model(y):
        x = pyro.sample("x", PRIOR())
        with pyro.plate("data", 100, subsample_size=10) as rows:
            pyro.sample("y", dist.Normal(x[0], 1.0), obs=y[rows])

    with pytest.raises(ValueError, match="`model` must observe all data, got a plate 'data' with 10 of 100 rows"):
        TwistedSMC(model, site="x").run(torch.zeros(100))


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("noise", [1e-4, 1e-2])
def test_an_operator_without_full_rank_and_little_noise(noise, repeats):
    """More numbers than unknowns, and the same numbers several times, in single precision."""
    torch.manual_seed(0)
    rows = torch.tensor([[1.0, 0.3], [1.0, 0.3], [-2.0, 1.0]]).repeat(repeats, 1)
    y = rows @ torch.tensor([0.5, -0.2]) + noise * torch.randn(len(rows))

    def model(y):
        x = pyro.sample("x", PRIOR())
        pyro.sample("y", dist.Normal(rows @ x, noise).to_event(1), obs=y)

    posterior = TwistedSMC(model, site="x", particles=1000, steps=60).run(y)
    double = rows.double()
    marginal = double @ COVARIANCE.double() @ double.T + noise**2 * torch.eye(len(rows)).double()
    exact = dist.MultivariateNormal(torch.zeros(len(rows)).double(), marginal).log_prob(y.double())
    assert abs(posterior.log_evidence.item() - exact.item()) < 0.25
    mean = COVARIANCE.double() @ double.T @ torch.linalg.solve(marginal, y.double())
    assert (posterior.get_samples()["x"].mean(0) - mean).abs().max() < 0.2 * noise + 1e-5
    assert not posterior.diagnostics().collapsed


def test_a_blur_that_leaves_nothing_of_some_directions():
    torch.manual_seed(0)
    prior = gaussian(torch.zeros(36), torch.eye(36))
    operator = pg.inverse.gaussian_blur((1, 6, 6), 1.5)
    matrix = operator(torch.eye(36).reshape(36, 1, 6, 6)).reshape(36, 36).T.double()
    y = operator(torch.randn(1, 6, 6)) + 1e-4 * torch.randn(1, 6, 6)

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(operator(x.reshape(1, 6, 6)), 1e-4).to_event(3), obs=y)

    found = TwistedSMC(model, site="x", particles=300, steps=40).run(y)
    marginal = matrix @ matrix.T + 1e-8 * torch.eye(36).double()
    exact = dist.MultivariateNormal(torch.zeros(36).double(), marginal).log_prob(y.flatten().double())
    assert abs(found.log_evidence.item() - exact.item()) < 1.5


def test_refusals():
    def model(y):
        x = pyro.sample("x", PRIOR())
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x.sum() + z, 0.5), obs=y)

    with pytest.raises(ValueError, match="`site` must be a latent site"):
        TwistedSMC(model, site="image").run(torch.tensor(0.0))
    with pytest.raises(ValueError, match="`site` must be a latent site"):
        TwistedSMC(model, site="y").run(torch.tensor(0.0))
    with pytest.raises(ValueError, match="`site` must have a distribution with a denoiser"):
        TwistedSMC(model, site="z").run(torch.tensor(0.0))
    with pytest.raises(ValueError, match="`model` must observe"):
        TwistedSMC(model, site="x").run(None)
    with pytest.raises(ValueError, match="`particles` must be at least 1"):
        TwistedSMC(model, site="x", particles=0)
    with pytest.raises(ValueError, match="must come first"):
        TwistedSMC(model, site="x").get_samples()


@pytest.mark.parametrize(
    "around", [poutine.scale(scale=3.0), poutine.mask(mask=torch.tensor(False))], ids=["scale", "mask"]
)
@pytest.mark.parametrize("hidden", ["x", "z"])
def test_what_has_another_density_than_its_draws_is_refused(around, hidden):
    """A denoiser knows of no scale, and the draws that particles begin with neither."""

    def model(y):
        with around if hidden == "z" else nullcontext():
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with around if hidden == "x" else nullcontext():
            x = pyro.sample("x", PRIOR())
        pyro.sample("y", dist.Normal(OPERATOR @ x + z, 0.5).to_event(1), obs=y)

    with pytest.raises(ValueError, match=f"no mask and no scale around the latent site '{hidden}'"):
        TemperedSMC(model, site="x").run(torch.zeros(3))
    if hidden == "x":
        with pytest.raises(ValueError, match="no mask and no scale around the latent site 'x'"):
            TwistedSMC(model, site="x").run(torch.zeros(3))
