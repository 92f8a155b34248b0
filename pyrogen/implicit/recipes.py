"""Recipes: generators ready to train, of dense networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from torch import nn
from torch.distributions.constraints import Constraint

from pyrogen.arguments import anything, checked
from pyrogen.core.module import DistributionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext, WithContext
from pyrogen.networks.mlp import MLP

from .model import Generator

TEXTS = {
    "noise": "Shape of standard normal noise; or a module that gives its distribution, itself built by a recipe if the"
    " model is to be saved.",
}
"""What arguments of this package's recipes mean."""


@recipe(texts=TEXTS)
@checked(noise=anything)
def mlp(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    noise: DistributionModule | Shape = (16,),
    hidden: Sequence[int] = (128, 128),
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> Generator:
    """A generator of vectors: a dense network of noise.

    Args:
        event_shape: Shape of one event, whose elements are the outputs.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> generator = mlp((2,), noise=(4,))
        >>> generator().sample((5,)).shape
        torch.Size([5, 2])
    """
    event_shape = as_shape(event_shape, "event_shape")

    def network(inputs: int) -> MLP:
        return MLP(inputs, prod(event_shape), hidden=hidden)

    return generator_of(network, event_shape, context_shape, noise=noise, classes=classes, embedding=embedding)


def generator_of(
    network: Callable[[int], nn.Module],
    event_shape: Shape,
    context_shape: ContextShape,
    *,
    noise: DistributionModule | Shape,
    classes: Classes,
    embedding: nn.Module | None,
    support: Constraint | None = None,
) -> Generator:
    """The generator of a network that takes noise and context as one vector.

    Args:
        network: Makes it, from the size of that vector.
        event_shape, context_shape, noise, classes, embedding: Those of the recipe.
        support: That of :class:`~pyrogen.implicit.model.Generator`.
    """
    noise_shape = noise.event_shape if isinstance(noise, DistributionModule) else as_shape(noise, "noise")
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    contexts, size = [context] if context.size else [], prod(noise_shape)
    beside = WithContext(network(size + context.size), "z", contexts, size=size)
    return Generator(beside, event_shape, context.context_shape, noise=noise, support=support)
