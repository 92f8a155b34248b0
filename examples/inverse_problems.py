"""Inverse problems under a diffusion prior: what was in the picture, and how sure are we?

A diffusion model is fitted to 8x8 digits. Then each problem is a few lines of Pyro: hidden pixels, few pixels, a noise
scale that nobody knows, and strokes that become a digit.

    python examples/inverse_problems.py [--output output/inverse] [--seed 0] [--steps 3000] [--particles 256]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pyrogen as pg
from pyrogen import inverse

SHAPE = (1, 8, 8)
TWIST = inverse.Isotropic(0.5)  # many measurements and a learned denoiser: one variance serves better than its Jacobian


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--particles", type=int, default=256)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pyro.set_rng_seed(options.seed)
    quick = options.steps < 100
    particles, steps, sweeps = (16, 4, 5) if quick else (options.particles, 100, 40)

    pixels, labels, levels = pg.data.digits()
    images = 2 * pg.data.dequantize(pixels, levels=levels, seed=options.seed) - 1  # in (-1, 1)
    train, test = images[:1500], images[1500:]
    prior = pg.diffusion.mlp(SHAPE, width=256, depth=3, data_scale=0.7)
    pg.fit(prior, train, steps=options.steps, ema=0.999, seed=options.seed)
    truth = test[5]

    pictures = {}
    hidden = torch.zeros(SHAPE, dtype=torch.bool)
    hidden[:, ::2, ::2] = True
    problems = {
        "inpainting (16 of 64 pixels)": inverse.Mask(hidden),
        "super-resolution (4x4 to 8x8)": inverse.box_downsampling(SHAPE, 2),
    }
    for name, operator in problems.items():
        posterior = restore(prior, operator, truth, particles, steps)
        found = inverse.report(posterior.get_samples()["image"], truth, span=2.0)
        print(f"{name}: {found}\n{posterior.diagnostics()}\n   log evidence {posterior.log_evidence:.1f} nats")
        pictures[name] = [truth, found.mean, found.deviation - 1, *posterior.get_samples()["image"][:5]]

    operator = problems["super-resolution (4x4 to 8x8)"]
    y = operator(truth) + 0.3 * torch.randn(1, 4, 4)

    def unknown_noise(y: torch.Tensor) -> None:
        image = pyro.sample("image", prior())
        scale = pyro.sample("scale", dist.LogNormal(-2.0, 1.0))
        pyro.sample("y", dist.Normal(operator(image), scale).to_event(3), obs=y)

    posterior = inverse.TwistedSMC(
        unknown_noise,
        site="image",
        particles=max(16, particles // 4),
        steps=max(4, steps // 4),
        sweeps=sweeps,
        warmup=5,
    ).run(y)
    draws = posterior.get_samples()
    low, high = draws["scale"].quantile(torch.tensor([0.05, 0.95])).tolist()
    print(f"unknown noise scale: 90 % interval {low:.2f} to {high:.2f}; the truth is 0.30")
    image = draws["image"]
    pictures["unknown noise"] = [truth, image.mean(0), image.std(0) - 1, *image[-5:]]

    strokes = -torch.ones(SHAPE)
    strokes[0, 1, 2:6] = strokes[0, 1:7, 5] = 0.6  # a rough seven
    curve = inverse.trade_off(prior(), strokes, (0.2, 0.4, 0.6, 0.8), near(train), draws=8, steps=steps)
    for point in curve:
        print(f"strokes, time {point.time}: distance {point.distance:.2f}, realism {point.realism:.2f}")
    edits = [inverse.edit(prior(), strokes, t, steps=steps)[0] for t in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)]
    pictures["strokes, more and more noise"] = [strokes, *edits]

    show(pictures, options.output / "inverse.png")


def restore(
    prior: pg.DistributionModule, operator: inverse.Linear, truth: torch.Tensor, particles: int, steps: int
) -> inverse.TwistedSMC:
    """The posterior of an image given a noisy measurement of it."""
    y = operator(truth) + 0.1 * torch.randn_like(operator(truth))

    def model(y: torch.Tensor) -> None:
        image = pyro.sample("image", prior())
        pyro.sample("y", dist.Normal(operator(image), 0.1).to_event(y.dim()), obs=y)

    return inverse.TwistedSMC(model, site="image", particles=particles, steps=steps, twist=TWIST).run(y)


def near(train: torch.Tensor) -> object:
    """Realism: minus the distance to the nearest training image."""
    return lambda x: -torch.cdist(x.flatten(1), train.flatten(1)).min(1).values


def show(pictures: dict[str, list[torch.Tensor]], path: Path) -> None:
    """One row a problem: truth or strokes, mean, standard deviation, draws."""
    rows = torch.stack([torch.stack(row) for row in pictures.values()])
    figure = pg.analysis.image_grid(
        rows[:, :1], rows[:, 1:], rows=list(pictures), names=("truth", "mean, deviation, draws"), limits=(-1, 1)
    )
    figure.savefig(path, dpi=120)
    print(f"-> {path}")


if __name__ == "__main__":
    main()
