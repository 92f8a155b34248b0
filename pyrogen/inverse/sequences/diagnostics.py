"""Diagnostics of particles that are sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..answer import Diagnostics
from .filter import SequenceFilter


@dataclass(frozen=True)
class SequenceDiagnostics(Diagnostics):
    """What happened in a run of :class:`~pyrogen.inverse.sequences.smc.SequenceSMC`.

    Attributes:
        particles: How many particles there were.
        effective_sample_size: At each place and in the end, ``(places + 1, problems)``: the sum of those of the groups.
        resampled: The share of groups that were resampled at each place, ``(places, problems)``.
        ancestors: How many first particles have descendants among the draws, ``(problems,)``.
        distinct: How many draws differ, ``(problems,)``.
        group_evidence: The log evidence in nats by each group, ``(groups, problems)``.
        twist: The kind of the twist.
        mapped: Whether the program was mapped over particles, and not run one by one.
    """

    advice: ClassVar[str] = "use more particles, or a better twist"

    particles: int
    effective_sample_size: Tensor
    resampled: Tensor
    ancestors: Tensor
    distinct: Tensor
    group_evidence: Tensor
    twist: str
    mapped: bool

    @classmethod
    def of(cls, run: SequenceFilter, draws: Tensor, roots: Tensor, group_evidence: Tensor, mapped: bool) -> Any:
        """The diagnostics of a finished run with draws ``(P, N, M, L, *symbol)``."""
        problems = draws.shape[1]
        return cls(
            particles=len(draws),
            effective_sample_size=torch.stack(run.effective),
            resampled=torch.stack(run.resampled) if run.resampled else draws.new_zeros(0, problems),
            ancestors=torch.tensor([len(column.unique()) for column in roots.T]),
            distinct=torch.tensor([len(part.flatten(1).unique(dim=0)) for part in draws.unbind(1)]),
            group_evidence=group_evidence,
            twist=type(run.twist).__name__,
            mapped=mapped,
        )

    @property
    def draws(self) -> int:
        """How many particles there were."""
        return self.particles

    @property
    def log_evidence(self) -> Tensor:
        """Of all groups together, ``(problems,)``: the logarithm of the mean of their estimates."""
        return self.group_evidence.logsumexp(0) - math.log(len(self.group_evidence))

    @property
    def standard_error(self) -> Tensor:
        """The Monte Carlo error of the log evidence, by the spread over groups, ``(problems,)``; NaN for one."""
        groups = len(self.group_evidence)
        if groups == 1:
            return torch.full_like(self.group_evidence[0], math.nan)
        return groups**0.5 * self.group_evidence.softmax(0).std(0)

    @property
    def carried(self) -> Tensor:
        """What is lost before a resampling stays lost; particles of which none is possible carry nothing."""
        carried = torch.minimum(self.effective_sample_size.amin(0), self.ancestors.to(self.effective_sample_size))
        return torch.where(self.log_evidence.isfinite(), carried, 0.0)

    def numbers(self) -> dict[str, Any]:
        return {
            "particles": self.particles,
            "groups": len(self.group_evidence),
            "final_effective_sample_size": self.effective_sample_size[-1].min().item(),
            "least_effective_sample_size": self.effective_sample_size.min().item(),
            "resamplings": self.resampled.sum(0).max().item(),
            "surviving_ancestors": int(self.ancestors.min()),
            "distinct_draws": int(self.distinct.min()),
            "standard_error": self.standard_error.max().item(),
            "twist": self.twist,
        }

    def lines(self) -> list[str]:
        groups, effective = len(self.group_evidence), self.effective_sample_size
        lines = [
            f"{self.particles} particles in {groups} groups; effective sample size {effective[-1].min():.0f} in the "
            f"end, {effective.min():.0f} at least",
            f"each group resampled {self.resampled.sum(0).max():.0f} times; {int(self.ancestors.min())} of the first "
            f"particles have descendants; {int(self.distinct.min())} draws differ",
            f"twist {self.twist}; log evidence {self.log_evidence.sum():.2f} ± {self.standard_error.norm():.2f}",
        ]
        return lines if self.mapped else [*lines, "the program ran particle by particle: it cannot be mapped over them"]

    @property
    def reason(self) -> str:
        if not bool(self.log_evidence.isfinite().all()):
            return "no particle makes the data possible"
        return "too few particles carry the answer"
