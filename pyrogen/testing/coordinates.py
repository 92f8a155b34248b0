"""One row of a distribution in flat coordinates, in which densities are summed, integrated and explored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, biject_to, constraints
from torch.distributions.constraints import Constraint

from pyrogen.numerics.supports import AnyOf, OrMissing, Packed

from .inputs import take
from .report import NotApplicableError, require
from .subject import DistributionSubject, is_continuous

CHUNK = 8192


class Row(ABC):
    """The first row of a conditional distribution, or an unconditional one, in float64.

    Points are ``(points, coordinates)``; densities are taken with respect to these coordinates.
    """

    def __init__(self, subject: DistributionSubject, module: nn.Module) -> None:
        context = subject.context_of(module)
        self.distribution = module(None if context is None else take(context, slice(0, 1)))
        self.event_shape = subject.event_shape
        self.coordinates = self.event_shape.numel()

    @abstractmethod
    def from_events(self, events: Tensor) -> Tensor:
        """Events ``(points, *batch, *event)`` as points."""

    @abstractmethod
    def score(self, points: Tensor) -> Tensor:
        """The log-density, minus infinity outside what floating-point numbers hold."""

    @abstractmethod
    def approximation(self, points: Tensor) -> Approximation:
        """A simple distribution fitted to points."""

    @abstractmethod
    def propose(self, points: Tensor, spread: Tensor) -> Tensor:
        """Symmetric random steps from the points."""

    def sample(self, points: int) -> Tensor:
        """Draws, as points.

        Raises:
            NotApplicableError: there is no sampler.
        """
        with torch.no_grad():
            try:
                return self.from_events(self.distribution.sample((points,)))
            except NotImplementedError:
                raise NotApplicableError("sample is not implemented") from None

    def log_density(self, points: Tensor) -> Tensor:
        """The log-density at points, ``(points,)``.

        Raises:
            BreachError: it is NaN somewhere.
        """
        with torch.no_grad(), pyro.validation_enabled(False):
            scores = torch.cat([self.score(chunk) for chunk in points.split(CHUNK)])
        require(not bool(scores.isnan().any()), "log_prob is NaN at points of the support")
        return scores

    def _raw(self, values: Tensor) -> Tensor:
        """``log_prob`` of values ``(points, *batch, *event)`` as ``(points,)``."""
        return self.distribution.log_prob(values).reshape(len(values)).double()


class RealRow(Row):
    """Real events in the unconstrained coordinates that ``biject_to(support)`` gives them."""

    def __init__(self, subject: DistributionSubject, module: nn.Module) -> None:
        super().__init__(subject, module)
        self.transform = biject_to(self.distribution.support)
        self.real_shape = self.transform.inverse_shape(self.event_shape)
        self.coordinates = prod(self.real_shape)

    def from_events(self, events: Tensor) -> Tensor:
        points = self.transform.inv(events.double()).reshape(len(events), self.coordinates)
        require(bool(points.isfinite().all()), "samples lie on the border of the support or are not finite")
        return points

    def score(self, points: Tensor) -> Tensor:
        reals = points.reshape(len(points), *self.distribution.batch_shape, *self.real_shape)
        values = self.transform(reals)
        log_det = self.transform.log_abs_det_jacobian(reals, values).reshape(len(points), -1).sum(-1)
        kept = self.distribution.support.check(values).reshape(len(points)) & log_det.isfinite()
        kept &= _is_represented(self.transform.inv(values), reals).reshape(len(points), -1).all(-1)
        return torch.where(kept, self._raw(values) + log_det, -torch.inf)

    def approximation(self, points: Tensor) -> Approximation:
        return _Gaussian(points)

    def propose(self, points: Tensor, spread: Tensor) -> Tensor:
        return points + torch.randn_like(points) * spread * 2.4 / self.coordinates**0.5


class DiscreteRow(Row):
    """Events of integers, each coordinate with the symbols it can take.

    Raises:
        NotApplicableError: the support does not restrict each coordinate on its own.
    """

    def __init__(self, subject: DistributionSubject, module: nn.Module) -> None:
        super().__init__(subject, module)
        largest = int(self.sample(1000).max().item())
        self.dtype = self.distribution.sample().dtype
        self.symbols, self.bounded = _symbols(self.distribution.support, largest)

    def from_events(self, events: Tensor) -> Tensor:
        return events.double().reshape(len(events), self.coordinates)

    def score(self, points: Tensor) -> Tensor:
        shape = len(points), *self.distribution.batch_shape, *self.event_shape
        return self._raw(points.to(self.dtype).reshape(shape))

    def approximation(self, points: Tensor) -> Approximation:
        return _Marginals(points, self.symbols)

    def propose(self, points: Tensor, spread: Tensor) -> Tensor:
        chosen = torch.rand_like(points).argmax(-1, keepdim=True)
        fresh = self.symbols[torch.randint(len(self.symbols), (len(points), 1))]
        return points.scatter(-1, chosen, fresh)


class Approximation(ABC):
    """A normalized distribution over points that can be sampled and scored."""

    @abstractmethod
    def sample(self, points: int) -> Tensor:
        """Draws ``(points, coordinates)``."""

    @abstractmethod
    def log_density(self, points: Tensor) -> Tensor:
        """Log-densities ``(points,)``."""


class _Gaussian(Approximation):
    def __init__(self, points: Tensor) -> None:
        spread = robust_spread(points)
        clipped = (points - points.median(0).values).clamp(-6 * spread, 6 * spread)
        if len(points) > 10 * points.shape[1]:
            covariance = torch.cov(clipped.T).reshape(points.shape[1], points.shape[1])
        else:
            covariance = torch.diag(clipped.var(0))
        covariance = covariance + 1e-9 * torch.diag(spread**2)
        self.normal = MultivariateNormal(clipped.mean(0) + points.median(0).values, covariance)

    def sample(self, points: int) -> Tensor:
        return self.normal.sample((points,))

    def log_density(self, points: Tensor) -> Tensor:
        return self.normal.log_prob(points)


class _Marginals(Approximation):
    def __init__(self, points: Tensor, symbols: Tensor) -> None:
        self.symbols = symbols
        counts = (points[..., None] == symbols).double().sum(0) + 0.5  # (coordinates, symbols)
        self.probabilities = counts / counts.sum(-1, keepdim=True)

    def sample(self, points: int) -> Tensor:
        return self.symbols[torch.multinomial(self.probabilities, points, replacement=True).T]

    def log_density(self, points: Tensor) -> Tensor:
        index = torch.searchsorted(self.symbols, points.T.contiguous())  # (coordinates, points)
        return self.probabilities.gather(-1, index).log().sum(0)


def row_of(subject: DistributionSubject, module: nn.Module) -> Row:
    """The first row in the coordinates that fit its events."""
    context = subject.context_of(module)
    return RealRow(subject, module) if is_continuous(module(context)) else DiscreteRow(subject, module)


def _is_represented(back: Tensor, reals: Tensor) -> Tensor:
    """Where floating-point numbers distinguish a value from the border of the support."""
    return (back - reals).abs() <= 1.0


def robust_spread(points: Tensor) -> Tensor:
    """A scale of each coordinate that outliers do not move: the standard deviation of a normal of equal quartiles."""
    low, high = torch.quantile(points, torch.tensor([0.25, 0.75], dtype=points.dtype), dim=0)
    return ((high - low) / 1.349).clamp(min=1e-6)


def _symbols(support: Constraint, largest: int) -> tuple[Tensor, bool]:
    if isinstance(support, Packed):
        symbols, bounded = zip(*(_symbols(part, largest) for _, part in support.parts), strict=True)
        return torch.cat(symbols).unique(), all(bounded)
    while isinstance(support, constraints.independent | OrMissing | AnyOf):
        support = support.base_constraint
    low, high, bounded = 0, 1, True
    if isinstance(support, type(constraints.integer_interval(0, 1))):
        low, high = int(torch.as_tensor(support.lower_bound).min()), int(torch.as_tensor(support.upper_bound).max())
    elif isinstance(support, type(constraints.nonnegative_integer)):
        low = int(torch.as_tensor(support.lower_bound).min())
        high, bounded = 3 * largest + 50, False
    elif support is not constraints.boolean:
        raise NotApplicableError(f"the events of {support} are not enumerated coordinate by coordinate")
    return torch.arange(low, high + 1).double(), bounded
