"""Embeddings, in which samples are compared: a function of rows with a name, which every number from it carries.

Distances between samples mean nothing without the space that they are measured in: Frechet distances in two embeddings
cannot be compared, nor can those of one network before and after a change of its preprocessing. So an embedding has a
name, and it becomes a part of the unit of every :class:`~pyrogen.core.estimate.Estimate`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, function, instance_of, number, numbers
from pyrogen.core.modes import evaluating

_SMALLEST = 1e-140  # the square of its inverse is finite, and that of a billionth of it not zero
_SAME, _ROUNDING = 1e-3, 1e-5  # of their spread and size: by so much features may differ with the batch around a row


class NamedEmbedding:
    """A function from rows of data to vectors of features, and what it is called.

    A module is called in evaluation mode and without gradients, and is afterwards in the mode it was in.

    Args:
        function: From ``(n, *event_shape)`` to ``(n, features)``: a network, or any function of each row alone.
        name: What it is, as in "squared MMD in <name>": the network, what it was trained on, and its layer.
        interval: The lowest and the highest value that the function was made for, such as ``(0, 1)`` of pixels; others
            are refused. ``None`` for any.
        batch_size: How many rows are embedded at once.

    Raises:
        TypeError: ``function`` cannot be called, or ``name`` is no string.
        ValueError: ``name`` is empty, or ``interval`` has no length.

    Example:
        >>> moments = NamedEmbedding(lambda x: torch.stack([x.mean(1), x.std(1)], 1), "mean and deviation")
        >>> moments(torch.randn(5, 100)).shape
        torch.Size([5, 2])
    """

    @checked(function=function, interval=instance_of(tuple))
    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        name: str,
        *,
        interval: tuple[float, float] | None = None,
        batch_size: int = 500,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a str, got {type(name).__name__}")
        if not name.strip():
            raise ValueError("`name` must say what the embedding is, got an empty one")
        if interval is not None and not number(interval[0], "interval[0]") < number(interval[1], "interval[1]"):
            raise ValueError(f"`interval` must be (low, high), got {interval}")
        self.function, self.name, self.interval, self.batch_size = function, name, interval, batch_size

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The features of rows, in double precision.

        Shape:
            ``(n, *event_shape)`` to ``(n, features)``.

        Raises:
            TypeError: ``x`` is no tensor of numbers.
            ValueError: ``x`` is not finite or lies beyond the interval; or the features are no rows, are not finite,
                or depend on what other rows stand beside a row.
        """
        self._require_rows(x)
        with evaluating(self.function) if isinstance(self.function, nn.Module) else nullcontext():
            features = torch.cat([self._features(rows) for rows in x.split(self.batch_size)])
            self._require_alone(features, self._features(x[:2]))
        return features

    def _features(self, rows: Tensor) -> Tensor:
        features = numbers(self.function(rows.clone()), "embedding(...)")
        if features.dim() != 2 or len(features) != len(rows) or not features.shape[1]:
            raise ValueError(
                f"`embedding` must give {len(rows)} rows features of shape ({len(rows)}, n), got "
                f"{tuple(features.shape)}; flatten or average what remains of an image"
            )
        return features.detach().double()

    def _require_rows(self, x: Tensor) -> None:
        numbers(x, "x")
        if not x.dim() or not len(x):
            raise ValueError(f"`x` must hold rows, (n, *event_shape), got shape {tuple(x.shape)}")
        if self.interval is not None and x.numel():
            low, high = float(x.min()), float(x.max())
            if low < self.interval[0] or high > self.interval[1]:
                raise ValueError(
                    f"`x` must lie in the interval {self.interval} of the embedding {self.name!r}, got values from "
                    f"{low:.4g} to {high:.4g}"
                )

    def _require_alone(self, features: Tensor, alone: Tensor) -> None:
        difference, size = float((features[:2] - alone).abs().max()), float(features.abs().max())
        spread = float((features - features.mean(0)).abs().max())
        if difference > _SAME * spread + _ROUNDING * size:
            raise ValueError(
                "`embedding` must give a row the same features each time, whatever rows stand beside it, got a "
                f"difference of {difference:.3g}; are there dropout, noise or batch statistics in {self.name!r}?"
            )


def embedded(
    first: Tensor,
    second: Tensor,
    embedding: NamedEmbedding | None,
    *,
    names: tuple[str, str] = ("x", "y"),
    least: int = 2,
) -> tuple[Tensor, Tensor, str]:
    """Two samples as features in double precision, ``(m, features)`` and ``(n, features)``, and the embedding's name.

    Args:
        first: Draws ``(m, *event_shape)``.
        second: Draws ``(n, *event_shape)``.
        embedding: In what they are compared; ``None`` for their own coordinates.
        names: Of the samples.
        least: How many draws each must hold.

    Raises:
        TypeError: a sample is no tensor, one holds integers and the other not, or ``embedding`` is none.
        ValueError: there are too few draws, the events are empty or differ in shape, a draw is not finite, or the
            features are all the same.
    """
    if embedding is not None and not isinstance(embedding, NamedEmbedding):
        raise TypeError(
            f"`embedding` must be a NamedEmbedding or None, got {type(embedding).__name__}; "
            "name a function or a network by `NamedEmbedding(function, name)`"
        )
    samples = dict(zip(names, (first, second), strict=True))
    for name, sample in samples.items():
        numbers(sample, name)
    both = f"`{names[0]}` and `{names[1]}`"
    shapes = [tuple(sample.shape) for sample in samples.values()]
    if not all(shapes) or shapes[0][1:] != shapes[1][1:] or not first[:1].numel():
        raise ValueError(f"{both} must have shapes (m, *event) and (n, *event), got {shapes[0]} and {shapes[1]}")
    if min(len(first), len(second)) < least:
        raise ValueError(f"{both} must hold at least {least} draws each, got {len(first)} and {len(second)}")
    if first.device != second.device:
        raise ValueError(f"{both} must be on one device, got {first.device} and {second.device}")
    if first.is_floating_point() != second.is_floating_point():
        raise TypeError(
            f"{both} must both hold integers or both floating-point numbers, got {first.dtype} and {second.dtype}; "
            "bring them to one scale first: integer pixels are 0 to 255, others often 0 to 1"
        )
    embedding = embedding or NamedEmbedding(_coordinates, "the data's own coordinates")
    features = [_named(embedding, sample, name) for name, sample in samples.items()]
    spread = max(float((part - features[0][0]).abs().max()) for part in features)
    if not spread:
        raise ValueError(f"`embedding` must tell rows apart, got the same features of all rows from {embedding.name!r}")
    if not _SMALLEST < spread < 1 / _SMALLEST:
        raise ValueError(f"{both} must have features with squares in double precision, got a spread of {spread:.3g}")
    return *features, embedding.name


def _coordinates(x: Tensor) -> Tensor:
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def _named(embedding: NamedEmbedding, sample: Tensor, name: str) -> Tensor:
    """The features of a sample; errors name the sample."""
    try:
        return embedding(sample)
    except ValueError as error:
        raise ValueError(str(error).replace("`x`", f"`{name}`")) from None
