import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.autograd import gradcheck

from pyrogen.numerics.kernels import (
    DistanceKernel,
    GaussianKernel,
    InverseMultiquadricKernel,
    LaplaceKernel,
    multiscale,
)
from pyrogen.numerics.pairwise import squared_distances
from pyrogen.numerics.wasserstein import along, ascended, directions, wasserstein_on_the_line

SEED = torch.Generator().manual_seed(0)


def noise(*shape):
    return torch.randn(*shape, dtype=torch.double, generator=SEED)


@pytest.mark.parametrize(("m", "n"), [(7, 7), (6, 4), (5, 11), (1, 8)])
@pytest.mark.parametrize("order", [1.0, 2.0, 3.5])
def test_the_distance_on_the_line_is_that_of_the_sample_repeated(m, n, order):
    """Each point of one as often as the other has points: samples of one size, the same distributions."""
    x, y = noise(3, m), 2 * noise(3, n) + 1
    many_x, many_y = x.repeat_interleave(n, -1).sort(-1).values, y.repeat_interleave(m, -1).sort(-1).values
    expected = (many_x - many_y).abs().pow(order).mean(-1)
    assert torch.allclose(wasserstein_on_the_line(x, y, order), expected, rtol=1e-12)
    if order == 1:
        assert float(wasserstein_on_the_line(x, y, 1.0)[0]) == pytest.approx(wasserstein_distance(x[0], y[0]))


@pytest.mark.parametrize("n", [6, 4])
def test_its_gradient_is_exact(n):
    x, y = noise(6).requires_grad_(), noise(n).requires_grad_()
    assert gradcheck(wasserstein_on_the_line, (x, y))


def test_directions_are_uniform_on_the_sphere_and_one_on_the_line():
    lines = directions(40_000, torch.zeros(2, 3))
    assert torch.allclose(lines.norm(dim=1), torch.ones(40_000))
    assert torch.allclose(lines.T @ lines / 40_000, torch.eye(3) / 3, atol=5 * (4 / 45 / 40_000) ** 0.5)
    assert torch.equal(directions(40, torch.zeros(2, 1)), torch.ones(1, 1))


def test_ascent_finds_the_direction_of_a_shift():
    shift = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.double)
    x = noise(500, 6)
    steep = ascended(directions(3, x), x, x + shift, steps=20)
    assert torch.allclose((steep @ shift).abs(), torch.tensor(5.0, dtype=torch.double), rtol=1e-6)
    assert torch.allclose(along(steep, x, x + shift), torch.tensor(25.0, dtype=torch.double), rtol=1e-6)


def test_squared_distances_are_those_of_cdist_far_from_the_origin():
    x, y = noise(30, 4).float() + 100, noise(40, 4).float() + 100
    exact = torch.cdist(x.double(), y.double()).square()
    assert torch.allclose(squared_distances(x, y).double(), exact, atol=1e-5)
    assert gradcheck(squared_distances, (noise(3, 2).requires_grad_(), noise(4, 2).requires_grad_()))


@pytest.mark.parametrize(
    "kernel",
    [
        GaussianKernel(0.7),
        LaplaceKernel(0.7),
        InverseMultiquadricKernel(0.7),
        DistanceKernel(),
        multiscale().fitted(1.3),
    ],
)
def test_a_kernel_of_squared_distance_is_that_of_distance(kernel):
    distance = torch.linspace(1e-3, 4, 50, dtype=torch.double)
    assert torch.allclose(kernel.of_squared(distance.square()), kernel(distance), rtol=1e-9)
    x, y = noise(4, 2) + 50, noise(3, 2) + 50
    assert torch.allclose(kernel.between(x, y), kernel(torch.cdist(x, y)), rtol=1e-6)
    at_zero = torch.zeros(1, requires_grad=True)
    kernel.of_squared(at_zero).sum().backward()
    assert at_zero.grad.isfinite().all()
