"""Slices of a real head, a diffusion model of them, and their measurement by 20 views: what ``ct.py`` is about.

The head is the 108 slices of Debian's package ``invesalius-examples``: unpack ``Cranium.inv3``, a tar file, and give
the path of its ``matrix.dat``. Values are between -1 and 1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from slice_prior import SHAPE, SIZE
from torch import Tensor

import pyrogen as pg

VIEWS = 20
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
