"""What a report shows of a posterior: how far it can be trusted, its numbers, and whether it predicts the data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrogen.core.estimate import TestResult
from pyrogen.evaluation.calibration import Calibration
from pyrogen.evaluation.importance import pareto_k_of
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck, predictive_check
from pyrogen.inverse.answer import FEW, Answer
from pyrogen.simulation.posterior import Posterior
from pyrogen.training.progress import Fit, History

from .beside import is_picture, pictures
from .model_report import training
from .page import Section, absent, fact_table, figures, folded, number_table, paragraph, picture, plot, section_of
from .pairs import draw_pairs, read_coordinates
from .panels import colours, draw_predictive
from .posterior_numbers import (
    ENOUGH,
    FEWEST,
    MIXED,
    Number,
    attributes_of,
    by_number,
    columns_of,
    numbers_of,
    variables,
)
from .simulation_checks import panels_of
from .style import legend_below, new_figure, tidy
from .verdicts import Verdict, of_calibration, of_local, of_misspecification, of_predictive, of_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 24  # of the summary
_PAIRED = 6
_PRIOR = 1000  # draws beside those of a learned posterior
_TRACES = 6
_APART = 1.1  # R-hat of chains that have not met
_LOST = 0.01  # of the draws, at which the integrator failed
_LARGE_K = 0.7  # of importance weights that have no reliable mean


@dataclass(frozen=True)
class Checks:
    """Checks that were made elsewhere, by the functions of these names in :mod:`pyrogen.evaluation`."""

    calibration: Calibration | None = None
    local: LocalCalibration | None = None
    misspecification: TestResult | None = None
    predictive: PredictiveCheck | None = None


@dataclass(frozen=True)
class PosteriorReport:
    """The sections of a posterior.

    Attributes:
        posterior: What was given.
        tree: The same for ArviZ.
        guide: Whether its draws are those of a guide.
        chained: Whether they are those of Markov chains, or of groups that can be compared like chains.
        history: What ``fit`` gave, where the posterior was learned.
        truth: True values by site.
        checks: Checks that were made before.
    """

    posterior: Any
    tree: Any
    guide: bool
    chained: bool
    history: Fit | History | None
    truth: Mapping[str, Any]
    checks: Checks

    def sections(self) -> Iterator[Section]:
        """The sections in their order."""
        yield section_of("The posterior", self._what())
        yield section_of("Convergence", self._convergence())
        yield section_of("Summary", self._summary())
        yield section_of("Pairs", self._pairs())
        for name in self.sites:
            if is_picture(self.sites[name].shape[2:]):
                yield section_of(f"Pictures of {name}", self._pictures(name))
        yield section_of("Predictive check", self._predictive())
        if self.history is not None:
            yield section_of("Training", self._training())
        if any(part is not None for part in (self.checks.calibration, self.checks.local, self.checks.misspecification)):
            yield section_of("Checks by simulation", self._simulated())

    @property
    def method(self) -> str:
        """What made the posterior."""
        given = isinstance(self.posterior, Mapping) or self.posterior is self.tree
        if isinstance(self.posterior, Posterior):
            return "a network that learned from simulations"
        return "draws that were made before" if given else type(self.posterior).__name__

    @cached_property
    def sites(self) -> dict[str, np.ndarray]:
        """Draws by site, ``(chains, draws, *shape)``."""
        return {name: np.asarray(array.values) for name, array in variables(self.tree, "posterior").items()}

    @cached_property
    def numbers(self) -> list[Number]:
        """All numbers of the posterior, those of small sites first."""
        arrays = variables(self.tree, "posterior")
        return [
            number
            for name in sorted(arrays, key=lambda name: arrays[name].size)
            for number in numbers_of(name, arrays[name])
        ]

    def _what(self) -> Iterator[str | Verdict]:
        chains, draws = next(iter(self.sites.values())).shape[:2]
        rows = {"method": self.method}
        rows["draws"] = f"{chains * draws:,}" + (f" in {chains} chains" if chains > 1 else "")
        rows["sites"] = ", ".join(f"{name} {value.shape[2:] or ''}".strip() for name, value in self.sites.items())
        if isinstance(self.posterior, Answer):
            diagnostics = self.posterior.diagnostics()
            rows["diagnostics"] = ". ".join(line[:1].upper() + line[1:] for line in diagnostics.lines()) + "."
            try:
                evidence = self.posterior.log_evidence.flatten().tolist()
                rows["log evidence"] = ", ".join(f"{value:.3f}" for value in evidence[:6]) + " nats"
            except NotImplementedError as error:
                rows["log evidence"] = f"none: {error}"
            grade = "failed" if diagnostics.collapsed else "passed"
            text = diagnostics.warning or f"The diagnostics of {rows['method']} find no fault."
            yield Verdict(grade, text)
        yield fact_table(rows.items())
        attributes = {name: value for name, value in sorted(attributes_of(self.tree).items())}
        yield folded("All that the run recorded", "\n".join(f"{name}: {value}" for name, value in attributes.items()))

    def _convergence(self) -> Iterator[str | Verdict]:
        if self.guide:
            yield paragraph(
                "The draws are independent ones of a guide: R-hat and effective sample size compare chains, and cannot "
                "tell whether a guide is right. Importance weights can, where model and guide have densities: the "
                "Pareto k of their tail is below 0.7 where they would correct the guide."
            )
            yield from self._weights()
            return
        if not self.chained:
            yield paragraph(
                "The draws are not those of chains, which R-hat compares: see the diagnostics of the method."
            )
            return
        known = [number for number in self.numbers if not np.isnan(number.r_hat)]
        if not known:
            yield absent(f"Not computed: R-hat needs chains of at least {FEWEST} draws that change.")
            yield Verdict("noted", "Convergence: not checked, see below.")
            return
        apart = max(known, key=lambda number: number.r_hat)
        least = min(known, key=lambda number: number.worth)
        worth = least.worth
        grade = "failed" if apart.r_hat > _APART or worth < FEW else "passed"
        limits = [number.r_hat_wanted(len(known)) for number in known]
        beyond = any(number.r_hat > limit for number, limit in zip(known, limits, strict=True))
        if grade == "passed" and (beyond or worth < ENOUGH):
            grade = "doubtful"
        wanted = max(limits)
        found = (
            f"R-hat at most {apart.r_hat:.3f} ({apart.name}), effective sample size at least {worth:.0f} ({least.name})"
        )
        words = {
            "failed": f"The chains have not converged: {found}.",
            "doubtful": f"The chains are too short for good quantiles: {found}; wanted are {wanted:.3g} and {ENOUGH}.",
            "passed": f"The chains have converged: {found}.",
        }
        yield Verdict(grade, words[grade])
        yield from self._divergences()
        yield paragraph(
            f"Wanted are R-hat below {MIXED} and effective sample sizes above {ENOUGH}, for the centre and the tails "
            f"(Vehtari, Gelman, Simpson, Carpenter and Bürkner 2021). Of {len(known)} numbers the largest R-hat may be "
            f"as large as {wanted:.3g}: by chance alone converged chains exceed that once in twenty times, at most "
            "(normal means of half chains; Bonferroni over numbers and folded numbers). "
            f"Beyond {_APART} or below {FEW} the draws are not to be trusted."
        )
        chosen = list(dict.fromkeys([apart.name, least.name]))
        by_name = {number.name: number for number in known}
        yield figures(
            *(
                plot(
                    _traces(by_name[name]),
                    f"Draws of {name} in the order in which chains made them, one colour a chain.",
                )
                for name in chosen
            )
        )

    def _divergences(self) -> Iterator[Verdict]:
        statistics = variables(self.tree, "sample_stats")
        if "diverging" not in statistics:
            return
        diverging = np.asarray(statistics["diverging"].values)
        count, share = int(diverging.sum()), float(diverging.mean())
        if count:
            text = f"The integrator failed at {count} of {diverging.size} draws: where it does, chains miss something."
            yield Verdict("failed" if share > _LOST else "doubtful", text)

    def _weights(self) -> Iterator[str | Verdict]:
        statistics = variables(self.tree, "sample_stats")
        missing = [name for name in ("lp", "log_q") if name not in statistics]
        if missing:
            if isinstance(self.posterior, Posterior):
                yield absent("Not computed: programs of learned posteriors may have no likelihood.")
                if self.checks.calibration is None:
                    yield Verdict("noted", "Not tested: calibration. Give `calibration=` of held-out simulations.")
                return
            why = attributes_of(self.tree).get("left_out", f"{' and '.join(missing)} of the draws are not known")
            yield absent(f"Not computed: {why}")
            yield Verdict("noted", "Whether the draws are near the posterior was not checked by importance weights.")
            return
        log_weights = np.asarray(statistics["lp"].values - statistics["log_q"].values, dtype=float).reshape(-1, 1)
        found = pareto_k_of(torch.as_tensor(log_weights))
        k, worth = float(found.values), float(found.effective_sample_size)
        yield fact_table(
            [["Pareto k", f"{k:.2f}"], ["effective sample size of the weights", f"{worth:.0f} of {found.draws}"]]
        )
        if k > _LARGE_K:
            yield Verdict("failed", f"The guide is far from the posterior: importance weights have Pareto k {k:.2f}.")
        else:
            yield Verdict("passed", f"The guide is near the posterior: importance weights have Pareto k {k:.2f}.")

    def _summary(self) -> Iterator[str]:
        header = ["number", "mean", "sd", "R-hat", "ESS centre", "ESS tails", "5 %", "95 %"]
        shown = self.numbers
        if len(shown) > _ROWS:
            worst = sorted(shown, key=lambda number: np.nan_to_num(number.worth, nan=np.inf))[:_ROWS]
            names = {number.name for number in worst}
            yield paragraph(f"{_ROWS} of {len(shown)} numbers, those with the smallest effective sample size.")
            shown = [number for number in shown if number.name in names]
        yield number_table(header, [number.row() for number in shown])
        yield paragraph(
            "In the units of the model's sites. ESS is the effective sample size: how many independent draws are worth "
            "as much, for the centre and for the quantiles of 5 % and 95 %."
        )

    def _pairs(self) -> Iterator[str]:
        chosen = self.numbers[:_PAIRED]
        truth, prior = by_number(self.truth, chosen), self._prior(chosen)
        coordinates = read_coordinates({number.name: number.draws.ravel() for number in chosen}, truth, prior)
        figure = new_figure(1.3 + 1.3 * len(chosen), 0.9 + 1.3 * len(chosen))
        draw_pairs(figure, coordinates)
        caption = "Density of each number (titles: mean ± standard deviation), and regions that hold 50 % and 90 %."
        caption += " Grey: the prior." * bool(prior) + " Red: the truth." * bool(truth)
        if len(chosen) < len(self.numbers):
            caption += f" {len(chosen)} of {len(self.numbers)} numbers, those of the smallest sites."
        yield figures(plot(figure, caption))

    def _prior(self, chosen: list[Number]) -> dict[str, np.ndarray]:
        """Draws of the prior of some numbers: those of the tree, or those of the program of a learned posterior."""
        if isinstance(self.posterior, Posterior):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "simulations run one by one", UserWarning)
                drawn = self.posterior.joint.prior(_PRIOR, failures=1.0)
            return by_number({site: values.movedim(0, -1) for site, values in drawn.items()}, chosen, last=1)
        names = {number.name for number in chosen}
        arrays = variables(self.tree, "prior").items()
        every = (column for site, array in arrays for column in columns_of(site, array))
        return {name: draws.ravel() for name, draws in every if name in names}

    def _pictures(self, name: str) -> Iterator[str]:
        draws = self.sites[name].astype(float)
        draws = draws.reshape(-1, *draws.shape[2:])
        mean, spread = draws.mean(0), draws.std(0)
        low, high = np.quantile(draws, [0.001, 0.999])
        picked = draws[np.linspace(0, len(draws) - 1, min(12, len(draws))).astype(int)]
        yield figures(
            picture(pictures(mean[None], "mean", low, high), f"Posterior mean of {name}."),
            picture(
                pictures(spread[None], "standard deviation", 0.0, float(spread.max()) or 1.0),
                f"Posterior standard deviation of {name}: white is {spread.max():.3g}, in the units of the site.",
            ),
            picture(pictures(picked, "draws", low, high), f"Draws of {name}, at even distances in the run."),
        )

    def _predictive(self) -> Iterator[str | Verdict]:
        check = self.checks.predictive or self._replications()
        if check is None:
            left_out = attributes_of(self.tree).get("left_out", "the posterior does not know its model or its data")
            yield absent(f"Not computed: there are no replications of observed data ({left_out}).")
            yield Verdict("noted", "Predictions were not held against the data.")
            return
        count = sum(observed.numel() for observed in check.observed.values())
        figure = new_figure(5.6, 1.2 + 0.3 * min(count, 10))
        draw_predictive(figure.subplots(), check)
        legend_below(figure.axes[0])
        yield of_predictive(check)
        drawn = plot(
            figure,
            "Statistics of the observed data (points) among those of data replicated from the posterior (bars: middle "
            "50 % and 90 %), in standard deviations of the replications. Red: p below 0.01.",
        )
        rows = [
            [f"{name}[{place}]" if p.numel() > 1 else name, f"{value:.2g}"]
            for name, p in check.two_sided.items()
            for place, value in enumerate(p.flatten().tolist())
        ]
        yield figures(drawn, number_table(["statistic", "two-sided p-value"], rows[:_ROWS]))

    def _replications(self) -> PredictiveCheck | None:
        replicated, observed = variables(self.tree, "posterior_predictive"), variables(self.tree, "observed_data")
        shared = [name for name in observed if name in replicated]
        if not shared:
            return None
        rows = {name: np.asarray(replicated[name].values) for name in shared}
        flat = {name: torch.as_tensor(value.reshape(-1, *value.shape[2:])) for name, value in rows.items()}
        return predictive_check(flat, {name: torch.as_tensor(np.asarray(observed[name].values)) for name in shared})

    def _training(self) -> Iterator[str | Verdict]:
        yield of_training(self.history)
        yield training(self.history)

    def _simulated(self) -> Iterator[str | Verdict]:
        checks = self.checks
        if checks.calibration is not None:
            yield of_calibration(checks.calibration)
        if checks.local is not None:
            yield of_local(checks.local)
        if checks.misspecification is not None:
            yield of_misspecification(checks.misspecification)
        drawn = []
        for title, draw in panels_of(
            None, checks.calibration, checks.local, checks.misspecification, None, "log_posterior"
        ):
            figure = new_figure(4.2, 3.0)
            draw(figure.subplots())
            legend_below(figure.axes[0])
            drawn.append(plot(figure, f"{title}. {_CAPTIONS[title]}"))
        yield figures(*drawn)


_CAPTIONS = {
    "Ranks of the truth": "Simulation-based calibration: in the band, as a whole curve, where the posterior is right.",
    "Coverage over the prior": "How often regions of the posterior hold the truth, against how often they claim to.",
    "At the observed data": "True values of simulations near the observed data, in units of the posterior's sd; with p "
    "of each number alone, red below 0.01.",
    "Data among simulations": "The observed data's distance among those of simulations.",
}


def _traces(number: Number) -> Figure:
    figure = new_figure(5.2, 2.3)
    axes = tidy(figure.subplots(), x="draw", y=number.name)
    picked = np.linspace(0, len(number.draws) - 1, min(_TRACES, len(number.draws))).astype(int)
    for colour, chain in zip(colours(picked), number.draws[picked], strict=True):
        axes.plot(chain, color=colour, linewidth=0.7, alpha=0.8)
    return figure
