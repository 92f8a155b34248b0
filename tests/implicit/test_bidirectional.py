"""Bidirectional games: the encoder becomes the posterior, where it is known; calibration finds one that is not."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.core.normal import StandardNormal
from pyrogen.evaluation import Amortized, simulation_based_calibration
from pyrogen.implicit import Bidirectional, mlp_critic

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


def calibration(bidirectional, simulations=600):
    torch.manual_seed(1)
    posterior = Amortized(bidirectional.guide, "x")
    return simulation_based_calibration(
        bidirectional.model,
        posterior,
        observed="x",
        simulations=simulations,
        draws=49,
        generator=seeded(),
    )


def test_calibration_passes_the_exact_posterior_and_fails_a_wrong_one():
    assert calibration(game(Linear(MEAN_SLOPE, SCALE))).test(generator=seeded()).p_value > 0.02
    assert calibration(game(Linear(MEAN_SLOPE, 0.7 * SCALE))).test(generator=seeded()).p_value < 1e-3
    assert calibration(game(Linear(0, 1))).test(generator=seeded()).p_value < 1e-3


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
    encoder = Linear(0.0, 1.0, fixed=False)
    bidirectional = game(encoder, loss=loss)
    result = pg.fit(bidirectional, data(10_000), steps=1500, batch_size=256, lr=3e-3, ema=0.99, seed=0)
    found = torch.stack([encoder.slope, encoder.log_scale.exp()]).detach()
    print(loss, found, MEAN_SLOPE, SCALE, result.reason)
    assert torch.allclose(found, torch.tensor([MEAN_SLOPE, SCALE]), atol=0.05)
