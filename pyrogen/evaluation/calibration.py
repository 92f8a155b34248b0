r"""Simulation-based calibration: is this way of computing posteriors right, for this model?

Draw :math:`\theta^* \sim p(\theta)` and :math:`y \sim p(y \mid \theta^*)`, then :math:`L` draws :math:`\theta_l` from
the posterior under test. If it is the true posterior, :math:`\theta^*` is one more draw of it, so for any test quantity
:math:`f` the rank of :math:`f(\theta^*, y)` among the :math:`f(\theta_l, y)` is uniform. A rank that is not shows a
fault; which faults can show depends on :math:`f`. Coordinates of :math:`\theta` alone are not enough: draws from the
*prior*, which ignore the data, give uniform ranks for every quantity that does not depend on :math:`y`. Quantities that
do, the log-likelihood and the log-joint density, are therefore always among those tested. A simulator without a
``log_prob`` has neither: they are left out with a warning, and quantities of your own that depend on the data should
take their place.

The model is called as ``model(size=rows)`` and draws ``rows`` independent simulations in one data plate; the ``.model``
of every distribution module is of this form.

References:
    Talts, Betancourt, Simpson, Vehtari and Gelman 2018, "Validating Bayesian inference algorithms with
    simulation-based calibration", https://arxiv.org/abs/1804.06788
    Modrák et al. 2023, "Simulation-based calibration checking for Bayesian computation: The choice of test quantities
    shapes sensitivity", https://arxiv.org/abs/2211.02383
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

import torch
from pyro.distributions import Delta
from torch import Tensor

from pyrogen.arguments import checked, function, real_tensor, without_nan
from pyrogen.core.density import density_of
from pyrogen.programs.layouts import DrawnSite, OneDraw, Sites, placed, values_of
from pyrogen.programs.run import Program, run
from pyrogen.programs.site import Plate

from .pairs import measured, sites_of, total
from .ranks import (
    Coverage,
    EcdfBand,
    EcdfNull,
    central_coverage,
    checked_ranks,
    chi_square_test,
    highest_coverage,
)
from .result import TestResult
from .scoring import as_evaluated

Values = dict[str, Tensor]
Posterior = Callable[[Values, int], Values]
Quantity = Callable[[Values, Values], Tensor]


class Amortized:
    """A guide as a posterior: one call gives draws for many data sets.

    Args:
        guide: A Pyro guide with one data plate, called with the rows of the observed sites.
        observed: The names of the observed sites, in the order of the guide's arguments.

    Raises:
        TypeError: ``guide`` is no program.
        ValueError: no site is named.
    """

    def __init__(self, guide: Program, observed: str | Sequence[str] = ("x",)) -> None:
        self.guide = function(guide, "guide")
        self.observed = _observed(observed)

    def __call__(self, data: Values, draws: int) -> Values:
        """Draws for each row of the data: ``(draws, rows, *shape)`` for each latent site."""
        batch = tuple(data[name] for name in self.observed)
        with as_evaluated(self.guide):
            (drawn,) = measured(None, self.guide, batch, draws, _values, batch_size=draws * len(batch[0]))
        return drawn

    def __repr__(self) -> str:
        return f"<Amortized guide {type(self.guide).__name__}, given {', '.join(self.observed)}>"

    def log_prob(self, latents: Values, data: Values) -> Tensor:
        """The log-density of the guide for each row, a quantity whose coverage is that of highest-density regions.

        Raises:
            NotImplementedError: the guide makes its sites of auxiliary ones, whose values the latent ones do not tell.
        """
        batch = [data[name] for name in self.observed]
        with as_evaluated(self.guide):
            sites = sites_of(self.guide, *batch, rows=len(batch[0]), what="guide", given=latents).values()
        auxiliary = [site.name for site in sites if site.auxiliary]
        if auxiliary:
            raise NotImplementedError(
                f"`guide` has auxiliary sites {auxiliary}, so its log-density at given latent values is not known; "
                "use the coordinates, the log-likelihood and the log-joint density as quantities"
            )
        return total(sites)[0]


def _values(drawn: Sites, scored: Sites) -> Values:
    return {name: site.values() for name, site in drawn.items() if not site.auxiliary}


@dataclass(frozen=True, repr=False)
class Calibration:
    """The ranks of a simulation-based calibration, and what follows from them.

    Args:
        ranks: For each test quantity one integer in 0, ..., ``draws`` for each simulation: how many posterior draws are
            below the true value.
        draws: How many posterior draws each simulation has.
        left_out: The quantities that could not be tested, and why.

    Raises:
        ValueError: there is no quantity, or ranks are not such integers, equally many for each.
    """

    ranks: Mapping[str, Tensor]
    draws: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ValueError("`ranks` must hold at least one quantity, got none")
        for ranks in self.ranks.values():
            checked_ranks(ranks, self.draws)
        counts = {name: len(ranks) for name, ranks in self.ranks.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"`ranks` must be equally many for each quantity, got {counts}")

    @property
    def simulations(self) -> int:
        """How many simulations there were."""
        return len(next(iter(self.ranks.values())))

    def chi_square(self, *, bins: int | None = None) -> dict[str, TestResult]:
        """For each quantity, Pearson's test of uniform ranks."""
        return {name: chi_square_test(ranks, self.draws, bins=bins) for name, ranks in self.ranks.items()}

    def uniformity(self, *, generator: torch.Generator | None = None) -> dict[str, TestResult]:
        """For each quantity, the simultaneous test of the empirical distribution function."""
        null = EcdfNull(self.simulations, self.draws, generator=generator)
        return {name: null.test(ranks) for name, ranks in self.ranks.items()}

    def test(self, *, generator: torch.Generator | None = None) -> TestResult:
        """One test of all quantities: the smallest p-value, times their number (Bonferroni)."""
        results = self.uniformity(generator=generator)
        worst = min(results, key=lambda name: (results[name].p_value, -results[name].statistic))
        p_value = min(1.0, results[worst].p_value * len(results))
        return TestResult(results[worst].statistic, p_value, f"ECDF distance of {worst}, worst of {len(results)}")

    def ecdf(self, name: str, *, level: float = 0.95, generator: torch.Generator | None = None) -> EcdfBand:
        """The empirical distribution function of one quantity's ranks, with its simultaneous band."""
        return EcdfNull(self.simulations, self.draws, generator=generator).band(self._of(name), level)

    def highest_coverage(self, name: str, *, levels: Tensor | None = None) -> Coverage:
        """Coverage of the regions where a quantity is highest; of highest-density regions for a posterior density."""
        return highest_coverage(self._of(name), self.draws, levels=levels)

    def central_coverage(self, name: str, *, levels: Tensor | None = None) -> Coverage:
        """Coverage of the central intervals of a quantity, such as a coordinate."""
        return central_coverage(self._of(name), self.draws, levels=levels)

    def __repr__(self) -> str:
        left_out = f", without {', '.join(self.left_out)}" if self.left_out else ""
        counts = f"{self.simulations} simulations, {self.draws} draws each, {len(self.ranks)} quantities"
        return f"<Calibration of {counts}{left_out}>"

    def _of(self, name: str) -> Tensor:
        if name not in self.ranks:
            raise ValueError(f"`name` must be one of {list(self.ranks)}, got {name!r}")
        return self.ranks[name]


