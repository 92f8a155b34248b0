"""Random states: held, restored and seeded, for torch, numpy and Python alike."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import VmapInterpreter, coerce_cinterpreter, temporarily_clear_interpreter_stack

from .exclusive import exclusive


def torch_states() -> list[Tensor]:
    """The states of torch's generators."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]


def set_torch_states(states: list[Tensor]) -> None:
    """Puts torch's generators into the given states."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state_all(states[1:])


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
    set_torch_states([states["torch"], *states.get("cuda", ())])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])


def seed_all(seed: int) -> None:
    """Seeds torch, numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_quickly(seed: int) -> None:
    """The same for the generators that are in use, in a tenth of the time: not of a device that nothing was on yet."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def held() -> Iterator[None]:
    """A scope after which the generators are as they were; one thread is in such a scope at a time."""
    with exclusive():
        # Under a transform of torch.func a state is no plain tensor, and cannot be put back.
        with temporarily_clear_interpreter_stack():
            states = random_states()
        try:
            yield
        finally:
            with temporarily_clear_interpreter_stack():
                set_random_states(states)


@contextmanager
def fixed_noise(seed: int) -> Iterator[None]:
    """A scope in which torch's noise is that of a seed, under every transform of ``torch.func``; no other is moved."""
    with exclusive(), temporarily_clear_interpreter_stack(), torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def require_one_noise() -> None:
    """Refuses ``torch.vmap`` with different noise for each row, where rows must share theirs.

    Raises:
        ValueError: ``vmap`` runs with ``randomness="different"``.
    """
    for layer in map(coerce_cinterpreter, torch._C._functorch.get_interpreter_stack() or ()):
        if isinstance(layer, VmapInterpreter) and layer.randomness() == "different":
            raise ValueError('`randomness` must be "same" for vmap over a model with `noise_seed`, got "different"')


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """A scope with its own seed, after which the generators are as they were; ``None`` changes nothing."""
    if seed is None:
        yield
        return
    with held():
        seed_all(seed)
        yield


class Stream:
    """A stream of noise of its own: a scope, entered again and again, whose noise depends on its seed alone.

    Args:
        seed: Of the stream.
    """

    def __init__(self, seed: int) -> None:
        self._numpy = np.random.MT19937()  # put in place of numpy's: to copy its state takes ten times as long
        with held(), self._numpy_flowing():
            seed_all(seed)
            self._own = torch_states(), random.getstate()

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """The scope; outside of it the generators are as they were."""
        before = torch_states(), random.getstate()
        self._set(self._own)
        try:
            with self._numpy_flowing():
                yield
        finally:
            self._own = torch_states(), random.getstate()
            self._set(before)

    def _set(self, states: tuple) -> None:
        set_torch_states(states[0])
        random.setstate(states[1])

    @contextmanager
    def _numpy_flowing(self) -> Iterator[None]:
        before = np.random.get_bit_generator()
        np.random.set_bit_generator(self._numpy)
        try:
            yield
        finally:
            np.random.set_bit_generator(before)
