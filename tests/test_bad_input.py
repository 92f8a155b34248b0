"""Every public entry of the families, networks and data against bad values of every argument: each is refused by name.

The table is generated: from the signatures of the entries, and from what is bad for an argument of that name. A value
that makes no sense raises ``ValueError`` or ``TypeError`` and names the argument, at construction; never a raw error of
torch's, and it is never accepted.
"""

import inspect

import pytest
import torch
from torch import nn

import pyrogen as pg
from pyrogen import autoregressive, data, diffusion, flows, implicit, latent, networks
from pyrogen.distributions import families
from pyrogen.flows import layers

NAN, INFINITY = float("nan"), float("inf")

COUNT = [0, -1, 2.5, "3", NAN, True, torch.tensor(2)]
NONE_OR_MORE = COUNT[1:]
SIZES = [(0,), (-1, 4), (2.5,), "44", 4, (NAN,), ("4",), None]
SOME_SIZES = [*SIZES, ()]
SHARE = [5.0, 1.0, -0.1, NAN, "0.5"]
POSITIVE = [0.0, -1.0, NAN, INFINITY, "1", [1.0]]
NON_NEGATIVE = POSITIVE[1:]
SHAPE = [(0,), (-1,), (2.5,), "2", None, 2.5, (NAN,), (2, 0)]
CONTEXT = [(0,), (-1,), (2.5,), "2", 2.5, {"a": (-1,)}, {"a": 2.5}, {}]
SWITCH = ["yes", 2, NAN]
MODULE = [3, "normal", nn.Linear(2, 2)]
INTERVAL = [(0.0,), (1.0, 0.0), (0.0, 0.0), (NAN, 1.0), 3, "ab", (0.0, 1.0, 2.0), ("a", "b")]
SEED = [2.5, "3", NAN]

VAE = latent.vae((2,), latent_shape=(2,), hidden=(4,))
PARTIAL = latent.missing_data_vae((2,), latent_shape=(2,), hidden=(4,))
MADE = autoregressive.made((3,), symbols=4, hidden=(4,))

BAD = {
    "temperature": POSITIVE,
    "mass": [0.0, -1.0, 1.5, NAN, "0.5"],
    "alpha": [1.0, NAN, INFINITY, "0.5"],
    "beta": [-1.0, NAN, "1"],
    "free_nats": NON_NEGATIVE,
    "sleep": [-0.1, 1.5, NAN, "0.5"],
    "rising": [0.0, 1.5, NAN, "0.5"],
    "steps": COUNT,
    "every": COUNT,
    "rows": COUNT,
    "repeats": COUNT,
    "count": COUNT,
    "columns": COUNT,
    "shape": [(0,), (-1,), (2.5,), "2", 2.5, (NAN,)],
    "widths": [(), (0.5,), (-0.1,), (NAN,), ("a",), 3],
    "objective": [3, "loss"],
    "layers": COUNT,
    "halvings": NONE_OR_MORE,
    "bins": COUNT,
    "units": COUNT,
    "source": COUNT,
    "rank": COUNT,
    "classes": COUNT,
    "width": COUNT,
    "heads": COUNT,
    "patch": COUNT,
    "components": COUNT,
    "draws": COUNT,
    "codes": COUNT,
    "pseudo_data": COUNT,
    "symbols": COUNT,
    "orders": COUNT,
    "key_heads": COUNT,
    "ratio": COUNT,
    "kernel": COUNT,
    "skip": COUNT,
    "cycles": COUNT,
    "places": COUNT,
    "inputs": COUNT,
    "outputs": COUNT,
    "features": COUNT,
    "parameters": COUNT,
    "length": COUNT,
    "image_shape": SHAPE,
    "cells": COUNT,
    "cross": SWITCH,
    "modes": COUNT,
    "dimensions": COUNT,
    "depth": COUNT,
    "attention": NONE_OR_MORE,
    "hidden": SOME_SIZES,
    "channels": SOME_SIZES,
    "dropout": SHARE,
    "context_dropout": SHARE,
    "log_scale_bound": POSITIVE,
    "bound": POSITIVE,
    "scale": POSITIVE,
    "window": POSITIVE,
    "spread": POSITIVE,
    "tolerance": POSITIVE,
    "data_scale": POSITIVE,
    "degrees": POSITIVE,
    "radius": POSITIVE,
    "commitment": NON_NEGATIVE,
    "noise": NON_NEGATIVE,
    "event_shape": SHAPE,
    "latent_shape": SHAPE,
    "context_shape": CONTEXT,
    "embedding": MODULE[:2],
    "mixing": SWITCH,
    "standardize": SWITCH,
    "fast_sampling": SWITCH,
    "base": MODULE,
    "prior": MODULE,
    "posterior": MODULE,
    "likelihood": MODULE,
    "interval": INTERVAL,
    "size": COUNT,
    "seed": SEED,
}


