"""Games on mixtures whose modes can be counted, the losses by stability over seeds, and what a training step costs.

Ring and grid are those of PacGAN (Lin et al. 2018, https://arxiv.org/abs/1712.04086): eight Gaussians of standard
deviation 0.01 on the unit circle, and 25 of 0.05 at the even numbers from -4 to 4 squared; 100,000 data, 2,500 draws.
A mode counts that has a draw of high quality, within three standard deviations; an exact sampler has 98.89 % such
draws, and more is collapse within modes. Published are means over ten trials of 400 epochs, 400,000 steps.

All losses are played by the same networks and settings, with R1 and R2 and without (the Wasserstein loss with its
one-sided gradient penalty, and five steps of the critic). One thread; lines are appended to a file, and what it holds
is not run again:

    python benchmarks/implicit.py --output results.jsonl                       # the default game, ten seeds: hours
    python benchmarks/implicit.py --output losses.jsonl --losses all --steps 4000 --seeds 0 1 2
    python benchmarks/implicit.py --output results.jsonl --table TABLE.json
    python benchmarks/implicit.py --output losses.jsonl --losses all --steps 4000 --table TABLE.json
    python benchmarks/implicit.py --speed [--table TABLE.json]                 # a step beside a loop written by hand
    python benchmarks/implicit.py --tasks ring --seeds 0 --steps 2000          # a quick look
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from interleaved import within_fit
from results_file import keep, known, table
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.implicit import (
    R1,
    R2,
    FDivergence,
    FGan,
    Game,
    GradientPenalty,
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    Wasserstein,
)

HIDDEN, NOISE, BATCH, RATE, WEIGHT = (128, 128, 128), (2,), 256, 3e-3, (0.1, 1e-4)
"""Of generator and critic; the weight of R1 and R2 at the beginning and at the end."""

PUBLISHED = {
    "ring": {
        "GAN": (6.3, 98.2, 0.45),
        "ALI": (6.6, 97.6, 0.36),
        "PacGAN2": (7.9, 95.6, 0.07),
        "PacGAN4": (7.8, 95.9, 0.07),
    },
    "grid": {
        "GAN": (17.3, 94.8, 0.70),
        "ALI": (24.1, 95.7, 0.14),
        "PacGAN2": (23.8, 91.3, 0.13),
        "PacGAN4": (24.8, 93.6, 0.04),
    },
}
"""Modes, draws of high quality in per cent, and reverse KL of PacGAN's table."""

COLUMNS = ["task", "game", "steps", "seeds", "modes", "good draws, %", "reverse KL", "spread", "all modes", "diverged"]

LOSSES = {
    "relativistic": Relativistic(),
    "non-saturating": NonSaturating(),
    "hinge": Hinge(),
    "least squares": LeastSquares(),
    "wasserstein": Wasserstein(),
    "js": FGan(FDivergence.JS),
    "kl": FGan(FDivergence.KL),
    "reverse kl": FGan(FDivergence.REVERSE_KL),
    "squared hellinger": FGan(FDivergence.SQUARED_HELLINGER),
    "pearson": FGan(FDivergence.PEARSON),
}


def mixture(task: str) -> tuple[Tensor, float]:
    """The centres of a mixture, and the standard deviation of each."""
    if task == "ring":
        angle = 2 * math.pi / 8 * torch.arange(8)
        return torch.stack((angle.cos(), angle.sin()), -1), 0.01
    return torch.cartesian_prod(*2 * [torch.arange(-4.0, 5.0, 2.0)]), 0.05


def data(task: str, seed: int, rows: int = 100_000) -> Tensor:
    """Draws of a mixture, all modes alike."""
    centers, scale = mixture(task)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(centers), (rows,), generator=generator)
    return centers[chosen] + scale * torch.randn(rows, 2, generator=generator)


def game(loss: str, penalised: bool) -> Game:
    """The game of a loss."""
    penalties = (GradientPenalty(one_sided=True),) if loss == "wasserstein" else (R1(WEIGHT[0]), R2(WEIGHT[0]))
    return Game(
        pg.implicit.mlp((2,), noise=NOISE, hidden=HIDDEN),
        pg.implicit.mlp_critic((2,), hidden=HIDDEN),
        loss=LOSSES[loss],
        penalties=penalties if penalised else (),
        critic_steps=5 if loss == "wasserstein" else 1,
    )


