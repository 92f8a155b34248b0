"""Held-out data: the value of the weights on it, and the best ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.core.batch import Batch, device_of, joined, rows, to_device
from pyrogen.core.batches import Batches, LoaderBatches, Minibatch
from pyrogen.core.modes import evaluating
from pyrogen.core.saving import fill, named_tensors
from pyrogen.numerics.randomness import held, seeded
from pyrogen.programs.reading import Reading

from .player import per_datum
from .processes import Processes
from .subsampling import held_out_scope, most_rows
from .turn import frozen

Metric = Callable[..., Tensor | float]


class WholeSet:
    """A metric of the whole held-out set, for ``fit(metric=...)``, such as a distance of draws from it.

    Other metrics are evaluated on minibatches and averaged over the rows, which a distance between sets of data is not.

    Args:
        function: Called once with the whole held-out set, entry by entry, always on the same noise; gives a number,
            lower is better. In several processes each calls it with the whole set, and the value of the first counts.

    Raises:
        TypeError: ``function`` cannot be called.

    Example:
        >>> metric = WholeSet(lambda x: (x.mean(0) - generator().sample((len(x),)).mean(0)).norm())
    """

    def __init__(self, function: Metric) -> None:
        if not callable(function):
            raise TypeError(f"`function` must be a function of the held-out set, got {type(function).__name__}")
        self.function = function


class Validation:
    """Evaluates on held-out data and keeps the best weights.

    Args:
        data: The held-out data; for a metric of the whole set, all of it in every process.
        metric: What is evaluated; lower is better.
        module: All that is trained.
        processes: Where it runs; each evaluates its share.
        reading: For an objective in place of a metric: what its Pyro programs make of a minibatch.
    """

    def __init__(
        self,
        data: Batches | LoaderBatches,
        metric: Metric | WholeSet,
        module: nn.Module,
        processes: Processes,
        reading: Reading | None = None,
    ) -> None:
        self.data = data
        self.metric = metric.function if isinstance(metric, WholeSet) else metric
        self.whole = isinstance(metric, WholeSet)
        self.module = module
        self.processes = processes
        self.name = "metric" if reading is None else "validation"
        self.reading = reading
        if isinstance(data, Batches):
            size = data.rows if self.whole else data.batch_size
            data.batch_size = size if reading is None else most_rows(reading, size)
        self.best: dict[str, Tensor] | None = None
        self.best_value = float("inf")
        self.best_step = 0
        self.stale = 0

    def __call__(self, step: int) -> float:
        """The value of the metric; the weights are kept if they are the best so far.

        Raises:
            FloatingPointError: it is NaN, which is neither better nor worse; the message names the rows.
        """
        value = self._value_of_all(step) if self.whole else self._mean(step)
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

    def _value_of_all(self, step: int) -> float:
        """The metric of the whole held-out set."""
        with self.processes.together(), self._evaluation(seed=0):
            parts = [minibatch.entries for minibatch in self.data.epoch(0)]
            value = self._value(joined(parts)) if parts else None
            if value is not None and value != value:
                raise FloatingPointError(f"{self._complaint(step)}, of `validation` as a whole")
        value = self.processes.gather(value)[0]
        if value is None:
            raise ValueError("`validation` must hold at least one minibatch, got none")
        return value

    def _mean(self, step: int) -> float:
        """The mean of the metric over the rows."""
        total, count = 0.0, 0.0
        with self.processes.together(), self._evaluation(seed=self.processes.rank):
            for number, minibatch in enumerate(self.data.epoch(0)):
                value = self._value(minibatch.entries)
                if value != value:
                    self._refuse(minibatch, number, step)
                if minibatch.weight:
                    total, count = total + rows(minibatch.entries) * value, count + rows(minibatch.entries)
        total, count = self.processes.sum(total, count)
        if not count:
            raise ValueError("`validation` must hold at least one minibatch, got none")
        return total / count

    @contextmanager
    def _evaluation(self, seed: int) -> Iterator[None]:
        """A scope of evaluation, on the same noise every time, so that values compare."""
        # Frozen rather than without gradients: an objective may differentiate by its inputs.
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        with evaluating(self.module), frozen(trained), seeded(seed):
            yield

    def _value(self, batch: Batch) -> float:
        """The metric of a minibatch."""
        with held_out_scope(self.reading):
            entries = to_device(batch, device_of(self.module))
            name = "metric" if self.reading is None else "objective"
            return per_datum(self.metric, self.processes.evaluated(self._scalar), entries, name=name).item()

    def _scalar(self, *batch: Any) -> Any:
        """What the metric gives, a plain number made a tensor."""
        value = self.metric(*batch)
        return torch.tensor(float(value), dtype=torch.float64) if isinstance(value, Real) else value

    def _refuse(self, minibatch: Minibatch, number: int, step: int) -> None:
        """Raises the error of a minibatch whose metric is NaN, and names the rows that have it by themselves."""
        culprits = minibatch.culprits(self._spoils)
        where = minibatch.named(culprits, number) if culprits else f"no single row of minibatch {number}"
        raise FloatingPointError(
            f"{self._complaint(step)}, which is neither better nor worse: it comes from {where} of `validation`"
        )

    def _complaint(self, step: int) -> str:
        return f"`{self.name}` gives NaN on the held-out data after step {step}"

    def _spoils(self, row: Batch) -> bool:
        """Whether a row by itself has a metric that is NaN; no, if the metric takes no single row."""
        try:
            with held():
                value = self._value(row)
        except Exception:
            return False
        return value != value

    def state_dict(self) -> dict[str, Any]:
        """The best weights and how long ago they were found."""
        return {"best": self.best, "value": self.best_value, "step": self.best_step, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the record into the given state."""
        self.best, self.best_value, self.best_step, self.stale = (state[k] for k in ("best", "value", "step", "stale"))
