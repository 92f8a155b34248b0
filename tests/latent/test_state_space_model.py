"""Deep Markov models: gaps of posteriors, particles, lengths and missing steps, against closed forms."""

import pyro
import pytest
import torch
from markov_models import exact_messages, precision, process
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import Adam
from torch.distributions import MultivariateNormal

import pyrogen as pg
from pyrogen import latent

R = {1.0: 8.346, 0.1: 1.605}
LENGTH = 50
SMALL = {"latent_shape": 2, "width": 8, "hidden": (8,), "draws": 4}


def evidence(x, r):
    flat = x.flatten(1)
    lags = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).abs()
    covariance = 0.9 ** lags.double() + r * torch.eye(x.shape[1]).double()
    found = []
    for row in flat:
        known = ~row.isnan()
        normal = MultivariateNormal(torch.zeros(int(known.sum())).double(), covariance[known][:, known])
        found.append(normal.log_prob(row[known]))
    return torch.stack(found)


def log_weights(module, x, draws):
    posterior = module.posterior_at(x)
    z = posterior.rsample((draws,))
    return module.prior_at().log_prob(z) + module.likelihood_at(z).log_prob(x) - posterior.log_prob(z)


@pytest.mark.parametrize("r", R)
def test_a_structured_posterior_with_exact_messages_has_no_gap(r):
    torch.manual_seed(0)
    module = process(LENGTH, r, exact_messages(r))
    x = module().sample((3,))
    x[1, 20:30] = torch.nan
    x[2, 40:] = torch.nan
    gaps = evidence(x, r) - log_weights(module, x, 5)
    assert gaps.abs().max() < 1e-6  # the clamps of the helper leave 1e-8
    for particles in (1, 7):  # and neither has a particle filter
        run = module.filter(x, particles=particles)
        torch.testing.assert_close(run.log_evidence, evidence(x, r), rtol=0, atol=1e-6)


@pytest.mark.parametrize("r", R)
def test_the_best_mean_field_posterior_has_the_known_gap(r):
    torch.manual_seed(0)
    matrix = precision(LENGTH, r)

    def best(x):
        loc = torch.linalg.solve(matrix, x[..., 0].T / r).T.unsqueeze(-1)
        return loc, 10 * torch.atanh(-0.05 * matrix.diagonal().log()).expand(len(x), -1).unsqueeze(-1)

    gap = 0.5 * (matrix.diagonal().log().sum() - torch.logdet(matrix))
    assert abs(gap - R[r]) < 5e-4
    module = process(LENGTH, r, best, structured=False)
    x = module().sample((1,))
    gaps = evidence(x, r) - log_weights(module, x, 4000)
    error = gaps.std() / 4000**0.5
    assert abs(gaps.mean() - gap) < 4 * error < 0.5


