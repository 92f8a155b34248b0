r"""Hidden Markov models: sequences that switch between regimes, which are summed out.

.. math:: p(x) = \sum_{s} p(s_1) \, p(x_1 \mid s_1) \prod_{t=2}^T p(s_t \mid s_{t-1}) \, p(x_t \mid s_t)

The sum over all :math:`K^T` paths takes :math:`T` steps: :math:`\alpha_t(s) = p(x_{1:t}, s_t = s)` follows from
:math:`\alpha_{t-1}`. Run from the end as well, it gives the probability of each regime at each step.

References:
    Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition",
    https://doi.org/10.1109/5.18626
    Hamilton 1989, "A new approach to the economic analysis of nonstationary time series and the business cycle",
    https://doi.org/10.2307/1912559
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import prod

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked, integer
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, Shape, context_batch_shape
from pyrogen.distributions.families import Family
from pyrogen.distributions.incomplete import Incomplete
from pyrogen.networks.messages import read_observed
from pyrogen.networks.statistics import Standardizer, Statistic, require_rows
from pyrogen.networks.step_context import StepContext
from pyrogen.numerics.autograd import full, is_functional
from pyrogen.numerics.rows import rearranged, spared
from pyrogen.numerics.special import log_sum_exp
from pyrogen.numerics.values import require_value

from .model import first_steps, steps_of
from .parts import SequencePart, in_units
from .sequences import Sequences


class HiddenMarkovModel(SequencePart):
    """A hidden Markov model: regimes that follow each other at random, and observations of a family in each.

    Called, it is the distribution of sequences ``(length, *observation)``, in which NaN marks what is missing. Its
    ``log_prob`` is exact. Where ``start`` or ``logits`` are set to minus infinity, a regime never comes first, or never
    follows another; training leaves it so.

    Args:
        length: How many steps there are.
        observation_shape: Shape of what is observed at one step.
        regimes: How many regimes there are.
        family: The distribution of an observation, of independent elements.
        standardized: Whether the family is a diagonal normal of observations brought to mean zero and scale one.
        context: What is given at each step; it moves the numbers of the family in each regime.
    """

    takes_missing = True

    @checked(regimes=integer)
    def __init__(
        self,
        length: int,
        observation_shape: Shape,
        regimes: int,
        family: Family,
        context: StepContext,
        *,
        standardized: bool = False,
    ) -> None:
        super().__init__(length, observation_shape, context, {})
        self.family = family
        numbers = prod(family.numbers_shape(self.event_shape[1:]))
        self.units = Standardizer((1, prod(self.event_shape[1:])), name="x", missing=True) if standardized else None
        self.start = nn.Parameter(torch.zeros(regimes))
        self.logits = nn.Parameter(2 * torch.eye(regimes))
        self.table = nn.Parameter(torch.randn(regimes, numbers))
        self.effect = nn.Linear(context.size, regimes * numbers, bias=False) if context.size else None
        if self.effect is not None:
            nn.init.zeros_(self.effect.weight)

    @property
    def regimes(self) -> int:
        """How many regimes there are."""
        return len(self.start)

    def forward(self, context: Context = None) -> HiddenMarkovDistribution:
        batch = context_batch_shape(context, self.context_shape)
        remake = None if context is None else Remade(self, context)
        return HiddenMarkovDistribution(
            self.start, self.logits, self.numbers(context), self.family, batch, self.event_shape, remake, self.units
        )

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        if self.units is not None:
            rows = x.reshape(-1, self.length, self.units.mean.numel())
            yield from read_observed(self.units, rows.to(self.units.mean.dtype))

    def numbers(self, context: Context = None) -> Tensor:
        """What the family makes observations of, ``(*batch, length, regimes, numbers)``."""
        vectors, _ = self.given_at(context, context_batch_shape(context, self.context_shape))
        if vectors is None:
            return self.table.expand(self.length, -1, -1)
        moved = full(self.effect(vectors))
        return self.table + moved.reshape(*moved.shape[:-1], *self.table.shape)

    def filter(self, x: Tensor, context: Context = None) -> dist.Categorical:
        """The regime of each step given the observations up to it, of batch shape ``(*batch, length)``."""
        return self(context).filter(x)

    def smooth(self, x: Tensor, context: Context = None) -> dist.Categorical:
        """The regime of each step given all observations, of batch shape ``(*batch, length)``."""
        return self(context).smooth(x)

    def forecast(self, prefix: Tensor, horizon: int, context: Context = None) -> HiddenMarkovDistribution:
        """The distribution of the steps after a prefix, with its exact ``log_prob``.

        Arguments and errors are those of :meth:`~pyrogen.latent.state_space.model.TrajectoryModel.forecast`.
        """
        known = steps_of(prefix, self.event_shape[1:])
        whole = self.over(known + integer(horizon, "horizon"))
        context_batch_shape(context, whole.context_shape)
        last = self.over(known).filter(prefix, first_steps(context, known)).logits[..., -1, :]
        start = log_sum_exp(last.unsqueeze(-1) + self.logits.log_softmax(-1), -2)
        numbers = whole.numbers(context)[..., known:, :, :]
        batch, event_shape = (
            torch.broadcast_shapes(last.shape[:-1], numbers.shape[:-3]),
            (horizon, *self.event_shape[1:]),
        )
        return HiddenMarkovDistribution(start, self.logits, numbers, self.family, batch, event_shape, units=self.units)


class HiddenMarkovDistribution(Sequences):
    """The distribution of sequences under a hidden Markov model.

    Args:
        start: Logits of the first regime, ``(*batch, regimes)``.
        logits: Logits of each regime given the one before, ``(regimes, regimes)``.
        numbers: What observations are made of, ``(*batch, length, regimes, numbers)``.
        family: The distribution of an observation.
        batch_shape: Batch dimensions, to which those of the parameters broadcast.
        event_shape: ``(length, *observation)``.
        remake: Makes the distribution anew for other rows of its context.
        units: If given, the family is a diagonal normal of observations brought to mean zero and scale one.
    """

    takes_missing = True

    def __init__(
        self,
        start: Tensor,
        logits: Tensor,
        numbers: Tensor,
        family: Family,
        batch_shape: Iterable[int],
        event_shape: Iterable[int],
        remake: Remade | None = None,
        units: Standardizer | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.start, self.logits, self.numbers, self.family = start, logits, numbers, family
        self.units, self._remake = units, remake
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def observations(self) -> Incomplete:
        """The distribution of an observation in each regime, of batch shape ``(*batch, length, regimes)``."""
        shape = tuple(self.event_shape[1:])
        numbers = self.numbers.reshape(*self.numbers.shape[:-1], *self.family.numbers_shape(shape))
        return Incomplete(in_units(self.family(numbers, len(shape)), self.units))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(self.observations.support, 1)

    def _expanded(self, batch_shape: torch.Size) -> HiddenMarkovDistribution:
        parts = self.start, self.logits, self.numbers, self.family, batch_shape, self.event_shape
        return HiddenMarkovDistribution(*parts, self._remake, self.units, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            first = drawn(self.start.expand(*shape, -1))
            chosen = followed(first, self.logits, self.event_shape[0])[..., None, None]
            numbers = self.numbers.expand(*shape, *self.numbers.shape[-3:])
            one = numbers.gather(-2, chosen.expand(*chosen.shape[:-1], numbers.shape[-1]))
            there = HiddenMarkovDistribution(
                self.start[..., :1], self.logits, one, self.family, shape, self.event_shape, units=self.units
            )
            return there.observations.sample().squeeze(len(shape) + 1)

    def whole_log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return spared(partial(self._score, value), partial(self._score_rows, value), self._remake)

    def filter(self, value: Tensor) -> dist.Categorical:
        """The regime of each step given the observations up to it.

        Raises:
            RefusedDataError: a sequence has no regimes: it is impossible.
        """
        require_value(self, value)
        logits = torch.stack(self._possible(value, self._scores(value)), -2)
        return dist.Categorical(logits=logits, validate_args=False)

    def smooth(self, value: Tensor) -> dist.Categorical:
        """The regime of each step given all observations.

        Raises:
            RefusedDataError: a sequence has no regimes: it is impossible.
        """
        require_value(self, value)
        scores = self._scores(value)
        move, later = self.logits.log_softmax(-1), [torch.zeros_like(scores[..., 0, :])]
        for score in reversed(scores.unbind(-2)[1:]):
            later.append(log_sum_exp(move + (score + later[-1]).unsqueeze(-2), -1))
        alphas = self._possible(value, scores)
        logits = torch.stack(alphas, -2) + torch.stack(later[::-1], -2)
        return dist.Categorical(logits=logits, validate_args=False)

    def _forwards(self, scores: Tensor) -> list[Tensor]:
        r"""The logarithms of :math:`\alpha_t`, each ``(*batch, regimes)``."""
        return forwards(self.start, self.logits, scores)

    def _possible(self, value: Tensor, scores: Tensor) -> list[Tensor]:
        """The same of sequences that are possible."""
        alphas = self._forwards(scores)
        if self._validate_args and not is_functional((value,)):
            total = alphas[-1].amax(-1).reshape(-1)
            require_rows(~total.isneginf(), total, "`value` must have a finite log-probability")
        return alphas

    def _scores(self, value: Tensor) -> Tensor:
        """The log-probability of each observation in each regime, ``(*batch, length, regimes)``."""
        scores = self.observations.log_prob(value.unsqueeze(value.dim() - len(self.event_shape) + 1))
        return scores.expand(*torch.broadcast_shapes(scores.shape[:-2], self.batch_shape), *scores.shape[-2:])

    def _score(self, value: Tensor) -> Tensor:
        return log_sum_exp(self._forwards(self._scores(value))[-1], -1)

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        there = self if self._remake is None else self._remake(places, batch)
        return there._score(rearranged(value, tuple(self.event_shape), batch, places))


def forwards(start: Tensor, logits: Tensor, scores: Tensor) -> list[Tensor]:
    r"""The logarithms of :math:`\alpha_t(s) = p(x_{1:t}, s_t = s)`, each ``(*batch, regimes)``.

    Args:
        start: Logits of the first regime, ``(*batch, regimes)``.
        logits: Logits of each regime given the one before, ``(regimes, regimes)``.
        scores: The log-probability of each observation in each regime, ``(*batch, length, regimes)``.
    """
    first, *rest = scores.unbind(-2)
    move, alphas = logits.log_softmax(-1), [start.log_softmax(-1) + first]
    for score in rest:
        alphas.append(log_sum_exp(alphas[-1].unsqueeze(-1) + move, -2) + score)
    return alphas


def followed(first: Tensor, logits: Tensor, length: int) -> Tensor:
    """Draws of regimes, ``(*batch, length)``, that go on from a first one, ``batch``."""
    regimes = [first]
    for _ in range(length - 1):
        regimes.append(drawn(logits[regimes[-1]]))
    return torch.stack(regimes, -1)


def drawn(logits: Tensor) -> Tensor:
    """Draws of regimes by their logits."""
    return dist.Categorical(logits=logits, validate_args=False).sample()  # torch cannot validate an empty batch
