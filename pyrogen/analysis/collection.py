"""Collecting: a source run through its model, for one call of the model or for many minibatches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrogen.core.density import Density, weakest
from pyrogen.programs.site import is_imputed

from .draws import BoundProgram, Draws, fitted
from .pointwise import GuideDraws, Pointwise, element_latents, local_latents, marginalized
from .sites import NamedSite
from .sources import PosteriorSource

Tensors = dict[str, Tensor]
DRAWN_GROUPS = ("posterior", "posterior_predictive", "prior", "prior_predictive", "log_likelihood")


class Wanted(NamedTuple):
    """Which groups to make, and how many draws from a guide, from the prior, and of local latents for each of these."""

    draws: int
    prior: int
    predictive: bool
    log_likelihood: bool
    local_draws: int


@dataclass
class Collection:
    """Everything known about the draws, by site, before dimensions get names.

    Attributes:
        groups: For each of ``DRAWN_GROUPS`` the values, of shape ``(draws, *site_shape)``.
        log_p: The joint log-probability of model and data by site, of shape ``(draws,)``.
        log_q: That of the guide.
        sites: The model's sites.
        guide_sites: The guide's sites.
        rows: The rows of the plates.
        drawn: All values by program (``"guide"``, ``"predictive"``, ``"prior"``), for the next minibatch.
        pointwise: What the log-likelihoods of sites with local latents are.
        left_out: What is missing, and why.
    """

    groups: dict[str, Tensors] = field(default_factory=lambda: {group: {} for group in DRAWN_GROUPS})
    log_p: Tensors = field(default_factory=dict)
    log_q: Tensors = field(default_factory=dict)
    sites: dict[str, NamedSite] = field(default_factory=dict)
    guide_sites: dict[str, NamedSite] = field(default_factory=dict)
    rows: Tensors = field(default_factory=dict)
    drawn: dict[str, Tensors] = field(default_factory=dict)
    pointwise: dict[str, Pointwise] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def density(self) -> Density:
        """What the joint log-probability means."""
        return weakest(*(site.density for site in self.sites.values()))

    @property
    def guide_density(self) -> Density:
        """What the log-probability of the guide means."""
        return weakest(*(site.density for site in self.guide_sites.values()))


def collect(source: PosteriorSource, args: tuple, kwargs: Mapping[str, Any], wanted: Wanted) -> Collection:
    """One call of the model with all data; log-probabilities keep the scales of the program."""
    return _Collector(source, kwargs, wanted, scaled=True)(args, {})


def collect_batches(
    source: PosteriorSource, batches: Iterable[tuple], kwargs: Mapping[str, Any], wanted: Wanted, plate: str | None
) -> Collection:
    """Calls with minibatches: sites of the data plate one after another, the others once.

    The scale that makes a minibatch stand for all data is dropped, since all data are there.

    Raises:
        ValueError: there is no batch, or the data plate is ambiguous.
    """
    collector = _Collector(source, kwargs, wanted, scaled=False)
    parts: list[Collection] = []
    shared: dict[str, Tensors] = {}
    for batch in batches:
        parts.append(collector(batch, shared))
        if len(parts) == 1:
            plate = plate or _data_plate(parts[0].sites)
            sites = {**parts[0].sites, **parts[0].guide_sites}
            shared = {
                program: {name: value for name, value in values.items() if plate not in sites[name].dims}
                for program, values in parts[0].drawn.items()
            }
    if not parts:
        raise ValueError("`batches` must hold at least one minibatch, got none")
    return _merged(parts, plate)


@dataclass(frozen=True)
class _Collector:
    """Runs guide and model of a source for one call."""

    source: PosteriorSource
    kwargs: Mapping[str, Any]
    wanted: Wanted
    scaled: bool

    def __call__(self, args: tuple, shared: Mapping[str, Tensors]) -> Collection:
        result = Collection()
        draws, rows, guided = self._draws(args, shared.get("guide", {}), result)
        model = BoundProgram(self.source.model, args, self.kwargs, rows=rows)
        result.sites = model.read(_first(draws))
        result.rows = model.rows
        latent = {name for name, site in result.sites.items() if site.kind == "latent"}
        given = {name: _shaped(value, result.sites[name]) for name, value in draws.items() if name in latent}
        missing = _missing(latent - given.keys(), result.sites)
        count = len(next(iter(draws.values()))) if draws else 0
        if count:
            self._posterior(model, given, count, missing, guided, result)
            self._other_draws({name: value for name, value in draws.items() if name not in latent}, result)
        free = BoundProgram(model.function, args, self.kwargs, rows=model.rows, free=True)
        try:
            free.read(_first(given))
        except NotImplementedError as error:  # of a distribution without draws, such as a learned ratio
            if self.wanted.prior:
                raise
            if self.wanted.predictive:
                result.left_out["posterior_predictive"] = str(error).partition("\n")[0]
            return result
        if count and self.wanted.predictive:
            self._predictions(free, {**shared.get("predictive", {}), **given}, count, missing, result)
        if self.wanted.prior:
            self._prior(free, shared.get("prior", {}), result)
        return result

    def _draws(self, args: tuple, shared: Tensors, result: Collection) -> tuple[Tensors, Tensors, GuideDraws | None]:
        """Draws by site, the rows that the guide's plates drew, and the guide."""
        if self.source.guide is None:
            return self.source.draws or {}, {}, None
        guide = BoundProgram(self.source.guide, args, self.kwargs)
        result.guide_sites = guide.read(_first(shared))
        runs = guide.draw(shared, self.wanted.draws)
        result.drawn["guide"] = runs.values
        drawn = [site for name, site in result.guide_sites.items() if site.kind == "latent" and name in runs.values]
        if not runs.silent and not all(site.is_point for site in drawn):
            result.log_q = self._totals(runs)
        values = {site.name: runs.values[site.name] for site in drawn if not site.auxiliary}
        return values, guide.rows, GuideDraws(guide, runs)

    def _posterior(
        self,
        model: BoundProgram,
        given: Tensors,
        count: int,
        missing: dict[str, str],
        guided: GuideDraws | None,
        result: Collection,
    ) -> None:
        """The posterior as far as the draws determine it, and its log-probabilities."""
        needed = {name: reason for name, reason in missing.items() if reason is not _IMPUTED}
        result.left_out.update({} if self.source.predicts else needed)
        unrepeatable = model.unrepeatable(given) if self.wanted.log_likelihood and not needed else set()
        runs = model.draw(given, count, score=self.wanted.log_likelihood and not needed and not unrepeatable)
        for name, site in result.sites.items():
            determined = name in given or (not needed and site.kind in ("computed", "latent"))
            if determined and name in runs.values:
                result.groups["posterior"][name] = runs.values[name]
            elif determined:
                result.left_out[name] = "not in every draw of the model, or not in one shape"
            elif site.kind == "computed" and not self.source.predicts:
                result.left_out[name] = f"may depend on {', '.join(needed)}"
        if not self.wanted.log_likelihood:
            return
        if unrepeatable:
            sites = ", ".join(sorted(unrepeatable))
            reason = f"the log-probability of {sites} depends on numbers that the model draws outside its sites"
            result.left_out["log_likelihood"] = reason
        elif not needed:
            self._log_likelihood(model, runs, guided, result)
        elif any(site.kind == "observed" for site in result.sites.values()):
            result.left_out["log_likelihood"] = f"needs draws of {', '.join(needed)}"

    def _log_likelihood(self, model: BoundProgram, runs: Draws, guided: GuideDraws | None, result: Collection) -> None:
        for name in runs.silent:
            result.left_out[f"log_prob of {name}"] = "its distribution has no log_prob"
        observed = [name for name, site in result.sites.items() if site.kind == "observed" and name in runs.log_probs]
        for name in observed:
            values = runs.log_probs[name]
            local = local_latents(result.sites, name) or element_latents(model, _first(runs.values), name)
            if local:
                values, result.pointwise[name] = marginalized(name, local, model, guided, runs, self.wanted.local_draws)
            result.groups["log_likelihood"][name] = values
        if not runs.silent:
            result.log_p = self._totals(runs)

    def _other_draws(self, draws: Tensors, result: Collection) -> None:
        """Draws that came along for sites that are not latent in the model, or not in it at all."""
        for name, value in draws.items():
            site = result.sites.get(name)
            if site is not None and site.kind == "observed":
                result.groups["posterior_predictive"][name] = _shaped(value, site)
            elif self.source.guide is None:
                result.groups["posterior"].setdefault(name, value)
                result.left_out.pop(name, None)

    def _predictions(
        self, free: BoundProgram, given: Tensors, count: int, missing: dict[str, str], result: Collection
    ) -> None:
        """Draws of the observed sites, and of those the source means to predict."""
        unknown = [name for name, reason in missing.items() if reason is _ABSENT]
        predicted = _observed(result.sites) | (set(missing) if self.source.predicts else set())
        predicted -= result.groups["posterior_predictive"].keys()
        if unknown and predicted and not self.source.predicts:
            result.left_out["posterior_predictive"] = f"needs draws of {', '.join(unknown)}"
        elif predicted:
            values = self._drawn(free, given, count, "predictive", result)
            predictions = {name: value for name, value in values.items() if name in predicted}
            result.groups["posterior_predictive"].update(predictions)

    def _prior(self, free: BoundProgram, shared: Tensors, result: Collection) -> None:
        values, observed = self._drawn(free, shared, self.wanted.prior, "prior", result), _observed(result.sites)
        result.groups["prior"] = {name: value for name, value in values.items() if name not in observed}
        result.groups["prior_predictive"] = {name: value for name, value in values.items() if name in observed}

    def _drawn(self, free: BoundProgram, given: Tensors, count: int, key: str, result: Collection) -> Tensors:
        result.drawn[key] = free.draw(given, count, score=False).values
        return result.drawn[key]

    def _totals(self, runs: Draws) -> Tensors:
        if self.scaled:
            return runs.scaled
        return {name: log_prob.reshape(len(log_prob), -1).sum(1) for name, log_prob in runs.log_probs.items()}


