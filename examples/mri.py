"""Magnetic resonance: an image from a quarter of the frequencies, with intervals, and a head unlike all before.

A diffusion model is fitted to made heads, complex images whose phases are not known. Two new heads are scanned at one
column of frequencies in four, by four coils, with noise: one like those of the training data, and one with a bright
lesion, which none of them had. Split Gibbs sampling draws both images. Are the intervals of the second head wider, and
do they hold the lesion?

    python examples/mri.py [--output output/inverse] [--seed 0] [--steps 800] [--chains 16] [--noise 0.03]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

import pyrogen as pg
from pyrogen import operators
from pyrogen.data import phantoms

SIDE, HEADS = 32, 3000
SHAPE = (2, SIDE, SIDE)


def phased(magnitudes: torch.Tensor) -> torch.Tensor:
    """Complex images of two channels, each with a phase of its own that changes slowly from place to place."""
    along = torch.linspace(-1, 1, SIDE)
    constant, down, across = 0.5 * torch.randn(3, len(magnitudes), 1, 1, 1)
    phase = constant + down * along.unsqueeze(-1) + across * along
    return torch.cat([magnitudes * phase.cos(), magnitudes * phase.sin()], 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--chains", type=int, default=16)
    parser.add_argument("--noise", type=float, default=0.03, help="in both channels of a frequency; bone has 1")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    images = phased(phantoms.heads(HEADS, seed=options.seed) / 2)
    prior = pg.diffusion.unet(SHAPE, channels=(8, 16, 32), depth=1, data_scale=images.square().mean().sqrt().item())
    optimizer = partial(torch.optim.Adam, lr=4e-3)
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=4e-3, total_steps=options.steps + 1, pct_start=0.1)
    settings = {"batch_size": 32, "optimizer": optimizer, "schedule": one_cycle, "ema": 0.99, "seed": options.seed}
    pg.fit(prior, images, steps=options.steps, **settings)

    columns = operators.random_lines((SIDE, SIDE), 4, centre=4)[0]
    mri = operators.Sense(SHAPE, operators.coil_maps((SIDE, SIDE), 4, distance=1.1), columns)
    orthogonal = operators.Diagonalized(mri)  # the same numbers, turned: the posterior is the same, and moves are fast

    def scan(coefficients: torch.Tensor) -> None:
        image = pyro.sample("image", prior())
        pyro.sample("y", dist.Normal(orthogonal(image), options.noise).to_event(3), obs=coefficients)

    head = phantoms.heads(1, seed=options.seed + 1)
    lesion = phantoms.lesions(1, seed=options.seed, contrast=1.0)
    truths = dict(zip(("like the others", "with a lesion"), phased(torch.cat([head, head + lesion]) / 2), strict=True))
    method = pg.inverse.SplitGibbs(
        scan, site="image", chains=options.chains, draws=4, warmup=20, steps=20, coupling=0.05
    )
    found = []
    for name, truth in truths.items():
        y = mri(truth) + options.noise * torch.randn(mri.output_shape)
        posterior = method.run(orthogonal.coefficients(y))
        draws, magnitude = posterior.get_samples()["image"].norm(dim=1, keepdim=True), truth.norm(dim=0, keepdim=True)
        filled = mri.adjoint(y).norm(dim=0, keepdim=True)
        report, inside = pg.evaluation.restoration_report(draws, magnitude), magnitude > 0.05
        covered = ((report.low <= magnitude) & (magnitude <= report.high))[inside].float().mean()
        width = (report.high - report.low)[inside].mean()
        print(f"{name}: zeros filled in {pg.evaluation.psnr(filled, magnitude):.1f} dB, posterior {report.psnr:.1f} dB")
        print(f"  90 % intervals of the head: {covered:.0%} hold the truth, mean width {width:.3f}")
        found.append((magnitude, filled, draws))

    magnitudes, filled, draws = zip(*found, strict=True)
    figure = pg.analysis.posterior_images(
        torch.stack(magnitudes), torch.stack(filled), torch.stack(draws, 1), rows=[*truths], shown=4, limits=(0, 1)
    )
    figure.savefig(options.output / "mri.png", dpi=150)


if __name__ == "__main__":
    main()
