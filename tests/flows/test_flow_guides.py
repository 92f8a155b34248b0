"""AutoFlow: a guide for any model, its parameters known to everyone, exact where the answer is known."""

import math
import pickle
from copy import deepcopy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.infer.reparam import NeuTraReparam
from torch import nn
from torch.distributions import constraints

import pyrogen as pg
from pyrogen.flows.guide import AutoFlow
from pyrogen.transforms import Interval, TransformedDistribution

RECIPES = {
    "affine_coupling": partial(pg.flows.affine_coupling, layers=2, hidden=(8,)),
    "spline_coupling": partial(pg.flows.spline_coupling, layers=2, hidden=(8,)),
    "affine_autoregressive": partial(pg.flows.affine_autoregressive, layers=2, hidden=(8,), fast_sampling=True),
    "spline_autoregressive": partial(pg.flows.spline_autoregressive, layers=2, hidden=(8,), fast_sampling=True),
}
small = RECIPES["affine_coupling"]


@pytest.fixture(autouse=True)
def _clean():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()
    torch.set_num_threads(threads)


def constrained(y=None):
    """Latent sites of every kind: real, positive, on a simplex, in an interval, in a plate, with an event."""
    pyro.sample("rate", dist.Gamma(2.0, 2.0))
    pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("groups", 4):
        level = pyro.sample("level", dist.Beta(2.0, 2.0))
        pyro.sample("loc", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("rows", 4):
        pyro.sample("y", dist.Normal(level, 0.5), obs=torch.zeros(4) if y is None else y)


SHAPES = {"rate": (), "share": (3,), "level": (4,), "loc": (4, 2)}
SIZE = 1 + 2 + 4 + 8


def ran(model=constrained, recipe=small, **settings):
    guide = AutoFlow(model, recipe, **settings)
    guide()
    return guide


def shaken(guide):
    """The guide with other weights than those it started with."""
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return guide


def log_density(guide, value):
    return guide.get_posterior().log_prob(value).detach()


# Contract: what Pyro asks of a guide


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_makes_a_guide(recipe):
    guide = AutoFlow(constrained, recipe)
    drawn = guide()
    assert {name: tuple(value.shape) for name, value in drawn.items()} == SHAPES
    assert guide.get_posterior().event_shape == (SIZE,)
    elbo = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)(constrained, guide)
    elbo().backward()
    with_gradient = [name for name, entry in elbo.named_parameters() if entry.grad is not None]
    assert len(with_gradient) == len(list(guide.parameters())) > 0


def test_draws_lie_in_the_support():
    guide = shaken(ran(init_scale=2.0))
    draws = Predictive(constrained, guide=guide, num_samples=50, return_sites=list(SHAPES))()
    supports = {"rate": constraints.positive, "share": constraints.simplex, "level": constraints.unit_interval}
    for name, support in supports.items():
        assert support.check(draws[name]).all(), name
    assert draws["loc"].shape == (50, 4, 2)


def test_parallel_prediction():
    draws = Predictive(constrained, guide=ran(), num_samples=7, parallel=True, return_sites=["y", "level"])()
    assert draws["level"].shape == (7, 4)


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO, RenyiELBO])
@pytest.mark.parametrize("vectorized", [False, True])
def test_svi_trains_each_parameter_once(objective, vectorized):
    guide = AutoFlow(constrained, small)
    loss = objective(num_particles=2, vectorize_particles=vectorized, max_plate_nesting=1)
    svi = SVI(constrained, guide, pyro.optim.Adam({"lr": 0.01}), loss)
    svi.step()
    before = [parameter.detach().clone() for parameter in guide.parameters()]
    svi.step()
    stored = [pyro.get_param_store()[name].unconstrained() for name in pyro.get_param_store()]
    assert len(stored) == len({id(entry) for entry in stored}) == len(before)
    assert {id(entry) for entry in stored} == {id(entry) for entry in guide.parameters()}
    # The layers of an identity flow start to move one after the other, the location at once.
    assert not torch.equal(before[-2], list(guide.parameters())[-2])


