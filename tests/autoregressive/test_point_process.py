"""Point processes: Poisson and Hawkes in closed form, windows that sum to one, forecasts, time rescaling."""

import math

import pytest
import torch
from torch.distributions import Exponential, constraints

import pyrogen as pg
from pyrogen import autoregressive
from pyrogen.autoregressive.conditionals import OfFamily
from pyrogen.autoregressive.point_process.waiting import DecayingHazard, LogNormalMixture
from pyrogen.networks.sequence import SequenceNetwork, State
from pyrogen.testing import check_distribution

WINDOW = 4.0


def hawkes(rate, branching, decay, *, length=40, window=WINDOW):
    module = autoregressive.hawkes((length,), window=window).double()
    with torch.no_grad():
        module.network.numbers.copy_(torch.tensor([rate, branching, decay]).log())
    return module


def neural(length=12, **settings):
    torch.manual_seed(0)
    module = autoregressive.point_process((length,), window=WINDOW, components=4, width=8, depth=1, heads=2, **settings)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double()


def excited(times, rate, branching, decay, window):
    """The log-density of a Hawkes process by its definition: log-intensities less the integral of the intensity."""
    kept = [time for time in times.tolist() if time < window]
    score = -rate * window - sum(branching * (1 - math.exp(-decay * (window - time))) for time in kept)
    for place, time in enumerate(kept):
        past = sum(branching * decay * math.exp(-decay * (time - earlier)) for earlier in kept[:place])
        score += math.log(rate + past)
    return score


class Swaying(DecayingHazard):
    """The waiting time of a Poisson process of rate 2 + sin t after a time, from which it is counted."""

    def __init__(self, after):
        self.after = after

    def log_prob(self, gap):
        return (2 + (self.after + gap).sin()).log() + self.log_survival(gap)

    def log_survival(self, gap):
        return -2 * gap + (self.after + gap).cos() - self.after.cos()


class MakeSwaying(torch.nn.Module):
    size = 1

    def forward(self, outputs):
        return Swaying(outputs[..., 0])


class LastTime(SequenceNetwork):
    def forward(self, symbols, context=None):
        times = symbols[..., :1]
        return torch.cat([torch.zeros_like(times[:, :1]), times[:, :-1]], 1)

    def start(self, batch_shape, context=None):
        return State()

    def step(self, symbol, state):
        raise NotImplementedError


def test_homogeneous_poisson_in_closed_form():
    module, rate = hawkes(1.5, 1e-30, 1.0, length=6), 1.5
    x = module.pack([[0.3, 1.0, 3.5], [], [2.0]]).double()
    expected = module().lengths(x) * math.log(rate) - rate * WINDOW
    torch.testing.assert_close(module().log_prob(x), expected.double())
    full = torch.tensor([0.1, 0.2, 1.0, 2.0, 3.0, 3.7]).double()  # closes the window with its last event
    assert module().log_prob(full).item() == pytest.approx(6 * math.log(rate) - rate * 3.7)
    torch.manual_seed(0)
    counts = hawkes(1.5, 1e-30, 1.0)().lengths(hawkes(1.5, 1e-30, 1.0)().sample((4000,))).double()
    mean = rate * WINDOW
    assert counts.mean().item() == pytest.approx(mean, abs=5 * (mean / 4000) ** 0.5)
    assert counts.var().item() == pytest.approx(mean, abs=5 * ((2 * mean**2 + mean) / 4000) ** 0.5)


def test_inhomogeneous_poisson_in_closed_form():
    process = autoregressive.PointProcess(LastTime(), MakeSwaying(), event_shape=(5,), window=WINDOW)
    x = process.pack([[0.3, 1.0, 3.5], [], [2.0]]).double()
    total = 2 * WINDOW + 1 - math.cos(WINDOW)
    rates = torch.where(x < WINDOW, (2 + x.sin()).log(), 0.0)
    torch.testing.assert_close(process().log_prob(x), rates.sum(-1) - total)
    torch.testing.assert_close(process().compensators(x).sum(-1), torch.full((3,), total).double())
    at = torch.tensor([0.1, 0.9, 3.9]).double()
    torch.testing.assert_close(process().intensity(x, at), (2 + at.sin()).expand(3, 3))


