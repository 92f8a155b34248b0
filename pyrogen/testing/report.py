"""Results of contract checks: one finding a check, and a report of them all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "skipped"]


class BreachError(Exception):
    """The contract is broken; the message is the sentence of the finding."""


class NotApplicableError(Exception):
    """A check does not apply to this module; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Args:
        name: The name of the check.
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``.
        sentence: What was found, or why the check was skipped.
        seconds: How long the check took.
    """

    name: str
    outcome: Outcome
    sentence: str
    seconds: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether the check ran and found the contract kept."""
        return self.outcome == "passed"

    def __str__(self) -> str:
        return f"{self.outcome:<8}{self.name}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """The findings of all checks on one module.

    Args:
        subject: What was checked, for people to read.
        findings: One finding for each check, in the order in which they ran.
    """

    subject: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; skipped checks do not count."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings of the checks that failed."""
        return tuple(finding for finding in self.findings if finding.outcome == "failed")

    @property
    def skipped(self) -> tuple[Finding, ...]:
        """The findings of the checks that did not apply, each with its reason."""
        return tuple(finding for finding in self.findings if finding.outcome == "skipped")

    @property
    def seconds(self) -> float:
        """How long all checks took together."""
        return sum(finding.seconds for finding in self.findings)

    def raise_if_failed(self) -> None:
        """Does nothing if the contract is kept.

        Raises:
            AssertionError: at least one check failed; the message holds the sentence of each.
        """
        if self.failures:
            lines = "\n".join(f"  {finding.name}: {finding.sentence}" for finding in self.failures)
            raise AssertionError(f"{self.subject} breaks the contract in {len(self.failures)} checks:\n{lines}")

    def __str__(self) -> str:
        counts = {outcome: sum(f.outcome == outcome for f in self.findings) for outcome in _OUTCOMES}
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return "\n".join([f"{self.subject}: {summary} ({self.seconds:.1f} s)", *map(str, self.findings)])


_OUTCOMES: tuple[Outcome, ...] = ("passed", "failed", "skipped")


def require(kept: bool, sentence: str) -> None:
    """Fails the running check with ``sentence`` unless ``kept``.

    Raises:
        BreachError: ``kept`` is false.
    """
    if not kept:
        raise BreachError(sentence)
