"""The gallery: runs the examples, one after the other, and makes a page and a thumbnail of each.

    python docs/gallery.py run [NAME ...]    run all examples, or those named, into output/gallery/, and make the pages
    python docs/gallery.py pages             make the pages again from what the last runs left

What an example printed and the processor seconds it took are kept in ``docs/gallery/results.json``. Pictures are made
of the figure that it saved, or of its printed lines if it saved none. Needs Pillow, which comes with matplotlib.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, GALLERY, IMAGES = ROOT / "examples", ROOT / "docs/gallery", ROOT / "docs/images/gallery"
OUTPUT, RESULTS = ROOT / "output/gallery", GALLERY / "results.json"
SECTIONS = {
    "Densities and draws": "digits pixel_digits diffusion_digits flow_prior_vae latent_diffusion captions energy game "
    "which_is_real which_model traffic_signs uci torsions",
    "Posteriors": "posteriors simulator flow_guides inverse_graphics",
    "Inverse problems": "inpainting diffusion_posterior super_resolution colorization stroke_to_image editing "
    "unknown_noise ct mri lesion",
    "Sequences": "text infilling parsing_code molecules translation chorales forecast planning imitation video "
    "speech text_to_speech",
}
TITLES = {"digits": "Handwritten digits", "game": "Eight Gaussians and a critic", "uci": "The UCI protocol"}
FIGURES = {  # of several
    "digits": "posterior",
    "captions": "captions_samples",
    "diffusion_digits": "diffusion_samples",
    "traffic_signs": "pictures",
}
NOVEL = (
    "the weather in london is cold today",
    "my mother called me from the station last night",
    "please open the window and close the door",
    "we will meet again on the first day of the year",
    "he asked the teacher for a better answer",
    "nobody knows what the president wants",
)
ARGUMENTS = {  # where the defaults take long, or use no real data
    "text": ["--steps", "100"],
    "chorales": ["--steps", "200"],
    "speech": ["--sounds", "sounds"],
    "text_to_speech": ["--sounds", "sounds", "--steps", "2700", "--say", *NOVEL],
    "torsions": ["--structures", "structures"],
    "editing": ["--prior", "output/gallery/captions/captions"],
    "traffic_signs": [
        "--signs",
        "signs/roadsigns",
        "signs/restriction",
        "signs/turn_restrictions",
        "--others",
        "openmoji",
    ],
}
PAGES = {  # of the documentation, on what an example shows, by the examples
    "models/flows": "digits uci",
    "models/circular": "torsions",
    "models/flow_guides": "flow_guides",
    "models/latent": "flow_prior_vae",
    "models/state_space": "forecast",
    "models/autoregressive": "pixel_digits text chorales translation",
    "models/conditioning_sequences": "parsing_code molecules",
    "models/diffusion": "diffusion_digits latent_diffusion",
    "models/discrete_diffusion": "infilling",
    "models/captions": "captions",
    "models/editing": "editing stroke_to_image",
    "models/planning": "planning imitation",
    "models/video": "video",
    "models/speech": "speech",
    "models/text_to_speech": "text_to_speech",
    "models/implicit": "game",
    "models/energy": "energy",
    "models/simulation": "simulator",
    "models/inverse": "inpainting diffusion_posterior super_resolution unknown_noise lesion",
    "models/inverse_methods": "colorization",
    "models/operators": "ct mri",
    "models/inverse_graphics": "inverse_graphics",
    "howto/calibration": "posteriors",
    "howto/evaluation": "traffic_signs",
    "howto/sample_quality": "which_is_real which_model",
}
THUMBNAIL, WIDTH = (480, 300), 900  # pixels


@dataclass(frozen=True)
class Result:
    """What one run of an example left."""

    date: str
    seconds: int
    printed: list[str]


@dataclass(frozen=True)
class Example:
    """An example, and what its docstring says of it: a title and a colon, a summary, the story, the command."""

    name: str

    @property
    def paragraphs(self) -> list[str]:
        return ast.get_docstring(ast.parse((EXAMPLES / f"{self.name}.py").read_text())).split("\n\n")

    @property
    def title(self) -> str:
        return TITLES.get(self.name, self._first.partition(":")[0])

    @property
    def summary(self) -> str:
        """The rest of the first paragraph, or all of it."""
        rest = self._first.partition(":")[2].strip()
        return rest[:1].upper() + rest[1:] or self._first

    @property
    def _first(self) -> str:
        return " ".join(self.paragraphs[0].split())

    @property
    def explained(self) -> str:
        """A link to the page of the documentation on what it shows."""
        (page,) = (page for page, names in PAGES.items() if self.name in names.split())
        title = next(line for line in (ROOT / f"docs/{page}.md").read_text().splitlines() if line.startswith("# "))
        return f"[{title.removeprefix('# ')}](../{page}.md)"

    @property
    def command(self) -> str:
        return shlex.join(["python", f"examples/{self.name}.py", *ARGUMENTS.get(self.name, [])])


def main(arguments: list[str]) -> None:
    command, *names = arguments or [""]
    if command not in ("run", "pages"):
        sys.exit(__doc__)
    for name in (names or " ".join(SECTIONS.values()).split()) if command == "run" else ():
        keep(name, run(name))
        draw(name)
    for path, text in pages().items():
        path.write_text(text)


def run(name: str) -> Result:
    """Runs an example on one core."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    output = ["--output", str((OUTPUT / name).relative_to(ROOT))]
    command = [sys.executable, f"examples/{name}.py", *ARGUMENTS.get(name, []), *output]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, check=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return Result(date.today().isoformat(), round(seconds), done.stdout.rstrip().splitlines())


