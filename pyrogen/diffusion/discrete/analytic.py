"""The exact denoiser of few symbols, by enumeration: what every other denoiser is an approximation of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.core.shapes import Context

from .denoiser import SymbolDenoiser, Symbols
from .noise import MaskNoise, SymbolNoise


class EnumeratedDenoiser(SymbolDenoiser):
    r"""The denoiser of events whose probabilities are all known, by Bayes' rule over all events :math:`e`.

    .. math:: c_i(x) \propto \sum_{e : e_i = x} p(e) \prod_{j \ne i} q_u(z_j \mid e_j)

    Where no event with others as they are is possible, all log-probabilities are minus infinity, and so is the bound of
    such an event.

    Args:
        log_probs: The log-probabilities of all events, in lexical order of their elements, or more dimensions in front
            of which the context (of shape ``()``) names one.
        noise: How symbols become noise.
        symbols: As for :class:`SymbolDenoiser`.
        event_shape: Shape of one event.

    Raises:
        ValueError: there are more or fewer probabilities than events, or they do not sum to one.

    Example:
        >>> from pyrogen.diffusion.discrete.noise import MaskNoise
        >>> coins = torch.tensor([0.4, 0.1, 0.1, 0.4]).log()  # of 00, 01, 10, 11
        >>> denoiser = EnumeratedDenoiser(coins, MaskNoise, symbols=2, event_shape=(2,))
        >>> denoiser(torch.tensor([1, 2]), 0.5)[1].exp()  # the first is one, the second masked
        tensor([0.2000, 0.8000])
    """

    log_probs: Tensor
    events: Tensor

    def __init__(
        self,
        log_probs: Tensor,
        noise: type[SymbolNoise],
        *,
        symbols: Symbols,
        event_shape: int | tuple[int, ...],
    ) -> None:
        super().__init__(event_shape, symbols, None if log_probs.dim() == 1 else ())
        counts = self.counts.flatten().tolist()
        if log_probs.shape[-1] != math.prod(counts):
            raise ValueError(f"`log_probs` must name all {math.prod(counts)} events, got {log_probs.shape[-1]}")
        total = log_probs.logsumexp(-1)
        if not torch.allclose(total, torch.zeros_like(total), atol=1e-4):
            raise ValueError(f"`log_probs` must be those of probabilities that sum to one, got {total.exp().tolist()}")
        events = torch.cartesian_prod(*map(torch.arange, counts)).reshape(-1, len(counts))
        self.noise = noise(self.counts)
        self.register_buffer("log_probs", log_probs)
        self.register_buffer("events", events, persistent=False)

    def forward(self, noisy: Tensor, share: Tensor | float, context: Context = None) -> Tensor:
        batch = noisy.shape[: noisy.dim() - len(self.event_shape)]
        if isinstance(self.noise, MaskNoise):  # which symbols are masked is seen, and their share says nothing more
            share = 0.5
        share = torch.as_tensor(share, dtype=self.log_probs.dtype, device=noisy.device)
        wide = share.reshape(*share.shape, *(1,) * len(self.event_shape)) if share.dim() else share
        likelihood = self.noise.likelihood(noisy, wide).log().reshape(*batch, -1, self.most)  # (*batch, L, K)
        places = torch.arange(self.events.shape[1], device=noisy.device)
        each = likelihood[..., places, self.events]  # (*batch, events, L)
        impossible = each == -torch.inf
        finite = each.masked_fill(impossible, 0.0)
        others = finite.sum(-1, keepdim=True) - finite
        elsewhere = impossible.sum(-1, keepdim=True) - impossible.long() > 0
        prior = self.log_probs if context is None else self.log_probs[context]
        joint = (prior.unsqueeze(-1) + others).masked_fill(elsewhere, -torch.inf)
        most = joint.amax(-2, keepdim=True)
        known = most > -torch.inf
        weights = (joint - most.masked_fill(~known, 0.0)).exp()
        chosen = torch.nn.functional.one_hot(self.events, self.most).to(weights)  # (events, L, K)
        totals = torch.einsum("...el,elk->...lk", weights, chosen)
        logits = totals.log() - totals.sum(-1, keepdim=True).log().masked_fill(~known.squeeze(-2).unsqueeze(-1), 0.0)
        return logits.reshape(*batch, *self.event_shape, self.most)
