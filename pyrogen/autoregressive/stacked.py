"""Autoregressive distributions of one model side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .distribution import AutoregressiveDistribution
from .given import Known


def stacked(distributions: Sequence[AutoregressiveDistribution]) -> AutoregressiveDistribution:
    """Distributions of one model side by side, along a batch dimension on the left.

    Raises:
        NotImplementedError: they are of several models, or their batch shapes differ, or only some have a part given.
    """
    first = distributions[0]
    alike = [(each.network, each.conditional, each.batch_shape, each.known is None) for each in distributions]
    if any(each != alike[0] for each in alike):
        raise NotImplementedError("distributions of different models or batch shapes do not go side by side")
    parts = [(each.context, each.known) for each in distributions]
    result = first._altered(torch.Size([len(parts), *first.batch_shape]), *_stack(parts))
    result._remake = None  # it would need the contexts of all
    return result


def _stack(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack(parts)
    if isinstance(first, Known):
        return Known(*_stack([(part.symbols, part.mask) for part in parts]))
    if isinstance(first, Mapping):
        return {key: _stack([part[key] for part in parts]) for key in first}
    if isinstance(first, tuple):
        return tuple(map(_stack, map(list, zip(*parts, strict=True))))
    return first
