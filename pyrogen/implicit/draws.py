"""Draws that carry gradients, in the form in which they are compared with data."""

from __future__ import annotations

from collections.abc import Mapping

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, Shape

from .model import Generator


def represent(generator: DistributionModule, x: Tensor) -> Tensor:
    """Data in the form in which draws of the generator are compared with them."""
    return generator.represent(x) if isinstance(generator, Generator) else x


def represented_shape(generator: DistributionModule) -> Shape:
    """The shape of an event in that form."""
    return generator.represented_shape if isinstance(generator, Generator) else generator.event_shape


def draws_of(generator: DistributionModule, draws: int, rows: int, context: Context = None) -> Tensor:
    """Draws in that form for each of some rows, differentiable.

    Args:
        generator: A generator, or any module whose distributions are reparameterised.
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
    distribution = reparameterised(generator(context), generator)
    return distribution.rsample((draws, rows) if context is None else (draws,))


def reparameterised(distribution: TorchDistributionMixin, module: DistributionModule) -> TorchDistributionMixin:
    """A distribution of a module, whose draws carry gradients.

    Raises:
        NotImplementedError: they do not.
    """
    if not distribution.has_rsample:
        raise NotImplementedError(
            f"draws of {type(distribution).__name__} carry no gradients, which matching and games need; train "
            f"{type(module).__name__} by its `objective()`"
        )
    return distribution


def _repeated(context: Context, times: int) -> Context:
    """The rows of a context again and again."""
    if isinstance(context, Mapping):
        return {key: _repeated(value, times) for key, value in context.items()}
    return None if context is None else context.repeat(times, *(1,) * (context.dim() - 1))
