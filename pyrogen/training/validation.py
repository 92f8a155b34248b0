"""Held-out data: how well the weights do on it, and which did best."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.core.batches import Batch, Batches, LoaderBatches, Minibatch, rows, to_device
from pyrogen.core.modes import evaluating
from pyrogen.core.saving import fill, named_tensors
from pyrogen.numerics.randomness import held, seeded

from .nonfinite import row_of
from .player import per_datum
from .processes import FabricProcesses, OneProcess
from .turn import frozen


class Validation:
    """Evaluates on held-out data and keeps the best weights.

    Args:
        data: The held-out data.
        metric: What is evaluated; lower is better.
        module: All that is trained.
        processes: Where it runs; each evaluates its share.
        name: What errors call what is evaluated.

    Attributes:
        scope: In which each minibatch is evaluated.
    """

    def __init__(
        self,
        data: Batches | LoaderBatches,
        metric: Callable[..., Tensor | float],
        module: nn.Module,
        processes: OneProcess | FabricProcesses,
        name: str,
    ) -> None:
        self.data = data
        self.metric = metric
        self.module = module
        self.processes = processes
        self.name = name
        self.scope: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.best: dict[str, Tensor] | None = None
        self.best_value = float("inf")
        self.best_step = 0
        self.stale = 0

    def __call__(self, step: int) -> float:
        """The mean of the metric over the held-out data; the weights are kept if they are the best so far.

        Raises:
            FloatingPointError: the metric is NaN, which is neither better nor worse; the message names the rows.
        """
        value = self._mean(step)
        self.stale += 1
        if value < self.best_value:
            self.best_value, self.best_step, self.stale = value, step, 0
            self.best = {name: tensor.detach().clone() for name, tensor in named_tensors(self.module)[0].items()}
        return value

    def restore(self) -> bool:
        """Puts the best weights in place, if there are any."""
        if self.best is None:
            return False
        fill(self.module, self.best, named_tensors(self.module)[1])
        return True

    def _mean(self, step: int) -> float:
        """On the same noise every time, so that values compare."""
        with self.processes.together():
            total, count = self._total(step)
        total, count = self.processes.sum(total, count)
        if not count:
            raise ValueError("`validation` must hold at least one minibatch, got none")
        return total / count

    def _total(self, step: int) -> tuple[float, float]:
        """The sum of the metric over the rows of this process, and how many they are."""
        total, count = 0.0, 0.0
        device = next((tensor.device for tensor in self.module.parameters()), None)
        run = self.processes.evaluated(self._value)
        # Frozen rather than without gradients: an objective may differentiate by its inputs.
        with (
            evaluating(self.module),
            frozen([p for p in self.module.parameters() if p.requires_grad]),
            seeded(self.processes.rank),
        ):
            for number, minibatch in enumerate(self.data.epoch(0)):
                entries = to_device(minibatch.entries, device)
                with self.scope():
                    value = per_datum(self.metric, run, entries).item()
                if value != value:
                    self._refuse(minibatch._replace(entries=entries), number, step)
                if minibatch.weight:
                    total, count = total + rows(entries) * value, count + rows(entries)
        return total, count

    def _refuse(self, minibatch: Minibatch, number: int, step: int) -> None:
        """Raises the error of a minibatch whose metric is NaN, and names the rows that have it by themselves."""
        count = rows(minibatch.entries)
        culprits = [row for row in range(count) if self._spoils(row_of(minibatch.entries, row, count))]
        where = minibatch.named(culprits, number) if culprits else f"no single row of minibatch {number}"
        raise FloatingPointError(
            f"`{self.name}` gives NaN on the held-out data after step {step}, which is neither better nor worse: it "
            f"comes from {where} of `validation`"
        )

    def _spoils(self, row: Batch) -> bool:
        """Whether a row by itself has a metric that is NaN; no, if the metric takes no single row."""
        try:
            with held(), self.scope():
                value = per_datum(self.metric, self.processes.evaluated(self._value), row).item()
        except Exception:
            return False
        return value != value

    def _value(self, *batch: Any) -> Any:
        """The metric of a minibatch, a plain number made a tensor."""
        value = self.metric(*batch)
        return torch.tensor(value, dtype=torch.float64) if isinstance(value, (float, int)) else value

    def state_dict(self) -> dict[str, Any]:
        """The best weights and how long ago they were found."""
        return {"best": self.best, "value": self.best_value, "step": self.best_step, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the record into the given state."""
        self.best, self.best_value, self.best_step, self.stale = (state[k] for k in ("best", "value", "step", "stale"))
