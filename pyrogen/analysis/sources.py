"""Sources: what a posterior brings, whatever made it: draws or a guide to draw from, weights, statistics, a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Predictive
from pyro.infer.abstract_infer import TracePosterior
from pyro.infer.mcmc.api import MCMC
from torch import Tensor

from pyrogen.programs.site import is_site, site_of


@dataclass(frozen=True)
class Source:
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
        guide_draws: How many draws from the guide the source itself asks for.
        prior_draws: How many prior draws it asks for.
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


def source_of(posterior: Any, *, chains: int) -> Source:
    """The source a posterior object is; see ``to_arviz`` for the kinds.

    Raises:
        ValueError: it is none of them, or has no draws.
    """
    for is_kind, read in _READERS:
        if is_kind(posterior):
            return _checked(read(posterior), chains)
    raise ValueError(
        "`posterior` must be an MCMC run, SVI, a guide, Predictive, importance samples, a dict of draws or an object "
        f"with `get_samples()`, got {type(posterior).__name__}"
    )


def resampled(source: Source) -> Source:
    """The source with equally weighted draws: systematic resampling, which keeps the order and draws one number.

    Copies of a draw lie side by side, so that ArviZ's effective sample size notices them.

    References:
        Douc, Cappe and Moulines 2005, "Comparison of resampling schemes for particle filtering",
        https://arxiv.org/abs/cs/0507025
    """
    log_weights = source.log_weights.double().cpu()
    cumulative = log_weights.softmax(0).cumsum(0)
    count = len(log_weights)
    points = (torch.arange(count, dtype=torch.double) + torch.rand((), dtype=torch.double)) / count
    chosen = torch.searchsorted(cumulative, points).clamp(max=count - 1)
    return replace(
        source,
        draws={name: value[chosen.to(value.device)] for name, value in source.draws.items()},
        log_weights=log_weights[chosen],
        stats={name: value.cpu()[chosen] for name, value in source.stats.items()},
    )


def _checked(source: Source, chains: int) -> Source:
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


def _from_mcmc(mcmc: MCMC) -> Source:
    chained = mcmc.get_samples(group_by_chain=True)
    chains, count = next(iter(chained.values())).shape[:2]
    stats, attrs = _mcmc_statistics(mcmc, chains, count)
    return Source(
        model=mcmc.kernel.model,
        draws={name: value.flatten(0, 1) for name, value in chained.items()},
        chains=chains,
        stats=stats,
        attrs=attrs,
        args=getattr(mcmc, "_args", None) or (),
        kwargs=getattr(mcmc, "_kwargs", None) or {},
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


def _from_importance(posterior: TracePosterior) -> Source:
    nodes = posterior.exec_traces[0].nodes.values()
    names = [node["name"] for node in nodes if is_site(node) and site_of(node).kind == "latent"]
    return Source(
        model=getattr(posterior, "model", None),
        draws={name: torch.stack([t.nodes[name]["value"] for t in posterior.exec_traces]) for name in names},
        log_weights=torch.stack([torch.as_tensor(weight) for weight in posterior.log_weights]),
    )


def _from_marginal(marginal: pyro.distributions.Empirical) -> Source:
    raise ValueError(
        "an EmpiricalMarginal does not know its site: pass the Importance posterior it was made from, or "
        "{site: marginal}"
    )


def _from_predictive(predictive: Predictive) -> Source:
    if predictive.posterior_samples:
        return Source(model=predictive.model, draws=dict(predictive.posterior_samples), predicts=True)
    if predictive.guide is None:
        return Source(model=predictive.model, prior_draws=predictive.num_samples)
    return Source(model=predictive.model, guide=predictive.guide, guide_draws=predictive.num_samples, predicts=True)


def _from_mapping(draws_by_site: Mapping[str, Any]) -> Source:
    marginals = {n: v for n, v in draws_by_site.items() if isinstance(v, pyro.distributions.Empirical)}
    if not marginals:
        return Source(draws=dict(draws_by_site))
    weights = [marginal.log_weights for marginal in marginals.values()]
    if len(marginals) != len(draws_by_site) or not all(weights[0].allclose(w) for w in weights):
        raise ValueError("marginals must all come from one importance sampler: their weights differ")
    return Source(draws={name: m.enumerate_support() for name, m in marginals.items()}, log_weights=weights[0])


def _from_sampler(sampler: Any) -> Source:
    """Anything with ``get_samples()``, and if it likes ``log_weights``, ``model``, ``sample_stats`` and ``attrs``."""
    log_weights = getattr(sampler, "log_weights", None)
    stats = getattr(sampler, "sample_stats", None) or {}
    return Source(
        model=getattr(sampler, "model", None),
        draws=dict(sampler.get_samples()),
        log_weights=None if log_weights is None else torch.as_tensor(log_weights).detach(),
        stats={name: torch.as_tensor(value).detach().flatten() for name, value in stats.items()},
        attrs=dict(getattr(sampler, "attrs", None) or {}),
    )


def _from_pair(pair: Any) -> Source:
    return Source(model=pair.model, guide=pair.guide)


def _from_guide(guide: Callable) -> Source:
    return Source(model=getattr(guide, "model", None), guide=guide)


_READERS = (
    (lambda p: isinstance(p, MCMC), _from_mcmc),
    (lambda p: isinstance(p, SVI), _from_pair),
    (lambda p: isinstance(p, TracePosterior) and bool(p.exec_traces), _from_importance),
    (lambda p: isinstance(p, pyro.distributions.Empirical), _from_marginal),
    (lambda p: isinstance(p, Predictive), _from_predictive),
    (lambda p: isinstance(p, Mapping), _from_mapping),
    (lambda p: hasattr(p, "get_samples"), _from_sampler),
    (lambda p: hasattr(p, "model") and hasattr(p, "guide"), _from_pair),
    (callable, _from_guide),
)
