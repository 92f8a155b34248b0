"""What checks found, in words: a verdict on each, and on all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pyrogen.core.estimate import TestResult
from pyrogen.evaluation.calibration import Calibration
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck
from pyrogen.training.progress import Fit, History

NO_COORDINATES = ("log_likelihood", "log_joint", "regression_score", "closeness")
_DOUBTFUL, _FAILED = 0.05, 0.01


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        grade: ``"passed"``, ``"doubtful"`` (p below 0.05), ``"failed"`` (p below 0.01), or ``"noted"`` where there is
            nothing to judge: a training, or a check that is too small to find anything.
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
    steps = f"{len(history.loss):,} steps" + (f", {_ended(fit.reason)}" if isinstance(fit, Fit) else "")
    unit = f" {history.unit}" if history.unit else ""
    if history.validation:
        best = min(history.validation, key=history.validation.__getitem__)
        found = f"best held-out loss {history.validation[best]:.4g}{unit}, at step {best:,}"
        return Verdict("noted", f"Training: {steps}; {found}.")
    last = np.mean(history.loss[-max(1, len(history.loss) // 20) :]) if history.loss else float("nan")
    return Verdict("noted", f"Training: {steps}; last loss {last:.4g}{unit}, nothing held out.")


def _ended(reason: str) -> str:
    """Why a run ended, in words; the reason of a callback as it is."""
    words = {
        "steps": "all that were asked for",
        "epochs": "all epochs that were asked for",
        "patience": "until the held-out loss no longer fell",
    }
    return words.get(reason, f"stopped: {reason}")


def of_calibration(
    calibration: Calibration, what: str = "Calibration over the prior", rows: str = "simulations"
) -> Verdict:
    """Whether ranks are uniform, and how those that are not differ.

    Args:
        calibration: The ranks.
        what: What the check is called.
        rows: What there is a rank of.
    """
    results = calibration.uniformity()
    worst = min(results, key=lambda name: (results[name].p_value, -results[name].statistic))
    p = min(1.0, results[worst].p_value * len(results))
    counts = f"{calibration.simulations} {rows}, {len(results)} quantities"
    if p >= _DOUBTFUL:
        return Verdict("passed", f"{what}: no fault found (p = {p:.2g}; {counts}).")
    failing = [name for name, result in results.items() if result.p_value * len(results) < _DOUBTFUL]
    words = "; ".join(_flaw(calibration.ranks[name], calibration.draws, name) for name in failing[:3])
    more = f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    return Verdict(grade_of(p), f"{what}: p = {p:.2g}: {words}{more} ({counts}).")


def _flaw(ranks: torch.Tensor, draws: int, name: str) -> str:
    """How ranks differ from uniform ones; in words of the posterior for its coordinates."""
    u = (ranks.double() + 0.5) / (draws + 1) - 0.5
    shift, spread = float(u.mean()) * 12**0.5, float(12 * u.square().mean())
    if name == "log_prob":
        return f"data are {'more' if shift > 0 else 'less'} probable than draws"
    if name in (*NO_COORDINATES, "log_posterior"):
        return f"ranks of {name} are not uniform"
    if abs(shift) > abs(spread - 1):
        return f"draws of {name} are too {'low' if shift > 0 else 'high'}"
    return f"draws of {name} are too {'narrow' if spread > 1 else 'wide'}"


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
        return Verdict("passed", f"Replicated data reproduce all {count} statistics of the observed ones.")
    shown = ", ".join(off[:4]) + (f" and {len(off) - 4} more" if len(off) > 4 else "")
    p = p_values[off[0]] * count
    return Verdict(grade_of(p), f"Replicated data do not reproduce {shown} (p = {p:.2g}).")


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
