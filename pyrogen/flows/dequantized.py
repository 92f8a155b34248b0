"""Flows for integers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked
from pyrogen.core.density import Density, weakest
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.shapes import Context, Shape
from pyrogen.data.preprocessing import noise_of_rows, within_cell
from pyrogen.distributions.dequantized import DequantizedDistribution, UniformDequantized, VariationalDequantized
from pyrogen.networks.statistics import Statistic


class Dequantized(DistributionModule):
    r"""Integers under a density over real numbers, by dequantization: a lower bound.

    Fitting it draws new noise in every step, which keeps a flow from learning the noise of one copy of the data. The
    noise is uniform, or comes from a second flow, trained with the first, that is given the integers: *variational*
    dequantization, whose bound is tighter.

    Args:
        module: The density over :math:`[0, 1]`, such as a flow with ``interval=(0, 1)``. If its support is wider, what
            lies beyond counts for the first and the last integer; it must have two ends.
        symbols: How many integers there are, from zero.
        noise: Given the integers, a density over :math:`(0, 1)`: a flow of the same ``event_shape``, which is its
            ``context_shape`` too, with ``interval=(0, 1)``; uniform noise if ``None``.
        draws: Over how many draws of the noise weights are averaged, as in an importance-weighted autoencoder: the
            more, the tighter.

    Raises:
        ValueError: ``symbols`` is less than two, or ``noise`` is no flow of such events and contexts; when called: the
            support of ``module`` lacks an end, or that of ``noise`` is not (0, 1).

    References:
        Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models",
        https://arxiv.org/abs/1511.01844
        Ho, Chen, Srinivas, Duan and Abbeel 2019, "Flow++: Improving flow-based generative models with variational
        dequantization and architecture design", https://arxiv.org/abs/1902.00275

    Example:
        >>> import pyrogen as pg
        >>> images = pg.flows.multiscale((1, 4, 4), interval=(0.0, 1.0), width=8)
        >>> noise = pg.flows.multiscale((1, 4, 4), (1, 4, 4), interval=(0.0, 1.0), width=8)
        >>> Dequantized(images, 256, noise=noise)().log_prob(torch.zeros(5, 1, 4, 4)).shape
        torch.Size([5])
    """

    @checked(noise=anything)
    def __init__(
        self,
        module: DistributionModule,
        symbols: int,
        *,
        noise: DistributionModule | None = None,
        draws: int = 1,
    ) -> None:
        super().__init__(module.event_shape, module.context_shape)
        self.module, self.noise = module, noise
        self.symbols, self.draws = symbols, draws
        if noise is not None:
            _check_noise(noise, self.event_shape)

    @property
    def density(self) -> Density:
        """A lower bound, or what is weaker in the density underneath."""
        return weakest(self.module.density, "lower bound")

    def forward(self, context: Context = None) -> DequantizedDistribution:
        base = self.module(context)
        if self.noise is None:
            return UniformDequantized(base, self.symbols, draws=self.draws)
        return VariationalDequantized(base, self.symbols, self.noise, draws=self.draws)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        value = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        noise = within_cell(noise_of_rows(value, len(self.event_shape)).to(value.dtype), self.symbols)
        yield from self.module.read_data((value + noise) / self.symbols, context)
        if self.noise is not None:  # begins near uniform noise
            yield from self.noise.read_data(noise, value)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_context(context)


def _check_noise(noise: DistributionModule, event_shape: Shape) -> None:
    check_part(noise, "noise")
    if noise.event_shape != event_shape or noise.context_shape != event_shape:
        raise ValueError(
            f"`noise` must have event shape and context shape {event_shape}, the integers that it is given, got "
            f"{noise.event_shape} and {noise.context_shape}"
        )
    if noise.density != "exact":
        raise ValueError(f"`noise` must have an exact density, else there is no bound, got {noise.density!r}")
