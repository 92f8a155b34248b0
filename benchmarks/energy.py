"""Energies: what a step costs beside one written by hand, and classifiers of digits as energies beside plain ones.

    python benchmarks/energy.py --speed                                   # training and sampler steps, by hand and ours
    python benchmarks/energy.py --output energy.jsonl [--seeds 0 1 2]     # JEM: accuracy, calibration, outliers
    python benchmarks/energy.py --output energy.jsonl --table TABLE.json

Digits are those of scikit-learn, 8x8 pixels, with uniform noise between the grey levels: 1,437 to train and 360 to
test. The joint energy and the classifier have one network and one number of steps; the likelihood of inputs has the
weight 0.03 (the default) or 1 (the joint likelihood). The calibration error compares confidence and accuracy in 15
bins; outliers are noise (uniform, and pixels of digits in a random order), told from digits by the energy, or by the
largest probability of the classifier. The table has means over the seeds that did not diverge, with their standard
errors. The machine of the table of all families is in `benchmarks/digits.py`. One thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from interleaved import in_turns, within_fit
from results_file import keep, known, table
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen import energy
from pyrogen.networks import Chained, Standardizer
from pyrogen.networks.residual_image import ResidualImageFeatures

STEPS, BATCH = 5, 256
NAMES = ("accuracy", "calibration", "auroc uniform", "auroc shuffled")
AIM = 0.574  # acceptance at which Langevin steps are best


class ByHand:
    """Persistent contrastive divergence with Langevin steps that are accepted or not, in a plain loop."""

    def __init__(self, x: Tensor, hidden: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        self.x, self.mean, self.scale = x, x.mean(0), x.std(0)
        sizes, layers = (x.shape[1], *hidden), []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(before, after), nn.SiLU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
        self.optimizer = Adam(self.network.parameters(), lr=1e-3, fused=True)
        self.chains, self.step_size = torch.randn(1024, x.shape[1]), 0.5

    def energies(self, z: Tensor) -> Tensor:
        return self.network(z).squeeze(-1) + 0.5 * z.square().sum(-1)

    def scored(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = z.detach().requires_grad_()
        value = -self.energies(z)
        (slope,) = torch.autograd.grad(value.sum(), z)
        return z.detach(), value.detach(), slope

    def moved(self, z: Tensor, steps: int) -> Tensor:
        h, acceptance = self.step_size, torch.zeros(len(z))
        z, value, slope = self.scored(z)
        for _ in range(steps):
            noise = torch.randn_like(z)
            there, its, back = self.scored(z + h * slope + (2 * h) ** 0.5 * noise)
            reverse = (z - there - h * back).square().sum(-1) / (4 * h)
            log_ratio = its - value - reverse + 0.5 * noise.square().sum(-1)
            probability = log_ratio.exp().clamp(max=1)
            taken = torch.rand_like(probability) < probability
            acceptance += probability
            z, slope = (torch.where(taken[:, None], *pair) for pair in ((there, z), (back, slope)))
            value = torch.where(taken, its, value)
        self.step_size = h * math.exp(acceptance.mean().item() / steps - AIM)
        return z

    def train(self, steps: int) -> None:
        for _ in range(steps):
            data = (self.x[torch.randint(len(self.x), (BATCH,))] - self.mean) / self.scale
            rows = torch.randperm(1024)[:BATCH]
            draws = self.moved(self.chains[rows], STEPS)
            self.chains[rows] = draws
            of_data, of_draws = self.energies(torch.cat([data, draws])).split(BATCH)
            loss = of_data.mean() - of_draws.mean()
            self.optimizer.zero_grad()
            loss.backward()
            if not loss.isfinite():
                raise FloatingPointError("the loss is not finite")
            self.optimizer.step()

    def sample(self, steps: int) -> None:
        self.moved(torch.randn(BATCH, self.x.shape[1]), steps)


def speed(rounds: int, file: Path | None) -> None:
    """Milliseconds a step by hand, and the median of ratios within a round of short turns."""
    rows = []
    for hidden, block in (((128, 128), 10), ((1024, 1024), 2)):
        x = torch.randn(20_000, 16)
        hand = ByHand(x, hidden)
        module = energy.mlp((16,), hidden=hidden)
        chains = energy.PersistentChains(energy.AdjustedLangevin(), size=1024, steps=STEPS)
        objective = energy.ContrastiveDivergence(module, chains=chains)
        fresh = energy.FreshChains(energy.AdjustedLangevin(), steps=10 * block)
        fresh.prepare(module)

        def fit(steps: int, callbacks: list, objective: nn.Module = objective, x: Tensor = x) -> None:
            pg.fit(objective, x, steps=steps, batch_size=BATCH, lr=1e-3, callbacks=callbacks)

        sampler = in_turns(partial(fresh.draw, module, BATCH), partial(hand.sample, 10 * block), rounds=rounds)
        training = within_fit(fit, hand.train, steps=block, rounds=rounds)
        times = f"{1000 * sampler[0] / (10 * block):.2f} ms", f"{1000 * training[0]:.3g} ms"
        rows.append([f"16 to {hidden}", times[0], f"{sampler[1]:.2f}", times[1], f"{training[1]:.2f}"])
        print(*rows[-1], flush=True)
    ratio = "ours / by hand"
    table(["network", "sampler step by hand", ratio, "training step by hand", ratio], rows, file)


def classifier() -> nn.Module:
    """A network of digits, for the classifier and the joint energy alike."""
    features = ResidualImageFeatures((1, 8, 8), channels=(32, 64))
    return Chained(Standardizer((1, 8, 8), name="x"), features, nn.Linear(64, 10))


def joint(weight: float, seed: int, steps: int) -> dict[str, float | str]:
    """Accuracy, calibration error and outliers of one classifier, or how it diverged; ``weight`` 0 is a plain one."""
    torch.manual_seed(seed)
    pixels, labels, _ = pg.data.digits()
    pixels = (pixels + torch.rand(pixels.shape)) / 17
    train, test = pg.data.split(pixels, labels, sizes=(1437, 360), seed=seed)
    chains = energy.FreshChains(energy.AdjustedLangevin(), steps=100)
    module = energy.JointEnergy(classifier(), (1, 8, 8), classes=10, base=energy.DataNormal((1, 8, 8)), chains=chains)
    persistent = energy.PersistentChains(energy.AdjustedLangevin(), size=1024, steps=10)
    objective = module.objective(chains=persistent, weight=weight)
    schedule = partial(CosineAnnealingLR, T_max=steps)
    try:
        pg.fit(objective, train, steps=steps, lr=1e-3, schedule=schedule, ema=0.99, seed=seed)
    except FloatingPointError as error:
        return {"diverged": str(error)}
    module.eval().requires_grad_(False)
    x, y = test
    probabilities = module.label(x).probs
    confidence, predicted = probabilities.max(-1)
    right = (predicted == y).float()
    outliers = {"uniform": torch.rand_like(x), "shuffled": x.flatten(1)[:, torch.randperm(64)].reshape(x.shape)}
    found = {"accuracy": right.mean().item(), "calibration": calibration_error(confidence, right)}
    for name, other in outliers.items():
        if weight:
            scores = [-pg.log_prob(module.marginal, each) for each in (x, other)]
        else:
            scores = [-module.label(each).probs.max(-1).values for each in (x, other)]
        found[f"auroc {name}"] = pg.evaluation.auroc(*scores).value
    return found


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """The mean difference of confidence and accuracy over bins of equal width, weighted by their numbers."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    sums = torch.zeros(bins).index_add_(0, place, confidence - right)
    return (sums.abs().sum() / len(right)).item()


def summary(rows: list[dict]) -> Iterator[list[str]]:
    """Means over the seeds that did not diverge, with their standard errors: a row for each model."""
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        whole = [row for row in mine if "diverged" not in row]
        figures = [_mean([row[name] for row in whole]) for name in NAMES]
        yield [model, *figures, f"{len(mine)}", f"{len(mine) - len(whole)}"]


def _mean(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--table", type=Path, help="a file for the table")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=60, help="of --speed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.speed:
        speed(options.rounds, options.table)
        return
    rows = known(options.output)
    for seed in options.seeds:
        for model, weight in (("classifier", 0.0), ("joint energy", 0.03), ("joint likelihood", 1.0)):
            if not any((row["model"], row["seed"], row["steps"]) == (model, seed, options.steps) for row in rows):
                found = {"model": model, "seed": seed, "steps": options.steps, **joint(weight, seed, options.steps)}
                keep([found], rows, options.output)
    titles = ["accuracy", "calibration error", "AUROC, uniform noise", "AUROC, shuffled pixels"]
    table(["model", *titles, "seeds", "diverged"], list(summary(rows)), options.table, rows)


if __name__ == "__main__":
    main()
