r"""Sounds as numbers: the mu-law, whose levels are finer at small amplitudes, as hearing is.

Samples :math:`x \in [-1, 1]` are bent by

.. math:: f(x) = \operatorname{sign}(x) \frac{\log(1 + \mu |x|)}{\log(1 + \mu)}

and then rounded to the nearest of :math:`\mu + 1` levels, evenly spaced from -1 to 1 (ITU-T recommendation G.711; 256
levels sound like 14 bits).
"""

from __future__ import annotations

from math import log1p

import torch
from torch import Tensor

from pyrogen.arguments import anything, checked


@checked
def mu_law(x: Tensor, symbols: int = 256) -> Tensor:
    """Samples between -1 and 1 as integers ``0 … symbols - 1``.

    Args:
        x: Samples, of any shape.
        symbols: How many of them.

    Raises:
        ValueError: a sample lies outside of [-1, 1] or is NaN, or there are fewer than two symbols.

    Example:
        >>> mu_law(torch.tensor([-1.0, 0.0, 0.01, 1.0]))
        tensor([  0, 128, 157, 255])
    """
    _check_symbols(symbols)
    if not bool((x.abs() <= 1).all()):
        raise ValueError(f"`x` must lie between -1 and 1, got {x[~(x.abs() <= 1)][0].item()}")
    mu = symbols - 1
    bent = x.sign() * torch.log1p(mu * x.abs()) / log1p(mu)
    return ((bent + 1) / 2 * mu + 0.5).floor().long()


@checked(codes=anything)
def inverse_mu_law(codes: Tensor, symbols: int = 256) -> Tensor:
    """Integers ``0 … symbols - 1`` as samples between -1 and 1: what each level stands for.

    Args:
        codes: Integers, of any shape and dtype.
        symbols: How many of them.

    Raises:
        ValueError: an integer is out of range, or there are fewer than two symbols.

    Example:
        >>> inverse_mu_law(torch.tensor([0, 255]))
        tensor([-1.,  1.])
    """
    _check_symbols(symbols)
    if codes.numel() and not bool(((codes >= 0) & (codes < symbols)).all()):
        raise ValueError(
            f"`codes` must lie between 0 and {symbols - 1}, got {codes.min().item()} to {codes.max().item()}"
        )
    mu = symbols - 1
    bent = codes.to(torch.get_default_dtype()) * (2 / mu) - 1
    return bent.sign() * (torch.expm1(bent.abs() * log1p(mu)) / mu)


def _check_symbols(symbols: int) -> None:
    if symbols < 2:
        raise ValueError(f"`symbols` must be at least 2, got {symbols}")
