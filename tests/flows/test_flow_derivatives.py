"""Derivatives of every kind, of every recipe, against differences of the plain gradient."""

import pyro
import pytest
import torch
from every_recipe import RECIPES, UNCONDITIONAL, inputs, made
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of torch, in forward mode
STEP = 1e-5
SLOW = ("continuous_deep", "inverse_neural_autoregressive")
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in [*RECIPES, *UNCONDITIONAL]]
WITH_CONTEXT = (
    "affine_coupling",
    "spline_autoregressive",
    "inverse_spline_autoregressive",
    "block_neural",
    "continuous",
)
ROUGH = {"rtol": 3e-4, "atol": 3e-4}  # of the solver of continuous flows, and of differences


def plain_gradient(function, point):
    point = point.detach().requires_grad_()
    return torch.autograd.grad(function(point), point)[0]


def plain_hessian(function, point):
    """By central differences of the gradient."""
    shifts = STEP * torch.eye(point.numel(), dtype=point.dtype).reshape(-1, *point.shape)
    ends = [(plain_gradient(function, point + shift), plain_gradient(function, point - shift)) for shift in shifts]
    return torch.stack([(above - below) / (2 * STEP) for above, below in ends]).reshape(*point.shape, *point.shape)


def second_by_hand(function, point):
    point = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point), point, create_graph=True)
    rows = [
        torch.autograd.grad(part, point, retain_graph=True, materialize_grads=True)[0] for part in gradient.flatten()
    ]
    return torch.stack(rows).reshape(*point.shape, *point.shape)


def check_all_kinds(function, point):
    slope, curvature = plain_gradient(function, point), plain_hessian(function, point)
    directions = torch.eye(point.numel(), dtype=point.dtype).reshape(-1, *point.shape)
    for kind in (jacrev, jacfwd, grad):
        assert torch.allclose(kind(function)(point), slope, **ROUGH), kind.__name__
    along = torch.stack([jvp(function, (point,), (direction,))[1] for direction in directions])
    assert torch.allclose(along.reshape(point.shape), slope, **ROUGH)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(function(forward_ad.make_dual(point, directions[0])))
        assert torch.allclose(dual.tangent, slope.flatten()[0], **ROUGH)
    kinds = (
        hessian,
        lambda f: jacrev(jacrev(f)),
        lambda f: jacfwd(jacfwd(f)),
        lambda f: lambda x: second_by_hand(f, x),
    )
    for kind in kinds:
        assert torch.allclose(kind(function)(point), curvature, **ROUGH)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_in_the_value(name):
    flow = made(name)
    x, context = inputs(flow)
    check_all_kinds(lambda value: flow(None if context is None else context[0]).log_prob(value), x[0])


@pytest.mark.parametrize("name", WITH_CONTEXT)
def test_derivatives_in_the_context(name):
    flow = made(name)
    x, context = inputs(flow)
    check_all_kinds(lambda given: flow(given).log_prob(x[0]), context[0])


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_in_the_parameters(name):
    """Of a distribution made under ``functional_call`` and scored after it."""
    flow = made(name)
    x, context = inputs(flow)
    weights = {key: value.detach() for key, value in flow.named_parameters()}

    def score(weights, x, context):
        return functional_call(flow, weights, (context,)).log_prob(x)

    expected = torch.autograd.grad(flow(context).log_prob(x).sum(), list(flow.parameters()), materialize_grads=True,
                                   allow_unused=True)  # fmt: skip
    for kind in (grad, jacfwd):
        found = kind(lambda weights: score(weights, x, context).sum())(weights)
        for one, other in zip(found.values(), expected, strict=True):
            assert torch.allclose(one, other, **ROUGH)
    rows = None if context is None else 0
    by_row = vmap(grad(score), in_dims=(None, 0, rows))(weights, x, context)
    for one, other in zip(by_row.values(), expected, strict=True):
        assert torch.allclose(one.sum(0), other, **ROUGH)
    last = min((key for key in weights if weights[key].numel() > 1), key=lambda key: weights[key].numel())

    def of_one(part):
        return score({**weights, last: part}, x, context).sum()

    check = plain_hessian(of_one, weights[last])
    assert torch.allclose(hessian(of_one)(weights[last]), check, **ROUGH)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_of_each_row_under_vmap(name):
    flow = made(name)
    x, context = inputs(flow)
    rows = None if context is None else 0
    values = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(flow(context).log_prob(values).sum(), values)
    with pyro.validation_enabled(False):
        for kind in (grad, jacrev, jacfwd):
            found = vmap(kind(lambda x, context: flow(context).log_prob(x)), in_dims=(0, rows))(x, context)
            assert torch.allclose(found, expected, **ROUGH)
        curvature = vmap(hessian(lambda x, context: flow(context).log_prob(x)), in_dims=(0, rows))(x, context)
    one = plain_hessian(lambda value: flow(None if context is None else context[1]).log_prob(value), x[1])
    assert torch.allclose(curvature[1], one, **ROUGH)


@pytest.mark.parametrize(
    "name", [name for name in [*RECIPES, *UNCONDITIONAL] if name != "student"]
)  # whose gamma numbers torch cannot map
def test_draws_under_vmap_are_different(name):
    flow = made(name)
    context = None if flow.context_shape is None else torch.zeros(2).double()
    draws = vmap(lambda _: flow(context).sample(), randomness="different")(torch.zeros(5))
    assert draws.shape == (5, 2)
    assert len(draws[:, 0].unique()) == 5
