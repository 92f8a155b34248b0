"""``fit``: the one training loop, for every family."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .batches import Data, batches, split
from .compilation import compiled
from .player import MakeSchedule
from .processes import FabricProcesses, OneProcess
from .progress import Fit, Progress
from .randomness import seed_all, seeded
from .resume import Checkpoint
from .run import Run
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

    The data are read once before training: means and scales that the model standardises by are learned from all rows
    (once; a model trained further keeps them), and rows that it cannot take (NaN, labels out of range, values outside
    the support) are refused. Scoring never sets them; see :meth:`DistributionModule.learn_statistics
    <pyrogen.core.module.DistributionModule.learn_statistics>` for other training loops.

    A progress bar shows loss, held-out loss, speed and time left. Pyro's validation is on for a first look at the data,
    off inside the loop, and afterwards as it was. Modules end in evaluation mode, with their best or last weights.

    Args:
        target: A ``DistributionModule`` (trained by its ``objective()``); an objective, that is a module whose call on
            a minibatch gives a loss, Pyro's ``Trace_ELBO()(model, guide)`` among them; or turns, played in order each
            step.
        data: A tensor, a tuple of tensors (or dicts of tensors) of equal lengths, a dataset, or a loader. A minibatch
            is passed on entry by entry: ``objective(x, context)``. ``()`` for an objective that takes no data.
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
        >>> import pyrogen as pg
        >>> module = pg.flows.affine_coupling((2,))
        >>> fit(module, torch.randn(100, 2), steps=3).reason
        'steps'
    """
    _check_lengths(steps, epochs, patience, validation)
    if clip is not None and not clip > 0:
        raise ValueError(f"`clip` must be a positive gradient norm, got {clip}")
    turns = as_turns(target)
    if validation is not None and metric is None and len(turns) > 1:
        raise ValueError("`metric` must be given to validate several turns, got None")
    processes = OneProcess() if fabric is None else FabricProcesses(fabric)
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    with ExitStack() as stack:
        if checkpoint and processes.rank == 0:
            stack.enter_context(checkpoint.reserved())
        saved = _saved(checkpoint, processes) if checkpoint else None
        order = processes.gather(_order_seed(seed, saved))[0]
        held_out = 0
        if isinstance(validation, float):
            data, validation = split(data, validation, order)
            held_out = len(validation)
        share = {"rank": processes.rank, "world": processes.world}
        stack.enter_context(seeded(seed))
        run = Run(
            turns,
            batches(data, batch_size, seed=order, **share),
            None if validation is None else batches(validation, batch_size, name="validation", **share),
            steps=steps,
            epochs=epochs,
            patience=patience,
            metric=metric,
            ema=ema,
            checkpoint=checkpoint,
            callbacks=callbacks,
            processes=processes,
        )
        run.place()
        if saved is None:
            run.read()
        run.look(watch=compile, held_out=held_out)
        run.begin(
            optimizer,
            schedule,
            clip,
            stack.enter_context(compiled(turns, run.everything, run.heard)) if compile else {},
        )
        if processes.world > 1:
            seed_all(order + processes.rank)
        if saved is not None:
            run.load_state_dict(saved)
        return run()


def _saved(checkpoint: Checkpoint, processes: OneProcess | FabricProcesses) -> dict[str, Any] | None:
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


def _check_lengths(steps: int | None, epochs: int | None, patience: int | None, validation: Any) -> None:
    if steps is None and epochs is None and patience is None:
        raise ValueError("`steps`, `epochs` or `patience` must be given, got none of them")
    for name, value in (("steps", steps), ("epochs", epochs), ("patience", patience)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    if patience is not None and validation is None:
        raise ValueError("`validation` must be given with `patience`, got None")
