"""Every family where Pyro's own tools meet it: inspection, keyword contexts, and chains that refuse noise."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import HMC, MCMC, NUTS, SVI, Importance, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.inspect import get_dependencies, get_model_relations
from torch import nn

import pyrogen as pg
from pyrogen import autoregressive, diffusion, flows, latent
from pyrogen.distributions.incomplete import Incomplete
from pyrogen.numerics.trace import Hutchinson
from pyrogen.testing.subject import perturb

SMALL = {"layers": 2, "hidden": (8,)}
TOKENS = {"symbols": 3, "width": 8, "depth": 1, "heads": 2}
FAMILIES = {
    "parametric": lambda c: pg.Parametric(Network(c), pg.families.diagonal_normal, event_shape=(2,), context_shape=c),
    "affine coupling": lambda c: flows.affine_coupling((2,), c, **SMALL),
    "wide coupling": lambda c: flows.spline_coupling((2,), c, layers=1, hidden=(96, 96)),
    "spline coupling": lambda c: flows.spline_coupling((2,), c, **SMALL),
    "interval": lambda c: flows.affine_coupling((2,), c, interval=(0.0, 1.0), **SMALL),
    "affine autoregressive": lambda c: flows.affine_autoregressive((2,), c, **SMALL),
    "spline autoregressive": lambda c: flows.spline_autoregressive((2,), c, **SMALL),
    "neural autoregressive": lambda c: flows.neural_autoregressive((2,), c, layers=1),
    "continuous": lambda c: flows.continuous((2,), c, hidden=(8,)),
    "dequantized": lambda c: flows.Dequantized(flows.spline_coupling((2,), c, interval=(0.0, 1.0), **SMALL), 4),
    "vae": lambda c: latent.vae((2,), c, latent_shape=(1,), hidden=(8,)),
    "binary vae": lambda c: latent.binary_vae((2,), c, latent_shape=(1,), hidden=(8,)),
    "made": lambda c: autoregressive.made((3,), c),
    "transformer": lambda c: autoregressive.transformer((4,), c, **TOKENS),
    "any order": lambda c: autoregressive.any_order((4,), c, **TOKENS),
    "pixel cnn": lambda c: autoregressive.pixel_cnn((1, 4, 4), c),
    "wavenet": lambda c: autoregressive.wavenet((4,), c),
    "diffusion": lambda c: diffusion.mlp((2,), c, width=8, depth=1),
    "diffusion of levels": lambda c: diffusion.mlp((2,), c, width=8, depth=1, symbols=4),
    "probability flow": lambda c: diffusion.ProbabilityFlow(diffusion.mlp((2,), c, width=8, depth=1).denoiser),
}


class Network(nn.Module):
    """Four numbers, of a context or learned."""

    def __init__(self, context_shape):
        super().__init__()
        self.line = nn.Linear(1 if context_shape is None else context_shape[0], 4)

    def forward(self, context=None):
        return self.line(torch.ones(1) if context is None else context)


@pytest.fixture(autouse=True)
def _seeded():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


def at_a_site(module, conditional):
    """A program in which a latent site is the module's, its context a site before, and a measurement one after."""

    def program():
        context = pyro.sample("c", dist.Normal(torch.zeros(3), 1.0).to_event(1)) if conditional else None
        x = pyro.sample("x", module(context))
        pyro.sample("y", dist.Normal(x.float().sum(), 1.0), obs=torch.tensor(0.0))

    return program


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_relations_are_found(family, conditional):
    module = FAMILIES[family]((3,) if conditional else None).eval()
    program = at_a_site(module, conditional)
    relations = get_model_relations(program)
    expected = {"c": []} if conditional else {}
    expected |= {"x": list(expected), "y": ["x"]}
    assert relations["sample_sample"] == expected
    assert relations["observed"] == ["y"]
    found = get_dependencies(program)["prior_dependencies"]
    assert {site: set(before) for site, before in found.items()} == {s: {s, *b} for s, b in expected.items()}


