"""Unknown noise level: what is the digit, and how noisy is its picture?

A diffusion model is fitted to the 8x8 digits that scikit-learn ships. A held-out digit is seen through noise of unknown
scale. It takes one more `pyro.sample`, and tempered SMC draws image and scale from their joint posterior.

    python examples/unknown_noise.py [--output output/inverse] [--seed 0] [--steps 500] [--particles 256]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pyrogen as pg
from pyrogen import inverse

SHAPE, NOISE = (1, 8, 8), 0.5


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--particles", type=int, default=256)
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

    any_scale = dist.LogNormal(-1.5, 1.0)  # half of it between 0.11 and 0.44

    def noisy(y: torch.Tensor) -> None:
        image = pyro.sample("image", prior())
        scale = pyro.sample("scale", any_scale)
        pyro.sample("y", dist.Normal(image, scale).to_event(3), obs=y)

    truth = test[7]
    y = dist.Normal(truth, NOISE).sample()
    posterior = inverse.TemperedSMC(noisy, site="image", particles=options.particles, steps=20).run(y)
    draws = posterior.get_samples()

    low, high = draws["scale"].quantile(torch.tensor([0.05, 0.95])).tolist()
    print(f"scale: 90 % interval {low:.2f} to {high:.2f}; the truth is {NOISE}")
    print(f"image: {pg.evaluation.restoration_report(draws['image'], truth, span=2.0)}")
    print(posterior.diagnostics())
    figure = pg.analysis.posterior_images(truth, y, draws["image"], shown=5, limits=(-1, 1))
    figure.savefig(options.output / "unknown_noise.png", dpi=150)
    figure = pg.analysis.posterior_histogram(draws["scale"], prior=any_scale, truth=NOISE, name="scale of the noise")
    figure.savefig(options.output / "unknown_noise_scale.png", dpi=150)


if __name__ == "__main__":
    main()