@pytest.mark.parametrize("numbers", [(1.0, 0.5, 2.0), (0.3, 0.9, 5.0), (2.0, 1.2, 0.5)])
def test_hawkes_in_closed_form(numbers):
    module = hawkes(*numbers)
    torch.manual_seed(0)
    x = module().sample((50,))
    x = x[module().lengths(x) < 40]
    expected = torch.tensor([excited(row, *numbers, WINDOW) for row in x])
    torch.testing.assert_close(module().log_prob(x), expected.double())
    rate, branching, decay = numbers
    at = torch.tensor([0.5, 2.5]).double()
    past = torch.where(x[:, None] < at[:, None], (-decay * (at[:, None] - x[:, None])).exp(), 0.0).sum(-1)
    torch.testing.assert_close(module().intensity(x, at), rate + branching * decay * past)


def test_hawkes_draws_have_the_mean_of_the_formula():
    rate, branching, decay = 1.0, 0.6, 2.0
    module = hawkes(rate, branching, decay, length=80)
    torch.manual_seed(0)
    counts = module().lengths(module().sample((4000,))).double()
    left = decay * (1 - branching)
    share = WINDOW - branching * (1 - math.exp(-left * WINDOW)) / left
    assert counts.max() < 80
    assert counts.mean().item() == pytest.approx(
        rate / (1 - branching) * share, abs=5 * counts.std().item() / 4000**0.5
    )


@pytest.mark.parametrize(
    "make", [neural, lambda length: hawkes(0.4, 0.7, 1.5, length=length)], ids=["neural", "hawkes"]
)
def test_windows_sum_to_one(make):
    """Of at most two events: those of none, of one, and of two or more."""
    distribution, points = make(length=2)(), 300
    root = (torch.arange(points).double() + 0.5) / points
    share, step = root.square(), 2 * root / points  # fine near zero, where short times have much mass
    grid = WINDOW * share
    nothing = torch.full((1, 2), WINDOW).double()
    one = torch.stack([grid, torch.full_like(grid, WINDOW)], -1)
    first = grid[:, None].expand(-1, points)
    two = torch.stack([first, first + (WINDOW - first) * share], -1)
    with torch.no_grad():
        none, single = (
            distribution.log_prob(nothing).exp().sum(),
            (distribution.log_prob(one).exp() * WINDOW * step).sum(),
        )
        double = (distribution.log_prob(two).exp() * (WINDOW - first) * WINDOW * step * step[:, None]).sum()
    assert float(none + single + double) == pytest.approx(1, abs=5e-4)


def test_times_beyond_what_one_has_waited():
    weights = torch.tensor([0.2, 0.5, 0.3]).double().log()
    mixture = LogNormalMixture(weights, torch.tensor([-1.0, 0.0, 2.0]).double(), torch.tensor([0.5, 1.0, 0.3]).double())
    hazard = DecayingHazard(torch.tensor(0.3).double(), torch.tensor(1.5).double(), torch.tensor(2.0).double())
    for waiting in (mixture, hazard):
        for waited in (0.0, 0.7, 6.0):
            start = torch.full((5000,), waited).double()
            torch.manual_seed(0)
            drawn = waiting.sample_beyond(start)
            assert (drawn > waited).all()
            passed = waiting.log_survival(start.clamp(min=1e-300)) - waiting.log_survival(drawn)
            distance = (passed.sort().values - Exponential(1.0).icdf((torch.arange(5000) + 0.5) / 5000)).abs()
            shares = Exponential(1.0).cdf(passed.sort().values) - (torch.arange(5000).double() + 0.5) / 5000
            assert shares.abs().max() < 1.95 / 5000**0.5  # Kolmogorov's bound at one in a thousand
            assert distance.median() < 0.1
        gaps = torch.linspace(0.01, 30, 300_000).double()
        mass = torch.trapezoid(waiting.log_prob(gaps).exp(), gaps) + waiting.log_survival(gaps[:1]).neg().expm1().abs()
        assert float(mass[0] + waiting.log_survival(gaps[-1:]).exp()) == pytest.approx(1, abs=2e-3)


