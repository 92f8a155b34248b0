"""Annealing and tempering: normalizers in closed form, weights without bias, standard errors that cover."""

from math import log, pi

import pytest
import torch
from torch import Tensor

from pyrogen.numerics.markov.annealing import anneal, bennett, log_mean, spaced, survey
from pyrogen.numerics.markov.paths import BlockPath, Elements, HamiltonianPath, InformedPath
from pyrogen.numerics.markov.tempering import temper


def standard(dimensions, **settings):
    return lambda n: torch.randn(n, dimensions, **settings)


def log_normal(x: Tensor) -> Tensor:
    return -x.square().sum(1) / 2 - x.shape[1] / 2 * log(2 * pi)


def to_normal(scale: Tensor, mean: float = 0.0) -> tuple[HamiltonianPath, float]:
    """From a standard normal to another one without its normalizer, and the logarithm of that."""
    dimensions = len(scale)
    path = HamiltonianPath(
        standard(dimensions), log_normal, lambda x: -((x - mean) / scale).square().sum(1) / 2, leapfrog_steps=10
    )
    return path, float(scale.log().sum()) + dimensions / 2 * log(2 * pi)


def in_groups(log_weights: Tensor, size: int) -> list[tuple[float, float]]:
    return [log_mean(group) for group in log_weights.split(size)]


def covered(values: Tensor, errors: Tensor, truth: float) -> float:
    """How often intervals of two-sided 95 % hold the truth."""
    return float(((values - truth).abs() < 1.96 * errors).double().mean())


@pytest.fixture(scope="module")
def walked():
    """Many chains over few temperatures between two normals in both directions."""
    torch.manual_seed(0)
    scale = torch.tensor([0.5, 2.0])
    path, truth = to_normal(scale, mean=1.0)
    temperatures = spaced(*survey(path, 200), 12)
    forwards, _ = anneal(path, temperatures, path.draw(10_000))
    backwards, _ = anneal(path, temperatures.flip(0), 1 + scale * torch.randn(10_000, 2))
    return forwards, backwards, truth


def test_the_mean_weight_has_no_bias_in_either_direction(walked):
    forwards, backwards, truth = walked
    for log_ratio in (forwards - truth, backwards + truth):
        weights = log_ratio.exp()
        assert weights.std() > 0.2  # there is something to average
        assert weights.mean() == pytest.approx(1.0, abs=4 * float(weights.std()) / len(weights) ** 0.5)


def test_logarithms_of_means_bound_from_both_sides(walked):
    forwards, backwards, truth = walked
    lower = torch.tensor(in_groups(forwards, 5))[:, 0]
    upper = -torch.tensor(in_groups(backwards, 5))[:, 0]
    assert lower.mean() < truth - 3 * lower.std() / len(lower) ** 0.5
    assert upper.mean() > truth + 3 * upper.std() / len(upper) ** 0.5


def test_standard_errors_cover_as_often_as_they_state(walked):
    forwards, backwards, truth = walked  # 200 repeats; a share of .95 has a standard error of .015
    for found, sign in ((forwards, 1), (backwards, -1)):
        values, errors = torch.tensor(in_groups(found, 50)).T
        assert 0.89 < covered(sign * values, errors, truth) < 0.99
    both = bennett(forwards.reshape(50, 200), backwards.reshape(50, 200))
    assert 0.89 < covered(*both, truth) < 0.99
    assert both[1].mean() < 0.8 * errors.mean()  # of both directions together it is the smaller


def test_bennett_of_normal_log_weights():
    """Forwards N(f - s^2 / 2, s^2), backwards N(-f - s^2 / 2, s^2): the pair that Crooks' theorem allows."""
    torch.manual_seed(1)
    free_energy, spread = 3.0, 1.5
    forwards = free_energy - spread**2 / 2 + spread * torch.randn(60, 500, dtype=torch.double)
    backwards = -free_energy - spread**2 / 2 + spread * torch.randn(140, 500, dtype=torch.double)
    values, errors = bennett(forwards, backwards)
    assert values.mean() == pytest.approx(free_energy, abs=4 * float(values.std()) / 500**0.5)
    assert float(errors.mean()) == pytest.approx(float(values.std()), rel=0.12)  # 500 repeats: 3 %
    assert 0.92 < covered(values, errors, free_energy) < 0.98


