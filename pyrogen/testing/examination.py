"""Running checks: each in a world of its own, each ending in a finding whatever happens."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from pyro.util import get_rng_state, set_rng_state
from torch.distributions import Distribution

from .report import BreachError, Finding, NotApplicableError, Outcome, Report

Check = Callable[[Any], str]
"""Takes the subject, gives the sentence of what was found; its name is the name of the finding."""


def examine(subject: Any, checks: Sequence[Check], only: Collection[str]) -> Report:
    """Runs the checks one by one.

    Raises:
        ValueError: ``only`` names a check that does not exist.
    """
    unknown = sorted(set(only) - {check.__name__ for check in checks})
    if unknown:
        raise ValueError(f"`only` must name checks among {[check.__name__ for check in checks]}, got {unknown}")
    chosen = [check for check in checks if not only or check.__name__ in only]
    try:
        with isolated(0):
            name = type(subject.make()).__name__
    except Exception as error:
        finding = Finding("make", "failed", f"`make` {_raised(error)}; no check can run", 0.0)
        return Report("a module that cannot be made", (finding,))
    return Report(name, tuple(_finding(check, subject) for check in chosen))


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """A world with an empty param store and stack, validation on, gradients on and seeded noise; the old one after."""
    noise, stack, plates = get_rng_state(), list(_PYRO_STACK), list(_DIM_ALLOCATOR._stack)
    dtype, validate = torch.get_default_dtype(), Distribution._validate_args
    _PYRO_STACK.clear()
    _DIM_ALLOCATOR._stack.clear()
    try:
        with torch.random.fork_rng(), pyro.get_param_store().scope(), pyro.validation_enabled(), torch.enable_grad():
            pyro.set_rng_seed(seed)
            yield
    finally:
        _PYRO_STACK[:] = stack
        _DIM_ALLOCATOR._stack[:] = plates
        set_rng_state(noise)
        torch.set_default_dtype(dtype)
        Distribution.set_default_validate_args(validate)


def _finding(check: Check, subject: Any) -> Finding:
    start = time.perf_counter()
    outcome, sentence = _outcome(check, subject)
    return Finding(check.__name__, outcome, sentence, time.perf_counter() - start)


def _outcome(check: Check, subject: Any) -> tuple[Outcome, str]:
    try:
        with isolated(zlib.crc32(check.__name__.encode())):
            return "passed", check(subject)
    except NotApplicableError as reason:
        return "skipped", str(reason)
    except BreachError as breach:
        return "failed", str(breach)
    except Exception as error:  # whatever a third party's module raises is a finding, not the end of the report
        return "failed", _raised(error)


def _raised(error: Exception) -> str:
    first_line = next(iter(str(error).splitlines()), "without a message")
    return f"raised {type(error).__name__}: {first_line}"
