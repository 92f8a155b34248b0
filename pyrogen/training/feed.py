"""Minibatches, epoch after epoch, and the place in them: each row once within an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pyrogen.core.batch import Batch, digest, to_device
from pyrogen.core.batches import Batches, LoaderBatches, Minibatch

from .turn import Turn


class Feed:
    """Gives turns their minibatches.

    The end of an epoch of unknown length is found by drawing one more, and no minibatch is drawn before it is needed: a
    checkpoint holds what has been trained on, and what is drawn after it is drawn again.

    Args:
        data: Where they come from.
        device: Where they go.
        turns: Which turns take them.
        taken: How many they take at most, if that is known.

    Attributes:
        epoch: Epochs finished.
        place: Minibatches drawn of the next one.
    """

    def __init__(
        self,
        data: Batches | LoaderBatches,
        device: torch.device = torch.device("cpu"),
        turns: Sequence[Turn] = (),
        taken: int | None = None,
    ) -> None:
        self.data, self.device, self.turns, self.taken = data, device, turns, taken
        self.epoch = 0
        self.place = 0
        self._rest: Iterator[Minibatch] | None = None
        self._ready: Minibatch | None = None
        self._last: Minibatch | None = None
        self._seen: str | None = None
        self._first: Minibatch | None = None

    def first(self) -> Batch:
        """The first minibatch of the first epoch, before any is drawn."""
        if self._first is None:
            self._first = next(iter(self.data.epoch(0)), None)
        if self._first is None:
            raise ValueError("`data` must hold at least one minibatch, got none")
        return to_device(self._first.entries, self.device)

    def __next__(self) -> Minibatch:
        if self._ready is None and not self._draw():
            self._draw()
        self._last, self._ready = self._ready, None
        self.place += 1
        if self.place == len(self.data):
            self._check_end()
            self._begin_epoch()
        return self._last._replace(entries=to_device(self._last.entries, self.device))

    def __iter__(self) -> Iterator[Minibatch]:
        return self

    def take(self) -> list[Minibatch]:
        """The minibatches of a gradient step, all of one epoch; without data there are always more."""
        taken = [next(self)]
        if not taken[0].entries:
            return [*taken, *(next(self) for _ in range(self.data.accumulate - 1))]
        while taken[-1].more and self._goes_on():
            taken.append(next(self))
        return taken

    def exhausted(self) -> bool:
        """Whether an epoch of unknown length has ended here; its next minibatch is drawn to see."""
        return not len(self.data) and self.place > 0 and not self._goes_on()

    def _goes_on(self) -> bool:
        """Whether the epoch of the last minibatch has more of them."""
        return self.place > 0 if len(self.data) else self._ready is not None or self._draw()

    def _draw(self) -> bool:
        """Draws the next minibatch of this epoch; if there is none, the next epoch begins."""
        if self._rest is None:
            self._rest = self.data.epoch(self.epoch, self.place, self._seen)
        self._ready = next(self._rest, None)
        if self._ready is not None:
            return True
        length = len(self.data)
        if not self.place or length:
            wanted = f"{length} minibatches, its length," if length else "at least one minibatch"
            raise ValueError(f"`data` must give {wanted} in every epoch, got {self.place} in epoch {self.epoch}")
        self._begin_epoch()
        return False

    def _check_end(self) -> None:
        """Checks that a loader gives no more minibatches than its length."""
        if next(self._rest, None) is not None:
            raise ValueError(
                f"`data` must give {len(self.data)} minibatches, its length, in every epoch, got more in epoch "
                f"{self.epoch}"
            )

    def _begin_epoch(self) -> None:
        self.epoch, self.place, self._rest = self.epoch + 1, 0, None
        self.data.between_epochs()

    def state_dict(self) -> dict[str, Any]:
        """The place, and for a loader what it takes to find it again."""
        if self.place == 0 and self._ready is None:  # the dry run, or reading, may have moved a loader's generators
            self.data.between_epochs()
        loader = self.data.state_dict()
        seen = self._seen
        if loader is not None and self.place and self._last:
            seen = digest(self._last.entries)
        return {"epoch": self.epoch, "place": self.place, "loader": loader, "seen": seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the place.

        Raises:
            ValueError: the data are a loader where they were none, or the other way round, or one with other
                generators.
        """
        own = self.data.state_dict()
        if (own is None) != (state["loader"] is None):
            raise ValueError("`data` must be as in the checkpoint: a loader now and then, or never")
        if own is not None:
            if len(state["loader"]) != len(own):
                raise ValueError(
                    f"`data` must have as many generators of its own as in the checkpoint, {len(state['loader'])}, "
                    f"got {len(own)}"
                )
            self.data.load_state_dict(state["loader"])
        self.epoch, self.place = state["epoch"], state["place"]
        self._seen = state["seen"] if self.place else None
        self._rest = self._ready = self._last = None


def most_taken(turns: Sequence[Turn], steps: int | None, accumulate: int) -> int | None:
    """How many minibatches turns take at most, if they are given a number of steps."""
    if steps is None:
        return None
    return accumulate * sum(turn.repeats * (steps // turn.every) for turn in turns)
