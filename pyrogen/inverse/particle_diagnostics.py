"""Diagnostics of particle filters: how many particles the result rests on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyrogen.numerics.resampling import effective_sample_size

from .answer import FEW, Diagnostics
from .filter import Cloud
from .target import Target

_BIAS = 0.1  # nats, of the steps
_MARKOV = 6.0  # nats


@dataclass(frozen=True)
class PriorEvidence:
    r"""The evidence by draws of the prior: :math:`p(y)` is the average likelihood.

    It is crude where the data are precise, and cannot miss an explanation of them that a draw of the prior finds.

    Attributes:
        value: Its logarithm in nats, ``(problems,)``.
        draws: How many draws there were.
        effective_sample_size: How many of them carry it, ``(problems,)``.
    """

    value: Tensor
    draws: int
    effective_sample_size: Tensor

    def contradicts(self, log_evidence: Tensor, error: Tensor) -> Tensor:
        """Whether another estimate is wrong, given its standard error.

        By Markov's inequality the average likelihood is e^6 times too large with a probability of 0.0025 at most; with
        10 draws that carry it its own error is known.
        """
        own = (1 / self.effective_sample_size - 1 / self.draws).clamp_min(0)
        width = 4 * (own + error.square()).sqrt() + _BIAS
        known = self.effective_sample_size >= FEW / 2
        far = (self.value - log_evidence).abs() > width
        return (known & far) | (self.value - log_evidence > _MARKOV + 4 * error)


def prior_evidence(log_likelihood: Tensor) -> PriorEvidence:
    """The evidence from the log-likelihoods ``(draws, problems)`` of draws of the prior."""
    count = len(log_likelihood)
    value = log_likelihood.double().logsumexp(0) - math.log(count)
    return PriorEvidence(value, count, effective_sample_size(log_likelihood))


@dataclass(frozen=True)
class ParticleDiagnostics(Diagnostics):
    """What happened in a run; with other latent sites, in the last filter of many.

    Then the sweeps are a Markov chain besides, whose effective sample size ArviZ computes.

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
        prior: The evidence by draws of the prior, the pilot run, beside which that of the filter is held; ``None`` with
            other latent sites.
    """

    advice: ClassVar[str] = "use more particles, or another method"

    particles: int
    effective_sample_size: Tensor
    resampled: Tensor
    ancestors: Tensor
    log_evidence: Tensor
    twist: str
    measurements: dict[str, str]
    mapped: bool
    acceptance: dict[str, float] = field(default_factory=dict)
    prior: PriorEvidence | None = None

    @property
    def standard_error(self) -> Tensor:
        """The Monte Carlo error of the logarithm of the last evidence, as the weights show it, ``(problems,)``."""
        lost = torch.cat([self.resampled, torch.ones_like(self.resampled[:1])]) if len(self.resampled) else 1.0
        sizes = self.effective_sample_size
        return ((1 / sizes - 1 / self.particles) * lost).nan_to_num(0.0, posinf=torch.inf).sum(0).clamp_min(0).sqrt()

    @property
    def carried(self) -> Tensor:
        """What is lost before a resampling stays lost; a cloud in which all weights are zero carries nothing."""
        carried = torch.minimum(self.effective_sample_size.amin(0), self.ancestors)
        return torch.where(self.log_evidence[-1].isfinite(), carried, 0.0)

    @property
    def draws(self) -> int:
        """How many particles there were."""
        return self.particles

    @property
    def contradicted(self) -> Tensor:
        """For each problem, whether draws of the prior have another evidence than the filter, beyond both errors.

        Such an answer missed an explanation of the data.
        """
        if self.prior is None:
            return torch.zeros_like(self.log_evidence[-1], dtype=torch.bool)
        return self.prior.contradicts(self.log_evidence[-1], self.standard_error)

    def numbers(self) -> dict[str, Any]:
        return {
            "particles": self.particles,
            "final_effective_sample_size": self.effective_sample_size[-1].min().item(),
            "least_effective_sample_size": self.effective_sample_size.min().item(),
            "surviving_ancestors": int(self.ancestors.min()),
            "twist": self.twist,
        }

    def lines(self) -> list[str]:
        final, least = self.effective_sample_size[-1].min().item(), self.effective_sample_size.min().item()
        lines = [
            f"{self.particles} particles; effective sample size {final:.0f} at the end, {least:.0f} at least",
            f"resampled {self.resampled.sum(0).max():.0f} times; "
            f"{int(self.ancestors.min())} particles of the first level have descendants",
            f"twist {self.twist}; " + ", ".join(f"{name}: {kind}" for name, kind in self.measurements.items()),
        ]
        if not self.mapped:
            lines.append("the model runs particle by particle: it cannot be mapped over particles")
        return lines + [f"{name}: accepted {share:.0%}" for name, share in self.acceptance.items()]

    @property
    def reason(self) -> str:
        if self.contradicted.any():
            return "draws of the prior contradict the evidence, so that explanations of the data are missing"
        return "too few particles carry the answer"


def diagnostics_of(
    cloud: Cloud,
    target: Target,
    twist: object,
    *,
    log_evidence: Tensor | None = None,
    acceptance: dict[str, float] | None = None,
    prior: PriorEvidence | None = None,
) -> ParticleDiagnostics:
    """The diagnostics of a filter, or of the last of many."""
    return ParticleDiagnostics(
        particles=len(cloud.values),
        effective_sample_size=cloud.effective,
        resampled=cloud.resampled,
        ancestors=cloud.roots,
        log_evidence=cloud.log_evidence.unsqueeze(0) if log_evidence is None else log_evidence,
        twist=type(twist).__name__,
        measurements={name: kind.name for name, kind in target.measurements.items()},
        mapped=target.mapped,
        acceptance=acceptance or {},
        prior=prior,
    )
