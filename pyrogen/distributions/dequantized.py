r"""Integers under a density over real numbers.

With :math:`K` symbols, the integer :math:`v` stands for the cell :math:`[v / K, (v + 1) / K)`. The first and the last
cell reach to the ends of the density's support, wherever these are, so that the cells share out all of its mass. Then
an integer vector has the probability :math:`P(v) = \int_{C(v)} p(x) \, dx` of its cell, of volume :math:`|C(v)|`. One
draw of uniform noise in the cell bounds its logarithm from below in expectation,

.. math:: \log P(v) \ge \mathbb{E}_{x \sim U(C(v))} [\log p(x)] + \log |C(v)| .
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.representation import by_shapes
from pyrogen.numerics.supports import contains, ends, innermost
from pyrogen.numerics.values import require_value
from pyrogen.programs.chain import refuse_chain

from .distribution import PyrogenDistribution


class UniformDequantized(PyrogenDistribution):
    """Integers ``0 … symbols - 1``, scored by a density over an interval with uniform noise.

    ``log_prob`` is a lower bound in expectation, with noise of its own for every row and call.

    Args:
        base: The distribution over real numbers, of a support with two ends.
        symbols: How many integers :math:`K` there are.

    Raises:
        ValueError: ``symbols`` is not positive, or ``base`` has no support with two ends: cells without an end have no
            uniform noise.

    References:
        Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models",
        https://arxiv.org/abs/1511.01844
    """

    density = "lower bound"

    def __init__(self, base: TorchDistributionMixin, symbols: int, *, validate_args: bool | None = None) -> None:
        if symbols < 1:
            raise ValueError(f"`symbols` must be positive, got {symbols}")
        _require_ends(base)
        self.base_dist = base
        self.symbols = symbols
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def __repr__(self) -> str:
        return by_shapes(self, repr(self.base_dist))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.symbols - 1), len(self.event_shape))

    def _expanded(self, batch_shape: torch.Size) -> UniformDequantized:
        base = self.base_dist.expand(batch_shape)
        return UniformDequantized(base, self.symbols, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            draw = self.base_dist.sample(torch.Size(sample_shape))
        return (draw * self.symbols).floor().clamp(0, self.symbols - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        low, high = self._cells(value)
        within = innermost(*ends(self.base_dist.support), value.dtype)
        refuse_chain("a dequantized model", "add the noise to the data once, and observe them at the module underneath")
        # Rounding must take no noise out of its cell, nor out of the support: a density is zero beyond.
        noise = low + (high - low) * torch.rand_like(low)
        noise = noise.clamp(torch.nextafter(low, high), torch.nextafter(high, low))
        possible = contains(constraints.integer_interval(0, self.symbols - 1), value)
        log_volume = torch.where(possible, (high - low).clamp(min=0.0), 0.0).log()
        event_dim = len(self.event_shape)
        log_volume = log_volume.flatten(-event_dim).sum(-1) if event_dim else log_volume
        return self.base_dist.log_prob(noise.clamp(*within)) + log_volume

    def _cells(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of each integer's cell."""
        low, high = self._ends(value)
        below, above = torch.maximum(value / self.symbols, low), torch.minimum((value + 1) / self.symbols, high)
        return torch.where(value == 0, low, below), torch.where(value == self.symbols - 1, high, above)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = ends(self.base_dist.support)
        return torch.as_tensor(low).to(like), torch.as_tensor(high).to(like)


def _require_ends(base: TorchDistributionMixin) -> None:
    found = ends(base.support)
    if found is None or not all(bool(torch.as_tensor(end).isfinite().all()) for end in found):
        raise ValueError(
            "`base` must have a support with two ends, as a flow with interval=(0, 1) has: the first and the last "
            f"integer stand for all that lies beyond theirs; got {base.support}"
        )