@pytest.mark.parametrize("known", [True, False])
def test_particle_evidence_is_unbiased(known):
    """With messages that are wrong, or say nothing, the average of the evidence is still Kalman's."""
    torch.manual_seed(0)

    def rough(x):
        return (x + 0.5, torch.full_like(x, 0.0 if known else 9.0))

    module = process(12, 1.0, rough)
    x = module().sample()
    runs = module.filter(x.expand(20_000, 12, 1), particles=4)
    ratio = (runs.log_evidence - evidence(x[None], 1.0)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 20_000**0.5 < 0.1


def test_particles_filter_and_smooth_as_kalman_does():
    torch.manual_seed(0)
    r, length = 1.0, 10
    module = process(length, r, lambda x: (x.nan_to_num(), torch.full_like(x, 0.3)))
    x = module().sample()
    x[4] = torch.nan
    for last, found in ((length, module.smooth(x, particles=20_000)), (6, module.filter(x, particles=20_000))):
        matrix = torch.linalg.inv(0.9 ** (torch.arange(length)[:, None] - torch.arange(length)).abs().double())
        known = ~x[:, 0].isnan() & (torch.arange(length) < last)
        covariance = torch.linalg.inv(matrix + torch.diag(known.double() / r))
        loc = covariance @ torch.where(known, x[:, 0], 0.0) / r
        steps = slice(0, length) if last == length else slice(last - 1, last)
        torch.testing.assert_close(found.mean[steps, 0], loc[steps], rtol=0, atol=0.04)
        torch.testing.assert_close(found.variance[steps, 0], covariance.diagonal()[steps], rtol=0, atol=0.04)
    low, high = found.quantile(0.05), found.quantile(0.95)
    assert ((low < found.mean) & (found.mean < high)).all()
    assert found.sample(5).shape == (5, length, 1)


def test_forecasts_follow_the_last_state():
    torch.manual_seed(0)
    module = process(6, 1.0, exact_messages(1.0))
    x = module().sample((2,))
    forecast = module.forecast(x, 3, particles=5000)
    draws = forecast.sample((20_000,))[..., 0]
    state = module.filter(x, particles=5000)
    for step in range(3):
        loc = 0.9 ** (step + 1) * state.mean[:, -1, 0]
        spread = 0.81 ** (step + 1) * state.variance[:, -1, 0] + (1 - 0.81 ** (step + 1)) + 1.0
        assert ((draws[..., step].mean(0) - loc).abs() < 0.05).all()
        assert ((draws[..., step].var(0) / spread - 1).abs() < 0.05).all()
    assert pg.density_of(forecast) is None


@pytest.mark.parametrize(
    "more", [{}, {"structured": False}, {"smoothing": False}, {"memory": 3}, {"controls": 2, "irregular": True}]
)
def test_a_padded_batch_is_its_single_sequences(more):
    """With the same draws of the steps that count, whatever is drawn after them."""
    torch.manual_seed(0)
    module = latent.deep_markov((7, 3), **SMALL, **more).double()
    context = {"controls": torch.randn(2, 7, 2).double(), "times": torch.rand(2, 7).double().cumsum(-1)}
    context = context if more.get("irregular") else None
    x = torch.randn(2, 7, 3).double()
    lengths = [4, 7]
    short = latent.padded([row[:length] for row, length in zip(x, lengths, strict=True)])
    z = module.prior_at(context).sample(() if context else (2,))
    weights = []
    for model, rows, states, given in [
        (module, short, z, context),
        (module.over(4), x[:1, :4], z[:1, :4], context and {key: part[:1, :4] for key, part in context.items()}),
        (module, x[1:], z[1:], context and {key: part[1:] for key, part in context.items()}),
    ]:
        joint = model.prior_at(given).log_prob(states) + model.likelihood_at(states, given).log_prob(rows)
        weights.append(joint - model.posterior_at(rows, given).log_prob(states))
    torch.testing.assert_close(weights[0], torch.cat(weights[1:]), rtol=0, atol=1e-10)


def test_lengths_are_missing_ends():
    module = latent.deep_markov((5, 2), **SMALL)
    x = torch.randn(3, 5, 2)
    torch.manual_seed(1)
    first = module().log_prob(x, [5, 2, 1])
    torch.manual_seed(1)
    second = module().log_prob(latent.padded([x[0], x[1, :2], x[2, :1]]))
    assert torch.equal(first, second)


def test_one_step_is_a_sequence():
    module = latent.deep_markov((1, 2), **SMALL)
    x = module().sample((3,))
    assert module().log_prob(x).shape == (3,)
    assert module.filter(x, particles=5).mean.shape == (3, 1, 2)


@pytest.mark.parametrize(
    "likelihood", [{"symbols": 3}, {"binary": True}, {"counts": True}, {"counts": True, "zero_inflated": True}]
)
def test_every_family_trains_with_gaps(likelihood):
    torch.manual_seed(0)
    module = latent.deep_markov((6, 2), **SMALL, **likelihood)
    x = module().sample((32,)).float()
    x[torch.rand(x.shape) < 0.2] = torch.nan
    for objective in (module, latent.ImportanceWeighted(module, draws=3), latent.Filtering(module, particles=3)):
        assert pg.fit(objective, x, steps=3, batch_size=16, seed=0).reason == "steps"
    assert module().log_prob(x).isfinite().all()


@pytest.mark.parametrize("recipe", [latent.deep_markov, latent.linear_gaussian])
def test_forecasts_have_the_batch_of_prefix_and_context(recipe):
    module = recipe((5, 2), {"a": (2,), "b": ()}, classes={"b": 3}, latent_shape=2, controls=1)

    def context(length):
        return {"a": torch.randn(4, 2), "b": torch.arange(4) % 3, "controls": torch.randn(4, length, 1)}

    forecast = module.forecast(torch.randn(4, 5, 2), 3, context(8))
    assert forecast.sample((2,)).shape == (2, 4, 3, 2)
    assert forecast.expand((6, 4)).sample().shape == (6, 4, 3, 2)
    alone = recipe((5, 2), latent_shape=2).forecast(torch.randn(3, 2), 2)
    assert alone.sample((7,)).shape == (7, 2, 2)
    assert alone.sample().shape == (2, 2)


def remembering(length=6, **more):
    """A model whose transition depends strongly on all states before."""
    torch.manual_seed(0)
    module = latent.deep_markov((length, 2), memory=5, **SMALL, **more).double()
    with torch.no_grad():
        for parameter in module.prior.network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return module


@torch.no_grad()
def test_memory_is_the_same_in_one_pass_and_step_by_step():
    module = remembering()
    z = module.prior().sample((3, 4))
    together = module.prior.kernel()(z[..., :-1, :])
    memory, normals = None, []
    for step, state in zip(module.prior.kernel().steps(), z.unbind(-2), strict=False):
        normal, memory = step(state, memory)
        normals.append(normal)
    for whole, parts in zip(together, zip(*normals, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.stack(parts, -2), rtol=0, atol=1e-12)
    moved = z.clone()
    moved[..., 0, :] += 1  # the first state reaches the last transition
    assert (module.prior.kernel()(moved[..., :-1, :])[0] - together[0])[..., -1, :].abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, {"structured": False}, {"smoothing": False}, {"controls": 2, "irregular": True}])
