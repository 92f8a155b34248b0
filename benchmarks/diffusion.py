"""Diffusion samplers against hand-written loops and against their peers.

One process, one thread. The denoiser is exact and the same for all, so that only the samplers are compared. Peers come
from the ``bench`` extra; those that are not installed are left out.

    python benchmarks/diffusion.py overhead --budget 10
    python benchmarks/diffusion.py quality --evaluations 5 10 20
    python benchmarks/diffusion.py paths --mixtures 5

``--table FILE`` writes the table of the documentation. A number in parentheses is how many evaluations a sampler really
took, where they are not those of its column.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusion_peers import PEERS
from results_file import table
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from torch.nn.modules.module import register_module_forward_hook

from pyrogen.diffusion import (
    DDIM,
    VE,
    Adaptive,
    Ancestral,
    CosineVP,
    DataPrediction,
    Denoiser,
    FlowGrid,
    GaussianMixtureDenoiser,
    Heun,
    LogSNRGrid,
    Multistep,
    RectifiedFlow,
)

OURS = {
    "pyrogen, default": lambda n: Multistep(FlowGrid(n)),
    "pyrogen DDIM": lambda n: DDIM(FlowGrid(n)),
    "pyrogen Heun": lambda n: Heun(FlowGrid(max(1, (n + 1) // 2))),
    "pyrogen data, order 2 (DPM++ 2M), log-SNR grid": lambda n: Multistep(
        LogSNRGrid(n, maximum=80, minimum=0.002), order=2, corrector=0, prediction=DataPrediction()
    ),
    "pyrogen ancestral": lambda n: Ancestral(FlowGrid(n)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "quality", "paths"))
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for each setting")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--mixtures", type=int, default=5, help="how many mixtures the paired errors average over")
    parser.add_argument("--draws", type=int, default=8000)
    parser.add_argument("--evaluations", nargs="+", type=int, default=(5, 6, 10, 20, 50))
    parser.add_argument("--only", default="", help="samplers whose names contain this, or one of these between bars")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.no_grad():
        {"overhead": overhead, "quality": quality, "paths": paths}[options.what](options)


def lattice() -> MixtureSameFamily:
    """25 narrow modes on a square, of unit variance along each axis."""
    scale = math.sqrt(2 + 0.12**2)
    means = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=torch.float64)] * 2) / scale
    return MixtureSameFamily(Categorical(torch.ones(25)), Independent(Normal(means, 0.12 / scale), 1))


def random_mixture(seed: int, components: int = 12, size: int = 16) -> MixtureSameFamily:
    """Components of random means, weights and covariances, scaled to unit variance on average."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(components, size, generator=generator, dtype=torch.float64)
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.2
    weights = weights / weights.sum()
    roots = 0.08 * torch.randn(components, size, size, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.01 * torch.eye(size, dtype=torch.float64)
    means = means - weights @ means
    variance = weights @ (means.square() + covariances.diagonal(dim1=-2, dim2=-1))
    scale = variance.mean().sqrt()
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means / scale, covariances / scale**2))


def quality(options: argparse.Namespace) -> None:
    """Sliced Wasserstein-2 distance of draws from the 25 modes to exact draws; the floor is that of exact draws."""
    data = lattice()
    rows: dict[tuple[str, int], list[tuple[float, int]]] = {}
    floor = []
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        noise, exact = torch.randn(options.draws, 2, dtype=torch.float64), data.sample((options.draws,))
        floor.append(sliced_distance(data.sample((options.draws,)), exact, seed))
        for name, draw in _samplers(data, options.only).items():
            for count in options.evaluations:
                with counted() as calls:
                    x, _ = draw(noise, count)
                rows.setdefault((name, count), []).append((sliced_distance(x, exact, seed), len(calls)))
    print(f"exact draws: {statistics.mean(floor):.4f} ({min(floor):.4f} to {max(floor):.4f})")
    _table(rows, options)


def paths(options: argparse.Namespace) -> None:
    """Distance of each draw from the end of the exact path that begins at the same noise, per coordinate."""
    rows: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for seed in range(options.mixtures):
        data = random_mixture(seed)
        torch.manual_seed(seed)
        noise = torch.randn(300, 16, dtype=torch.float64)
        exact: dict[float, Tensor] = {}
        for name, draw in _samplers(data, options.only).items():
            if name == "pyrogen ancestral":
                continue
            for count in options.evaluations:
                with counted() as calls:
                    x, ratio = draw(noise, count)
                if ratio not in exact:
                    exact[ratio] = _exact_end(data, noise, ratio)
                error = (x - exact[ratio]).norm(dim=-1).mean().item() / 4
                rows.setdefault((name, count), []).append((error, len(calls)))
    _table(rows, options)


