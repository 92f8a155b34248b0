"""Kernels: two ways to the same number, at any scale, with gradients that are finite where points coincide."""

import pytest
import torch

from pyrogen.numerics.kernels import DistanceKernel, GaussianKernel, InverseMultiquadricKernel, KernelSum, LaplaceKernel
from pyrogen.numerics.pairwise import squared_distances


@pytest.mark.parametrize("scale", [1e-12, 1e-8, 1.0, 1e8])
def test_of_squared_distances_at_any_scale(scale):
    torch.manual_seed(0)
    x = scale * torch.randn(30, 2, dtype=torch.double)
    y = scale * torch.randn(20, 2, dtype=torch.double)
    distance = (x[:, None] - y).norm(dim=-1)
    width = 0.7 * scale
    kernels = [LaplaceKernel(width), GaussianKernel(width), InverseMultiquadricKernel(width), DistanceKernel()]
    for kernel in (*kernels, KernelSum(tuple(kernels[:3]))):
        torch.testing.assert_close(kernel.of_squared(squared_distances(x, y)), kernel(distance), rtol=1e-6, atol=0)
        torch.testing.assert_close(kernel.between(x, y), kernel(distance), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
@pytest.mark.parametrize("kernel", [LaplaceKernel(1.0), GaussianKernel(1.0), DistanceKernel()])
def test_gradients_where_points_coincide_are_finite(kernel, dtype):
    x = torch.randn(10, 2, dtype=dtype).requires_grad_()
    for total in (kernel.of_squared(squared_distances(x, x.detach())).sum(), kernel.between(x, x.detach()).sum()):
        (gradient,) = torch.autograd.grad(total, x)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 20
