"""Losses that are not finite, and their cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from pyrogen.core.batch import Batch
from pyrogen.core.batches import Minibatch
from pyrogen.numerics.randomness import held

from .player import Player, per_datum


def explain(player: Player, minibatches: Sequence[Minibatch], names: dict[int, str]) -> str:
    """Which rows and which parameters a non-finite step comes from, in a sentence."""
    spoilt = _named((p for p in player.parameters if not p.isfinite().all()), names)
    if spoilt:
        return f"the step before left numbers that are not finite in {spoilt}, as a learning rate too large does"
    gradients = [p for p in player.parameters if p.grad is not None and not p.grad.isfinite().all()]
    what = f"the gradient is not finite in {_named(gradients, names)}" if gradients else "every gradient is finite"
    found = [where for minibatch in minibatches if (where := _rows(player, minibatch))]
    return f"it comes from {' and '.join(found) or 'no single row by itself'}; {what}"


def _rows(player: Player, minibatch: Minibatch) -> str | None:
    culprits = minibatch.culprits(partial(_spoils, player))
    return f"{minibatch.named(culprits)} of `data`" if culprits else None


def _spoils(player: Player, row: Batch) -> bool:
    """Whether a row by itself has a loss or gradient that is not finite; no, if the objective takes no single row."""
    try:
        with held():
            loss = per_datum(player.objective, player.processes.evaluated(player.objective), row)
            gradients = torch.autograd.grad(loss, player.parameters, allow_unused=True)
    except Exception:
        return False
    return not all(bool(found.isfinite().all()) for found in (loss, *gradients) if found is not None)


def _named(parameters: Iterable[Tensor], names: dict[int, str]) -> str:
    found = [names.get(id(parameter), "an unnamed parameter") for parameter in parameters]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(found[:5]) + more
