"""Tempered SMC where tens to hundreds of numbers are measured and the answer is known.

``mixture``: 25 Gaussians of unit variance in ``--size`` dimensions. A random matrix measures half as many numbers with
noise 0.1; with ``--differences`` all differences of neighbours are measured, which do not tell the modes apart. ``ct``:
12 views of 32 detectors of an image of 32x32 under a Gaussian prior, fitted to the slices of a head if ``--slices``
names their array (``matrix.dat`` in the tar file ``Cranium.inv3`` of Debian's invesalius-examples), else smooth.

Columns are the log evidence, the error of the mean in posterior standard deviations, the ratio of standard deviations,
coverage of 90 % intervals, the sliced Wasserstein-1 distance to exact draws (100 random directions) and that of as many
other exact draws, and the total variation of the weights of modes. Several runs share the raw results of ``--output``
and so a table.

    python benchmarks/inverse_image_size.py ct --particles 256 --moves 4 --slices matrix.dat --output FILE
    python benchmarks/inverse_image_size.py mixture --size 80 --particles 500 --output FILE --table TABLE
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from inverse import distance
from results_file import keep, known, table
from torch import Tensor
from torch.nn import functional

from pyrogen.diffusion import VE, Diffusion, GaussianMixtureDenoiser
from pyrogen.inverse import TemperedSMC
from pyrogen.operators import Radon


class Known(NamedTuple):
    """A linear measurement of a mixture of Gaussians that share a covariance, and the truth behind it."""

    weights: Tensor
    means: Tensor
    covariance: Tensor
    operator: Tensor
    noise: float
    truth: Tensor
    y: Tensor

    def model(self, y: Tensor) -> None:
        """The problem as a Pyro model."""
        components = dist.MultivariateNormal(self.means.float(), self.covariance.float())
        mixture = dist.MixtureSameFamily(dist.Categorical(self.weights.float()), components)
        denoiser = GaussianMixtureDenoiser(mixture, VE(sigma_min=1e-4, sigma_max=1e3))
        x = pyro.sample("x", Diffusion(denoiser)())
        pyro.sample("y", dist.Normal(self.operator.float() @ x, self.noise).to_event(1), obs=y)

    def posterior(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log evidence, weights and means of the modes, and their covariance."""
        marginal = self.operator @ self.covariance @ self.operator.T + self.noise**2 * torch.eye(len(self.y)).double()
        gain = torch.linalg.solve(marginal, self.operator @ self.covariance).T
        missed = self.y - self.means @ self.operator.T
        log_joint = dist.MultivariateNormal(0 * self.y, marginal).log_prob(missed) + self.weights.log()
        covariance = self.covariance - gain @ self.operator @ self.covariance
        return log_joint.logsumexp(0), log_joint.softmax(0), self.means + missed @ gain.T, covariance


