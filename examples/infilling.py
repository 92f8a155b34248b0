"""Filling gaps in a text: masked diffusion reads what stands before and after a gap, and writes what was in it.

The text is the King James Bible out of Debian's `bible-kjv-text`, if `bible` is installed, or any `--text` file; else
the sources of Python's standard library. In training the model sees every part of a stretch of bytes and finds the
rest; a gap is then a conditional like any, `model().given(values, mask)`, which draws and scores what is missing.

    python examples/infilling.py [--text FILE] [--output output/infilling] [--seed 0] [--steps 800] [--length 64]
"""

from __future__ import annotations

import argparse
from functools import partial
from math import log
from pathlib import Path

import pyro
import torch

import pyrogen as pg
from pyrogen.diffusion import ConfidenceOrdered, RandomOrder, masked


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--output", type=Path, default=Path("output/infilling"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    text = pg.data.text.read(options.text)
    symbols, kinds = text.symbols, len(text.alphabet)
    train, held_out = symbols[: -len(symbols) // 10], symbols[-len(symbols) // 10 :]
    windows = pg.data.windows(train, options.length, hop=7)
    tests = pg.data.windows(held_out, options.length, hop=len(held_out) // 101)[: min(100, 4 * options.steps)]
    print(f"Text: {len(symbols):,} bytes, {kinds} kinds; {len(tests)} stretches of the last tenth held out")

    model = masked((options.length,), symbols=kinds, width=64, depth=3)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=3e-3, total_steps=options.steps)
    fit = pg.fit(model, windows, steps=options.steps, batch_size=32, schedule=schedule, seed=options.seed)
    model.eval()
    with torch.no_grad():
        bits = -model().log_prob(tests) / options.length / log(2)
    print(f"\n1. Held out: at most {estimate(bits)} a byte, after {fit.history.seconds:.0f} s of training")

    gap = torch.zeros(options.length, dtype=torch.bool)
    gap[options.length // 2 - 4 : options.length // 2 + 4] = True
    given = model().given(tests, ~gap)
    with torch.no_grad():
        inside = -given.log_prob(tests) / gap.sum() / log(2)
        alone = -model().part_log_prob(tests, gap) / gap.sum() / log(2)
    print(f"\n2. Eight bytes in the middle, bits a byte: at most {estimate(inside)} given what stands around them,")
    print(f"   at most {estimate(alone)} by themselves")

    print("\n3. The gap filled in: the text, then three draws")
    decode = lambda codes: text.decode(codes).replace("\n", " ")  # noqa: E731
    lines = []
    for row, draws in zip(tests[:4], given.sample((3,))[:, :4].unbind(1), strict=True):
        start, end = gap.nonzero()[[0, -1]].flatten().tolist()
        lines.append(f"{decode(row[:start])}[{decode(row[gap])}]{decode(row[end + 1 :])}")
        lines += [" " * start + f"[{decode(draw[gap])}]" for draw in draws]
    print("\n".join(f"   {line}" for line in lines))
    (options.output / "filled.txt").write_text("\n".join(lines) + "\n")

    print("\n4. Bytes found again, of the eight")
    for name, sampler in {"draws": RandomOrder(), "the surest first": ConfidenceOrdered()}.items():
        model.sampler = sampler
        right = (model().given(tests, ~gap).sample() == tests)[:, gap].double().sum(-1)
        print(f"   {name:<18}{pg.evaluation.Estimate.of_mean(right, unit='bytes', density='exact')}")


def estimate(bits: torch.Tensor) -> pg.evaluation.Estimate:
    """The mean over stretches of text, with its standard error."""
    return pg.evaluation.Estimate.of_mean(bits.double(), unit="bits", density="lower bound")


if __name__ == "__main__":
    main()
