"""Ratio estimates: the loss by its definition, telescoping exactly, and normals whose ratios are known."""

import copy
import pickle
from math import log, pi

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.implicit import FDivergence, QuadraticCritic, RatioEstimate, density_ratio


def normal(mean, scale, size=1):
    return dist.Normal(torch.full((size,), float(mean)), float(scale)).to_event(1)


def cosine(steps):
    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def fitted(ratio, data, *, steps=400, lr=3e-3, **options):
    torch.manual_seed(0)
    pg.fit(ratio, data, steps=steps, lr=lr, schedule=cosine(steps), seed=0, **options)
    return ratio


class Scaled(nn.Module):
    """The exact log-ratio of two of the normals between N(0, s^2) and N(0, 1), in standardized numbers."""

    def __init__(self, unit, variance, k, count):
        super().__init__()
        angles = torch.linspace(0, pi / 2, count + 1)[k : k + 2]
        above, below = (angles.cos() ** 2 * variance + angles.sin() ** 2) / unit**2
        self.factor = nn.Parameter(-0.5 * (1 / above - 1 / below))
        self.constant = nn.Parameter(-0.5 * (above / below).log())

    def forward(self, x):
        return self.factor * x.square().sum(-1) + self.constant


def exact_steps(variance, count):
    p, q = normal(0, variance**0.5), normal(0, 1)
    torch.manual_seed(0)
    x, y = p.sample((40_000,)), q.sample((40_000,))
    unit = float(torch.cat([x, y]).std())
    ratio = RatioEstimate(critics=[Scaled(unit, variance, k, count) for k in range(count)], event_shape=1)
    ratio.standardizer.scale.fill_(unit)
    return ratio, p, q, x, y


@pytest.mark.parametrize("count", [1, 4])
def test_the_steps_add_up_to_the_whole_and_the_exact_ones_have_the_least_loss(count):
    ratio, p, q, x, y = exact_steps(0.04, count)
    torch.testing.assert_close(ratio(x[:50]), p.log_prob(x[:50]) - q.log_prob(x[:50]), atol=1e-4, rtol=1e-4)
    loss = ratio.objective()(x, y)
    for gradient in torch.autograd.grad(loss, ratio.critics.parameters()):
        assert gradient.abs() < 0.01
    for factor in (0.8, 1.25):
        ratio.slope.fill_(factor)
        assert ratio.objective()(x, y) > loss


def test_the_loss_of_a_row_is_that_of_a_classifier_of_both_samples():
    ratio = density_ratio((2,), hidden=(8,), quadratic=False)
    x, y = torch.randn(9, 2), torch.randn(9, 2)
    logits = torch.cat([ratio(x), ratio(y)])
    labels = torch.cat([torch.ones(9), torch.zeros(9)])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(ratio.objective()(x, y), expected)
    torch.testing.assert_close(ratio.step_losses(x, y).mean(), expected)


def test_normals_of_other_means_and_scales():
    p, q = normal(1, 0.6, 2), normal(0, 1, 2)
    ratio = fitted(density_ratio((2,), hidden=(), draws=512), (p.sample((20_000,)), q.sample((20_000,))))
    x = p.sample((2000,))
    exact = p.log_prob(x) - q.log_prob(x)
    assert (ratio(x) - exact).abs().mean() < 0.1
    found = ratio.kl(x)
    assert found.density == ratio.density == "estimate"
    assert abs(found.value - float(torch.distributions.kl_divergence(p, q))) < 0.1
    bound = FDivergence.JS.bound(ratio, x, q.sample((2000,)))
    attained = FDivergence.JS.bound(lambda x: p.log_prob(x) - q.log_prob(x), x, q.sample((2000,)))
    assert abs(bound.value - attained.value) < 3 * (bound.standard_error + attained.standard_error)


def test_fresh_draws_of_modules_distributions_and_functions():
    flow = pg.flows.affine_coupling((2,), layers=1)
    before = copy.deepcopy(flow.state_dict())
    p, x = normal(1, 1, 2), torch.randn(500, 2) + 1
    for above, below, data in (
        (None, flow, x),
        (None, normal(0, 1, 2), x),
        (None, lambda count: torch.randn(count, 2), x),
        (p, None, torch.randn(500, 2)),
        (p, flow, ()),
    ):
        ratio = RatioEstimate(above, below, critics=QuadraticCritic((2,)), event_shape=(2,))
        fitted(ratio, data, steps=120, lr=1e-2)
        exact = p.log_prob(x) - normal(0, 1, 2).log_prob(x)
        assert (ratio(x) - exact).abs().mean() < 0.5, below
    assert all(torch.equal(value, before[key]) for key, value in flow.state_dict().items())
    assert all(parameter.requires_grad for parameter in flow.parameters())


