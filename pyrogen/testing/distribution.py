"""The contract of a DistributionModule."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from pyrogen.core.shapes import Context, Shape, as_shape

from . import (
    agreement,
    copies,
    draws,
    gradients,
    interfaces,
    reuse,
    rows,
    shapes,
    sites,
    state,
    statistics,
    supports,
    training,
)
from .examination import Check, examine
from .report import Report
from .subject import DistributionSubject, check_context

CHECKS: tuple[Check, ...] = (
    shapes.declaration,
    shapes.sample_shapes,
    shapes.expand,
    supports.shrinking_expand,
    shapes.broadcasting,
    shapes.support,
    supports.draws_inside,
    shapes.wrong_value,
    shapes.wrong_context,
    rows.batch_invariance,
    rows.bad_row,
    rows.bad_element,
    rows.empty_batch,
    rows.vmap,
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
    gradients.parameter_gradient,
    gradients.gradients_reach_parameters,
    gradients.parameters_registered,
    statistics.scoring_learns_nothing,
    statistics.statistics_of_all_rows,
    statistics.far_contexts,
    state.no_stale_answers,
    state.repeatable_evaluation,
    state.global_state,
    reuse.kept,
    reuse.autocast,
    copies.deepcopy,
    copies.pickling,
    copies.state_dict,
    copies.double_precision,
    copies.device,
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
"""All checks, in the order in which they run."""


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
    asks for depends on the module's ``density``: an estimate gets more tolerance, of a lower bound only the bound is
    checked, an unnormalised density is not normalised, and without ``log_prob`` only samples are checked. Pyro's param
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
    return examine(subject, CHECKS, only)
