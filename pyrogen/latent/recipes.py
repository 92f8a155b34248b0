"""Recipes: variational autoencoders ready to train, from shapes and numbers alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked
from pyrogen.core.module import DistributionModule
from pyrogen.core.normal import StandardNormal
from pyrogen.core.parametric import Parametric
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import Context, ContextShape, Shape, as_context_shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.embedding import Flatten, Labels
from pyrogen.networks.mlp import MLP
from pyrogen.networks.statistics import ReadsData, Statistic, read_by

from .model import VAE


@recipe
@checked
def vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    hidden: Sequence[int] = (256, 256),
    scale: float | None = None,
    classes: int | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of real numbers: dense networks, normal likelihood and posterior.

    With a context it is conditional: likelihood and posterior see it, and so does a prior that takes one.

    Args:
        event_shape: Shape of one datum.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        latent_shape: Shape of one latent.
        hidden: Sizes of the hidden layers of the encoder; those of the decoder are the reverse.
        scale: Standard deviation of the likelihood (data units); the decoder gives one for each element if ``None``.
        classes: If given, the context is a tensor of so many integer labels, with ``context_shape`` ``()``.
        prior: The distribution of latents, itself built by a recipe if the model is to be saved; standard normal if
            ``None``.
        posterior: The distribution of latents given ``{"x": datum, **context}`` or a datum alone, in place of a normal
            one with a dense encoder; a conditional flow, say.
        draws: How many draws of the posterior ``log_prob`` averages over.

    Raises:
        ValueError: both ``classes`` and ``context_shape`` are given, or shapes do not fit.

    References:
        Kingma and Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114

    Example:
        >>> module = vae((3,), latent_shape=(2,), hidden=(16,))
        >>> module().sample((5,)).shape
        torch.Size([5, 3])
    """
    family = families.diagonal_normal if scale is None else families.normal(scale)
    return _dense(
        event_shape, context_shape, latent_shape, tuple(hidden), family, classes, prior, posterior, draws, real=True
    )


@recipe
@checked
def binary_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    hidden: Sequence[int] = (256, 256),
    classes: int | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of zeros and ones: dense networks, Bernoulli likelihood.

    Args:
        event_shape: Shape of one datum.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        latent_shape: Shape of one latent.
        hidden: Sizes of the hidden layers of the encoder; those of the decoder are the reverse.
        classes: As for :func:`vae`.
        prior: As for :func:`vae`.
        posterior: As for :func:`vae`.
        draws: As for :func:`vae`.

    Raises:
        ValueError: As for :func:`vae`.

    Example:
        >>> binary_vae((8,), latent_shape=(2,), hidden=(16,))().sample((5,)).unique()
        tensor([0., 1.])
    """
    return _dense(
        event_shape,
        context_shape,
        latent_shape,
        tuple(hidden),
        families.bernoulli,
        classes,
        prior,
        posterior,
        draws,
        real=False,
    )


@recipe
@checked
def categorical_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    levels: int,
    hidden: Sequence[int] = (256, 256),
    classes: int | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of integers ``0 … levels - 1``: dense networks, categorical likelihood.

    Args:
        event_shape: Shape of one datum.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        latent_shape: Shape of one latent.
        levels: How many values an element may take.
        hidden: Sizes of the hidden layers of the encoder; those of the decoder are the reverse.
        classes: As for :func:`vae`.
        prior: As for :func:`vae`.
        posterior: As for :func:`vae`.
        draws: As for :func:`vae`.

    Raises:
        ValueError: ``levels`` is less than two, or as for :func:`vae`.

    Example:
        >>> categorical_vae((8,), latent_shape=(2,), levels=4)().sample((5,)).dtype
        torch.int64
    """
    family = families.categorical(levels)
    return _dense(
        event_shape, context_shape, latent_shape, tuple(hidden), family, classes, prior, posterior, draws, real=False
    )


