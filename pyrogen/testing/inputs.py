"""Inputs of a module (tensors, dicts of tensors, None) and what the checks do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def each(function: Callable[[Tensor], Tensor], inputs: Any) -> Any:
    """The same structure with ``function`` applied to each tensor."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: each(function, entry) for key, entry in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(each(function, entry) for entry in inputs)
    return inputs


def tensors(inputs: Any) -> Iterator[Tensor]:
    """All tensors of the structure."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        for entry in inputs.values():
            yield from tensors(entry)
    elif isinstance(inputs, tuple | list):
        for entry in inputs:
            yield from tensors(entry)


def rows(inputs: Any) -> int | None:
    """The length of the batch: of the first tensor, None if there is no tensor."""
    first = next(tensors(inputs), None)
    return None if first is None else len(first)


def take(inputs: Any, index: Any) -> Any:
    """The rows that ``index`` selects."""
    return each(lambda tensor: tensor[index], inputs)


def double(inputs: Any) -> Any:
    """Floating tensors as float64, others as they are."""
    return of_dtype(inputs, torch.float64)


def of_dtype(inputs: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in another precision, others as they are."""
    return each(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, inputs)


def scaled(inputs: Any, scale: float) -> Any:
    """Floating tensors multiplied by a number, others as they are."""
    return each(lambda tensor: tensor * scale if tensor.is_floating_point() else tensor, inputs)


def clone(inputs: Any) -> Any:
    """Copies that share no memory with the originals."""
    return each(lambda tensor: tensor.detach().clone(), inputs)


def with_gradient(inputs: Any) -> Any:
    """Copies of which the floating tensors require gradients."""
    return each(lambda tensor: tensor.detach().clone().requires_grad_(tensor.is_floating_point()), inputs)


def floating(inputs: Any) -> list[Tensor]:
    """The floating tensors of the structure."""
    return [tensor for tensor in tensors(inputs) if tensor.is_floating_point()]


def gradients_of(target: Tensor, points: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of the sum of ``target`` in each of the points; zeros where it does not depend on one."""
    return list(torch.autograd.grad(target.sum(), points, retain_graph=True, allow_unused=True, materialize_grads=True))


def agree_all(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float) -> bool:
    """Whether each tensor agrees with its partner."""
    return all(agree(one, other, tolerance) for one, other in zip(first, second, strict=True))


def agree(first: Tensor, second: Tensor, tolerance: float) -> bool:
    """Whether two tensors have one shape and are equal up to ``tolerance``, relative above 1; NaN equals NaN."""
    if first.shape != second.shape:
        return False
    return torch.allclose(first.double(), second.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def gap(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference; infinite if the shapes differ or either holds NaN."""
    if first.shape != second.shape:
        return float("inf")
    if not first.numel():
        return 0.0
    difference = torch.where(first == second, torch.zeros_like(first), (first - second).abs()).max().item()
    return difference if difference == difference else float("inf")
