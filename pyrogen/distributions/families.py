"""Families: from the numbers a network puts out to a Pyro distribution.

A family states how many numbers it needs for each element of an event and what distribution they make. Positive
parameters come through :func:`positive`, an exponential from 4.2e-18 to 2.4e17, never 0 and never infinite; scales of
normals and their like lie between 5e-7 and 2.6e10. Data of other scales should be given in other units.
Elements are independent given the numbers, but for :func:`pixel_logistic_mixture`. Functions that give a family raise a
ValueError for fewer than two symbols, no component, or a scale that is not positive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.arguments import checked
from pyrogen.numerics.values import checks

from .bernoulli import Bits, IndependentBernoulli
from .columns import ColumnsDistribution
from .continuous_bernoulli import ContinuousBernoulli
from .counts import LogisticCounts
from .discretized import DiscretizedLogistic, DiscretizedLogisticMixture, PixelLogisticMixture, QuantizedNormal
from .independent import as_event, unchecked
from .normal import DiagonalNormal
from .zero_inflated import ZeroInflated

LOWEST, HIGHEST = -14.5, 24.0
"""Bounds of log-scales: the square of the largest over the smallest is a number of single precision."""

_BEND = 10.0
_RATE = 40.0
"""Bound of the logarithms of rates and the like, on either side."""


class Family(ABC):
    """From numbers to a distribution over events; what has ``numbers_shape`` and is called like it serves as well."""

    @abstractmethod
    def numbers_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the numbers of one event, ``(size, *event_shape)`` for most."""

    @abstractmethod
    def __call__(self, numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
        """The distribution over events, from numbers of shape ``(*batch, *numbers_shape(event_shape))``."""


@dataclass(frozen=True)
class ElementFamily(Family):
    """A family of single elements, which are independent given the numbers.

    Args:
        size: How many numbers each element of the event takes.
        make: Called with a tensor of shape ``(*batch, size, *event)`` and how many dimensions an event has; gives the
            distribution over events. A module-level function, so that the family pickles.
    """

    size: int
    make: Callable[[Tensor, int], TorchDistributionMixin]

    def __repr__(self) -> str:
        return f"ElementFamily(size={self.size})"

    def numbers_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.size, *event_shape)

    def __call__(self, numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
        return self.make(numbers, event_dim)


def bounded(number: Tensor) -> Tensor:
    r"""A log-scale between -14.5 and 24, close to the number :math:`a` itself near zero and above.

    .. math:: 10 \tanh(a / 10) + r(a - \operatorname{clamp}(a, -10, 10))

    :math:`r` is the identity above zero and bends towards the lower bound below it, so that no gradient is cut off.
    """
    return _bent(number, nn.functional.celu(_beyond(number), -_BEND - LOWEST)).clamp(max=HIGHEST)


def positive(number: Tensor, bound: float = _RATE) -> Tensor:
    r"""A positive parameter, the exponential of a bounded one: between 4.2e-18 and 2.4e17.

    That is :math:`10 \tanh(a / 10) + a - \operatorname{clamp}(a, -10, 10)`, within the bounds.
    """
    return _log_rate(number, bound).exp()


def _log_rate(number: Tensor, bound: float = _RATE) -> Tensor:
    return _bent(number, _beyond(number)).clamp(-bound, bound)


def _beyond(number: Tensor) -> Tensor:
    return nn.functional.softshrink(number, _BEND)


def _bent(number: Tensor, beyond: Tensor) -> Tensor:
    return torch.add(beyond, torch.tanh(number / _BEND), alpha=_BEND)


@dataclass(frozen=True)
class PixelFamily(Family):
    """How a network's output becomes mixtures of logistics over pixels of several channels.

    Args:
        symbols: How many values a channel has, ``0 … symbols - 1``.
        components: How many components :math:`M` a pixel's mixture has.
    """

    symbols: int
    components: int

    def numbers_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Channels of numbers for each position of an event ``(channels, *positions)``."""
        channels, *positions = event_shape
        return (self.components * (1 + 2 * channels + channels * (channels - 1) // 2), *positions)

    def __call__(self, numbers: Tensor, event_dim: int) -> PixelLogisticMixture:
        """The distribution over events, from numbers of shape ``(*batch, *numbers_shape(event_shape))``.

        In the order logits, locations, log-scales, coefficients; their channels come in the order of their shapes.
        """
        dim = numbers.dim() - event_dim
        each = numbers.shape[dim] // self.components
        channels = round(((8 * each + 1) ** 0.5 - 3) / 2)  # each = 1 + 2c + c(c - 1)/2
        sizes = [size * self.components for size in (1, channels, channels, channels * (channels - 1) // 2)]
        logits, loc, log_scale, coefficients = numbers.split(sizes, dim)

        return PixelLogisticMixture(
            logits,
            loc.unflatten(dim, (self.components, channels)),
            bounded(log_scale).unflatten(dim, (self.components, channels)),
            torch.tanh(coefficients).unflatten(dim, (self.components, channels * (channels - 1) // 2)),
            self.symbols,
            event_dim,
        )


@dataclass(frozen=True)
class Columns(Family):
    """A family of rows with independent columns given the numbers, each column of a family of its own.

    Columns that share one family object are computed together.

    Args:
        kinds: The family of each column, in the order of the columns.
    """

    kinds: tuple[ElementFamily, ...]

    def numbers_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """One vector of numbers for each row.

        Raises:
            ValueError: there are not as many columns as families.
        """
        if event_shape != (len(self.kinds),):
            raise ValueError(f"`event_shape` must be {(len(self.kinds),)}, one element a column, got {event_shape}")
        return (sum(kind.size for kind in self.kinds),)

    def __call__(self, numbers: Tensor, event_dim: int = 1) -> ColumnsDistribution:
        """The distribution of rows, from numbers of shape ``(*batch, numbers)``, family by family."""
        groups = self.groups()
        parts = numbers.split([kind.size * len(places) for kind, places in groups], -1)
        each = zip(parts, groups, strict=True)
        shaped = [(kind, places, part.unflatten(-1, (kind.size, len(places)))) for part, (kind, places) in each]
        return ColumnsDistribution(
            [(places, unchecked(kind(part.movedim(-2, -1), 0))) for kind, places, part in shaped]
        )

    def groups(self) -> list[tuple[ElementFamily, list[int]]]:
        """Each family with the places of its columns."""
        groups: list[tuple[ElementFamily, list[int]]] = []
        for place, kind in enumerate(self.kinds):
            places = next((places for other, places in groups if other is kind), None)
            if places is None:
                groups.append((kind, [place]))
            else:
                places.append(place)
        return groups


def _checks(numbers: Tensor) -> bool | None:
    return checks(None, numbers)


def _diagonal_normal(numbers: Tensor, event_dim: int) -> DiagonalNormal:
    loc, log_scale = numbers.unbind(-event_dim - 1)
    return DiagonalNormal(loc, bounded(log_scale), event_dim)


def _latent_normal(numbers: Tensor, event_dim: int) -> DiagonalNormal:
    loc, log_scale = numbers.unbind(-event_dim - 1)
    return DiagonalNormal(loc, _BEND * torch.tanh(log_scale / _BEND), event_dim)


def _normal_with_scale(numbers: Tensor, event_dim: int, scale: float) -> TorchDistributionMixin:
    return as_event(dist.Normal(numbers.squeeze(-event_dim - 1), scale, validate_args=_checks(numbers)), event_dim)


def _laplace(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    loc, log_scale = numbers.unbind(-event_dim - 1)
    return as_event(dist.Laplace(loc, bounded(log_scale).exp(), validate_args=_checks(numbers)), event_dim)


def _student_t(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    log_degrees, loc, log_scale = numbers.unbind(-event_dim - 1)
    degrees, scale = 1 + positive(log_degrees + 1), bounded(log_scale).exp()
    return as_event(dist.StudentT(degrees, loc, scale, validate_args=_checks(numbers)), event_dim)


def _bernoulli(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    logits = numbers.squeeze(-event_dim - 1)
    return IndependentBernoulli(logits, event_dim) if event_dim else Bits(logits=logits, validate_args=_checks(numbers))


def _categorical(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    return as_event(
        dist.Categorical(logits=numbers.movedim(-event_dim - 1, -1), validate_args=_checks(numbers)), event_dim
    )


def _beta(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    first, second = numbers.unbind(-event_dim - 1)
    return as_event(dist.Beta(positive(first), positive(second), validate_args=_checks(numbers)), event_dim)


def _gamma(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    concentration, rate = numbers.unbind(-event_dim - 1)
    return as_event(dist.Gamma(positive(concentration), positive(rate), validate_args=_checks(numbers)), event_dim)


def _poisson(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    return as_event(dist.Poisson(positive(numbers.squeeze(-event_dim - 1)), validate_args=_checks(numbers)), event_dim)


def _negative_binomial(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    log_count, logits = numbers.unbind(-event_dim - 1)
    return as_event(
        dist.NegativeBinomial(
            positive(log_count, _RATE / 2), logits=_log_rate(logits, _RATE / 2), validate_args=_checks(numbers)
        ),
        event_dim,
    )


def _zero_inflated_poisson(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    gate_logits, log_rate = numbers.unbind(-event_dim - 1)
    return as_event(
        ZeroInflated(dist.Poisson(positive(log_rate), validate_args=_checks(numbers)), gate_logits), event_dim
    )


def _zero_inflated_negative_binomial(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    gate_logits, log_count, logits = numbers.unbind(-event_dim - 1)
    counts = dist.NegativeBinomial(
        positive(log_count, _RATE / 2), logits=_log_rate(logits, _RATE / 2), validate_args=_checks(numbers)
    )
    return as_event(ZeroInflated(counts, gate_logits), event_dim)


def _continuous_bernoulli(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    return as_event(ContinuousBernoulli(numbers.squeeze(-event_dim - 1)), event_dim)


def _discretized_logistic(numbers: Tensor, event_dim: int, symbols: int) -> TorchDistributionMixin:
    loc, log_scale = numbers.unbind(-event_dim - 1)
    return as_event(DiscretizedLogistic(loc, bounded(log_scale), symbols), event_dim)


def _quantized_normal(numbers: Tensor, event_dim: int, symbols: int) -> TorchDistributionMixin:
    loc, log_scale = numbers.unbind(-event_dim - 1)
    return as_event(QuantizedNormal(loc, bounded(log_scale), symbols), event_dim)


def _discretized_logistic_mixture(numbers: Tensor, event_dim: int, symbols: int) -> TorchDistributionMixin:
    logits, loc, log_scale = numbers.movedim(-event_dim - 1, -1).chunk(3, -1)
    return as_event(DiscretizedLogisticMixture(logits, loc, bounded(log_scale), symbols), event_dim)


def _logistic_counts(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    logits, loc, log_scale = numbers.movedim(-event_dim - 1, -1).chunk(3, -1)
    # Without a spread of their own all components would start alike and stay so.
    spread = torch.linspace(-1, 1, loc.shape[-1], dtype=loc.dtype, device=loc.device)
    return as_event(LogisticCounts(logits, loc + spread, bounded(log_scale)), event_dim)


diagonal_normal = ElementFamily(2, _diagonal_normal)
"""Independent normals: means, then log-scales."""

latent_normal = ElementFamily(2, _latent_normal)
"""Independent normals of latents, for encoders: as ``diagonal_normal``, with scales from 4.5e-5 to 2.2e4.

Of latents whose prior is of order one nobody needs others, and the decoder's densities stay finite at whatever draws an
encoder gives far from its training data.
"""

laplace = ElementFamily(2, _laplace)
"""Independent Laplace variables: locations, then log-scales."""

student_t = ElementFamily(3, _student_t)
"""Independent Student variables: log-degrees of freedom (always above one), locations, log-scales."""

bernoulli = ElementFamily(1, _bernoulli)
"""Independent binary variables: logits."""

beta = ElementFamily(2, _beta)
"""Independent variables in (0, 1): the logarithms of both concentrations."""

gamma = ElementFamily(2, _gamma)
"""Independent positive variables: log-concentrations, then log-rates."""

poisson = ElementFamily(1, _poisson)
"""Independent counts: log-rates."""

negative_binomial = ElementFamily(2, _negative_binomial)
"""Independent overdispersed counts: log-counts of failures, then (bounded) logits of success."""

zero_inflated_poisson = ElementFamily(2, _zero_inflated_poisson)
"""Independent counts with extra zeros: logits of an extra zero, then log-rates."""

zero_inflated_negative_binomial = ElementFamily(3, _zero_inflated_negative_binomial)
"""Independent overdispersed counts with extra zeros: logits of one, then as for ``negative_binomial``."""

continuous_bernoulli = ElementFamily(1, _continuous_bernoulli)
"""Independent variables in [0, 1], such as grey values: logits."""


@checked
def normal(scale: float) -> ElementFamily:
    """Independent normals of one fixed scale (data units): means."""
    return ElementFamily(1, partial(_normal_with_scale, scale=scale))


@checked
def categorical(symbols: int) -> ElementFamily:
    """Independent categorical variables over so many values: one logit for each."""
    return ElementFamily(symbols, _categorical)


@checked
def discretized_logistic(symbols: int) -> ElementFamily:
    """Independent integers ``0 … symbols - 1`` (as floats): locations on an axis from -1 to 1, then log-scales."""
    return ElementFamily(2, partial(_discretized_logistic, symbols=symbols))


@checked
def quantized_normal(symbols: int) -> ElementFamily:
    """Independent integers ``0 … symbols - 1`` (as floats): means on an axis from -1 to 1, then log-scales."""
    return ElementFamily(2, partial(_quantized_normal, symbols=symbols))


@checked
def discretized_logistic_mixture(symbols: int, components: int = 10) -> ElementFamily:
    """Independent integers ``0 … symbols - 1`` (as floats), each under a mixture of logistics.

    For each element the components' logits, then their locations on an axis from -1 to 1, then their log-scales.
    """
    return ElementFamily(3 * components, partial(_discretized_logistic_mixture, symbols=symbols))


@checked
def logistic_counts(components: int = 8) -> ElementFamily:
    """Independent counts of any size and spread, each the integer part of the exponential of a mixture of logistics.

    For each element the components' logits, then their locations on the axis of logarithms, then their log-scales.
    """
    return ElementFamily(3 * components, _logistic_counts)


@checked
def pixel_logistic_mixture(symbols: int, components: int = 10) -> PixelFamily:
    """Pixels of several channels under mixtures of logistics in which later channels follow earlier ones.

    For events ``(channels, *positions)`` of integers ``0 … symbols - 1`` (as floats); the numbers have the same
    positions, as those of a convolutional network, and ten channels a component where a pixel has three.
    """
    return PixelFamily(symbols, components)


def columns(kinds: Iterable[ElementFamily]) -> Columns:
    """Rows of a table: one family for each column, in the order of the columns.

    Example:
        >>> family = columns([diagonal_normal, poisson, bernoulli, categorical(3)])
        >>> family.numbers_shape((4,))
        (7,)
        >>> family(torch.zeros(5, 7)).sample().shape
        torch.Size([5, 4])
    """
    return Columns(tuple(kinds))
