"""Inpainting: what stood in the lower half of these digits, and how sure can one be?

A diffusion model is fitted to the 8x8 digits that scikit-learn ships. Three held-out digits lose their lower half, and
what is left is noisy. The problem is three lines of Pyro; its plate makes it three problems, solved together.

    python examples/inpainting.py [--output output/inverse] [--seed 0] [--steps 500] [--particles 512]
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

SHAPE, NOISE = (1, 8, 8), 0.2


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

    upper = torch.zeros(SHAPE, dtype=torch.bool)
    upper[:, :4] = True
    seen = inverse.Mask(upper)

    def half_hidden(y: torch.Tensor) -> None:
        with pyro.plate("digits", len(y)):
            image = pyro.sample("image", prior())
            pyro.sample("y", dist.Normal(seen(image), NOISE).to_event(1), obs=y)

    truth = test[[0, 4, 9]]
    y = dist.Normal(seen(truth), NOISE).sample()
    posterior = inverse.TwistedSMC(half_hidden, site="image", particles=options.particles, steps=60).run(y)
    draws = posterior.get_samples()["image"]  # (particles, digits, 1, 8, 8)

    for number, evidence in enumerate(posterior.log_evidence.tolist()):
        found = pg.evaluation.restoration_report(draws[:, number], truth[number], span=2.0)
        print(f"digit {number + 1}: log evidence {evidence:.1f} nats; {found}")
    print(posterior.diagnostics())
    observation = torch.where(upper, seen.adjoint(y), torch.nan)
    figure = pg.analysis.posterior_images(truth, observation, draws, shown=5, limits=(-1, 1))
    figure.savefig(options.output / "inpainting.png", dpi=150)


if __name__ == "__main__":
    main()
