"""Writes the tables of ``benchmarks/results/tables/`` into README and documentation, between their markers.

    <!-- table: latent/speed -->
    (written by this script)
    <!-- end of table -->

shows ``benchmarks/results/tables/latent/speed.json``: columns, rows, and what was run when and on which machine. A test
compares pages and files.

    python benchmarks/tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "benchmarks" / "results" / "tables"
MARKED = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def pages() -> list[Path]:
    """README and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def rendered(text: str) -> str:
    """The text of a page with its tables as the files have them."""
    return MARKED.sub(lambda match: match[1] + shown(TABLES / f"{match[2]}.json") + match[3], text)


def shown(file: Path) -> str:
    """A table in Markdown, and below it where its numbers come from."""
    table = json.loads(file.read_text())
    origin = [f"`{table['command']}`", *(table[key] for key in ("date", "machine", "commit", "source"))]
    return f"{markdown(table['columns'], table['rows'])}\n\n*{'; '.join(part for part in origin if part)}*\n"


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """Columns and rows as a table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *rows])


def main() -> None:
    for page in pages():
        text = page.read_text()
        if (new := rendered(text)) != text:
            page.write_text(new)
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
