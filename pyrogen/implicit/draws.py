"""Draws that carry gradients, in the form in which they are compared with data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.core.module import DistributionModule
from pyrogen.core.reparameterized import reparameterized
from pyrogen.core.shapes import Context, Shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.context_embeddings import WithContext
from pyrogen.networks.statistics import Statistic

from .model import Generator


class Drawn(PyrogenDistribution):
    """A distribution that is known by its draws alone.

    Args:
        draw: Gives draws of a shape, which ends in the batch shape; differentiable.
        batch_shape: That of the context, possibly expanded.
        event_shape: Shape of one event.
    """

    density = None
    has_rsample = True

    def __init__(
        self, draw: Callable[[torch.Size], Tensor], batch_shape: Iterable[int], event_shape: Iterable[int]
    ) -> None:
        self.draw = draw
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.draw(torch.Size(sample_shape) + self.batch_shape)

    def _expanded(self, batch_shape: torch.Size) -> Drawn:
        return Drawn(self.draw, batch_shape, self.event_shape)


def require_plain(generator: DistributionModule) -> None:
    """Refuses a generator whose draws are compared in another form than events have.

    Raises:
        NotImplementedError: it is one.
    """
    if represented_shape(generator) != generator.event_shape:
        raise NotImplementedError(
            f"{type(generator).__name__} compares events in another form than their own, which latents and codes have "
            "no place in; train it by Game"
        )


class ModuleGenerator(Generator):
    """A module that draws in data units with a gradient, as a generator: its draws are the noise and the events.

    Args:
        module: It learns by itself what is learned from the data set.
        support: Where its events lie; all real numbers if ``None``.
    """

    def __init__(self, module: DistributionModule, support: constraints.Constraint | None = None) -> None:
        support = constraints.independent(constraints.real, len(module.event_shape)) if support is None else support
        network = WithContext(nn.Identity(), "z")
        super().__init__(network, module.event_shape, module.context_shape, noise=module, support=support)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.noise.read_data(x, context)

    def _noise(self, context: Context) -> TorchDistributionMixin:
        return reparameterized(super()._noise(context), self.noise)


def as_generator(module: DistributionModule, support: constraints.Constraint | None = None) -> Generator:
    """A generator as it is, and any other module as one.

    Args:
        module: The module.
        support: As for :class:`ModuleGenerator`.
    """
    return module if isinstance(module, Generator) else ModuleGenerator(module, support)


def represent(generator: DistributionModule, x: Tensor) -> Tensor:
    """Data in the form in which draws of the generator are compared with them."""
    return generator.represent(x) if isinstance(generator, Generator) else x


def represented_shape(generator: DistributionModule) -> Shape:
    """The shape of an event in that form."""
    return generator.represented_shape if isinstance(generator, Generator) else generator.event_shape


def draws_of(generator: DistributionModule, draws: int, rows: int, context: Context = None) -> Tensor:
    """Draws in that form for each of some rows, differentiable.

    Args:
        generator: A generator, or any module whose distributions are reparameterized.
        draws: How many for each row.
        rows: How many rows, each with its context if there are any.
        context: Their contexts.

    Shape:
        ``(draws, rows, *shape)``.

    Raises:
        NotImplementedError: draws of the module carry no gradients.
    """
    if isinstance(generator, Generator):
        drawn = generator.represented(draws * rows, _repeated(context, draws))
        return drawn.unflatten(0, (draws, rows))
    distribution = reparameterized(generator(context), generator)
    return distribution.rsample((draws, rows) if context is None else (draws,))


def _repeated(context: Context, times: int) -> Context:
    """The rows of a context again and again."""
    if isinstance(context, Mapping):
        return {key: _repeated(value, times) for key, value in context.items()}
    return None if context is None else context.repeat(times, *(1,) * (context.dim() - 1))
