r"""Particles on the way from the prior to the posterior, through those of data with less and less noise of their own.

The posterior under a likelihood of width :math:`\tau` (:mod:`~pyrogen.inverse.tempered_likelihood`) is the prior as
:math:`\tau \to \infty` and that of the model at :math:`\tau = 0`. Particles that are draws at one width become those
of the next by the weight

.. math:: w = \exp\bigl(\log p_{\tau'}(y \mid x) - \log p_\tau(y \mid x)\bigr),

in which the prior cancels, so that only measured numbers matter, however many unknowns there are. Then they are
resampled and moved several times by split Gibbs (:mod:`~pyrogen.inverse.split_gibbs`), which leaves the new posterior
as it is. All that the moves passed through is weighed at the next level, not only where they ended: nothing is wasted.
The product of the mean weights is an estimate of :math:`p(y)`, unbiased if the widths are given and moves do not depend
on the particles. If widths are chosen on the way it has a bias of order one over the particles. Moves that are fitted
are so to the first of several groups, the pilots, whose estimate is left out: the other groups, given the pilots, move
as if no one had fitted anything.

References:
    Del Moral, Doucet and Jasra 2006, "Sequential Monte Carlo samplers",
    https://doi.org/10.1111/j.1467-9868.2006.00553.x
    Dau and Chopin 2022, "Waste-free sequential Monte Carlo", https://arxiv.org/abs/2011.02328
    Beskos, Jasra, Kantas and Thiery 2016, "On the convergence of adaptive sequential Monte Carlo methods",
    https://doi.org/10.1214/15-AAP1113
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pyrogen.numerics.resampling import effective_sample_size, order, systematic, take

from .saved import check_same
from .split_move import SplitMove

_BISECTIONS = 30
_KEPT = ("x", "width", "log_evidence", "widths", "noises", "accepted", "roots")
_BY_LEVEL = ("effective", "jumps")


class Tempering:
    """Particles in independent groups, and the width at which they are draws.

    Args:
        move: The measurement and the prior, and how particles move.
        x: Draws of the prior, ``(P, N, D)``; every particle and that ``groups`` places further are of one group.
        groups: How many groups.

    Attributes:
        pilots: How many groups are those to which moves are fitted: the first or none; with one group it is all.
        x: All that is drawn at the width: after moves of ``P`` particles ``(moves P, N, D)``.
        width: That of the likelihood, infinite to begin with.
        log_evidence: The logarithm of the evidence so far by group, ``(G, N)``.
        widths: All widths so far.
        effective: The effective sample size on the way to each, as a share of all that was weighed, ``(N,)`` each.
        jumps: How far moves led at each, in mean squares, of twice the variance of the particles, ``(N,)`` each: 1 if
            they forget where they came from.
        noises: The noise that moves add at each, in data units.
        accepted: The share of particles that moved, of each level.
        roots: Of which particle of the prior each is, ``(moves P, N)``.
    """

    def __init__(self, move: SplitMove, x: Tensor, groups: int) -> None:
        self.move, self.x, self.groups, self.particles = move, x, groups, len(x)
        self.pilots = int(move.likelihood.fitted and groups > 1)
        move.pilots = slice(None, None, groups if self.pilots else 1)
        self.width = math.inf
        self._seen, self._reached = move.likelihood.seen(x), 0.0
        self.log_evidence = move.likelihood.constant.expand(groups, x.shape[1]).clone()
        self.widths: list[float] = []
        self.effective: list[Tensor] = []
        self.jumps: list[Tensor] = []
        self.noises: list[float] = []
        self.accepted: list[float] = []
        self.roots = torch.arange(len(x), device=x.device).unsqueeze(1).expand(x.shape[:2])

    def log_likelihood(self, width: float) -> Tensor:
        """That of the particles at a width, ``(P, N)``."""
        return self.move.likelihood.log_likelihood(self._seen, width)

    def next_width(self, share: float) -> float:
        """The least width on the way to which an effective share of all particles of every problem is left.

        Those whose likelihood is zero are left out, which no width changes.

        Raises:
            RuntimeError: the likelihood of all particles of a problem is zero.
        """
        possible = self.log_likelihood(0.0).isfinite().double().mean(0)
        if not possible.all():
            raise RuntimeError(
                "no draw of the prior makes the data possible; use more particles, or another likelihood"
            )

        def enough(width: float) -> bool:
            effective = self._effective(self._gained(width))
            return bool((effective >= share * possible).all())

        if enough(0.0):
            return 0.0
        high = self.width
        if high == math.inf:
            high = self.move.reverse.most
            while not enough(high):
                high *= 2
        low = high / 2
        while enough(low):
            low /= 2
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    def go(self, width: float, moves: int) -> None:
        """Weighs what is there for a smaller width, resamples it within groups, and moves it."""
        log_weights = self._gained(width)
        by_group = self._grouped(log_weights)
        self.log_evidence += by_group.logsumexp(0) - math.log(len(by_group))
        self.widths.append(width)
        self.effective.append(self._effective(log_weights))
        self._resample(by_group)
        self.width = width
        states = [self.x]
        self.move.fit(self.x)
        for _ in range(moves):
            self.move.adapt()
            states.append(self.move(states[-1], width))
        self.noises.append(self.move.noise(width))
        self.accepted.append(math.fsum(self.move.accepted[-moves:]) / moves)
        self.x, self.roots = torch.cat(states[1:]), self.roots.repeat(moves, 1)
        jump = (states[-1] - states[0]).square().mean(0).sum(-1)
        self.jumps.append(jump / (2 * self.x.var(0).sum(-1)))
        self._seen = self.move.likelihood.seen(self.x)
        self._reached = self.log_likelihood(width)

    def state_dict(self) -> dict[str, Any]:
        """All of it, in numbers and tensors."""
        by_level = {name: torch.stack(getattr(self, name)) for name in _BY_LEVEL}
        return (
            {name: getattr(self, name) for name in _KEPT}
            | by_level
            | {
                "reached": self._reached,
                "move": self.move.state_dict(),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what another run was, after some level."""
        for name in _KEPT:
            setattr(self, name, state[name])
        for name in _BY_LEVEL:
            setattr(self, name, list(state[name]))
        self.move.load_state_dict(state["move"])
        self._seen = self.move.likelihood.seen(self.x)
        self._reached = self.log_likelihood(self.width)
        check_same(self._reached, state["reached"])

    def _gained(self, width: float) -> Tensor:
        """The logarithms of the weights at a smaller width; what is impossible stays so."""
        return (self.log_likelihood(width) - self._reached).nan_to_num(-math.inf, math.inf, -math.inf)

    def by_group(self) -> Tensor:
        """What is there, in each group in random order: ``(G, K, N, D)``."""
        grouped = self._grouped(self.x)
        return grouped[torch.randperm(len(grouped), device=self.x.device)].transpose(0, 1)

    def draws(self) -> Tensor:
        """As many draws as particles began, in random order, ``(P, N, D)``: more of groups with more evidence."""
        shuffled = torch.randperm(len(self.x), device=self.x.device)
        log_weights = self.log_evidence.repeat(len(self.x) // self.groups, 1)
        drawn = take(self.x[shuffled], systematic(log_weights[shuffled], count=self.particles))
        return drawn[torch.randperm(len(drawn), device=drawn.device)]

    def _grouped(self, values: Tensor) -> Tensor:
        """By group, ``(K, G, N, ...)``."""
        return values.unflatten(0, (-1, self.groups))

    def _resample(self, log_weights: Tensor) -> None:
        along = order(self._grouped(self.x).flatten(1, 2)).view_as(log_weights)
        count = self.particles // self.groups
        chosen = take(along, systematic(take(log_weights, along), count=count))
        self.x, self.roots = (take(self._grouped(values), chosen).flatten(0, 1) for values in (self.x, self.roots))

    @staticmethod
    def _effective(log_weights: Tensor) -> Tensor:
        return effective_sample_size(log_weights) / len(log_weights)