def mixture(size: int, differences: bool, seed: int) -> Known:
    random = torch.Generator().manual_seed(seed)
    centres = [(8.0 * i, 8.0 * j) for i in range(-2, 3) for j in range(-2, 3)]
    means = torch.tensor([list(centre) * (size // 2) for centre in centres]).double()
    weights = torch.rand(25, generator=random).double()
    operator = torch.randn(size // 2, size, generator=random).double() / size**0.5
    if differences:
        operator = torch.eye(size).double()[2:] - torch.eye(size).double()[:-2]
    weights = weights / weights.sum()
    return measured(weights, means, torch.eye(size).double(), operator, 0.1, random)


def ct(slices: Path | None, noise: float, seed: int) -> Known:
    mean, covariance = fitted(slices) if slices else smooth()
    views = Radon((1, 32, 32), torch.arange(12) * math.pi / 12, detectors=32)
    operator = views(torch.eye(1024).reshape(-1, 1, 32, 32)).flatten(1).T.double() / 32  # means over a ray of 32 pixels
    random = torch.Generator().manual_seed(seed)
    return measured(torch.ones(1).double(), mean.unsqueeze(0), covariance, operator, noise, random)


def measured(
    weights: Tensor, means: Tensor, covariance: Tensor, operator: Tensor, noise: float, random: object
) -> Known:
    mean = means[torch.multinomial(weights, 1, generator=random)[0]]
    truth = mean + torch.linalg.cholesky(covariance) @ torch.randn(len(mean), generator=random).double()
    y = operator @ truth + noise * torch.randn(len(operator), generator=random).double()
    return Known(weights, means, covariance, operator, noise, truth, y)


def fitted(path: Path) -> tuple[Tensor, Tensor]:
    """A Gaussian fitted to 108 slices of a head, in units of 2,000 Hounsfield units."""
    slices = torch.from_numpy(np.fromfile(path, np.int16).reshape(108, 1, 256, 256).clip(-1000, 1000) / 2000 + 0.5)
    rows = functional.avg_pool2d(slices, 8).flatten(1)
    centred = rows - rows.mean(0)
    return rows.mean(0), centred.T @ centred / len(rows) + 1e-4 * torch.eye(1024).double()


def smooth() -> tuple[Tensor, Tensor]:
    """Images whose pixels vary together over three pixels, with a standard deviation of 0.1."""
    place = torch.cartesian_prod(torch.arange(32.0), torch.arange(32.0)).double()
    covariance = 0.01 * torch.exp(-0.5 * torch.cdist(place, place).square() / 9) + 1e-4 * torch.eye(1024).double()
    return torch.zeros(1024).double(), covariance


def exact_draws(weights: Tensor, means: Tensor, covariance: Tensor, count: int) -> Tensor:
    """Draws of the posterior."""
    root = torch.linalg.cholesky(covariance + 1e-12 * torch.eye(len(covariance)).double())
    modes = torch.multinomial(weights, count, replacement=True)
    return means[modes] + torch.randn(count, len(root)).double() @ root.T


def compare(problem: Known, options: argparse.Namespace) -> dict[str, object]:
    start = time.process_time()
    settings = {"particles": options.particles, "moves": options.moves, "steps": options.steps}
    answer = TemperedSMC(problem.model, site="x", **settings).run(problem.y.float())
    seconds = time.process_time() - start
    evidence, weights, means, covariance = problem.posterior()
    x = answer.get_samples()["x"].double()
    shares = torch.cdist(x, means).argmin(-1).bincount(minlength=len(means)) / len(x)
    mean = weights @ means
    scale = (covariance.diagonal() + weights @ (means - mean).square()).sqrt()
    low, high = x.quantile(0.05, 0), x.quantile(0.95, 0)
    drawn, other = (exact_draws(weights, means, covariance, len(x)).float() for _ in range(2))
    diagnostics = answer.diagnostics()
    print(diagnostics, flush=True)
    return {
        "evidence": answer.log_evidence.item(),
        "exact": evidence.item(),
        "error": ((x.mean(0) - mean) / scale).square().mean().sqrt().item(),
        "ratio": (x.std(0) / scale).mean().item(),
        "coverage": ((problem.truth > low) & (problem.truth < high)).double().mean().item(),
        "distance": distance(x.float(), drawn),
        "floor": distance(other, drawn),
        "modes": 0.5 * (shares - weights).abs().sum().item(),
        "levels": len(diagnostics.widths),
        "worth": diagnostics.independent.mean().item(),
        "seconds": seconds,
    }


COLUMNS = [
    "problem",
    "particles",
    "log evidence, exact",
    "error of the mean in posterior standard deviations (exact draws)",
    "ratio of standard deviations",
    "in their 90 % intervals",
    "sliced W1 (exact draws)",
    "weights of modes off by",
    "levels",
    "said to be worth",
    "processor seconds",
]


def row(line: dict) -> list[str]:
    """One run in the table."""
    particles = line["particles"]
    return [
        line["problem"],
        f"{particles}",
        f"{line['evidence']:.2f}, {line['exact']:.2f}",
        f"{line['error']:.3f} ({particles**-0.5:.3f})",
        f"{line['ratio']:.3f}",
        f"{100 * line['coverage']:.0f} %",
        f"{line['distance']:.3g} ({line['floor']:.3g})",
        "" if line["problem"].startswith("CT") else f"{line['modes']:.2f}",
        f"{line['levels']}",
        f"{line['worth']:.0f}",
        f"{line['seconds']:.3g}",
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=("ct", "mixture"))
    parser.add_argument("--slices", type=Path, help="the array of slices, for ct")
    parser.add_argument("--noise", type=float, default=0.01, help="of ct")
    parser.add_argument("--size", type=int, default=80, help="of the mixture")
    parser.add_argument("--differences", action="store_true", help="measures differences, for the mixture")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--moves", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    title = f"{'differences' if options.differences else 'mixture'}, $d = {options.size}$"
    title = title if options.problem == "mixture" else "CT" if options.slices else "CT, smooth"
    lines = known(options.output)
    done = [(line["problem"], line["seed"], line["particles"]) for line in lines]
    for seed in options.seeds:
        if (run := (title, seed, options.particles)) in done:
            continue
        pyro.set_rng_seed(seed)
        problem = (
            ct(options.slices, options.noise, seed)
            if options.problem == "ct"
            else mixture(options.size, options.differences, seed)
        )
        found = dict(zip(("problem", "seed", "particles"), run, strict=True)) | compare(problem, options)
        keep([found], lines, options.output)
    table(COLUMNS, [row(line) for line in lines], options.table, lines)


if __name__ == "__main__":
    main()
