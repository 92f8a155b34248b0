"""Recipes: energies ready to train, of dense networks and of images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrogen.arguments import checked, interval
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.residual_image import ResidualImageFeatures
from pyrogen.networks.scalar import ScalarNetwork
from pyrogen.numerics.supports import OpenInterval

from .bases import DataNormal
from .model import Energy
from .rbm import RBM
from .units import BinaryUnits, CategoricalUnits, GaussianUnits

TEXTS = {
    "interval": "The interval ``(low, high)`` in which each element lies, if it is bounded. An energy of real numbers"
    " has the normal of the data's moments as its base, one within bounds has none.",
    "hidden": "Sizes of the hidden layers; of images those after the features.",
}
"""What arguments of this package's recipes mean."""


@recipe(texts=TEXTS)
@checked(interval=interval)
def mlp(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    hidden: Sequence[int] = (128, 128),
    interval: tuple[float, float] | None = None,
    symbols: int | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> Energy:
    """An energy of vectors, of real numbers or of symbols: a dense network, smooth in its input.

    Args:
        event_shape: Shape of one event, of which all elements are inputs.
        symbols: If given, how many values an element can take, counted from zero; two are bits.

    Raises:
        ValueError: shapes do not fit, or there are both an interval and symbols.

    Example:
        >>> energy = mlp((2,), hidden=(32,))
        >>> energy().sample((5,)).shape
        torch.Size([5, 2])
    """
    event_shape = as_shape(event_shape, "event_shape")
    support = _support(interval, symbols)
    shape = (*event_shape, symbols) if symbols is not None and symbols > 2 else event_shape
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    network = ScalarNetwork(shape, context, hidden=hidden, activation=nn.SiLU)
    base = DataNormal(event_shape) if support is constraints.real else None
    return Energy(network, event_shape, context.context_shape, base=base, standardize=True, support=support)


@recipe(texts=TEXTS)
@checked(interval=interval)
def convolutional(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    channels: Sequence[int] = (64, 128),
    blocks: int = 1,
    group: int = 16,
    hidden: Sequence[int] = (128,),
    interval: tuple[float, float] | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> Energy:
    """An energy of images: residual blocks without normalization, at half the size after each stage.

    Args:
        event_shape: ``(channels, height, width)`` of an image, of any size.
        channels: Channels at each size, from the full one on.

    Raises:
        ValueError: shapes do not fit, or ``group`` does not divide ``channels``.

    Example:
        >>> energy = convolutional((1, 8, 8), channels=(16, 32), classes=10)
        >>> energy(torch.arange(3)).sample().shape
        torch.Size([3, 1, 8, 8])
    """
    event_shape = as_shape(event_shape, "event_shape")
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    features = ResidualImageFeatures(event_shape, channels=channels, blocks=blocks, group=group)
    network = ScalarNetwork(
        event_shape, context, hidden=hidden, features=features, width=features.width, activation=nn.SiLU
    )
    base = DataNormal(event_shape) if interval is None else None
    support = _support(interval, None)
    return Energy(network, event_shape, context.context_shape, base=base, standardize=True, support=support)


@recipe(texts=TEXTS)
@checked
def rbm(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    units: int = 64,
    symbols: int | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> RBM:
    """A restricted Boltzmann machine; contexts shift its biases.

    Args:
        event_shape: Shape of one event.
        units: How many hidden units there are; up to 20 the density is exact.
        symbols: If given, how many values an element can take, counted from zero; two are bits. ``None``: real numbers.

    Example:
        >>> machine = rbm((8, 8), symbols=2, units=12, classes=10)
        >>> machine(torch.arange(3)).sample().shape, machine.density
        (torch.Size([3, 8, 8]), 'exact')
    """
    event_shape = as_shape(event_shape, "event_shape")
    if symbols is None:
        visible = GaussianUnits(event_shape)
    else:
        visible = BinaryUnits(event_shape) if symbols == 2 else CategoricalUnits(event_shape, symbols)
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    return RBM(visible, hidden=units, context=context)


def _support(interval: tuple[float, float] | None, symbols: int | None) -> Constraint:
    if interval is not None and symbols is not None:
        raise ValueError(f"`interval` must be None where there are `symbols`, got {interval} and {symbols}")
    if symbols is not None:
        return constraints.boolean if symbols == 2 else constraints.integer_interval(0, symbols - 1)
    return constraints.real if interval is None else OpenInterval(*interval)
