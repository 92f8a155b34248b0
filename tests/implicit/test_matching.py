"""Distances between draws and data: closed forms, unbiased estimates, exact gradients, and what is learned by them."""

import math

import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

import pyrogen as pg
from pyrogen.implicit import EnergyDistance, MaximumMeanDiscrepancy, SlicedWasserstein
from pyrogen.implicit.matching import kernel_score, unbiased_squared_mmd
from pyrogen.numerics.kernels import DistanceKernel, GaussianKernel, KernelSum, LaplaceKernel, multiscale
from pyrogen.numerics.pairwise import median_distance
from pyrogen.testing import check_objective


class Shifted(pg.DistributionModule):
    """A normal of learned mean and standard deviation, moved by its context if there is one."""

    def __init__(self, mean=(0.0,), scale=1.0, context_shape=None):
        super().__init__((len(mean),), context_shape)
        self.mean = nn.Parameter(torch.tensor(mean))
        self.scale = nn.Parameter(torch.full((len(mean),), float(scale)))
        self.slope = nn.Parameter(torch.zeros(()))

    def forward(self, context=None):
        mean = self.mean if context is None else self.mean + self.slope * context
        return dist.Normal(mean, self.scale.abs()).to_event(1)


def squared_mmd_of_normals(shift, scale, bandwidth, dimensions):
    """Of N(0, 1) and N(shift, scale^2), independent elements, under a Gaussian kernel."""

    def expected(shift, variance):  # of exp(-r^2 / 2 h^2) for r ~ N(shift, variance)
        total = bandwidth**2 + variance
        return (bandwidth**2 / total) ** 0.5 * math.exp(-(shift**2) / 2 / total)

    own, other, across = expected(0, 2), expected(0, 2 * scale**2), expected(shift, 1 + scale**2)
    return own**dimensions + other**dimensions - 2 * across**dimensions


def energy_distance_of_normals(shift, scale):
    """Of N(0, 1) and N(shift, scale^2): 2 E|x - y| - E|x - x'| - E|y - y'|."""

    def folded(shift, deviation):
        return deviation * (2 / math.pi) ** 0.5 * math.exp(-(shift**2) / 2 / deviation**2) + shift * math.erf(
            shift / deviation / 2**0.5
        )

    return 2 * folded(shift, (1 + scale**2) ** 0.5) - folded(0, 2**0.5) - folded(0, 2**0.5 * scale)


def mean_and_error(objective, data, repeats=250, rows=32):
    """The mean of the loss over fresh minibatches, and its standard error."""
    torch.manual_seed(0)
    with torch.no_grad():
        losses = torch.stack([objective(data(rows)) for _ in range(repeats)])
    return losses.mean().item(), losses.std().item() / repeats**0.5


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.5, 2.0)])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_squared_mmd_of_gaussians_is_estimated_without_bias(shift, scale, draws):
    kernel = KernelSum((GaussianKernel(0.5), GaussianKernel(2.0)))
    objective = MaximumMeanDiscrepancy(Shifted([shift, shift], scale), kernel, draws=draws, standardize=False)
    mean, error = mean_and_error(objective, lambda rows: torch.randn(rows, 2))
    expected = sum(squared_mmd_of_normals(shift, scale, bandwidth, 2) for bandwidth in (0.5, 2.0))
    assert abs(mean - expected) < 4 * error
    assert error < 0.013


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.5, 2.0)])
def test_the_energy_distance_of_gaussians_is_estimated_without_bias(shift, scale):
    objective = EnergyDistance(Shifted([shift], scale), standardize=False)
    assert objective.unit == "data units"
    mean, error = mean_and_error(objective, lambda rows: torch.randn(rows, 1))
    expected = energy_distance_of_normals(shift, scale)
    assert abs(mean - expected) < 4 * error
    cramer = 2 * quad(lambda t: (norm.cdf(t) - norm.cdf(t, shift, scale)) ** 2, -15, 15)[0]
    assert cramer == pytest.approx(expected, abs=1e-8)


def test_the_sliced_distance_of_shifted_gaussians():
    """|shift|^2 / d on average over directions, and |shift|^2 along the best."""
    torch.manual_seed(0)
    shift = torch.tensor([3.0, -4.0, 0.0, 0.0])
    x, generator = torch.randn(5000, 4), Shifted(shift.tolist())
    sliced = SlicedWasserstein(generator, directions=400, standardize=False)
    assert sliced.unit == "data units to the power 2"
    # Over directions the squared cosine has mean 1/4 and standard deviation .177.
    assert sliced(x).item() == pytest.approx(25 / 4, abs=4 * 25 * 0.177 / 20)
    steepest = SlicedWasserstein(generator, directions=5, ascent=10, standardize=False)
    assert steepest(x).item() == pytest.approx(25, abs=4 * 2 * 5 * (2 / 5000) ** 0.5 + 0.05)


