"""A measured tilt series of an electron microscope: views that were left out, predicted.

77 views of a needle of several materials, two degrees apart from -76 to 76: ``HAADF_Aligned.hspy`` in the wheel of
``etspy`` (NIST). No tilt comes near the plane of the specimen, so a wedge of 28 degrees is missing. Slices across the
axis, of 24 detectors each, are reconstructed from three views of four, with 24x24 pixels.

The prior is a disc as wide as the shadow, with a smooth Gaussian field in it; the variance of the noise grows with the
brightness that the disc would have. Noise, errors of each view's gain, the field's size and length, and the place of
the axis are those of the largest evidence of the views that are shown. All is Gaussian, so predictions are exact, and
``TemperedSMC`` stands beside them on one slice.

Printed are, for the views left out, the error (root mean square, of the brightest ray) of predictions and of straight
lines between neighbouring views, the share of rays in 90 % intervals, and what the p-values of whole views are like,
each that of a chi squared of 24 numbers, which are uniform if the model is right.

    python benchmarks/tilt_series.py HAADF_Aligned.hspy --slices 100 130 160 190
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from results_file import table
from torch import Tensor

import pyrogen as pg
from pyrogen.evaluation import TestResult
from pyrogen.inverse import TemperedSMC

SIDE, BIN, WIDE = 24, 5, 6  # detectors; pixels of the camera for each; its columns for a slice
DEGREES = torch.arange(-76.0, 77.0, 2.0)
ANGLES = torch.deg2rad(DEGREES).double()
LEFT_OUT = torch.arange(len(DEGREES)) % 4 == 2
DARK = 0.003  # what is added to the brightness of which noise is a share
AXES = (-0.5, 0.0, 0.5)  # in detectors from the middle
START = {"noise": 0.02, "gain": 0.02, "size": 0.3, "length": 2.0}


def series(path: Path, column: int) -> Tensor:
    """The views of a slice, ``(77, 24)``, of which the brightest ray is one."""
    import h5py

    with h5py.File(path) as file:
        views = torch.from_numpy(file["Experiments/__unnamed__/data"][..., column : column + WIDE]).double().mean(-1)
    first = (views.shape[1] - SIDE * BIN) // 2
    binned = views[:, first : first + SIDE * BIN].unflatten(-1, (SIDE, BIN)).mean(-1)
    return binned / binned.max()


class Slice(NamedTuple):
    """A Gaussian slice and its views.

    Attributes:
        mean: Of the pixels, ``(D,)``.
        root: Of their covariance.
        rows: What a view measures of them, ``(77, 24, D)``.
        noise: The covariance of each view's errors, ``(77, 24, 24)``.
    """

    mean: Tensor
    root: Tensor
    rows: Tensor
    noise: Tensor

    def whitened(self, y: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is measured of the field, in units of the errors, and their determinants."""
        root = torch.linalg.cholesky(self.noise[shown])
        rows = torch.linalg.solve_triangular(root, self.rows[shown] @ self.root, upper=False)
        missed = torch.linalg.solve_triangular(root, (y - self.rows @ self.mean)[shown].unsqueeze(-1), upper=False)
        return rows.flatten(0, 1), missed.flatten(), root.diagonal(dim1=-2, dim2=-1).log().sum()

    def log_evidence(self, y: Tensor, shown: Tensor) -> Tensor:
        rows, missed, log_det = self.whitened(y, shown)
        inner = torch.linalg.cholesky(torch.eye(rows.shape[1]).double() + rows.T @ rows)
        fitted = torch.linalg.solve_triangular(inner, (rows.T @ missed).unsqueeze(-1), upper=False)
        squares = missed.square().sum() - fitted.square().sum()
        log_det = log_det + inner.diagonal().log().sum()
        return -0.5 * squares - log_det - 0.5 * len(missed) * math.log(2 * math.pi)

    def predicted(self, y: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Means ``(n, 24)`` and covariances of the other views, with their errors."""
        rows, missed, _ = self.whitened(y, shown)
        inner = torch.linalg.cholesky(torch.eye(rows.shape[1]).double() + rows.T @ rows)
        field = torch.cholesky_solve((rows.T @ missed).unsqueeze(-1), inner).squeeze(-1)
        others = self.rows[~shown] @ self.root
        spread = torch.linalg.solve_triangular(inner, others.mT, upper=False)
        mean = self.rows[~shown] @ self.mean + others @ field
        return mean, spread.mT @ spread + self.noise[~shown]


def rays(axis: float) -> Tensor:
    """What all views measure of a slice, ``(77, 24, D)``, about an axis beside the middle."""
    radon = pg.operators.Radon((1, SIDE, SIDE), ANGLES, detectors=SIDE, offset=axis)
    return radon(torch.eye(SIDE**2).double().reshape(-1, 1, SIDE, SIDE)).flatten(1).T.unflatten(0, (-1, SIDE))


def model_of(y: Tensor, rows: Tensor, noise: Tensor, gain: Tensor, size: Tensor, length: Tensor) -> Slice:
    """The Gaussian slice whose shadow is as wide as that of the views; sizes in units of the disc's height."""
    profile = y.mean(0)
    radius = 0.5 * (profile > 0.5 * profile.max()).sum()
    place = torch.cartesian_prod(*2 * [torch.arange(SIDE).double() - (SIDE - 1) / 2])
    disc = torch.sigmoid((radius + 1 - place.norm(dim=-1)) / 0.5)
    height = y.sum(-1).mean() / disc.sum()
    field = 0.09 + size**2 * torch.exp(-0.5 * torch.cdist(place, place).square() / length**2)
    covariance = height**2 * (disc.outer(disc) * field + 1e-4 * torch.eye(len(disc)).double())
    expected = rows @ (height * disc)
    errors = noise**2 * (expected + DARK).diag_embed() + gain**2 * expected.unsqueeze(-1) * expected.unsqueeze(-2)
    return Slice(height * disc, torch.linalg.cholesky(covariance), rows, errors)


def learned(y: Tensor, views: dict[float, Tensor], steps: int) -> Slice:
    """The slice with what makes the views that are shown most probable, by gradients, and the best of some axes."""
    logs = {name: torch.tensor(value).double().log().requires_grad_() for name, value in START.items()}
    optimizer = torch.optim.Adam(logs.values(), lr=0.3)
    for _ in range(steps):
        optimizer.zero_grad()
        settings = {name: value.exp() for name, value in logs.items()}
        (-model_of(y, views[0.0], **settings).log_evidence(y, ~LEFT_OUT)).backward()
        optimizer.step()
    settings = {name: value.detach().exp() for name, value in logs.items()}
    found = {axis: model_of(y, rows, **settings) for axis, rows in views.items()}
    evidence = {axis: one.log_evidence(y, ~LEFT_OUT).item() for axis, one in found.items()}
    print({name: round(value.item(), 4) for name, value in settings.items()}, evidence, flush=True)
    return found[max(evidence, key=evidence.get)]


def judged(y: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float, Tensor]:
    """Error, share of rays in their intervals, and p-values of the views left out."""
    missed = y[LEFT_OUT] - mean
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    inside = (missed.abs() < 1.645 * scale).double().mean().item()
    root = torch.linalg.cholesky(covariance)
    squares = torch.linalg.solve_triangular(root, missed.unsqueeze(-1), upper=False).square().sum((-2, -1))
    p_values = torch.special.gammaincc(torch.tensor(SIDE / 2).double(), squares / 2)
    return missed.square().mean().sqrt().item(), inside, p_values


def sampled(y: Tensor, found: Slice, particles: int) -> tuple[Tensor, Tensor, float]:
    """Predictions by tempered SMC, and its error of the log evidence."""
    law = dist.MultivariateNormal(found.mean.float(), scale_tril=found.root.float())
    prior = pg.diffusion.Diffusion(
        pg.diffusion.GaussianMixtureDenoiser(law, pg.diffusion.VE(sigma_min=1e-4, sigma_max=10.0))
    )
    rows, noise = found.rows[~LEFT_OUT].float(), torch.linalg.cholesky(found.noise[~LEFT_OUT]).float()

    def views(y: Tensor) -> None:
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.MultivariateNormal(rows @ x, scale_tril=noise).to_event(1), obs=y)

    answer = TemperedSMC(views, site="x", particles=particles, moves=4, steps=5).run(y[~LEFT_OUT].float())
    print(answer.diagnostics(), flush=True)
    expected = answer.get_samples()["x"].double() @ found.rows[LEFT_OUT].mT  # (views, particles, 24)
    centred = expected - expected.mean(1, keepdim=True)
    covariance = centred.mT @ centred / (particles - 1) + found.noise[LEFT_OUT]
    exact = found.log_evidence(y, ~LEFT_OUT)
    return expected.mean(1), covariance, (answer.log_evidence - exact).item()


