"""Diagnostics of particles in independent groups: whether groups that know nothing of each other agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pyrogen.numerics.markov.convergence import r_hat
from pyrogen.numerics.resampling import effective_sample_size

from .answer import Diagnostics
from .particle_diagnostics import PriorEvidence

_APART = 1.1  # R-hat of groups that disagree
_MILLION = 4.75  # standard deviations beyond which one number in a million lies


@dataclass(frozen=True, kw_only=True)
class GroupDiagnostics(Diagnostics):
    """What happened in a run of particles in groups.

    Attributes:
        particles: How many particles there were.
        effective_sample_size: On the way to each level, as a share of what was weighed, ``(levels, problems)``.
        ancestors: Of how many draws of the prior the particles are, ``(problems,)``.
        group_evidence: The log evidence in nats by each group, ``(groups, problems)``.
        pilots: How many groups, the first ones, are left out of the evidence, since moves were fitted to them.
        independent: How many independent draws the particles are worth, by the spread of the means of the groups,
            ``(problems,)``; NaN for a single group.
        r_hat: Of the number on which groups differ most, ``(problems,)``; NaN for a single group.
        accepted: The share of particles that moved at each level; all of them where moves are Gibbs moves.
        prior: The evidence by draws of the prior.
    """

    advice: ClassVar[str] = "use more moves or more particles"

    particles: int
    effective_sample_size: Tensor
    ancestors: Tensor
    group_evidence: Tensor
    pilots: int
    independent: Tensor
    r_hat: Tensor
    accepted: list[float]
    prior: PriorEvidence

    @classmethod
    def of_groups(cls, groups: Tensor, roots: Tensor, log_evidence: Tensor, particles: int, **numbers: Any) -> Self:
        """The diagnostics of particles that have arrived.

        Args:
            groups: The particles of each group, ``(G, K, N, D)``.
            roots: Of which draw of the prior each is, ``(G K, N)``.
            log_evidence: By group, ``(G, N)``.
            particles: How many there were.
            numbers: All other attributes.
        """
        several = len(groups) > 1
        unknown = groups.new_full((groups.shape[2],), math.nan)
        return cls(
            particles=particles,
            ancestors=groups.new_tensor([column.unique().numel() for column in roots.T]),
            group_evidence=log_evidence,
            independent=_independent(groups, log_evidence).clamp(max=particles) if several else unknown,
            r_hat=r_hat(groups).nan_to_num(1.0, posinf=math.inf).amax(-1) if several else unknown,
            **numbers,
        )

    @property
    def draws(self) -> int:
        """How many particles there were."""
        return self.particles

    @property
    def log_evidence(self) -> Tensor:
        """Of all groups but pilots together, ``(problems,)``: the logarithm of the mean of their estimates."""
        return self._counted.logsumexp(0) - math.log(len(self._counted))

    @property
    def standard_error(self) -> Tensor:
        """The Monte Carlo error of the log evidence, by the spread over groups; of one group by its weights."""
        groups = len(self._counted)
        if groups > 1:
            shares = self._counted.softmax(0)
            return groups**0.5 * shares.std(0)
        return ((1 / self.effective_sample_size - 1) / (self.particles // len(self.group_evidence))).sum(0).sqrt()

    @property
    def _counted(self) -> Tensor:
        return self.group_evidence[self.pilots :]

    @property
    def carried(self) -> Tensor:
        return torch.where(self.independent.isnan(), self.ancestors, self.independent)

    @property
    def contradicted(self) -> Tensor:
        """For each problem, whether groups disagree, or draws of the prior have another evidence."""
        return self.apart | self.prior.contradicts(self.log_evidence, self.standard_error)

    @property
    def apart(self) -> Tensor:
        """For each problem, whether groups disagree on a number, by R-hat and more than by chance.

        R-hat is the largest of many numbers, and is far above one by chance where groups are worth few draws each.
        """
        groups = len(self.group_evidence)
        share = 2 / (9 * max(groups - 1, 1))
        chance = (1 - share + _MILLION * share**0.5) ** 3  # of chi squared over its degrees of freedom
        return (self.r_hat > _APART) & (self.r_hat.square() - 1 > chance * groups / self.independent)

    @property
    def reason(self) -> str:
        if self.apart.any():
            return "independent groups of particles disagree"
        if self.contradicted.any():
            return "draws of the prior contradict the evidence, so that explanations of the data are missing"
        return "too few independent draws carry the answer"

    def numbers(self) -> dict[str, Any]:
        return {
            "particles": self.particles,
            "groups": len(self.group_evidence),
            "levels": len(self.effective_sample_size),
            "independent_draws": self.independent.min().item(),
            "largest_r_hat": self.r_hat.max().item(),
            "least_effective_sample_size": self.effective_sample_size.min().item(),
            "least_acceptance": min(self.accepted),
            "surviving_ancestors": int(self.ancestors.min()),
        }

    def lines(self) -> list[str]:
        groups = len(self.group_evidence)
        agreement = (
            f"{self.particles} particles in {groups} groups, worth {self.independent.min():.0f} independent ones; "
            f"R-hat over groups at most {self.r_hat.max():.2f}"
        )
        return [
            agreement if groups > 1 else f"{self.particles} particles in one group, which has nothing to agree with",
            f"{len(self.effective_sample_size)} levels; effective sample size at least "
            f"{self.effective_sample_size.min():.0%}; at least {min(self.accepted):.0%} of moves were accepted",
            f"{int(self.ancestors.min())} draws of the prior have descendants; error of the log evidence "
            f"{self.standard_error.max():.2f} nat",
        ]


def _independent(groups: Tensor, log_evidence: Tensor) -> Tensor:
    """How many independent draws the particles ``(G, K, N, D)`` of groups are worth, ``(N,)``."""
    within = groups.var(1).mean(0)
    between = groups.mean(1).var(0)
    moving = within > 0
    ratio = torch.where(moving, between / within.where(moving, torch.ones(())), 0.0)  # of a group's mean to its spread
    return moving.sum(-1) / ratio.sum(-1) * effective_sample_size(log_evidence)
