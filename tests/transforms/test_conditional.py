"""Coupling and autoregressive transforms as one node: the same as their definition, and derivatives of all kinds."""

import pytest
import torch

from pyrogen import flows
from pyrogen.transforms import conditional

SMALL = {"layers": 1, "hidden": (9, 8), "standardize": False, "mixing": False}
RECIPES = (flows.affine_coupling, flows.spline_coupling, flows.affine_autoregressive, flows.spline_autoregressive)


def layer_and_inputs(recipe, dropout=0.0):
    torch.manual_seed(0)
    layer = recipe((5,), (2,), dropout=dropout, **SMALL).double().bijections[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer, torch.randn(4, 5).double().requires_grad_(), torch.randn(4, 2).double().requires_grad_()


def defined(network, move, x):
    return conditional._defined(network, move, x)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("recipe", RECIPES)
def test_one_node_equals_the_definition(recipe, dropout, monkeypatch):
    layer, x, context = layer_and_inputs(recipe, dropout)

    def answer():
        torch.manual_seed(1)
        z, log_det = layer(context).inverse_and_log_det(x)
        loss = z.sin().sum() + log_det.square().sum()
        return z, log_det, *torch.autograd.grad(loss, (x, context, *layer.parameters()))

    found = answer()
    assert "_Moved" in repr(layer(context).inverse_and_log_det(x)[1].grad_fn)
    monkeypatch.setattr(conditional, "_moved", defined)
    for one, other in zip(found, answer(), strict=True):
        assert torch.allclose(one, other, atol=1e-11)


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_second_derivatives(recipe, dropout):
    layer, x, context = layer_and_inputs(recipe, dropout)

    def forward(x, context):
        torch.manual_seed(1)
        return layer(context).inverse_and_log_det(x)

    rows = x[:2].detach().requires_grad_(), context[:2].detach().requires_grad_()
    assert torch.autograd.gradcheck(forward, rows)
    assert torch.autograd.gradgradcheck(forward, rows)
    weight = layer.conditioner.weight
    (gradient,) = torch.autograd.grad(forward(x, context)[1].sum(), x, create_graph=True)
    (by_weight,) = torch.autograd.grad(gradient.square().sum(), weight)
    step = torch.zeros_like(weight)
    step[0, 0, -1] = 1e-5

    def penalty(change):
        with torch.no_grad():
            weight.add_(change)
        (gradient,) = torch.autograd.grad(forward(x, context)[1].sum(), x)
        with torch.no_grad():
            weight.sub_(change)
        return gradient.square().sum()

    assert torch.allclose((penalty(step) - penalty(-step)) / 2e-5, by_weight[0, 0, -1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_functional_call_vmap_and_compile_agree(recipe):
    layer, x, context = layer_and_inputs(recipe)
    x, context = x.detach(), context.detach()
    expected = layer(context).inverse_and_log_det(x)[1].detach()
    weights = dict(layer.named_parameters())

    def score(weights, x, context):
        return torch.func.functional_call(layer, weights, (context,)).inverse_and_log_det(x)[1]

    assert torch.allclose(torch.vmap(score, in_dims=(None, 0, 0))(weights, x, context), expected)
    twice = {name: torch.stack((weight, 0 * weight)) for name, weight in weights.items()}
    many = torch.vmap(score, in_dims=(0, None, None))(twice, x, context)
    assert torch.allclose(many[0], expected)
    rows = torch.vmap(torch.func.grad(lambda x, c: score(weights, x, c)), in_dims=(0, 0))(x, context)
    again = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(context).inverse_and_log_det(again)[1].sum(), again)
    assert torch.allclose(rows, gradient)
    torch._dynamo.reset()
    validation = torch.distributions.Distribution._validate_args
    compiled = torch.compile(lambda x: layer(context).inverse_and_log_det(x)[1], fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), expected)
    torch.distributions.Distribution.set_default_validate_args(validation)
