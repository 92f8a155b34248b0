"""Many measurements of a denoiser that errs, as networks do: the grid and the twist that are chosen for it."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrogen.diffusion import Denoiser, Diffusion, LinearVP
from pyrogen.inverse import TwistedSMC
from pyrogen.inverse.chain import Chain, data_norm
from pyrogen.inverse.slopes import SingularSlopes
from pyrogen.inverse.smc import default_twist
from pyrogen.inverse.twist import Isotropic, MomentMatched
from pyrogen.numerics.grids import default_grid

SIZE, SCALE, NOISE = 16, 0.5, 0.1


class Erring(Denoiser):
    """The denoiser of a Gaussian, with an error that grows with the noise up to the size of the data."""

    def __init__(self):
        super().__init__((SIZE,), LinearVP())

    def forward(self, x, t, context=None):
        alpha, sigma = self.path(x, t)
        right = alpha * SCALE**2 / (alpha**2 * SCALE**2 + sigma**2) * x
        return right + SCALE * (0.05 * sigma / alpha).clamp(max=1) ** 2 * torch.sin(3 * x)


def measured(count):
    def model(y):
        x = pyro.sample("x", Diffusion(Erring())())
        pyro.sample("y", dist.Normal(x[:count], NOISE).to_event(1), obs=y)

    y = math.hypot(SCALE, NOISE) * torch.randn(count)
    return model, y, dist.Normal(0.0, math.hypot(SCALE, NOISE)).log_prob(y).sum()


def test_many_measurements_do_not_collapse():
    torch.manual_seed(0)
    model, y, exact = measured(12)
    posterior = TwistedSMC(model, site="x", particles=500, steps=60).run(y)
    diagnostics = posterior.diagnostics()
    assert diagnostics.twist == "Isotropic"
    assert not diagnostics.collapsed
    assert diagnostics.effective_sample_size.min() > 50  # 179 to 216 for six other seeds
    assert abs(posterior.log_evidence - exact) < 5 / diagnostics.effective_sample_size.min().sqrt() + 0.1
    mean = SCALE**2 / (SCALE**2 + NOISE**2) * y
    deviation = SCALE * NOISE / math.hypot(SCALE, NOISE)
    error = posterior.get_samples()["x"][:, :12].mean(0) - mean
    assert (error.abs() / deviation).max() < 5 / diagnostics.effective_sample_size.min().sqrt() + 0.1


def test_the_grid_begins_at_five_norms_of_the_data():
    def denoise(x, level):
        return level.alpha * SCALE**2 / (level.alpha**2 * SCALE**2 + level.sigma**2) * x

    norm = data_norm(LinearVP(), denoise, (1, SIZE), torch.zeros(()))
    assert norm == pytest.approx(SCALE * SIZE**0.5, rel=5 / (2 * 512 * SIZE) ** 0.5 + 0.01)
    levels = Chain(LinearVP(), default_grid(LinearVP(), 10, norm=norm)).levels
    assert levels[0].sigma / levels[0].alpha == pytest.approx(5 * norm, rel=1e-3)
    assert levels[-1].sigma / levels[-1].alpha == pytest.approx(0.01, rel=1e-3)
    whole = Chain(LinearVP(), default_grid(LinearVP(), 10)).levels
    assert whole[0].time == 1.0
    assert Chain(LinearVP(), default_grid(LinearVP(), 10, norm=1e3)).levels == whole


class Measured:
    """A target whose surrogates have one operator."""

    def __init__(self, operator):
        matrix = operator.expand(1, 1, *operator.shape)
        self.slopes, self.residual = SingularSlopes(torch.ones(1, 1, len(operator)), matrix), matrix[..., 0]
        self.exact = True

    def surrogate(self, x):
        return self


def test_few_measurements_are_matched_and_many_get_the_variance_of_what_is_measured():
    torch.manual_seed(0)
    data = torch.randn(4000, 1, 8) * torch.tensor([3.0, 3.0, 3.0, 3.0, 3.0, 0.1, 0.1, 0.1])
    assert isinstance(default_twist(Measured(torch.eye(8)[:4]), data), MomentMatched)
    twist = default_twist(Measured(2 * torch.eye(8)[:5]), data)
    assert isinstance(twist, Isotropic)
    assert twist.variance == pytest.approx(9.0, rel=5 * (4 / (5 * 4000)) ** 0.5)
    assert default_twist(Measured(torch.zeros(5, 8)), data).variance == 1.0
