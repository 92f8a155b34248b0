"""Many chains against posteriors that are known: quadrature, closed forms, enumeration."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import init_to_uniform
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

import pyrogen as pg
from pyrogen.inverse import ManyChains, NoiseMCMC
from pyrogen.inverse.chain_diagnostics import chain_diagnostics
from pyrogen.inverse.latent_density import LatentDensity
from pyrogen.numerics.markov.compilation import compiled
from pyrogen.numerics.markov.convergence import effective_sample_size
from pyrogen.numerics.markov.sampling import AdaptiveHMC, UnadjustedLangevin
from pyrogen.numerics.markov.state import evaluate
from pyrogen.training.checkpoint import Checkpoint


def check_mean(draws: Tensor, expected: Tensor | float, *, errors: float = 4.5) -> None:
    """Of draws ``(chains, draws, *shape)``: as near as so many standard errors allow."""
    draws = draws.double()
    found = draws.mean((0, 1))
    error = draws.flatten(0, 1).std(0) / effective_sample_size(draws).sqrt()
    assert ((found - expected).abs() <= errors * error).all(), (found, expected, error)


def samples(posterior: ManyChains) -> dict[str, Tensor]:
    assert not posterior.diagnostics().collapsed, str(posterior.diagnostics())
    return posterior.get_samples(group_by_chain=True)


# Eight schools: given mu and tau, y_j is normal with variance s_j^2 + tau^2, and theta_j a precision-weighted mean.

EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@poutine.reparam(config={"theta": LocScaleReparam(0.0)})
def schools(y):
    mu = pyro.sample("mu", dist.Normal(0, 5))
    tau = pyro.sample("tau", dist.HalfCauchy(5))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, ERRORS), obs=y)


def schools_by_quadrature():
    mu = torch.linspace(-25, 30, 500, dtype=torch.double)[:, None]
    log_tau = torch.linspace(-7, 7, 1500, dtype=torch.double)
    tau = log_tau.exp()
    spread = (ERRORS.double() ** 2 + tau[:, None] ** 2).sqrt()
    log_p = (
        dist.Normal(0.0, 5.0).log_prob(mu)
        + dist.HalfCauchy(5.0).log_prob(tau)
        + log_tau
        + dist.Normal(mu[..., None], spread).log_prob(EFFECTS.double()).sum(-1)
    )
    weight = log_p.flatten().softmax(0).reshape(log_p.shape)
    share = tau[:, None] ** 2 / spread**2
    theta = (share * EFFECTS + (1 - share) * mu[..., None]) * weight[..., None]
    return {
        "mu": (weight * mu).sum(),
        "log tau": (weight * log_tau).sum(),
        "tau below 3": weight[:, tau < 3].sum(),
        "theta": theta.sum((0, 1)),
    }


@pytest.mark.slow
def test_eight_schools():
    exact = schools_by_quadrature()
    draws = samples(ManyChains(schools, seed=0, chains=32, draws=100, warmup=150).run(EFFECTS))
    check_mean(draws["mu"], exact["mu"])
    check_mean(draws["tau"].log(), exact["log tau"])
    check_mean((draws["tau"] < 3).double(), exact["tau below 3"])
    check_mean(draws["theta"], exact["theta"])


def funnel():
    v = pyro.sample("v", dist.Normal(0, 3))
    with pyro.plate("x_plate", 9):
        pyro.sample("x", dist.Normal(0.0, (v / 2).exp()))


@pytest.mark.slow
def test_the_centred_funnel_is_not_trusted_or_right():
    posterior = ManyChains(funnel, seed=0, chains=32, draws=100, warmup=100, kernel=AdaptiveHMC(most_steps=30)).run()
    if not posterior.diagnostics().collapsed:
        v = posterior.get_samples(group_by_chain=True)["v"]
        check_mean(v, 0.0)
        check_mean(v.square(), 9.0)


def test_the_reparameterized_funnel_is_right():
    model = poutine.reparam(funnel, config={"x": LocScaleReparam(0.0)})
    draws = samples(ManyChains(model, seed=0, draws=100, warmup=100).run())
    check_mean(draws["v"], 0.0)
    check_mean(draws["v"].square(), 9.0)
    check_mean((draws["x"].abs() < 1).double().mean(-1), _share_of_funnel_below_one())


def _share_of_funnel_below_one() -> float:
    v = torch.linspace(-24, 24, 4001, dtype=torch.double)
    weight = dist.Normal(0.0, 3.0).log_prob(v).softmax(0)
    return (weight * torch.special.erf((-v / 2).exp() / math.sqrt(2))).sum().item()


def constrained():
    pyro.sample("gamma", dist.Gamma(2.0, 3.0))
    pyro.sample("dirichlet", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    pyro.sample("factor", dist.LKJCholesky(3, 2.0))
    pyro.sample("beta", dist.Beta(2.0, 2.0))
    base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    pyro.sample("ordered", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()]))


@pytest.mark.slow
def test_constrained_supports():
    draws = samples(ManyChains(constrained, seed=0, chains=32, draws=100, warmup=150).run())
    check_mean(draws["gamma"], 2 / 3)
    check_mean(draws["gamma"].square(), 6 / 9)
    check_mean(draws["dirichlet"], torch.tensor([1.0, 2.0, 3.0]) / 6)
    check_mean(draws["dirichlet"].square(), torch.tensor([2.0, 6.0, 12.0]) / 42)
    correlation = draws["factor"] @ draws["factor"].mT
    alpha = 2.0 - 1 + 3 / 2  # (r + 1) / 2 is Beta(alpha, alpha)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        check_mean(correlation[..., i, j], 0.0)
        check_mean(correlation[..., i, j].square(), 1 / (2 * alpha + 1))
    check_mean(draws["beta"].square(), 0.05 + 0.25)
    check_mean(draws["ordered"], torch.tensor([0.0, math.exp(0.5)]))
    assert (draws["ordered"].diff(dim=-1) > 0).all()
    torch.testing.assert_close(draws["dirichlet"].sum(-1), torch.ones(32, 100))


def two_modes(y):
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    pyro.factor("modes", torch.logaddexp(-((x - 6) ** 2).sum() / 2, -((x + 6) ** 2).sum() / 2))


def test_one_chain_of_many_in_a_mode_of_its_own_is_reported():
    start = {"x": torch.full((64, 2), -6.0)}
    start["x"][0] = 6.0
    diagnostics = ManyChains(two_modes, seed=0, chains=64, draws=40, warmup=60, initial=start).run(None).diagnostics()
    assert diagnostics.largest_r_hat < 1.1
    assert diagnostics.largest_local_r_hat > 1.5
    assert diagnostics.collapsed
    assert "stay where others never come" in str(diagnostics)


def test_a_chain_that_never_moved_is_reported():
    draws = torch.randn(64, 100)
    assert not chain_diagnostics({"x": draws}, divergences=0, acceptance=0.8).collapsed
    draws[3] = 0.1
    diagnostics = chain_diagnostics({"x": draws}, divergences=0, acceptance=0.8)
    assert diagnostics.collapsed
    assert "1 of 64 chains never moved" in str(diagnostics)


def test_modes_that_lie_apart_are_reported():
    posterior = ManyChains(two_modes, seed=0, chains=16, draws=60, warmup=60).run(None)
    diagnostics = posterior.diagnostics()
    assert diagnostics.contradicted
    assert diagnostics.collapsed
    assert "the chains have not mixed" in str(diagnostics)
    assert diagnostics.divergences == 0
    assert pg.analysis.to_arviz(posterior, None).posterior.attrs["collapsed"] == 1


# A mixture with few data, over whose assignments and location one can sum by brute force.

POINTS = torch.tensor([-1.0, 0.4, 2.5, 3.0])


def labelled(y):
    """Two clusters, written for batches."""
    weight = pyro.sample("weight", dist.Beta(1.0, 2.0))
    shift = pyro.sample("shift", dist.Normal(0.0, 2.0))
    far = pyro.sample("far", dist.Bernoulli(0.3))
    with pyro.plate("data", len(y)):
        label = pyro.sample("label", dist.Bernoulli(weight))
        pyro.sample("y", dist.Normal(shift + label * (2 + far), 1.0), obs=y)


def unbatched(y):
    """The same, for single chains: a location is chosen by its number."""
    weight = pyro.sample("weight", dist.Beta(1.0, 2.0))
    shift = pyro.sample("shift", dist.Normal(0.0, 2.0))
    far = pyro.sample("far", dist.Bernoulli(0.3))
    places = torch.stack([shift.reshape(()), shift.reshape(()) + 2])
    with pyro.plate("data", len(y)):
        label = pyro.sample("label", dist.Categorical(torch.stack([1 - weight, weight])))
        pyro.sample("y", dist.Normal(places[label] + label * far, 1.0), obs=y)


def labels_by_brute_force():
    weight = torch.linspace(0.0005, 0.9995, 400, dtype=torch.double)[:, None, None, None]
    shift = torch.linspace(-8, 8, 400, dtype=torch.double)[:, None, None]
    far = torch.tensor([0.0, 1.0], dtype=torch.double)[:, None]
    y = POINTS.double()
    prior = (
        dist.Beta(1.0, 2.0).log_prob(weight)
        + dist.Normal(0.0, 2.0).log_prob(shift)
        + torch.tensor([0.7, 0.3]).log()[:, None]
    )
    off = (1 - weight).log() + dist.Normal(shift, 1.0).log_prob(y)
    on = weight.log() + dist.Normal(shift + 2 + far, 1.0).log_prob(y)
    log_p = prior.squeeze(-1) + torch.logaddexp(off, on).sum(-1)
    p = log_p.flatten().softmax(0).reshape(log_p.shape)
    return {
        "weight": (p * weight.squeeze(-1)).sum(),
        "shift": (p * shift.squeeze(-1)).sum(),
        "far": p[..., 1].sum(),
        "label": (p[..., None] * (on - off).sigmoid()).sum((0, 1, 2)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", [labelled, unbatched])
def test_discrete_sites_are_summed_out_and_drawn(model):
    exact = labels_by_brute_force()
    draws = samples(ManyChains(model, seed=0, chains=32, draws=40, warmup=150).run(POINTS))
    assert draws["label"].shape == (32, 40, 4)
    for name in ("weight", "shift", "far", "label"):
        check_mean(draws[name], exact[name])


def hidden_markov(y):
    stay = pyro.sample("stay", dist.Beta(8.0, 2.0))
    state = torch.tensor(0)
    for step in pyro.markov(range(len(y))):
        odds = torch.stack([stay, 1 - stay], -1)
        chance = torch.where((state == 0).unsqueeze(-1), odds, odds.flip(-1))
        state = pyro.sample(f"state_{step}", dist.Categorical(chance))
        pyro.sample(f"y_{step}", dist.Normal(2.0 * state, 1.0), obs=y[step])


def test_the_density_is_that_of_a_single_run_in_every_way():
    y = torch.tensor([0.1, 1.7, 2.2, 0.3, -1.0])
    for model, data in (
        (labelled, POINTS),
        (unbatched, POINTS),
        (hidden_markov, y),
        (schools, EFFECTS),
        (constrained, None),
    ):
        density = LatentDensity(model, () if data is None else (data,), {}, init_to_uniform)
        x = density.initial(5)
        expected = torch.stack([_by_pyro(model, data, density, row) for row in x])
        with pyro.validation_enabled(False):
            for way in (density._parts, density._mapped, density._one_by_one):
                torch.testing.assert_close(way(x).sum(-1), expected, rtol=1e-4, atol=1e-4)
    assert LatentDensity(labelled, (POINTS,), {}).discrete == ["far", "label"]


def _by_pyro(model, data, density, row) -> Tensor:
    from pyro.infer.mcmc.util import initialize_model

    _, potential, _, _ = initialize_model(model, () if data is None else (data,))
    return -potential(density._free(row)).reshape(())


def test_models_run_together_or_mapped_or_one_by_one():
    def adds_up(y):
        x = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    def branches(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(x if x > 0 else 2 * x, 1.0), obs=y)

    ways = {}
    for model in (schools, adds_up):
        density = LatentDensity(model, (EFFECTS,) if model is schools else (torch.tensor(1.0),), {}, init_to_uniform)
        density(density.initial(4))
        ways[model.__name__ if model is adds_up else "schools"] = density._density.__name__
    assert ways == {"schools": "_together", "adds_up": "_mapped"}
    density = LatentDensity(branches, (torch.tensor(1.0),), {}, init_to_uniform)
    with pytest.warns(UserWarning, match="the model runs chain by chain"):
        density(density.initial(4))
    with pytest.warns(UserWarning, match="chain by chain"):
        found = ManyChains(branches, seed=0, chains=4, draws=10, warmup=10).run(torch.tensor(1.0))
    assert found.get_samples()["x"].shape == (40,)


def gaussian(y):
    x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.deterministic("twice", 2 * x, event_dim=1)
    pyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)


Y = torch.tensor([1.0, -2.0])


@pytest.mark.parametrize(
    "kernel",
    [AdaptiveHMC(), pytest.param(AdaptiveHMC(steps=1), marks=pytest.mark.slow), UnadjustedLangevin(step_size=0.2)],
)
def test_a_gaussian_posterior(kernel):
    draws = samples(ManyChains(gaussian, seed=0, draws=400, warmup=100, kernel=kernel).run(Y))
    check_mean(draws["x"], 0.8 * Y)
    check_mean((draws["x"] - 0.8 * Y).square(), 0.2 * (1 / (1 - 0.1) if isinstance(kernel, UnadjustedLangevin) else 1))
    torch.testing.assert_close(draws["twice"], 2 * draws["x"])


def test_an_answer_for_arviz():
    posterior = ManyChains(gaussian, seed=0, chains=8, draws=20, warmup=50).run(Y)
    data = pg.analysis.to_arviz(posterior, Y)
    assert dict(data.posterior.sizes)["chain"] == 8
    assert dict(data.posterior.sizes)["draw"] == 20
    assert {"diverging", "energy", "acceptance_rate"} <= set(data.sample_stats)
    assert posterior.diagnostics().per_second > 0
    with pytest.raises(NotImplementedError, match="Laplace and NoiseVI do"):
        _ = posterior.log_evidence


def test_seeds_decide_the_draws():
    def drawn(seed=None):
        return ManyChains(labelled, seed=seed, chains=6, draws=8, warmup=30).run(POINTS).get_samples()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["shift"], other["shift"])
    torch.manual_seed(3)
    outer = drawn()["shift"]
    torch.manual_seed(3)
    assert torch.equal(outer, drawn()["shift"])
    state = torch.get_rng_state()
    drawn(1)
    assert torch.equal(state, torch.get_rng_state())


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "calls", [pytest.param(160, marks=pytest.mark.slow), 220, pytest.param(280, marks=pytest.mark.slow)]
)
def test_a_run_that_was_interrupted_goes_on(tmp_path, calls):
    def model(y):
        count[0] += 1
        if count[0] > limit:
            raise Stopped
        gaussian(y)

    def run(path=None, **options):
        checkpoint = path and Checkpoint(path, every=0)
        return (
            ManyChains(model, seed=5, chains=4, warmup=60, checkpoint=checkpoint, **options).run(Y).get_samples()["x"]
        )

    count, limit = [0], math.inf
    whole = run(draws=60)
    count, limit = [0], calls
    with pytest.raises(Stopped):
        run(tmp_path / "chains", draws=60)
    assert (tmp_path / "chains").exists()
    limit = math.inf
    assert torch.equal(run(tmp_path / "chains", draws=60), whole)
    more = run(tmp_path / "chains", draws=70).unflatten(0, (4, 70))
    assert torch.equal(more[:, :60], whole.unflatten(0, (4, 60)))
    with pytest.raises(ValueError, match="`draws` must be at least the 70 that `checkpoint` holds, got 60"):
        run(tmp_path / "chains", draws=60)
    with pytest.raises(ValueError, match="`checkpoint` must hold a run of the same model and data"):
        ManyChains(model, seed=5, chains=4, warmup=60, checkpoint=tmp_path / "chains", draws=80).run(Y + 1)
    with pytest.raises(ValueError, match="`checkpoint` must hold a run of the settings"):
        ManyChains(model, seed=6, chains=4, warmup=60, checkpoint=tmp_path / "chains", draws=60).run(Y)
    with pytest.raises(ValueError, match="`checkpoint` must hold a run of the settings .*'steps': 3"):
        run(tmp_path / "chains", draws=70, kernel=AdaptiveHMC(steps=3))


def test_chains_start_where_they_are_told():
    start = {"x": torch.full((5, 2), 30.0)}
    posterior = ManyChains(
        gaussian, seed=0, chains=5, draws=4, warmup=0, initial=start, kernel=AdaptiveHMC(steps=1)
    ).run(Y)
    assert posterior.get_samples()["x"].shape == (20, 2)
    assert posterior.get_samples(group_by_chain=True)["x"][:, 0].min() > 5
    with pytest.raises(ValueError, match=r"`initial` must hold values of the continuous latent sites .*\(5, 2\)"):
        ManyChains(gaussian, chains=5, initial={"x": torch.zeros(4, 2)}).run(Y)

    def half(y):
        pyro.sample("x", dist.Normal(0.0, 1.0))
        rate = pyro.sample("rate", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Poisson(rate, validate_args=False), obs=y)

    initial = {"x": torch.zeros(2), "rate": torch.tensor([1.0, -1.0])}
    with pytest.raises(ValueError, match=r"`initial` .* got 1 chains .*\[1\], by the sites \['y'\]"):
        ManyChains(half, chains=2, initial=initial).run(torch.tensor(3.0))
    found = ManyChains(half, seed=0, chains=10, draws=20, warmup=50).run(torch.tensor(3.0))
    assert (found.get_samples()["rate"] > 0).all()

    def impossible(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("never", -math.inf + 0 * x)

    with pytest.raises(ValueError, match=r"`model` must have finite densities .* by the sites \['never'\]"):
        ManyChains(impossible, chains=2).run(None)


def test_what_chains_cannot_sample_is_refused():
    def subsampled(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 10, subsample_size=5):
            pyro.sample("y", dist.Normal(x, 1.0), obs=y[:5])

    def counts(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        n = pyro.sample("n", dist.Poisson(3.0))
        pyro.sample("y", dist.Normal(x + n, 1.0), obs=y)

    def labels_only(y):
        n = pyro.sample("n", dist.Bernoulli(0.5))
        pyro.sample("y", dist.Normal(n, 1.0), obs=y)

    def noisy(y):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        pyro.factor("noise", x * torch.randn(()))

    with pytest.raises(ValueError, match="must observe all data"):
        ManyChains(subsampled).run(torch.zeros(10))
    with pytest.raises(NotImplementedError, match=r"\['n'\] have no finite support"):
        ManyChains(counts).run(torch.tensor(1.0))
    with pytest.raises(ValueError, match="must have a continuous latent site"):
        ManyChains(labels_only).run(torch.tensor(1.0))
    with pytest.raises((NotImplementedError, UserWarning), match=r"fresh noise|chain by chain"):
        ManyChains(noisy).run(None)
    with pytest.raises(ValueError, match="finite|NaN"):
        ManyChains(gaussian).run(torch.tensor([1.0, math.nan]))
    with pytest.raises(TypeError, match="`kernel` must be a AdaptiveKernel, got str"):
        ManyChains(gaussian, kernel="nuts")


def test_a_diffusion_is_refused_by_its_own_error():
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2, 1), 1.0).to_event(1))
    prior = pg.diffusion.Diffusion(pg.diffusion.GaussianMixtureDenoiser(mixture, pg.diffusion.LinearVP()))

    def model(y):
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    with pytest.raises(NotImplementedError, match="ProbabilityFlow"):
        ManyChains(model, chains=2).run(torch.tensor(1.0))


@pytest.mark.slow
def test_many_chains_in_noise():
    torch.manual_seed(0)
    flow = pg.flows.affine_coupling((2,), layers=2)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)

    def model(y):
        x = pyro.sample("x", flow())
        pyro.sample("y", dist.Normal(x.sum(-1), 0.5), obs=y)

    y = torch.tensor(1.0)
    posterior = NoiseMCMC(model, site="x", kernel=AdaptiveHMC(), chains=16, draws=60, warmup=80).run(y)
    assert sorted(posterior.get_samples()) == ["x"]
    assert posterior.chains == 16
    draws = samples(posterior)["x"]
    prior = flow().sample((200_000,))
    weight = dist.Normal(prior.sum(-1), 0.5).log_prob(y).softmax(0)
    expected = (weight[:, None] * prior).sum(0)
    spread = (weight[:, None] * (prior - expected).square()).sum(0) * weight.square().sum()
    error = (spread + draws.flatten(0, 1).var(0) / effective_sample_size(draws)).sqrt()
    assert ((draws.mean((0, 1)) - expected).abs() < 4.5 * error).all()
    with pytest.raises(ValueError, match="`chains` must be 1 for a kernel of Pyro's, got 4"):
        NoiseMCMC(model, site="x", chains=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_a_compiled_density_is_that_of_the_model():
    density = LatentDensity(schools, (EFFECTS,), {}, init_to_uniform)
    x, other = density.initial(8), density.initial(8)
    fast = compiled(density, x)
    for found, expected in zip(evaluate(fast, other), evaluate(density, other), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    posterior = ManyChains(schools, seed=0, chains=8, draws=4, warmup=10, compile=True).run(EFFECTS)
    assert posterior.get_samples()["theta"].shape == (32, 8)


def test_other_data_of_the_same_density_are_refused(tmp_path):
    """Two numbers exchange places: the chains have the log-densities that they had."""

    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0).mask(torch.arange(len(y)) < 3), obs=y)

    options = {"chains": 4, "warmup": 4, "seed": 0, "checkpoint": tmp_path / "chains"}
    ManyChains(model, draws=4, **options).run(torch.tensor([0.0, 1.0, 2.0, 5.0]))
    ManyChains(model, draws=5, **options).run(torch.tensor([0.0, 1.0, 2.0, 7.0]))
    with pytest.raises(ValueError, match=r"same model and data, got other observed values at \['y'\]"):
        ManyChains(model, draws=6, **options).run(torch.tensor([1.0, 0.0, 2.0, 7.0]))


def test_what_stands_in_hidden_entries_does_not_matter():
    shown = torch.arange(4) < 3

    def model(y):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0).mask(shown), obs=y)

    method = ManyChains(model, chains=4, draws=4, warmup=4, seed=0)
    one, other = (method.run(torch.tensor([0.0, 1.0, 2.0, hidden])).get_samples() for hidden in (torch.nan, 5.0))
    assert torch.equal(one["mean"], other["mean"])
