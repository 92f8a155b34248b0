"""What checks found, in words: a verdict on each, and on all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from pyrogen.core.estimate import TestResult
from pyrogen.evaluation.calibration import Calibration
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck
from pyrogen.evaluation.ranks import Departure
from pyrogen.training.progress import Fit, History

NO_COORDINATES = ("log_likelihood", "log_joint", "regression_score", "closeness")
_DOUBTFUL, _FAILED = 0.05, 0.01
_SMALL = 0.05  # of probabilities of a posterior: a fault of ranks that is no larger is no failure, however sure


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        grade: ``"passed"``, ``"doubtful"`` (p below 0.05), ``"failed"`` (p below 0.01), or ``"noted"`` where there is
            nothing to judge: a training, or a check that is too small to find anything. A calibration that is off by
            at most 0.05 in probabilities is doubtful, not failed, whatever its p-value.
        text: The same in a sentence.
    """

    grade: str
    text: str


def simulation_verdicts(
    *,
    fit: Fit | History | None = None,
    calibration: Calibration | None = None,
    local: LocalCalibration | None = None,
    misspecification: TestResult | None = None,
    predictive: PredictiveCheck | None = None,
) -> list[Verdict]:
    """What the checks found, in words; arguments as for :func:`simulation_checks`.

    Example:
        >>> simulation_verdicts(misspecification=TestResult(3.0, 0.001, "distance"))[0].grade
        'failed'
    """
    found = []
    if fit is not None:
        found.append(of_training(fit))
    if calibration is not None:
        found.append(of_calibration(calibration))
    if local is not None:
        found.append(of_local(local))
    if misspecification is not None:
        found.append(of_misspecification(misspecification))
    if predictive is not None:
        found.append(of_predictive(predictive))
    return found


