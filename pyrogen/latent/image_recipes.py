"""A recipe of convolutional variational autoencoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, integer
from pyrogen.core.module import DistributionModule
from pyrogen.core.normal import StandardNormal
from pyrogen.core.parametric import Parametric
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import Context, ContextShape, Shape, as_context_shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.convolution import ImageDecoder, ImageEncoder, halved_sizes
from pyrogen.networks.embedding import Flatten, Labels
from pyrogen.networks.statistics import Chained, ReadsData, Standardizer, Statistic, read_by

from .model import VAE


@recipe
@checked(hidden=integer)
def convolutional_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    levels: int | None = None,
    scale: float | None = None,
    channels: Sequence[int] = (32, 64),
    hidden: int = 128,
    classes: int | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of images: convolutions that halve the image on the way in, and double it back.

    Args:
        event_shape: ``(channels, height, width)`` of an image, of any size.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes, seen by the dense layers.
        latent_shape: Shape of one latent.
        levels: If given, pixels are integers ``0 … levels - 1`` as floats: Bernoulli for 2, a discretised logistic for
            more. Else they are real numbers, with normal likelihood.
        scale: Standard deviation of the normal likelihood (data units); the decoder gives one for each element if
            ``None``.
        channels: Channels of the encoder after each halving; those of the decoder are the reverse.
        hidden: Size of the dense hidden layers.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        prior: As for :func:`~pyrogen.latent.recipes.vae`.
        posterior: As for :func:`~pyrogen.latent.recipes.vae`.
        draws: How many draws of the posterior ``log_prob`` averages over.

    Raises:
        ValueError: both ``levels`` and ``scale`` are given, or both ``classes`` and ``context_shape``, or shapes do
            not fit.

    Example:
        >>> module = convolutional_vae((1, 8, 8), latent_shape=(2,), levels=17, channels=(8, 16))
        >>> module().sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """
    event_shape, latent_shape = as_shape(event_shape, "event_shape"), as_shape(latent_shape, "latent_shape")
    channels, family = tuple(channels), family_of(levels, scale)
    halved_sizes(event_shape, channels)
    if classes is not None and context_shape not in (None, ()):
        raise ValueError(f"`context_shape` must be None where `classes` is given, got {context_shape}")
    asked = () if classes is not None else as_context_shape(context_shape)
    context = asked if isinstance(asked, dict) else {} if asked is None else {"context": asked}

    vector = Vector({"z": latent_shape, **context}, classes)
    planes = prod(family.numbers_shape(event_shape)[:-2])
    decoder = ImageDecoder(vector.size, (planes, *event_shape[1:]), channels=channels[::-1], hidden=hidden)
    likelihood = Parametric(
        Chained(vector, decoder),
        family,
        event_shape=event_shape,
        context_shape={"z": latent_shape, **context} if context else latent_shape,
    )
    if posterior is None:
        beside = Vector(context, classes) if context else None
        outputs, size = 2 * prod(latent_shape), beside.size if beside else 0
        posterior = Parametric(
            Scaled(
                ImageEncoder(event_shape, outputs, channels=channels, hidden=hidden, context=size),
                beside,
                levels,
                event_shape,
            ),
            families.latent_normal,
            event_shape=latent_shape,
            context_shape={"x": event_shape, **context} if context else event_shape,
        )
    return VAE(StandardNormal(latent_shape) if prior is None else prior, likelihood, posterior, draws=draws)


def family_of(levels: int | None, scale: float | None) -> families.Family:
    """The likelihood of pixels: of two levels, of more, or real.

    Raises:
        ValueError: both are given, or one makes no sense.
    """
    if levels is None:
        return families.diagonal_normal if scale is None else families.normal(scale)
    if scale is not None:
        raise ValueError(f"`scale` must be None where `levels` is given, got {scale}")
    return families.bernoulli if levels == 2 else families.discretized_logistic(levels)


class Vector(ReadsData, nn.Module):
    """One tensor or several, integer labels among them, as a vector; contexts are standardised, the latent is not.

    Args:
        shapes: Names and shapes of the tensors; a single one comes as it is.
        classes: If given, the entry ``"context"`` holds so many integer labels.
    """

    def __init__(self, shapes: dict[str, Shape], classes: int | None) -> None:
        super().__init__()
        self.names = list(shapes)
        self.labels = None if classes is None else Labels(classes)
        contexts = set(shapes) - {"z", None if classes is None else "context"}
        self.flatten = Flatten(shapes if classes is None else {**shapes, "context": (classes,)}, standardize=contexts)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @property
    def size(self) -> int:
        """How long the vector is."""
        return self.flatten.size

    def forward(self, inputs: Context) -> Tensor:
        entries = dict(inputs) if isinstance(inputs, Mapping) else {self.names[0]: inputs}
        if self.labels is not None:
            if torch.distributions.Distribution._validate_args:
                self.labels.check(entries["context"])
            entries["context"] = self.labels(entries["context"])
        return self.flatten({name: entries[name].to(self.zero.dtype) for name in self.names})

    def read_data(self, inputs: Context) -> Iterator[tuple[Statistic, Tensor]]:
        entries = inputs if isinstance(inputs, Mapping) else {self.names[0]: inputs}
        yield from read_by(self.labels, entries.get("context"))
        yield from self.flatten.read_data(entries)


class Scaled(ReadsData, nn.Module):
    """An encoder of images, with what stands beside the image.

    Pixels are scaled to [-1, 1] where they are integers, else standardised by moments of the data set.

    Args:
        encoder: Takes images and a vector, or ``None``.
        beside: Makes the vector of the inputs other than the image.
        levels: How many values a pixel has, if it is an integer.
        shape: Shape of one image.
    """

    def __init__(self, encoder: nn.Module, beside: Vector | None, levels: int | None, shape: Shape) -> None:
        super().__init__()
        self.encoder = encoder
        self.beside = beside
        self.pixels = Standardizer(shape, name="x") if levels is None else Centred(levels)
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, inputs: Context) -> Tensor:
        image = self.pixels((inputs["x"] if isinstance(inputs, Mapping) else inputs).to(self.zero.dtype))
        return self.encoder(image) if self.beside is None else self.encoder(image, self.beside(inputs))

    def read_data(self, inputs: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_by(self.pixels, inputs.get("x") if isinstance(inputs, Mapping) else inputs)
        yield from read_by(self.beside, inputs)


class Centred(nn.Module):
    """Pixels of so many levels between -1 and 1.

    Args:
        levels: How many.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, image: Tensor) -> Tensor:
        return image * (2 / (self.levels - 1)) - 1
