r"""Posterior collapse: which latent elements a guide uses.

A latent element whose posterior is the prior whatever the datum carries nothing. Two figures find it, for each element
:math:`d`:

.. math::
    \operatorname{KL}_d = \mathbb{E}_x \operatorname{KL}(q(z_d \mid x) \,\|\, p(z_d)), \qquad
    A_d = \operatorname{Var}_x \big( \mathbb{E}_{q(z_d \mid x)} [z_d] \big) .

An element with :math:`A_d > 0.01` is called active (Burda et al. 2016). It is collapsed for a datum if its divergence
is below :math:`\epsilon`, and collapsed at large if it is so for all but a share :math:`\delta` of the data (Lucas et
al. 2019).

References:
    Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    Lucas, Tucker, Grosse and Norouzi 2019, "Don't blame the ELBO! A linear VAE perspective on posterior collapse",
    https://arxiv.org/abs/1911.02469
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from pyrogen.core.objective import rows as count_rows
from pyrogen.distributions.normal import DiagonalNormal, StandardNormal

from .result import Estimate
from .scoring import as_evaluated
from .sites import Program, Site, check_names, select_rows, sites_of, values_of


@dataclass(frozen=True)
class LatentUse:
    """How a guide uses the elements of one latent.

    Args:
        kl: The divergence of every datum's posterior from the prior, in nats: for every element, or as a whole where
            prior or posterior has dependent elements.
        activity: The variance over the data of every element's posterior mean, of the latent's shape.
    """

    kl: Tensor
    activity: Tensor

    @property
    def rate(self) -> Estimate:
        """The divergence of the whole latent, in nats per datum."""
        return Estimate.of_mean(self.kl.reshape(len(self.kl), -1).sum(1), density="estimate")

    @property
    def kl_per_element(self) -> Tensor | None:
        """The mean divergence of each element, in nats, of the latent's shape; ``None`` if it has no such parts."""
        return self.kl.mean(0) if self.kl.shape[1:] == self.activity.shape else None

    def active(self, threshold: float = 0.01) -> Tensor:
        """Which elements have a posterior mean that moves with the data.

        Args:
            threshold: The least variance of the posterior mean, in squared units of the latent.
        """
        return self.activity > threshold

    def collapsed(self, epsilon: float = 0.01, delta: float = 0.01) -> Tensor:
        """Which elements have the prior as posterior for nearly all data.

        Args:
            epsilon: Below this divergence, in nats, a posterior is the prior.
            delta: The share of data that may have another.

        Raises:
            ValueError: the divergence has no parts for the elements.
        """
        if self.kl_per_element is None:
            raise ValueError("prior or posterior has dependent elements: the divergence belongs to no single one")
        return (self.kl < epsilon).double().mean(0) >= 1 - delta


@dataclass(frozen=True)
class CollapseReport:
    """How a guide uses the latents of a model, by site.

    Args:
        sites: The use of each latent site.
    """

    sites: Mapping[str, LatentUse]

    def __str__(self) -> str:
        return "\n".join(_line(name, use) for name, use in self.sites.items())


def collapse_report(
    model: Program, guide: Program, *batch: object, draws: int = 64, batch_size: int = 4096
) -> CollapseReport:
    """Divergence from the prior and activity of every latent element of a model/guide pair.

    Args:
        model: A Pyro model with one data plate, called as ``model(*batch)``.
        guide: Its guide, called alike.
        batch: The data, rows first, and what else the programs take: tensors, dicts of tensors or ``None``.
        draws: How many draws of the guide for each datum, at least two.
        batch_size: How many pairs of datum and draw are computed at once, which bounds the memory.

    Raises:
        ValueError: there are fewer than two data or draws, or the pair does not fit together.

    Example:
        >>> import pyrogen as pg
        >>> vae = pg.latent.vae((3,), latent_shape=(2,), hidden=(8,))
        >>> report = collapse_report(vae.model, vae.guide, torch.randn(50, 3))
        >>> report.sites["z"].kl.shape, report.sites["z"].activity.shape
        (torch.Size([50, 2]), torch.Size([2]))
    """
    rows = count_rows(batch)
    if rows < 2 or draws < 2:
        raise ValueError(f"`batch` and `draws` must hold at least two, to see how means vary, got {rows} and {draws}")
    with as_evaluated(model, guide):
        blocks = list(_blocks(model, guide, batch, rows, draws, batch_size))
    joined = {name: [torch.cat(parts) for parts in zip(*(b[name] for b in blocks), strict=True)] for name in blocks[0]}
    return CollapseReport({name: LatentUse(kl, _activity(*moments, draws)) for name, (kl, *moments) in joined.items()})


Moments = tuple[Tensor, Tensor, Tensor]


def _blocks(
    model: Program, guide: Program, batch: tuple, rows: int, draws: int, batch_size: int
) -> Iterator[dict[str, Moments]]:
    """For some data at a time and each latent: divergences, means and variances of the draws."""
    for data in torch.arange(rows).split(max(1, batch_size // draws)):
        index = data.repeat(draws)
        part = [select_rows(entry, index) for entry in batch]
        drawn = sites_of(guide, *part, rows=len(index), what="guide")
        replayed = poutine.condition(model, data=values_of(drawn.values()))
        priors = sites_of(replayed, *part, rows=len(index), what="model")
        check_names(drawn, priors)
        yield {name: _moments(site, priors[name], draws) for name, site in drawn.items() if name in priors}


def _moments(posterior: Site, prior: Site, draws: int) -> Moments:
    def by_draw(values: Tensor, axis: int) -> Tensor:
        return values.movedim(axis, 0).unflatten(0, (draws, -1)).double()

    value = by_draw(posterior.value, posterior.value.dim() - posterior.distribution.event_dim + posterior.plate_dim)
    return by_draw(*_log_ratio(posterior, prior)).mean(0), value.mean(0), value.var(0)


def _log_ratio(posterior: Site, prior: Site) -> tuple[Tensor, int]:
    """Log posterior minus log prior, for every element where both have independent ones, and the axis of the data.

    Where the divergence of the elements is known it takes the place of the ratio, which it is the mean of.
    """
    elements = [_elements(site.distribution) for site in (posterior, prior)]
    if any(part is None for part in elements):
        ratio, events = _difference(posterior.distribution, prior.distribution, posterior.value), 0
    else:
        events = posterior.distribution.event_dim
        try:
            ratio = kl_divergence(*elements)
        except NotImplementedError:
            ratio = _difference(*elements, posterior.value)
    return ratio, ratio.dim() - events + posterior.plate_dim


def _difference(first: Distribution, second: Distribution, value: Tensor) -> Tensor:
    return first.log_prob(value) - second.log_prob(value)


def _elements(distribution: Distribution) -> Distribution | None:
    """The distribution of every element; ``None`` if they are not independent, or not known to be."""
    if isinstance(distribution, DiagonalNormal | StandardNormal):
        return Normal(distribution.mean, distribution.stddev, validate_args=False)
    if isinstance(distribution, Independent):
        return _elements(distribution.base_dist)
    return None if distribution.event_dim else distribution


def _activity(means: Tensor, variances: Tensor, draws: int) -> Tensor:
    """The variance of posterior means, less what the noise of the draws adds to it."""
    return means.var(0) - variances.mean(0) / draws


def _line(name: str, use: LatentUse) -> str:
    count = use.activity.numel()
    line = f"{name}: {use.rate}, {int(use.active().sum())} of {count} elements active"
    if use.kl_per_element is None:
        return line
    return f"{line}, {int(use.collapsed().sum())} collapsed"
