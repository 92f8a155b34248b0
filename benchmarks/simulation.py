"""Simulation-based inference on the tasks of sbi-benchmark: learned posteriors, learned likelihoods, rounds, and sbi.

C2ST by sbi-benchmark's protocol (``simulation_classifier.py``): the accuracy of a perceptron (two hidden layers of 10
units for each parameter) that tells 10,000 draws from 10,000 reference draws, z-scored by these, in five-fold
cross-validation; 1/2 is best. Beside it the nats of held-out parameters given their data, where the method has a
density, and processor time to train and to draw 10,000 posterior draws of one datum. One thread; for each seed all
methods learn from the same simulations, one after the other. ``simulation_tasks.py`` says where the wheel with the
observations comes from. sbi is in the extra ``bench``.

The whole table takes hours, most of them for classifiers. So it can be made in parts, which each append lines to a
file; parts that the file holds are not run again:

    python benchmarks/simulation.py --output benchmarks/results/simulation.jsonl  # everything that is missing
    python benchmarks/simulation.py --output results.jsonl --tasks slcp --simulations 10000 --methods likelihood
    python benchmarks/simulation.py --output results.jsonl --table TABLE.json
    python benchmarks/simulation.py --seeds 0 --observations 1 2 --draws 2000     # a quick look
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pyro
import torch
from results_file import keep, known, table
from simulation_classifier import c2st
from simulation_sampling import tempered_draws
from simulation_tasks import Task, found_wheel, task
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.simulation import Joint, Simulations

PUBLISHED = {
    ("two_moons", 1_000): (0.725, 0.65),
    ("two_moons", 10_000): (0.606, 0.56),
    ("slcp", 10_000): (0.771, 0.80),
    ("slcp", 100_000): (0.699, 0.66),
    ("gaussian_linear", 1_000): (0.650, 0.62),
    ("gaussian_linear", 10_000): (0.552, 0.53),
    ("gaussian_mixture", 10_000): (0.615, 0.58),
    ("bernoulli_glm", 10_000): (0.605, 0.60),
    ("lotka_volterra", 10_000): (0.738, 0.75),
}
"""The best mean C2ST of NPE, NLE and NRE (of lotka_volterra, SNLE) in Lueckmann et al. 2021, and the aim of pyrogen."""

COLUMNS = ["task", "simulations", "published", "aim", "method", "C2ST", "runs", "nats", "train, s", "draw, s"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(dict.fromkeys(name for name, _ in PUBLISHED)))
    parser.add_argument("--simulations", nargs="+", type=int, default=sorted({budget for _, budget in PUBLISHED}))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--observations", nargs="+", type=int, default=range(1, 11))
    parser.add_argument("--draws", type=int, default=10_000, help="of each kind that the classifier gets")
    parser.add_argument("--wheel", type=Path, default=found_wheel(), help="of sbibm 1.1.0")
    parser.add_argument("--output", type=Path, help="a file of results, one JSON object a line")
    parser.add_argument("--table", type=Path, help="tabulate the file of results into this one, run nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    lines = known(options.output)
    if not options.table:
        keep(runs(options, lines), lines, options.output)
    table(COLUMNS, list(summary(lines)), options.table, lines)


def runs(options: argparse.Namespace, lines: list[dict]) -> Iterator[dict]:
    """A line for each task, number of simulations, seed, method and observation that no line is known of."""
    for name, budget in PUBLISHED:
        if name not in options.tasks or budget not in options.simulations:
            continue
        problem = task(name, options.wheel)
        for seed in options.seeds:
            for method in options.methods:
                run = {"task": name, "simulations": budget, "method": method, "seed": seed, "draws": options.draws}
                done = {line["observation"] for line in lines if run.items() <= line.items()}
                missing = [number for number in options.observations if number not in done]
                if missing and (method == "rounds") <= (name == "lotka_volterra"):
                    yield from (run | found for found in measured(problem, method, budget, seed, missing, options))


def measured(
    problem: Task, method: str, budget: int, seed: int, observations: list[int], options: argparse.Namespace
) -> Iterator[dict]:
    """What one method finds at each observation."""
    joint = Joint(problem.program, observed="x", nuisance=problem.nuisance)
    simulations = joint.draw(budget, seed=seed, batch_size=10_000, progress=False)
    learned, found = None, []
    for number in observations:
        x = problem.observation(number)
        torch.manual_seed(seed)
        if learned is None or method == "rounds":
            began = time.process_time()
            learned = METHODS[method](joint, simulations, seed, x)
            train = time.process_time() - began
            nats = None if learned.log_prob is None else held_out_nats(joint, learned)
        began = time.process_time()
        draws = learned.draws(x, options.draws)
        draw = time.process_time() - began
        found.append((number, draws, {"nats": nats, "train": train, "draw": draw}))
    scores = c2st([(problem.reference(number)[: options.draws], draws) for number, draws, _ in found], seed=1)
    for (number, _, measures), score in zip(found, scores, strict=True):
        yield {"observation": number, "c2st": score, **measures, "versions": versions()}


class Learned(NamedTuple):
    """What a method has learned.

    Attributes:
        draws: Posterior draws ``(n, D)`` of a datum.
        log_prob: The log-density of parameters ``(N, D)`` given data, one each; ``None`` if there is none.
    """

    draws: Callable[[Tensor, int], Tensor]
    log_prob: Callable[[Tensor, Tensor], Tensor] | None = None


def posterior(joint: Joint, simulations: Simulations, seed: int, x: Tensor) -> Learned:
    """Neural posterior estimation."""
    return _learned(pg.simulation.posterior(joint), simulations, seed)


def short(joint: Joint, simulations: Simulations, seed: int, x: Tensor) -> Learned:
    """Neural posterior estimation in a quarter of the steps."""
    return _learned(pg.simulation.posterior(joint), simulations, seed, share=0.25)


def affine(joint: Joint, simulations: Simulations, seed: int, x: Tensor) -> Learned:
    """Neural posterior estimation by affine layers alone, for posteriors that are nearly Gaussian given the data."""
    recipe = pg.flows.affine_autoregressive
    return _learned(pg.simulation.posterior(joint, recipe=recipe), simulations, seed)


def ensemble(joint: Joint, simulations: Simulations, seed: int, x: Tensor) -> Learned:
    """Neural posterior estimation by the mixture of five flows, trained side by side."""
    return _learned(
        pg.simulation.posterior(joint, recipe=pg.ensemble(pg.simulation.flow, members=5)), simulations, seed
    )


def affine_ensemble(joint: Joint, simulations: Simulations, seed: int, x: Tensor) -> Learned:
    """Neural posterior estimation by the mixture of five flows of affine layers."""
    recipe = pg.ensemble(pg.flows.affine_autoregressive, members=5)
    return _learned(pg.simulation.posterior(joint, recipe=recipe), simulations, seed)


def likelihood(joint: Joint, simulations: Simulations, seed: int, x: Tensor) -> Learned:
    """Neural likelihood estimation, one row of a plate at a time; its draws begin at those of a learned posterior."""
    start, module = pg.simulation.posterior(joint), pg.simulation.likelihood(joint)
    for part in (start, module):
        trained(part, simulations, seed)
    return Learned(lambda x, n: tempered_draws(joint, module.program, x, n, start=start(x)))


def rounds(joint: Joint, simulations: Simulations, seed: int, x: Tensor, count: int = 5) -> Learned:
    """Neural likelihood estimation in rounds for one datum; all but the first simulate at posterior draws so far."""
    size = len(simulations) // count
    simulations = simulations[:size]
    for number in range(1, count + 1):
        module = pg.simulation.likelihood(joint)
        trained(module, simulations, seed)
        draws = partial(tempered_draws, joint, module.program)
        if number < count:
            theta = draws(x, size)
            simulations = simulations + joint.simulate({"theta": theta}, seed=seed + number)
    return Learned(draws)


def sbi(joint: Joint, simulations: Simulations, seed: int, x: Tensor) -> Learned:
    """Neural posterior estimation of sbi, as it comes."""
    from sbi.inference import NPE

    prior = pyro.poutine.trace(joint.program).get_trace().nodes["theta"]["fn"]
    with TemporaryDirectory() as logs, chdir(logs):  # where it writes a log of its own
        trainer = NPE(prior, show_progress_bars=False)
        trainer.append_simulations(simulations.latents["theta"], simulations.observed["x"].flatten(1)).train()
    found = trainer.build_posterior()

    def draws(x: Tensor, n: int) -> Tensor:
        return found.sample((n,), x=x.flatten(), show_progress_bars=False)

    @torch.no_grad()
    def log_prob(theta: Tensor, x: Tensor) -> Tensor:
        return found.log_prob_batched(theta[None], x.flatten(1), norm_posterior=False)[0]

    return Learned(draws, log_prob)


def _learned(module: pg.simulation.Posterior, simulations: Simulations, seed: int, share: float = 1.0) -> Learned:
    trained(module, simulations, seed, share)
    draws = torch.no_grad()(lambda x, n: module(x).sample((n,)))
    return Learned(draws, torch.no_grad()(lambda theta, x: module(x).log_prob(theta)))


METHODS = {
    "posterior": posterior,
    "posterior, a quarter of the steps": short,
    "affine": affine,
    "ensemble": ensemble,
    "affine ensemble": affine_ensemble,
    "likelihood": likelihood,
    "rounds": rounds,
    "sbi": sbi,
}


def trained(module: torch.nn.Module, simulations: Simulations, seed: int, share: float = 1.0) -> None:
    """Trains in one way for all tasks; steps, minibatches and learning rate follow from the number of simulations.

    Few simulations are soon overfitted, so that a tenth of them is held out and looked at often; a moving average of
    the weights and a rate that falls to zero are worth a tenth of a nat each on two_moons.
    """
    tenfold = round(math.log10(len(simulations) / 1_000))
    steps, batch_size = round(share * 2_000 * 2**tenfold), 128 * 2**tenfold
    pg.fit(
        module,
        simulations,
        steps=steps,
        batch_size=batch_size,
        lr=1e-3 if tenfold < 1 else 3e-3,
        schedule=partial(CosineAnnealingLR, T_max=steps),
        ema=0.99,
        validation=0.1,
        validate_every=steps // 100,
        patience=25,
        seed=seed,
    )


def held_out_nats(joint: Joint, learned: Learned, size: int = 5_000) -> float:
    """Minus the mean log-density of parameters given their data, of simulations that were not learned from."""
    fresh = joint.draw(size, seed=10_000, batch_size=size)
    return -learned.log_prob(fresh.latents["theta"], fresh.observed["x"]).mean().item()


def versions() -> str:
    """Of what was run; sbi has one only where it is installed."""
    installed = {distribution.name: distribution.version for distribution in distributions()}
    found = [f"{name} {installed[name]}" for name in ("torch", "sbi") if name in installed]
    return ", ".join([f"pyrogen {pg.__version__}", *found])


def summary(lines: list[dict]) -> Iterator[list[str]]:
    """Means over observations and seeds, with standard errors of the C2ST: a row for each task and method."""
    for (name, budget), (published, aim) in PUBLISHED.items():
        for method in METHODS:
            chosen = {"task": name, "simulations": budget, "method": method}
            found = [line for line in lines if chosen.items() <= line.items()]
            if found:
                scores = [line["c2st"] for line in found]
                nats = [line["nats"] for line in found if line["nats"] is not None]
                shown = f"{statistics.mean(nats):.3f}" if nats else ""
                times = [f"{statistics.mean(line[part] for line in found):.1f}" for part in ("train", "draw")]
                task = [name, f"{budget:,}", f"{published:.3f}", f"{aim:.2f}"]
                yield [*task, method, _with_error(scores), f"{len(found)}", shown, *times]


def _with_error(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
