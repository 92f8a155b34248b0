"""Twisted SMC against closed forms and quadrature."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from inverse_problems import close, gaussian, mixture, quadrature
from pyro.distributions import constraints

from pyrogen.inverse import FiniteParticle, Isotropic, TwistedSMC
from pyrogen.inverse.twist import Twisted


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


def number(value):
    return torch.tensor(float(value))


def total(x):
    return x.sum(-1)


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


def labels(x):
    s = total(x)
    return dist.Categorical(logits=torch.stack([0 * s, 2 * s, 1 - s**2], -1))


def two_ways(x):
    s = total(x)
    parts = dist.Normal(torch.stack([s - 2, s + 2], -1), 0.3)
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), parts)


def outliers(x):
    s = total(x)
    parts = dist.Normal(torch.stack([s, 0 * s], -1), torch.tensor([0.2, 3.0]))
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.9, 0.1])), parts)


def curve(x):
    s = total(x)
    return dist.MultivariateNormal(torch.stack([s, s**2], -1), 0.1 * torch.eye(2))


LIKELIHOODS = {
    "Poisson": (lambda x: dist.Poisson(total(x).exp()), number(5)),
    "Poisson, steep": (lambda x: dist.Poisson((2 * total(x) + 1).exp()), number(40)),
    "Poisson, softplus": (lambda x: dist.Poisson(torch.nn.functional.softplus(3 * total(x))), number(7)),
    "Bernoulli": (lambda x: dist.Bernoulli(logits=8 * total(x)), number(1)),
    "Categorical": (labels, torch.tensor(1)),
    "NegativeBinomial": (lambda x: dist.NegativeBinomial(3.0, logits=2 * total(x)), number(12)),
    "LogNormal": (lambda x: dist.LogNormal(total(x), 0.2), number(3)),
    "Laplace": (lambda x: dist.Laplace(total(x), 0.1), number(2.5)),
    "StudentT": (lambda x: dist.StudentT(3.0, total(x), 0.4), number(4)),
    "Cauchy": (lambda x: dist.Cauchy(total(x), 0.1), number(3)),
    "Gamma, rate": (lambda x: dist.Gamma(3.0, total(x).exp()), number(0.2)),
    "Gamma, shape": (lambda x: dist.Gamma(total(x).exp(), 2.0), number(4)),
    "Beta": (lambda x: dist.Beta(total(x).exp() + 0.1, 2.0), number(0.9)),
    "VonMises": (lambda x: dist.VonMises(2 * total(x), 20.0), number(1)),
    "HalfNormal": (lambda x: dist.HalfNormal(total(x).exp()), number(0.5)),
    "mixture of explanations": (two_ways, number(0.3)),
    "mixture with outliers": (outliers, number(3)),
    "heteroscedastic": (lambda x: dist.Normal(total(x), total(x).exp()), number(1)),
    "scale": (lambda x: dist.Normal(0 * total(x), total(x).exp()), number(2)),
    "cube": (lambda x: dist.Normal(total(x) ** 3, 0.5), number(5)),
    "square": (lambda x: dist.Normal(total(x) ** 2, 0.2), number(3)),
    "absolute": (lambda x: dist.Normal(total(x).abs(), 0.3), number(1.5)),
    "clamped": (lambda x: dist.Normal(total(x).clamp(-1, 1), 0.1), number(1.05)),
    "step": (lambda x: dist.Normal((total(x) > 0.5).to(x.dtype), 0.3), number(0.8)),
    "sine": (lambda x: dist.Normal((4 * total(x)).sin(), 0.1), number(0.5)),
    "curve": (curve, torch.tensor([1.0, 1.2])),
    "learned": (Learned, number(0.7)),
    "factor": (lambda x: dist.Unit(-8 * (total(x) ** 2 - 2) ** 2), None),
    "factor, steep": (lambda x: dist.Unit(3 * total(x) - (2 * total(x)).exp()), None),
}
FAST = (
    "Poisson, steep",
    "LogNormal",
    "Laplace",
    "mixture of explanations",
    "cube",
    "square",
    "clamped",
    "step",
    "factor",
)
TWO = ("Poisson, steep", "Laplace", "mixture of explanations", "cube", "square", "clamped", "learned", "factor")
CASES = [
    *(pytest.param(name, 1, marks=() if name in FAST else pytest.mark.slow) for name in LIKELIHOODS),
    *(pytest.param(name, 2, marks=() if name == "square" else pytest.mark.slow) for name in TWO),
]


@pytest.mark.parametrize(("name", "dimensions"), CASES, ids=str)
def test_any_likelihood_against_quadrature(name, dimensions):
    torch.manual_seed(1)
    likelihood, y = LIKELIHOODS[name]
    means = torch.tensor([[-2.0, 1.0], [1.0, -0.5], [1.5, 2.0]])[:, :dimensions]
    density, prior = mixture([0.5, 0.3, 0.2], means, 0.5)
    y = torch.empty(0) if y is None else y

    def model():
        pyro.sample("y", likelihood(pyro.sample("x", prior())), obs=y)

    def log_joint(x):
        return density.log_prob(x.float()).double() + likelihood(x.float()).log_prob(y).double()

    with pyro.validation_enabled(False):
        truth = quadrature(log_joint, dimensions, points=4001)
    # Between modes the chain's own error, which falls with its steps, is larger in two dimensions.
    particles, steps = (500, 30) if dimensions == 1 else (1000, 90)
    posterior = TwistedSMC(model, site="x", particles=particles, steps=steps).run()
    assert not posterior.diagnostics().collapsed
    close(posterior, "x", *truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square", "sine", "cube", "Poisson, steep"])
def test_many_unknowns_behind_one_number(name):
    """The same problems along one direction of sixteen, whose posterior is that of one dimension."""
    torch.manual_seed(0)
    likelihood, y = LIKELIHOODS[name]
    direction = torch.full((16,), 0.25)
    prior = gaussian(0.5 * direction, 1.44 * torch.eye(16))

    def model():
        x = pyro.sample("x", prior())
        pyro.sample("y", likelihood((x @ direction).unsqueeze(-1)), obs=y)

    def log_joint(s):
        return dist.Normal(0.5, 1.2).log_prob(s.sum(-1)) + likelihood(s.float()).log_prob(y)

    exact, mean, covariance = quadrature(log_joint, 1, points=4001)
    posterior = TwistedSMC(model, site="x", particles=1000, steps=50).run()
    assert abs(posterior.log_evidence - exact) < 4 * posterior.diagnostics().standard_error + 0.05
    found = posterior.get_samples()["x"] @ direction
    assert abs(found.mean() - mean) < 5 * (covariance.item() / 300) ** 0.5


def test_an_answer_that_misses_an_explanation_is_said_to():
    """A twist that knows one root of a square leads all particles there; draws of the prior know both."""

    class OneSided(Isotropic):
        def __call__(self, target, denoised):
            s = denoised.mean.sum(-1)
            return Twisted(
                dist.Normal(1.75, 0.1).log_prob(s), 5 * (1.75 - denoised.mean) * denoised.level.variance**0.5
            )

    _, prior = mixture([1.0], [[0.0]], 1.0)

    def model():
        pyro.sample("y", dist.Normal(pyro.sample("x", prior()).sum() ** 2, 0.2), obs=number(3))

    diagnostics = TwistedSMC(model, site="x", particles=1000, steps=50, twist=OneSided()).run().diagnostics()
    assert diagnostics.contradicted.all() or diagnostics.collapsed
    assert "COLLAPSED" in str(diagnostics)


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
