"""Families: from the numbers a network puts out to a Pyro distribution.

A family says how many numbers it needs for each element of an event and what distribution they make. Positive
parameters come through :func:`positive`, a bounded exponential: identity-like near zero, never 0 or infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from .independent import as_event
from .normal import DiagonalNormal

LOG_BOUND = 10.0


@dataclass(frozen=True)
class Family:
    """How a network's output becomes a distribution over single elements.

    Args:
        size: How many numbers each element of the event takes.
        make: Called with a tensor of shape ``(*batch, size, *event)`` and how many dimensions an event has; gives the
            distribution over events. A module-level function, so that the family pickles.
    """

    size: int
    make: Callable[[Tensor, int], TorchDistributionMixin]

    def __call__(self, numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
        """The distribution over events, from numbers of shape ``(*batch, size, *event)``."""
        return self.make(numbers, event_dim)


def bounded(number: Tensor) -> Tensor:
    r"""A log-scale, :math:`b \tanh(a / b)` with :math:`b = 10`."""
    return LOG_BOUND * torch.tanh(number / LOG_BOUND)


def positive(number: Tensor) -> Tensor:
    """A positive parameter, the exponential of a bounded one: between 4.5e-5 and 2.2e4."""
    return bounded(number).exp()


def _checks(numbers: Tensor) -> bool | None:
    # torch's checks of vectors fail where there is none.
    return None if numbers.numel() else False


def _diagonal_normal(numbers: Tensor, event_dim: int) -> DiagonalNormal:
    loc, log_scale = numbers.unbind(-event_dim - 1)
    return DiagonalNormal(loc, bounded(log_scale), event_dim)


def _normal_with_scale(numbers: Tensor, event_dim: int, scale: float) -> TorchDistributionMixin:
    return as_event(dist.Normal(numbers.squeeze(-event_dim - 1), scale), event_dim)


def _laplace(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    loc, log_scale = numbers.unbind(-event_dim - 1)
    return as_event(dist.Laplace(loc, positive(log_scale)), event_dim)


def _student_t(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    log_degrees, loc, log_scale = numbers.unbind(-event_dim - 1)
    return as_event(dist.StudentT(1 + positive(log_degrees + 1), loc, positive(log_scale)), event_dim)


def _bernoulli(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    return as_event(dist.Bernoulli(logits=numbers.squeeze(-event_dim - 1)), event_dim)


def _categorical(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    return as_event(
        dist.Categorical(logits=numbers.movedim(-event_dim - 1, -1), validate_args=_checks(numbers)), event_dim
    )


def _beta(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    first, second = numbers.unbind(-event_dim - 1)
    return as_event(dist.Beta(positive(first), positive(second), validate_args=_checks(numbers)), event_dim)


def _gamma(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    concentration, rate = numbers.unbind(-event_dim - 1)
    return as_event(dist.Gamma(positive(concentration), positive(rate)), event_dim)


def _poisson(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    return as_event(dist.Poisson(positive(numbers.squeeze(-event_dim - 1))), event_dim)


def _negative_binomial(numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
    log_count, logits = numbers.unbind(-event_dim - 1)
    return as_event(dist.NegativeBinomial(positive(log_count), logits=bounded(logits)), event_dim)


diagonal_normal = Family(2, _diagonal_normal)
"""Independent normals: means, then log-scales."""

laplace = Family(2, _laplace)
"""Independent Laplace variables: locations, then log-scales."""

student_t = Family(3, _student_t)
"""Independent Student variables: log-degrees of freedom (always above one), locations, log-scales."""

bernoulli = Family(1, _bernoulli)
"""Independent binary variables: logits."""

beta = Family(2, _beta)
"""Independent variables in (0, 1): the logarithms of both concentrations."""

gamma = Family(2, _gamma)
"""Independent positive variables: log-concentrations, then log-rates."""

poisson = Family(1, _poisson)
"""Independent counts: log-rates."""

negative_binomial = Family(2, _negative_binomial)
"""Independent overdispersed counts: log-counts of failures, then (bounded) logits of success."""


def normal(scale: float) -> Family:
    """Independent normals of one fixed scale (data units): means.

    Raises:
        ValueError: ``scale`` is not positive.
    """
    if not scale > 0:
        raise ValueError(f"`scale` must be positive, got {scale}")
    return Family(1, partial(_normal_with_scale, scale=scale))


def categorical(classes: int) -> Family:
    """Independent categorical variables over ``classes`` values: one logit for each.

    Raises:
        ValueError: there are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"`classes` must be at least 2, got {classes}")
    return Family(classes, _categorical)