def row(name: str, error: float, straight: float, inside: float, p_values: Tensor) -> list[str]:
    test = uniform(p_values)
    return [
        name,
        f"{100 * error:.2f} %",
        f"{100 * straight:.2f} %",
        f"{100 * inside:.0f} %",
        f"{p_values.median():.2g}",
        f"{test.p_value:.2g}",
    ]


def uniform(p_values: Tensor) -> TestResult:
    """Kolmogorov's test of uniform p-values."""
    from scipy.stats import kstest

    found = kstest(p_values.numpy(), "uniform")
    return TestResult(float(found.statistic), float(found.pvalue), "Kolmogorov-Smirnov")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", type=Path, help="HAADF_Aligned.hspy")
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 130, 160, 190], help="columns of the camera")
    parser.add_argument("--steps", type=int, default=15, help="of Adam")
    parser.add_argument("--particles", type=int, default=128)
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    views, rows = {axis: rays(axis) for axis in AXES}, []
    for column in options.slices:
        y = series(options.series, column)
        found = learned(y, views, options.steps)
        between = 0.5 * (y[:-2] + y[2:])[LEFT_OUT[1:-1]]
        straight = (y[LEFT_OUT] - between).square().mean().sqrt().item()
        error, inside, values = judged(y, *found.predicted(y, ~LEFT_OUT))
        rows.append(row(f"slice at {column}, exact", error, straight, inside, values))
        print(rows[-1], flush=True)
    began = time.process_time()
    *prediction, missed = sampled(y, found, options.particles)
    error, inside, values = judged(y, *prediction)
    name = f"slice at {column}, `TemperedSMC`"
    rows.append(row(name, error, straight, inside, values))
    print(f"log evidence off by {missed:.2f} nat; {time.process_time() - began:.0f} s")
    columns = ["", "error of predictions", "of lines between neighbours", "rays in 90 % intervals"]
    table([*columns, "median p-value of views", "p-value of their uniformity"], rows, options.table)


if __name__ == "__main__":
    main()
