"""Flows for integers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyrogen.arguments import checked
from pyrogen.core.density import Density, weakest
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context
from pyrogen.data.preprocessing import within_cell
from pyrogen.distributions.dequantized import UniformDequantized
from pyrogen.networks.statistics import Statistic


class Dequantized(DistributionModule):
    r"""Integers under a density over real numbers, by uniform dequantization: a lower bound.

    Fitting it draws new noise in every step, which keeps a flow from learning the noise of one copy of the data.

    Args:
        module: The density over :math:`[0, 1]`, such as a flow with ``interval=(0, 1)``. If its support is wider, what
            lies beyond counts for the first and the last integer; it must have two ends.
        symbols: How many integers there are, from zero.

    Raises:
        ValueError: ``symbols`` is less than two; when called: the support of ``module`` lacks an end.

    References:
        Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models",
        https://arxiv.org/abs/1511.01844
    """

    @checked
    def __init__(self, module: DistributionModule, symbols: int) -> None:
        super().__init__(module.event_shape, module.context_shape)
        self.module = module
        self.symbols = symbols

    @property
    def density(self) -> Density:
        """A lower bound, or what is weaker in the density underneath."""
        return weakest(self.module.density, "lower bound")

    def forward(self, context: Context = None) -> UniformDequantized:
        return UniformDequantized(self.module(context), self.symbols)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        value = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        noise = within_cell(torch.rand_like(value), self.symbols)
        yield from self.module.read_data((value + noise) / self.symbols, context)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_context(context)