def test_ratios_given_contexts():
    torch.manual_seed(0)
    context = torch.randn(20_000, 1)
    ratio = density_ratio((1,), (1,), hidden=(), draws=512)
    fitted(ratio, (context + torch.randn(20_000, 1), torch.randn(20_000, 1), context), batch_size=256)
    x, c = torch.tensor([[0.0], [1.0], [-1.0]]), torch.tensor([[1.0], [0.5], [-1.0]])
    torch.testing.assert_close(ratio(x, c), (c * x - c.square() / 2).squeeze(-1), atol=0.15, rtol=0)
    assert ratio(x.unsqueeze(1), c).shape == (3, 3)
    labelled = density_ratio((1,), classes=2, q=None, hidden=(8,))
    labels = torch.arange(2).repeat(200)
    fitted(labelled, (torch.randn(400, 1) + 2.0 * labels.unsqueeze(-1), torch.randn(400, 1), labels), steps=100)
    one = labelled(torch.full((2, 1), 2.0), torch.tensor([0, 1]))
    assert one[1] > one[0] + 0.5


def test_a_module_with_a_context_draws_one_event_for_each():
    flow = pg.flows.affine_coupling((2,), (1,), layers=1)
    ratio = density_ratio((2,), (1,), q=flow, hidden=())
    assert pg.fit(ratio, (torch.randn(100, 2), torch.randn(100, 1)), steps=2).reason == "steps"
    x, y, context = ratio.samples(torch.randn(7, 2), torch.randn(7, 1))
    assert x.shape == y.shape == (7, 2)
    assert context.shape == (7, 1)


def test_calibration_takes_back_what_is_too_sure():
    torch.manual_seed(0)

    class TooSure(nn.Module):
        def forward(self, x):
            return 3 * (2 * x.squeeze(-1) - 0.3)

    ratio = RatioEstimate(critics=TooSure(), event_shape=1)
    x, y = torch.randn(5000, 1) + 1, torch.randn(5000, 1) - 1
    before = ratio.log_loss(x, y)
    ratio.calibrate(x, y)
    assert ratio.slope.item() == pytest.approx(1 / 3, abs=0.03)
    assert ratio.offset.item() == pytest.approx(0.3, abs=0.1)
    after = ratio.log_loss(x, y)
    assert after[0].value < before[0].value
    torch.testing.assert_close(ratio(torch.tensor([[1.0]])), torch.tensor([2.0]), atol=0.2, rtol=0)
    ratio.calibrate(x + 100, y - 100)  # separated: the prior keeps the slope finite
    assert ratio.slope.isfinite().all()


def test_calibration_by_fresh_draws_leaves_the_exact_ratio_nearly_as_it_is():
    class Exact(nn.Module):
        def forward(self, x):
            return x.squeeze(-1) - 0.5

    torch.manual_seed(0)
    slopes = []
    for _ in range(30):
        ratio = RatioEstimate(normal(1, 1), normal(0, 1), critics=Exact())
        ratio.calibrate()
        slopes.append(ratio.slope.item())
    assert torch.tensor(slopes).sub(1).square().mean().sqrt() < 0.06  # 0.1 by as many as a minibatch has


def test_calibration_of_what_has_blown_up():
    class Scores(nn.Module):
        factor = 1e8

        def forward(self, x):
            return self.factor * x.squeeze(-1)

    torch.manual_seed(0)
    ratio = RatioEstimate(critics=Scores(), event_shape=1)
    x, y = torch.randn(2000, 1) + 0.5, torch.randn(2000, 1) - 0.5
    ratio.calibrate(x, y)
    assert ratio.slope.item() == pytest.approx(1e-8, rel=0.2)
    before = ratio.slope.clone()
    Scores.factor = float("nan")
    with pytest.raises(ValueError, match=r"`critics\[0\]\(...\)` must hold numbers, got 4000 NaN"):
        ratio.calibrate(x, y)
    assert torch.equal(ratio.slope, before)


def test_the_log_loss_shows_what_there_is_to_learn():
    ratio = density_ratio((2,), hidden=(), bridges=1)
    x, y = torch.randn(1000, 2), torch.randn(1000, 2)
    for estimate in ratio.log_loss(x, y):
        assert estimate.value == pytest.approx(log(2))
    with_validation = pg.fit(ratio, (x, y), epochs=3, validation=0.2)
    assert with_validation.reason == "epochs"


