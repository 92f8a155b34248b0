"""Scenes of solids fitted by gradient descent through two differentiable renderers: Mitsuba 3 and ours.

Each renderer draws a picture of a scene, with noise, and its gradients lead back to it from a scene that is off as far
as an amortized posterior is: 0.1 in place, 0.03 in size, 0.1 in colour, 0.1 in turn; the kinds and the lamp are known.
Both take as many steps of Adam on the mean square of the difference and keep the scene of the last one. Mitsuba draws
meshes and their edges as they are, by random rays, and follows edges by projective sampling; ours is soft. Neither says
how sure it is. Needs the package ``mitsuba`` 3.9 and LLVM (Debian: ``libllvm19``; 15 cannot compile it for all
processors), whose library it finds in ``DRJIT_LIBLLVM_PATH``. One thread; processor time.

    python benchmarks/solids_mitsuba.py [--scenes 10] [--output FILE] [--table TABLE]

References:
    Jakob et al. 2022, "Dr.Jit: a just-in-time compiler for differentiable rendering",
    https://doi.org/10.1145/3528223.3530099
    Zhang, Roussel and Jakob 2023, "Projective sampling for differentiable rendering of geometry",
    https://doi.org/10.1145/3618385
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from math import atan, cos, degrees, pi, sin
from pathlib import Path

import drjit as dr
import mitsuba as mi
import torch
from povray import AROUND, DOWN, MIDDLE
from results_file import keep, known, table
from torch import Tensor

from pyrogen.data.solids import TABLE, Solids, draw, render

mi.set_variant("llvm_ad_rgb")

SIDE, WIDTH, NOISE, STEPS, RATE = 32, 2.4, 0.1, 100, 0.02
FAR = 50.0
"""How far away Mitsuba's camera is: it follows edges in pictures with a perspective only."""

OFF = {"right": 0.1, "away": 0.1, "size": 0.03, "turn": 0.1, "colour": 0.1}
"""Standard deviations of what the descent begins from, about the truth."""
NAMES = tuple(OFF)


def scene_of(solids: Solids, light: Tensor, samples: int) -> mi.Scene:
    """A scene of Mitsuba: its third axis is up, the second leads away from the camera."""
    up, away = sin(DOWN), cos(DOWN)
    target = mi.ScalarPoint3f(0, 0, MIDDLE / cos(DOWN))
    origin = target - FAR * mi.ScalarVector3f(0, away, -up)
    lit = mi.ScalarVector3f(*(-light).tolist())
    parts = {
        "type": "scene",
        "integrator": {"type": "direct_projective", "guiding": "none"}
        | dict.fromkeys(("sppc", "sppp", "sppi"), samples),
        "camera": {
            "type": "perspective",
            "to_world": mi.ScalarTransform4f().look_at(origin=origin, target=target, up=[0, 0, 1]),
            "fov": degrees(2 * atan(WIDTH / 2 / FAR)),
            "film": {
                "type": "hdrfilm",
                "width": SIDE,
                "height": SIDE,
                "rfilter": {"type": "box"},
                "sample_border": True,
            },
        },
        "lamp": {"type": "directional", "direction": lit, "irradiance": {"type": "rgb", "value": pi * (1 - AROUND)}},
        "around": {"type": "constant", "radiance": {"type": "rgb", "value": AROUND}},
        "table": {
            "type": "rectangle",
            "to_world": mi.ScalarTransform4f().scale(50),
            "bsdf": {"type": "diffuse", "reflectance": {"type": "rgb", "value": list(TABLE)}},
        },
    }
    for place, kind in enumerate(solids.kind.tolist()):
        colour = {"type": "diffuse", "reflectance": {"type": "rgb", "value": solids.colour[place].tolist()}}
        parts[f"solid{place}"] = mesh(kind, colour)
    return mi.load_dict(parts)


def mesh(kind: int, colour: dict) -> mi.Mesh:
    """A cube or a cylinder of half-edge, or radius, one that stands on the table at the origin."""
    corners = 4 if kind == 1 else 48
    angle = [2 * pi * (corner + 0.5) / corners for corner in range(corners)]
    radius = 2**0.5 if kind == 1 else 1.0
    ring = [(radius * cos(a), radius * sin(a)) for a in angle]
    points = [(*at, 0.0) for at in ring] + [(*at, 2.0) for at in ring] + [(0, 0, 0), (0, 0, 2)]
    faces = []
    for here in range(corners):
        near = (here + 1) % corners
        faces += [(here, near, corners + near), (here, corners + near, corners + here)]
        faces += [(near, here, 2 * corners), (corners + here, corners + near, 2 * corners + 1)]
    props = mi.Properties()
    props["bsdf"] = mi.load_dict(colour)
    found = mi.Mesh("solid", len(points), len(faces), props=props, has_vertex_normals=False)
    parameters = mi.traverse(found)
    parameters["vertex_positions"] = [number for point in points for number in point]
    parameters["faces"] = [corner for face in faces for corner in face]
    parameters.update()
    return found


