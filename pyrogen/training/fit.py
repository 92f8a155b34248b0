"""``fit``: the one training loop, for every family."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from pyrogen.arguments import checked, integer, positive, share, switch
from pyrogen.core.batch import device_of
from pyrogen.core.batches import batches, split
from pyrogen.core.sources import Data, SimulatedData, TensorData
from pyrogen.numerics.exclusive import exclusive, released
from pyrogen.numerics.randomness import seed_all, seeded

from .averages import Average, averaged
from .checkpoint import Checkpoint
from .compilation import compiled
from .dry_run import dry_run
from .feed import Feed, most_taken
from .player import Player
from .processes import FabricProcesses, Processes
from .progress import Fit, Progress
from .reading import learn_statistics, refuse_bad_rows
from .resuming import resume
from .run import Run
from .scopes import as_before_on_failure
from .turn import MakeOptimizer, MakeSchedule, TakesTurns, Turn, adam, all_trained, as_turns
from .validation import Metric, Validation, WholeSet

_PATIENCE = 20  # evaluations without a better one, where nothing else says when to stop
_ONE_AT_A_TIME = threading.RLock()
"""Held by the fit that runs; one within another's callback is of the same thread, and passes."""
_LARGEST = 2**63


def _seed(value: Any, name: str) -> None:
    if integer(value, name, least=-_LARGEST) >= _LARGEST:
        raise ValueError(f"`{name}` must be less than 2**63, got {value}")


def _ema(value: Any, name: str) -> None:
    if not isinstance(value, Average):
        share(value, name)


def _validation(value: Any, name: str) -> None:
    if isinstance(value, (int, float)) and not 0 < value < 1:
        raise ValueError(f"`{name}` must be data, or a fraction between 0 and 1, got {value}")


def _metric(value: Any, name: str) -> None:
    if not isinstance(value, WholeSet) and not callable(value):
        raise TypeError(f"`{name}` must be a function of a minibatch, got {type(value).__name__}")


def _callbacks(value: Any, name: str) -> None:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(map(callable, value)):
        advice = "; put it into a list" if callable(value) else ""
        raise TypeError(f"`{name}` must be a list of functions of a Progress, got {type(value).__name__}{advice}")


