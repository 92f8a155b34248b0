"""Slices of two brains, and their measurement by magnetic resonance: what ``mri.py`` is about.

One is of a single person, the average of 27 scans: ``ch2bet.nii.gz`` of Debian's package ``mricron-data``. The other is
the average of 152 people: ``mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz`` in the wheel of ``nilearn``. Both are
without the skull, on one grid of millimetres. Values are between -1, outside, and 1.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from slice_prior import SHAPE, SIZE
from torch import Tensor
from torch.nn import functional

from pyrogen.operators import Coils, Composition, Fourier, coil_maps, random_lines

SIDE = 224  # millimetres
SLICES = range(45, 136)  # of both, by height
TEST, VALIDATION = (73, 77, 108), (92,)
UNSEEN = (*range(68, 83), *range(89, 96), *range(104, 113))  # slabs, and two millimetres or more on each side
NOISE = 0.02  # of a frequency, where the brightest tissue has one


def volume(path: Path) -> Tensor:
    """Axial slices, ``(91, 1, 224, 224)``, from a file in the NIfTI format."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, "<i2", 3, 42)
    values = np.frombuffer(raw, np.uint8, int(shape.prod()), 352).reshape(shape, order="F")
    slices = torch.from_numpy(values[..., SLICES].astype(np.float32)).movedim(-1, 0).unsqueeze(1)
    missing = [SIDE - side for side in shape[:2].tolist()]
    margins = [part for all_ in reversed(missing) for part in (all_ // 2, all_ - all_ // 2)]  # the last side first
    bright = torch.from_numpy(values[values > 0].astype(np.float32)).sort().values
    return 2 * functional.pad(slices, margins).div(bright[int(0.995 * len(bright))]).clamp(max=1) - 1


def place(height: int) -> int:
    """Which of the slices is at a height."""
    return SLICES.index(height)


def seen() -> list[int]:
    """Which slices a prior may see."""
    return [place(height) for height in SLICES if height not in UNSEEN]


def instrument(acceleration: int, coils: int) -> tuple[Composition, Tensor, Tensor]:
    """A measurement of real images, its mask and its complex sensitivities ``(coils, 64, 64)``, which turn the phase.

    A single coil sees all places alike, up to a phase.
    """
    mask = random_lines((SIZE, SIZE), acceleration, centre=6)
    across = torch.linspace(-1, 1, SIZE)
    phase = torch.polar(torch.ones(SIZE, SIZE), 1.5 * across + across[:, None].square())
    maps = coil_maps((SIZE, SIZE), coils) * phase if coils > 1 else phase.unsqueeze(0)
    return Fourier((2, coils, SIZE, SIZE), mask) @ Coils(SHAPE, maps), mask, maps
