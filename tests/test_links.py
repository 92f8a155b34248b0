"""The README, CONTRIBUTING and every page of the documentation: relative links lead to files, and anchors to headings.

Links to other sites are not fetched. The gallery's pages are those that its script makes of the examples.
"""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")
CARD = re.compile(r"^:link: (?!\w+:)(\S+)\n:link-type: doc", re.MULTILINE)
PICTURE = re.compile(r"^(?:```\{figure\} |:img-top: )(\S+)", re.MULTILINE)
TREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    assert [link for link in links_of(text) if not leads_somewhere(page, link)] == []
    pages = [*CARD.findall(text), *(line for tree in TREE.findall(text) for line in entries(tree))]
    assert [name for name in pages if not (page.parent / f"{name}.md").exists()] == []
    assert [name for name in PICTURE.findall(text) if not (page.parent / name).exists()] == []


def test_every_page_is_in_a_table_of_contents():
    listed = {
        (page.parent / f"{line}.md").resolve()
        for page in PAGES
        for tree in TREE.findall(page.read_text())
        for line in entries(tree)
    }
    unlisted = set((ROOT / "docs").resolve().glob("**/*.md")) - listed - {(ROOT / "docs/index.md").resolve()}
    assert not {page for page in unlisted if not {"_build", "_generated"} & set(page.parts)}


def test_the_check_notices():
    text = "# A title\n\n[1](missing.md) [2](#a-title) [3](#nowhere) `[4](code.md)`\n\n```\n[5](code.md)\n```\n"
    page = ROOT / "docs" / "start" / "install.md"
    assert links_of(text) == ["missing.md", "#a-title", "#nowhere"]
    assert not leads_somewhere(page, "missing.md")
    assert not leads_somewhere(page, "#nowhere")
    assert leads_somewhere(page, "../index.md#pyrogen")
    assert anchors(text) == {"a-title"}


def test_gallery_is_that_of_the_examples():
    gallery = runpy.run_path(str(ROOT / "docs" / "gallery.py"), run_name="gallery")
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    for table in ("SECTIONS", "PAGES"):
        listed = [name for names in gallery[table].values() for name in names.split()]
        assert sorted(listed) == sorted(examples), f"list the examples in `{table}` of docs/gallery.py"
    for path, text in gallery["pages"]().items():
        assert path.read_text() == text, "run `python docs/gallery.py pages`"
        for picture in re.findall(r"\.\./images/gallery/\w+\.png", text):
            size = (path.parent / picture).stat().st_size
            assert size < (40_000 if picture.endswith("_small.png") else 150_000)


def links_of(text: str) -> list[str]:
    """The relative links of a page, outside code."""
    return [link for link in LINK.findall(CODE.sub("", FENCE.sub("", text))) if link]


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether a file, and in it a heading of that anchor, exist."""
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MyST make them."""
    titles = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in HEADING.findall(FENCE.sub("", text)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def entries(tree: str) -> list[str]:
    """The pages of a table of contents."""
    return [line for line in tree.splitlines() if line and not line.startswith(":")]
