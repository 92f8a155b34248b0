"""Colorization: a grey picture, the colours that it may have had, and what cannot be seen in it at all.

A diffusion model is fitted to small scenes of two coloured shapes. Of three held-out scenes only the luminance is seen,
with noise. Yellow is bright and blue is dark, but green is as bright as the ground: where a second shape must be and
cannot be seen, the draws put it in different places.

With 256 measured numbers and a hundred particles `TwistedSMC` collapses. These draws come from a fast guidance in its
place: they are approximate, nothing weighs them, and there is no evidence.

    python examples/colorization.py [--output output/inverse] [--seed 0] [--steps 900] [--draws 64]
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
from pyrogen.data import scenes

SHAPE, NOISE = (3, 16, 16), 0.1


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--draws", type=int, default=64)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    images = 2 * scenes.draw(10_000, seed=options.seed).pixels - 1  # from -1 to 1
    train, test = images[:-100], images[-100:]
    prior = pg.diffusion.unet(SHAPE, channels=(16, 32, 48), depth=1, data_scale=0.35)
    optimizer = partial(torch.optim.Adam, lr=2e-3)
    pg.fit(prior, train, steps=options.steps, batch_size=64, optimizer=optimizer, ema=0.99, seed=options.seed)

    grey = inverse.Grey(SHAPE)

    def colourless(y: torch.Tensor) -> None:
        with pyro.plate("scenes", len(y)):
            image = pyro.sample("image", prior())
            pyro.sample("y", dist.Normal(grey(image), NOISE).to_event(3), obs=y)

    truth = test[[0, 1, 2]]
    y = dist.Normal(grey(truth), NOISE).sample()
    guidance = inverse.PiGDM(train.var(0).mean().item())
    sampling = inverse.GuidedSampling(colourless, site="image", guidance=guidance, draws=options.draws, steps=60)
    draws = sampling.run(y).get_samples()["image"]  # (draws, scenes, 3, 16, 16)

    for number in range(len(truth)):
        print(f"scene {number + 1}: {pg.evaluation.restoration_report(draws[:, number], truth[number], span=2.0)}")
    figure = pg.analysis.posterior_images(truth, y, draws, shown=5, limits=(-1, 1))
    figure.savefig(options.output / "colorization.png", dpi=150)


if __name__ == "__main__":
    main()
