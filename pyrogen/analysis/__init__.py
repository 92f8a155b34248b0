"""Analysis: any posterior to ArviZ in one call, reports on models and posteriors, and plots."""

from pyrogen.renamed import renamed

from .arviz import to_arviz
from .images import image_grid
from .latents import latent_paths, latent_traversals
from .page import Page
from .pairs import posterior_pairs
from .paths import paths
from .plots import (
    coverage_curve,
    local_shifts,
    model_comparison,
    outlier_scores,
    predictive_statistics,
    rank_ecdf,
    rank_histogram,
    reliability_diagram,
    training_history,
)
from .report import report
from .restoration import edited_images, posterior_histogram, posterior_images
from .simulation_checks import simulation_checks
from .spectrograms import spectrograms
from .verdicts import Verdict, simulation_verdicts

__getattr__ = renamed(__name__, {"simulation_report": "pyrogen.analysis.simulation_checks"})

__all__ = [
    "Page",
    "Verdict",
    "coverage_curve",
    "edited_images",
    "image_grid",
    "latent_paths",
    "latent_traversals",
    "local_shifts",
    "model_comparison",
    "outlier_scores",
    "paths",
    "posterior_histogram",
    "posterior_images",
    "posterior_pairs",
    "predictive_statistics",
    "rank_ecdf",
    "rank_histogram",
    "reliability_diagram",
    "report",
    "simulation_checks",
    "simulation_verdicts",
    "spectrograms",
    "to_arviz",
    "training_history",
]


def __dir__() -> list[str]:
    return __all__