# How each entry is called: what it needs besides what is bad.
class Module(pg.DistributionModule):
    def forward(self, context=None):
        raise NotImplementedError


class Bijection(pg.BijectionModule):
    def forward(self, context=None):
        raise NotImplementedError


ENTRIES = {
    flows.affine_coupling: {"event_shape": (2,)},
    flows.spline_coupling: {"event_shape": (2,)},
    flows.affine_autoregressive: {"event_shape": (2,)},
    flows.spline_autoregressive: {"event_shape": (2,)},
    flows.neural_autoregressive: {"event_shape": (2,)},
    flows.block_neural_autoregressive: {"event_shape": (2,)},
    flows.continuous: {"event_shape": (2,)},
    flows.circular: {"event_shape": (2,)},
    flows.sphere: {"event_shape": (3,)},
    flows.mixture: {"event_shape": (2,)},
    flows.residual: {"event_shape": (2,), "channels": None},
    flows.multiscale: {"event_shape": (1, 4, 4), "width": 4},
    flows.patch_autoregressive: {"event_shape": (1, 4, 4), "width": 8, "heads": 2},
    flows.planar: {"event_shape": (2,)},
    flows.radial: {"event_shape": (2,)},
    flows.sylvester: {"event_shape": (2,)},
    flows.GaussianMixture: {"event_shape": (2,), "components": 2},
    flows.StudentT: {"event_shape": (2,)},
    flows.StandardNormal: {"event_shape": (2,)},
    flows.Standardize: {"event_shape": (2,)},
    flows.Mixing: {"event_shape": (2,)},
    flows.Dequantized: {"module": flows.StandardNormal((2,)), "symbols": 2},
    layers.PlanarLayer: {"event_shape": (2,)},
    layers.RadialLayer: {"event_shape": (2,)},
    layers.SylvesterLayer: {"event_shape": (2,), "rank": 1},
    latent.vae: {"event_shape": (2,), "latent_shape": (2,)},
    latent.binary_vae: {"event_shape": (2,), "latent_shape": (2,)},
    latent.categorical_vae: {"event_shape": (2,), "latent_shape": (2,), "symbols": 3},
    latent.conditional_vae: {"event_shape": (2,), "context_shape": (2,), "latent_shape": (2,)},
    latent.convolutional_vae: {"event_shape": (1, 8, 8), "latent_shape": (2,)},
    latent.tabular_vae: {"event_shape": (2,), "latent_shape": (2,)},
    latent.missing_data_vae: {"event_shape": (2,), "latent_shape": (2,)},
    latent.mixture_vae: {"event_shape": (2,), "latent_shape": (2,), "classes": 3},
    latent.semi_supervised_vae: {"event_shape": (2,), "latent_shape": (2,), "classes": 3},
    latent.vamp_vae: {"event_shape": (2,), "latent_shape": (2,)},
    latent.vq_vae: {"event_shape": (1, 8, 8)},
    autoregressive.point_process: {"event_shape": (3,), "window": 2.0},
    autoregressive.hawkes: {"event_shape": (3,), "window": 2.0},
    latent.top_down: {"event_shape": (2,), "levels": (2, 2)},
    latent.deep_markov: {"event_shape": (3, 2), "latent_shape": (2,), "width": 4},
    latent.stochastic_recurrent: {"event_shape": (3, 2), "latent_shape": (2,), "width": 4},
    latent.gaussian_process_vae: {"event_shape": (3, 2), "latent_shape": (2,)},
    latent.hidden_markov: {"event_shape": (3, 2), "regimes": 2},
    latent.switching_linear: {"event_shape": (3, 2), "latent_shape": (2,), "regimes": 2},
    latent.gaussian_process: {"event_shape": (3, 2), "latent_shape": (2,)},
    latent.linear_gaussian: {"event_shape": (3, 2), "latent_shape": (2,)},
    latent.convolutional_top_down: {"event_shape": (1, 4, 4), "levels": [(2, 2, 2)], "width": 4, "group": 4},
    latent.self_masking: {"event_shape": (2,)},
    latent.MixturePrior: {"event_shape": (2,), "components": 2},
    latent.StandardNormal: {"event_shape": (2,)},
    latent.ClassNormal: {"event_shape": (2,), "classes": 3},
    latent.Classes: {"classes": 3},
    latent.Codebook: {"codes": 4, "width": 3},
    latent.CodeTable: {"event_shape": (2,), "codes": 4},
    autoregressive.made: {"event_shape": (3,)},
    autoregressive.transformer: {"event_shape": (4,), "width": 8, "heads": 2, "depth": 1},
    autoregressive.any_order: {"event_shape": (4,), "width": 8, "heads": 2, "depth": 1},
    autoregressive.pixel_cnn: {"event_shape": (1, 4, 4)},
    autoregressive.wavenet: {"event_shape": (8,)},
    diffusion.mlp: {"event_shape": (2,)},
    diffusion.unet: {"event_shape": (1, 8, 8)},
    diffusion.transformer: {"event_shape": (1, 8, 8)},
    diffusion.flow_map: {"event_shape": (2,)},
    diffusion.unet_flow_map: {"event_shape": (1, 8, 8)},
    diffusion.transformer_flow_map: {"event_shape": (1, 8, 8)},
    diffusion.masked: {"event_shape": (4,), "symbols": 3, "width": 8, "heads": 2, "depth": 1},
    diffusion.uniform: {"event_shape": (4,), "symbols": 3, "width": 8, "heads": 2, "depth": 1},
    implicit.mlp: {"event_shape": (2,)},
    implicit.convolutional: {"event_shape": (1, 8, 8)},
    implicit.tabular: {"event_shape": (2,)},
    implicit.mlp_critic: {"event_shape": (2,)},
    implicit.convolutional_critic: {"event_shape": (1, 8, 8)},
    implicit.density_ratio: {"event_shape": (2,)},
    networks.MLP: {"inputs": 2, "outputs": 2},
    networks.Conditioner: {"inputs": 2, "features": 2, "parameters": 2},
    networks.MaskedConditioner: {"dependence": torch.zeros(2, 2, dtype=torch.bool), "parameters": 2},
    networks.MaskedSequence: {"length": 3, "features": 2},
    networks.ImageEncoder: {"image_shape": (1, 8, 8), "outputs": 2},
    networks.ImageDecoder: {"inputs": 2, "image_shape": (1, 8, 8)},
    networks.ResidualMLP: {"event_shape": (2,)},
    networks.UNet: {"event_shape": (1, 8, 8)},
    networks.DiffusionTransformer: {"event_shape": (1, 8, 8)},
    networks.SymbolTransformer: {"event_shape": (4,), "symbols": 3, "width": 8, "heads": 2},
    networks.CausalStack: {"width": 8, "places": 4, "heads": 2},
    networks.SourceEncoder: {"context_shape": (4,), "width": 8, "depth": 1},
    networks.Tokens: {"symbols": 3, "width": 4},
    data.checkerboard: {"size": 4, "seed": 0},
    data.two_moons: {"size": 4, "seed": 0},
    data.funnel: {"size": 4, "seed": 0},
    data.ring_of_gaussians: {"size": 4, "seed": 0},
    data.quantize: {"values": torch.zeros(3), "symbols": 4},
    data.dequantize: {"values": torch.zeros(3, dtype=torch.int64), "symbols": 4, "seed": 0},
    data.mu_law: {"x": torch.zeros(3)},
    data.inverse_mu_law: {"codes": torch.zeros(3, dtype=torch.int64)},
    data.add_noise: {"images": torch.zeros(2, 1, 4, 4), "scale": 1.0, "seed": 0},
    data.occlude: {"images": torch.zeros(2, 1, 4, 4), "size": 2, "seed": 0},
    data.shuffle_pixels: {"images": torch.zeros(2, 1, 4, 4), "seed": 0},
    latent.BetaElbo: {"vae": VAE},
    latent.ImportanceWeighted: {"vae": VAE, "draws": 2},
    latent.Renyi: {"vae": VAE, "alpha": 0.5, "draws": 2},
    latent.StickingTheLanding: {"vae": VAE},
    latent.ReweightedWakeSleep: {"vae": VAE, "draws": 2},
    latent.VAE: {"prior": VAE.prior, "likelihood": VAE.likelihood, "posterior": VAE.posterior},
    latent.impute: {"vae": PARTIAL, "x": torch.zeros(3, 2), "draws": 2},
    latent.LinearAnnealing: {"steps": 3},
    latent.CyclicAnnealing: {"steps": 3},
    autoregressive.tempered: {"model": MADE, "temperature": 1.0},
    autoregressive.top_k: {"model": MADE, "count": 2},
    autoregressive.nucleus: {"model": MADE, "mass": 0.5},
    pg.PowerAverages: {"module": VAE},
    pg.log_prob: {"module": flows.StandardNormal((2,)), "x": torch.zeros(3, 2)},
    pg.Elbo: {"model": VAE.model, "guide": VAE.guide},
    pg.Turn: {"objective": VAE.objective(), "parameters": VAE},
    pg.Parametric: {
        "network": nn.Linear(2, 4),
        "family": families.diagonal_normal,
        "event_shape": 2,
        "context_shape": 2,
    },
    Module: {"event_shape": (2,)},
    Bijection: {"event_shape": (2,)},
    networks.VectorContext: {"context_shape": (2,)},
    networks.Numbers: {"symbol_shape": (2,), "width": 3},
    networks.ContextEncoder: {"context_shape": (2,), "width": 3},
    networks.Standardizer: {"shape": (2,)},
    networks.ColumnFeatures: {"columns": 2},
    families.categorical: {"symbols": 3},
    families.normal: {"scale": 1.0},
    families.discretized_logistic: {"symbols": 3},
    families.discretized_logistic_mixture: {"symbols": 3},
    families.pixel_logistic_mixture: {"symbols": 3},
    families.quantized_normal: {"symbols": 3},
}

