"""Simulations of a model, given or drawn here, and its log-probabilities where it has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import function, integer, real_tensor, without_nan
from pyrogen.core.density import density_of
from pyrogen.core.module import DistributionModule
from pyrogen.programs.layouts import DrawnSite, OneDraw, Sites, placed, values_of
from pyrogen.programs.run import Program, run
from pyrogen.programs.site import Plate

from .features import Simulated, checked_values
from .pairs import sites_of, total
from .regression import RegressionScore

Values = dict[str, Tensor]
Posterior = Callable[[Values, int], Values]
Quantity = Callable[[Values, Values], Tensor]

_LOG_PROBS = ("log_likelihood", "log_joint")
_NOISE = 0.1  # of a log-likelihood, in its standard deviations over simulations, that hides what it shows
FEWEST = 20  # simulations from which a regression is learned


@dataclass(frozen=True)
class JointLogProb:
    """The log-probabilities of the model at given values, one number a row."""

    model: Program
    observed: Sequence[str]
    shapes: Mapping[str, torch.Size]
    left_out: Mapping[str, str]
    plate: Plate

    def __call__(self, latents: Values, data: Values) -> Values:
        given, rows = {**latents, **data}, len(data[self.observed[0]])
        given = {name: value.reshape(len(value), *self.shapes[name]) for name, value in given.items()}
        at_once = self.plate.size if self.plate.size > self.plate.rows else rows  # a subsampled plate holds no more
        blocks = [slice(start, start + at_once) for start in range(0, rows, at_once)]
        parts = [self._part({name: value[block] for name, value in given.items()}) for block in blocks]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _part(self, given: Values) -> Values:
        rows = len(given[self.observed[0]])
        sites = sites_of(self.model, rows=rows, what="model", given=given, plate=self.plate.name, size=rows)
        likelihood = total(sites[name] for name in self.observed)[0]
        if "log_joint" in self.left_out:
            return {"log_likelihood": likelihood}
        prior = total(site for name, site in sites.items() if name not in self.observed)[0]
        return {"log_likelihood": likelihood, "log_joint": likelihood + prior}


@dataclass(frozen=True)
class SimulatedJoint:
    """Simulations, and what is known of the model that made them.

    Attributes:
        latents: The true values, rows first, each in the shape that the program has it without foreign plates.
        data: The data, likewise.
        left_out: Why the log-likelihood, and the log-joint density, cannot be tested.
        likelihood: Those of the two that can.
    """

    latents: Values
    data: Values
    left_out: Mapping[str, str]
    likelihood: JointLogProb | None

    @property
    def rows(self) -> int:
        return len(next(iter(self.latents.values())))

    @property
    def numbers(self) -> int:
        """How many numbers, latent and observed, one simulation has."""
        return max(1, sum(value[0].numel() for values in (self.latents, self.data) for value in values.values()))

    @property
    def sees_the_data(self) -> bool:
        """Whether a quantity that depends on the data is known."""
        return self.likelihood is not None or self.rows >= FEWEST

    def parts(self) -> list[tuple[slice, dict[str, Quantity]]]:
        """The rows in parts, each with the quantities that are learned from the parts before it.

        Parts that taught each other would have dependent ranks, and these are not uniform as often as a test expects.
        Nothing comes before the first part, whose scores are equal and whose ranks are therefore drawn.
        """
        if self.likelihood is not None or self.rows < FEWEST:
            return [(slice(0, self.rows), {})]
        ends = sorted({max(FEWEST // 2, self.rows * quarter // 4) for quarter in (1, 2, 3, 4)})
        parts: list[tuple[slice, dict[str, Quantity]]] = [(slice(0, ends[0]), {"regression_score": _nothing_learned})]
        for start, end in pairwise(ends):
            past = slice(0, start)
            score = RegressionScore(rows_of(self.latents, past), rows_of(self.data, past))
            parts.append((slice(start, end), {"regression_score": score}))
        return parts


def _nothing_learned(latents: Values, data: Values) -> Tensor:
    return torch.zeros(len(next(iter(latents.values()))))


def joint_of(
    model: Program | None,
    simulations: int | Simulated,
    observed: str | Sequence[str] | None,
    nuisance: Sequence[str],
) -> SimulatedJoint:
    """The simulations that are ranked: ready ones, or as many as were asked for.

    Args:
        model: A Pyro model called with ``size``; ``None`` where it is not known.
        simulations: How many, or ready ones.
        observed: The names of the observed sites.
        nuisance: The names of latent sites that are left out.
    """
    if isinstance(simulations, int | float | str | None):
        count = integer(simulations, "simulations")
        if model is None or observed is None:
            missing = "model" if model is None else "observed"
            raise TypeError(
                f"`{missing}` must be given where `simulations` are {count} to be drawn, got None; or give ready ones, "
                "as `simulations=joint.draw(1000)`"
            )
        return _drawn(function(model, "model"), count, observed_names(observed), nuisance)
    latents, data = ready(simulations, observed, nuisance)
    if model is None:
        return SimulatedJoint(latents, data, dict.fromkeys(_LOG_PROBS, "there is no `model`"), None)
    sites, computed = _simulated(function(model, "model"), 2, tuple(data))
    _check_model(sites, computed, tuple(data))
    unknown = [name for name in latents if name not in sites]
    if unknown:
        raise ValueError(f"`simulations` must have sites of the model {list(sites)}, got {unknown}")
    left_out = _left_out(sites, computed, tuple(data), [name for name in sites if name not in {**latents, **data}])
    absent = [name for name, value in data.items() if value.isnan().any()]
    if absent:
        left_out = dict.fromkeys(_LOG_PROBS, f"sites {absent} have absent rows (NaN)")
    for name, value in {**latents, **data}.items():
        own = _own_shape(sites[name]) if name in sites else value.shape[1:]
        if value.shape[1:] != own:
            raise ValueError(f"`simulations` must have {name!r} of shape (rows, *{tuple(own)}), got {value.shape}")
    return _with_likelihood(model, sites, latents, data, left_out)


def _drawn(model: Program, simulations: int, observed: Sequence[str], nuisance: Sequence[str]) -> SimulatedJoint:
    sites, computed = _simulated(model, simulations, observed)
    _check_model(sites, computed, observed)
    for name in nuisance:
        if name not in sites or name in observed:
            raise ValueError(f"`nuisance` must name latent sites of the model {list(sites)}, got {name!r}")
    hidden = [name for name, site in sites.items() if name in nuisance or (site.auxiliary and name not in observed)]
    left_out = _left_out(sites, computed, observed, hidden)
    own = {name: site.value.reshape(simulations, *_own_shape(site)) for name, site in sites.items()} | computed
    latents = {name: value for name, value in own.items() if name not in (*observed, *hidden)}
    if not latents:
        raise ValueError(f"`model` must have a latent site that is no nuisance, got {hidden} alone")
    data = {name: own[name] for name in observed}
    return _with_likelihood(model, sites, latents, data, left_out)


def _with_likelihood(
    model: Program, sites: Sites, latents: Values, data: Values, left_out: Mapping[str, str]
) -> SimulatedJoint:
    if "log_likelihood" in left_out:
        return SimulatedJoint(latents, data, left_out, None)
    shapes = {name: site.value.shape[1:] for name, site in sites.items()}
    likelihood = JointLogProb(model, tuple(data), shapes, left_out, next(iter(sites.values())).data_plate)
    some = slice(0, 64)
    first, second = (likelihood(rows_of(latents, some), rows_of(data, some))["log_likelihood"] for _ in range(2))
    noise, spread = (first - second).nan_to_num().square().mean().sqrt(), first.nan_to_num().std(correction=0)
    if noise > _NOISE * spread + 1e-6 * first.nan_to_num().abs().mean():
        why = "`model` has noise of its own beside its sites, so that its log_prob is another one in every run"
        return SimulatedJoint(latents, data, dict.fromkeys(_LOG_PROBS, why), None)
    return SimulatedJoint(latents, data, left_out, likelihood)


def ready(
    simulations: Simulated, observed: str | Sequence[str] | None = None, nuisance: Sequence[str] = ()
) -> tuple[Values, Values]:
    """Latent values and data of ready simulations.

    Args:
        simulations: The simulations.
        observed: The names that their observed sites must have, if they are known.
        nuisance: Latent sites that are left out.

    Raises:
        TypeError: they are no simulations, or a value is no tensor.
        ValueError: sites differ in their number of rows, there are none, or values are infinite, or latent ones NaN.
    """
    try:
        latents, data = simulations.latents, simulations.observed
    except AttributeError:
        raise TypeError(
            "`simulations` must be an int, or simulations with `latents` and `observed` by site, got "
            f"{type(simulations).__name__}"
        ) from None
    checked_values(latents, "simulations.latents")
    checked_values({**latents, **checked_values(data, "simulations.observed")}, "simulations")
    if observed is not None and set(observed_names(observed)) != set(data):
        raise ValueError(f"`observed` must name the observed sites {list(data)} of `simulations`, got {observed!r}")
    latents = {name: value for name, value in latents.items() if name not in nuisance}
    if not latents:
        raise ValueError(f"`simulations` must have a latent site that is no nuisance, got {list(simulations.latents)}")
    for name, value in latents.items():
        without_nan(value, f"simulations.latents[{name!r}]")
    return latents, dict(data)


def posterior_function(value: Any, name: str) -> Posterior:
    """A function of data and a number of draws, which no distribution module is; raises a TypeError otherwise."""
    if isinstance(value, DistributionModule):
        raise TypeError(
            f"`{name}` must be a function of the data and a number of draws, got the module {type(value).__name__}: a "
            "learned posterior has one, its method `draw`"
        )
    return function(value, name)


def site_names(names: str | Sequence[str], argument: str) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    if not isinstance(names, str | Sequence | Set):
        raise TypeError(f"`{argument}` must be the name of a site, or several, got {names!r}")
    return (names,) if isinstance(names, str) else tuple(names)


def observed_names(names: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of the observed sites, at least one."""
    found = site_names(names, "observed")
    if not found:
        raise ValueError("`observed` must name at least one site, got none")
    return found