def test_time_rescaling_accepts_the_process_and_rejects_another():
    own, other = neural(length=30), hawkes(2.0, 0.8, 3.0)
    torch.manual_seed(0)
    for module in (own, other):
        x = module().sample((400,))
        residuals = module().residuals(x)
        assert len(residuals) == int(module().lengths(x).sum())
        assert module().time_rescaling(x).p_value > 1e-3
    poisson = hawkes(float(other().lengths(x).double().mean()) / WINDOW, 1e-30, 1.0)
    assert poisson().time_rescaling(x).p_value < 1e-6


@pytest.mark.parametrize("make", [neural, lambda: hawkes(1.0, 0.7, 1.5)], ids=["neural", "hawkes"])
def test_forecasts_agree_with_the_whole(make):
    module, until = make(), 1.5
    torch.manual_seed(0)
    history = module().sample((6,))
    forecast = module().after(history, until)
    draws = forecast.sample((40,))
    known = history <= until
    assert (draws[:, known] == history[known]).all()
    assert ((draws > until) | known).all()
    one, other = draws[:20], draws[20:]
    difference = forecast.log_prob(one) - forecast.log_prob(other)
    torch.testing.assert_close(difference, module().log_prob(one) - module().log_prob(other))
    assert (forecast.expand((3, 6)).log_prob(history) == forecast.log_prob(history)).all()
    moved = history.clone()
    moved[0, 0] = history[0, 0] / 2
    if bool(known[0, 0]):
        assert forecast.log_prob(moved)[0] == -math.inf
    assert (module().after(history, 0.0).log_prob(history) == module().log_prob(history)).all()


def test_poisson_forecast_in_closed_form():
    module, rate, until = hawkes(1.5, 1e-30, 1.0), 1.5, torch.tensor([0.5, 2.0, 3.0]).double()
    x = module.pack([[0.3, 1.0, 3.5], [], [2.0]]).double()
    later = ((x > until[:, None]) & (x < WINDOW)).sum(-1)
    expected = later * math.log(rate) - rate * (WINDOW - until)
    torch.testing.assert_close(module().after(x, until).log_prob(x), expected)
    torch.manual_seed(0)
    draws = module().after(x, until).sample((2000,))
    counts = ((draws > until[:, None]) & (draws < WINDOW)).sum(-1).double()
    assert ((counts.mean(0) - rate * (WINDOW - until)).abs() < 5 * (rate * (WINDOW - until) / 2000).sqrt()).all()


def test_padded_rows_are_those_of_shorter_events():
    long, short = neural(length=12), neural(length=5)
    short.load_state_dict({key: value for key, value in long.state_dict().items()}, strict=False)
    times = [[0.2, 1.0, 1.1], [3.0]]
    torch.testing.assert_close(long().log_prob(long.pack(times).double()), short().log_prob(short.pack(times).double()))
    assert long().over(8.0).support.window == 8.0
    assert (long().over(8.0).sample((50,)) <= 8.0).all()


