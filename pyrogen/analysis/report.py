"""Reports: one page of HTML on a model or on a posterior, with a verdict on top."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from pyrogen.arguments import anything, checked, function, instance_of
from pyrogen.arrays import as_tensors
from pyrogen.core.estimate import TestResult
from pyrogen.core.facts import meaning_of
from pyrogen.core.module import DistributionModule
from pyrogen.evaluation.calibration import Calibration
from pyrogen.evaluation.local import LocalCalibration
from pyrogen.evaluation.predictive import PredictiveCheck, predictive_check
from pyrogen.inverse.answer import Answer
from pyrogen.inverse.chain_diagnostics import ChainDiagnostics
from pyrogen.numerics.randomness import seeded
from pyrogen.simulation.joint.drawing import FailedSimulations
from pyrogen.simulation.posterior import Posterior
from pyrogen.training.progress import Fit, History

from .arrays import real_array
from .arviz import to_arviz
from .model_report import ModelReport, Rows
from .page import Page, page
from .posterior_numbers import variables
from .posterior_report import Checks, PosteriorReport
from .sources import source_of
from .tree import is_tree

_PRIOR = 1000  # draws beside the posterior


def _record(value: Any, name: str) -> Fit | History:
    if not isinstance(value, Fit | History):
        raise TypeError(f"`{name}` must be what `pg.fit` returned, or its history, got {type(value).__name__}")
    return value


@checked(
    held_out=anything,
    history=_record,
    model=function,
    truth=instance_of(Mapping),
    title=instance_of(str),
    calibration=instance_of(Calibration),
    local=instance_of(LocalCalibration),
    misspecification=instance_of(TestResult),
    predictive=instance_of(PredictiveCheck),
)
def report(
    subject: Any,
    *data: Any,
    held_out: Tensor | tuple | None = None,
    history: Fit | History | None = None,
    model: Callable | None = None,
    truth: Mapping[str, Any] = MappingProxyType({}),
    calibration: Calibration | None = None,
    local: LocalCalibration | None = None,
    misspecification: TestResult | None = None,
    predictive: PredictiveCheck | None = None,
    rows: int = 400,
    draws: int = 19,
    title: str | None = None,
    path: str | Path | None = None,
    seed: int | None = None,
) -> Page:
    """One page on a model or on a posterior: what it is, how good it is, and whether to rely on it.

    The page needs no other file and no network; it is read on a phone as on a large screen, dark or light, and prints.
    The verdict stands on top, with what every check found; what cannot be computed says why.

    Of a *model*, any distribution module: its history, samples beside data, a two-sample test, the likelihood of
    held-out data with its error, ranks of these data among the model's own draws, and the least probable of them.

        report(flow, train, held_out=test, history=fit, path="flow.html")

    Of a *posterior*, anything that :func:`to_arviz` takes, or what it gave: diagnostics, R-hat and effective sample
    sizes, a summary, pairs, and a posterior predictive check. Modules are models, but for the posteriors of
    :mod:`pyrogen.simulation`; a guide's draws are judged by the importance weights that would correct them.

        report(posterior, y, path="posterior.html")

    Args:
        subject: The model or the posterior.
        *data: Of a model, the data that it was trained on: events, or a pair of events and contexts. Of a posterior,
            the arguments of its Pyro model, as for ``to_arviz``.
        held_out: Of a model, data that it has not seen, likewise. Without them ``data`` are used, and the page says so.
        history: What ``pg.fit`` returned, or its history.
        model: Of a posterior, the Pyro model where it does not know it.
        truth: Of a posterior, true values by site, where they are known.
        calibration: What ``pg.evaluation.simulation_based_calibration`` found.
        local: What ``pg.evaluation.local_calibration_test`` found.
        misspecification: What ``pg.evaluation.misspecification_test`` found.
        predictive: What ``pg.evaluation.predictive_check`` found, in place of a check by means and extremes.
        rows: How many held-out data are compared with draws, at most; the likelihood is that of all.
        draws: How many draws of a model each of them is ranked among.
        title: Of the page.
        path: Where to write it, if anywhere.
        seed: Of all draws made here.

    Returns:
        The page, which a notebook shows.

    Raises:
        TypeError: ``subject`` is neither, an argument is none of its kind, or something else than what it should be.
        ValueError: shapes do not fit, or there are too few data.

    Example:
        >>> import pyrogen as pg
        >>> page = report(pg.flows.affine_coupling((2,)), torch.randn(50, 2), seed=0)
        >>> page.verdicts[0].text
        'No held-out data were given: all checks use data that the model may have seen.'
    """
    data, held_out = as_tensors(data, "data"), as_tensors(held_out, "held_out")
    checks = Checks(calibration, local, misspecification, predictive)
    is_model = isinstance(subject, DistributionModule) and not isinstance(subject, Posterior)
    if is_model:
        _refuse(
            {"model": model, "truth": truth, **vars(checks)}, f"a posterior, got the model {type(subject).__name__}"
        )
    else:
        _refuse({"held_out": held_out}, f"a model, got {type(subject).__name__}")
    with seeded(seed):
        if is_model:
            made = _of_model(subject, data, held_out, history, rows, draws, title)
        else:
            made = _of_posterior(subject, data, model, history, truth, checks, title)
    return made if path is None else made.save(path)


def _refuse(arguments: Mapping[str, Any], wanted: str) -> None:
    given = [name for name, value in arguments.items() if value is not None and value != {}]
    if given:
        raise TypeError(f"`{given[0]}` is for {wanted}")


def _of_model(
    module: DistributionModule,
    data: tuple,
    held_out: Tensor | tuple | None,
    history: Fit | History | None,
    rows: int,
    draws: int,
    title: str | None,
) -> Page:
    if len(data) > 1:
        raise TypeError(
            f"`data` of a model must be events, or one pair of events and contexts, got {len(data)} arguments"
        )
    seen = Rows.of(data[0], module, "data", "training data") if data else None
    unseen = seen if held_out is None else Rows.of(held_out, module, "held_out", "held-out data")
    sections = list(ModelReport(module, seen, unseen, history, rows, draws).sections())
    subject = f"Report on a model. Its log_prob is {meaning_of(module.density)}."
    title = title or f"{type(module).__name__} of events of shape {module.event_shape}"
    return page(title, subject, sections, "The model differs from the data")


def _of_posterior(
    posterior: Any,
    args: tuple,
    model: Callable | None,
    history: Fit | History | None,
    truth: Mapping[str, Any],
    checks: Checks,
    title: str | None,
) -> Page:
    if isinstance(posterior, Posterior) and checks.predictive is None and args and isinstance(args[0], Mapping):
        checks = replace(checks, predictive=_replications(posterior, args[0]))
    tree = posterior if is_tree(posterior) else _tree(posterior, args, model, predictive=checks.predictive is None)
    if is_tree(posterior) and args:
        raise TypeError(f"`data` must not be given where the posterior holds them, got {len(args)} arguments")
    _check_truth(truth, variables(tree, "posterior"))
    chained = not isinstance(posterior, Answer) or isinstance(posterior.diagnostics(), ChainDiagnostics)
    guide = "log_q" in variables(tree, "sample_stats") or isinstance(posterior, Posterior)
    found = PosteriorReport(posterior, tree, guide, chained or posterior.chains > 1, history, truth, checks)
    sites = ", ".join(variables(tree, "posterior"))
    subject = f"Report on a posterior by {found.method}."
    return page(title or f"Posterior of {sites}", subject, list(found.sections()), "Do not rely on this posterior")


def _check_truth(truth: Mapping[str, Any], sites: Mapping[str, Any]) -> None:
    """Raises a ValueError unless true values are of sites, in their shapes."""
    unknown = [site for site in truth if site not in sites]
    if unknown:
        raise ValueError(f"`truth` must have sites of {list(sites)}, got {unknown}")
    for site, value in truth.items():
        shape, found = sites[site].shape[2:], real_array(value, f"truth[{site!r}]").shape
        if found != shape:
            raise ValueError(f"`truth[{site!r}]` must have shape {shape}, got {found}")


def _replications(posterior: Posterior, data: Mapping[str, Tensor]) -> PredictiveCheck | None:
    """A predictive check by simulations at draws of a learned posterior, sites that its program computes among them.

    There is none where simulations fail.
    """
    draws = posterior.sites(posterior(data).sample((_PRIOR,)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "simulations run one by one", UserWarning)
        try:
            return predictive_check(posterior.joint.simulate(draws, progress=False), data)
        except FailedSimulations:
            return None


def _tree(posterior: Any, args: tuple, model: Callable | None, *, predictive: bool) -> Any:
    """The posterior for ArviZ, with draws of the prior where they can be had; what is left out the page tells.

    The program of a learned posterior may draw numbers that are no sites, given which its log-density means nothing,
    and is slow where it simulates: nothing of it is computed but replications.
    """
    learned = isinstance(posterior, Posterior)
    known = source_of(posterior, chains=1).model is not None or model is not None
    prior = _PRIOR if known and not learned else 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "to_arviz leaves out", UserWarning)
        warnings.filterwarnings("ignore", ".*LOO and WAIC", UserWarning)  # of which a report makes no use
        return to_arviz(posterior, *args, model=model, prior=prior, predictive=predictive, log_likelihood=not learned)