def test_bennett_of_weights_of_zero():
    forwards = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf], dtype=torch.double)  # half of the draws: Z = 1/2
    backwards = torch.zeros(4, dtype=torch.double)
    assert float(bennett(forwards, backwards)[0]) == pytest.approx(-log(2), abs=1e-6)


def test_log_mean_of_one_number_has_no_error():
    value, error = log_mean(torch.full((7,), 3.0, dtype=torch.double))
    assert (value, error) == (pytest.approx(3.0), pytest.approx(0.0, abs=1e-7))
    assert log_mean(torch.full((7,), -torch.inf, dtype=torch.double))[0] == -torch.inf


def test_temperatures_lie_evenly_in_thermodynamic_length():
    """Between normals of precisions 1 and p in D dimensions the length is sqrt(D / 2) log(p).

    A step that raises the precision by a factor 1 + r has weights of which the mean square is the squared mean times
    ((1 + r)^2 / (1 + 2 r))^(D / 2).
    """
    torch.manual_seed(2)
    path, _ = to_normal(torch.full((8,), 1 / 20))
    visited, lengths = survey(path, 4000)
    growth = (1 + visited * 399)[1:] / (1 + visited * 399)[:-1] - 1
    steps = (8 * (growth.log1p() - (2 * growth).log1p() / 2)).sqrt()
    assert torch.allclose(lengths.diff(), steps, rtol=0.15)
    assert 0.85 < float(lengths[-1]) / (2 * log(400)) < 1
    found = spaced(visited, lengths, 10)
    assert found[0] == 0
    assert found[-1] == 1
    precision = 1 + found * (400 - 1)
    steps = precision.log().diff()
    assert float(steps.std() / steps.mean()) < 0.15


def test_no_length_gives_even_temperatures():
    found = spaced(torch.tensor([0.0, 1.0]).double(), torch.zeros(2).double(), 4)
    assert torch.allclose(found, torch.linspace(0, 1, 5).double())


def test_moves_keep_the_law_at_every_temperature():
    torch.manual_seed(3)
    scale = torch.tensor([0.1, 1.0, 10.0])
    path, _ = to_normal(scale)
    survey(path, 200)
    for at in (0.01, 0.3, 1.0):
        spread = (1 - at + at / scale**2) ** -0.5
        x = spread * torch.randn(20_000, 3)
        for _ in range(3):
            x = path.move(x, torch.tensor(at).double())
        assert torch.allclose((x / spread).var(0), torch.ones(3), atol=4 * (2 / 20_000) ** 0.5)


def test_tempering_finds_the_normalizer_and_draws():
    torch.manual_seed(4)
    scale = torch.tensor([0.3, 3.0])
    path, truth = to_normal(scale)
    visited, lengths = survey(path, 100)
    found = temper(path, spaced(visited, lengths, 4), replicas=100, sweeps=60, warmup=20)
    values = bennett(found.upwards, found.downwards)[0].sum(0)
    error = float(values.std()) / 10
    assert error < 0.02
    assert float(values.mean()) == pytest.approx(truth, abs=4 * error)
    assert torch.allclose((found.x / scale).flatten(0, 1).var(0), torch.ones(2), atol=0.1)
    assert (found.arrivals > 0).all()
    assert (found.exchanged > 0.3).all()


