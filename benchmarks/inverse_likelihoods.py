"""Tempered SMC where many numbers are measured that are neither linear nor Gaussian, and the answer is known.

A signal of ``--size`` numbers, each 0.9 times the one before plus noise, of variance one. Every number of it is
measured: by counts of rate exp(x + 2), with Student-t noise of three degrees of freedom and scale 0.2, or cut off at -1
and 1 with Gaussian noise of 0.2. Evidence and marginals follow from sums along the signal, over a grid of values.

    python benchmarks/inverse_likelihoods.py --runs 8 --particles 256 --moves 4 16 [--table FILE]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from results_file import table
from torch import Tensor

from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
from pyrogen.inverse import TemperedSMC

KEPT = 0.9  # of one number in the next
LIKELIHOODS: dict[str, Callable[[Tensor], dist.TorchDistribution]] = {
    "counts": lambda x: dist.Poisson((x + 2).exp()),
    "Student-t noise": lambda x: dist.StudentT(3.0, x, 0.2),
    "saturation": lambda x: dist.Normal(x.clamp(-1, 1), 0.2),
}


def exact(likelihood: Callable, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The log evidence, and means and standard deviations, by sums forwards and backwards along the signal."""
    grid = torch.linspace(-6, 6, 1201, dtype=torch.double)
    spacing = (grid[1] - grid[0]).log()
    onward = dist.Normal(KEPT * grid[:, None], math.sqrt(1 - KEPT**2)).log_prob(grid) + spacing
    seen = torch.stack([likelihood(grid).log_prob(number.double().expand_as(grid)) for number in y])
    forwards = [dist.Normal(torch.zeros_like(grid), 1.0).log_prob(grid) + spacing + seen[0]]
    for log_likelihood in seen[1:]:
        forwards.append((forwards[-1][:, None] + onward).logsumexp(0) + log_likelihood)
    backwards = [torch.zeros_like(grid)]
    for log_likelihood in seen[1:].flip(0):
        backwards.append((onward + log_likelihood + backwards[-1]).logsumexp(1))
    weights = (torch.stack(forwards) + torch.stack(backwards[::-1])).softmax(-1)
    mean = weights @ grid
    return forwards[-1].logsumexp(0), mean, (weights @ grid.square() - mean.square()).sqrt()


def compare(name: str, moves: int, options: argparse.Namespace) -> list[str]:
    """Independent runs on one problem."""
    torch.manual_seed(options.seed)
    place, likelihood = torch.arange(options.size), LIKELIHOODS[name]
    law = dist.MultivariateNormal(torch.zeros(options.size), KEPT ** (place[:, None] - place).abs())
    prior, y = Diffusion(GaussianMixtureDenoiser(law, LinearVP())), likelihood(law.sample()).sample()
    evidence, mean, deviation = exact(likelihood, y)

    def model(y: Tensor) -> None:
        with pyro.plate("runs", options.runs):
            x = pyro.sample("x", prior())
            pyro.sample("y", likelihood(x).to_event(1), obs=y.expand(options.runs, -1))

    start = time.process_time()
    answer = TemperedSMC(model, site="x", particles=options.particles, moves=moves).run(y)
    seconds = (time.process_time() - start) / options.runs
    diagnostics, x = answer.diagnostics(), answer.get_samples()["x"].double()
    off = answer.log_evidence.double() - evidence
    row = [
        name,
        f"{moves}",
        f"{off.mean():.2f} ± {off.std():.2f}",
        f"{diagnostics.standard_error.square().mean().sqrt():.2f}",
        f"{((x.mean(0) - mean) / deviation).square().mean().sqrt():.3f}",
        f"{(x.std(0) / deviation).mean():.3f}",
        f"{diagnostics.independent.mean():.0f}",
        f"{len(diagnostics.widths)}",
        f"{min(diagnostics.accepted):.2f}",
        f"{seconds:.1f}",
    ]
    print(*row, flush=True)
    return row


COLUMNS = [
    "what is measured",
    "moves a level",
    "log evidence less the exact one, nats, and its standard deviation over runs",
    "stated error",
    "error of the mean in posterior standard deviations",
    "ratio of standard deviations",
    "stated to be worth",
    "levels",
    "accepted, at least",
    "processor seconds a run",
]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--moves", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [compare(name, moves, options) for name in LIKELIHOODS for moves in options.moves]
    table(COLUMNS, rows, options.table)


if __name__ == "__main__":
    main()
