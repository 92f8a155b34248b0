"""Windows of a long sequence, on which models of sequences are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pyrogen.arguments import checked, integer
from pyrogen.arrays import takes_arrays


@takes_arrays
@checked(hop=integer)
def windows(data: Any, length: int, *, hop: int = 1) -> Any:
    """Windows of a sequence, in their order; the end of the sequence is in none if it does not fill one.

    Args:
        data: The sequence, with time first; or a tuple or dict of such, as a sequence and its contexts.
        length: Of a window, in steps.
        hop: From the beginning of one window to that of the next, in steps.

    Shape:
        ``(steps, *shape)`` to ``(N, length, *shape)``, which share memory.

    Raises:
        TypeError: something else than tensors stands there.
        ValueError: a sequence is shorter than a window.

    Example:
        >>> windows(torch.arange(5), 3, hop=2)
        tensor([[0, 1, 2],
                [2, 3, 4]])
    """
    if isinstance(data, Mapping):
        return {key: windows(part, length, hop=hop) for key, part in data.items()}
    if isinstance(data, (tuple, list)):
        return tuple(windows(part, length, hop=hop) for part in data)
    if not isinstance(data, Tensor):
        raise TypeError(f"`data` must be a tensor, or a tuple or dict of tensors, got {type(data).__name__}")
    if not data.dim() or len(data) < length:
        raise ValueError(f"`data` must have at least {length} steps, those of a window, got {tuple(data.shape)}")
    return data.unfold(0, length, hop).movedim(-1, 1)
