"""Calibration at image size: do posteriors of 48 and of 384 measured numbers rank the truth uniformly?

Truths are draws of the law that the samplers target: of the prior's own chain, with the steps, the step variances and
the backward passes of the sampler. Patches of 16x16 colour pixels, 768 numbers, are measured with noise of 0.1: means
of squares of 4x4 pixels (48 numbers) or half of the pixels (384). There are two priors: ``network``, a small
transformer that is trained on photographs, and ``mixture``, six Gaussians that are fitted to the same photographs, of
which the denoiser is exact and draws data exactly given noisy ones.

The truth is ranked among 39 draws of each method, by the likelihood, by the joint density (of the mixture), by the mean
squared difference of neighbours, by how far the denoiser puts it off after one fixed noise (a function of the image
alone), and by its mean. The interval from the second least to the second largest of 39 draws holds the truth with a
probability of 90 %, if it is one more independent draw of the same law, whatever that is. Of half of the pixels only
the other half is judged. Every problem is one line of the file of results, and is not run again.

    python benchmarks/inverse_image_calibration.py run mixture tempered --measured 384 --results results.jsonl
    python benchmarks/inverse_image_calibration.py table --results results.jsonl
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from results_file import keep, known, table
from torch import Tensor

import pyrogen as pg
from pyrogen.evaluation import Calibration, neighbours
from pyrogen.inverse import Answer, SplitGibbs, TemperedSMC
from pyrogen.inverse.problem import InverseProblem
from pyrogen.inverse.reverse import Reverse
from pyrogen.inverse.split_move import split_move
from pyrogen.inverse.unknowns import Unknowns
from pyrogen.numerics.grids import LogSNRGrid

SHAPE, SIZE, SCALE, NOISE, DRAWS = (3, 16, 16), 768, 0.6, 0.1, 39
SHOWN = (torch.rand(256, generator=torch.Generator().manual_seed(0)).argsort() < 128).reshape(1, 16, 16).expand(SHAPE)
STATISTICS = ("log_likelihood", "log_joint", "neighbours", "denoising", "mean")


def grid(schedule: pg.diffusion.Schedule) -> LogSNRGrid:
    """Twelve levels, from a noise of 40 to one of 0.04."""
    noises = torch.tensor([40.0, 0.04], dtype=torch.double)
    start, end = schedule.time(-2 * noises.log()).tolist()
    return LogSNRGrid(11, start=start, end=end)


class Measurement(NamedTuple):
    """What is measured, and of which numbers the intervals are judged."""

    operator: Callable[[Tensor], Tensor]
    judged: Tensor


class Settings(NamedTuple):
    """How a method runs."""

    method: type[Answer]
    backward: int
    more: dict[str, int | float]


MEASUREMENTS = {
    48: Measurement(pg.operators.box_downsampling(SHAPE, 4), torch.ones(SHAPE, dtype=torch.bool)),
    384: Measurement(pg.operators.Mask(SHOWN), ~SHOWN),
}
TEMPERED = {"particles": 40, "moves": 2, "ess": 0.5}
GIBBS = {"chains": 20, "warmup": 40, "draws": 20}
METHODS = {
    "tempered": Settings(TemperedSMC, 0, TEMPERED),
    "tempered, 4 moves": Settings(TemperedSMC, 0, TEMPERED | {"moves": 4}),
    "tempered, 8 moves": Settings(TemperedSMC, 0, TEMPERED | {"moves": 8}),
    "tempered, 10 last levels": Settings(TemperedSMC, 0, TEMPERED | {"last_levels": 10}),
    "tempered, covariance": Settings(TemperedSMC, 2, TEMPERED),
    "split gibbs": Settings(SplitGibbs, 0, GIBBS),
    "split gibbs, covariance": Settings(SplitGibbs, 2, GIBBS),
}


@cache
def photographs() -> tuple[Tensor, Tensor]:
    """Patches in (-1, 1) for training, and of which photograph each is."""
    train, _ = pg.data.photographs(16)
    return 2 * pg.data.dequantize(train.pixels, symbols=train.symbols, seed=0) - 1, train.labels


def network(path: Path | None, steps: int) -> pg.diffusion.Diffusion:
    """A trained prior, from the file if there is one."""
    prior = pg.diffusion.transformer(SHAPE, patch=4, width=64, depth=2, data_scale=SCALE)
    if path is not None and path.exists():
        return pg.load(path, into=prior)
    images, _ = photographs()
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=3e-3, total_steps=steps + 1, pct_start=0.1)
    optimizer = partial(torch.optim.Adam, lr=3e-3)
    images = torch.cat([images, images.flip(-1)])
    pg.fit(prior, images, steps=steps, batch_size=64, optimizer=optimizer, schedule=one_cycle, ema=0.99, seed=0)
    if path is not None:
        pg.save(prior, path)
    return prior


def mixture() -> tuple[dist.MixtureSameFamily, pg.diffusion.Diffusion]:
    """A Gaussian for each photograph, all with one covariance, and the diffusion model that it is exactly."""
    images, labels = photographs()
    rows = images.flatten(1).double()
    means = torch.stack([rows[labels == label].mean(0) for label in labels.unique()])
    within = rows - means[labels]
    covariance = within.T @ within / len(rows) + 1e-3 * torch.eye(SIZE)
    components = dist.MultivariateNormal(means, covariance.expand(len(means), -1, -1))
    found = dist.MixtureSameFamily(dist.Categorical(labels.bincount().double()), components)
    plain = dist.MultivariateNormal(means.float(), covariance.float().expand(len(means), -1, -1))
    alike = dist.MixtureSameFamily(dist.Categorical(labels.bincount().float()), plain)
    return found, pg.diffusion.Diffusion(Images(alike, pg.diffusion.CosineVP()))


class Images(pg.diffusion.GaussianMixtureDenoiser):
    """The same over images."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)
        self.event_shape = SHAPE


