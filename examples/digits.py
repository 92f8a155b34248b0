"""The main job: one generative model of handwritten digits, asked everything a distribution can answer.

A class-conditional spline flow is fitted to the 8x8 digits that scikit-learn ships. Then it scores, draws, classifies,
detects outliers, and restores a noisy half-hidden digit by Pyro's own NUTS.

    python examples/digits.py [--output output/demo] [--seed 0] [--steps 2000] [--device cpu]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from functools import partial
from math import log
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.reparam import TransformReparam
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg

SHAPE, CLASSES = (1, 8, 8), 10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=150)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    print("Data: 1,797 handwritten digits, 8x8 pixels, 17 grey levels")
    pixels, labels, levels = pg.data.digits()
    train, held_out, test = pg.data.split(
        pixels.to(options.device), labels.to(options.device), sizes=(1257, 180, 360), seed=options.seed
    )
    real = partial(pg.data.dequantize, levels=levels, seed=options.seed)  # integers to real numbers in (0, 1)
    x, y = real(test[0]), test[1]

    print("\n1. Fit p(image | class): a spline flow")
    flow = pg.flows.spline_coupling(SHAPE, classes=CLASSES, interval=(0.0, 1.0), hidden=(256, 256), dropout=0.3)
    flow.to(options.device)
    fit = pg.fit(
        pg.flows.Dequantized(flow, levels),
        train,
        steps=options.steps,
        schedule=partial(CosineAnnealingLR, T_max=options.steps),
        validation=held_out,
        patience=40,
        seed=options.seed,
    )
    print(
        f"   {len(fit.history.loss)} steps in {fit.history.seconds:.0f} s, best at step {fit.best_step} ({fit.reason})"
    )
    save(options, "training", pg.analysis.training_history(fit))

    print("\n2. Held-out log-likelihood, dequantized pixels in [0, 1]")
    density = {"flow, given the class": (flow, x, y), **baselines(real(train[0]), x)}
    for name, arguments in density.items():
        nats = pg.evaluation.log_likelihood(*arguments)
        bits = pg.evaluation.bits_per_dimension(*arguments, log_volume=-x[0].numel() * log(levels))
        print(f"   {name:<28}{nats}   {bits}")

    print("\n3. Samples of each class -> samples.png")
    classes = torch.arange(CLASSES, device=options.device)
    samples = flow(classes).sample((8,)).transpose(0, 1)  # (classes, 8, 1, 8, 8)
    data = torch.stack([x[y == label][:8] for label in classes])
    save(options, "samples", pg.analysis.image_grid(data, samples, rows=[str(label) for label in range(CLASSES)]))

    print("\n4. Classify by Bayes' rule, p(class | image)")
    right = pg.evaluation.bayes_classifier(flow, x, CLASSES).argmax(-1) == y
    print("   held-out", pg.evaluation.Estimate.of_mean(right.double(), unit="accuracy", density=None))

    print("\n5. Detect outliers by -log p(image) -> outliers.png")
    kinds = {
        "noise added (0.2)": pg.data.add_noise(x, 0.2, seed=options.seed),
        "3x3 square": pg.data.occlude(x, 3, seed=options.seed),
        "quarter turn": pg.data.rotate(x),
        "pixels shuffled": pg.data.shuffle_pixels(x, seed=options.seed),
        "uniform noise": torch.rand_like(x),
    }
    inliers, *outliers = (-marginal(flow, images) for images in (x, *kinds.values()))
    for name, scores in zip(kinds, outliers, strict=True):
        print(f"   {name:<28}{pg.evaluation.auroc(inliers, scores)}")
    figure = pg.analysis.outlier_scores(inliers, dict(zip(kinds, outliers, strict=True)), score="-log p (nats)")
    save(options, "outliers", figure)

    print("\n6. Restore a noisy, half-hidden digit: the flow as a prior, Pyro's NUTS -> posterior.png")
    restore(options, flow, truth=x[0], label=y[0])

    print("\n7. Save, load in a new process, compare")
    pg.save(flow, options.output / "flow.safetensors")
    torch.save((x, y), options.output / "test.pt")
    command = (
        "import sys, torch, pyrogen as pg; torch.set_num_threads(1); x, y = torch.load(sys.argv[2]); "
        "print(repr(pg.log_prob(pg.load(sys.argv[1], device=x.device), x, y).sum().item()))"
    )
    paths = [str(options.output / name) for name in ("flow.safetensors", "test.pt")]
    there = float(subprocess.run([sys.executable, "-c", command, *paths], check=True, capture_output=True).stdout)
    here = pg.log_prob(flow, x, y).sum().item()
    print(f"   sum of log p here {here!r}, there {there!r}: equal is {here == there}")


def baselines(train: torch.Tensor, x: torch.Tensor) -> dict:
    """What a flow has to beat: a Gaussian and a mixture of Gaussians, with full covariances, on the same data."""
    from sklearn.mixture import GaussianMixture

    flat, rows = train.flatten(1).cpu(), x.flatten(1).cpu()
    covariance = flat.T.cov() + 1e-3 * torch.eye(flat.shape[1])
    gaussian = dist.MultivariateNormal(flat.mean(0), covariance)
    fitted = GaussianMixture(CLASSES, reg_covar=1e-3, random_state=0).fit(flat.numpy())
    weights, means, covariances = (
        torch.from_numpy(part).float() for part in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.MultivariateNormal(means, covariances))
    return {"Gaussian": (gaussian, rows), "mixture of 10 Gaussians": (mixture, rows)}


def marginal(flow: pg.DistributionModule, x: torch.Tensor) -> torch.Tensor:
    """The log-density of images of unknown class, all classes equally likely."""
    classes = (torch.full_like(x[:, 0, 0, 0], label).long() for label in range(CLASSES))
    return torch.stack([pg.log_prob(flow, x, label) for label in classes]).logsumexp(0) - log(CLASSES)


def restore(options: argparse.Namespace, flow: pg.DistributionModule, truth: torch.Tensor, label: torch.Tensor) -> None:
    """The posterior of an image given its noisy upper half."""
    import arviz

    visible = torch.zeros(SHAPE, dtype=torch.bool, device=truth.device)
    visible[:, :4] = True

    @pyro.poutine.reparam(config={"image": TransformReparam()})  # NUTS moves in the flow's noise
    def noisy_half(y=None):
        image = pyro.sample("image", flow(label))
        pyro.sample("y", dist.Normal(image, 0.1).mask(visible).to_event(3), obs=y)

    observed = truth + 0.1 * torch.randn_like(truth)
    kernel = NUTS(noisy_half, max_tree_depth=5)
    chains = {"num_samples": options.draws, "warmup_steps": options.draws, "num_chains": 2, "mp_context": "fork"}
    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "num_chains=2 is more than available_cpu")  # then they take turns
        mcmc = MCMC(kernel, disable_progbar=True, **chains)
        mcmc.run(observed)
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
