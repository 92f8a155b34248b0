"""A module as a Pyro model: training under SVI, views, plates, names."""

import copy
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    SVI,
    Predictive,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from pyro.poutine import trace
from small_programs import Gaussian, Guide, Implicit, Latent, Model, decoder, encoder, same, weights
from torch import nn

import pyrogen as pg
from pyrogen.core.module import data_plate

ELBOS = {
    "trace": lambda: Trace_ELBO(),
    "mean field": lambda: TraceMeanField_ELBO(),
    "renyi": lambda: RenyiELBO(num_particles=3, vectorize_particles=True),
    "enum": lambda: TraceEnum_ELBO(max_plate_nesting=1),
    "graph": lambda: TraceGraph_ELBO(),
    "wake-sleep": lambda: ReweightedWakeSleep(num_particles=2, vectorize_particles=True),
}


def train(model, guide, elbo, x, steps=60):
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reweighted wake-sleep warns of its own internals
        for _ in range(steps):
            svi.step(x)


def twin(module, how):
    return {
        "original": lambda: module,
        "deepcopy": lambda: copy.deepcopy(module),
        "pickle": lambda: pickle.loads(pickle.dumps(module)),
    }[how]()


@pytest.mark.parametrize("elbo", ELBOS)
def test_every_elbo_trains_originals_and_copies(elbo):
    x = torch.randn(64, 2) + 3
    model, guide = Model(Gaussian(), decoder()), Guide(encoder())
    for how in ("original", "deepcopy", "pickle"):
        own_model, own_guide = twin(model, how), twin(guide, how)
        before = {**weights(own_model), **{f"guide.{name}": value for name, value in weights(own_guide).items()}}
        train(own_model, own_guide, ELBOS[elbo](), x, steps=20)
        after = {**weights(own_model), **{f"guide.{name}": value for name, value in weights(own_guide).items()}}
        still = [name for name in before if torch.equal(before[name], after[name])]
        assert not still, f"{how}: {still} did not move"


@pytest.mark.parametrize("how", ["original", "deepcopy", "pickle"])
def test_svi_fits_the_views_to_the_closed_form(how):
    x = torch.randn(500, 2) * torch.tensor([2.0, 0.5]) + torch.tensor([1.0, -1.0])
    module = twin(Gaussian(), how)
    train(module.model, module.guide, Trace_ELBO(), x, steps=400)
    assert torch.allclose(module.loc, x.mean(0), atol=1e-2)
    assert torch.allclose(module.log_scale.exp(), x.std(0, unbiased=False), rtol=1e-2)


def test_a_copy_trains_apart_from_its_original():
    x = torch.randn(64, 2) + 3
    module = Gaussian()
    train(module.model, module.guide, Trace_ELBO(), x, steps=5)
    after = weights(module)
    other = copy.deepcopy(module)
    train(other.model, other.guide, Trace_ELBO(), x, steps=5)
    assert same(weights(module), after)
    assert not same(weights(other), after)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_an_original_and_its_copy_train_in_one_program(how):
    first = Gaussian()
    second = twin(first, how)

    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("first", first(), obs=x)
            pyro.sample("second", second(), obs=-x)

    train(program, lambda x: None, Trace_ELBO(), torch.randn(64, 2) + 3, steps=10)
    assert (first.loc > 0).all()
    assert (second.loc < 0).all()


def test_nested_modules_train_every_parameter_once():
    x = torch.randn(64, 2) + 3
    vae = Latent(pg.flows.affine_coupling((2,), layers=2, hidden=(8,)), decoder(), encoder())
    with torch.no_grad():
        vae().log_prob(x)
        vae.prior().log_prob(x)  # data-dependent initialisation, before copies are made
    by_hand = copy.deepcopy(vae)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-2)
    for step in range(5):
        torch.manual_seed(step)
        svi.step(x)
        torch.manual_seed(step)
        optimizer.zero_grad()
        (-by_hand().log_prob(x).sum()).backward()
        optimizer.step()
    for name, value in by_hand.named_parameters():
        assert torch.allclose(vae.get_parameter(name), value, atol=1e-5), name