class Mitsuba:
    """A renderer of one scene, called with numbers of its solids."""

    def __init__(self, solids: Solids, light: Tensor, samples: int) -> None:
        self.scene, self.samples, self.seed = scene_of(solids, light, samples), samples, 0
        self.parameters = mi.traverse(self.scene)
        self.count = len(solids.kind)
        self.points = [
            mi.Point3f(dr.unravel(mi.Point3f, self.parameters[f"solid{k}.vertex_positions"])) for k in range(self.count)
        ]

    def __call__(self, numbers: dict[str, list], samples: int | None = None) -> mi.TensorXf:
        for place in range(self.count):
            right, away, size, turn = (numbers[name][place] for name in ("right", "away", "size", "turn"))
            cosine, sine = dr.cos(turn), dr.sin(turn)
            x, y, z = self.points[place]
            moved = mi.Point3f(right + size * (cosine * x - sine * y), away + size * (sine * x + cosine * y), size * z)
            self.parameters[f"solid{place}.vertex_positions"] = dr.ravel(moved)
            self.parameters[f"solid{place}.bsdf.reflectance.value"] = numbers["colour"][place]
        self.parameters.update()
        self.seed += 1
        return mi.render(self.scene, self.parameters, spp=samples or self.samples, seed=self.seed)


def by_mitsuba(
    solids: Solids, light: Tensor, noise: Tensor, begin: dict[str, Tensor], samples: int
) -> tuple[dict, float]:
    """Numbers of the solids after gradient descent through Mitsuba, and seconds."""
    renderer = Mitsuba(solids, light, samples)
    truth = {name: numbers_of(getattr(solids, name)) for name in NAMES}
    with dr.suspend_grad():
        picture = mi.TensorXf(renderer(truth, samples=1024) + mi.TensorXf(noise.movedim(0, -1).contiguous().numpy()))
    began = time.process_time()
    optimizer = mi.ad.Adam(lr=RATE)
    for name in NAMES:
        for place, value in enumerate(numbers_of(begin[name])):
            optimizer[f"{name}{place}"] = value
    for _ in range(STEPS):
        numbers = {name: [optimizer[f"{name}{place}"] for place in range(renderer.count)] for name in NAMES}
        loss = dr.mean(dr.square(renderer(numbers) - picture), axis=None)
        dr.backward(loss)
        optimizer.step()
    found = {name: [list(optimizer[f"{name}{place}"]) for place in range(renderer.count)] for name in NAMES}
    return {
        name: torch.tensor(values).reshape(begin[name].shape) for name, values in found.items()
    }, time.process_time() - began


def numbers_of(values: Tensor) -> list:
    """Mitsuba's numbers, one for each solid."""
    if values.dim() == 2:
        return [mi.Color3f(*row) for row in values.tolist()]
    return [mi.Float(number) for number in values.tolist()]


def by_ours(solids: Solids, light: Tensor, noise: Tensor, begin: dict[str, Tensor]) -> tuple[dict, float]:
    """The same by the renderer of ``pyrogen.data.solids``."""
    picture = render(solids, light, side=SIDE, width=WIDTH) + noise
    began = time.process_time()
    numbers = {name: value.clone().requires_grad_() for name, value in begin.items()}
    optimizer = torch.optim.Adam(numbers.values(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        drawn = render(solids._replace(**numbers), light, side=SIDE, width=WIDTH)
        (drawn - picture).square().mean().backward()
        optimizer.step()
    return {name: value.detach() for name, value in numbers.items()}, time.process_time() - began


def runs(scenes: int, lines: list[dict]) -> Iterator[dict]:
    """A row for each scene and renderer that is not among the lines."""
    done = {(line["scene"], line["renderer"]) for line in lines}
    _, solids, lights = draw(scenes, seed=0)
    ways: dict[str, Callable[..., tuple[dict, float]]] = {
        "pyrogen": by_ours,
        "Mitsuba, 16 rays a pixel": lambda *given: by_mitsuba(*given, samples=16),
        "Mitsuba, 64 rays a pixel": lambda *given: by_mitsuba(*given, samples=64),
    }
    for number in range(scenes):
        generator = torch.Generator().manual_seed(number)
        there = solids.kind[number] > 0
        if not there.any():
            continue
        mine = Solids(*(values[number][there] for values in solids))
        noise = NOISE * torch.randn(3, SIDE, SIDE, generator=generator)
        begin = {name: perturbed(getattr(mine, name), OFF[name], generator) for name in NAMES}
        for name, way in ways.items():
            if (number, name) not in done:
                found, seconds = way(mine, lights[number], noise, begin)
                off = {key: (found[key] - getattr(mine, key)).flatten().tolist() for key in ("right", "size", "colour")}
                yield {"scene": number, "renderer": name, "steps": STEPS, "seconds": seconds, "errors": off}
        start = {key: (begin[key] - getattr(mine, key)).flatten().tolist() for key in ("right", "size", "colour")}
        if (number, "start") not in done:
            yield {"scene": number, "renderer": "start", "steps": 0, "seconds": 0.0, "errors": start}


def perturbed(values: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return values + deviation * torch.randn(values.shape, generator=generator)


def summary(lines: list[dict]) -> Iterator[list[str]]:
    """Of each renderer: root mean square errors, and the median, over all numbers; seconds a scene."""
    for name in dict.fromkeys(line["renderer"] for line in lines):
        mine = [line for line in lines if line["renderer"] == name]
        errors = ([error for line in mine for error in line["errors"][key]] for key in ("right", "size", "colour"))
        shown = [f"{torch.tensor(e).square().mean().sqrt():.4f}, {torch.tensor(e).abs().median():.4f}" for e in errors]
        yield [name, str(len(mine)), *shown, f"{statistics.mean(line['seconds'] for line in mine):.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--output", type=Path, help="a file of raw results, which are not run again")
    parser.add_argument("--table", type=Path, help="a file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dr.set_thread_count(1)
    lines = known(options.output)
    keep(runs(options.scenes, lines), lines, options.output)
    columns = [
        "renderer",
        "scenes",
        "error of place: root mean square, median",
        "of size",
        "of colour",
        "seconds a scene",
    ]
    table(columns, list(summary(lines)), options.table, lines)


if __name__ == "__main__":
    main()