def test_on_the_line_the_sliced_distance_is_exact():
    """W_1 and W_2^2 of N(0, 1) and N(1, 4), for draws three times as many as data."""
    torch.manual_seed(0)
    x, generator = torch.randn(20_000, 1), Shifted([1.0], 2.0)
    squared = SlicedWasserstein(generator, draws=3, standardize=False)
    assert squared(x).item() == pytest.approx(1 + 1, abs=0.1)
    first = SlicedWasserstein(generator, order=1, draws=3, standardize=False)
    expected = quad(lambda u: abs(1 + norm.ppf(u)), 0, 1)[0]
    assert first(x).item() == pytest.approx(expected, abs=0.05)


def test_gradients_are_the_exact_ones():
    """The mean gradient over minibatches is the derivative of the closed form."""
    torch.manual_seed(0)
    generator = Shifted([0.8], 1.5)
    objectives = {
        MaximumMeanDiscrepancy(generator, GaussianKernel(0.7), standardize=False): lambda a, b: squared_mmd_of_normals(
            a, b, 0.7, 1
        ),
        EnergyDistance(generator, standardize=False): energy_distance_of_normals,
    }
    for objective, value in objectives.items():
        gradients = torch.stack(
            [
                torch.cat(torch.autograd.grad(objective(torch.randn(64, 1)), [generator.mean, generator.scale]))
                for _ in range(300)
            ]
        )
        exact = torch.tensor(
            [
                (value(0.8 + 1e-5, 1.5) - value(0.8 - 1e-5, 1.5)) / 2e-5,
                (value(0.8, 1.5 + 1e-5) - value(0.8, 1.5 - 1e-5)) / 2e-5,
            ]
        )
        error = gradients.std(0) / 300**0.5
        assert ((gradients.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize("kernel", [GaussianKernel(0.7), DistanceKernel()])
def test_estimates_agree_with_the_sums_over_pairs(kernel):
    torch.manual_seed(0)
    x, y = torch.randn(5, 3, dtype=torch.double), torch.randn(7, 3, dtype=torch.double)
    among = lambda a, b: kernel(torch.cdist(a, b))  # noqa: E731
    own = [among(a, a).fill_diagonal_(0).sum() / len(a) / (len(a) - 1) for a in (x, y)]
    expected = sum(own) - 2 * among(x, y).mean()
    assert unbiased_squared_mmd(x, y, kernel).item() == pytest.approx(expected.item(), abs=1e-5)
    draws = torch.randn(4, 5, 3, dtype=torch.double)
    scores = [
        among(draws[:, row], draws[:, row]).fill_diagonal_(0).sum() / 12
        - 2 * among(draws[:, row], x[row : row + 1]).mean()
        for row in range(5)
    ]
    assert kernel_score(x, draws, kernel).item() == pytest.approx(sum(scores).item() / 5, abs=1e-5)


def test_the_kernel_score_is_the_discrepancy_up_to_a_constant():
    """With a context: the mean energy score minus that of the truth is the energy distance in each context."""
    torch.manual_seed(0)
    context = torch.randn(100_000, 1)
    x = 2 * context + torch.randn(100_000, 1)
    truth, wrong = Shifted([0.0], 1.0, (1,)), Shifted([0.7], 1.6, (1,))
    truth.slope.data.fill_(2), wrong.slope.data.fill_(2)
    scores = [EnergyDistance(generator, standardize=False)(x, context).item() for generator in (truth, wrong)]
    assert scores[0] == pytest.approx(
        2 / math.pi**0.5, abs=0.015
    )  # E|x - x'| of the data, which no generator reaches below
    assert scores[1] - scores[0] == pytest.approx(energy_distance_of_normals(0.7, 1.6), abs=0.025)


def data(rows=2000, seed=0):
    noise = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([noise[:, 0], noise[:, 0].square() + 0.5 * noise[:, 1]], 1) * torch.tensor([1.0, 50.0])


OBJECTIVES = {
    "mmd": MaximumMeanDiscrepancy,
    "energy": EnergyDistance,
    "sliced": SlicedWasserstein,
    "max-sliced": lambda generator: SlicedWasserstein(generator, directions=8, ascent=3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_generator_learns_a_bent_distribution_of_unequal_scales(name):
    torch.manual_seed(0)
    generator = pg.implicit.mlp((2,), noise=(2,), hidden=(64, 64))
    objective = OBJECTIVES[name](generator)
    pg.fit(objective, data(), steps=600, batch_size=128, lr=4e-3, ema=0.99, seed=0)
    with torch.no_grad():
        scale = torch.tensor([1.0, 70.0])
        held_out, drawn = data(1000, seed=1) / scale, generator().sample((1000,)) / scale
    result = pg.evaluation.energy_test(held_out, drawn, permutations=200)
    assert result.statistic < 0.01


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda generator: EnergyDistance(generator, draws=4), 0.03),
        pytest.param(MaximumMeanDiscrepancy, 0.04, marks=pytest.mark.slow),
        pytest.param(SlicedWasserstein, 0.16, marks=pytest.mark.slow),
    ],
)
def test_conditional_distributions_are_matched(make, error):
    """x | c ~ N(2c + 1, 1/4): slope, intercept and scale are found, the last too small by lines."""
    torch.manual_seed(0)
    context = torch.randn(4000, 1)
    x = 2 * context + 1 + 0.5 * torch.randn(4000, 1)
    generator = Shifted([0.0], 1.0, (1,))

    def decay(optimizer):
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, 200)

    pg.fit(make(generator), (x, context), steps=200, batch_size=256, lr=5e-2, seed=0, schedule=decay)
    found = torch.stack([generator.slope, generator.mean[0], generator.scale[0].abs()]).detach()
    assert torch.allclose(found[:2], torch.tensor([2.0, 1.0]), atol=0.03)
    assert abs(found[2] - 0.5) < error


