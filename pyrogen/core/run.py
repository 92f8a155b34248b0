"""A training run: its state and its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from .average import Average
from .batches import Batches, LoaderBatches, Minibatch, to_device
from .checkpoint import fill, named_tensors
from .listener import Listener
from .objective import rows
from .player import MakeSchedule, NonFiniteStep, Player, explain, per_datum
from .processes import FabricProcesses, OneProcess
from .progress import Bar, Fit, History, Progress
from .randomness import held, random_states, seeded, set_random_states
from .resume import Checkpoint, Interrupt
from .turn import MakeOptimizer, Turn


class Run:
    """The state of a training run and its loop."""

    def __init__(
        self,
        turns: list[Turn],
        data: Batches | LoaderBatches,
        validation: Batches | LoaderBatches | None,
        *,
        steps: int | None,
        epochs: int | None,
        patience: int | None,
        metric: Callable[..., Tensor] | None,
        ema: float | None,
        checkpoint: Checkpoint | None,
        callbacks: Sequence[Callable[[Progress], None]],
        processes: OneProcess | FabricProcesses,
    ) -> None:
        self.turns = turns
        self.data = data
        self.validation = validation
        self.steps = steps
        self.epochs = epochs
        self.patience = patience
        self.metric = metric
        self.decay = ema
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.processes = processes
        self.everything = _everything(turns)
        self.runs_pyro = False
        self.drawn = 0
        self.best: dict[str, Tensor] | None = None
        self.best_value = float("inf")
        self.stale = 0
        self.progress = Progress(History([[] for _ in turns], [[] for _ in turns]))

    def look(self) -> None:
        """Runs every objective once on the first minibatch, validated: lazy modules come to be, mistakes show."""
        self.processes.place(self.everything)
        self.everything.train()
        listener = Listener()
        minibatch = next(iter(self.data.epoch(0)))
        with pyro.validation_enabled(True), torch.no_grad(), held(), listener:
            for turn in self.turns:
                entries = to_device(minibatch.entries, self.device)
                per_datum(turn.objective, turn.objective(*entries), entries)
        self.runs_pyro = listener.sites
        listener.refuse_strangers(self.everything)

    def begin(
        self,
        optimizer: MakeOptimizer | None,
        schedule: MakeSchedule | None,
        clip: float | None,
        compiled: dict[int, Callable[..., Tensor]],
    ) -> None:
        """Makes the optimizers, now that all parameters exist."""
        trained = {id(parameter): parameter for turn in self.turns for parameter in turn.trained()}
        everything = [parameter for parameter in self.everything.parameters() if parameter.requires_grad]
        self.players = [
            Player(
                turn,
                everything,
                processes=self.processes,
                optimizer=optimizer,
                schedule=schedule,
                clip=clip,
                run=compiled.get(number),
            )
            for number, turn in enumerate(self.turns)
        ]
        self.average = None if self.decay is None else Average(list(trained.values()), self.decay)

    def __call__(self) -> Fit:
        """Trains to the end."""
        progress, began = self.progress, time.monotonic() - self.progress.history.seconds
        interrupt = Interrupt()
        self._finish_if_done()
        bar = Bar(self._total(), progress.step, shown=self.processes.rank == 0)
        with bar, pyro.validation_enabled(False), interrupt.held(self.checkpoint is not None):
            minibatches = self._minibatches()
            while progress.reason is None:
                self._step(minibatches)
                progress.history.seconds = time.monotonic() - began
                bar.update(progress)
                if self.checkpoint and self._agree(interrupt.pressed or self.checkpoint.due()):
                    self._save()
                if interrupt.pressed:
                    raise KeyboardInterrupt
        if self.checkpoint:
            self._save()
        self._keep_best()
        return Fit(progress.history, progress.best_step, progress.reason)

    def _agree(self, wish: bool) -> bool:
        """Whether any process wishes so: they save together or not at all."""
        return self.processes.sum(float(wish))[0] > 0

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in self.everything.parameters()), torch.device("cpu"))

    def _minibatches(self) -> Iterator[Minibatch]:
        """Minibatches without end, from where the run stands."""
        while True:
            epoch, start = self._position()
            for minibatch in self.data.epoch(epoch, start):
                self.drawn += 1
                yield minibatch._replace(entries=to_device(minibatch.entries, self.device))
            if self.drawn == 0:
                raise ValueError("`data` must hold at least one minibatch, got none")
            if not len(self.data):
                self.progress.epoch += 1

    def _position(self) -> tuple[int, int]:
        length = len(self.data)
        return divmod(self.drawn, length) if length else (self.progress.epoch, 0)

    def _step(self, minibatches: Iterator[Minibatch]) -> None:
        progress = self.progress
        for number, player in enumerate(self.players):
            for _ in range(player.repeats):
                minibatch = next(minibatches)
                try:
                    step = player.step(minibatch)
                except NonFiniteStep:
                    self._fail(player, minibatch)
            progress.history.losses[number].append(step.loss)
            progress.history.gradient_norms[number].append(step.gradient_norm)
        progress.step += 1
        if len(self.data):
            progress.epoch = self.drawn // len(self.data)
        if self.average:
            self.average.update()
        progress.validation = self._validate() if self._validates() else None
        for callback in self.callbacks:
            callback(progress)
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        progress = self.progress
        if self.steps is not None and progress.step >= self.steps:
            progress.stop("steps")
        elif self.epochs is not None and progress.epoch >= self.epochs:
            progress.stop("epochs")
        elif self.patience is not None and self.stale >= self.patience:
            progress.stop("patience")
        if self.validation is None:
            progress.best_step = progress.step

    def _validates(self) -> bool:
        if self.validation is None:
            return False
        every = min(self._steps_per_epoch() or 1000, 1000)
        return self.progress.step % every == 0 or self.progress.step == self.steps

    def _steps_per_epoch(self) -> int:
        repeats = sum(turn.repeats for turn in self.turns)
        return -(-len(self.data) // repeats)

    def _total(self) -> int | None:
        if self.steps is not None or self.epochs is None or not len(self.data):
            return self.steps
        return self.epochs * self._steps_per_epoch()

    def _validate(self) -> float:
        value = self._held_out()
        progress = self.progress
        progress.history.validation[progress.step] = value
        self.stale += 1
        if value < self.best_value:
            self.best_value, self.stale, progress.best_step = value, 0, progress.step
            with self._averaged():
                self.best = {
                    name: tensor.detach().clone() for name, tensor in named_tensors(self.everything)[0].items()
                }
        return value

    def _held_out(self) -> float:
        """The mean over held-out data, on the same noise every time, so that values compare."""
        total, count = 0.0, 0.0
        self.everything.eval()
        with torch.no_grad(), seeded(self.processes.rank), self._averaged():
            for minibatch in self.validation.epoch(0):
                entries = to_device(minibatch.entries, self.device)
                weight = rows(entries) if minibatch.weight else 0
                value = per_datum(self._metric, self._metric(*entries), entries).item()
                total, count = total + (weight * value if weight else 0.0), count + weight
        self.everything.train()
        total, count = self.processes.sum(total, count)
        return total / count

    @property
    def _metric(self) -> Callable[..., Tensor]:
        return self.metric or self.turns[0].objective

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.applied() if self.average else nullcontext()

    def _keep_best(self) -> None:
        if self.best is not None:
            fill(self.everything, self.best, named_tensors(self.everything)[1])
        elif self.average:
            self.average.apply()
        self.everything.eval()

    def _fail(self, player: Player, minibatch: Minibatch) -> None:
        names = {id(tensor): name for name, tensor in self.everything.named_parameters()}
        reason = explain(player, minibatch, {key: name.split(".", 1)[-1] for key, name in names.items()})
        for parameter in player.parameters:
            parameter.grad = None
        raise FloatingPointError(
            f"the loss or its gradient is not finite at step {self.progress.step + 1}: {reason}. "
            "The weights are those of the step before"
        ) from None

    def _save(self) -> None:
        state = self.state_dict()
        if self.processes.rank == 0:
            self.checkpoint.save(state)
        self.processes.barrier()

    def state_dict(self) -> dict[str, Any]:
        """The whole run: weights, optimizers, averages, best weights, data order, history, callbacks, random states."""
        progress = self.progress
        return {
            "weights": named_tensors(self.everything)[0],
            "players": [player.state_dict() for player in self.players],
            "average": self.average.state_dict() if self.average else None,
            "best": [self.best, self.best_value, self.stale, progress.best_step],
            "order": self.data.seed,
            "drawn": self.drawn,
            "step": progress.step,
            "epoch": progress.epoch,
            "history": vars(progress.history),
            "callbacks": [
                callback.state_dict() if hasattr(callback, "state_dict") else None for callback in self.callbacks
            ],
            "random": self.processes.gather(random_states()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the run where it was.

        Raises:
            ValueError: the state is that of another model or of other turns.
        """
        if len(state["players"]) != len(self.players) or len(state["callbacks"]) != len(self.callbacks):
            raise ValueError(
                f"the checkpoint holds {len(state['players'])} turns and {len(state['callbacks'])} callbacks, "
                f"got {len(self.players)} and {len(self.callbacks)}"
            )
        try:
            fill(self.everything, state["weights"], named_tensors(self.everything)[1])
        except ValueError as error:
            raise ValueError(f"the checkpoint is of another model: {error}") from error
        for player, stored in zip(self.players, state["players"], strict=True):
            player.load_state_dict(stored)
        if self.average:
            self.average.load_state_dict(state["average"])
        for callback, stored in zip(self.callbacks, state["callbacks"], strict=True):
            if stored is not None:
                callback.load_state_dict(stored)
        self.best, self.best_value, self.stale, best_step = state["best"]
        self.drawn = state["drawn"]
        self.progress = Progress(History(**state["history"]), state["step"], state["epoch"], best_step=best_step)
        if len(state["random"]) == self.processes.world:
            set_random_states(state["random"][self.processes.rank])


def _everything(turns: list[Turn]) -> nn.ModuleList:
    """All that is trained, as one module: objectives, and parameters that turns name besides."""
    modules = [turn.objective for turn in turns if isinstance(turn.objective, nn.Module)]
    modules += [turn.parameters for turn in turns if isinstance(turn.parameters, nn.Module)]
    known = {id(parameter) for module in modules for parameter in module.parameters()}
    loose = [
        parameter
        for turn in turns
        if isinstance(turn.parameters, list)
        for parameter in turn.parameters
        if id(parameter) not in known
    ]
    return nn.ModuleList([*dict.fromkeys(modules), nn.ParameterList(loose)])