class Trial:
    """A prior and a measurement, of which problems are drawn and solved in batches.

    Args:
        prior: The diffusion model.
        density: Its law in closed form, if there is one.
        measured: How many numbers are measured.
        settings: How the method runs.
        settled: How many moves of noise 0.1, without data, truths make after the chain of the prior.
    """

    def __init__(
        self,
        prior: pg.diffusion.Diffusion,
        density: dist.MixtureSameFamily | None,
        measured: int,
        settings: Settings,
        settled: int,
    ) -> None:
        self.prior, self.density, self.settings, self.settled = prior, density, settings, settled
        self.measurement, self.grid = MEASUREMENTS[measured], grid(prior.denoiser.schedule)
        self.fixed = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))

    def model(self, y: Tensor) -> None:
        with pyro.plate("problems", len(y)):
            expected = self.measurement.operator(pyro.sample("x", self.prior()))
            pyro.sample("y", dist.Normal(expected, NOISE).to_event(expected.dim() - 1), obs=y)

    def batch(self, size: int) -> Iterator[dict]:
        """What became of fresh problems, a line each."""
        truth = self._truths(size)
        expected = self.measurement.operator(truth)
        y = expected + NOISE * torch.randn_like(expected)
        start = time.process_time()
        settings = self.settings
        method = settings.method(self.model, site="x", grid=self.grid, backward=settings.backward, **settings.more)
        answer = method.run(y)
        seconds = (time.process_time() - start) / size
        draws = self._draws(answer)  # (draws, problems, *shape)
        below = (draws < truth).sum(0)
        inside = ((below >= 2) & (below <= DRAWS - 2))[:, self.measurement.judged].double().mean(-1)
        values = {name: self._statistic(name, torch.cat([truth[None], draws]), y) for name in STATISTICS}
        ranks = {name: (value[1:] < value[0]).sum(0) for name, value in values.items() if value is not None}
        collapsed = answer.diagnostics().collapsed_problems.expand(size)
        for place in range(size):
            line = {"covered": inside[place].item(), "seconds": seconds, "collapsed": collapsed[place].item()}
            line |= {"ranks": {name: rank[place].item() for name, rank in ranks.items()}}
            yield line | self._own(answer, y, place)

    def _truths(self, size: int) -> Tensor:
        unknowns = Unknowns(InverseProblem(self.model, (self._nothing(size),), {}, "x"))
        reverse: Reverse = split_move(unknowns, self.grid, 0, 4096, self.settings.backward).reverse
        with torch.no_grad():
            rows = reverse.prior(1, unknowns.typical)
            for _ in range(self.settled):
                rows = reverse(rows + NOISE * torch.randn_like(rows), NOISE)
        return rows.reshape(size, *SHAPE)

    def _nothing(self, size: int) -> Tensor:
        return self.measurement.operator(torch.zeros(size, *SHAPE))

    def _draws(self, answer: Answer) -> Tensor:
        if isinstance(answer, SplitGibbs):  # the last draw of each chain, and the middle one
            return answer.get_samples(group_by_chain=True)["x"][:, [9, 19]].flatten(0, 1)[:DRAWS]
        return answer.get_samples()["x"][:DRAWS]

    @torch.no_grad()
    def _statistic(self, name: str, x: Tensor, y: Tensor) -> Tensor | None:
        if name in ("log_likelihood", "log_joint"):
            found = -0.5 * ((y - self.measurement.operator(x)) / NOISE).flatten(2).square().sum(-1)
            if name == "log_likelihood":
                return found
            return None if self.density is None else found + self.density.log_prob(x.flatten(2).double())
        if name == "neighbours":
            return neighbours(x.flatten(0, 1)).reshape(x.shape[:2])
        if name == "mean":
            return x.flatten(2).mean(-1)
        denoiser = self.prior.denoiser
        time = denoiser.schedule.time(torch.tensor(0.2, dtype=torch.double).log() * -2)
        path = denoiser.schedule(time.float())
        noisy = (path.alpha * x + path.sigma * self.fixed).flatten(0, 1)
        return (denoiser(noisy, time.float()).reshape(x.shape) - x).flatten(2).square().mean(-1)

    def _own(self, answer: Answer, y: Tensor, place: int) -> dict:
        if isinstance(answer, SplitGibbs):
            return {}
        diagnostics = answer.diagnostics()
        line = {"log_evidence": answer.log_evidence[place].item(), "passes": diagnostics.passes}
        line |= {"independent": diagnostics.independent[place].item(), "levels": len(diagnostics.widths)}
        return line if self.density is None else line | {"exact": self._exact(y[place]).item()}

    def _exact(self, y: Tensor) -> Tensor:
        """The log evidence of the mixture."""
        matrix = self.measurement.operator(torch.eye(SIZE).reshape(-1, *SHAPE)).flatten(1).T.double()
        components = self.density.component_distribution
        spread = matrix @ components.covariance_matrix[0] @ matrix.T + NOISE**2 * torch.eye(len(matrix))
        found = dist.MultivariateNormal(components.loc @ matrix.T, spread).log_prob(y.flatten().double())
        return (found + self.density.mixture_distribution.logits).logsumexp(-1)


