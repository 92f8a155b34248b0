r"""Parallel tempering: chains at all inverse temperatures of a path at once, which exchange their states.

A replica is one chain at each inverse temperature. After every move neighbours exchange their states with the
probability that keeps both densities, even pairs and odd pairs in turn, so that states travel along the path in one
direction for long (Syed, Bouchard-Cote, Deligiannidis and Doucet 2022). At inverse temperature 0 every state is drawn
anew: exact draws enter there, and what reaches the other end are draws of the target that owe nothing to the start.

References:
    Geyer 1991, "Markov chain Monte Carlo maximum likelihood", https://hdl.handle.net/11299/58440
    Syed, Bouchard-Cote, Deligiannidis and Doucet 2022, "Non-reversible parallel tempering: a scalable highly parallel
    MCMC scheme", https://arxiv.org/abs/1905.02939
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .paths import DensityPath


class TemperedChains(NamedTuple):
    """What parallel tempering gave.

    Attributes:
        upwards: The log-density at the next inverse temperature minus that at its own, of each state,
            ``(sweeps, temperatures - 1, replicas)``.
        downwards: The same of the states above, for the one below.
        x: The states at inverse temperature 1, ``(sweeps, replicas, *event)``.
        exchanged: The mean probability of an exchange between neighbours, ``(temperatures - 1,)``.
        arrivals: How often a state that began at inverse temperature 0 came to 1, by replica, ``(replicas,)``.
    """

    upwards: Tensor
    downwards: Tensor
    x: Tensor
    exchanged: Tensor
    arrivals: Tensor


def temper(path: DensityPath, temperatures: Tensor, *, replicas: int, sweeps: int, warmup: int) -> TemperedChains:
    """Draws of the densities at all inverse temperatures.

    Args:
        path: The densities.
        temperatures: Inverse temperatures, rising from 0 to 1.
        replicas: How many independent replicas.
        sweeps: How many moves of every chain are kept.
        warmup: How many go before.
    """
    x = _annealed(path, temperatures, replicas)  # (temperatures, replicas, *event)
    temperatures = temperatures.to(x.device)
    at = temperatures[1:].repeat_interleave(replicas)
    lower, upper = temperatures[:-1].repeat_interleave(replicas), at
    fresh = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    records, probabilities, arrivals = [], [], torch.zeros(replicas, dtype=torch.long, device=x.device)
    for sweep in range(warmup + sweeps):
        moved = path.move(x[1:].flatten(0, 1), at).unflatten(0, (-1, replicas))
        x = torch.cat([path.draw(replicas).unsqueeze(0), moved])
        fresh[0] = True
        up = path.increment(x[:-1].flatten(0, 1), lower, upper).reshape(-1, replicas)
        down = path.increment(x[1:].flatten(0, 1), upper, lower).reshape(-1, replicas)
        probability = (up + down).exp().clamp(max=1)
        if sweep >= warmup:
            records.append((up, down, x[-1]))
            probabilities.append(probability)
        order = _exchanges(probability, parity=sweep % 2)
        x, fresh = _taken(x, order), _taken(fresh, order)
        arrivals += fresh[-1]
        fresh[-1] = False
    upwards, downwards, drawn = map(torch.stack, zip(*records, strict=True))
    return TemperedChains(upwards, downwards, drawn, torch.stack(probabilities).mean((0, 2)), arrivals)


def _annealed(path: DensityPath, temperatures: Tensor, replicas: int) -> Tensor:
    """States to begin with, at each inverse temperature, by chains carried along the path."""
    x = path.draw(replicas)
    states = [x]
    for _, end in pairwise(temperatures):
        x = path.move(x, end)
        states.append(x)
    return torch.stack(states)


def _exchanges(probability: Tensor, *, parity: int) -> Tensor:
    """For each place the place whose state comes to it, ``(temperatures, replicas)``: pairs of one parity exchange."""
    pairs, replicas = probability.shape
    chosen = torch.rand_like(probability) < probability
    chosen[1 - parity :: 2] = False
    order = torch.arange(pairs + 1, device=probability.device).unsqueeze(1).repeat(1, replicas)
    order[:-1] += chosen.long()
    order[1:] -= chosen.long()
    return order


def _taken(values: Tensor, order: Tensor) -> Tensor:
    return values.gather(0, order.reshape(order.shape + (1,) * (values.dim() - 2)).expand_as(values))