def test_marks_are_scored_beside_the_times():
    torch.manual_seed(0)
    module = autoregressive.point_process((6, 2), window=WINDOW, marks=3, components=4, width=8, depth=1, heads=2)
    x = module.pack([[[0.5, 2.0], [1.0, 0.0]], [], [[2.0, 1.0]]])
    others = torch.stack([x.clone() for _ in range(9)])
    for place in range(9):  # all pairs of marks of the first row
        others[place, 0, :2, 1] = torch.tensor([place // 3, place % 3]).to(x)
    with torch.no_grad():
        scores = module().log_prob(others)
        times = autoregressive.point_process((6,), window=WINDOW, components=4, width=8, depth=1, heads=2)
    assert scores.shape == (9, 3)
    total = scores[:, 0].exp().sum()
    first = scores[:, 0].exp().reshape(3, 3).sum(1) / total
    drawn = module().sample((4000,))
    assert math.isfinite(float(total))
    assert times().log_prob(x[..., 0]).isfinite().all()
    share = (drawn[:, 0, 1][drawn[:, 0, 0] < WINDOW].unsqueeze(-1) == torch.arange(3)).double().mean(0)
    assert ((share - first).abs() < 5 * (first / 3000).sqrt()).all()  # of an untrained head, the same whatever the time


def test_marks_of_another_family():
    torch.manual_seed(0)
    made = autoregressive.point_process((5,), window=WINDOW, components=2, width=8, depth=1, heads=2)
    network = made.network
    network.head = torch.nn.Linear(8, made.waiting.size + 2)
    module = autoregressive.PointProcess(
        network, made.waiting, event_shape=(5, 2), window=WINDOW, mark=OfFamily(pg.families.diagonal_normal)
    )
    x = module().sample((20,))
    assert module().log_prob(x).isfinite().all()
    assert module.support.marks is constraints.real


def mutual(length=6, window=WINDOW):
    """A Hawkes process of two kinds, and its rates, branching and decay."""
    rates, branching, decay = torch.tensor([0.4, 0.2]), torch.tensor([[0.3, 0.5], [0.05, 0.2]]), torch.tensor(1.5)
    module = autoregressive.hawkes((length, 2), window=window, marks=2).double()
    with torch.no_grad():
        module.network.numbers.copy_(torch.cat([rates, branching.flatten(), decay[None]]).double().log())
    return module, rates.double(), branching.double(), decay.double()


@torch.no_grad()
def test_hawkes_of_several_kinds_in_closed_form():
    module, rates, branching, decay = mutual()
    x = module.pack([[[0.3, 1], [0.9, 0], [1.1, 0], [2.0, 1]], [[1.5, 0]], []]).double()
    for row, count in zip(x, (4, 1, 0), strict=True):
        times, kinds = row[:count, 0], row[:count, 1].long()
        fading = (-decay * (times[:, None] - times)).exp() * (times[:, None] > times)  # (event, event before)
        intensity = rates[kinds] + decay * (fading * branching[kinds[None, :], kinds[:, None]]).sum(-1)
        passed = 1 - (-decay * (WINDOW - times)).exp()
        compensator = rates.sum() * WINDOW + (branching[kinds].sum(-1) * passed).sum()
        expected = intensity.log().sum() - compensator
        torch.testing.assert_close(module().log_prob(row), expected, rtol=0, atol=1e-6)  # of rates kept as logarithms


@torch.no_grad()
def test_kinds_excite_each_other_as_often_as_they_should():
    """The expected intensities solve a linear differential equation, whose solution gives the counts."""
    module, rates, branching, decay = mutual(length=60)
    torch.manual_seed(0)
    x = module().sample((2000,))
    happened = x[..., 0] < WINDOW
    counts = torch.stack([(happened & (x[..., 1] == kind)).sum(-1) for kind in range(2)], -1).double()
    size, excess, total = WINDOW / 2000, torch.zeros(2).double(), torch.zeros(2).double()
    for _ in range(2000):  # by the midpoint rule
        half = excess + 0.5 * size * decay * (branching.T @ (rates + excess) - excess)
        total += size * (rates + half)
        excess = excess + size * decay * (branching.T @ (rates + half) - half)
    assert ((counts.mean(0) - total).abs() < 4 * counts.std(0) / 2000**0.5).all()
    assert module().time_rescaling(x[:300]).p_value > 0.01


def test_contract_of_a_hawkes_process_of_several_kinds():
    only = ["declaration", "expand", "bad_row", "empty_batch", "samples_follow_log_prob", "deepcopy"]
    check_distribution(
        lambda: autoregressive.hawkes((4, 2), window=2.0, marks=2), event_shape=(4, 2), only=only
    ).raise_if_failed()


def test_maximum_likelihood_finds_a_hawkes_process():
    truth = (1.0, 0.5, 3.0)
    torch.manual_seed(0)
    x = hawkes(*truth, length=40)().sample((400,)).float()
    module = autoregressive.hawkes((40,), window=WINDOW)
    pg.fit(module, x, steps=120, lr=0.05, batch_size=400, seed=0)
    found = module.network.numbers.detach()
    assert ((found - torch.tensor(truth).log()).abs() < torch.tensor([0.15, 0.25, 0.5])).all()


def test_neural_process_learns_and_is_saved(tmp_path):
    torch.manual_seed(0)
    x = hawkes(1.0, 0.7, 8.0, length=40)().sample((300,)).float()
    module = autoregressive.point_process((40,), window=WINDOW, components=4, width=16, depth=1, heads=2)
    before = float(module().log_prob(x).mean().detach())
    pg.fit(module, x, steps=60, lr=3e-3, seed=0)
    assert float(module().log_prob(x).mean().detach()) > before + 1
    pg.save(module, tmp_path / "module")
    loaded = pg.load(tmp_path / "module")
    assert torch.equal(loaded().log_prob(x), module().log_prob(x))
    assert loaded.waiting.log_gaps is loaded.network.embedding.log_gaps


CONTEXT = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def test_contract_of_a_point_process():
    check_distribution(
        lambda: autoregressive.point_process((4,), window=2.0, components=2, width=8, depth=1, heads=2),
        event_shape=(4,),
    ).raise_if_failed()


def test_contract_of_a_hawkes_process_with_context():
    check_distribution(
        lambda: autoregressive.hawkes((4,), (2,), window=2.0), event_shape=(4,), context=CONTEXT
    ).raise_if_failed()


@pytest.mark.slow
def test_contract_of_a_marked_point_process_with_labels():
    check_distribution(
        lambda: autoregressive.point_process(
            (4, 2), window=2.0, marks=3, classes=4, components=2, width=8, depth=1, heads=2
        ),
        event_shape=(4, 2),
        context=torch.arange(4),
    ).raise_if_failed()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([0.5, 0.4, 2.0], "0.4 after 0.5 at place 1 in row 1"),
        ([0.5, 0.5, 2.0], "0.5 after 0.5 at place 1 in row 1"),
        ([-0.5, 1.0, 2.0], "-0.5 after 0 at place 0 in row 1"),
        ([0.5, 2.0, 1.0], "1 after 2 at place 2 in row 1"),
        ([0.5, 2.5, 3.0], "2.5 after 0.5 at place 1 in row 1"),
    ],
)
def test_unsorted_times_are_refused_by_row(bad, message):
    module = autoregressive.hawkes((3,), window=2.0)
    x = torch.tensor([[0.5, 1.0, 2.0], bad])
    for use in (lambda: module().log_prob(x), lambda: pg.fit(module, x, steps=1), lambda: module().after(x, 1.0)):
        with pytest.raises(ValueError, match="must hold times that strictly increase") as error:
            use()
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([[0.5], [0.1, 0.2, 0.3, 0.4]], "at most 3 events each, got 4 in row 1"),
        ([[0.5], [1.0, 0.2]], "0.2 after 1 at place 1 in row 1"),
        ([[0.5], [1.0, 2.0]], "must lie before the window's end 2, got 2 in row 1"),
        ([[0.5], [[1.0, 2.0]]], "must hold events of shape"),
        ([[0.5], [1.0, math.nan]], "`sequences` must hold no NaN, got NaN in row 1"),
        ([0.5, 1.0], "must hold sequences of events, got a number in rows 0, 1"),
        ([], "at least one sequence, got none"),
    ],
)
def test_sequences_that_do_not_fit(sequences, message):
    with pytest.raises(ValueError, match=message):
        autoregressive.hawkes((3,), window=2.0).pack(sequences)


