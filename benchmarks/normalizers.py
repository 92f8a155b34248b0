"""Normalizers of energies whose truth is known: errors, and how often the stated standard errors cover them.

- *normal*: 16 dimensions of standard deviation 5 from a standard normal, 40.454 nats in closed form
- *machine*: a restricted Boltzmann machine of 20 hidden units, trained on the digits of scikit-learn as bits, by a sum
  over its hidden states
- *torus*: the Ising model of 4 by 4 spins at the critical coupling of the plane, .4407, by a sum over all states
- *glass*: the same with normal couplings of deviation one
- *modes*: two normals 12 apart from a base that sees one of them, 0; and from one that is 6 wide

Errors are estimate minus truth over repeats, in nats; "covered" is the share of intervals of 95 % that hold the truth.

    python benchmarks/normalizers.py --repeats 20 [--output FILE] [--table FILE]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from math import log, pi
from pathlib import Path
from time import process_time
from typing import NamedTuple

import pyro.distributions as dist
import torch
from results_file import keep, known, table
from torch import Tensor, nn

import pyrogen as pg
from pyrogen.energy import AnnealedImportanceSampling, LogNormalizer, ParallelTempering, log_normalizer

METHODS = {
    "annealing 500 x 100": AnnealedImportanceSampling(wider=False),
    "annealing 1000 x 400": AnnealedImportanceSampling(temperatures=1000, chains=400, wider=False),
    "and a wider base": AnnealedImportanceSampling(),
    "and exact draws": AnnealedImportanceSampling(),
    "tempering": ParallelTempering(wider=False),
}


class Task(NamedTuple):
    """An energy, its normalizer, a base, and exact draws of it."""

    energy: pg.energy.EnergyModule
    truth: float
    base: dist.TorchDistribution | None
    draws: Callable[[int], Tensor]


class Formula(nn.Module):
    """A network that is a formula."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x)


def normal() -> Task:
    """A wide normal."""
    energy = pg.energy.Energy(Formula(lambda x: (x / 5).square().sum(1) / 2), (16,))
    return Task(energy, 8 * log(2 * pi) + 16 * log(5), None, lambda n: 5 * torch.randn(n, 16))


def machine() -> Task:
    """A machine that was trained on digits."""
    from sklearn.datasets import load_digits

    x = torch.tensor(load_digits().data > 7).float()
    torch.manual_seed(0)
    trained = pg.energy.rbm((64,), units=20, symbols=2)
    pg.fit(trained, x, steps=2000, lr=1e-2, seed=0)
    with torch.no_grad():
        truth = trained.log_normalizer().item()
    base = dist.Bernoulli(x.mean(0).clamp(0.02, 0.98)).to_event(1)
    return Task(trained, truth, base, lambda n: trained().sample((n,)))


def lattice(coupling: float | Tensor) -> Task:
    """A torus of 4 by 4 spins."""
    energy = pg.energy.Ising((4, 4), pg.energy.grid_edges((4, 4), periodic=True), coupling=coupling)
    with torch.no_grad():
        truth = energy.log_normalizer().item()
    return Task(energy, truth, None, lambda n: energy().sample((n,)))


def modes(base: dist.TorchDistribution) -> Task:
    """Two normals far apart."""
    ends = torch.tensor([[-6.0, 0.0], [6.0, 0.0]])

    def energy(x: Tensor) -> Tensor:
        return log(4 * pi) - (-(x.unsqueeze(1) - ends).square().sum(2) / 2).logsumexp(1)

    return Task(
        pg.energy.Energy(Formula(energy), (2,)), 0.0, base, lambda n: torch.randn(n, 2) + ends[torch.randint(2, (n,))]
    )


TASKS: dict[str, Callable[[], Task]] = {
    "normal": normal,
    "machine": machine,
    "torus": lambda: lattice(0.4407),
    "glass": lambda: lattice(torch.randn(32, generator=torch.Generator().manual_seed(0))),
    "modes": lambda: modes(dist.Normal(torch.tensor([-6.0, 0.0]), 1.0).to_event(1)),
    "modes, wide": lambda: modes(dist.Normal(torch.zeros(2), 6.0).to_event(1)),
}


TITLES = {
    "normal": "normal of 16 dimensions, deviation 5",
    "machine": "machine of 20 hidden units, digits",
    "torus": "4 by 4 spins, critical coupling",
    "glass": "4 by 4 spins, normal couplings",
    "modes": "two normals 12 apart, base at one",
    "modes, wide": "two normals 12 apart, wide base",
}


def main(argv: list[str] | None = None) -> None:
    """Prints a table, a row for each task and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--tasks", nargs="+", default=[*TASKS], choices=[*TASKS])
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=[*METHODS])
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    lines = known(options.output)
    keep(_found(options, lines), lines, options.output)
    columns = ["energy", "method", "$\\log Z$", "mean error", "root mean square", "stated", "covered"]
    table([*columns, "warned", "seconds"], [_row(line) for line in lines], options.table, lines)


def _found(options: argparse.Namespace, lines: list[dict]) -> Iterator[dict]:
    """The estimates of each task and method that are not among the lines."""
    done = {(line["task"], line["method"]) for line in lines}
    for name in options.tasks:
        missing = [method for method in options.methods if (name, method) not in done]
        task = TASKS[name]() if missing else None
        for method in missing:
            yield {"task": name, "method": method, "truth": task.truth, **_repeated(task, method, options.repeats)}


def _repeated(task: Task, method: str, repeats: int) -> dict[str, object]:
    errors, stated, warned, started = [], [], 0, process_time()
    for seed in range(repeats):
        torch.manual_seed(seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            one = _estimated(task, method)
        errors.append(one.value - task.truth)
        stated.append(one.standard_error)
        warned += bool(caught)
    return {"errors": errors, "stated": stated, "warned": warned, "seconds": (process_time() - started) / repeats}


def _row(line: dict) -> list[str]:
    errors, stated = torch.tensor(line["errors"]), torch.tensor(line["stated"])
    count = len(errors)
    return [
        TITLES[line["task"]],
        line["method"],
        f"{line['truth']:.3f}",
        f"{errors.mean():.3f} ± {errors.std() / count**0.5:.3f}",
        f"{errors.square().mean().sqrt():.3f}",
        f"{stated.mean():.3f}",
        f"{(errors.abs() <= 1.96 * stated).sum()} of {count}",
        f"{line['warned']} of {count}",
        f"{line['seconds']:.1f}",
    ]


def _estimated(task: Task, method: str) -> LogNormalizer:
    exact_draws = task.draws(100) if method == "and exact draws" else None
    return log_normalizer(task.energy, base=task.base, exact_draws=exact_draws, method=METHODS[method])


if __name__ == "__main__":
    main()