def _simulated(model: Program, size: int, observed: Sequence[str]) -> tuple[Sites, Values]:
    """The sites of so many simulations, and the values of those data that the model computes and does not draw."""
    try:
        found = run(model, kwargs={"size": size})
    except Exception as error:
        error.add_note(f"It was raised by `model`, called with `size={size}` for as many simulations.")
        raise
    statements = found.statements
    computed = {name: statements[name].value for name in observed if name in statements and statements[name].computed}
    for name, value in computed.items():
        if not value.dim() or len(value) != size:
            raise ValueError(f"site {name!r} must have the {size} simulations as rows, got shape {tuple(value.shape)}")
    return placed(found.sites, OneDraw(), size, "model"), computed


def _left_out(sites: Sites, computed: Values, observed: Sequence[str], nuisance: Sequence[str]) -> dict[str, str]:
    """Why the likelihood, and the joint density, cannot be test quantities."""
    reasons = {name: "is computed" for name in computed}
    reasons |= {name: reason for name, site in sites.items() if (reason := _silence(site))}
    reasons |= dict.fromkeys(nuisance, "is a nuisance")
    likelihood = [f"site {name!r} {reason}" for name, reason in reasons.items() if name in (*observed, *nuisance)]
    joint = [f"site {name!r} {reason}" for name, reason in reasons.items()]
    left_out = dict(zip(_LOG_PROBS, (likelihood, joint), strict=True))
    return {name: ", ".join(reasons) for name, reasons in left_out.items() if reasons}