def trained(task: str, loss: str, penalised: bool, seed: int, steps: int) -> dict:
    """What the draws of a trained generator are like."""
    torch.manual_seed(seed)
    played, x = game(loss, penalised), data(task, seed)

    def anneal(progress: pg.Progress) -> None:
        share = progress.step / steps
        for penalty in played.penalties:
            if not isinstance(penalty, GradientPenalty):
                penalty.weight = WEIGHT[0] ** (1 - share) * WEIGHT[1] ** share

    began = time.process_time()
    reason = "steps"
    try:
        pg.fit(
            played,
            x,
            steps=steps,
            batch_size=BATCH,
            lr=RATE,
            schedule=lambda optimizer: CosineAnnealingLR(optimizer, steps * (5 if loss == "wasserstein" else 1)),
            ema=0.999,
            callbacks=[anneal],
            seed=seed,
        )
    except FloatingPointError as error:
        reason = str(error)
    seconds = time.process_time() - began
    with torch.no_grad():
        draws = played.generator().sample((2500,))
    centers, scale = mixture(task)
    counts = pg.evaluation.mode_counts(draws, centers, scale)
    distances = torch.cdist(draws, centers, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    return {
        "modes": counts.captured,
        "quality": 100 * counts.high_quality.value,
        "reverse_kl": counts.reverse_kl.value,
        "spread": distances[distances <= 3 * scale].square().mean().div(2).sqrt().item() / scale,
        "diverged": "" if reason == "steps" else reason,
        "seconds": seconds,
    }


def runs(options: argparse.Namespace, lines: list[dict]) -> Iterator[dict]:
    """A line for each task, loss and seed that no line is known of."""
    chosen = list(LOSSES) if options.losses == ["all"] else options.losses
    for seed in options.seeds:
        for task in options.tasks:
            for loss in chosen:
                for penalised in (True, False) if options.losses == ["all"] else (True,):
                    run = {"task": task, "loss": loss, "penalised": penalised, "seed": seed, "steps": options.steps}
                    if not any(run.items() <= line.items() for line in lines):
                        yield (
                            run | trained(**run) | {"versions": f"pyrogen {pg.__version__}, torch {torch.__version__}"}
                        )


def beside_published(lines: list[dict]) -> Iterator[list[str]]:
    """The default game of as many steps as there are, and the published ones."""
    for task, published in PUBLISHED.items():
        for name, (modes, quality, divergence) in published.items():
            yield [task, f"{name}, published", "400,000", "10", str(modes), str(quality), str(divergence), "", "", ""]
        modes = len(mixture(task)[0])
        yield [task, "an exact sampler", "", "", f"{modes}", "98.89", f"{_bias(task):.4f}", "0.97", "", ""]
        yield from summary([line for line in lines if line["task"] == task and line["loss"] == "relativistic"])


def summary(lines: list[dict]) -> Iterator[list[str]]:
    """Means over seeds with their standard deviations, a row for each task, game and number of steps."""
    for task in PUBLISHED:
        keys = {(line["loss"], line["penalised"], line["steps"]): None for line in lines if line["task"] == task}
        for loss, penalised, steps in keys:
            wanted = {"task": task, "loss": loss, "penalised": penalised, "steps": steps}
            found = [line for line in lines if wanted.items() <= line.items()]
            shown = [
                _mean(found, key, places)
                for key, places in (("modes", 1), ("quality", 1), ("reverse_kl", 3), ("spread", 2))
            ]
            whole = sum(line["modes"] == len(mixture(task)[0]) for line in found)
            diverged = sum(bool(line["diverged"]) for line in found)
            name = loss if penalised else f"{loss}, no penalty"
            yield [task, name, f"{steps:,}", f"{len(found)}", *shown, f"{whole}", f"{diverged}"]


def _bias(task: str) -> float:
    """The mean reverse KL of 2,500 exact draws."""
    return (len(mixture(task)[0]) - 1) / 5000


def _mean(lines: list[dict], key: str, places: int) -> str:
    values = [line[key] for line in lines if math.isfinite(line[key])]  # no good draw, no spread
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{places}f}{spread}"


