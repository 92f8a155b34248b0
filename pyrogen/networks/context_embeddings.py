"""One path for contexts: from what a model is conditioned on to the features that its networks take.

A context is one tensor or several in a dict. Entries named by ``classes`` hold integer labels, which are checked; all
others are numbers, which are standardized by moments of the data set (:mod:`pyrogen.networks.statistics`). A module of
the user's, the ``embedding``, may then turn all entries into features, which stand in their place: a vector, a sequence
or an image, by their shape. The classes of this module differ in what they make of that: one vector
(:class:`VectorContext`), a sequence of vectors (:class:`SequenceContext`), a vector for each place of a signal or an
image (:class:`PlaceContext`); :class:`~pyrogen.networks.conditions.ContextEncoder` keeps each kind apart.
:class:`WithContext` puts contexts beside the input of a network.

All are called with one batch dimension in front, ``(N, *context_shape)``;
:func:`~pyrogen.networks.context.context_rows` makes such rows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.numerics.rows import shaped

from .context import Classes, Context, ContextShape, Shape, by_name, described, integer_labels
from .embedding import Embedding
from .statistics import ReadsData, Standardizers, Statistic, read_by, require_labels


class ContextEmbedding(Abstract, ReadsData, nn.Module):
    """A context made ready for a network; subclasses define what becomes of its entries.

    Args:
        context_shape: ``None``, the shape of one context, or a dict of them. With ``classes`` alone it is ``()``.
        classes: How many labels there are: a number for a single context, a dict for some of several.
        embedding: Any module from contexts to features, ``(N, *features)``. It gets numbers standardized and labels as
            integers: a tensor, or a dict of tensors. An :class:`~pyrogen.networks.embedding.Embedding` gets numbers as
            they are, and standardizes them itself.
        absent: Whether members of sequences may be absent: symbols of -1, and rows of NaN.

    Attributes:
        context_shape: Shape of the context, a dict of shapes, or ``None``.
        labels: How many labels there are, by the names of entries; a single context has the name ``""``.
        shapes: Shapes of the entries that :meth:`entries` gives.

    Raises:
        TypeError: ``embedding`` is no module.
        ValueError: ``classes`` or ``embedding`` does not fit the context.
    """

    def __init__(
        self,
        context_shape: ContextShape,
        *,
        classes: Classes = None,
        embedding: nn.Module | None = None,
        absent: bool = False,
    ) -> None:
        super().__init__()
        self.context_shape, self.labels = described(context_shape, classes)
        self.shapes = by_name(self.context_shape)
        self.absent = absent and embedding is None
        # An `Embedding` standardizes by itself.
        unread = {} if isinstance(embedding, Embedding) else self.shapes
        numbers = {key: shape for key, shape in unread.items() if key not in self.labels}
        self.standardizers = Standardizers(numbers, absent=self.absent)
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.embedding = embedding
        if embedding is not None:
            self.shapes = {"": _features_shape(embedding, self.context_shape, self.labels)}

    @property
    def single(self) -> Shape | None:
        """Shape of the one entry, where there is one without a name."""
        return self.shapes.get("")

    @abstractmethod
    def forward(self, context: Context) -> Any:
        """What a network takes, from contexts with one batch dimension in front."""

    def entries(self, context: Context) -> dict[str, Tensor]:
        """The entries of a context by name, labels as long integers and numbers standardized; or all as features.

        Raises:
            ValueError: a label is out of range, where torch validates the arguments of distributions.
        """
        parts = self.standardizers(by_name(context))
        for key, value in parts.items():
            if (known := self.labels.get(key)) is not None:
                parts[key] = integer_labels(value, known, _shown(key), self._lowest(key))
            elif not isinstance(self.embedding, Embedding):  # which may lose nothing before it standardizes
                parts[key] = value.to(self.zero.dtype)
        return parts if self.embedding is None else {"": self._features(parts)}

    def _lowest(self, key: str) -> int:
        """The lowest integer of an entry of labels: -1 is a member of a sequence that is not there."""
        return -1 if self.absent and by_name(self.context_shape)[key] else 0

    def _features(self, parts: dict[str, Tensor]) -> Tensor:
        """What the embedding makes of the entries, each taken and given in its own precision."""
        if not isinstance(self.embedding, Embedding):
            like = _like(self.embedding, self.zero)
            parts = {key: part if key in self.labels else part.to(like.dtype) for key, part in parts.items()}
        features = self.embedding(parts if isinstance(self.context_shape, dict) else parts[""])
        rows = len(next(iter(parts.values())))
        if features.shape != (rows, *self.single):
            raise ValueError(
                f"`embedding` must give features {(rows, *self.single)} of {rows} contexts, as it does of few, got "
                f"{tuple(features.shape)}"
            )
        return features.to(self.zero.dtype)

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        parts = {key: value for key, value in by_name(context).items() if value is not None}
        for key, classes in self.labels.items():
            if key in parts:
                require_labels(parts[key], classes, _shown(key), self._lowest(key))
        found = list(self.standardizers.read_data(parts))
        yield from found
        ready = all(statistic.learned for statistic, _ in found) and len(parts) == len(by_name(self.context_shape))
        if isinstance(self.embedding, ReadsData) and ready:
            parts = self.standardizers(parts)
            yield from read_by(self.embedding, parts if isinstance(self.context_shape, dict) else parts[""])


class VectorContext(ContextEmbedding):
    """A context as one vector: labels one-hot, numbers standardized, all flattened and put side by side.

    Args:
        context_shape: As for :class:`ContextEmbedding`.
        classes: As for :class:`ContextEmbedding`; labels have the shape ``()``.
        embedding: As for :class:`ContextEmbedding`; its features are flattened.

    Shape:
        ``(*batch, *context_shape)`` to ``(*batch, size)``; the batch dimensions of several tensors broadcast. With an
        embedding there is one, as it takes it.

    Example:
        >>> context = VectorContext({"a": (2,), "b": ()}, classes={"b": 3})
        >>> context({"a": torch.zeros(1, 2), "b": torch.tensor([2])})
        tensor([[0., 0., 0., 0., 1.]])
    """

    def __init__(
        self,
        context_shape: ContextShape,
        *,
        classes: Classes = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(context_shape, classes=classes, embedding=embedding)
        _require_scalar_labels(self.context_shape, self.labels)

    @property
    def size(self) -> int:
        """How long the vector is; 0 without a context."""
        return sum(self._width(key) or prod(shape) for key, shape in self.shapes.items())

    @property
    def fixed(self) -> int:
        """How many of its first elements depend on no parameter."""
        if self.embedding is None:
            return self.size
        return self.embedding.fixed if isinstance(self.embedding, Embedding) else 0

    def forward(self, context: Context) -> Tensor:
        return self.vector(self.entries(context))

    def vector(self, entries: Mapping[str, Tensor]) -> Tensor:
        """Entries made ready, as one vector."""
        flat = [self._flat(key, entries[key]) for key in self.shapes]
        if len(flat) == 1:
            return flat[0]
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in flat))
        return torch.cat([part.expand(*batch, part.shape[-1]) for part in flat], -1)

    def _width(self, key: str) -> int | None:
        """How long a one-hot vector is, if an entry becomes one."""
        return None if self.embedding is not None else self.labels.get(key)

    def _flat(self, key: str, entry: Tensor) -> Tensor:
        if (classes := self._width(key)) is not None:
            return (entry.unsqueeze(-1) == torch.arange(classes, device=entry.device)).to(self.zero.dtype)
        shape = self.shapes[key]
        return entry.reshape(*entry.shape[: entry.dim() - len(shape)], prod(shape))


class SequenceContext(VectorContext):
    """A context as a sequence of vectors, which a transformer attends to or takes before its own.

    A single entry ``(length, features)`` is a sequence already; anything else becomes one vector.

    Args:
        context_shape: As for :class:`ContextEmbedding`.
        width: Size of the vectors.
        classes: As for :class:`VectorContext`.
        embedding: As for :class:`ContextEmbedding`.

    Shape:
        ``(N, *context_shape)`` to ``(N, length, width)``.
    """

    def __init__(
        self,
        context_shape: ContextShape,
        width: int,
        *,
        classes: Classes = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(context_shape, classes=classes, embedding=embedding)
        self.is_sequence = self.single is not None and len(self.single) == 2
        self.linear = nn.Linear(self.single[1] if self.is_sequence else self.size, width) if self.shapes else None

    @property
    def length(self) -> int:
        """How many vectors there are; 0 without a context."""
        return self.single[0] if self.is_sequence else min(len(self.shapes), 1)

    def forward(self, context: Context) -> Tensor:
        entries = self.entries(context)
        return self.linear(entries[""] if self.is_sequence else self.vector(entries).unsqueeze(1))


class PlaceContext(VectorContext):
    """A context as a vector for each place of a signal or of an image, or one vector for all places alike.

    A single entry ``(channels, rows, columns)`` with an image's sides goes through two convolutions, one ``(length,
    features)`` with a signal's length stays as it is. A label becomes one-hot; anything else one vector for all.

    Args:
        context_shape: As for :class:`ContextEmbedding`.
        places: ``(length,)`` of a signal, or ``(rows, columns)`` of an image.
        width: Size of the vectors.
        classes: As for :class:`VectorContext`.
        embedding: As for :class:`ContextEmbedding`.

    Shape:
        ``(N, *context_shape)`` to ``(N, places, features)`` or ``(N, features)``.
    """

    def __init__(
        self,
        context_shape: ContextShape,
        places: Shape,
        width: int,
        *,
        classes: Classes = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(context_shape, classes=classes, embedding=embedding)
        own = self.single or ()
        self.convolutions = self.linear = None
        self.is_signal = len(own) == 2 and own[:1] == places
        if len(own) == 3 and own[1:] == places:
            self.convolutions = nn.Sequential(
                nn.Conv2d(own[0], width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
        elif self.shapes and not self.is_signal and self._width("") is None:
            self.linear = nn.Linear(self.size, width)
        self.features = own[1] if self.is_signal else width if self.convolutions or self.linear else self.size

    def forward(self, context: Context) -> Tensor:
        entries = self.entries(context)
        if self.is_signal:
            return entries[""]
        if self.convolutions is not None:
            return self.convolutions(entries[""]).flatten(2).transpose(1, 2)
        vector = self.vector(entries)
        return vector if self.linear is None else self.linear(vector).relu()


class WithContext(ReadsData, nn.Module):
    """A network of an input with a context beside it.

    Inputs are a tensor, or a dict in which the input has a name; contexts of one tensor have the name ``"context"``.

    Args:
        network: Called with the input, and with the vector of the contexts where there are any.
        name: The name of the input.
        contexts: What is beside it.
        prepare: What the input goes through first, such as a :class:`~pyrogen.networks.statistics.Standardizer`.
        size: If given, the input is flattened to vectors of this size.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        contexts: Iterable[VectorContext] = (),
        *,
        prepare: nn.Module | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = name
        self.contexts = nn.ModuleList(contexts)
        self.prepare = prepare
        self.size = size
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, inputs: Context) -> Tensor:
        entries = inputs if isinstance(inputs, Mapping) else {self.name: inputs}
        x = entries[self.name].to(self.zero.dtype)
        x = x if self.prepare is None else self.prepare(x)
        x = x if self.size is None else shaped(x, (x.shape[0], self.size))
        if not self.contexts:
            return self.network(x)
        return self.network(x, torch.cat([context(_own(context, entries)) for context in self.contexts], -1))

    def read_data(self, inputs: Context) -> Iterator[tuple[Statistic, Tensor]]:
        entries = inputs if isinstance(inputs, Mapping) else {self.name: inputs}
        yield from read_by(self.prepare, entries.get(self.name))
        for context in self.contexts:
            yield from context.read_data(_own(context, entries))