def results() -> dict[str, Result]:
    """Of all examples that were run, by name."""
    if not RESULTS.exists():
        return {}
    return {name: Result(**entry) for name, entry in json.loads(RESULTS.read_text()).items()}


def keep(name: str, result: Result) -> None:
    """Adds a result to the file, in place of an older one."""
    entries = {key: asdict(value) for key, value in sorted((results() | {name: result}).items())}
    RESULTS.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    print(f"{name}: {result.seconds} s", flush=True)


def draw(name: str) -> None:
    """The figure of an example in few colours, and its thumbnail."""
    from PIL import Image, ImageOps

    figures = sorted((OUTPUT / name).glob("*.png"))
    if figures:
        figure = Image.open(OUTPUT / name / f"{FIGURES.get(name, figures[0].stem)}.png").convert("RGB")
    else:
        figure = lines_drawn(results()[name].printed)
    IMAGES.mkdir(parents=True, exist_ok=True)
    if figure.width > WIDTH:
        figure = figure.resize((WIDTH, WIDTH * figure.height // figure.width), Image.Resampling.LANCZOS)
    figure.quantize(256).save(IMAGES / f"{name}.png", optimize=True)
    width, height = min(figure.width, 5 * figure.height // 2), min(figure.height, figure.width)
    small = ImageOps.pad(figure.crop((0, 0, width, height)), THUMBNAIL, Image.Resampling.LANCZOS, color="white")
    small.quantize(48).save(IMAGES / f"{name}_small.png", optimize=True)


def lines_drawn(lines: list[str]):
    """Printed lines as a picture."""
    from PIL import Image, ImageDraw, ImageFont

    font, picture = ImageFont.load_default(13), Image.new("RGB", (640, 400), "white")
    ImageDraw.Draw(picture).multiline_text((16, 16), "\n".join(line[:90] for line in lines[:22]), "#333", font)
    return picture


def pages() -> dict[Path, str]:
    """The text of every page of the gallery, by its path."""
    known = results()
    made = {GALLERY / f"{name}.md": page(Example(name), known[name]) for name in known}
    return made | {GALLERY / "index.md": index(known)}


def index(known: dict[str, Result]) -> str:
    """The page of cards."""
    text = dedent("""\
        # Gallery

        The scripts of `examples/`, with what they printed and drew, and the processor seconds that they took on one
        core of a shared machine. Seconds that they print themselves are by the clock, and longer where others used the
        machine. They run as they are, from a clone of the repository.
        """)
    for title, names in SECTIONS.items():
        cards = "".join(card(Example(name), known[name]) for name in names.split() if name in known)
        text += f"\n## {title}\n\n::::{{grid}} 1 2 2 3\n:gutter: 2\n\n{cards}::::\n" if cards else ""
    waiting = [name for names in SECTIONS.values() for name in names.split() if name not in known]
    if waiting:
        text += f"\nNot yet shown here: {', '.join(f'`{name}.py`' for name in waiting)}.\n"
    names = "".join(f"{name}\n" for name in known)
    return text + f"\n```{{toctree}}\n:hidden:\n\n{names}```\n"


def card(example: Example, result: Result) -> str:
    return (
        f":::{{grid-item-card}} {example.title}\n:link: {example.name}\n:link-type: doc\n"
        f":img-top: ../images/gallery/{example.name}_small.png\n:img-alt: {example.title}\n\n"
        f"{example.summary}\n\n*{result.seconds} s*\n:::\n"
    )


def page(example: Example, result: Result) -> str:
    """The page of one example: what it is, where it is explained, its figure, what it printed, its code."""
    story = "\n\n".join([example.summary, *example.paragraphs[1:-1]])
    printed = "\n".join(result.printed)
    return (
        f"# {example.title}\n\n{story}\n\n"
        f"The page on what is used here: {example.explained}.\n\n"
        f"![{example.title}](../images/gallery/{example.name}.png)\n\n"
        f"`{example.command}` took {result.seconds} processor seconds ({result.date}) and printed\n\n"
        f"```text\n{printed}\n```\n\n"
        f"## The script\n\n```{{literalinclude}} ../../examples/{example.name}.py\n:language: python\n```\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