def test_a_pyro_module_may_hold_a_distribution_module():
    class Program(PyroModule):
        def __init__(self):
            super().__init__()
            self.prior = Gaussian()
            self.likelihood = decoder()

        forward = Model.forward

    x = torch.randn(64, 2) + 3
    program, guide = Program(), Guide(encoder())
    before = weights(program)
    train(program, guide, Trace_ELBO(), x, steps=5)
    after = weights(program)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_frozen_parameters_stay_frozen_and_silent_under_svi():
    module = Gaussian()
    module.log_scale.requires_grad_(False)
    svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    svi.step(torch.randn(8, 2))  # Pyro's own registration would warn here
    assert not module.log_scale.requires_grad
    assert torch.equal(module.log_scale, torch.zeros(2))
    assert not torch.equal(module.loc, torch.zeros(2))


def test_a_parameter_put_in_place_of_another_is_trained():
    module = Gaussian()
    svi = SVI(module.model, module.guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    svi.step(torch.randn(8, 2))
    module.loc = nn.Parameter(torch.ones(2))
    svi.step(torch.randn(8, 2))
    assert not torch.equal(module.loc, torch.ones(2))


def test_the_param_store_stays_empty_outside_svi():
    module, x = Gaussian(), torch.randn(8, 2)
    module().log_prob(x)
    trace(module.model).get_trace(x)
    Trace_ELBO()(module.model, module.guide)(x)
    Predictive(module.model, num_samples=2)()
    pg.fit(module, x, steps=1)
    assert len(pyro.get_param_store()) == 0


def test_elbo_module_finds_the_parameters_of_the_views_once():
    module = Gaussian()
    parameters = list(Trace_ELBO()(module.model, module.guide).parameters())
    assert {id(p) for p in parameters} == {id(p) for p in module.parameters()}
    assert len(parameters) == 2


def test_size_scales_as_a_plate_does():
    module, x = Gaussian(), torch.randn(10, 2)

    def reference(x):
        with pyro.plate("data", 1000, subsample=torch.arange(10)):
            pyro.sample("x", module(), obs=x)

    scaled = Trace_ELBO().loss(module.model, module.guide, x, None, 1000)
    assert scaled == pytest.approx(Trace_ELBO().loss(reference, lambda x: None, x), rel=1e-6)
    assert scaled == pytest.approx(-100 * module().log_prob(x).sum().item(), rel=1e-5)
    assert Trace_ELBO().loss(module.model, module.guide, x, None, 10) == pytest.approx(scaled / 100, rel=1e-5)


def test_views_refuse_what_has_no_plate():
    module = Gaussian()
    with pytest.raises(ValueError, match="`size` must be at least the 10 rows"):
        module.model(torch.randn(10, 2), size=9)
    with pytest.raises(ValueError, match="one batch dimension"):
        module.model(torch.randn(3, 10, 2))
    for size in (None, 10):
        with pytest.raises(ValueError, match="`x` and `context` must have at least one row"):
            module.model(torch.randn(0, 2), size=size)
    with pytest.raises(ValueError, match=r"`x` must end in shape \(2,\), got \(10, 3\)"):
        module.model(torch.randn(10, 3))
    with pytest.raises(NotImplementedError, match="Implicit has no log_prob.*objective"):
        Implicit().guide  # noqa: B018


def test_a_single_datum_needs_no_plate():
    module = Gaussian()
    recorded = trace(module.model).get_trace(torch.zeros(2))
    assert recorded.stochastic_nodes == []
    assert recorded.observation_nodes == ["x"]
    with data_plate(module, torch.zeros(2), None, None) as plate:
        assert plate is None


def test_predictive_draws_from_the_model():
    module = encoder(data=3)
    context = torch.randn(7, 3)
    draws = Predictive(module.model, num_samples=2000)(None, context)["x"]
    assert draws.shape == (2000, 7, 2)
    distribution = module(context)
    error = distribution.stddev / 2000**0.5
    assert ((draws.mean(0) - distribution.mean).abs() < 5 * error).all()
    plain = Gaussian()
    assert Predictive(plain.model, num_samples=4)()["x"].shape == (4, 2)
    assert Predictive(plain.model, num_samples=4)(None, None, 5)["x"].shape == (4, 5, 2)


def test_conditioning_and_masking_a_view():
    module, x = Gaussian(), torch.randn(6, 2)
    conditioned = pyro.condition(module.model, data={"x": x})
    recorded = trace(conditioned).get_trace(None, None, 6)
    assert recorded.log_prob_sum().item() == pytest.approx(module().log_prob(x).sum().item(), rel=1e-5)
    mask = torch.tensor([True, False, True, True, False, True])
    masked = trace(pyro.poutine.mask(module.model, mask=mask)).get_trace(x)
    assert masked.log_prob_sum().item() == pytest.approx(module().log_prob(x)[mask].sum().item(), rel=1e-5)


def test_contexts_are_checked_by_name():
    module = encoder(data=3)
    with pytest.raises(ValueError, match=r"`context` must end in shape \(3,\), got None"):
        module()
    with pytest.raises(ValueError, match=r"`context` must end in shape \(3,\), got \(5, 4\)"):
        module(torch.randn(5, 4))
    with pytest.raises(ValueError, match="must be None for a module without"):
        Gaussian()(torch.randn(5))
    several = pg.Parametric(Joined(), pg.families.normal(1.0), event_shape=(2,), context_shape={"a": (2,), "b": ()})
    with pytest.raises(ValueError, match=r"keys \['a', 'b'\], got \['a'\]"):
        several({"a": torch.zeros(2)})
    assert several({"a": torch.zeros(5, 1, 2), "b": torch.zeros(4)}).batch_shape == (5, 4)


class Joined(nn.Module):
    def forward(self, context):
        return context["a"] + context["b"].unsqueeze(-1)


def test_parametric_names_a_network_of_the_wrong_size():
    module = pg.Parametric(nn.Linear(3, 5), pg.families.diagonal_normal, event_shape=(2,), context_shape=(3,))
    with pytest.raises(ValueError, match=r"`network` must give 4 numbers a row.*got an output of shape \(6, 5\)"):
        module(torch.zeros(6, 3))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3), (0,)])