# Where a name means something else, or a value makes sense after all.
OTHERWISE = {
    (networks.VectorContext, "standardize"): [],
    (networks.VectorContext, "classes"): COUNT,
    (data.add_noise, "scale"): NON_NEGATIVE,
    (data.inverse_mu_law, "codes"): [],
    (pg.Elbo, "size"): COUNT,
    (pg.Turn, "parameters"): [3, ["loc"], [flows.StandardNormal((2,))]],
    (data.quantize, "symbols"): COUNT[1:],
    (latent.convolutional_vae, "hidden"): COUNT,
    (networks.ImageEncoder, "hidden"): COUNT,
    (networks.ImageDecoder, "hidden"): COUNT,
    (networks.MLP, "hidden"): SIZES,
    (implicit.density_ratio, "hidden"): SIZES,
    (networks.MLP, "inputs"): NONE_OR_MORE,
    (networks.Conditioner, "inputs"): NONE_OR_MORE,
}


def _cases():
    for entry, needed in ENTRIES.items():
        for name, parameter in inspect.signature(entry).parameters.items():
            for value in OTHERWISE.get((entry, name), BAD.get(name, ())):
                if value is None and parameter.default is None:
                    continue
                where = f"{entry.__module__.removeprefix('pyrogen.').split('.')[0]}.{entry.__qualname__}"
                shown = value if not isinstance(value, nn.Module) else "a Linear"
                yield pytest.param(entry, needed, name, value, id=f"{where}-{name}-{shown!r}")


