"""Analysis: any posterior to ArviZ in one call, and figures."""

from .arviz import to_arviz
from .images import image_grid
from .latents import latent_paths, latent_traversals
from .plots import coverage_curve, model_comparison, outlier_scores, rank_ecdf, rank_histogram, training_history
from .restoration import edited_images, posterior_histogram, posterior_images

__all__ = [
    "coverage_curve",
    "edited_images",
    "image_grid",
    "latent_paths",
    "latent_traversals",
    "model_comparison",
    "outlier_scores",
    "posterior_histogram",
    "posterior_images",
    "rank_ecdf",
    "rank_histogram",
    "to_arviz",
    "training_history",
]


def __dir__() -> list[str]:
    return __all__
