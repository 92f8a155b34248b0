"""Solvers against the matrix exponential: orders, rows that go their own ways, and failures that say where."""

import math

import pytest
import torch

from pyrogen.numerics.ode import AdaptiveSolver, FixedSolver
from pyrogen.numerics.runge_kutta import DORMAND_PRINCE, EULER, HEUN, MIDPOINT, RK4

METHODS = [EULER, MIDPOINT, HEUN, RK4, DORMAND_PRINCE]


def generator(size=3):
    torch.manual_seed(0)
    return torch.randn(size, size, dtype=torch.float64)


def linear(matrix):
    """dx/dt = (1 + t) A x, with its divergence."""

    def field(t, x, inputs, with_rate):
        return (1 + t)[:, None] * (x @ matrix.T), (1 + t) * matrix.trace() if with_rate else None

    return field


def nonlinear(t, x, inputs, with_rate):
    """dx/dt = x cos t and the rate x^2: x = x_0 exp(sin t)."""
    return x * t.cos()[:, None], x.square().sum(-1) if with_rate else None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_fixed_steps_converge_at_their_order(method):
    matrix, x = generator(), torch.randn(4, 3, dtype=torch.float64)
    exact = x @ torch.matrix_exp(1.5 * matrix).T
    counts = (20, 40)
    errors = [(FixedSolver(n, method).solve(linear(matrix), x, 0.0, 1.0).value - exact).norm() for n in counts]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(method.order, abs=0.25)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_estimated_error_of_fixed_steps_is_no_smaller_than_a_tenth_of_the_true_one(method):
    matrix, x = generator(), torch.randn(4, 3, dtype=torch.float64)
    exact = x @ torch.matrix_exp(1.5 * matrix).T
    path = FixedSolver(20, method).solve(linear(matrix), x, 0.0, 1.0, integral=True)
    true = (path.value - exact).square().mean(1).sqrt()
    assert (path.error > 0.1 * true).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_adaptive_steps_keep_their_tolerance_both_ways(dtype, start, end):
    matrix, x = generator().to(dtype), torch.randn(6, 3, dtype=dtype)
    exact = x @ torch.matrix_exp(1.5 * (end - start) * matrix).T
    for tolerance in (1e-3, 1e-5):
        path = AdaptiveSolver(tolerance).solve(linear(matrix), x, start, end, integral=True).check()
        assert (path.value - exact).abs().max() < 10 * tolerance * (1 + exact.abs().max())
        assert path.integral.sub(1.5 * (end - start) * matrix.trace()).abs().max() < 10 * tolerance


def test_a_rate_is_integrated_along_the_path():
    x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    path = AdaptiveSolver(1e-8).solve(nonlinear, x, 0.0, 1.0, integral=True)
    t = torch.linspace(0, 1, 20001, dtype=torch.float64)
    expected = x.square()[:, 0] * torch.trapezoid((2 * t.sin()).exp(), t)
    assert (path.value - x * math.exp(math.sin(1.0))).abs().max() < 1e-6
    assert (path.integral - expected).abs().max() < 1e-6


def test_the_tolerance_binds_the_integral_where_the_value_is_easy():
    def field(t, x, inputs, with_rate):
        return torch.zeros_like(x), (40 * t).sin() if with_rate else None

    path = AdaptiveSolver(1e-6).solve(field, torch.zeros(1, 1, dtype=torch.float64), 0.0, 1.0, integral=True)
    assert path.integral.item() == pytest.approx((1 - math.cos(40.0)) / 40, abs=1e-5)
    assert path.steps.item() > 20


