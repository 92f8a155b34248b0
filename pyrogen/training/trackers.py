"""Callbacks of ``fit`` that hand a run's numbers to TensorBoard or Weights & Biases, by a writer or run of the user's.

Nothing of theirs is imported here: the objects that their own libraries make are called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pyrogen.arguments import checked

from .progress import Progress


@runtime_checkable
class ScalarWriter(Protocol):
    """What TensorBoard is written by: a ``torch.utils.tensorboard.SummaryWriter``."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...


@runtime_checkable
class LoggedRun(Protocol):
    """What Weights & Biases is written by: what ``wandb.init`` gives."""

    def log(self, data: Mapping[str, float], step: int) -> Any: ...


class Tracker(ABC):
    """A callback that records numbers of a run by step.

    ``loss``, ``gradient_norm`` and ``learning_rate`` of every turn, of several as ``loss/0``, ``loss/1`` and so on;
    ``epoch``; and ``validation``, the held-out loss or metric, where the step was validated. A turn that was not taken
    since the last record has none. In a run of several processes the first one alone records.

    Args:
        every: Steps from one record to the next; validations are always recorded.
    """

    @checked
    def __init__(self, *, every: int = 1) -> None:
        self.every = every
        self._recorded: dict[int, int] = {}  # of each turn, how many losses there were

    @abstractmethod
    def record(self, numbers: Mapping[str, float], step: int) -> None:
        """Writes numbers by their names."""

    def __call__(self, progress: Progress) -> None:
        if progress.rank:
            return
        numbers = self._of_turns(progress) if progress.step % self.every == 0 else {}
        if progress.validation is not None:
            numbers["validation"] = progress.validation
        if numbers:
            self.record({**numbers, "epoch": progress.epoch}, progress.step)

    def _of_turns(self, progress: Progress) -> dict[str, float]:
        history, numbers = progress.history, {}
        for turn, losses in enumerate(history.losses):
            if len(losses) > self._recorded.get(turn, 0):
                self._recorded[turn] = len(losses)
                place = f"/{turn}" if len(history.losses) > 1 else ""
                numbers[f"loss{place}"] = losses[-1]
                numbers[f"gradient_norm{place}"] = history.gradient_norms[turn][-1]
                numbers[f"learning_rate{place}"] = progress.learning_rates[turn]
        return numbers


class TensorBoard(Tracker):
    """Records a run in TensorBoard, see :class:`Tracker`.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``, which remains the caller's to close; ``None`` in processes
            other than the first.
        every: Steps from one record to the next.

    Raises:
        TypeError: ``writer`` has no ``add_scalar``.
    """

    def __init__(self, writer: ScalarWriter | None, *, every: int = 1) -> None:
        super().__init__(every=every)
        if writer is not None and not isinstance(writer, ScalarWriter):
            raise TypeError(
                "`writer` must have `add_scalar`, as a torch.utils.tensorboard.SummaryWriter has, got "
                f"{type(writer).__name__}"
            )
        self.writer = writer

    def record(self, numbers: Mapping[str, float], step: int) -> None:
        if self.writer is None:
            return
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, step)


class WeightsAndBiases(Tracker):
    """Records a run in Weights & Biases, see :class:`Tracker`.

    Args:
        run: What ``wandb.init`` gives, which remains the caller's to finish; ``None`` in processes other than the
            first.
        every: Steps from one record to the next.

    Raises:
        TypeError: ``run`` has no ``log``.
    """

    def __init__(self, run: LoggedRun | None, *, every: int = 1) -> None:
        super().__init__(every=every)
        if run is not None and not isinstance(run, LoggedRun):
            raise TypeError(f"`run` must have `log`, as what `wandb.init()` gives has, got {type(run).__name__}")
        self.run = run

    def record(self, numbers: Mapping[str, float], step: int) -> None:
        if self.run is not None:
            self.run.log(dict(numbers), step=step)
