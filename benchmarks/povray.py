"""Pictures of ``pyrogen.data.solids`` by POV-Ray, a renderer that knows nothing of ours: exact edges and shadows.

The camera, the lamp, the table and the solids are the same, and so is the light that comes from all around. What
differs: shadows fall on solids too and are sharp, edges are averages over a pixel, and what hides what is exact. Needs
the program ``povray`` (Debian: ``povray``).
"""

from __future__ import annotations

import subprocess
from math import cos, radians, sin
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.pyplot import imread
from torch import Tensor

from pyrogen.data.solids import KINDS, TABLE, Solids

DOWN, MIDDLE, AROUND, DARKNESS = radians(35), 0.45, 0.45, 0.4
"""How far the camera looks down; the middle of the picture; shares of light from all around and lost in shadows."""


def rendered(solids: Solids, light: Tensor, *, side: int, width: float) -> Tensor:
    """Pictures ``(N, 3, side, side)`` of scenes, one run of POV-Ray each; numbers from 0 to 1."""
    pictures = []
    with TemporaryDirectory() as folder:
        for row, lamp in enumerate(light):
            there = [
                Solid(*(values[row, place].tolist() for values in solids)) for place in range(solids.kind.shape[1])
            ]
            scene = Path(folder) / "scene.pov"
            scene.write_text(
                program([solid for solid in there if KINDS[solid.kind] != "nothing"], lamp.tolist(), width)
            )
            size = [f"+W{side}", f"+H{side}", "+A0.0", "+AM1", "+R4", "File_Gamma=1.0", "-D", "+FN"]
            subprocess.run(["povray", "+Iscene.pov", "+Oscene.png", *size], cwd=folder, check=True, capture_output=True)
            pictures.append(torch.tensor(imread(Path(folder) / "scene.png")).movedim(-1, 0)[:3])
    return torch.stack(pictures)


class Solid(Solids):
    """One solid, of numbers."""


def program(solids: list[Solid], light: list[float], width: float) -> str:
    """A scene in POV-Ray's language, whose second axis is up and whose third leads away from the camera."""
    up, away = sin(DOWN), cos(DOWN)
    lit = (1 - DARKNESS, DARKNESS / light[2])  # the table: one in the light, less in the shadow
    return f"""
#version 3.7;
global_settings {{ assumed_gamma 1 ambient_light 1 }}
camera {{
  orthographic
  location {vector(0, MIDDLE * away + 20 * up, MIDDLE * up - 20 * away)}
  direction {vector(0, -up, away)} right {vector(width, 0, 0)} up {vector(0, width * away, width * up)}
}}
light_source {{ {vector(100 * light[0], 100 * light[2], 100 * light[1])} color rgb 1 parallel point_at <0, 0, 0> }}
plane {{ y, 0 pigment {{ color rgb {vector(*TABLE)} }} finish {{ ambient {lit[0]} diffuse {lit[1]} }} }}
""" + "\n".join(map(shape, solids))


def shape(solid: Solid) -> str:
    """A cube or a cylinder on the table."""
    half, at = solid.size, vector(solid.right, 0, solid.away)
    if KINDS[solid.kind] == "cube":
        cosine, sine = cos(solid.turn), sin(solid.turn)
        body = f"box {{ {vector(-half, 0, -half)}, {vector(half, 2 * half, half)}"
        place = f"matrix <{cosine}, 0, {sine}, 0, 1, 0, {-sine}, 0, {cosine}, 0, 0, 0> translate {at}"
    else:
        body, place = f"cylinder {{ <0, 0, 0>, {vector(0, 2 * half, 0)}, {half}", f"translate {at}"
    finish = f"finish {{ ambient {AROUND} diffuse {1 - AROUND} }}"
    return f"{body} pigment {{ color rgb {vector(*solid.colour)} }} {finish} {place} }}"


def vector(*numbers: float) -> str:
    return f"<{', '.join(f'{number:.6f}' for number in numbers)}>"