def of_training(fit: Fit | History) -> Verdict:
    """How long a training was, and its best loss."""
    history = fit.history if isinstance(fit, Fit) else fit
    steps = f"{len(history.loss):,} steps" + (f", {fit.ended}" if isinstance(fit, Fit) else "")
    unit = f" {history.unit}" if history.unit else ""
    if history.validation:
        best = min(history.validation, key=history.validation.__getitem__)
        found = f"best held-out loss {history.validation[best]:.4g}{unit}, at step {best:,}"
        return Verdict("noted", f"Training: {steps}; {found}.")
    last = np.mean(history.loss[-max(1, len(history.loss) // 20) :]) if history.loss else float("nan")
    return Verdict("noted", f"Training: {steps}; last loss {last:.4g}{unit}, nothing held out.")


def of_calibration(
    calibration: Calibration, what: str = "Calibration over the prior", rows: str = "simulations"
) -> Verdict:
    """Whether ranks are uniform, and how those that are not differ.

    Args:
        calibration: The ranks.
        what: What the check is called.
        rows: What there is a rank of.
    """
    results, p = calibration.uniformity(), calibration.test().p_value
    counts = f"{calibration.simulations} {rows}, {len(results)} quantities"
    if p >= _DOUBTFUL:
        return Verdict("passed", f"{what}: no fault found (p = {p:.2g}; {counts}).")
    failing = [name for name, result in results.items() if result.p_value * len(results) < _DOUBTFUL]
    found = {name: calibration.departure(name) for name in failing}
    words = "; ".join(_flaw(name, found[name]) for name in failing[:3])
    more = f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    most = max(departure.distance for departure in found.values())
    grade, size = ("doubtful", "a small fault") if most <= _SMALL else (grade_of(p), "a fault")
    text = f"{size}, p = {p:.2g}: {words}{more}; probabilities are off by up to {most:.2f} ({counts})."
    return Verdict(grade, f"{what}: {text}")


def _flaw(name: str, departure: Departure) -> str:
    """How ranks differ from uniform ones; in words of the posterior for its coordinates."""
    shift, spread = departure.shift, departure.spread
    if name == "log_prob":
        return f"data are {'more' if shift > 0 else 'less'} probable than draws"
    if name in (*NO_COORDINATES, "log_posterior"):
        return f"ranks of {name} are not uniform"
    if abs(shift) > abs(log(spread)):
        return f"draws of {name} are too {'low' if shift > 0 else 'high'} by {abs(shift):.2f} sd"
    return f"draws of {name} are too {'narrow' if spread > 1 else 'wide'} by a factor of {departure.factor:.2f}"


def of_local(local: LocalCalibration) -> Verdict:
    """Whether the posterior is calibrated at the observed data, and how it is off."""
    if (few := _too_few(local.test, "relabelings")) is not None:
        return few
    results, p = local.coordinates, local.p_value
    if p >= _DOUBTFUL:
        return Verdict("passed", f"Posterior at the observed data: no fault found (p = {p:.2g}).")
    failing = sorted((name for name in results if results[name].p_value < 0.01), key=lambda n: results[n].p_value)
    words = "; ".join(f"{name}: {local.reading(name)}" for name in failing[:3]) or "In no single coordinate"
    return Verdict(grade_of(p), f"Posterior at the observed data: p = {p:.2g}. {words}.")


def of_misspecification(result: TestResult) -> Verdict:
    """Whether the observed data are like simulated ones."""
    if (few := _too_few(result, "simulations")) is not None:
        return few
    p = result.p_value
    if p >= _DOUBTFUL:
        return Verdict("passed", f"The observed data are like simulated ones ({result.name}, p = {p:.2g}).")
    text = f"The observed data are unlike simulated ones ({result.name}, p = {p:.2g}): the posterior extrapolates."
    return Verdict(grade_of(p), text)


def of_predictive(check: PredictiveCheck) -> Verdict:
    """Whether replicated data have the statistics of the observed ones; p-values are corrected for their number."""
    p_values = {
        f"{name}[{j}]" if p.numel() > 1 else name: float(value)
        for name, p in check.two_sided.items()
        for j, value in enumerate(p.flatten())
    }
    count, replications = len(p_values), len(next(iter(check.replicated.values())))
    if 2 * count >= _DOUBTFUL * (1 + replications):
        statistics = f"{count} statistic{'s' * (count != 1)}"
        return Verdict("noted", f"Not checked: {replications} replications are too few to judge {statistics}.")
    off = sorted((name for name, p in p_values.items() if p * count < _DOUBTFUL), key=lambda name: p_values[name])
    if not off:
        every = f"all {count} statistics" if count > 1 else f"the statistic {next(iter(p_values))}"
        return Verdict("passed", f"Replicated data reproduce {every} of the observed ones (p = {check.p_value:.2g}).")
    shown = ", ".join(off[:4]) + (f" and {len(off) - 4} more" if len(off) > 4 else "")
    return Verdict(grade_of(check.p_value), f"Replicated data do not reproduce {shown} (p = {check.p_value:.2g}).")


def _too_few(result: TestResult, what: str) -> Verdict | None:
    """A remark where the p-value of a test could not be small."""
    if result.null is None or _DOUBTFUL * (1 + len(result.null)) > 1:
        return None
    return Verdict("noted", f"Not checked: {len(result.null)} {what} are too few for the test ({result.name}).")


def grade_of(p: float) -> str:
    """The grade of a p-value."""
    return "failed" if p < _FAILED else "doubtful" if p < _DOUBTFUL else "passed"


def overall(verdicts: Sequence[Verdict], advice: str = "Do not rely on this posterior") -> Verdict:
    """All verdicts in one; ``advice`` is what follows where a check failed."""
    judged = [verdict.grade for verdict in verdicts if verdict.grade != "noted"]
    failed, doubtful = judged.count("failed"), judged.count("doubtful")
    checks = f"{len(judged)} check{'s' * (len(judged) != 1)}"
    if not judged:
        return Verdict("noted", "Nothing was checked.")
    if failed:
        return Verdict("failed", f"{advice}: {failed} of {checks} failed.")
    if doubtful:
        return Verdict("doubtful", f"Doubtful: {doubtful} of {checks} found a weakness.")
    return Verdict("passed", f"No fault found by {checks}.")