def test_a_flow_is_named_in_relations():
    module = flows.affine_coupling((2,), **SMALL)
    assert get_model_relations(at_a_site(module, False))["sample_dist"]["x"] == "TransformedDistribution"
    assert get_model_relations(at_a_site(module.eval(), False), ())["plate_sample"] == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_views_take_a_context_by_keyword(family):
    module, context = FAMILIES[family]((3,)), torch.randn(4, 3)
    with torch.no_grad():
        x = module(context).sample()
    model, guide = module.model, module.guide
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    assert svi.step(x, context=context) < float("inf")
    assert torch.isfinite(Trace_ELBO()(model, guide)(x, context=context))
    drawn = Predictive(model, num_samples=2)(context=context)["x"]
    assert drawn.shape == (2, *x.shape)
    trace = poutine.trace(poutine.scale(poutine.condition(model, data={"x": x}), scale=2.0)).get_trace(context=context)
    assert trace.nodes["x"]["is_observed"]
    run = Importance(model, guide=guide, num_samples=2).run(x, context=context)
    assert len(run.log_weights) == 2


def test_a_model_of_ones_own_takes_a_context_by_keyword():
    module = flows.affine_coupling((2,), (3,), **SMALL).requires_grad_(False)

    def model(context, fn=None):
        pyro.sample("x", module(context))

    mcmc = MCMC(NUTS(model, max_tree_depth=2), num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(context=torch.zeros(3))
    assert mcmc.get_samples()["x"].shape == (2, 2)
    assert poutine.block(model)(context=torch.zeros(3), fn=1) is None


def test_a_copy_in_another_process_takes_a_context_by_keyword():
    from pyro.poutine.messenger import _context_wrap

    stored, before = pickle.dumps(flows.affine_coupling((2,), (3,), **SMALL)), _context_wrap.__code__
    _context_wrap.__code__ = before.replace(co_posonlyargcount=0)  # as in a process without our modules
    with pytest.raises(TypeError, match="multiple values"):
        poutine.block(lambda context: context)(context=1)
    pickle.loads(stored)
    assert poutine.block(lambda context: context)(context=1) == 1


def pair():
    vae = latent.vae((2,), latent_shape=(1,), hidden=(8,))
    return latent.Marginal(vae.model, vae.guide, event_shape=(2,), draws=3)


class MissingByValue(pg.DistributionModule):
    """Entries that go missing by their own values."""

    density = "lower bound"

    def forward(self, context=None):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        return Incomplete(base, lambda x: dist.Bernoulli(logits=x).to_event(1))


def hutchinson(**options):
    return diffusion.ProbabilityFlow(diffusion.mlp((2,), width=8, depth=1).denoiser, trace=Hutchinson(**options))


NOISY = {
    "diffusion": (lambda: diffusion.mlp((2,), width=8, depth=1), "ProbabilityFlow"),
    "diffusion of levels": (lambda: diffusion.mlp((2,), width=8, depth=1, symbols=4), "ProbabilityFlow"),
    "vae": (lambda: latent.vae((2,), latent_shape=(1,), hidden=(8,)), "prior_at"),
    "mixture vae": (lambda: latent.mixture_vae((2,), classes=2, latent_shape=(1,), hidden=(8,)), "sites of their own"),
    "marginal": (pair, "sites of its model"),
    "any order": (lambda: autoregressive.any_order((4,), **TOKENS), "along"),
    "dequantized": (lambda: FAMILIES["dequantized"](None), "add the noise"),
    "missing by value": (lambda: MissingByValue((2,)), "missing entries"),
    "hutchinson": (lambda: hutchinson(), "ExactTrace"),
}


def scored(module, x):
    """A program with a continuous latent site, in which the module scores a given value."""

    def program():
        pyro.sample("theta", dist.Normal(0.0, 1.0))
        pyro.sample("label", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("x", module(), obs=x)

    return program


def observed(module):
    with torch.no_grad():
        x = module().sample()
    return x if not isinstance(module, MissingByValue) else torch.tensor([0.3, torch.nan])


@pytest.mark.parametrize("kernel", [NUTS, HMC])
@pytest.mark.parametrize("name", NOISY)
def test_a_chain_refuses_a_noisy_log_prob(name, kernel):
    make, instead = NOISY[name]
    module = make().requires_grad_(False)
    mcmc = MCMC(kernel(scored(module, observed(module))), num_samples=2, warmup_steps=2, disable_progbar=True)
    with pytest.raises(NotImplementedError, match=f"fresh noise.*Markov chain.*{instead}"):
        mcmc.run()


def test_a_chain_refuses_a_noisy_latent_site_and_one_made_outside_the_model():
    module = diffusion.mlp((2,), width=8, depth=1).requires_grad_(False)
    made = module()
    for program in (lambda: pyro.sample("x", module()), lambda: pyro.sample("x", made)):
        with pytest.raises(NotImplementedError, match="ProbabilityFlow"):
            MCMC(NUTS(program), num_samples=2, warmup_steps=2, disable_progbar=True).run()


@pytest.mark.parametrize("name", NOISY)
def test_nothing_else_refuses_it(name):
    module = NOISY[name][0]()
    program = scored(module, observed(module))
    guide = pyro.infer.autoguide.AutoNormal(poutine.block(program, hide=["x", "label"]))
    SVI(program, guide, pyro.optim.Adam({"lr": 1e-3}), TraceEnum_ELBO(max_plate_nesting=0)).step()
    seen = poutine.condition(program, data={"label": torch.tensor(1.0)})
    SVI(seen, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step()
    Predictive(program, num_samples=2)()
    Importance(seen, guide, num_samples=2).run()


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusion.Diffusion(diffusion.mlp((2,), width=8, depth=1).denoiser, noise_seed=0),
        lambda: hutchinson(noise_seed=0),
        lambda: diffusion.ProbabilityFlow(diffusion.mlp((2,), width=8, depth=1).denoiser),
    ],
)
def test_a_chain_runs_where_no_noise_is_fresh(make):
    module = make().requires_grad_(False)
    kernel = NUTS(lambda: pyro.sample("x", module()), max_tree_depth=1)
    mcmc = MCMC(kernel, num_samples=1, warmup_steps=1, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples()["x"].shape == (1, 2)


class Forgetful(pg.DistributionModule):
    """Says what its distributions' log_prob means; they do not."""

    def __init__(self, density):
        super().__init__((2,), (2,))
        self.density = density
        self.shared = dist.Normal(torch.zeros(3, 2), torch.ones(3, 2)).to_event(1)

    def forward(self, context=None):
        return self.shared


@pytest.mark.parametrize("density", ["estimate", "lower bound", "unnormalized", None])
def test_a_distribution_carries_what_its_module_says(density):
    module = Forgetful(density)
    found = module(torch.zeros(3, 2))
    assert pg.density_of(module.shared) == "exact"
    twins = {
        "itself": found,
        "expanded": found.expand((4, 3)),
        "twice expanded": found.expand((4, 3)).expand((5, 4, 3)),
        "by": found.expand_by((2,)),
        "event": found.to_event(1),
        "masked": found.mask(torch.tensor([True, False, True])),
        "independent": dist.Independent(found, 1),
        "transformed": dist.TransformedDistribution(found, [dist.transforms.ExpTransform()]),
        "copied": copy.copy(found),
        "deeply": copy.deepcopy(found).expand((2, 3)),
        "pickled": pickle.loads(pickle.dumps(found)).expand((2, 3)),
    }
    assert {name: pg.density_of(twin) for name, twin in twins.items()} == dict.fromkeys(twins, density)
    assert isinstance(found, dist.Independent)
    assert type(found).__name__ == "Independent"
    x = torch.randn(3, 2)
    assert torch.equal(found.log_prob(x), module.shared.log_prob(x))
    assert torch.equal(pickle.loads(pickle.dumps(found)).log_prob(x), module.shared.log_prob(x))


def test_an_exact_module_does_not_make_its_distributions_exact():
    class Claiming(Forgetful):
        def forward(self, context=None):
            return Forgetful("lower bound")(context)

    assert pg.density_of(Claiming("exact")(torch.zeros(3, 2))) == "lower bound"
    assert pg.density_of(Claiming("estimate")(torch.zeros(3, 2))) == "lower bound"


def test_a_stamp_reaches_sites():
    module = Forgetful("unnormalized")
    with pyro.plate("data", 3):
        trace = poutine.trace(lambda: pyro.sample("x", module(torch.zeros(3, 2)))).get_trace()
    assert pg.density_of(trace.nodes["x"]["fn"]) == "unnormalized"


@pytest.mark.parametrize("value", ["x", 3, None, torch.zeros(2)])
def test_what_is_no_distribution_has_no_density(value):
    with pytest.raises(TypeError, match="`distribution` must be a distribution"):
        pg.density_of(value)


def test_a_density_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="`density` must be one of 'exact'.*got 'bound'"):
        Forgetful("bound")(torch.zeros(3, 2))


class Program(nn.Module):
    def __init__(self, site):
        super().__init__()
        self.site = site

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.site(x))
            if isinstance(self, Observing):
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Observing(Program):
    pass


