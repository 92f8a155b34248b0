"""Figures of latents show the images of the latents they say."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import pyrogen as pg
from pyrogen.analysis import latent_paths, latent_traversals
from pyrogen.analysis.latents import _great_circle


def decode(z):
    """A 2 x 2 image whose pixels are the latent."""
    return dist.Normal(z.unflatten(-1, (2, 2)), 1.0).to_event(2)


def shown(figure):
    """The grey of every pixel, from 0 (the least value) to 1."""
    return np.asarray(figure.axes[0].images[0].get_array())[..., 0]


def test_a_traversal_sets_one_element_at_a_time():
    figure = latent_traversals(decode, torch.full((4,), 0.5), values=(-1.0, 2.0), elements=(0, 3))
    image = shown(figure)
    assert image.shape == (5, 5)  # two rows and columns of 2 x 2 images with a gap of one pixel
    np.testing.assert_allclose(image[:2, :2], [[0.0, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(image[3:, 3:], [[0.5, 0.5], [0.5, 1.0]])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["z[0]", "z[3]"]


def test_a_straight_path_passes_the_middle():
    first, last = torch.zeros(1, 4), torch.arange(4.0)[None]
    image = shown(latent_paths(decode, first, last, steps=3))
    np.testing.assert_allclose(image[:, 3:5], last.reshape(2, 2) / 6)
    np.testing.assert_allclose(image[:, 6:], last.reshape(2, 2) / 3)


def test_a_great_circle_keeps_the_norm():
    torch.manual_seed(0)
    first, last = (torch.nn.functional.normalize(torch.randn(5, 1, 8), dim=-1) for _ in range(2))
    path = _great_circle(first, last, torch.linspace(0, 1, 7)[:, None])
    torch.testing.assert_close(path.norm(dim=-1), torch.ones(5, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(path[:, 0], first[:, 0], atol=1e-5, rtol=0)


def test_events_without_a_mean_are_drawn():
    vae = pg.latent.vae((4,), latent_shape=(2,), hidden=(8,))
    marginal = pg.latent.Marginal(vae.model, vae.guide, event_shape=(4,))
    figure = latent_traversals(lambda z: marginal().expand(z.shape[:-1]), torch.zeros(2), image_shape=(2, 2))
    assert shown(figure).ndim == 2


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`elements` must lie between 0 and 3"):
        latent_traversals(decode, torch.zeros(4), elements=(4,))
    with pytest.raises(ValueError, match="`first` and `last` must have one shape"):
        latent_paths(decode, torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="`steps` must be at least 2"):
        latent_paths(decode, torch.zeros(1, 4), torch.zeros(1, 4), steps=1)
    with pytest.raises(ValueError, match="`images` must have shape"):
        latent_traversals(lambda z: dist.Normal(z, 1.0).to_event(1), torch.zeros(4))


def test_categories_are_drawn_and_a_latent_may_be_a_number():
    def categories(z):
        return dist.Categorical(logits=torch.zeros(*z.shape, 2, 2, 3)).to_event(2)

    figure = latent_traversals(categories, torch.tensor(0.0), values=(0.0, 1.0))
    assert np.isfinite(np.ma.filled(shown(figure).astype(float), np.nan)[:2, :2]).all()
