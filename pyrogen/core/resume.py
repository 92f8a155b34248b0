"""Resuming: a whole run in one file, to the last random number.

The states of a run are nested dicts, lists and tuples of numbers and tensors. :func:`flatten` takes the tensors out, so
that the rest is JSON, and :func:`unflatten` puts them back. Long lists of numbers (the history) go with the tensors: a
header of safetensors must stay small.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import archive

KIND = "training run"


class Checkpoint:
    """Where ``fit`` saves its run, and how often.

    Args:
        path: The file. If it exists, the run resumes from it.
        every: Seconds between two saves; the end of a run and an interrupt save as well.

    Raises:
        ValueError: ``every`` is negative.
    """

    def __init__(self, path: str | os.PathLike, *, every: float = 60.0) -> None:
        if every < 0:
            raise ValueError(f"`every` must be a number of seconds, got {every}")
        self.path = Path(path)
        self.every = every
        self._saved = time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self._saved >= self.every

    def save(self, state: Any) -> None:
        """Writes a run's state, atomically."""
        tensors: dict[str, Tensor] = {}
        document = flatten(state, tensors)
        archive.write(self.path, KIND, document, tensors)
        self._saved = time.monotonic()

    def load(self) -> Any:
        """The state of the run saved last, or ``None`` if there is no file.

        Raises:
            FileNotFoundError: the folder it would go to does not exist.
            ValueError: the file is truncated, altered or not a training run.
        """
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {str(self.path.parent)!r} for the checkpoint")
        archive.sweep(self.path)
        if not self.path.exists():
            return None
        document, tensors = archive.read(self.path, KIND)
        return unflatten(document, tensors)


def flatten(state: Any, tensors: dict[str, Tensor]) -> Any:
    """A nested state as JSON values, its tensors moved to ``tensors``."""
    if isinstance(state, Tensor):
        name = str(len(tensors))
        tensors[name] = state
        return {"tensor": name}
    if isinstance(state, dict):
        return {"dict": [[key, flatten(value, tensors)] for key, value in state.items()]}
    if isinstance(state, (list, tuple)):
        kind = "list" if isinstance(state, list) else "tuple"
        if kind == "list" and state and all(type(entry) is float for entry in state):
            return {"floats": flatten(torch.tensor(state, dtype=torch.float64), tensors)}
        if all(isinstance(entry, (int, float)) for entry in state):
            return {kind: list(state)}
        return {kind: [flatten(entry, tensors) for entry in state]}
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise ValueError(f"a checkpoint holds numbers, strings, tensors and nests of them, got {type(state).__name__}")


def unflatten(document: Any, tensors: dict[str, Tensor]) -> Any:
    """The nested state that :func:`flatten` took apart."""
    if not isinstance(document, dict):
        return document
    ((kind, content),) = document.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "floats":
        return unflatten(content, tensors).tolist()
    if kind == "dict":
        return {key: unflatten(value, tensors) for key, value in content}
    entries = [unflatten(entry, tensors) for entry in content]
    return entries if kind == "list" else tuple(entries)


def check_settings(stored: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises if a run has other settings than the one it would resume."""
    for name, value in own.items():
        if stored[name] != value:
            raise ValueError(f"{name} must be as in the checkpoint, {stored[name]}, got {value}")


class Interrupt:
    """Whether the user pressed Ctrl-C: asked between steps, so that no step is cut in two."""

    def __init__(self) -> None:
        self.pressed = False

    @contextmanager
    def held(self, hold: bool) -> Iterator[None]:
        """A scope in which an interrupt waits to be asked for; a second one is not held back."""
        if not hold or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            # None: a handler that was not installed from Python.
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)

    def _press(self, number: int, frame: Any) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
