"""What every distribution of ours takes: its own event shape, batch shapes that broadcast, values in its support."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.distributions import (
    DiagonalNormal,
    Incomplete,
    IndependentBernoulli,
    Mixture,
    PixelLogisticMixture,
    UniformDequantized,
    UnitNormal,
    families,
)
from pyrogen.transforms import Interval, TransformedDistribution

NUMBERS = torch.linspace(-1, 1, 120)


def of(family):
    shape = family.numbers_shape((2,))
    return lambda: family(NUMBERS[: math.prod(shape)].reshape(shape), 1)


def mixture():
    return Mixture(dist.Categorical(torch.ones(3)), DiagonalNormal(torch.zeros(3, 2), torch.zeros(3, 2)))


def interval():
    return TransformedDistribution(UnitNormal((2,), torch.zeros(())), [Interval(event_dim=1)])


KINDS = ("diagonal_normal", "laplace", "student_t", "bernoulli", "beta", "gamma", "poisson", "negative_binomial",
         "zero_inflated_poisson", "zero_inflated_negative_binomial", "continuous_bernoulli")  # fmt: skip
MADE = {
    **{name: of(getattr(families, name)) for name in KINDS},
    "normal": of(families.normal(0.5)),
    "categorical": of(families.categorical(3)),
    "discretized_logistic": of(families.discretized_logistic(4)),
    "quantized_normal": of(families.quantized_normal(4)),
    "discretized_logistic_mixture": of(families.discretized_logistic_mixture(4, 2)),
    "columns": lambda: families.columns([families.diagonal_normal, families.poisson])(NUMBERS[:3]),
    "diagonal": lambda: DiagonalNormal(torch.zeros(2), torch.zeros(2)),
    "standard": lambda: UnitNormal((2,), torch.zeros(())),
    "bits": lambda: IndependentBernoulli(torch.zeros(2)),
    "mixture": mixture,
    "interval": interval,
    "dequantized": lambda: UniformDequantized(interval(), 4),
    "incomplete": lambda: Incomplete(DiagonalNormal(torch.zeros(2), torch.zeros(2))),
    "pixel": lambda: PixelLogisticMixture(
        torch.zeros(2), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 1), symbols=4
    ),
}
NOISY = {"dequantized"}


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("name", MADE)
def test_values_of_another_event_shape_are_refused(name, validate):
    with pyro.validation_enabled(validate):
        made = MADE[name]()
        assert made.event_shape == (2,)
        for shape in ((), (1,), (3,), (5, 1), (2, 3), (2, 1)):
            with pytest.raises(ValueError, match=r"`value` must end in shape \(2,\)"):
                made.log_prob(torch.ones(shape))


@pytest.mark.parametrize("name", MADE)
def test_batches_that_do_not_broadcast_are_refused(name):
    with pyro.validation_enabled(True):
        made = MADE[name]().expand((4,))
        with pytest.raises(ValueError, match=r"broadcast with \(4,\), got \(3,\)"):
            made.log_prob(MADE[name]().sample((3,)))
        for shape in ((2,), (), (4, 2), (3, 2)):
            with pytest.raises((ValueError, RuntimeError)):
                made.expand(shape)
        assert made.expand((3, 4)).batch_shape == (3, 4)


@pytest.mark.parametrize("name", MADE)
def test_values_outside_are_refused_under_validation(name):
    with pyro.validation_enabled(True):
        made = MADE[name]()
        x = made.sample((4,)).float()
        x[2, 1] = -3.5
        if bool(made.support.check(x).all()):
            return  # all real numbers
        with pytest.raises(ValueError, match=r"within the support.* got 1 of"):
            made.log_prob(x)


@pytest.mark.parametrize("name", [name for name in MADE if name not in NOISY])
def test_vmap_with_validation(name):
    with pyro.validation_enabled(True):
        made = MADE[name]()
        x = made.sample((6,))
        mapped = torch.func.vmap(made.log_prob)(x)
    assert torch.allclose(mapped, made.log_prob(x.clone()), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MADE if name not in NOISY])
def test_beyond_the_support_there_is_nothing(name):
    """With validation off: minus infinity outside, NaN for NaN, and other rows as if alone."""
    with pyro.validation_enabled(False):
        made = MADE[name]()
        good = made.sample()
        for number in (-3.0, 0.5, 1.5, 7.0, math.inf, -math.inf, math.nan):
            bad = torch.stack([good[0].float(), torch.tensor(number)])
            scores = made.log_prob(torch.stack([good.float(), bad]))
            assert torch.allclose(scores[0], made.log_prob(good), atol=1e-5)
            if math.isnan(number):
                assert scores[1].isnan() == (name != "incomplete")  # of which an entry may be missing
            elif not math.isfinite(number):
                assert scores[1] == -torch.inf
            elif not bool(made.support.check(bad)):
                assert scores[1] == -torch.inf, number


def test_a_mixture_of_components_with_other_supports():
    uniforms = dist.Uniform(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.0]), validate_args=False)
    made = Mixture(dist.Categorical(torch.tensor([0.5, 0.5])), uniforms)
    x = torch.tensor([0.5, 1.5, 3.0])
    assert made.support.check(x).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="within the support"):
        made.log_prob(x)
    assert made.log_prob(x[[0, 2]]).exp().tolist() == pytest.approx([0.5, 0.25])
