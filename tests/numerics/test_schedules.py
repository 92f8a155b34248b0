import copy
import pickle

import pytest
import torch

from pyrogen.numerics.grids import FlowGrid, KarrasGrid, LogSNRGrid, UniformGrid
from pyrogen.numerics.schedule import Schedule, check_schedule
from pyrogen.numerics.schedules import EDM, VE, CosineVP, LearnedSchedule, LinearVP, RectifiedFlow, SubVP

CLASSES = (LinearVP, SubVP, CosineVP, VE, EDM, RectifiedFlow, LearnedSchedule)
GRIDS = (UniformGrid, LogSNRGrid, KarrasGrid, FlowGrid)


def bent(kind):
    """A schedule; the learned one away from its straight beginning."""
    schedule = kind()
    if kind is LearnedSchedule:
        torch.manual_seed(0)
        torch.nn.init.normal_(schedule.log_rate)
    return schedule


@pytest.mark.parametrize("kind", CLASSES)
def test_a_schedule_falls_and_its_time_inverts_it(kind):
    schedule, t = bent(kind), torch.linspace(0, 1, 501, dtype=torch.float64)
    alpha, sigma = schedule(t)
    log_snr = schedule.log_snr(t)
    assert torch.allclose(log_snr, 2 * (alpha / sigma).log(), atol=1e-9)
    assert (log_snr.diff() < 0).all()
    assert torch.allclose(schedule.time(log_snr), t, atol=1e-12)
    assert sigma[0] / alpha[0] < 0.0101
    assert sigma[-1] / alpha[-1] > 10
    check_schedule(schedule)


@pytest.mark.parametrize("kind", CLASSES)
def test_derivatives_are_those_of_autograd(kind):
    schedule, t = bent(kind), torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    closed = (*schedule.derivatives(t), schedule.slope(t))
    for value, slope in zip((*schedule(t), schedule.log_snr(t)), closed, strict=True):
        exact = torch.autograd.grad(value.sum(), t, retain_graph=True)[0] if value.requires_grad else 0 * t
        assert torch.allclose(slope, exact, rtol=1e-8, atol=1e-12)
    default = Schedule.derivatives(schedule, t.detach())
    assert all(torch.allclose(one, two, rtol=1e-8, atol=1e-12) for one, two in zip(closed, default, strict=False))


@pytest.mark.parametrize("kind", CLASSES)
def test_single_precision_agrees_with_double(kind):
    schedule, t = bent(kind), torch.linspace(0, 1, 101)
    for single, double in zip(schedule(t), schedule(t.double()), strict=True):
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), double, rtol=2e-4)


def test_formulas_of_the_papers():
    t = torch.tensor([0.25, 0.5, 0.9], dtype=torch.float64)
    linear = LinearVP(beta_min=0.2, beta_max=10.0, start=1e-12)
    rate = torch.stack([torch.linspace(0, float(each), 10001, dtype=torch.float64) for each in t])
    integral = torch.trapezoid(0.2 + (10 - 0.2) * rate, rate, dim=1)
    assert torch.allclose(linear(t)[0], torch.exp(-integral / 2), rtol=1e-8)
    assert torch.allclose(SubVP(beta_min=0.2, beta_max=10.0, start=1e-12)(t)[1], linear(t)[1] ** 2, rtol=1e-8)
    for schedule in (linear, CosineVP(), LearnedSchedule()):
        alpha, sigma = schedule(t)
        assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(t))
    alpha, sigma = RectifiedFlow()(t)
    assert torch.allclose(alpha + sigma, torch.ones_like(t))
    # The noise of EDM on a uniform grid is Karras' grid (eq. 5).
    steps = torch.arange(8, dtype=torch.float64) / 7
    karras = (80 ** (1 / 7) + steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert torch.allclose(EDM()(UniformGrid(7)(EDM()))[1], karras)
    wide = VE(sigma_min=1e-3, sigma_max=100.0)
    assert torch.allclose(wide(KarrasGrid(7)(wide))[1][1:-1], karras[1:-1])


def test_the_learned_schedule_learns_all_its_parameters():
    schedule = bent(LearnedSchedule)
    t = torch.tensor([0.3, 0.8])
    schedule.log_snr(t).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in schedule.parameters())
    copied = pickle.loads(pickle.dumps(copy.deepcopy(schedule)))
    assert torch.equal(copied.log_snr(t), schedule.log_snr(t))
    assert schedule.double().log_snr(t.double()).dtype == torch.float64
    # The inverse differentiates too: d time / d log_snr = 1 / slope.
    log_snr = schedule.log_snr(t.double()).detach().requires_grad_()
    grad = torch.autograd.grad(schedule.time(log_snr).sum(), log_snr)[0]
    assert torch.allclose(grad, 1 / schedule.slope(t.double()))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_fall_from_one_to_zero(kind, grid):
    schedule = bent(kind)
    times = grid(7)(schedule)
    assert times.shape == (8,)
    assert times.dtype == torch.float64
    assert not times.requires_grad
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()


