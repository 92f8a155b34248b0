r"""Linear-Gaussian chains that switch between regimes: sums over the paths of regimes.

Given a path :math:`s_{1:t}` the chain is linear-Gaussian, so that a Kalman filter gives the state and the weight of the
path, :math:`w(s_{1:t}) = p(s_{1:t}, x_{1:t})`. Each of them has a successor for each regime. While there are no more
than :math:`N`, all are kept and their sum is the evidence. Where there are more, :math:`N` are kept: all those whose
weight is above a level :math:`c`, and each of the others with the probability :math:`w / c`, then with the weight
:math:`c`,

.. math:: \sum_s \min(1, w(s) / c) = N .

Every weight stays right in expectation, so that the evidence has no bias, and neither has its gradient: nothing is
drawn but which paths are kept. Its logarithm is a lower bound in expectation.

References:
    Fearnhead and Clifford 2003, "On-line inference for hidden Markov models via particle filters",
    https://doi.org/10.1111/1467-9868.00421
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .gaussian import Belief, LinearTransition, QuadraticPotential


@dataclass(frozen=True)
class Hypotheses:
    """Paths of regimes, and what is believed of the state under each.

    Attributes:
        paths: Regimes at each step so far, ``(*batch, paths, steps)``.
        log_weights: Logarithms of weights, ``(*batch, paths)``.
        belief: The state after the last step, of batch shape ``(*batch, paths)``.
    """

    paths: Tensor
    log_weights: Tensor
    belief: Belief

    @property
    def log_evidence(self) -> Tensor:
        """The logarithm of the sum of weights, ``batch``."""
        return self.log_weights.logsumexp(-1)

    @property
    def last(self) -> Tensor:
        """The regime at the last step, ``(*batch, paths)``."""
        return self.paths[..., -1]

    def observed(self, potential: QuadraticPotential) -> Hypotheses:
        """The same after an observation."""
        shared = QuadraticPotential(potential.linear.unsqueeze(-2), potential.precision.unsqueeze(-3))
        belief, evidence = shared.meet(self.belief)
        return Hypotheses(self.paths, self.log_weights + evidence, belief)

    def moved(self, move: LinearTransition, log_transition: Tensor) -> Hypotheses:
        """The successors of each path, of parameters that have the regimes as last batch dimension."""
        moves = LinearTransition(move.matrix.unsqueeze(-4), move.shift.unsqueeze(-3), move.root.unsqueeze(-4))
        belief = moves.predict(Belief(self.belief.loc.unsqueeze(-2), self.belief.root.unsqueeze(-3)))
        log_weights = self.log_weights.unsqueeze(-1) + log_transition[self.last]  # (*batch, paths, regimes)
        regimes = torch.arange(log_transition.shape[-1], device=self.paths.device)
        before = self.paths.unsqueeze(-2).expand(*log_weights.shape, -1)
        paths = torch.cat([before, regimes.expand(log_weights.shape).unsqueeze(-1)], -1)
        successors = Belief(belief.loc.flatten(-3, -2), belief.root.flatten(-4, -3))
        return Hypotheses(paths.flatten(-3, -2), log_weights.flatten(-2), successors)

    def reduced(self, most: int) -> Hypotheses:
        """No more than so many of them, with weights that are right in expectation."""
        if self.log_weights.shape[-1] <= most:
            return self
        chosen, log_weights = kept(self.log_weights, most)
        belief = Belief(taken(self.belief.loc, chosen, 1), taken(self.belief.root, chosen, 2))
        return Hypotheses(taken(self.paths, chosen, 1), log_weights, belief)


def kept(log_weights: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Which of more than so many paths are kept, ``(*batch, most)``, and the logarithms of their weights."""
    weights = log_weights.detach().double().softmax(-1)
    ordered = weights.sort(-1, descending=True).values
    tails = ordered.flip(-1).cumsum(-1).flip(-1)[..., :most]  # what the paths from here on weigh
    levels = tails / torch.arange(most, 0, -1, device=weights.device)
    level = levels.gather(-1, (ordered[..., :most] <= levels).int().argmax(-1, keepdim=True))
    chances = torch.where(weights > level, 1.0, weights / level.clamp(min=torch.finfo(weights.dtype).tiny))
    uniform = torch.rand(*weights.shape[:-1], 1, dtype=weights.dtype, device=weights.device)
    edges = (chances.cumsum(-1) + uniform).floor()
    picked = edges.diff(dim=-1, prepend=torch.zeros_like(uniform)) > 0
    chosen = picked.int().argsort(dim=-1, descending=True, stable=True)[..., :most]
    chance, lost = chances.gather(-1, chosen), ~picked.gather(-1, chosen)
    found = log_weights.gather(-1, chosen) - chance.log().to(log_weights)
    return chosen, found.masked_fill(lost & ~chance.isnan(), -torch.inf)  # lost: where fewer than `most` have a weight


def filtered_paths(
    prior: Hypotheses, move: LinearTransition, log_transition: Tensor, observations: QuadraticPotential, most: int
) -> list[Hypotheses]:
    """The paths at each step given the observations up to it.

    Args:
        prior: Those of the first step before its observation.
        move: Transitions, with the regimes as last batch dimension before the steps.
        log_transition: Logarithms of the probability of each regime given the one before, ``(regimes, regimes)``.
        observations: What is seen at each step.
        most: How many paths are kept.
    """
    first, *rest = observations.steps()
    found = [prior.observed(first)]
    for step, potential in zip(move.steps(), rest, strict=True):
        found.append(found[-1].reduced(most).moved(step, log_transition).observed(potential))
    return found


def along(paths: Tensor, start: Belief, move: LinearTransition) -> tuple[Belief, LinearTransition]:
    """The chains along paths of regimes, ``(*batch, length)``: first states and transitions.

    Those of all regimes have the regimes as last batch dimension; what is in front broadcasts with ``batch``.
    """
    first, later = paths[..., :1], paths[..., 1:, None]
    belief = Belief(taken(start.loc, first, 1).squeeze(-2), taken(start.root, first, 2).squeeze(-3))
    matrix, root = (taken(part.transpose(-4, -3), later, 2).squeeze(-3) for part in (move.matrix, move.root))
    return belief, LinearTransition(matrix, taken(move.shift.transpose(-3, -2), later, 1).squeeze(-2), root)


def taken(part: Tensor, chosen: Tensor, dim: int) -> Tensor:
    """Of parts ``(..., n, *rest)``, with so many dimensions at the end, those chosen, ``(*batch, m, *rest)``."""
    rest = part.shape[part.dim() - dim :]
    wide = part.expand(*chosen.shape[:-1], part.shape[-1 - dim], *rest)
    return wide.gather(-1 - dim, chosen.reshape(*chosen.shape, *(1,) * dim).expand(*chosen.shape, *rest))