def test_the_rate_of_draws_is_that_of_both_chains(more):
    module = remembering(**more)
    context = {"controls": torch.randn(3, 6, 2).double(), "times": torch.rand(3, 6).double().cumsum(-1)}
    context = context if more.get("irregular") else None
    x = torch.randn(3, 6, 2).double()
    x[0, 4:] = x[1, 2] = torch.nan
    posterior, prior = module.posterior_at(x, context), module.prior_at(context)
    z, rate = module.draws_and_rates(posterior, prior, torch.Size((2,)))
    torch.testing.assert_close(rate, posterior.log_prob(z) - prior.log_prob(z), rtol=0, atol=1e-10)


@torch.no_grad()
def test_particles_remember_what_they_follow():
    module = remembering()
    x = module().sample()
    runs = module.filter(x.expand(20_000, 6, 2), particles=4)
    weights = log_weights(module, x, 200_000)
    ratio, expected = (runs.log_evidence - weights.max()).exp(), (weights - weights.max()).exp()
    error = (ratio.var() / len(ratio) + expected.var() / len(expected)).sqrt()
    assert abs(ratio.mean() - expected.mean()) < 4 * error < 0.2 * expected.mean()


@torch.no_grad()
def test_forecasts_go_on_with_the_memory():
    module = remembering()
    module.prior.network.gated.log_scale.weight.zero_()
    module.prior.network.gated.log_scale.bias.fill_(-8)  # states are next to certain
    module.prior.log_scale.fill_(-8)
    whole = module.prior().sample()
    last = module.over(3).last_states(torch.full((3, 2), torch.nan).double(), None, particles=4)
    assert last.event_shape == (2 + 5,)
    path, _ = module.forecast(torch.full((3, 2), torch.nan).double(), 3, particles=4).sample_with_states()
    torch.testing.assert_close(path, whole[3:], rtol=0, atol=0.02)


