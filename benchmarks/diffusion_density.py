"""The density of a diffusion model with a known answer: this library against flow_matching.

A 16-dimensional mixture of 12 correlated Gaussians, 512 points, the path of a rectified flow, one thread. Both are
given the same closed-form velocity, so that what is timed is the solver, the divergence and the gradient. Runs are
interleaved, seconds are of the processor, and the fastest counts. "closed divergence" is what
``GaussianMixtureDenoiser`` offers by itself; "exact trace" hides it, and computes 16 derivatives as the peer does.

    python benchmarks/diffusion_density.py [--repeats 3] [--table FILE]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pyro.distributions as dist
import torch
from results_file import table
from torch import Tensor, nn

from pyrogen.diffusion.analytic import GaussianMixtureDenoiser
from pyrogen.diffusion.denoiser import Denoiser
from pyrogen.diffusion.probability_flow import ProbabilityFlow
from pyrogen.numerics.ode import AdaptiveSolver
from pyrogen.numerics.schedules import RectifiedFlow
from pyrogen.numerics.trace import Hutchinson

SIZE, COMPONENTS, POINTS = 16, 12, 512
Score = Callable[[Tensor], Tensor]


def mixture() -> dist.MixtureSameFamily:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(COMPONENTS, SIZE, generator=generator)
    factor = torch.randn(COMPONENTS, SIZE, SIZE, generator=generator) * 0.3 / math.sqrt(SIZE)
    weights = torch.rand(COMPONENTS, generator=generator) + 0.2
    covariance = factor @ factor.mT + 0.05 * torch.eye(SIZE)
    return dist.MixtureSameFamily(dist.Categorical(weights), dist.MultivariateNormal(mean, covariance))


class Opaque(Denoiser):
    """A denoiser without anything but its formula."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.event_shape, denoiser.schedule)
        self.denoiser = denoiser

    def forward(self, x: Tensor, t: Tensor | float, context: None = None) -> Tensor:
        return self.denoiser(x, t)

    def velocity(self, x: Tensor, t: Tensor | float, context: None = None) -> Tensor:
        return self.denoiser.velocity(x, t)


def ours(denoiser: Denoiser, tolerance: float, **options) -> Score:
    flow = ProbabilityFlow(denoiser, solver=AdaptiveSolver(tolerance), **options)
    return lambda x: flow().log_prob(x)


def peers(denoiser: Denoiser) -> dict[str, Score]:
    try:
        from flow_matching.solver import ODESolver
        from flow_matching.utils import ModelWrapper
    except ImportError:
        print("flow_matching is not installed: no peer in this run")
        return {}

    class Velocity(ModelWrapper):
        """Its time runs from noise (0) to data (1)."""

        def forward(self, x: Tensor, t: Tensor, **extras) -> Tensor:
            return -denoiser.velocity(x, (1 - t).clamp(0, 1))  # dopri5 looks beyond the end

    solver = ODESolver(Velocity(nn.Identity()))
    base = dist.Normal(torch.zeros(SIZE), 1.0).to_event(1)

    def score(exact: bool) -> Score:
        def log_prob(x: Tensor) -> Tensor:
            return solver.compute_likelihood(
                x,
                base.log_prob,
                step_size=None,
                method="dopri5",
                atol=1e-5,
                rtol=1e-5,
                exact_divergence=exact,
                enable_grad=x.requires_grad,
            )[1]

        return log_prob

    name = f"flow_matching {version('flow_matching')}, dopri5 1e-5"
    return {f"{name}, exact trace": score(True), f"{name}, one probe": score(False)}


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    answer = function()
    return time.process_time() - start, answer


def gradient(score: Score, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(score(x).sum(), x)[0]


def compare(scores: dict[str, Score], truth: dist.Distribution, x: Tensor, repeats: int) -> Iterator[list[str]]:
    """A row for each: seconds and error of the density, seconds, direction and size of its gradient."""
    value_time, slope_time = dict.fromkeys(scores, math.inf), dict.fromkeys(scores, math.inf)
    errors, cosines, sizes = {}, {}, {}
    exact = gradient(truth.log_prob, x)
    for _ in range(repeats):
        for name, score in scores.items():
            with torch.no_grad():
                seconds, found = timed(lambda score=score: score(x))
            value_time[name] = min(value_time[name], seconds)
            errors[name] = (found - truth.log_prob(x)).abs()
            try:
                seconds, slope = timed(lambda score=score: gradient(score, x))
            except RuntimeError as error:
                print(f"{name}: no gradient ({str(error).splitlines()[0][:80]})")
                continue
            slope_time[name] = min(slope_time[name], seconds)
            cosines[name] = torch.cosine_similarity(slope, exact)
            sizes[name] = (slope.norm(dim=-1) / exact.norm(dim=-1)).median()
    for name in scores:
        slope = (
            [f"{slope_time[name]:.2f}", f"{cosines[name].mean():.6f}", f"{sizes[name]:.3f}"]
            if name in cosines
            else [""] * 3
        )
        yield [name, f"{value_time[name]:.2f}", f"{errors[name].mean():.1e}", f"{errors[name].max():.1e}", *slope]


def probes(denoiser: Denoiser, truth: dist.Distribution, seeds: int = 20, count: int = 16, draws: int = 25) -> None:
    print(f"\nHutchinson, {seeds} seeds of {count} points and {draws} draws each, means and standard errors over seeds")
    print("'chi' is the squared bias of a seed over its own variance: 1 on average if there is no bias")
    for number in (1, 4, 16):
        score, found = ours(denoiser, 1e-4, trace=Hutchinson(number)), []
        for seed in range(seeds):
            torch.manual_seed(seed)
            points = truth.sample((count,))
            with torch.no_grad():
                error = score(points.repeat(draws, 1)).reshape(draws, -1) - truth.log_prob(points)
            bias, variance = error.mean(), error.var(0).mean()
            found.append([bias, bias**2 / variance * error.numel(), variance * number])
        mean, spread = torch.tensor(found).mean(0), torch.tensor(found).std(0) / math.sqrt(seeds)
        names = "bias", "chi", "variance x probes"
        cells = [f"{name} {m:+.3f} ± {s:.3f}" for name, m, s in zip(names, mean, spread, strict=True)]
        print(f"  {number:3d} probes: " + ", ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", type=Path, help="a file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    truth = mixture()
    x = truth.sample((POINTS,))
    denoiser = GaussianMixtureDenoiser(truth, RectifiedFlow())
    scores = {
        "closed divergence, tolerance 1e-5": ours(denoiser, 1e-5),
        "exact trace, tolerance 1e-5": ours(Opaque(denoiser), 1e-5),
        "exact trace, tolerance 1e-4": ours(Opaque(denoiser), 1e-4),
        "exact trace, tolerance 5e-4": ours(Opaque(denoiser), 5e-4),
        "one probe, tolerance 1e-5": ours(denoiser, 1e-5, trace=Hutchinson()),
        **peers(denoiser),
    }
    columns = ["", "`log_prob`, s", "mean error, nats", "largest", "its gradient, s", "cosine", "size"]
    table(columns, list(compare(scores, truth, x, arguments.repeats)), arguments.table)
    probes(denoiser, truth)


if __name__ == "__main__":
    main()
