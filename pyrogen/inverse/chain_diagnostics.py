"""Diagnostics of Markov chains: whether they have mixed, and how many independent draws theirs are worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrogen.numerics.markov.convergence import (
    bulk_effective_sample_size,
    energy_mixing,
    local_r_hat,
    r_hat,
    tail_effective_sample_size,
)

from .answer import Diagnostics

_APART = 1.1  # R-hat of chains that have not met
_STAYED = 1.5  # local R-hat of chains that stay on one side of some number: more varies between them than within
_LONG = 20  # draws, in which a chain that works moves
_LOST = 0.01  # of the draws, at which the integrator failed: chains miss a part of the posterior
_SLOW = 0.2  # of the spread of energies, covered by one move


@dataclass(frozen=True)
class ChainDiagnostics(Diagnostics):
    """How far Markov chains got.

    Attributes:
        draws: How many draws were kept, of all chains.
        chains: How many chains there are.
        effective_sample_size: By site, of each of its numbers, in data space: what the draws are worth for its centre.
        tail_effective_sample_size: The same for its 5 % and 95 % quantiles.
        r_hat: By site, of each of its numbers: the chains, and the halves of each, against each other.
        local_r_hat: The same of whether a draw lies below some number, at the number where it is largest. Where a few
            of many chains have a mode of their own, it is infinite.
        divergences: At how many draws the integrator failed.
        acceptance: The average acceptance probability.
        stuck: How many chains never moved.
        energy_mixing: How much of the spread of energies one move covers (E-BFMI); NaN if unknown.
        seconds: How long the draws took; NaN if unknown.
        warmup_seconds: How long it took to warm up; NaN if unknown.
    """

    draws: int
    effective_sample_size: dict[str, Tensor]
    tail_effective_sample_size: dict[str, Tensor]
    r_hat: dict[str, Tensor]
    local_r_hat: dict[str, Tensor]
    divergences: int
    acceptance: float
    chains: int = 1
    stuck: int = 0
    energy_mixing: float = float("nan")
    seconds: float = float("nan")
    warmup_seconds: float = float("nan")

    def of(self, sites: Iterable[str]) -> ChainDiagnostics:
        """Those of some of the sites."""
        found = {name: of for name, of in vars(self).items() if isinstance(of, dict)}
        kept = set(sites)
        return replace(self, **{name: {s: of[s] for s in of if s in kept} for name, of in found.items()})

    @property
    def least(self) -> float:
        """The smallest effective sample size of any number; numbers that never change, such as zeros, do not count."""
        return min((found.min().item() for found in _known(self.effective_sample_size)), default=float("nan"))

    @property
    def least_in_tails(self) -> float:
        """The same for the tails."""
        return min((found.min().item() for found in _known(self.tail_effective_sample_size)), default=float("nan"))

    @property
    def largest_r_hat(self) -> float:
        """That of the number on which chains differ most."""
        return max((found.max().item() for found in _known(self.r_hat)), default=float("nan"))

    @property
    def largest_local_r_hat(self) -> float:
        """The same, where chains differ most."""
        return max((found.max().item() for found in _known(self.local_r_hat)), default=float("nan"))

    @property
    def per_second(self) -> float:
        """How many independent draws a second gave, after warming up."""
        return self.least / self.seconds

    @property
    def carried(self) -> Tensor:
        return torch.tensor(self.least)

    @property
    def contradicted(self) -> Tensor:
        """Whether chains or their halves disagree, or moves failed in a part of the posterior."""
        return torch.tensor(bool(self._faults()))

    @property
    def reason(self) -> str:
        return "; ".join(self._faults()) or super().reason

    def _faults(self) -> list[str]:
        apart = not self.largest_r_hat < _APART
        many = self.chains > 1
        faults = {
            "the chains have not mixed: they may each have found a mode of their own": apart and many,
            "the chain has not converged": apart and not many,
            "some chains stay where others never come: they may have found a mode of their own": (
                not apart and self.largest_local_r_hat > _STAYED
            ),
            f"{self.stuck} of {self.chains} chains never moved": self.stuck > 0 and self.draws >= _LONG * self.chains,
            "the integrator fails where the posterior is narrow, which chains then miss": (
                self.divergences > _LOST * self.draws
            ),
            "energies change too slowly for the tails": self.energy_mixing < _SLOW,
        }
        return [fault for fault, found in faults.items() if found]

    def numbers(self) -> dict[str, Any]:
        return {
            "least_effective_sample_size": self.least,
            "least_tail_effective_sample_size": self.least_in_tails,
            "largest_r_hat": self.largest_r_hat,
            "largest_local_r_hat": self.largest_local_r_hat,
            "stuck_chains": self.stuck,
            "divergences": self.divergences,
            "acceptance_rate": self.acceptance,
            "energy_mixing": self.energy_mixing,
            "sampling_time": self.seconds,
            "tuning_time": self.warmup_seconds,
        }

    def lines(self) -> list[str]:
        of = f" of {self.chains} chains" if self.chains > 1 else ""
        lines = [
            f"{self.draws} draws{of} worth {self.least:.0f} independent ones at least, in the tails "
            f"{self.least_in_tails:.0f}; R-hat at most {self.largest_r_hat:.2f}",
            f"{self.divergences} divergences; acceptance {self.acceptance:.0%}",
        ]
        if self.seconds > 0:
            lines.append(
                f"{self.per_second:.3g} independent draws a second, after {self.warmup_seconds:.3g} s to warm up"
            )
        return lines


def chain_diagnostics(
    draws: Mapping[str, Tensor],
    *,
    divergences: int,
    acceptance: float,
    energy: Tensor | None = None,
    seconds: float = float("nan"),
    warmup_seconds: float = float("nan"),
) -> ChainDiagnostics:
    """The diagnostics of draws.

    Args:
        draws: By site, ``(chains, draws, *shape)``; sites over integers do not count.
        divergences: At how many draws the integrator failed.
        acceptance: The average acceptance probability.
        energy: Of the draws, ``(chains, draws)``.
        seconds: How long the draws took.
        warmup_seconds: How long it took to warm up.
    """
    counted = {name: value for name, value in draws.items() if value.is_floating_point()}
    chains, count = next(iter(draws.values())).shape[:2]
    return ChainDiagnostics(
        draws=chains * count,
        chains=chains,
        effective_sample_size={name: bulk_effective_sample_size(value) for name, value in counted.items()},
        tail_effective_sample_size={name: tail_effective_sample_size(value) for name, value in counted.items()},
        r_hat={name: r_hat(value) for name, value in counted.items()},
        local_r_hat={name: local_r_hat(value) for name, value in counted.items()},
        divergences=divergences,
        acceptance=acceptance,
        stuck=_stuck(counted.values()),
        energy_mixing=float("nan") if energy is None else energy_mixing(energy).item(),
        seconds=seconds,
        warmup_seconds=warmup_seconds,
    )


def _stuck(draws: Iterable[Tensor]) -> int:
    """In how many chains no number ever changed."""
    still = [(value == value[:, :1]).flatten(1).all(1) for value in draws]
    return int(torch.stack(still).all(0).sum()) if still else 0


def _known(found: Mapping[str, Tensor]) -> list[Tensor]:
    """Those of numbers that change."""
    known = [value[~value.isnan()] for value in found.values()]
    return [value for value in known if value.numel()]
