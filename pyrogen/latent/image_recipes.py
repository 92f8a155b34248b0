"""Recipes of convolutional models of images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import nn

from pyrogen.arguments import checked, integer
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.parametric import Parametric
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_context_shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.context import Classes
from pyrogen.networks.convolution import Centred, GridDecoder, GridEncoder, ImageDecoder, ImageEncoder, halved_sizes
from pyrogen.networks.statistics import Chained, Standardizer

from .builder import Builder, likelihood_of
from .model import VAE
from .quantized import VQVAE, Codebook, CodeTable
from .recipes import TEXTS

_TEXTS = {
    **TEXTS,
    "event_shape": "``(channels, height, width)`` of an image, of any size.",
    "symbols": "If given, pixels are integers ``0 … symbols - 1`` as floats, with a discretized logistic likelihood.",
    "binary": "Whether pixels are zeros and ones, with a Bernoulli likelihood.",
    "hidden": "Size of the dense hidden layers.",
}


@recipe(texts=_TEXTS)
@checked(hidden=integer)
def convolutional_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    channels: Sequence[int] = (32, 64),
    hidden: int = 128,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of images: convolutions that halve the image on the way in, and double it back.

    Args:
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; the dense layers take it.
        channels: Channels of the encoder after each halving; those of the decoder are the reverse.

    Raises:
        ValueError: more than one of ``symbols``, ``binary`` and ``scale`` is given, or shapes do not fit.

    Example:
        >>> module = convolutional_vae((1, 8, 8), latent_shape=(2,), symbols=17, channels=(8, 16))
        >>> module().sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """
    family, channels = pixels(scale, symbols, binary), tuple(channels)
    build = Builder(event_shape, context_shape, latent_shape, (hidden,), classes, embedding)
    event_shape, size = build.event_shape, prod(build.latent_shape)
    halved_sizes(event_shape, channels)

    def decoder(width: int) -> ImageDecoder:
        return ImageDecoder(size + width, planes(family, event_shape), channels=channels[::-1], hidden=hidden)

    def encoder(width: int) -> ImageEncoder:
        return ImageEncoder(event_shape, 2 * size, channels=channels, hidden=hidden, context=width)

    likelihood = build.part("z", family, network=decoder, size=size)
    if posterior is None:
        posterior = build.part("x", network=encoder, prepare=_scaled(event_shape, symbols, binary))
    return build.vae(likelihood, prior, posterior, draws)


@recipe(texts=_TEXTS)
@checked
def vq_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    codes: int = 64,
    width: int = 16,
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    channels: Sequence[int] = (32, 64),
    commitment: float = 0.25,
    prior: DistributionModule | None = None,
) -> VQVAE:
    """A vector-quantized autoencoder of images: convolutions, a grid of codes, and a prior over it.

    An autoregressive prior over the codes learns along with the rest, or afterwards on ``module.codes(x)``.

    Args:
        context_shape: That of the prior, which alone takes a context.
        codes: How many vectors the codebook holds.
        width: Their size.
        channels: Channels of the encoder after each halving; the grid of codes is that of the last.
        commitment: Weight of the squared distance between the encoder's vectors and the chosen ones in training.
        prior: The distribution over grids of codes; independent ones with learned probabilities if ``None``.

    Raises:
        ValueError: the prior's shape is not that of the grid or its context not ``context_shape``; more than one of
            ``symbols``, ``binary`` and ``scale`` is given, or the event is no image.

    References:
        van den Oord, Vinyals and Kavukcuoglu 2017, "Neural discrete representation learning",
        https://arxiv.org/abs/1711.00937

    Example:
        >>> module = vq_vae((1, 8, 8), binary=True, codes=8, width=4, channels=(8, 8))
        >>> module().sample((3,)).shape
        torch.Size([3, 1, 8, 8])
    """
    event_shape, context_shape = as_shape(event_shape, "event_shape"), as_context_shape(context_shape)
    family, channels = pixels(scale, symbols, binary), tuple(channels)
    encoder = GridEncoder(event_shape, width, channels=channels)
    latent_shape = (width, *encoder.grid)
    prior = CodeTable(encoder.grid, codes) if prior is None else prior
    check_part(prior, "prior")
    if prior.event_shape != encoder.grid or prior.context_shape != context_shape:
        raise ValueError(
            f"`prior` must have event shape {encoder.grid} and context shape {context_shape}, got "
            f"{prior.event_shape} and {prior.context_shape}"
        )
    decoder = GridDecoder(width, planes(family, event_shape), channels=channels[::-1])
    likelihood = Parametric(decoder, family, event_shape=event_shape, context_shape=latent_shape)
    posterior = Parametric(
        Chained(_scaled(event_shape, symbols, binary), encoder),
        Codebook(codes, width),
        event_shape=latent_shape,
        context_shape=event_shape,
    )
    return VQVAE(prior, likelihood, posterior, commitment=commitment)


def pixels(scale: float | None, symbols: int | None, binary: bool) -> families.Family:
    """The likelihood of images, integers by discretized logistics."""
    return likelihood_of(scale, symbols, binary, families.discretized_logistic)


def planes(family: families.Family, event_shape: Shape) -> Shape:
    """The shape of a decoder's output, which holds a family's numbers in channels."""
    return (prod(family.numbers_shape(event_shape)[:-2]), *event_shape[1:])


def _scaled(event_shape: Shape, symbols: int | None, binary: bool) -> nn.Module:
    """What brings pixels to order one: symbols to [-1, 1], real numbers by moments of the data set."""
    if symbols is None and not binary:
        return Standardizer(event_shape, name="x")
    return Centred(2 if symbols is None else symbols)
