"""Sound modules of every kind keep the contract; what does not apply to them is skipped with a reason."""

import math

import pytest
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from sound_modules import Bell, SoundBijection, SoundDistribution, SoundObjective
from torch import nn
from torch.distributions import constraints

from pyrogen.core.module import DistributionModule, MaximumLikelihood
from pyrogen.core.objective import Elbo
from pyrogen.core.parametric import Parametric
from pyrogen.distributions import families
from pyrogen.testing import check_bijection, check_distribution, check_objective
from pyrogen.training.turn import Turn

ROWS = 5
FAMILIES = {
    "diagonal_normal": families.diagonal_normal,
    "student_t": families.student_t,
    "bernoulli": families.bernoulli,
    "categorical": families.categorical(3),
    "beta": families.beta,
    "gamma": families.gamma,
    "poisson": families.poisson,
}


class Numbers(nn.Module):
    """Learnable numbers, for distributions without a context."""

    def __init__(self, size):
        super().__init__()
        self.numbers = nn.Parameter(torch.zeros(size))

    def forward(self):
        return self.numbers


class Joined(nn.Module):
    """A network of a dict of contexts."""

    def __init__(self, size):
        super().__init__()
        self.line = nn.Linear(5, size)

    def forward(self, context):
        return self.line(torch.cat([context["place"], context["time"]], -1))


CONTEXTS = {
    "none": (Numbers, None, None),
    "vector": (lambda size: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, size)), (3,), torch.randn(ROWS, 3)),
    "dict": (Joined, {"place": (2,), "time": (3,)}, {"place": torch.randn(ROWS, 2), "time": torch.randn(ROWS, 3)}),
    "label": (lambda size: nn.Embedding(4, size), (), torch.arange(ROWS) % 4),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_parametric_keeps_the_contract(family, context):
    network, context_shape, values = CONTEXTS[context]
    size = FAMILIES[family].size * 2

    def make():
        return Parametric(network(size), FAMILIES[family], event_shape=(2,), context_shape=context_shape)

    report = check_distribution(make, event_shape=(2,), context=values)
    assert report.passed, str(report)


@pytest.mark.parametrize("event_shape", [(), (1,), (2, 3), (40,)])
@pytest.mark.parametrize("family", ["diagonal_normal", "bernoulli", "beta"])
def test_events_of_any_shape_keep_the_contract(family, event_shape):
    size = FAMILIES[family].size * math.prod(event_shape)
    report = check_distribution(
        lambda: Parametric(nn.Linear(3, size), FAMILIES[family], event_shape=event_shape, context_shape=(3,)),
        event_shape=event_shape,
        context=torch.randn(ROWS, 3),
    )
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_parametric_keeps_the_slow_contract(family):
    size = FAMILIES[family].size * 3
    report = check_distribution(
        lambda: Parametric(nn.Linear(3, size), FAMILIES[family], event_shape=(3,), context_shape=(3,)),
        event_shape=(3,),
        context=torch.randn(ROWS, 3),
        slow=True,
    )
    assert report.passed, str(report)


