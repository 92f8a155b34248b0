"""The contract of a BijectionModule."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from pyrogen.core.shapes import Context, Shape, as_shape

from . import copies, gradients, maps, rows, state
from .examination import Check, examine
from .report import Report
from .subject import BijectionSubject, check_context

CHECKS: tuple[Check, ...] = (
    maps.declaration,
    maps.map_shapes,
    maps.log_determinant,
    maps.inverse,
    maps.transform_methods,
    maps.transformed_distribution,
    rows.batch_invariance,
    rows.bad_row,
    rows.bad_element,
    rows.empty_batch,
    rows.vmap,
    gradients.value_gradient,
    gradients.context_gradient,
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
"""All checks, in the order in which they run."""


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
        context: A context of at least 3 rows for a conditional module: a tensor with one batch dimension, or a dict of
            such tensors.
        slow: All parameters against finite differences one by one, instead of some.
        only: Names of the checks to run; all if empty.

    Returns:
        The report, with one finding a check. ``report.raise_if_failed()`` makes a test of it.

    Raises:
        ValueError: ``context`` has fewer than 3 rows, or ``only`` names a check that does not exist.
    """
    check_context(context)
    subject = BijectionSubject(make, as_shape(event_shape, "event_shape"), context, slow)
    return examine(subject, CHECKS, only)