def test_exchanges_alone_bring_draws_of_the_target():
    """Without moves, all that comes to the target was drawn from the base and exchanged."""
    torch.manual_seed(9)

    class Still(HamiltonianPath):
        def move(self, x, at):
            return x

    path = Still(standard(1), log_normal, lambda x: -(x * 2 - 1).square().sum(1) / 2, leapfrog_steps=1)
    found = temper(path, torch.tensor([0.0, 0.4, 1.0]).double(), replicas=2000, sweeps=40, warmup=100)
    x = found.x[::10].flatten()
    assert float(x.mean()) == pytest.approx(0.5, abs=0.04)
    assert float(x.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_standard_errors_of_tempering_cover_as_often_as_they_state():
    torch.manual_seed(5)
    path, truth = to_normal(torch.tensor([0.3, 3.0]))
    found = temper(path, spaced(*survey(path, 100), 4), replicas=2000, sweeps=40, warmup=20)
    of_replicas = bennett(found.upwards, found.downwards)[0].sum(0).reshape(200, 10)
    values, errors = of_replicas.mean(1), of_replicas.std(1) / 10**0.5
    # of ten replicas 1.96 errors cover 92 % (Student's t of nine degrees)
    assert 0.86 < covered(values, errors, truth) < 0.97


def enumerated(log_density, base: Elements, bits: int) -> float:
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * bits)
    assert float(base.log_prob(every).exp().sum()) == pytest.approx(1.0, abs=1e-5)
    return float(log_density(every).double().logsumexp(0))


def test_discrete_paths_find_sums_over_all_states():
    torch.manual_seed(6)
    couplings = torch.randn(8, 8).triu(1)
    odd = torch.arange(8) % 2 == 1
    base = Elements(torch.randn(8))

    def log_density(x):  # all pairs: no blocks
        return (x @ couplings * x).sum(1)

    def bipartite(x):
        return (x[:, odd] @ couplings[:4, 4:] * x[:, ~odd]).sum(1)

    for path in (InformedPath(base, log_density, steps=4), BlockPath(base, bipartite, blocks=[odd, ~odd])):
        truth = enumerated(path.log_target, base, 8)
        temperatures = spaced(*survey(path, 200), 10)
        log_weights, x = anneal(path, temperatures, path.draw(2000))
        weights = (log_weights - truth).exp()
        assert weights.mean() == pytest.approx(1.0, abs=4 * float(weights.std()) / 2000**0.5)
        assert set(x.unique().tolist()) <= {0.0, 1.0}


def test_symbols_begin_at_their_law():
    torch.manual_seed(7)
    base = Elements(torch.randn(2, 3))
    draws = base.draw(20_000)
    assert draws.sum(-1).eq(1).all()
    assert torch.allclose(draws.mean(0), base.logits.exp(), atol=0.02)
    assert torch.allclose(base.log_prob(draws[:1]).exp(), (base.logits.exp() * draws[0]).sum(-1).prod())


def test_targets_without_mass_in_places_lose_the_weight_of_chains_there():
    """A half-line: half of the base has weight zero."""
    torch.manual_seed(8)

    def half(x):
        return torch.where(x[:, 0] > 0, -x.square().sum(1) / 2, -torch.inf)

    path = HamiltonianPath(standard(1), log_normal, half, leapfrog_steps=10)
    log_weights, x = anneal(path, spaced(*survey(path, 100), 5), path.draw(4000))
    truth = log(2 * pi) / 2 - log(2)
    assert log_mean(log_weights)[0] == pytest.approx(truth, abs=4 * log_mean(log_weights)[1])
    assert (x[log_weights.isfinite()] > 0).all()


def test_what_is_no_number_is_an_error_with_its_rows():
    path = HamiltonianPath(standard(1), log_normal, lambda x: x[:, 0] * torch.nan, leapfrog_steps=10)
    with pytest.raises(FloatingPointError, match="64 rows of 64"):
        survey(path, 64)


def test_densities_that_are_too_far_apart_are_refused():
    path = HamiltonianPath(standard(1), log_normal, lambda x: -1e30 * x[:, 0].square(), leapfrog_steps=1)
    path.tune = lambda x, at: x
    with pytest.raises(ValueError, match="must be nearer"):
        survey(path, 64)


def test_one_lost_chain_does_not_set_the_pace():
    """A chain at a wall has no weight, and costs no temperatures."""
    torch.manual_seed(10)

    def walled(x):
        return -x.square().sum(1) / 2 - 1e8 * (x[:, 0] > 2.2)

    path = HamiltonianPath(standard(1), log_normal, walled, leapfrog_steps=5)
    assert len(survey(path, 200)[0]) < 20
