r"""From counted grey levels to real numbers.

A density over real numbers states nothing about integers :math:`v \in \{0, \dots, K-1\}` until noise fills the gaps.
With uniform noise :math:`u \in [0, 1)`,

.. math:: \log P(v) \ge \mathbb{E}_u [\log p((v + u) / K)] - D \log K,

so the mean log-density of dequantized data, less :math:`D \log K` nats for :math:`D` numbers, is a lower bound of the
log-probability of the integers.

References:
    Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models",
    https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arguments import checked, integer


@checked(symbols=integer)
def dequantize(values: Tensor, symbols: int, *, seed: int) -> Tensor:
    """Integers as real numbers in (0, 1), with uniform noise; :func:`quantize` gives them back.

    Args:
        values: Integers from 0 to ``symbols - 1``, of any shape.
        symbols: How many values there are.
        seed: Of the noise.

    Returns:
        ``(values + noise) / symbols`` in the default dtype and on the device of ``values``, never 0 or 1.

    Raises:
        ValueError: ``values`` are not integers in range.
    """
    if values.is_floating_point() or values.numel() and not 0 <= values.min().item() <= values.max().item() < symbols:
        raise ValueError(f"`values` must be integers from 0 to {symbols - 1}, got {values.dtype} {_range(values)}")
    noise = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)).to(values.device)
    return (values + within_cell(noise, symbols)) / symbols


@checked(symbols=integer)
def quantize(values: Tensor, symbols: int) -> Tensor:
    """Real numbers in [0, 1] as integers from 0 to ``symbols - 1``: undoes :func:`dequantize`."""
    return (values * symbols).floor().clamp(0, symbols - 1).long()


def within_cell(noise: Tensor, symbols: int) -> Tensor:
    r"""Noise in [0, 1] kept so far from both ends that rounding takes no :math:`(v + u) / K` out of its cell.

    A number near :math:`K` is known to :math:`K \epsilon`, so now and then a level of 255 would become 256,
    where a density over (0, 1) is zero.

    Args:
        noise: The noise :math:`u`.
        symbols: How many symbols :math:`K` there are.
    """
    edge = 2 * symbols * torch.finfo(noise.dtype).eps
    return noise.clamp(edge, 1 - edge)


def noise_of_rows(values: Tensor, event_dim: int) -> Tensor:
    """Noise in [0, 1) that is the same whenever a row comes, in whatever minibatch: a hash of its numbers.

    Statistics that are learned one after the other, each in a pass of its own, see the same noise in all passes.

    Args:
        values: Rows of numbers, ``(*batch, *event)``.
        event_dim: How many dimensions a row has.
    """
    rows = values.to("cpu" if values.device.type == "mps" else values.device).double()  # mps has no float64
    rows = rows.flatten(rows.dim() - event_dim) if event_dim else rows.unsqueeze(-1)
    places = torch.arange(1, 1 + rows.shape[-1], dtype=rows.dtype, device=rows.device)
    key = (rows * (places * 2**0.5).frac()).sum(-1, keepdim=True)
    angles = 12.9898 * key + 78.233 * places
    noise = (43758.5453 * angles.sin()).frac().abs().reshape(values.shape)
    return noise.to(torch.get_default_dtype()).to(values.device)


def _range(values: Tensor) -> str:
    return f"between {values.min().item()} and {values.max().item()}" if values.numel() else "without values"
