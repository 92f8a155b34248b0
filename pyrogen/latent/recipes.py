"""Recipes: latent-variable models ready to train, of dense networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pyrogen.arguments import checked, integer, several
from pyrogen.core.module import DistributionModule
from pyrogen.core.normal import StandardNormal
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape
from pyrogen.distributions import families
from pyrogen.networks.context import Classes

from .builder import Builder, likelihood_of
from .mixture import MixtureVAE
from .model import VAE
from .priors import ClassNormal, VampPrior

TEXTS = {
    "hidden": "Sizes of the hidden layers of encoders; those of the decoder are the reverse.",
    "scale": "Standard deviation of the normal likelihood of real numbers (data units); the decoder gives one for each"
    " element if ``None``.",
    "symbols": "If given, data are integers ``0 … symbols - 1`` with a categorical likelihood.",
    "binary": "Whether data are zeros and ones, with a Bernoulli likelihood.",
    "prior": "The distribution of latents, itself built by a recipe if the model is to be saved; standard normal if"
    " ``None``.",
    "posterior": 'The distribution of latents given ``{"x": datum, **context}`` or a datum alone, in place of a normal'
    " one with an encoder of its own; a conditional flow, say.",
}
"""What arguments of this package's recipes mean."""


@recipe(texts=TEXTS)
@checked
def vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    hidden: Sequence[int] = (256, 256),
    scale: float | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of real numbers: dense networks, normal likelihood and posterior.

    With a context it is conditional: likelihood and posterior take it, and so does a prior that has one.

    Raises:
        ValueError: shapes do not fit.

    References:
        Kingma and Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114

    Example:
        >>> module = vae((3,), latent_shape=(2,), hidden=(16,))
        >>> module().sample((5,)).shape
        torch.Size([5, 3])
    """
    build = Builder(event_shape, context_shape, latent_shape, hidden, classes, embedding, real=True)
    return build.vae(build.part("z", likelihood_of(scale)), prior, posterior, draws)


@recipe(texts=TEXTS)
@checked
def binary_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    hidden: Sequence[int] = (256, 256),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of zeros and ones: dense networks, Bernoulli likelihood.

    Raises:
        ValueError: shapes do not fit.

    Example:
        >>> binary_vae((8,), latent_shape=(2,), hidden=(16,))().sample((5,)).unique()
        tensor([0., 1.])
    """
    build = Builder(event_shape, context_shape, latent_shape, hidden, classes, embedding)
    return build.vae(build.part("z", families.bernoulli), prior, posterior, draws)


@recipe(texts=TEXTS)
@checked
def categorical_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    symbols: int,
    hidden: Sequence[int] = (256, 256),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    prior: DistributionModule | None = None,
    posterior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of integers ``0 … symbols - 1``: dense networks, categorical likelihood.

    Args:
        symbols: How many values an element may take.

    Raises:
        ValueError: ``symbols`` is less than two, or shapes do not fit.

    Example:
        >>> categorical_vae((8,), latent_shape=(2,), symbols=4)().sample((5,)).dtype
        torch.int64
    """
    build = Builder(event_shape, context_shape, latent_shape, hidden, classes, embedding)
    return build.vae(build.part("z", families.categorical(symbols)), prior, posterior, draws)


@recipe(texts=TEXTS)
@checked
def conditional_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    draws: int = 100,
) -> VAE:
    r"""A conditional variational autoencoder whose prior, too, depends on the context.

    .. math:: z \sim \mathcal{N}(\mu(c), \sigma(c)^2), \quad x \sim p(x \mid z, c)

    The other recipes, given a context, keep a standard normal prior, which leaves it to the decoder to use the context.

    Raises:
        ValueError: there is no context, more than one of ``symbols``, ``binary`` and ``scale`` is given, or shapes do
            not fit.

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
    family, real = likelihood_of(scale, symbols, binary), symbols is None and not binary
    build = Builder(event_shape, context_shape, latent_shape, hidden, classes, embedding, real)
    prior = build.prior()
    return build.vae(build.part("z", family), prior, draws=draws)


