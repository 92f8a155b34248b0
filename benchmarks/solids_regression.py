"""A regression network for the scenes of ``inverse_graphics.py``: what stands there, read off the picture directly.

It has the embedding of the amortized posterior, is trained on the same simulations for the same steps, and answers with
a kind for each of the three places, and with a normal for each number: where it is, how large and of what colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrogen as pg
from pyrogen.data.solids import KINDS
from pyrogen.networks.embedding import ImageEmbedding
from pyrogen.networks.statistics import ReadsData, Statistic

PLACES, NUMBERS = 3, 5
"""Numbers of a solid: how far to the right, how large, three of its colour."""


class Regression(ReadsData, nn.Module):
    """Called with pictures, kinds and numbers, it gives its loss in nats a scene."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.embedding = ImageEmbedding(shape, outputs=64, width=32)
        outputs = PLACES * (len(KINDS) + 2 * NUMBERS)
        self.head = nn.Sequential(nn.Linear(self.embedding.size, 128), nn.ReLU(), nn.Linear(128, outputs))

    def answers(self, pictures: Tensor) -> tuple[Tensor, dist.Normal]:
        """Scores of kinds ``(N, 3, 3)`` and the distribution of numbers ``(N, 3, 5)``."""
        numbers = self.head(self.embedding(pictures)).reshape(-1, PLACES, len(KINDS) + 2 * NUMBERS)
        scores, mean, log_scale = numbers.split([len(KINDS), NUMBERS, NUMBERS], -1)
        return scores, dist.Normal(mean, log_scale.clamp(-7, 3).exp())

    def forward(self, pictures: Tensor, kinds: Tensor, numbers: Tensor) -> Tensor:
        scores, normal = self.answers(pictures)
        there = (kinds > 0).unsqueeze(-1)
        energy = -(normal.log_prob(numbers) * there).sum((1, 2)).mean()
        return energy + PLACES * cross_entropy(scores.flatten(0, 1), kinds.flatten())

    def read_data(self, pictures: Tensor, kinds: Tensor, numbers: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.embedding.read_data(pictures)


def trained(
    joint: pg.simulation.Joint,
    shape: tuple[int, int, int],
    kinds_of: Callable[[dict[str, Tensor]], Tensor],
    numbers_of: Callable[[dict[str, Tensor]], Tensor],
    steps: int,
) -> Regression:
    """The network, trained as the amortized posterior is."""
    torch.manual_seed(0)
    simulations = joint.draw(24_000 if steps > 100 else 400, seed=2, batch_size=64)
    rows = simulations.observed["picture"], kinds_of(simulations.latents).long(), numbers_of(simulations.latents)
    network, schedule = Regression(shape), partial(CosineAnnealingLR, T_max=steps)
    pg.fit(network, rows, steps=steps, batch_size=128, lr=2e-3, schedule=schedule, ema=0.99, clip=10.0, seed=0)
    return network.eval()