@checked(
    epochs=integer,
    accumulate=integer,
    lr=positive,
    clip=positive,
    ema=_ema,
    validation=_validation,
    patience=integer,
    validate_every=integer,
    metric=_metric,
    callbacks=_callbacks,
    seed=_seed,
    compile=switch,
)
def fit(
    target: nn.Module | TakesTurns | Turn | Sequence[Turn],
    data: Data,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int = 128,
    lr: float | None = None,
    optimizer: MakeOptimizer | None = None,
    schedule: MakeSchedule | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | Average | None = None,
    validation: Data | float | None = None,
    patience: int | None = None,
    validate_every: int | None = None,
    metric: Metric | WholeSet | None = None,
    checkpoint: str | os.PathLike | Checkpoint | None = None,
    callbacks: Sequence[Callable[[Progress], None]] = (),
    seed: int | None = None,
    fabric: Any | None = None,
    compile: bool = False,
) -> Fit:
    """Trains a model, an objective, or several in turns.

    The data are read once before training: means and scales that the model standardizes by are learned from all rows
    (once; a model trained further keeps them), and rows that it cannot take (NaN, labels out of range, values outside
    the support) are refused. Scoring never sets them; see :meth:`DistributionModule.learn_statistics
    <pyrogen.core.module.DistributionModule.learn_statistics>` for other training loops.

    A Pyro program with latent sites outside its data plate is trained on minibatches where it states how many data
    there are, by ``pyro.plate(name, N, subsample_size=...)`` or ``Elbo(model, guide, size=N)``; its posterior would
    else be that of a minibatch. The same holds for programs with parameters for single rows, unless these are named by
    number.

    A progress bar shows loss, held-out loss, speed and time left. Pyro's validation is on for a dry run on the
    first minibatch, off inside the loop, and afterwards as it was. Modules end in evaluation mode, with their best or
    last weights.

    Args:
        target: A ``DistributionModule`` (trained by its ``objective()``); an objective, that is a module whose call on
            a minibatch gives a loss, Pyro's ``Trace_ELBO()(model, guide)`` among them; or turns, played in order each
            step, or what gives them: a game (:class:`pyrogen.implicit.Game`).
        data: A tensor, a NumPy array or a pandas table (see :mod:`pyrogen.arrays`), a tuple of these (or dicts of
            them) of equal lengths, a dataset, or a loader. A minibatch is passed on entry by entry, as tensors:
            ``objective(x, context)``. ``()`` for an objective that takes no data.
        steps: How many steps to take.
        epochs: How many passes through the data to make. Give steps, epochs, or ``patience``. Simulations
            (:class:`pyrogen.simulation.Simulations`) need none of them: a tenth is held out, and training ends when
            twenty evaluations on it bring nothing.
        batch_size: Data in a minibatch at most, over all processes; gradient steps take as equal numbers of data as
            can be. A loader has its own.
        lr: Learning rate of the default optimizer, Adam; 1e-3 if ``None``. Not together with ``optimizer``.
        optimizer: Makes an optimizer of a list of parameters. ``None``: Adam, of a game without momentum.
        schedule: Makes a learning-rate schedule of an optimizer, stepped after every gradient step; a
            ``ReduceLROnPlateau`` is stepped after every validation, with its value.
        clip: Largest gradient norm. Turns may have their own, and their own data, optimizer and schedule.
        accumulate: Minibatches that make a gradient step, as one of so many times ``batch_size`` would, in less memory.
            With a loader, the last step of an epoch takes those that are left.
        ema: Decay of an exponential moving average of the weights, which then validates and is what remains; or an
            :class:`Average` of a part of them. Of a game the generator alone is averaged. 0: no average. ``None``: none
            either, but on simulations, whose posteriors gain by it, one of decay 0.99.
        validation: Held-out data, or the fraction of ``data`` to hold out. Evaluated after every epoch, or after every
            1,000 steps of a longer one, and at the end; the best weights are restored.
        patience: Stop after so many evaluations without a better one.
        validate_every: Steps from one validation to the next, instead.
        metric: What is evaluated on held-out minibatches, lower is better, in place of the objective; or a
            :class:`WholeSet`, a metric of all held-out data at once. Several turns need one; a game has its own.
        checkpoint: A file to save the run to, after the first step, once a minute, at its end and on Ctrl-C; see
            :class:`Checkpoint`. If it exists, the run resumes from it, and ends with the same weights as without the
            break.
        callbacks: Called with a :class:`Progress` after every step. Those with ``state_dict`` are part of checkpoints.
        seed: Of the data order, the split and all noise, in a scope of its own.
        fabric: A launched Lightning ``Fabric``, for other devices, precisions and several processes.
        compile: Compile the objective, or, where it runs Pyro, its networks.

    Returns:
        The history (losses in the unit of the objective, as a rule nats per datum), the step whose weights remain, and
        why the run ended.

    Raises:
        TypeError: an argument is of another type; the message names it.
        ValueError: arguments do not fit together; the message names them.
        OSError: the checkpoint cannot be written. The modules hold the best weights so far.
        FloatingPointError: loss or gradient is not finite, or a loss beyond the limit of its turn. The message names
            the step, the rows and the parameters; the weights are the best on held-out data, or else the average, or
            else the last good ones.

    After a failure, or Ctrl-C, modes of parts (training or evaluation), freezing and gradients are as before. One fit
    runs at a time in a process: Pyro's handlers and parameter store and torch's generators belong to all threads, so
    that a second one, in another thread, waits for the first.

    Example:
        >>> import pyrogen as pg
        >>> module = pg.flows.affine_coupling((2,))
        >>> fit(module, torch.randn(100, 2), steps=3).reason
        'steps'
    """
    if steps is epochs is patience is None and isinstance(data, TensorData) and metric is None:
        validation, patience = 0.1 if validation is None else validation, _PATIENCE
    if ema is None and isinstance(data, SimulatedData):
        ema = data.ema
    ema = ema or None
    if steps is epochs is patience is None:
        raise ValueError("`steps`, `epochs` or `patience` must be given, got none of them")
    for name, value in (("patience", patience), ("validate_every", validate_every), ("metric", metric)):
        if value is not None and validation is None:
            raise ValueError(f"`validation` must be given with `{name}`, got None")
    if lr is not None and optimizer is not None:
        raise ValueError("`lr` is of the default optimizer; with `optimizer` give it there, got both")
    if torch.is_inference_mode_enabled():
        raise ValueError("`fit` must be called outside of torch.inference_mode, in which nothing has gradients")
    turns, default = as_turns(target), metric is None
    make = partial(adam, lr=lr) if lr is not None else None
    if isinstance(target, TakesTurns):
        make = target.optimizer(lr)
        metric = target.metric if metric is None and validation is not None else metric
        ema = Average(ema, of=target.averaged()) if isinstance(ema, float) else ema
    if validation is not None and metric is None and len(turns) > 1:
        raise ValueError("`metric` must be given to validate several turns, got None")
    if validation is not None and metric is None and not turns[0].measures:
        objective = turns[0].objective
        raise ValueError(
            f"`metric` must be given to validate {type(objective).__name__}, got None: its loss, in {objective.unit}, "
            "does not show how good a model is"
        )
    processes = Processes() if fabric is None else FabricProcesses(fabric)
    checkpoint = _checkpoint(checkpoint)
    with _one_at_a_time(), exclusive(), ExitStack() as stack:
        saved = None
        if checkpoint:
            with processes.together():
                if processes.rank == 0:
                    stack.enter_context(checkpoint.reserved())
            saved = _saved(checkpoint, processes)
        order = processes.gather(_order_seed(seed, saved))[0]
        if isinstance(validation, float):
            data, validation = split(data, validation, order)
        stack.enter_context(seeded(seed))
        stack.enter_context(torch.enable_grad())
        everything = all_trained(turns)
        stack.enter_context(as_before_on_failure(everything))
        processes.place(everything)

        def feed_of(data: Data, seed: int, turns: list[Turn]) -> Feed:
            share = {"rank": processes.rank, "world": processes.world}
            found = batches(data, batch_size, accumulate=accumulate, seed=seed, **share)
            return Feed(found, device_of(everything), turns, most_taken(turns, steps, accumulate))

        feed = feed_of(data, order, [turn for turn in turns if turn.data is None])
        own = {turn: feed_of(turn.data, order + n, [turn]) for n, turn in enumerate(turns, 1) if turn.data is not None}
        feeds = [each for each in (feed, *own.values()) if each.turns]
        held_out = None
        if validation is not None:
            share = {} if isinstance(metric, WholeSet) else {"rank": processes.rank, "world": processes.world}
            held_out = batches(validation, batch_size, name="validation", **share)
        validates = metric is None and held_out is not None
        if saved is None:
            learn_statistics(feeds, everything, processes)
            if default and held_out is not None:
                refuse_bad_rows(turns[0].objective, held_out, feeds[0], everything, processes)
        dry = dry_run(feeds, everything, processes, held_out=held_out if validates else None, watch=compile)
        calls = stack.enter_context(compiled(turns, everything, dry.statements)) if compile else {}

        defaults = {
            "optimizer": make if optimizer is None else optimizer,
            "schedule": schedule,
            "clip": clip,
            "processes": processes,
        }
        players = [
            Player(turn, own.get(turn, feed), everything, run=calls.get(number), **defaults)
            for number, turn in enumerate(turns)
        ]
        evaluated, reading = (turns[0].objective, dry.readings[0]) if metric is None else (metric, None)
        run = Run(
            players,
            everything,
            feed,
            dry.buffers,
            accumulate=accumulate,
            average=averaged(ema, [parameter for player in players for parameter in player.parameters]),
            validation=None if held_out is None else Validation(held_out, evaluated, everything, processes, reading),
            steps=steps,
            epochs=epochs,
            patience=patience,
            validate_every=validate_every,
            checkpoint=checkpoint,
            callbacks=callbacks,
            processes=processes,
        )
        if processes.world > 1:
            seed_all(order + processes.rank)
        if saved is not None:
            resume(run, saved)
        return run()


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """A scope of one fit. What another waits with is released, for the callbacks of the first may need it."""
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        with released():
            _ONE_AT_A_TIME.acquire()
    try:
        yield
    finally:
        _ONE_AT_A_TIME.release()


def _checkpoint(path: Any) -> Checkpoint | None:
    if path is None or isinstance(path, Checkpoint):
        return path
    try:
        return Checkpoint(path)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`checkpoint` must be a path or a Checkpoint: {error}") from error


def _saved(checkpoint: Checkpoint, processes: Processes) -> dict[str, Any] | None:
    saved = checkpoint.load()
    if len(set(processes.gather(saved is None))) > 1:
        raise ValueError(f"`checkpoint` must be a file that all processes see, got {str(checkpoint.path)!r}")
    return saved


def _order_seed(seed: int | None, saved: dict[str, Any] | None) -> int:
    if saved is not None and saved["order"] is not None:
        if seed is not None and seed != saved["order"]:
            raise ValueError(f"`seed` must be {saved['order']} to resume from the checkpoint, got {seed}")
        return saved["order"]
    return int(torch.randint(2**62, ())) if seed is None else seed