_IMPUTED = "the masked part of an observation, drawn from the model"
_SUMMED_OUT = "not among the draws: a discrete site that inference sums out by enumeration"
_ABSENT = "not among the draws"


def _missing(names: Iterable[str], sites: Mapping[str, NamedSite]) -> dict[str, str]:
    """Latent sites without draws, and why they have none."""
    reasons = {}
    for name in sorted(names):
        reasons[name] = _IMPUTED if is_imputed(name, sites) else _SUMMED_OUT if sites[name].enumerable else _ABSENT
    return reasons


def _first(draws: Tensors) -> Tensors:
    return {name: value[0] for name, value in draws.items()}


def _observed(sites: Mapping[str, NamedSite]) -> set[str]:
    return {name for name, site in sites.items() if site.kind == "observed"}


def _shaped(draws: Tensor, site: NamedSite) -> Tensor:
    fitted(site.name, draws[0], site.shape)
    return draws.reshape(len(draws), *site.shape)


def _data_plate(sites: Mapping[str, NamedSite]) -> str:
    """The one plate that all observed sites share."""
    observed = [site.plate_names for site in sites.values() if site.kind == "observed"]
    common = set.intersection(*observed) if observed else set()
    if len(common) != 1:
        raise ValueError(f"`plate` must name the data plate of `batches`: the observed sites share {sorted(common)}")
    return common.pop()


