"""Likelihoods of pixels, grey values and counts: masses, moments and draws against enumeration and quadrature."""

import math
from itertools import product

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chisquare, kstest

import pyrogen as pg
from pyrogen.distributions import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Mixture,
    PixelLogisticMixture,
    QuantizedNormal,
    ZeroInflated,
    families,
)
from pyrogen.numerics.special import langevin, log_logistic_mass, log_normal_mass, log_sinhc
from pyrogen.testing import check_distribution

NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
LEVELS = {
    "logistic": (2, lambda p, levels: DiscretizedLogistic(p[..., 0], p[..., 1], levels)),
    "normal": (2, lambda p, levels: QuantizedNormal(p[..., 0], p[..., 1], levels)),
    "mixture": (6, lambda p, levels: DiscretizedLogisticMixture(*p.chunk(3, -1), levels)),
}
FAMILIES = {
    "continuous_bernoulli": families.continuous_bernoulli,
    "discretized_logistic": families.discretized_logistic(5),
    "quantized_normal": families.quantized_normal(5),
    "discretized_logistic_mixture": families.discretized_logistic_mixture(5, components=2),
    "zero_inflated_poisson": families.zero_inflated_poisson,
    "zero_inflated_negative_binomial": families.zero_inflated_negative_binomial,
}


def integral(log_density, low, high):
    """The logarithm of an integral by quadrature, in float64."""
    points = low + (high - low) * (NODES + 1) / 2
    return (log_density(points) + (WEIGHTS * (high - low) / 2).log()).logsumexp(-1)


