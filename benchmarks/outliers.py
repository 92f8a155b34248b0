"""Scores of outliers by models of all families, on digits with planted failures: AUROC of each score and kind.

scikit-learn's digits of 8x8 pixels and 17 grey levels, no classes: 1,077 to train on, 360 as a reference of what is
usual, 360 held out. Outliers, 200 of each kind: images of one grey level; smooth ones (3x3 random pixels made larger);
held-out digits after a quarter turn, and with their pixels in another order; uniform noise. The first two are what
models of images give high probabilities to.

Scores of each model: the log-probability (a bound for VAE and diffusion, an estimate for the probability flow); its
ratio to that of a model of the same kind trained on digits of which every fifth pixel is replaced by any grey level;
its distance from what is usual; its ratio to a universal code; and the criterion of three models from other starts. Of
the diffusion model also the terms of its bound by noise level, all together; of a classifier of digits the energy and
the largest probability, and what pytorch-ood makes of its features (``pip install --no-deps pytorch-ood torchvision``;
its own settings). Errors are DeLong's, over the data. One thread.

    python benchmarks/outliers.py --output outliers.jsonl [--models flow unet] [--steps 300]
    python benchmarks/outliers.py --read benchmarks/results/outliers.jsonl --table TABLE.json
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import pyro
import torch
from results_file import keep, known, table
from torch.nn.functional import interpolate
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen import evaluation

SHAPE, LEVELS, MEMBERS, REPLACED = (1, 8, 8), 17, 3, 0.2
KINDS = ("one grey level", "smooth", "quarter turn", "other order", "noise")
SCORES = {
    "raw": "log-probability",
    "ratio": "ratio to a background model",
    "typicality": "typicality",
    "code": "ratio to a code (complexity)",
    "waic": "WAIC of three",
    "levels": "terms by noise level, together",
    "energy": "energy of the logits",
    "largest": "largest probability",
    "Mahalanobis": "pytorch-ood, Mahalanobis distance",
    "relative Mahalanobis": "pytorch-ood, relative Mahalanobis distance",
    "neighbours": "pytorch-ood, 50th nearest neighbour",
    "ViM": "pytorch-ood, virtual logit (ViM)",
}


def flow(x, steps, seed):
    base = pg.flows.spline_coupling(SHAPE, interval=(0.0, 1.0), hidden=(128, 128), dropout=0.2)
    return trained(pg.flows.Dequantized(base, LEVELS), x, steps, seed, 1e-3)


def pixel_cnn(x, steps, seed):
    module = pg.autoregressive.pixel_cnn(SHAPE, symbols=LEVELS, width=32, depth=3, dropout=0.2)
    return trained(module, x, steps, seed, 2e-3)


def vae(x, steps, seed):
    return trained(pg.latent.categorical_vae(SHAPE, latent_shape=(8,), symbols=LEVELS, draws=100), x, steps, seed, 1e-3)


def unet(x, steps, seed):
    module = pg.diffusion.unet(SHAPE, symbols=LEVELS, channels=(16, 32), depth=1, dropout=0.1)
    trained(module, x, steps, seed, 3e-3, ema=0.99)
    module.draws = 8
    return module


def probability_flow(x, steps, seed):
    """Over real numbers: integers with uniform noise, standardized; the log-probability is up to a constant."""
    diffusion = pg.diffusion.mlp(SHAPE, width=128, dropout=0.1)
    trained(diffusion, real(x.repeat(4, 1, 1, 1)), 2 * steps, seed, 1e-3, ema=0.99)
    return pg.diffusion.ProbabilityFlow(diffusion.denoiser, trace=pg.numerics.trace.Hutchinson())


def rbm(x, steps, seed):
    module = pg.energy.rbm(SHAPE, symbols=LEVELS, units=14)
    shares = torch.nn.functional.one_hot(x.long(), LEVELS).float().mean(0).clamp(min=1e-4)
    with torch.no_grad():
        module.visible_bias.copy_(shares.log().flatten())
    return trained(module, x, steps, seed, 1e-2, ema=0.99)


MODELS = {
    "pixel_cnn": (pixel_cnn, "`autoregressive.pixel_cnn`"),
    "unet": (unet, "`diffusion.unet`, its bound"),
    "flow": (flow, "`flows.spline_coupling`, dequantized"),
    "rbm": (rbm, "`energy.rbm`"),
    "vae": (vae, "`latent.categorical_vae`, its bound"),
    "probability_flow": (probability_flow, "`diffusion.ProbabilityFlow` of a perceptron"),
    "classifier": (None, "a classifier of the ten digits"),
    "pytorch_ood": (None, "the same classifier"),
}


def trained(module, x, steps, seed, rate, **settings):
    schedule, optimizer = partial(CosineAnnealingLR, T_max=steps), partial(torch.optim.Adam, lr=rate)
    pg.fit(module, x, steps=steps, batch_size=64, schedule=schedule, optimizer=optimizer, seed=seed, **settings)
    return module


def real(x):
    """Integers as real numbers of about unit scale."""
    return ((x + torch.rand(x.shape)) / LEVELS - 0.3) / 0.36


def outliers(test):
    test, n = test[:200], 200
    grey = torch.randint(LEVELS, (n, 1, 1, 1)).expand(n, *SHAPE)
    smooth = interpolate(torch.rand(n, 1, 3, 3), size=(8, 8), mode="bilinear", align_corners=True)
    mixed = pg.data.shuffle_pixels(test, seed=0)
    noise = torch.randint(LEVELS, (n, *SHAPE))
    return dict(zip(KINDS, (grey, pg.data.quantize(smooth, LEVELS), pg.data.rotate(test), mixed, noise), strict=True))


def replaced(x):
    """Digits of which some pixels are replaced by any grey level."""
    return torch.where(torch.rand(x.shape) < REPLACED, torch.randint_like(x, LEVELS), x)


def measure(name, steps, seed):
    """The AUROC of each score for each kind of outlier, by one family."""
    pyro.set_rng_seed(seed)
    pixels, labels, _ = pg.data.digits()
    (train, named), (reference, _), (test, _) = pg.data.split(pixels, labels, sizes=(1077, 360, 360), seed=seed)
    kinds = {"reference": reference, "test": test, **outliers(test)}
    if name in ("classifier", "pytorch_ood"):
        classifier = evaluation.train_classifier(train.float(), named, steps=steps, seed=seed).eval()
        with torch.no_grad():
            scores = by_logits(classifier) if name == "classifier" else pytorch_ood(classifier, train.float(), named)
            found = {kind: scores(x.float()) for kind, x in kinds.items()}
    else:
        found = by_models(name, train, kinds, steps, seed)
    for score, of_test in found["test"].items():
        for kind in KINDS:
            area = evaluation.auroc(of_test, found[kind][score])
            line = {"model": name, "steps": steps, "seed": seed, "score": score, "kind": kind}
            yield line | {"auroc": area.value, "error": area.standard_error}


def by_logits(classifier):
    """From rows to the scores of a classifier's logits."""

    def scores(x):
        logits = classifier(x)
        return {"energy": -logits.logsumexp(-1), "largest": -logits.softmax(-1).amax(-1)}

    return scores