@pytest.mark.parametrize(
    "use",
    [
        lambda process, x: process.compensators(x),
        lambda process, x: process.residuals(x),
        lambda process, x: process.time_rescaling(x),
        lambda process, x: process.intensity(x, torch.tensor([1.0])),
        lambda process, x: process.after(x, 1.0),
    ],
    ids=["compensators", "residuals", "time_rescaling", "intensity", "after"],
)
def test_what_is_no_window_has_no_intensity(use):
    process = autoregressive.hawkes((3,), window=2.0)()
    with pytest.raises(ValueError, match="0.4 after 0.5 at place 1 in row 1"):
        use(process, torch.tensor([[0.5, 1.0, 2.0], [0.5, 0.4, 2.0]]))
    with pytest.raises(ValueError, match="must hold no NaN, got NaN in row 1"):
        use(process, torch.tensor([[0.5, 1.0, 2.0], [0.5, torch.nan, 2.0]]))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (torch.tensor([1.0, 2.5]), "`times` must lie from 0 to the window's end 2, got"),
        (torch.tensor([-0.1]), "`times` must lie from 0"),
        (torch.tensor([torch.nan]), "`times` must lie from 0"),
        (torch.ones(2, 2), r"`times` must have shape \(n,\), got \(2, 2\)"),
        (1.0, r"`times` must have shape \(n,\), got \(\)"),
    ],
)
def test_times_that_have_no_intensity(times, message):
    process = autoregressive.hawkes((3,), window=2.0)()
    with pytest.raises(ValueError, match=message):
        process.intensity(torch.tensor([0.5, 1.0, 2.0]), times)