@recipe(texts=TEXTS)
@checked(pseudo_data=integer)
def vamp_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    pseudo_data: int = 50,
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder whose prior is the average of its posteriors at learned pseudo-data.

    ``module.prior.start_from(x)`` lets the pseudo-data begin as data. The prior, too, takes the context.

    Args:
        pseudo_data: How many pseudo-data there are.

    Raises:
        ValueError: more than one of ``symbols``, ``binary`` and ``scale`` is given.

    References:
        Tomczak and Welling 2018, "VAE with a VampPrior", https://arxiv.org/abs/1705.07120

    Example:
        >>> vamp_vae((8,), latent_shape=(2,), pseudo_data=5, binary=True, hidden=(16,))().sample((5,)).shape
        torch.Size([5, 8])
    """
    family, real = likelihood_of(scale, symbols, binary), symbols is None and not binary
    build = Builder(event_shape, context_shape, latent_shape, hidden, classes, embedding, real)
    posterior = build.part("x")
    start = torch.rand(pseudo_data, *build.event_shape) * (1 if symbols is None else symbols - 1)
    return VAE(VampPrior(posterior, start), build.part("z", family), posterior, draws=draws)


@recipe(texts=TEXTS)
@checked(classes=several)
def mixture_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    classes: int,
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    embedding: nn.Module | None = None,
    draws: int = 100,
) -> MixtureVAE:
    r"""A Gaussian mixture VAE: a class chooses the normal that the latent comes from, which alone explains the datum.

    .. math:: y \sim p(y), \quad z \sim \mathcal{N}(\mu_y, \sigma_y^2), \quad x \sim p(x \mid z)

    Likelihood, posterior and classifier take the context.

    Args:
        classes: How many classes there are.
        draws: How many draws of the posterior ``log_prob`` averages over, for every class.

    Raises:
        ValueError: more than one of ``symbols``, ``binary`` and ``scale`` is given.

    References:
        Dilokthanakul et al. 2016, "Deep unsupervised clustering with Gaussian mixture variational autoencoders",
        https://arxiv.org/abs/1611.02648

    Example:
        >>> mixture_vae((8,), latent_shape=(2,), classes=3, hidden=(16,))().sample((5,)).shape
        torch.Size([5, 8])
    """
    family, real = likelihood_of(scale, symbols, binary), symbols is None and not binary
    build = Builder(event_shape, context_shape, latent_shape, hidden, None, embedding, real)
    prior = ClassNormal(build.latent_shape, classes=classes, entry="class")
    return build.mixture(prior, build.part("z", family), classes, draws)


@recipe(texts=TEXTS)
@checked(classes=several)
def semi_supervised_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    classes: int,
    symbols: int | None = None,
    binary: bool = False,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    embedding: nn.Module | None = None,
    draws: int = 100,
) -> MixtureVAE:
    r"""The semi-supervised model M2: a class, known for some data, and a latent for all that the class leaves open.

    .. math:: y \sim p(y), \quad z \sim \mathcal{N}(0, I), \quad x \sim p(x \mid z, y)

    Train it by :class:`~pyrogen.latent.mixture.SemiSupervisedElbo` on data with labels, -1 for those without one;
    ``classify(x)`` then gives the classes. Likelihood, posterior and classifier take the context.

    Args:
        classes: How many classes there are.
        scale: Standard deviation of the normal likelihood of real numbers (data units); the decoder gives one for each
            element if ``None``. The smaller it is, the more a datum's many numbers outweigh its class: where the class
            is what you want, try one of the order of the data's own standard deviation.
        draws: How many draws of the posterior ``log_prob`` averages over, for every class.

    Raises:
        ValueError: more than one of ``symbols``, ``binary`` and ``scale`` is given.

    References:
        Kingma, Rezende, Mohamed and Welling 2014, "Semi-supervised learning with deep generative models",
        https://arxiv.org/abs/1406.5298

    Example:
        >>> module = semi_supervised_vae((8,), latent_shape=(2,), classes=3, hidden=(16,))
        >>> objective = pg.latent.SemiSupervisedElbo(module, weight=10.0)
        >>> x, label = torch.randn(20, 8), torch.arange(20) % 4 - 1
        >>> pg.fit(objective, (x, label), steps=2).reason
        'steps'
    """
    family, real = likelihood_of(scale, symbols, binary), symbols is None and not binary
    build = Builder(event_shape, context_shape, latent_shape, hidden, None, embedding, real)
    prior, likelihood = StandardNormal(build.latent_shape), build.part("z", family, classes=classes)
    return build.mixture(prior, likelihood, classes, draws)
