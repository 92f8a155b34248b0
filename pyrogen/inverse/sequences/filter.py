r"""A particle filter over prefixes: sequences that grow symbol by symbol, weighed by what is known of them.

The targets are :math:`\gamma_t(x_{\le t}) = p(x_{\le t}) \psi_t(x_{\le t})` with a twist :math:`\psi_t`, and in the end
:math:`p(x) p(y \mid x)`. Where the twist scores all symbols that may come next, one is drawn from
:math:`q(x_t \mid x_{<t}) \propto p(x_t \mid x_{<t}) \psi_t(x_{\le t})`, and the weight of a particle is multiplied by

.. math:: w_t = \frac{\sum_{x_t} p(x_t \mid x_{<t}) \psi_t(x_{\le t})}{\psi_{t-1}(x_{<t})},

which the symbol does not change, so that particles are resampled before it is drawn. Other twists multiply by
:math:`\psi_t / \psi_{t-1}` after it. The product of the mean weights is an unbiased estimate of :math:`p(y)`, for each
of several groups of particles that know nothing of each other.

Particles are ``(P, N, M)``: of :math:`N` independent problems with :math:`M` sequences each. States of networks are
selected with them, and a particle that is kept stays where it is.

References:
    Del Moral, Doucet and Jasra 2012, "On adaptive resampling strategies for sequential Monte Carlo methods",
    https://arxiv.org/abs/1203.0464
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrogen.autoregressive.conditionals import FiniteDiscrete, finite_discrete
from pyrogen.autoregressive.distribution import AutoregressiveDistribution
from pyrogen.autoregressive.prefixes import Prefixes, values_of
from pyrogen.numerics.resampling import effective_sample_size, in_place, systematic, take

from .twist import PrefixTwist

if TYPE_CHECKING:
    from tqdm import tqdm


class SequenceFilter:
    """Particles on their way from the first symbol to the last.

    Args:
        prior: The distribution of the sequences of one particle after the other, ``(P N M,)``.
        twist: What is known of prefixes.
        shape: How many particles, problems, and sequences of a problem there are.
        groups: How many independent groups the particles form: every particle, and that ``groups`` places further.
        threshold: Resampling where the effective sample size of a group falls below this share of it.

    Attributes:
        log_weights: Of the particles, ``(P, N)``.
        log_evidence: That of each group before its weights, ``(G, N)``.
        effective: The effective sample size at each place, the sum of those of the groups, ``(N,)`` each.
        resampled: The share of groups that were resampled at each, ``(N,)`` each.
        roots: Of which first particle each is, ``(P, N)``.
    """

    def __init__(
        self,
        prior: AutoregressiveDistribution,
        twist: PrefixTwist,
        shape: tuple[int, int, int],
        groups: int,
        threshold: float,
    ) -> None:
        self.prefixes, self.twist, self.shape = Prefixes(prior), twist, shape
        self.groups, self.threshold = groups, threshold
        if twist.length is not None and twist.length < self.prefixes.length:
            raise ValueError(
                f"`twist` must take the {self.prefixes.length} symbols of a sequence of the prior, "
                f"got one made for {twist.length}"
            )
        particles, problems, _ = shape
        device = self.prefixes.symbols.device
        self.log_weights = torch.zeros(particles, problems, dtype=torch.double, device=device)
        self.log_evidence = self.log_weights.new_zeros(groups, problems)
        self.effective: list[Tensor] = []
        self.resampled: list[Tensor] = []
        self.roots = torch.arange(particles, device=device).unsqueeze(1).expand(particles, problems)
        self._log_twist = self.log_weights.new_zeros(self.prefixes.symbols.shape[0])
        self._state = twist.start(len(self._log_twist))

    def run(self, bar: tqdm) -> None:
        """Draws all symbols."""
        while not self.prefixes.finished:
            self.step()
            bar.update()

    def step(self) -> None:
        """Weighs the prefixes, resamples them if need be, and draws one more symbol of each."""
        scores = self.twist.before(self.prefixes.so_far, self._state)
        if scores is not None:
            options, scores = self._twisted(self._required(scores))
            self._gain(options.logits.logsumexp(-1))
        rows = self._resample()
        held = self.prefixes.ended
        if scores is None:
            self.prefixes.append(self.prefixes.next().sample())
        else:
            logits, scores = (part if rows is None else part[rows] for part in (options.logits, scores))
            index = FiniteDiscrete(logits).sample()
            self._log_twist = scores.gather(-1, index.unsqueeze(-1)).squeeze(-1)
            self.prefixes.append(values_of(options)[index])
        found = self.twist.after(self.prefixes.so_far)
        if found is not None:
            found = torch.where(held, self._log_twist, self._required(found).double())
            self._gain(found)
            self._log_twist = found

    def finish(self, log_likelihood: Tensor) -> None:
        """Weighs whole sequences by their log-likelihood ``(P, N)`` in place of the twist."""
        self._gain(torch.zeros_like(self._log_twist))
        self.log_weights += log_likelihood.nan_to_num(-torch.inf, torch.inf, -torch.inf)
        self.effective.append(self._effective().sum(0))

    def sequences(self) -> Tensor:
        """Whole sequences, ``(P, N, M, L, *symbol)``."""
        return self.prefixes.events().unflatten(0, self.shape)

    def _twisted(self, scores: Tensor) -> tuple[FiniteDiscrete, Tensor]:
        """The next symbols by prior and twist together, and the twist alone, which after the end stays what it is."""
        prior = finite_discrete(self.prefixes.next())
        if scores.shape != prior.logits.shape:
            raise ValueError(
                f"`twist` must score each of {prior.logits.shape[-1]} symbols after each of {len(prior.logits)} "
                f"prefixes, got shape {tuple(scores.shape)}"
            )
        scores = torch.where(self.prefixes.ended.unsqueeze(-1), self._log_twist.unsqueeze(-1), scores.double())
        return FiniteDiscrete(prior.log_probs + scores, prior.values), scores

    def _required(self, log_twist: Tensor) -> Tensor:
        """The same, which must be finite or minus infinity: what is no number would leave no particle a weight."""
        if not bool((log_twist < torch.inf).all()):
            wrong = log_twist[~(log_twist < torch.inf)][0].item()
            raise ValueError(f"`twist` must give numbers below infinity, got {wrong} at position {self.prefixes.count}")
        return log_twist

    def _gain(self, log_twist: Tensor) -> None:
        """Weighs particles by a twist in place of the one before; what was impossible stays so."""
        gain = torch.where(self._log_twist > -torch.inf, log_twist - self._log_twist, -torch.inf)
        self.log_weights += gain.reshape(self.shape).sum(-1)

    def _effective(self) -> Tensor:
        """The effective sample size of each group, ``(G, N)``."""
        return effective_sample_size(self._by_group())

    def _by_group(self) -> Tensor:
        return self.log_weights.unflatten(0, (-1, self.groups))  # (K, G, N)

    def _resample(self) -> Tensor | None:
        """Resamples the groups that need it; the rows that are kept, if that changes any."""
        log_weights, effective = self._by_group(), self._effective()
        needed = effective < self.threshold * len(log_weights)  # (G, N)
        self.effective.append(effective.sum(0))
        self.resampled.append(needed.double().mean(0))
        if not bool(needed.any()):
            return None
        mean = log_weights.logsumexp(0) - math.log(len(log_weights))
        self.log_evidence += torch.where(needed, mean, 0.0)
        self.log_weights = log_weights.masked_fill(needed, 0.0).flatten(0, 1)
        count, groups, problems = log_weights.shape
        place = lambda size: torch.arange(size, device=needed.device)  # noqa: E731
        same = place(count).reshape(-1, 1, 1).expand_as(log_weights)
        chosen = torch.where(needed, in_place(systematic(log_weights)), same) * groups + place(groups).unsqueeze(-1)
        chosen = chosen.flatten(0, 1)  # (P, N)
        self.roots = take(self.roots, chosen)
        rows = (chosen * problems + place(problems)).unsqueeze(-1) * self.shape[2] + place(self.shape[2])
        self._select(rows.flatten())
        return rows.flatten()

    def _select(self, rows: Tensor) -> None:
        self.prefixes.select(rows)
        self._log_twist = self._log_twist[rows]
        if self._state is not None:
            self._state = self._state.reindex(rows)
