"""Gradients through solvers against finite differences and closed forms, traces against Jacobians."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from pyrogen.networks.velocity import VelocityNetwork
from pyrogen.numerics.adjoint import Problem, solve
from pyrogen.numerics.ode import AdaptiveSolver, FixedSolver
from pyrogen.numerics.trace import ExactTrace, Hutchinson, gaussian, rademacher


def problem(solver, integral=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()

    def field(t, x, inputs, with_rate):
        def velocity(x):
            return network(torch.cat([x, *inputs, t[:, None]], -1))

        return ExactTrace()(velocity, x, None) if with_rate else (velocity(x), None)

    return Problem(field, solver, 0.0, 1.0, integral), list(network.parameters())


def rows():
    x, context = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    return x.requires_grad_(), context.requires_grad_()


@pytest.mark.parametrize("solver", [AdaptiveSolver(1e-8), FixedSolver(3)], ids=["adaptive", "fixed"])
def test_gradients_of_value_and_integral_are_those_of_differences(solver):
    this, parameters = problem(solver)
    x, context = rows()
    assert gradcheck(
        lambda x, c, *_: solve(this, x, (c,), parameters),
        (x, context, *parameters),
        eps=1e-5,
        atol=1e-6,
        fast_mode=True,
    )


def test_gradients_can_be_differentiated_again():
    this, parameters = problem(AdaptiveSolver(1e-8))
    x, context = rows()
    assert gradgradcheck(
        lambda x, c, *_: solve(this, x, (c,), parameters),
        (x, context, *parameters),
        eps=1e-5,
        atol=1e-5,
        fast_mode=True,
    )


def test_the_gradient_of_a_linear_equation_is_the_adjoint_matrix():
    matrix = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    this = Problem(lambda t, x, inputs, r: (x @ matrix.T, None), AdaptiveSolver(1e-9), 0.0, 1.0, False)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, dtype=torch.float64)
    expected = torch.autograd.grad((weights * (x @ torch.matrix_exp(matrix).T)).sum(), (x, matrix))
    found = torch.autograd.grad((weights * solve(this, x, (), [matrix])[0]).sum(), (x, matrix))
    assert all((a - b).abs().max() < 1e-7 for a, b in zip(found, expected, strict=True))


def test_vmap_and_its_gradient_are_those_of_the_batch():
    this, parameters = problem(AdaptiveSolver(1e-8))
    x, context = rows()

    def log_det(x, context):
        return solve(this, x[None], (context[None],), parameters)[1][0]

    expected = solve(this, x, (context,), parameters)[1]
    assert (torch.func.vmap(log_det)(x, context) - expected).abs().max() < 1e-12
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    assert (torch.func.vmap(torch.func.grad(log_det))(x, context) - gradient).abs().max() < 1e-12


def test_a_lost_row_gives_no_gradient_and_takes_none_away():
    this, parameters = problem(AdaptiveSolver(1e-6))
    x, context = rows()
    spoiled = context.detach().clone()
    spoiled[1] = torch.nan
    good = torch.tensor([0, 2])
    expected = torch.autograd.grad(solve(this, x[good], (context[good],), parameters)[1].sum(), parameters)
    integral = solve(this, x, (spoiled,), parameters)[1]
    found = torch.autograd.grad(integral.nan_to_num(0.0).sum(), parameters)
    assert integral[1].isnan()
    assert all((a - b).abs().max() < 1e-12 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("hidden", [(7,), (7, 9), (5, 6, 7)])
def test_the_velocity_network_knows_its_divergence(hidden):
    torch.manual_seed(0)
    network = VelocityNetwork((2, 2), hidden=hidden, context=3).double()
    nn.init.normal_(network.last.weight)
    x, t, context = torch.randn(5, 2, 2).double(), torch.rand(5).double(), torch.randn(5, 3).double()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x, t, c: network(x[None], t[None], c[None])[0]))(x, t, context)
    expected = torch.einsum("nijij->n", jacobian)
    velocity, divergence = ExactTrace(chunk=3)(lambda x: network(x, t, context), x, None)
    assert torch.equal(velocity, network(x, t, context))
    assert (divergence - expected).abs().max() < 1e-12
    if network.has_divergence:
        assert (network.velocity_and_divergence(x, t, context)[1] - expected).abs().max() < 1e-12
    else:
        with pytest.raises(NotImplementedError, match="ExactTrace"):
            network.velocity_and_divergence(x, t, context)


@pytest.mark.parametrize("draw", [rademacher, gaussian])
def test_hutchinson_is_unbiased_with_variance_one_over_probes(draw):
    torch.manual_seed(0)
    matrix = torch.randn(5, 5, dtype=torch.float64)
    symmetric = (matrix + matrix.T) / 2
    variance = 2 * symmetric.square().sum()
    if draw is rademacher:
        variance = variance - 2 * symmetric.diagonal().square().sum()
    draws = 20_000
    for probes in (1, 4):
        trace = Hutchinson(probes, draw=draw)
        x = torch.zeros(draws, 5, dtype=torch.float64)
        found = trace(lambda x: x @ matrix.T, x, trace.noise(x))[1]
        error = (variance / probes / draws).sqrt()
        assert abs(found.mean() - matrix.trace()) < 5 * error
        assert found.var() * probes / variance == pytest.approx(
            1.0, abs=0.1
        )  # kurtosis of at most 12: 2.6 % a deviation


def test_frozen_noise_is_the_same_for_all_rows_and_calls():
    trace = Hutchinson(2, noise_seed=3)
    noise = trace.noise(torch.zeros(3, 4))
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(noise, trace.noise(torch.ones(3, 4)))
    fresh = Hutchinson(2).noise(torch.zeros(3, 400))
    assert not torch.equal(fresh[0], fresh[1])
    with pytest.raises(ValueError, match="`probes` must be at least 1"):
        Hutchinson(0)