def test_parametric_takes_any_batch_shape(batch):
    module = pg.Parametric(nn.Linear(3, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(3,))
    distribution = module(torch.zeros(*batch, 3))
    assert distribution.batch_shape == batch
    assert distribution.event_shape == (2,)


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="`event_shape` must hold positive integers"):
        pg.Parametric(nn.Linear(1, 1), pg.families.diagonal_normal, event_shape=(2, -1))


@pytest.mark.parametrize("kind", [pg.DistributionModule, pg.BijectionModule])
def test_a_module_without_forward_cannot_be_constructed(kind):
    with pytest.raises(TypeError, match="abstract class .*forward"):
        kind((2,))


def test_pyro_can_give_priors_to_the_weights_of_a_module():
    module = pg.Parametric(nn.Linear(2, 4), pg.families.diagonal_normal, event_shape=(2,), context_shape=(2,))
    to_pyro_module_(module)
    module.network.weight = PyroSample(dist.Normal(0.0, 1.0).expand([4, 2]).to_event(2))
    assert module(torch.zeros(5, 2)).shape() == (5, 2)


def test_a_module_composes_at_a_site_of_a_program():
    prior = Gaussian()

    def program(y):
        z = pyro.sample("z", prior())
        pyro.sample("y", dist.Normal(z, 0.1).to_event(1), obs=y)

    guide = pyro.infer.autoguide.AutoNormal(program)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(300):
        svi.step(torch.tensor([2.0, 1.0]))
    assert torch.allclose(prior.loc, torch.tensor([2.0, 1.0]), atol=0.3)
