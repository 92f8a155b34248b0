r"""The pointwise likelihood of data that have latents of their own.

Leave-one-out cross-validation and WAIC weigh posterior draws by :math:`p(x_i \mid \cdot)`, the likelihood of one datum
given what the *other* data tell about. A latent :math:`z_i` that belongs to datum :math:`i` alone is not of that kind:
given its posterior draw the datum is far too easy to predict, and the weights that should repair it have no variance.
So the likelihood has to be the marginal one over local latents, given the global ones :math:`\theta`,

.. math:: p(x_i \mid \theta) = \int p(x_i, z_i \mid \theta) \, dz_i
    \approx \frac{1}{K} \sum_k \frac{p(x_i, z_{ik} \mid \theta)}{q(z_{ik} \mid \theta, x)} ,

by importance sampling with the guide. Where there is no guide to sample from (a Markov chain, draws by hand) the
likelihood stays conditional, and says so.

References:
    Merkle, Furr and Rabe-Hesketh 2019, "Bayesian comparison of latent variable models: conditional versus marginal
    likelihoods", https://arxiv.org/abs/1802.04452
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import hypot, log
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent

from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.evaluation.importance import pareto_k_of
from pyrogen.programs.site import is_imputed

from .draws import BoundProgram, Draws
from .sites import NamedSite

_NUMBERS_AT_ONCE = 2**22

Tensors = Mapping[str, Tensor]


class GuideDraws(NamedTuple):
    """A guide, and the runs of it that the posterior draws come from."""

    guide: BoundProgram
    runs: Draws


@dataclass(frozen=True)
class Pointwise:
    """What the log-likelihood of a site is.

    Attributes:
        local: The latent sites that belong to single data.
        reason: Why it is conditional on them; nothing where it is marginal.
        draws: How many draws of the local latents each number averages over.
        error: The Monte Carlo standard error of its sum over the data, in nats.
        share_above: The share of data whose importance weights have a Pareto k-hat above 0.7.
        rows: How many data there are.
    """

    local: tuple[str, ...]
    reason: str = ""
    draws: int = 0
    error: float = 0.0
    share_above: float = 0.0
    rows: int = 0

    def attributes(self) -> dict[str, Any]:
        """What a reader of the stored variable should know."""
        sites = ", ".join(self.local)
        if self.reason:
            return {"likelihood": "conditional", "conditional_on": sites, "reason": self.reason}
        return {
            "likelihood": "marginal",
            "marginal_over": sites,
            "draws_of_local_latents": self.draws,
            "monte_carlo_error": self.error,
            "share_of_data_with_pareto_k_above_0.7": self.share_above,
        }

    def warning(self, name: str) -> str:
        """What to warn of; nothing where all is well."""
        if self.reason:
            return (
                f"the log_likelihood of {name!r} is conditional on {', '.join(self.local)}, local latents that belong "
                f"to single data ({self.reason}): LOO and WAIC of it are far too good"
            )
        if self.error > 1 or self.share_above > 0.1:
            return (
                f"the marginal log_likelihood of {name!r} is uncertain by {self.error:.2g} nats over all data, and "
                f"{self.share_above:.0%} of them have a Pareto k-hat above 0.7: the guide is too far from "
                "the posterior of the local latents"
            )
        return ""

    def joined(self, other: Pointwise) -> Pointwise:
        """That of the data of two minibatches."""
        rows = self.rows + other.rows
        share = (self.share_above * self.rows + other.share_above * other.rows) / rows if rows else 0.0
        return replace(self, error=hypot(self.error, other.error), share_above=share, rows=rows)


def local_latents(sites: Mapping[str, NamedSite], name: str) -> tuple[str, ...]:
    """The latent sites that lie in all plates of an observed one: at least one value for each datum.

    One that has no plates is a single datum, and so all latents in plates belong to it.
    """
    plates = sites[name].plate_names
    latent = [site for site in sites.values() if site.kind == "latent" and not is_imputed(site.name, sites)]
    if not plates:
        return tuple(site.name for site in latent if site.plates)
    return tuple(site.name for site in latent if plates <= site.plate_names)


def element_latents(model: BoundProgram, values: Tensors, name: str) -> tuple[str, ...]:
    """The latent sites not in all those plates whose independent elements belong to single data all the same.

    An event of as many elements as there are data is one, and so is a site in a plate beside that of the data. The
    gradients of two weighted sums over data show which datum depends on an element: if it is a single one, their ratio
    is its weight. Discrete elements have no gradient; they are changed, half of them at a time.

    Args:
        model: The model.
        values: Values of its latent sites, in one draw.
        name: The observed site.
    """
    plates = model.sites[name].plate_names
    latent = [site.name for site in model.sites.values() if site.kind == "latent" and site.name in values]
    if not plates or model.sites[name].value.numel() < 2:
        return ()
    discrete = [other for other in latent if model.sites[other].support.is_discrete]
    continuous = [other for other in latent if other not in discrete and values[other].is_floating_point()]
    changing = (other for other in discrete if _each_its_own_by_change(model, values, name, other))
    return (*_by_gradient(model, values, name, continuous), *changing)


def _by_gradient(model: BoundProgram, values: Tensors, name: str, candidates: list[str]) -> tuple[str, ...]:
    """The continuous sites among them most of whose elements belong to single data."""
    with torch.enable_grad():
        inputs = [values[other].detach().clone().requires_grad_() for other in candidates]
        distributions, log_prob = model.scored({**values, **dict(zip(candidates, inputs, strict=True))}, name)
        if not log_prob.requires_grad or log_prob.numel() < 2:
            return ()
        weights = 1 + torch.arange(log_prob.numel(), device=log_prob.device).to(log_prob) / log_prob.numel()
        options = {"allow_unused": True, "materialize_grads": True}
        plain = torch.autograd.grad(log_prob.sum(), inputs, retain_graph=True, **options)
        weighted = torch.autograd.grad((log_prob.flatten() * weights).sum(), inputs, **options)
    return tuple(
        other
        for other, one, two in zip(candidates, plain, weighted, strict=True)
        if one.numel() >= log_prob.numel()
        and (_independent(distributions[other]) or distributions[other].batch_shape.numel() >= log_prob.numel())
        and _each_its_own(one.flatten().double(), two.flatten().double(), weights.double())
    )


def marginalized(
    name: str,
    local: tuple[str, ...],
    model: BoundProgram,
    guided: GuideDraws | None,
    model_runs: Draws,
    draws: int,
) -> tuple[Tensor, Pointwise]:
    """The pointwise log-likelihood of a site with local latents, and what it is.

    Args:
        name: The observed site.
        local: Its local latents.
        model: The model.
        guided: The guide with its runs, if the posterior draws are from one.
        model_runs: The runs of the model on those draws.
        draws: How many draws of the local latents each posterior draw takes, where there are global latents too.

    Shape:
        ``(posterior draws, *batch_shape)``.
    """
    reason = _reason(name, local, model, guided)
    if reason:
        return model_runs.log_probs[name], Pointwise(local, reason)
    plates = model.sites[name].dims
    shared = [
        site.name for site in guided.guide.sites.values() if not model.sites[name].plate_names <= site.plate_names
    ]
    shared = [other for other in shared if other in guided.runs.values]
    if not shared:  # then all posterior draws are draws of the local latents
        log_weights = _log_weights(plates, model.sites, model_runs, guided.guide.sites, guided.runs)[:, None]
        log_marginal, pointwise = _averaged(log_weights, local)
        return log_marginal.expand(len(log_weights), *log_marginal.shape[1:]), pointwise
    given = {other: guided.runs.values[other] for other in shared}
    parts = list(_inner(plates, model, guided.guide, given, draws))
    log_marginal, pointwise = _averaged(torch.cat(parts, 1), local)
    return log_marginal, pointwise


def _inner(plates: tuple, model: BoundProgram, guide: BoundProgram, given: Tensors, draws: int) -> Any:
    """Log-weights ``(draws, some posterior draws, *batch)`` of fresh local latents for each posterior draw."""
    count = len(next(iter(given.values())))
    numbers = sum(site.value.numel() for site in (*model.sites.values(), *guide.sites.values()))
    size = max(1, _NUMBERS_AT_ONCE // (max(numbers, 1) * draws))
    for start in range(0, count, size):
        part = {name: value[start : start + size] for name, value in given.items()}
        repeated = {name: value.repeat(draws, *(1,) * (value.dim() - 1)) for name, value in part.items()}
        runs = len(next(iter(repeated.values())))
        guide_runs = guide.draw(repeated, runs)
        latent = {name: value for name, value in guide_runs.values.items() if _is_latent(model, name)}
        log_weights = _log_weights(plates, model.sites, model.draw(latent, runs), guide.sites, guide_runs)
        yield log_weights.unflatten(0, (draws, -1))


def _is_latent(model: BoundProgram, name: str) -> bool:
    return name in model.sites and model.sites[name].kind == "latent"


def _reason(name: str, local: tuple[str, ...], model: BoundProgram, guided: GuideDraws | None) -> str:
    """Why the local latents cannot be integrated out; nothing where they can."""
    plates = model.sites[name].plate_names
    if not plates:
        return "without a plate all of it is a single datum"
    if not all(plates <= model.sites[site].plate_names for site in local):
        return "they are not in all its plates"
    if None in model.sites[name].dims:
        return "a dimension of it is in no plate"
    others = [
        s.name for s in model.sites.values() if s.kind == "observed" and s.name != name and plates <= s.plate_names
    ]
    if others:
        return f"they are shared with {', '.join(others)}"
    if guided is None:
        return "the draws are not from a guide"
    guide = guided.guide.sites
    inside = [site for site in guide.values() if plates <= site.plate_names]
    if not set(local) <= {site.name for site in inside} or guided.runs.silent:
        return "the guide has no density of them"
    outside = [site for site in guide.values() if site.auxiliary and not plates <= site.plate_names]
    points = [site.name for site in inside if site.is_point]
    if len(points) > sum(site.auxiliary for site in inside):  # a point mass hands on what an auxiliary site has drawn
        return "the guide draws them together with others" if outside else "the guide has point masses for them"
    involved = (*inside, model.sites[name], *(model.sites[site] for site in local))
    bad = [site.name for site in involved if site.density not in ("exact", "estimate")]
    return f"the log_prob of {', '.join(bad)} is no density, and weights exponentiate it" if bad else ""


def _log_weights(
    plates: tuple[str, ...],
    sites: Mapping[str, NamedSite],
    runs: Draws,
    guide_sites: Mapping[str, NamedSite],
    guide_runs: Draws,
) -> Tensor:
    """The log-weight of every run and datum, ``(runs, *batch)``."""

    def total(sites: Mapping[str, NamedSite], runs: Draws) -> Tensor:
        names = [name for name in runs.log_probs if not is_imputed(name, sites)]
        inside = [name for name in names if set(plates) <= sites[name].plate_names]
        return sum(_by_datum(runs.log_probs[name].double(), sites[name], plates) for name in inside)

    return total(sites, runs) - total(guide_sites, guide_runs)


def _by_datum(log_prob: Tensor, site: NamedSite, plates: tuple[str, ...]) -> Tensor:
    """A log-probability ``(runs, *batch)`` with the plates of the datum in their order, summed over all others."""
    others = [1 + axis for axis, name in enumerate(site.dims) if name not in plates]
    kept = [name for name in site.dims if name in plates]
    summed = log_prob.sum(others) if others else log_prob
    return summed.permute(0, *(1 + kept.index(name) for name in plates))


def _independent(distribution: Any) -> bool:
    """Whether the elements of a distribution are independent."""
    while isinstance(distribution, (Independent, MaskedDistribution)):
        distribution = distribution.base_dist
    return isinstance(distribution, DiagonalNormal) or not distribution.event_shape


def _each_its_own(plain: Tensor, weighted: Tensor, weights: Tensor) -> bool:
    """Whether most data have an element that no other datum depends on."""
    used = plain != 0
    ratio = weighted[used] / plain[used]
    place = (ratio[:, None] - weights).abs().argmin(1)
    own = (ratio - weights[place]).abs() < 0.01 / len(weights)
    return 2 * len(place[own].unique()) > len(weights)


def _each_its_own_by_change(model: BoundProgram, values: Tensors, name: str, other: str) -> bool:
    """Whether most data have an entry of a discrete site that no other datum depends on.

    Entry and datum find each other by binary search: where the datum depends on a single entry, it changes with those
    entries that have a one in some place of their number, or with those that have a zero there, and never with both.
    """
    distributions, log_prob = model.scored(values, name)
    distribution, value = distributions[other], values[other]
    if distribution.event_shape or log_prob.numel() < 2 or value.numel() < log_prob.numel():
        return False
    changed, number = _another(distribution, value), torch.arange(value.numel(), device=value.device).view(value.shape)

    def depends(entries: Tensor) -> Tensor:
        _, found = model.scored({**values, other: torch.where(entries, changed, value)}, name)
        return (found != log_prob).flatten()

    entry, single = torch.zeros_like(log_prob, dtype=torch.int64).flatten(), True
    for place in range((value.numel() - 1).bit_length()):
        one = (number >> place) % 2 == 1
        with_one, with_zero = depends(one), depends(~one)
        single, entry = single & (with_one ^ with_zero), entry + with_one * 2**place
    return 2 * len(entry[single].unique()) > log_prob.numel()


def _another(distribution: Any, value: Tensor) -> Tensor:
    """Another value of a discrete site, at every entry: the next one."""
    if not distribution.has_enumerate_support:
        return value + 1
    possible = distribution.enumerate_support(expand=False).flatten()
    place = (value[..., None] == possible).to(torch.uint8).argmax(-1)
    return possible[(place + 1) % len(possible)]


def _averaged(log_weights: Tensor, local: tuple[str, ...]) -> tuple[Tensor, Pointwise]:
    """Log-means of weights over their first dimension, and how good they are."""
    draws = len(log_weights)
    log_marginal = log_weights.logsumexp(0) - log(draws)
    safe = torch.where(log_marginal.isfinite(), log_marginal, 0.0)  # all weights zero: their spread is too
    relative = (log_weights - safe).exp().var(0) / draws  # of the mean, which is the variance of its logarithm
    data = log_weights[:, 0].reshape(draws, -1)
    possible = data[:, data.isfinite().any(0)]
    share = float((pareto_k_of(possible).values > 0.7).double().mean()) if draws >= 25 and possible.numel() else 0.0
    error = float(relative.reshape(len(relative), -1).sum(1).mean().sqrt())  # NaN for one draw: not known
    return log_marginal, Pointwise(local, "", draws, error, share, data.shape[1])
