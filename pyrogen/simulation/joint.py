"""The joint distribution of a program's latent and observed sites, known by simulation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrogen.arguments import function
from pyrogen.numerics.randomness import held, seeded
from pyrogen.programs.dependence import Dependence, dependence
from pyrogen.programs.layouts import LayoutMismatch
from pyrogen.programs.run import Given, Program, run

from .runs import FailedRun, Runs, undisturbed
from .simulations import Simulations
from .variable import Variable, variable_of


class Joint:
    """The joint distribution of a program's latent and observed sites, known by simulation.

    Args:
        program: A Pyro program.
        observed: The names of its observed sites.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        nuisance: Names of latent sites that are not learned.
        sizes: By plate, the least and the largest number of rows that a simulation keeps.
        vectorized: Whether many simulations run at once; found out if ``None``.
    """

    def __init__(
        self,
        program: Program,
        *,
        observed: str | Sequence[str],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        nuisance: str | Sequence[str] = (),
        sizes: Mapping[str, tuple[int, int]] | None = None,
        vectorized: bool | None = None,
    ) -> None:
        self.program = function(program, "program")
        self.args, self.kwargs = tuple(args), dict(kwargs or {})
        observed = (observed,) if isinstance(observed, str) else tuple(observed)
        nuisance = (nuisance,) if isinstance(nuisance, str) else tuple(nuisance)
        with held(), undisturbed(program):
            found = run(program, self.args, self.kwargs, free=True)
            self.dependence: Dependence = dependence(self._free, self.args, self.kwargs)
        variables = {name: variable_of(site) for name, site in found.statements.items()}
        self.observed = {name: variables[name] for name in observed}
        self.nuisance = {name: variables[name] for name in nuisance}
        self.latents: dict[str, Variable] = {
            name: variables[name] for name in found.sites if name not in self.observed and name not in self.nuisance
        }
        width = max((len(variable.batch_shape) for variable in variables.values()), default=0)
        kept = {**self.latents, **self.nuisance, **self.observed}
        self._runs = Runs(
            program, self.args, self.kwargs, {name: v for name, v in variables.items() if name in kept}, width
        )
        self.vectorized = self._works_together() if vectorized is None else vectorized

    def draw(self, n: int, *, seed: int | None = None, batch_size: int = 1024) -> Simulations:
        """Simulations."""
        return self._simulated(n, {}, seed, batch_size)

    def prior(self, n: int, *, seed: int | None = None, batch_size: int = 1024) -> dict[str, Tensor]:
        """Latent values alone; the program is left after the last of them."""
        with seeded(seed), undisturbed(self.program):
            return self._values(n, {}, set(self.latents), batch_size)

    def simulate(
        self, latents: Mapping[str, Tensor], *, seed: int | None = None, batch_size: int = 1024
    ) -> Simulations:
        """Observed values at given latent values."""
        return self._simulated(len(next(iter(latents.values()))), latents, seed, batch_size)

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        for _ in range(100):
            yield self._simulated(128, {}, None, 128).entries

    def __call__(self, size: int | None = None) -> Any:
        """The program under one data plate of ``size`` rows."""
        with pyro.plate("_simulations", size or 1, dim=-self._runs.width - 1), Given({}, free=True):
            return self.program(*self.args, **self.kwargs)

    def _simulated(self, n: int, given: Mapping[str, Tensor], seed: int | None, batch_size: int) -> Simulations:
        wanted = set(self.latents) | set(self.observed)
        with seeded(seed), undisturbed(self.program):
            values = self._values(n, given, wanted, batch_size)
        return Simulations({k: values[k] for k in self.latents}, {k: values[k] for k in self.observed})

    def _values(self, n: int, given: Mapping[str, Tensor], wanted: set[str], batch_size: int) -> dict[str, Tensor]:
        parts = []
        for start in range(0, n, batch_size):
            rows = range(start, min(start + batch_size, n))
            own = {name: value[rows.start : rows.stop] for name, value in given.items()}
            if self.vectorized:
                parts.append(self._runs.together(len(rows), own, wanted))
                continue
            found = [self._runs.one({k: v[i] for k, v in own.items()}, wanted) for i in range(len(rows))]
            parts.append({name: torch.stack([each[name] for each in found]) for name in found[0]})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _free(self, *args: Any, **kwargs: Any) -> Any:
        with Given({}, free=True):
            return self.program(*args, **kwargs)

    def _works_together(self) -> bool:
        with held(), undisturbed(self.program):
            try:
                self._runs.together(7, {}, set(self.latents) | set(self.observed))
            except (FailedRun, LayoutMismatch):
                return False
        return True
