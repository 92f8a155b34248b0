"""Draws of symbols out of a finite alphabet."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_symbols(log_probs: Tensor) -> Tensor:
    r"""Symbols from logarithms of probabilities (up to a constant), ``(*shape, K)`` to ``(*shape,)``.

    Gumbel noise is drawn in double precision, as minus the logarithm of exponential noise: in single precision it has
    no values above about 17 on many devices, so that rare symbols are drawn too seldom, and the more so the more there
    are (Zheng et al. 2024).

    References:
        Zheng, Chen, Mao, Liu, Zhu and Zhang 2024, "Masked diffusion models are secretly time-agnostic masked models and
        exploit inaccurate categorical sampling", https://arxiv.org/abs/2409.02908
    """
    return (log_probs.double() - torch.empty_like(log_probs, dtype=torch.float64).exponential_().log()).argmax(-1)
