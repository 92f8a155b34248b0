"""Posteriors given sets of rows, against conjugate ones."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.simulation import Joint, posterior


@pytest.mark.slow
def test_any_number_of_rows_gives_the_conjugate_posterior():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 50):
            pyro.sample("x", dist.Normal(theta, 1.0), obs=x)

    torch.manual_seed(0)
    joint, steps = Joint(program, observed="x", sizes={"rows": (1, 50)}), 2500
    learned = posterior(joint)
    pg.fit(
        learned,
        joint.fresh(batch_size=256),
        steps=steps,
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        schedule=partial(CosineAnnealingLR, T_max=steps),
        ema=0.99,
        seed=0,
    )
    for rows in (1, 5, 50):
        theta = torch.randn(200, 1)
        x = theta + torch.randn(200, rows)
        with torch.no_grad():
            draws = learned(x).sample((2000,)).squeeze(-1)
        mean, deviation = x.sum(-1) / (rows + 1), (rows + 1) ** -0.5
        # 2,000 draws leave an error of 0.022 deviations in a mean, of 0.016 in a deviation
        assert ((draws.mean(0) - mean) / deviation).square().mean().sqrt() < 0.08
        assert abs((draws.std(0) / deviation).mean() - 1) < 0.04


def test_numbers_of_rows_are_even_in_their_logarithm():
    def program(x=None):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 99):
            pyro.sample("x", dist.Normal(theta, 1.0), obs=x)

    joint = Joint(program, observed="x", sizes={"rows": (1, 99)})
    counts = (~joint.draw(4000, seed=0).observed["x"].isnan()).sum(-1)
    assert counts.min() == 1
    assert counts.max() == 99
    for least, most in ((1, 9), (10, 99)):  # half of them each, within four standard errors
        assert abs(((counts >= least) & (counts <= most)).float().mean() - 0.5) < 0.032