def test_two_guides_in_one_parameter_store():
    guides = [AutoFlow(constrained, small) for _ in range(2)]
    for guide in guides:
        svi = SVI(constrained, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        svi.step()
        before = guide.flow.bijections[-1].loc.detach().clone()
        svi.step()
        assert not torch.equal(before, guide.flow.bijections[-1].loc)
    assert len(pyro.get_param_store()) == 2 * len(list(guides[0].parameters()))


def test_fit_trains_it_without_a_first_call():
    guide = AutoFlow(constrained, small)
    before = pg.fit(Trace_ELBO()(constrained, guide), (), steps=2, seed=0).history.loss
    assert len(before) == 2
    assert not torch.equal(guide.flow.bijections[-1].loc, guide._init_loc())


class Program(nn.Module):
    """A model as a module."""

    def forward(self, *args):
        return constrained(*args)


def test_our_objective_is_pyros():
    guide = shaken(ran())
    pyro.set_rng_seed(1)
    expected = Trace_ELBO().loss(constrained, guide)
    pyro.set_rng_seed(1)
    with pyro.validation_enabled(False):
        ours = pg.Elbo(Program(), guide)()
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_the_mean_field_elbo_is_the_elbo():
    """All noise is that of the one draw. (Pyro's point masses lose the Jacobian of constrained sites here.)"""
    guide, losses = shaken(ran()), []
    for objective in (Trace_ELBO, TraceMeanField_ELBO):
        pyro.set_rng_seed(1)
        losses.append(objective().loss(constrained, guide))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_subsampled_data_with_global_latents():
    data = torch.randn(100)

    def model(data):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data), subsample_size=10) as rows:
            pyro.sample("y", dist.Normal(loc, 1.0), obs=data[rows])

    guide = AutoFlow(model, small)
    pg.fit(Trace_ELBO()(model, guide), (data,), steps=2, batch_size=100)
    assert guide(data)["loc"].shape == ()


def test_subsampled_latents_are_refused():
    def model():
        with pyro.plate("data", 100, subsample_size=10):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"'z' in plate 'data' with 10 of 100 rows"):
        AutoFlow(model, small)()


def test_part_of_a_list_of_guides():
    guide = AutoGuideList(constrained)
    guide.append(AutoFlow(pyro.poutine.block(constrained, expose=["level", "loc"]), small))
    guide.append(AutoNormal(pyro.poutine.block(constrained, hide=["level", "loc"])))
    SVI(constrained, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step()
    assert set(guide()) == set(SHAPES)


# Where it starts


def test_starts_at_a_normal():
    def model():
        pyro.sample("a", dist.Normal(3.0, 1.0))
        pyro.sample("b", dist.LogNormal(1.0, 1.0))

    place = {"a": torch.tensor(3.0), "b": torch.tensor(math.e)}
    guide = ran(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values=place), init_scale=0.3)
    value = torch.randn(20, 2)
    expected = dist.Normal(torch.tensor([3.0, 1.0]), 0.3).to_event(1).log_prob(value)
    torch.testing.assert_close(log_density(guide, value), expected)


def test_follows_the_dtype_of_the_model():
    guide = ran(lambda: pyro.sample("z", dist.Normal(torch.zeros(3, dtype=torch.double), 1.0).to_event(1)))
    assert guide()["z"].dtype == torch.double
    assert all(parameter.dtype == torch.double for parameter in guide.parameters())


def test_no_draw_sets_a_standardization():
    guide = ran().train()
    before = log_density(guide, torch.ones(SIZE))
    guide.get_posterior().log_prob(5 + torch.randn(10, SIZE))
    assert torch.equal(log_density(guide, torch.ones(SIZE)), before)