def test_grids_in_the_log_snr_are_the_same_points_of_every_path():
    for make in (
        lambda: LogSNRGrid(6, maximum=20, minimum=0.05),
        lambda: KarrasGrid(6, rho=3, maximum=20, minimum=0.05),
        lambda: FlowGrid(6, power=0.5),
    ):
        one, two = LinearVP(beta_min=0.1, beta_max=20), VE(sigma_min=1e-3, sigma_max=150.0)
        first, second = one.log_snr(make()(one)), two.log_snr(make()(two))
        # The flow grid runs between the ends of its schedule, which differ a little.
        assert torch.allclose(first[1:-1], second[1:-1], atol=0.05 if isinstance(make(), FlowGrid) else 1e-9)
    ratio = (-LinearVP().log_snr(FlowGrid(8, power=1.0)(LinearVP())) / 2).exp()
    assert torch.allclose((ratio / (1 + ratio)).diff().diff(), torch.zeros(7, dtype=torch.float64), atol=1e-12)


class WithoutInverse(Schedule):
    def time(self, log_snr):
        raise NotImplementedError


class Rising(WithoutInverse):
    def forward(self, t):
        return torch.cos(3 * (t - 0.5) ** 2 + 0.1), torch.sin(3 * (t - 0.5) ** 2 + 0.1)


class Infinite(WithoutInverse):
    def forward(self, t):
        return 1 - t, t


def test_bad_schedules_are_refused_with_their_times():
    with pytest.raises(ValueError, match=r"strictly decreasing log-SNR, Rising goes from .* at t = 0 to"):
        check_schedule(Rising())
    with pytest.raises(ValueError, match=r"finite log-SNR, Infinite has inf at t = 0"):
        check_schedule(Infinite())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearVP(beta_min=-1.0), "`beta_min` and `beta_max` must satisfy 0 < beta_min <= beta_max"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "0 < sigma_min < sigma_max, got 2.0, 1.0"),
        (lambda: EDM(rho=0), "`rho` must be positive"),
        (lambda: RectifiedFlow(start=0.5), "`start` must lie strictly between 0 and 0.5"),
        (lambda: LearnedSchedule(log_snr_max=-6.0), "`log_snr_max` must exceed `log_snr_min` = -5.0"),
        (lambda: LearnedSchedule(knots=0), "`knots` must be at least 1"),
        (lambda: UniformGrid(0), "`steps` must be at least 1"),
        (lambda: LogSNRGrid(3, start=0.2, end=0.5), "0 <= end < start <= 1, got 0.2, 0.5"),
        (lambda: KarrasGrid(3, rho=-1), "`rho` must be positive"),
        (lambda: KarrasGrid(3, minimum=2, maximum=1), "0 <= minimum < maximum, got 2, 1"),
        (lambda: FlowGrid(3, power=0), "`power` must be positive"),
        (lambda: KarrasGrid(3, maximum=1e-6, minimum=1e-8)(VE()), "must overlap with those of the grid"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_times_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\], got 1.5$"):
        CosineVP()(torch.tensor(1.5))
    with pytest.raises(ValueError, match=r"`t` must lie in \[0, 1\], got -0.25 at \[1, 0\]"):
        LearnedSchedule()(torch.tensor([[0.5, 0.1], [-0.25, 0.2]]))
    with pytest.raises(ValueError, match=r"got nan"):
        VE()(torch.tensor([float("nan")]))
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        CosineVP()(torch.tensor(1.5))
    finally:
        torch.distributions.Distribution.set_default_validate_args(True)
