"""Slices of a real head, a diffusion model of them, and their measurement by 20 views: what ``ct.py`` is about.

The head is the 108 slices of Debian's package ``invesalius-examples``: unpack ``Cranium.inv3``, a tar file, and give
the path of its ``matrix.dat``. Values are between -1 and 1.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional

import pyrogen as pg

SIZE, VIEWS, SHAPE = 64, 20, (1, 64, 64)
LOW, HIGH = -1024.0, 2000.0  # Hounsfield units, of -1 and 1
WATER, PIXEL = 0.206, 0.383  # attenuation at 60 keV in 1 / cm; side of a pixel in cm
SLOPE = WATER / 1000 * (HIGH - LOW) / 2
AIR = 2 * (-1000 - LOW) / (HIGH - LOW) - 1  # attenuation is SLOPE (x - AIR)
NOISE, PHOTONS = 0.1, 1e4
TEST, VALIDATION = (38, 41, 44, 72, 76), (24, 60)
UNSEEN = (*range(34, 50), *range(68, 82), *range(21, 28), *range(57, 64))  # slabs and two slices on each side


def volume(path: Path) -> Tensor:
    """All slices at full size, between -1 and 1: ``(108, 1, 256, 256)``."""
    units = torch.from_numpy(np.fromfile(path, np.int16).reshape(108, 1, 256, 256).astype(np.float32))
    return 2 * (units.clip(LOW, HIGH) - LOW) / (HIGH - LOW) - 1


def small(slices: Tensor) -> Tensor:
    """Means of blocks, ``(N, 1, 64, 64)``."""
    return functional.avg_pool2d(slices, slices.shape[-1] // SIZE)


def copies(slices: Tensor, count: int, seed: int = 0) -> Tensor:
    """Slices mirrored, turned by up to 12 degrees, scaled and shifted by up to 8 %, and made small."""
    random = torch.Generator().manual_seed(seed)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(slices), generator=random)

    found = []
    for _ in range(count):
        turn, scale = between(-0.2, 0.2), between(0.92, 1.08)
        mirror = 1 - 2 * (between(0, 1) < 0.5).float()
        rows = [mirror * scale * turn.cos(), -scale * turn.sin(), between(-0.08, 0.08)]
        rows += [mirror * scale * turn.sin(), scale * turn.cos(), between(-0.08, 0.08)]
        grid = functional.affine_grid(torch.stack(rows, -1).reshape(-1, 2, 3), slices.shape, align_corners=False)
        found.append(small(functional.grid_sample(slices, grid, padding_mode="border", align_corners=False)))
    return torch.cat(found)


def fitted(slices: Tensor, steps: int, path: Path | None) -> pg.diffusion.Diffusion:
    """The prior, from the file if there is one."""
    if path is not None and path.exists():
        return pg.load(path)
    images = copies(slices, 40)
    scale = images.square().mean().sqrt().item()
    prior = pg.diffusion.unet(SHAPE, channels=(8, 16, 32, 64), depth=1, data_scale=scale)
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=4e-3, total_steps=steps + 1, pct_start=0.1)
    optimizer = partial(torch.optim.Adam, lr=4e-3)
    began = time.process_time()
    pg.fit(prior, images, steps=steps, batch_size=16, optimizer=optimizer, schedule=one_cycle, ema=0.99, seed=0)
    print(f"prior: {len(images)} images, {steps} steps, {time.process_time() - began:.0f} s", flush=True)
    if path is not None:
        pg.save(prior, path)
    return prior


class Scan(NamedTuple):
    """A measurement of slices: line integrals of their attenuation, with Gaussian noise or as counts of photons."""

    radon: pg.operators.Radon
    counts: bool

    def integrals(self, x: Tensor) -> Tensor:
        """Line integrals of the attenuation."""
        return self.radon(SLOPE * (x - AIR))

    def law(self, x: Tensor) -> dist.TorchDistribution:
        """What is measured of a slice."""
        integrals = self.integrals(x)
        one = dist.Poisson(PHOTONS * torch.exp(-integrals)) if self.counts else dist.Normal(integrals, NOISE)
        return one.to_event(3)

    def linear(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Line integrals by a measurement, and the variance of their noise (of counts, by the delta method)."""
        if not self.counts:
            return y, torch.full_like(y, NOISE**2)
        return (PHOTONS / y.clamp_min(0.5)).log(), 1 / y.clamp_min(0.5)


def scan(counts: bool) -> Scan:
    angles = torch.arange(VIEWS) * math.pi / VIEWS
    return Scan(pg.operators.Radon(SHAPE, angles, detectors=SIZE, pixel=PIXEL, spacing=PIXEL), counts)
