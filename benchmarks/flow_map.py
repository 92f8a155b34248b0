"""Flow maps: how good draws in few steps are, what a training step costs, and chains through one step.

- ``mixture``: the map of a mixture of three normals in the plane, distilled from its exact denoiser. The root mean
  square distance of its draws from the exact flow's of the same noise, and the sliced Wasserstein distance of 20,000
  draws from as many others of the mixture, beside that of the exact flow's draws, both by evaluations.
- ``step``: processor time of a training step by shortcuts over the same written by hand, which alternate.
- ``chains``: effective draws a second of processor time, warming up not counted, of the posterior of two numbers with
  their sum measured: in the noise of the map in one step, and in that of the ProbabilityFlow of the same network.
- ``digits``: scikit-learn's 8x8 digits with uniform noise. A perceptron is trained as a diffusion model, and a flow map
  distilled from it. The Frechet distance, without its bias, of 2,000 draws from test images in 32 features of a
  classifier trained on the training images, by evaluations; beside it 50 steps of DDIM with the teacher, and training
  images in place of draws.

One thread; processor time.

    python benchmarks/flow_map.py --figures step chains --output benchmarks/results/flow_map.jsonl
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from results_file import keep, known
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import pyrogen as pg
from pyrogen import diffusion
from pyrogen.diffusion import CosineVP, FlowGrid, GaussianMixtureDenoiser, Heun, ShortcutDistillation
from pyrogen.evaluation import frechet_distance, train_classifier
from pyrogen.inverse import NoiseMCMC
from pyrogen.numerics.markov.sampling import AdaptiveHMC
from pyrogen.numerics.wasserstein import directions, wasserstein_on_the_line

STEPS = (1, 2, 4, 8)
KINDS = {
    "lagrangian": diffusion.LagrangianDistillation,
    "mean flow": diffusion.MeanFlow,
    "shortcut": ShortcutDistillation,
    "consistency": diffusion.ConsistencyDistillation,
}


def mixture() -> dist.MixtureSameFamily:
    places = torch.tensor([[-1.2, -0.2], [0.8, -0.8], [0.8, 1.0]])
    scales = torch.tensor([[0.25, 0.15], [0.1, 0.3], [0.3, 0.1]])
    weights = torch.distributions.Categorical(torch.tensor([0.4, 0.3, 0.3]))
    return dist.MixtureSameFamily(weights, dist.Normal(places, scales).to_event(1))


def trained(objective: nn.Module, x: Tensor, steps: int, seed: int, rate: float = 3e-3) -> float:
    """Fits an objective, and gives the processor time that it took."""
    began = time.process_time()
    falling = partial(LambdaLR, lr_lambda=lambda step: min(1.0, 2 * (1 - step / steps)))
    pg.fit(objective, x, steps=steps, batch_size=256, lr=rate, schedule=falling, ema=0.99, seed=seed)
    return time.process_time() - began


def distilled_mixture(kind: str, steps: int, seed: int) -> tuple[diffusion.FlowMap, float]:
    pyro.set_rng_seed(seed)
    model = diffusion.flow_map((2,), width=64, depth=2)
    objective = KINDS[kind](model, teacher=GaussianMixtureDenoiser(mixture(), CosineVP()))
    seconds = trained(objective, mixture().sample((20_000,)), steps, seed)
    return model, seconds


def distance(x: Tensor, y: Tensor) -> float:
    lines = directions(128, x)
    return wasserstein_on_the_line(lines @ x.T, lines @ y.T).mean().sqrt().item()


@torch.no_grad()
def of_mixture(options: argparse.Namespace, seed: int) -> Iterator[dict]:
    for kind in options.kinds:
        with torch.enable_grad():
            model, seconds = distilled_mixture(kind, options.steps, seed)
        others, noise = mixture().sample((20_000,)), torch.randn(20_000, 2)
        followed = Heun(FlowGrid(25))(GaussianMixtureDenoiser(mixture(), CosineVP()), noise)
        row = {"kind": kind, "steps": options.steps, "seconds": seconds, "teacher": distance(followed, others)}
        for evaluations in STEPS:
            drawn = model.in_steps(evaluations).generated(noise)
            error = (drawn - followed).square().sum(-1).mean().sqrt().item()
            yield row | {"evaluations": evaluations, "error": error, "distance": distance(drawn, others)}


def of_step(options: argparse.Namespace, seed: int) -> Iterator[dict]:
    pyro.set_rng_seed(seed)
    model, x = diffusion.flow_map((64,)), torch.randn(256, 64)
    losses = {"pyrogen": ShortcutDistillation(model), "by hand": partial(by_hand, model.denoiser.network)}
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    with pyro.validation_enabled(False):
        for _ in range(options.repeats):
            for name, loss in losses.items():
                began = time.process_time()
                optimizer.zero_grad()
                loss(x).backward()
                optimizer.step()
                seconds[name].append(time.process_time() - began)
    ratios = [mine / other for mine, other in zip(seconds["pyrogen"], seconds["by hand"], strict=True)]
    yield {"milliseconds": 1e3 * statistics.median(seconds["pyrogen"]), "ratio": statistics.median(ratios)}


def by_hand(network: nn.Module, x: Tensor) -> Tensor:
    """The loss by shortcuts of data of scale one, under the cosine schedule, in plain torch."""

    def average(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        found = network(x, torch.cat([start, start - end], -1))
        return start.cos() * x + start.sin() * found

    ends = torch.rand(2, len(x), 1).mul(0.998).add(0.001).mul(torch.pi / 2)
    t, s = ends.amax(0), ends.amin(0)
    noisy, half = t.cos() * x + t.sin() * torch.randn_like(x), len(x) // 2
    still = (average(noisy[:half], t[:half], t[:half]) - x[:half]) / t[:half].sin()
    noisy, t, s = noisy[half:], t[half:], s[half:]
    with torch.no_grad():
        u = (t + s) / 2
        first = average(noisy, t, u)
        ratio = u.sin() / t.sin()
        second = average(ratio * noisy + (u.cos() - ratio * t.cos()) * first, u, s)
        share = (1 / u.tan() - 1 / t.tan()) / (1 / s.tan() - 1 / t.tan())
        target = second + share * (first - second)
    return torch.cat([still, (average(noisy, t, s) - target) / t.sin()]).square().mean()


def of_chains(options: argparse.Namespace, seed: int) -> Iterator[dict]:
    model, _ = distilled_mixture("shortcut", options.steps, seed)
    model.eval().requires_grad_(False)
    priors = {"flow map, one step": model, "probability flow": diffusion.ProbabilityFlow(model.denoiser)}
    for name, prior in priors.items():
        pyro.set_rng_seed(seed)
        chain = NoiseMCMC(measured(prior), site="x", kernel=AdaptiveHMC(), chains=16, draws=100, warmup=50)
        began = time.process_time()
        found = chain.run(torch.tensor(0.0)).diagnostics()
        share = found.seconds / (found.seconds + found.warmup_seconds)
        seconds = share * (time.process_time() - began)
        r_hat = max(value.max().item() for value in found.r_hat.values())
        yield {
            "prior": name,
            "effective": found.least,
            "seconds": seconds,
            "rate": found.least / seconds,
            "r_hat": r_hat,
        }


def measured(prior: pg.DistributionModule) -> Callable:
    """A program that measures the sum of two numbers."""

    def program(y: Tensor) -> None:
        x = pyro.sample("x", prior())
        pyro.sample("y", dist.Normal(x.sum(-1), 1.0), obs=y)

    return program


def of_digits(options: argparse.Namespace, seed: int) -> Iterator[dict]:
    pyro.set_rng_seed(seed)
    pixels, labels, symbols = pg.data.digits()
    (train, named), (test, _) = pg.data.split(pixels, labels, sizes=(1257, 540), seed=seed)
    x = scaled(train.repeat(10, 1, 1, 1), symbols)
    teacher, model = diffusion.mlp((64,), depth=3), diffusion.flow_map((64,), depth=3)
    seconds = trained(teacher, x, options.steps, seed, 1e-3)
    more = trained(ShortcutDistillation(model, teacher=teacher.denoiser), x, options.steps, seed, 1e-3)
    classifier = train_classifier(scaled(train, symbols), named, features=32, seed=0)
    wanted = scaled(test, symbols)

    def row(name: str, evaluations: int, draws: Tensor) -> dict:
        found = frechet_distance(draws, wanted, embedding=classifier.embedding).extrapolated
        figures = {"draws": name, "evaluations": evaluations, "frechet": found.value, "error": found.standard_error}
        return figures | {"steps": options.steps, "seconds": seconds + more, "accuracy": classifier.accuracy.value}

    yield row("training images", 0, scaled(train, symbols))
    teacher.sampler = diffusion.DDIM(FlowGrid(50))
    yield row("teacher", 50, teacher.eval()().sample((2000,)))
    for evaluations in STEPS:
        yield row("flow map", evaluations, model.eval().in_steps(evaluations)().sample((2000,)))


def scaled(pixels: Tensor, symbols: int) -> Tensor:
    """Pixels with uniform noise, of mean zero and scale one over all images: ``(N, 64)``."""
    x = (pixels + torch.rand(pixels.shape)) / symbols
    return ((x - 0.32) / 0.36).flatten(1)


FIGURES = {"mixture": of_mixture, "step": of_step, "chains": of_chains, "digits": of_digits}


def runs(options: argparse.Namespace, rows: list[dict]) -> Iterator[dict]:
    """The rows of each seed and figure that none are known of."""
    done = {(row["figure"], row["seed"], row.get("kind")) for row in rows}
    for seed in options.seeds:
        for figure in options.figures:
            for row in FIGURES[figure](options, seed):
                if (figure, seed, row.get("kind")) not in done:
                    yield {"figure": figure, "seed": seed} | row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--figures", nargs="+", default=list(FIGURES), choices=list(FIGURES))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--repeats", type=int, default=100, help="of a training step")
    parser.add_argument("--output", type=Path, help="a file of results, one JSON object a line; it is continued")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = known(options.output)
    keep(runs(options, rows), rows, options.output)


if __name__ == "__main__":
    main()