@recipe
@checked
def conditional_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    levels: int | None = None,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    classes: int | None = None,
    draws: int = 100,
) -> VAE:
    r"""A conditional variational autoencoder whose prior, too, depends on the context.

    .. math:: z \sim \mathcal{N}(\mu(c), \sigma(c)^2), \quad x \sim p(x \mid z, c)

    The other recipes, given a context, keep a standard normal prior, which leaves it to the decoder to use the context.

    Args:
        event_shape: Shape of one datum.
        context_shape: The shape of one context tensor, or a dict of shapes.
        latent_shape: Shape of one latent.
        levels: If given, data are integers ``0 … levels - 1``: Bernoulli for 2, categorical for more. Else real
            numbers, with normal likelihood.
        scale: As for :func:`vae`.
        hidden: Sizes of the hidden layers of encoder and prior; those of the decoder are the reverse.
        classes: In place of ``context_shape``: the context is a tensor of so many integer labels.
        draws: As for :func:`vae`.

    Raises:
        ValueError: there is no context, both ``levels`` and ``scale`` are given, or as for :func:`vae`.

    References:
        Sohn, Lee and Yan 2015, "Learning structured output representation using deep conditional generative models",
        https://papers.nips.cc/paper/5775

    Example:
        >>> module = conditional_vae((3,), (2,), latent_shape=(2,), hidden=(16,))
        >>> module(torch.zeros(5, 2)).sample().shape
        torch.Size([5, 3])
    """
    if context_shape is None and classes is None:
        raise ValueError("`context_shape` or `classes` must be given, got neither; without a context, use `vae`")
    if levels is not None and scale is not None:
        raise ValueError(f"`scale` must be None where `levels` is given, got {scale}")
    shapes = {"context": ()} if classes is not None else as_context_shape(context_shape)
    taken = shapes if isinstance(shapes, dict) else {"context": shapes}
    latent_shape = as_shape(latent_shape, "latent_shape")
    network = Perceptron(taken, 2 * prod(latent_shape), hidden=hidden, classes=classes)
    prior = Parametric(network, families.latent_normal, event_shape=latent_shape, context_shape=taken)
    if levels is None:
        family = families.diagonal_normal if scale is None else families.normal(scale)
    else:
        family = families.bernoulli if levels == 2 else families.categorical(levels)
    return _dense(
        event_shape,
        context_shape,
        latent_shape,
        tuple(hidden),
        family,
        classes,
        prior,
        None,
        draws,
        real=levels is None,
    )


class Perceptron(ReadsData, nn.Module):
    """A dense network from one tensor or several, labels among them, to a vector.

    Contexts are standardised by moments of the data set, and so are data that are real numbers. Latents, and data on a
    grid, come as they are.

    Args:
        shapes: The shape of the input, or a dict of shapes.
        outputs: Size of the output.
        hidden: Sizes of the hidden layers.
        classes: If given, one entry holds so many integer labels.
        labels: The name of that entry.
        own: The name of the entry that is no context, if there are several.
        standardize: Whether that entry, or the single input, is standardised, too.
    """

    def __init__(
        self,
        shapes: ContextShape,
        outputs: int,
        *,
        hidden: Sequence[int],
        classes: int | None,
        labels: str = "context",
        own: str | None = None,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.labels = None if classes is None else Labels(classes)
        self.entry = labels
        if classes is not None:
            shapes = {**shapes, labels: (classes,)}
        names, main = (set(shapes), own) if isinstance(shapes, dict) else ({""}, "")
        plain = {labels if classes is not None else None, None if standardize else main}
        self.flatten = Flatten(shapes, standardize=names - plain)
        self.layers = MLP(self.flatten.size, outputs, hidden=hidden)

    def forward(self, inputs: Context) -> Tensor:
        if self.labels is not None:
            if torch.distributions.Distribution._validate_args:
                self.labels.check(inputs[self.entry])
            inputs = {**inputs, self.entry: self.labels(inputs[self.entry])}
        dtype = self.layers.layers[-1].weight.dtype
        if isinstance(inputs, Mapping):
            inputs = {key: value.to(dtype) for key, value in inputs.items()}
        else:
            inputs = inputs.to(dtype)
        return self.layers(self.flatten(inputs))

    def read_data(self, inputs: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_by(self.labels, inputs.get(self.entry) if isinstance(inputs, Mapping) else None)
        yield from self.flatten.read_data(inputs)


def _dense(
    event_shape: Shape,
    context_shape: ContextShape,
    latent_shape: Shape,
    hidden: tuple[int, ...],
    family: families.Family,
    classes: int | None,
    prior: DistributionModule | None,
    posterior: DistributionModule | None,
    draws: int,
    *,
    real: bool,
) -> VAE:
    event_shape, latent_shape = as_shape(event_shape, "event_shape"), as_shape(latent_shape, "latent_shape")
    if classes is not None and context_shape not in (None, ()):
        raise ValueError(f"`context_shape` must be None where `classes` is given, got {context_shape}")
    context_shape = () if classes is not None else as_context_shape(context_shape)

    def part(family: families.Family, own: str, given: Shape, event: Shape, sizes: Sequence[int]) -> Parametric:
        shapes = entries(own, given, context_shape)
        network = Perceptron(
            shapes,
            prod(family.numbers_shape(event)),
            hidden=sizes,
            classes=classes,
            own=own,
            standardize=real and own == "x",
        )
        return Parametric(network, family, event_shape=event, context_shape=shapes)

    likelihood = part(family, "z", latent_shape, event_shape, hidden[::-1])
    if posterior is None:
        posterior = part(families.latent_normal, "x", event_shape, latent_shape, hidden)
    return VAE(StandardNormal(latent_shape) if prior is None else prior, likelihood, posterior, draws=draws)


def entries(own: str, shape: Shape, context_shape: ContextShape) -> ContextShape:
    """What a part takes: its own entry, and with it the context."""
    if context_shape is None:
        return shape
    return {own: shape, **(context_shape if isinstance(context_shape, dict) else {"context": context_shape})}
