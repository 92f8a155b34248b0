"""Flows of angles: contract, periodicity, integrals, a known density, angles beside other numbers, NUTS and guides."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.distributions import biject_to

import pyrogen as pg
from pyrogen import flows
from pyrogen.numerics.angles import Circular, wrapped
from pyrogen.testing import check_bijection, check_distribution
from pyrogen.testing.contract import BIJECTION_CHECKS

SMALL = {"layers": 2, "hidden": (16,), "bins": 5}
MIXED = {"angles": [False, True, False], "interval": ([0.0, None, None], [1.0, None, None])}
RECIPES = {
    "coupling": {},
    "autoregressive": {"autoregressive": True},
    "smooth": {"smooth": True},
    "smooth autoregressive": {"smooth": True, "autoregressive": True},
}
ALL = [pytest.param(name, marks=[pytest.mark.slow] * ("smooth" in name)) for name in RECIPES]
TURN = 2 * math.pi


def made(*shapes, spread=0.3, **options):
    torch.manual_seed(0)
    flow = flows.circular(*shapes, **{**SMALL, **options}).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return flow


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("smooth" in name)) for name in RECIPES]
)
def test_contract_on_a_torus(name):
    check_distribution(
        lambda: flows.circular((2,), (3,), **SMALL, **RECIPES[name]), event_shape=(2,), context=torch.randn(5, 3)
    ).raise_if_failed()


@pytest.mark.parametrize("shape", [(), pytest.param((2, 2), marks=pytest.mark.slow)])
def test_contract_of_other_shapes(shape):
    check_distribution(lambda: flows.circular(shape, **SMALL), event_shape=shape).raise_if_failed()


@pytest.mark.parametrize("autoregressive", [False, True])
def test_contract_of_angles_beside_other_numbers(autoregressive):
    check_distribution(
        lambda: flows.circular((3,), classes=4, autoregressive=autoregressive, **MIXED, **SMALL),
        event_shape=(3,),
        context=torch.arange(4),
    ).raise_if_failed()


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("name", ["coupling", "smooth autoregressive"])
def test_layers_pass_the_contract_of_bijections(name, index):
    def layer():
        return flows.circular((2,), **SMALL, **RECIPES[name]).bijections[index]

    skipped = {"gradients_reach_parameters", "parameter_gradient"} if index == 2 else set()
    only = [check.__name__ for check in BIJECTION_CHECKS if check.__name__ not in skipped]
    check_bijection(layer, event_shape=(2,), only=only).raise_if_failed()


@pytest.mark.parametrize("name", RECIPES)
def test_density_and_its_gradient_are_periodic(name):
    flow = made((2,), **RECIPES[name])
    near = torch.tensor([[math.pi + 0.3, 1.0], [0.2, math.pi + 0.1], [1.0, 2.0]], dtype=torch.float64)
    scores = []
    for turns in ((0, 0), (-1, 0), (0, -1), (5, -3)):
        x = (near + TURN * torch.tensor(turns, dtype=torch.float64)).requires_grad_()
        score = flow().log_prob(x)
        scores.append((score, *torch.autograd.grad(score.sum(), x)))
    for score, slope in scores[1:]:
        assert torch.allclose(score, scores[0][0], atol=1e-9)
        assert torch.allclose(slope, scores[0][1], atol=1e-8)


@pytest.mark.parametrize("name", RECIPES)
def test_whole_turns_make_no_difference_to_layers(name):
    flow = made((3,), **RECIPES[name])
    x = torch.randn(4, 3, dtype=torch.float64)
    turns = TURN * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    for layer in flow.bijections[:-1]:
        for direction in (layer().forward_and_log_det, layer().inverse_and_log_det):
            value, log_det = direction(x)
            turned, same = direction(x + turns)
            assert torch.allclose(turned, value + turns, atol=1e-8)
            assert torch.allclose(same, log_det, atol=1e-8)


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_jumps_at_the_seam(name):
    flow = made((2,), **RECIPES[name])
    sides = torch.tensor([[math.pi - 1e-9, 0.5], [math.pi + 1e-9, 0.5]], dtype=torch.float64)
    assert torch.allclose(*flow().log_prob(sides), atol=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_integral_over_the_torus_is_one(name):
    flow = made((2,), **RECIPES[name])
    line = (torch.arange(160, dtype=torch.float64) + 0.5) / 160 * TURN - math.pi
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        total = flow().log_prob(grid).exp().mean() * TURN**2
    assert abs(total - 1) < 2e-3  # of splines, which are smooth but for their knots
    with torch.no_grad():  # from any start of the turn
        assert abs(flow().log_prob(grid + 1.0).exp().mean() * TURN**2 - total) < 2e-3


def test_integral_of_an_angle_beside_other_numbers_is_one():
    flow = made((2,), angles=[True, False], interval=([None, 0.0], [None, 1.0]), spread=0.2)
    line = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    grid = torch.cartesian_prod(TURN * line, line)
    with torch.no_grad():
        total = flow().log_prob(grid).exp().mean() * TURN
    assert abs(total - 1) < 2e-3
    assert isinstance(flow().support.base_constraint, Circular)
    with pyro.validation_enabled(False):
        assert flow().log_prob(torch.tensor([9.0, 1.5], dtype=torch.float64)) == -torch.inf


def test_log_determinants_are_those_of_autograd():
    for options in RECIPES.values():
        flow = made((3,), **options)
        z = flow.base().sample((3,))
        for layer in flow.bijections[:-1]:
            for direction in (layer().forward_and_log_det, layer().inverse_and_log_det):
                for row in z:
                    jacobian = torch.autograd.functional.jacobian(lambda x, f=direction: f(x)[0], row)
                    assert torch.allclose(jacobian.slogdet().logabsdet, direction(row)[1], atol=1e-8)


def test_a_bivariate_von_mises_is_learned():
    """The divergence from a density that Pyro knows, by quadrature."""
    zero = torch.zeros(())
    target = dist.SineBivariateVonMises(zero + 3.0, zero - 1.0, 2 * zero + 3.0, zero + 2.0, correlation=zero + 1.5)
    line = (torch.arange(100) + 0.5) / 100 * TURN - math.pi
    grid = torch.cartesian_prod(line, line)
    log_p = target.log_prob(grid)
    torch.manual_seed(0)
    x = grid[torch.multinomial(log_p.exp(), 4000, replacement=True)] + TURN / 100 * (torch.rand(4000, 2) - 0.5)
    flow = flows.circular((2,), layers=2, hidden=(32,), bins=6)
    pg.fit(flow, x, steps=400, batch_size=256, lr=1e-2, seed=0)
    with torch.no_grad():
        log_q = flow.eval()().log_prob(grid)
    cell = (TURN / 100) ** 2
    assert abs((log_p.exp() * cell).sum() - 1) < 1e-3
    divergence = (log_p.exp() * (log_p - log_q) * cell).sum()
    assert 0 <= divergence < 0.05


def test_draws_lie_within_one_turn_and_follow_the_density():
    flow = made((2,))
    torch.manual_seed(0)
    x = flow().sample((20_000,))
    assert x.abs().max() <= math.pi
    line = (torch.arange(200, dtype=torch.float64) + 0.5) / 200 * TURN - math.pi
    grid = torch.cartesian_prod(line, line)
    p = flow().log_prob(grid).exp().detach()
    for function in (torch.sin, torch.cos):
        expected, found = (p[:, None] * function(grid)).sum(0) / p.sum(), function(x)
        assert ((found.mean(0) - expected).abs() < 5 * found.std(0) / len(x) ** 0.5 + 1e-3).all()


def test_support_is_known_to_guides():
    support = flows.circular((2,), **SMALL)().support
    transform = biject_to(support)
    z = torch.randn(5, 2).double()
    x = transform(z)
    assert x.abs().max() < math.pi
    assert support.check(x + 10 * TURN).all()
    assert torch.allclose(transform.inv(x + TURN), z, atol=1e-6)  # any number stands for the angle
    assert not support.check(torch.tensor([0.0, math.nan]))


@pytest.mark.slow
def test_autonormal_finds_the_bound_of_a_narrow_posterior():
    flow = made((1,)).float().requires_grad_(False)

    def model():
        angle = pyro.sample("angle", flow())
        pyro.sample("seen", dist.Normal(angle.cos(), 0.1).to_event(1), obs=torch.tensor([0.2]))
        pyro.sample("too", dist.Normal(angle.sin(), 0.1).to_event(1), obs=torch.tensor([1.0]))

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    pyro.set_rng_seed(0)
    losses = [svi.step() for _ in range(400)]
    line = (torch.arange(4000) + 0.5) / 4000 * TURN - math.pi
    log_joint = flow().log_prob(line[:, None])
    for value, seen in ((line.cos(), 0.2), (line.sin(), 1.0)):
        log_joint = log_joint + dist.Normal(value, 0.1).log_prob(torch.tensor(seen))
    evidence = log_joint.logsumexp(0) + math.log(TURN / 4000)
    last = torch.tensor(losses[-200:])
    assert -4 * last.std() / 200**0.5 < last.mean() + evidence < 0.2


@pytest.mark.slow
def test_nuts_goes_around_the_circle_where_angles_are_left_as_they_are():
    """A posterior across the seam: with the identity in the place of the bijection the chain passes it."""
    flow = made((1,)).float().requires_grad_(False)

    def model():
        angle = pyro.sample("angle", flow())
        pyro.sample("seen", dist.Normal(angle.cos(), 0.3).to_event(1), obs=torch.tensor([-1.0]))

    line = (torch.arange(4000) + 0.5) / 4000 * TURN - math.pi
    log_joint = flow().log_prob(line[:, None]) + dist.Normal(line.cos(), 0.3).log_prob(torch.tensor(-1.0))
    expected = (log_joint.softmax(0) * line.sin()).sum()
    free = {"angle": torch.distributions.transforms.identity_transform}
    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(model, transforms=free), num_samples=800, warmup_steps=200, disable_progbar=True)
    mcmc.run()
    angle = mcmc.get_samples()["angle"].flatten()
    assert (wrapped(angle) > 2.5).any()
    assert (wrapped(angle) < -2.5).any()
    assert abs(angle.sin().mean() - expected) < 5 * angle.sin().std() / 200**0.5


def test_statistics_leave_angles_alone(tmp_path):
    flow = flows.circular((3,), **MIXED, **SMALL)
    torch.manual_seed(0)
    x = torch.stack([torch.rand(500) * 0.9 + 0.05, 3 + torch.randn(500), 50 + 7 * torch.randn(500)], 1)
    pg.fit(flow, x, steps=2)
    standardize = flow.bijections[2]
    assert standardize.mean[1] == 0
    assert standardize.log_scale[1] == 0
    assert abs(standardize.mean[2] - 50) < 2
    pg.save(flow, tmp_path / "flow")
    assert torch.equal(pg.load(tmp_path / "flow")().log_prob(x), flow.eval()().log_prob(x))


def test_under_autocast_densities_keep_their_precision():
    flow = made((2,)).float()
    x = torch.randn(64, 2)
    exact = flow().log_prob(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = flow().log_prob(x)
    assert torch.allclose(rounded, exact, atol=1e-4)
    parameters = list(flow.parameters())
    pair = [torch.cat([g.flatten() for g in torch.autograd.grad(s.sum(), parameters)]) for s in (exact, rounded)]
    assert torch.cosine_similarity(*pair, 0) > 0.999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"angles": [True]}, "`angles` must be True or hold a truth value for each of 2 elements"),
        ({"angles": False}, "`angles` must name at least one angle"),
        ({"angles": [1, 0]}, "`angles` must be True or hold a truth value"),
        ({"angles": [True, False], "interval": ([0.0, 0.0], None)}, "`interval` must hold None for angles"),
        ({"angles": [True, False], "interval": 3.0}, "`interval` must be a pair"),
        ({"interval": (0.0, 1.0)}, "`interval` must be None where all elements are angles"),
        ({"margin": 0.1}, "`margin` must be 0 without an `interval`"),
    ],
)
def test_mistakes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        flows.circular((2,), **SMALL, **options)
