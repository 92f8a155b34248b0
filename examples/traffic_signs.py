"""Traffic signs: what is none, found by likelihoods; and signs that were tampered with, made whole again.

Two diffusion models learn pictures, one of signs before photographs, one of whatever is flat and has edges before the
same photographs. The likelihood of the first finds plain backgrounds more likely than signs: it counts how smooth a
picture is. What the second model says of a picture too is not about signs, and the ratio takes it away. Whatever the
score, its rank among held-out signs is a p-value: an alarm at 0.05 is false once in twenty times.

A classifier of signs is then fooled by changes of at most eight of 255 grey levels. The likelihood finds them. Noise
that hides them, and the model of signs that takes it away, mend a part of the pictures only: a model that was trained
for 600 steps leaves speckles of its own.

Signs are drawn by formulas, and what is no sign are stars with the glyphs of signs. Real designs are read from files
(`pg.data.signs.read` names packages that have some): give their folders as `--signs`, and those of drawings of other
things as `--others`.

    python examples/traffic_signs.py [--output output] [--seed 0] [--steps 600] [--signs DIR ...] [--others DIR ...]
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen import evaluation
from pyrogen.data import signs

SIDE, DESIGN = 16, 48  # of pictures and designs, in pixels
SHAPE = (3, SIDE, SIDE)
LIMIT = 2 * 8 / 255  # of changes of a pixel, from -1 to 1
NOISES = (0.1, 0.2, 0.3)  # by which tampering is hidden


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pictures", type=int, default=1500, help="how many held-out signs are scored")
    parser.add_argument("--signs", type=Path, nargs="+", help="folders of designs, *.svg")
    parser.add_argument("--others", type=Path, nargs="+", help="folders of what is no sign")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small images: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    designs = signs.read(options.signs, side=DESIGN) if options.signs else signs.designs(DESIGN)
    others = signs.read(options.others, side=DESIGN) if options.others else signs.badges(400, seed=0, side=DESIGN)
    seen, unseen = (part.pixels / 255 for part in pg.data.photographs(SIDE))
    size = min(12_000, 2000 + 16 * options.steps)  # a trial needs fewer
    train, labels = pictures(designs, seen, size, seed=1)
    test, named = pictures(designs, unseen, options.pictures, seed=2)
    reference, _ = pictures(designs, unseen, options.pictures, seed=3)
    print(f"{len(designs)} designs of signs and {len(others)} other things before {len(seen):,} patches of photographs")

    model = trained(train, options)
    background = trained(pictures(signs.collages(size // 4, seed=4, side=DESIGN), seen, size, seed=5)[0], options)
    classifier = evaluation.train_classifier(train, labels, steps=2 * options.steps, seed=options.seed)
    few, names = options.pictures // 4, named[: options.pictures // 4]
    loss = partial(cross_entropy, target=names, reduction="sum")
    tampered = evaluation.adversarial(lambda x: loss(classifier(x)), test[:few], limit=LIMIT, interval=(-1, 1))
    strange = {
        "other things": pictures(others, unseen, few, seed=6)[0],
        "photographs": 2 * unseen - 1,
        "one colour": 2 * torch.rand(few, 3, 1, 1).expand(-1, *SHAPE) - 1,
    }

    usual = statistics(model, background, reference)
    of_signs = scores(statistics(model, background, test), usual)
    kinds = {**strange, "tampered signs": tampered}
    found = {kind: scores(statistics(model, background, x), usual) for kind, x in kinds.items()}
    rows = {}
    for score, values in of_signs.items():
        outliers = {kind: of_kind[score] for kind, of_kind in found.items()}
        areas = [evaluation.auroc(values, each) for each in outliers.values()]
        alarms = evaluation.density_p_value(-values, -scores(usual, usual)[score]) <= 0.05
        rows[score] = [share(alarms), *(f"{area.value:.3f} ± {area.standard_error:.3f}" for area in areas)]
        save(options, score.replace(" ", "_"), pg.analysis.outlier_scores(values, outliers))
    print("\nHow many of the signs raise an alarm at 0.05, and the AUROC of each kind of outliers:")
    print(evaluation.table(["false alarms", *found], rows))

    whole, rows = {"signs": test[:few], "tampered signs": tampered}, {}
    for noise in (0.0, *NOISES):
        shown = {name: purified(model, x, noise) if noise else x for name, x in whole.items()}
        right = [share(classifier.labels(x) == names) for x in shown.values()]
        rows[f"after noise of {noise}" if noise else "as they are"] = right
    print("\nHow often the classifier is right about signs, and about tampered ones:")
    print(evaluation.table(list(whole), rows))
    grid = torch.stack([x[:16] for x in (*whole.values(), shown["tampered signs"], *strange.values())])
    titles = ["sign", "tampered", "made whole", *strange]
    figure = pg.analysis.image_grid(grid[:, :8], grid[:, 8:], rows=titles, names=("", ""), limits=(-1, 1))
    save(options, "pictures", figure)


def pictures(designs, photographs, size, *, seed):
    """Designs before photographs, from -1 to 1, and which they show."""
    random = torch.Generator().manual_seed(seed)
    which, where = (torch.randint(len(each), (size,), generator=random) for each in (designs, photographs))
    return 2 * signs.posed(designs[which], photographs[where], seed=seed) - 1, which


def trained(x, options):
    """A diffusion model of pictures."""
    model = pg.diffusion.unet(SHAPE, channels=(16, 32), depth=1, data_scale=0.55, draws=8)
    schedule = partial(CosineAnnealingLR, T_max=options.steps)
    optimizer = partial(torch.optim.Adam, lr=3e-3)
    pg.fit(model, x, steps=options.steps, batch_size=32, optimizer=optimizer, schedule=schedule, ema=0.99)
    model.noise_seed = options.seed  # one noise for all pictures and both models, which their ratio is free of
    return model


def statistics(model, background, x):
    """What scores are made of: bounds under both models, and the length by a code, in nats."""
    length = evaluation.code_length(pg.data.quantize((x + 1) / 2, 256))
    return [evaluation.log_probs(one, x, batch_size=100) for one in (model, background)] + [-length]


def scores(values, usual):
    """Larger for stranger pictures."""
    own, background, code = values
    return {
        "log-likelihood": -own,
        "typicality": evaluation.typicality(own, usual[0]),
        "likelihood ratio to a code": evaluation.likelihood_ratio(own, code),
        "likelihood ratio": evaluation.likelihood_ratio(own, background),
    }


@torch.no_grad()
def purified(model, x, noise):
    """Noise that hides the change, and a picture from the model given the noisy one."""
    return evaluation.denoised_by(model.denoiser, steps=10)(x + noise * torch.randn_like(x), noise).clamp(-1, 1)


def share(events):
    return evaluation.Estimate.of_share(events, unit="")


def save(options, name, figure):
    figure.savefig(options.output / f"{name}.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
