"""What a step of ``fit`` costs beside the same loop written by hand in PyTorch.

A variational autoencoder with layers 784-400-20 on binary data, batch 128, one thread. All loops do the same work on
the same minibatches: encode, sample, decode, Monte Carlo bound, backward, Adam. They take turns in random order, and
the figures are medians of the ratios within a round.

    python benchmarks/training.py [--rounds 9] [--steps 200] [--table benchmarks/results/tables/training/speed.json]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from functools import partial
from pathlib import Path

import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from results_file import table
from torch import nn

import pyrogen as pg

PIXELS, HIDDEN, LATENT, BATCH = 784, 400, 20, 128


def networks() -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder."""
    encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, PIXELS))
    return encoder, decoder


class Handwritten(nn.Module):
    """The bound, as one would write it without a library."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = networks()

    def forward(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        noise = torch.randn_like(loc)
        z = loc + log_scale.exp() * noise
        log_likelihood = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        log_prior, log_posterior = -0.5 * z.square().sum(), -0.5 * noise.square().sum() - log_scale.sum()
        return (log_posterior - log_prior - log_likelihood) / len(x)


class Model(nn.Module):
    """The Pyro model."""

    def __init__(self, decoder):
        super().__init__()
        self.likelihood = pg.Parametric(decoder, pg.families.bernoulli, event_shape=(PIXELS,), context_shape=(LATENT,))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", pg.distributions.UnitNormal((LATENT,), x))
            pyro.sample("x", self.likelihood(z), obs=x)


class Guide(nn.Module):
    """The Pyro guide."""

    def __init__(self, encoder):
        super().__init__()
        self.posterior = pg.Parametric(
            encoder, pg.families.diagonal_normal, event_shape=(LATENT,), context_shape=(PIXELS,)
        )

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def by_hand(x, optimizer):
    """A loop of our own."""
    objective = Handwritten()
    optimizer = optimizer(objective.parameters())

    def run(steps):
        for step in range(steps):
            if step % (len(x) // BATCH) == 0:
                order = torch.randperm(len(x)).split(BATCH)
            loss = objective(x[order[step % len(order)]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def by_fit(x, objective):
    """``fit``, start-up included."""
    return lambda steps: pg.fit(objective, x, steps=steps, batch_size=BATCH)


def pyro_pair():
    """A Pyro model and its guide."""
    encoder, decoder = networks()
    return Model(decoder), Guide(encoder)


def by_svi(x):
    """Pyro's own loop."""
    svi = SVI(*pyro_pair(), pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())

    def run(steps):
        for step in range(steps):
            if step % (len(x) // BATCH) == 0:
                order = torch.randperm(len(x)).split(BATCH)
            svi.step(x[order[step % len(order)]])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--table", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.rand(10 * BATCH, PIXELS))
    loops = {
        "by hand, default Adam": by_hand(x, torch.optim.Adam),
        "by hand, fused Adam": by_hand(x, partial(torch.optim.Adam, fused=True)),
        "`fit`, the same objective": by_fit(x, Handwritten()),
        "`fit`, `Elbo` of a Pyro model and guide": by_fit(x, pg.Elbo(*pyro_pair())),
        "Pyro's `SVI.step`": by_svi(x),
    }
    times = {name: [] for name in loops}
    for number in range(arguments.rounds + 1):
        for name in random.sample(list(loops), len(loops)):
            start = time.process_time()
            loops[name](arguments.steps)
            if number:
                times[name].append((time.process_time() - start) / arguments.steps)
    columns = ["loop", "ms a step", "against by hand, default Adam", "against by hand, fused Adam"]
    table(columns, [[name, *compared(own, list(times.values())[:2])] for name, own in times.items()], arguments.table)


def compared(own: list[float], references: list[list[float]]) -> list[str]:
    """Milliseconds, and the medians of the ratios to each reference within a round."""
    ratios = [statistics.median(a / b for a, b in zip(own, other, strict=True)) for other in references]
    return [f"{1e3 * statistics.median(own):.2f}", *(f"{ratio:.2f}" for ratio in ratios)]


if __name__ == "__main__":
    main()
