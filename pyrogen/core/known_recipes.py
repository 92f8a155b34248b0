"""The recipes of pyrogen's that a file may name, by the name in the file: where each is to be found today.

A name in a file is compared with these and never imported. Where a recipe moves, its old names stay here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

_AUTOREGRESSIVE = ("made", "transformer", "any_order")
_FLOWS = (
    "affine_coupling",
    "spline_coupling",
    "affine_autoregressive",
    "spline_autoregressive",
    "neural_autoregressive",
    "block_neural_autoregressive",
)

KNOWN: dict[str, tuple[str, str]] = {
    **{f"pyrogen.flows.recipes.{name}": ("pyrogen.flows", name) for name in _FLOWS},
    **{f"pyrogen.flows.classic.{name}": ("pyrogen.flows", name) for name in ("planar", "radial", "sylvester")},
    "pyrogen.flows.continuous.continuous": ("pyrogen.flows", "continuous"),
    **{f"pyrogen.autoregressive.recipes.{name}": ("pyrogen.autoregressive", name) for name in _AUTOREGRESSIVE},
    "pyrogen.autoregressive.image_recipes.pixel_cnn": ("pyrogen.autoregressive", "pixel_cnn"),
    "pyrogen.autoregressive.wave_recipes.wavenet": ("pyrogen.autoregressive", "wavenet"),
    **{
        f"pyrogen.autoregressive.tempering.{name}": ("pyrogen.autoregressive", name)
        for name in ("tempered", "top_k", "nucleus")
    },
    **{f"pyrogen.diffusion.recipes.{name}": ("pyrogen.diffusion", name) for name in ("mlp", "unet", "transformer")},
    **{
        f"pyrogen.latent.recipes.{name}": ("pyrogen.latent", name)
        for name in ("vae", "binary_vae", "categorical_vae", "conditional_vae")
    },
    "pyrogen.latent.image_recipes.convolutional_vae": ("pyrogen.latent", "convolutional_vae"),
    **{
        f"pyrogen.latent.table_recipes.{name}": ("pyrogen.latent", name)
        for name in ("tabular_vae", "missing_data_vae", "self_masking")
    },
    "pyrogen.latent.quantized_recipes.vq_vae": ("pyrogen.latent", "vq_vae"),
    **{
        f"pyrogen.latent.mixture_recipes.{name}": ("pyrogen.latent", name)
        for name in ("mixture_vae", "semi_supervised_vae", "vamp_vae")
    },
}


def known_recipe(name: str) -> Callable[..., nn.Module] | None:
    """The recipe of pyrogen's that a file means by a name; ``None`` if it is none."""
    if name not in KNOWN:
        return None
    package, function = KNOWN[name]
    # Importing pyrogen has imported its packages: there is nothing left to import.
    return vars(sys.modules[package])[function]


def as_written(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a recipe, with those that it has got since the file was written as they were then."""
    if name.startswith("pyrogen.flows.") and arguments.get("interval") is not None and "margin" not in arguments:
        return {**arguments, "margin": 0.05}
    return arguments
