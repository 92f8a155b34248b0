"""Layers divided by their operator norm, against the singular values of their dense matrices."""

import copy

import pytest
import torch
from torch import nn

from pyrogen.networks import SpectralNormalized, operator_norm, spectrally_normalized

LAYERS = {
    "dense": (lambda: nn.Linear(7, 5), (7,)),
    "stride": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 6)),
    "no padding": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 6)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 4)),
    "groups and dilation": (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2, bias=False), (4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 2, 4, stride=2, padding=1), (3, 4, 4)),
    "signal": (lambda: nn.Conv1d(2, 3, 5, padding=2), (2, 11)),
    "volume": (lambda: nn.Conv3d(1, 2, 3, padding=1), (1, 3, 4, 3)),
}


def largest(layer, shape):
    """The largest singular value of the map, from its matrix column by column."""
    units = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).reshape(-1, *shape)
    layer = copy.deepcopy(layer).double().eval()
    matrix = (layer(units) - layer(torch.zeros_like(units[:1]))).flatten(1)
    return torch.linalg.svdvals(matrix.detach())[0].item()


@pytest.mark.parametrize("name", LAYERS)
def test_the_norm_is_that_of_the_dense_matrix(name):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    expected = largest(layer, shape)
    assert operator_norm(layer, shape, iterations=300).item() == pytest.approx(expected, rel=1e-3)
    normalized = SpectralNormalized(layer, shape)
    assert normalized.norm.item() == pytest.approx(expected, rel=5e-3)
    assert largest(normalized, shape) == pytest.approx(1, rel=5e-3)


@pytest.mark.parametrize("name", LAYERS)
def test_the_norm_stays_one_while_the_layer_trains(name):
    torch.manual_seed(1)
    make, shape = LAYERS[name]
    layer = SpectralNormalized(make(), shape)
    optimizer, target = torch.optim.Adam(layer.parameters(), lr=1e-3), None
    for _ in range(50):
        x = torch.randn(16, *shape)
        y = layer(x)
        target = torch.randn_like(y[:1]) if target is None else target
        optimizer.zero_grad()
        (y * target).mean().backward()
        optimizer.step()
    layer(x)
    assert largest(layer, shape) == pytest.approx(1, rel=1e-2)
    before = copy.deepcopy(layer.state_dict())
    layer.eval()(x)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


def test_the_kernel_as_a_matrix_is_not_the_convolution():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(layer.weight)
    assert torch.linalg.svdvals(layer.weight.flatten(1)).item() == pytest.approx(3)
    assert largest(layer, (1, 32, 32)) == pytest.approx(9, rel=1e-2)


def test_the_gradient_goes_through_the_norm():
    torch.manual_seed(2)
    layer = nn.Linear(6, 4).double()
    x, weight = torch.randn(3, 6).double(), layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone()
    expected = nn.functional.linear(x, weight / torch.linalg.matrix_norm(weight, ord=2), bias).square().sum()
    (wanted,) = torch.autograd.grad(expected, weight)
    normalized = SpectralNormalized(layer, (6,))
    for _ in range(50):
        normalized(x)
    loss = normalized(x).square().sum()
    loss.backward()
    assert loss.item() == pytest.approx(expected.item())
    assert torch.allclose(normalized.layer.weight.grad, wanted, rtol=1e-6, atol=1e-8)


def test_a_network_has_slopes_of_at_most_one():
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 1),
    )
    network = spectrally_normalized(network, (3, 8, 8)).train()
    x, y = torch.randn(2, 500, 3, 8, 8)
    slopes = (network(x) - network(y)).abs().flatten() / (x - y).flatten(1).norm(dim=1)
    assert slopes.max() <= 1.01
    assert sum(isinstance(part, SpectralNormalized) for part in network.modules()) == 3


def test_second_derivatives_pass_through_it():
    layer = SpectralNormalized(nn.Conv2d(1, 2, 3, padding=1), (1, 4, 4))
    x = torch.randn(3, 1, 4, 4, requires_grad=True)
    (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert layer.layer.weight.grad.abs().sum() > 0


def test_what_it_refuses():
    with pytest.raises(ValueError, match="zeros alone"):
        SpectralNormalized(_zero(), (2,))
    with pytest.raises(ValueError, match="dense layer or a convolution, got ReLU"):
        SpectralNormalized(nn.ReLU(), (2,))
    shared = nn.Conv2d(1, 1, 3, stride=2, padding=1)
    with pytest.raises(ValueError, match="inputs of one shape"):
        spectrally_normalized(nn.Sequential(shared, shared), (1, 8, 8))


def _zero():
    layer = nn.Linear(2, 2)
    nn.init.zeros_(layer.weight)
    return layer
