"""A training run: its state and its loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import pyro
import torch
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pyrogen.core.batches import Batch, Batches, LoaderBatches, Minibatch, rows, to_device
from pyrogen.core.module import DistributionModule
from pyrogen.core.saving import fill, named_tensors
from pyrogen.networks.statistics import ReadsData
from pyrogen.numerics.randomness import held, random_states, set_random_states
from pyrogen.programs.reading import Reading

from .averages import Average
from .checkpoint import Checkpoint, Interrupt, check_settings
from .feed import Feed
from .nonfinite import MovingBuffers, explain, row_of
from .player import MakeSchedule, NonFiniteStep, Player, per_datum
from .processes import FabricProcesses, OneProcess
from .progress import Bar, Fit, History, Progress
from .reading import learn, refuse_bad_rows
from .statements import Listener
from .subsampling import check_minibatches, held_out_scope, most_rows, read_programs
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
        validate_every: int | None,
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
        self.validate_every = validate_every
        self.decay = ema
        self.checkpoint = checkpoint
        self.callbacks = callbacks
        self.processes = processes
        self.everything = _everything(turns)
        self.validation = (
            None
            if validation is None
            else Validation(
                validation,
                turns[0].objective if metric is None else metric,
                self.everything,
                processes,
                name="validation" if metric is None else "metric",
            )
        )
        self.heard = Listener()
        self.feed = Feed(data)
        self.stopped = False
        self._begun: Minibatch | None = None
        self.progress = Progress(History([[] for _ in turns], [[] for _ in turns]))

    def place(self) -> None:
        """Moves all that is trained to where it is trained."""
        self.processes.place(self.everything)

    def read(self) -> None:
        """Reads the whole data set, and the held-out one: statistics are learned, and bad rows refused."""
        self.everything.eval()
        readers = [part for turn in self.turns for part in _readers(turn.objective)]
        held_out = None if self.validation is None else self.validation.data
        first = self._first()
        with _pyro_scope(validation=False), held(), torch.no_grad(), _errors_of(first, self.everything):
            share = {"processes": self.processes, "device": self.device}
            if readers:
                learn(readers, self.data, first, limit=self._minibatches_in_all(), **share)
            if readers and held_out is not None and self.validation.metric is self.turns[0].objective:
                refuse_bad_rows(readers, held_out, name="validation", **share)

    def look(self, *, watch: bool = False, held_out: int = 0) -> None:
        """Runs every objective once on the first minibatch, validated: lazy modules come to be, mistakes show.

        Args:
            watch: Whether to find the networks that can be compiled.
            held_out: How many rows of the data were set aside for validation.
        """
        self.everything.train()
        self.buffers = MovingBuffers(self.everything)
        entries = self._first()
        scope = self.heard.watching(self.everything) if watch else self.heard
        with _pyro_scope(validation=True), held(), scope, _errors_of(entries, self.everything):
            reading = self._programs(entries)
        self.heard.refuse_strangers(self.everything)
        validated = self.validation is not None and self.validation.metric is self.turns[0].objective
        check_minibatches(reading, self.data, held_out=held_out, validated=validated)
        if validated:
            self.validation.scope = partial(held_out_scope, reading)
            if isinstance(self.validation.data, Batches):
                self.validation.data.batch_size = most_rows(reading, self.validation.data.batch_size)
        self.processes.equalize(self.everything)
        self.buffers.find()
        if rows(entries) > 1 and self._ends_in_one_row():
            self._try_one_row(entries)

    def _ends_in_one_row(self) -> bool:
        """Whether the last minibatch of an epoch, which the run reaches, has one row for some process."""
        data, repeats = self.data, sum(turn.repeats for turn in self.turns)
        if not isinstance(data, Batches) or (self.steps is not None and self.steps * repeats < len(data)):
            return False
        return 0 < data.rows % data.batch_size < 2 * data.world

    def _try_one_row(self, entries: Batch) -> None:
        """Runs every objective on a single row, which the last minibatch of an epoch is.

        Raises:
            ValueError: one raises, or gives no finite number of a row that is fine among others.
        """
        self.buffers.keep()
        problem = None
        with _pyro_scope(validation=True), held():
            try:
                found = self._losses(row_of(entries, 0, rows(entries)))
                if not found.isfinite().all() and self._losses(entries).isfinite().all():
                    problem = f"its loss is {found.tolist()}"
            except Exception as error:
                problem = str(error)
        self.buffers.restore()
        problem = next(filter(None, self.processes.gather(problem)), None)
        if problem is not None:
            count, size = self.data.rows, self.data.batch_size
            other = next((other for other in range(size - 1, 1, -1) if count % other != 1), count)
            raise ValueError(
                f"`batch_size` must not leave a single row for the last minibatch, as {size} does of {count} rows, for "
                f"`target` needs more ({problem}); use batch_size={other}, drop a row, or give a loader with "
                "`drop_last=True`"
            )

    def _losses(self, batch: Batch) -> Tensor:
        losses = [per_datum(t.objective, self.processes.evaluated(t.objective), batch) for t in self.turns]
        return torch.stack([loss.detach() for loss in losses])

    def _first(self) -> Batch:
        """The first minibatch, where the parameters are."""
        if self._begun is None:
            self._begun = next(iter(self.data.epoch(0)), None)
        if self._begun is None:
            raise ValueError("`data` must hold at least one minibatch, got none")
        return to_device(self._begun.entries, self.device)

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
        if any(player.follows_validation for player in self.players) and self.validation is None:
            raise ValueError("`validation` must be given with a ReduceLROnPlateau as `schedule`, got None")
        if self.checkpoint:
            self._check_resumable()
        self.average = None if self.decay is None else Average(list(trained.values()), self.decay)

    def _check_resumable(self) -> None:
        """Refuses parts that a checkpoint could not put back into their state."""
        for player in self.players:
            if player.schedule is not None and not _has_state(player.schedule):
                raise ValueError(
                    "`schedule` must have state_dict() and load_state_dict() to be part of a checkpoint, got "
                    f"{type(player.schedule).__name__}"
                )
        for callback in self.callbacks:
            if hasattr(callback, "state_dict") and not _has_state(callback):
                raise ValueError(
                    "`callbacks` with state_dict() must have load_state_dict() to be part of a checkpoint, got "
                    f"{type(callback).__name__}"
                )

    def __call__(self) -> Fit:
        """Trains to the end."""
        progress, began = self.progress, time.monotonic() - self.progress.history.seconds
        interrupt = Interrupt()
        self._finish_if_done()
        with ExitStack() as stack:
            bar = stack.enter_context(Bar(self._total(), progress.step, shown=self.processes.rank == 0))
            stack.enter_context(_pyro_scope(validation=False))
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

    @property
    def device(self) -> torch.device:
        return next((tensor.device for tensor in self.everything.parameters()), torch.device("cpu"))

    def _runs_out(self) -> bool:
        """Whether the last epoch of unknown length has ended, which only asking for more can tell."""
        if self.epochs is not None and self.feed.exhausted():
            self.progress.epoch = self.feed.epoch
            self._finish_if_done()
        return self.progress.reason is not None

    def _step(self) -> None:
        progress = self.progress
        for number, player in enumerate(self.players):
            for _ in range(player.repeats):
                minibatch = next(self.feed)
                minibatch = minibatch._replace(entries=to_device(minibatch.entries, self.device))
                self.buffers.keep()
                try:
                    step = player.step(minibatch)
                except NonFiniteStep:
                    self._fail(player, minibatch)
            progress.history.losses[number].append(step.loss)
            progress.history.gradient_norms[number].append(step.gradient_norm)
        progress.step += 1
        progress.epoch = self.feed.epoch
        if self.average:
            self.average.update()
        progress.validation = None
        if self._validates():
            progress.validation = self._validate()
            for player in self.players:
                player.validated(progress.validation)
        progress.best_step = self.validation.best_step if self.validation else progress.step
        self._call_back()
        self._finish_if_done()

    def _call_back(self) -> None:
        """Calls the callbacks; where one ends the run, or fails, in any process, it does so in all."""
        if not self.callbacks:
            return
        with self.processes.together():
            for callback in self.callbacks:
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

    def _validates(self) -> bool:
        if self.validation is None:
            return False
        every = self.validate_every or min(self._steps_per_epoch() or 1000, 1000)
        return self.progress.step % every == 0

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

    def _end(self) -> None:
        """Validates the last weights, if that is still to be done, and keeps the best."""
        progress = self.progress
        if progress.reason in ("steps", "epochs") and self.validation and progress.validation is None:
            self._validate()
            progress.best_step = self.validation.best_step
        self._keep_best()

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
        """Saves; where that fails, the modules get the best weights all the same."""
        try:
            state = self.state_dict()
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

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        return {
            "the turns' repeats": [player.repeats for player in self.players],
            "the optimizers": [type(player.optimizer).__name__ for player in self.players],
            "`schedule`": [type(player.schedule).__name__ for player in self.players],
            "the rows of `data`": getattr(self.data, "rows", None),
            "`batch_size`": getattr(self.data, "batch_size", None),
            "the minibatches in an epoch of `data`": len(self.data),
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
            "feed": self.feed.state_dict(),
            "step": progress.step,
            "epoch": progress.epoch,
            "stopped": {"reason": progress.reason, "given": self._given()} if self.stopped else None,
            "history": vars(progress.history),
            "callbacks": [callback.state_dict() if _has_state(callback) else None for callback in self.callbacks],
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
        self.feed.load_state_dict(state["feed"] if "feed" in state else self._place_of_before(state))
        best_step = self.validation.best_step if self.validation else state["step"]
        self.progress = Progress(History(**state["history"]), state["step"], state["epoch"], best_step=best_step)
        stopped = state.get("stopped")
        if stopped is not None and not self._is_given_more(stopped["given"]):
            self.progress.reason, self.stopped = stopped["reason"], True
        if len(state["random"]) == self.processes.world:
            set_random_states(state["random"][self.processes.rank])

    def _given(self) -> list[int | None]:
        """How long the run may last."""
        return [self.steps, self.epochs, self.patience]

    def _is_given_more(self, before: list[int | None]) -> bool:
        """Whether any limit is beyond what it was: then a run that a callback ended goes on."""
        pairs = zip(self._given(), before, strict=True)
        return any(now is not None and (then is None or now > then) for now, then in pairs)

    def _place_of_before(self, state: dict[str, Any]) -> dict[str, Any]:
        """The place in the data, from a checkpoint of an earlier pyrogen.

        Raises:
            ValueError: the data are a loader, whose order it does not hold.
        """
        if isinstance(self.data, LoaderBatches):
            raise ValueError(
                "`checkpoint` was written by an earlier pyrogen, which did not keep the order of a loader: begin anew, "
                "or give tensors or a dataset"
            )
        epoch, place = divmod(state["drawn"], len(self.data))
        return {"epoch": epoch, "place": place, "loader": None, "seen": None}


@contextmanager
def _errors_of(batch: Batch, module: nn.Module) -> Iterator[None]:
    """A scope in which the first call fails for what the data are: that is said by the name of the argument."""
    try:
        yield
    except Exception as error:
        own = {parameter.dtype for parameter in module.parameters() if not nn.parameter.is_lazy(parameter)}
        strange = [f"{leaf.dtype}" for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dtype not in own]
        if len(own) == 1 and strange and isinstance(error, (RuntimeError, ValueError, TypeError)):
            (dtype,) = own
            raise ValueError(
                f"`data` holds {' and '.join(dict.fromkeys(strange))}, the parameters are {dtype}, and the first "
                f"minibatch cannot be evaluated: {error}"
            ) from error
        if len(batch) == 1 and isinstance(batch[0], Mapping):
            raise ValueError(
                f"`data` gives each minibatch as one dict, with the keys {list(batch[0])}, which is one argument; give "
                f"tuples where the objective takes several: {error}"
            ) from error
        if isinstance(error, TypeError):
            raise TypeError(f"`data` gives {len(batch)} entries a minibatch, which do not fit: {error}") from error
        raise


def _has_state(callback: Any) -> bool:
    """Whether a callback is part of checkpoints: a protocol of two methods, shared with torch."""
    return hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict")


@contextmanager
def as_before_on_failure(module: nn.Module) -> Iterator[None]:
    """A scope after whose failure every part has its mode, and every parameter its freezing and gradient, of before.

    Gradients of before are put aside while it lasts: they are not part of the first step.
    """
    modes = [(part, part.training) for part in module.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    for parameter, _, _ in parameters:
        parameter.grad = None
    try:
        yield
    except BaseException:
        for part, training in modes:
            part.training = training
        for parameter, requires_grad, gradient in parameters:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        raise


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
