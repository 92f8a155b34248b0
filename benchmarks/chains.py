"""Effective draws a second: many chains in one batch beside Pyro's NUTS, on three posteriors.

- ``flow``: a spline flow trained on 8x8 digits (64 numbers), 16 random linear measurements with noise, in the noise of
  the flow;
- ``schools``: eight schools, reparameterized;
- ``logistic``: logistic regression, 10 coefficients, 1,000 data.

For each, ``ManyChains`` with 64 chains and NUTS with one run in turn, ``--repeats`` times, on one thread. The figure is
the least bulk effective sample size of any number, rank-normalized and by one function for both, over processor
seconds: of everything (setting up, warming up, sampling, diagnostics), and of sampling alone. Beside it the tails, and
the R-hat, which must be near one for the figure to mean something. ``--compile`` adds a run with ``compile=True``.

    python benchmarks/chains.py --output benchmarks/results/chains.jsonl
    python benchmarks/chains.py --output benchmarks/results/chains.jsonl --table TABLE.json    # runs nothing
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.reparam import LocScaleReparam
from results_file import keep, known, table
from torch import Tensor

import pyrogen as pg
from pyrogen.inverse import ManyChains, in_noise
from pyrogen.numerics.markov.convergence import bulk_effective_sample_size, r_hat, tail_effective_sample_size

COLUMNS = ["posterior", "method", "effective draws a second", "of sampling alone", "of tails", "R-hat", "divergences"]
DESCRIPTIONS = {
    "schools": "eight schools, reparameterized",
    "logistic": "logistic regression, 10 coefficients",
    "flow": "spline flow of 64 numbers, 16 measurements, in noise",
}
EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def flow_posterior() -> tuple[Callable, Tensor]:
    from sklearn.datasets import load_digits

    digits = torch.as_tensor(load_digits().data, dtype=torch.float32)
    x = ((digits + torch.rand(digits.shape)) / 17 - 0.5) * 4
    flow = pg.flows.spline_coupling((64,), layers=4, hidden=(64,))
    pg.fit(flow, x, steps=300, seed=0)
    flow.eval().requires_grad_(False)
    operator = torch.randn(16, 64) / 8
    y = operator @ x[0] + 0.2 * torch.randn(16)

    def model(y: Tensor) -> None:
        x = pyro.sample("x", flow())
        pyro.sample("y", dist.Normal(x @ operator.T, 0.2).to_event(1), obs=y)

    return in_noise(model, site="x"), y


def schools_posterior() -> tuple[Callable, Tensor]:
    @poutine.reparam(config={"theta": LocScaleReparam(0.0)})
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0, 5))
        tau = pyro.sample("tau", dist.HalfCauchy(5))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, ERRORS), obs=y)

    return model, EFFECTS


def logistic_posterior() -> tuple[Callable, Tensor]:
    inputs, coefficients = torch.randn(1000, 10), torch.randn(10)
    y = (torch.rand(1000) < (inputs @ coefficients).sigmoid()).float()

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(10), 1.0).to_event(1))
        with pyro.plate("data", 1000):
            pyro.sample("y", dist.Bernoulli(logits=w @ inputs.T), obs=y)

    return model, y


POSTERIORS = {"flow": flow_posterior, "schools": schools_posterior, "logistic": logistic_posterior}


def many_chains(model: Callable, y: Tensor, seed: int, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    settings = {"chains": options.chains, "draws": options.draws, "warmup": options.warmup}
    began = time.process_time()
    posterior = ManyChains(model, seed=seed, **settings, **more).run(y)
    seconds = time.process_time() - began
    found = posterior.diagnostics()
    sampling = seconds * found.seconds / (found.seconds + found.warmup_seconds)
    return scored(posterior.get_samples(group_by_chain=True), seconds, sampling, found.divergences)


def nuts(model: Callable, y: Tensor, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    pyro.set_rng_seed(seed)
    warm: list[float] = []

    def hook(kernel: NUTS, samples: dict, stage: str, step: int) -> None:
        if stage.startswith("Warmup"):
            warm[:] = [time.process_time()]

    began = time.process_time()
    mcmc = MCMC(NUTS(model), options.nuts_draws, warmup_steps=options.nuts_warmup, hook_fn=hook, disable_progbar=True)
    mcmc.run(y)
    ended = time.process_time()
    divergences = len(mcmc.diagnostics()["divergences"]["chain 0"])
    return scored(mcmc.get_samples(group_by_chain=True), ended - began, ended - warm[0], divergences)


def scored(draws: dict[str, Tensor], seconds: float, sampling: float, divergences: int) -> dict[str, Any]:
    """The figures of draws; of what the model computes from others only the others count."""
    numbers = torch.cat([value.flatten(2) if value.dim() > 2 else value[..., None] for value in draws.values()], -1)
    bulk, tail = bulk_effective_sample_size(numbers).min().item(), tail_effective_sample_size(numbers).min().item()
    return {
        "draws": numbers[..., 0].numel(),
        "bulk": bulk,
        "tail": tail,
        "r_hat": r_hat(numbers).max().item(),
        "divergences": divergences,
        "seconds": seconds,
        "sampling_seconds": sampling,
        "per_second": bulk / seconds,
        "per_second_of_sampling": bulk / sampling,
    }


def measured(name: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    pyro.set_rng_seed(0)
    model, y = POSTERIORS[name]()
    methods = {"ManyChains": many_chains, "NUTS": nuts}
    for repeat in range(options.repeats):
        for method, run in methods.items():
            yield {"posterior": name, "method": method, "repeat": repeat, **run(model, y, repeat, options)}
    if options.compile:
        found = many_chains(model, y, 0, options, compile=True)
        yield {"posterior": name, "method": "ManyChains, compiled", "repeat": 0, **found}


def summary(lines: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row of the table for each posterior and method."""
    for name in POSTERIORS:
        for method in ("ManyChains", "NUTS", "ManyChains, compiled"):
            rows = [line for line in lines if (line["posterior"], line["method"]) == (name, method)]
            if rows:
                yield [DESCRIPTIONS[name], f"`{method}`" if method != "NUTS" else method, *cells(rows)]


def cells(rows: list[dict[str, Any]]) -> list[str]:
    def middle(key: str) -> float:
        return statistics.median(row[key] for row in rows)

    tails = statistics.median(row["tail"] / row["seconds"] for row in rows)
    return [
        *(f"{float(f'{value:.3g}'):,g}" for value in (middle("per_second"), middle("per_second_of_sampling"), tails)),
        f"{max(row['r_hat'] for row in rows):.3f}",
        f"{sum(row['divergences'] for row in rows)}",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posteriors", nargs="+", choices=POSTERIORS, default=list(POSTERIORS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--nuts-draws", type=int, default=1000)
    parser.add_argument("--nuts-warmup", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--table", type=Path, help="tabulate the file of results into this one, run nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    lines = known(options.output)
    for name in () if options.table else options.posteriors:
        keep(measured(name, options), lines, options.output)
    table(COLUMNS, list(summary(lines)), options.table, lines)


if __name__ == "__main__":
    main()
