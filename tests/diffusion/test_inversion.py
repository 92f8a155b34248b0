"""Editing by inversion against the flows of Gaussians."""

import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.diffusion import CosineVP, Diffusion, GaussianMixtureDenoiser, RectifiedFlow, difference_map
from pyrogen.diffusion import edit_by_inversion as edited
from pyrogen.numerics.ode import AdaptiveSolver

ACCURATE = AdaptiveSolver(1e-9)


def gaussian(mean, scale, schedule=None):
    law = dist.Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)).to_event(1)
    return Diffusion(GaussianMixtureDenoiser(law, CosineVP() if schedule is None else schedule))


def carried(x, mean, scale, here, there):
    """The probability flow of a Gaussian: deviations from the mean are scaled as the standard deviation is."""
    before, after = ((path.alpha * scale) ** 2 + path.sigma**2 for path in (here, there))
    return there.alpha * mean + (after / before).sqrt() * (x - here.alpha * mean)


@pytest.mark.parametrize("time", [1.0, 0.5])
def test_an_edit_between_gaussians_is_the_composition_of_their_flows(time):
    means, scales = ([0.5, -1.0], [2.0, 1.0]), ([0.3, 1.0], [0.8, 0.5])
    before, after = (gaussian(mean, scale) for mean, scale in zip(means, scales, strict=True))
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, dtype=torch.float64)
    start, end = (before.denoiser.schedule(torch.tensor(t, dtype=torch.float64)) for t in (0.0, time))
    (m0, m1), (s0, s1) = (torch.tensor(pair, dtype=torch.float64) for pair in (means, scales))
    noisy = carried(start.alpha * x, m0, s0, start, end)
    expected = carried(noisy, m1, s1, end, start) / start.alpha
    assert torch.allclose(edited(before(), after(), x, time=time, solver=ACCURATE), expected, atol=1e-6)
    if time == 1.0:  # whitened by one, coloured by the other
        assert torch.allclose(expected, m1 + s1 / s0 * (x - m0), atol=5e-3)


def test_without_another_context_nothing_changes():
    prior = pg.diffusion.mlp((2,), (), classes=3, width=16, depth=1).eval()
    x, labels = torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])
    assert torch.allclose(edited(prior(labels), prior(labels), x, solver=AdaptiveSolver(1e-6)), x, atol=1e-3)


def test_contexts_of_rows_and_dicts():
    torch.manual_seed(0)
    prior = pg.diffusion.mlp((2,), {"a": (), "b": (3,)}, classes={"a": 3}, width=16, depth=1).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, a, b = torch.randn(4, 2), torch.tensor([0, 1, 2, 0]), torch.randn(4, 3)
    old, new = {"a": a, "b": b}, {"a": (a + 1) % 3, "b": b}
    together = edited(prior(old), prior(new), x, solver=AdaptiveSolver(1e-4))
    for row in range(4):
        one = {key: value[row] for key, value in old.items()}, {key: value[row] for key, value in new.items()}
        alone = edited(prior(one[0]), prior(one[1]), x[row], solver=AdaptiveSolver(1e-4))
        assert torch.allclose(alone, together[row], atol=2e-2)  # single precision along a long path
    assert edited(prior(old), prior(new), x[0]).shape == (4, 2)


def test_what_is_kept_stays_and_leads_the_rest():
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    before, after = (
        Diffusion(
            GaussianMixtureDenoiser(
                dist.MultivariateNormal(torch.tensor(mean, dtype=torch.float64), covariance), CosineVP()
            )
        )
        for mean in ([0.0, 0.0], [0.0, 3.0])
    )
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    kept = torch.tensor([True, False])
    found = edited(before(), after(), x, kept=kept, solver=ACCURATE)
    # One covariance, and means that differ in the free element alone: it is moved by their difference.
    assert torch.allclose(found, x + torch.tensor([0.0, 3.0], dtype=torch.float64), atol=5e-3)
    everything = torch.ones(2, dtype=torch.bool)
    assert torch.allclose(edited(before(), after(), x, kept=everything, solver=ACCURATE), x, atol=1e-6)
    nothing = edited(before(), after(), x, kept=~everything, solver=ACCURATE)
    assert torch.allclose(nothing, edited(before(), after(), x, solver=ACCURATE), atol=1e-6)


def test_the_difference_of_gaussians_is_that_of_their_means():
    before, after = gaussian([0.0, 1.0], [0.5, 0.7]), gaussian([2.0, 1.0], [0.5, 0.7])
    alpha, sigma = before.denoiser.schedule(torch.tensor(0.4, dtype=torch.float64))
    kept = sigma**2 / (alpha**2 * 0.5**2 + sigma**2)  # of the difference of the means, the rest is seen from the datum
    found = difference_map(before(), after(), torch.zeros(6, 2, dtype=torch.float64), time=0.4, draws=3)
    assert torch.allclose(found, torch.tensor([[2.0, 0.0]], dtype=torch.float64) * kept.expand(6, 1), atol=1e-6)


def test_refusals():
    one = gaussian([0.0, 0.0], [1.0, 1.0])
    x = torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="`before` must have a denoiser, got Normal"):
        edited(dist.Normal(0.0, 1.0), one(), x)
    with pytest.raises(ValueError, match="`after` must have event_shape \\(2,\\)"):
        edited(one(), gaussian([0.0], [1.0])(), x)
    with pytest.raises(ValueError, match="`after` must have the schedule of `denoiser`"):
        edited(one(), gaussian([0.0, 0.0], [1.0, 1.0], RectifiedFlow())(), x)
    with pytest.raises(ValueError, match="`time`"):
        edited(one(), one(), x, time=0.0)
    with pytest.raises(TypeError, match="`solver`"):
        edited(one(), one(), x, solver=0.1)
    with pytest.raises(ValueError, match="`kept` must be a tensor of booleans, got torch.float64"):
        edited(one(), one(), x, kept=x)
    with pytest.raises(ValueError, match="`pictures` must end in shape \\(2,\\)"):
        difference_map(one(), one(), torch.zeros(3))
    with pytest.raises(ValueError, match="`draws`"):
        difference_map(one(), one(), x, draws=0)


def test_shapes_and_kinds_that_do_not_fit_are_named():
    old, new = gaussian([0.0, 0.0], [1.0, 1.0])(), gaussian([3.0, 0.0], [0.5, 1.0])()
    pictures = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="`kept` must broadcast"):
        edited(old, new, pictures, kept=torch.ones(5, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="batch shapes must broadcast to one, got .* of `before`"):
        edited(old.expand((2,)), new, pictures)
    with pytest.raises(ValueError, match="`pictures` must hold numbers"):
        difference_map(old, new, pictures * torch.nan)
    with pytest.raises(TypeError, match="`pictures` must be"):
        difference_map(old, new, pictures.long())


def test_pictures_of_another_precision_are_named():
    prior = pg.diffusion.mlp((2,), (), classes=3, width=8, depth=1)
    old, new = prior(torch.tensor(0)), prior(torch.tensor([1, 2]))
    for change in (edited, difference_map):
        with pytest.raises(ValueError, match=r"`pictures` must have the precision .* torch.float32"):
            change(old, new, torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"`picture` must have the precision .* torch.float32"):
        pg.diffusion.edit(old, torch.zeros(2, dtype=torch.float64), 0.5)
    with pytest.raises(ValueError, match=r"batch shapes must broadcast to one, got \(3,\) of `picture`"):
        pg.diffusion.edit(new, torch.zeros(3, 2), 0.5)