def test_one_latent_element():
    guide = ran(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    assert guide()["z"].shape == ()


@pytest.mark.parametrize(
    ("recipe", "got"),
    [
        (lambda shape: pg.flows.affine_coupling((3,)), r"Flow event_shape \(3,\)"),
        (lambda shape: pg.flows.affine_coupling(shape, (2,)), r"context_shape \(2,\)"),
        (lambda shape: nn.Linear(2, 2), "Linear"),
    ],
)
def test_a_recipe_of_something_else_is_refused(recipe, got):
    with pytest.raises(ValueError, match=rf"`recipe` must give a Flow of event shape \(15,\).*{got}"):
        AutoFlow(constrained, recipe)()


def test_a_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match="`init_scale` must be positive, got 0"):
        AutoFlow(constrained, small, init_scale=0)


def test_without_a_call_it_says_so():
    with pytest.raises(RuntimeError, match="before its first call"):
        AutoFlow(constrained, small).get_transform()


# Summaries


def test_medians_and_quantiles_of_a_known_posterior():
    def model():
        pyro.sample("z", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("negative", dist.TransformedDistribution(dist.Normal(0.0, 1.0), _MinusExp()))

    loc = torch.tensor([0.0, 1.0])
    place = {"z": loc.exp(), "negative": torch.tensor(-1.0)}
    guide = ran(model, init_loc_fn=pyro.infer.autoguide.init_to_value(values=place), init_scale=0.5)
    # The standard error of a sample quantile at p is sqrt(p (1 - p) / n) / density; 5 of them.
    levels = torch.tensor([0.1, 0.5, 0.9])
    normal = dist.Normal(0.0, 1.0)
    error = 5 * 0.5 * (levels * (1 - levels) / 4096).sqrt() / normal.log_prob(normal.icdf(levels)).exp()
    cuts = guide.quantiles([0.1, 0.5, 0.9])
    exact = loc + 0.5 * normal.icdf(levels)[:, None]
    assert ((cuts["z"].log() - exact).abs() < error[:, None]).all()
    # Its unconstrained value falls where the site's value rises.
    assert ((-cuts["negative"]).log() + 0.5 * normal.icdf(levels)).abs().lt(error).all()
    assert ((guide.median()["z"].log() - loc).abs() < error[1]).all()


class _MinusExp(torch.distributions.transforms.ComposeTransform):
    def __init__(self):
        parts = torch.distributions.transforms
        super().__init__([parts.ExpTransform(), parts.AffineTransform(0.0, -1.0)])

    codomain = constraints.less_than(0.0)


def test_medians_lie_in_the_support():
    median = ran(init_scale=1.0).median()
    assert {name: tuple(value.shape) for name, value in median.items()} == SHAPES
    assert constraints.simplex.check(median["share"])


# Copies


def test_copies_before_use():
    guide = AutoFlow(constrained, small)
    for twin in (deepcopy(guide), pickle.loads(pickle.dumps(guide)), guide):
        assert {name: tuple(value.shape) for name, value in twin().items()} == SHAPES


@pytest.mark.parametrize("trained", ["by SVI", "by fit"])
def test_copies_after_use(trained):
    data = torch.randn(4)
    guide = AutoFlow(constrained, small)
    if trained == "by SVI":
        SVI(constrained, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(data)
    else:
        pg.fit(Trace_ELBO()(constrained, guide), (data,), steps=2)
    value = torch.randn(SIZE)
    expected = log_density(guide, value)
    for twin in (deepcopy(guide), pickle.loads(pickle.dumps(guide))):
        assert torch.equal(log_density(twin, value), expected)
        assert not {id(entry) for entry in twin.parameters()} & {id(entry) for entry in guide.parameters()}
        shaken(twin)
        assert {name: tuple(entry.shape) for name, entry in twin().items()} == SHAPES
        SVI(constrained, twin, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(data)
        assert not torch.equal(log_density(twin, value), expected)
    assert torch.equal(log_density(guide, value), expected)
    assert guide.model is not None, "a copy must not take the model away"


def test_a_copy_trains():
    guide = ran()
    twin = deepcopy(guide)
    pg.fit(Trace_ELBO()(constrained, twin), (), steps=2)
    assert not torch.equal(twin.flow.bijections[-1].loc, guide.flow.bijections[-1].loc)


def test_a_local_model_pickles_once_it_ran():
    guide = ran(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)))
    assert pickle.loads(pickle.dumps(guide))()["z"].shape == ()


def test_a_model_with_parameters_copies():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self):
            pyro.sample("z", dist.Normal(0.0, self.scale.exp()))

    guide = ran(Model())
    assert len(list(guide.parameters())) == len(list(deepcopy(guide).parameters()))


