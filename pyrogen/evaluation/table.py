"""Tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyrogen.core.estimate import Estimate


def table(columns: Sequence[str], rows: Mapping[str, Sequence[object]]) -> str:
    """Results as text, a row for each name: estimates as their errors round them, and all else as ``str`` has it.

    Args:
        columns: What stands above the cells; units, if there are any, for they are not in the cells.
        rows: The cells of each row, as many as there are columns or fewer. Columns that no row reaches are left out.

    Raises:
        ValueError: a row has more cells than there are columns.

    Example:
        >>> print(table(["nats", "draws"], {"flow": [Estimate(-61.31, 0.42), 100], "VAE": [Estimate(-64.5, 1.1)]}))
              nats           draws
        flow  -61.31 ± 0.42  100
        VAE   -64.5 ± 1.1
    """
    for name, cells in rows.items():
        if len(cells) > len(columns):
            raise ValueError(f"`rows` must have at most {len(columns)} cells, got {len(cells)} of {name!r}")
    lines = [[name, *map(_shown, cells)] for name, cells in rows.items()]
    width = max(map(len, lines), default=1)
    return aligned([line + [""] * (width - len(line)) for line in [["", *columns][:width], *lines]])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells, in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _shown(cell: object) -> str:
    return cell.rounded() if isinstance(cell, Estimate) else str(cell)