def test_scalars_are_observed():
    module = latent.deep_markov((6,), **SMALL)
    x = module().sample((4,))
    assert x.shape == (4, 6)
    assert module.forecast(x, 2, particles=9).sample((3,)).shape == (3, 4, 2)


def test_the_pair_is_a_program():
    torch.manual_seed(0)
    module = latent.deep_markov((5, 2), **SMALL)
    x = module().sample((16,))
    svi = SVI(module.model, module.guide, Adam({"lr": 1e-3}), Trace_ELBO())
    before = [parameter.clone() for parameter in module.parameters()]
    svi.step(x, size=64)
    assert all((old != new).any() for old, new in zip(before, module.parameters(), strict=True))
    drawn = Predictive(module.model, guide=module.guide, num_samples=3, return_sites=("z", "x"))(x)
    assert drawn["z"].shape == (3, 16, 5, 2)
    trace = pyro.poutine.trace(module.model).get_trace(x)
    assert trace.stochastic_nodes == ["data", "z"]
    assert trace.observation_nodes == ["x"]


def test_arviz_gets_dimensions_of_time():
    module = latent.deep_markov((5, 2), **SMALL).eval()
    x = module().sample((3,))
    dims = {"z": ["step", "state"], "x": ["step", "channel"]}
    data = pg.analysis.to_arviz(module, x, dims=dims, draws=10, seed=0)
    assert dict(data["posterior"]["z"].sizes) == {"chain": 1, "draw": 10, "data": 3, "step": 5, "state": 2}


def test_files_hold_the_recipe(tmp_path):
    for module in (
        latent.deep_markov((5, 2), controls=1, memory=3, **SMALL),
        latent.linear_gaussian((5, 2), latent_shape=2),
    ):
        pg.save(module, tmp_path / "model.pyrogen")
        loaded = pg.load(tmp_path / "model.pyrogen")
        assert type(loaded) is type(module)
        assert loaded.posterior.prior is loaded.prior


def test_padding_keeps_the_widest_precision():
    assert latent.padded([torch.ones(3), torch.ones(2).double()]).dtype == torch.float64
    assert latent.padded([torch.ones(3).long(), torch.ones(2)]).dtype == torch.float32


@pytest.mark.parametrize("key", ["controls", "times", "x"])
def test_training_names_the_sequences_that_are_bad(key):
    module = latent.deep_markov((5, 2), controls=1, irregular=True, **SMALL)
    data = {
        "controls": torch.randn(20, 5, 1),
        "times": torch.arange(5.0).repeat(20, 1),
        "x": torch.randn(20, 5, 2),
    }
    data[key][13, 4] = torch.inf if key == "x" else torch.nan
    x = data.pop("x")
    name = "x" if key == "x" else rf"context\['{key}'\]"
    with pytest.raises(ValueError, match=rf"`{name}` must be finite.* in row 13 of `data`"):
        pg.fit(module, (x, data), steps=1)


