"""Buffers in training: batch statistics, which a bad minibatch must not spoil, and large ones of one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn


class LocalBuffers(nn.Module):
    """Tensors of which every process has its own and that change as training goes on: a replay buffer, Markov chains.

    A part of an objective. They move with it between devices and precisions, and checkpoints of ``fit`` hold those of
    every process. Otherwise they are not copied, however large they are: they are no part of ``state_dict()``, are not
    made equal between processes, stay as they are when the best weights are restored, and when a step fails. The dry
    run before training leaves them unchanged. An objective changes them in training mode only.

    Args:
        tensors: What they hold at first, by name.

    Raises:
        TypeError: ``tensors`` holds something else.

    Example:
        >>> chains = LocalBuffers({"x": torch.zeros(1000, 2)})
        >>> chains["x"][:100] = torch.randn(100, 2)
        >>> len(chains.state_dict())
        0
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        if not isinstance(tensors, Mapping):
            raise TypeError(f"`tensors` must be a dict of tensors, got {type(tensors).__name__}")
        for name, tensor in tensors.items():
            if not isinstance(name, str):
                raise TypeError(f"`tensors` must have names, got {name!r} of type {type(name).__name__}")
            _require_tensor(tensor, f"tensors[{name!r}]")
        self.tensors = {name: tensor.detach() for name, tensor in tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        self._require_known(name)
        return self.tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._require_known(name)
        _require_tensor(value, "value")
        self.tensors[name] = value.detach()

    def _require_known(self, name: str) -> None:
        if name not in self.tensors:
            raise KeyError(f"`name` must be one of {list(self.tensors)}, got {name!r}")

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts others in their place, on the devices of these.

        Raises:
            ValueError: they have other names.
        """
        if set(tensors) != set(self.tensors):
            raise ValueError(f"does not fit the local buffers, which are {sorted(self.tensors)}, not {sorted(tensors)}")
        self.tensors = {name: tensors[name].to(own.device, copy=True) for name, own in self.tensors.items()}

    def _apply(self, function: Any, recurse: bool = True) -> Self:
        """What ``to``, ``double`` and their kind do."""
        super()._apply(function, recurse)
        self.tensors = {name: function(tensor) for name, tensor in self.tensors.items()}
        return self


def _require_tensor(value: Any, name: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {type(value).__name__}")


def local_buffers(module: nn.Module) -> list[LocalBuffers]:
    """Those in a module."""
    return [part for part in module.modules() if isinstance(part, LocalBuffers)]


@contextmanager
def unchanged(parts: list[LocalBuffers]) -> Iterator[None]:
    """A scope that changes copies of them instead."""
    before = [part.tensors for part in parts]
    for part in parts:
        part.tensors = {name: tensor.clone() for name, tensor in part.tensors.items()}
    try:
        yield
    finally:
        for part, tensors in zip(parts, before, strict=True):
            part.tensors = tensors


class MovingBuffers:
    """The buffers that a pass changes, such as batch statistics, so that a bad minibatch does not stay in them.

    Args:
        module: Whose buffers. They get back what they held before the pass: a dry run is no step.
        before: What they held, from :func:`buffers_of`.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module, before: dict[int, Tensor]) -> None:
        self.moving: list[Tensor] = []
        for buffer in module.buffers():
            held = before.get(id(buffer))
            if held is None or held.shape != buffer.shape:
                self.moving.append(buffer)
            elif not torch.equal(held, buffer):
                self.moving.append(buffer)
                buffer.copy_(held)
        self.kept = [buffer.clone() for buffer in self.moving]

    def keep(self) -> None:
        """Remembers what they hold."""
        if self.moving:
            torch._foreach_copy_(self.kept, self.moving)

    def restore(self) -> None:
        """Puts back what they held."""
        if self.moving:
            torch._foreach_copy_(self.moving, self.kept)


def buffers_of(module: nn.Module) -> dict[int, Tensor]:
    """Copies of what the buffers of a module hold, by identity; lazy ones hold nothing yet."""
    return {id(buffer): buffer.clone() for buffer in module.buffers() if not nn.parameter.is_lazy(buffer)}
