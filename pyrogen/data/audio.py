r"""Sounds as numbers: the mu-law, which spends levels where the ear does.

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
def mu_law(x: Tensor, levels: int = 256) -> Tensor:
    """Samples between -1 and 1 as integers ``0 … levels - 1``.

    Args:
        x: Samples, of any shape.
        levels: How many levels.

    Raises:
        ValueError: a sample lies outside of [-1, 1] or is NaN, or there are fewer than two levels.

    Example:
        >>> mu_law(torch.tensor([-1.0, 0.0, 0.01, 1.0]))
        tensor([  0, 128, 157, 255])
    """
    _check_levels(levels)
    if not bool((x.abs() <= 1).all()):
        raise ValueError(f"`x` must lie between -1 and 1, got {x[~(x.abs() <= 1)][0].item()}")
    mu = levels - 1
    bent = x.sign() * torch.log1p(mu * x.abs()) / log1p(mu)
    return ((bent + 1) / 2 * mu + 0.5).floor().long()


@checked(codes=anything)
def inverse_mu_law(codes: Tensor, levels: int = 256) -> Tensor:
    """Integers ``0 … levels - 1`` as samples between -1 and 1: what each level stands for.

    Args:
        codes: Integers, of any shape and dtype.
        levels: How many levels.

    Raises:
        ValueError: an integer is out of range, or there are fewer than two levels.

    Example:
        >>> inverse_mu_law(torch.tensor([0, 255]))
        tensor([-1.,  1.])
    """
    _check_levels(levels)
    if codes.numel() and not bool(((codes >= 0) & (codes < levels)).all()):
        raise ValueError(
            f"`codes` must lie between 0 and {levels - 1}, got {codes.min().item()} to {codes.max().item()}"
        )
    mu = levels - 1
    bent = codes.to(torch.get_default_dtype()) * (2 / mu) - 1
    return bent.sign() * (torch.expm1(bent.abs() * log1p(mu)) / mu)


def _check_levels(levels: int) -> None:
    if levels < 2:
        raise ValueError(f"`levels` must be at least 2, got {levels}")
