"""Tables in HTML: what notebooks show of a thing, and what reports are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_CELL = "text-align: left; vertical-align: top"
_TITLE = "text-align: left; font-weight: 600; padding-bottom: 0.3em"


def table(rows: Iterable[Sequence[Any]], header: Sequence[Any] = (), *, style: str = "") -> str:
    """Rows of cells, the first of which names its row; all text is escaped.

    Args:
        rows: The rows.
        header: The names of the columns.
        style: Of the cells, where the page around them has another.

    Example:
        >>> table([["steps", 20]], header=["", "a < b"])
        '<table><thead><tr><th scope="col"></th><th scope="col">a &lt; b</th></tr></thead>\
<tbody><tr><th scope="row">steps</th><td>20</td></tr></tbody></table>'
    """
    columns = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in header)
    head = f"<thead><tr>{columns}</tr></thead>" if header else ""
    body = "".join(_row(style, *row) for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def notebook_table(title: str, facts: Mapping[str, Any], *, warning: str = "") -> str:
    """What a thing is, for a notebook: its title, a warning if there is one, and a row for each fact."""
    lines = [f'<div style="{_TITLE}">{escape(title)}</div>']
    if warning:
        lines.append(f'<div><strong style="color: #D55E00">{escape(warning)}</strong></div>')
    return "".join([*lines, table(facts.items(), style=_CELL) if facts else ""])


def _row(style: str, name: Any, *cells: Any) -> str:
    look = f' style="{style}"' if style else ""
    values = "".join(f"<td{look}>{escape(str(cell))}</td>" for cell in cells)
    return f'<tr><th scope="row"{look}>{escape(str(name))}</th>{values}</tr>'
