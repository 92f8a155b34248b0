"""When a loss is not finite: where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyrogen.core.batches import Batch, Minibatch, rows, single_row

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
    count = rows(minibatch.entries)
    culprits = [row for row in range(count) if _spoils(player, single_row(minibatch.entries, row, count))]
    if not culprits:
        return None
    if minibatch.indices is None:
        return f"rows {_few(culprits)} of the minibatch"
    return f"rows {_few(minibatch.indices[culprits].tolist())} of the data"


def _spoils(player: Player, row: Batch) -> bool:
    """Whether a row by itself has a loss or gradient that is not finite; no, if the objective takes no single row."""
    try:
        with torch.random.fork_rng(devices=[]):
            loss = per_datum(player.objective, player.processes.evaluated(player.objective), row)
            gradients = torch.autograd.grad(loss, player.parameters, allow_unused=True)
    except Exception:
        return False
    return not all(bool(found.isfinite().all()) for found in (loss, *gradients) if found is not None)


def _named(parameters: Iterable[Tensor], names: dict[int, str]) -> str:
    return _few([names.get(id(parameter), "an unnamed parameter") for parameter in parameters])


def _few(entries: list) -> str:
    shown = ", ".join(map(str, entries[:5]))
    return shown if len(entries) <= 5 else f"{shown} and {len(entries) - 5} more"
