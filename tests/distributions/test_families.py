"""Families: the numbers of a network as distributions of torch's own."""

import math
import pickle

import pytest
import torch
import torch.distributions as reference

from pyrogen.distributions import families
from pyrogen.distributions.families import bounded, positive

SHAPES = [((), ()), ((), (3,)), ((5,), ()), ((5,), (3,)), ((2, 4), (3, 2)), ((0,), (3,)), ((0,), (2, 2))]

FAMILIES = {
    "diagonal_normal": (families.diagonal_normal, lambda a, b: reference.Normal(a, bounded(b).exp())),
    "latent_normal": (families.latent_normal, lambda a, b: reference.Normal(a, bounded(b).exp())),
    "laplace": (families.laplace, lambda a, b: reference.Laplace(a, bounded(b).exp())),
    "student_t": (families.student_t, lambda d, a, b: reference.StudentT(1 + positive(d + 1), a, bounded(b).exp())),
    "bernoulli": (families.bernoulli, lambda a: reference.Bernoulli(logits=a)),
    "beta": (families.beta, lambda a, b: reference.Beta(positive(a), positive(b), validate_args=False)),
    "gamma": (families.gamma, lambda a, b: reference.Gamma(positive(a), positive(b))),
    "poisson": (families.poisson, lambda a: reference.Poisson(positive(a))),
    "negative_binomial": (
        families.negative_binomial,
        lambda a, b: reference.NegativeBinomial(positive(a), logits=bounded(b)),
    ),
    "normal": (families.normal(0.3), lambda a: reference.Normal(a, 0.3)),
}


