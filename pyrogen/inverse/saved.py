"""Runs that are saved on the way, and go on from their file to the last random number.

A run that goes on begins as the one before it did, with the same random numbers, so that all that is prepared (noise
levels, variances of steps, particles to start from) is the same and need not be in the file. Then it takes over what
the file holds, and the random numbers go on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyrogen.numerics.randomness import random_states, set_random_states
from pyrogen.training.checkpoint import Checkpoint, check_settings


class Resumable(Protocol):
    """What can be saved."""

    def state_dict(self) -> dict[str, Any]:
        """All of it, in numbers and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what another run was."""


class Beginning(NamedTuple):
    """What a run begins with, by site.

    Attributes:
        data: The observed values.
        draws: A draw of the prior.
    """

    data: dict[str, Tensor]
    draws: dict[str, Tensor]


class Saved:
    """A run and its file, if it has one.

    Args:
        checkpoint: The file, or ``None``.
    """

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._found = checkpoint.load() if checkpoint else None
        if self._found is not None:
            _check_kind(self._found)
            set_random_states(self._found["began"])
        self._began = random_states() if checkpoint else None

    def resume(self, run: Resumable, begin: Callable[[], Beginning], **settings: Any) -> None:
        """Takes over what the file holds, if there is one.

        Args:
            run: As it begins.
            begin: Gives the data and a draw of the prior.
            settings: What must be as it was.

        Raises:
            ValueError: something is not as it was, or the file is of another kind of run.
        """
        if self._checkpoint is None:
            return
        states = random_states()
        set_random_states(self._began)  # whatever the run drew since then
        self._begun = {"settings": settings, **begin()._asdict()}
        set_random_states(states)
        if self._found is not None:
            check_settings(self._found["settings"], settings)
            check_same_data(self._begun["data"], self._found["data"])
            check_alike(self._begun["draws"], self._found["draws"], 1e-3, "draws of the prior")
            device = next(iter(self._begun["draws"].values())).device
            run.load_state_dict(placed(self._found["run"], device))
            set_random_states(self._found["now"])

    def save(self, run: Resumable, *, last: bool) -> None:
        """Saves the run, if it is time to, and after the last step."""
        if self._checkpoint and (last or self._checkpoint.due()):
            states = {"began": self._began, "now": random_states()}
            self._checkpoint.save({**self._begun, "run": run.state_dict(), **states})


@contextmanager
def saved(checkpoint: Checkpoint | None) -> Iterator[Saved]:
    """A scope in which a run may be saved in a file, and no other writes it."""
    with checkpoint.reserved() if checkpoint else nullcontext():
        yield Saved(checkpoint)


def placed(state: Any, device: torch.device) -> Any:
    """What a file held, with its tensors on a device."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {key: placed(value, device) for key, value in state.items()}
    return type(state)(placed(value, device) for value in state) if isinstance(state, list | tuple) else state


def as_checkpoint(value: str | os.PathLike | Checkpoint | None) -> Checkpoint | None:
    """A checkpoint by its path, or as it is."""
    return value if isinstance(value, Checkpoint | None) else Checkpoint(value)


def check_same(found: Tensor, kept: Tensor) -> None:
    """Raises a ValueError unless log-likelihoods are those that a checkpoint holds."""
    if found.shape != kept.shape or not torch.allclose(found, kept, rtol=1e-4, atol=1e-3):
        raise ValueError(
            "`checkpoint` must hold a run of the same model and data, got one whose particles had other "
            f"log-likelihoods: the first {kept.flatten()[0]:.4f}, now {found.flatten()[0]:.4f}"
        )


def check_alike(found: dict[str, Tensor], kept: dict[str, Tensor], share: float, what: str) -> None:
    """Raises a ValueError unless tensors by site are those that a checkpoint holds, but for rounding."""
    if list(found) != list(kept):
        raise ValueError(f"`checkpoint` must hold a run of the same sites, got {list(kept)}, now {list(found)}")
    wrong = [name for name in found if not _alike(found[name], kept[name], share)]
    if wrong:
        raise ValueError(f"`checkpoint` must hold a run of the same model and data, got other {what} at {wrong}")


def check_same_data(found: dict[str, Tensor], kept: dict[str, Tensor]) -> None:
    """Raises a ValueError unless observed values are those that a checkpoint holds."""
    check_alike(found, kept, 1e-6, "observed values")


def _alike(found: Tensor, kept: Tensor, share: float) -> bool:
    """Whether tensors differ by no more than a share of the largest entry, which is rounding."""
    if (found.shape, found.dtype) != (kept.shape, kept.dtype):
        return False
    found, kept = found.double(), kept.to(found.device).double()
    return not found.numel() or bool((found - kept).abs().max() <= share * kept.abs().max())


def _check_kind(state: Any) -> None:
    if not isinstance(state, dict) or set(state) != {"settings", "data", "draws", "run", "began", "now"}:
        raise ValueError("`checkpoint` must hold a run of TemperedSMC or SplitGibbs, got another kind of run")
