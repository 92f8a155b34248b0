"""Simulation-based calibration of posteriors under a trained digit prior: who is sure of what he knows?

A small diffusion model of 8x8 digits is trained. Truths are draws of the very chain that ``TwistedSMC`` takes for the
prior, on the same grid and with the same variances (up to the noise of a pilot run); each is seen through a random
matrix of its own with Gaussian noise. For 200 such problems the truth is ranked among 31 draws of each method: by the
likelihood of the measurement, by the joint density (a noisy bound, which is a fair quantity all the same), and by
marginals. Particles of one run are copies of few: the draws are 31 of the resampled particles, in random order. The
guidances step with the same variances, but for one row. Needs the ``demo`` extra.

    python benchmarks/inverse_calibration.py --measured 2 8 --output FILE --table FILE --pictures output/calibration
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from results_file import keep, known, table
from torch import Tensor

import pyrogen as pg
from pyrogen.evaluation import Calibration, simulation_based_calibration
from pyrogen.inverse import (
    DAPS,
    DDRM,
    DPS,
    DiffPIR,
    Guidance,
    GuidedSampling,
    Isotropic,
    MomentMatching,
    PiGDM,
    RePaint,
    TwistedSMC,
)
from pyrogen.inverse.chain import Chain, Level
from pyrogen.numerics.grids import default_grid

SIZE, NORM, NOISE, DRAWS = 64, 6.4, 0.1, 31
QUANTITIES = {
    "log_likelihood": "$p(y \\mid x)$",
    "log_joint": "$p(x, y)$",
    "a pixel": "a pixel",
    "mean grey": "mean grey",
}
Values = dict[str, Tensor]
Posterior = Callable[[Values, int], Values]


class ChainSampler:
    """Draws of the prior's chain, which TwistedSMC is exact for, in the place of a sampler."""

    def __init__(self, denoiser: pg.diffusion.Denoiser, steps: int) -> None:
        self.grid = default_grid(denoiser.schedule, steps, norm=NORM)
        self.chain = Chain(denoiser.schedule, self.grid)
        self.chain.calibrate(partial(look, denoiser), (100, SIZE), torch.zeros(()))

    def __call__(self, denoiser: pg.diffusion.Denoiser, noise: Tensor, context: None) -> Tensor:
        x = self.chain.start(noise.shape, noise)
        for place, level in enumerate(self.chain.levels[:-1]):
            x = self.chain.step(place).draw(x, look(denoiser, x, level))
        error = self.chain.errors[-1].sqrt()
        return look(denoiser, x, self.chain.levels[-1]) + error * torch.randn_like(x)


def look(denoiser: pg.diffusion.Denoiser, x: Tensor, level: Level) -> Tensor:
    return denoiser(x, torch.tensor(level.time))


def trained(steps: int, chain_steps: int) -> pg.diffusion.Diffusion:
    """The prior: a perceptron's diffusion of digits in (-1, 1), with draws by the chain."""
    pixels, _, symbols = pg.data.digits()
    images = 2 * pg.data.dequantize(pixels, symbols=symbols, seed=0).flatten(1) - 1
    prior = pg.diffusion.mlp((SIZE,), width=128, depth=3, data_scale=0.7, draws=32)
    pg.fit(prior, images, steps=steps, ema=0.999, seed=0)
    prior.requires_grad_(False)
    prior.sampler = ChainSampler(prior.denoiser, chain_steps)
    return prior


def disagreement(denoiser: pg.diffusion.Denoiser, steps: int) -> float:
    """The relative difference between step variances of two pilot runs: all that truths and method do not share."""
    one, other = (ChainSampler(denoiser, steps).chain for _ in range(2))
    ratios = [one.step(place).scale / other.step(place).scale for place in range(steps)]
    return (torch.stack(ratios).square() - 1).square().mean().sqrt().item()


def problem(prior: pg.diffusion.Diffusion, measured: int, size: int) -> None:
    """Digits, each seen through a matrix of its own; the matrix is data like the measurement."""
    with pyro.plate("problems", size):
        x = pyro.sample("x", prior())
        entries = dist.Normal(torch.zeros(measured, SIZE), SIZE**-0.5)
        operator = pyro.sample("operator", entries.to_event(2))
        measure(operator, x)


def measure(operator: Tensor, x: Tensor, y: Tensor | None = None) -> None:
    pyro.sample("y", dist.Normal((operator @ x.unsqueeze(-1)).squeeze(-1), NOISE).to_event(1), obs=y)


