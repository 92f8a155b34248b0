"""The variances of the steps of a chain against closed forms."""

import pyro.distributions as dist
import pytest
import torch
from inverse_problems import gaussian

from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
from pyrogen.inverse.chain import Chain
from pyrogen.numerics.grids import default_grid


def calibrated(prior, problems=1, **settings):
    """A chain of twenty steps, the particles of its pilot run, and the errors of an exact denoiser's means."""
    denoiser = prior.denoiser
    chain = Chain(denoiser.schedule, default_grid(denoiser.schedule, 20))
    size = denoiser.event_shape[0]

    def denoise(x, level):
        return denoiser(x, torch.tensor(level.time))

    last = chain.calibrate(denoise, (problems, size), torch.zeros(()), **settings)
    return chain, last


def test_numbers_that_vary_together():
    """Of 256 of them, alike but for the ends, a probe is mostly noise: 60 % for one number at a noise of one."""
    torch.manual_seed(0)
    covariance = 0.9 ** (torch.arange(256).unsqueeze(1) - torch.arange(256)).abs()
    chain, _ = calibrated(gaussian(torch.zeros(256), covariance))
    values, vectors = torch.linalg.eigh(covariance.double())
    for level, error in zip(chain.levels, chain.errors, strict=True):
        if 0.01 < level.variance < 100:
            exact = vectors.square() @ (1 / (1 / values.clamp_min(1e-9) + 1 / level.variance))
            assert (error / exact - 1).square().mean().sqrt() < 0.2
            assert abs(error.mean() / exact.mean() - 1) < 0.1


def test_numbers_of_different_spreads_keep_their_own():
    """Where nothing varies together a probe has no noise, and errors are exact."""
    scale = torch.tensor([2.0, 1.5, 1.0, 0.7, 0.5, 0.1])
    prior = Diffusion(GaussianMixtureDenoiser(dist.Normal(torch.zeros(6), scale).to_event(1), LinearVP()))
    chain, _ = calibrated(prior)
    for level, error in zip(chain.levels, chain.errors, strict=True):
        torch.testing.assert_close(error, 1 / (scale**-2 + 1 / level.variance), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("problems", "least", "count"), [(1, 1, 42), (10, 1, 4), (200, 1, 1), (200, 32, 32)])
def test_a_pilot_run_is_shared_by_problems(problems, least, count):
    """No more than its averages need, of all problems together, unless each needs draws of its own."""
    prior = gaussian(torch.zeros(192), torch.eye(192))
    _, last = calibrated(prior, problems, least=least)
    assert last.shape == (count, problems, 192)
