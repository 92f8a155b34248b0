"""Coupling and autoregressive transforms as one node: the same as their definition, and derivatives of all kinds."""

import pytest
import torch

from pyrogen import flows
from pyrogen.networks.blocks import staircase
from pyrogen.networks.masked import MaskedConditioner, chain
from pyrogen.networks.mlp import Conditioner
from pyrogen.transforms import kernels

SMALL = {"layers": 1, "hidden": (9, 8), "standardize": False, "mixing": False}
RECIPES = (flows.affine_coupling, flows.spline_coupling, flows.affine_autoregressive, flows.spline_autoregressive)


def layer_and_inputs(recipe, dropout=0.0):
    torch.manual_seed(0)
    layer = recipe((5,), (2,), dropout=dropout, **SMALL).double().bijections[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer, torch.randn(4, 5).double().requires_grad_(), torch.randn(4, 2).double().requires_grad_()


def defined(network, split, kernel, definition, x):
    return definition(network, x)


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
    assert "_Conditional" in repr(layer(context).inverse_and_log_det(x)[1].grad_fn)
    monkeypatch.setattr(kernels, "conditional", defined)
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


def wild(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return network.double()


@pytest.mark.parametrize("outputs", [2, 30])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("masked", [True, False])
def test_passes_of_a_network_equal_its_definition(masked, dropout, outputs):
    """Values and gradients, for memory by rows and by columns, with blocks left out and units dropped."""
    if masked:
        network = wild(MaskedConditioner(chain(range(6)), outputs, hidden=(80, 90), context=2, dropout=dropout))
    else:
        network = wild(Conditioner(6, 6, outputs, hidden=(80, 90), context=2, dropout=dropout))
    x = torch.randn(7, 6).double().requires_grad_()
    call = network.weighted(torch.randn(7, 2).double()).projecting().dropping(7)
    projected = call.projected.detach().requires_grad_()
    call = call._replace(projected=projected)
    weighting = torch.randn(outputs, 6, 7).double()
    expected = torch.autograd.grad((call(x) * weighting).sum(), (x, projected, *call.tensors))
    with torch.no_grad():
        call = call.premultiplied()
        hidden = kernels.hidden_units(call, x)
        parts = [kernels.outputs(call, hidden[-1], part).view(outputs, -1, 7) for part in call.structure.parts]
        assert torch.allclose(torch.cat(parts, 1), call(x), atol=1e-12)
        gradients = [weighting[:, part.rows].reshape(outputs, -1) for part in call.structure.parts]
        by_units, *last = kernels.outputs_backward(call, hidden[-1], gradients)
        by_x, by_first, layers = kernels.hidden_backward(call, x, hidden, by_units, by_input=True)
    for index, (found, right) in enumerate(zip((by_x, by_first, *layers, *last), expected, strict=True)):
        mask = network.get_buffer(f"mask_{index // 2 - 1}") if masked and index > 1 and index % 2 == 0 else 1.0
        assert torch.allclose(found * mask, right * mask, atol=1e-10)


@pytest.mark.parametrize("wide", [True, False])
def test_block_products_equal_dense_ones(wide):
    torch.manual_seed(0)
    mask = torch.arange(12).unsqueeze(1) // 3 >= torch.arange(9).unsqueeze(0) // 2
    blocks = staircase(mask, 3)
    weight, bias, x = torch.randn(12, 9).double() * mask, torch.randn(12).double(), torch.randn(5, 9).double()
    gradient = torch.randn(5, 12).double()
    assert torch.allclose(kernels.linear(x, weight, bias, blocks, wide), x @ weight.T + bias)
    assert torch.allclose(kernels.linear_by_input(gradient, weight, blocks, wide), gradient @ weight)
    assert torch.allclose(kernels.linear_by_weight(gradient, x, blocks) * mask, gradient.T @ x * mask)