@pytest.mark.parametrize(("entry", "needed", "name", "value"), list(_cases()))
def test_a_bad_value_is_refused_by_name(entry, needed, name, value):
    with pytest.raises((ValueError, TypeError), match=f"`{name}"):
        entry(**{**needed, name: value})


def test_what_is_needed_is_enough():
    """Each entry of the table works: what is refused is refused for the bad value."""
    for entry, needed in ENTRIES.items():
        entry(**needed)


def test_the_table_holds_every_recipe():
    rooms = (flows, latent, autoregressive, diffusion, implicit)
    recipes = {value for room in rooms for value in vars(room).values() if getattr(value, "is_recipe", False)}
    tempering = {autoregressive.tempered, autoregressive.top_k, autoregressive.nucleus}
    assert recipes - tempering <= set(ENTRIES)


# What a module is given when it is used ------------------------------------------------------------------------------

SMALL = {"hidden": (8,), "layers": 2, "channels": (8,), "width": 8, "depth": 1, "heads": 2}


def _small(entry, needed, context_shape):
    """A module of a recipe, as small as its arguments allow; ``None`` if it takes no context and one is wanted."""
    parameters = inspect.signature(entry).parameters
    if context_shape is not None and "context_shape" not in parameters:
        return None
    sizes = {name: value for name, value in SMALL.items() if name in parameters and name not in needed}
    if entry is latent.convolutional_vae:
        sizes["hidden"] = 8
    context = {} if context_shape is None else {"context_shape": context_shape}
    try:
        return entry(**{**needed, **sizes, **context}).eval()
    except ValueError:
        return None