@pytest.mark.slow
def test_labels_are_contexts_of_the_sliced_distance():
    torch.manual_seed(0)
    labels = torch.randint(3, (3000,))
    x = labels[:, None].float() * 2 + 0.3 * torch.randn(3000, 1)
    generator = pg.implicit.mlp((1,), noise=(1,), hidden=(32,), classes=3)
    pg.fit(SlicedWasserstein(generator, classes=3), (x, labels), steps=300, batch_size=256, lr=1e-2, seed=0)
    with torch.no_grad():
        drawn = generator(torch.arange(3)).sample((2000,)).squeeze(-1)
    assert torch.allclose(drawn.mean(0), torch.tensor([0.0, 2.0, 4.0]), atol=0.1)
    assert torch.allclose(drawn.std(0), torch.full((3,), 0.3), atol=0.06)


def test_bandwidth_and_scale_are_learned_from_the_data_set():
    """In chunks and in any order: the median distance in standard deviations."""
    x = data(5000).sort(0).values
    objective = MaximumMeanDiscrepancy(pg.implicit.mlp((2,), noise=(2,)))
    pg.fit(objective, x, steps=1, batch_size=64)
    scaled = (x - x.mean(0)) / x.std(0)
    exact = median_distance(scaled, rows=5000).item()
    assert objective.median.distance.item() == pytest.approx(exact, rel=0.06)
    loaded = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=100)
    again = MaximumMeanDiscrepancy(pg.implicit.mlp((2,), noise=(2,)), multiscale(LaplaceKernel))
    pg.fit(again, loaded, steps=1)
    assert again.median.distance.item() == pytest.approx(exact, rel=0.06)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("context_shape", [None, (3,)])
def test_the_contract_of_objectives(name, context_shape):
    """But rows given twice are no independent data, and the best direction counts as fixed where it stands."""
    x, context = torch.randn(6, 2), torch.randn(6, 3)

    def make():
        return OBJECTIVES[name](pg.implicit.mlp((2,), context_shape, noise=(2,), hidden=(8,)))

    report = check_objective(make, (x,) if context_shape is None else (x, context))
    exempt = {"mmd": "per_datum", "energy": "per_datum", "max-sliced": "parameter_gradient"}.get(name)
    assert {finding.name for finding in report.failures} <= {exempt}, report


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_no_minibatch_is_refused(name):
    """It would broadcast to another number, without an error."""
    plain, given = (OBJECTIVES[name](pg.implicit.mlp((2,), shape, noise=(2,))) for shape in (None, (1,)))
    with pytest.raises(ValueError, match=r"`x` must end in shape \(2,\), got \(6, 1\)"):
        plain(torch.randn(6, 1))
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, 2\), got \(3, 6, 2\)"):
        plain(torch.randn(3, 6, 2))
    with pytest.raises(ValueError, match="`context` must have the batch shape of `x`"):
        given(torch.randn(6, 2), torch.randn(1))
    found = []
    for rows in (1, 6):
        torch.manual_seed(0)
        found.append(given(torch.ones(6, 2), torch.ones(rows, 1)).item())
    assert found[0] == found[1]


def test_mistakes_are_named():
    plain, conditional = Shifted(), Shifted(context_shape=(1,))
    with pytest.raises(TypeError, match="`kernel` must be a Kernel, got float"):
        MaximumMeanDiscrepancy(plain, 1.0)
    with pytest.raises(ValueError, match="`draws` must be at least 2, got 1"):
        EnergyDistance(conditional, draws=1)
    with pytest.raises(ValueError, match="`generator` must be a DistributionModule, got Linear"):
        SlicedWasserstein(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="`classes` must be None for a generator without a context, got 3"):
        SlicedWasserstein(plain, classes=3)
    with pytest.raises(ValueError, match="`order` must be at least 1, got 0.5"):
        SlicedWasserstein(plain, order=0.5)
    with pytest.raises(ValueError, match="`x` must hold at least two data"):
        EnergyDistance(plain)(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="`kernel` must have a `bandwidth`"):
        pg.fit(MaximumMeanDiscrepancy(plain), torch.zeros(50, 1), steps=1)
    counts = pg.Parametric(nn.Linear(1, 1), pg.families.poisson, event_shape=(1,), context_shape=(1,))
    with pytest.raises(NotImplementedError, match="carry no gradients"):
        EnergyDistance(counts)(torch.ones(3, 1), torch.zeros(3, 1))
