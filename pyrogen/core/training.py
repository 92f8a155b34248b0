"""``fit``: the one training loop, for every family."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from .average import Average
from .batches import Batches, Data, LoaderBatches, Minibatch, batches, split, to_device
from .checkpoint import fill, named_tensors
from .compilation import compiled
from .objective import rows
from .player import MakeSchedule, NonFiniteStep, Player, explain, per_datum
from .processes import FabricProcesses, OneProcess
from .progress import Bar, Fit, History, Progress
from .randomness import random_states, seed_all, seeded, set_random_states
from .resume import Checkpoint, Interrupt
from .turn import MakeOptimizer, Turn, as_turns


def fit(
    target: nn.Module | Turn | Sequence[Turn],
    data: Data,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 128,
    optimizer: MakeOptimizer | None = None,
    schedule: MakeSchedule | None = None,
    clip: float | None = None,
    ema: float | None = None,
    validation: Data | float | None = None,
    patience: int | None = None,
    metric: Callable[..., Tensor] | None = None,
    checkpoint: str | os.PathLike | Checkpoint | None = None,
    callbacks: Sequence[Callable[[Progress], None]] = (),
    seed: int | None = None,
    fabric: Any | None = None,
    compile: bool = False,
) -> Fit:
    """Trains a model, an objective, or several in turns.

    A progress bar shows loss, held-out loss, speed and time left. Pyro's validation is on for a first look at the data,
    off inside the loop, and afterwards as it was. Modules end in evaluation mode, with their best or last weights.

    Args:
        target: A ``DistributionModule`` (trained by its ``objective()``); an objective, that is a module whose call on a
            minibatch gives a loss, Pyro's ``Trace_ELBO()(model, guide)`` among them; or turns, played in order each step.
        data: A tensor, a tuple of tensors (or dicts of tensors) of equal lengths, a dataset, or a loader. A minibatch is
            passed on entry by entry: ``objective(x, context)``. ``()`` for an objective that takes no data.
        steps: How many steps to take.
        epochs: How many passes through the data to make. Give steps, epochs, or ``patience``.
        batch_size: Data in a minibatch, over all processes. A loader has its own.
        optimizer: Makes an optimizer of a list of parameters; Adam with learning rate 1e-3 by default.
        schedule: Makes a learning-rate schedule of an optimizer; stepped after every gradient step.
        clip: Largest gradient norm.
        ema: Decay of an exponential moving average of the weights, which then validates and is what remains.
        validation: Held-out data, or the fraction of ``data`` to hold out. Evaluated after every epoch, or after every
            1,000 steps of a longer one; the best weights are restored.
        patience: Stop after so many evaluations without a better one.
        metric: What is evaluated on held-out minibatches, lower is better, in place of the objective.
        checkpoint: A file to save the run to, once a minute, at its end and on Ctrl-C; see :class:`Checkpoint`. If it
            exists, the run resumes from it, and ends with the same weights as without the break.
        callbacks: Called with a :class:`Progress` after every step. Those with ``state_dict`` are part of checkpoints.
        seed: Of the data order, the split and all noise, in a scope of its own.
        fabric: A launched Lightning ``Fabric``, for other devices, precisions and several processes.
        compile: Compile the objective, or, where it runs Pyro, its networks.

    Returns:
        The history (losses in nats per datum), the step whose weights remain, and why the run ended.

    Raises:
        ValueError: arguments do not fit together; the message names them.
        FloatingPointError: loss or gradient is not finite. The message names the step, the rows and the parameters; the
            weights are the last good ones.

    Example:
        >>> module = Parametric(Constant(2), families.diagonal_normal, event_shape=(1,))
        >>> fit(module, torch.randn(100, 1), steps=3).reason
        'steps'
    """
    _check_lengths(steps, epochs, patience, validation)
    turns = as_turns(target)
    if validation is not None and metric is None and len(turns) > 1:
        raise ValueError("`metric` must be given to validate several turns, got None")
    processes = OneProcess() if fabric is None else FabricProcesses(fabric)
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    saved = checkpoint.load() if checkpoint else None
    order = _order_seed(seed, saved)
    if isinstance(validation, float):
        data, validation = split(data, validation, order)
    share = {"rank": processes.rank, "world": processes.world}
    with seeded(seed), ExitStack() as stack:
        run = Run(
            turns,
            batches(data, batch_size, seed=order, **share),
            None if validation is None else batches(validation, batch_size, **share),
            steps=steps,
            epochs=epochs,
            patience=patience,
            metric=metric,
            ema=ema,
            checkpoint=checkpoint,
            callbacks=callbacks,
            processes=processes,
        )
        run.look()
        run.begin(optimizer, schedule, clip, stack.enter_context(compiled(turns, run.runs_pyro)) if compile else {})
        if saved is not None:
            run.load_state_dict(saved)
        elif processes.world > 1:
            seed_all(order % 2**32 + processes.rank)
        return run()


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
        listener = _Listener()
        minibatch = next(iter(self.data.epoch(0)))
        with pyro.validation_enabled(True), torch.no_grad(), _held_randomness(), listener:
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
        bar = Bar(self._total(), progress.step, shown=self.processes.rank == 0)
        self._finish_if_done()
        with pyro.validation_enabled(False), interrupt.held(self.checkpoint is not None):
            minibatches = self._minibatches()
            while progress.reason is None:
                self._step(minibatches)
                progress.history.seconds = time.monotonic() - began
                bar.update(progress)
                if interrupt.pressed or (self.checkpoint and self.checkpoint.due()):
                    self._save()
                if interrupt.pressed:
                    raise KeyboardInterrupt
        bar.close()
        if self.checkpoint:
            self._save()
        self._keep_best()
        return Fit(progress.history, progress.best_step, progress.reason)

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
                self.best = {name: tensor.detach().clone() for name, tensor in named_tensors(self.everything)[0].items()}
        return value

    def _held_out(self) -> float:
        """The mean over held-out data, on the same noise every time, so that values compare."""
        total, count = 0.0, 0.0
        self.everything.eval()
        with torch.no_grad(), seeded(0), self._averaged():
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

    def _averaged(self) -> Any:
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
        if self.processes.rank == 0:
            self.checkpoint.save(self.state_dict())
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
            "callbacks": [callback.state_dict() if hasattr(callback, "state_dict") else None for callback in self.callbacks],
            "random": random_states(),
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
        set_random_states(state["random"])


class _Listener(Messenger):
    """Hears whether Pyro statements run, and which parameters they register outside any module."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = False
        self.parameters: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        self.sites = True

    def _pyro_post_param(self, msg: Any) -> None:
        self.parameters[msg["name"]] = msg["value"]

    def refuse_strangers(self, module: nn.Module) -> None:
        """Raises if ``pyro.param`` made a parameter that no module owns."""
        known = {id(parameter) for parameter in module.parameters()}
        strange = [name for name, value in self.parameters.items() if id(value.unconstrained()) not in known]
        if strange:
            raise ValueError(
                f"`target` has parameters made by `pyro.param` that no module owns and `fit` cannot train: {strange}; "
                "make them nn.Parameter or PyroParam attributes, or train with pyro.infer.SVI"
            )


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


@contextmanager
def _held_randomness() -> Iterator[None]:
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def _order_seed(seed: int | None, saved: dict[str, Any] | None) -> int:
    if saved is not None and saved["order"] is not None:
        if seed is not None and seed != saved["order"]:
            raise ValueError(f"`seed` must be {saved['order']} to resume from the checkpoint, got {seed}")
        return saved["order"]
    return int(torch.randint(2**62, ())) if seed is None else seed


def _check_lengths(steps: int | None, epochs: int | None, patience: int | None, validation: Any) -> None:
    if steps is None and epochs is None and patience is None:
        raise ValueError("`steps`, `epochs` or `patience` must be given, got none of them")
    for name, value in (("steps", steps), ("epochs", epochs), ("patience", patience)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if patience is not None and validation is None:
        raise ValueError("`validation` must be given with `patience`, got None")
