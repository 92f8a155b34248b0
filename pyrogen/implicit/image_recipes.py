"""Recipes for generators of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn
from torch.distributions import constraints

from pyrogen.arguments import anything, checked, interval
from pyrogen.core.module import DistributionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.residual_image import ResidualImageSynthesis

from .model import Generator
from .recipes import TEXTS, generator_of


@recipe(texts=TEXTS)
@checked(noise=anything, interval=interval)
def convolutional(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    noise: DistributionModule | Shape = (64,),
    channels: Sequence[int] = (128, 64),
    blocks: int = 1,
    group: int = 16,
    interval: tuple[float, float] | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> Generator:
    """A generator of images: residual blocks without normalization, at twice the size after each stage.

    Args:
        event_shape: ``(channels, height, width)`` of an image, of any size.
        channels: Channels at each size, from the smallest one on.
        interval: The interval ``(low, high)`` in which pixels lie, if they are bounded, and so does every draw.

    Raises:
        ValueError: shapes do not fit, or ``group`` does not divide ``channels``.

    References:
        Huang, Gokaslan, Kuleshov and Tompkin 2024, "The GAN is dead; long live the GAN! A modern baseline GAN",
        https://arxiv.org/abs/2501.05441

    Example:
        >>> generator = convolutional((1, 8, 8), noise=(4,), channels=(32, 16), interval=(0.0, 1.0))
        >>> generator().sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """
    event_shape = as_shape(event_shape, "event_shape")
    network = partial(
        ResidualImageSynthesis,
        image_shape=event_shape,
        channels=channels,
        blocks=blocks,
        group=group,
        interval=interval,
    )
    support = None if interval is None else constraints.independent(constraints.interval(*interval), 3)
    shapes = {"noise": noise, "classes": classes, "embedding": embedding}
    return generator_of(network, event_shape, context_shape, support=support, **shapes)
