"""Results of benchmarks in files: raw ones, one JSON object a line, which are not run again; and tables of them."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from functools import cache
from pathlib import Path

import torch
from tables import markdown


def read(file: Path) -> list[dict]:
    """The lines of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def known(file: Path | None) -> list[dict]:
    """The lines of a file, if there is one yet."""
    return read(file) if file and file.exists() else []


def keep(found: Iterable[dict], lines: list[dict], file: Path | None) -> None:
    """Adds what is found to the lines that are known and, if there is one, to the file, one after the other."""
    for line in found:
        lines.append(line | origin())
        print(json.dumps(line), flush=True)
        if file:
            with file.open("a") as opened:
                opened.write(json.dumps(lines[-1]) + "\n")


def table(columns: list[str], rows: list[list[str]], file: Path | None, lines: Iterable[dict] = ()) -> None:
    """Prints a table and, if there is a file for it, writes it there for ``tables.py`` to show in the documentation.

    It comes from the run that wrote the last of the raw ``lines``, or from this one.
    """
    print(markdown(columns, rows))
    if file is None:
        return
    last = [line for line in lines if "date" in line][-1:]
    described = {"command": shlex.join(["python", *sys.argv]), **origin(*last), "source": "", "columns": columns}
    head = json.dumps(described, indent=2, ensure_ascii=False).removesuffix("\n}")
    body = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'{head},\n  "rows": [\n    {body}\n  ]\n}}\n')


def origin(line: dict | None = None) -> dict[str, str]:
    """When, where and by which commit a result is made, or a line was."""
    if line:
        return {key: line[key] for key in ("date", "machine", "commit")}
    threads = f"{torch.get_num_threads()} thread(s)"
    return {
        "date": str(date.today()),
        "machine": f"{processor()}, {threads}, torch {torch.__version__}",
        "commit": commit(),
    }


def processor() -> str:
    """The processor's name for itself."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@cache
def commit() -> str:
    """The commit whose code runs."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True)
    return f"commit {found.stdout.decode().strip()}" if found.returncode == 0 else ""
