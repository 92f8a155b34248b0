r"""Integers under a density over real numbers.

With :math:`K` levels and a density :math:`p` over :math:`[0, 1)^D`, an integer vector :math:`v` has the probability
:math:`P(v) = \int_{[0,1)^D} p((v + u) / K) K^{-D} \, du`. One draw of the noise :math:`u` bounds its logarithm from
below in expectation,

.. math:: \log P(v) \ge \mathbb{E}_u [\log p((v + u) / K)] - D \log K .
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyrogen.data.preprocessing import within_cell


class UniformDequantized(TorchDistribution):
    """Integers ``0 … levels - 1``, scored by a density over the unit interval with uniform noise.

    ``log_prob`` is a lower bound in expectation, with noise of its own for every row and call.

    Args:
        base: The distribution over real numbers; integers :math:`v` stand for :math:`[v / K, (v + 1) / K)`.
        levels: How many integers :math:`K` there are.

    Raises:
        ValueError: ``levels`` is not positive.

    References:
        Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models",
        https://arxiv.org/abs/1511.01844
    """

    arg_constraints = {}
    has_rsample = False
    density = "lower bound"

    def __init__(self, base: TorchDistribution, levels: int, *, validate_args: bool | None = None) -> None:
        if levels < 1:
            raise ValueError(f"`levels` must be positive, got {levels}")
        self.base_dist = base
        self.levels = levels
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError("a dequantized distribution has no closed-form mean; average draws instead")

    def expand(self, batch_shape: Iterable[int], _instance: None = None) -> UniformDequantized:
        base = self.base_dist.expand(torch.Size(batch_shape))
        expanded = UniformDequantized(base, self.levels, validate_args=False)
        expanded._validate_args = self._validate_args
        return expanded

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            draw = self.base_dist.sample(torch.Size(sample_shape))
        return (draw * self.levels).floor().clamp(0, self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args and value.numel():  # torch's check of a support fails on empty batches
            self._validate_sample(value)
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        noise = within_cell(torch.rand_like(value), self.levels)
        return self.base_dist.log_prob((value + noise) / self.levels) - self.event_shape.numel() * math.log(self.levels)