def _exact_end(data: MixtureSameFamily, noise: Tensor, ratio: float) -> Tensor:
    """The end of the exact path from pure noise at a noise-to-signal ratio."""
    return Adaptive(tolerance=1e-8)(GaussianMixtureDenoiser(data, VE(sigma_min=1e-5, sigma_max=ratio)), noise)


def _samplers(data: MixtureSameFamily, only: str = "") -> dict[str, Callable[[Tensor, int], tuple[Tensor, float]]]:
    """Each gives draws from noise at a number of evaluations, and the noise-to-signal ratio at which it began."""
    denoiser = GaussianMixtureDenoiser(data, RectifiedFlow())

    def ours(make: Callable[[int], Callable[..., Tensor]]) -> Callable[[Tensor, int], tuple[Tensor, float]]:
        return lambda noise, count: (make(count)(denoiser, noise), 1 / denoiser.schedule.start - 1)

    found = {name: ours(make) for name, make in OURS.items()} | {name: make(data) for name, make in PEERS.items()}
    return {name: draw for name, draw in found.items() if any(part in name for part in only.split("|"))}


def sliced_distance(x: Tensor, y: Tensor, seed: int, projections: int = 64) -> float:
    """Root mean square over random lines of the Wasserstein-2 distance along them."""
    generator = torch.Generator().manual_seed(1000 + seed)
    lines = torch.randn(x.shape[1], projections, generator=generator, dtype=x.dtype)
    lines = lines / lines.norm(dim=0)
    return ((x @ lines).sort(0).values - (y @ lines).sort(0).values).square().mean().sqrt().item()


@contextmanager
def counted() -> Iterator[list[Denoiser]]:
    """The exact denoisers that are evaluated inside, in a list."""
    calls: list[Denoiser] = []

    def note(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, GaussianMixtureDenoiser):
            calls.append(module)

    handle = register_module_forward_hook(note)
    try:
        yield calls
    finally:
        handle.remove()


def _table(rows: dict[tuple[str, int], list[tuple[float, int]]], options: argparse.Namespace) -> None:
    """Means by sampler and number of evaluations, the most accurate sampler first."""

    def shown(name: str, count: int) -> str:
        values, taken = zip(*rows[name, count], strict=True)
        return f"{statistics.mean(values):.4f}" + (f" ({taken[0]})" if taken[0] != count else "")

    evaluations = options.evaluations
    names = sorted(
        {name for name, _ in rows}, key=lambda name: statistics.mean(v for v, _ in rows[name, evaluations[-1]])
    )
    table(
        ["evaluations", *map(str, evaluations)],
        [[name, *(shown(name, n) for n in evaluations)] for name in names],
        options.table,
    )


class Trivial(Denoiser):
    """Costs as little as a denoiser can."""

    def __init__(self) -> None:
        super().__init__((2,), CosineVP())

    def forward(self, x: Tensor, t: Tensor, context: None = None) -> Tensor:
        return x * 0.5


def overhead(options: argparse.Namespace) -> None:
    """Microseconds a step of our samplers and of the same loops written by hand, interleaved."""
    denoiser = Trivial()
    pairs = {
        "DDIM": (lambda n: DDIM(FlowGrid(n)), ddim_by_hand),
        "Heun": (lambda n: Heun(FlowGrid(n)), heun_by_hand),
        "DPM++ 2M": (
            lambda n: Multistep(FlowGrid(n), order=2, corrector=0, prediction=DataPrediction()),
            dpm_by_hand,
        ),
        "default": (lambda n: Multistep(FlowGrid(n)), adams_by_hand),
    }
    rows = []
    for name, (make, by_hand) in pairs.items():
        for batch, steps in ((1, 10), (1, 20), (1, 50), (64, 50)):
            noise = torch.randn(batch, 2)
            sampler = make(steps)
            calls = {
                "hand": lambda by_hand=by_hand, noise=noise, steps=steps: by_hand(denoiser, noise, steps),
                "ours": lambda sampler=sampler, noise=noise: sampler(denoiser, noise),
            }
            spent = {key: [] for key in calls}
            start = time.process_time()
            while time.process_time() - start < options.budget / 4:
                for key, call in calls.items():
                    began = time.process_time()
                    call()
                    spent[key].append(1e6 * (time.process_time() - began) / steps)
            hand, ours = (statistics.median(spent[key]) for key in ("hand", "ours"))
            rows.append([name, f"{batch}", f"{steps}", f"{hand:.1f}", f"{ours:.1f}", f"{ours / hand:.2f}"])
            print(*rows[-1], flush=True)
    table(["sampler", "batch", "steps", "by hand, us a step", "pyrogen, us a step", "ratio"], rows, options.table)


