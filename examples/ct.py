"""Computed tomography: what is in the head, how sure can one be, and about which axis does the scanner turn?

A diffusion model is fitted to made heads. A new head is scanned from a few angles with noise, by a scanner whose axis
is half a detector away from where its manual puts it. Tempered SMC draws the image for three places of the axis; from
the evidence follows how probable each place is.

    python examples/ct.py [--output output/inverse] [--seed 0] [--steps 800] [--particles 64] [--views 10] [--noise 1]
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pyrogen as pg
from pyrogen import inverse
from pyrogen.data import phantoms

SHAPE, HEADS = (1, 32, 32), 3000
AXES, TRUE_AXIS = (0.0, 0.25, 0.5), 0.5  # in detectors from the middle, where the manual puts it


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--noise", type=float, default=1.0, help="of a line integral, in pixels of water")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    images = phantoms.heads(HEADS, seed=options.seed) - 1  # attenuation in units of water's, which is zero
    prior = pg.diffusion.unet(SHAPE, channels=(8, 16, 32), depth=1, data_scale=images.square().mean().sqrt().item())
    optimizer = partial(torch.optim.Adam, lr=4e-3)
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=4e-3, total_steps=options.steps + 1, pct_start=0.1)
    settings = {"batch_size": 32, "optimizer": optimizer, "schedule": one_cycle, "ema": 0.99, "seed": options.seed}
    pg.fit(prior, images, steps=options.steps, **settings)

    def scan(y: torch.Tensor, radon: pg.operators.Radon) -> None:
        image = pyro.sample("image", prior())
        pyro.sample("y", dist.Normal(radon(image + 1), options.noise).to_event(3), obs=y)

    angles = torch.arange(options.views) * math.pi / options.views
    scanners = {axis: pg.operators.Radon(SHAPE, angles, detectors=32, offset=axis) for axis in AXES}
    truth = phantoms.heads(1, seed=options.seed + 1)[0] - 1
    y = dist.Normal(scanners[TRUE_AXIS](truth + 1), options.noise).sample()

    method = inverse.TemperedSMC(scan, site="image", particles=options.particles, moves=2, steps=12)
    posteriors = {axis: method.run(y, radon) for axis, radon in scanners.items()}
    evidence = torch.stack([posterior.log_evidence for posterior in posteriors.values()])
    for axis, nats, share in zip(AXES, evidence, evidence.softmax(0), strict=True):
        print(f"axis at {axis:g} detectors: log evidence {nats:.1f}, probability {share:.3f}")
    best = AXES[int(evidence.argmax())]
    back = {axis: radon.filtered_back_projection(y) - 1 for axis, radon in scanners.items()}
    draws = {axis: posterior.get_samples()["image"] for axis, posterior in posteriors.items()}
    print(f"given the axis at {best:g}: {pg.evaluation.restoration_report(draws[best], truth, span=3.0)}")
    print(f"filtered back-projection: PSNR {pg.evaluation.psnr(back[best], truth, span=3.0):.2f} dB")
    print(posteriors[best].diagnostics())

    figure = pg.analysis.posterior_images(
        truth.expand(len(AXES), *SHAPE),
        torch.stack([*back.values()]),
        torch.stack([*draws.values()], 1),
        rows=[f"axis at {axis:g}" for axis in AXES],
        shown=4,
        limits=(-0.5, 0.6),
    )
    figure.savefig(options.output / "ct.png", dpi=150)


if __name__ == "__main__":
    main()
