"""States of chains: points with the value and the gradient of the log-density there."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.numerics.rows import by_datum, column

LogDensity = Callable[[Tensor], Tensor]
"""A log-density in nats, up to a constant: ``(chains, *event) -> (chains,)``, no row of which depends on another."""


class ChainState(NamedTuple):
    """Where chains are.

    Attributes:
        x: The points, ``(chains, *event)``.
        log_density: Of each, ``(chains,)``; minus infinity where it or its gradient is not finite.
        gradient: Of the log-density, ``(chains, *event)``; zero where it is not finite.
    """

    x: Tensor
    log_density: Tensor
    gradient: Tensor

    def where(self, rows: Tensor, other: ChainState) -> ChainState:
        """This state in the rows ``(chains,)`` that are true, and another elsewhere."""
        wide = column(rows, self.x)
        return ChainState(
            torch.where(wide, self.x, other.x),
            torch.where(rows, self.log_density, other.log_density),
            torch.where(wide, self.gradient, other.gradient),
        )


def evaluate(log_density: LogDensity, x: Tensor) -> ChainState:
    """The state at points, in one pass forward and one back.

    The parameters of the density get no gradient. In a row whose density or gradient is not finite the density is
    taken to be zero, and nothing pulls: the leapfrog integrator stays reversible, and its end there is rejected.

    Args:
        log_density: The log-density.
        x: The points, ``(chains, *event)``.

    Raises:
        ValueError: the log-density is not one number a row, or does not depend on the points; or torch is in inference
            mode.
    """
    refuse_inference_mode()
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        value = log_density(x)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"`log_density` must give one number a row, of shape {tuple(x.shape[:1])}, got {tuple(value.shape)}"
            )
        total, gradient = value.sum(), None
    if value.requires_grad:
        (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
    if gradient is None:
        raise ValueError("`log_density` must depend on `x` differentiably, got numbers without a gradient")
    value, x = value.detach(), x.detach()
    if isfinite(torch.add(gradient.sum(), total.detach()).item()):
        return ChainState(x, value, gradient)
    finite = value.isfinite() & by_datum(gradient, gradient.dim() - 1).isfinite().all(1)
    return ChainState(x, value.where(finite, -torch.inf), gradient.where(column(finite, gradient), 0.0))


def refuse_inference_mode() -> None:
    """Refuses to follow gradients where torch has none.

    Raises:
        ValueError: torch is in inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError(
            "chains that follow gradients must run outside of torch.inference_mode, in which nothing has any: "
            "torch.no_grad does not disturb them"
        )


def start(log_density: LogDensity, x: Tensor) -> ChainState:
    """The state at the points from which chains start.

    Args:
        log_density: The log-density.
        x: The points, ``(chains, *event)``.

    Raises:
        ValueError: the log-density or its gradient is not finite somewhere.
    """
    state = evaluate(log_density, x)
    bad = (~state.log_density.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"`x` must be points where the log-density and its gradient are finite, got {len(bad)} rows of {len(x)} "
            f"where they are not, the first being {bad[:10]}"
        )
    return state