def test_an_elbo_refuses_what_has_no_meaning_in_it():
    x, exact = torch.randn(3, 2), Forgetful("exact")
    for density in ("unnormalized", None):
        for model, guide, part in ((Forgetful(density), exact, "model"), (exact, Forgetful(density), "guide")):
            with pytest.raises(NotImplementedError, match=f"site 'z' of `{part}` has density"):
                pg.Elbo(Observing(model), Program(guide))(x)
    with pytest.raises(NotImplementedError, match="site 'z' of `guide` has density 'lower bound'"):
        pg.Elbo(Observing(exact), Program(Forgetful("lower bound")))(x)
    for density in ("exact", "estimate", "lower bound"):
        assert pg.Elbo(Observing(Forgetful(density)), Program(exact))(x).isfinite()


def test_views_and_likelihood_refuse_an_energy():
    with pytest.raises(NotImplementedError, match="Forgetful has density 'unnormalized'"):
        _ = Forgetful("unnormalized").guide

    class Late(Forgetful):
        """Its distributions say what it forgot to say."""

        def forward(self, context=None):
            return Forgetful("unnormalized")(context)

    with pytest.raises(NotImplementedError, match="Late has density 'unnormalized'"), pyro.validation_enabled():
        pg.MaximumLikelihood(Late("exact"))(torch.randn(3, 2), torch.zeros(3, 2))


