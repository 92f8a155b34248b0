"""A class-conditional PixelCNN of handwritten digits: exact bits, samples, completed halves, a decoder in a VAE.

Convolutions see the rows above a pixel and the pixels to its left, so the log-probability of a digit is exact, and the
lower half follows from the upper one without further training. As the decoder of a variational autoencoder the same
network needs the latents less, which a report on their collapse shows.

python examples/pixel_digits.py [--output output/pixels] [--seed 0] [--steps 800]
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from functools import partial
from math import log
from pathlib import Path

import pyro
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

SHAPE, CLASSES = (1, 8, 8), 10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/pixels"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    print("Data: 1,797 handwritten digits, 8x8 pixels, 17 grey levels")
    pixels, labels, symbols = pg.data.digits()
    train, held_out, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=options.seed)
    x, y = (part[: 30 * options.steps] for part in test)  # all of them, unless this is a trial

    print("\n1. Fit P(image | class), one pixel after the other; the log-probability of the integers is exact")
    model = pg.autoregressive.pixel_cnn(SHAPE, symbols=symbols, classes=CLASSES, width=48, depth=4, dropout=0.3)
    fit = train_by(options, model, train, held_out)
    print(f"   {fit.history.seconds:.0f} s, best at step {fit.best_step}")
    report("   class known", pg.log_prob(model, x, y))
    classes = [pg.log_prob(model, x, torch.full_like(y, label)) for label in range(CLASSES)]
    report("   class summed out", torch.stack(classes).logsumexp(0) - log(CLASSES))
    right = torch.stack(classes).argmax(0) == y
    accuracy = pg.evaluation.Estimate.of_mean(right.double(), unit="accuracy", density=None)
    print("   the classifier by Bayes' rule:", accuracy)

    print("\n2. Samples -> samples.png; the lower halves given the upper ones -> completed.png")
    every = torch.arange(CLASSES)
    drawn = model(every).sample((8,)).transpose(0, 1)
    data = torch.stack([test[0][test[1] == label][:8] for label in range(CLASSES)])
    save(options, "samples", pg.analysis.image_grid(data, drawn, rows=[str(label) for label in range(CLASSES)]))
    known = torch.zeros(SHAPE, dtype=torch.bool)
    known[:, :4] = True
    halves = model(y[:8]).given(x[:8], known)
    shown = torch.where(known, x[:8].double(), torch.nan)
    rows = torch.stack([x[:8].double(), shown]).transpose(0, 1)
    save(
        options, "completed", pg.analysis.image_grid(rows, halves.sample((6,)).transpose(0, 1), limits=(0, symbols - 1))
    )
    report("   the lower half given the upper", halves.log_prob(x[:8]), dimensions=32)

    print("\n3. A PixelCNN as the decoder of a VAE: it needs the latents less, and says so")
    decoder = pg.autoregressive.pixel_cnn(SHAPE, (8,), symbols=symbols, width=32, depth=2, dropout=0.3)
    plain = pg.latent.convolutional_vae(SHAPE, latent_shape=(8,), symbols=symbols)
    pixels = pg.latent.VAE(pg.latent.StandardNormal((8,)), decoder, deepcopy(plain.posterior))
    for name, vae in {"independent pixels": plain, "PixelCNN": pixels}.items():
        train_by(options, vae, train[:1], held_out[:1])
        report(f"   {name} (100 draws)", pg.log_prob(vae, x), density="lower bound")
        print("     ", pg.evaluation.collapse_report(vae.model, vae.guide, x[:200], draws=16))


def train_by(options: argparse.Namespace, model: pg.DistributionModule, data: tuple, held_out: tuple) -> pg.Fit:
    """Maximum likelihood, or the bound of it, stopped by held-out digits."""
    return pg.fit(
        model,
        data,
        steps=options.steps,
        batch_size=32,
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        schedule=partial(CosineAnnealingLR, T_max=options.steps),
        validation=held_out,
        patience=30,
        seed=options.seed,
    )


def report(name: str, log_probs: torch.Tensor, dimensions: int = 64, density: str = "exact") -> None:
    """Nats and bits, with standard errors."""
    bits = -log_probs.detach() / dimensions / log(2)
    nats = pg.evaluation.Estimate.of_mean(log_probs, density=density)
    print(f"{name}: {nats}, {pg.evaluation.Estimate.of_mean(bits, unit='bits per dimension', density=density)}")


def save(options: argparse.Namespace, name: str, figure) -> None:
    figure.savefig(options.output / f"{name}.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
