"""Attention with several heads: the operation, in two ways, a layer whose result starts at zero, and a block of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function, forward_ad

from pyrogen.numerics.autograd import differentiated

from .noise_level import zeroed


class Attention(nn.Module):
    """Attention of every member of a sequence to every other, or to those of a context.

    Products and softmax are written out, so that forward-mode and second derivatives exist everywhere: densities of
    probability flows need them.

    Args:
        width: Size of the vectors.
        heads: How many heads; fewer where they do not divide the width.
        context: Size of the context's vectors; ``None`` for self-attention.

    Shape:
        ``(N, length, width)`` and ``(N, members, context)`` to ``(N, length, width)``; which members are there,
        ``(N, members)``, if not all.

    Raises:
        ValueError: ``heads`` does not divide ``width``.
    """

    def __init__(self, width: int, heads: int, *, context: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"`heads` must divide the {width} channels of a layer with attention, got {heads}")
        self.heads = heads
        self.queries = nn.Linear(width, width)
        self.keys_and_values = nn.Linear(width if context is None else context, 2 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        queries = self._split(self.queries(x))
        keys, values = self.keys_and_values(x if context is None else context).chunk(2, -1)
        return self.out(attend(queries, self._split(keys), self._split(values), present=present))

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads).transpose(1, 2)


class SelfAttentionBlock(nn.Module):
    """A transformer's block: self-attention, then a perceptron, each of a normalized copy and beside the identity.

    Args:
        width: Size of the vectors.
        heads: How many heads.
        ratio: How much wider the perceptron is.

    Shape:
        ``(N, length, width)`` to the same; which members are there, ``(N, length)``, if not all.
    """

    def __init__(self, width: int, heads: int, *, ratio: int = 4) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), present=present)
        return x + self.perceptron(self.norm(x))


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, present: Tensor | None = None
) -> Tensor:
    """Attention of queries to keys: ``(N, heads, n, size)`` and ``(N, key_heads, m, size)`` to ``(N, n, width)``.

    Query heads that share a key head are taken together, so that keys and values are not copied.

    Args:
        queries: Of each head.
        keys: Of each key head.
        values: Of each key head.
        causal: Whether a query sees the keys up to its own place alone.
        present: Which keys are there, ``(N, m)``, if not all; where there are none the result is zero.
    """
    rows, heads, count, size = queries.shape
    key_heads = keys.shape[1]
    grouped = queries.reshape(rows, key_heads, heads // key_heads * count, size)
    scores = (grouped @ keys.transpose(-1, -2)).mul(size**-0.5)
    if causal:
        later = torch.ones(count, count, dtype=torch.bool, device=queries.device).triu(1)
        scores = scores.masked_fill(later.repeat(heads // key_heads, 1), -torch.inf)
    if present is None:
        weights = scores.softmax(-1)
    else:
        absent = ~present[:, None, None, :]
        weights = scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(absent, 0.0)
    mixed = (weights @ values).reshape(rows, heads, count, size)
    return mixed.transpose(1, 2).reshape(rows, count, heads * size)


def attend_at_once(queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False) -> Tensor:
    """The same as :func:`attend` by torch's fused kernel, which is faster, where that can do what is asked for.

    The kernel has no second derivatives, no forward mode and no rule for ``vmap``; for these it is written out.
    """
    given = queries, keys, values
    if forward_ad._current_level >= 0 or any(map(torch._C._functorch.is_functorch_wrapped_tensor, given)):
        return attend(*given, causal=causal)
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and any(part.requires_grad for part in given)):
        return _merged(_fused(*given, causal))
    return _merged(_Fused.apply(*given, causal))


def _fused(queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
    times = queries.shape[1] // keys.shape[1]
    if times > 1:
        keys, values = (part.repeat_interleave(times, 1) for part in (keys, values))
    return F.scaled_dot_product_attention(queries, keys, values, is_causal=causal)


def _merged(mixed: Tensor) -> Tensor:
    """``(N, heads, n, size)`` as ``(N, n, width)``."""
    return mixed.transpose(1, 2).flatten(2)


class _Fused(Function):
    """The fused kernel, with a backward pass that is itself written out where it is differentiated again."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, causal: bool) -> Tensor:
        ctx.save_for_backward(queries, keys, values)
        ctx.causal = causal
        with torch.enable_grad():
            ctx.inputs = [part.detach().requires_grad_() for part in (queries, keys, values)]
            ctx.mixed = _fused(*ctx.inputs, causal)
        return ctx.mixed.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        if not torch.is_grad_enabled():
            return *torch.autograd.grad(ctx.mixed, ctx.inputs, gradient, retain_graph=True), None

        def definition(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor]:
            mixed = attend(queries, keys, values, causal=ctx.causal).unflatten(-1, (queries.shape[1], -1))
            return (mixed.transpose(1, 2).to(gradient.dtype),)

        return *differentiated(definition, ctx.saved_tensors, (gradient,)), None
