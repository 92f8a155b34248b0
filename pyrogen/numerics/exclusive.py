"""What the whole process shares, handlers of programs and states of generators above all, in one thread at a time.

Pyro keeps one stack of handlers and one parameter store for all threads, and torch one generator. Programs that ran in
two threads at once would see each other's sites, and a scope that ends in one thread while another's lasts would put
back a state that is not its own. So threads take turns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()
_held = threading.local()


@contextmanager
def exclusive() -> Iterator[None]:
    """A scope that one thread is in at a time; within it the same thread may enter another."""
    lock, held = _lock, _held  # a process that is forked within has others
    with lock:
        held.depth = _depth() + 1
        try:
            yield
        finally:
            held.depth -= 1


@contextmanager
def released() -> Iterator[None]:
    """A scope in which other threads may be in :func:`exclusive` ones, although this one is.

    It is for code of the user's, which may wait for them, and changes nothing where this thread is in none.
    """
    lock, held, depth = _lock, _held, _depth()
    held.depth = 0
    for _ in range(depth):
        lock.release()
    try:
        yield
    finally:
        for _ in range(depth):
            lock.acquire()
        held.depth = depth


def _depth() -> int:
    return getattr(_held, "depth", 0)


def _renew() -> None:
    """In a process that was forked, no thread but this one goes on, and none would release what another held."""
    global _lock, _held
    _lock, _held = threading.RLock(), threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