def posteriors(prior: pg.diffusion.Diffusion, particles: int) -> dict[str, Posterior]:
    """By name, draws given matrices and measurements."""
    grid = prior.sampler.grid

    def model(operator: Tensor, y: Tensor) -> None:
        with pyro.plate("problems", len(y)):
            measure(operator, pyro.sample("x", prior()), y)

    def smc(data: Values, draws: int) -> Values:
        method = TwistedSMC(model, site="x", particles=particles, twist=Isotropic(0.5), grid=grid)
        found = method.run(data["operator"], data["y"])
        effective = found.diagnostics().effective_sample_size
        last = effective[-1]
        print(f"   effective sample size: median {last.median():.0f}, least {last.min():.0f}", end="")
        print(f", least on the way {effective.min():.0f}", flush=True)
        return {"x": found.get_samples()["x"][:draws]}

    def guided(guidance: Guidance, *, calibrate: bool = True) -> Posterior:
        def draw(data: Values, draws: int) -> Values:
            method = GuidedSampling(model, site="x", guidance=guidance, draws=draws, grid=grid, calibrate=calibrate)
            return method.run(data["operator"], data["y"]).get_samples()

        return draw

    return {
        "`TwistedSMC`": smc,
        "draws of the prior": lambda data, draws: {"x": prior().sample((draws, len(data["y"])))},
        "`MomentMatching()`": guided(MomentMatching()),
        "the same, ancestral steps": guided(MomentMatching(), calibrate=False),
        "`PiGDM(0.5)`": guided(PiGDM(0.5)),
        "`DiffPIR()`": guided(DiffPIR()),
        "`DPS(0.1)`": guided(DPS(0.1)),
        "`DPS(1)`": guided(DPS(1.0)),
        "`RePaint()`": guided(RePaint()),
        "`DDRM()`": guided(DDRM()),
        "`DAPS()`": guided(DAPS()),
        "`DAPS(1, variance=0.5)`": guided(DAPS(1, variance=0.5)),
    }


def calibration(prior: pg.diffusion.Diffusion, posterior: Posterior, measured: int, problems: int) -> Calibration:
    """The ranks, on the same problems for every method."""
    pyro.set_rng_seed(1)
    return simulation_based_calibration(
        partial(problem, prior, measured),
        posterior,
        observed=("operator", "y"),
        simulations=problems,
        draws=DRAWS,
        coordinates=(),
        quantities={
            "a pixel": lambda latents, data: latents["x"][:, 27],
            "mean grey": lambda latents, data: latents["x"].mean(-1),
        },
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--particles", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50, help="of the chain")
    parser.add_argument("--training", type=int, default=3000, help="steps")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the ranks of the log-likelihood")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pyro.set_rng_seed(0)
    prior = trained(options.training, options.steps)
    print(f"step variances of two pilot runs differ by {disagreement(prior.denoiser, options.steps):.2%}", flush=True)
    methods = posteriors(prior, options.particles)
    lines = known(options.output)
    done = [(line["measured"], line["method"]) for line in lines]
    chosen = [name for name in methods if name in (options.methods or methods)]
    wanted = [run for run in product(options.measured, chosen) if run not in done]
    ranks: dict[int, dict[str, Tensor]] = {}

    def found(measured: int, name: str) -> dict[str, object]:
        start = time.process_time()
        calibrated = calibration(prior, methods[name], measured, options.problems)
        ranks.setdefault(measured, {})[name] = calibrated.ranks["log_likelihood"]
        p_values = {key: test.p_value for key, test in calibrated.uniformity().items()}
        line = {"measured": measured, "method": name, "problems": options.problems, "p": p_values}
        return line | {"seconds": time.process_time() - start}

    keep((found(*run) for run in wanted), lines, options.output)
    columns = [f"{QUANTITIES[key]}, $d_y = {measured}$" for measured in options.measured for key in QUANTITIES]
    rows = [row(name, options.measured, lines) for name in chosen]
    table(["method", *columns, "processor seconds"], rows, options.table, lines)
    for measured, of_methods in ranks.items() if options.pictures else ():
        options.pictures.mkdir(parents=True, exist_ok=True)
        pg.analysis.rank_ecdf(of_methods, DRAWS).savefig(options.pictures / f"ranks_{measured}.png")


def row(name: str, measured: list[int], lines: list[dict]) -> list[str]:
    """The p-values of one method, in bold below 0.05, and the longest time."""
    mine = {line["measured"]: line for line in lines if line["method"] == name}
    p_values = [mine[count]["p"][key] for count in measured for key in QUANTITIES]
    shown = ["< 0.001" if p < 0.001 else f"{p:.2g}" for p in p_values]
    cells = [f"**{text}**" if p < 0.05 else text for text, p in zip(shown, p_values, strict=True)]
    return [name, *cells, f"{max(line['seconds'] for line in mine.values()):.0f}"]


if __name__ == "__main__":
    main()
