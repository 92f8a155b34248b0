"""A diffusion model of the slices of a volume: of copies that are turned, scaled and shifted, made small."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import pyrogen as pg

SIZE = 64
SHAPE = (1, SIZE, SIZE)


def small(slices: Tensor) -> Tensor:
    """Means of blocks, ``(N, 1, 64, 64)``."""
    return functional.adaptive_avg_pool2d(slices, SIZE)


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


def fitted(images: Callable[[], Tensor], steps: int, path: Path | None) -> pg.diffusion.Diffusion:
    """The prior, from the file if there is one, or else of images ``(N, *shape)``."""
    if path is not None and path.exists():
        return pg.load(path)
    images = images()
    scale = images.square().mean().sqrt().item()
    prior = pg.diffusion.unet(images.shape[1:], channels=(8, 16, 32, 64), depth=1, data_scale=scale)
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=4e-3, total_steps=steps + 1, pct_start=0.1)
    optimizer = partial(torch.optim.Adam, lr=4e-3)
    began = time.process_time()
    pg.fit(prior, images, steps=steps, batch_size=16, optimizer=optimizer, schedule=one_cycle, ema=0.99, seed=0)
    print(f"prior: {len(images)} images, {steps} steps, {time.process_time() - began:.0f} s", flush=True)
    if path is not None:
        pg.save(prior, path)
    return prior


class Passes:
    """Counts how many images a network has seen, forwards and backwards."""

    def __init__(self, network: nn.Module) -> None:
        self.images = 0
        network.register_forward_hook(self._forward)

    def _forward(self, network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.images += output.shape[:-3].numel()
        if output.requires_grad:
            output.register_hook(self._backward)

    def _backward(self, gradient: Tensor) -> None:
        self.images += gradient.shape[:-3].numel()
