"""Forecasts: the distribution of what comes after a prefix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.core.shapes import Context, common_batch_shape, context_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.values import require_value

if TYPE_CHECKING:
    from .model import TrajectoryModel


class Forecast(PyrogenDistribution):
    """The distribution of the steps of sequences after a prefix.

    It is drawn from the last state of the prefix on. It has a ``log_prob`` where that of the model is exact: the
    difference of two.

    Args:
        model: The model of prefix and further steps together.
        prefix: What is known, ``(*batch, steps, *observation)``.
        context: What the model is given.
        states: The distribution of the last state of the prefix.
    """

    def __init__(
        self,
        model: TrajectoryModel,
        prefix: Tensor,
        context: Context,
        states: TorchDistributionMixin,
        batch_shape: Iterable[int] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.model, self.prefix, self.context, self.states = model, prefix, context, states
        self.density = "exact" if model.density == "exact" else None
        observation = model.event_shape[1:]
        self.known = prefix.shape[prefix.dim() - len(observation) - 1]
        if batch_shape is None:
            contexts = context_batch_shape(context, model.context_shape)
            batch_shape = common_batch_shape({"prefix": states.batch_shape, "context": contexts})
        event_shape = torch.Size((model.length - self.known, *observation))
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return self.model.support_at(self.context)

    def _expanded(self, batch_shape: torch.Size) -> Forecast:
        return Forecast(self.model, self.prefix, self.context, self.states, batch_shape, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.sample_with_states(sample_shape)[1]

    def sample_with_states(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        """Draws of the states of the further steps, and of what is observed of them."""
        with torch.no_grad():
            z = self.states.expand(self.batch_shape).sample(torch.Size(sample_shape))
            return self.model.continued(z, self.prefix, self.context)

    def log_prob(self, value: Tensor) -> Tensor:
        if self.density is None:
            return super().log_prob(value)
        require_value(self, value)
        batch = torch.broadcast_shapes(value.shape[: value.dim() - len(self.event_shape)], self.batch_shape)
        observation = self.event_shape[1:]
        known = self.prefix.expand(*batch, self.known, *observation)
        value = value.expand(*batch, *self.event_shape)
        dim = -1 - len(observation)
        whole, first = self.model(self.context), torch.full_like(value, torch.nan)
        return whole.log_prob(torch.cat([known, value], dim)) - whole.log_prob(torch.cat([known, first], dim))