def test_a_pickle_holds_no_data():
    guide = AutoFlow(constrained, small)
    guide(torch.full((4,), 12345.0))
    assert all(node["type"] == "sample" for node in guide.prototype_trace.nodes.values())


def test_weights_load_into_a_fresh_guide():
    guide, value = shaken(ran()), torch.randn(SIZE)
    fresh = AutoFlow(constrained, small)
    fresh.load_state_dict(guide.state_dict())
    assert torch.equal(log_density(fresh, value), log_density(guide, value))
    fresh()
    assert torch.equal(log_density(fresh, value), log_density(guide, value)), "a first call must not begin anew"


def test_weights_of_another_model_are_refused():
    fresh = AutoFlow(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), small)
    fresh.load_state_dict(ran().state_dict())
    with pytest.raises(ValueError, match="must have 15 latent elements, as the loaded flow has, got 1"):
        fresh()


# NeuTra


def test_neutra_is_a_change_of_variables():
    """The density in noise is the model's, times the Jacobian of the flow and of the supports."""
    guide = shaken(ran())
    neutra = NeuTraReparam(guide)
    trace = pyro.poutine.trace(neutra.reparam(constrained)).get_trace()
    noise = next(node["value"] for name, node in trace.nodes.items() if name.endswith("_shared_latent"))
    values = {name: trace.nodes[name]["value"] for name in SHAPES}

    plain = pyro.poutine.trace(pyro.poutine.condition(constrained, values)).get_trace()
    latent, log_det = guide.get_transform().forward_and_log_det(noise)
    expected = plain.log_prob_sum() + log_det
    for site, unconstrained in guide._unpack_latent(latent):
        support = torch.distributions.biject_to(site["fn"].support)
        expected = expected + support.log_abs_det_jacobian(unconstrained, values[site["name"]]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_the_transform_and_the_posterior_agree():
    guide = shaken(ran())
    transform = guide.get_transform()
    noise = guide.get_base_dist().sample((5,))
    value = transform(noise)
    remembered = transform.log_abs_det_jacobian(noise, value)
    assert torch.equal(remembered, transform.log_abs_det_jacobian(noise.clone(), value))
    score = guide.get_base_dist().log_prob(noise) - remembered
    torch.testing.assert_close(guide.get_posterior().log_prob(value), score, rtol=1e-4, atol=1e-4)


def test_the_transform_forgets_what_changed():
    guide = shaken(ran())
    transform = guide.get_transform()
    noise = torch.zeros(SIZE)
    value = transform(noise)
    noise += 1.0
    torch.testing.assert_close(
        transform.log_abs_det_jacobian(noise, value), guide.get_transform().log_abs_det_jacobian(noise, value)
    )
    with torch.no_grad():
        value = transform(noise)
    assert transform.log_abs_det_jacobian(noise, value).requires_grad


# Truth


@pytest.mark.parametrize("name", ["affine_coupling", "affine_autoregressive"])
def test_a_correlated_gaussian_posterior(name):
    """Mean, covariance and evidence against the closed form."""
    generator = torch.Generator().manual_seed(3)
    design = torch.randn(12, 3, generator=generator)
    design[:, 1] += 2 * design[:, 0]  # columns alike, so that coefficients are correlated
    y = design @ torch.tensor([1.0, -1.0, 2.0]) + 0.5 * torch.randn(12, generator=generator)

    def model():
        weights = pyro.sample("weights", dist.Normal(torch.zeros(3), 2.0).to_event(1))
        pyro.sample("y", dist.Normal(weights @ design.T, 0.5).to_event(1), obs=y)

    precision = torch.eye(3) / 4 + design.T @ design / 0.25
    covariance = precision.inverse()
    mean = covariance @ design.T @ y / 0.25
    evidence = dist.MultivariateNormal(torch.zeros(12), 4 * design @ design.T + 0.25 * torch.eye(12)).log_prob(y)
    assert (covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()).abs() > 0.7

    guide = AutoFlow(model, partial(RECIPES[name], hidden=(16,)), init_scale=0.1)
    elbo = Trace_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=0)(model, guide)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=800)
    pg.fit(elbo, (), steps=800, optimizer=partial(torch.optim.Adam, lr=2e-2), schedule=schedule, seed=0)

    count = 20_000
    draws = guide.get_posterior().sample((count,))
    # Monte Carlo error of means and covariances (5 standard errors), and as much again for the fit.
    scale = covariance.diagonal().sqrt()
    assert ((draws.mean(0) - mean).abs() / scale < 10 / math.sqrt(count)).all()
    error = (draws.T.cov() - covariance) / (scale[:, None] * scale)
    assert (error.abs() < 10 * math.sqrt(2 / count)).all()

    ratio = log_ratio(model, guide, count)
    # The weights average to the evidence exactly, whatever the guide; the ELBO reaches it as far as training does.
    average = ratio.logsumexp(0) - math.log(count)
    assert (average - evidence).abs() < 5 * (ratio - evidence).exp().std() / math.sqrt(count)
    assert -5 * ratio.std() / math.sqrt(count) < evidence - ratio.mean() < 0.03


