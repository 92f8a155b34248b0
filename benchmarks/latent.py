"""What a step of ``fit`` on a VAE costs beside the same loop written by hand in PyTorch.

Layers 784-400-20 on binary data, batch 128, and a tiny 8-8-2, batch 4; one thread. All loops do the same work on the
same minibatches and take turns in random order; the figures are medians of the ratios within a round.

With --compile, every objective eager and compiled, the compiler's own time and the start of ``fit`` left out.

    python benchmarks/latent.py [--rounds 9] [--steps 200] [--draws 10] [--table FILE] [--compile]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from results_file import table
from torch import nn

import pyrogen as pg
from pyrogen import latent

SIZES = {"784-400-20, batch 128": (784, 400, 20, 128), "8-8-2, batch 4": (8, 8, 2, 4)}


class Handwritten(nn.Module):
    """The bound, as one would write it without a library; of several draws if importance-weighted."""

    def __init__(self, pixels, hidden, latents, draws=None):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, hidden), nn.ReLU(), nn.Linear(hidden, pixels))
        self.draws = draws

    def forward(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        if self.draws is None:
            noise = torch.randn_like(loc)
            z = loc + log_scale.exp() * noise
            log_likelihood = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
            log_prior, log_posterior = -0.5 * z.square().sum(), -0.5 * noise.square().sum() - log_scale.sum()
            return (log_posterior - log_prior - log_likelihood) / len(x)
        noise = torch.randn(self.draws, *loc.shape)
        z = loc + log_scale.exp() * noise
        wide = x.expand(self.draws, *x.shape)
        log_likelihood = -F.binary_cross_entropy_with_logits(self.decoder(z), wide, reduction="none").sum(-1)
        log_ratio = 0.5 * (noise.square() - z.square()).sum(-1) + log_scale.sum(-1)
        return math.log(self.draws) - (log_likelihood + log_ratio).logsumexp(0).mean()


def by_hand(x, batch, objective, optimizer):
    """A loop of our own."""
    optimizer = optimizer(objective.parameters())

    def run(steps):
        for step in range(steps):
            if step % (len(x) // batch) == 0:
                order = torch.randperm(len(x)).split(batch)
            loss = objective(x[order[step % len(order)]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def by_fit(x, batch, target):
    """``fit``, start-up included."""
    return lambda steps: pg.fit(target, x, steps=steps, batch_size=batch)


def by_running_fit(x, batch, target, *, compile):
    """``fit`` once it runs: the seconds of so many steps after the first twenty."""

    def run(steps):
        clock = {}

        def callback(progress):
            if progress.step in (20, 20 + steps):
                clock[progress.step] = time.process_time()

        pg.fit(target, x, steps=20 + steps, batch_size=batch, callbacks=[callback], compile=compile)
        return clock[20 + steps] - clock[20]

    return run


def compare_compiled(recipe, x, batch, draws, rounds, steps):
    """Each objective eager and compiled, in turns."""
    makes = {
        "Elbo": latent.BetaElbo,
        "Elbo, analytic": partial(latent.BetaElbo, analytic_kl=True),
        "StickingTheLanding": latent.StickingTheLanding,
        "ImportanceWeighted": partial(latent.ImportanceWeighted, draws=draws),
        "DoublyReparameterized": partial(latent.DoublyReparameterized, draws=draws),
    }
    print(f"\n{'compiled':<34}{'ms, eager':>10}{'compiled':>11}{'ratio':>9}")
    for name, make in makes.items():
        loops = [by_running_fit(x, batch, make(recipe()), compile=compile) for compile in (False, True)]
        length = max(steps // 5, 1) if "W" in name or "D" in name else steps
        pairs = [[loop(length) / length for loop in loops] for _ in range(rounds + 1)][1:]
        eager, compiled = ([pair[which] for pair in pairs] for which in (0, 1))
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"{name:<34}{1e3 * statistics.median(eager):>10.2f}{1e3 * statistics.median(compiled):>11.2f}{ratio:>9.2f}"
        )


def compared(name, loops, rounds, steps):
    """A row for each loop: milliseconds a step, and the medians of its ratios to both loops by hand."""
    times = {loop: [] for loop in loops}
    for number in range(rounds + 1):
        for loop in random.sample(list(loops), len(loops)):
            start = time.process_time()
            loops[loop](steps)
            if number:
                times[loop].append((time.process_time() - start) / steps)
    rows = []
    for loop, own in times.items():
        references = list(times.values())[:2]
        ratios = [statistics.median(a / b for a, b in zip(own, other, strict=True)) for other in references]
        rows.append([name, loop, f"{1e3 * statistics.median(own):.2f}", *(f"{ratio:.2f}" for ratio in ratios)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--table", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    fused = partial(torch.optim.Adam, fused=True)
    rows = []
    for name, (pixels, hidden, latents, batch) in SIZES.items():
        x = torch.bernoulli(torch.rand(10 * batch, pixels))
        steps = arguments.steps if pixels > 100 else 5 * arguments.steps
        recipe = partial(latent.binary_vae, (pixels,), latent_shape=(latents,), hidden=(hidden,))
        if arguments.compile:
            compare_compiled(recipe, x, batch, arguments.draws, arguments.rounds, steps)
            continue
        hand = partial(Handwritten, pixels, hidden, latents)
        loops = {
            "by hand, default Adam": by_hand(x, batch, hand(), torch.optim.Adam),
            "by hand, fused Adam": by_hand(x, batch, hand(), fused),
            "`fit`, the same objective": by_fit(x, batch, hand()),
            "`BetaElbo`": by_fit(x, batch, recipe()),
            "`BetaElbo(analytic_kl=True)`": by_fit(x, batch, latent.BetaElbo(recipe(), analytic_kl=True)),
            "`StickingTheLanding`": by_fit(x, batch, latent.StickingTheLanding(recipe())),
        }
        rows += compared(name, loops, arguments.rounds, steps)
        if pixels > 100:
            draws = arguments.draws
            loops = {
                "by hand, default Adam": by_hand(x, batch, hand(draws), torch.optim.Adam),
                "by hand, fused Adam": by_hand(x, batch, hand(draws), fused),
                "`ImportanceWeighted`": by_fit(x, batch, latent.ImportanceWeighted(recipe(), draws=draws)),
                "`DoublyReparameterized`": by_fit(x, batch, latent.DoublyReparameterized(recipe(), draws=draws)),
            }
            rows += compared(f"{name}, {draws} draws", loops, arguments.rounds, max(steps // 5, 1))
    if rows:
        columns = ["network", "loop", "ms a step", "against by hand, default Adam", "against by hand, fused Adam"]
        table(columns, rows, arguments.table)


if __name__ == "__main__":
    main()
