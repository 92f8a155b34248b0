"""A class-conditional diffusion model of handwritten digits: bits per dimension, guided samples, Bayes' rule.

A small U-Net is trained by the variational bound on the 8x8 digits that scikit-learn ships, as integers. A tenth of the
digits lose their class in training, so that one network is the conditional and the unconditional model.

    python examples/diffusion_digits.py [--output output/demo] [--seed 0] [--steps 600] [--device cpu]
"""

from __future__ import annotations

import argparse
from functools import partial
from math import log
from pathlib import Path

import pyro
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen import diffusion

SHAPE, CLASSES = (1, 8, 8), 10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    print("Data: 1,797 handwritten digits, 8x8 pixels, 17 grey levels")
    pixels, labels, symbols = pg.data.digits()
    pixels, labels = pixels.to(options.device), labels.to(options.device)
    train, _, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=options.seed)

    print("\n1. Fit P(image | class) by its variational bound")
    model = diffusion.unet(
        SHAPE, classes=CLASSES, symbols=symbols, channels=(16, 32), depth=1, dropout=0.1, context_dropout=0.1
    ).to(options.device)
    fit = pg.fit(
        model,
        train,
        steps=options.steps,
        optimizer=partial(torch.optim.Adam, lr=3e-3),
        schedule=partial(CosineAnnealingLR, T_max=options.steps),
        ema=0.99,
        seed=options.seed,
    )
    print(f"   {fit.history.seconds:.0f} s for {len(fit.history.loss)} steps")
    save(options, "diffusion_training", pg.analysis.training_history(fit))

    print("\n2. Held-out bound of log P(image | class): the integers' own, no dequantization")
    x, y = test
    model.draws = 8 if options.steps < 50 else 64
    score = pg.log_prob(model, x.float(), y)
    bits = -score / x[0].numel() / log(2)
    print("  ", pg.evaluation.Estimate.of_mean(score, density="lower bound"))
    print("  ", pg.evaluation.Estimate.of_mean(bits, unit="bits per dimension", density="lower bound"))

    print("\n3. Samples, and samples guided away from the unconditional model -> diffusion_samples.png")
    classes = torch.arange(CLASSES, device=options.device)
    guided = diffusion.Diffusion(diffusion.ClassifierFree(model.denoiser, weight=3.0), reference=model.reference)
    plain, sharp = (one(classes).sample((8,)).transpose(0, 1) for one in (model, guided))
    names = [str(label) for label in range(CLASSES)]
    grid = pg.analysis.image_grid(plain, sharp, rows=names, names=("weight 1", "weight 3"), limits=(0, symbols - 1))
    save(options, "diffusion_samples", grid)

    print("\n4. Whose class does a classifier trained on the data see in them?")
    for name, one in (("data", None), ("weight 1", model), ("weight 3", guided)):
        images = x if one is None else one(y).sample()
        right = nearest_class(train, images.float()) == y
        print(f"   {name:<10}", pg.evaluation.Estimate.of_mean(right.double(), unit="accuracy", density=None))


def nearest_class(train: tuple[torch.Tensor, ...], images: torch.Tensor) -> torch.Tensor:
    """The class of the nearest training digit."""
    distance = torch.cdist(images.flatten(1), train[0].float().flatten(1))
    return train[1][distance.argmin(1)]


def save(options: argparse.Namespace, name: str, figure) -> None:
    figure.savefig(options.output / f"{name}.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
