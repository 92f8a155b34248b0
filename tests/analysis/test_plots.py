"""Figures show what they are given, leave matplotlib's global state alone, and their bands are right."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyrogen.analysis import (
    coverage_curve,
    image_grid,
    outlier_scores,
    paths,
    posterior_histogram,
    rank_ecdf,
    rank_histogram,
    reliability_diagram,
    spectrograms,
    training_history,
)
from pyrogen.analysis.images import mosaic
from pyrogen.analysis.panels import running_mean
from pyrogen.evaluation import EcdfNull, reliability
from pyrogen.training.progress import Fit, History


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


FIGURES = {
    "image grid": lambda: image_grid(images(3, 4, 8, 8), images(3, 2, 8, 8), rows=["a", "b", "c"]),
    "colour image grid": lambda: image_grid(images(1, 4, 3, 8, 8), images(1, 4, 3, 8, 8)),
    "training": lambda: training_history(Fit(History([[3.0, 2, 1]], [[]], {1: 2.0, 3: 1.5}), 3, "steps")),
    "two turns": lambda: training_history(History([[3.0], [float("nan")]], [[], []])),
    "rank histogram": lambda: rank_histogram({"a": torch.arange(100), "b": np.arange(100)}, 99),
    "rank histogram of a prime number": lambda: rank_histogram({"a": torch.arange(11)}, 10),
    "rank ecdf": lambda: rank_ecdf({"a": torch.arange(100)}, 99),
    "coverage": lambda: coverage_curve(torch.linspace(0, 1, 5), {"a": torch.linspace(0, 1, 5)}, 100),
    "reliability": lambda: reliability_diagram({"a": reliability(images(50), images(50) < 0.5)}),
    "eight turns without a finite loss": lambda: training_history(History([[float("nan")]] * 8, [[]] * 8)),
    "no step": lambda: training_history(History([[]], [[]])),
    "paths": lambda: paths({"a": images(3, 9, 2), "b": images(2, 5, 2)}),
    "spectrograms": lambda: spectrograms({"a": images(30, 8), "b": images(20, 8)}, rate=10),
    "half precision": lambda: image_grid(images(1, 4, 8, 8).bfloat16(), images(1, 4, 8, 8).half()),
    "equal scores": lambda: outlier_scores(torch.zeros(5), {"a": torch.zeros(4), "b": torch.full((4,), torch.inf)}),
    "outliers": lambda: outlier_scores(images(50), {"a": images(50) + 1, "b": torch.full((3,), torch.inf)}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_can_be_saved(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 2000
    for axes in figure.axes:
        if axes.get_xticks().size and axes.lines:
            assert axes.get_xlabel()


def test_pyplot_stays_out():
    code = (
        "import sys; from pyrogen.analysis import rank_ecdf, to_arviz;"
        "assert not {'matplotlib', 'arviz', 'sklearn', 'scipy.stats', 'xarray'} & set(sys.modules);"
        "rank_ecdf({'a': [0, 1]}, 1); assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_mosaic_puts_every_image_in_its_place():
    grid = images(2, 3, 8, 8).numpy()
    whole = mosaic(grid, "data")
    assert whole.shape == (2 * 9 - 1, 3 * 9 - 1)
    np.testing.assert_allclose(whole[9:17, 18:26], grid[1, 2])
    assert np.isnan(whole[8]).all()


def testrunning_mean():
    values = np.array([1.0, 2, 6, 4])
    np.testing.assert_allclose(running_mean(values, 2), [1, 1.5, 4, 5])


def test_the_curves_and_the_band_are_those_of_evaluation():
    ranks = {"uniform": torch.randint(0, 50, (200,)), "narrow": 25 + torch.randint(-5, 6, (200,))}
    null = EcdfNull(200, 49)
    axes = rank_ecdf(ranks, 49, level=0.9).axes[0]
    curves = {line.get_label(): line.get_ydata() for line in axes.lines}
    uniform = np.linspace(0, 1, 51)
    for name, values in ranks.items():
        band = null.band(values, 0.9)
        np.testing.assert_allclose(curves[name][1:-1], band.ecdf.numpy() - uniform[1:-1], atol=1e-12)
        assert curves[name][0] == curves[name][-1] == 0
    corners = axes.collections[0].get_paths()[0].vertices
    assert np.isclose(corners[:, 1].max(), (band.upper.numpy() - uniform[1:-1]).max())
    assert np.isclose(corners[:, 1].min(), (band.lower.numpy() - uniform[1:-1]).min())


def test_a_figure_leaves_the_generators_alone():
    before = torch.get_rng_state()
    rank_ecdf({"a": torch.arange(10)}, 9)
    assert torch.equal(before, torch.get_rng_state())


def test_areas_under_the_curve_are_in_the_legend():
    figure = outlier_scores([0.0, 1.0], {"clear": [2.0, 3.0], "none": [0.0, 1.0], "reversed": [-1.0, -2.0]})
    texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert texts == ["ordinary data", "clear: AUROC 1.000", "none: AUROC 0.500", "reversed: AUROC 0.000"]


def test_shares_lie_over_stated_probabilities():
    found = reliability(torch.tensor([0.25, 0.75]).repeat(50), torch.arange(100) % 4 > 0, bins=2)
    points = reliability_diagram({"mine": found}).axes[0].containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[0.25, 0.5], [0.75, 1.0]])


def test_a_legend_covers_no_curve():
    levels = np.linspace(0, 1, 11)
    names = ["log_likelihood", "log_joint", "z[0]", "a quantity with a long name"]
    figures = [
        rank_ecdf({name: torch.randint(0, 100, (200,)) for name in names}, 99),
        coverage_curve(levels, {name: levels**0.5 for name in names}, 100),
        outlier_scores(images(50), {name: -images(50) for name in names}),
        FIGURES["training"](),
        reliability_diagram({name: reliability(images(50), images(50) < 0.5) for name in names}),
        posterior_histogram(images(100)),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        found = [axes.get_legend() for axes in figure.axes if axes.get_legend() is not None]
        assert found
        for legend in found:
            assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
            assert figure.bbox.x1 >= legend.get_window_extent().x1  # and nothing is cut off


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: image_grid(images(2, 8, 8), images(2, 8, 8)), "`data` must have shape"),
        (lambda: image_grid(images(2, 3, 8, 8), images(1, 3, 8, 8)), "`samples` and `rows`"),
        (lambda: rank_histogram({"a": [3]}, 2), "must be between 0 and 2"),
        (lambda: rank_ecdf({"a": [0.5]}, 2), "must be integers"),
        (lambda: rank_ecdf({}, 2), "`ranks` must hold at least one quantity"),
        (lambda: coverage_curve([0.5, 1.5], {"a": [0.4, 0.5]}, 10), "`levels` must be numbers between 0 and 1"),
        (lambda: coverage_curve([0.5, 0.9], {"a": [0.4]}, 10), r"`coverage\['a'\]` must have shape"),
        (lambda: outlier_scores([0.0], {"a": [float("nan"), 1.0]}), r"`outliers\['a'\]` must hold numbers, got 1 NaN"),
        (lambda: outlier_scores([], {"a": [1.0]}), "`inliers` must hold numbers, got 0 NaN among 0"),
        (lambda: reliability_diagram({}), "`found` must hold at least one entry"),
        (lambda: rank_ecdf({"a": [0, 1], "b": [0]}, 2), "must hold 2 ranks, got 1"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_notebooks_show_figures():
    figure = image_grid(np.zeros((1, 2, 4, 4)), np.zeros((1, 2, 4, 4)))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_spectrograms_share_time_and_colours():
    figure = spectrograms({"recorded": torch.arange(12.0).reshape(6, 2), "drawn": torch.full((3, 2), 20.0)}, rate=2)
    first, second = (axes.images[0] for axes in figure.axes)
    assert first.get_extent() == [0, 3, 0, 2]
    assert second.get_extent() == [0, 1.5, 0, 2]
    assert first.get_clim() == second.get_clim() == (0, 11)
    assert first.get_array()[1, 0] == 1  # the second band of the first frame
    assert {axes.get_xlim() for axes in figure.axes} == {(0, 3)}
    for bad, message in (({}, "at least one"), ({"a": torch.zeros(3)}, r"`spectra\['a'\]` must have shape")):
        with pytest.raises(ValueError, match=message):
            spectrograms(bad, rate=1)


def test_paths_have_the_colours_of_their_groups():
    points, limits = {"a": images(3, 4, 2), "b": images(1, 6, 2)}, ((-1, 2), (0, 3))
    figure = paths(points, groups={"a": [0, 1, 0], "b": torch.tensor([1])}, limits=limits)
    first, second = figure.axes
    assert first.lines[0].get_color() == first.lines[2].get_color() != first.lines[1].get_color()
    assert second.lines[0].get_color() == first.lines[1].get_color()
    np.testing.assert_allclose(first.lines[1].get_xydata(), points["a"][1])
    assert second.get_xlim() == (-1, 2)
    assert second.get_ylim() == (0, 3)
    for groups, message in (
        ({"a": [0]}, "must be 3 integers"),
        ({}, "must have the titles"),
        ({"a": [0, 1, -1]}, "3 int"),
    ):
        with pytest.raises(ValueError, match=message):
            paths(points, groups=groups)
    for bad, message in (({}, "at least one panel"), ({"a": images(3, 2)}, r"must have shape \(n, steps, 2\)")):
        with pytest.raises(ValueError, match=message):
            paths(bad)