@pytest.mark.parametrize("make", [lambda: neural(3), lambda: hawkes(1.0, 0.7, 1.5, length=3)], ids=["neural", "hawkes"])
def test_intensities_at_the_ends_of_a_window(make):
    module = make()
    x = torch.tensor([[0.5, 1.0, WINDOW], [0.5, 1.0, 2.0]]).double()
    at = torch.tensor([0.0, 2.0, 2.001, WINDOW]).double()
    found = module().intensity(x, at)
    assert found.isfinite().all()
    assert (found[1, 2:] == 0).all()  # the window closes with the last place
    assert (found[0, 2:] > 0).all()
    torch.testing.assert_close(found[1, :2], found[0, :2])


def test_one_history_may_be_known_up_to_several_times():
    module, until = hawkes(1.0, 0.7, 1.5), torch.tensor([0.5, 1.5, 3.0]).double()
    torch.manual_seed(0)
    history = module().sample()
    forecast = module().after(history, until)
    assert forecast.sample((2,)).shape == (2, 3, 40)
    expected = [module().after(history, float(one)).log_prob(history) for one in until]
    torch.testing.assert_close(forecast.log_prob(history), torch.stack(expected))
    with pytest.raises(ValueError, match=r"batch shapes must broadcast to one, got .*\(3,\) of `until`"):
        module().after(history.expand(2, 40), until)


def test_a_window_in_another_precision_is_shown_with_all_digits():
    module = autoregressive.hawkes((3,), window=0.1)
    with pytest.raises(ValueError, match="got 0.10000000149011612 after 0.05"):
        module.double()().log_prob(module.pack([[0.01, 0.05]]).double())


def test_other_bad_arguments_of_point_processes():
    module = autoregressive.point_process((3, 2), window=2.0, marks=2, width=8, heads=2)
    with pytest.raises(ValueError, match="marks within .* got 2 at place 0 in row 0"):
        module().log_prob(torch.tensor([[[0.5, 2.0], [2.0, 0.0], [2.0, 0.0]]]))
    with pytest.raises(ValueError, match="0 after the last event, got 1 at place 1"):
        module().log_prob(torch.tensor([[[0.5, 1.0], [2.0, 1.0], [2.0, 0.0]]]))
    with pytest.raises(ValueError, match=r"`event_shape` must be \(length, 2\)"):
        autoregressive.point_process((3,), window=2.0, marks=2)
    with pytest.raises(ValueError, match=r"`event_shape` must be \(length,\)"):
        autoregressive.hawkes((3, 2), window=2.0)
    x = autoregressive.hawkes((3,), window=2.0)
    with pytest.raises(ValueError, match="`until` must lie from 0"):
        x().after(x().sample((2,)), 2.0)
    with pytest.raises(ValueError, match=r"`value` must end in shape \(3,\), got \(2,\)"):
        x().lengths(torch.ones(2))
    with pytest.raises(ValueError, match="`over` must come before `after`"):
        x().after(x().sample((2,)), 1.0).over(3.0)


def test_times_of_double_precision():
    module = autoregressive.hawkes((5,), window=2.0).eval()
    events = module().sample((3,))
    torch.testing.assert_close(module().log_prob(events.double()).float(), module().log_prob(events))
