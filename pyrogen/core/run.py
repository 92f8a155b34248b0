"""A training run: its state and its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from pyrogen.networks.statistics import ReadsData
from pyrogen.programs.reading import Reading

from .average import Average
from .batches import Batch, Batches, LoaderBatches, Minibatch, to_device
from .checkpoint import fill, named_tensors
from .failure import MovingBuffers, explain
from .listener import Listener
from .minibatches import check_minibatches, held_out_scope, read_programs
from .module import DistributionModule
from .objective import rows
from .player import MakeSchedule, NonFiniteStep, Player, per_datum
from .processes import FabricProcesses, OneProcess
from .progress import Bar, Fit, History, Progress
from .randomness import held, random_states, set_random_states
from .reading import read
from .resume import Checkpoint, Interrupt, check_settings
from .turn import MakeOptimizer, Turn
from .validation import Validation


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
        self.steps = steps
        self.epochs = epochs
        self.patience = patience
        self.decay = ema
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.processes = processes
        self.everything = _everything(turns)
        self.validation = (
            None
            if validation is None
            else Validation(validation, turns[0].objective if metric is None else metric, self.everything, processes)
        )
        self.heard = Listener()
        self.drawn = 0
        self.progress = Progress(History([[] for _ in turns], [[] for _ in turns]))

    def place(self) -> None:
        """Moves all that is trained to where it is trained."""
        self.processes.place(self.everything)

    def read(self) -> None:
        """Reads the whole data set, and the held-out one: statistics are learned, and bad rows refused."""
        self.everything.eval()
        readers = [part for turn in self.turns for part in _readers(turn.objective)]
        held_out = None if self.validation is None else self.validation.data
        with _pyro_scope(validation=False), held(), torch.no_grad():
            share = {"processes": self.processes, "device": self.device}
            if readers:
                read(readers, self.data, limit=self._minibatches_in_all(), **share)
            if readers and held_out is not None and self.validation.metric is self.turns[0].objective:
                read(readers, held_out, name="validation", learn=False, **share)

    def look(self, *, watch: bool = False, held_out: int = 0) -> None:
        """Runs every objective once on the first minibatch, validated: lazy modules come to be, mistakes show.

        Args:
            watch: Whether to find the networks that can be compiled.
            held_out: How many rows of the data were set aside for validation.
        """
        self.everything.train()
        self.buffers = MovingBuffers(self.everything)
        minibatch = next(iter(self.data.epoch(0)), None)
        if minibatch is None:
            raise ValueError("`data` must hold at least one minibatch, got none")
        entries = to_device(minibatch.entries, self.device)
        scope = self.heard.watching(self.everything) if watch else self.heard
        with _pyro_scope(validation=True), held(), scope:
            reading = self._programs(entries)
        self.heard.refuse_strangers(self.everything)
        check_minibatches(reading, self.data, held_out=held_out, validated=self.validation is not None)
        if self.validation and self.validation.metric is self.turns[0].objective:
            self.validation.scope = partial(held_out_scope, reading)
        self.processes.equalize(self.everything)
        self.buffers.find()

    def _programs(self, entries: Batch) -> Reading:
        """Runs the objectives on a minibatch and reads the Pyro programs in them."""

        def play(batch: Batch) -> None:
            for turn in self.turns:
                per_datum(turn.objective, self.processes.evaluated(turn.objective), batch)

        return read_programs(play, entries, rows(entries), self.everything, self.data)

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
        with ExitStack() as stack:
            bar = stack.enter_context(Bar(self._total(), progress.step, shown=self.processes.rank == 0))
            stack.enter_context(_pyro_scope(validation=False))
            stack.enter_context(interrupt.held(self.checkpoint is not None))
            minibatches = self._minibatches()
            while progress.reason is None:
                self._step(minibatches)
                progress.history.seconds = time.monotonic() - began
                bar.update(progress)
                if self.checkpoint:
                    self._save_if_due(interrupt)
        if self.checkpoint:
            self._save()
        self._keep_best()
        return Fit(progress.history, progress.best_step, progress.reason)

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in self.everything.parameters()), torch.device("cpu"))

    def _minibatches(self) -> Iterator[Minibatch]:
        """Minibatches without end, from where the run stands."""
        device = self.device
        while True:
            before = self.drawn
            for minibatch in self._rest_of_epoch():
                self.drawn += 1
                yield minibatch._replace(entries=to_device(minibatch.entries, device))
            if self.drawn == before:
                raise ValueError("`data` must give as many minibatches an epoch as its length says, got fewer")

    def _rest_of_epoch(self) -> Iterator[Minibatch]:
        if len(self.data):
            yield from self.data.epoch(*divmod(self.drawn, len(self.data)))
            return
        # Of unknown length: one minibatch ahead, to know the last of an epoch.
        ahead = iter(self.data.epoch(self.progress.epoch))
        following = next(ahead, None)
        while (minibatch := following) is not None:
            following = next(ahead, None)
            self.progress.epoch += following is None
            yield minibatch

    def _step(self, minibatches: Iterator[Minibatch]) -> None:
        progress = self.progress
        for number, player in enumerate(self.players):
            for _ in range(player.repeats):
                minibatch = next(minibatches)
                self.buffers.keep()
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
        progress.best_step = self.validation.best_step if self.validation else progress.step
        for callback in self.callbacks:
            callback(progress)
        self._finish_if_done()

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

    def _validates(self) -> bool:
        if self.validation is None:
            return False
        every = min(self._steps_per_epoch() or 1000, 1000)
        return self.progress.step % every == 0 or self._reached() is not None

    def _validate(self) -> float:
        with self._averaged():
            value = self.validation(self.progress.step)
        self.progress.history.validation[self.progress.step] = value
        return value

    def _steps_per_epoch(self) -> int:
        repeats = sum(turn.repeats for turn in self.turns)
        return -(-len(self.data) // repeats)

    def _total(self) -> int | None:
        if self.steps is not None or self.epochs is None or not len(self.data):
            return self.steps
        repeats = sum(turn.repeats for turn in self.turns)
        return -(-self.epochs * len(self.data) // repeats)

    def _minibatches_in_all(self) -> int | None:
        """How many minibatches the run will take from a loader of unknown length, which may have no end."""
        if len(self.data) or self.steps is None:
            return None
        return self.steps * sum(turn.repeats for turn in self.turns)

    def _averaged(self) -> AbstractContextManager[None]:
        return self.average.applied() if self.average else nullcontext()

    def _keep_best(self) -> None:
        if not (self.validation and self.validation.restore()):
            self.progress.best_step = self.progress.step
            if self.average:
                self.average.apply()
        self.processes.equalize(self.everything)
        self.everything.eval()

    def _fail(self, player: Player, minibatch: Minibatch) -> None:
        self.buffers.restore()
        reason = explain(player, minibatch, self._names())
        self.buffers.restore()
        for parameter in player.parameters:
            parameter.grad = None
        raise FloatingPointError(
            f"the loss or its gradient is not finite at step {self.progress.step + 1}: {reason}. "
            "The weights are those before that gradient"
        ) from None

    def _names(self) -> dict[int, str]:
        """The parameters' names as the first module that holds them knows them."""
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
        state = self.state_dict()
        if self.processes.rank == 0:
            self.checkpoint.save(state)
        self.processes.barrier()

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {
            "the turns' repeats": [player.repeats for player in self.players],
            "the optimizers": [type(player.optimizer).__name__ for player in self.players],
            "`schedule`": [type(player.schedule).__name__ for player in self.players],
            "the rows of `data`": getattr(self.data, "rows", None),
            "`batch_size`": getattr(self.data, "batch_size", None),
            "the number of `callbacks`": len(self.callbacks),
            "whether there is an `ema`": self.average is not None,
            "whether there is a `validation`": self.validation is not None,
        }

    def state_dict(self) -> dict[str, Any]:
        """The whole run: weights, optimizers, averages, best weights, data order, history, callbacks, random states."""
        progress = self.progress
        return {
            "settings": self._settings(),
            "weights": named_tensors(self.everything)[0],
            "players": [player.state_dict() for player in self.players],
            "average": self.average.state_dict() if self.average else None,
            "validation": self.validation.state_dict() if self.validation else None,
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
            ValueError: the state is that of another model, or of a run with other settings.
        """
        check_settings(state["settings"], self._settings())
        try:
            fill(self.everything, state["weights"], named_tensors(self.everything)[1])
            for player, stored in zip(self.players, state["players"], strict=True):
                player.load_state_dict(stored)
        except ValueError as error:
            raise ValueError(f"`checkpoint` {error}") from error
        for part, name in ((self.average, "average"), (self.validation, "validation")):
            if part:
                part.load_state_dict(state[name])
        for callback, stored in zip(self.callbacks, state["callbacks"], strict=True):
            if stored is not None:
                callback.load_state_dict(stored)
        self.drawn = state["drawn"]
        best_step = self.validation.best_step if self.validation else state["step"]
        self.progress = Progress(History(**state["history"]), state["step"], state["epoch"], best_step=best_step)
        if len(state["random"]) == self.processes.world:
            set_random_states(state["random"][self.processes.rank])


@contextmanager
def _pyro_scope(*, validation: bool) -> Iterator[None]:
    """A scope with Pyro's validation on or off, and a parameter store of its own.

    In the global one, a PyroModule's parameters would be replaced with others of the same name.
    """
    with pyro.validation_enabled(validation), pyro.get_param_store().scope():
        yield


def _readers(objective: Callable[..., Tensor]) -> list[ReadsData]:
    """What of an objective reads the data set: itself, or the model of Pyro's ELBOs."""
    reader = objective.model if isinstance(objective, ELBOModule) else objective
    return [reader] if isinstance(reader, ReadsData) and not isinstance(reader, DistributionModule) else []


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
