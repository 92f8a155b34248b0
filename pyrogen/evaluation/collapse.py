r"""Posterior collapse: which latent elements a guide uses.

A latent element whose posterior is the prior whatever the datum carries nothing. Two numbers show it, for each element
:math:`d`:

.. math::
    \operatorname{KL}_d = \mathbb{E}_x \operatorname{KL}(q(z_d \mid x) \,\|\, p(z_d)), \qquad
    A_d = \operatorname{Var}_x \Big( \mathbb{E}_{q(z_d \mid x)} \Big[ \frac{z_d - \mu_d}{\sigma_d} \Big] \Big) .

A latent is taken in units of its prior :math:`\mathcal{N}(\mu_d, \sigma_d^2)` where that is normal, so that one which
follows the latents it is given, as its prior does, and knows nothing else of the datum, is not active. Latents with
other priors are taken as they are. An element with :math:`A_d > 0.01` is called active (Burda et al. 2016). It is
collapsed for a datum if its divergence is below :math:`\epsilon`, and collapsed at large if it is so for all but a
share :math:`\delta` of the data (Lucas et al. 2019).

References:
    Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    Lucas, Tucker, Grosse and Norouzi 2019, "Don't blame the ELBO! A linear VAE perspective on posterior collapse",
    https://arxiv.org/abs/1911.02469
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from pyrogen.arguments import checked, function, non_negative, numbers, several, whole_share
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate
from pyrogen.distributions.normal import DiagonalNormal, UnitNormal
from pyrogen.programs.layouts import DrawnSite, Sites
from pyrogen.programs.run import Program

from .pairs import check_names, checked_rows, measured, require_density
from .scoring import as_evaluated

_WHY = "a divergence needs normalized log_probs of posterior and prior"


@dataclass(frozen=True, repr=False)
class LatentUse:
    """How a guide uses the elements of one latent.

    Args:
        kl: The divergence of every datum's posterior from the prior, in nats: for every element, or as a whole where
            prior or posterior has dependent elements.
        activity: The variance over the data of every element's posterior mean, in units of the prior where that is
            normal, of the latent's shape.

    Raises:
        ValueError: one of them is NaN.
    """

    kl: Tensor
    activity: Tensor

    def __post_init__(self) -> None:
        numbers(self.kl, "kl", plus_infinity=True)
        numbers(self.activity, "activity")

    @property
    def rate(self) -> Estimate:
        """The divergence of the whole latent, in nats per datum."""
        return Estimate.of_mean(self.kl.reshape(len(self.kl), -1).sum(1), density="estimate")

    @property
    def kl_per_element(self) -> Tensor | None:
        """The mean divergence of each element, in nats, of the latent's shape; ``None`` if it has no such parts."""
        return self.kl.mean(0) if self.kl.shape[1:] == self.activity.shape else None

    @checked(threshold=non_negative)
    def active(self, threshold: float = 0.01) -> Tensor:
        """Which elements have a posterior mean that moves with the data.

        Args:
            threshold: The least variance of the posterior mean, a share of the prior's variance where that is normal,
                else in squared units of the latent.

        Raises:
            ValueError: ``threshold`` is negative or no number.
        """
        return self.activity > threshold

    @checked(epsilon=non_negative, delta=whole_share)
    def collapsed(self, epsilon: float = 0.01, delta: float = 0.01) -> Tensor:
        """Which elements have the prior as posterior for nearly all data.

        Args:
            epsilon: Below this divergence, in nats, a posterior is the prior.
            delta: The share of data that may have another.

        Raises:
            ValueError: the divergence has no parts for the elements, or a number makes no sense.
        """
        if self.kl_per_element is None:
            raise ValueError("prior or posterior has dependent elements: the divergence belongs to no single one")
        return (self.kl < epsilon).double().mean(0) >= 1 - delta

    def __repr__(self) -> str:
        return f"<{_line('LatentUse', self)}>"


@dataclass(frozen=True, repr=False)
class CollapseReport:
    """How a guide uses the latents of a model, by site.

    Args:
        sites: The use of each latent site.
    """

    sites: Mapping[str, LatentUse]

    def __str__(self) -> str:
        return "\n".join(_line(name, use) for name, use in self.sites.items())

    def __repr__(self) -> str:
        return f"<CollapseReport of {len(self.sites)} latent sites>\n{self}"