def log_ratio(model, guide, count):
    """Log-ratios of model and guide at draws of the guide; their mean is the ELBO."""
    with torch.no_grad():
        weigh = pyro.infer.importance.vectorized_importance_weights
        return weigh(model, guide, num_samples=count, max_plate_nesting=0)[0]


def test_a_support_that_moves_with_another_latent_is_refused_by_name():
    def model(share=False):
        a = pyro.sample("a", dist.Gamma(5.0, 1.0))
        b = a * pyro.sample("b", dist.Uniform(0.0, 1.0)) if share else pyro.sample("b", dist.Uniform(0.0, a))
        pyro.sample("y", dist.Normal(b, 0.5), obs=torch.tensor(2.0))

    with pytest.raises(ValueError, match="site 'b'.*fixed support"):
        AutoFlow(model, small)()
    assert set(AutoFlow(model, small)(True)) == {"a", "b"}


def test_a_flow_on_an_interval_may_move_no_further_than_its_arguments_say():
    """Ends for each element, fixed and from another latent."""

    def model(moves):
        a = pyro.sample("a", dist.Uniform(0.0, 1.0))
        between = Interval(a.expand(2) if moves else torch.zeros(2), torch.tensor([5.0, 9.0]), event_dim=1)
        pyro.sample("x", TransformedDistribution(dist.Normal(torch.zeros(2), 1.0).to_event(1), [between]))

    assert AutoFlow(model, small)(False)["x"].shape == (2,)
    with pytest.raises(ValueError, match="site 'x'"):
        AutoFlow(model, small)(True)


def test_an_overflow_names_its_site():
    def model():
        pyro.sample("calm", dist.Normal(0.0, 1.0))
        pyro.sample("wild", dist.Gamma(2.0, 3.0))

    guide = AutoFlow(model, small)
    guide()
    with torch.no_grad():
        guide.flow.bijections[-1].loc[1] = 1e4
    with pytest.raises(FloatingPointError, match="site 'wild' is not finite"):
        guide()
