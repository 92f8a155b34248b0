"""Sequences of different lengths: what comes after the end of one is missing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from pyrogen.arguments import integer, real_tensor
from pyrogen.core.shapes import batch_shape_of
from pyrogen.distributions.distribution import PyrogenDistribution


class Sequences(PyrogenDistribution):
    """A distribution of sequences ``(length, *observation)``, in which NaN marks what is missing; abstract."""

    @abstractmethod
    def whole_log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of all that is observed of sequences."""

    def log_prob(self, value: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """The log-probability of sequences, or of the first steps of each.

        Args:
            value: Sequences ``(*batch, length, *observation)``.
            lengths: How many steps of each count, ``batch``; all that are observed if ``None``.

        Raises:
            ValueError: a length is not between 1 and the number of steps.
        """
        return self.whole_log_prob(value if lengths is None else shortened(value, lengths, self.event_shape))


def shortened(x: Tensor, lengths: Tensor | Sequence[int], event_shape: tuple[int, ...]) -> Tensor:
    """Sequences whose steps from a length on are missing.

    Args:
        x: Sequences ``(*batch, length, *observation)``, of floating-point numbers.
        lengths: How many steps of each count, integers of shape ``batch``.
        event_shape: ``(length, *observation)``.

    Raises:
        TypeError: ``lengths`` are no integers, or ``x`` are no floating-point numbers.
        ValueError: a length is not between 1 and the number of steps, or there are not as many as sequences.

    Example:
        >>> shortened(torch.ones(2, 3), [1, 3], (3,))
        tensor([[1., nan, nan],
                [1., 1., 1.]])
    """
    batch = batch_shape_of(x, event_shape, "x")
    lengths = torch.as_tensor(lengths, device=x.device)
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"`lengths` must hold integers, got {lengths.dtype}")
    if lengths.shape != batch:
        raise ValueError(
            f"`lengths` must have the batch shape of the sequences, {tuple(batch)}, got {tuple(lengths.shape)}"
        )
    wrong = (lengths < 1) | (lengths > event_shape[0])
    if bool(wrong.any()):
        row = wrong.flatten().nonzero()[0].item()
        got = f"got {lengths.flatten()[row].item()} in row {row}"
        raise ValueError(f"`lengths` must lie between 1 and the {event_shape[0]} steps, {got}")
    if not x.is_floating_point():
        raise TypeError(f"`x` must hold floating-point numbers, as `x.float()` does, got {x.dtype}")
    beyond = torch.arange(event_shape[0], device=x.device) >= lengths.unsqueeze(-1)
    return x.masked_fill(beyond.reshape(*beyond.shape, *(1,) * (len(event_shape) - 1)), torch.nan)


def padded(sequences: Sequence[Tensor], length: int | None = None) -> Tensor:
    """Sequences of different lengths as one tensor, in which missing steps at the end are NaN.

    Args:
        sequences: Tensors ``(steps, *observation)``, of which the widest precision counts.
        length: How many steps the tensor has; as many as the longest if ``None``.

    Raises:
        TypeError: a sequence is no tensor.
        ValueError: there is no sequence, one has no step or more than ``length``, or observations differ in shape.

    Example:
        >>> padded([torch.zeros(1), torch.zeros(3)])
        tensor([[0., nan, nan],
                [0., 0., 0.]])
    """
    sequences = [real_tensor(sequence, "sequences") for sequence in sequences]
    if not sequences:
        raise ValueError("`sequences` must hold at least one sequence, got none")
    longest = max(sequence.shape[:1].numel() for sequence in sequences)
    length = max(longest, 1) if length is None else integer(length, "length")
    for row, sequence in enumerate(sequences):
        if not sequence.dim():
            raise ValueError(f"`sequences` must have steps, got a number in row {row}")
        if not 1 <= len(sequence) <= length:
            raise ValueError(f"`sequences` must have from 1 to {length} steps, got {len(sequence)} in row {row}")
        if sequence.shape[1:] != sequences[0].shape[1:]:
            raise ValueError(
                f"`sequences` must have observations of one shape, got {tuple(sequences[0].shape[1:])} in row 0 and "
                f"{tuple(sequence.shape[1:])} in row {row}"
            )
    default = torch.get_default_dtype()
    dtype = reduce(torch.promote_types, (row.dtype if row.is_floating_point() else default for row in sequences))
    wide = sequences[0].new_full((len(sequences), length, *sequences[0].shape[1:]), torch.nan, dtype=dtype)
    for row, sequence in zip(wide, sequences, strict=True):
        row[: len(sequence)] = sequence
    return wide
