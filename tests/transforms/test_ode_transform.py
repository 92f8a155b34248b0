"""The bijection of a differential equation against a linear one, whose flow is a matrix exponential."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.numerics.ode import AdaptiveSolver, FixedSolver
from pyrogen.numerics.runge_kutta import EULER, RK4
from pyrogen.numerics.trace import Hutchinson
from pyrogen.transforms.distribution import TransformedDistribution
from pyrogen.transforms.ode import ODE


def linear(size=3, **options):
    """dx/dt = A x, from time 1 to time 0."""
    torch.manual_seed(0)
    matrix = torch.randn(size, size, dtype=torch.float64)
    return ODE(lambda x, t, context: x @ matrix.T, (size,), **options), matrix


def test_the_map_is_a_matrix_exponential_and_its_log_determinant_a_trace():
    transform, matrix = linear(solver=AdaptiveSolver(1e-8))
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    y, log_det = transform.forward_and_log_det(x)
    assert (y - x @ torch.matrix_exp(-matrix).T).abs().max() < 1e-6
    assert log_det.shape == (2, 5)
    assert (log_det + matrix.trace()).abs().max() < 1e-6
    back, inverse_log_det = transform.inverse_and_log_det(y)
    assert (back - x).abs().max() < 1e-6
    assert (log_det + inverse_log_det).abs().max() < 1e-6
    assert torch.equal(transform(x), y) or (transform(x) - y).abs().max() < 1e-6
    assert (transform.inv(y) - x).abs().max() < 1e-6


def test_draws_cost_no_divergence_and_densities_are_those_of_the_gaussian():
    calls = []

    def divergence(x, t, context):
        calls.append(len(x))
        return 0.5 * x, torch.full_like(t, 1.0)

    flow = ODE(lambda x, t, context: 0.5 * x, (2,), divergence=divergence, solver=AdaptiveSolver(1e-7))
    made = TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [flow])
    assert made.density == "estimate"
    x = made.sample((7,))
    assert not calls
    expected = dist.Normal(torch.zeros(2), torch.tensor(-0.5).exp()).to_event(1).log_prob(x)
    assert (made.log_prob(x) - expected).abs().max() < 1e-5
    assert calls


def test_context_reaches_each_row_and_broadcasts():
    flow = ODE(
        lambda x, t, context: context["rate"][:, None] * x,
        (2,),
        context={"rate": torch.tensor([0.0, 1.0])},
        batch_shape=torch.Size([2]),
        solver=AdaptiveSolver(1e-6),
    )
    y, log_det = flow.forward_and_log_det(torch.ones(3, 1, 2))
    assert y.shape == (3, 2, 2)
    assert torch.allclose(log_det, torch.tensor([0.0, -2.0]).expand(3, 2), atol=1e-4)
    assert torch.allclose(y[0, :, 0], torch.tensor([1.0, -1.0]).mul(torch.tensor([0.0, 1.0])).exp(), atol=1e-4)


def test_a_grid_too_coarse_for_a_density_is_refused_and_draws_all_the_same():
    for solver, enough in ((FixedSolver(3, EULER), False), (FixedSolver(20, RK4), True)):
        transform, _ = linear(solver=solver)
        x = torch.randn(4, 3, dtype=torch.float64)
        assert transform(x).isfinite().all()
        if enough:
            transform.forward_and_log_det(x)
            continue
        with (
            pyro.validation_enabled(False),
            pytest.raises(ValueError, match="too coarse for a density: 3 steps of Euler"),
        ):
            transform.forward_and_log_det(x)


def test_a_field_of_nan_names_row_and_time_or_gives_nan():
    def broken(x, t, context):
        return torch.where((x[:, :1] > 2) & (t[:, None] < 0.5), torch.nan, torch.ones_like(x))

    flow = ODE(broken, (1,), solver=AdaptiveSolver(1e-4))
    x = torch.tensor([[0.0], [5.0], [1.0]])
    with pytest.raises(ValueError, match=r"row 1 of 3 stops at time 0\.5"):
        flow.forward_and_log_det(x)
    with pyro.validation_enabled(False):
        y, log_det = flow.forward_and_log_det(x)
    assert y[:, 0].isnan().tolist() == log_det.isnan().tolist() == [False, True, False]


def test_hutchinson_averages_to_the_trace_and_frozen_noise_repeats():
    transform, matrix = linear(trace=Hutchinson(), solver=AdaptiveSolver(1e-5))
    x = torch.zeros(4000, 3, dtype=torch.float64)
    log_det = transform.forward_and_log_det(x)[1]
    off = (matrix + matrix.T) / 2
    off = off - off.diagonal().diag()
    deviation = (2 * off.square().sum()).sqrt()
    assert abs(log_det.mean() + matrix.trace()) < 5 * deviation / 4000**0.5
    assert log_det.std() == pytest.approx(deviation.item(), rel=0.06)  # five deviations for a kurtosis near three
    frozen, _ = linear(trace=Hutchinson(noise_seed=1))
    assert torch.equal(frozen.forward_and_log_det(x[:3])[1], frozen.forward_and_log_det(x[:3])[1])
