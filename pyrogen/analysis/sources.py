"""Sources: what a posterior brings, whatever made it: draws or a guide to draw from, weights, statistics, a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, singledispatch
from typing import Any

import torch
from pyro.distributions import Empirical
from pyro.infer import SVI, Importance, Predictive
from pyro.infer.abstract_infer import TracePosterior, TracePredictive
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.elbo import ELBOModule
from pyro.infer.mcmc.api import MCMC
from torch import Tensor

from pyrogen.core.module import DistributionModule
from pyrogen.inverse.answer import Answer
from pyrogen.numerics.resampling import systematic
from pyrogen.programs.site import is_site, site_of
from pyrogen.simulation.guide import PosteriorGuide
from pyrogen.simulation.posterior import Posterior


@dataclass(frozen=True)
class PosteriorSource:
    """What a posterior brings.

    Attributes:
        model: The Pyro model, if it is known.
        draws: Draws by site, of shape ``(chains * draws, ...)``, chain after chain.
        guide: A program to draw from instead.
        log_weights: Importance weights of the draws, of shape ``(draws,)``.
        stats: Statistics of the draws, of shape ``(chains * draws,)``.
        attrs: Facts about the inference as a whole.
        chains: How many chains the draws are.
        args: The arguments inference ran with, if it kept them.
        kwargs: The same for keyword arguments.
        predicts: Whether sites without draws are meant to be drawn from the model.
        guide_draws: How many draws from the guide the source itself takes.
        prior_draws: How many prior draws it takes.
    """

    model: Callable | None = None
    draws: dict[str, Tensor] | None = None
    guide: Callable | None = None
    log_weights: Tensor | None = None
    stats: dict[str, Tensor] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    chains: int = 1
    args: tuple = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    predicts: bool = False
    guide_draws: int | None = None
    prior_draws: int = 0


def source_of(posterior: Any, *, chains: int) -> PosteriorSource:
    """The source a posterior object is; see ``to_arviz`` for the kinds.

    Raises:
        ValueError: it is none of them, or has no draws.
    """
    source = _read(posterior)
    return _checked(replace(source, model=_without_initial_values(source.model)), chains)


def resampled(source: PosteriorSource) -> PosteriorSource:
    """The source with equally weighted draws: systematic resampling, which keeps the order and draws one number.

    Copies of a draw lie side by side, so that ArviZ's effective sample size notices them.
    """
    log_weights = source.log_weights.double().cpu()
    chosen = systematic(log_weights)
    return replace(
        source,
        draws={name: value[chosen.to(value.device)] for name, value in source.draws.items()},
        log_weights=log_weights[chosen],
        stats={name: value.cpu()[chosen] for name, value in source.stats.items()},
    )


def _without_initial_values(model: Callable | None) -> Callable | None:
    """The model of an autoguide as it was: the guide wraps it so that sites are not drawn but start somewhere."""
    while isinstance(model, partial) and model.args and isinstance(model.args[0], InitMessenger):
        model = model.args[1]
    return model


def _checked(source: PosteriorSource, chains: int) -> PosteriorSource:
    if source.draws is None:
        return source
    draws = {name: _tensor(name, value) for name, value in source.draws.items()}
    counts = {name: len(value) if value.dim() else 0 for name, value in draws.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"`posterior` must hold equally many draws of all sites, at least one, got {counts}")
    count = next(iter(counts.values()))
    if source.log_weights is not None and source.log_weights.shape != (count,):
        raise ValueError(f"`log_weights` must have shape ({count},), got {tuple(source.log_weights.shape)}")
    if source.log_weights is not None and not source.log_weights.logsumexp(0).isfinite():
        raise ValueError("`log_weights` must be numbers below infinity, at least one of them finite")
    chains = max(chains, source.chains)
    if count % chains:
        raise ValueError(f"`chains` must divide the {count} draws, got {chains}")
    return replace(source, draws=draws, chains=chains)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`posterior` must hold numbers at site {name!r}, got {type(value).__name__}: {error}"
        ) from None


@singledispatch
def _read(posterior: Any) -> PosteriorSource:
    """An object of another library, known by what it has: ``get_samples()``, model and guide, or a call."""
    names = ("model", "guide", "log_weights", "sample_stats", "attrs")
    model, guide, log_weights, stats, attrs = (getattr(posterior, name, None) for name in names)
    if hasattr(posterior, "get_samples"):
        return PosteriorSource(
            model=model,
            draws=dict(posterior.get_samples()),
            log_weights=None if log_weights is None else torch.as_tensor(log_weights).detach(),
            stats={name: torch.as_tensor(value).detach().flatten() for name, value in (stats or {}).items()},
            attrs=dict(attrs or {}),
        )
    if model is not None and guide is not None:
        return PosteriorSource(model=model, guide=guide)
    if callable(posterior):
        return PosteriorSource(model=model, guide=posterior)
    raise ValueError(
        "`posterior` must be an MCMC run, SVI, a guide, Predictive, importance samples, a dict of draws or an object "
        f"with `get_samples()`, got {type(posterior).__name__}"
    )


@_read.register
def _(answer: Answer) -> PosteriorSource:
    return PosteriorSource(
        model=answer.model,
        draws=answer.get_samples(),
        log_weights=None if answer.log_weights is None else answer.log_weights.detach(),
        stats={name: value.detach().flatten() for name, value in answer.sample_stats.items()},
        attrs=answer.attrs,
        chains=answer.chains,
    )


@_read.register(SVI)
@_read.register(ELBOModule)
@_read.register(DistributionModule)
def _(pair: SVI | ELBOModule | DistributionModule) -> PosteriorSource:
    return PosteriorSource(model=pair.model, guide=pair.guide)


@_read.register
def _(posterior: Posterior) -> PosteriorSource:
    # Its `guide` is refused where there are nuisance sites, of which a source needs no draws.
    return PosteriorSource(model=posterior.model, guide=PosteriorGuide(posterior))


@_read.register
def _(mcmc: MCMC) -> PosteriorSource:
    chained = mcmc.get_samples(group_by_chain=True)
    chains, count = next(iter(chained.values())).shape[:2]
    stats, attrs = _mcmc_statistics(mcmc, chains, count)
    return PosteriorSource(
        model=mcmc.kernel.model,
        draws={name: value.flatten(0, 1) for name, value in chained.items()},
        chains=chains,
        stats=stats,
        attrs=attrs,
        args=mcmc._args or (),
        kwargs=mcmc._kwargs or {},
    )


def _mcmc_statistics(mcmc: MCMC, chains: int, count: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    found = [chain or {} for chain in mcmc._diagnostics]  # `diagnostics()` would compute R-hat of every site as well
    stats, attrs = {}, {}
    if all("divergences" in chain for chain in found):
        diverging = torch.zeros(chains, count, dtype=torch.bool)
        for chain, diagnostics in enumerate(found):
            diverging[chain, list(diagnostics["divergences"])] = True
        stats["diverging"] = diverging.flatten()
    if all("acceptance rate" in chain for chain in found):
        attrs["acceptance_rate"] = [float(chain["acceptance rate"]) for chain in found]
    return stats, attrs


@_read.register
def _(posterior: TracePosterior) -> PosteriorSource:
    model = posterior.model if isinstance(posterior, Importance | TracePredictive) else None
    if not posterior.exec_traces and isinstance(posterior, Importance):
        return PosteriorSource(model=model, guide=posterior.guide)
    nodes = posterior.exec_traces[0].nodes.values()
    names = [node["name"] for node in nodes if is_site(node) and site_of(node).kind == "latent"]
    return PosteriorSource(
        model=model,
        draws={name: torch.stack([t.nodes[name]["value"] for t in posterior.exec_traces]) for name in names},
        log_weights=torch.stack([torch.as_tensor(weight) for weight in posterior.log_weights]),
    )


@_read.register
def _(marginal: Empirical) -> PosteriorSource:
    raise ValueError(
        "an EmpiricalMarginal does not know its site: pass the Importance posterior it was made from, or "
        "{site: marginal}"
    )


@_read.register
def _(predictive: Predictive) -> PosteriorSource:
    if predictive.posterior_samples:
        return PosteriorSource(model=predictive.model, draws=dict(predictive.posterior_samples), predicts=True)
    if predictive.guide is None:
        return PosteriorSource(model=predictive.model, prior_draws=predictive.num_samples)
    return PosteriorSource(
        model=predictive.model, guide=predictive.guide, guide_draws=predictive.num_samples, predicts=True
    )


@_read.register
def _(draws_by_site: Mapping) -> PosteriorSource:
    marginals = {name: value for name, value in draws_by_site.items() if isinstance(value, Empirical)}
    if not marginals:
        return PosteriorSource(draws=dict(draws_by_site))
    weights = [marginal.log_weights for marginal in marginals.values()]
    if len(marginals) != len(draws_by_site) or not all(weights[0].allclose(w) for w in weights):
        raise ValueError("marginals must all come from one importance sampler: their weights differ")
    return PosteriorSource(draws={name: m.enumerate_support() for name, m in marginals.items()}, log_weights=weights[0])
