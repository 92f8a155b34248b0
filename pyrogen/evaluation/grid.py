"""A grid of variational-inference experiments: guide x objective x seed, trained alike and judged alike, in one table.

One run of one guide says little: another seed, another objective or another family may do better, and the loss that
was trained is no fair judge, since objectives differ. Here every run is judged by the same three figures on the same
data: the evidence lower bound, the importance-weighted bound, and the Pareto k-hat of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import log
from time import perf_counter
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyrogen.core.progress import Fit
from pyrogen.core.randomness import seeded

from .importance import ParetoK, importance_log_weights, pareto_k_of
from .result import Estimate
from .sites import Program

MakePair = Callable[[], tuple[Program, Program]]
MakeObjective = Callable[[Program, Program], nn.Module]


@dataclass(frozen=True)
class Run:
    """One cell of the grid for one seed.

    Args:
        guide: Name of the model/guide pair.
        objective: Name of the objective.
        seed: Of the initial weights, the data order and all noise.
        log_weights: Of the held-out data, ``(draws, rows)``, in nats.
        pareto_k: Their k-hats.
        seconds: How long training took.
        pair: The trained model and guide. Pyro's own guides share parameter names, so run each pair inside a
            ``pyro.get_param_store().scope()`` of its own.
    """

    guide: str
    objective: str
    seed: int
    log_weights: Tensor
    pareto_k: ParetoK
    seconds: float
    pair: tuple[Program, Program]

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound of each datum, in nats."""
        return self.log_weights.mean(0)

    @property
    def bound(self) -> Tensor:
        """The importance-weighted bound of each datum, in nats."""
        return self.log_weights.logsumexp(0) - log(len(self.log_weights))


@dataclass(frozen=True)
class Cell:
    """Guide and objective over all seeds. Standard errors are over seeds, with the data held fixed.

    Args:
        guide: Name of the model/guide pair.
        objective: Name of the objective.
        elbo: Held-out evidence lower bound, in nats per datum.
        bound: Held-out importance-weighted bound, in nats per datum.
        pareto_k: The median k-hat over the data.
        share_above: The share of data whose k-hat says that the weights cannot be trusted.
        seconds: Training time.
    """

    guide: str
    objective: str
    elbo: Estimate
    bound: Estimate
    pareto_k: Estimate
    share_above: float
    seconds: Estimate


@dataclass(frozen=True)
class GuideGrid:
    """All runs, and their table.

    Args:
        runs: One for each guide, objective and seed.
    """

    runs: tuple[Run, ...]

    def cells(self) -> Iterator[Cell]:
        """The table, a line for each guide and objective, in the order they were given."""
        for guide, objective in dict.fromkeys((run.guide, run.objective) for run in self.runs):
            yield _cell(guide, objective, self._of(guide, objective))

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> Estimate:
        """How much higher the bound of the first cell is, in nats per datum, paired over seeds.

        Args:
            first: Guide and objective.
            second: Guide and objective.

        Raises:
            ValueError: there is no such cell.
        """
        bounds = [_over_seeds([run.bound.mean() for run in self._of(*cell)]) for cell in (first, second)]
        return Estimate.of_mean(bounds[0] - bounds[1], density="estimate")

    def _of(self, guide: str, objective: str) -> list[Run]:
        runs = [run for run in self.runs if (run.guide, run.objective) == (guide, objective)]
        if not runs:
            known = sorted({(run.guide, run.objective) for run in self.runs})
            raise ValueError(f"`first` and `second` must be cells of the grid, {known}, got {(guide, objective)}")
        return runs

    def __str__(self) -> str:
        draws = len(self.runs[0].log_weights)
        lines = [("guide", "objective", "ELBO", f"bound of {draws} draws", "k-hat", "above", "seconds")]
        for cell in self.cells():
            numbers = (cell.elbo, cell.bound, cell.pareto_k)
            figures = [str(Estimate(n.value, n.standard_error, "", None)).strip() for n in numbers]
            lines.append((cell.guide, cell.objective, *figures, f"{cell.share_above:.0%}", f"{cell.seconds.value:.1f}"))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def grid(
    pairs: Mapping[str, MakePair],
    objectives: Mapping[str, MakeObjective],
    data: tuple,
    held_out: tuple,
    *,
    fit: Callable[..., Fit],
    seeds: Sequence[int] = (0, 1, 2),
    draws: int = 1000,
    whole: bool = False,
) -> GuideGrid:
    """Trains every guide by every objective for every seed, and judges all of them on the same held-out data.

    Args:
        pairs: By name, what makes a fresh model and guide. A model without parameters may be the same each time:
            ``lambda: (model, AutoNormal(model))``.
        objectives: By name, what makes an objective of model and guide: ``pg.Elbo``, Pyro's ``Trace_ELBO()``,
            ``RenyiELBO``-like ones that are modules, or a function.
        data: What the objective is trained on, as ``fit`` takes it.
        held_out: What model and guide are called with to judge them: rows first.
        fit: ``pg.fit`` with its options, as ``partial(pg.fit, steps=1000)``; called as
            ``fit(objective, data, seed=…)``.
        seeds: Of initial weights, data order and noise.
        draws: How many draws for each datum the judging bound takes, at least 25.
        whole: The data are one datum, as for a model with latents outside the data plate.

    Raises:
        NotImplementedError: a site's ``log_prob`` is a bound, unnormalised, missing or noisy.
        ValueError: there is nothing to run, there are fewer than 25 draws, or a pair does not fit the data.

    Example:
        >>> from functools import partial
        >>> import pyrogen as pg
        >>> def small():
        ...     vae = pg.latent.vae((3,), latent_shape=(2,), hidden=(8,))
        ...     return vae.model, vae.guide
        >>> x = torch.randn(60, 3)
        >>> result = grid({"vae": small}, {"ELBO": pg.Elbo}, (x,), (x[:10],), fit=partial(pg.fit, steps=5), draws=30)
        >>> len(result.runs)
        3
    """
    for name, entries in {"pairs": pairs, "objectives": objectives, "seeds": seeds}.items():
        if not entries:
            raise ValueError(f"`{name}` must hold at least one entry, got none")
    if draws < 25:
        raise ValueError(f"`draws` must be at least 25, so that there is a tail to fit, got {draws}")

    def run(pair: str, objective: str, seed: int) -> Run:
        with seeded(seed), pyro.get_param_store().scope():  # guides of one class have equal parameter names
            programs = pairs[pair]()
            start = perf_counter()
            make_objective = deepcopy(objectives[objective])  # Pyro's ELBOs remember their first model's plates
            fit(make_objective(*programs), data, seed=seed)
            seconds = perf_counter() - start
            log_weights = importance_log_weights(*programs, *held_out, draws=draws, whole=whole)
        return Run(pair, objective, seed, log_weights, pareto_k_of(log_weights), seconds, programs)

    return GuideGrid(tuple(run(pair, objective, seed) for pair in pairs for objective in objectives for seed in seeds))


def _cell(guide: str, objective: str, runs: list[Run]) -> Cell:
    def over_seeds(values: list, unit: str = "nats", density: Any = "lower bound") -> Estimate:
        return Estimate.of_mean(_over_seeds(values), unit=unit, density=density)

    return Cell(
        guide,
        objective,
        over_seeds([run.elbo.mean() for run in runs]),
        over_seeds([run.bound.mean() for run in runs]),
        over_seeds([run.pareto_k.values.median() for run in runs], "", None),
        float(_over_seeds([run.pareto_k.share_above for run in runs]).mean()),
        over_seeds([run.seconds for run in runs], "seconds", None),
    )


def _over_seeds(values: list) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.double)
