"""Conditionals: from one output of a sequence network to the distribution of one symbol.

A conditional is called with outputs ``(*batch, features)`` and gives a distribution with batch shape ``batch`` whose
events are symbols. It names the ``size`` of an output, the ``support`` of a symbol and its ``symbol_shape``. Any family
of :mod:`pyrogen.distributions.families` makes one through :class:`OfFamily`; those here are the same in fewer
operations, because every step of a generation makes one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Independent, constraints

from pyrogen.core.shapes import Shape
from pyrogen.distributions.bernoulli import Bits
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.distributions.families import Family, bounded
from pyrogen.distributions.independent import as_event
from pyrogen.numerics.categorical import draw_symbols
from pyrogen.numerics.supports import element_of


class Conditional(ABC):
    """The distribution of a symbol as a function of an output."""

    symbol_shape: Shape = ()
    """Shape of one symbol."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many parameters an output holds."""

    @property
    @abstractmethod
    def support(self) -> constraints.Constraint:
        """The support of each element of a symbol."""

    @abstractmethod
    def __call__(self, output: Tensor) -> TorchDistributionMixin:
        """The distributions of symbols, from outputs ``(*batch, size)``."""

    def after(self, output: Tensor, gap: Tensor) -> TorchDistributionMixin:
        """The same of events that came after waiting times ``(*batch)``, which by default make no difference."""
        return self(output)


@dataclass(frozen=True)
class OfFamily(Conditional):
    """A conditional out of a family.

    Args:
        family: What distribution the parameters make; see :mod:`pyrogen.distributions.families`.
        symbol_shape: Shape of one symbol; the parameters of an output come in the order ``(size, *symbol_shape)``, or
            the shape that the family takes.
    """

    family: Family
    symbol_shape: Shape = ()

    @property
    def size(self) -> int:
        return math.prod(self.family.numbers_shape(self.symbol_shape))

    @property
    def support(self) -> constraints.Constraint:
        return element_of(self(torch.zeros(self.size)).support)

    def __call__(self, output: Tensor) -> TorchDistributionMixin:
        parameters = output.unflatten(-1, self.family.numbers_shape(self.symbol_shape))
        return self.family(parameters, len(self.symbol_shape))


@dataclass(frozen=True)
class Categorical(Conditional):
    """Symbols ``0 … symbols - 1``, single numbers, one logit for each.

    Args:
        symbols: How many there are.
    """

    symbols: int

    def __post_init__(self) -> None:
        if self.symbols < 2:
            raise ValueError(f"`symbols` must be at least 2, got {self.symbols}")

    @property
    def size(self) -> int:
        return self.symbols

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.symbols - 1)

    def __call__(self, output: Tensor) -> FiniteDiscrete:
        return FiniteDiscrete(output)


@dataclass(frozen=True)
class Binary(Conditional):
    """Symbols 0 and 1, from one logit for each element.

    Args:
        symbol_shape: Shape of one symbol.
    """

    symbol_shape: Shape = ()

    @property
    def size(self) -> int:
        return math.prod(self.symbol_shape)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.boolean

    def __call__(self, output: Tensor) -> TorchDistributionMixin:
        bits = Bits(logits=output.unflatten(-1, (*self.symbol_shape, 1)).squeeze(-1), validate_args=False)
        return bits.to_event(len(self.symbol_shape)) if self.symbol_shape else bits


@dataclass(frozen=True)
class NormalMixture(Conditional):
    """Real symbols, single numbers, under a mixture of normals: logits, then means, then log-scales.

    Args:
        components: How many normals.
    """

    components: int

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError(f"`components` must be at least 1, got {self.components}")

    @property
    def size(self) -> int:
        return 3 * self.components

    @property
    def support(self) -> constraints.Constraint:
        return constraints.real

    def __call__(self, output: Tensor) -> dist.MixtureSameFamily:
        logits, loc, log_scale = output.chunk(3, -1)
        # Without a spread of their own all components would start alike and stay so.
        spread = torch.linspace(-1, 1, self.components, dtype=output.dtype, device=output.device)
        normals = dist.Normal(loc + spread, bounded(log_scale).exp(), validate_args=False)
        weights = dist.Categorical(logits=logits, validate_args=False)
        return dist.MixtureSameFamily(weights, normals, validate_args=False)


