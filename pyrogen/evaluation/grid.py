"""A grid of variational-inference experiments: guide x objective x seed, trained and evaluated alike, in one table.

One run of one guide says little: another seed, another objective or another family may do better, and the loss that
was trained is no fair judge, since objectives differ. Here every run is judged by the same three numbers on the same
data: the evidence lower bound, the importance-weighted bound, and the Pareto k-hat of the weights.

Every guide and objective is tried on the data before any is trained, so that a mistake shows at once; a run that fails
later does not take the finished ones with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import log
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from pyrogen.arguments import integer
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate
from pyrogen.numerics.randomness import seeded
from pyrogen.programs.run import Program
from pyrogen.training.progress import Fit

from .importance import ParetoK, check_draws, importance_log_weights, pareto_k_of
from .table import aligned

if TYPE_CHECKING:
    from pandas import DataFrame

_TRIED = 4096  # data on which an objective is tried; more would take long

MakePair = Callable[[], tuple[Program, Program]]
MakeObjective = Callable[[Program, Program], nn.Module]


@dataclass(frozen=True, repr=False)
class GuideRun:
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

    def __repr__(self) -> str:
        bound = Estimate.of_mean(self.bound, density="lower bound")
        return f"<GuideRun of {self.guide!r} by {self.objective!r}, seed {self.seed}: {bound}; {self.pareto_k}>"


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end.

    Args:
        guide: Name of the model/guide pair.
        objective: Name of the objective.
        seed: Of the run.
        reason: What went wrong.
    """

    guide: str
    objective: str
    seed: int
    reason: str


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
        failed: How many seeds failed. The numbers are those of the others, which may be the lucky ones.
    """

    guide: str
    objective: str
    elbo: Estimate
    bound: Estimate
    pareto_k: Estimate
    share_above: float
    seconds: Estimate
    failed: int = 0


@dataclass(frozen=True, repr=False)
class GuideGrid:
    """All runs, and their table.

    Args:
        runs: One for each guide, objective and seed, as far as they came to their end.
        failures: The others.
    """

    runs: tuple[GuideRun, ...]
    failures: tuple[Failure, ...] = ()

    def cells(self) -> Iterator[Cell]:
        """The table, a line for each guide and objective with a finished run, in the order they were given."""
        for guide, objective in dict.fromkeys((run.guide, run.objective) for run in self.runs):
            failed = sum((failure.guide, failure.objective) == (guide, objective) for failure in self.failures)
            yield _cell(guide, objective, self._of(guide, objective), failed)

    def difference(self, first: tuple[str, str], second: tuple[str, str]) -> Estimate:
        """How much higher the bound of the first cell is, in nats per datum, paired over the seeds that both finished.

        Args:
            first: Guide and objective.
            second: Guide and objective.

        Raises:
            ValueError: there is no such cell, or no seed that both finished.
        """
        bounds = [{run.seed: float(run.bound.mean()) for run in self._of(*cell)} for cell in (first, second)]
        common = [seed for seed in bounds[0] if seed in bounds[1]]
        if not common:
            raise ValueError(
                f"`first` and `second` must have a seed in common, got {list(bounds[0])}, {list(bounds[1])}"
            )
        differences = [bounds[0][seed] - bounds[1][seed] for seed in common]
        return Estimate.of_mean(_over_seeds(differences), density="estimate")

    def to_dataframe(self) -> DataFrame:
        """A row for each run: its results, or why it failed."""
        from pandas import DataFrame

        rows = [
            {
                "guide": run.guide,
                "objective": run.objective,
                "seed": run.seed,
                "elbo": float(run.elbo.mean()),
                "bound": float(run.bound.mean()),
                "pareto_k": float(run.pareto_k.values.median()),
                "share_above": run.pareto_k.share_above,
                "effective_sample_size": float(run.pareto_k.effective_sample_size.median()),
                "seconds": run.seconds,
                "failure": None,
            }
            for run in self.runs
        ]
        rows += [
            {"guide": lost.guide, "objective": lost.objective, "seed": lost.seed, "failure": lost.reason}
            for lost in self.failures
        ]
        return DataFrame(rows)

    def _of(self, guide: str, objective: str) -> list[GuideRun]:
        runs = [run for run in self.runs if (run.guide, run.objective) == (guide, objective)]
        if not runs:
            known = sorted({(run.guide, run.objective) for run in self.runs})
            raise ValueError(f"`first` and `second` must be cells of the grid, {known}, got {(guide, objective)}")
        return runs

    def __str__(self) -> str:
        draws = len(self.runs[0].log_weights)
        lines = [("guide", "objective", "ELBO", f"bound of {draws} draws", "k-hat", "above", "seconds", "")]
        for cell in self.cells():
            shown = [number.rounded() for number in (cell.elbo, cell.bound, cell.pareto_k)]
            failed = f"{cell.failed} failed" if cell.failed else ""
            others = (f"{cell.share_above:.0%}", f"{cell.seconds.value:.1f}", failed)
            lines.append((cell.guide, cell.objective, *shown, *others))
        lost = [f"failed: {f.guide} by {f.objective}, seed {f.seed}: {f.reason}" for f in self.failures]
        return "\n".join([aligned(lines), *lost])

    def __repr__(self) -> str:
        return f"<GuideGrid of {len(self.runs)} runs, lower bounds in nats per datum>\n{self}"


@takes_arrays
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
        seeds: Of initial weights, data order and noise, each another.
        draws: How many draws for each datum the judging bound takes, at least 25.
        whole: The data are one datum, as for a model with latents outside the data plate.

    Returns:
        All runs. Those that fail in training or judging are listed with their reason, with a warning.

    Raises:
        NotImplementedError: a site's ``log_prob`` is a bound, unnormalized, missing or noisy.
        TypeError: a maker is no function, or a seed no integer.
        ValueError: there is nothing to run, there are fewer than 25 draws, or a pair or an objective does not fit the
            data, which is tried before anything is trained.
        Exception: that of the first run, if all fail.

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
        if not len(entries):
            raise ValueError(f"`{name}` must hold at least one entry, got none")
    for seed in seeds:
        integer(seed, "seeds", least=0)
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"`seeds` must differ, got {tuple(seeds)}")
    check_draws(draws)
    for name, makers in {"pairs": pairs, "objectives": objectives, "fit": {"fit": fit}}.items():
        strange = [key for key, maker in makers.items() if not callable(maker)]
        if strange:
            raise TypeError(f"`{name}` must hold functions, got {type(makers[strange[0]]).__name__} for {strange[0]!r}")

    def run(pair: str, objective: str, seed: int) -> GuideRun:
        with seeded(seed), pyro.get_param_store().scope():  # guides of one class have equal parameter names
            programs = pairs[pair]()
            start = perf_counter()
            fit(_objective(objectives[objective], programs), data, seed=seed)
            seconds = perf_counter() - start
            log_weights = importance_log_weights(*programs, *held_out, draws=draws, whole=whole)
        return GuideRun(pair, objective, seed, log_weights, pareto_k_of(log_weights), seconds, programs)

    cells = [(pair, objective) for pair in pairs for objective in objectives]
    for pair, objective in cells:
        _try(pair, objective, pairs[pair], objectives[objective], data, held_out, seed=seeds[0], whole=whole)
    runs, failures, errors = [], [], []
    for cell in cells:
        for seed in seeds:
            try:
                runs.append(run(*cell, seed))
            except Exception as error:  # training may fail in any way, and the finished runs took long
                failures.append(Failure(*cell, seed, f"{type(error).__name__}: {error}".splitlines()[0]))
                errors.append(error)
    if not runs:
        raise errors[0]
    if failures:
        lost = "; ".join(f"{f.guide} by {f.objective}, seed {f.seed} ({f.reason})" for f in failures)
        warnings.warn(f"{len(failures)} of {len(cells) * len(seeds)} runs failed: {lost}", UserWarning, stacklevel=2)
    return GuideGrid(tuple(runs), tuple(failures))


def _try(
    pair: str,
    objective: str,
    make_pair: MakePair,
    make_objective: MakeObjective,
    data: Any,
    held_out: tuple,
    *,
    seed: int,
    whole: bool,
) -> None:
    """Runs a pair and an objective once on the data, without training.

    Raises:
        Exception: that of the programs, with a note on which cell it is.
    """
    try:
        with seeded(seed), pyro.get_param_store().scope():
            programs = make_pair()
            importance_log_weights(*programs, *held_out, draws=1, whole=whole)
            tried = _objective(make_objective, programs)
            entries = data if isinstance(data, tuple) else (data,)
            if all(isinstance(entry, Tensor) and len(entry) <= _TRIED for entry in entries):
                with torch.no_grad():
                    tried(*entries)
    except Exception as error:
        error.add_note(f"This is guide {pair!r} by objective {objective!r} of the grid; nothing was trained yet.")
        raise


def _objective(make: MakeObjective, programs: tuple[Program, Program]) -> nn.Module:
    return deepcopy(make)(*programs)  # Pyro's ELBOs remember their first model's plates


def _cell(guide: str, objective: str, runs: list[GuideRun], failed: int) -> Cell:
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
        failed,
    )


def _over_seeds(values: list) -> Tensor:
    return torch.tensor([float(value) for value in values], dtype=torch.double)
