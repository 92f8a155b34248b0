"""When a loss is not finite: where it comes from, and what must be put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from pyrogen.core.batches import Batch, Minibatch, rows

from .player import Player, per_datum


class MovingBuffers:
    """The buffers that a pass changes (batch statistics, say), so that a bad minibatch does not stay in them.

    Args:
        module: Whose buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.before = {id(buffer): buffer.clone() for buffer in module.buffers() if _exists(buffer)}
        self.moving: list[Tensor] = []
        self.kept: list[Tensor] = []

    @torch.no_grad()
    def find(self) -> None:
        """Finds those that have changed since construction, and puts back what they held: a look is no step."""
        for buffer in self.module.buffers():
            before = self.before.get(id(buffer))
            if before is None or before.shape != buffer.shape:
                self.moving.append(buffer)
            elif not torch.equal(before, buffer):
                self.moving.append(buffer)
                buffer.copy_(before)
        self.kept = [buffer.clone() for buffer in self.moving]
        self.before = {}

    def keep(self) -> None:
        """Remembers what they hold."""
        if self.moving:
            torch._foreach_copy_(self.kept, self.moving)

    def restore(self) -> None:
        """Puts back what they held."""
        if self.moving:
            torch._foreach_copy_(self.moving, self.kept)


def explain(player: Player, minibatch: Minibatch, names: dict[int, str]) -> str:
    """Which rows and which parameters a non-finite step comes from, in a sentence."""
    spoilt = _named((p for p in player.parameters if not p.isfinite().all()), names)
    if spoilt:
        return f"the step before left numbers that are not finite in {spoilt}, as a learning rate too large does"
    gradients = [p for p in player.parameters if p.grad is not None and not p.grad.isfinite().all()]
    what = f"the gradient is not finite in {_named(gradients, names)}" if gradients else "every gradient is finite"
    return f"it comes from {_rows(player, minibatch)}; {what}"


def _rows(player: Player, minibatch: Minibatch) -> str:
    count = rows(minibatch.entries)
    culprits = [row for row in range(count) if _spoils(player, minibatch.entries, row, count)]
    if not culprits:
        return "no single row by itself"
    if minibatch.indices is None:
        return f"rows {_few(culprits)} of the minibatch"
    return f"rows {_few(minibatch.indices[culprits].tolist())} of the data"


def _spoils(player: Player, batch: Batch, row: int, count: int) -> bool:
    """Whether a row by itself has a loss or gradient that is not finite; no, if the objective takes no single row."""
    try:
        single = row_of(batch, row, count)
        with torch.random.fork_rng(devices=[]):
            loss = per_datum(player.objective, player.processes.evaluated(player.objective), single)
            gradients = torch.autograd.grad(loss, player.parameters, allow_unused=True)
    except Exception:
        return False
    return not all(bool(found.isfinite().all()) for found in (loss, *gradients) if found is not None)


def row_of(batch: Batch, row: int, count: int) -> Batch:
    """A minibatch of one row of another, which has so many."""

    def pick(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: pick(part) for key, part in value.items()}
        return value[row : row + 1] if isinstance(value, Tensor) and value.dim() and len(value) == count else value

    return tuple(map(pick, batch))


def _named(parameters: Iterable[Tensor], names: dict[int, str]) -> str:
    return _few([names.get(id(parameter), "an unnamed parameter") for parameter in parameters])


def _few(entries: list) -> str:
    shown = ", ".join(map(str, entries[:5]))
    return shown if len(entries) <= 5 else f"{shown} and {len(entries) - 5} more"


def _exists(buffer: Tensor) -> bool:
    return not nn.parameter.is_lazy(buffer)
