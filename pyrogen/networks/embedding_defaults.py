"""Which embedding observed data get, from their shapes and from which of their dimensions are sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from .embedding import EachRow, Embedding, ImageEmbedding, Shape, SideBySide, VectorEmbedding
from .forms import Form
from .series import SequenceEmbedding
from .sets import SetEmbedding

_SHORT = 64
"""Up to so many numbers stay as they are."""
_SMALL_SIDE = 8
"""From so many rows and columns on, an image gets convolutions."""


def default_embedding(
    context_shape: Shape | Mapping[str, Shape],
    *,
    sets: Sequence[bool] | Mapping[str, Sequence[bool]] | None = None,
    forms: Form | Mapping[str, Form] | None = None,
) -> Embedding:
    """The embedding of observed data that fits their shape.

    Sets go to a :class:`SetEmbedding`, images ``(channels, rows, columns)`` to convolutions, series ``(length,)`` or
    ``(length, features)`` of more than 64 numbers as well; all else is a vector. Several data stand side by side.

    Args:
        context_shape: Shape of one context (plates, then the event), or a dict of shapes.
        sets: For each of the first dimensions, whether it counts exchangeable rows; a dict of these for several.
        forms: What is taken of each number; a dict for several, numbers themselves where it names none.

    Raises:
        ValueError: ``sets`` or ``forms`` names an entry that does not exist, or there are more of ``sets`` than
            dimensions.

    Example:
        >>> default_embedding((20, 3), sets=(True,)).context_shape
        (20, 3)
        >>> type(default_embedding({"x": (20,), "y": ()}, sets={"x": (True,)})).__name__
        'SideBySide'
    """
    if not isinstance(context_shape, Mapping):
        return _one(tuple(context_shape), tuple(sets or ()), forms)
    for given, name in ((sets, "sets"), (forms, "forms")):
        if given and not set(given) <= set(context_shape):
            known = sorted(context_shape)
            raise ValueError(f"`{name}` must name entries of the context among {known}, got {sorted(given)}")
    sets, forms = sets or {}, forms or {}
    return SideBySide(
        {name: _one(tuple(shape), tuple(sets.get(name, ())), forms.get(name)) for name, shape in context_shape.items()}
    )


def _one(shape: Shape, sets: tuple[bool, ...], form: Form | None) -> Embedding:
    if len(sets) > len(shape):
        raise ValueError(f"`sets` must have at most {len(shape)} entries for the shape {shape}, got {sets}")
    if not any(sets):
        return _event(shape, form)
    row = _one(shape[1:], sets[1:], form)
    return SetEmbedding(row, rows=shape[0]) if sets[0] else EachRow(row, rows=shape[0])


def _event(shape: Shape, form: Form | None) -> Embedding:
    if prod(shape) > _SHORT and len(shape) == 3 and min(shape[1:]) >= _SMALL_SIDE:
        return ImageEmbedding(shape, form=form)
    if prod(shape) > _SHORT and len(shape) <= 2:
        return SequenceEmbedding(shape, form=form)
    return VectorEmbedding(shape, form=form)