class FiniteDiscrete(PyrogenDistribution):
    """A distribution over a finite alphabet, ``0 … K - 1`` or given values, from logits; ``-inf`` excludes a symbol.

    Unlike torch's ``Categorical`` it normalizes when it scores, in one operation, and samples without normalizing.

    Args:
        logits: Of shape ``(*batch, K)``, up to a constant.
        values: The symbols, ``(K,)``, in increasing order; ``0 … K - 1`` if ``None``.
        impossible: Where no symbol is possible at all, ``(*batch,)``.
    """

    has_enumerate_support = True

    def __init__(self, logits: Tensor, values: Tensor | None = None, impossible: Tensor | None = None) -> None:
        self.logits, self.values, self.impossible = logits, values, impossible
        super().__init__(logits.shape[:-1], torch.Size(), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        if self.values is None:
            return constraints.integer_interval(0, self.logits.shape[-1] - 1)
        return constraints.boolean if len(self.values) == 2 else constraints.real

    @property
    def log_probs(self) -> Tensor:
        """The logarithms of all probabilities, ``(*batch, K)``."""
        log_probs = self.logits.log_softmax(-1)
        return log_probs if self.impossible is None else log_probs.masked_fill(self.impossible.unsqueeze(-1), -math.inf)

    def entropy(self) -> Tensor:
        log_probs = self.log_probs
        # An excluded symbol counts for nothing: zero times minus infinity would be NaN.
        return -(log_probs.exp() * log_probs.masked_fill(log_probs == -math.inf, 0.0)).sum(-1)

    def _expanded(self, batch_shape: torch.Size) -> FiniteDiscrete:
        impossible = None if self.impossible is None else self.impossible.expand(batch_shape)
        return FiniteDiscrete(self.logits.expand(*batch_shape, self.logits.shape[-1]), self.values, impossible)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = torch.arange(self.logits.shape[-1], device=self.logits.device) if self.values is None else self.values
        values = values.reshape(-1, *(1,) * len(self.batch_shape))
        return values.expand(-1, *self.batch_shape) if expand else values

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        with torch.no_grad():
            index = draw_symbols(self.logits.expand(*sample_shape, *self.logits.shape))
        return index if self.values is None else self.values[index]

    def log_prob(self, value: Tensor) -> Tensor:
        index = value.long() if self.values is None else torch.searchsorted(self.values, value.contiguous())
        log_probs = self.log_probs
        if index.shape != log_probs.shape[:-1]:
            batch = torch.broadcast_shapes(index.shape, log_probs.shape[:-1])
            index, log_probs = index.expand(batch), log_probs.expand(*batch, -1)
        return log_probs.gather(-1, index.unsqueeze(-1)).squeeze(-1)


def finite_discrete(distribution: TorchDistributionMixin) -> FiniteDiscrete:
    """The same distribution as logits of all its symbols.

    Raises:
        NotImplementedError: the symbols are not few single numbers.
    """
    if isinstance(distribution, FiniteDiscrete):
        return distribution
    if distribution.event_shape or not distribution.has_enumerate_support:
        raise NotImplementedError(
            f"{type(distribution).__name__} does not count its symbols; only conditionals over few single numbers do"
        )
    if isinstance(distribution, dist.Categorical):
        return FiniteDiscrete(distribution.logits)
    values = distribution.enumerate_support(expand=False)
    logits = distribution.log_prob(values.expand(-1, *distribution.batch_shape)).movedim(0, -1)
    return FiniteDiscrete(logits, values.flatten())


@dataclass(frozen=True)
class Reweighted(Conditional):
    """A conditional whose probabilities are changed and normalized anew.

    Args:
        inner: The conditional that is changed.
    """

    inner: Conditional

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def symbol_shape(self) -> Shape:
        return self.inner.symbol_shape

    @property
    def support(self) -> constraints.Constraint:
        return self.inner.support

    def __call__(self, output: Tensor) -> TorchDistributionMixin:
        return self._changed(self.inner(output))

    @abstractmethod
    def change(self, logits: Tensor) -> Tensor:
        """New logits for old ones, ``(*batch, K)``; minus infinity excludes a symbol."""

    def _changed(self, distribution: TorchDistributionMixin) -> TorchDistributionMixin:
        if isinstance(distribution, Independent):
            return as_event(self._changed(distribution.base_dist), distribution.reinterpreted_batch_ndims)
        old = finite_discrete(distribution)
        return FiniteDiscrete(self.change(old.logits), old.values, old.impossible)


@dataclass(frozen=True)
class Without(Reweighted):
    """All symbols but one."""

    symbol: int

    def change(self, logits: Tensor) -> Tensor:
        excluded = torch.arange(logits.shape[-1], device=logits.device) == self.symbol
        return logits.masked_fill(excluded, -torch.inf)
