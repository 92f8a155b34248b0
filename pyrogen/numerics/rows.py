"""Rows of a batch that come out infinite or NaN, kept apart from the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from .autograd import is_functional


class Remake(Protocol):
    """Makes a distribution anew for rows of its context in other places."""

    def __call__(self, places: Tensor, batch: torch.Size) -> Any:
        """The distribution of batch shape ``batch``, which row ``places[i]`` of the context has at place ``i``."""

    def lost(self, batch: torch.Size) -> Tensor | None:
        """Which rows have a context that is not finite; ``None``: no row."""


def spared(
    first: Callable[[], Tensor],
    again: Callable[[Tensor, torch.Size], Tensor],
    remake: Remake | None = None,
    *,
    noisy: torch.device | None = None,
) -> Tensor:
    """Scores of a batch whose rows leave each other's gradients alone.

    In a backward pass zero times infinity is NaN: a row that is not finite, though no loss asks for it, spoils the
    gradients of all parameters. Where there is such a row, all are scored once more with the first good row in the
    places of bad ones; of those only the values are kept, and they have no gradient.

    Args:
        first: Gives the scores as they are, ``(*batch)``.
        again: The same for other rows: takes, for each place of the flattened batch, which row stands there, and the
            batch shape.
        remake: Makes the distribution anew for other rows of the context; a row of a context that is not finite has
            score NaN.
        noisy: On which device the scores draw random numbers, if they do; both times they are the same.
    """
    state = None if noisy is None else _randomness(noisy)
    score = first()
    if is_functional((score,)):
        return score
    lost = None if remake is None else remake.lost(score.shape)
    score = score if lost is None else score.masked_fill(lost, torch.nan)
    if not score.requires_grad:
        return score
    finite = score.detach().isfinite()
    if bool(finite.all()) or not bool(finite.any()):
        return score
    flat = finite.flatten()
    places = torch.where(flat, torch.arange(len(flat), device=flat.device), flat.long().argmax())
    if noisy is not None:
        after = _randomness(noisy)
        _set_randomness(noisy, state)
    good = again(places, finite.shape)
    if noisy is not None:
        _set_randomness(noisy, after)
    return torch.where(finite, good, score.detach())


def by_rows(function: Callable[..., Tensor], *inputs: tuple[Tensor, int]) -> Tensor:
    """What a function of rows makes of inputs with any batch dimensions, which broadcast.

    Args:
        function: Takes as many tensors ``(N, *event)`` and gives one ``(N, *made)``.
        inputs: Tensors ``(*batch, *event)``, each with how many dimensions its event has.

    Returns:
        ``(*batch, *made)``.
    """
    events = [tensor.shape[tensor.dim() - rank :] for tensor, rank in inputs]
    fronts = [tensor.shape[: tensor.dim() - rank] for tensor, rank in inputs]
    batch = fronts[0] if all(front == fronts[0] for front in fronts) else torch.broadcast_shapes(*fronts)
    if len(batch) == 1 and all(front == batch for front in fronts):
        return function(*(tensor for tensor, _ in inputs))
    wide = [tensor.expand(batch + event) for (tensor, _), event in zip(inputs, events, strict=True)]
    made = function(*(tensor.reshape(prod(batch), *event) for tensor, event in zip(wide, events, strict=True)))
    return made.reshape(batch + made.shape[1:])


def shaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor in a shape; one that has it already stays itself.

    ``reshape`` makes a view of it all the same: a node of the graph in every layer, and more in gradients of gradients.
    """
    return x if x.shape == shape else x.reshape(shape)


def column(rows: Tensor, like: Tensor) -> Tensor:
    """A number for each row, ``(N,)``, that broadcasts over the events of ``like``, ``(N, *event)``."""
    return rows.reshape(rows.shape + (1,) * (like.dim() - 1))


def by_datum(x: Tensor, event_dim: int) -> Tensor:
    """The elements of each event along one dimension, ``(*batch, size)``."""
    return x.flatten(-event_dim) if event_dim else x.unsqueeze(-1)


def rearranged(x: Tensor, event_shape: tuple[int, ...], batch: torch.Size, places: Tensor) -> Tensor:
    """Rows, expanded to a batch, of which the one named stands at each place of the flattened batch."""
    rows = x.expand(*batch, *event_shape).reshape(-1, *event_shape)
    return rows[places].reshape(*batch, *event_shape)


def _randomness(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_randomness(device: torch.device, state: Tensor) -> None:
    torch.cuda.set_rng_state(state, device) if device.type == "cuda" else torch.set_rng_state(state)
