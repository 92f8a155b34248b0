"""Hierarchies of latents: exact on linear normals, equal to Pyro's bounds, and with rates by level that add up."""

import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrogen as pg
from pyrogen import latent
from pyrogen.latent import TopDown, TopDownElbo, convolutional_top_down, top_down
from pyrogen.networks.top_down import TopDownLevel
from pyrogen.testing import check_distribution

SIZE, NOISE = 3, 0.6
SLOPES, SCALES = (0.0, 0.8, -1.3), (1.0, 0.5, 0.9)


class LinearLevel(TopDownLevel):
    """One of a chain of normals, element by element, with its exact posterior given the datum or one off by some."""

    def __init__(self, place, off):
        super().__init__((SIZE,))
        self.slope = nn.Parameter(torch.full((SIZE,), SLOPES[place]) * torch.tensor([1.0, 0.5, -0.7]))
        self.log_scale = nn.Parameter(torch.full((SIZE,), math.log(SCALES[place])))
        self.off = off
        self.below = []

    def prior(self, state):
        return torch.cat([self.slope * state, _unbent(self.log_scale).expand_as(state)], -1)

    def residual(self, state, features):
        scale = self.log_scale.exp()
        slope, variance = torch.ones(SIZE, dtype=scale.dtype), torch.full_like(scale, NOISE**2)
        for level in reversed(self.below):
            variance = variance + slope**2 * level.log_scale.exp() ** 2
            slope = slope * level.slope
        shrunk = 1 / (1 / scale**2 + slope**2 / variance)
        mean = self.slope * state
        moved = shrunk * slope * (features - slope * mean) / variance
        log_ratio = 0.5 * shrunk.log() - self.log_scale
        return torch.cat([moved / scale + self.off, _unbent(log_ratio - self.off).expand_as(state)], -1)

    def forward(self, state, z):
        return z


class Zero(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("state", torch.zeros(1, SIZE))

    def forward(self):
        return self.state


class Turned(nn.Module):
    """The exact statistic of the datum, the same for each level."""

    def __init__(self, rotation, levels):
        super().__init__()
        self.register_buffer("rotation", rotation)
        self.levels = levels

    def forward(self, x):
        return [x @ self.rotation] * self.levels


def linear(off=0.0, draws=1, levels=3):
    torch.manual_seed(3)
    rotation = torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64))[0]
    chain = [LinearLevel(place, off) for place in range(levels)]
    for place, level in enumerate(chain):
        level.below = chain[place + 1 :]
    decoder = nn.Linear(SIZE, SIZE, bias=False)
    decoder.weight = nn.Parameter(rotation.clone())
    likelihood = pg.Parametric(decoder, pg.families.normal(NOISE), event_shape=(SIZE,), context_shape=(SIZE,))
    return TopDown(chain, likelihood, first=Zero(), encoder=Turned(rotation, levels), draws=draws).double()


def exact(module):
    """The joint normal's marginal of the datum."""
    variance = torch.zeros(SIZE, dtype=torch.float64)
    for level in module.levels:
        variance = level.slope**2 * variance + (2 * level.log_scale).exp()
    rotation = module.likelihood.network.weight
    covariance = rotation @ variance.diag() @ rotation.T + NOISE**2 * torch.eye(SIZE)
    return torch.distributions.MultivariateNormal(torch.zeros(SIZE, dtype=torch.float64), covariance)


def _unbent(log_scale):
    """The number of which the library makes this log-scale."""
    return 10 * torch.atanh(log_scale / 10)


