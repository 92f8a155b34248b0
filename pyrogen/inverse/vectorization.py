"""How a model runs for many chains at once: the fastest way that gives what single runs give.

A *way* is a function of points ``(chains, size)`` that gives, for each chain, two log-densities in nats: that of the
latent sites and that of the data, ``(chains, 2)``. Ways are compared with single runs at a few points, in their values
and their gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyrogen.programs.layouts import LayoutMismatch

TRIED = 16
"""Draws for which a way to run the model is compared with single runs."""

Way = Callable[[Tensor], Tensor]


def fastest(together: Way, mapped: Way, one_by_one: Way, x: Tensor) -> Way:
    """The fastest of three ways to run a model for all chains that agrees with single runs; warns of the last.

    Args:
        together: Under a plate of chains.
        mapped: By ``torch.vmap``.
        one_by_one: By single runs.
        x: Points ``(chains, size)``, near which they are compared.
    """
    reasons = []
    x = x.repeat(2, 1) if len(x) == 1 else x  # one chain alone would not show that chains depend on each other
    for way in (together, mapped):
        try:
            for points in (x, x + 0.1 * torch.linspace(-1, 1, len(x)).to(x).unsqueeze(1)):  # no two the same
                rows = _telling(one_by_one, points)
                if not rows and way == together:  # mapped, rows are apart whatever the model does
                    raise LayoutMismatch("the data are impossible at all points")
                _check_rows(way, one_by_one, points, rows or [0, len(points) - 1])
        except Exception as error:  # noqa: BLE001  a program may fail in any way on many chains at once
            reasons.append(str(error).strip().split("\n")[0])
        else:
            return way
    one_by_one(x[:1])  # a program that fails in single runs has an error of its own
    warnings.warn(
        "the model runs chain by chain, since neither a plate of chains nor torch.vmap runs it as single runs do "
        f"({'; '.join(reasons)}); write it for batches, without branches on values",
        UserWarning,
        stacklevel=2,
    )
    return one_by_one


def where_possible(way: Way, x: Tensor) -> Tensor:
    """Log-densities, NaN in rows where a matrix has no decomposition: torch fails then for all rows at once."""
    try:
        return way(x)
    except torch.linalg.LinAlgError:
        if len(x) == 1:
            return torch.nan * x.sum(1, keepdim=True).expand(1, 2)
        return torch.cat([where_possible(way, part) for part in x.chunk(2)])


def _check_rows(way: Way, one_by_one: Way, x: Tensor, rows: Sequence[int]) -> None:
    """Compares rows with single runs; their gradients must not reach other rows."""
    for row in rows:
        points = x.detach().requires_grad_()
        with torch.enable_grad():
            found = where_possible(way, points)[row]
            (gradient,) = torch.autograd.grad(found.sum(), points)
        alone = where_possible(one_by_one, x[row : row + 1])[0]
        torch.testing.assert_close(found.detach(), alone.detach(), rtol=1e-4, atol=1e-3, equal_nan=True)
        others = torch.arange(len(x), device=x.device) != row
        if (gradient[others] != 0).logical_and(~gradient[others].isnan()).any():
            raise LayoutMismatch("chains depend on each other")


@torch.no_grad()
def _telling(one_by_one: Way, x: Tensor) -> list[int]:
    """The first row, the last, and one after the first that is possible: impossible ones are all alike."""
    for row in (len(x) - 1, *range(1, min(len(x) - 1, TRIED))):
        if where_possible(one_by_one, x[row : row + 1]).isfinite().all():
            return sorted({0, row, len(x) - 1})
    return []
