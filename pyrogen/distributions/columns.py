"""Rows of a table whose columns are of different kinds: real numbers, counts, categories, each with its own family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.scores import score_inside
from pyrogen.numerics.supports import EachColumn
from pyrogen.numerics.values import require_value

from .distribution import PyrogenDistribution


class ColumnsDistribution(PyrogenDistribution):
    """Independent columns of different kinds as one row of floating-point numbers.

    A row that holds NaN has ``log_prob`` NaN; to leave columns out of the sum, take :meth:`log_prob_by_element`.

    Args:
        groups: Places of columns, each with the distribution of these columns: of single elements, with the columns
            as the last batch dimension.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Sequence[int], TorchDistributionMixin]],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.groups = list(groups)
        places = [place for group, _ in self.groups for place in group]
        if sorted(places) != list(range(len(places))):
            raise ValueError(f"`groups` must name each column once, got {places}")
        self._order = sorted(range(len(places)), key=places.__getitem__)
        batch_shape = torch.broadcast_shapes(*(part.batch_shape[:-1] for _, part in self.groups))
        super().__init__(batch_shape, torch.Size((len(places),)), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return all(part.has_rsample for _, part in self.groups)

    @property
    def support(self) -> constraints.Constraint:
        supports = [part.support for places, part in self.groups for _ in places]
        return EachColumn([supports[place] for place in self._order])

    @property
    def mean(self) -> Tensor:
        return self._in_order([part.mean for _, part in self.groups])

    @property
    def variance(self) -> Tensor:
        return self._in_order([part.variance for _, part in self.groups])

    def _expanded(self, batch_shape: torch.Size) -> ColumnsDistribution:
        groups = [(places, part.expand(batch_shape + part.batch_shape[-1:])) for places, part in self.groups]
        return ColumnsDistribution(groups, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            return self._in_order([part.sample(torch.Size(sample_shape)) for _, part in self.groups])

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self._in_order([part.rsample(torch.Size(sample_shape)) for _, part in self.groups])

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return self.log_prob_by_element(value).sum(-1)

    def log_prob_by_element(self, value: Tensor) -> Tensor:
        """The log-probability of each column, NaN where the value is, and nowhere else."""
        scores = []
        for places, part in self.groups:
            column = value[..., places]
            scores.append(score_inside(part.log_prob, part.support, column))
        return self._in_order(scores)

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        """The parts' columns in the order of the table."""
        dtype = next((part.dtype for part in parts if part.is_floating_point()), torch.get_default_dtype())
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return torch.cat([part.to(dtype).expand(*batch, -1) for part in parts], -1)[..., self._order]
