"""Computed tomography of a real head from 20 views: ridge, total variation, guidance, split Gibbs.

A small U-Net's diffusion is fitted to mirrored, turned, scaled and shifted copies of 64 slices of 64x64 pixels of one
head (``ct_head.py`` states where it is). Of two slabs that it has not seen, 7.5 to 12 mm from those that it has, five
slices are measured by 20 views of 64 detectors, 1,280 numbers: line integrals of the attenuation of X-rays of 60 keV
with Gaussian noise of 0.1, or with ``--counts`` 10,000 photons a ray, counted. Settings were chosen on two slices of
other slabs (``--slices 24 60``).

Printed are PSNR (decibels) and SSIM of the mean of the draws, the share of pixels in their 90 % intervals, the error of
the mean over the standard deviation of the draws (root mean squares), passes through the network, forwards and
backwards, for each draw, and processor seconds an image, all averages over slices.

    python benchmarks/ct.py matrix.dat --prior head.safetensors
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from ct_head import SLOPE, TEST, UNSEEN, Scan, scan, volume
from results_file import keep, known, table
from slice_prior import SHAPE, SIZE, Passes, copies, fitted, small
from torch import Tensor
from torch.nn import functional

import pyrogen as pg
from pyrogen import inverse
from pyrogen.numerics.grids import default_grid

POINTS, NUMBERS = ("ridge", "total variation"), ("psnr", "ssim", "coverage", "excess", "passes", "seconds")


def differences(x: Tensor) -> Tensor:
    """Of each pixel to the next on its right and below, 0 at the edges: ``(2, 64, 64)``."""
    return torch.cat([functional.pad(x.diff(dim=-1), (0, 1)), functional.pad(x.diff(dim=-2), (0, 0, 0, 1))], -3)


DIFFERENCES = pg.operators.LinearMap(differences, SHAPE)


class Linearized:
    """A measurement in units of its noise, linear in slices: what classical reconstructions take.

    Args:
        measurement: How it was measured.
        y: What was measured.
    """

    def __init__(self, measurement: Scan, y: Tensor) -> None:
        value, variance = (part.double() for part in measurement.linear(y))
        zero, scale = measurement.integrals(torch.zeros(SHAPE).double()), variance.sqrt()
        self.operator = pg.operators.LinearMap(lambda x: SLOPE * measurement.radon(x) / scale.to(x), SHAPE)
        self.spectrum, self.value = self.operator.spectrum(), (value - zero) / scale

    def ridge(self, variance: float, mean: float = -0.7) -> Tensor:
        """The posterior mean of a prior of independent pixels."""
        missed = self.value - self.operator(torch.full(SHAPE, mean).double())
        return mean + variance * self.operator.adjoint(self.spectrum.solve(missed, 1.0, variance))

    def total_variation(self, weight: float, steps: int = 300, size: float = 0.02) -> Tensor:
        """The best fit with the total variation of the image as a penalty, nowhere below -1.

        References:
            Chambolle and Pock 2011, "A first-order primal-dual algorithm for convex problems with applications to
            imaging", https://doi.org/10.1007/s10851-010-0251-1
        """
        x = ahead = self.ridge(0.1)
        along, low = torch.zeros_like(differences(x)), torch.zeros_like(x)  # multipliers: of differences, of x >= -1
        slope = size * self.operator.adjoint(self.value)
        for _ in range(steps):
            along = along + differences(ahead) / (9 * size)
            along = along / along.norm(dim=0, keepdim=True).div(weight).clamp_min(1)
            low = (low + (ahead + 1) / (9 * size)).clamp_max(0)
            target = x - size * (DIFFERENCES.adjoint(along) + low) + slope
            before, x = x, self.spectrum.solve_signal(target, 1.0, size)
            ahead = 2 * x - before
        return x


def methods(
    measurement: Scan,
    y: Tensor,
    prior: pg.diffusion.Diffusion,
    settings: argparse.Namespace,
) -> dict[str, Callable[[], Tensor]]:
    """By name, a function that gives draws ``(draws, *shape)``.

    Those that need Gaussian noise take the logarithms of counts, with variances by the delta method.
    """
    integrals, variance = measurement.linear(y)

    def model(y: Tensor) -> None:
        image = pyro.sample("image", prior())
        pyro.sample("y", dist.Normal(measurement.integrals(image), variance.sqrt()).to_event(3), obs=y)

    def run(method: type[inverse.Answer], **settings: object) -> Tensor:
        answer = method(model, site="image", **settings).run(integrals)
        print(answer.diagnostics(), flush=True)
        return answer.get_samples()["image"]

    scale = prior.denoiser.data_scale
    grid = default_grid(prior.denoiser.schedule, 20, norm=scale * SIZE)
    guided = {"guidance": inverse.PiGDM(scale**2), "draws": 16, "grid": grid}
    gibbs = {"chains": 8, "draws": 4, "warmup": 20, "grid": grid, "coupling": settings.coupling}
    tempered = {"particles": 24, "moves": 2, "ess": 0.5, "grid": grid}
    return {
        "ridge": lambda: Linearized(measurement, y).ridge(settings.ridge).expand(2, *SHAPE),
        "total variation": lambda: Linearized(measurement, y).total_variation(settings.variation).expand(2, *SHAPE),
        "PiGDM": lambda: run(inverse.GuidedSampling, **guided),
        "SplitGibbs": lambda: run(inverse.SplitGibbs, **gibbs),
        "TemperedSMC": lambda: run(inverse.TemperedSMC, **tempered),
    }


def scored(name: str, run: Callable[[], Tensor], truth: Tensor, passes: Passes) -> dict[str, float | str]:
    """Runs a method and compares its draws with the truth."""
    seen, began = passes.images, time.process_time()
    draws = run().float()
    seconds = time.process_time() - began
    found = pg.evaluation.restoration_report(draws, truth, span=2.0)
    line = {"method": name, "psnr": found.psnr, "ssim": found.ssim, "seconds": seconds}
    if name in POINTS:
        return line
    excess = (found.mean - truth).square().mean().sqrt() / found.deviation.square().mean().sqrt()
    return line | {
        "coverage": found.coverage,
        "excess": excess.item(),
        "passes": (passes.images - seen) / len(draws),
        "draws": len(draws),
    }


def rows(lines: list[dict]) -> Iterator[list[str]]:
    """Of the table, averages over slices."""
    for name in dict.fromkeys(line["method"] for line in lines):
        of = [line for line in lines if line["method"] == name]
        mean = {key: sum(line[key] for line in of) / len(of) for key in of[0] if key in NUMBERS}
        error = torch.tensor([line["psnr"] for line in of]).std().item() / len(of) ** 0.5 if len(of) > 1 else math.nan
        row = [f"`{name}`" if name[0].isupper() else name, f"{mean['psnr']:.1f} ± {error:.1f}", f"{mean['ssim']:.3f}"]
        if name in POINTS:
            yield [*row, "", "", "", f"{mean['seconds']:.0f}"]
            continue
        passes = f"{mean['passes']:.0f}" if mean["passes"] else ""
        yield [
            *row,
            f"{mean['coverage']:.0%}".replace("%", " %"),
            f"{mean['excess']:.2f}",
            passes,
            f"{mean['seconds']:.0f}",
        ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path, help="matrix.dat")
    parser.add_argument("--prior", type=Path, help="where the prior is kept")
    parser.add_argument("--fit", type=int, default=2500, help="training steps of the prior")
    parser.add_argument("--counts", action="store_true", help="counts of photons are measured")
    parser.add_argument("--slices", type=int, nargs="+", default=TEST)
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--ridge", type=float, default=0.1, help="the variance of pixels")
    parser.add_argument("--variation", type=float, default=2.0, help="the weight of total variation")
    parser.add_argument("--coupling", type=float, default=0.15)
    parser.add_argument("--output", type=Path, help="where results of single slices are kept, one a line")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    whole = volume(options.volume)
    seen = whole[[place for place in range(len(whole)) if place not in UNSEEN]]
    prior = fitted(lambda: copies(seen, 40), options.fit, options.prior).requires_grad_(False).eval()
    passes, slices, measurement = Passes(prior.denoiser.network), small(whole), scan(options.counts)
    lines = known(options.output)

    def found(place: int) -> Iterator[dict]:
        pyro.set_rng_seed(place)
        y = measurement.law(slices[place]).sample()
        for name, run in methods(measurement, y, prior, options).items():
            if not options.methods or name in options.methods:
                yield {"slice": place, "counts": options.counts} | scored(name, run, slices[place], passes)

    for place in options.slices:
        keep(found(place), lines, options.output)
    columns = [
        "method",
        "PSNR, dB",
        "SSIM",
        "in their 90 % intervals",
        "error over stated error",
        "passes a draw",
        "seconds",
    ]
    table(columns, list(rows([line for line in lines if line["counts"] == options.counts])), options.table, lines)


if __name__ == "__main__":
    main()
