"""Noise and latent space: flows, probability flows and autoencoders against closed forms and quadrature."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import mixture, quadrature
from pyro.distributions.transforms import AffineTransform
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn
from torch.optim import Adam

import pyrogen as pg
from pyrogen.core.density import stamped
from pyrogen.core.module import DistributionModule
from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP, ProbabilityFlow
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.distributions.normal import UnitNormal
from pyrogen.flows.linear import Mixing
from pyrogen.flows.model import Flow
from pyrogen.inverse import NoiseMCMC, NoiseVI, in_noise
from pyrogen.latent import VAE, Marginal, StandardNormal
from pyrogen.numerics.ode import FixedSolver
from pyrogen.transforms.distribution import TransformedDistribution

SCALE, NOISE = 0.5, 0.4


class Line(DistributionModule):
    """A push-forward that is linear in its context: ``scale[label] z + context`` or ``scale z + table[label]``."""

    def __init__(self, table=None):
        super().__init__((), ())
        self.table = table

    def forward(self, context=None):
        loc = context if self.table is None else self.table[context.long()]
        zero = torch.zeros_like(loc)
        return TransformedDistribution(dist.Normal(zero, 1.0), [AffineTransform(loc, SCALE)])


class Generated(PyrogenDistribution):
    """What a generator makes of noise: draws, and no density."""

    density = None
    has_rsample = has_push_forward = True

    def __init__(self, noise, generator):
        self.noise, self.generator = noise, generator
        super().__init__(noise.batch_shape, (generator.out_features,), validate_args=False)

    support = dist.constraints.real_vector

    def rsample(self, sample_shape=()):
        return self.generator(self.noise.rsample(sample_shape))

    def push_forward(self):
        return self.noise, self.generator

    def _expanded(self, batch_shape):
        return Generated(self.noise.expand(batch_shape), self.generator)


class Implicit(DistributionModule):
    """A generator of more numbers than its noise has: there is no density to have."""

    density = None

    def __init__(self, noise_shape, size):
        super().__init__((size,))
        self.noise_shape, self.generator = noise_shape, nn.Sequential(nn.Flatten(-len(noise_shape)), nn.Linear(4, size))
        self.generator.out_features = size

    def forward(self, context=None):
        return Generated(UnitNormal(self.noise_shape, torch.zeros(())), self.generator)


def affine_flow(size):
    flow = Flow([Mixing((size,))], event_shape=(size,))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return flow


def push_forward(flow):
    """The mean and covariance of an affine flow."""
    with torch.no_grad():
        transform = flow().transforms[0]
        origin = transform(torch.zeros(flow.event_shape))
        factor = transform(torch.eye(*flow.event_shape)) - origin
    return origin, factor.T @ factor


def autoencoder(prior, features):
    size = prior.event_shape[0]
    likelihood = pg.Parametric(
        nn.Linear(size, features), pg.families.normal(SCALE), event_shape=(features,), context_shape=(size,)
    )
    posterior = pg.Parametric(
        nn.Linear(features, 2 * size), pg.families.diagonal_normal, event_shape=(size,), context_shape=(features,)
    )
    return VAE(prior, likelihood, posterior)


def joint_of(vae, mean, covariance):
    """The mean and covariance of latent and event under a normal prior."""
    weight, bias = (part.detach() for part in vae.likelihood.network.parameters())
    cross = covariance @ weight.T
    below = weight @ cross + SCALE**2 * torch.eye(len(weight))
    return torch.cat([mean, weight @ mean + bias]), torch.cat(
        [torch.cat([covariance, cross], 1), torch.cat([cross.T, below], 1)]
    )


def conditioned(mean, covariance, operator, y, scale=NOISE):
    """Mean, covariance and evidence of a Gaussian given ``y = operator x + noise``."""
    marginal = operator @ covariance @ operator.T + scale**2 * torch.eye(len(y))
    gain = torch.linalg.solve(marginal, operator @ covariance).T
    evidence = dist.MultivariateNormal(operator @ mean, marginal).log_prob(y)
    return mean + gain @ (y - operator @ mean), covariance - gain @ operator @ covariance, evidence


def effective(posterior):
    found = posterior.diagnostics()
    assert not found.collapsed, found
    return min(found.least, found.draws) if isinstance(posterior, NoiseMCMC) else found.effective_sample_size


def gaussian_close(posterior, draws, mean, covariance, evidence=None):
    """Draws, and the evidence if there is one, agree with a Gaussian within five Monte Carlo errors."""
    count, scale = effective(posterior), covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() / scale < 5 / count**0.5).all(), (draws.mean(0), mean)
    error = (draws.T.cov() - covariance) / scale.outer(scale)
    # Squares mix slower than values, at worst half as fast.
    assert (error.abs() < 5 * (2 / (count / 2)) ** 0.5).all(), error
    if isinstance(posterior, NoiseVI):
        spread = (1 / count - 1 / posterior.draws) ** 0.5
        assert abs(posterior.log_evidence - evidence) < 5 * spread + 1e-3, (posterior.log_evidence, evidence)


MCMC_RUN = partial(NoiseMCMC, draws=250, warmup=100, kernel=partial(NUTS, max_tree_depth=4))
VI_RUN = partial(NoiseVI, draws=300, steps=200, optimizer=partial(Adam, lr=0.05))
RUNS = [pytest.param(MCMC_RUN, id="mcmc", marks=pytest.mark.slow), pytest.param(VI_RUN, id="vi")]


@pytest.mark.parametrize("make", RUNS)
def test_affine_flow_under_linear_measurements(make):
    flow, operator = affine_flow(3), torch.randn(2, 3)

    def model(y):
        x = pyro.sample("x", flow())
        pyro.sample("y", dist.Normal(operator @ x, NOISE).to_event(1), obs=y)

    y = torch.tensor([1.0, -0.5])
    posterior = make(model, site="x").run(y)
    mean, covariance = push_forward(flow)
    gaussian_close(posterior, posterior.get_samples()["x"], *conditioned(mean, covariance, operator, y))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in flow.parameters())


@pytest.mark.parametrize("noise_shape", [(4,), (2, 2)])
@pytest.mark.parametrize("make", RUNS)
def test_an_implicit_generator_has_a_posterior(make, noise_shape):
    prior, operator = Implicit(noise_shape, 6), torch.randn(2, 6)
    assert pg.density_of(prior()) is None

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(operator @ x, NOISE).to_event(1), obs=y)

    y = torch.tensor([1.0, -0.5])
    posterior = make(model, site="x").run(y)
    bias, weight = (prior.generator[1].bias.detach(), prior.generator[1].weight.detach())
    mean, covariance, evidence = conditioned(bias, weight @ weight.T, operator, y)
    gaussian_close(posterior, posterior.get_samples()["x"], mean, covariance, evidence)


@pytest.mark.parametrize("make", RUNS)
def test_probabilistic_principal_components(make):
    check_autoencoder(make, StandardNormal((2,)), torch.zeros(2), torch.eye(2))


def test_autoencoder_with_a_flow_prior():
    prior = affine_flow(2)
    check_autoencoder(VI_RUN, prior, *push_forward(prior))


def check_autoencoder(make, prior, mean, covariance):
    vae, operator = autoencoder(prior, 3), torch.randn(2, 3)

    def model(y):
        x = pyro.sample("x", vae())
        pyro.sample("y", dist.Normal(operator @ x, NOISE).to_event(1), obs=y)

    y = torch.tensor([1.0, -0.5])
    posterior = make(model, site="x").run(y)
    draws = torch.cat([posterior.get_samples()["x_latent"], posterior.get_samples()["x"]], -1)
    of_x = torch.cat([torch.zeros(2, 2), operator], 1)
    gaussian_close(posterior, draws, *conditioned(*joint_of(vae, mean, covariance), of_x, y))


@pytest.mark.parametrize("make", RUNS)
def test_upstream_site_and_plate(make):
    def model(y):
        centre = pyro.sample("centre", dist.Normal(1.0, 1.5))
        with pyro.plate("rows", 3):
            x = pyro.sample("x", Line()(centre))
            pyro.sample("y", dist.Normal(x, NOISE), obs=y)

    y = torch.tensor([1.0, -0.5, 2.0])
    posterior = make(model, site="x").run(y)
    factor = torch.cat([torch.tensor([[1.5], [1.5], [1.5], [1.5]]), SCALE * torch.eye(4)[:, 1:]], 1)
    operator = torch.eye(4)[1:]
    draws = torch.cat([posterior.get_samples()["centre"][:, None], posterior.get_samples()["x"]], 1)
    gaussian_close(posterior, draws, *conditioned(torch.ones(4), factor @ factor.T, operator, y))


def test_discrete_site_upstream_is_summed_over():
    table, odds, y = torch.tensor([-0.5, 0.7]), torch.tensor([0.6, 0.4]), torch.tensor(0.3)

    def model(y):
        label = pyro.sample("label", dist.Categorical(odds))
        x = pyro.sample("x", Line(table)(label))
        pyro.sample("y", dist.Normal(x, NOISE), obs=y)

    posterior = NoiseMCMC(model, site="x", draws=200, warmup=60, kernel=partial(NUTS, max_tree_depth=3)).run(y)
    draws, count = posterior.get_samples(), effective(posterior)
    log_joint = odds.log() + dist.Normal(table, (SCALE**2 + NOISE**2) ** 0.5).log_prob(y)
    share = log_joint.softmax(0)[1]
    assert abs(draws["label"].float().mean() - share) < 5 * (share * (1 - share) / count) ** 0.5
    gain = SCALE**2 / (SCALE**2 + NOISE**2)
    for label in (0, 1):
        own = draws["x"][draws["label"] == label]
        exact, spread = table[label] + gain * (y - table[label]), (gain * NOISE**2) ** 0.5
        assert abs(own.mean() - exact) < 5 * spread / (count * share.minimum(1 - share)) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "dimensions"),
    [
        pytest.param(partial(VI_RUN, draws=400), 2, id="vi"),
        pytest.param(partial(MCMC_RUN, draws=400, warmup=100), 1, id="mcmc"),
    ],
)
def test_probability_flow_against_quadrature(make, dimensions):
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]])[:, :dimensions]
    density, diffusion = mixture([0.7, 0.3], means, 0.4)
    prior, y = ProbabilityFlow(diffusion.denoiser, solver=FixedSolver(6)), torch.tensor(2.0)

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Poisson(x.sum(-1).exp()), obs=y)

    posterior = make(model, site="x").run(y)
    evidence, mean, covariance = quadrature(
        lambda x: density.log_prob(x) + dist.Poisson(x.sum(-1).exp()).log_prob(y), dimensions
    )
    draws, scale, count = posterior.get_samples()["x"].double(), covariance.diagonal().sqrt(), effective(posterior)
    assert ((draws.mean(0) - mean).abs() / scale < 5 / count**0.5 + 0.02).all(), (draws.mean(0), mean)
    error = (draws.T.cov().reshape(covariance.shape) - covariance) / scale.outer(scale)
    assert (error.abs() < 5 * (2 / (count / 2)) ** 0.5 + 0.02).all(), error
    if isinstance(posterior, NoiseVI):
        assert abs(posterior.log_evidence - evidence) < 5 * (1 / count - 1 / posterior.draws) ** 0.5 + 0.02


def test_probability_flow_in_noise():
    """A draw is what the flow makes of the noise, and the log joint is that of noise and measurement."""
    _, diffusion = mixture([0.7, 0.3], torch.tensor([[-1.0, 0.5], [1.0, 0.0]]), 0.4)
    prior, y = ProbabilityFlow(diffusion.denoiser, solver=FixedSolver(6)), torch.tensor(1.0)
    trace = pyro.poutine.trace(in_noise(sum_of(prior), site="x")).get_trace(y)
    noise, x = trace.nodes["x_noise"]["value"], trace.nodes["x"]["value"]
    base = prior().base_dist
    expected = base.mean + base.stddev * noise
    for part in prior().transforms:
        expected = part(expected)
    assert torch.allclose(x, expected)
    log_joint = dist.Normal(0.0, 1.0).log_prob(noise).sum() + dist.Normal(x.sum(), NOISE).log_prob(y)
    assert torch.allclose(trace.log_prob_sum(), log_joint)


def sum_of(prior):
    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x.sum(-1), NOISE), obs=y)

    return model


def test_works_with_plain_pyro():
    flow, y = pg.flows.affine_coupling((2,)), torch.tensor(1.0)
    model = in_noise(sum_of(flow), site="x")
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=6, warmup_steps=4, disable_progbar=True)
    mcmc.run(y)
    pushed = Predictive(model, mcmc.get_samples(), return_sites=["x"])(y)["x"]
    noise = mcmc.get_samples()["x_noise"]
    for part in flow().transforms:
        noise = part(noise)
    assert torch.allclose(pushed, noise)
    assert {"x", "x_noise"} <= set(pg.analysis.to_arviz(mcmc).posterior)
    guide = AutoNormal(model)
    assert pg.fit(pg.Elbo(model, guide), y[None], steps=2, seed=0).reason == "steps"


@pytest.mark.parametrize("make", [partial(NoiseMCMC, draws=4, warmup=2), partial(NoiseVI, draws=5, steps=3)])
def test_posteriors_go_to_arviz(make):
    posterior = make(sum_of(autoencoder(StandardNormal((2,)), 3)), site="x").run(torch.tensor(1.0))
    data = pg.analysis.to_arviz(posterior, torch.tensor(1.0))
    assert {"x", "x_latent"} == set(data.posterior)
    assert "collapsed" in data.posterior.attrs


def test_guides_of_one_class_do_not_meet():
    flow, y = affine_flow(2), torch.tensor(1.0)
    other = AutoMultivariateNormal(in_noise(sum_of(flow), site="x"))
    SVI(in_noise(sum_of(flow), site="x"), other, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(y)
    before = dict(pyro.get_param_store())
    posterior = NoiseVI(sum_of(flow), site="x", steps=2, draws=2).run(y)
    assert not torch.equal(posterior.guide.loc, other.loc)
    assert dict(pyro.get_param_store()).keys() == before.keys()


def test_observed_site_stays():
    flow = affine_flow(2)
    model = in_noise(lambda x: pyro.sample("x", flow(), obs=x), site="x")
    x = torch.randn(2)
    trace = pyro.poutine.trace(model).get_trace(x)
    assert torch.allclose(trace.log_prob_sum(), flow().log_prob(x))
    assert "x_noise" not in trace.nodes


def bernoulli():
    network = nn.Linear(2, 3)
    likelihood = pg.Parametric(network, pg.families.bernoulli, event_shape=(3,), context_shape=(2,))
    posterior = pg.Parametric(nn.Linear(3, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(3,))
    return VAE(StandardNormal((2,)), likelihood, posterior)


def pair():
    vae = autoencoder(StandardNormal((2,)), 3)
    return Marginal(vae.model, vae.guide, event_shape=(3,))


def diffusion():
    return Diffusion(GaussianMixtureDenoiser(dist.Normal(torch.zeros(2), 1.0).to_event(1), LinearVP()))


def dequantized():
    return pg.flows.Dequantized(pg.flows.affine_coupling((2,), interval=(0.0, 1.0)), symbols=4)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (bernoulli, ValueError, "IndependentBernoulli over integers"),
        (dequantized, ValueError, "UniformDequantized over integers"),
        (diffusion, ValueError, "use ProbabilityFlow"),
        (pair, NotImplementedError, "in your own"),
    ],
)
def test_refuses_what_has_no_noise(make, error, words):
    with pytest.raises(error, match=words):
        NoiseMCMC(sum_of(make()), site="x").run(torch.tensor(1.0))


def test_refuses_what_is_no_latent_site():
    with pytest.raises(ValueError, match="must be a latent site of the model, got 'z'"):
        NoiseVI(sum_of(affine_flow(2)), site="z").run(torch.tensor(1.0))
    with pytest.raises(ValueError, match="must come first"):
        NoiseVI(sum_of(affine_flow(2)), site="x").get_samples()
    with pytest.raises(ValueError, match="must come first"):
        NoiseMCMC(sum_of(affine_flow(2)), site="x").get_samples()
    with pytest.raises(ValueError, match="`draws` must be at least 4"):
        NoiseMCMC(sum_of(affine_flow(2)), site="x", draws=3)
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        NoiseVI(sum_of(affine_flow(2)), site="x", steps=0)


def unnormalized(scale=1.0):
    return stamped(dist.Laplace(torch.zeros(2), scale).to_event(1), "unnormalized")


def test_under_a_prior_known_up_to_a_constant_there_are_draws_and_no_evidence():
    posterior = NoiseVI(sum_of(unnormalized), site="x", draws=50, steps=20).run(torch.tensor(1.0))
    assert posterior.get_samples()["x"].shape == (50, 2)
    assert "log_evidence" not in posterior.attrs
    assert "but for a constant" in str(posterior.diagnostics())
    with pytest.raises(NotImplementedError, match="up to a constant"):
        _ = posterior.log_evidence


def test_a_measurement_known_up_to_a_constant_is_refused():
    def model(y):
        x = pyro.sample("x", affine_flow(2)())
        pyro.sample("y", unnormalized(x.exp()), obs=y)

    with pytest.raises(ValueError, match="`y` must have a normalized log_prob"):
        NoiseMCMC(model, site="x").run(torch.ones(2))