def linear(family, event_shape, inputs=2):
    network = torch.nn.Linear(inputs, math.prod(family.numbers_shape(event_shape)))
    return pg.Parametric(network, family, event_shape=event_shape, context_shape=(inputs,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mass", ["logistic", "normal"])
def test_interval_masses_keep_their_digits_in_value_and_gradient(mass, dtype):
    log_mass = {"logistic": log_logistic_mass, "normal": log_normal_mass}[mass]

    def log_density(t):
        normal = -t.square() / 2 - 0.5 * math.log(2 * math.pi)
        return normal if mass == "normal" else -t.abs() - 2 * torch.log1p((-t.abs()).exp())

    for middle, width in product((0.0, 0.3, -5.0, 12.0, -30.0), (1e-2, 0.029, 0.031, 0.2)):
        lower = torch.tensor(middle - width / 2, dtype=dtype, requires_grad=True)
        upper = torch.tensor(middle + width / 2, dtype=dtype, requires_grad=True)
        value = log_mass(lower, upper)
        low, high = lower.detach().double(), upper.detach().double()
        expected = integral(log_density, low, high)
        rounding = 1e-9 if dtype == torch.float64 else 3e-6 * max(1, abs(expected)) + 1e-7 * abs(middle) / width
        assert abs(value.detach().double() - expected) < rounding
        gradients = torch.autograd.grad(value, (lower, upper))
        for gradient, end, sign in zip(gradients, (low, high), (-1, 1), strict=True):
            exact = sign * (log_density(end) - expected).exp()
            assert gradient.double() == pytest.approx(exact.item(), rel=1e-7 if dtype == torch.float64 else 2e-4)


def test_hyperbolic_functions_against_quadrature_and_each_other():
    x = torch.tensor([0.0, 1e-6, 0.1, 0.299, 0.301, -2.0, 30.0, 500.0], dtype=torch.float64, requires_grad=True)
    value = log_sinhc(x)
    expected = torch.stack([integral(lambda t, a=a: a * t, -1.0, 1.0) - math.log(2) for a in x.detach()[:7]])
    assert torch.allclose(value[:7], expected, atol=1e-9)
    assert value[7].item() == pytest.approx(500 - math.log(1000))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert torch.allclose(gradient, langevin(x), atol=1e-8)


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize("name", LEVELS)
def test_levels_sum_to_one_and_have_the_enumerated_moments(name, levels):
    torch.manual_seed(0)
    size, make = LEVELS[name]
    parameters = torch.randn(40, size, dtype=torch.float64) * torch.tensor([1.0, 2.0] * (size // 2)).double()
    distribution = make(parameters, levels)
    values = distribution.enumerate_support()
    log_probs = distribution.log_prob(values)
    assert torch.allclose(log_probs.logsumexp(0), torch.zeros(40).double(), atol=1e-9)
    assert torch.allclose(distribution.mean, (log_probs.exp() * values).sum(0))
    square = (log_probs.exp() * values.square()).sum(0)
    assert torch.allclose(distribution.variance, square - distribution.mean.square(), atol=1e-8 * levels**2)


@pytest.mark.parametrize("log_scale", [-30.0, -60.0, -90.0, -200.0])
@pytest.mark.parametrize("name", LEVELS)
def test_narrow_densities_put_all_mass_into_one_level(name, log_scale):
    count, make = LEVELS[name]
    loc, scale = torch.tensor(0.25, requires_grad=True), torch.tensor(log_scale, requires_grad=True)
    zeros = torch.zeros((), requires_grad=True)
    parts = [loc, scale] if count == 2 else [zeros, zeros, loc, loc, scale, scale]
    log_probs = make(torch.stack(parts), 9).log_prob(torch.arange(9.0))
    assert log_probs.argmax() == 5
    torch.testing.assert_close(log_probs[5], torch.tensor(0.0))
    assert (log_probs.exp()[torch.arange(9) != 5] == 0).all()
    log_probs[5].backward()
    assert loc.grad.isfinite()
    assert scale.grad.isfinite()


@pytest.mark.parametrize("name", LEVELS)
def test_draws_of_levels_follow_their_masses(name):
    torch.manual_seed(1)
    size, make = LEVELS[name]
    distribution = make(torch.randn(4, size) * 0.7, 6)
    draws = distribution.sample((20_000,))
    assert distribution.support.check(draws).all()
    for row in range(4):
        counts = torch.bincount(draws[:, row].long(), minlength=6)
        expected = distribution.log_prob(distribution.enumerate_support())[:, row].double().softmax(0) * 20_000
        assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", LEVELS)
def test_far_tails_keep_their_gradients(name):
    size, make = LEVELS[name]
    parameters = torch.zeros(2, size)
    parameters[:, size // 2 if size == 6 else 0] = torch.tensor([-900.0, 900.0])
    parameters[:, size // 2 + 1 if size == 6 else 0] = torch.tensor([-900.0, 900.0])
    if size == 6:
        parameters[:, 2:4] = torch.tensor([[-900.0], [900.0]])
        parameters[:, 4:] = -2.0
    else:
        parameters[:, 1] = -2.0
    parameters.requires_grad_()
    score = make(parameters, 256).log_prob(torch.tensor([128.0, 128.0]))
    (gradient,) = torch.autograd.grad(score.sum(), parameters)
    assert score.isfinite().all()
    assert (score < -1000).all()
    assert gradient.isfinite().all()
    locations = gradient[:, 2:4].sum(-1) if size == 6 else gradient[:, 0]
    assert locations[0] > 1
    assert locations[1] < -1


def pixel(batch=(), components=3, channels=3, positions=(), levels=4, seed=0):
    torch.manual_seed(seed)
    pairs = channels * (channels - 1) // 2
    shapes = [(components, *positions), *[(components, channels, *positions)] * 2, (components, pairs, *positions)]
    parameters = [torch.randn(*batch, *shape, dtype=torch.float64) for shape in shapes]
    return PixelLogisticMixture(*parameters, levels, 1 + len(positions))


def test_pixels_are_mixtures_of_products_in_which_channels_follow_each_other():
    distribution = pixel()
    values = torch.tensor(list(product(range(4), repeat=3))).double()
    assert distribution.log_prob(values).logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    total = torch.zeros(len(values), dtype=torch.float64)
    x = 2 * values / 3 - 1
    for k, weight in enumerate(distribution.logits.softmax(0)):
        (red, green, blue), (a, b, c) = distribution.loc[k], distribution.coefficients[k]
        loc = torch.stack([red.expand(64), green + a * x[:, 0], blue + b * x[:, 0] + c * x[:, 1]], -1)
        channels = DiscretizedLogistic(loc, distribution.log_scale[k].expand(64, 3), 4)
        total += weight * channels.log_prob(values).sum(-1).exp()
    assert torch.allclose(distribution.log_prob(values), total.log())


def test_draws_of_pixels_follow_their_masses():
    distribution = pixel(levels=3, seed=2)
    draws = distribution.sample((30_000,))
    values = torch.tensor(list(product(range(3), repeat=3))).double()
    counts = torch.bincount((draws @ torch.tensor([9.0, 3.0, 1.0]).double()).long(), minlength=27)
    expected = distribution.log_prob(values).softmax(0) * len(draws)
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("positions", [(), (5,), (2, 3)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pixels_of_an_image_are_independent(positions, channels):
    distribution = pixel((2,), 2, channels, positions)
    draws = distribution.sample((4,))
    assert draws.shape == (4, 2, channels, *positions)
    assert distribution.expand((3, 2)).sample().shape == (3, 2, channels, *positions)
    total = torch.zeros(4, 2, dtype=torch.float64)
    for place in np.ndindex(*positions):
        at = (..., *place)
        parameters = (distribution.logits, distribution.loc, distribution.log_scale, distribution.coefficients)
        total += PixelLogisticMixture(*(parameter[at] for parameter in parameters), 4).log_prob(draws[at])
    assert torch.allclose(distribution.log_prob(draws), total)


def test_the_pixel_family_takes_ten_numbers_a_component_of_three_channels():
    family = families.pixel_logistic_mixture(256, components=4)
    assert family.numbers_shape((3, 8, 8)) == (40, 8, 8)
    assert family.numbers_shape((1, 8, 8)) == (12, 8, 8)
    for channels in (1, 2, 3, 4):
        event = (channels, 2, 2)
        assert family(torch.randn(5, *family.numbers_shape(event)), 3).sample().shape == (5, *event)


@pytest.mark.parametrize("logit", [0.0, 1e-4, 0.0041, 0.6, -0.6, 5.0, -40.0, 300.0])
def test_continuous_bernoulli_against_quadrature(logit):
    distribution = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    edge = min(1, 60 / max(1, abs(logit)))  # all the mass there is, where it is
    low, high = (1 - edge, 1.0) if logit > 0 else (0.0, edge)

    def moment(power):
        return integral(lambda t: distribution.log_prob(t) + power * t.log(), low, high).exp().item()

    assert moment(0) == pytest.approx(1, rel=1e-9)
    assert distribution.mean.item() == pytest.approx(moment(1), rel=1e-8)
    variance = integral(lambda t: distribution.log_prob(t) + 2 * (t - distribution.mean).abs().log(), low, high).exp()
    assert distribution.variance.item() == pytest.approx(variance.item(), rel=1e-4)  # the nodes miss the kink a little
    share = torch.linspace(0.01, 0.99, 7, dtype=torch.float64)
    assert torch.allclose(distribution.cdf(distribution.icdf(share)), share, atol=1e-7)
    whole = integral(distribution.log_prob, low, distribution.icdf(share[3]) if logit <= 0 else high)
    assert logit > 0 or whole.exp().item() == pytest.approx(0.5, rel=1e-6)
    single = ContinuousBernoulli(torch.tensor(logit))
    assert single.mean.item() == pytest.approx(distribution.mean.item(), rel=1e-6)
    assert single.log_prob(torch.tensor(0.3)).item() == pytest.approx(distribution.log_prob(0.3 * share / share)[0])


def test_continuous_bernoulli_draws_and_their_gradient():
    torch.manual_seed(3)
    for logit in (0.0, 3.0, -20.0):
        distribution = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
        draws = distribution.sample((5000,))
        assert kstest(draws.numpy(), lambda v, d=distribution: d.cdf(torch.from_numpy(v)).numpy()).pvalue > 1e-3
    logits = torch.tensor([0.0, 0.008, 2.0, -6.0], dtype=torch.float64, requires_grad=True)
    share = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    point = ContinuousBernoulli(logits).icdf(share)
    (gradient,) = torch.autograd.grad(point.sum(), logits)
    step = 1e-5
    moved = [ContinuousBernoulli(logits.detach() + s).icdf(share) for s in (step, -step)]
    assert torch.allclose(gradient, (moved[0] - moved[1]) / (2 * step), rtol=1e-4)


@pytest.mark.parametrize("base", ["poisson", "negative_binomial"])
def test_zero_inflated_counts_sum_to_one_and_have_the_enumerated_moments(base):
    torch.manual_seed(4)
    gate = torch.randn(5, dtype=torch.float64)
    family = getattr(families, base)
    counts = family(torch.randn(5, family.size, dtype=torch.float64), 0)
    distribution = ZeroInflated(counts, gate)
    values = torch.arange(400.0).double().unsqueeze(-1)
    probabilities = distribution.log_prob(values).exp()
    assert torch.allclose(probabilities.sum(0), torch.ones(5).double(), atol=1e-7)
    assert torch.allclose(distribution.mean, (probabilities * values).sum(0), atol=1e-5)
    square = (probabilities * values.square()).sum(0)
    assert torch.allclose(distribution.variance, square - distribution.mean.square(), atol=1e-3)
    draws = distribution.sample((20_000,))
    assert distribution.expand((2, 5)).sample().shape == (2, 5)  # after a draw, where Pyro's own fails
    for row in range(5):
        seen = torch.bincount(draws[:, row].long().clamp(max=8), minlength=9)
        expected = torch.cat([probabilities[:8, row], probabilities[8:, row].sum(0, keepdim=True)]) * 20_000
        kept = expected > 5
        rest = torch.tensor([seen[~kept].sum(), expected[~kept].sum()]) + 1e-9
        found, expected = torch.cat([seen[kept], rest[:1]]).double(), torch.cat([expected[kept], rest[1:]]).double()
        assert chisquare(found.numpy(), (expected * found.sum() / expected.sum()).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_contract_of_the_families(name):
    check_distribution(
        lambda: linear(FAMILIES[name], (2,)), event_shape=(2,), context=torch.randn(4, 2)
    ).raise_if_failed()


def test_contract_of_the_pixel_family():
    family = families.pixel_logistic_mixture(3, components=2)
    check_distribution(
        lambda: linear(family, (2, 1, 2)), event_shape=(2, 1, 2), context=torch.randn(4, 2)
    ).raise_if_failed()


@pytest.mark.parametrize("name", FAMILIES)
def test_extreme_numbers_keep_the_parameters_gradients_finite(name):
    family = FAMILIES[name]
    for value in (-1e3, 1e3):
        numbers = torch.full((family.size, 3), value, requires_grad=True)
        own = family(numbers, 1)
        (gradient,) = torch.autograd.grad(own.log_prob(own.sample()), numbers)
        assert gradient.isfinite().all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`symbols` must be at least 2, got 1"):
        families.discretized_logistic(1)
    with pytest.raises(ValueError, match="`symbols` must be at least 2, got 1"):
        QuantizedNormal(torch.zeros(3), torch.zeros(3), 1)
    with pytest.raises(ValueError, match="`components` must be at least 1, got 0"):
        families.discretized_logistic_mixture(4, 0)
    with pytest.raises(ValueError, match=r"`coefficients` must have shape \(2, 1\), got \(2, 3\)"):
        PixelLogisticMixture(torch.zeros(2), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 3), 4)
    with pytest.raises(ValueError, match="no event dimensions"):
        ZeroInflated(families.poisson(torch.zeros(1, 3), 1), torch.zeros(3))
    with pytest.raises(ValueError, match="within the support"):
        DiscretizedLogistic(torch.zeros(3), torch.zeros(3), 4).log_prob(torch.tensor([0.0, 1.5, 2.0]))


def test_mixtures_of_events_score_empty_batches():
    parts = dist.Normal(torch.zeros(3, 4, 2), 1.0).to_event(1)
    mixture = Mixture(dist.Categorical(torch.ones(3, 4)), parts)
    assert mixture.log_prob(torch.zeros(0, 3, 2)).shape == (0, 3)
    assert mixture.log_prob(torch.zeros(0, 1, 2)).shape == (0, 3)
