"""How far one sequence is from another: what must be changed of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch

from pyrogen.arguments import checked
from pyrogen.core.estimate import Estimate


class ErrorRate(NamedTuple):
    """How many members of sequences are wrong, as a share of those that are wanted.

    Attributes:
        rate: Of one way to find them.
        difference: To the rate of the baseline on the same data.
    """

    rate: Estimate
    difference: Estimate


@checked
def error_rates(
    found: Mapping[str, Sequence[Sequence[Hashable]]],
    wanted: Sequence[Sequence[Hashable]],
    *,
    baseline: str | None = None,
) -> dict[str, ErrorRate]:
    """The error rates of several recognizers, translators or synthesizers on the same data, with paired differences.

    The rate of words is the sum of :func:`edit_distance` over sentences, divided by the number of words that are
    wanted; standard errors are those of ratios over sentences.

    Args:
        found: By the name of each, what it found for every datum: sequences of words, characters, symbols.
        wanted: What is right.
        baseline: The name of the one that others are compared with; the first if not given.

    Raises:
        ValueError: there are none, numbers of data differ, nothing is wanted, or there is no such baseline.

    Example:
        >>> rates = error_rates({"a": [["one", "two"], ["six"]], "b": [["one"], ["six"]]}, [["one", "two"], ["six"]])
        >>> print(rates["b"].difference)
        0.33 ± 0.22 error rate
    """
    if not found or baseline not in (None, *found):
        raise ValueError(f"`baseline` must be one of those that `found` names, {', '.join(found)}, got {baseline!r}")
    sizes = torch.tensor([len(each) for each in wanted])
    counts = {name: _distances(each, wanted, name) for name, each in found.items()}
    least = counts[next(iter(counts)) if baseline is None else baseline]
    return {
        name: ErrorRate(*(Estimate.of_ratio(wrong, sizes, unit="error rate") for wrong in (count, count - least)))
        for name, count in counts.items()
    }


@checked
def edit_distance(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """The fewest members that must be changed, left out or put in so that one sequence becomes another.

    Summed over sentences, and divided by the number of words that are wanted, this is the word error rate of a
    recognizer or a translation; see :func:`error_rates`.

    Args:
        found: The members of one sequence: words, characters, symbols.
        wanted: Those of the other.

    References:
        Levenshtein 1966, "Binary codes capable of correcting deletions, insertions, and reversals", Soviet Physics
        Doklady 10

    Example:
        >>> edit_distance("a cat sat down".split(), "the cat sat".split())
        2
    """
    row = list(range(len(wanted) + 1))
    for place, member in enumerate(found, start=1):
        above, row = row, [place]
        for column, other in enumerate(wanted):
            row.append(min(above[column] + bool(member != other), above[column + 1] + 1, row[column] + 1))
    return row[-1]


def _distances(found: Sequence[Sequence[Hashable]], wanted: Sequence[Sequence[Hashable]], name: str) -> torch.Tensor:
    if len(found) != len(wanted):
        raise ValueError(f"`found` must have the {len(wanted)} data of `wanted`, got {len(found)} of {name!r}")
    return torch.tensor([edit_distance(*pair) for pair in zip(found, wanted, strict=True)])
