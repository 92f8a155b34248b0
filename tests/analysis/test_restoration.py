"""Figures of inverse problems show the pixels, spreads and densities they say they show."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyrogen.analysis import edited_images, posterior_histogram, posterior_images
from pyrogen.diffusion.editing import TradeOff

CURVE = [TradeOff(0.3, 0.1, -2.0), TradeOff(0.6, 0.3, -1.0)]


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


FIGURES = {
    "grey": lambda: posterior_images(images(8, 8), images(8, 8).log(), images(9, 8, 8), unit="ink"),
    "without truth": lambda: posterior_images(None, images(8, 4), images(9, 8, 8), shown=0),
    "colour": lambda: posterior_images(images(3, 8, 8), images(8, 8), images(9, 3, 8, 8)),
    "rows": lambda: posterior_images(images(2, 3, 8, 8), images(2, 1, 4, 4), images(9, 2, 3, 8, 8), rows=["a", "b"]),
    "half precision": lambda: posterior_images(None, images(8, 8).bfloat16(), images(9, 8, 8).half()),
    "histogram": lambda: posterior_histogram(images(50), prior=torch.distributions.Beta(2.0, 2.0), truth=0.5, name="p"),
    "histogram of one draw": lambda: posterior_histogram([1.0]),
    "edits": lambda: edited_images(images(1, 8, 8), images(2, 3, 1, 8, 8), CURVE),
    "colour edits": lambda: edited_images(images(3, 8, 8), images(2, 1, 3, 8, 8), CURVE, real=-1.0, limits=(0, 1)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_can_be_saved(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 2000


def shown(figure):
    """The pixels of each panel by its place, row by row, and the titles of the first row."""
    panels = [axes for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]
    return [axes.images[0].get_array() for axes in panels], [axes.get_title() for axes in panels if axes.get_title()]


def test_every_row_shows_its_own_images():
    truth, observation, draws = images(2, 3, 8, 8), images(2, 1, 4, 4), images(9, 2, 3, 8, 8)
    pixels, titles = shown(posterior_images(truth, observation, draws, shown=2, limits=(0, 1)))
    assert titles == ["truth", "observation", "posterior mean", "draw 1", "draw 2", "std. deviation"]
    for row in range(2):
        expected = [truth[row], observation[row].expand(3, 4, 4), draws.mean(0)[row], draws[0, row], draws[-1, row]]
        for found, image in zip(pixels[6 * row :], expected, strict=False):
            np.testing.assert_allclose(found[..., :3], image.permute(1, 2, 0), atol=1e-6)
        deviation = draws[:, row].var(0, correction=0).mean(0).sqrt()
        np.testing.assert_allclose(pixels[6 * row + 5], deviation, atol=1e-6)


def test_what_was_not_observed_is_not_seen():
    observation = torch.tensor([[0.0, torch.nan], [0.5, 2.0]])
    pixels, _ = shown(posterior_images(None, observation, images(3, 2, 2), limits=(0, 1)))
    np.testing.assert_allclose(pixels[0][..., 3], [[1, 0], [1, 1]])
    np.testing.assert_allclose(pixels[0][..., 0], [[0, 0], [0.5, 1]])


def test_histogram_and_prior_are_densities():
    prior = torch.distributions.Exponential(2.0)
    axes = posterior_histogram(images(500), prior=prior, truth=0.25).axes[0]
    assert sum(bar.get_height() * bar.get_width() for bar in axes.patches) == pytest.approx(1)
    place, density = axes.lines[0].get_data()
    assert place.min() >= 0
    np.testing.assert_allclose(density, 2 * np.exp(-2 * place), rtol=1e-5)
    assert set(axes.lines[1].get_xdata()) == {0.25}


def test_the_curve_lies_beside_its_pictures():
    figure = edited_images(images(1, 8, 8), images(2, 3, 1, 8, 8), CURVE, limits=(0, 1))
    pixels, titles = shown(figure)
    assert titles == ["strokes", "t = 0.3", "t = 0.6"]
    assert len(pixels) == 7
    curve = next(axes for axes in figure.axes if axes.lines)
    np.testing.assert_allclose(curve.lines[0].get_xydata(), [[0.1, -2.0], [0.3, -1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior_images(images(8), images(8, 8), images(3, 8, 8)), "`truth` must hold images"),
        (lambda: posterior_images(None, images(8, 8), images(8, 8)), "`draws` must hold images"),
        (lambda: posterior_images(None, images(8, 8), images(0, 8, 8)), "`draws` must hold a draw"),
        (lambda: posterior_images(None, images(2, 8, 8), images(3, 8, 8)), "`observation` must hold images"),
        (lambda: posterior_images(None, images(8, 8), images(3, 2, 1, 8, 8)), "equally many rows"),
        (lambda: posterior_images(None, images(8, 8), images(3, 8, 8), rows=["a", "b"]), "equally many rows"),
        (lambda: posterior_histogram([]), "`draws` must hold a draw"),
        (lambda: edited_images(images(8, 8), images(3, 2, 8, 8), CURVE), "`edits` must hold images"),
        (lambda: edited_images(images(8, 8), images(3, 2, 1, 8, 8), CURVE), "`edits` must have the 2 times"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
