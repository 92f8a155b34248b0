"""Editing by text: one word of a caption is changed, and the picture changes there and nowhere else.

Scenes of two coloured shapes are edited by another caption, under the diffusion prior of `examples/captions.py`: along
the probability flow, to noise under the old caption and back under the new; the same with all kept on which the
captions agree; as an inverse problem, with what is kept as the measurement; and from noisy pictures, as strokes are.
What a perfect edit gives is known: the same scene, rendered again with another attribute.

    python examples/editing.py [--output output/inverse] [--prior output/demo/captions] [--seed 0] [--steps 3000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.optim.lr_scheduler import OneCycleLR

import pyrogen as pg
from pyrogen import diffusion, inverse
from pyrogen.data import scenes

PARTS, SPREAD, NOISE = (8, 6, len(scenes.RELATIONS), 8, 6), 0.1, 0.03
TIMES = (0.5, 0.7, 0.9)
share = partial(pg.evaluation.Estimate.of_mean, unit="", density=None)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/inverse"))
    parser.add_argument("--prior", type=Path, help="what examples/captions.py saved; a model is fitted if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    prior = (pg.load(options.prior) if options.prior else fitted(options.steps, options.seed)).eval()
    classifier = trained_classifier(min(400, options.steps), options.seed + 1)
    attributes, wanted, layout = asked(min(40, 2 * options.steps), options.seed + 2)
    pictures, truth = (2 * scenes.render(each, layout) - 1 for each in (attributes, wanted))
    rest = (pictures == truth).all(1, keepdim=True).expand_as(pictures)  # where nothing has to change
    captions, others = (scenes.encode(scenes.describe(each)) for each in (attributes, wanted))
    old, new = prior(captions), prior(others)

    apart = diffusion.difference_map(old, new, pictures, time=0.6).amax(1, keepdim=True).expand_as(pictures)
    kept = apart < 0.2 * apart.amax((1, 2, 3), keepdim=True)
    ways = {
        "encoded and decoded alone": {1.0: diffusion.edit_by_inversion(old, old, pictures)},
        "inversion": {t: diffusion.edit_by_inversion(old, new, pictures, time=t) for t in TIMES},
        "inversion, rest kept": {t: diffusion.edit_by_inversion(old, new, pictures, time=t, kept=kept) for t in TIMES},
        "posterior, rest measured": {1.0: posterior(prior, others, pictures, kept)},
        "from noisy pictures": {t: diffusion.edit(new, pictures, t, steps=60)[0] for t in TIMES},
    }
    print(f"{len(pictures)} pictures; {(kept == rest).double().mean():.3f} of the pixels rightly kept or free")
    print(f"{'':<26}{'time':<6}{'asked':<16}{'others':<16}{'error of the rest':<20}error to the truth")
    curves, edited = {}, attributes != wanted
    for way, edits in ways.items():
        for time, edit in edits.items():
            right = classifier(edit).eq(attributes if way == "encoded and decoded alone" else wanted).double()
            changed, same = share(right[edited]), share(torch.where(edited, 1.0, right).amin(1))
            of_rest, of_all = mse_loss(edit[rest], pictures[rest]).sqrt(), mse_loss(edit, truth).sqrt()
            curves.setdefault(way, []).append((of_rest, changed.value))
            print(f"{way:<26}{time:<6}{changed:.3f}   {same:.3f}   {of_rest:<20.4f}{of_all:.4f}")

    scene = torch.stack([pictures[:6], truth[:6]], 1)
    last = torch.stack([list(edits.values())[-1][:6] for edits in list(ways.values())[1:]], 1)
    names, rows = ("before, after", "four edits"), scenes.describe(wanted[:6])
    grid = pg.analysis.image_grid(scene, last, rows=rows, names=names, limits=(-1, 1))
    grid.savefig(options.output / "editing.png", dpi=150, bbox_inches="tight")
    figure = plt.figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="error of the rest (root mean square)", ylabel="asked attribute right")
    for way, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=way)
    axes.legend(fontsize=7)
    figure.savefig(options.output / "editing_curve.png", dpi=150)


def fitted(steps: int, seed: int) -> diffusion.Diffusion:
    """The prior of images given captions."""
    data = scenes.draw(min(20_000, 50 * steps), seed=seed, colours=8, shapes=6, spread=SPREAD)
    sizes = {"patch": 4, "width": 96, "depth": 3, "classes": len(scenes.WORDS)}
    model = diffusion.transformer((3, 16, 16), (8,), **sizes, context_dropout=0.1, data_scale=0.3)
    schedule = partial(OneCycleLR, max_lr=1e-3, total_steps=steps + 1, pct_start=0.05)
    optimizer = partial(torch.optim.Adam, lr=1e-3, betas=(0.9, 0.99))
    objective = diffusion.DenoisingScoreMatching(model, diffusion.EDMWeighting(data_scale=0.3, mean=0.0, scale=1.3))
    rows = 2 * data.pixels - 1, data.captions
    pg.fit(objective, rows, steps=steps, batch_size=32, optimizer=optimizer, schedule=schedule, clip=1.0, ema=0.995)
    return model


def trained_classifier(steps: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Reads the five attributes of a scene from its pixels, the left or upper shape first."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(768, 128), nn.ReLU(), nn.Linear(128, sum(PARTS))),
    )
    optimizer = torch.optim.Adam(network.parameters())
    schedule = OneCycleLR(optimizer, 1e-2, total_steps=steps)
    real = scenes.draw(8000, seed=seed, colours=8, shapes=6, spread=SPREAD)
    first = (real.attributes[:, 2] % 2 == 0).nonzero().squeeze(1)
    for _ in range(steps):
        rows = first[torch.randint(len(first), (64,))]
        noisy = 2 * real.pixels[rows] - 1 + 0.1 * torch.randn(64, 3, 16, 16)
        logits, labels = network(noisy).split(PARTS, -1), real.attributes[rows].unbind(-1)
        loss = sum(map(cross_entropy, logits, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval().requires_grad_(False)
    return lambda x: torch.stack([logits.argmax(-1) for logits in network(x).split(PARTS, -1)], -1)


def asked(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attributes of scenes, those of the edited ones, which differ in one colour or shape, and their layout."""
    generator = torch.Generator().manual_seed(seed)
    attributes = scenes.draw(20 * size, seed=seed, colours=8, shapes=6).attributes
    column = torch.tensor([0, 1, 3, 4])[torch.randint(4, (len(attributes),), generator=generator)]
    step = 1 + (torch.rand(len(attributes), generator=generator) * (torch.tensor(PARTS)[column] - 1)).long()
    wanted = (attributes + step.unsqueeze(1) * one_hot(column, len(PARTS))) % torch.tensor(PARTS)
    possible = (attributes[:, 2] % 2 == 0) & (wanted[:, :2] != wanted[:, 3:]).any(1)  # two different things
    layout = 0.5 + SPREAD * (torch.rand(size, 2, 3, generator=generator) - 0.5)
    return attributes[possible][:size], wanted[possible][:size], layout


def posterior(prior: diffusion.Diffusion, captions: Tensor, pictures: Tensor, kept: Tensor) -> Tensor:
    """A draw of the prior under the new captions, given what is kept with a little noise."""

    def edited(y: Tensor) -> None:
        with pyro.plate("pictures", len(captions)):
            picture = pyro.sample("picture", prior(captions))
            pyro.sample("y", dist.Normal(picture, torch.where(kept, NOISE, 10.0)).to_event(3), obs=y)

    method = inverse.GuidedSampling(edited, site="picture", guidance=inverse.DDRM(), draws=1, steps=60)
    return method.run(pictures).get_samples()["picture"][0]


if __name__ == "__main__":
    main()
