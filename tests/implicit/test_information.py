"""Codes: the bound of their information against the truth, and the modes of a ring recognized."""

from math import log, pi

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.core.normal import StandardNormal
from pyrogen.implicit import Information, mlp, mlp_critic
from pyrogen.latent import Classes


class Linear(pg.DistributionModule):
    """N(slope * context, scale^2) of one number."""

    def __init__(self, slope, scale):
        super().__init__((1,), (1,))
        self.slope, self.scale = nn.Parameter(torch.tensor(float(slope))), scale

    def forward(self, context=None):
        return dist.Normal(self.slope * context, self.scale).to_event(1)


def classifier(classes, inputs=2):
    network = nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, classes))
    return pg.Parametric(network, pg.families.categorical(classes), event_shape=(), context_shape=(inputs,))


def test_the_bound_is_the_information_of_the_exact_posterior_and_less_of_another():
    """c ~ N(0, 1), x = c + N(0, s^2): log(1 + 1/s^2) / 2 nats; another posterior loses its mean divergence."""
    torch.manual_seed(0)
    noise = 0.5
    truth, deviation = 0.5 * log(1 + 1 / noise**2), (noise**2 / (1 + noise**2)) ** 0.5

    def bound(slope, scale):
        recognition = Linear(slope, scale)
        return Information(Linear(1, noise), StandardNormal((1,)), recognition, mlp_critic((1,))).bound(draws=100_000)

    exact = bound(1 / (1 + noise**2), deviation)
    assert (exact.label, exact.unit) == ("lower bound", "nats")
    assert abs(exact.value - truth) < 4 * exact.standard_error
    wide = bound(1 / (1 + noise**2), 2 * deviation)
    divergence = log(2) + 1 / 8 - 0.5  # of N(m, s^2) from N(m, 4 s^2)
    assert abs(wide.value - (truth - divergence)) < 4 * wide.standard_error
    for slope, scale in ((0.5, 0.6), (1.0, 0.3), (0.0, 1.0)):
        assert bound(slope, scale).value < truth


def test_a_bound_of_classes_is_never_more_than_their_entropy():
    torch.manual_seed(0)
    generator = mlp((2,), classes=8, noise=(2,), hidden=(8,))
    bound = Information(generator, Classes(8), classifier(8), mlp_critic((2,))).bound(draws=2000)
    assert bound.value < log(8)


def two_codes(**arguments):
    """A generator of a label, a number and a context."""
    return Information(
        mlp((2,), {"kind": (), "style": (1,), "c": (3,)}, classes={"kind": 4}, noise=(2,), hidden=(8,)),
        {"kind": Classes(4), "style": StandardNormal((1,))},
        {
            "kind": classifier(4),
            "style": pg.Parametric(nn.Linear(2, 2), pg.families.diagonal_normal, event_shape=(1,), context_shape=(2,)),
        },
        mlp_critic((2,), {"c": (3,)}, hidden=(8,)),
        **arguments,
    )


def test_several_codes_stand_beside_a_context():
    torch.manual_seed(0)
    information, context = two_codes(weight=0.3), {"c": torch.randn(64, 3)}
    result = pg.fit(information, (torch.randn(64, 2), context), steps=3, batch_size=16, seed=0, validation=0.2)
    assert len(result.history.losses[0]) == 3
    torch.manual_seed(0)
    both = information.bound(context)
    torch.manual_seed(0)
    kind = information.bound(context, name="kind")
    torch.manual_seed(0)
    style = information.bound(context, name="style")
    assert both.value == pytest.approx(kind.value + style.value, abs=1e-5)
    assert kind.value < log(4)
    assert information.marginal(context).sample().shape == (64, 2)
    assert not information.coded.codes["kind"].logits.any()  # as it was


def test_the_contract_of_the_turns():
    """Of a loss that moves every parameter, without penalties."""

    def make():
        return two_codes(loss=pg.implicit.NonSaturating(), penalties=()).turns()

    report = pg.testing.check_objective(make, (torch.randn(8, 2), {"c": torch.randn(8, 3)}))
    # Under validation a game takes the gradient by events as well.
    assert {finding.name for finding in report.failures} <= {"parameters_registered"}, report


def test_the_contract_of_events_with_drawn_codes():
    """Codes have no gradient: they are drawn, and stay as they are."""

    def make():
        return two_codes().coded

    report = pg.testing.check_distribution(make, event_shape=(2,), context={"c": torch.randn(4, 3)})
    assert {finding.name for finding in report.failures} <= {"gradients_reach_parameters"}, report


@pytest.mark.slow
def test_recognition_learns_the_posterior_of_a_generator_that_stays_as_it_is():
    """Its bound becomes the information, log(1 + 1/s^2) / 2 nats, from below."""
    torch.manual_seed(0)
    generator, recognition = Linear(1, 0.5), Linear(0.0, 0.447)
    generator.requires_grad_(False)
    information = Information(generator, StandardNormal((1,)), recognition, mlp_critic((1,), hidden=(8,)))
    x = torch.randn(2000, 1) + 0.5 * torch.randn(2000, 1)
    assert information.bound().value < 0.3
    pg.fit(information, x, steps=300, batch_size=250, lr=2e-2, ema=0.98, seed=0)
    bound = information.bound(draws=100_000)
    assert abs(bound.value - 0.5 * log(5)) < 4 * bound.standard_error + 0.002
    assert recognition.slope.item() == pytest.approx(0.8, abs=0.02)


def ring(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    angle = torch.randint(8, (rows,), generator=generator) * pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(rows, 2, generator=generator)


@pytest.mark.slow
def test_the_code_of_a_ring_is_its_modes():
    torch.manual_seed(0)
    generator = mlp((2,), classes=8, noise=(2,), hidden=(64, 64))
    information = Information(generator, Classes(8), classifier(8), mlp_critic((2,), hidden=(64, 64)))
    pg.fit(information, ring(5000), steps=1200, batch_size=256, lr=2e-3, ema=0.99, seed=0)
    bound = information.bound()
    assert 2.0 < bound.value < log(8) + 4 * bound.standard_error
    with torch.no_grad():
        drawn = generator(torch.arange(8)).sample((500,))  # (500, 8, 2)
    modes = (torch.atan2(drawn[..., 1], drawn[..., 0]) * 4 / pi).round().long() % 8
    most = modes.mode(0).values
    assert len(set(most.tolist())) == 8
    assert (modes == most).float().mean() > 0.9


def test_mistakes_are_named():
    generator, critic = mlp((2,), classes=8, noise=(2,)), mlp_critic((2,))
    with pytest.raises(
        ValueError, match=r"`generator` must take the code 'code' of shape \(1,\), got context shape \(\)"
    ):
        Information(generator, StandardNormal((1,)), classifier(8), critic)
    with pytest.raises(
        ValueError, match=r"`recognition` must take events of shape \(2,\) and give codes of shape \(\)"
    ):
        Information(generator, Classes(8), classifier(8, inputs=3), critic)
    with pytest.raises(ValueError, match=r"`recognition` must be of the codes \['code'\], got \['kind'\]"):
        Information(generator, Classes(8), {"kind": classifier(8)}, critic)
    with pytest.raises(ValueError, match="`weight` must not be negative"):
        Information(generator, Classes(8), classifier(8), critic, weight=-1.0)
    with pytest.raises(ValueError, match=r"`name` must be one of \['code'\], got 'style'"):
        Information(generator, Classes(8), classifier(8), critic).bound(name="style")
