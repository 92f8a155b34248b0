"""Ctrl-C between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interrupt:
    """Whether the user pressed Ctrl-C: read between steps, so that no step is cut in two."""

    def __init__(self) -> None:
        self.pressed = False

    @contextmanager
    def held(self, hold: bool) -> Iterator[None]:
        """A scope in which an interrupt waits; a second one is not held back."""
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
