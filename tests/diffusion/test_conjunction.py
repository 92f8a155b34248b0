"""Conjunctions of contexts against products of Gaussians."""

import math

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen.diffusion import Conjunction, CosineVP, Diffusion
from pyrogen.diffusion.denoiser import Denoiser

SCALES = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
NOISE = 0.4


class Measured(Denoiser):
    """The exact denoiser of independent Gaussian elements, one of which may be measured: context ``(element, y)``."""

    def __init__(self, shape=(2,)):
        super().__init__((3,), CosineVP(), context_shape=shape)
        self.blind = 0

    def forward(self, x, t, context=None):
        alpha, sigma = self.path(x, t)
        mean, variance = torch.zeros(3, dtype=torch.float64), SCALES**2
        if context is None:
            self.blind += 1
        else:
            pair = context if isinstance(context, torch.Tensor) else torch.stack([context["place"], context["y"]], -1)
            here = nn.functional.one_hot(pair[..., 0].long(), 3)
            precision = 1 / variance + here / NOISE**2
            mean, variance = here * pair[..., 1:] / NOISE**2 / precision, 1 / precision
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)


def posterior(places, values):
    """Mean and standard deviation given several elements with noise."""
    measured = torch.zeros(3, dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.float64)
    for place, value in zip(places, values, strict=True):
        measured[place], y[place] = 1 / NOISE**2, value
    precision = SCALES**-2 + measured
    return measured * y / precision, precision.rsqrt()


def test_contexts_about_independent_parts_are_combined_exactly():
    both = Diffusion(Conjunction(Measured(), weights=(1.0, 1.0)))
    context = torch.tensor([[0.0, 0.8], [2.0, -1.5]], dtype=torch.float64)
    mean, scale = posterior((0, 2), (0.8, -1.5))
    torch.manual_seed(0)
    noise = torch.randn(4000, 3, dtype=torch.float64)
    draws = both.sampler(both.denoiser, noise, context)
    # Five standard errors of means and standard deviations of 4,000 draws.
    assert ((draws.mean(0) - mean).abs() < 5 * scale / 4000**0.5).all()
    assert ((draws.std(0) - scale).abs() < 5 * scale / 8000**0.5).all()
    alpha, sigma = both.denoiser.schedule(torch.tensor(0.6, dtype=torch.float64))
    x = torch.randn(5, 3, dtype=torch.float64)
    exact = mean + alpha * scale**2 / (alpha**2 * scale**2 + sigma**2) * (x - alpha * mean)
    assert torch.allclose(both.denoiser(x, 0.6, context), exact)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0, -1.0), (-1.0, 1.0, 1.0)])
def test_scores_are_summed(weights):
    denoiser = Measured()
    combined = Conjunction(denoiser, weights=weights)
    torch.manual_seed(1)
    x, t = torch.randn(7, 3, dtype=torch.float64), torch.rand(7, dtype=torch.float64)
    context = torch.stack([torch.tensor([float(k % 3), 0.3 * k], dtype=torch.float64) for k in range(len(weights))])
    none = denoiser.score(x, t)
    expected = none + sum(w * (denoiser.score(x, t, c) - none) for w, c in zip(weights, context, strict=True))
    assert torch.allclose(combined.score(x, t, context), expected, rtol=1e-6, atol=1e-8)


def test_weights_that_sum_to_one_need_no_answer_without_context():
    denoiser = Measured()
    x, context = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    Conjunction(denoiser, weights=(-1.0, 1.0, 1.0))(x, 0.5, context)
    assert denoiser.blind == 0
    Conjunction(denoiser, weights=(1.0, 1.0, 1.0))(x, 0.5, context)
    assert denoiser.blind == 1


def test_batches_of_contexts_and_dicts():
    torch.manual_seed(2)
    context = torch.tensor([[0.0, 0.8], [2.0, -1.5]], dtype=torch.float64)
    combined = Conjunction(Measured(), weights=(1.0, 1.0))
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    rows = torch.stack([context, context.flip(0), context * torch.tensor([1.0, 2.0]), context, context])  # (5, 2, 2)
    found = combined(x, 0.5, rows)
    for place, row in enumerate(rows):
        assert torch.allclose(found[:, place], combined(x[:, place], 0.5, row))
    assert combined(x[0, 0], 0.5, rows).shape == (5, 3)
    named = Conjunction(Measured({"place": (), "y": ()}), weights=(1.0, 1.0))
    assert named.context_shape == {"place": (2,), "y": (2,)}
    parts = {"place": rows[..., 0], "y": rows[..., 1]}
    assert torch.allclose(named(x, 0.5, parts), found)


@pytest.mark.slow
def test_the_contract_holds():
    model = pg.diffusion.mlp((3,), (2,), width=16, depth=1, context_dropout=0.1).eval()
    combined = Diffusion(Conjunction(model.denoiser, weights=(1.0, 2.0)))
    pg.testing.check_distribution(lambda: combined, event_shape=(3,), context=torch.randn(4, 2, 2))


def test_a_caption_by_parts():
    model = pg.diffusion.unet((3, 8, 8), (4,), classes=5, channels=(8, 8), depth=1, context_dropout=0.1).eval()
    combined = Diffusion(Conjunction(model.denoiser, weights=(1.0, 1.0)))
    captions = torch.tensor([[[0, 1, -1, 2], [0, -1, 3, 2]]])
    assert combined(captions).sample().shape == (1, 3, 8, 8)


def test_refusals():
    with pytest.raises(ValueError, match="`denoiser` must have contexts to be combined"):
        Conjunction(pg.diffusion.mlp((2,)).denoiser, weights=(1.0,))
    with pytest.raises(ValueError, match="`weights` must have one number for each context"):
        Conjunction(Measured(), weights=())
    with pytest.raises(ValueError, match="`weights`"):
        Conjunction(Measured(), weights=(1.0, math.nan))
    with pytest.raises(ValueError, match="must end in shape \\(2, 2\\)"):
        Conjunction(Measured(), weights=(1.0, 1.0))(torch.zeros(3, dtype=torch.float64), 0.5, torch.zeros(3, 2))


def test_a_model_in_the_place_of_its_denoiser_is_named():
    model = pg.diffusion.mlp((2,), (), classes=3, context_dropout=0.1, width=8, depth=1)
    with pytest.raises(TypeError, match="`denoiser` must be a Denoiser, got Diffusion"):
        Conjunction(model, weights=(1.0,))
    with pytest.raises(TypeError, match="`denoiser` must be a Denoiser, got Diffusion"):
        pg.diffusion.ClassifierFree(model, weight=2.0)
    with pytest.raises(TypeError, match="`weights` must be a Sequence, got float"):
        Conjunction(model.denoiser, weights=1.0)
