"""Networks of flows: masks, staircases, parameter-major outputs."""

import pytest
import torch

from pyrogen.networks.blocks import block_linear, staircase
from pyrogen.networks.embedding import Flatten, Labels
from pyrogen.networks.masked import MaskedConditioner, chain, levels
from pyrogen.networks.mlp import MLP, Conditioner


def wild(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return network.double()


def test_masked_network_sees_what_it_may_and_all_of_it():
    torch.manual_seed(0)
    dependence = (torch.rand(7, 7) < 0.4).tril(-1)
    dependence[3] = 0
    network = wild(MaskedConditioner(dependence, 2, hidden=(40, 50)))
    jacobian = torch.autograd.functional.jacobian(lambda x: network.weighted()(x), torch.randn(7).double())
    assert torch.equal((jacobian.abs().sum(0) > 1e-12), dependence)


@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_sweep_equals_the_dense_pass(order, context):
    network = wild(MaskedConditioner(chain(order), 3, hidden=(9, 70, 80), context=context))
    x = torch.randn(6, 5).double()
    weighted = network.weighted(network.project(torch.randn(6, context).double()) if context else None)
    dense = weighted(x)
    sweep = weighted.sweep(6)
    seen = torch.empty_like(dense)
    points = x.T[sweep.order]

    def solve(parameters, features):
        seen[:, sweep.order[features]] = parameters
        return points[features]

    with torch.no_grad():
        sweep.forward(solve)
    assert torch.allclose(seen, dense, atol=1e-12)


def test_first_feature_depends_on_the_context():
    network = wild(MaskedConditioner(chain([0, 1, 2]), 1, hidden=(8,), context=2))

    def first(context):
        return network.weighted(network.project(context))(torch.zeros(3).double())[0, 0]

    assert (torch.autograd.functional.jacobian(first, torch.randn(2).double()) != 0).all()


def test_levels():
    assert levels(chain([1, 0, 2])) == [[1], [0], [2]]
    assert levels(torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 0]])) == [[0, 1], [2]]
    with pytest.raises(ValueError, match="square"):
        levels(torch.zeros(2, 3))


def test_block_linear_equals_the_dense_product_and_its_gradients():
    torch.manual_seed(0)
    mask = torch.arange(12).unsqueeze(1) // 3 >= torch.arange(9).unsqueeze(0) // 2
    blocks = staircase(mask, 3)
    weight = (torch.randn(12, 9).double() * mask).requires_grad_()
    bias, x = torch.randn(12).double().requires_grad_(), torch.randn(9, 5).double().requires_grad_()
    out = block_linear(weight, bias, x, blocks)
    expected = weight @ x + bias.unsqueeze(1)
    assert torch.allclose(out, expected)
    for first, second in zip(
        torch.autograd.grad(out.sin().sum(), (weight, bias, x)),
        torch.autograd.grad(expected.sin().sum(), (weight, bias, x)),
        strict=True,
    ):
        assert torch.allclose(
            first * (mask if first.shape == mask.shape else 1), second * (mask if first.shape == mask.shape else 1)
        )
    assert torch.autograd.gradgradcheck(lambda x: block_linear(weight.detach(), bias.detach(), x, blocks), x)
    many = torch.vmap(lambda x: block_linear(weight, bias, x, blocks), in_dims=2)(x.unsqueeze(2).expand(-1, -1, 4))
    assert torch.allclose(many[2], expected)


@pytest.mark.parametrize(("inputs", "context"), [(3, 0), (3, 2), (0, 2), (0, 0)])
def test_conditioner_is_parameter_major_and_starts_at_zero(inputs, context):
    network = Conditioner(inputs, 4, 5, hidden=(8, 8), context=context)
    projected = network.project(torch.randn(6, context)) if context else None
    out = network(torch.randn(7, 6, inputs), projected)
    assert out.shape == (5, 4, 7, 6)
    assert not out.any()
    out = wild(network).float()(torch.randn(7, 6, inputs), projected)
    assert out.isfinite().all()


def test_embeddings():
    assert Labels(3)(torch.tensor([[2]])).tolist() == [[[0.0, 0.0, 1.0]]]
    flat = Flatten({"a": (2,), "b": (1, 3)})
    assert flat.size == 5
    assert flat({"a": torch.zeros(4, 1, 2), "b": torch.ones(6, 1, 3)}).shape == (4, 6, 5)


def test_perceptron_and_errors():
    assert MLP(3, 2, hidden=(4,), dropout=0.5)(torch.zeros(5, 3)).shape == (5, 2)
    for make in (lambda: Conditioner(1, 1, 1, hidden=()), lambda: MaskedConditioner(chain([0]), 1, hidden=())):
        with pytest.raises(ValueError, match="`hidden`"):
            make()
