r"""Generators: networks that turn noise into data, and learn by comparing samples.

A generator draws noise :math:`z \sim p(z)` and gives :math:`x = G_\theta(z, c)`. That defines a distribution
:math:`q_\theta(x \mid c)` from which it is easy to draw and whose density nobody can write down, the more so where the
noise has fewer dimensions than the data: all of it then lies on a surface. So nothing here learns by likelihood. What
can be had is a comparison of draws with data, and there are three:

- a *game* (:class:`~pyrogen.implicit.game.Game`): a critic :math:`D` learns to tell both apart, and the generator to
  leave no difference. Of most losses the best critic is :math:`\log p(x) / q_\theta(x)`, or a function of it, and the
  game minimizes a divergence between :math:`p` and :math:`q_\theta`.
- a *distance* that needs no critic, because its critic is known in closed form: energy distance, maximum mean
  discrepancy, sliced Wasserstein distance.
- a *pair* of generator and encoder that are compared as joint distributions of :math:`(x, z)`.

Because :math:`x` is a differentiable function of noise whose density is known, a generator is a prior all the same:
the posterior of :math:`z` given a measurement of :math:`x` is found in the space of noise
(:class:`pyrogen.inverse.NoiseMCMC`, :class:`pyrogen.inverse.NoiseVI`).

References:
    Goodfellow et al. 2014, "Generative adversarial nets", https://arxiv.org/abs/1406.2661
    Mohamed and Lakshminarayanan 2016, "Learning in implicit generative models", https://arxiv.org/abs/1610.03483
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from typing import NoReturn

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyrogen.arguments import anything, checked, instance_of
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.normal import StandardNormal
from pyrogen.core.shapes import (
    Context,
    ContextShape,
    Shape,
    as_shape,
    batch_shape_of,
    context_batch_shape,
    flatten_batch,
)
from pyrogen.distributions.push_forward import PushForward
from pyrogen.networks.context import context_rows
from pyrogen.networks.statistics import Standardizer, Statistic, read_by
from pyrogen.numerics.rows import shaped
from pyrogen.numerics.supports import widened


class Generator(DistributionModule):
    r"""A network pushed over noise: :math:`x = \mu + \sigma \, G(z, c)`, a distribution without a density.

    Mean :math:`\mu` and scale :math:`\sigma` of the elements (of the channels of images) are learned from the data set
    before training, so that the network works on numbers of order one and its draws are in data units.

    It draws, with a gradient. Whatever needs its density is refused and names the way out: ``fit`` trains it through a
    :class:`~pyrogen.implicit.game.Game` or a distance, two-sample tests compare it, and posteriors under it are found
    in the space of its noise.

    Args:
        network: Takes noise ``(N, *noise)``, or with a context a dict ``{"z": noise, **context}`` in which a single
            context has the name ``"context"``; gives events ``(N, *event_shape)``, flat or shaped.
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        noise: The distribution of noise, as a module with no context or with this one; or a shape, of standard normal
            noise. Any distribution will do; one that draws without a gradient (labels, a mixture) stays as it is.
        support: Where events lie, if the network's output lies there by itself (pixels in the unit interval, columns of
            a table): it is then given as it is, without mean and scale, and data outside are refused. ``None``: any
            real numbers.

    Raises:
        ValueError: shapes do not fit; when called, the network's output holds other numbers than events do.

    Example:
        >>> generator = Generator(nn.Linear(4, 2), (2,), noise=(4,))
        >>> generator().sample((5,)).shape
        torch.Size([5, 2])
    """

    density = None

    @checked(noise=anything, support=instance_of(Constraint))
    def __init__(
        self,
        network: nn.Module,
        event_shape: Shape,
        context_shape: ContextShape = None,
        *,
        noise: DistributionModule | Shape,
        support: Constraint | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.noise = noise if isinstance(noise, nn.Module) else StandardNormal(as_shape(noise, "noise"))
        check_part(self.noise, "noise")
        if self.noise.context_shape not in (None, self.context_shape):
            raise ValueError(
                f"`noise` must have no context or that of the generator, {self.context_shape}, got a module of context "
                f"shape {self.noise.context_shape}"
            )
        if isinstance(self.context_shape, dict) and "z" in self.context_shape:
            raise ValueError(
                f"`context_shape` must name entries otherwise than 'z', the noise, got {sorted(self.context_shape)}"
            )
        self.network = network
        self.support = None if support is None else widened(support, len(self.event_shape))
        self.standardizer = Standardizer(self.event_shape, name="x") if support is None else None

    def forward(self, context: Context = None) -> PushForward:
        function = partial(self.generated, context=context)
        return PushForward(self._noise(context), function, self.event_shape, self.support, validate_args=False)

    def generated(self, z: Tensor, context: Context = None) -> Tensor:
        """The events that noise becomes.

        Shape:
            ``(*batch, *noise)`` to ``(*batch, *event_shape)``; the batch dimensions of the context broadcast.
        """
        return self._in_data_units(*self._output(z, context))

    @property
    def represented_shape(self) -> Shape:
        """Shape of one event in the form of :meth:`represent`."""
        return self.event_shape

    def represent(self, x: Tensor) -> Tensor:
        """Events in the form in which they are compared with draws: here as they are.

        Where an event has no gradient (the labels in a row of a table), a subclass gives another form that does.
        """
        return x

    def represented(self, rows: int, context: Context = None) -> Tensor:
        """Draws in the form of :meth:`represent`, differentiable: so many, or one for each context, ``(rows, ...)``."""
        return self.generated(self._drawn_noise(rows, context), context)

    def objective(self) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} has no log_prob (density None), hence no likelihood to maximize; train it by "
            "comparing its draws with data: `fit(Game(generator, critic), x)`, or without a critic "
            "`fit(EnergyDistance(generator), x)`"
        )

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        if self.standardizer is not None:
            yield from self.standardizer.read_data(x)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        entries = context if isinstance(context, Mapping) or context is None else {"context": context}
        yield from read_by(self.network, entries)
        if self.noise.context_shape is not None:
            yield from self.noise.read_context(context)

    def _noise(self, context: Context) -> TorchDistributionMixin:
        """The distribution of noise, of the batch shape of the context."""
        batch_shape = context_batch_shape(context, self.context_shape)
        noise = self.noise(None if self.noise.context_shape is None else context)
        return noise if noise.batch_shape == batch_shape else noise.expand(batch_shape)

    def _drawn_noise(self, rows: int, context: Context) -> Tensor:
        """Noise for so many draws, or for one in each context, ``(rows, *noise)``."""
        noise, shape = self._noise(context), (rows,) if context is None else ()
        return noise.rsample(shape) if noise.has_rsample else noise.sample(shape)

    def _output(self, z: Tensor, context: Context) -> tuple[Tensor, torch.Size]:
        """What the network makes of noise, one batch dimension in front, and the batch dimensions that stand for it."""
        shape = self.noise.event_shape
        batch = batch_shape_of(z, shape, "z")
        if context is not None:
            batch = torch.broadcast_shapes(batch, context_batch_shape(context, self.context_shape))
            z = z.expand(*batch, *shape)
        rows = flatten_batch(z, shape)
        if context is not None:
            entries = context if isinstance(context, Mapping) else {"context": context}
            shapes = self.context_shape if isinstance(self.context_shape, dict) else {"context": self.context_shape}
            rows = {"z": rows, **context_rows(entries, shapes, batch)}
        return self.network(rows), batch

    def _in_data_units(self, output: Tensor, batch: torch.Size) -> Tensor:
        if output.numel() != prod(batch) * prod(self.event_shape) or output.shape[:1] != (prod(batch),):
            raise ValueError(
                f"`network` must give events {(prod(batch), *self.event_shape)} of {prod(batch)} rows of noise, "
                f"got an output of shape {tuple(output.shape)}"
            )
        x = shaped(output, (*batch, *self.event_shape))
        return x if self.standardizer is None else self.standardizer.inverse(x)
