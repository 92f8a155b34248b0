"""One writer at a time: a lock on a file that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks on this system, hence no check
    fcntl = None

_PATIENCE = 6.0
"""Seconds to wait for a lock: workers of a loader outlive a killed run, and with it hold its lock, for up to five."""


class HeldError(Exception):
    """Another run holds the lock."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A scope in which no other one, in this process or another on the same system, may hold the lock of a path.

    Raises:
        HeldError: another does.
        OSError: no file can be made beside ``path``.
    """
    path = Path(os.path.realpath(path))
    lock = path.with_name(f".{path.name}.lock")
    handle = _acquired(lock)
    try:
        yield
    finally:
        with suppress(OSError):  # the file was deleted meanwhile
            lock.unlink()
        os.close(handle)


def _acquired(lock: Path) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None or (_lock(handle) and _is_at(handle, lock)):
                return handle
        except OSError:  # a file system without locks
            return handle
        os.close(handle)
        if time.monotonic() > deadline:
            raise HeldError
        time.sleep(0.05)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(handle: int, lock: Path) -> bool:
    """Whether the file is still there: the run that held it before has removed it when it ended."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False
