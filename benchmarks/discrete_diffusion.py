"""Diffusion over symbols on text: bits a byte, what draws look like, and what a training step costs.

The text is the King James Bible out of Debian's `bible-kjv-text`, where it is installed, as in `examples/text.py`. All
networks are transformers of one size, trained on the same windows for the same steps. Held-out windows are scored
whole, without text before them. Draws are judged by an n-gram of order 5 trained on the same text, and by the entropy
of a byte given the one before it, since a text may be likely only because it is monotonous.

    python benchmarks/discrete_diffusion.py text [--text FILE] [--steps 600] [--results FILE] [--table FILE]
    python benchmarks/discrete_diffusion.py step [--table FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from math import log
from pathlib import Path

import numpy as np
import pyro
import torch
import torch.nn.functional as F
from results_file import keep, known, table

import pyrogen as pg
from pyrogen.diffusion import ConfidenceOrdered, RandomOrder, Remasking, SymbolAncestral

LENGTH, SIZES, ORDER = 64, {"width": 64, "depth": 3, "heads": 4}, 5
MODELS = {
    "autoregressive": pg.autoregressive.transformer,
    "any order": pg.autoregressive.any_order,
    "masked": pg.diffusion.masked,
    "uniform": pg.diffusion.uniform,
}
SAMPLERS = {
    "masked": {
        "one at a time": RandomOrder(),
        "16 steps": RandomOrder(steps=16),
        "16 steps, masked again": Remasking(16),
        "16 steps, surest first": ConfidenceOrdered(steps=16, temperature=1.0),
    },
    "uniform": {"64 steps": SymbolAncestral(64), "16 steps": SymbolAncestral(16)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("text", "step"))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"text": on_text, "step": on_a_step}[options.what](options)


def on_text(options: argparse.Namespace) -> None:
    symbols, alphabet = pg.data.text.read(options.text)
    train, held_out = symbols[: -len(symbols) // 10], symbols[-len(symbols) // 10 :]
    windows = pg.data.windows(held_out[: 300 * 4 * LENGTH], LENGTH, hop=4 * LENGTH)
    lines = known(options.results)
    judge = partial(judged, train, len(alphabet))
    if not any(line["model"] == "held-out text" for line in lines):
        keep([{"model": "held-out text", "draws": "", **judge(windows)}], lines, options.results)
    for name, recipe in MODELS.items():
        if not any(line["model"] == name for line in lines):
            keep(trained(name, recipe, train, windows, len(alphabet), judge, options), lines, options.results)
    rows = [
        [line["model"], line.get("bits", ""), line["draws"], f"{line['judged']:.2f}", f"{line['entropy']:.2f}"]
        for line in lines
    ]
    table(["model", "held-out bits a byte", "draws", "bits under the 5-gram", "entropy"], rows, options.table, lines)


def trained(name, recipe, train, windows, size, judge, options):
    """The lines of one model: its bits, and the draws of each sampler."""
    pyro.set_rng_seed(options.seed)
    model = recipe((LENGTH,), symbols=size, **SIZES)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=3e-3, total_steps=options.steps)
    stretches = pg.data.windows(train, LENGTH)
    fit = pg.fit(model, stretches, steps=options.steps, batch_size=32, schedule=schedule, seed=options.seed)
    model.eval()
    with torch.no_grad():
        nats = -torch.cat([model().log_prob(some) for some in windows.split(50)]).double()
    bits = pg.evaluation.Estimate.of_mean(nats / LENGTH / log(2), unit="bits", density=model.density)
    most = "" if model.density == "exact" else "at most "
    line = {
        "model": name,
        "bits": f"{most}{bits.value:.3f} ± {bits.standard_error:.3f}",
        "seconds": fit.history.seconds,
    }
    for draws, sampler in SAMPLERS.get(name, {"one at a time": None}).items():
        if sampler is not None:
            model.sampler = sampler
        yield {**line, "draws": draws, **judge(model().sample((100,)))}


def judged(train: torch.Tensor, size: int, draws: torch.Tensor) -> dict[str, float]:
    """Bits a byte of draws under the n-gram, and the entropy of the next byte given one, of the draws themselves."""
    text = draws.numpy()
    joined = torch.cat([train[1:ORDER], draws.flatten()])  # one draw after the other: all alike
    bits = -pg.evaluation.witten_bell(contexts(train), contexts(joined), symbols=size)[-1] / log(2)
    pairs = np.bincount(text[:, :-1].reshape(-1) * size + text[:, 1:].reshape(-1), minlength=size**2)
    singles = np.bincount(text[:, :-1].reshape(-1), minlength=size)
    return {"judged": float(bits.mean()), "entropy": entropy(pairs) - entropy(singles)}


def contexts(symbols: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes, and those before each, the nearest first."""
    stretches = pg.data.windows(symbols, ORDER)
    return stretches[:, -1], stretches[:, :-1].flip(1)


def entropy(counts: np.ndarray) -> float:
    """In bits."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def on_a_step(options: argparse.Namespace) -> None:
    """A training step by `fit`'s objective beside the same written out, with one network; CPU time, in turns."""
    model = pg.diffusion.masked((LENGTH,), symbols=80, **SIZES)
    objective, network, optimizer = model.objective(), model.denoiser.network, torch.optim.Adam(model.parameters())
    x, level = torch.randint(80, (32, LENGTH)), torch.zeros(())

    def by_hand() -> torch.Tensor:
        count = 1 + (torch.rand(()) + torch.arange(32)) / 32 * LENGTH // 1
        hidden = torch.rand(32, LENGTH).argsort(-1).argsort(-1) < count.unsqueeze(-1)
        logits = network(torch.where(hidden, 80, x), level)
        losses = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").view(32, LENGTH)
        return ((losses * hidden).sum(-1) * LENGTH / count).mean()

    times = {"by hand": [], "ours": []}
    for _ in range(options.rounds + 2):
        for name, loss in {"by hand": by_hand, "ours": partial(objective, x)}.items():
            start = time.process_time()
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            times[name].append(time.process_time() - start)
    ratios = [a / b for a, b in zip(times["ours"][2:], times["by hand"][2:], strict=True)]
    ms = {name: f"{1e3 * statistics.median(found[2:]):.1f}" for name, found in times.items()}
    rows = [[f"masked, {LENGTH} symbols of 80, 32 rows", ms["ours"], ms["by hand"], f"{statistics.median(ratios):.3f}"]]
    table(["training step", "ms", "ms by hand", "ratio"], rows, options.table)


if __name__ == "__main__":
    main()
