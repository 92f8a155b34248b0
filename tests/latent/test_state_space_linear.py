"""The linear-Gaussian model against dense normals, Pyro's GaussianHMM, and itself in parts."""

import pyro.distributions as dist
import pytest
import torch
from markov_models import dense, linear_model, rooted
from pyro.infer import Trace_ELBO

import pyrogen as pg
from pyrogen import latent
from pyrogen.latent.state_space import gaussian


def observed(seen, covariance, x):
    """The log-density of the entries of a row that are not missing."""
    known = ~x.isnan()
    if not known.any():
        return torch.zeros(()).double()
    part = dist.MultivariateNormal(seen[known], covariance[known][:, known])
    return part.log_prob(x[known])


def test_log_prob_is_that_of_pyros_hidden_markov_model():
    module = linear_model(length=20)
    prior, likelihood = module.prior, module.likelihood
    with torch.no_grad():  # Pyro's first state comes after one transition
        before = torch.eye(2).double()
        noise = rooted(prior.root) @ rooted(prior.root).T
        root = torch.linalg.cholesky(prior.matrix @ prior.matrix.T + noise)
        prior.start_loc.copy_(prior.shift)
        prior.start_root.copy_(root.tril(-1) + root.diagonal().log().diag())
    hmm = dist.GaussianHMM(
        dist.MultivariateNormal(torch.zeros(2).double(), before),
        prior.matrix.T,
        dist.MultivariateNormal(prior.shift, noise),
        likelihood.loading.weight.T,
        dist.Normal(likelihood.loading.bias, likelihood.log_scale.exp()).to_event(1),
        duration=20,
    )
    x = module().sample((4,))
    torch.testing.assert_close(module().log_prob(x), hmm.log_prob(x), rtol=0, atol=1e-7)
    pair = Trace_ELBO().loss(module.model, module.guide, x)
    assert abs(pair + hmm.log_prob(x).sum().item()) < 1e-6  # whatever the guide draws


@pytest.mark.parametrize("where", ["nowhere", "elements", "steps", "the end", "everywhere"])
def test_missing_entries_are_integrated_out(where):
    module = linear_model()
    x = module().sample((5,))
    x[1:] = {
        "nowhere": x[1:],
        "elements": x[1:].masked_fill(torch.rand(4, 6, 2) < 0.4, torch.nan),
        "steps": x[1:].masked_fill(torch.rand(4, 6, 1) < 0.4, torch.nan),
        "the end": x[1:].masked_fill((torch.arange(6) > 2)[:, None], torch.nan),
        "everywhere": torch.full_like(x[1:], torch.nan),
    }[where]
    seen, covariance, *_ = dense(module)
    expected = torch.stack([observed(seen, covariance, row) for row in x.flatten(1)])
    torch.testing.assert_close(module().log_prob(x), expected, rtol=0, atol=1e-10)


def test_filter_and_smoother_are_those_of_dense_normals():
    module = linear_model()
    x = module().sample((3,))
    x[0, 2] = torch.nan
    x[1, 4, 0] = torch.nan
    seen, covariance, mean, states, cross = dense(module)
    *problem, constant = module.posterior.problem(x)
    torch.testing.assert_close(gaussian.filtered(*problem)[1] + constant, module().log_prob(x), rtol=0, atol=1e-10)
    filtered, smoothed = module.filter(x), module.smooth(x)
    for row in range(3):
        for step in range(6):
            for found, last in ((filtered, step), (smoothed, 5)):
                known = ~x[row].flatten().isnan() & (torch.arange(12) < 2 * last + 2)
                here = slice(2 * step, 2 * step + 2)
                gain = torch.linalg.solve(covariance[known][:, known], cross[here][:, known].T).T
                loc = mean[here] + gain @ (x[row].flatten()[known] - seen[known])
                spread = (states[here, here] - gain @ cross[here][:, known].T).diagonal()
                torch.testing.assert_close(found.mean[row, step], loc, rtol=0, atol=1e-10)
                torch.testing.assert_close(found.variance[row, step], spread, rtol=0, atol=1e-10)


def test_the_posterior_closes_the_gap_at_every_draw():
    module = linear_model()
    x = module().sample((4,))
    x[0, 3:] = torch.nan
    posterior = module.posterior_at(x)
    z = posterior.rsample((3,))
    gap = module.prior_at().log_prob(z) + module.likelihood_at(z).log_prob(x) - posterior.log_prob(z)
    torch.testing.assert_close(gap, module().log_prob(x).expand(3, 4), rtol=0, atol=1e-9)


def test_forecasts_are_conditional_normals():
    module = linear_model()
    x = module().sample((2,))
    x[0, 1] = torch.nan
    forecast = module.forecast(x[:, :4], 2)
    assert pg.density_of(forecast) == "exact"
    assert forecast.shape() == (2, 2, 2)
    seen, covariance, *_ = dense(module)
    draws = forecast.sample((20_000,)).flatten(2)
    for row, flat in enumerate(x.flatten(1)):
        joint = observed(seen, covariance, flat) - observed(
            seen, covariance, flat.masked_fill(torch.arange(12) > 7, torch.nan)
        )
        torch.testing.assert_close(forecast.log_prob(x[:, 4:])[row], joint, rtol=0, atol=1e-9)
        known = ~flat.isnan() & (torch.arange(12) < 8)
        gain = torch.linalg.solve(covariance[known][:, known], covariance[8:][:, known].T).T
        loc, spread = seen[8:] + gain @ (flat[known] - seen[known]), covariance[8:, 8:] - gain @ covariance[known, 8:]
        error = (spread.diagonal() / len(draws)).sqrt()
        assert ((draws[:, row].mean(0) - loc).abs() < 4 * error).all()
        assert ((draws[:, row].T.cov() - spread).abs() < 6 * spread.diagonal().max() / len(draws) ** 0.5).all()


