"""Bidirectional games: the encoder becomes the posterior, where it is known; calibration finds one that is not."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.core.normal import StandardNormal
from pyrogen.evaluation import Amortized, simulation_based_calibration
from pyrogen.implicit import Bidirectional, Generator, mlp, mlp_critic
from pyrogen.implicit.bidirectional import GeneratedPairs

NOISE = 0.5
MEAN_SLOPE, SCALE = 1 / (1 + NOISE**2), (NOISE**2 / (1 + NOISE**2)) ** 0.5


class Linear(pg.DistributionModule):
    """N(slope * context, scale^2): a likelihood that is known, or a posterior to be found."""

    def __init__(self, slope, scale, fixed=True):
        super().__init__((1,), (1,))
        self.slope = nn.Parameter(torch.tensor(float(slope)), requires_grad=not fixed)
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log(), requires_grad=not fixed)

    def forward(self, context=None):
        return dist.Normal(self.slope * context, self.log_scale.exp()).to_event(1)


def game(encoder, **arguments):
    torch.manual_seed(0)
    critic = mlp_critic((2,), hidden=(32, 32))
    return Bidirectional(Linear(1, NOISE), encoder, critic, prior=StandardNormal((1,)), **arguments)


def data(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 1, generator=generator) + NOISE * torch.randn(rows, 1, generator=generator)


def seeded():
    return torch.Generator().manual_seed(0)


def calibration(bidirectional, simulations=600, posterior=None):
    torch.manual_seed(1)
    return simulation_based_calibration(
        bidirectional.model,
        bidirectional.posterior if posterior is None else posterior,
        observed="x",
        simulations=simulations,
        draws=49,
        generator=seeded(),
    )


def test_calibration_passes_the_exact_posterior_and_fails_a_wrong_one():
    exact = game(Linear(MEAN_SLOPE, SCALE))
    assert calibration(exact).test().p_value > 0.02
    assert calibration(exact, posterior=Amortized(exact.guide, "x")).test().p_value > 0.02
    assert calibration(game(Linear(MEAN_SLOPE, 0.7 * SCALE))).test().p_value < 1e-3
    assert calibration(game(Linear(0, 1))).test().p_value < 1e-3


def test_the_metric_is_zero_at_the_exact_posterior_alone():
    ratios = []
    for scale in (SCALE, 0.3 * SCALE):
        bidirectional = game(Linear(MEAN_SLOPE, scale))
        distances = torch.stack([bidirectional.metric(data(400, seed)) for seed in range(30)])
        ratios.append(distances.mean() / distances.std() * 30**0.5)
    assert abs(ratios[0]) < 4 < 8 < ratios[1]


@pytest.mark.slow
@pytest.mark.parametrize("loss", [None, pg.implicit.NonSaturating(), pg.implicit.LeastSquares()])
def test_the_encoder_becomes_the_posterior(loss):
    """Its slope and its standard deviation, within .02; and calibration passes."""
    encoder = Linear(0.0, 1.0, fixed=False)
    bidirectional = game(encoder, loss=loss)
    pg.fit(bidirectional, data(10_000), steps=1200, batch_size=256, lr=3e-3, ema=0.99, seed=0)
    found = torch.stack([encoder.slope, encoder.log_scale.exp()]).detach()
    assert torch.allclose(found, torch.tensor([MEAN_SLOPE, SCALE]), atol=0.02)
    assert calibration(bidirectional).test().p_value > 0.01


@pytest.mark.slow
def test_a_factor_model_is_learned_with_its_posterior():
    """x = z (1, 1) + noise: the encoder is the posterior of the likelihood that was learned; reconstructions show x."""
    torch.manual_seed(0)
    normal = pg.families.diagonal_normal
    likelihood = pg.Parametric(nn.Linear(1, 4), normal, event_shape=(2,), context_shape=(1,))
    encoder = pg.Parametric(nn.Linear(2, 2), normal, event_shape=(1,), context_shape=(2,))
    bidirectional = Bidirectional(likelihood, encoder, mlp_critic((3,), hidden=(64, 64)), prior=StandardNormal((1,)))
    x = torch.randn(6000, 1) + 0.3 * torch.randn(6000, 2)
    pg.fit(bidirectional, x[:5000], steps=1500, batch_size=256, lr=3e-3, ema=0.99, seed=0)
    with torch.no_grad():
        origin, moved, variance = *likelihood(torch.tensor([[0.0], [1.0]])).mean, likelihood(torch.zeros(1)).variance
        slope = moved - origin
        precision = 1 + (slope.square() / variance).sum()
        posterior = encoder(torch.eye(2)).mean.squeeze(-1) - encoder(torch.zeros(2)).mean
        assert torch.allclose(posterior, slope / variance / precision, atol=0.05)
        assert abs(encoder(torch.zeros(2)).variance.item() - 1 / precision) < 0.03
    assert (bidirectional.reconstruct(x[5000:]) - x[5000:]).square().mean() < 0.35  # where other data would have 2.2


@pytest.mark.slow
def test_networks_pushed_over_noise_agree_on_data_and_posterior():
    """Neither has a density. Calibration has no likelihood then, and passes."""
    torch.manual_seed(0)
    likelihood, encoder = (mlp((d,), (c,), noise=(2,), hidden=(64, 64)) for d, c in ((2, 1), (1, 2)))
    bidirectional = Bidirectional(likelihood, encoder, mlp_critic((3,), hidden=(64, 64)), prior=StandardNormal((1,)))
    z = torch.randn(6000, 1)
    x = torch.cat([z, 0.5 * z.square()], 1) + 0.3 * torch.randn(6000, 2)
    pg.fit(bidirectional, x[:5000], steps=1000, batch_size=256, lr=2e-3, ema=0.99, seed=0)
    with torch.no_grad():
        drawn = likelihood(torch.randn(1000, 1)).sample()
    assert pg.evaluation.energy_distance(x[5000:], drawn) < 0.02
    ranks = calibration(bidirectional, simulations=300)
    assert ranks.test().p_value > 0.001


@pytest.mark.slow
def test_the_encoder_of_a_deterministic_generator_is_its_inverse():
    """BiGAN: x = G(z), and a point z = E(x)."""
    torch.manual_seed(0)
    generator = Generator(nn.Linear(1, 1), (1,), noise=(1,))
    encoder = mlp((1,), (1,), noise=(1,), hidden=(32,))
    bidirectional = Bidirectional(generator, encoder, mlp_critic((2,), hidden=(32, 32)))
    x = 3 + 2 * torch.randn(4000, 1)
    pg.fit(bidirectional, x, steps=800, batch_size=256, lr=3e-3, ema=0.98, seed=0)
    assert (bidirectional.reconstruct(x) - x).square().mean().sqrt() < 0.4


def test_a_context_reaches_all_parts():
    torch.manual_seed(0)

    def make():
        return Bidirectional(
            mlp((2,), {"code": (1,), "c": (3,)}, noise=(1,), hidden=(8,)),
            mlp((1,), {"x": (2,), "c": (3,)}, noise=(1,), hidden=(8,)),
            mlp_critic((3,), {"c": (3,)}, hidden=(8,)),
            prior=StandardNormal((1,)),
            latent="code",
            loss=pg.implicit.NonSaturating(),
            penalties=(),
        )

    bidirectional, x, context = make(), torch.randn(64, 2), {"c": torch.randn(64, 3)}
    assert bidirectional.context_shape == {"c": (3,)}
    pg.fit(bidirectional, (x, context), steps=2, batch_size=32, validation=0.5, seed=0)
    assert bidirectional.reconstruct(x, context).shape == (64, 2)
    assert bidirectional.bound(x, context).label == "lower bound"
    report = pg.testing.check_objective(lambda: make().turns(), (x[:8], {"c": context["c"][:8]}))
    # Under validation a game takes the gradient by events as well.
    assert {finding.name for finding in report.failures} <= {"parameters_registered"}, report


def test_a_context_without_a_name_reaches_an_implicit_encoder():
    torch.manual_seed(0)
    bidirectional = Bidirectional(
        mlp((2,), (1,), noise=(1,), hidden=(8,)),
        mlp((1,), {"x": (2,), "context": (3,)}, noise=(1,), hidden=(8,)),
        mlp_critic((3,), (3,), hidden=(8,)),
        prior=StandardNormal((1,)),
    )
    x, context = torch.randn(64, 2), torch.randn(64, 3)
    pg.fit(bidirectional, (x, context), steps=2, batch_size=32, validation=0.5, seed=0)
    drawn = (bidirectional.encoder.generated(torch.zeros(64, 1), {"x": x, "context": c}) for c in (context, -context))
    assert not torch.equal(*drawn)
    for use in (bidirectional.metric, bidirectional.generator_loss, bidirectional.critic_loss):
        found = []
        for rows in (1, 64):
            torch.manual_seed(0)
            found.append(use(x, torch.ones(rows, 3)).item())
        assert found[0] == pytest.approx(found[1], rel=1e-5)  # one for all is that of each


def test_the_contract_of_pairs():
    def make():
        return GeneratedPairs(mlp((2,), (1,), noise=(1,), hidden=(8,)), StandardNormal((1,)), mlp((1,), (2,)), "z")

    pg.testing.check_distribution(make, event_shape=(3,)).raise_if_failed()


def test_the_encoder_is_a_guide():
    """The evidence lower bound at the exact posterior is the evidence, for every draw."""
    bidirectional, x = game(Linear(MEAN_SLOPE, SCALE)), data(50)
    loss = pyro.infer.Trace_ELBO().loss(bidirectional.model, bidirectional.guide, x)
    evidence = dist.Normal(0.0, (1 + NOISE**2) ** 0.5).log_prob(x).sum()
    assert loss == pytest.approx(-evidence.item(), rel=1e-5)


def test_mistakes_are_named():
    critic, encoder = mlp_critic((3,)), mlp((1,), (2,))
    normal = pg.Parametric(nn.Linear(1, 4), pg.families.diagonal_normal, event_shape=2, context_shape=1)
    refused = (
        ("`prior` must be given for a generator that is a Parametric, got None", normal, None),
        (r"`generator` must take latents of shape \(3,\), that of the prior, got \(1,\)", mlp((2,), (1,)), (3,)),
        (r"`encoder` must take events of shape \(2,\) and give latents of shape \(4,\)", mlp((2,), noise=(4,)), None),
    )
    for message, generator, latent_shape in refused:
        with pytest.raises(ValueError, match=message):
            Bidirectional(generator, encoder, critic, prior=latent_shape and StandardNormal(latent_shape))
