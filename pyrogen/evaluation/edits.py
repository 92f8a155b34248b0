"""How far one sequence is from another: what must be changed of it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from pyrogen.arguments import checked


@checked
def edit_distance(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """The fewest members that must be changed, left out or put in so that one sequence becomes another.

    Divided by the number of words that are wanted, and summed over sentences before, this is the word error rate of a
    recognizer or a translation: ``Estimate.of_ratio(distances, lengths, unit="word error rate")``.

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