def data(rows=64):
    return 2 * torch.randn(rows, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_the_hierarchy_of_linear_normals_is_exact(levels):
    module, x = linear(levels=levels), data(16)
    expected = exact(module).log_prob(x)
    torch.testing.assert_close(module().log_prob(x), expected)
    with torch.no_grad():
        log_likelihood, rates = module.bound_terms(x, draws=5000)
    bound = log_likelihood - rates.sum(0)
    error = bound.std(0) / 5000**0.5
    assert ((bound.mean(0) - expected).abs() < 5 * error).all()  # the gap is zero


def test_draws_follow_the_joint_normal():
    module, draws = linear(), 40_000
    torch.manual_seed(0)
    x = module().sample((draws,))
    expected = exact(module).covariance_matrix
    spread = (expected.diagonal()[:, None] * expected.diagonal() + expected**2) / draws
    assert ((x.T.cov() - expected).abs() < 5 * spread.sqrt()).all()


def test_rates_by_level_are_those_of_the_formula():
    module, x, draws = linear(off=0.1), data(4), 40_000
    torch.manual_seed(0)
    with torch.no_grad():
        _, rates = module.bound_terms(x, draws=draws)
        loc, variance = torch.zeros(4, SIZE, dtype=torch.float64), torch.zeros(4, SIZE, dtype=torch.float64)
        features = x @ module.encoder.rotation
        for level, found in zip(module.levels, rates, strict=True):
            at, slope = level.residual(loc, features), level.residual(torch.ones_like(loc), features)
            slope = (slope - level.residual(torch.zeros_like(loc), features))[
                :, :SIZE
            ]  # the mean is linear in the state
            moved, log_ratio = at[:, :SIZE], 10 * torch.tanh(at[:, SIZE:] / 10)
            second = moved**2 + slope**2 * variance
            expected = (0.5 * (second + (2 * log_ratio).exp() - 1) - log_ratio).sum(-1)
            error = found.std(0) / draws**0.5 + 1e-12
            assert ((found.mean(0) - expected).abs() < 5 * error).all()
            scale = level.log_scale.exp()
            loc, variance = (
                level.slope * loc + scale * moved,
                (level.slope + scale * slope) ** 2 * variance + (scale * log_ratio.exp()) ** 2,
            )


def test_more_draws_bring_the_bound_to_the_exact_value():
    module, x = linear(off=-0.2, draws=20_000), data(8)
    torch.manual_seed(0)
    with torch.no_grad():
        log_ratios = module.log_weights(x) - exact(module).log_prob(x)  # (draws, 8)
    weights = log_ratios.exp()
    assert ((weights.mean(0) - 1).abs() < 5 * weights.std(0) / 20_000**0.5).all()  # they are unbiased
    gaps = [-(log_ratios.reshape(-1, k, 8).logsumexp(1) - math.log(k)).mean() for k in (1, 10, 100)]
    expected = weights.var(0).mean() / 2
    assert gaps[0] > 0.1
    for k, gap in zip((10, 100), gaps[1:], strict=True):
        assert float(gap) == pytest.approx(float(expected / k), rel=0.25)
    pair = latent.ImportanceWeightedPair(module.model, module.guide, draws=20_000, plates=1)
    with torch.no_grad():
        assert float(pair(x)) == pytest.approx(float(-exact(module).log_prob(x).mean()), abs=0.01)


def test_loss_is_the_bound_of_pyro_on_the_same_noise():
    torch.manual_seed(0)
    module, x = top_down((4,), (2,), levels=(2, 3), width=8), torch.randn(6, 4)
    context = torch.randn(6, 2)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    pyro.set_rng_seed(1)
    ours = module.objective()(x, context).detach()
    pyro.set_rng_seed(1)
    theirs = TraceMeanField_ELBO().loss(module.model, module.guide, x, context) / 6
    assert ours.item() == pytest.approx(theirs, rel=1e-5)
    pyro.set_rng_seed(1)
    with torch.no_grad():
        log_likelihood, rates = module.bound_terms(x, context)
    assert ours.item() == pytest.approx(float((rates.sum(0) - log_likelihood).mean()), rel=1e-6)


def test_free_nats_and_annealing_act_on_training_alone():
    module, x = linear(off=0.3), data()
    plain = TopDownElbo(module, draws=2)
    changed = TopDownElbo(module, draws=2, beta=latent.LinearAnnealing(10), free_nats=(0.0, 50.0, 1.0))
    losses = []
    for objective in (plain.eval(), changed.eval()):
        torch.manual_seed(0)
        losses.append(objective(x).item())
    assert losses[0] == losses[1]
    torch.manual_seed(0)
    with torch.no_grad():
        rates = module.rates(x, draws=2).mean(1).tolist()
    torch.manual_seed(0)
    free = TopDownElbo(module, draws=2, free_nats=(0.0, 50.0, 1.0)).train()(x).item()
    assert free - losses[0] == pytest.approx(50 - rates[1] + max(0.0, 1 - rates[2]))


def test_doubly_reparameterized_gradient_of_shared_levels():
    """Model and guide share their levels, and still the expected gradient is that of the importance-weighted bound."""
    module, x = linear(off=-0.3, levels=2), data(1).expand(1000, SIZE)
    scales = [level.log_scale for level in module.levels]
    torch.manual_seed(0)
    found = {}
    for kind in (latent.ImportanceWeightedPair, latent.DoublyReparameterizedPair):
        objective = kind(module.model, module.guide, draws=3, plates=1)
        found[kind] = torch.stack([torch.cat(torch.autograd.grad(objective(x), scales)) for _ in range(40)])
    first, second = found.values()
    error = (first.var(0) + second.var(0)).sqrt() / 40**0.5
    assert ((first.mean(0) - second.mean(0)).abs() < 5 * error).all()
    assert (first.mean(0).abs() > 20 * error).any()


def test_pyro_trains_every_parameter():
    torch.manual_seed(0)
    module, x = top_down((4,), levels=(2, 3), width=8, classes=3), torch.randn(6, 4)
    label = torch.arange(6) % 3
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(3):
        svi.step(x, label)
    assert not [name for name, one in module.named_parameters() if torch.equal(one, before[name])]
    drawn = Predictive(module.model, num_samples=5)(None, label)
    assert drawn["x"].shape == (5, 6, 4)
    assert drawn["z2"].shape == (5, 6, 3)
    guide = pyro.infer.autoguide.AutoNormal(module.model)
    assert math.isfinite(Trace_ELBO().loss(module.model, guide, x, label))


def test_collapse_report_by_level_has_the_rates():
    module, x = linear(off=0.1), data(200)
    torch.manual_seed(0)
    report = pg.evaluation.collapse_report(module.model, module.guide, x, draws=100)
    with torch.no_grad():
        rates = module.rates(x, draws=100).mean(1)
    assert list(report.sites) == module.sites == ["z1", "z2", "z3"]
    for use, rate in zip(report.sites.values(), rates, strict=True):
        assert use.rate.value == pytest.approx(float(rate), abs=0.05)
        assert use.active().all()


def test_a_level_without_features_is_its_prior():
    module = top_down((4,), levels=(2, 3), width=8, draws=3)  # what tells of the datum starts at zero
    assert (module.rates(torch.randn(5, 4)) == 0).all()


@pytest.mark.slow
def test_contract_top_down():
    check_distribution(lambda: top_down((3,), levels=(2, 2), width=8, draws=8), event_shape=(3,)).raise_if_failed()


def test_contract_top_down_with_labels():
    check_distribution(
        lambda: top_down((3,), levels=(2, 2), width=8, draws=8, symbols=3, classes=4),
        event_shape=(3,),
        context=torch.arange(4),
    ).raise_if_failed()


@pytest.mark.slow
def test_contract_top_down_of_images():
    check_distribution(
        lambda: convolutional_top_down(
            (1, 4, 4), (3,), levels=[(2, 1, 1), (1, 2, 2)], width=4, group=4, draws=8, binary=True
        ),
        event_shape=(1, 4, 4),
        context=torch.randn(5, 3),
    ).raise_if_failed()


@pytest.mark.parametrize("recipe", ["vectors", "images"])
def test_saved_and_loaded(recipe, tmp_path):
    torch.manual_seed(0)
    if recipe == "vectors":
        module = top_down((4,), levels=(2, 3), width=8, draws=3)
    else:
        levels = [(4, 1, 1), (2, 3, 3), (2, 3, 3)]
        module = convolutional_top_down((1, 7, 5), levels=levels, symbols=5, width=4, group=4, draws=3)
    x = module().sample((20,))
    pg.fit(module, x, steps=2, seed=0)
    pg.save(module, tmp_path / "module")
    scores = []
    for one in (module, pg.load(tmp_path / "module")):
        torch.manual_seed(0)
        scores.append(one().log_prob(x).sum().item())
    assert scores[0] == scores[1]


def test_a_likelihood_of_ones_own():
    flow = pg.flows.affine_coupling((2,), (8,), layers=2, hidden=(8,))
    module = top_down((2,), levels=(3,), width=8, likelihood=flow, draws=3)
    x = torch.randn(6, 2)
    pg.fit(module, x, steps=2)
    assert module().log_prob(x).shape == (6,)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: top_down((3,), levels=()), "`levels` must hold the shape of each level's latent"),
        (lambda: top_down((3,), levels=((2, 2),)), "use `convolutional_top_down`"),
        (lambda: top_down((3,), levels=(2,), scale=1.0, binary=True), "`scale` must be None"),
        (lambda: convolutional_top_down((3,), levels=[(2, 1, 1)]), "`event_shape` must be"),
        (lambda: convolutional_top_down((1, 4, 4), levels=[(2, 2, 2), (2, 1, 1)]), "no coarser from the top down"),
        (lambda: convolutional_top_down((1, 4, 4), levels=[(2, 5, 5)]), "none finer than the image"),
        (
            lambda: convolutional_top_down((1, 4, 4), levels=[(2, 1, 1)], width=20),
            "`width` must be a multiple of `group` = 16, got 20",
        ),
        (lambda: TopDownElbo(top_down((3,), levels=(2, 2)), free_nats=(1.0,)), "one for each of 2 levels, got 1"),
        (lambda: TopDownElbo(top_down((3,), levels=(2, 2)), free_nats=-1.0), "`free_nats` must not be negative"),
        (lambda: TopDownElbo(top_down((3,), levels=(2, 2)), beta=-1.0), "`beta` must not be negative"),
        (lambda: TopDown([], linear().likelihood, first=Zero(), encoder=nn.Identity()), "at least one level"),
        (
            lambda: TopDown([nn.Linear(1, 1)], linear().likelihood, first=Zero(), encoder=nn.Identity()),
            "got Linear",
        ),
        (
            lambda: top_down((2,), levels=(3,), likelihood=pg.flows.affine_coupling((2,), hidden=(8,))),
            'must take the last state as the entry "z"',
        ),
    ],
)
def test_bad_arguments_of_hierarchies(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_rates_need_a_draw():
    with pytest.raises(ValueError, match="`draws` must be at least 1, got 0"):
        top_down((3,), levels=(2,)).rates(torch.zeros(3), draws=0)


@pytest.mark.parametrize("free_nats", ["1", torch.tensor(1.0), None])
def test_free_nats_are_numbers(free_nats):
    with pytest.raises(TypeError, match="`free_nats` must be a number, or a list of one for each of 2 levels"):
        TopDownElbo(top_down((3,), levels=(2, 2)), free_nats=free_nats)
