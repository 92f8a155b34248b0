r"""Linear pools: mixtures of distributions of the same events, each of a family of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.rows import Remake, rearranged, spared
from pyrogen.numerics.supports import one_support

from .abilities import abilities_of
from .distribution import PyrogenDistribution


class LinearPool(PyrogenDistribution):
    r"""A mixture of distributions of the same events, :math:`p(x) = \sum_k w_k \, p_k(x)`.

    Where Pyro's ``MixtureSameFamily`` mixes along a batch dimension, this mixes distributions that are objects of their
    own, of any families. A draw is one of a component that is drawn first, so there is no ``rsample``.

    Args:
        components: The distributions, of one batch shape, one event shape and one support.
        log_weights: The logarithms of their weights, ``(len(components), *batch)``, or ``(len(components),)`` for the
            whole batch; they are normalized whenever they are used. Even weights if ``None``.
        validate_args: Whether values are checked; Pyro's switch if ``None``.
        remake: Gives the same pool for rows of its context in other places, where the weights depend on one.

    Raises:
        ValueError: there is no component, or their shapes differ.

    References:
        Stone 1961, "The opinion pool", https://doi.org/10.1214/aoms/1177704873

    Example:
        >>> import pyro.distributions as dist
        >>> pool = LinearPool([dist.Normal(0.0, 1.0), dist.Laplace(0.0, 1.0)])
        >>> pool.log_prob(torch.tensor(0.0)).exp()
        tensor(0.4495)
    """

    def __init__(
        self,
        components: Sequence[TorchDistributionMixin],
        log_weights: Tensor | None = None,
        *,
        validate_args: bool | None = None,
        remake: Remake | None = None,
    ) -> None:
        self._remake = remake
        self.components = list(components)
        if not self.components:
            raise ValueError("`components` must hold at least one distribution, got none")
        first = self.components[0]
        for place, component in enumerate(self.components):
            if (component.batch_shape, component.event_shape) != (first.batch_shape, first.event_shape):
                raise ValueError(
                    f"`components` must have one shape, got batch {tuple(first.batch_shape)} and event "
                    f"{tuple(first.event_shape)}, and at {place} {tuple(component.batch_shape)} and "
                    f"{tuple(component.event_shape)}"
                )
        self.log_weights = log_weights
        super().__init__(first.batch_shape, first.event_shape, validate_args=validate_args)

    @property
    def has_given(self) -> bool:
        """Whether ``given`` and ``part_log_prob`` are implemented: by all components."""
        return all(abilities_of(component).has_given for component in self.components)

    @property
    def takes_missing(self) -> bool:
        """Whether NaN marks a missing entry, for all components."""
        return all(abilities_of(component).takes_missing for component in self.components)

    @property
    def support(self) -> constraints.Constraint:
        """That of its components.

        Raises:
            ValueError: they lie between other ends.
        """
        return one_support([component.support for component in self.components], "components")

    @property
    def mean(self) -> Tensor:
        return self._average([component.mean for component in self.components])

    @property
    def variance(self) -> Tensor:
        squares = [component.variance + component.mean.square() for component in self.components]
        return self._average(squares) - self.mean.square()

    def _expanded(self, batch_shape: torch.Size) -> LinearPool:
        weights = self.log_weights
        if weights is not None and weights.dim() > 1:
            weights = self._wide(weights, batch_shape)
        components = [part.expand(batch_shape) for part in self.components]
        return type(self)(components, weights, validate_args=False, remake=self._remake)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            one_support([component.support for component in self.components], "components")
        noisy = any(abilities_of(component).density != "exact" for component in self.components)
        options = {"noisy": value.device if noisy else None}
        return spared(partial(self._score, value), partial(self._score_rows, value), self._remake, **options)

    def responsibilities(self, value: Tensor) -> Tensor:
        """The probability that an event came from each component, given the event, ``(*batch, len(components))``."""
        return self._joint([component.log_prob(value) for component in self.components]).softmax(0).movedim(0, -1)

    def part_log_prob(self, value: Tensor, part: Tensor) -> Tensor:
        return self._mixed([component.part_log_prob(value, part) for component in self.components])

    def given(self, values: Tensor, mask: Tensor) -> LinearPool:
        """The pool given a part of the event: components weighted by the probability that each gives to the part."""
        scores = torch.stack([component.part_log_prob(values, mask) for component in self.components])
        weights = scores if self.log_weights is None else scores + self._weights(scores.shape[1:])
        components = [component.given(values, mask) for component in self.components]
        return type(self)(components, weights, validate_args=self._validate_args)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        first = torch.Size(sample_shape)
        shape = first + self.batch_shape
        chosen = self._chosen(shape).reshape(first.numel(), self.batch_shape.numel())
        draws = None
        for place, component in enumerate(self.components):
            here = chosen == place
            most = int(here.sum(0).max()) if shape.numel() else 0
            drawn = component.sample((most,)).reshape(most, chosen.shape[1], *self.event_shape)
            draws = drawn.new_empty((*chosen.shape, *self.event_shape)) if draws is None else draws
            rows, columns = here.nonzero(as_tuple=True)
            draws[rows, columns] = drawn[here.cumsum(0)[rows, columns] - 1, columns]
        return self._unknown(draws.reshape(*shape, *self.event_shape), shape)

    def _unknown(self, draws: Tensor, shape: torch.Size) -> Tensor:
        """Draws, NaN where the weights are, as with a context that is NaN; integers cannot be."""
        if self.log_weights is None:
            return draws
        unknown = self._weights(shape).isnan().any(0)
        if draws.is_floating_point():
            return draws.masked_fill(unknown.reshape(*shape, *(1,) * len(self.event_shape)), torch.nan)
        if bool(unknown.any()):
            raise ValueError(f"`log_weights` must not be NaN, got {int(unknown.sum())} of {unknown.numel()} that are")
        return draws

    def _chosen(self, shape: torch.Size) -> Tensor:
        """Which component each draw is one of, ``(N,)``."""
        count = len(self.components)
        if self.log_weights is None:
            return torch.randint(count, (shape.numel(),))
        weights = self._weights(shape).exp().nan_to_num(nan=1.0).movedim(0, -1)
        return torch.multinomial(weights.reshape(-1, count), 1).flatten() if shape.numel() else weights.new_zeros(0)

    def _score(self, value: Tensor) -> Tensor:
        return self._mixed([component.log_prob(value) for component in self.components])

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        there = self if self._remake is None else self._remake(places, batch)
        return there._score(rearranged(value, self.event_shape, batch, places))

    def _mixed(self, scores: Sequence[Tensor]) -> Tensor:
        return self._joint(scores).logsumexp(0)

    def _joint(self, scores: Sequence[Tensor]) -> Tensor:
        """The log-probabilities of a value and a component, ``(len(components), *batch)``."""
        stacked = torch.stack(list(scores))
        if self.log_weights is None:
            return stacked - math.log(len(stacked))
        return stacked + self._weights(stacked.shape[1:])

    def _average(self, values: Sequence[Tensor]) -> Tensor:
        """Of numbers of every component, ``(*batch, *event)``."""
        stacked = torch.stack(values)
        if self.log_weights is None:
            return stacked.mean(0)
        weights = self._weights(self.batch_shape).exp()
        return (stacked * weights.reshape(*weights.shape, *(1,) * len(self.event_shape))).sum(0)

    def _weights(self, shape: torch.Size) -> Tensor:
        """The logarithms of the normalized weights, ``(len(components), *shape)``."""
        return self._wide(self.log_weights.log_softmax(0), shape)

    def _wide(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Numbers of the components, with as many batch dimensions as a shape has."""
        own = weights.shape[1:]
        return weights.reshape(len(weights), *(1,) * (len(shape) - len(own)), *own).expand(-1, *shape)
