"""Slices of two brains with phases, and their measurement by magnetic resonance: what ``mri.py`` is about.

One is of a single person, the average of 27 scans: ``ch2bet.nii.gz`` of Debian's package ``mricron-data``. The other is
the average of 152 people: ``mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz`` in the wheel of ``nilearn``. Both are
without the skull, on one grid of millimetres. Magnitudes are between 0, outside, and 1. Phases are not known: they are
made, random polynomials of second order of the place. Images have two channels, the real part first.
"""

from __future__ import annotations

import gzip
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import torch
from slice_prior import SIZE, copies, small
from torch import Tensor
from torch.nn import functional

from pyrogen.operators import Sense, coil_maps, random_lines

SHAPE = (2, SIZE, SIZE)
SIDE = 224  # millimetres
SLICES = range(45, 136)  # of both, from below, a millimetre each
TEST, VALIDATION = (71, 75, 108, 111), (91, 93)
NOISE, COILS, DISTANCE = 0.02, 4, 1.1  # noise in each channel of a frequency, in units of the brightest tissue
UNSEEN = (*range(68, 83), *range(89, 96), *range(102, 115))  # slabs, and two slices or more on each side


def volume(path: Path) -> Tensor:
    """Axial slices, ``(91, 1, 224, 224)``, from a file in the NIfTI format."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, "<i2", 3, 42)
    values = np.frombuffer(raw, np.uint8, int(shape.prod()), 352).reshape(shape, order="F")
    slices = torch.from_numpy(values[..., SLICES].astype(np.float32)).movedim(-1, 0).unsqueeze(1)
    missing = [SIDE - side for side in shape[:2].tolist()]
    margins = [part for all_ in reversed(missing) for part in (all_ // 2, all_ - all_ // 2)]  # the last side first
    return functional.pad(slices, margins).div(np.quantile(values[values > 0], 0.995)).clamp(max=1)


def phased(magnitudes: Tensor, seed: int) -> Tensor:
    """Images ``(N, 2, 64, 64)`` of magnitudes ``(N, 1, 64, 64)``, each with a phase of its own."""
    along = torch.linspace(-1, 1, SIZE)
    one, down, across = torch.ones(SIZE, SIZE), along.unsqueeze(-1).expand(SIZE, SIZE), along.expand(SIZE, SIZE)
    terms = torch.stack([first * second for first, second in combinations_with_replacement([one, down, across], 2)])
    weights = 0.5 * torch.randn(len(magnitudes), len(terms), generator=torch.Generator().manual_seed(seed))
    phase = (weights @ terms.flatten(1)).unflatten(1, (1, SIZE, SIZE))
    return torch.cat([magnitudes * phase.cos(), magnitudes * phase.sin()], 1)


def training(slices: Tensor) -> Tensor:
    """What a prior is fitted to: copies of the slices of a volume but those of its unseen slabs."""
    seen = slices[[SLICES.index(height) for height in SLICES if height not in UNSEEN]]
    return phased(copies(seen, 40), seed=0)


def held_out(slices: Tensor, height: int) -> Tensor:
    """One slice, which has always the same phase."""
    return phased(small(slices)[[SLICES.index(height)]], seed=height)[0]


def scanner(acceleration: int) -> Sense:
    """Which measures one column of frequencies in so many, some of them in the middle, by four coils close by."""
    centre, random = 24 // acceleration, torch.Generator().manual_seed(0)
    columns = random_lines((SIZE, SIZE), acceleration, centre=centre, generator=random)[0]
    return Sense(SHAPE, coil_maps((SIZE, SIZE), COILS, distance=DISTANCE), columns)
