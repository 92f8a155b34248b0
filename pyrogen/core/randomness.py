"""Random states: held, restored and seeded, for torch, numpy and Python alike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_states() -> dict[str, Any]:
    """The states of all generators that noise may come from."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Puts all generators into the given states."""
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_all(seed: int) -> None:
    """Seeds torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def held() -> Iterator[None]:
    """A scope after which the generators are as they were."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """A scope with its own seed, after which the generators are as they were; ``None`` changes nothing."""
    if seed is None:
        yield
        return
    with held():
        seed_all(seed)
        yield