WITHOUT_LOG_PROB = ("pyrogen.implicit.", "pyrogen.diffusion.few_step_recipes")
RECIPES = [
    entry
    for entry in ENTRIES
    if getattr(entry, "is_recipe", False) and not entry.__module__.startswith(WITHOUT_LOG_PROB)
]


@pytest.mark.parametrize("context_shape", [None, (3,)], ids=["no context", "context"])
@pytest.mark.parametrize("entry", RECIPES, ids=lambda entry: entry.__qualname__)
def test_bad_data_and_contexts_are_refused_by_name(entry, context_shape):
    module = _small(entry, ENTRIES[entry], context_shape)
    if module is None:
        assert context_shape is not None
        return
    shape = module.event_shape
    context = None if module.context_shape is None else torch.zeros(5, *module.context_shape)
    distribution = module(context)
    wide = torch.zeros(5, *shape[:-1], shape[-1] + 1)
    for data_of_another_kind in (wide, torch.zeros(()), [[0.0] * shape[-1]], torch.zeros(5, *shape).numpy()):
        with pytest.raises((ValueError, TypeError), match="`(x|value)"):
            distribution.log_prob(data_of_another_kind)
    with pytest.raises((ValueError, TypeError), match="`x"):
        pg.log_prob(module, wide, context)
    wrong = [torch.zeros(5, 4), [0.0] * 3, {"a": torch.zeros(5, 3)}] if context_shape else [torch.zeros(5, 7)]
    for bad in (*wrong, *([None] if context is not None else [])):
        with pytest.raises((ValueError, TypeError), match="`context"):
            module(bad)
