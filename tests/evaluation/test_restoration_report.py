"""Restorations: scores against known numbers and scikit-image, and refusals."""

import math

import pytest
import torch

from pyrogen import evaluation
from pyrogen.evaluation import predictive_p_values

NAN, INF = math.nan, math.inf
IMAGE = torch.rand(1, 8, 8)


def test_reports_against_known_numbers():
    torch.manual_seed(0)
    truth = torch.rand(1, 16, 16)
    draws = truth + 0.1 * torch.randn(1, 16, 16) + 0.1 * torch.randn(2000, 1, 16, 16)
    found = evaluation.restoration_report(draws, truth)
    assert abs(found.deviation.mean() - 0.1) < 0.005
    # A truth and a centre that both lie 0.1 from ... each other: intervals of +-0.1645 cover 90 %.
    assert abs(found.coverage - 0.9) < 5 * (0.09 / 256) ** 0.5
    assert evaluation.psnr(truth, truth) == math.inf
    assert abs(evaluation.psnr(truth + 0.1, truth) - 20) < 1e-3
    assert abs(evaluation.ssim(truth, truth) - 1) < 1e-9
    assert "PSNR" in str(found)
    assert "PSNR" not in str(evaluation.restoration_report(draws))


@pytest.mark.parametrize("draws", [4, 16, 100])
def test_intervals_of_few_draws_hold_as_little_as_is_said(draws):
    torch.manual_seed(0)
    found = evaluation.restoration_report(torch.rand(draws, 100, 100), torch.rand(100, 100))
    assert abs(found.coverage - found.coverage_of_exact) < 5 * (0.25 / 10_000) ** 0.5
    assert f"({found.coverage_of_exact:.0%} if exact)" in str(found)


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    torch.manual_seed(0)
    x, y = torch.rand(20, 24).double(), torch.rand(20, 24).double()
    theirs, everywhere = metrics.structural_similarity(x.numpy(), y.numpy(), data_range=1.0, full=True)
    assert abs(evaluation.ssim(x, y) - theirs) < 1e-6


def test_predictive_p_values():
    replicated = torch.arange(10.0).unsqueeze(-1)
    torch.testing.assert_close(predictive_p_values(replicated, torch.tensor([8.0])), torch.tensor([0.2]))


REFUSED = [
    *((lambda f=f, **o: f(**{"image": IMAGE, "truth": IMAGE, **o}), name, values)
      for f in (evaluation.psnr, evaluation.ssim)
      for name, values in (
          ("span", (0.0, -1.0, NAN, INF, "1")),
          ("image", (torch.full((1, 8, 8), INF), torch.full((1, 8, 8), NAN), torch.rand(1, 9, 9), [1.0])),
          ("truth", (torch.full((1, 8, 8), INF), None)),
      )),
    (lambda **o: evaluation.ssim(IMAGE, IMAGE, **o), "window", (1, 0, 9, 2.5)),
    (lambda **o: evaluation.restoration_report(**o), "draws", (torch.rand(8), torch.rand(1, 8, 8), None)),
    (lambda **o: evaluation.restoration_report(torch.rand(5, 1, 8, 8), **o), "truth", (torch.rand(1, 9, 9),)),
    (lambda **o: evaluation.restoration_report(torch.rand(5, 1, 8, 8), **o), "probability", (0.0, 1.0, NAN, "0.9")),
    (lambda **o: evaluation.restoration_report(torch.rand(5, 1, 8, 8), **o), "span", (0.0, NAN)),
    (lambda **o: predictive_p_values(**{"replicated": torch.rand(5, 3), "y": torch.rand(3), **o}), "replicated",
     (torch.rand(5, 2), torch.rand(0, 3), torch.full((5, 3), NAN))),
    (lambda **o: predictive_p_values(torch.rand(5, 3), **o), "y", (torch.full((3,), NAN), None)),
]  # fmt: skip
CASES = [(entry, name, value) for entry, name, values in REFUSED for value in values]


@pytest.mark.parametrize(("entry", "name", "value"), CASES, ids=lambda part: str(part)[:20])
def test_a_bad_value_is_refused_by_the_name_of_its_argument(entry, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        entry(**{name: value})
