"""Captions to images: small scenes of coloured shapes, some combinations of which the model has never seen.

A transformer of the patches of an image attends to the words of a caption ("a red circle left of a blue square"). Six
of the 48 coloured shapes are in no training scene, each colour and shape of them in many. Some captions lose words in
training, so that a new scene can be asked for by parts that are all known: a conjunction of "a red … left of a …
square" and "a … circle left of a blue …". A classifier trained on real scenes of all kinds reads the scenes that are
drawn.

    python examples/captions.py [--output output/demo] [--seed 0] [--steps 3000] [--device cpu]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

import pyrogen as pg
from pyrogen import diffusion
from pyrogen.data import scenes

SHAPE = (3, 16, 16)
HELD_OUT = ("red square", "blue triangle", "green ring", "yellow cross", "cyan circle", "magenta diamond")
PARTS = (8, 6, len(scenes.RELATIONS), 8, 6)  # colour and shape, relation, colour and shape
ATTRIBUTES = torch.tensor([scenes.WORDS.index(name) for name in (*scenes.COLOURS, *scenes.SHAPES)])  # their words
draw = partial(scenes.draw, colours=8, shapes=6, spread=0.1)
share = partial(pg.evaluation.Estimate.of_mean, unit="", density=None)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    print(f"Data: scenes of two coloured shapes, 16x16 pixels; none with a {' or a '.join(HELD_OUT)}")
    train = draw(min(20_000, 500 * options.steps), seed=options.seed, without=HELD_OUT)

    print("\n1. Fit P(image | caption)")
    model = fitted(train, options)
    pg.save(model, options.output / "captions")

    print("\n2. Train a classifier on real scenes of all kinds")
    real = draw(min(8000, 500 * options.steps), seed=options.seed + 1)
    classifier = trained_classifier(real, steps=min(400, options.steps))

    print("\n3. What it sees, where the caption is of scenes as in training, and of scenes with held-out combinations")
    seen = draw(min(160, 4 * options.steps), seed=options.seed + 2, without=HELD_OUT)
    unseen = draw(len(seen.pixels), seed=options.seed + 3, only=HELD_OUT)
    guided = diffusion.ClassifierFree(model.denoiser, weight=2.0)
    added = diffusion.Conjunction(model.denoiser, weights=(-1.0, 1.0, 1.0))  # what either part adds to the relation
    stressed = diffusion.Conjunction(model.denoiser, weights=(-3.0, 2.0, 2.0))
    ways = {
        "real": lambda real: real.pixels,
        "caption": lambda real: drawn(model.denoiser, real.captions),
        "guided, weight 2": lambda real: drawn(guided, real.captions),
        "by parts, weight 1": lambda real: drawn(added, parts_of(real.captions)),
        "by parts, weight 2": lambda real: drawn(stressed, parts_of(real.captions)),
    }
    print(f"{'':<33}colours         shapes          relation        all")
    for name, images in ways.items():
        for kind, real in {"seen": seen, "held out": unseen}.items():
            right = scenes.agreement(classifier(images(real)), real.attributes)  # (N, 3)
            shares = [share(column.double()) for column in (*right.T, right.all(-1))]
            print(f"   {name + ', ' + kind:<30}" + "   ".join(f"{each:.3f}" for each in shares))

    print("\n4. Samples of held-out scenes, eight for each caption -> captions_samples.png")
    real, captions, _ = (part[:6] for part in unseen)
    draws = drawn(guided, captions.repeat(8, 1)).unflatten(0, (8, 6)).transpose(0, 1)
    names = ("real", "samples, weight 2")
    grid = pg.analysis.image_grid(real.unsqueeze(1), draws, rows=scenes.decode(captions), names=names, limits=(0, 1))
    grid.savefig(options.output / "captions_samples.png", dpi=150, bbox_inches="tight")


def fitted(train: scenes.Scenes, options: argparse.Namespace) -> diffusion.Diffusion:
    """A transformer of patches that attends to captions, some of which have gaps."""
    sizes = {"patch": 4, "width": 96, "depth": 3, "classes": len(scenes.WORDS)}
    model = diffusion.transformer(SHAPE, (8,), **sizes, context_dropout=0.1, data_scale=0.3).to(options.device)
    # What stands where is settled at noise several times as large as the contrast, what it looks like below.
    objective = diffusion.DenoisingScoreMatching(model, diffusion.EDMWeighting(data_scale=0.3, mean=0.0, scale=1.3))
    data = centred(train.pixels).to(options.device), with_gaps(train.captions).to(options.device)
    optimizer = partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99))
    schedule = partial(OneCycleLR, max_lr=1e-3, total_steps=options.steps + 1, pct_start=0.05)
    settings = {"optimizer": optimizer, "schedule": schedule, "batch_size": 32, "clip": 1.0, "ema": 0.995}
    fit = pg.fit(objective, data, steps=options.steps, seed=options.seed, **settings)
    print(f"   {fit.history.seconds:.0f} s for {len(fit.history.loss)} steps")
    return model


def centred(pixels: Tensor) -> Tensor:
    """Pixels from -1 to 1, so that the grey ground is zero."""
    return 2 * pixels - 1


def with_gaps(captions: Tensor) -> Tensor:
    """Captions, a quarter of which miss each colour and shape with even odds; -1 is a word that is absent."""
    lost = (torch.rand(captions.shape) < 0.5) & (torch.rand(len(captions), 1) < 0.25)
    return captions.masked_fill(lost & torch.isin(captions, ATTRIBUTES), -1)


def parts_of(captions: Tensor) -> Tensor:
    """The relation; that with the first colour and the second shape; that with the others: ``(N, 3, 8)``."""
    named = torch.isin(captions, ATTRIBUTES)
    place = named.cumsum(-1)  # 1, 2: colour and shape of the first; 3, 4: of the second
    first = named & ((place == 1) | (place == 4))
    return torch.stack([captions.masked_fill(hidden, -1) for hidden in (named, named & ~first, first)], 1)


def drawn(denoiser: diffusion.Denoiser, contexts: Tensor) -> Tensor:
    """An image for each context."""
    model = diffusion.Diffusion(denoiser, sampler=diffusion.Multistep(diffusion.FlowGrid(14)))
    return (model(contexts.to(denoiser.like().device)).sample().cpu() + 1) / 2


def trained_classifier(real: scenes.Scenes, steps: int) -> Callable[[Tensor], Tensor]:
    """Reads the five attributes of scenes from their pixels, the left or upper shape first."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(768, 128), nn.ReLU(), nn.Linear(128, sum(PARTS))),
    )
    optimizer = torch.optim.Adam(network.parameters())
    schedule = OneCycleLR(optimizer, 1e-2, total_steps=steps)
    labels = torch.where(real.attributes[:, 2:3] % 2 == 0, real.attributes, scenes.swapped(real.attributes))
    for _ in range(steps):
        rows = torch.randint(len(real.pixels), (64,))
        noisy = real.pixels[rows] + 0.05 * torch.randn(64, *SHAPE)  # as samples may be
        logits = network(centred(noisy)).split(PARTS, -1)
        loss = sum(map(nn.functional.cross_entropy, logits, labels[rows].unbind(-1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)
    return lambda pixels: torch.stack([part.argmax(-1) for part in network(centred(pixels)).split(PARTS, -1)], -1)


if __name__ == "__main__":
    main()
