"""The Gaussian-mixture inverse problem of Cardoso et al. 2023, whose posterior is known: ours, azula's and deepinv's.

25 Gaussians of unit variance, a random linear measurement of ``--measured`` numbers, the exact denoiser, 100 steps,
1,000 draws. Sliced Wasserstein-1 distance to exact draws (100 random directions) over fixed problems, with 1.96
standard errors; the ratio is paired with the ancestral chain driven by the exact conditional score. Needs the
``bench`` extra. Several runs share the raw results of ``--output``; the table has those that are asked for.

    python benchmarks/inverse.py --size 8 80 --measured 1 2 4 --problems 40 --methods TwistedSMC --output FILE
    python benchmarks/inverse.py --size 8 --measured 2 --problems 10 --output FILE --table TABLE
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from results_file import keep, known, table
from torch import Tensor

from pyrogen.diffusion import Denoiser, Diffusion, LinearVP
from pyrogen.inverse import (
    DAPS,
    DDRM,
    DPS,
    DiffPIR,
    GuidedSampling,
    MomentMatching,
    PiGDM,
    RePaint,
    TwistedSMC,
)
from pyrogen.inverse.chain import Chain
from pyrogen.numerics.grids import default_grid

DRAWS, STEPS = 1000, 100


class IsotropicMixture(Denoiser):
    """The exact denoiser of Gaussians of unit variance, by one matrix product."""

    def __init__(self, means: Tensor, weights: Tensor, schedule: LinearVP) -> None:
        super().__init__((means.shape[-1],), schedule)
        self.means, self.log_weights = means, weights.log()

    def forward(self, x: Tensor, t: Tensor, context: None = None) -> Tensor:
        return mixture_mean(x, *self.path(x, t), self.means, self.log_weights)


class Problem:
    """One problem of the protocol, made from its seed."""

    def __init__(self, size: int, measured: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        centres = [(8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)]
        self.means = -torch.tensor([list(centre) * (size // 2) for centre in centres])
        weights = torch.randn(25, generator=random).square()
        self.weights = weights / weights.sum()
        u, _, v = torch.linalg.svd(torch.randn(measured, size, generator=random), full_matrices=False)
        singular = torch.rand(measured, generator=random).sort(descending=True).values
        self.operator = u * singular @ v
        self.noise = (torch.rand((), generator=random) * singular.max()).item()
        mode = torch.multinomial(self.weights, 1, generator=random)
        truth = self.means[mode[0]] + torch.randn(size, generator=random)
        self.y = self.operator @ truth + self.noise * torch.randn(measured, generator=random)
        # In 80 dimensions the modes lie up to 140 from zero: the usual path leaves them in what should be noise.
        schedule = LinearVP(beta_max=20.0 if size < 80 else 40.0)
        self.denoiser = IsotropicMixture(self.means, self.weights, schedule)
        self._condition()

    def _condition(self) -> None:
        marginal = self.operator @ self.operator.T + self.noise**2 * torch.eye(len(self.y))
        self.gain = torch.linalg.solve(marginal, self.operator).T
        residual = self.y - self.means @ self.operator.T
        log_joint = self.weights.log() + dist.MultivariateNormal(0 * self.y, marginal).log_prob(residual)
        self.log_evidence, self.log_posterior = log_joint.logsumexp(0), log_joint.log_softmax(0)
        self.posterior_means = self.means + residual @ self.gain.T

    def exact(self, count: int) -> Tensor:
        """Exact draws of the posterior."""
        mode = torch.multinomial(self.log_posterior.exp(), count, replacement=True)
        prior = torch.randn(count, self.means.shape[-1])
        missed = prior @ self.operator.T + self.noise * torch.randn(count, len(self.y))
        return self.posterior_means[mode] + prior - missed @ self.gain.T

    def oracle(self) -> Tensor:
        """The ancestral chain with the exact conditional score, on the grid of the others."""
        schedule = self.denoiser.schedule
        norm = (self.weights @ self.means.square().sum(-1) + self.means.shape[-1]).sqrt().item()
        chain = Chain(schedule, default_grid(schedule, STEPS, norm=norm))
        _, singular, v = torch.linalg.svd(self.operator, full_matrices=False)
        known = singular**2 / (singular**2 + self.noise**2)  # the posterior covariance is I - v' diag(known) v
        x = chain.start((DRAWS, self.means.shape[-1]), self.means)
        for place, level in enumerate(chain.levels):
            mean = conditional_mean(x, level.alpha, level.sigma, self, known, v)
            if place + 1 == len(chain.levels):
                return mean
            step = chain.step(place)
            x = step.mean(x, mean) + step.scale * torch.randn_like(x)
        raise AssertionError

    def model(self, y: Tensor) -> None:
        """The problem as a Pyro model."""
        x = pyro.sample("x", Diffusion(self.denoiser)())
        pyro.sample("y", dist.Normal(self.operator @ x, self.noise).to_event(1), obs=y)


def mixture_mean(x: Tensor, alpha: Tensor, sigma: Tensor, means: Tensor, log_weights: Tensor) -> Tensor:
    variance = alpha**2 + sigma**2
    logits = log_weights + (alpha * x @ means.T - 0.5 * alpha**2 * means.square().sum(-1)) / variance
    mean = logits.softmax(-1) @ means
    return mean + alpha / variance * (x - alpha * mean)


def conditional_mean(x: Tensor, alpha: float, sigma: float, problem: Problem, known: Tensor, v: Tensor) -> Tensor:
    variance = alpha**2 + sigma**2
    extra = alpha**2 * known / (variance - alpha**2 * known)
    x, means, known, extra, v = (value.double() for value in (x, problem.posterior_means, known, extra, v))
    square = x.square().sum(-1, keepdim=True) - 2 * alpha * x @ means.T + alpha**2 * means.square().sum(-1)
    along = (x @ v.T).unsqueeze(1) - alpha * means @ v.T
    weights = (problem.log_posterior - 0.5 * (square + (along.square() * extra).sum(-1)) / variance).softmax(-1)
    mean = weights @ means
    away = x - alpha * mean
    solved = (away + (away @ v.T * extra) @ v) / variance
    shift = solved - (solved @ v.T * known) @ v
    return (mean + alpha * shift).float()


def distance(draws: Tensor, exact: Tensor) -> float:
    """Sliced Wasserstein-1 with 100 directions; infinite where the draws are not finite."""
    directions = torch.randn(draws.shape[-1], 100, generator=torch.Generator().manual_seed(0))
    directions = directions / directions.norm(dim=0)
    ours, theirs = (draws @ directions).sort(0).values, (exact @ directions).sort(0).values
    return (ours.repeat_interleave(len(theirs) // len(ours), 0) - theirs).abs().mean().nan_to_num(math.inf).item()


def methods(problem: Problem) -> dict[str, object]:
    """By name, a function that gives draws and, or None, the log evidence."""

    def smc() -> tuple[Tensor, float]:
        found = TwistedSMC(problem.model, site="x", particles=DRAWS, steps=STEPS).run(problem.y)
        return found.get_samples()["x"], found.log_evidence.item()

    def guided(guidance: object) -> tuple[Tensor, None]:
        found = GuidedSampling(problem.model, site="x", guidance=guidance, draws=DRAWS, steps=STEPS)
        return found.run(problem.y).get_samples()["x"], None

    table = {
        "exact draws": lambda: (problem.exact(DRAWS), None),
        "exact conditional score": lambda: (problem.oracle(), None),
        "TwistedSMC": smc,
        "MomentMatching": lambda: guided(MomentMatching()),
        "PiGDM(129)": lambda: guided(PiGDM(129.0)),
        "PiGDM(1)": lambda: guided(PiGDM(1.0)),
        "DiffPIR": lambda: guided(DiffPIR()),
        "DPS(0.1)": lambda: guided(DPS(0.1)),
        "RePaint": lambda: guided(RePaint()),
        "DDRM": lambda: guided(DDRM()),
        "DAPS": lambda: guided(DAPS()),
        "DAPS(1, variance=129)": lambda: guided(DAPS(1, variance=129.0)),
    }
    if all(importlib.util.find_spec(peer) for peer in ("azula", "deepinv")):
        from inverse_peers import azula_methods, deepinv_methods

        mean = partial(mixture_mean, means=problem.means, log_weights=problem.weights.log())
        table |= azula_methods(problem, mean, DRAWS, STEPS) | deepinv_methods(problem, mean, DRAWS, STEPS)
    return table


EXACT, ORACLE = "exact draws", "exact conditional score"


def runs(size: int, measured: int, seeds: range, names: list[str], lines: list[dict]) -> Iterator[dict]:
    """The distance of each method on each problem, of what is not among the lines."""
    done = [(line["size"], line["measured"], line["seed"], line["method"]) for line in lines]
    for seed in seeds:
        problem = Problem(size, measured, seed)
        torch.manual_seed(seed)
        exact = problem.exact(10 * DRAWS)
        for name, method in methods(problem).items():
            if (names and name not in (EXACT, ORACLE, *names)) or (size, measured, seed, name) in done:
                continue
            start = time.process_time()
            draws, log_evidence = method()
            seconds = time.process_time() - start
            error = None if log_evidence is None else abs(log_evidence - problem.log_evidence.item())
            found = {"distance": distance(draws.detach(), exact), "error": error, "seconds": seconds}
            yield {"size": size, "measured": measured, "seed": seed, "method": name, **found}


def rows(size: int, measured: int, seeds: range, names: list[str], lines: list[dict]) -> Iterator[list[str]]:
    """One for each method: its distances, and their ratios to those of the exact conditional score."""
    mine = [line for line in lines if (line["size"], line["measured"]) == (size, measured) and line["seed"] in seeds]
    oracle = {line["seed"]: line["distance"] for line in mine if line["method"] == ORACLE}
    for name in dict.fromkeys(line["method"] for line in mine):
        if names and name not in (EXACT, ORACLE, *names):
            continue
        own = [line for line in mine if line["method"] == name]
        ratio = torch.tensor([line["distance"] / oracle[line["seed"]] for line in own])
        errors = [line["error"] for line in own if line["error"] is not None]
        yield [
            f"{size}, {measured} ({len(own)})",
            name,
            interval(torch.tensor([line["distance"] for line in own])),
            "" if name in (EXACT, ORACLE) else interval(ratio),
            f"{torch.tensor(errors).median():.3f} nat" if errors else "",
            f"{sum(line['seconds'] for line in own) / len(own):.2g}",
        ]


def interval(values: Tensor) -> str:
    return f"{values.mean():.3f} ± {1.96 * values.std() / len(values) ** 0.5:.3f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[8, 80, 800])
    parser.add_argument("--measured", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--methods", nargs="+", default=[], help="only these, beside exact draws and score")
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    lines, found, seeds = known(options.output), [], range(options.problems)
    for size, measured in product(options.size, options.measured):
        asked = size, measured, seeds, options.methods, lines
        keep(runs(*asked), lines, options.output)
        found += rows(*asked)
    columns = ["$d$, $d_y$ (problems)", "method", "sliced W1", "paired ratio", "error of $\\log p(y)$, median"]
    table([*columns, "processor seconds"], found, options.table, lines)


if __name__ == "__main__":
    main()
