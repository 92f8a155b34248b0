r"""Simulation-based calibration: is this way of computing posteriors right, for this model?

Draw :math:`\theta^* \sim p(\theta)` and :math:`y \sim p(y \mid \theta^*)`, then :math:`L` draws :math:`\theta_l` from
the posterior under test. If it is the true posterior, :math:`\theta^*` is one more draw of it, so for any test quantity
:math:`f` the rank of :math:`f(\theta^*, y)` among the :math:`f(\theta_l, y)` is uniform. A rank that is not shows a
fault; which faults can show depends on :math:`f`. Coordinates of :math:`\theta` alone are not enough: draws from the
*prior*, which ignore the data, give uniform ranks for every quantity that does not depend on :math:`y`. Quantities that
do, the log-likelihood and the log-joint density, are therefore always among those tested. A simulator without a
``log_prob`` has neither; a regression of latent values on data, learned from the simulations, then takes their place
(:class:`~pyrogen.evaluation.RegressionScore`).

The model is called as ``model(size=rows)`` and draws ``rows`` independent simulations in one data plate; the ``.model``
of every distribution module, and a joint distribution of :mod:`pyrogen.simulation`, are of this form. Simulations that
are there already serve as well, and then no model need be known.

References:
    Talts, Betancourt, Simpson, Vehtari and Gelman 2018, "Validating Bayesian inference algorithms with
    simulation-based calibration", https://arxiv.org/abs/1804.06788
    Modrák et al. 2023, "Simulation-based calibration checking for Bayesian computation: The choice of test quantities
    shapes sensitivity", https://arxiv.org/abs/2211.02383
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked, function, real_tensor
from pyrogen.core.estimate import TestResult
from pyrogen.programs.layouts import Sites
from pyrogen.programs.run import Program

from .pairs import measured, sites_of, total
from .ranks import (
    Coverage,
    Departure,
    EcdfBand,
    EcdfNull,
    central_coverage,
    checked_ranks,
    chi_square_test,
    highest_coverage,
    ranks_among,
)
from .scoring import as_evaluated
from .simulated import (
    FEWEST,
    JointLogProb,
    Posterior,
    Quantity,
    Simulated,
    Values,
    checked_draws,
    coordinates_of,
    joint_of,
    listed,
    observed_names,
    posterior_function,
    rows_of,
    site_names,
)

_PAIRS, _NUMBERS = 2**14, 2**21  # at once


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
        self.observed = observed_names(observed)

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

    def uniformity(self) -> dict[str, TestResult]:
        """For each quantity, the simultaneous test of the empirical distribution function."""
        null = EcdfNull(self.simulations, self.draws)
        return {name: null.test(ranks) for name, ranks in self.ranks.items()}

    def test(self) -> TestResult:
        """One test of all quantities: the smallest p-value, times their number (Bonferroni)."""
        results = self.uniformity()
        worst = min(results, key=lambda name: (results[name].p_value, -results[name].statistic))
        p_value = min(1.0, results[worst].p_value * len(results))
        return TestResult(results[worst].statistic, p_value, f"ECDF distance of {worst}, worst of {len(results)}")

    def departure(self, name: str) -> Departure:
        """How far the ranks of one quantity are from uniform: many simulations detect faults of no practical size.

        Raises:
            ValueError: there is no such quantity.
        """
        return Departure.of(self._of(name), self.draws)

    def ecdf(self, name: str, *, level: float = 0.95) -> EcdfBand:
        """The empirical distribution function of one quantity's ranks, with its simultaneous band."""
        return EcdfNull(self.simulations, self.draws).band(self._of(name), level)

    def highest_coverage(self, name: str, *, levels: Tensor | None = None) -> Coverage:
        """Coverage of the regions where a quantity is highest; of highest-density regions for a posterior density."""
        return highest_coverage(self._of(name), self.draws, levels=levels)

    def central_coverage(self, name: str, *, levels: Tensor | None = None) -> Coverage:
        """Coverage of the central intervals of a quantity, such as a coordinate."""
        return central_coverage(self._of(name), self.draws, levels=levels)

    def __str__(self) -> str:
        lines = [f"{len(self.ranks)} quantities in {self.simulations} simulations: p = {self.test().p_value:.2g}"]
        lines += [f"{name}: p = {one.p_value:.2g}, {self.departure(name)}" for name, one in self.uniformity().items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        left_out = f", without {', '.join(self.left_out)}" if self.left_out else ""
        counts = f"{self.simulations} simulations, {self.draws} draws each, {len(self.ranks)} quantities"
        return f"<Calibration of {counts}{left_out}>"

    def _of(self, name: str) -> Tensor:
        if name not in self.ranks:
            raise ValueError(f"`name` must be one of {list(self.ranks)}, got {name!r}")
        return self.ranks[name]


@checked(posterior=posterior_function, simulations=anything)
def simulation_based_calibration(
    model: Program | None,
    posterior: Posterior,
    *,
    observed: str | Sequence[str] | None = None,
    simulations: int | Simulated = 1000,
    draws: int = 99,
    nuisance: str | Sequence[str] = (),
    coordinates: str | Sequence[str] | None = None,
    quantities: Mapping[str, Quantity] = MappingProxyType({}),
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Calibration:
    """Ranks of true values among posterior draws, over simulations from the model.

    Tested are ``"log_likelihood"`` and ``"log_joint"``, every coordinate of the latent sites (``"z[0]"``) and the
    quantities of your own. Where a site has no ``log_prob`` (an implicit distribution, a point mass, a deterministic
    site), what needs it is left out. Without a log-likelihood, ``"regression_score"`` is tested in its place: a
    :class:`~pyrogen.evaluation.RegressionScore`, which each quarter of the simulations gets from those before it; the
    first quarter has ranks by chance.

    Args:
        model: A Pyro model, called as ``model(size=rows)``: ``rows`` independent simulations in one data plate. With
            ready ``simulations`` it gives the log-likelihood, and may be ``None``.
        posterior: What is tested: a function of the data (rows of each observed site) and a number of draws, which
            gives independent draws of every latent site, draws first, then rows. :class:`Amortized` makes one of a
            guide. Draws of a Markov chain must be thinned until they are nearly independent.
        observed: The names of the sites that are data, ``pyro.deterministic`` ones among them; all others are latent.
            Those of ready ``simulations`` if ``None``.
        simulations: How many simulations: more show smaller faults. Or ready ones, with ``latents`` and ``observed``
            by site, as :meth:`pyrogen.simulation.Joint.draw` gives them: where a simulator is slow, or where rows of
            the data are absent (NaN).
        draws: How many posterior draws each gets.
        nuisance: The latent sites that the posterior leaves out; sites marked ``infer={"is_auxiliary": True}`` are
            among them. The log-likelihood at given values of the others is then not known.
        coordinates: The latent sites whose coordinates are ranked; all if ``None``.
        quantities: Further functions of latent values and data (rows of each), giving one number a row.
        batch_size: How many pairs of simulation and draw are computed at once. If not given, 16,384, or fewer, so that
            no more than two million numbers are simulated or drawn: images take memory.
        generator: Breaks ties between ranks.

    Raises:
        TypeError: ``model`` is no program, ``posterior`` no function, or a value no tensor.
        ValueError: a site is unknown, observed already or outside the data plate, the posterior's draws lack a site,
            have another shape or hold NaN, a quantity is NaN, not one number a row, or has the name of another, or
            there are no simulations or draws.
    """
    if not isinstance(quantities, Mapping) or not all(map(callable, quantities.values())):
        raise TypeError(f"`quantities` must be a dict of functions, got {quantities!r}")
    with as_evaluated(model) if model is not None else nullcontext():
        joint = joint_of(model, simulations, observed, site_names(nuisance, "nuisance"))
        chosen = tuple(joint.latents) if coordinates is None else site_names(coordinates, "coordinates")
        if not set(chosen) <= set(joint.latents):
            raise ValueError(f"`coordinates` must name latent sites {list(joint.latents)}, got {list(chosen)}")
        pairs = batch_size or min(_PAIRS, _NUMBERS // joint.numbers)
        ranks: dict[str, list[Tensor]] = {}
        for part, learned in joint.parts():
            evaluate = _Evaluation(joint.likelihood, chosen, {**learned, **quantities})
            for block in torch.arange(part.start, part.stop).split(max(1, pairs // draws)):
                rows = slice(int(block[0]), int(block[-1]) + 1)
                truth, given = rows_of(joint.latents, rows), rows_of(joint.data, rows)
                drawn = checked_draws(posterior(given, draws), truth, draws)
                for name, value in _ranks(evaluate, truth, drawn, given, draws, generator).items():
                    ranks.setdefault(name, []).append(value)
    if not joint.sees_the_data:
        warnings.warn(
            f"simulation_based_calibration leaves out {listed(joint.left_out)}. Draws from the prior pass for every "
            "quantity that does not depend on the data: take at least "
            f"{FEWEST} simulations, or pass `quantities` that do, such as "
            '{"regression_score": pg.evaluation.RegressionScore(latents, observed)} of other simulations',
            UserWarning,
            stacklevel=3,
        )
    return Calibration({name: torch.cat(parts) for name, parts in ranks.items()}, draws, joint.left_out)


@dataclass(frozen=True)
class _Evaluation:
    """All test quantities of latent values and data, one number a row."""

    likelihood: JointLogProb | None
    coordinates: Sequence[str]
    quantities: Mapping[str, Quantity]

    def __call__(self, latents: Values, data: Values) -> Values:
        rows = len(next(iter(data.values())))
        values = {} if self.likelihood is None else self.likelihood(latents, data)
        for name in self.coordinates:
            values.update(coordinates_of(name, latents[name]))
        for name, quantity in self.quantities.items():
            if name in values:
                raise ValueError(f"`quantities` must have names of their own, got {name!r}")
            values[name] = quantity(latents, data)
            real_tensor(values[name], f"quantities[{name!r}]")
            if values[name].shape != (rows,):
                got = tuple(values[name].shape)
                raise ValueError(f"quantity {name!r} must give one number a row, shape {(rows,)}, got {got}")
        return values


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
        ranks[name] = ranks_among(value, others, generator)
    return ranks


def _repeat(value: Tensor, draws: int) -> Tensor:
    return value.expand(draws, *value.shape).flatten(0, 1)
