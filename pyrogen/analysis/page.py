"""A page of HTML that needs no other file: sections of text, tables and figures, with a verdict on top.

Sections are made of fragments, which the functions here write; all text in them is escaped. Figures are drawings in the
page itself (SVG), which follow a dark screen; pictures keep their colours.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from html import escape
from importlib import resources
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from pyrogen import markup

from .verdicts import Verdict, overall

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PIXELS = 96 / 72  # of a screen, in a point of a drawing
_WIDTH = re.compile(rb'<svg [^>]*width="([0-9.]+)pt"')
_GRADES = {"passed": "passed", "doubtful": "doubtful", "failed": "FAILED", "noted": "noted"}


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its title.
        fragments: What it holds, in HTML.
        verdicts: What the checks in it found.
    """

    title: str
    fragments: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()

    @property
    def name(self) -> str:
        """That of its place in the page."""
        return "-".join(self.title.lower().split())

    def html(self) -> str:
        """The section as a part of a page."""
        content = "\n".join(self.fragments)
        return f'<section id="{escape(self.name)}">\n<h2>{escape(self.title)}</h2>\n{content}\n</section>'


@dataclass(frozen=True, repr=False)
class Page:
    """A report: a page of HTML, which a notebook shows and :meth:`save` writes.

    Attributes:
        title: Its title.
        verdict: All checks in one sentence, with its grade.
        verdicts: What each check found.
        html: The page.
        path: Where it was written, if anywhere.
    """

    title: str
    verdict: Verdict
    verdicts: tuple[Verdict, ...]
    html: str
    path: Path | None = None

    def save(self, path: str | Path) -> Page:
        """Writes the page to a file; gives the page that knows where it is."""
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return replace(self, path=path)

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 40rem; border: 1px solid #ccc; border-radius: 4px"
        return f'<iframe srcdoc="{escape(self.html)}" title="{escape(self.title)}" style="{style}"></iframe>'

    def __repr__(self) -> str:
        place = "" if self.path is None else f" in {self.path}"
        return f"<Page{place}: {self.title}. {self.verdict.text}>"


def page(title: str, subject: str, sections: Sequence[Section], advice: str) -> Page:
    """The page of sections, with their verdicts on top.

    Args:
        title: Its title.
        subject: What it is about, in a line.
        sections: In their order.
        advice: What the page says where a check failed.
    """
    import pyrogen

    verdicts = tuple(verdict for section in sections for verdict in section.verdicts)
    verdict = overall(verdicts, advice)
    template = Template(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    links = (f'<a href="#{escape(section.name)}">{escape(section.title)}</a>' for section in sections)
    html = template.substitute(
        title=escape(title),
        subject=escape(subject),
        grade=verdict.grade,
        verdict=escape(verdict.text),
        verdicts="".join(map(_item, verdicts)),
        contents=" ".join(links),
        sections="\n".join(section.html() for section in sections),
        footer=escape(f"Made by pyrogen {pyrogen.__version__} on {datetime.now():%d %B %Y, %H:%M}."),
        version=escape(pyrogen.__version__),
    )
    return Page(title, verdict, verdicts, html)


def section_of(title: str, make: Iterable[str | Verdict]) -> Section:
    """A section of fragments and verdicts as they are made, or the reason why it cannot be made."""
    found: list[str | Verdict] = []
    try:
        found.extend(make)
    except (NotImplementedError, ValueError) as error:
        found += [absent(f"Not computed: {error}"), Verdict("noted", f"{title}: not computed, see below.")]
    fragments = tuple(part for part in found if isinstance(part, str))
    return Section(title, fragments, tuple(part for part in found if isinstance(part, Verdict)))


def paragraph(text: str) -> str:
    """A paragraph."""
    return f"<p>{_text(text)}</p>"


def absent(text: str) -> str:
    """A paragraph on what is not there, and why."""
    return f'<p class="absent">{_text(text)}</p>'


def fact_table(rows: Iterable[Sequence[Any]]) -> str:
    """A table of facts: a name and its words in each row."""
    return f'<div class="scroll">{markup.table(rows)}</div>'


def number_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of numbers with a header."""
    return f'<div class="scroll numbers">{markup.table(rows, header)}</div>'


def folded(title: str, text: str) -> str:
    """Text that is shown on demand."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def figures(*entries: str) -> str:
    """Figures beside each other, one below the other where the screen is narrow."""
    return f'<div class="figures">{"".join(entries)}</div>'


def plot(figure: Figure, caption: str) -> str:
    """A drawing with its caption; on a dark screen it is dark."""
    return _figure(figure, caption, "plot")


def picture(figure: Figure, caption: str) -> str:
    """A picture, whose colours mean something, with its caption."""
    return _figure(figure, caption, "picture")


def _figure(figure: Figure, caption: str, kind: str) -> str:
    drawing = BytesIO()
    clear = kind == "plot"
    figure.savefig(drawing, format="svg", bbox_inches="tight", transparent=clear, metadata={"Date": None})
    data, width = drawing.getvalue(), _WIDTH.search(drawing.getvalue())
    size = "" if width is None else f' style="width: {float(width[1]) * _PIXELS:.0f}px"'
    data = b64encode(data).decode("ascii")
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(caption)}">'
    return f'<figure class="{kind}"{size}>{image}<figcaption>{_text(caption)}</figcaption></figure>'


def _text(text: str) -> str:
    """Escaped text, in which no line breaks before a unit."""
    return escape(text).replace(" %", "&nbsp;%")


def _item(verdict: Verdict) -> str:
    grade = f'<span class="grade {verdict.grade}">{_GRADES[verdict.grade]}</span>'
    return f"<li>{grade}{_text(verdict.text)}</li>"
