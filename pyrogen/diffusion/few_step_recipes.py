"""Recipes: flow maps ready to train, from shapes and numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes, described
from pyrogen.networks.diffusion_transformer import DiffusionTransformer
from pyrogen.networks.noisy import NoisyNetwork
from pyrogen.networks.residual_mlp import ResidualMLP
from pyrogen.networks.unet import UNet
from pyrogen.numerics.schedule import Schedule
from pyrogen.numerics.schedules import CosineVP

from .average import NetworkAverageDenoiser
from .few_steps import FlowMap
from .recipes import TEXTS, require_divisible, require_resolutions

_TEXTS = TEXTS | {
    "data_scale": "Standard deviation of the data, which should have a mean near zero.",
}


@recipe(texts=_TEXTS)
@checked
def flow_map(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    width: int = 128,
    depth: int = 3,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    data_scale: float = 1.0,
    schedule: Schedule | None = None,
) -> FlowMap:
    """A flow map of vectors, which draws in one step or in a few: a residual perceptron with adaptive norms.

    Args:
        event_shape: Shape of one event, which is flattened.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes. Everything is flattened.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> flow_map((2,))().sample((5,)).shape
        torch.Size([5, 2])
    """
    event_shape, (context_shape, _) = as_shape(event_shape, "event_shape"), described(context_shape, classes)
    network = ResidualMLP(
        event_shape, context_shape, levels=2, width=width, depth=depth, classes=classes, embedding=embedding
    )
    return _flow_map(network, data_scale, schedule)


@recipe(texts=_TEXTS)
@checked
def unet_flow_map(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    channels: Sequence[int] = (32, 64),
    depth: int = 2,
    attention: int = 1,
    heads: int = 4,
    width: int = 128,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    data_scale: float = 1.0,
    schedule: Schedule | None = None,
) -> FlowMap:
    """A flow map of sequences, images and videos, which draws in one step or in a few: a U-Net with adaptive norms.

    Args:
        event_shape: ``(length, features)``, ``(channels, height, width)`` or ``(frames, channels, height, width)``.
        channels: Of the hidden layers, one entry for each resolution from fine to coarse.
        depth: Residual blocks at each resolution.
        attention: How many of the resolutions, counted from the coarsest, have attention.
        heads: Of the attention; divides the channels there.
        width: Size of what modulates the norms.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> unet_flow_map((1, 8, 8), channels=(8, 16))().sample((2,)).shape
        torch.Size([2, 1, 8, 8])
    """
    require_resolutions(channels, attention, heads)
    network = UNet(
        as_shape(event_shape, "event_shape"),
        described(context_shape, classes)[0],
        levels=2,
        channels=channels,
        depth=depth,
        attention=attention,
        heads=heads,
        width=width,
        classes=classes,
        embedding=embedding,
    )
    return _flow_map(network, data_scale, schedule)


@recipe(texts=_TEXTS)
@checked
def transformer_flow_map(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    patch: int = 2,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    data_scale: float = 1.0,
    schedule: Schedule | None = None,
) -> FlowMap:
    """A flow map of images, videos, sequences and vectors, which draws in one step or in a few: a transformer.

    Args:
        event_shape: ``(channels, height, width)``, ``(frames, channels, height, width)``, ``(length, features)`` or
            ``(size,)``.
        patch: Side of the patches into which images and frames are cut.
        heads: Of the attention; divides ``width``.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> transformer_flow_map((6, 2), width=32)().sample((3,)).shape
        torch.Size([3, 6, 2])
    """
    require_divisible(heads, width=(width,))
    network = DiffusionTransformer(
        as_shape(event_shape, "event_shape"),
        described(context_shape, classes)[0],
        levels=2,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        classes=classes,
        embedding=embedding,
    )
    return _flow_map(network, data_scale, schedule)


def _flow_map(network: NoisyNetwork, data_scale: float, schedule: Schedule | None) -> FlowMap:
    schedule = CosineVP() if schedule is None else schedule
    shapes = {"event_shape": network.event_shape, "context_shape": network.context_shape}
    return FlowMap(NetworkAverageDenoiser(network, schedule, data_scale=data_scale, **shapes))