MAPPED = [name for name in NOISY if name != "missing by value"]  # torch's own normals are drawn alike for all rows


@pytest.mark.parametrize("name", MAPPED)
def test_noisy_scores_map_over_rows(name):
    module = NOISY[name][0]().eval()
    perturb(module)  # what begins as its reference scores without noise
    module.requires_grad_(False)
    x = observed(module).expand(6, *module.event_shape).clone()
    for randomness in ("same", "different"):
        scores = torch.vmap(lambda value: module().log_prob(value), randomness=randomness)(x)
        assert scores.isfinite().all()
        assert torch.allclose(scores, scores[0].expand(6), atol=1e-5) == (randomness == "same")
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(lambda value: module().log_prob(value))(x)
    if x.is_floating_point():
        slope = torch.func.grad(lambda value: module().log_prob(value))
        assert torch.vmap(slope, randomness="different")(x).isfinite().all()


def test_frozen_noise_is_the_same_under_every_map():
    x = torch.randn(4, 2)
    module = diffusion.Diffusion(diffusion.mlp((2,), width=8, depth=1).denoiser, noise_seed=3)
    expected = module().log_prob(x)
    for randomness in ("error", "same", "different"):
        assert torch.allclose(torch.vmap(lambda value: module().log_prob(value), randomness=randomness)(x), expected)
    parts = latent.vae((2,), latent_shape=(1,), hidden=(8,))
    module = latent.VAE(parts.prior, parts.likelihood, parts.posterior, noise_seed=3, draws=5)
    found = torch.vmap(lambda value: module().log_prob(value), randomness="same")(x)
    assert torch.allclose(found, module().log_prob(x), atol=1e-5)
    with pytest.raises(ValueError, match='`randomness` must be "same"'):
        torch.vmap(lambda value: module().log_prob(value), randomness="different")(x)