def test_irregular_times_are_those_of_a_stochastic_differential_equation():
    """Over gaps that are whole numbers, the transitions are powers of that over one."""
    module = linear_model(length=4, irregular=True)
    one = module.over(8)
    with torch.no_grad():
        start, unit = one.prior.chain({"times": torch.arange(8).double()})
        _, move = module.prior.chain({"times": torch.tensor([0.0, 1.0, 3.0, 7.0]).double()})
        for step, gap in enumerate((1, 2, 4)):
            belief = start
            for _ in range(gap):
                belief = type(unit)(unit.matrix[0], unit.shift[0], unit.root[0]).predict(belief)
            found = type(move)(move.matrix[step], move.shift[step], move.root[step]).predict(start)
            torch.testing.assert_close(found.loc, belief.loc, rtol=0, atol=1e-10)
            torch.testing.assert_close(found.covariance, belief.covariance, rtol=0, atol=1e-10)
    skipped = torch.tensor([0, 1, 3, 7])
    whole = torch.full((8, 2), torch.nan).double()
    x = torch.randn(4, 2).double()
    whole[skipped] = x
    few = module({"times": skipped.double()}).log_prob(x)
    torch.testing.assert_close(few, one({"times": torch.arange(8).double()}).log_prob(whole), rtol=0, atol=1e-10)


def test_controls_move_states_and_observations():
    module = linear_model(controls=1)
    controls = torch.zeros(6, 1).double()
    controls[3] = 2.0
    with torch.no_grad():
        moved, still = (module.prior({"controls": part}).mean for part in (controls, 0 * controls))
        step = 2 * module.prior.effect.weight[:, 0]
        torch.testing.assert_close((moved - still)[3], step)
        torch.testing.assert_close((moved - still)[4], module.prior.matrix @ step)
        assert (moved == still)[:3].all()
        given = {"z": still, "controls": controls}
        seen = module.likelihood(given).mean - module.likelihood({**given, "controls": 0 * controls}).mean
        torch.testing.assert_close(seen[3], 2 * module.likelihood.effect.weight[:, 0])


@pytest.mark.parametrize("score", [lambda d, x: d.log_prob(x), lambda d, x: torch.vmap(d.log_prob)(x)])
def test_small_noise_costs_no_digits(score):
    torch.manual_seed(0)
    module = latent.linear_gaussian((200, 4), latent_shape=2)
    with torch.no_grad():
        module.prior.matrix.copy_(0.99 * torch.eye(2))
        module.likelihood.log_scale.fill_(-7.0)  # of an evidence near 5000 nats, whose squares are near 10 ** 9
        x = module().sample((2,))
        found = score(module(), x)
        exact = module.double()().log_prob(x.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)


def test_missing_steps_are_drawn_as_they_are_smoothed():
    module = linear_model()
    x = module().sample((2,))
    x[0, 2] = x[1, 3, 0] = torch.nan
    torch.manual_seed(0)
    filled = latent.impute(module, x, draws=4000)
    with torch.no_grad():
        smoothed = module.smooth(x)
        expected = module.likelihood(smoothed.mean).mean
        noise = module.likelihood.log_scale.mul(2).exp()
        spread = module.likelihood.loading(smoothed.sample((4000,))).var(0) + noise
    missing = x.isnan()
    error = (filled.mean - expected)[missing] / (spread / 4000).sqrt()[missing]
    assert (error.abs() < 4.5).all()
    assert (filled.mean[~missing] - x[~missing]).abs().max() < 1e-10
    with pytest.raises(TypeError, match="`vae` must be a VAE, got HiddenMarkovModel"):
        latent.impute(latent.hidden_markov((4,), regimes=2), torch.zeros(2, 4), draws=3)


def test_bad_sequences_are_named_by_the_exact_model():
    module = latent.linear_gaussian((5,), latent_shape=1)
    x = torch.zeros(3, 5)
    x[1, 2] = torch.inf
    for method in (module.filter, module.smooth):
        with pytest.raises(ValueError, match=r"`x` must be finite, or NaN where it is missing, got inf in row 1"):
            method(x)
        with pytest.raises(ValueError, match=r"`x` must end in shape \(5,\), got \(2, 4\)"):
            method(torch.zeros(2, 4))
    assert module().log_prob(x)[1] == -torch.inf
    with pytest.raises(ValueError, match=r"`value` must end in shape \(2,\), got \(3, 4\)"):
        module.forecast(torch.zeros(3, 2), 2).log_prob(torch.zeros(3, 4))
    with pytest.raises(TypeError, match="`vae` must be a ParticleModel, got LinearGaussianModel"):
        latent.Filtering(module, particles=2)


@pytest.mark.slow
def test_maximum_likelihood_finds_the_process():
    torch.manual_seed(0)
    truth = latent.linear_gaussian((40, 1), latent_shape=1)
    with torch.no_grad():
        truth.prior.matrix.fill_(0.8)
        truth.likelihood.log_scale.fill_(-1.0)
        truth.likelihood.loading.weight.fill_(1.0)
        truth.likelihood.loading.bias.fill_(0.0)
    x = truth().sample((128,))
    module = latent.linear_gaussian((40, 1), latent_shape=1)
    pg.fit(module, x, steps=150, batch_size=128, optimizer=lambda p: torch.optim.Adam(p, 0.03), seed=0)
    gain = (module().log_prob(x) - truth().log_prob(x)).mean()
    assert -0.05 < gain < 0.2  # eight numbers fitted to 128 rows gain 8 / 2 / 128 nats a row
    assert abs(module.prior.matrix.item() - 0.8) < 0.05
