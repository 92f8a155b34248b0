"""Measured numbers in README and documentation come from files.

Tables stand between markers and are those of ``benchmarks/results/tables/``. A paragraph that quotes a measurement
links to a page of benchmarks, and each of its decimal numbers is on that page.
"""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPECIFICATION = importlib.util.spec_from_file_location("benchmark_tables", ROOT / "benchmarks" / "tables.py")
tables = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(tables)

LINK = re.compile(r"\]\((?:[\w./]*/)?benchmarks/(\w+)\.md[^)]*\)")
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)")
BLOCK = re.compile(r"^```.*?^```|<!-- table: .*?<!-- end of table -->", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_those_of_the_files(page):
    text = page.read_text()
    assert text == tables.rendered(text), "run `python benchmarks/tables.py`"


def test_every_table_is_shown_and_says_where_it_comes_from():
    shown = {name for page in tables.pages() for _, name, _ in tables.MARKED.findall(page.read_text())}
    files = {str(file.relative_to(tables.TABLES).with_suffix("")) for file in tables.TABLES.glob("**/*.json")}
    assert shown == files
    for name in files:
        table = json.loads((tables.TABLES / f"{name}.json").read_text())
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", table["date"])
        assert table["command"]
        assert table["machine"]
        assert table["commit"] or table["source"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_tables_are_written_by_scripts():
    for file in tables.TABLES.glob("**/*.json"):
        table = json.loads(file.read_text())
        script = table["command"].split()[1].removeprefix("benchmarks/")
        assert (ROOT / "benchmarks" / script).exists(), file
        assert not table["source"].startswith("as printed"), file


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_quoted_numbers_are_on_the_page_they_link_to(page):
    for paragraph in re.split(r"\n\s*\n", BLOCK.sub("", page.read_text())):
        targets = LINK.findall(paragraph)
        known = " ".join((ROOT / "docs" / "benchmarks" / f"{target}.md").read_text() for target in targets)
        missing = [number for number in NUMBER.findall(paragraph) if targets and number not in NUMBER.findall(known)]
        assert not missing, paragraph
