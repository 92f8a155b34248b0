"""Recipes for critics: of vectors and of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.mlp import MLP
from pyrogen.networks.residual_image import ResidualImageFeatures
from pyrogen.networks.spectral import spectrally_normalized

from .critic import Critic, packed_shape

CRITIC_TEXTS = {
    "pack": "How many independent events are scored together (PacGAN).",
    "spectral": "Whether every layer is divided by its operator norm, which bounds the slopes of the critic.",
}
"""What arguments of critics mean."""

leaky = partial(nn.LeakyReLU, 0.2, inplace=True)
"""What critics have between their layers: no unit is without a gradient."""


@recipe(texts=CRITIC_TEXTS)
@checked
def mlp_critic(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    hidden: Sequence[int] = (128, 128),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    pack: int = 1,
    spectral: bool = False,
) -> Critic:
    """A critic of vectors: the last hidden layer of a perceptron, read by weights that depend on the context.

    Args:
        event_shape: Shape of one event, of which all elements are inputs.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> mlp_critic((3,), classes=4, pack=2)(torch.zeros(6, 3), torch.zeros(6, dtype=torch.long)).shape
        torch.Size([3])
    """
    event_shape, hidden = as_shape(event_shape, "event_shape"), tuple(hidden)
    size = prod(packed_shape(event_shape, pack))
    dense = MLP(size, hidden[-1], hidden=hidden[:-1], activation=leaky)
    network = nn.Sequential(nn.Flatten(), dense, leaky())
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    return critic_of(network, event_shape, context, width=hidden[-1], pack=pack, spectral=spectral)


@recipe(texts=CRITIC_TEXTS)
@checked
def convolutional_critic(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    channels: Sequence[int] = (64, 128),
    blocks: int = 1,
    group: int = 16,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    pack: int = 1,
    spectral: bool = False,
) -> Critic:
    """A critic of images: residual blocks without normalization, at half the size after each stage.

    Args:
        event_shape: ``(channels, height, width)`` of an image, of any size.
        channels: Channels at each size, from the full one on.

    Raises:
        ValueError: shapes do not fit, or ``group`` does not divide ``channels``.

    References:
        Huang, Gokaslan, Kuleshov and Tompkin 2024, "The GAN is dead; long live the GAN! A modern baseline GAN",
        https://arxiv.org/abs/2501.05441

    Example:
        >>> convolutional_critic((1, 8, 8), channels=(16, 32))(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
    """
    event_shape, last = as_shape(event_shape, "event_shape"), float(spectral)  # zeros have no norm to divide by
    shape = packed_shape(event_shape, pack)
    network = ResidualImageFeatures(shape, channels=channels, blocks=blocks, group=group, last=last)
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    return critic_of(network, event_shape, context, width=network.width, pack=pack, spectral=spectral)


def critic_of(
    network: nn.Module, event_shape: Shape, context: VectorContext, *, width: int, pack: int, spectral: bool
) -> Critic:
    """The critic of a network of features, its weights computed from the context by a perceptron.

    Args:
        network: Of packs.
        event_shape: Shape of one event.
        context: What becomes of a context, one vector.
        width: How many features the network gives.
        pack: As for the recipe.
        spectral: As for the recipe.
    """
    size = pack * context.size
    projection = MLP(size, width + 1, hidden=(width,), activation=leaky) if size else None
    critic = Critic(network, event_shape, context, projection, width=width, pack=pack)
    if spectral:
        critic.network = spectrally_normalized(critic.network, critic.pack_shape)
        critic.readout = spectrally_normalized(critic.readout, (width,))
        if size:
            critic.projection = spectrally_normalized(critic.projection, (size,))
    return critic
