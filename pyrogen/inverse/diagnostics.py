"""Diagnostics: how much of the answer rests on how few particles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .filter import Cloud
from .likelihood import Likelihood

_FEW = 20  # particles that carry the answer; below, quantiles and spreads mean little


@dataclass(frozen=True)
class Diagnostics:
    """What happened in a run; with other latent sites, in the last filter of many.

    Then the sweeps are a Markov chain besides, whose effective sample size ArviZ knows.

    Attributes:
        particles: How many particles there were.
        effective_sample_size: Before each step and at the end, ``(steps + 1, problems)``.
        resampled: At which steps each problem was resampled, ``(steps, problems)``.
        ancestors: How many particles of the first level have descendants at the end, ``(problems,)``.
        log_evidence: Of each filter: ``(filters, problems)``. That of a sweep keeps a particle of the one before, and
            its exponential is not unbiased: too large where few particles survive.
        twist: The twist used.
        measurements: By observed site, how it entered the twist.
        mapped: Whether the model ran under ``vmap``, or particle by particle.
        acceptance: By other latent site, the share of sweeps in which a proposal was accepted; 1 for Gibbs moves.
    """

    particles: int
    effective_sample_size: Tensor
    resampled: Tensor
    ancestors: Tensor
    log_evidence: Tensor
    twist: str
    measurements: dict[str, str]
    mapped: bool
    acceptance: dict[str, float] = field(default_factory=dict)

    @property
    def collapsed_problems(self) -> Tensor:
        """For each problem, whether fewer than 20 particles carry its answer, at the end or by descent.

        A cloud in which all weights were zero at some step carries nothing.
        """
        carried = torch.minimum(self.effective_sample_size[-1], self.ancestors)
        dead = (self.effective_sample_size == 0).any(0) | ~self.log_evidence[-1].isfinite()
        return (carried < min(_FEW, self.particles)) | dead

    @property
    def collapsed(self) -> bool:
        """Whether the answer of some problem has collapsed."""
        return bool(self.collapsed_problems.any())

    def attributes(self) -> dict[str, Any]:
        """Single numbers and words, as files keep them."""
        return {
            "particles": self.particles,
            "final_effective_sample_size": self.effective_sample_size[-1].min().item(),
            "least_effective_sample_size": self.effective_sample_size.min().item(),
            "surviving_ancestors": int(self.ancestors.min()),
            "twist": self.twist,
            "collapsed": int(self.collapsed),
        }

    def __str__(self) -> str:
        final, least = self.effective_sample_size[-1].min().item(), self.effective_sample_size.min().item()
        lines = [
            f"{self.particles} particles; effective sample size {final:.0f} at the end, {least:.0f} at least",
            f"resampled {self.resampled.sum(0).max():.0f} times; "
            f"{int(self.ancestors.min())} particles of the first level have descendants",
            f"twist {self.twist}; " + ", ".join(f"{name}: {kind}" for name, kind in self.measurements.items()),
        ]
        if not self.mapped:
            lines.append("the model runs particle by particle: it cannot be mapped over particles")
        lines += [f"{name}: accepted {share:.0%}" for name, share in self.acceptance.items()]
        if self.collapsed:
            lines.append(f"COLLAPSED{self._where()}: too few particles carry the answer; use more, or another method")
        return "\n".join(lines)

    def _where(self) -> str:
        bad = self.collapsed_problems
        return f" in {int(bad.sum())} of {len(bad)} problems" if len(bad) > 1 else ""


def diagnostics_of(
    cloud: Cloud,
    likelihood: Likelihood,
    twist: object,
    *,
    log_evidence: Tensor | None = None,
    acceptance: dict[str, float] | None = None,
) -> Diagnostics:
    """The diagnostics of a filter, or of the last of many."""
    return Diagnostics(
        particles=len(cloud.values),
        effective_sample_size=cloud.effective,
        resampled=cloud.resampled,
        ancestors=cloud.roots,
        log_evidence=cloud.log_evidence.unsqueeze(0) if log_evidence is None else log_evidence,
        twist=type(twist).__name__,
        measurements={name: type(kind).__name__ for name, kind in likelihood.measurements.items()},
        mapped=likelihood.mapped,
        acceptance=acceptance or {},
    )
