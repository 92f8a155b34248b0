"""A training run: its parts and its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from fractions import Fraction
from math import ceil
from typing import NoReturn

from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from pyrogen.core.objective import Objective
from pyrogen.numerics.exclusive import released

from .averages import AveragedWeights
from .buffers import MovingBuffers, local_buffers
from .checkpoint import Checkpoint
from .feed import Feed
from .interrupt import Interrupt
from .nonfinite import explain
from .player import DivergedStep, NonFiniteStep, Player
from .processes import Processes
from .progress import Bar, Fit, History, Progress
from .resuming import require_states, state_of
from .scopes import pyro_scope
from .validation import Validation


class Run:
    """The parts of a training run and its loop.

    Args:
        players: The turns, in the order in which they are taken.
        everything: All that is trained.
        feed: The data whose epochs are counted.
        buffers: Those that objectives move.
        accumulate: Minibatches that make a gradient step.
        average: Of the weights, if they are averaged.
        validation: If there are held-out data.
        steps, epochs, patience: What ends the run.
        validate_every: Steps from one validation to the next; ``None``: an epoch, or 1,000 steps of a longer one.
        checkpoint: Where the run is saved.
        callbacks: Called after every step.
        processes: Where it runs.

    Raises:
        ValueError: parts do not fit together.
    """

    def __init__(
        self,
        players: Sequence[Player],
        everything: nn.ModuleList,
        feed: Feed,
        buffers: MovingBuffers,
        *,
        accumulate: int,
        average: AveragedWeights | None,
        validation: Validation | None,
        steps: int | None,
        epochs: int | None,
        patience: int | None,
        validate_every: int | None,
        checkpoint: Checkpoint | None,
        callbacks: Sequence[Callable[[Progress], None]],
        processes: Processes,
    ) -> None:
        self.players, self.everything, self.feed, self.buffers = players, everything, feed, buffers
        self.local = local_buffers(everything)
        self.accumulate, self.average, self.validation = accumulate, average, validation
        self.steps, self.epochs, self.patience = steps, epochs, patience
        self.checkpoint, self.callbacks, self.processes = checkpoint, callbacks, processes
        self.stopped = False
        self.progress = Progress(
            History([[] for _ in players], [[] for _ in players], unit=_unit(players[0].objective)),
            rank=processes.rank,
        )
        self._interval = validate_every or min(self._steps_of(1) or 1000, 1000)
        self._check()

    def _check(self) -> None:
        """Refuses what cannot follow the validation, be part of a checkpoint, or ever end."""
        if any(player.follows_validation for player in self.players) and self.validation is None:
            raise ValueError("`validation` must be given with a ReduceLROnPlateau as `schedule`, got None")
        if self.epochs is not None and all(player.feed is not self.feed for player in self.players):
            raise ValueError("`epochs` are of `data`, of which no turn takes minibatches: give `steps` instead")
        require_states(self)

    def __call__(self) -> Fit:
        """Trains to the end."""
        progress, began = self.progress, time.monotonic() - self.progress.history.seconds
        interrupt = Interrupt()
        self._finish_if_done()
        with ExitStack() as stack:
            bar = stack.enter_context(Bar(self._total(), progress.step, shown=self.processes.rank == 0))
            stack.enter_context(pyro_scope(validation=False))
            stack.enter_context(interrupt.held(self.checkpoint is not None))
            while progress.reason is None and not self._runs_out():
                self._step()
                progress.history.seconds = time.monotonic() - began
                bar.update(progress)
                if self.checkpoint:
                    self._save_if_due(interrupt)
            if self.checkpoint:
                self._save()
            self._end()  # after the last save: a run that is given more goes on as if this end had not been
        return Fit(progress.history, progress.best_step, progress.reason)

    def _runs_out(self) -> bool:
        """Whether the last epoch of unknown length has ended, which is found by drawing one more minibatch."""
        if self.epochs is not None and self.feed.exhausted():
            self.progress.epoch = self.feed.epoch
            self._finish_if_done()
        return self.progress.reason is not None

    def _step(self) -> None:
        progress = self.progress
        progress.step += 1
        progress.learning_rates = [player.learning_rate for player in self.players]
        for number, player in enumerate(self.players):
            if progress.step % player.every == 0:
                for _ in range(player.repeats):
                    loss, gradient_norm = self._gradient_step(player)
                progress.history.losses[number].append(loss)
                progress.history.gradient_norms[number].append(gradient_norm)
        progress.epoch = self.feed.epoch
        if self.average:
            self.average.update()
        progress.validation = None
        if self.validation and progress.step % self._interval == 0:
            progress.validation = self._validate()
            for player in self.players:
                player.validated(progress.validation)
        progress.best_step = self.validation.best_step if self.validation else progress.step
        self._call_back()
        self._finish_if_done()

    def _gradient_step(self, player: Player) -> tuple[float, float]:
        minibatches = player.feed.take()
        self.buffers.keep()
        try:
            return player.step(minibatches)
        except NonFiniteStep:
            self.buffers.restore()
            reason = explain(player, minibatches, self._names())
            self._fail(player, f"the loss or its gradient is not finite at step {self.progress.step}: {reason}")
        except DivergedStep as diverged:
            turn = self.players.index(player)
            self._fail(player, f"the loss of turn {turn} diverged at step {self.progress.step}: {diverged}")

    def _call_back(self) -> None:
        """Calls the callbacks; where one ends the run, or fails, in any process, it does so in all."""
        if not self.callbacks:
            return
        with self.processes.together():
            for callback in self.callbacks:
                with released():
                    callback(self.progress)
        if any(self.processes.sum(float(self.progress.reason is not None))):
            reasons = self.processes.gather(self.progress.reason)
            self.progress.reason = next(reason for reason in reasons if reason is not None)
            self.stopped = True

    def _finish_if_done(self) -> None:
        if self.progress.reason is None and (reason := self._reached()):
            self.progress.stop(reason)

    def _reached(self) -> str | None:
        if self.steps is not None and self.progress.step >= self.steps:
            return "steps"
        if self.epochs is not None and self.progress.epoch >= self.epochs:
            return "epochs"
        if self.patience is not None and self.validation.stale >= self.patience:
            return "patience"
        return None

    def _validate(self) -> float:
        with self._averaged():
            value = self.validation(self.progress.step)
        self.progress.history.validation[self.progress.step] = value
        return value

    def _steps_of(self, epochs: int) -> int | None:
        """The steps of so many epochs, if their length is known."""
        players = [player for player in self.players if player.feed is self.feed]
        gradients = epochs * self.feed.data.steps
        return ceil(gradients / sum(Fraction(player.repeats, player.every) for player in players)) if players else None

    def _total(self) -> int | None:
        """The steps of the run, if their number is known."""
        return self.steps if self.steps is not None or self.epochs is None else self._steps_of(self.epochs) or None

    def _end(self) -> None:
        """Validates the last weights, if that is still to be done, and keeps the best."""
        progress = self.progress
        if progress.reason in ("steps", "epochs") and self.validation and progress.validation is None:
            self._validate()
            progress.best_step = self.validation.best_step
        if not (self.validation and self.validation.restore()):
            progress.best_step = progress.step
            if self.average:
                self.average.apply()
        self.processes.equalize(self.everything)
        self.everything.eval()

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.applied() if self.average else nullcontext()

    def _fail(self, player: Player, reason: str) -> NoReturn:
        self.buffers.restore()
        for parameter in player.parameters:
            parameter.grad = None
        raise FloatingPointError(f"{reason}. The weights are {self._good_weights()}") from None

    def _good_weights(self) -> str:
        """Puts the best weights in place, or else their average, if there are any and they are finite; tells which."""
        if self.validation and self.validation.restore():
            return f"those of step {self.validation.best_step}, the best on held-out data"
        if self.average and self.average.is_finite():
            self.average.apply()
            return "the average of those before"
        return "those before that gradient"

    def _names(self) -> dict[int, str]:
        """The parameters' names in the first module that holds them."""
        names: dict[int, str] = {}
        for part in self.everything:
            for name, parameter in part.named_parameters():
                names.setdefault(id(parameter), f"parameter {name}" if name.isdecimal() else name)
        return names

    def _save_if_due(self, interrupt: Interrupt) -> None:
        """Saves if it is time or Ctrl-C was pressed in any process: they save together or not at all."""
        due = self.processes.rank == 0 and self.checkpoint.due()
        due, pressed = self.processes.sum(float(due), float(interrupt.pressed))
        if due or pressed:
            self._save()
        if pressed:
            raise KeyboardInterrupt

    def _save(self) -> None:
        """Saves; where that fails, the modules get the best weights all the same."""
        try:
            state = state_of(self)
            with self.processes.together():
                if self.processes.rank == 0:
                    self.checkpoint.save(state)
        except (OSError, ValueError, RuntimeError) as error:
            self._end()
            kind = next(kind for kind in (OSError, ValueError, RuntimeError) if isinstance(error, kind))
            raise kind(
                f"`checkpoint` could not be saved after step {self.progress.step}: {error}. "
                f"The modules hold the weights of step {self.progress.best_step}"
            ) from error


def _unit(objective: Callable[..., Tensor]) -> str:
    """The unit of a loss; an evidence lower bound of Pyro's is divided by the data, any other function states none."""
    if isinstance(objective, Objective):
        return objective.unit
    return Objective.unit if isinstance(objective, ELBOModule) else ""
