"""Variational dequantization: bounds against exact sums over cells, tighter with training and with draws."""

import math

import numpy
import pytest
import torch

import pyrogen as pg
from pyrogen import flows
from pyrogen.data.preprocessing import noise_of_rows
from pyrogen.testing import check_distribution

SHAPE, SYMBOLS = (1, 2, 2), 2
SMALL = {"layers": 1, "width": 8, "blocks": 1, "bins": 3, "interval": (0.0, 1.0)}
FEW = ("statistics_of_all_rows", "minibatches", "bad_row", "batch_invariance", "pickling", "expand", "svi_likelihood")


def fresh():
    return flows.Dequantized(
        flows.multiscale(SHAPE, **SMALL), SYMBOLS, noise=flows.multiscale(SHAPE, SHAPE, **SMALL), draws=2
    )


def perturbed(flow):
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return flow


def model(noise=True, draws=1):
    """The same first flow, whatever the noise is."""
    torch.manual_seed(0)
    base = perturbed(flows.multiscale(SHAPE, **SMALL))
    second = perturbed(flows.multiscale(SHAPE, SHAPE, **SMALL)) if noise else None
    return flows.Dequantized(base, SYMBOLS, noise=second, draws=draws).double().eval()


def all_images():
    return torch.cartesian_prod(*[torch.arange(SYMBOLS)] * 4).reshape(-1, *SHAPE).double()


def quadrature(points=12):
    """Places in the unit cell and the logarithms of their weights (Gauss-Legendre)."""
    nodes, weights = (torch.from_numpy(part) for part in numpy.polynomial.legendre.leggauss(points))
    places = torch.cartesian_prod(*[(nodes + 1) / 2] * 4).reshape(-1, *SHAPE)
    return places, torch.cartesian_prod(*[(weights / 2).log()] * 4).sum(-1)


def exact(module):
    """The log-probability of every image: the integral of the flow over its cell."""
    places, log_weights = quadrature()
    with torch.no_grad():
        cells = [(module.module().log_prob((image + places) / SYMBOLS) + log_weights) for image in all_images()]
    return torch.stack(cells).logsumexp(-1) - 4 * math.log(SYMBOLS)


def exact_bound(module):
    """The expectation of the bound of every image over its noise, by the same quadrature."""
    places, log_weights = quadrature()
    found = []
    with torch.no_grad():
        for image in all_images():
            log_q = 0.0 if module.noise is None else module.noise(image).log_prob(places)
            score = module.module().log_prob((image + places) / SYMBOLS) - 4 * math.log(SYMBOLS) - log_q
            found.append(((log_weights + log_q).exp() * score).sum())
    return torch.stack(found)


def bound(module, repetitions=1000):
    """The mean of ``log_prob`` of every image, and its standard error."""
    torch.manual_seed(1)
    with torch.no_grad():
        scores = module().log_prob(all_images().expand(repetitions, -1, *SHAPE))
    return scores.mean(0), scores.std(0) / repetitions**0.5


def test_noise_of_rows_is_uniform_and_a_function_of_the_row():
    rows = torch.randint(0, 256, (20_000, 1, 2, 2))
    noise = noise_of_rows(rows, 3)
    assert torch.equal(noise_of_rows(rows.flip(0)[:7], 3), noise.flip(0)[:7])
    flat = noise.flatten(1)
    assert (flat.mean(0) - 0.5).abs().max() < 4 * (1 / 12 / 20_000) ** 0.5
    counts = torch.stack([torch.histc(column, 10, 0, 1) for column in flat.T])
    assert ((counts - 2000).square().sum(1) / 2000).max() < 30  # chi-square of 9 degrees: one in 2,000
    assert (torch.corrcoef(flat.T) - torch.eye(4)).abs().max() < 4 / 20_000**0.5


@pytest.mark.slow
def test_contract_with_a_second_flow():
    check_distribution(fresh, event_shape=SHAPE).raise_if_failed()


def test_parts_of_the_contract():
    check_distribution(fresh, event_shape=SHAPE, only=FEW).raise_if_failed()


def test_cells_share_out_all_mass():
    assert exact(model()).logsumexp(0).item() == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize("noise", [False, True])
def test_bounds_are_expectations_below_the_exact_sums(noise):
    module = model(noise)
    truth, (one, error) = exact(module), bound(module)
    assert ((one - exact_bound(module)).abs() < 5 * error + 0.01).all()
    assert (one < truth - 4 * error).all()
    several, several_error = bound(model(noise, draws=8), 200)
    assert (several < truth + 4 * several_error).all()
    assert (several > one + 4 * error).all()


def test_a_second_flow_makes_the_bound_tighter():
    module, truth = model(), exact(model())
    for parameter in module.module.parameters():
        parameter.requires_grad_(False)
    gap = (truth - bound(model(noise=False))[0]).mean()
    draws = all_images().repeat(64, 1, 1, 1)
    pg.fit(module.float(), draws.float(), steps=80, batch_size=64, lr=1e-2, seed=0)
    left = (truth - bound(module.double().eval())[0]).mean()
    assert 0 < left < 0.8 * gap


def test_noise_of_other_shapes_or_supports_is_refused():
    base = flows.multiscale(SHAPE, **SMALL)
    with pytest.raises(ValueError, match="`noise` must have event shape and context shape"):
        flows.Dequantized(base, 2, noise=base)
    real = flows.multiscale(SHAPE, SHAPE, layers=1, width=4)
    with pytest.raises(ValueError, match="`noise` must have the support"):
        flows.Dequantized(base, 2, noise=real)().log_prob(torch.zeros(SHAPE))
    with pytest.raises(ValueError, match="`noise` must be a DistributionModule"):
        flows.Dequantized(base, 2, noise=torch.nn.Linear(2, 2))
    bounded = flows.Dequantized(base, 2)
    with pytest.raises(ValueError, match="must have an exact density|event shape"):
        flows.Dequantized(base, 2, noise=bounded)
