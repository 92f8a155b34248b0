"""Denoisers that are of one prior pass at their level, those that are not fail, at the noise where they are not."""

import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.diffusion import CosineVP, CovarianceAncestral, Denoiser, Diffusion, GaussianMixtureDenoiser
from pyrogen.evaluation import self_consistency

MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(torch.tensor([0.3, 0.7])),
    dist.Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.tensor([[0.3, 0.2], [0.1, 0.4]])).to_event(1),
)


class Wrong(Denoiser):
    """The right denoiser of a Gaussian but for a band of noise levels, in which data are taken to vary less."""

    def __init__(self, share, band):
        super().__init__((2,), CosineVP())
        self.share, self.band = share, band

    def forward(self, x, t, context=None):
        alpha, sigma = self.path(x, t)
        noise = sigma / alpha
        variance = torch.where((noise > self.band[0]) & (noise < self.band[1]), self.share, 1.0)
        return variance * x / alpha / (variance + noise**2)


def exact_posterior(noisy, noise):
    """Draws of standard normal data given noisy ones."""
    variance = 1 / (1 + noise**-2)
    return variance * noisy / noise**2 + variance**0.5 * torch.randn_like(noisy)


def test_an_exact_denoiser_passes_at_its_level():
    torch.manual_seed(0)
    found = [
        self_consistency(exact_posterior, torch.randn(50, 2), noises=(0.3, 1.0), moves=(1, 3), permutations=199)
        for _ in range(100)
    ]
    for level in (0.1, 0.3):
        rejected = sum(each.p_value < level for each in found)
        # Never more often than the level, but for the noise of 100 runs.
        assert rejected <= 100 * level + 3 * (100 * level * (1 - level)) ** 0.5
    # Of a single comparison the p-value is uniform.
    single = torch.tensor([each.changes[0].p_value for each in found])
    assert abs(single.mean() - 0.5) < 3 / (12 * 100) ** 0.5 + 0.01


@pytest.mark.parametrize("density", [dist.Normal(torch.ones(2), torch.tensor([1.0, 0.3])).to_event(1), MIXTURE])
@pytest.mark.parametrize("of_model", [False, True])
def test_the_flow_of_an_analytic_denoiser_passes(density, of_model):
    torch.manual_seed(1)
    model = Diffusion(GaussianMixtureDenoiser(density, CosineVP()))
    start = None if of_model else density.sample((500,))
    found = self_consistency(model, start, noises=(0.05, 0.3, 1.0), moves=(1, 5), steps=30)
    assert found.changed_at() == []
    assert found.p_value > 0.05
    assert "no change was found" in str(found)


def test_draws_with_the_covariance_of_the_datum_pass():
    torch.manual_seed(5)
    covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
    data = dist.MultivariateNormal(torch.zeros(2), covariance)
    model = Diffusion(GaussianMixtureDenoiser(data, CosineVP()))
    statistics = {"product": lambda x: x.prod(1), "difference": lambda x: x.diff(dim=1).square().squeeze(1)}
    found = self_consistency(
        model, data.sample((500,)), statistics=statistics, sampler=lambda grid: CovarianceAncestral(grid, passes=3)
    )
    assert found.changed_at() == []


def test_a_wrong_denoiser_fails_where_it_is_wrong():
    torch.manual_seed(2)
    found = self_consistency(Diffusion(Wrong(0.3, (0.6, 10.0))), torch.randn(1000, 2), noises=(0.05, 0.3, 1.0))
    assert found.changed_at() == [1.0]
    assert "the law changes at noise 1 " in str(found)
    assert found.changes[-1].change["variance"].value < -10 * found.changes[-1].change["variance"].standard_error
    right = self_consistency(Diffusion(Wrong(1.0, (0.6, 10.0))), torch.randn(1000, 2), noises=(0.05, 0.3, 1.0))
    assert right.changed_at() == []


def test_the_change_of_a_gaussian_is_the_closed_form():
    """A move that takes data of variance one for data of variance v."""
    torch.manual_seed(3)
    v, r = 0.5, 0.8

    def move(noisy, noise):
        gain = v / (v + noise**2)
        return gain * noisy + (gain * noise**2) ** 0.5 * torch.randn_like(noisy)

    changes = []
    x = torch.randn(500, 1)
    for _ in range(20):
        result = self_consistency(move, x, noises=(r,), moves=(1,), permutations=99)
        changes.append(result.changes[0].change["variance"].value)
    gain = v / (v + r**2)
    exact = gain**2 * (1 + r**2) + gain * r**2 - x.var().item() + gain**2 * (x.var().item() - 1)
    assert torch.tensor(changes).mean().item() == pytest.approx(exact, abs=5 * (2 / 10_000) ** 0.5)


def test_statistics_of_images_and_of_the_caller():
    torch.manual_seed(4)
    images = dist.Normal(torch.zeros(1, 4, 4), 1.0).to_event(3)
    model = Diffusion(GaussianMixtureDenoiser(images, CosineVP()))
    found = self_consistency(model, draws=50, noises=(0.5,), moves=(1,))
    assert list(found.changes[0].change) == ["mean", "variance", "neighbours"]
    assert found.changes[0].before["neighbours"].value == pytest.approx(2.0, abs=5 * 4 / (24 * 50) ** 0.5)
    own = {"corner": lambda x: x[:, 0, 0, 0]}
    found = self_consistency(model, draws=50, noises=(0.5,), moves=(1,), statistics=own)
    assert list(found.changes[0].change) == ["corner"]
    with pytest.raises(ValueError, match=r"`statistics` must give one number for each draw, \(50,\), got \(50, 4\)"):
        self_consistency(model, draws=50, noises=(0.5,), statistics={"row": lambda x: x[:, 0, 0]})


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`model` must have a denoiser of real numbers"):
        self_consistency(pg.flows.affine_coupling((2,), layers=1), torch.randn(5, 2))
    with pytest.raises(ValueError, match="`start` must be given with a function"):
        self_consistency(exact_posterior)
    with pytest.raises(ValueError, match="`start` must hold at least two draws"):
        self_consistency(exact_posterior, torch.randn(1, 2))
    with pytest.raises(ValueError, match="`noises` must be positive"):
        self_consistency(exact_posterior, torch.randn(5, 2), noises=(0.0,))
    with pytest.raises(ValueError, match="`moves` must be at least 1"):
        self_consistency(exact_posterior, torch.randn(5, 2), moves=(0,))