class NormalizedInTraining(SoundDistribution):
    """Batch statistics and dropout, sound: off in evaluation, kept as buffers."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.BatchNorm1d(8), nn.Linear(8, 4))

    def numbers(self, context):
        rows = context.reshape(context.shape[:-1].numel(), 3)
        return self.network(rows).reshape(*context.shape[:-1], 4)


def test_a_module_that_trains_and_evaluates_differently_keeps_the_contract():
    report = check_distribution(NormalizedInTraining, event_shape=(2,), context=torch.randn(ROWS, 3))
    assert report.passed, str(report)


class Implicit(TorchDistribution):
    """A generator without density."""

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True
    density = None

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    def expand(self, batch_shape, _instance=None):
        return Implicit(self.loc.expand(torch.Size(batch_shape) + self.event_shape))

    def rsample(self, sample_shape=()):
        return (self.loc + torch.randn(self.shape(torch.Size(sample_shape)), dtype=self.loc.dtype)).sin()


class Generator(DistributionModule):
    density = None

    def __init__(self):
        super().__init__(event_shape=(2,), context_shape=(3,))
        self.network = nn.Linear(3, 2)

    def forward(self, context=None):
        return Implicit(self.network(context))

    def objective(self):
        raise NotImplementedError("needs a critic")


class Energy(Bell):
    density = "unnormalized"
    has_rsample = False
    has_rsample_and_log_prob = False

    def rsample(self, sample_shape=()):
        raise NotImplementedError

    def scores(self, value):
        return super().scores(value) + 3.0


class MultiplyingEnergy(Energy):
    def scores(self, value):  # a product of matrices does not promote float32
        return super().scores(value @ torch.eye(2, dtype=self.loc.dtype))


class EnergyModel(SoundDistribution):
    density = "unnormalized"

    def objective(self):
        raise NotImplementedError("needs a surrogate")


class SampledEnergy(Bell):
    density = "unnormalized"
    has_rsample_and_log_prob = False

    def scores(self, value):
        return super().scores(value) + 3.0


class NoisyBound(Bell):
    """Half a nat below the density on average, with noise."""

    density = "lower bound"
    gap, noise_scale = 0.5, 0.3

    def log_prob(self, value):
        score = super().log_prob(value)
        return score - self.gap + self.noise_scale * torch.randn_like(score)

    has_rsample_and_log_prob = False  # none: a bound scores what it is given


class NoisyEstimate(NoisyBound):
    density = "estimate"
    gap = 0.0


class WithDensity(SoundDistribution):
    def __init__(self, kind):
        super().__init__(kind)
        self.density = kind.density


def test_implicit_module_keeps_what_applies():
    report = check_distribution(Generator, event_shape=(2,), context=torch.randn(ROWS, 3))
    assert report.passed, str(report)
    reasons = {finding.name: finding.sentence for finding in report.skipped}
    assert {"normalization", "samples_follow_log_prob", "nuts", "svi_likelihood", "vmap"} <= set(reasons)
    assert "the density is None" in reasons["normalization"]


@pytest.mark.parametrize("kind", [Energy, MultiplyingEnergy, SampledEnergy])
def test_unnormalized_module_keeps_what_applies(kind):
    report = check_distribution(lambda: EnergyModel(kind), event_shape=(2,), context=torch.randn(ROWS, 3))
    assert report.passed, str(report)
    skipped = {finding.name for finding in report.skipped}
    assert {"normalization", "svi_likelihood", "svi_guide"} <= skipped
    assert ("samples_follow_log_prob" in skipped) == issubclass(kind, Energy)


@pytest.mark.parametrize("kind", [NoisyBound, NoisyEstimate])
def test_noisy_module_keeps_what_applies(kind):
    report = check_distribution(lambda: WithDensity(kind), event_shape=(2,), context=torch.randn(ROWS, 3))
    assert report.passed, str(report)
    skipped = {finding.name for finding in report.skipped}
    assert {"samples_follow_log_prob", "batch_invariance", "nuts"} <= skipped
    assert "refused_noise" not in skipped


class TooHighBound(NoisyBound):
    gap = -0.5


class TooHighEstimate(NoisyEstimate):
    gap = -0.5


@pytest.mark.parametrize("kind", [TooHighBound, TooHighEstimate])
def test_noisy_module_above_its_density_is_caught(kind):
    report = check_distribution(
        lambda: WithDensity(kind), event_shape=(2,), context=torch.randn(ROWS, 3), only=["normalization"]
    )
    assert not report.passed, str(report)


class BadSampler(SampledEnergy):
    def rsample(self, sample_shape=()):
        return 2 * super().rsample(sample_shape)


def test_bad_sampler_of_an_energy_is_caught():
    context = torch.randn(ROWS, 3)
    report = check_distribution(
        lambda: EnergyModel(BadSampler), event_shape=(2,), context=context, only=["samples_follow_log_prob"]
    )
    assert not report.passed, str(report)


def test_elbo_and_likelihood_keep_the_contract_of_objectives():
    x, context = torch.randn(20, 2), torch.randn(20, 3)
    for make in (
        lambda: MaximumLikelihood(SoundDistribution()),
        lambda: Elbo((module := SoundDistribution()).model, module.guide),
    ):
        report = check_objective(make, (x, context))
        assert report.passed, str(report)


@pytest.mark.slow
def test_slow_tiers_pass_on_sound_modules():
    context = torch.randn(ROWS, 3)
    check_distribution(SoundDistribution, event_shape=(2,), context=context, slow=True).raise_if_failed()
    check_bijection(SoundBijection, event_shape=(2,), context=context, slow=True).raise_if_failed()
    check_objective(SoundObjective, torch.randn(20, 3), slow=True).raise_if_failed()


class Critic(nn.Module):
    """What a game's critic minimizes: its scores of data apart from those of draws."""

    def __init__(self, generator, critic):
        super().__init__()
        self.generator, self.critic = generator, critic

    def forward(self, x):
        draws = self.generator(torch.randn_like(x)).detach()
        return F.softplus(-self.critic(x)).mean() + F.softplus(self.critic(draws)).mean()


class Fooling(Critic):
    """What the generator minimizes."""

    def forward(self, x):
        return F.softplus(-self.critic(self.generator(torch.randn_like(x)))).mean()


def game():
    generator, critic = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    return [Turn(Critic(generator, critic), critic), Turn(Fooling(generator, critic), generator)]


def test_the_turns_of_a_game_keep_the_contract():
    report = check_objective(game, torch.randn(12, 2))
    assert report.passed, str(report)
    assert {finding.name for finding in report.skipped} <= {"device"}


def test_a_turn_that_trains_what_its_loss_does_not_depend_on_is_caught():
    def make():
        critic_turn, generator_turn = game()
        return [critic_turn, Turn(critic_turn.objective, generator_turn.parameters)]

    report = check_objective(make, torch.randn(12, 2), only=["gradients_reach_parameters"])
    assert "no gradient reaches" in report.failures[0].sentence


def test_turns_of_functions_cannot_be_checked():
    report = check_objective(lambda: Turn(lambda x: x.mean(), nn.Linear(1, 1)), torch.randn(12, 2))
    assert "turns whose objectives are modules" in report.failures[0].sentence
