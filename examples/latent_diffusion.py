"""Latent diffusion as a Pyro model: a diffusion prior at a site, trained with encoder and decoder by one ELBO.

The same model and guide are trained twice by Pyro's own SVI: with a standard normal prior of the latent, and with a
diffusion model in its place. Nothing else changes; the bound of the prior's log-density keeps the ELBO a bound.

    python examples/latent_diffusion.py [--output output/demo] [--seed 0] [--steps 1500] [--device cpu]
"""

from __future__ import annotations

import argparse
from math import log
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyrogen as pg

PIXELS, LATENT, LEVELS = 64, 8, 17


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pixels, labels, _ = pg.data.digits()
    train, _, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=options.seed)
    x, held_out = (part[0].float().flatten(1).to(options.device) for part in (train, test))

    pictures = []
    for name, prior in (("standard normal", Standard()), ("diffusion", pg.diffusion.mlp((LATENT,), draws=4))):
        pyro.set_rng_seed(options.seed)
        autoencoder = Autoencoder(prior).to(options.device)
        losses = train_by_svi(autoencoder, x, options)
        bound = held_out_bound(autoencoder, held_out, draws=2 if options.steps < 50 else 50)
        bits = pg.evaluation.Estimate.of_mean(
            -bound / PIXELS / log(2), unit="bits per dimension", density="lower bound"
        )
        print(f"{name:<16} last loss {losses:7.1f} nats a digit; held out {bits}")
        with torch.no_grad():
            digits = autoencoder.likelihood(prior().sample((40,))).sample()
        pictures.append(digits.reshape(5, 8, 8, 8).cpu())
    figure = pg.analysis.image_grid(*pictures, names=("normal prior", "diffusion prior"), limits=(0, LEVELS - 1))
    figure.savefig(options.output / "latent_diffusion.png", dpi=150, bbox_inches="tight")


class Standard(nn.Module):
    """A standard normal prior."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(LATENT))

    def forward(self) -> dist.Distribution:
        return dist.Normal(self.zero, 1.0).to_event(1)


class Autoencoder(nn.Module):
    """A Pyro model and its guide; the prior is whatever is given."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        family = pg.families.categorical(LEVELS)
        decoder = nn.Sequential(nn.Linear(LATENT, 256), nn.SiLU(), nn.Linear(256, PIXELS * LEVELS))
        encoder = nn.Sequential(nn.Linear(PIXELS, 256), nn.SiLU(), nn.Dropout(0.2), nn.Linear(256, 2 * LATENT))
        self.likelihood = pg.Parametric(decoder, family, event_shape=PIXELS, context_shape=LATENT)
        self.posterior = pg.Parametric(encoder, pg.families.diagonal_normal, event_shape=LATENT, context_shape=PIXELS)

    def model(self, x: torch.Tensor, size: int) -> None:
        pyro.module("autoencoder", self)
        with pyro.plate("data", size, subsample=range(len(x))):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: torch.Tensor, size: int) -> None:
        with pyro.plate("data", size, subsample=range(len(x))):
            pyro.sample("z", self.posterior(x / LEVELS))


def train_by_svi(autoencoder: Autoencoder, x: torch.Tensor, options: argparse.Namespace) -> float:
    """Plain Pyro; returns the mean loss of the last tenth of the steps, in nats per digit."""
    pyro.clear_param_store()
    decay = 0.05 ** (1 / options.steps)
    svi = SVI(autoencoder.model, autoencoder.guide, pyro.optim.ClippedAdam({"lr": 3e-3, "lrd": decay}), Trace_ELBO())
    losses = []
    for _ in range(options.steps):
        rows = torch.randint(len(x), (128,), device=x.device)
        losses.append(svi.step(x[rows], len(x)) / len(x))
    pyro.clear_param_store()
    autoencoder.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


@torch.no_grad()
def held_out_bound(autoencoder: Autoencoder, x: torch.Tensor, *, draws: int) -> torch.Tensor:
    """The ELBO of each digit, averaged over draws."""
    posterior = autoencoder.posterior(x / LEVELS)
    found = torch.zeros(len(x), device=x.device)
    for _ in range(draws):
        z = posterior.sample()
        log_joint = autoencoder.prior().log_prob(z) + autoencoder.likelihood(z).log_prob(x)
        found += (log_joint - posterior.log_prob(z)) / draws
    return found


if __name__ == "__main__":
    main()
