"""Does TwistedSMC hold with a trained prior and many measurements? Digits of 8x8 pixels, 16 noisy numbers of each.

A perceptron's diffusion is fitted to 1,500 digits in (-1, 1); of held-out digits 16 pixels, or the means of 16 squares
of 2x2 pixels, are measured with noise 0.1. Printed are the log evidence in nats, by how much runs differ in it, the
effective sample sizes and surviving ancestors of the worst digit, and the share of pixels in their 90 % intervals.

    python benchmarks/inverse_digits.py --particles 250 500 1000 --prior digits.safetensors
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrogen as pg
from pyrogen import inverse

SHAPE, NOISE = (1, 8, 8), 0.1


def fitted(train: Tensor, steps: int, path: Path | None) -> pg.DistributionModule:
    """The prior, from the file if there is one."""
    if path is not None and path.exists():
        return pg.load(path)
    prior = pg.diffusion.mlp(SHAPE, width=256, depth=3, data_scale=0.7)
    pg.fit(prior, train, steps=steps, ema=0.999, seed=0)
    if path is not None:
        pg.save(prior, path)
    return prior


def operators() -> dict[str, inverse.Linear]:
    shown = torch.zeros(SHAPE, dtype=torch.bool)
    shown[:, ::2, ::2] = True
    return {"16 pixels": inverse.Mask(shown), "4x4 to 8x8": inverse.box_downsampling(SHAPE, 2)}


def check(
    name: str, operator: inverse.Linear, prior: pg.DistributionModule, truth: Tensor, smc: dict, runs: int
) -> None:
    """Several runs over all digits, in one line."""

    def model(y: Tensor) -> None:
        with pyro.plate("digits", len(y)):
            image = pyro.sample("image", prior())
            mean = operator(image)
            pyro.sample("y", dist.Normal(mean, NOISE).to_event(mean.dim() - 1), obs=y)

    pyro.set_rng_seed(0)
    y = operator(truth) + NOISE * torch.randn_like(operator(truth))
    found, start = [], time.process_time()
    for seed in range(runs):
        pyro.set_rng_seed(seed)
        found.append(inverse.TwistedSMC(model, site="image", **smc).run(y))
    seconds = (time.process_time() - start) / runs / len(truth)
    evidence = torch.stack([posterior.log_evidence for posterior in found])  # (runs, digits)
    spread = evidence.std(0)
    least, last, ancestors = (
        torch.stack([value(posterior.diagnostics()) for posterior in found])
        for value in (
            lambda d: d.effective_sample_size.amin(0),
            lambda d: d.effective_sample_size[-1],
            lambda d: d.ancestors.float(),
        )
    )
    collapsed = (torch.minimum(last, ancestors) < 20).sum()
    covered = [covers(posterior.get_samples()["image"], truth) for posterior in found]
    print(
        f"{name:<12} {smc['particles']:>5} particles   log evidence {evidence.mean():7.2f}   runs differ by "
        f"{spread.square().mean().sqrt():4.2f} (root mean square) {spread.max():4.2f} (worst)   least ESS "
        f"{least.median():4.0f} (median) {least.min():4.0f} (worst)   ancestors {ancestors.median():4.0f} "
        f"{ancestors.min():4.0f}   collapsed {collapsed} of {least.numel()}   "
        f"covered {sum(covered) / runs:.1%}   {seconds:5.2f} s",
        flush=True,
    )


def covers(draws: Tensor, truth: Tensor) -> float:
    low, high = torch.quantile(draws, torch.tensor([0.05, 0.95]), dim=0)
    return ((low <= truth) & (truth <= high)).float().mean().item()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--fit", type=int, default=3000, help="training steps of the prior")
    parser.add_argument("--prior", type=Path, help="where the prior is kept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pixels, _, symbols = pg.data.digits()
    images = 2 * pg.data.dequantize(pixels, symbols=symbols, seed=0) - 1
    prior = fitted(images[:1500], options.fit, options.prior)
    truth = images[1500 : 1500 + options.digits]
    for name, operator in operators().items():
        for particles in options.particles:
            smc = {"particles": particles, "steps": options.steps}
            check(name, operator, prior, truth, smc, options.runs)


if __name__ == "__main__":
    main()
