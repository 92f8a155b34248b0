"""The main example: one generative model of handwritten digits, and what can be done with a distribution of them.

A class-conditional spline flow is fitted to the 8x8 digits that scikit-learn ships. Then it scores, draws, classifies,
detects outliers, and restores a noisy half-hidden digit by Pyro's own NUTS.

    python examples/digits.py [--output output/demo] [--seed 0] [--steps 1200] [--device cpu]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from functools import partial
from math import log, prod
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS, reparam
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.evaluation import Estimate, class_marginal

SHAPE, CLASSES = (1, 8, 8), 10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    for name, default in {"seed": 0, "steps": 1200, "draws": 100}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    print("Data: 1,797 handwritten digits, 8x8 pixels, 17 grey levels")
    pixels, labels, symbols = pg.data.digits()
    pixels, labels = pixels.to(options.device), labels.to(options.device)
    train, held_out, test = pg.data.split(pixels, labels, sizes=(1257, 180, 360), seed=options.seed)
    real = partial(pg.data.dequantize, symbols=symbols, seed=options.seed)  # integers to real numbers in (0, 1)
    x, y = real(test[0]), test[1]

    print("\n1. Fit p(image | class): a spline flow")
    model, fit = fitted(train, held_out, symbols, options)
    flow = model.module
    seconds, steps = fit.history.seconds, len(fit.history.loss)
    print(f"   {seconds:.0f} s, best at step {fit.best_step} of {steps}, end by {fit.reason}")
    save(options, "training", pg.analysis.training_history(fit))

    print("\n2. Held-out log-likelihood of dequantized pixels in [0, 1], in nats per image")
    scores = {"flow, class known": pg.log_prob(flow, x, y), "flow, class unknown": class_marginal(flow, x, CLASSES)}
    vectors = [real(part[0]).flatten(1) for part in (train, held_out)]
    for name, components in {"Gaussian": [1], "mixture of Gaussians": [5, 10]}.items():
        scores[name] = pg.evaluation.gaussian_baseline(*vectors, components).log_prob(x.flatten(1).double())
    for name, log_probs in scores.items():
        print(f"   {name:<28}{Estimate.of_mean(log_probs)}   {bits(log_probs, symbols)}")

    print("\n3. Samples of each class -> samples.png")
    samples = flow(torch.arange(CLASSES, device=options.device)).sample((8,)).transpose(0, 1)  # (classes, 8, 1, 8, 8)
    data = torch.stack([x[y == label][:8] for label in range(CLASSES)])
    save(options, "samples", pg.analysis.image_grid(data, samples, rows=[str(label) for label in range(CLASSES)]))

    print("\n4. Classify by Bayes' rule, p(class | image)")
    right = pg.evaluation.bayes_classifier(flow, x, CLASSES).argmax(-1) == y
    print("   held-out", Estimate.of_mean(right.double(), unit="accuracy", density=None))

    print("\n5. Detect outliers by -log p(image) -> outliers.png")
    kinds = {
        "noise added (0.05)": pg.data.add_noise(x, 0.05, seed=options.seed),
        "2x2 square": pg.data.occlude(x, 2, seed=options.seed),
        "quarter turn": pg.data.rotate(x),
        "pixels shuffled": pg.data.shuffle_pixels(x, seed=options.seed),
        "uniform noise": torch.rand_like(x),
    }
    inliers = -class_marginal(flow, x, CLASSES)
    outliers = {name: -class_marginal(flow, images, CLASSES) for name, images in kinds.items()}
    for name, found in outliers.items():
        print(f"   {name:<28}{pg.evaluation.auroc(inliers, found)}")
    save(options, "outliers", pg.analysis.outlier_scores(inliers, outliers, score="-log p (nats)"))

    page = options.output / "report.html"
    report = pg.analysis.report(model, train, held_out=test, history=fit, path=page, seed=options.seed)
    print(f"   all checks of the model of integer pixels on one page -> report.html: {report.verdict.text}")

    flow, x, y = flow.cpu(), x.cpu(), y.cpu()  # chains in forked processes cannot share a GPU
    print("\n6. Restore a noisy, half-hidden digit: the flow as a prior, Pyro's NUTS -> posterior.png")
    restore(options, flow, truth=x[0], label=y[0])

    print("\n7. Save, load in a new process, compare")
    pg.save(flow, options.output / "flow.safetensors")
    torch.save((x, y), options.output / "test.pt")
    script = "import torch, pyrogen as pg; torch.set_num_threads(1); "
    script += "print(repr(pg.log_prob(pg.load('flow.safetensors'), *torch.load('test.pt')).sum().item()))"
    there = float(subprocess.check_output([sys.executable, "-c", script], cwd=options.output))
    here = pg.log_prob(flow, x, y).sum().item()
    print(f"   sum of log p here {here!r}, there {there!r}: equal is {here == there}")


def fitted(train, held_out, symbols: int, options: argparse.Namespace) -> tuple[pg.flows.Dequantized, pg.Fit]:
    """A flow of dequantized pixels, stopped early."""
    flow = pg.flows.spline_coupling(SHAPE, classes=CLASSES, interval=(0.0, 1.0), hidden=(256, 256), dropout=0.3)
    model = pg.flows.Dequantized(flow.to(options.device), symbols)
    settings = {"steps": options.steps, "schedule": partial(CosineAnnealingLR, T_max=options.steps)}
    return model, pg.fit(model, train, validation=held_out, patience=40, seed=options.seed, **settings)


def bits(log_probs: torch.Tensor, symbols: int) -> Estimate:
    """Bits per dimension of integers, of which dequantized pixels give a bound."""
    nats = log(symbols) - log_probs / prod(SHAPE)
    return Estimate.of_mean(nats / log(2), unit="bits per dimension", density="lower bound")


def restore(options: argparse.Namespace, flow: pg.DistributionModule, truth: torch.Tensor, label: torch.Tensor) -> None:
    """The posterior of an image given its noisy upper half."""
    visible = (torch.arange(8) < 4).reshape(8, 1).expand(SHAPE)

    @pyro.poutine.reparam(config={"image": reparam.TransformReparam()})  # NUTS moves in the flow's noise
    def noisy_half(y=None):
        image = pyro.sample("image", flow(label))
        pyro.sample("y", dist.Normal(image, 0.1).mask(visible).to_event(3), obs=y)

    observed = truth + 0.1 * torch.randn_like(truth)
    kernel = NUTS(noisy_half, max_tree_depth=5)
    with pyro.validation_enabled(False), warnings.catch_warnings(action="ignore"):  # of few processors, of a new arviz
        mcmc = MCMC(kernel, options.draws, options.draws, num_chains=2, mp_context="fork", disable_progbar=True)
        mcmc.run(observed)
        import arviz
    posterior = pg.analysis.to_arviz(mcmc, observed)
    summary = arviz.summary(posterior, var_names=["image"], kind="all")
    print(summary.iloc[[20, 28, 36, 44, 52, 60]].to_string())
    draws = torch.as_tensor(posterior.posterior["image"].values).flatten(0, 1)
    error, spread = (draws.mean(0) - truth.cpu()).square().mean().sqrt(), draws.std(0).square().mean().sqrt()
    print(f"   all 64 pixels: R-hat at most {summary['r_hat'].max():.3f}, ESS at least {summary['ess_bulk'].min():.0f}")
    print(f"   root-mean-square error of the mean {error:.3f}, posterior standard deviation {spread:.3f}")
    seen = torch.where(visible, observed, torch.nan)
    save(options, "posterior", pg.analysis.posterior_images(truth[0], seen[0], draws[:, 0], limits=(0, 1)))


def save(options: argparse.Namespace, name: str, figure) -> None:
    figure.savefig(options.output / f"{name}.png", dpi=150, bbox_inches="tight")


if __name__ == "__main__":
    main()
