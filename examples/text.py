"""A language model of bytes: score held-out text, continue a prompt, find the most likely continuations.

The text is the King James Bible out of Debian's `bible-kjv-text`, if `bible` is installed, or any `--text` file; else
the sources of Python's standard library. Beside the transformer stand n-grams of order 1 to 6, smoothed by Witten and
Bell's interpolation (1991). In a short run these are ahead; after the default 1,500 steps the transformer is.

    python examples/text.py [--text FILE] [--output output/text] [--seed 0] [--steps 1500] [--length 128]
"""

from __future__ import annotations

import argparse
from functools import partial
from math import log
from pathlib import Path

import pyro
import torch
from torch import Tensor

import pyrogen as pg
from pyrogen.autoregressive import beam_search, nucleus, transformer
from pyrogen.data import windows
from pyrogen.evaluation import witten_bell

ORDER = 6
"""Of the longest n-grams."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--output", type=Path, default=Path("output/text"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--length", type=int, default=128)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)

    text = pg.data.text.read(options.text)
    symbols, kinds = text.symbols, len(text.alphabet)
    scored = min(60_000, len(symbols) // 10, 200 * options.steps)  # bytes of held-out text that are scored
    train, held_out = symbols[: -len(symbols) // 10], symbols[-len(symbols) // 10 :][: options.length + scored]
    print(f"Text: {len(symbols):,} bytes, {kinds} kinds; the last tenth held out, {scored:,} of it scored")

    print("\n1. Held-out bits per byte")
    tests = contexts(held_out[options.length - ORDER + 1 :])
    for order, nats in enumerate(-witten_bell(contexts(train), tests, symbols=kinds), 1):
        print(f"   {order}-gram        {estimate(nats)}")
    model = transformer((options.length,), symbols=kinds, width=128, depth=4, heads=4, dropout=0.05)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=2e-3, total_steps=options.steps)
    fit = pg.fit(
        model, windows(train, options.length), steps=options.steps, batch_size=24, schedule=schedule, seed=options.seed
    )
    nats = held_out_nats(model, held_out, options.length)
    print(f"   transformer   {estimate(nats)}, {fit.history.seconds:.0f} s of training")

    print("\n2. It writes on from a prompt, by nucleus sampling (a distribution, too: it can score what it wrote)")
    prompt = held_out[: options.length // 3]
    careful = nucleus(model, 0.9)().complete([prompt] * 3)
    written = careful.sample()
    for line, nats in zip(written, -careful.log_prob(written), strict=True):
        print(f"   [{nats / log(2) / (options.length - len(prompt)):.2f} bits a byte] {text.decode(line)!r}")
    (options.output / "samples.txt").write_text("\n\n".join(map(text.decode, model().sample((8,)))))

    print("\n3. The likeliest end of a verse, by beam search")
    start = held_out[: options.length - 24]
    events, _ = beam_search(model().complete([start]), width=4)
    print(f"   {text.decode(start[-40:])!r} -> {text.decode(events[0, 0, -24:])!r}")


@torch.no_grad()
def held_out_nats(model: pg.DistributionModule, symbols: Tensor, length: int) -> Tensor:
    """Nats of each byte after the first `length`, given at least half a window of text before it."""
    half = length // 2
    stretches = windows(symbols[half:], length, hop=half)
    return -torch.cat([model().symbol_log_probs(some)[:, half:] for some in stretches.split(64)]).flatten()


def contexts(symbols: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes, and those before each, the nearest first."""
    stretches = windows(symbols, ORDER)
    return stretches[:, -1], stretches[:, :-1].flip(1)


def estimate(nats: Tensor) -> pg.evaluation.Estimate:
    """The mean in bits, with a standard error over blocks of 500 bytes, since neighbours are alike."""
    size = min(500, len(nats))
    blocks = windows(nats.double(), size, hop=size).mean(1) / log(2)
    return pg.evaluation.Estimate.of_mean(blocks, unit="bits per byte", density="exact")


if __name__ == "__main__":
    main()