def _own(context: ContextEmbedding, entries: Mapping[str, Tensor]) -> Context:
    """What a context takes of several entries, as far as they are there."""
    if not isinstance(context.context_shape, dict):
        return entries.get("context")
    return {key: entries[key] for key in context.context_shape if key in entries}


def _require_scalar_labels(context_shape: ContextShape, labels: Mapping[str, int]) -> None:
    for key, shape in by_name(context_shape).items():
        if key in labels and shape != ():
            demand = f"be () for the labels {key!r}" if key else "be None where `classes` is given"
            way_out = "; transformers take sequences of symbols with `source`" if len(shape) == 1 else ""
            raise ValueError(f"`context_shape` must {demand}, got {shape}{way_out}")


def _features_shape(embedding: nn.Module, context_shape: ContextShape, labels: Mapping[str, int]) -> Shape:
    """The shape of what an embedding makes of one context, found by calling it; it stays as it is."""
    if not isinstance(embedding, nn.Module):
        raise TypeError(f"`embedding` must be an nn.Module, got {type(embedding).__name__}")
    if context_shape is None:
        raise ValueError("`embedding` needs a context, got neither `context_shape` nor `classes`")
    like = _like(embedding, torch.zeros(()))
    rows = {
        key: torch.zeros(2, *shape, dtype=torch.long if key in labels else like.dtype, device=like.device)
        for key, shape in by_name(context_shape).items()
    }
    for key, classes in labels.items():
        rows[key][1] = classes - 1  # a table of too few fails here, not in the first minibatch with such a label
    training = [part for part in embedding.modules() if part.training]
    try:
        with torch.no_grad():
            features = embedding.eval()(rows if isinstance(context_shape, dict) else rows[""])
    except Exception as error:  # the user's network may raise anything
        raise ValueError(
            f"`embedding` must take contexts (N, *shape) of shape {context_shape}, got an error: {error}"
        ) from error
    finally:
        for part in training:
            part.training = True
    if not isinstance(features, Tensor) or features.dim() < 2 or len(features) != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"`embedding` must give features (N, ...) for N contexts, got {got} for 2")
    return tuple(features.shape[1:])


def _like(embedding: nn.Module, otherwise: Tensor) -> Tensor:
    """A tensor of the precision and the device in which an embedding takes numbers: those of its parameters."""
    return next((parameter for parameter in embedding.parameters() if parameter.is_floating_point()), otherwise)


def _shown(key: str) -> str:
    return f"context[{key!r}]" if key else "context"
