"""Recipes for ratio estimates."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import nn

from pyrogen.arguments import checked, count, sizes, switch
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.mlp import MLP

from .critic_recipes import mlp_critic
from .quadratic import QuadraticCritic
from .ratio import RatioEstimate, Source


@recipe(texts={})
@checked(bridges=count, quadratic=switch, hidden=sizes)
def density_ratio(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    p: Source = None,
    q: Source = None,
    bridges: int = 0,
    quadratic: bool = True,
    hidden: Sequence[int] = (64, 64),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    draws: int = 256,
) -> RatioEstimate:
    """An estimate of a log-ratio: for each step a quadratic function, a network, or both.

    Args:
        event_shape: Shape of one event, of which all elements are inputs.
        p: As for :class:`~pyrogen.implicit.ratio.RatioEstimate`; a module built by a recipe if the estimate is
            to be saved.
        q: Likewise.
        bridges: How many distributions between ``p`` and ``q`` divide the ratio into steps. None will do where samples
            of the two overlap; for far ones so many that no step has a log-loss near zero.
        quadratic: Whether each critic has a quadratic function, which takes the square of the number of inputs of
            parameters.
        hidden: Sizes of the hidden layers of each critic's network; ``()`` for the quadratic function alone.
        draws: As for :class:`~pyrogen.implicit.ratio.RatioEstimate`.

    Raises:
        ValueError: shapes do not fit, or neither a quadratic function nor a network is left.

    Example:
        >>> ratio = density_ratio((3,), classes=4, bridges=2)
        >>> ratio(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long)).shape
        torch.Size([5])
    """
    event_shape, hidden = as_shape(event_shape, "event_shape"), tuple(hidden)
    if not quadratic and not hidden:
        raise ValueError("`hidden` must name at least one layer where `quadratic` is False, got none")

    def critic() -> nn.Module:
        if not quadratic:
            return mlp_critic(event_shape, context_shape, hidden=hidden, classes=classes, embedding=embedding)
        context = VectorContext(context_shape, classes=classes, embedding=embedding)
        inputs = prod(event_shape) + context.size
        network = MLP(inputs, 1, hidden=hidden, activation=nn.SiLU) if hidden else None
        return QuadraticCritic(event_shape, context, network)

    critics = [critic() for _ in range(bridges + 1)]
    context_shape = VectorContext(context_shape, classes=classes).context_shape
    return RatioEstimate(p, q, critics=critics, event_shape=event_shape, context_shape=context_shape, draws=draws)
