"""Skeletons of families to come: a game of generator and critic, and an energy trained on persistent chains.

Both use what ``training`` gives and change nothing in ``core``.
"""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from small_programs import same, weights
from torch import nn
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.core.objective import Objective
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.distributions.normal import UnitNormal
from pyrogen.training import Average, LocalBuffers, Turn, WholeSet

MEAN, SCALE = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0])
adam = partial(torch.optim.Adam, lr=5e-3, betas=(0.5, 0.9))


def data(rows=512, seed=0):
    return MEAN + SCALE * torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))


def network(outputs, width=32):
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))


class Draws(PyrogenDistribution):
    """Noise pushed through a network: draws without a density."""

    density = None
    has_rsample = has_push_forward = True
    support = constraints.real_vector

    def __init__(self, network, batch_shape=()):
        self.network = network
        super().__init__(torch.Size(batch_shape), torch.Size((2,)), validate_args=False)

    def _expanded(self, batch_shape):
        return Draws(self.network, batch_shape)

    def push_forward(self):
        return UnitNormal((2,), next(self.network.parameters()), self.batch_shape), self.network

    def rsample(self, sample_shape=()):
        noise, generate = self.push_forward()
        return generate(noise.sample(sample_shape))


class Generator(pg.DistributionModule):
    """An implicit model, whose objective is a game."""

    density = None

    def __init__(self):
        super().__init__((2,))
        self.network, self.critic = network(2), network(1)

    def forward(self, context=None):
        return Draws(self.network)

    def judge(self, x):
        with torch.no_grad():
            fake = self().sample((len(x),))
        return F.softplus(-self.critic(x)).mean() + F.softplus(self.critic(fake)).mean()

    def fool(self, x):
        return F.softplus(-self.critic(self().rsample((len(x),)))).mean()

    def objective(self):
        return [
            Turn(self.judge, self.critic, optimizer=adam, repeats=2),
            Turn(self.fool, self.network, optimizer=adam),
        ]


def energy_distance(x, y):
    """Of two samples, https://arxiv.org/abs/1206.1410."""
    within = torch.pdist(x).mean() + torch.pdist(y).mean()
    return 2 * torch.cdist(x, y).mean() - within


def play(steps, **arguments):
    """A game, its average and its metric, of fixed weights at the start."""
    torch.manual_seed(1)
    generator = Generator()
    distance = WholeSet(lambda x: energy_distance(generator().sample((len(x),)), x))
    result = pg.fit(
        generator,
        data(),
        steps=steps,
        batch_size=64,
        ema=Average(0.98, of=generator.network),
        validation=data(400, seed=1),
        metric=distance,
        validate_every=25,
        seed=0,
        **arguments,
    )
    return generator, result


def test_a_game_trains_a_generator():
    generator, result = play(300)
    distances = list(result.history.validation.values())
    assert min(distances) < 0.1 * distances[0]
    assert result.best_step == min(result.history.validation, key=result.history.validation.get)
    x = generator().sample((4000,))
    assert torch.allclose(x.mean(0), MEAN, atol=0.35)
    assert [len(losses) for losses in result.history.losses] == [300, 300]


def test_a_game_resumes_where_it_was(tmp_path):
    expected, whole = play(40)
    for steps in (7, 25, 40):
        generator, result = play(steps, checkpoint=tmp_path / "run")
    assert same(weights(generator), weights(expected))
    assert result.history.losses == whole.history.losses
    assert result.history.validation == whole.history.validation


@pytest.mark.parametrize("make", [lambda: Generator(), lambda: Energy()])
def test_the_skeletons_pass_the_contract(make):
    pg.testing.check_distribution(make(), event_shape=(2,))


def test_an_implicit_model_has_neither_guide_nor_likelihood():
    for refused in (lambda module: module.guide, pg.MaximumLikelihood):
        with pytest.raises(NotImplementedError, match="Generator"):
            refused(Generator())


