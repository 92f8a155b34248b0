"""The contract: what is checked of distributions, bijections and objectives, and how the checks are run.

Each check runs in a world of its own, and ends in a finding whatever happens.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrogen.core.shapes import Context, Shape, as_shape
from pyrogen.training.turn import Turn

from . import (
    agreement,
    copies,
    draws,
    gradients,
    interfaces,
    losses,
    maps,
    rows,
    shapes,
    sites,
    state,
    statistics,
    supports,
    training,
)
from .report import BreachError, Finding, NotApplicableError, Outcome, Report
from .subject import BijectionSubject, DistributionSubject, ObjectiveSubject, check_context

Check = Callable[[Any], str]
"""Takes the subject, gives the sentence of what was found; its name is the name of the finding."""

_ROWS: tuple[Check, ...] = (
    rows.batch_invariance,
    rows.bad_row,
    rows.bad_element,
    rows.empty_batch,
    rows.vmap,
)
_MODULE: tuple[Check, ...] = (
    gradients.parameter_gradient,
    gradients.gradients_reach_parameters,
    gradients.parameters_registered,
    state.no_stale_answers,
    state.repeatable_evaluation,
    state.global_state,
    copies.deepcopy,
    copies.pickling,
    copies.state_dict,
    copies.double_precision,
    copies.device,
)

DISTRIBUTION_CHECKS: tuple[Check, ...] = (
    shapes.declaration,
    shapes.sample_shapes,
    shapes.expand,
    supports.shrinking_expand,
    shapes.broadcasting,
    shapes.support,
    supports.draws_inside,
    shapes.wrong_value,
    shapes.wrong_context,
    *_ROWS,
    agreement.normalization,
    agreement.samples_follow_log_prob,
    draws.sample_without_gradient,
    draws.rsample_gradient,
    draws.rsample_and_log_prob,
    draws.own_draws,
    draws.independent_rows,
    draws.moments,
    gradients.value_gradient,
    gradients.context_gradient,
    *_MODULE,
    statistics.scoring_learns_nothing,
    statistics.statistics_of_all_rows,
    statistics.far_contexts,
    copies.kept,
    copies.autocast,
    sites.plates,
    sites.subsampling,
    sites.handlers,
    supports.masked_events,
    sites.predictive,
    sites.nuts,
    sites.autonormal,
    interfaces.inspection,
    interfaces.keyword_context,
    interfaces.carried_density,
    interfaces.refused_noise,
    training.svi_likelihood,
    training.svi_guide,
    training.copies_train,
    training.minibatches,
    training.default_objective,
)
BIJECTION_CHECKS: tuple[Check, ...] = (
    maps.declaration,
    maps.map_shapes,
    maps.log_determinant,
    maps.inverse,
    maps.transform_methods,
    maps.transformed_distribution,
    *_ROWS,
    gradients.value_gradient,
    gradients.context_gradient,
    *_MODULE,
)
OBJECTIVE_CHECKS: tuple[Check, ...] = (
    losses.scalar_loss,
    losses.per_datum,
    losses.seeded_loss,
    losses.training_steps,
    *_MODULE,
)
"""All checks of each kind, in the order in which they run."""


def check_distribution(
    make: Callable[[], nn.Module],
    *,
    event_shape: int | Shape,
    context: Context = None,
    slow: bool = False,
    only: Collection[str] = (),
) -> Report:
    """Holds a distribution module to the contract: shapes, densities, gradients, copies, and life inside Pyro.

    Each check makes its own module, lets it see one batch in training mode, and perturbs its parameters. What a check
    requires depends on the module's ``density``: an estimate gets more tolerance, of a lower bound only the bound is
    checked, an unnormalized density is not normalized, and without ``log_prob`` only samples are checked. Pyro's param
    store, settings, stack and seeds are afterwards as they were.

    Args:
        make: Gives a fresh module each time it is called.
        event_shape: Shape of one event.
        context: A context of at least 3 rows for a conditional module: a tensor with one batch dimension, or a dict of
            such tensors.
        slow: More draws, steps and directions, for ten to thirty times the time of the quick tier.
        only: Names of the checks to run; all if empty.

    Returns:
        The report, with one finding a check. ``report.raise_if_failed()`` makes a test of it.

    Raises:
        ValueError: ``context`` has fewer than 3 rows, or ``only`` names a check that does not exist.

    Example:
        >>> import pyrogen as pg
        >>> make = lambda: pg.Parametric(nn.Linear(2, 6), pg.families.diagonal_normal, event_shape=3, context_shape=2)
        >>> check_distribution(make, event_shape=3, context=torch.randn(5, 2), only=["expand"]).passed
        True
    """
    check_context(context)
    subject = DistributionSubject(make, as_shape(event_shape, "event_shape"), context, slow)
    return examine(subject, DISTRIBUTION_CHECKS, only)


def check_bijection(
    make: Callable[[], nn.Module],
    *,
    event_shape: int | Shape,
    context: Context = None,
    slow: bool = False,
    only: Collection[str] = (),
) -> Report:
    """Holds a bijection module to the contract: log-determinants, inverses, gradients, copies.

    Both directions are checked. Each check makes its own module, lets it see one batch in training mode, and perturbs
    its parameters, because a map that starts as the identity would hide most defects.

    Args:
        make: Gives a fresh module each time it is called.
        event_shape: Shape of one event, the same on both sides.
        context: As for :func:`check_distribution`, as are ``only``, the report and the errors.
        slow: All parameters against finite differences one by one, instead of some.
        only: Names of the checks to run; all if empty.
    """
    check_context(context)
    subject = BijectionSubject(make, as_shape(event_shape, "event_shape"), context, slow)
    return examine(subject, BIJECTION_CHECKS, only)


def check_objective(
    make: Callable[[], nn.Module | Turn | list[Turn]], batch: Any, *, slow: bool = False, only: Collection[str] = ()
) -> Report:
    """Holds an objective to the contract: one finite number per datum, gradients, copies, training.

    Pyro's own ``Trace_ELBO()(model, guide)`` may be given; its sum over the batch is divided by the number of rows, as
    ``fit`` does.

    Args:
        make: Gives a fresh objective each time it is called: a module whose ``parameters()`` are what is trained, or
            the turns of a game, each of which is held to the contract with what it trains.
        batch: What the objective, or that of each turn, is called with: a tensor, or a tuple of tensors and dicts, rows
            in front.
        slow: More repetitions and steps.
        only: Names of the checks to run; all if empty.

    Example:
        >>> import torch
        >>> import pyrogen as pg
        >>> def make():
        ...     encoder = pg.Parametric(nn.Linear(2, 2), pg.families.diagonal_normal, event_shape=1, context_shape=2)
        ...     return pg.MaximumLikelihood(encoder)
        >>> check_objective(make, (torch.randn(8, 1), torch.randn(8, 2)), only=["scalar_loss"]).passed
        True
    """
    entries = (batch,) if isinstance(batch, Tensor | Mapping) else tuple(batch)
    return examine(ObjectiveSubject(make, entries, slow), OBJECTIVE_CHECKS, only)


def examine(subject: Any, checks: Sequence[Check], only: Collection[str]) -> Report:
    """Runs the checks one by one.

    Raises:
        ValueError: ``only`` names a check that does not exist.
    """
    unknown = sorted(set(only) - {check.__name__ for check in checks})
    if unknown:
        raise ValueError(f"`only` must name checks among {[check.__name__ for check in checks]}, got {unknown}")
    chosen = [check for check in checks if not only or check.__name__ in only]
    try:
        with isolated(0):
            name = type(subject.make()).__name__
    except Exception as error:
        finding = Finding("make", "failed", f"`make` {_raised(error)}; no check can run", 0.0)
        return Report("a module that cannot be made", (finding,))
    return Report(name, tuple(_finding(check, subject) for check in chosen))


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """A world with an empty param store and stack, validation on, gradients on and seeded noise; the old one after."""
    noise, stack, plates = get_rng_state(), list(_PYRO_STACK), list(_DIM_ALLOCATOR._stack)
    dtype, validate = torch.get_default_dtype(), Distribution._validate_args
    _PYRO_STACK.clear()
    _DIM_ALLOCATOR._stack.clear()
    try:
        with torch.random.fork_rng(), pyro.get_param_store().scope(), pyro.validation_enabled(), torch.enable_grad():
            pyro.set_rng_seed(seed)
            yield
    finally:
        _PYRO_STACK[:] = stack
        _DIM_ALLOCATOR._stack[:] = plates
        set_rng_state(noise)
        torch.set_default_dtype(dtype)
        Distribution.set_default_validate_args(validate)


def _finding(check: Check, subject: Any) -> Finding:
    start = time.perf_counter()
    outcome, sentence = _outcome(check, subject)
    return Finding(check.__name__, outcome, sentence, time.perf_counter() - start)


def _outcome(check: Check, subject: Any) -> tuple[Outcome, str]:
    try:
        with isolated(zlib.crc32(check.__name__.encode())):
            return "passed", check(subject)
    except NotApplicableError as reason:
        return "skipped", str(reason)
    except BreachError as breach:
        return "failed", str(breach)
    except Exception as error:  # whatever a third party's module raises is a finding, not the end of the report
        return "failed", _raised(error)


def _raised(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "without a message")
    return f"raised {type(error).__name__}: {first_line}"
