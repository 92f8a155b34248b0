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

LOG_BOUND = 10.0


@dataclass(frozen=True)
class Family:
    """How a network's output becomes a distribution over single elements.

    Args:
        size: How many numbers each element of the event takes.
        make: Called with one tensor of shape ``(*batch, size, *event)``; gives a distribution with batch shape
            ``(*batch, *event)`` and scalar events. A module-level function, so that the family pickles.
    """

    size: int
    make: Callable[[Tensor, int], TorchDistributionMixin]

    def __call__(self, numbers: Tensor, event_dim: int) -> TorchDistributionMixin:
        """The distribution over events, from numbers of shape ``(*batch, size, *event)``."""
        return self.make(numbers, -event_dim - 1).to_event(event_dim)


def positive(number: Tensor) -> Tensor:
    r"""A positive parameter, :math:`e^{b \tanh(a / b)}` with :math:`b = 10`: between 4.5e-5 and 2.2e4."""
    return (LOG_BOUND * torch.tanh(number / LOG_BOUND)).exp()


def _normal(numbers: Tensor, axis: int) -> dist.Normal:
    loc, log_scale = numbers.unbind(axis)
    return dist.Normal(loc, positive(log_scale))


def _normal_with_scale(numbers: Tensor, axis: int, scale: float) -> dist.Normal:
    return dist.Normal(numbers.squeeze(axis), scale)


def _laplace(numbers: Tensor, axis: int) -> dist.Laplace:
    loc, log_scale = numbers.unbind(axis)
    return dist.Laplace(loc, positive(log_scale))


def _student_t(numbers: Tensor, axis: int) -> dist.StudentT:
    log_degrees, loc, log_scale = numbers.unbind(axis)
    return dist.StudentT(1 + positive(log_degrees + 1), loc, positive(log_scale))


def _bernoulli(numbers: Tensor, axis: int) -> dist.Bernoulli:
    return dist.Bernoulli(logits=numbers.squeeze(axis))


def _categorical(numbers: Tensor, axis: int) -> dist.Categorical:
    return dist.Categorical(logits=numbers.movedim(axis, -1))


def _beta(numbers: Tensor, axis: int) -> dist.Beta:
    first, second = numbers.unbind(axis)
    return dist.Beta(positive(first), positive(second))


def _gamma(numbers: Tensor, axis: int) -> dist.Gamma:
    concentration, rate = numbers.unbind(axis)
    return dist.Gamma(positive(concentration), positive(rate))


def _poisson(numbers: Tensor, axis: int) -> dist.Poisson:
    return dist.Poisson(positive(numbers.squeeze(axis)))


def _negative_binomial(numbers: Tensor, axis: int) -> dist.NegativeBinomial:
    log_count, logits = numbers.unbind(axis)
    return dist.NegativeBinomial(positive(log_count), logits=logits)


diagonal_normal = Family(2, _normal)
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
"""Independent overdispersed counts: log-counts of failures, then logits of success."""


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
