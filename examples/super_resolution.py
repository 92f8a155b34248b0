"""Super-resolution: the digits behind sixteen numbers, and behind four.

A diffusion model is fitted to the 8x8 digits that scikit-learn ships. Of two held-out digits only the means of blocks
are seen, of 2x2 pixels and then of 4x4, with noise. The fewer the numbers, the more digits remain possible.

    python examples/super_resolution.py [--output output/inverse] [--seed 0] [--steps 500] [--particles 512]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch.nn.functional import interpolate

import pyrogen as pg
from pyrogen import inverse

SHAPE, NOISE = (1, 8, 8), 0.1


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--particles", type=int, default=512)
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

    def coarse(y: torch.Tensor, means: inverse.Linear) -> None:
        with pyro.plate("digits", len(y)):
            image = pyro.sample("image", prior())
            pyro.sample("y", dist.Normal(means(image), NOISE).to_event(3), obs=y)

    truth, observations, draws = test[[4, 9]], [], []
    for side in (2, 4):
        means = inverse.box_downsampling(SHAPE, side)
        y = dist.Normal(means(truth), NOISE).sample()
        posterior = inverse.TwistedSMC(coarse, site="image", particles=options.particles, steps=60).run(y, means)
        observations.append(interpolate(y, scale_factor=side))
        draws.append(posterior.get_samples()["image"])  # (particles, digits, 1, 8, 8)

        print(f"blocks of {side}x{side} pixels, {y[0].numel()} numbers")
        bicubic = interpolate(y, scale_factor=side, mode="bicubic")
        for number, evidence in enumerate(posterior.log_evidence.tolist()):
            found = pg.evaluation.restoration_report(draws[-1][:, number], truth[number], span=2.0)
            rival = pg.evaluation.psnr(bicubic[number], truth[number], span=2.0)
            print(f"digit {number + 1}: log evidence {evidence:.1f} nats; bicubic PSNR {rival:.2f} dB; {found}")
        print(f"{posterior.diagnostics()}\n")

    names = ["16 numbers", "16 numbers", "4 numbers", "4 numbers"]
    figure = pg.analysis.posterior_images(
        truth.repeat(2, 1, 1, 1), torch.cat(observations), torch.cat(draws, 1), rows=names, shown=5, limits=(-1, 1)
    )
    figure.savefig(options.output / "super_resolution.png", dpi=150)


if __name__ == "__main__":
    main()
