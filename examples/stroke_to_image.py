"""Strokes to digits: a crude drawing made noisy and denoised again, and what it costs to look real.

A diffusion model is fitted to the 8x8 digits that scikit-learn ships. A few strokes go some way into the noise and come
back. A little noise keeps the strokes; more of it makes a real digit of them, and in the end another digit.

    python examples/stroke_to_image.py [--output output/inverse] [--seed 0] [--steps 500]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch

import pyrogen as pg

SHAPE, TIMES = (1, 8, 8), (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
STROKES = """
..#####.
......#.
......#.
.....#..
.....#..
....#...
....#...
....#...
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    pixels, _, symbols = pg.data.digits()
    images = 2 * pg.data.dequantize(pixels, symbols, seed=options.seed) - 1  # from -1 to 1
    train, test = images[:1500], images[1500:]
    prior = pg.diffusion.unet(SHAPE, channels=(16, 32), depth=1, data_scale=0.7)
    optimizer = partial(torch.optim.Adam, lr=2e-3)
    pg.fit(prior, train, steps=options.steps, optimizer=optimizer, ema=0.99, seed=options.seed)

    strokes = torch.tensor([[[1.0 if mark == "#" else -1.0 for mark in line] for line in STROKES.split()]])

    def realism(x: torch.Tensor) -> torch.Tensor:
        """Minus the root mean square distance to the nearest digit of the training set, in data units."""
        return -torch.cdist(x.flatten(1), train.flatten(1)).amin(1) / strokes.numel() ** 0.5

    edits = torch.stack([pg.diffusion.edit(prior(), strokes, time, draws=3) for time in TIMES])
    curve = pg.diffusion.trade_off(prior(), strokes, TIMES, realism, draws=128)
    print(f"{'time':<7}{'distance to the strokes':<26}realism")
    for point in curve:
        print(f"{point.time:<7}{point.distance:<26.3f}{point.realism:.3f}")
    real = realism(test).mean().item()
    print(f"held-out digits                  {real:.3f}")
    name = "realism: minus distance to nearest digit"
    figure = pg.analysis.edited_images(strokes, edits, curve, realism=name, real=real, limits=(-1, 1))
    figure.savefig(options.output / "stroke_to_image.png", dpi=150)


if __name__ == "__main__":
    main()
