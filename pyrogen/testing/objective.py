"""The contract of an objective."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn

from . import copies, gradients, losses, state
from .examination import Check, examine
from .report import Report
from .subject import ObjectiveSubject

CHECKS: tuple[Check, ...] = (
    losses.scalar_loss,
    losses.per_datum,
    losses.seeded_loss,
    losses.training_steps,
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


def check_objective(
    make: Callable[[], nn.Module], batch: Any, *, slow: bool = False, only: Collection[str] = ()
) -> Report:
    """Holds an objective to the contract: one finite number per datum, gradients, copies, training.

    Pyro's own ``Trace_ELBO()(model, guide)`` may be given; its sum over the batch is divided by the number of rows, as
    ``fit`` does.

    Args:
        make: Gives a fresh objective each time it is called: a module whose ``parameters()`` are what is trained.
        batch: What the objective is called with: a tensor, or a tuple of tensors and dicts, rows in front.
        slow: More repetitions and steps.
        only: Names of the checks to run; all if empty.

    Returns:
        The report, with one finding a check. ``report.raise_if_failed()`` makes a test of it.

    Raises:
        ValueError: ``only`` names a check that does not exist.

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
    return examine(ObjectiveSubject(make, entries, slow), CHECKS, only)
