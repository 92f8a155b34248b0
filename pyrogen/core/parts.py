"""Parts of a model: what each is given of the context of the whole, and of what the other parts draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from pyrogen.networks.statistics import Statistic

from .module import DistributionModule
from .shapes import Context, ContextShape, Shape


def given(part: DistributionModule, context: Context, **own: Tensor) -> Context:
    """What a part is given: its main entry (its own, or the context), or all those it names."""
    shape = part.context_shape
    if shape is None:
        return None
    if not isinstance(shape, dict) and own:
        (main,) = own.values()
        return main
    entries = {**(context if isinstance(context, Mapping) else {"context": context}), **own}
    return {key: entries[key] for key in shape} if isinstance(shape, dict) else entries["context"]


def read_part(
    part: DistributionModule, context: Context, own: str | None = None, value: Tensor | None = None
) -> Iterator[tuple[Statistic, Tensor]]:
    """Reads what a part is given, before training, as far as it is known.

    Args:
        part: The part.
        context: The context of the whole.
        own: The name of the part's main entry, if that is not the context.
        value: That entry; ``None`` for a latent, which is unknown.
    """
    shape = part.context_shape
    entries = dict(context) if isinstance(context, Mapping) else {"context": context}
    entries |= {} if own is None else {own: value}
    if isinstance(shape, dict):
        return part.read_context({key: entry for key in shape if (entry := entries.get(key)) is not None})
    return part.read_context(None if shape is None else entries["context" if own is None else own])


def taken(part: DistributionModule, entry: str) -> Shape | None:
    """The shape of its main entry that a part takes, alone or by this name; ``None`` if it takes none."""
    shape = part.context_shape
    return shape.get(entry) if isinstance(shape, dict) else shape


def merged_context_shape(*parts: tuple[str, DistributionModule, str | None]) -> ContextShape:
    """The context that parts take between them, besides the entries that are their own.

    Args:
        parts: For each its name, itself, and the entry it is given by the whole: ``None`` if it is given none.

    Raises:
        ValueError: they take one entry in two shapes.
    """
    shapes: dict[str, Shape] = {}
    for name, part, own in parts:
        for key, shape in _entries(part, own).items():
            if shapes.setdefault(key, shape) != shape:
                raise ValueError(f"`{name}` must take {key!r} of shape {shapes[key]}, as other parts do, got {shape}")
    return shapes["context"] if set(shapes) == {"context"} else shapes or None


def _entries(part: DistributionModule, own: str | None) -> dict[str, Shape]:
    """What a part takes besides its main entry."""
    shape = part.context_shape
    if isinstance(shape, dict):
        return {key: value for key, value in shape.items() if key != own}
    return {} if own is not None or shape is None else {"context": shape}