def pytorch_ood(classifier, train, labels):
    """From rows to the scores of pytorch-ood's detectors of a classifier's features."""
    import torchvision_anyway  # noqa: F401
    from pytorch_ood import detector

    weight, bias = classifier.head.weight, classifier.head.bias
    detectors = {
        "Mahalanobis": detector.Mahalanobis(None),
        "relative Mahalanobis": detector.RMD(None),
        "neighbours": detector.KNN(None),
        "ViM": detector.ViM(None, d=len(bias), w=weight, b=bias),
    }
    for one in detectors.values():
        one.fit_features(classifier.body(train), labels)

    def scores(x):
        features = classifier.body(x)
        return {name: one.predict_features(features) for name, one in detectors.items()}

    return scores


def by_models(name, train, kinds, steps, seed):
    """Scores by the name of the kind: of three models and one of the background."""
    make, _ = MODELS[name]
    models = [make(train, steps, seed + member) for member in range(MEMBERS)]
    background = make(replaced(train), steps, seed)
    events = {kind: real(x) if name == "probability_flow" else x for kind, x in kinds.items()}
    log_probs = {kind: torch.stack([score(m, x) for m in (*models, background)]) for kind, x in events.items()}
    usual = log_probs["reference"][0]
    found = {}
    for kind, values in log_probs.items():
        own, code = values[0], evaluation.code_length(kinds[kind], LEVELS)
        found[kind] = {
            "raw": -own,
            "ratio": evaluation.likelihood_ratio(own, values[-1]),
            "typicality": evaluation.typicality(own, usual),
            "code": evaluation.likelihood_ratio(own, -code),
            "waic": evaluation.waic(values[:-1]),
        }
    if name == "unet":
        terms = {kind: by_level(models[0], x) for kind, x in kinds.items()}
        for kind, values in terms.items():
            found[kind]["levels"] = evaluation.joint_typicality(values, terms["reference"])
    return found


def score(model, x):
    return evaluation.log_probs(model, x, batch_size=60)


@torch.no_grad()
def by_level(model, x, draws=32, bands=8):
    """The terms of the bound in bands of noise levels, ``(n, bands)``."""
    uniform = ((torch.arange(draws) + 0.5) / draws).unsqueeze(-1)
    parts = []
    for rows in x.float().split(60):
        noise = torch.randn(draws, *rows.shape)
        parts.append(model().bound(rows, uniform.expand(draws, len(rows)), noise).unflatten(0, (bands, -1)).mean(1).T)
    return torch.cat(parts)


def summary(lines):
    """A row for each model and score."""
    pairs = dict.fromkeys((line["model"], line["score"]) for line in lines)
    for name in MODELS:
        for model, score_ in (pair for pair in pairs if pair[0] == name):
            mine = {line["kind"]: line for line in lines if (line["model"], line["score"]) == (model, score_)}
            figures = [f"{mine[kind]['auroc']:.3f} ± {mine[kind]['error']:.3f}" for kind in KINDS]
            yield [MODELS[model][1], SCORES[score_], *figures]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--read", type=Path, help="tabulate this file of results, run nothing")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = known(options.read or options.output)
    done = {line["model"] for line in lines}
    for name in () if options.read else options.models:
        if name not in done:
            keep(measure(name, options.steps, options.seed), lines, options.output)
    table(["model", "score", *KINDS], list(summary(lines)), options.table, lines)


if __name__ == "__main__":
    main()
