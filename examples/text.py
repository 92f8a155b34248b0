"""A language model of bytes: score held-out text, continue a prompt, find the most likely continuations.

The text is the King James Bible out of Debian's `bible-kjv-text`, if `bible` is installed, or any `--text` file; else
the sources of Python's standard library. Beside the transformer stand n-grams of order 1 to 6, smoothed by Witten and
Bell's interpolation (1991). In a short run these are ahead; after the default 1,500 steps the transformer is.

    python examples/text.py [--text FILE] [--output output/text] [--seed 0] [--steps 1500] [--length 128]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sysconfig
from functools import partial
from math import log
from pathlib import Path

import numpy as np
import pyro
import torch
from torch.utils.data import Dataset

import pyrogen as pg
from pyrogen.autoregressive import beam_search, nucleus, transformer


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

    symbols, alphabet = read(options.text)
    scored = min(60_000, len(symbols) // 10, 200 * options.steps)  # bytes of held-out text that are scored
    train, held_out = symbols[: -len(symbols) // 10], symbols[-len(symbols) // 10 :][: options.length + scored]
    print(f"Text: {len(symbols):,} bytes, {len(alphabet)} kinds; the last tenth held out, {scored:,} of it scored")

    print("\n1. Held-out bits per byte")
    for order, bits in enumerate(ngrams(train.numpy(), held_out.numpy(), 6, len(alphabet), options.length), 1):
        print(f"   {order}-gram        {estimate(bits)}")
    model = transformer((options.length,), symbols=len(alphabet), width=128, depth=4, heads=4, dropout=0.05)
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=2e-3, total_steps=options.steps)
    fit = pg.fit(
        model, Windows(train, options.length), steps=options.steps, batch_size=24, schedule=schedule, seed=options.seed
    )
    bits = held_out_bits(model, held_out, options.length)
    print(f"   transformer   {estimate(bits)}, {fit.history.seconds:.0f} s of training")

    print("\n2. It writes on from a prompt, by nucleus sampling (a distribution, too: it can score what it wrote)")
    decode = lambda codes: "".join(chr(alphabet[code]) for code in codes)  # noqa: E731
    prompt = held_out[: options.length // 3]
    careful = nucleus(model, 0.9)().complete([prompt] * 3)
    written = careful.sample()
    for text, nats in zip(written, careful.log_prob(written), strict=True):
        print(f"   [{-nats / log(2) / (options.length - len(prompt)):.2f} bits a byte] {decode(text)!r}")
    (options.output / "samples.txt").write_text("\n\n".join(map(decode, model().sample((8,)))))

    print("\n3. The likeliest end of a verse, by beam search")
    start = held_out[: options.length - 24]
    events, _ = beam_search(model().complete([start]), width=4)
    print(f"   {decode(start[-40:])!r} -> {decode(events[0, 0, -24:])!r}")


def read(path: Path | None) -> tuple[torch.Tensor, list[int]]:
    """The text as integers, and the byte each stands for."""
    if path is not None:
        raw = path.read_bytes()
    elif shutil.which("bible"):
        raw = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], stdin=subprocess.DEVNULL, capture_output=True).stdout
    else:
        raw = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    alphabet, symbols = np.unique(np.frombuffer(raw, np.uint8), return_inverse=True)
    return torch.from_numpy(symbols), alphabet.tolist()


class Windows(Dataset):
    """All stretches of a length, wherever they begin."""

    def __init__(self, symbols: torch.Tensor, length: int) -> None:
        self.windows = symbols.unfold(0, length, 1)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.windows[index]


@torch.no_grad()
def held_out_bits(model: pg.DistributionModule, symbols: torch.Tensor, length: int) -> np.ndarray:
    """Bits of each byte after the first `length`, given at least half a window of text before it."""
    half = length // 2
    windows = symbols[half:].unfold(0, length, half)
    terms = torch.cat([model().symbol_log_probs(some)[:, half:] for some in windows.split(64)])
    return -terms.flatten().double().numpy() / log(2)


def ngrams(train: np.ndarray, held_out: np.ndarray, orders: int, size: int, skip: int) -> list[np.ndarray]:
    """Bits of each byte after the first `skip`, for every order: interpolated, Witten and Bell's weights."""
    probability, found = np.full(len(held_out) - skip, 1 / size), []
    for order in range(1, orders + 1):
        grams, tests = (contexts(text, order, size) for text in (train, held_out[skip - order + 1 :]))
        kinds, counts = np.unique(grams, return_counts=True)
        heads, first, followers = np.unique(kinds // size, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)
        count = lookup(kinds, counts, tests)
        total, different = (lookup(heads, values, tests // size) for values in (totals, followers))
        weight = total + different
        probability = np.where(weight > 0, (count + different * probability) / np.maximum(weight, 1), probability)
        found.append(-np.log2(probability))
    return found


def contexts(text: np.ndarray, order: int, size: int) -> np.ndarray:
    """Every stretch of so many symbols as one number."""
    powers = size ** np.arange(order - 1, -1, -1, dtype=np.int64)
    return np.lib.stride_tricks.sliding_window_view(text.astype(np.int64), order) @ powers


def lookup(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of sorted keys, 0 where there is none."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def estimate(bits: np.ndarray) -> pg.evaluation.Estimate:
    """The mean, with a standard error over blocks of 500 bytes, since neighbours are alike."""
    blocks = bits[: len(bits) // 500 * 500 or None].reshape(-1, min(500, len(bits))).mean(1)
    return pg.evaluation.Estimate.of_mean(torch.from_numpy(blocks), unit="bits per byte", density="exact")


if __name__ == "__main__":
    main()
