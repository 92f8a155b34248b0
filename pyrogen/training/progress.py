"""The record of a run: its history, its result, and the progress bar on the terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from pyrogen.markup import notebook_table


@dataclass
class History:
    """What a run recorded.

    Attributes:
        losses: For each turn, its loss in every step in which it was taken.
        gradient_norms: For each turn, the norms of its gradients, likewise.
        validation: The held-out loss (or metric) by step.
        seconds: Time spent, in all runs that made this history.
        unit: What the losses of the first turn are measured in; empty if its objective states none.
    """

    losses: list[list[float]] = field(repr=False)
    gradient_norms: list[list[float]] = field(repr=False)
    validation: dict[int, float] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    unit: str = "nats per datum"

    @property
    def loss(self) -> list[float]:
        """The losses of the first turn."""
        return self.losses[0]


_ENDED = {
    "steps": "all that were asked for",
    "epochs": "all epochs that were asked for",
    "patience": "until the held-out loss no longer fell",
}


@dataclass
class Fit:
    """What a run gave.

    Attributes:
        history: Losses, gradient norms and held-out losses.
        best_step: The step whose weights remain: that of the best held-out loss (or metric), or the last.
        reason: Why it ended: ``"steps"``, ``"epochs"``, ``"patience"``, or the reason of a callback.
    """

    history: History
    best_step: int
    reason: str

    @property
    def ended(self) -> str:
        """Why it ended, in words; the reason of a callback as it is."""
        return _ENDED.get(self.reason, f"stopped: {self.reason}")

    def facts(self) -> dict[str, str]:
        """What happened, in words."""
        history = self.history
        facts = {"steps": f"{len(history.loss):,}, {self.ended}", "time": f"{history.seconds:.1f} s"}
        for turn, losses in enumerate(history.losses):
            name = f"last loss of turn {turn + 1}" if len(history.losses) > 1 else "last loss"
            if losses:
                facts[name] = f"{losses[-1]:.4g} {'' if turn else history.unit}".strip()
        if self.best_step in history.validation:
            best = history.validation[self.best_step]
            facts["best held out"] = f"{best:.4g} at step {self.best_step:,}, whose weights remain"
        return facts

    def _repr_html_(self) -> str:
        return notebook_table("Fit", self.facts())


@dataclass
class Progress:
    """Where a run stands: what callbacks are called with after every step.

    Attributes:
        step: Steps taken.
        epoch: Epochs finished.
        history: What was recorded so far; ``history.losses[turn][-1]`` is the newest loss.
        validation: The held-out loss (or metric) of this very step, if it was validated.
        best_step: The step of the best held-out loss so far.
        reason: Why the run ends after this step; ``None`` while it goes on.
        learning_rates: Of each turn, the learning rate of this step (that of its optimizer's first parameters).
        rank: Which of the processes that share the run this is; zero is the first, or the only one.
    """

    history: History
    step: int = 0
    epoch: int = 0
    validation: float | None = None
    best_step: int = 0
    reason: str | None = None
    learning_rates: list[float] = field(default_factory=list)
    rank: int = 0

    def stop(self, reason: str) -> None:
        """Ends the run after this step, with this reason.

        In all processes, if there are several. A checkpoint remembers it: the run goes on only if it is given more
        steps, epochs or patience than it had.
        """
        if not isinstance(reason, str):
            raise TypeError(f"`reason` must be a str, got {type(reason).__name__}")
        self.reason = reason


def watched(
    total: int | None = None, *, unit: str = "step", initial: int = 0, shown: bool = True, delay: float = 0.0
) -> tqdm:
    """A progress bar that shows in terminals and notebooks only.

    Args:
        total: How much there is to do, if known.
        unit: Of what.
        initial: How much is done already.
        shown: Whether this process shows anything.
        delay: For how many seconds nothing is shown.
    """
    seen = shown and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(total=total, initial=initial, unit=unit, disable=not seen, dynamic_ncols=True, delay=delay)


class Bar:
    """The progress bar: loss, held-out loss, speed, time left. Shown in terminals and notebooks only.

    Args:
        total: Steps to take, if known.
        step: Steps already taken.
        shown: Whether this process shows anything.
    """

    def __init__(self, total: int | None, step: int, shown: bool) -> None:
        self.bar = watched(total, initial=step, shown=shown)

    def update(self, progress: Progress) -> None:
        """Shows a step."""
        if self.bar.disable:
            return
        if self.bar.update():
            self.bar.set_postfix(self._shown(progress), refresh=False)

    def _shown(self, progress: Progress) -> dict[str, str]:
        losses = [f"{losses[-1]:.4g}" for losses in progress.history.losses if losses]
        shown: dict[str, Any] = {"loss": " ".join(losses)}
        if progress.history.validation:
            shown["held-out"] = f"{next(reversed(progress.history.validation.values())):.4g}"
        return shown

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
