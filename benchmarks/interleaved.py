"""What a step costs beside one written by hand, where other programs run on the machine: both in short turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pyrogen as pg


def in_turns(ours: Callable[[], object], hand: Callable[[], object], *, rounds: int) -> tuple[float, float]:
    """Seconds of the process that a turn by hand takes, and how many times as many ours does: medians over rounds."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(rounds + 1):  # the first warms up
        for turn, own in zip((ours, hand), times, strict=True):
            began = time.process_time()
            turn()
            own.append(time.process_time() - began)
    return statistics.median(times[1][1:]), statistics.median(a / b for a, b in list(zip(*times, strict=True))[1:])


def within_fit(
    fit: Callable[[int, list[Callable[[pg.Progress], None]]], object],
    hand: Callable[[int], object],
    *,
    steps: int,
    rounds: int,
) -> tuple[float, float]:
    """The same of training steps: some of ``fit``, then some by hand in a callback. The start of ``fit`` is no step.

    Args:
        fit: Trains for so many steps with these callbacks.
        hand: Trains for so many steps.
        steps: Of a turn.
        rounds: How many turns each has.
    """
    ours: list[float] = []
    theirs: list[float] = []
    began = time.process_time()

    def turn(progress: pg.Progress) -> None:
        nonlocal began
        if progress.step % steps == 0:
            between = time.process_time()
            hand(steps)
            ours.append(between - began)
            theirs.append(time.process_time() - between)
            began = time.process_time()

    fit((rounds + 1) * steps, [turn])
    ratios = [a / b for a, b in list(zip(ours, theirs, strict=True))[1:]]  # the first has the start in it
    return statistics.median(theirs) / steps, statistics.median(ratios)
