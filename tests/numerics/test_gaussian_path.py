"""The path of Gaussian noise: its parts against each other, its transitions against Gaussian conditioning."""

import pytest
import torch

from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.schedules import EDM, CosineVP, LinearVP, RectifiedFlow


@pytest.fixture(params=[CosineVP, LinearVP, EDM, RectifiedFlow], ids=lambda schedule: schedule.__name__)
def path(request):
    """The path at seven times, from much noise to little."""
    return request.param()(torch.linspace(0.9, 0.1, 7, dtype=torch.float64))


def test_data_and_noise_are_found_again(path):
    data, noise = torch.randn(2, 7, 3, dtype=torch.float64)
    wide = path.over(1)
    x = wide.mix(data, noise)
    assert torch.allclose(wide.noise(x, data), noise)
    assert torch.allclose(wide.data(x, noise), data)
    assert torch.allclose(wide.score(noise), -(x - wide.alpha * data) / wide.sigma**2)


def test_mix_of_the_derivatives_is_the_velocity():
    schedule, t = LinearVP(), torch.tensor(0.4, dtype=torch.float64)
    data, noise = torch.randn(2, 3, dtype=torch.float64)
    velocity = GaussianPath(*schedule.derivatives(t)).mix(data, noise)
    ahead, behind = (schedule(t + step).mix(data, noise) for step in (1e-6, -1e-6))
    assert torch.allclose((ahead - behind) / 2e-6, velocity, rtol=1e-6)


def test_transitions_are_those_of_gaussian_conditioning(path):
    later, earlier = path.steps()
    forward = later.alpha / earlier.alpha
    between = later.between(earlier)
    assert torch.allclose(forward**2 * earlier.sigma**2 + between, later.sigma**2)
    # Given x_0 = 0 and 1: x_s is normal, and x_t = forward * x_s + noise.
    posterior = later.posterior(earlier)
    precision = 1 / earlier.sigma**2 + forward**2 / between
    assert torch.allclose(posterior.variance, 1 / precision)
    assert torch.allclose(posterior.noisy, forward / between / precision)
    assert torch.allclose(posterior.data, earlier.alpha / earlier.sigma**2 / precision)


def test_coordinates_are_those_of_a_rectified_flow(path):
    data, noise = torch.randn(2, 7, dtype=torch.float64)
    straight = GaussianPath(1 - path.flow_time, path.flow_time)
    assert torch.allclose(path.mix(data, noise) / path.total, straight.mix(data, noise))
    assert torch.allclose(path.ratio, straight.ratio)
    assert torch.allclose(path.whitening(0.5), 1 / (0.25 * path.alpha**2 + path.sigma**2).sqrt())