RECIPES = {
    latent.deep_markov: SMALL,
    latent.stochastic_recurrent: SMALL,
    latent.gaussian_process_vae: {"latent_shape": 2, "hidden": (8,), "draws": 4},
    latent.linear_gaussian: {"latent_shape": 1},
    latent.gaussian_process: {"latent_shape": 1},
    latent.switching_linear: {"latent_shape": 1, "regimes": 2},
    latent.hidden_markov: {"regimes": 2},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_data_that_are_missing_everywhere_are_refused(recipe):
    x = torch.full((10, 4, 2), torch.nan)
    with pytest.raises(
        ValueError, match="`data` must hold at least one number that is not missing, got NaN everywhere"
    ):
        pg.fit(recipe((4, 2), **RECIPES[recipe]), x, steps=1)
    x[3, 1] = 0.5
    assert pg.fit(recipe((4, 2), **RECIPES[recipe]), x, steps=1).reason == "steps"


@pytest.mark.parametrize("recipe", RECIPES)
def test_real_observations_are_standardized_inside(recipe):
    """In other units the same parameters give the same density, but for the change of units."""
    torch.manual_seed(0)
    x = torch.randn(50, 4, 2).double()
    x[3, 2] = torch.nan
    scale, shift = torch.tensor([1e3, 1e-2]).double(), torch.tensor([5e3, -1.0]).double()
    scores = []
    for data in (x, shift + scale * x):
        torch.manual_seed(1)
        module = recipe((4, 2), **RECIPES[recipe]).double().eval()
        module.learn_statistics(data)
        torch.manual_seed(2)
        scores.append(module().log_prob(data))
        forecast = module.forecast(data[:, :2], 1).sample((500,))
        assert ((forecast.mean((0, 1)) - data.nanmean((0, 1))) / (scale if data is not x else 1)).abs().max() < 2
    change = (~x.isnan()).to(x) * scale.log()
    torch.testing.assert_close(scores[1], scores[0] - change.sum((1, 2)), rtol=0, atol=1e-6)


def test_bad_input_is_named():
    module = latent.deep_markov((5, 2), **SMALL)
    x = torch.randn(3, 5, 2)
    with pytest.raises(ValueError, match="`lengths` must lie between 1 and the 5 steps, got 0 in row 1"):
        module().log_prob(x, [5, 0, 1])
    with pytest.raises(ValueError, match="`lengths` must lie between 1 and the 5 steps, got 6 in row 2"):
        module().log_prob(x, [5, 1, 6])
    with pytest.raises(ValueError, match="batch shape of the sequences"):
        module().log_prob(x, [5, 1])
    with pytest.raises(TypeError, match="`lengths` must hold integers"):
        module().log_prob(x, torch.tensor([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="got 0 in row 1"):
        latent.padded([torch.ones(3), torch.ones(0)])
    with pytest.raises(ValueError, match="`sequences` must have observations of one shape"):
        latent.padded([torch.ones(3, 1), torch.ones(2, 2)])
    with pytest.raises(ValueError, match="`prefix` must have shape"):
        module.forecast(torch.ones(3, 4), 2)
    with pytest.raises(ValueError, match="`horizon` must be at least 1"):
        module.forecast(x, 0)
    with pytest.raises(TypeError, match="`prefix` must be a tensor, got list"):
        module.forecast([[1.0, 2.0]], 2)
    with pytest.raises(TypeError, match="`sequences` must be a tensor, got list"):
        latent.padded([[1.0, 2.0]])
    with pytest.raises(ValueError, match="`sequences` must have steps, got a number in row 1"):
        latent.padded([torch.ones(3), torch.ones(())])
    with pytest.raises(TypeError, match="`x` must hold floating-point numbers"):
        module().log_prob(x.long(), [5, 1, 1])
    with pytest.raises(ValueError, match="`x` must be finite, or NaN where it is missing, got inf in row 2"):
        module.filter(torch.cat([x[:2], x[2:] + torch.inf]))
    with pytest.raises(TypeError, match="`draws` must be an int"):
        module.smooth(x).sample((3,))
    with pytest.raises(ValueError, match=r"`event_shape` must be \(length, \*observation\), got \(\)"):
        latent.deep_markov((), **SMALL)
    irregular = latent.deep_markov((3, 1), irregular=True, **SMALL)
    times = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
    with pytest.raises(ValueError, match=r"`context\['times'\]` must increase from step to step.* in row 1"):
        irregular({"times": times}).sample()
    with pytest.raises(ValueError, match=r"`context\['times'\]` must increase from step to step.* in row 1"):
        irregular.forecast(torch.zeros(2, 1, 1), 2, {"times": times})
    with pytest.raises(ValueError, match="`zero_inflated`"):
        latent.deep_markov((3, 1), zero_inflated=True, **SMALL)
    with pytest.raises(ValueError, match="`counts` must be False where `symbols`"):
        latent.deep_markov((3, 1), counts=True, symbols=3, **SMALL)
    with pytest.raises(ValueError, match="must name entries otherwise"):
        latent.deep_markov((3, 1), {"times": (2,)}, **SMALL)
