"""Results of benchmarks in a file, one JSON object a line; what it holds is not run again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


def read(file: Path) -> list[dict]:
    """The lines of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def known(file: Path | None) -> list[dict]:
    """The lines of a file, if there is one yet."""
    return read(file) if file and file.exists() else []


def keep(found: Iterable[dict], lines: list[dict], file: Path | None) -> None:
    """Adds what is found to the lines that are known and, if there is one, to the file, one after the other."""
    for line in found:
        lines.append(line)
        print(json.dumps(line), flush=True)
        if file:
            with file.open("a") as opened:
                opened.write(json.dumps(line) + "\n")