def by_hand(x: Tensor, loss: str, penalised: bool) -> Callable[[int], None]:
    """The same game as one would write it, on the same networks, with an average of the generator."""
    played = game(loss, penalised)
    networks = nn.Sequential(played.critic.network, played.critic.readout), played.generator.network.network
    average = [parameter.detach().clone() for parameter in networks[1].parameters()]
    optimizers = [Adam(part.parameters(), lr=1e-3, betas=(0.0, 0.99), fused=True) for part in networks]
    mean, scale = x.mean(0), x.std(0)

    def critic(x: Tensor) -> Tensor:
        return networks[0]((x - mean) / scale).squeeze(1)

    def generator(rows: int) -> Tensor:
        return mean + scale * networks[1](torch.randn(rows, *NOISE))

    def squared_slope(x: Tensor, scores: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
        return (gradient * scale).square().sum(1)

    def critic_loss(real: Tensor) -> Tensor:
        with torch.no_grad():
            fake = generator(len(real))
        if penalised:
            real, fake = real.requires_grad_(), fake.requires_grad_()
        real_scores, fake_scores = critic(real), critic(fake)
        if loss == "relativistic":
            value = softplus(fake_scores - real_scores).mean()
        else:
            value = softplus(-real_scores).mean() + softplus(fake_scores).mean()
        if penalised:
            slopes = squared_slope(real, real_scores).mean() + squared_slope(fake, fake_scores).mean()
            value = value + 0.5 * WEIGHT[0] * slopes
        return value

    def generator_loss(real: Tensor) -> Tensor:
        fake_scores = critic(generator(len(real)))
        if loss != "relativistic":
            return softplus(-fake_scores).mean()
        with torch.no_grad():
            real_scores = critic(real)
        return softplus(real_scores - fake_scores).mean()

    def batches() -> Iterator[Tensor]:
        while True:
            yield from (x[rows] for rows in torch.randperm(len(x)).split(BATCH))

    def run(steps: int) -> None:
        drawn = batches()
        for _ in range(steps):
            for own, objective in enumerate((critic_loss, generator_loss)):
                networks[1 - own].requires_grad_(False)
                networks[own].requires_grad_(True)
                value = objective(next(drawn))
                optimizer = optimizers[own]
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                value.item()
            torch._foreach_lerp_(average, [parameter.detach() for parameter in networks[1].parameters()], 0.001)

    return run


def speed(rounds: int) -> Iterator[list[str]]:
    """Milliseconds a step by hand, and the median of ratios within a round of ten steps each."""
    x = data("grid", 0, 20_000)
    for loss, penalised in (("relativistic", True), ("relativistic", False), ("non-saturating", True)):
        played = game(loss, penalised)

        def fit(steps: int, callbacks: list, played: Game = played) -> None:
            pg.fit(played, x, steps=steps, batch_size=BATCH, ema=0.999, callbacks=callbacks)

        seconds, ratio = within_fit(fit, by_hand(x, loss, penalised), steps=10, rounds=rounds)
        name = f"{loss}{', R1 and R2' if penalised else ''}"
        yield [name, f"{1000 * seconds:.1f}", f"{ratio:.2f}"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--losses", nargs="+", default=["relativistic"], choices=[*LOSSES, "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=range(10))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--output", type=Path, help="a file of results, one JSON object a line")
    parser.add_argument("--table", type=Path, help="tabulate the file of results into this one, run nothing")
    parser.add_argument("--speed", action="store_true", help="measure steps, run nothing else")
    parser.add_argument("--rounds", type=int, default=60, help="of --speed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.speed:
        table(["game", "ms a step by hand", "`fit` / by hand"], list(speed(options.rounds)), options.table)
        return
    lines = known(options.output)
    if not options.table:
        keep(runs(options, lines), lines, options.output)
    if options.losses == ["all"]:
        rows = summary([line for line in lines if line["steps"] == options.steps])
    else:
        rows = beside_published([line for line in lines if line["penalised"]])
    table(COLUMNS, list(rows), options.table, lines)


if __name__ == "__main__":
    main()