@checked(model=function, posterior=function)
def simulation_based_calibration(
    model: Program,
    posterior: Posterior,
    *,
    observed: str | Sequence[str],
    simulations: int = 1000,
    draws: int = 99,
    coordinates: str | Sequence[str] | None = None,
    quantities: Mapping[str, Quantity] = MappingProxyType({}),
    batch_size: int = 16384,
    generator: torch.Generator | None = None,
) -> Calibration:
    """Ranks of true values among posterior draws, over simulations from the model.

    Tested are ``"log_likelihood"`` and ``"log_joint"``, every coordinate of the latent sites (``"z[0]"``) and the
    quantities of your own. Where a site has no ``log_prob`` (an implicit distribution, a point mass, a deterministic
    site), what needs it is left out, with a warning.

    Args:
        model: A Pyro model, called as ``model(size=rows)``: ``rows`` independent simulations in one data plate.
        posterior: What is tested: a function of the data (rows of each observed site) and a number of draws, which
            gives independent draws of every latent site, draws first, then rows. :class:`Amortized` makes one of a
            guide. Draws of a Markov chain must be thinned until they are nearly independent.
        observed: The names of the sites that are data, ``pyro.deterministic`` ones among them; all others are latent.
        simulations: How many simulations: more show smaller faults.
        draws: How many posterior draws each gets.
        coordinates: The latent sites whose coordinates are ranked; all if ``None``.
        quantities: Further functions of latent values and data (rows of each), giving one number a row.
        batch_size: How many pairs of simulation and draw are computed at once.
        generator: Breaks ties between ranks.

    Raises:
        TypeError: ``model`` is no program, ``posterior`` no function, or a value no tensor.
        ValueError: a site is unknown, observed already or outside the data plate, the posterior's draws lack a site,
            have another shape or hold NaN, a quantity is NaN, not one number a row, or has the name of another, or
            there are no simulations or draws.
    """
    if not isinstance(quantities, Mapping) or not all(map(callable, quantities.values())):
        raise TypeError(f"`quantities` must be a dict of functions, got {quantities!r}")
    observed = _observed(observed)
    with as_evaluated(model):
        sites, computed = _simulated(model, simulations, observed)
        _check_model(sites, computed, observed)
        left_out = _left_out(sites, computed, observed)
        values = values_of(sites.values())
        data = {name: value for name, value in {**values, **computed}.items() if name in observed}
        latents = {name: value for name, value in values.items() if name not in observed}
        chosen = tuple(latents) if coordinates is None else _names(coordinates, "coordinates")
        if not set(chosen) <= set(latents):
            raise ValueError(f"`coordinates` must name latent sites {list(latents)}, got {list(chosen)}")
        plate = next(iter(sites.values())).data_plate
        evaluate = _Evaluation(model, observed, chosen, quantities, left_out, plate)
        ranks: dict[str, list[Tensor]] = {}
        for block in torch.arange(simulations).split(max(1, batch_size // draws)):
            rows = slice(int(block[0]), int(block[-1]) + 1)
            truth = {name: value[rows] for name, value in latents.items()}
            given = {name: value[rows] for name, value in data.items()}
            drawn = _checked(posterior(given, draws), truth, draws)
            for name, value in _ranks(evaluate, truth, drawn, given, draws, generator).items():
                ranks.setdefault(name, []).append(value)
    if left_out:
        lost = "; ".join(f"{name} ({reason})" for name, reason in left_out.items())
        warnings.warn(
            f"simulation_based_calibration leaves out {lost}. Draws from the prior pass for every quantity that does "
            "not depend on the data: give `quantities` that do",
            UserWarning,
            stacklevel=3,
        )
    return Calibration({name: torch.cat(parts) for name, parts in ranks.items()}, draws, left_out)


@dataclass(frozen=True)
class _Evaluation:
    """All test quantities of latent values and data, one number a row."""

    model: Program
    observed: Sequence[str]
    coordinates: Sequence[str]
    quantities: Mapping[str, Quantity]
    left_out: Mapping[str, str]
    plate: Plate

    def __call__(self, latents: Values, data: Values) -> Values:
        rows = len(data[self.observed[0]])
        values = {} if len(self.left_out) == 2 else self._log_probs({**latents, **data}, rows)
        for name in self.coordinates:
            values.update(_coordinates(name, latents[name]))
        for name, quantity in self.quantities.items():
            if name in values:
                raise ValueError(f"`quantities` must have names of their own, got {name!r}")
            values[name] = quantity(latents, data)
            real_tensor(values[name], f"quantities[{name!r}]")
            if values[name].shape != (rows,):
                got = tuple(values[name].shape)
                raise ValueError(f"quantity {name!r} must give one number a row, shape {(rows,)}, got {got}")
        return values

    def _log_probs(self, given: Values, rows: int) -> Values:
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


def _ranks(
    evaluate: _Evaluation,
    truth: Values,
    drawn: Values,
    data: Values,
    draws: int,
    generator: torch.Generator | None,
) -> Values:
    """How many draws are below the truth; a draw equal to it is below or above at random."""
    rows = len(next(iter(data.values())))
    true_values = evaluate(truth, data)
    flat = {name: value.flatten(0, 1) for name, value in drawn.items()}
    drawn_values = evaluate(flat, {name: _repeat(value, draws) for name, value in data.items()})
    ranks = {}
    for name, value in true_values.items():
        others = drawn_values[name].reshape(draws, rows)
        if value.isnan().any() or others.isnan().any():
            raise ValueError(f"test quantity {name!r} is NaN, so it has no rank: see `quantities` and `posterior`")
        ties = (others == value).sum(0).cpu()
        # One more than the ties: the truth is as likely at each place among its equals.
        above = (torch.rand(rows, generator=generator) * (ties + 1)).floor().long()
        ranks[name] = (others < value).sum(0).cpu() + above
    return ranks


def _coordinates(name: str, value: Tensor) -> Values:
    if value.dim() == 1:
        return {name: value}
    indices = product(*map(range, value.shape[1:]))
    return {f"{name}{list(index)}".replace(" ", ""): value[(slice(None), *index)] for index in indices}


def _names(names: str | Sequence[str], argument: str) -> tuple[str, ...]:
    if not isinstance(names, str | Sequence | Set):
        raise TypeError(f"`{argument}` must be the name of a site, or several, got {names!r}")
    return (names,) if isinstance(names, str) else tuple(names)


def _observed(names: str | Sequence[str]) -> tuple[str, ...]:
    found = _names(names, "observed")
    if not found:
        raise ValueError("`observed` must name at least one site, got none")
    return found


def _repeat(value: Tensor, draws: int) -> Tensor:
    return value.expand(draws, *value.shape).flatten(0, 1)


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


def _left_out(sites: Sites, computed: Values, observed: Sequence[str]) -> dict[str, str]:
    """Why the likelihood, and the joint density, cannot be test quantities."""
    reasons = {name: "is computed" for name in computed}
    reasons |= {name: reason for name, site in sites.items() if (reason := _silence(site))}
    likelihood = [f"site {name!r} {reason}" for name, reason in reasons.items() if name in observed]
    joint = [f"site {name!r} {reason}" for name, reason in reasons.items()]
    left_out = {"log_likelihood": likelihood, "log_joint": joint}
    return {name: ", ".join(reasons) for name, reasons in left_out.items() if reasons}


def _silence(site: DrawnSite) -> str:
    """Why a site has no log-density; nothing where it has one."""
    if isinstance(site.distribution, Delta):
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


def _shown(drawn: object) -> object:
    return list(drawn) if isinstance(drawn, Mapping) else type(drawn).__name__


def _checked(drawn: Values, truth: Values, draws: int) -> Values:
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
