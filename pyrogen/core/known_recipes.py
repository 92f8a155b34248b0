"""What a file may name: pyrogen's recipes, and the names that recipes, arguments and tensors had in earlier editions.

A name in a file is compared with a table; nothing but a package of pyrogen's is imported for it. A file names a recipe
with the module that it was defined in; a recipe that moved within its package is found all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any

from torch import nn

EDITION = 2
"""The edition of names that files are written in; a file without one is of the first."""

RECIPES: dict[str, tuple[str, ...]] = {
    "flows": (
        *("affine_coupling", "spline_coupling", "affine_autoregressive", "spline_autoregressive"),
        *("neural_autoregressive", "block_neural_autoregressive", "continuous", "planar", "radial", "sylvester"),
        *("circular", "sphere", "mixture", "residual", "multiscale", "patch_autoregressive"),
        *("StudentT", "GaussianMixture"),
    ),
    "autoregressive": (
        *("made", "transformer", "any_order", "pixel_cnn", "wavenet"),
        *("point_process", "hawkes"),
        *("tempered", "top_k", "nucleus"),
    ),
    "diffusion": (
        *("mlp", "unet", "transformer", "masked", "uniform"),
        *("flow_map", "unet_flow_map", "transformer_flow_map"),
    ),
    "energy": ("mlp", "convolutional", "rbm"),
    "implicit": ("mlp", "convolutional", "tabular", "mlp_critic", "convolutional_critic", "density_ratio"),
    "latent": (
        *("vae", "binary_vae", "categorical_vae", "conditional_vae", "convolutional_vae"),
        *("tabular_vae", "missing_data_vae", "self_masking", "vq_vae"),
        *("mixture_vae", "semi_supervised_vae", "vamp_vae"),
        *("top_down", "convolutional_top_down"),
        *("deep_markov", "linear_gaussian", "hidden_markov", "switching_linear", "gaussian_process"),
        *("gaussian_process_vae", "stochastic_recurrent"),
    ),
    "inverse": ("transformer_regression", "transformer_twist"),
    "simulation": ("posterior", "likelihood", "ratio"),
}
"""The recipes of each package. No file holds the program that those of ``simulation`` are of."""

_TENSORS: tuple[tuple[str, str], ...] = (
    (r"\battention\.(\d+)\.projection\.", r"attention.\1.attention.project."),
    (r"\battention\.(\d+)\.output\.", r"attention.\1.attention.out."),
    *(
        (rf"\bnetwork\.(?:perceptron\.|0\.|beside\.)?flatten\.standardizers\.entry_{before}\.", f"network.{today}.")
        for context in ("contexts.0", "contexts.1", "0")
        for before, today in (
            ("x?", "prepare"),
            ("context", rf"{context}.standardizers.entry_"),
            (r"(\w+)", rf"{context}.standardizers.entry_\1"),
        )
    ),
    (r"\bnetwork\.pixels\.", "network.prepare."),
    (r"\bnetwork\.(?:perceptron\.)?layers\.layers\.", "network.network.layers."),
    (r"\bnetwork\.layers\.layers\.", "network.1.layers."),
    (r"\bnetwork\.(?:1|encoder)\.(dense|convolutions)\.", r"network.network.\1."),
    (r"\bcontext\.entries\.(entry_\w*)\.(?:entry\.)?(?:embedding\.)?standardize\.", r"context.standardizers.\1."),
    (r"\bcontext\.entries\.", "context.parts."),
    (r"\bembedding\.0\.standardizers\.", "embedding.standardizers."),
    (r"\bembedding\.(?:standardize\.)?(mean|scale|initialised)$", r"embedding.standardizers.entry_.\1"),
    (r"\bembedding\.(?:1\.)?(weight|bias)$", r"embedding.linear.\1"),
)
"""Parts of tensor names of earlier editions, as regular expressions, and what stands in their place today."""


def known_recipe(name: str) -> Callable[..., nn.Module] | None:
    """The recipe of pyrogen's that a file means by a name; ``None`` if it is none."""
    root, package, *modules, function = name.split(".") if name.count(".") > 2 else ("", "", "")
    if root != "pyrogen" or len(modules) != 1 or function not in RECIPES.get(package, ()):
        return None
    return getattr(import_module(f"pyrogen.{package}"), function)


def as_written(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a recipe by their names of today, and those it has got since as they were then."""
    if name.startswith("pyrogen.flows.") and arguments.get("interval") is not None and "margin" not in arguments:
        return {**arguments, "margin": 0.05}
    if name.startswith(("pyrogen.autoregressive.", "pyrogen.diffusion.")) and "levels" in arguments:
        return {"symbols" if key == "levels" else key: value for key, value in arguments.items()}
    if name.startswith("pyrogen.latent.") and "levels" in arguments and not name.endswith("top_down"):
        return _of_latent(name.endswith(".categorical_vae"), **arguments)
    return arguments


def _of_latent(categorical: bool, *, levels: int | None, **arguments: Any) -> dict[str, Any]:
    """Two levels were binary, in all recipes but the categorical one."""
    if levels == 2 and not categorical:
        return {**arguments, "binary": True}
    return {**arguments, "symbols": levels}


def tensor_names(stored: Collection[str], own: Collection[str]) -> dict[str, str]:
    """For stored tensors that a module lacks, the names under which it has them today."""
    found = {}
    for name in stored:
        if name not in own:
            candidates = (re.sub(pattern, today, name) for pattern, today in _TENSORS)
            found[name] = next((today for today in candidates if today in own and today not in stored), name)
    return found