class Energy(pg.DistributionModule):
    """An unnormalized density, trained by persistent contrastive divergence."""

    density = "unnormalized"

    def __init__(self):
        super().__init__((2,))
        self.network = network(1)

    def log_density(self, x):
        return self.network(x).squeeze(-1) - 0.5 * (x / 4).square().sum(-1)

    def forward(self, context=None):
        return Unnormalized(self)

    def objective(self):
        return PersistentDivergence(self)


class Unnormalized(PyrogenDistribution):
    density = "unnormalized"
    support = constraints.real_vector

    def __init__(self, energy, batch_shape=()):
        self.energy = energy
        super().__init__(torch.Size(batch_shape), torch.Size((2,)), validate_args=False)

    def _expanded(self, batch_shape):
        return Unnormalized(self.energy, batch_shape)

    def log_prob(self, x):
        log_density = self.energy.log_density(x)
        return log_density.expand(torch.broadcast_shapes(log_density.shape, self.batch_shape))


class PersistentDivergence(Objective):
    """The gradient of the likelihood, with draws of chains that go on from step to step.

    Tieleman 2008, "Training restricted Boltzmann machines using approximations to the likelihood gradient".
    """

    def __init__(self, energy, chains=1000, langevin_steps=5, step_size=0.1):
        super().__init__()
        self.energy = energy
        self.replay = LocalBuffers({"x": 3 * torch.randn(chains, 2)})
        self.langevin_steps, self.step_size = langevin_steps, step_size

    def forward(self, x):
        rows = torch.randint(len(self.replay["x"]), (len(x),))
        draws = self.moved(self.replay["x"][rows])
        if self.training:
            self.replay["x"][rows] = draws
        energies = self.energy.log_density(draws), self.energy.log_density(x)
        return energies[0].mean() - energies[1].mean() + 0.01 * sum(energy.square().mean() for energy in energies)

    def moved(self, x):
        for _ in range(self.langevin_steps):
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.energy.log_density(x).sum(), x)
            x = x + 0.5 * self.step_size * slope + self.step_size**0.5 * torch.randn_like(x)
        return x.detach()


def train_energy(steps, **arguments):
    torch.manual_seed(2)
    objective = Energy().objective()
    optimizer = partial(torch.optim.Adam, lr=3e-3)
    result = pg.fit(objective, data(), steps=steps, batch_size=64, optimizer=optimizer, seed=0, clip=5.0, **arguments)
    return objective, result


def test_persistent_chains_become_draws_of_the_data():
    objective, _ = train_energy(300)
    chains = objective.replay["x"]
    assert torch.allclose(chains.mean(0), MEAN, atol=0.4)
    assert (chains.std(0) < 2).all()


def test_persistent_chains_resume_where_they_were(tmp_path):
    expected, whole = train_energy(20)
    for steps in (1, 6, 20):
        objective, result = train_energy(steps, checkpoint=tmp_path / "run")
    assert result.history.losses == whole.history.losses
    assert same(weights(objective), weights(expected))
    assert torch.equal(objective.replay["x"], expected.replay["x"])


def test_neither_dry_run_nor_validation_moves_the_chains():
    objective, _ = train_energy(1)
    torch.manual_seed(2)
    untouched = Energy().objective().replay["x"]
    moved = (objective.replay["x"] != untouched).any(-1)
    assert 0 < moved.sum() <= 64  # those of the one step alone
    validated, _ = train_energy(1, validation=data(10, seed=3))
    assert torch.equal(validated.replay["x"], objective.replay["x"])


def test_a_generator_is_a_prior_of_inverse_problems():
    torch.manual_seed(0)
    generator, y = Generator(), torch.tensor([0.3, -0.2])
    generator.network = nn.Linear(2, 2)
    weight, bias = generator.network.weight.detach(), generator.network.bias.detach()

    def model(y):
        pyro.sample("y", dist.Normal(pyro.sample("x", generator()), 0.5).to_event(1), obs=y)

    posterior = pg.inverse.NoiseVI(model, site="x", draws=1000, steps=100).run(y)
    gain = weight @ weight.T @ torch.linalg.inv(weight @ weight.T + 0.25 * torch.eye(2))
    assert torch.allclose(posterior.get_samples()["x"].mean(0), bias + gain @ (y - bias), atol=0.05)
