"""Settings of schedules, grids, samplers, objectives and energies that are no numbers, refused by name."""

import pytest
import torch

import pyrogen as pg
from pyrogen import arguments, diffusion, energy, flows
from pyrogen.numerics.trace import Hutchinson
from pyrogen.transforms.residual import Roulette

NAN, INFINITY = float("nan"), float("inf")
GRID = diffusion.UniformGrid(3)
EDGES = energy.grid_edges(3)
VAE = pg.latent.vae((2,), latent_shape=(1,), hidden=(4,))
NUMBERS = [NAN, "3", None, [1.0]]
SEEDS = [NAN, 2.5, "3", True]


def denoiser():
    return diffusion.mlp((2,), (2,), width=8, depth=1, context_dropout=0.1).denoiser


def symbols():
    return diffusion.masked((2,), symbols=3, width=8, depth=1, heads=2).denoiser


SETTINGS = [
    (lambda value: diffusion.UniformGrid(3, start=value), "start", NUMBERS),
    (lambda value: diffusion.FlowGrid(3, end=value), "end", NUMBERS),
    (lambda value: diffusion.LogSNRGrid(3, maximum=value), "maximum", NUMBERS),
    (lambda value: diffusion.KarrasGrid(3, minimum=value), "minimum", NUMBERS),
    (lambda value: diffusion.Churn(GRID, minimum=value), "minimum", NUMBERS),
    (lambda value: diffusion.Churn(GRID, maximum=value), "maximum", NUMBERS),
    (lambda value: diffusion.LinearVP(beta_min=value), "beta_min", NUMBERS),
    (lambda value: diffusion.SubVP(beta_max=value), "beta_max", NUMBERS),
    (lambda value: diffusion.CosineVP(start=value), "start", NUMBERS),
    (lambda value: diffusion.RectifiedFlow(start=value), "start", NUMBERS),
    (lambda value: diffusion.VE(sigma_min=value), "sigma_min", NUMBERS),
    (lambda value: diffusion.EDM(sigma_max=value), "sigma_max", NUMBERS),
    (lambda value: diffusion.LearnedSchedule(log_snr_max=value), "log_snr_max", NUMBERS),
    (lambda value: diffusion.LogSNRTimes(uniform=value), "uniform", NUMBERS),
    (lambda value: diffusion.ClassifierFree(denoiser(), weight=1.0, rescaling=value), "rescaling", NUMBERS),
    (lambda value: diffusion.LearnedUncertainty(diffusion.UniformWeighting(), width=value), "width", [0, *SEEDS]),
    (lambda value: diffusion.Diffusion(denoiser(), noise_seed=value), "noise_seed", SEEDS),
    (lambda value: diffusion.MaskedDiffusion(symbols(), noise_seed=value), "noise_seed", SEEDS),
    (lambda value: pg.latent.VAE(VAE.prior, VAE.likelihood, VAE.posterior, noise_seed=value), "noise_seed", SEEDS),
    (lambda value: Roulette(noise_seed=value), "noise_seed", SEEDS),
    (lambda value: Hutchinson(noise_seed=value), "noise_seed", SEEDS),
    (lambda value: pg.latent.BetaElbo(VAE, analytic_kl=value), "analytic_kl", ["yes", 2, NAN]),
    (lambda value: energy.Ising((3,), EDGES, coupling=value), "coupling", [NAN, INFINITY, "3", None, True]),
    (lambda value: energy.Potts((3,), EDGES, symbols=3, field=value), "field", [NAN, -INFINITY, "3", None, True]),
    (lambda value: energy.grid_edges(3, periodic=value), "periodic", ["yes", 2, NAN]),
    (lambda value: flows.affine_coupling((2,), interval=(0.0, 1.0), margin=value), "margin", NUMBERS),
]


@pytest.mark.parametrize(
    ("make", "name", "value"), [(make, name, value) for make, name, values in SETTINGS for value in values]
)
def test_settings_that_are_no_numbers_are_named(make, name, value):
    with pytest.raises((TypeError, ValueError), match=f"`{name}"):
        make(value)


def test_limits_may_be_infinite_and_tensors_are_taken():
    assert arguments.orderable(INFINITY, "maximum") == INFINITY
    assert arguments.seed_or_none(None, "noise_seed") is None
    assert diffusion.Churn(GRID, maximum=INFINITY).maximum == INFINITY
    assert energy.Ising((3,), EDGES, coupling=torch.tensor([1, 2])).coupling.tolist() == [1.0, 2.0]
