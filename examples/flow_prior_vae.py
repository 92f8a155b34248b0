"""A variational autoencoder whose prior is a flow, trained twice: by Pyro's SVI and by `pg.fit`, to the same bound.

Binarized 8x8 digits. A VAE is three distributions of any family; here a spline flow, a Bernoulli decoder and a normal
encoder. It is an ordinary Pyro model/guide pair, so Pyro's own loop trains it too.

    python examples/flow_prior_vae.py [--output output/demo] [--seed 0] [--steps 1000]
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

import pyrogen as pg

PIXELS, LATENTS, BATCH, DRAWS = (1, 8, 8), 10, 128, 500


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # small matrices: more threads only wait for each other
    pyro.set_rng_seed(options.seed)

    pixels, labels, symbols = pg.data.digits()
    x = (pixels > symbols // 2).float()
    (train, _), (test, _) = pg.data.split(x, labels, sizes=(1437, 360), seed=options.seed)
    draws = min(DRAWS, 50 * options.steps)

    print("1. The same weights, trained by Pyro's SVI and by fit; held-out nats per image")
    first = pg.latent.binary_vae(
        PIXELS, latent_shape=(LATENTS,), prior=pg.flows.spline_coupling((LATENTS,), layers=4, hidden=(64, 64))
    )
    models = {"Pyro's SVI": (first, by_svi), "fit": (deepcopy(first), by_fit)}
    bounds = {}
    for name, (vae, trained_by) in models.items():
        seconds = trained_by(vae, train, options)
        bounds[name] = bound(vae, test, draws)
        elbo = pg.evaluation.importance_weighted_log_likelihood(vae.model, vae.guide, test, draws=1)
        weighted = pg.evaluation.Estimate.of_mean(bounds[name], density="lower bound")
        print(f"   {name:<12} ELBO {elbo}, {draws} draws {weighted}, {1000 * seconds / options.steps:.1f} ms a step")
    difference = pg.evaluation.Estimate.of_mean(bounds["fit"] - bounds["Pyro's SVI"], density="estimate")
    print(f"   fit minus SVI, paired over images: {difference}")

    print("\n2. A normal prior in the flow's place")
    plain = pg.latent.binary_vae(PIXELS, latent_shape=(LATENTS,))
    by_fit(plain, train, options)
    gain = pg.evaluation.Estimate.of_mean(bounds["fit"] - bound(plain, test, draws), density="estimate")
    print(f"   the flow prior gains {gain}")

    print("\n3. What the latents do -> latents.png, paths.png, prior_samples.png")
    vae = models["fit"][0]
    print(f"   {pg.evaluation.collapse_report(vae.model, vae.guide, test)}")
    with torch.no_grad():
        z = vae.posterior_at(test).mean
        samples = vae.likelihood_at(vae.prior_at().sample((8, 8))).mean
    ends = z[: 2 * 4].unflatten(0, (2, 4))
    figures = {
        "latents": pg.analysis.latent_traversals(vae.likelihood_at, z[0]),
        "paths": pg.analysis.latent_paths(vae.likelihood_at, *ends),
        "prior_samples": pg.analysis.image_grid(test[:64].unflatten(0, (8, 8)), samples),
    }
    for name, figure in figures.items():
        figure.savefig(options.output / f"{name}.png", dpi=150, bbox_inches="tight")


def by_svi(vae: pg.DistributionModule, x: torch.Tensor, options: argparse.Namespace) -> float:
    """Pyro's own loop: its optimizer, its loss. Gives the seconds it took."""
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    start, step = time.perf_counter(), 0
    while step < options.steps:
        for rows in torch.randperm(len(x)).split(BATCH)[: options.steps - step]:
            svi.step(x[rows])
            step += 1
    return time.perf_counter() - start


def by_fit(vae: pg.DistributionModule, x: torch.Tensor, options: argparse.Namespace) -> float:
    """The same objective by `fit`. Gives the seconds it took."""
    return pg.fit(vae, x, steps=options.steps, batch_size=BATCH, seed=options.seed).history.seconds


def bound(vae: pg.DistributionModule, x: torch.Tensor, draws: int) -> torch.Tensor:
    """The importance-weighted bound of each image, in nats."""
    return pg.evaluation.importance_weighted_log_probs(vae.model, vae.guide, x, draws=draws)


if __name__ == "__main__":
    main()
