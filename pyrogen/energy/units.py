r"""Layers of visible units, for machines whose units depend on each other through hidden ones alone.

Given a *field* :math:`\eta` the units are independent, with the density :math:`p(v \mid \eta) \propto m(v)\, e^{\eta
\cdot t(v)}`: an exponential family with features :math:`t`, a measure :math:`m` and the log-partition function
:math:`A(\eta) = \log \int m(v)\, e^{\eta \cdot t(v)} dv`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from math import log, pi, prod

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import one_hot, softplus

from pyrogen.abstract import Abstract
from pyrogen.core.shapes import Shape, as_shape
from pyrogen.networks.statistics import ReadsData, Standardizer, Statistic


class Units(Abstract, ReadsData, nn.Module):
    """A layer of visible units; abstract.

    Args:
        event_shape: Shape of one event.
        features: How many features an event has.

    Attributes:
        support: Where each unit lies.
        states: How many values a unit has; ``None`` for real numbers.
    """

    support: Constraint
    states: int | None = None

    def __init__(self, event_shape: Shape, features: int) -> None:
        super().__init__()
        self.event_shape, self.size = as_shape(event_shape, "event_shape"), features

    def features(self, x: Tensor) -> Tensor:
        """Those of events as numbers, ``(N, *event)`` to ``(N, features)``."""
        return x.reshape(len(x), self.size)

    def log_measure(self, features: Tensor) -> Tensor:
        """The logarithm of the measure, up to a constant, ``(N, features)`` to ``(N,)``."""
        return torch.zeros_like(features[:, 0])

    @abstractmethod
    def log_partition(self, field: Tensor) -> Tensor:
        """The log-partition function of fields, ``(..., features)`` to ``(...)``."""

    @abstractmethod
    def sample(self, field: Tensor) -> Tensor:
        """Events as numbers, drawn given fields: ``(N, features)`` to ``(N, *event)``."""


class BinaryUnits(Units):
    """Bits: a field is the log-odds of one."""

    support, states = constraints.boolean, 2

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape, prod(as_shape(event_shape, "event_shape")))

    def log_partition(self, field: Tensor) -> Tensor:
        return softplus(field).sum(-1)

    def sample(self, field: Tensor) -> Tensor:
        return torch.bernoulli(field.sigmoid()).reshape(len(field), *self.event_shape)


class CategoricalUnits(Units):
    """Symbols, as one-hot vectors: a field holds the logits of all values of all units.

    Args:
        event_shape: Shape of one event.
        symbols: How many values a unit has.
    """

    def __init__(self, event_shape: Shape, symbols: int) -> None:
        super().__init__(event_shape, prod(as_shape(event_shape, "event_shape")) * symbols)
        self.states, self.support = symbols, constraints.integer_interval(0, symbols - 1)

    def log_partition(self, field: Tensor) -> Tensor:
        return field.unflatten(-1, (-1, self.states)).logsumexp(-1).sum(-1)

    def sample(self, field: Tensor) -> Tensor:
        logits = field.reshape(-1, self.states)
        drawn = torch.multinomial(logits.softmax(-1), 1).squeeze(-1)
        return one_hot(drawn, self.states).to(field).reshape(len(field), *self.event_shape, self.states)


class GaussianUnits(Units):
    r"""Real numbers, :math:`v_i = \mu_i + \sigma_i (\eta_i + \varepsilon_i)`: the data's means, and learned deviations.

    Deviations begin at those of the data.

    Args:
        event_shape: Shape of one event.

    References:
        Liao, Kornblith, Ren, Fleet and Hinton 2022, "Gaussian-Bernoulli RBMs without tears",
        https://arxiv.org/abs/2210.10318
    """

    support = constraints.real

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape, prod(as_shape(event_shape, "event_shape")))
        self.standardizer = Standardizer(self.event_shape, name="x")
        self.log_scale = nn.Parameter(torch.zeros(self.size))

    def features(self, x: Tensor) -> Tensor:
        return super().features(self.standardizer(x)) * (-self.log_scale).exp()

    def log_measure(self, features: Tensor) -> Tensor:
        return -0.5 * features.square().sum(-1)

    def log_partition(self, field: Tensor) -> Tensor:
        scales = self.log_scale + self.standardizer.scale.log().expand(self.event_shape).reshape(-1)
        return 0.5 * field.square().sum(-1) + scales.sum() + 0.5 * self.size * log(2 * pi)

    def sample(self, field: Tensor) -> Tensor:
        standard = (field + torch.randn_like(field)) * self.log_scale.exp()
        return self.standardizer.inverse(standard.reshape(len(field), *self.event_shape))

    def read_data(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.standardizer.read_data(x)
