"""Recipes of models with a class, and of one with a prior made of posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from pyrogen.arguments import checked, integer
from pyrogen.core.module import DistributionModule
from pyrogen.core.normal import StandardNormal
from pyrogen.core.parametric import Parametric
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_context_shape, as_shape
from pyrogen.distributions import families

from .mixture import MixtureVAE
from .model import VAE
from .priors import Classes, ClassNormal, VampPrior
from .recipes import Perceptron


@recipe
@checked
def mixture_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    classes: int,
    levels: int | None = None,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    draws: int = 100,
) -> MixtureVAE:
    r"""A Gaussian mixture VAE: a class chooses the normal that the latent comes from, which alone explains the datum.

    .. math:: y \sim p(y), \quad z \sim \mathcal{N}(\mu_y, \sigma_y^2), \quad x \sim p(x \mid z)

    Args:
        event_shape: Shape of one datum.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; likelihood, posterior and
            classifier see it.
        latent_shape: Shape of one latent.
        classes: How many classes there are.
        levels: If given, data are integers ``0 … levels - 1``: binary for 2, categorical for more. Else real numbers,
            with normal likelihood.
        scale: Standard deviation of the normal likelihood (data units); the decoder gives one for each element if
            ``None``.
        hidden: Sizes of the hidden layers of encoder and classifier; those of the decoder are the reverse.
        draws: How many draws of the posterior ``log_prob`` averages over, for every class.

    Raises:
        ValueError: both ``levels`` and ``scale`` are given, or one of them or ``classes`` makes no sense.

    References:
        Dilokthanakul et al. 2016, "Deep unsupervised clustering with Gaussian mixture variational autoencoders",
        https://arxiv.org/abs/1611.02648

    Example:
        >>> mixture_vae((8,), latent_shape=(2,), classes=3, hidden=(16,))().sample((5,)).shape
        torch.Size([5, 8])
    """
    build = _Parts(event_shape, context_shape, latent_shape, classes, levels, scale, hidden)
    component = VAE(
        ClassNormal(build.latent_shape, classes=classes, entry="class"),
        build.likelihood(with_class=False),
        build.posterior(with_class=True),
        draws=1,
    )
    return MixtureVAE(Classes(classes), component, build.classifier(), draws=draws)


@recipe
@checked
def semi_supervised_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    classes: int,
    levels: int | None = None,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    draws: int = 100,
) -> MixtureVAE:
    r"""The semi-supervised model M2: a class, known for some data, and a latent for all that the class leaves open.

    .. math:: y \sim p(y), \quad z \sim \mathcal{N}(0, I), \quad x \sim p(x \mid z, y)

    Train it by :class:`~pyrogen.latent.mixture.SemiSupervisedElbo` on data with labels, -1 for those without
    one; ``classify(x)`` then gives the classes.

    Args:
        event_shape: Shape of one datum.
        context_shape: As for :func:`mixture_vae`.
        latent_shape: Shape of one latent.
        classes: How many classes there are.
        levels: As for :func:`mixture_vae`.
        scale: As for :func:`mixture_vae`. The smaller it is, the more a datum's many numbers outweigh its class:
            where the class is what you want, try one of the order of the data's own standard deviation.
        hidden: As for :func:`mixture_vae`.
        draws: As for :func:`mixture_vae`.

    Raises:
        ValueError: As for :func:`mixture_vae`.

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
    build = _Parts(event_shape, context_shape, latent_shape, classes, levels, scale, hidden)
    component = VAE(
        StandardNormal(build.latent_shape), build.likelihood(with_class=True), build.posterior(with_class=True), draws=1
    )
    return MixtureVAE(Classes(classes), component, build.classifier(), draws=draws)


@recipe
@checked(pseudo_data=integer)
def vamp_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    pseudo_data: int = 50,
    levels: int | None = None,
    scale: float | None = None,
    hidden: Sequence[int] = (256, 256),
    draws: int = 100,
) -> VAE:
    """A variational autoencoder whose prior is the average of its posteriors at learned pseudo-data.

    ``module.prior.start_from(x)`` lets the pseudo-data begin as data.

    Args:
        event_shape: Shape of one datum.
        context_shape: As for :func:`mixture_vae`; the prior sees it too.
        latent_shape: Shape of one latent.
        pseudo_data: How many pseudo-data there are.
        levels: As for :func:`mixture_vae`.
        scale: As for :func:`mixture_vae`.
        hidden: As for :func:`mixture_vae`.
        draws: How many draws of the posterior ``log_prob`` averages over.

    Raises:
        ValueError: As for :func:`mixture_vae`.

    References:
        Tomczak and Welling 2018, "VAE with a VampPrior", https://arxiv.org/abs/1705.07120

    Example:
        >>> vamp_vae((8,), latent_shape=(2,), pseudo_data=5, levels=2, hidden=(16,))().sample((5,)).shape
        torch.Size([5, 8])
    """
    build = _Parts(event_shape, context_shape, latent_shape, None, levels, scale, hidden)
    posterior = build.posterior(with_class=False)
    start = torch.rand(pseudo_data, *build.event_shape) * (1 if levels is None else levels - 1)
    return VAE(VampPrior(posterior, start), build.likelihood(with_class=False), posterior, draws=draws)


class _Parts:
    """The parts that recipes of this file are made of."""

    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape,
        latent_shape: Shape,
        classes: int | None,
        levels: int | None,
        scale: float | None,
        hidden: Sequence[int],
    ) -> None:
        if classes is not None and classes < 2:
            raise ValueError(f"`classes` must be at least 2, got {classes}")
        self.event_shape = as_shape(event_shape, "event_shape")
        self.latent_shape = as_shape(latent_shape, "latent_shape")
        context_shape = as_context_shape(context_shape)
        self.others = {} if context_shape is None else context_shape
        if not isinstance(self.others, dict):
            self.others = {"context": self.others}
        self.classes = classes
        self.family, self.real = _family(levels, scale), levels is None
        self.hidden = tuple(hidden)

    def likelihood(self, *, with_class: bool) -> Parametric:
        return self._part(self.family, "z", self.latent_shape, self.event_shape, self.hidden[::-1], with_class)

    def posterior(self, *, with_class: bool) -> Parametric:
        family = families.latent_normal
        return self._part(family, "x", self.event_shape, self.latent_shape, self.hidden, with_class)

    def classifier(self) -> Parametric:
        return self._part(families.categorical(self.classes), "x", self.event_shape, (), self.hidden, False)

    def _part(
        self, family: families.Family, own: str, taken: Shape, event: Shape, sizes: Sequence[int], with_class: bool
    ) -> DistributionModule:
        shapes: ContextShape = {own: taken, **({"class": ()} if with_class else {}), **self.others}
        if set(shapes) == {own}:
            shapes = taken
        classes = self.classes if with_class else None
        outputs = prod(family.numbers_shape(event))
        network = Perceptron(
            shapes,
            outputs,
            hidden=sizes,
            classes=classes,
            labels="class",
            own=own,
            standardize=self.real and own == "x",
        )
        return Parametric(network, family, event_shape=event, context_shape=shapes)


def _family(levels: int | None, scale: float | None) -> families.Family:
    if levels is not None and scale is not None:
        raise ValueError(f"`scale` must be None where `levels` is given, got {scale}")
    if levels is None:
        return families.diagonal_normal if scale is None else families.normal(scale)
    return families.bernoulli if levels == 2 else families.categorical(levels)
