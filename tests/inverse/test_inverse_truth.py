"""Twisted SMC against closed forms and quadrature."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import close, gaussian, mixture, quadrature
from pyro.distributions import constraints

from pyrogen.inverse import FiniteParticle, Isotropic, TwistedSMC


@pytest.mark.parametrize("noise", [0.05, 0.5, 3.0])
def test_linear_gaussian(noise):
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 2.0]])
    prior, operator = gaussian(torch.tensor([0.5, 0.0, -1.0]), covariance), torch.randn(2, 3)

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(operator @ x, noise).to_event(1), obs=y)

    y = torch.tensor([1.0, -0.5])
    posterior = TwistedSMC(model, site="x", particles=2000, steps=100).run(y)
    marginal = operator @ covariance @ operator.T + noise**2 * torch.eye(2)
    gain = torch.linalg.solve(marginal, operator @ covariance).T
    mean = torch.tensor([0.5, 0.0, -1.0])
    exact = dist.MultivariateNormal(operator @ mean, marginal).log_prob(y)
    mean, covariance = mean + gain @ (y - operator @ mean), covariance - gain @ operator @ covariance
    close(posterior, "x", exact, mean.double(), covariance.double())


def student(x):
    return dist.StudentT(3.0, x.sum(-1), 0.4), torch.tensor(4.0)


def poisson(x):
    return dist.Poisson(x.sum(-1).exp()), torch.tensor(5.0)


def bernoulli(x):
    return dist.Bernoulli(logits=3 * x.sum(-1)), torch.tensor(1.0)


def phase(x):
    return dist.Normal(x.sum(-1).abs(), 0.3), torch.tensor(1.5)


def label(x):
    total = x.sum(-1)
    return dist.Categorical(logits=torch.stack([0 * total, 2 * total, 1 - total**2], -1)), torch.tensor(1)


class Learned(dist.TorchDistribution):
    """A likelihood with nothing but a log_prob."""

    arg_constraints = {}
    support = constraints.real

    def __init__(self, x):
        self.x = x
        super().__init__(x.shape[:-1], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return self

    def log_prob(self, value):
        return -((value - self.x.sum(-1)) ** 4)


def learned(x):
    return Learned(x), torch.tensor(0.7)


LIKELIHOODS = [student, poisson, bernoulli, phase, label, learned]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda likelihood: likelihood.__name__)
@pytest.mark.parametrize("dimensions", [1, 2])
def test_any_likelihood_against_quadrature(likelihood, dimensions):
    torch.manual_seed(1)
    means = torch.tensor([[-2.0, 1.0], [1.0, -0.5], [1.5, 2.0]])[:, :dimensions]
    density, prior = mixture([0.5, 0.3, 0.2], means, 0.5)

    def model():
        x = pyro.sample("x", prior())
        fn, value = likelihood(x)
        pyro.sample("y", fn, obs=value)

    def log_joint(x):
        fn, value = likelihood(x)
        return density.log_prob(x.float()).double() + fn.log_prob(value.to(x)).double()

    posterior = TwistedSMC(model, site="x", particles=2000, steps=100).run()
    close(posterior, "x", *quadrature(log_joint, dimensions))


@pytest.mark.parametrize("twist", [Isotropic(4.0), FiniteParticle(16, variance=1.0)], ids=lambda t: type(t).__name__)
def test_any_twist_gives_the_same_posterior(twist):
    torch.manual_seed(2)
    density, prior = mixture([0.6, 0.4], [[-1.0, 1.0], [1.0, 0.5]], 0.5)

    def model():
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x.prod(-1), 0.5), obs=torch.tensor(0.8))

    def log_joint(x):
        return density.log_prob(x.float()).double() + dist.Normal(x.prod(-1), 0.5).log_prob(torch.tensor(0.8))

    posterior = TwistedSMC(model, site="x", particles=3000, steps=100, twist=twist).run()
    close(posterior, "x", *quadrature(log_joint, 2))
