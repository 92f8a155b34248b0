"""Flows on intervals: the stated support is the support, and dequantized integers share out all of the mass."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch.distributions import biject_to

import pyrogen as pg
from pyrogen import flows
from pyrogen.numerics.supports import ends
from pyrogen.transforms import Interval, TransformedDistribution

RECIPES = [
    flows.affine_coupling,
    flows.spline_coupling,
    flows.affine_autoregressive,
    flows.spline_autoregressive,
    flows.neural_autoregressive,
    flows.block_neural_autoregressive,
]


def perturbed(flow, scale=0.3):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return flow.eval()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_draw_lies_strictly_inside_also_far_from_training(recipe):
    flow = perturbed(recipe((2,), (3,), interval=(0.0, 1.0), layers=2, hidden=(8,)))
    for size in (0.0, 1.0, 100.0, 1e4):
        context = torch.randn(20, 3) * size
        draws = flow(context).sample((100,))
        assert ((draws > 0) & (draws < 1)).all()
        assert flow(context).log_prob(draws).isfinite().all()
        dist.Bernoulli(draws)  # probabilities, as Pyro checks them
    assert ends(flow(context).support) == (0.0, 1.0)


def test_a_fresh_flow_is_logit_normal_or_log_normal():
    x = torch.tensor([0.2, 0.7], dtype=torch.float64)
    flow = flows.affine_coupling((2,), interval=(0.0, 2.0), layers=1, hidden=(4,)).double().eval()
    z = (x / 2).logit()
    exact = dist.Normal(0.0, 1.0).log_prob(z) - (x / 2).log() - (1 - x / 2).log() - math.log(2)
    assert flow().log_prob(x).item() == pytest.approx(exact.sum().item())
    flow = flows.affine_coupling((2,), interval=(0.0, None), layers=1, hidden=(4,)).double().eval()
    assert flow().log_prob(x).item() == pytest.approx(dist.LogNormal(0.0, 1.0).log_prob(x).sum().item())
    flow = flows.affine_coupling((2,), interval=([None, 0.0], [1.0, math.inf]), layers=1, hidden=(4,)).double().eval()
    exact = dist.LogNormal(0.0, 1.0).log_prob(1 - x[0]) + dist.LogNormal(0.0, 1.0).log_prob(x[1])
    assert flow().log_prob(x).item() == pytest.approx(exact.item())


@pytest.mark.parametrize("interval", [(0.0, 1.0), (-2.0, 3.0), (0.0, None), (None, 0.0)])
def test_no_mass_is_lost_between_the_ends(interval):
    flow = perturbed(flows.spline_coupling((), interval=interval, layers=2, hidden=(8,)).double())
    z = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    bijection = biject_to(flow().support)
    x = bijection(z)
    mass = torch.trapezoid((flow().log_prob(x) + bijection.log_abs_det_jacobian(z, x)).exp(), z)
    assert mass.item() == pytest.approx(1.0, abs=1e-6)


def test_ends_for_each_element_and_one_sided():
    low, high = torch.tensor([[0.0, -1.0], [5.0, -math.inf]]), torch.tensor([[1.0, 1.0], [math.inf, 0.0]])
    for given in ((low, high), (low.tolist(), high.tolist()), ([[0, -1], [5, None]], [[1, 1], [None, 0]])):
        flow = perturbed(flows.affine_coupling((2, 2), interval=given, layers=2, hidden=(8,)))
        draws = flow().sample((1000,))
        assert ((draws > low) & (draws < high)).all()
        assert flow().log_prob(draws.clone()).isfinite().all()
        assert flow().support.check(draws).all()
    row = flows.affine_coupling((2, 3), interval=([0.0, 1.0, 2.0], 9.0), layers=1, hidden=(4,))
    assert (row().sample((50,)) > torch.tensor([0.0, 1.0, 2.0])).all()


def test_numbers_at_an_end_are_refused_with_the_ways_out_or_impossible():
    flow = perturbed(flows.affine_coupling((2,), interval=(0.0, 1.0), layers=2, hidden=(8,)))
    rows = torch.tensor([[0.2, 0.3], [0.0, 0.3], [0.4, 1.0], [1.5, 0.1], [math.nan, 0.5]])
    with pytest.raises(ValueError, match=r"within the support.*dequantize.*margin.*3 of 10"):
        flow().log_prob(rows)
    with pyro.validation_enabled(False):
        scores = flow().log_prob(rows)
        assert scores[0].isfinite()
        assert (scores[1:4] == -torch.inf).all()
        assert scores[4].isnan()
        parameters = list(flow.parameters())
        alone = torch.autograd.grad(flow().log_prob(rows[:1]).sum(), parameters)
        among = torch.autograd.grad(flow().log_prob(rows)[0], parameters)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(alone, among, strict=True))
    near = torch.tensor([[1e-30, 0.5], [0.5, 1 - 6e-8]])
    assert flow().log_prob(near).isfinite().all()


def test_fit_says_what_to_do_with_numbers_at_an_end():
    torch.manual_seed(0)
    x = torch.rand(64, 2)
    x[40, 1] = 1.0
    for where in (x[40:], x):  # in the first minibatch, and in a later one
        with pytest.raises((ValueError, FloatingPointError), match="margin"):
            pg.fit(
                flows.affine_coupling((2,), interval=(0.0, 1.0), layers=1, hidden=(4,)), where, steps=40, batch_size=4
            )
    pg.fit(
        flows.affine_coupling((2,), interval=(0.0, 1.0), margin=0.05, layers=1, hidden=(4,)), x, steps=40, batch_size=4
    )


def test_a_margin_widens_the_support_and_says_so():
    flow = perturbed(flows.affine_coupling((2,), interval=(0.0, 1.0), margin=0.05, layers=2, hidden=(8,)))
    low, high = ends(flow().support)
    assert float(low) == pytest.approx(-0.05 / 0.9)
    assert float(high) == pytest.approx(1 + 0.05 / 0.9)
    draws = flow().sample((2000,))
    assert flow().support.check(draws).all()
    assert flow().log_prob(torch.tensor([[0.0, 1.0]])).isfinite().all()
    for wrong in ({"margin": 0.05}, {"interval": (0.0, None), "margin": 0.05}, {"interval": (0.0, 1.0), "margin": 0.5}):
        with pytest.raises(ValueError, match="`margin`"):
            flows.affine_coupling((2,), **wrong)


@pytest.mark.parametrize(
    "interval",
    [(0.0,), 1.0, (1.0, 0.0), ("a", 1.0), ([0.0, 0.0, 0.0], 1.0), ([[0.0], [0.0]], 1.0), (math.nan, 1.0), ()],
)
def test_intervals_that_are_none_are_named(interval):
    with pytest.raises(ValueError, match="`interval`"):
        flows.affine_coupling((2,), interval=interval)


def test_saved_with_their_ends(tmp_path):
    flow = perturbed(flows.affine_coupling((2,), interval=([0.0, None], [2.0, 1.0]), layers=1, hidden=(4,)))
    x = flow().sample((5,))
    pg.save(flow, tmp_path / "flow")
    again = pg.load(tmp_path / "flow")
    assert torch.equal(again().log_prob(x), flow().log_prob(x.clone()))
    other = flows.affine_coupling((2,), interval=([0.0, 0.0], [1.0, 1.0]), layers=1, hidden=(4,))
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other.eval()().log_prob(x), flow().log_prob(x.clone()))


@pytest.mark.parametrize("interval", [(0.0, 1.0), ([0.0, None], [1.0, 3.0])])
def test_vmap_with_validation(interval):
    flow = perturbed(flows.affine_coupling((2,), (3,), interval=interval, layers=2, hidden=(8,)))
    context = torch.randn(5, 3)
    x = flow(context).sample()
    with pyro.validation_enabled(True):
        mapped = torch.func.vmap(lambda x, c: flow(c).log_prob(x))(x, context)
    assert torch.allclose(mapped, flow(context).log_prob(x.clone()), atol=1e-5)


def test_autoguides_and_nuts_on_ends_for_each_element():
    flow = perturbed(flows.affine_coupling((2,), interval=([0.0, 5.0], [1.0, None]), layers=2, hidden=(8,)))
    flow.requires_grad_(False)

    def model():
        p = pyro.sample("p", flow())
        pyro.sample("y", dist.Bernoulli(p[0]), obs=torch.tensor(1.0))

    guide = AutoNormal(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    assert all(math.isfinite(svi.step()) for _ in range(5))
    assert flow().support.check(guide.median()["p"])
    mcmc = MCMC(NUTS(model, max_tree_depth=4), num_samples=30, warmup_steps=20, disable_progbar=True)
    mcmc.run()
    assert flow().support.check(mcmc.get_samples()["p"]).all()


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_dequantized_probabilities_sum_to_one(margin):
    """Each bin by quadrature; the bound is unbiased for it, and draws fall into it as often."""
    levels = 5
    flow = perturbed(flows.spline_coupling((), interval=(0.0, 1.0), margin=margin, layers=2, hidden=(8,)).double())
    module = flows.Dequantized(flow, levels)
    low, high = (float(end) for end in ends(flow().support))
    edges = [low, *(level / levels for level in range(1, levels)), high]
    bins = []
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        x = left + (right - left) * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        bins.append(flow().log_prob(x).exp().mean() * (right - left))
    bins = torch.stack(bins)
    assert bins.sum().item() == pytest.approx(1.0, abs=1e-3)
    draws = module().sample((20_000,))
    counted = torch.bincount(draws.long(), minlength=levels) / 20_000
    assert torch.allclose(counted.double(), bins, atol=0.02)
    values = torch.arange(levels, dtype=torch.float64).expand(20_000, levels)
    scores = module().log_prob(values)
    assert torch.allclose(scores.exp().mean(0), bins, rtol=0.1)
    assert (scores.mean(0) <= bins.log() + 1e-3).all()
    with pyro.validation_enabled(False):
        outside = module().log_prob(torch.tensor([-1.0, 0.5, 5.0, math.nan], dtype=torch.float64))
    assert outside[:3].tolist() == [-math.inf] * 3
    assert outside[3].isnan()


def test_dequantized_refuses_a_density_without_ends():
    for flow in (flows.affine_coupling((2,), layers=1), flows.affine_coupling((2,), interval=(0.0, None), layers=1)):
        with pytest.raises(ValueError, match="`base` must have a support with two ends"):
            flows.Dequantized(flow, 4)()


def test_a_smaller_support_gives_no_mass_to_other_integers():
    flow = flows.affine_coupling((), interval=(0.5, 1.0), layers=1).eval()
    with pyro.validation_enabled(True):
        scores = flows.Dequantized(flow, 4)().log_prob(torch.arange(4.0))
    assert (scores[:2] == -torch.inf).all()
    assert scores[2:].isfinite().all()


@pytest.mark.parametrize("interval", [(0.0, 1.0), ([0.0, None], [1.0, 3.0])])
def test_log_prob_compiles_in_one_graph(interval):
    flow = perturbed(flows.affine_coupling((2,), interval=interval, layers=1, hidden=(4,)))
    x = flow().sample((5,))
    torch._dynamo.reset()
    validation = torch.distributions.Distribution._validate_args
    compiled = torch.compile(lambda x: flow().log_prob(x), fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), flow().log_prob(x.clone()), atol=1e-5)
    torch.distributions.Distribution.set_default_validate_args(validation)


@pytest.mark.parametrize(
    "guide_of",
    [
        AutoNormal,
        AutoMultivariateNormal,
        lambda m: flows.AutoFlow(m, lambda shape: flows.affine_coupling(shape, layers=1, hidden=(8,))),
    ],
)
def test_guides_of_rows_with_ends_of_their_own(guide_of):
    low = torch.tensor([[0.0], [10.0], [-5.0]]).expand(3, 2)
    high = torch.tensor([[1.0], [12.0], [math.inf]]).expand(3, 2)

    def model():
        noise = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("rows", 3):
            x = pyro.sample("x", TransformedDistribution(noise, [Interval(low, high, event_dim=1)]))
            pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=torch.tensor([1.0, 22.0, -3.0]))

    guide = guide_of(model)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.005}), Trace_ELBO())
    assert all(math.isfinite(svi.step()) for _ in range(5))
    median = guide.median()["x"]
    assert ((low < median) & (median < high)).all()