def test_batches_vmap_precision_copies_and_files(tmp_path):
    ratio = density_ratio((2, 3), bridges=2, hidden=(8,))
    fitted(ratio, (torch.randn(64, 2, 3) + 1, torch.randn(64, 2, 3)), steps=5)
    x = torch.randn(4, 5, 2, 3)
    found = ratio(x)
    torch.testing.assert_close(torch.vmap(torch.vmap(ratio))(x), found)
    assert ratio(x[0, 0]).shape == ()
    assert ratio(x[:0]).shape == (0, 5)
    torch.testing.assert_close(copy.deepcopy(ratio).double()(x.double()), found.double(), atol=1e-4, rtol=1e-4)
    assert torch.equal(pickle.loads(pickle.dumps(ratio))(x), found)
    pg.save(ratio, tmp_path / "ratio.pg")
    assert torch.equal(pg.load(tmp_path / "ratio.pg")(x), found)
    assert density_ratio((1,), q=normal(0, 1), hidden=())(torch.zeros(3, 1)).shape == (3,)  # its scale has stride 0
    flow = pg.flows.affine_coupling((2,), layers=1)
    over_flow = density_ratio((2,), q=flow, hidden=())
    fitted(over_flow, torch.randn(50, 2), steps=3)
    pg.save(over_flow, tmp_path / "flow.pg")
    loaded = pg.load(tmp_path / "flow.pg")
    assert torch.equal(loaded.q().log_prob(x[0, :, 0, :2]), flow().log_prob(x[0, :, 0, :2]))


def test_arguments_that_do_not_fit_are_refused_by_name():
    critic = QuadraticCritic((2,))
    with pytest.raises(TypeError, match="`q` must be a DistributionModule, a Pyro distribution"):
        RatioEstimate(None, torch.zeros(3), critics=critic, event_shape=2)
    with pytest.raises(ValueError, match="`event_shape` must be given where neither `p` nor `q` has one"):
        RatioEstimate(critics=critic)
    with pytest.raises(ValueError, match="`event_shape` must be that of `p` and `q`"):
        RatioEstimate(normal(0, 1, 2), normal(0, 1, 3), critics=critic)
    with pytest.raises(ValueError, match="`critics` must hold at least one module, got none"):
        RatioEstimate(critics=[], event_shape=2)
    with pytest.raises(ValueError, match="`q` must have no batch dimensions"):
        RatioEstimate(None, dist.Normal(torch.zeros(3), 1.0), critics=critic)
    with pytest.raises(ValueError, match="`bridges` must be at least 0"):
        density_ratio((2,), bridges=-1)
    with pytest.raises(ValueError, match="`hidden` must name at least one layer where `quadratic` is False"):
        density_ratio((2,), quadratic=False, hidden=())
    ratio, x = density_ratio((2,), hidden=()), torch.randn(8, 2)
    with pytest.raises(ValueError, match=r"`data` must be \(x, y\), got 1 entries"):
        pg.fit(ratio, x, steps=1)
    with pytest.raises(ValueError, match="`x` must end in shape"):
        ratio(torch.zeros(3))
    with pytest.raises(ValueError, match="`y` must hold 8 rows"):
        ratio.log_loss(x, x[:3])
    with pytest.raises(ValueError, match=r"`critics` must give logits \(8,\) of 8 rows, got \(8, 1\)"):
        RatioEstimate(critics=nn.Linear(2, 1), event_shape=2)(x)
    with pytest.raises(ValueError, match="`x` must hold real numbers, between which there are bridges"):
        density_ratio((2,), bridges=1, hidden=()).log_loss(x.long(), x.long())
    bad = x.clone()
    bad[3] = float("nan")
    with pytest.raises(ValueError, match="row 3 of `data`"):
        pg.fit(ratio, (bad, x), steps=1)


@pytest.mark.slow
def test_ten_nats_between_normals_within_five_percent():
    def p(count, correlation=0.7951):
        z, noise = torch.randn(2, count, 20)
        return torch.cat([z, correlation * z + (1 - correlation**2) ** 0.5 * noise], -1)

    critics = [QuadraticCritic((40,)) for _ in range(9)]
    ratio = RatioEstimate(p, normal(0, 1, 40), critics=critics, draws=256)
    fitted(ratio, (), steps=1000, lr=2e-3)
    torch.manual_seed(1)
    found = ratio.kl(p(10_000))
    assert abs(found.value - 10) < 0.5
    one_step = RatioEstimate(p, normal(0, 1, 40), critics=QuadraticCritic((40,)), draws=256)
    fitted(one_step, (), steps=1000, lr=2e-3)
    assert abs(one_step.kl(p(10_000)).value - 10) > 1


@pytest.mark.parametrize(
    ("options", "context"),
    [
        ({"hidden": (8,)}, None),
        ({"hidden": (8,), "bridges": 2, "quadratic": False}, None),
        ({"hidden": (8,), "classes": 3}, torch.arange(6) % 3),
        (
            {"hidden": (8,), "bridges": 1, "context_shape": {"a": (), "b": (2,)}},
            {"a": torch.randn(6), "b": torch.randn(6, 2)},
        ),
    ],
)
def test_the_contract_of_its_objective(options, context):
    batch = (torch.randn(6, 3) + 1, torch.randn(6, 3)) + (() if context is None else (context,))
    pg.testing.check_objective(lambda: density_ratio((3,), **options).objective(), batch).raise_if_failed()