def _by_hand_grid(denoiser: Denoiser, steps: int, like: Tensor) -> tuple[tuple[Tensor, ...], list, list]:
    """What a person would write: the cosine schedule on the same grid."""
    s = torch.linspace((1 - 5e-4) ** 0.7, (5e-4) ** 0.7, steps + 1, dtype=torch.float64) ** (1 / 0.7)
    angle = torch.atan(s / (1 - s))
    times = (angle / (math.pi / 2)).to(like.dtype)
    return times.unbind(), torch.cos(angle).tolist(), torch.sin(angle).tolist()


def ddim_by_hand(denoiser: Denoiser, noise: Tensor, steps: int) -> Tensor:
    times, alpha, sigma = _by_hand_grid(denoiser, steps, noise)
    x = sigma[0] * noise
    for i in range(steps):
        data = denoiser(x, times[i])
        ratio = sigma[i + 1] / sigma[i]
        x = ratio * x + (alpha[i + 1] - ratio * alpha[i]) * data
    return x


def heun_by_hand(denoiser: Denoiser, noise: Tensor, steps: int) -> Tensor:
    times, alpha, sigma = _by_hand_grid(denoiser, steps, noise)
    x = sigma[0] * noise
    for i in range(steps):
        a, s, b, r = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        keep, move = (b + r) / (a + s), (r * a - s * b) / (a + s)
        slope = x / s - (1 + a / s) * denoiser(x, times[i])
        kept = keep * x
        x = kept + move * slope
        if i < steps - 1:
            end = x / r - (1 + b / r) * denoiser(x, times[i + 1])
            x = kept + 0.5 * move * (slope + end)
    return x


def dpm_by_hand(denoiser: Denoiser, noise: Tensor, steps: int) -> Tensor:
    times, alpha, sigma = _by_hand_grid(denoiser, steps, noise)
    x, last, last_gap = sigma[0] * noise, None, None
    for i in range(steps):
        data = denoiser(x, times[i])
        gap = math.log(alpha[i + 1] / sigma[i + 1]) - math.log(alpha[i] / sigma[i])
        mixed = data
        if last is not None and gap < 3 * last_gap:
            share = 0.5 * gap / last_gap
            mixed = (1 + share) * data - share * last
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-gap) * mixed
        last, last_gap = data, gap
    return x


def adams_by_hand(denoiser: Denoiser, noise: Tensor, steps: int) -> Tensor:
    times, alpha, sigma = _by_hand_grid(denoiser, steps, noise)
    flow = [s / (a + s) for a, s in zip(alpha, sigma, strict=True)]
    x, slopes, before = sigma[0] * noise, [], None
    for i in range(steps):
        a, s, b, r = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        slopes = [x / s - (1 + a / s) * denoiser(x, times[i]), *slopes[:2]]
        if i:  # correct the step that led here
            total = a + s
            h = flow[i] - flow[i - 1]
            if i == 1:
                w = [0.5 * h, 0.5 * h]
            else:
                g = flow[i - 1] - flow[i - 2]
                w = [h * (2 * h + 3 * g) / (6 * (h + g)), h * (h + 3 * g) / (6 * g), -(h**3) / (6 * g * (h + g))]
            x = total / (alpha[i - 1] + sigma[i - 1]) * before
            for weight, slope in zip(w, slopes, strict=False):
                x = x + total * weight * slope
        total, h = b + r, flow[i + 1] - flow[i]
        w = [h]
        if i:
            share = 0.5 * h / (flow[i] - flow[i - 1])
            w = [h * (1 + share), -h * share]
        before, x = x, total / (a + s) * x
        for weight, slope in zip(w, slopes, strict=False):
            x = x + total * weight * slope
    return x


if __name__ == "__main__":
    main()
