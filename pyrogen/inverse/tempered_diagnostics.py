"""Diagnostics of tempered SMC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .group_diagnostics import GroupDiagnostics
from .particle_diagnostics import PriorEvidence
from .tempering import Tempering


@dataclass(frozen=True, kw_only=True)
class TemperedDiagnostics(GroupDiagnostics):
    """What happened in a run of tempered SMC.

    Attributes:
        widths: That of the likelihood at each level.
        jumps: The mean squared jump of a particle at each level, of twice the variance of all, ``(levels, problems)``:
            1 where moves forget where they came from.
        noises: The noise that moves added at each level, in data units. The prior has to be the same law there; see
            :func:`~pyrogen.evaluation.self_consistency.self_consistency`.
        passes: How many times the denoiser saw each particle.
    """

    widths: list[float]
    jumps: Tensor
    noises: list[float]
    passes: int

    @classmethod
    def of(cls, run: Tempering, prior: PriorEvidence) -> TemperedDiagnostics:
        """The diagnostics of a finished run."""
        return cls.of_groups(
            run.by_group(),
            run.roots,
            run.log_evidence,
            run.particles,
            widths=run.widths,
            effective_sample_size=torch.stack(run.effective),
            jumps=torch.stack(run.jumps),
            pilots=run.pilots,
            noises=run.noises,
            accepted=run.accepted,
            passes=run.move.reverse.passes,
            prior=prior,
        )

    def numbers(self) -> dict[str, Any]:
        own = {"last_jump": self.jumps[-1].min().item(), "last_noise": self.noises[-1]}
        return super().numbers() | own | {"network_passes": self.passes}

    def lines(self) -> list[str]:
        return [
            *super().lines(),
            f"the last moves went {self.jumps[-1].min():.0%} of the way of independent draws, in mean squares, and "
            f"added noise of {self.noises[-1]:.3g}; {self.passes} passes of the denoiser for each particle",
        ]
