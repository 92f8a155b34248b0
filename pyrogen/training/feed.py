"""Minibatches without end, epoch after epoch, and the place in them: no row twice or never within an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyrogen.core.batches import Batches, LoaderBatches, Minibatch, digest


class Feed:
    """Gives a run its minibatches.

    The end of an epoch of unknown length is found by asking for more, and no minibatch is drawn before it is needed: a
    checkpoint holds what has been trained on, and what is drawn after it is drawn again.

    Args:
        data: Where they come from.

    Attributes:
        epoch: Epochs finished.
        place: Minibatches drawn of the next one.
    """

    def __init__(self, data: Batches | LoaderBatches) -> None:
        self.data = data
        self.epoch = 0
        self.place = 0
        self._rest: Iterator[Minibatch] | None = None
        self._ready: Minibatch | None = None
        self._last: Minibatch | None = None
        self._seen: str | None = None

    def __next__(self) -> Minibatch:
        if self._ready is None and not self._draw():
            self._draw()
        self._last, self._ready = self._ready, None
        self.place += 1
        if self.place == len(self.data):
            self._check_end()
            self._turn()
        return self._last

    def __iter__(self) -> Iterator[Minibatch]:
        return self

    def exhausted(self) -> bool:
        """Whether an epoch of unknown length has ended here; its next minibatch is drawn to see."""
        return not len(self.data) and self._ready is None and self.place > 0 and not self._draw()

    def _draw(self) -> bool:
        """Draws the next minibatch of this epoch; if there is none, the next epoch begins."""
        if self._rest is None:
            self._rest = self._epoch()
        self._ready = next(self._rest, None)
        if self._ready is not None:
            return True
        length = len(self.data)
        if not self.place or length:
            wanted = f"{length} minibatches, as its length says" if length else "at least one minibatch"
            raise ValueError(f"`data` must give {wanted}, in every epoch, got {self.place} in epoch {self.epoch}")
        self._turn()
        return False

    def _epoch(self) -> Iterator[Minibatch]:
        if isinstance(self.data, LoaderBatches):
            return self.data.epoch(self.epoch, self.place, self._seen)
        return self.data.epoch(self.epoch, self.place)

    def _check_end(self) -> None:
        """Sees that a loader gives no more than its length says."""
        if isinstance(self.data, LoaderBatches) and next(self._rest, None) is not None:
            raise ValueError(
                f"`data` must give {len(self.data)} minibatches, as its length says, in every epoch, got more in epoch "
                f"{self.epoch}"
            )

    def _turn(self) -> None:
        self.epoch, self.place, self._rest = self.epoch + 1, 0, None
        if isinstance(self.data, LoaderBatches):
            self.data.between_epochs()

    def state_dict(self) -> dict[str, Any]:
        """The place, and for a loader what it takes to find it again."""
        state: dict[str, Any] = {"epoch": self.epoch, "place": self.place, "loader": None, "seen": None}
        if isinstance(self.data, LoaderBatches):
            state["loader"] = self.data.state_dict()
            state["seen"] = digest(self._last.entries) if self.place and self._last else self._seen
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the place.

        Raises:
            ValueError: the data are a loader where they were none, or the other way round, or one with other
                generators.
        """
        is_loader = isinstance(self.data, LoaderBatches)
        if is_loader != (state["loader"] is not None):
            raise ValueError("`data` must be as in the checkpoint: a loader now and then, or never")
        if is_loader:
            if len(state["loader"]) != len(self.data.state_dict()):
                raise ValueError(
                    f"`data` must have as many generators of its own as in the checkpoint, {len(state['loader'])}, "
                    f"got {len(self.data.state_dict())}"
                )
            self.data.load_state_dict(state["loader"])
        self.epoch, self.place = state["epoch"], state["place"]
        self._seen = state["seen"] if self.place else None
        self._rest = self._ready = self._last = None