def _merged(parts: list[Collection], plate: str) -> Collection:
    first = parts[0]

    def axis(name: str) -> int | None:
        site = first.sites.get(name)
        return site.dims.index(plate) if site is not None and plate in site.dims else None

    def merged_values(group: str) -> Tensors:
        values = {}
        for name, value in first.groups[group].items():
            along = axis(name)
            pieces = [part.groups[group][name] for part in parts]
            values[name] = value if along is None else torch.cat(pieces, dim=1 + along)
        return values

    return Collection(
        groups={group: merged_values(group) for group in DRAWN_GROUPS},
        log_p=_summed([part.log_p for part in parts], first.sites, plate),
        log_q=_summed([part.log_q for part in parts], first.guide_sites, plate),
        sites={name: _merged_site([part.sites[name] for part in parts], axis(name)) for name in first.sites},
        guide_sites=first.guide_sites,
        rows={name: rows for name, rows in first.rows.items() if name != plate},
        pointwise={
            name: reduce(Pointwise.joined, (part.pointwise[name] for part in parts)) for name in first.pointwise
        },
        left_out={name: reason for part in parts for name, reason in part.left_out.items()},
    )


def _summed(parts: list[Tensors], sites: Mapping[str, NamedSite], plate: str) -> Tensors:
    """Log-probabilities of the sites in the data plate add up over minibatches; the others count once."""
    if not all(parts):
        return {}
    return {
        name: sum(part[name] for part in parts) if plate in sites[name].dims else value
        for name, value in parts[0].items()
    }


def _merged_site(sites: list[NamedSite], axis: int | None) -> NamedSite:
    if axis is None:
        return sites[0]
    present = None
    if any(site.present is not None for site in sites):
        everything = (torch.ones(site.batch_shape, dtype=torch.bool) for site in sites)
        masks = [whole if site.present is None else site.present for site, whole in zip(sites, everything, strict=True)]
        present = torch.cat(masks, dim=axis)
    return replace(sites[0], value=torch.cat([site.value for site in sites], dim=axis), present=present)