@takes_arrays
@checked(model=function, guide=function, draws=several)
def collapse_report(
    model: Program, guide: Program, *batch: object, draws: int = 64, batch_size: int = 4096
) -> CollapseReport:
    """Divergence from the prior and activity of every latent element of a model/guide pair.

    Args:
        model: A Pyro model with one data plate, called as ``model(*batch)``.
        guide: Its guide, called alike.
        batch: The data, at least two rows, and what else the programs take, as for :func:`importance_log_weights`.
        draws: How many draws of the guide for each datum, at least two.
        batch_size: How many pairs of datum and draw are computed at once, which bounds the memory.

    Raises:
        NotImplementedError: a latent site's ``log_prob`` is a bound, unnormalized or missing.
        TypeError: ``model`` or ``guide`` is no program, or ``batch`` holds an array or a list.
        ValueError: there are fewer than two data or draws, the guide has a point mass, or the pair does not fit
            together.

    Example:
        >>> import pyrogen as pg
        >>> vae = pg.latent.vae((3,), latent_shape=(2,), hidden=(8,))
        >>> report = collapse_report(vae.model, vae.guide, torch.randn(50, 3))
        >>> report.sites["z"].kl.shape, report.sites["z"].activity.shape
        (torch.Size([50, 2]), torch.Size([2]))
    """
    checked_rows(batch, least=2)
    with as_evaluated(model, guide):
        blocks = list(measured(model, guide, batch, draws, _ratios_and_values, batch_size=batch_size))
    moments = [_moments(block) for block in blocks]
    joined = {
        name: [torch.cat(parts) for parts in zip(*(m[name] for m in moments), strict=True)] for name in moments[0]
    }
    return CollapseReport({name: LatentUse(kl, _activity(*rest, draws)) for name, (kl, *rest) in joined.items()})


def _ratios_and_values(drawn: Sites, scored: Sites) -> dict[str, Tensor]:
    """For each latent the log-ratio of posterior and prior, and the value, ``(draws, rows, ...)``."""
    check_names(drawn, scored)
    shared = {name: site for name, site in drawn.items() if name in scored}
    if not shared:
        raise ValueError("`guide` must draw a latent site of the model, got none")
    measures = {}
    points = [name for name, site in shared.items() if site.is_point and not scored[name].support.is_discrete]
    if points:
        raise ValueError(f"`guide` must have a density at each latent site, got a point mass at {points}")
    for name, site in shared.items():
        require_density(site, " of `guide`", _WHY)
        require_density(scored[name], " of `model`", _WHY)
        measures[f"ratio of {name}"] = site.split(*_log_ratio(site, scored[name])).double()
        measures[f"value of {name}"] = site.split(*_in_units(site.value, scored[name])).double()
        if not site.value.isfinite().all():
            raise ValueError(f"`guide` must draw finite values at site {name!r}; does `batch` hold NaN or infinity?")
    return measures


def _moments(block: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """For each latent, divergences, and means and variances of the draws."""
    names = [name.removeprefix("value of ") for name in block if name.startswith("value of ")]
    values = {name: block[f"value of {name}"] for name in names}
    return {name: (block[f"ratio of {name}"].mean(0), values[name].mean(0), values[name].var(0)) for name in names}


def _log_ratio(posterior: DrawnSite, prior: DrawnSite) -> tuple[Tensor, int]:
    """Log posterior minus log prior, of every element where both have independent ones, and how many dimensions of it.

    Where the divergence of the elements is known it takes the place of the ratio, which it is the mean of.
    """
    elements = [_elements(site.distribution) for site in (posterior, prior)]
    if any(part is None for part in elements):
        return _difference(posterior.distribution, prior.distribution, posterior.value), 0
    try:
        ratio = kl_divergence(*elements)
    except NotImplementedError:
        ratio = _difference(*elements, posterior.value)
    return ratio, posterior.distribution.event_dim


def _in_units(value: Tensor, prior: DrawnSite) -> tuple[Tensor, int]:
    """A latent in units of its prior if that is normal, and how many dimensions its elements have."""
    elements, dim = _elements(prior.distribution), prior.distribution.event_dim
    return ((value - elements.loc) / elements.scale if isinstance(elements, Normal) else value), dim


def _difference(first: Distribution, second: Distribution, value: Tensor) -> Tensor:
    return first.log_prob(value) - second.log_prob(value)


def _elements(distribution: Distribution) -> Distribution | None:
    """The distribution of every element; ``None`` if they are not independent, or not known to be."""
    if isinstance(distribution, DiagonalNormal | UnitNormal):
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