def run(options: argparse.Namespace) -> None:
    """Adds the problems that are missing to the file."""
    lines = known(options.results)
    settings = METHODS[options.method]
    prior, density = (network(options.prior_file, options.fit), None) if options.prior == "network" else mixture()[::-1]
    prior.requires_grad_(False).eval()
    for measured in options.measured:
        mine = {"prior": options.prior, "method": options.method, "measured": measured, "settled": options.settled}
        trial = Trial(prior, density, measured, settings, options.settled)
        done = sum(all(line[key] == value for key, value in mine.items()) for line in lines)
        for first in range(done, options.problems, options.batch):
            pyro.set_rng_seed(first)
            found = trial.batch(min(options.batch, options.problems - first))
            keep((mine | {"problem": first + place} | line for place, line in enumerate(found)), lines, options.results)


def summary(options: argparse.Namespace) -> None:
    """The table of what the file holds."""
    groups: dict[tuple, list[dict]] = {}
    for line in (lines := known(options.results)):
        groups.setdefault((line["prior"], line["method"], line["measured"], line["settled"]), []).append(line)
    rows = [row(*key, found) for key, found in sorted(groups.items())]
    columns = ["prior", "method", "measured", "problems", "in intervals of 90 %", "likelihood", "joint density"]
    columns += ["neighbours", "denoising", "mean", "evidence, nats", "worth", "seconds"]
    table(columns, rows, options.table, lines)


def row(prior: str, method: str, measured: int, settled: int, lines: list[dict]) -> list[str]:
    covered = torch.tensor([line["covered"] for line in lines])
    names = [name for name in STATISTICS if name in lines[0]["ranks"]]
    ranks = {name: torch.tensor([line["ranks"][name] for line in lines]) for name in names}
    found = Calibration(ranks, DRAWS).uniformity()
    p_values = [_p_value(found[name].p_value) if name in found else "" for name in STATISTICS]
    worth = torch.tensor([line.get("independent", float("nan")) for line in lines]).median()
    return [
        f"{prior}{f', settled by {settled} moves' if settled else ''}",
        method,
        str(measured),
        str(len(lines)),
        f"{covered.mean():.1%} ± {covered.std() / len(lines) ** 0.5:.1%}",
        *p_values,
        _evidence(lines),
        "" if worth.isnan() else f"{worth:.0f}",
        f"{sum(line['seconds'] for line in lines) / len(lines):.1f}",
    ]


def _evidence(lines: list[dict]) -> str:
    """The error of the log evidence, its mean and standard deviation, where the exact one is known."""
    errors = torch.tensor([line["log_evidence"] - line["exact"] for line in lines if "exact" in line])
    return f"{errors.mean():.2f} ± {errors.std():.2f}" if len(errors) else ""


def _p_value(value: float) -> str:
    return "**< 0.001**" if value < 0.001 else f"**{value:.3f}**" if value < 0.05 else f"{value:.2f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run")
    running.add_argument("prior", choices=("network", "mixture"))
    running.add_argument("method", choices=METHODS)
    running.add_argument("--measured", type=int, nargs="+", choices=MEASUREMENTS, default=list(MEASUREMENTS))
    running.add_argument("--problems", type=int, default=200)
    running.add_argument("--batch", type=int, default=20, help="how many problems run together")
    running.add_argument("--settled", type=int, default=0, help="moves that truths make without data")
    running.add_argument("--fit", type=int, default=5000, help="training steps of the network")
    running.add_argument("--prior-file", type=Path, help="where the network is kept")
    running.set_defaults(command=run)
    showing = commands.add_parser("table")
    showing.add_argument("--table", type=Path, help="where the documentation takes it from")
    showing.set_defaults(command=summary)
    for command in (running, showing):
        command.add_argument("--results", type=Path, help="a file of results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.command(options)


if __name__ == "__main__":
    main()
