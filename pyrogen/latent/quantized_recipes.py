"""A recipe of vector-quantised autoencoders of images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from pyrogen.arguments import checked
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.parametric import Parametric
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_context_shape, as_shape
from pyrogen.networks.latent_grid import GridDecoder, GridEncoder
from pyrogen.networks.statistics import Chained, Standardizer

from .image_recipes import Centred, family_of
from .quantized import VQVAE, Codebook, CodeTable


@recipe
@checked
def vq_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    codes: int = 64,
    width: int = 16,
    levels: int | None = None,
    scale: float | None = None,
    channels: Sequence[int] = (32, 64),
    commitment: float = 0.25,
    prior: DistributionModule | None = None,
) -> VQVAE:
    """A vector-quantised autoencoder of images: convolutions, a grid of codes, and a prior over it.

    An autoregressive prior over the codes learns along with the rest, or afterwards on ``module.codes(x)``.

    Args:
        event_shape: ``(channels, rows, columns)`` of an image, of any size.
        context_shape: That of the prior, which alone sees a context.
        codes: How many vectors the codebook holds.
        width: Their size.
        levels: If given, pixels are integers ``0 … levels - 1`` as floats: Bernoulli for 2, a discretised logistic for
            more. Else they are real numbers, with normal likelihood.
        scale: Standard deviation of the normal likelihood (data units); the decoder gives one for each element if
            ``None``.
        channels: Channels of the encoder after each halving; the grid of codes is that of the last.
        commitment: Weight of the squared distance between the encoder's vectors and the chosen ones in training.
        prior: The distribution over grids of codes; independent ones with learned probabilities if ``None``.

    Raises:
        ValueError: the prior's shape is not that of the grid or its context not ``context_shape``; both ``levels`` and
            ``scale`` are given, or the event is no image.

    References:
        van den Oord, Vinyals and Kavukcuoglu 2017, "Neural discrete representation learning",
        https://arxiv.org/abs/1711.00937

    Example:
        >>> module = vq_vae((1, 8, 8), levels=2, codes=8, width=4, channels=(8, 8))
        >>> module().sample((3,)).shape
        torch.Size([3, 1, 8, 8])
    """
    event_shape, channels, family = as_shape(event_shape, "event_shape"), tuple(channels), family_of(levels, scale)
    encoder = GridEncoder(event_shape, width, channels=channels)
    prior = CodeTable(encoder.grid, codes) if prior is None else prior
    check_part(prior, "prior")
    if prior.event_shape != encoder.grid or prior.context_shape != as_context_shape(context_shape):
        raise ValueError(
            f"`prior` must have event shape {encoder.grid} and context shape {as_context_shape(context_shape)}, got "
            f"{prior.event_shape} and {prior.context_shape}"
        )
    latent_shape = (width, *encoder.grid)
    pixels = Standardizer(event_shape, name="x") if levels is None else Centred(levels)
    planes = prod(family.numbers_shape(event_shape)[:-2])
    decoder = GridDecoder(width, (planes, *event_shape[1:]), channels=channels[::-1])
    return VQVAE(
        prior,
        Parametric(decoder, family, event_shape=event_shape, context_shape=latent_shape),
        Parametric(
            Chained(pixels, encoder),
            Codebook(codes, width),
            event_shape=latent_shape,
            context_shape=event_shape,
        ),
        commitment=commitment,
    )
