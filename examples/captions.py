"""Captions to images: small scenes of coloured shapes, some combinations of which the model has never seen.

A small U-Net attends to the words of a caption ("a red circle left of a blue square"); a tenth of the captions are
dropped in training, for classifier-free guidance. No training scene has a red square or a blue triangle. A classifier
trained on real scenes of all kinds then says what it sees in the samples.

    python examples/captions.py [--output output/demo] [--seed 0] [--steps 1200] [--device cpu]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

import pyrogen as pg
from pyrogen import diffusion
from pyrogen.data import scenes

SHAPE, WORDS, HELD_OUT = (3, 16, 16), len(scenes.WORDS), ("red square", "blue triangle")
PARTS = (len(scenes.COLOURS), len(scenes.SHAPES), len(scenes.RELATIONS), len(scenes.COLOURS), len(scenes.SHAPES))
SEEN = ("colours", "shapes", "relation", "all")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)
    few = options.steps < 50

    print(f"Data: scenes of two coloured shapes, 16x16 pixels; none with a {' or a '.join(HELD_OUT)}")
    train = scenes.draw(1000 if few else 20_000, seed=options.seed, without=HELD_OUT)

    print("\n1. Fit P(image | caption)")
    model = fitted(train, options)

    print("\n2. Train a classifier on real scenes of all kinds")
    classifier = trained_classifier(scenes.draw(1000 if few else 20_000, seed=options.seed + 1), 2 if few else 600)

    print("\n3. What it sees, where the caption is of scenes as in training, and of scenes with held-out combinations")
    size = 8 if few else 300
    asked = {
        "seen": scenes.draw(size, seed=options.seed + 2, without=HELD_OUT),
        "held out": scenes.draw(size, seed=options.seed + 3, only=HELD_OUT),
    }
    print(f"   {'':<22}" + "".join(f"{name:<17}" for name in SEEN))
    for weight in (None, 1.0, 3.0):
        for kind, real in asked.items():
            images = real.pixels if weight is None else drawn(model, real.captions, weight)
            right = agreement(classifier, images, real.attributes)
            name = f"{'real' if weight is None else f'weight {weight:g}'}, {kind}"
            print(f"   {name:<22}" + "".join(f"{cell(column):<17}" for column in right.T))

    print("\n4. Samples of held-out scenes, eight for each caption -> captions_samples.png")
    real, captions, _ = (part[:6] for part in asked["held out"])
    draws = drawn(model, captions.repeat(8, 1), 3.0).unflatten(0, (8, 6)).transpose(0, 1)
    names = ("real", "samples, weight 3")
    grid = pg.analysis.image_grid(real.unsqueeze(1), draws, rows=scenes.decode(captions), names=names, limits=(0, 1))
    grid.savefig(options.output / "captions_samples.png", dpi=150, bbox_inches="tight")


def fitted(train: scenes.Scenes, options: argparse.Namespace) -> diffusion.Diffusion:
    """A U-Net that attends to captions, fitted twice."""
    model = diffusion.unet(
        SHAPE, (8,), channels=(16, 32, 64), depth=1, attention=2, classes=WORDS, context_dropout=0.1, data_scale=0.3
    ).to(options.device)
    data = centred(train.pixels).to(options.device), train.captions.to(options.device)
    settings = {"batch_size": 64, "clip": 1.0, "ema": 0.995, "seed": options.seed}
    # What stands where is settled at noise several times as large as the contrast, what it looks like below.
    for mean, steps in ((0.5, options.steps), (-0.5, options.steps // 2)):
        weighting = diffusion.EDMWeighting(data_scale=0.3, mean=mean, scale=1.3)
        objective, adam = diffusion.DenoisingScoreMatching(model, weighting), partial(torch.optim.Adam, lr=1e-3)
        schedule = partial(OneCycleLR, max_lr=1e-3, total_steps=steps + 1, pct_start=0.1)
        fit = pg.fit(objective, data, steps=steps, optimizer=adam, schedule=schedule, **settings)
        print(f"   {fit.history.seconds:.0f} s for {len(fit.history.loss)} steps")
    return model


def centred(pixels: Tensor) -> Tensor:
    """Pixels from -1 to 1, so that the grey ground is zero."""
    return 2 * pixels - 1


def drawn(model: diffusion.Diffusion, captions: Tensor, weight: float) -> Tensor:
    """Images for captions, guided away from the model without caption."""
    guided = diffusion.Diffusion(diffusion.ClassifierFree(model.denoiser, weight=weight), reference=model.reference)
    return (guided(captions.to(next(model.parameters()).device)).sample().cpu() + 1) / 2


def trained_classifier(real: scenes.Scenes, steps: int) -> nn.Module:
    """A convolutional network that reads the five attributes of a scene from its pixels."""
    classifier = nn.Sequential(
        *(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(768, 128), nn.ReLU(), nn.Linear(128, sum(PARTS))),
    )
    optimizer = torch.optim.Adam(classifier.parameters())
    schedule = OneCycleLR(optimizer, 1e-2, total_steps=steps)
    # The left or upper shape is read first.
    labels = torch.where(real.attributes[:, 2:3] % 2 == 0, real.attributes, swapped(real.attributes))
    for _ in range(steps):
        rows = torch.randint(len(real.pixels), (128,))
        # Noise, so that the classifier does not mind what is left of it in samples.
        pixels = real.pixels[rows] + 0.05 * torch.randn(128, *SHAPE)
        logits = classifier(centred(pixels)).split(PARTS, -1)
        loss = sum(map(nn.functional.cross_entropy, logits, labels[rows].unbind(-1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def swapped(attributes: Tensor) -> Tensor:
    """The same scenes, told from the other shape: relations come in pairs of opposites."""
    relation = attributes[:, 2:3]
    return torch.cat([attributes[:, 3:], relation + 1 - 2 * (relation % 2), attributes[:, :2]], -1)


@torch.no_grad()
def agreement(classifier: nn.Module, images: Tensor, attributes: Tensor) -> Tensor:
    """Whether colours, shapes, relation and all of them are as the caption says, ``(N, 4)``."""
    seen = torch.stack([logits.argmax(-1) for logits in classifier(centred(images)).split(PARTS, -1)], -1)
    ways = torch.stack([seen == attributes, swapped(seen) == attributes])  # told from either shape
    score = ways.double() @ torch.tensor([1, 1, 0.5, 1, 1], dtype=torch.double)  # the relation decides a draw
    same = torch.where((score[0] >= score[1]).unsqueeze(-1), ways[0], ways[1])
    colours, shapes, relation = same[:, [0, 3]].all(-1), same[:, [1, 4]].all(-1), same[:, 2]
    return torch.stack([colours, shapes, relation, colours & shapes & relation], -1).double()


def cell(right: Tensor) -> str:
    """A share and its standard error."""
    estimate = pg.evaluation.Estimate.of_mean(right, unit="", density=None)
    return f"{estimate.value:.3f} ± {estimate.standard_error:.3f}"


if __name__ == "__main__":
    main()
