"""Traffic signs: what is none, found by likelihoods; and signs that were tampered with, made whole again.

Two diffusion models learn pictures, one of signs before photographs, one of whatever is flat and has edges before the
same photographs. The likelihood of the first finds plain backgrounds more likely than signs: it counts how smooth a
picture is. What the second model says of a picture too is not about signs, and the ratio takes it away. Whatever the
score, its rank among held-out signs is a p-value: an alarm at 0.05 is false once in twenty times.

A classifier of signs is then fooled by changes of at most eight of 255 grey levels. The likelihood finds them. Noise
hides a part of them, and the model of signs takes it away: the classifier has also learned from such pictures, and says
what is most probable on average over noise (Carlini et al. 2022, https://arxiv.org/abs/2206.10550).

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

SIDE, DESIGN, SHAPE = 16, 48, (3, 16, 16)  # of pictures and designs, in pixels
LIMIT = 2 * 8 / 255  # of changes of a pixel, from -1 to 1
NOISES = (0.3, 0.5, 0.7)  # by which tampering is hidden
share = partial(evaluation.Estimate.of_share, unit="")


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
    cleaned = torch.cat([train, *(purified(model, train, noise) for noise in NOISES)])
    classifier = evaluation.train_classifier(cleaned, labels.repeat(4), steps=6 * options.steps, seed=options.seed)
    few, names = options.pictures // 4, named[: options.pictures // 4]
    loss = partial(cross_entropy, target=names, reduction="sum")
    tampered = evaluation.adversarial(lambda x: loss(classifier(x)), test[:few], limit=LIMIT, interval=(-1, 1))
    strange = {
        "tampered signs": tampered,
        "other things": pictures(others, unseen, few, seed=6)[0],
        "photographs": 2 * unseen - 1,
        "one colour": 2 * torch.rand(few, 3, 1, 1).expand(-1, *SHAPE) - 1,
    }

    usual = statistics(model, background, reference)
    of_signs = scores(statistics(model, background, test), usual)
    found = {kind: scores(statistics(model, background, x), usual) for kind, x in strange.items()}
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
        shown = {name: [purified(model, x, noise) for _ in range(16)] if noise else [x] for name, x in whole.items()}
        right = [share(sum(classifier(x).softmax(-1) for x in draws).argmax(-1) == names) for draws in shown.values()]
        rows[f"after noise of {noise}" if noise else "as they are"] = right
    print("\nHow often the classifier is right about signs, and about tampered ones:")
    print(evaluation.table(list(whole), rows))
    grid = torch.stack([x[:16] for x in (test, *strange.values(), shown["tampered signs"][0])])
    titles = ["signs", *strange, "made whole"]
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
    """Noise that hides the change, and the mean of pictures given the noisy one."""
    denoised = evaluation.denoised_by(model.denoiser, steps=1)
    return torch.cat([denoised(part + noise * torch.randn_like(part), noise).clamp(-1, 1) for part in x.split(500)])


def save(options, name, figure):
    figure.savefig(options.output / f"{name}.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
