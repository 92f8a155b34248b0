"""The README and every page of the documentation: their Python blocks run, in order, in one namespace a page.

A line ``print(...)  # text`` says what it prints, and is held to it. Names of pyrogen in the text exist. Models and
how-tos may be notebooks, whose cells run here, too, but for those of ``BUILT_ONLY``; they and the tutorials take
longer, and run when ``make docs`` builds the pages.
"""

import re
from functools import reduce
from pathlib import Path
from types import ModuleType

import pytest

import pyrogen as pg
from pyrogen.testing.contract import DISTRIBUTION_CHECKS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
PROMISE = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BUILT_ONLY = {
    *("bounded_data", "global_latents", "own_family", "own_operator"),
    *("state_space", "point_processes", "discrete_diffusion", "few_steps", "image_flows"),
}
CELL = re.compile(r"^```\{code-cell\} python\n(?::[^\n]*\n)*(.*?)^```", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"\bpg\.((?:\w+\.)*\w+)")
MODULE = re.compile(r"^\.\. automodule:: (\S+)$", re.MULTILINE)


@pytest.mark.filterwarnings(r"ignore:\s*ArviZ is undergoing a major refactor:FutureWarning")  # once a day
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace = {"__name__": "__page__"}
    notebook = page.parent.name in ("models", "howto") and page.stem not in BUILT_ONLY and CELL.search(text)
    for match in (CELL if notebook else BLOCK).finditer(text):
        # Leading newlines make the line numbers of errors those of the page.
        source = "\n" * text[: match.start(1)].count("\n") + match.group(1)
        exec(compile(source, str(page), "exec"), namespace)
        printed, promised = capsys.readouterr().out.splitlines(), PROMISE.findall(source)
        assert printed == promised or not promised


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_exist(page):
    for name in set(NAME.findall(page.read_text())):
        reduce(getattr, name.split("."), pg)


def test_every_module_that_a_package_exports_is_on_a_page_of_the_api():
    packages = [getattr(pg, name) for name in pg.__all__]
    exported = [getattr(package, name) for package in packages for name in getattr(package, "__all__", ())]
    described = {name for page in (ROOT / "docs" / "api").glob("*.md") for name in MODULE.findall(page.read_text())}
    assert {module.__name__ for module in exported if isinstance(module, ModuleType)} - described == set()


def test_every_check_of_a_distribution_is_on_the_page_of_the_contract():
    listed = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "trust" / "contract.md").read_text()))
    assert {check.__name__ for check in DISTRIBUTION_CHECKS} - listed == set()