@pytest.mark.parametrize(("batch", "event"), SHAPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_the_reference_elementwise(name, batch, event):
    family, make = FAMILIES[name]
    numbers = torch.randn(*batch, family.size, *event)
    own = family(numbers, len(event))
    elementwise = make(*numbers.unbind(len(batch)))
    assert own.batch_shape == batch
    assert own.event_shape == event
    x = elementwise.sample()
    expected = elementwise.log_prob(x)
    expected = expected.flatten(len(batch)).sum(-1) if event else expected
    assert own.log_prob(x).shape == batch
    assert torch.allclose(own.log_prob(x), expected, rtol=1e-4, atol=1e-5)
    assert own.sample((4,)).shape == (4, *batch, *event)


@pytest.mark.parametrize(("batch", "event"), SHAPES)
def test_categorical_has_one_logit_a_class(batch, event):
    family = families.categorical(4)
    logits = torch.randn(*batch, 4, *event)
    own = family(logits, len(event))
    elementwise = reference.Categorical(logits=logits.movedim(len(batch), -1), validate_args=False)
    x = elementwise.sample()
    assert own.sample().shape == x.shape
    expected = elementwise.log_prob(x)
    assert own.log_prob(x).shape == batch
    assert torch.allclose(own.log_prob(x), expected.flatten(len(batch)).sum(-1) if event else expected, atol=1e-5)


@pytest.mark.parametrize("name", [*FAMILIES, "categorical"])
def test_a_family_pickles(name):
    family = FAMILIES[name][0] if name in FAMILIES else families.categorical(3)
    numbers = torch.randn(5, family.size, 3)
    x = family(numbers, 1).sample()
    assert torch.equal(pickle.loads(pickle.dumps(family))(numbers, 1).log_prob(x), family(numbers, 1).log_prob(x))


@pytest.mark.parametrize("name", FAMILIES)
def test_extreme_numbers_stay_finite(name):
    family, _ = FAMILIES[name]
    for value in (-1e4, 1e4):
        numbers = torch.full((family.size, 3), value, requires_grad=True)
        own = family(numbers, 1)
        x = own.sample().clamp(1e-6, 1 - 1e-6) if name == "beta" else own.sample()
        log_prob = own.log_prob(x)
        (gradient,) = torch.autograd.grad(log_prob, numbers)
        assert gradient.isfinite().all()


def test_positive_is_the_exponential_near_zero_and_bounded_by_single_precision_alone():
    small = torch.linspace(-0.5, 0.5, 11)
    assert torch.allclose(positive(small), small.exp(), rtol=1e-3)
    assert positive(torch.tensor(1e6)).item() == pytest.approx(math.exp(40), rel=1e-4)
    assert positive(torch.tensor(-1e6)).item() == pytest.approx(math.exp(-40), rel=1e-4)


def test_log_scales_mean_in_old_files_what_they_meant():
    a = torch.linspace(-9.9, 9.9, 1001)
    torch.testing.assert_close(bounded(a), 10 * torch.tanh(a / 10), rtol=1e-6, atol=1e-6)


def test_log_scales_rise_everywhere_and_have_all_derivatives():
    a = torch.linspace(-40, 23, 1000, dtype=torch.float64, requires_grad=True)
    assert (bounded(a).diff() > 0).all()
    (slope,) = torch.autograd.grad(bounded(a).sum(), a)
    assert (slope > 1e-4).all()
    points = torch.tensor([-7.0, -3.0, 0.5, 12.0], dtype=torch.float64)
    assert torch.autograd.gradgradcheck(bounded, points.clone().requires_grad_())
    hessian = torch.func.jacrev(torch.func.grad(lambda x: bounded(x).sum()))(points)
    expected = -0.2 * torch.tanh(points / 10) * (1 - torch.tanh(points / 10) ** 2)
    torch.testing.assert_close(hessian.diagonal(), expected)
    torch.testing.assert_close(torch.vmap(bounded)(points), bounded(points))


def best(family, x, start, steps=60):
    """The parameters of a family that fit data best, by a second-order method: no learning rate to choose."""
    numbers = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.LBFGS([numbers], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = -family(numbers[:, None].expand(-1, 1), 1).log_prob(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return family(numbers[:, None].expand(-1, 1), 1)


@pytest.mark.parametrize("rate", [1e5, 1e7, 1e10])
def test_counts_of_any_size_are_fitted(rate):
    x = torch.poisson(torch.full((200, 1), rate, dtype=torch.float64), generator=torch.Generator().manual_seed(0))
    fitted = best(families.poisson, x, [math.log(rate) - 1.0]).base_dist.rate
    assert fitted.item() == pytest.approx(x.mean().item(), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1e6, 1e9])
def test_normals_of_any_scale_are_fitted(scale):
    x = scale * torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = lambda numbers, dim: families.diagonal_normal(torch.cat([0 * numbers, numbers]), dim)  # noqa: E731
    fitted = best(centred, x, [math.log(scale) + 1])
    assert fitted.stddev.item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-2)


@pytest.mark.parametrize("mean", [1e-6, 1e6, 1e9])
def test_amounts_of_any_size_are_fitted(mean):
    x = mean / 4 * torch.distributions.Gamma(4.0, 1.0).sample((2000, 1)).double()
    fitted = best(families.gamma, x, [1.0, -math.log(mean)]).base_dist
    assert (fitted.concentration / fitted.rate).item() == pytest.approx(x.mean().item(), rel=1e-3)
    assert fitted.concentration.item() == pytest.approx(4.0, rel=0.1)


def test_overdispersed_counts_of_any_size_are_fitted():
    torch.manual_seed(0)
    x = torch.poisson(torch.distributions.Gamma(3.0, 3e-7).sample((2000, 1)).double())  # a mean of 1e7
    fitted = best(families.negative_binomial, x, [1.0, 15.0]).base_dist
    assert fitted.mean.item() == pytest.approx(x.mean().item(), rel=1e-3)
    assert fitted.total_count.item() == pytest.approx(3.0, rel=0.1)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`scale` must be positive, got 0"):
        families.normal(0)
    with pytest.raises(ValueError, match="`scale` must be finite, got nan"):
        families.normal(float("nan"))
    with pytest.raises(ValueError, match="`symbols` must be at least 2, got 1"):
        families.categorical(1)


def test_events_expand_and_have_torchs_entropy_and_divergence():
    for family in (families.laplace, families.beta, families.gamma):
        own, other = (family(torch.randn(5, 2, 3), 1) for _ in range(2))
        plain, plain_other = own.base_dist, other.base_dist
        assert torch.allclose(own.entropy(), plain.entropy().sum(-1), atol=1e-5)
        divergence = reference.kl_divergence(own, other)
        assert torch.allclose(divergence, reference.kl_divergence(plain, plain_other).sum(-1), rtol=1e-4, atol=1e-5)
        expanded = own.expand([4, 5])
        assert type(expanded) is type(own)
        x = expanded.sample()
        assert torch.allclose(expanded.log_prob(x), plain.log_prob(x).sum(-1), rtol=1e-4, atol=1e-4)
        assert pickle.loads(pickle.dumps(own)).log_prob(x).shape == (4, 5)