def test_a_row_takes_its_own_steps_whoever_is_beside_it():
    scale = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)

    def field(t, x, inputs, with_rate):
        (rate,) = inputs
        return -rate[:, None] * x + (5 * t).sin()[:, None], rate * x[:, 0] if with_rate else None

    x = torch.ones(3, 2, dtype=torch.float64)
    together = AdaptiveSolver(1e-6).solve(field, x, 0.0, 1.0, inputs=(scale,), integral=True)
    assert together.steps[0] < together.steps[1] < together.steps[2]
    for row in range(3):
        one = slice(row, row + 1)
        alone = AdaptiveSolver(1e-6).solve(field, x[one], 0.0, 1.0, inputs=(scale[one],), integral=True)
        assert torch.equal(alone.value[0], together.value[row])
        assert torch.equal(alone.integral[0], together.integral[row])


def test_a_path_remembers_where_its_rows_were():
    x = torch.tensor([[0.5], [200.0]], dtype=torch.float64)
    path = AdaptiveSolver(1e-6).solve(nonlinear, x, 0.0, 1.0, keep=True)
    assert torch.equal(path.states[0], x)
    assert torch.equal(path.states[-1], path.value)
    exact = x * path.times[..., None].sin().exp()
    assert ((path.states - exact) / x).abs().max() < 1e-5
    assert (path.times.diff(dim=0) >= 0).all()
    assert (path.times[-1] == 1).all()


@pytest.mark.parametrize("solver", [AdaptiveSolver(), FixedSolver(4)], ids=["adaptive", "fixed"])
def test_rows_of_nan_fail_alone_and_by_name(solver):
    x = torch.ones(4, 2)
    x[2, 1] = torch.nan
    path = solver.solve(lambda t, x, inputs, with_rate: (x, None), x, 0.0, 1.0)
    assert path.failed.tolist() == [False, False, True, False]
    assert path.value[2].isnan().all()
    assert path.value[[0, 1, 3]].isfinite().all()
    with pytest.raises(ValueError, match="row 2 of 4 stops at time .* not finite"):
        path.check()


def test_a_solution_that_blows_up_fails_at_its_time():
    def field(t, x, inputs, with_rate):
        return x**2, None

    path = AdaptiveSolver(1e-6).solve(field, torch.tensor([[0.5], [4.0]], dtype=torch.float64), 0.0, 1.0)
    assert path.value[0].item() == pytest.approx(1.0, abs=1e-4)  # 1 / (2 - t)
    with pytest.raises(ValueError, match=r"row 1 of 2 stops at time 0\.25"):
        path.check()


def test_too_many_steps_fail():
    def field(t, x, inputs, with_rate):
        return (1000 * t).cos()[:, None], None

    path = AdaptiveSolver(1e-8, most_steps=20).solve(field, torch.zeros(1, 1, dtype=torch.float64), 0.0, 1.0)
    with pytest.raises(ValueError, match="row 0 of 1 .* more steps than `most_steps`"):
        path.check()


@pytest.mark.parametrize("solver", [AdaptiveSolver(), FixedSolver(4)], ids=["adaptive", "fixed"])
def test_no_rows_and_no_way(solver):
    empty = solver.solve(nonlinear, torch.zeros(0, 2), 0.0, 1.0, integral=True, keep=True).check()
    assert empty.value.shape == (0, 2)
    assert empty.integral.shape == (0,)
    still = solver.solve(nonlinear, torch.ones(3, 2), 1.0, 1.0, integral=True)
    assert torch.equal(still.value, torch.ones(3, 2))
    assert not still.integral.any()


def test_fixed_steps_may_lie_anywhere():
    x = torch.ones(1, 1, dtype=torch.float64)
    path = FixedSolver([0.0, 0.1, 0.5, 1.0]).solve(nonlinear, x, 0.0, 1.0)
    assert path.times[:, 0].tolist() == [0.0, 0.1, 0.5, 1.0]
    for wrong in (0, [0.0, 0.5], [0.0, 0.6, 0.5, 1.0]):
        with pytest.raises(ValueError, match="`steps` must be at least 1"):
            FixedSolver(wrong)
    with pytest.raises(ValueError, match="`tolerance` must be positive"):
        AdaptiveSolver(0.0)