def _silence(site: DrawnSite) -> str:
    """Why a site has no log-density; nothing where it has one."""
    if site.is_point:
        return "is a point mass"
    try:
        silent = density_of(site.distribution) is None or site.log_probs() is None
    except NotImplementedError:
        silent = True
    return "has no log_prob" if silent else ""


def _check_model(sites: Sites, computed: Values, observed: Sequence[str]) -> None:
    unknown = [name for name in observed if name not in {**sites, **computed}]
    if unknown:
        raise ValueError(f"`observed` must name sites of the model {list(sites)}, got {unknown}")
    if not set(sites) - set(observed):
        raise ValueError(f"`model` must have a latent site, got only the observed {list(observed)}")
    given = [name for name, site in sites.items() if site.observed]
    if given:
        raise ValueError(f"`model` must draw all its sites when called with `size` alone, but {given} have a value")
    for name, site in sites.items():
        if site.value.dim() - len(site.distribution.event_shape) + site.dim != 0:
            raise ValueError(f"the data plate must be the outermost (leftmost) plate, got site {name!r} inside another")
    for name, value in (*values_of(sites.values()).items(), *computed.items()):
        without_nan(value, f"model: {name}")


def _own_shape(site: DrawnSite) -> torch.Size:
    """The shape of one row in a run of its own: without the dimensions between the data plate and the site's own."""
    event_shape = site.distribution.event_shape
    batch = site.value.shape[1 : site.value.dim() - len(event_shape)]
    own = {plate.dim for plate in site.plates}
    foreign = 0
    while foreign < len(batch) and batch[foreign] == 1 and foreign - len(batch) not in own:
        foreign += 1
    return torch.Size((*batch[foreign:], *event_shape))


def rows_of(values: Values, rows: slice) -> Values:
    """Some rows of values by site."""
    return {name: value[rows] for name, value in values.items()}


def listed(left_out: Mapping[str, str]) -> str:
    """Quantities and the reasons why they are left out, in one line."""
    return "; ".join(f"{name} ({reason})" for name, reason in left_out.items())


def coordinates_of(name: str, value: Tensor) -> Values:
    """The coordinates of a site by name, one number a row."""
    if value.dim() == 1:
        return {name: value}
    indices = product(*map(range, value.shape[1:]))
    return {f"{name}{list(index)}".replace(" ", ""): value[(slice(None), *index)] for index in indices}


def _shown(drawn: object) -> object:
    return list(drawn) if isinstance(drawn, Mapping) else type(drawn).__name__


def checked_draws(drawn: Values, truth: Values, draws: int) -> Values:
    """Posterior draws of the sites of the truth, in their order.

    Args:
        drawn: What a posterior gave.
        truth: True values by site, rows first.
        draws: How many draws were asked for.

    Raises:
        TypeError: a value is no tensor.
        ValueError: a site is missing, a shape is another one, or a value is NaN.
    """
    for name, value in truth.items():
        if not isinstance(drawn, Mapping) or name not in drawn:
            raise ValueError(f"`posterior` must give draws of every latent site {list(truth)}, got {_shown(drawn)}")
        real_tensor(drawn[name], f"posterior(...)[{name!r}]")
        if drawn[name].shape != (draws, *value.shape):
            raise ValueError(
                f"`posterior` must give draws of {name!r} of shape {(draws, *value.shape)}, "
                f"got {tuple(drawn[name].shape)}"
            )
        if drawn[name].isnan().any():
            raise ValueError(f"`posterior` must give numbers, got {int(drawn[name].isnan().sum())} NaN in {name!r}")
    return {name: drawn[name] for name in truth}
