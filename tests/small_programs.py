"""Small modules and Pyro programs that the tests of core and training share."""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

import pyrogen as pg


class Gaussian(pg.DistributionModule):
    """A diagonal normal with learnable parameters."""

    def __init__(self, size=2):
        super().__init__((size,))
        self.loc = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def forward(self, context=None):
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


def encoder(data=2, latent=2, hidden=8, dropout=0.0):
    """A normal posterior over latents, given data."""
    network = nn.Sequential(nn.Linear(data, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, 2 * latent))
    return pg.Parametric(network, pg.families.diagonal_normal, event_shape=(latent,), context_shape=(data,))


def decoder(data=2, latent=2, hidden=8):
    """A normal likelihood of data, given latents."""
    network = nn.Sequential(nn.Linear(latent, hidden), nn.Tanh(), nn.Linear(hidden, data))
    return pg.Parametric(network, pg.families.normal(0.5), event_shape=(data,), context_shape=(latent,))


class Model(nn.Module):
    """z from a prior, x from a likelihood."""

    def __init__(self, prior, likelihood):
        super().__init__()
        self.prior = prior
        self.likelihood = likelihood

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)


class Guide(nn.Module):
    """z given x."""

    def __init__(self, posterior):
        super().__init__()
        self.posterior = posterior

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def pair(dropout=0.0):
    """A small model/guide pair."""
    return Model(Gaussian(), decoder()), Guide(encoder(dropout=dropout))


class Latent(pg.DistributionModule):
    """A module that runs the pair of its parts, as a latent-variable model does."""

    density = "lower bound"

    def __init__(self, prior, likelihood, posterior):
        super().__init__(likelihood.event_shape)
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior

    def forward(self, context=None):
        return Draws(self.prior(), self.likelihood, self.posterior)


class Draws(dist.TorchDistribution):
    """A one-draw evidence lower bound as a distribution."""

    density = "lower bound"
    has_rsample = False
    arg_constraints = {}

    def __init__(self, prior, likelihood, posterior, batch_shape=()):
        self.prior, self.likelihood, self.posterior = prior, likelihood, posterior
        super().__init__(torch.Size(batch_shape), torch.Size(likelihood.event_shape), validate_args=False)

    @property
    def support(self):
        return dist.constraints.independent(dist.constraints.real, 1)

    def expand(self, batch_shape, _instance=None):
        return Draws(self.prior, self.likelihood, self.posterior, batch_shape)

    def sample(self, sample_shape=()):
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.likelihood(self.prior.sample(shape)).sample()

    def log_prob(self, x):
        posterior = self.posterior(x)
        z = posterior.rsample()
        return self.prior.log_prob(z) + self.likelihood(z).log_prob(x) - posterior.log_prob(z)


class Implicit(pg.DistributionModule):
    """Draws without a density."""

    density = None

    def __init__(self):
        super().__init__((2,))
        self.loc = nn.Parameter(torch.zeros(2))

    def forward(self, context=None):
        return dist.Delta(self.loc, event_dim=1)


rmsprop = partial(torch.optim.RMSprop, lr=1e-2)


class Game(nn.Module):
    """A generator and a critic."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))

    def fake(self, x):
        return self.generator(torch.randn(len(x), 2))

    def judge(self, x):
        return F.softplus(-self.critic(x)).mean() + F.softplus(self.critic(self.fake(x))).mean()

    def fool(self, x):
        return F.softplus(-self.critic(self.fake(x))).mean()

    def turns(self, repeats=2):
        return [
            pg.Turn(self.judge, self.critic, optimizer=rmsprop, repeats=repeats),
            pg.Turn(self.fool, self.generator.parameters()),
        ]


def weights(module):
    """All tensors of a module, copied."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    """Whether two states are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
