"""Resuming: what a checkpoint holds of a training run, and how a run goes on from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrogen.core.batches import LoaderBatches
from pyrogen.core.saving import fill, named_tensors
from pyrogen.numerics.randomness import random_states, set_random_states

from .checkpoint import check_settings
from .feed import Feed
from .progress import History, Progress

if TYPE_CHECKING:
    from .run import Run


def require_states(run: Run) -> None:
    """Raises a ValueError where a schedule or a callback cannot be part of the checkpoint, if there is one."""
    if not run.checkpoint:
        return
    for player in run.players:
        if player.schedule is not None and not _has_state(player.schedule):
            raise ValueError(
                "`schedule` must have state_dict() and load_state_dict() to be part of a checkpoint, got "
                f"{type(player.schedule).__name__}"
            )
    for callback in run.callbacks:
        if hasattr(callback, "state_dict") and not _has_state(callback):
            raise ValueError(
                "`callbacks` with state_dict() must have load_state_dict() to be part of a checkpoint, got "
                f"{type(callback).__name__}"
            )


def state_of(run: Run) -> dict[str, Any]:
    """A whole run: weights, optimizers, averages, best weights, data order, history, callbacks, random states."""
    progress = run.progress
    return {
        "settings": _settings(run),
        "weights": named_tensors(run.everything)[0],
        "local": run.processes.collect([_on_cpu(part.tensors) for part in run.local]),
        "players": [player.state_dict() for player in run.players],
        "average": run.average.state_dict() if run.average else None,
        "validation": run.validation.state_dict() if run.validation else None,
        "order": run.feed.data.seed,
        "feed": run.feed.state_dict(),
        "feeds": [feed.state_dict() for feed in _own_feeds(run)],
        "step": progress.step,
        "epoch": progress.epoch,
        "stopped": {"reason": progress.reason, "given": _given(run)} if run.stopped else None,
        "history": vars(progress.history),
        "callbacks": [callback.state_dict() if _has_state(callback) else None for callback in run.callbacks],
        "random": run.processes.gather(random_states()),
    }


def resume(run: Run, state: dict[str, Any]) -> None:
    """Puts a run where it was when its state was taken.

    Raises:
        ValueError: the state is that of another model, or of a run with other settings.
    """
    check_settings(state["settings"], _settings(run))
    try:
        fill(run.everything, state["weights"], named_tensors(run.everything)[1])
        for player, stored in zip(run.players, state["players"], strict=True):
            player.load_state_dict(stored)
        if run.average:
            run.average.load_state_dict(state["average"])
        _load_local(run, state)
    except ValueError as error:
        raise ValueError(f"`checkpoint` {error}") from error
    if run.validation:
        run.validation.load_state_dict(state["validation"])
    for callback, stored in zip(run.callbacks, state["callbacks"], strict=True):
        if stored is not None:
            callback.load_state_dict(stored)
    run.feed.load_state_dict(state["feed"] if "feed" in state else _place_of_before(run.feed, state))
    own, places = _own_feeds(run), state.get("feeds", [])
    if len(own) != len(places):
        raise ValueError(f"`checkpoint` holds {len(places)} turns with `data` of their own, got {len(own)}")
    for feed, place in zip(own, places, strict=True):
        feed.load_state_dict(place)
    best_step = run.validation.best_step if run.validation else state["step"]
    run.progress = Progress(
        History(**{**state["history"], "unit": run.progress.history.unit}),
        state["step"],
        state["epoch"],
        best_step=best_step,
        rank=run.processes.rank,
    )
    stopped = state.get("stopped")
    if stopped is not None and not _is_given_more(run, stopped["given"]):
        run.progress.reason, run.stopped = stopped["reason"], True
    if len(state["random"]) == run.processes.world:
        set_random_states(state["random"][run.processes.rank])


def _settings(run: Run) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    data = run.feed.data
    tensors = not isinstance(data, LoaderBatches)
    return {
        "the turns' repeats": [player.repeats for player in run.players],
        "the turns' `every`": [player.every for player in run.players],
        "the turns with `data` of their own": [player.feed is not run.feed for player in run.players],
        "the optimizers": [type(player.optimizer).__name__ for player in run.players],
        "`schedule`": [type(player.schedule).__name__ for player in run.players],
        "the rows of `data`": data.rows if tensors else None,
        "`batch_size`": data.batch_size if tensors else None,
        "`accumulate`": run.accumulate,
        "the minibatches in an epoch of `data`": len(data),
        "the number of `callbacks`": len(run.callbacks),
        "whether there is an `ema`": run.average is not None,
        "whether there is a `validation`": run.validation is not None,
    }


def _load_local(run: Run, state: dict[str, Any]) -> None:
    """Gives local buffers what they held in this process; with more processes than before, some hold the same."""
    stored = state.get("local", [[]])
    stored = stored[run.processes.rank % len(stored)]
    if len(stored) != len(run.local):
        raise ValueError(f"does not fit: it holds {len(stored)} modules of local buffers, not {len(run.local)}")
    for part, tensors in zip(run.local, stored, strict=True):
        part.replace(tensors)


def _own_feeds(run: Run) -> list[Feed]:
    """The feeds of turns with data of their own."""
    return [player.feed for player in run.players if player.feed is not run.feed]


def _given(run: Run) -> list[int | None]:
    """How long the run may last."""
    return [run.steps, run.epochs, run.patience]


def _is_given_more(run: Run, before: list[int | None]) -> bool:
    """Whether any limit is beyond what it was: then a run that a callback ended goes on."""
    pairs = zip(_given(run), before, strict=True)
    return any(now is not None and (then is None or now > then) for now, then in pairs)


def _place_of_before(feed: Feed, state: dict[str, Any]) -> dict[str, Any]:
    """The place in the data, from a checkpoint of an earlier pyrogen.

    Raises:
        ValueError: the data are a loader, whose order it does not hold.
    """
    if isinstance(feed.data, LoaderBatches):
        raise ValueError(
            "`checkpoint` was written by an earlier pyrogen, which did not keep the order of a loader: begin anew, "
            "or give tensors or a dataset"
        )
    epoch, place = divmod(state["drawn"], len(feed.data))
    return {"epoch": epoch, "place": place, "loader": None, "seen": None}


def _has_state(part: Any) -> bool:
    """Whether a callback or schedule is part of checkpoints: a protocol of two methods, shared with torch."""
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _on_cpu(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}
