"""What caches save: WaveNet's queues and PixelCNN's rows against running the whole network for every symbol.

The network is the same in both ways. "Plain" is one whole pass for each symbol (for WaveNet over its receptive field),
timed for a few symbols; "cached" is `model().sample()`, everything included, over its symbols. Variants take turns, on
one thread; figures are medians of CPU time a symbol, and of the ratios within a round.

    python benchmarks/autoregressive_caches.py [--rounds 5] [--table FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from results_file import table

from pyrogen.autoregressive import pixel_cnn, wavenet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    waves = wavenet((600,), symbols=256, width=32, layers=10, cycles=3, skip=256)
    field = waves.network.receptive_field
    found = [
        [
            f"WaveNet, 30 layers of 32 channels, receptive field {field:,}, batch 1",
            *compared(waves, options.rounds, rows=1, length=field),
        ]
    ]
    pixels = pixel_cnn((28, 28), symbols=2, width=64, depth=7)
    for rows in (1, 16):
        times = compared(pixels, options.rounds, rows=rows, length=784)
        found.append([f"gated PixelCNN, 7 layers of 64 channels, 28 x 28, batch {rows}", *times])
    table(["", "plain, ms", "cached, ms", "ratio"], found, options.table)


def compared(model, rounds: int, *, rows: int, length: int) -> list[str]:
    """Milliseconds a symbol, plain and cached, and their ratio."""
    symbols = torch.zeros(rows, length)
    plain, cached = [], []
    with torch.no_grad():
        model.eval().network(symbols)
        for _ in range(rounds):
            start = time.process_time()
            for _ in range(3):
                output = model.network(symbols)
                model.conditional(output[:, -1]).sample()
            plain.append((time.process_time() - start) / 3)
            start = time.process_time()
            drawn = model().sample((rows,))
            cached.append((time.process_time() - start) / drawn[0].numel())
    ratio = statistics.median(a / b for a, b in zip(plain, cached, strict=True))
    return [f"{1e3 * statistics.median(plain):.2f}", f"{1e3 * statistics.median(cached):.3f}", f"{ratio:.1f}"]


if __name__ == "__main__":
    main()
