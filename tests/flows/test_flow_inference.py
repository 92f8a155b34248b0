"""Inference with flows where the answer is known: NUTS in a flow's noise, and a neural posterior estimate."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.infer.reparam import NeuTraReparam
from pyro.ops.stats import effective_sample_size
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _clean():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    torch.set_num_threads(threads)


def assert_moment(draws, expected):
    """The mean of a chain is what it should be, within four standard errors by its effective sample size."""
    size = effective_sample_size(draws[None])
    assert size > 100
    error = 4 * draws.std() / size.sqrt()
    assert (draws.mean() - expected).abs() < error, (draws.mean(), expected, error, size)


def test_nuts_in_the_noise_of_a_flow_recovers_the_funnel():
    """Neal's funnel, whose moments are known: plain NUTS does not reach its neck."""

    def funnel():
        neck = pyro.sample("neck", dist.Normal(0.0, 3.0))
        with pyro.plate("elements", 4):
            pyro.sample("x", dist.Normal(0.0, (neck / 2).exp()))

    recipe = partial(pg.flows.affine_autoregressive, layers=2, hidden=(32,), fast_sampling=True)
    guide = pg.flows.AutoFlow(funnel, recipe, init_scale=1.0)
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1)(funnel, guide)
    schedule = partial(CosineAnnealingLR, T_max=1000)
    pg.fit(elbo, (), steps=1000, optimizer=partial(torch.optim.Adam, lr=1e-2), schedule=schedule, clip=10.0, seed=0)

    neutra = NeuTraReparam(guide.requires_grad_(False))
    mcmc = MCMC(NUTS(neutra.reparam(funnel)), 2500, warmup_steps=200, disable_progbar=True)
    mcmc.run()
    (noise,) = mcmc.get_samples().values()
    samples = neutra.transform_sample(noise.unsqueeze(-2))  # the draws go to the left of the plate
    neck, x = samples["neck"].squeeze(-1), samples["x"]

    assert_moment(neck, 0.0)
    assert_moment(neck.square(), 9.0)
    assert_moment((neck < -3.0).float(), dist.Normal(0.0, 1.0).cdf(torch.tensor(-1.0)))
    standard = x / (neck / 2).exp()[:, None]
    for column in standard.T:
        assert_moment(column, 0.0)
        assert_moment(column.square(), 1.0)
    assert_moment(standard[:, 0] * standard[:, 1], 0.0)


class LinearGaussian:
    """Standard normal parameters, seen through a matrix with noise: the posterior is normal."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.design = torch.randn(4, 3, generator=generator)
        self.noise = 0.5

    def simulate(self, count):
        parameters = torch.randn(count, 3)
        return parameters, parameters @ self.design.T + self.noise * torch.randn(count, 4)

    def posterior(self, y):
        precision = torch.eye(3) + self.design.T @ self.design / self.noise**2
        mean = torch.linalg.solve(precision, self.design.T @ y / self.noise**2)
        return dist.MultivariateNormal(mean, precision_matrix=precision)


@pytest.fixture(scope="module")
def estimate():
    """A conditional flow, fitted to 20,000 simulated pairs."""
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    simulator = LinearGaussian()
    parameters, y = simulator.simulate(20_000)
    flow = pg.flows.spline_coupling((3,), (4,), layers=3, hidden=(64, 64))
    schedule = partial(CosineAnnealingLR, T_max=2000)
    pg.fit(flow, (parameters, y), steps=2000, batch_size=256, schedule=schedule, validation=0.1, seed=0)
    return simulator, flow


@pytest.mark.parametrize("row", range(2))
def test_a_neural_posterior_estimate_passes_a_classifier(estimate, row):
    """A classifier tells 3,000 draws from exact ones no more often than 55 times in a hundred."""
    from sklearn.neural_network import MLPClassifier

    simulator, flow = estimate
    y = simulator.simulate(2)[1][row]
    exact, estimated = simulator.posterior(y).sample((3000,)), flow(y).sample((3000,))
    scale = exact.std(0)
    learner = MLPClassifier((64, 64), early_stopping=True, random_state=0)
    generator = torch.Generator().manual_seed(0)
    test = pg.evaluation.classifier_test(exact / scale, estimated / scale, classifier=learner, generator=generator)
    assert test.statistic <= 0.55
    # The classifier can tell: draws a third of a standard deviation off do not pass.
    wrong = (exact + scale / 3) / scale
    assert pg.evaluation.classifier_test(exact / scale, wrong, classifier=learner).statistic > 0.55


def test_a_neural_posterior_estimate_has_the_posterior_density(estimate):
    """The mean divergence from the exact posterior, over data, is a few hundredths of a nat."""
    simulator, flow = estimate
    parameters, y = simulator.simulate(2000)
    exact = torch.stack([simulator.posterior(row).log_prob(value) for value, row in zip(parameters, y, strict=True)])
    gap = exact - pg.evaluation.log_probs(flow, parameters, y)
    assert -4 * gap.std() / math.sqrt(len(gap)) < gap.mean() < 0.05
