"""What automatic differentiation is at work, and how functions with a backward pass of their own fit in.

A function with a backward pass written out is fast where a loss is differentiated once. Elsewhere (under ``torch.func``
and ``torch.compile``, in forward mode, where a second derivative is wanted) its definition by differentiable operations
is used: :func:`is_functional` finds where, :func:`differentiated` gives second derivatives.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

P, R, T = ParamSpec("P"), TypeVar("R"), TypeVar("T")


def is_functional(tensors: Iterable[Tensor]) -> bool:
    """Whether ``torch.compile``, a transform of ``torch.func`` or forward-mode differentiation is at work."""
    if torch.compiler.is_compiling() or forward_ad._current_level >= 0:
        return True
    return any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


def is_mapped(x: Tensor) -> bool:
    """Whether ``torch.vmap`` maps over a tensor, so that no Python branch can depend on its numbers."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def differentiated(
    function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor | None], gradients: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """The gradients of a function in its inputs, by differentiable operations; ``None`` for an input of ``None``."""
    places = [place for place, value in enumerate(inputs) if value is not None]

    def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
        values: list[Tensor | None] = [None] * len(inputs)
        for place, tensor in zip(places, tensors, strict=True):
            values[place] = tensor
        return function(*values)

    _, pull = torch.func.vjp(of_tensors, *(inputs[place] for place in places))
    found = dict(zip(places, pull(gradients), strict=True))
    return [found.get(place) for place in range(len(inputs))]


def pushed_forward(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], directions: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The value of a function and its derivative along directions of its inputs, in one pass of forward mode."""
    with warnings.catch_warnings():  # of a deprecated function that torch itself calls, the first time
        warnings.filterwarnings("ignore", "`torch.jit.script` is", DeprecationWarning)
        return torch.func.jvp(function, inputs, directions)


def tensors_of(module: nn.Module | None) -> dict[str, Tensor]:
    """The parameters and buffers of a module by their names."""
    return {} if module is None else {**dict(module.named_parameters()), **dict(module.named_buffers())}


def with_tensors(function: Callable[..., R], module: nn.Module | None, tensors: Sequence[Tensor]) -> Callable[..., R]:
    """A function that uses a module, called with others in the places of the module's :func:`tensors_of`."""
    own = tensors_of(module)
    if all(tensor is now for tensor, now in zip(tensors, own.values(), strict=True)):
        return function
    called = _Called(module, function)
    state = {f"module.{name}": tensor for name, tensor in zip(own, tensors, strict=True)}
    return lambda *given: torch.func.functional_call(called, state, given)


class _Called(nn.Module):
    """A function that uses a module, as a module, so that its tensors can be given."""

    def __init__(self, module: nn.Module, function: Callable) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def deepcopied(value: T, memo: dict) -> T:
    """What ``__deepcopy__`` gives of an object that may hold tensors in the middle of a graph: those without it.

    ``copy.deepcopy`` refuses such tensors, as what a network made of a context.
    """
    for tensor in _computed(value, set()):
        memo[id(tensor)] = tensor.detach().clone()
    twin = type(value).__new__(type(value))
    memo[id(value)] = twin
    twin.__dict__.update(copy.deepcopy(value.__getstate__(), memo))
    return twin


def _computed(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors inside an object, but for those of modules, that are no leaves of their graphs."""
    if id(value) in seen or isinstance(value, nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not value.is_leaf:
            yield value
        return
    if isinstance(value, Mapping):
        parts = value.values()
    else:
        parts = value if isinstance(value, (tuple, list)) else getattr(value, "__dict__", {}).values()
    for part in parts:
        yield from _computed(part, seen)


def full(x: Tensor) -> Tensor:
    """Numbers that autocast has rounded to half precision as single precision; all others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) and _is_casting(x) else x


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """A function computed as if ``torch.autocast`` were off, its tensors of half precision made single.

    Densities need it: a log-determinant rounded to three digits is off by nats. Also a backward pass that runs inside
    the scope of autocast.
    """

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [value for value in args if isinstance(value, Tensor)]
        if not tensors or not _is_casting(tensors[0]):
            return function(*args, **kwargs)
        given = [full(value) if isinstance(value, Tensor) else value for value in args]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(*given, **kwargs)

    return wrapped


def _is_casting(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)
