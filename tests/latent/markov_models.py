"""State-space models whose answers are known: a first-order autoregressive process seen in noise."""

import torch
from torch import nn

from pyrogen import families, latent
from pyrogen.latent.state_space.linear import rooted
from pyrogen.latent.state_space.parts import Dynamics, Emissions, Inference
from pyrogen.networks.step_context import StepContext
from pyrogen.networks.transition import Transition


class Autoregression(Transition):
    """The transition z' ~ N(a z, q), as a network."""

    project = None

    def __init__(self, a=0.9, q=0.19):
        super().__init__()
        self.a, self.log_scale = a, 0.5 * torch.tensor(q).double().log()

    def forward(self, z, projected=None):
        return self.a * z, self.log_scale.expand_as(z)


class Told(nn.Module):
    """Messages of which both vectors are given, for any sequence of the right length."""

    future = True

    def __init__(self, find):
        super().__init__()
        self.find = find

    def forward(self, x, given, gaps):
        return self.find(x)


def process(length, r, find, *, structured=True):
    """The stationary process of variance one, seen with noise of variance r; ``find`` gives the messages."""
    prior = Dynamics(length, 1, Autoregression(), StepContext())
    likelihood = Emissions(length, (1,), 1, nn.Identity(), families.normal(r**0.5), StepContext())
    posterior = Inference(prior, (1,), Told(find), StepContext(), structured=structured)
    return latent.StateSpaceModel(prior, likelihood, posterior, draws=4).double()


def precision(length, r, a=0.9, q=0.19):
    """The precision of all states given all observations."""
    covariance = a ** (torch.arange(length)[:, None] - torch.arange(length)).abs().double()
    assert abs(q - (1 - a * a)) < 1e-9
    return torch.linalg.inv(covariance) + torch.eye(length).double() / r


def exact_messages(r, a=0.9, q=0.19):
    """What the observations from each step on say about its state, by a recursion written anew; NaN says nothing."""

    def find(x):
        linear, weight = torch.zeros_like(x), torch.zeros_like(x)
        h = j = torch.zeros_like(x[:, 0])
        for step in reversed(range(x.shape[1])):
            here = x[:, step]
            h = a * h / (1 + q * j) + torch.where(here.isnan(), 0.0, here / r)
            j = a * a * j / (1 + q * j) + torch.where(here.isnan(), 0.0, 1 / r)
            linear[:, step], weight[:, step] = h, j
        loc = linear / weight.clamp(min=1e-300)
        # The network bounds log-scales by 10 tanh(s / 10).
        return loc, 10 * torch.atanh(-0.5 * weight.clamp(min=1e-8).log() / 10)

    return find


def dense(module, context=None):
    """Mean and covariance of observations and of states of a linear-Gaussian model, and their cross-covariance."""
    start, move = module.prior.chain(context)
    likelihood, length = module.likelihood, module.length
    loc, variance, rows = [start.loc], [start.covariance], []
    for matrix, shift, root in zip(move.matrix, move.shift, move.root, strict=True):
        loc.append(matrix @ loc[-1] + shift)
        variance.append(matrix @ variance[-1] @ matrix.T + root @ root.T)
    for row in range(length):
        block, blocks = variance[row], []
        for column in range(row, length):
            blocks.append(block)
            block = move.matrix[column] @ block if column < length - 1 else block
        rows.append(blocks)
    full = torch.cat(
        [torch.cat([rows[c][r - c] if r >= c else rows[r][c - r].T for c in range(length)], 1) for r in range(length)]
    )
    loading = torch.block_diag(*[likelihood.loading.weight] * length)
    noise = torch.diag((2 * likelihood.log_scale).exp().repeat(length))
    mean = torch.cat(loc)
    seen = loading @ mean + likelihood.loading.bias.repeat(length)
    return seen, loading @ full @ loading.T + noise, mean, full, full @ loading.T


def linear_model(length=6, observations=2, states=2, seed=0, **more):
    """A linear-Gaussian model away from where it starts, in double precision."""
    torch.manual_seed(seed)
    module = latent.linear_gaussian((length, observations), latent_shape=states, **more).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


__all__ = ["dense", "exact_messages", "linear_model", "precision", "process", "rooted"]
