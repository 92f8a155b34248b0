"""Checkpoints: a whole run in one file, to the last random number.

The states of a run are nested dicts, lists and tuples of numbers and tensors. :func:`flatten` takes the tensors out, so
that the rest is JSON, and :func:`unflatten` puts them back. Long lists of numbers (the history) go with the tensors: a
header of safetensors must stay small.
"""

from __future__ import annotations

import os
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import non_negative
from pyrogen.core import archive

from .lock import HeldError, locked

KIND = "training run"


class Checkpoint:
    """Where ``fit`` saves its run, and how often.

    One run writes a file at a time: a second one on the same file is refused while the first lasts.

    Args:
        path: The file. If it exists, the run resumes from it.
        every: Seconds between two saves; the first step, the end of a run and an interrupt save as well.

    Raises:
        TypeError: ``path`` is no path, or ``every`` no number.
        ValueError: ``every`` is negative, or not finite.
    """

    def __init__(self, path: str | os.PathLike, *, every: float = 60.0) -> None:
        self.path = archive.as_path(path)
        self.every = non_negative(every, "every")
        self._saved: float | None = None
        self._alone = False

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """A scope in which no other run may write this file.

        Raises:
            OSError: the folder does not exist or cannot be written in.
            ValueError: another run writes the file.
        """
        archive.check_place(self.path, "checkpoint")
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path))
            except HeldError:
                raise ValueError(
                    f"`checkpoint` must be a file that no other run is writing, got {str(self.path)!r}"
                ) from None
            except OSError as error:
                raise OSError(
                    error.errno, f"`checkpoint` cannot be written ({error.strerror})", str(self.path)
                ) from error
            self._saved, self._alone = None, True
            stack.callback(setattr, self, "_alone", False)
            yield

    def due(self) -> bool:
        """Whether it is time to save: after the first step, to find out early what cannot be saved, and then on."""
        return self._saved is None or time.monotonic() - self._saved >= self.every

    def save(self, state: Any) -> None:
        """Writes a run's state, atomically.

        Raises:
            OSError: the file cannot be written.
            ValueError: the state holds what a file cannot.
        """
        tensors: dict[str, Tensor] = {}
        document = flatten(state, tensors)
        archive.write(self.path, KIND, document, tensors, alone=self._alone)
        self._saved = time.monotonic()

    def load(self) -> Any:
        """The state of the run saved last, or ``None`` if there is no file.

        Raises:
            FileNotFoundError: the folder it would go to does not exist.
            IsADirectoryError: it is a folder.
            ValueError: the file is truncated, altered or not a training run.
        """
        archive.check_place(self.path, "checkpoint")
        if not self.path.exists():
            return None
        document, tensors = archive.read(self.path, KIND)
        try:
            return unflatten(document, tensors)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{str(self.path)!r} holds a document that makes no sense: {error!r}") from error


_KINDS: dict[type, str] = {list: "list", tuple: "tuple", dict: "dict", OrderedDict: "ordered", Counter: "counter"}
_MAKE = {name: kind for kind, name in _KINDS.items()}


def flatten(state: Any, tensors: dict[str, Tensor], where: str = "the state") -> Any:
    """A nested state as JSON values, its tensors moved to ``tensors``.

    Only what comes back as it was passes: a subclass, or an object of another kind, is refused.

    Args:
        state: Numbers, strings, tensors, and lists, tuples, dicts and counters of such.
        tensors: Filled.
        where: What errors call the state.

    Raises:
        ValueError: the state holds something else.
    """
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    if isinstance(state, Tensor):
        name = str(len(tensors))
        tensors[name] = state
        return {"tensor": name}
    kind = _KINDS.get(type(state))
    if kind is None:
        raise ValueError(
            f"a checkpoint holds numbers, strings, tensors and nests of them, got {type(state).__name__} in {where}"
        )
    if isinstance(state, dict):
        pairs = [
            [flatten(key, tensors, where), flatten(value, tensors, f"{where}[{key!r}]")] for key, value in state.items()
        ]
        return {kind: pairs}
    if kind == "list" and state and all(type(entry) is float for entry in state):
        return {"floats": flatten(torch.tensor(state, dtype=torch.float64), tensors)}
    if all(isinstance(entry, (int, float)) for entry in state):
        return {kind: list(state)}
    return {kind: [flatten(entry, tensors, f"{where}[{index}]") for index, entry in enumerate(state)]}


def unflatten(document: Any, tensors: dict[str, Tensor]) -> Any:
    """The nested state that :func:`flatten` took apart."""
    if not isinstance(document, dict):
        return document
    ((kind, content),) = document.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "floats":
        return unflatten(content, tensors).tolist()
    if kind in ("list", "tuple"):
        return _MAKE[kind](unflatten(entry, tensors) for entry in content)
    return _MAKE[kind]({unflatten(key, tensors): unflatten(value, tensors) for key, value in content})


def check_settings(stored: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises if a run has other settings than the one it would resume."""
    for name, value in own.items():
        if stored.get(name, value) != value:  # one of an earlier pyrogen may lack a name
            raise ValueError(f"{name} must be as in the checkpoint, {stored[name]}, got {value}")
