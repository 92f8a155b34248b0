r"""Noise of symbols: a jump to a fixed distribution, at which everything that follows is exact.

Each symbol jumps at some random time, and then has the distribution :math:`\pi`, whatever it was. At a time when the
share :math:`u` has jumped,

.. math:: q_u(z \mid x) = (1 - u) [z = x] + u \, \pi(z) .

A second jump changes nothing more, so the transition from a share :math:`s` to a larger one :math:`u` has the same form
with the share :math:`(u - s) / (1 - s)`. If all other symbols leave the probabilities :math:`c(x)` for a symbol, then
by Bayes' rule, one step back,

.. math::
    p(z_s \mid z_u) \propto q(z_u \mid z_s) \, q_s(z_s), \qquad
    q_s(z_s) = (1 - s) \, c(z_s) + s \, \pi(z_s) .

=====================  =================================================================================================
:class:`MaskNoise`     :math:`\pi` is a symbol of its own, the mask: what is not masked is known for sure
:class:`UniformNoise`  :math:`\pi` is uniform: what is wrong is not marked as such
=====================  =================================================================================================

References:
    Austin, Johnson, Ho, Tarlow and van den Berg 2021, "Structured denoising diffusion models in discrete state-spaces",
    https://arxiv.org/abs/2107.03006
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract


class SymbolNoise(Abstract, nn.Module):
    r"""How symbols become noise.

    Args:
        counts: How many symbols each element of an event has, of the event's shape.
        stationary: The distribution :math:`\pi` of noise over ``states``, ``(*event, states)``.
    """

    counts: Tensor
    stationary: Tensor

    def __init__(self, counts: Tensor, stationary: Tensor) -> None:
        super().__init__()
        self.symbols = int(counts.max())
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("stationary", stationary, persistent=False)

    @property
    def states(self) -> int:
        """How many values a noisy symbol can take."""
        return self.stationary.shape[-1]

    @abstractmethod
    def drawn(self, uniform: Tensor) -> Tensor:
        """Noise alone, from numbers in [0, 1) of shape ``(..., *event)``."""

    def corrupt(self, x: Tensor, share: Tensor | float, uniform: Tensor) -> Tensor:
        """Noisy symbols: noise where a uniform number is below the share.

        Args:
            x: Symbols.
            share: The share of noise, broadcasting with ``x``.
            uniform: Numbers in [0, 1), of the shape of ``x``, in double precision: which symbol takes the place of
                another is read from how far below the share they are.
        """
        share = torch.as_tensor(share, dtype=uniform.dtype, device=uniform.device)
        jumped = uniform < share
        return torch.where(jumped, self.drawn(torch.where(jumped, uniform / share, 0.0)), x)

    def likelihood(self, noisy: Tensor, share: Tensor | float) -> Tensor:
        r"""The probability :math:`q_u(z \mid x)` of noisy symbols for each symbol, ``(*noisy, symbols)``.

        Args:
            noisy: Noisy symbols.
            share: The share of noise, which broadcasts with them.
        """
        share = torch.as_tensor(share, device=noisy.device).unsqueeze(-1)
        symbols = torch.arange(self.symbols, device=noisy.device)
        return (1 - share) * (noisy.unsqueeze(-1) == symbols) + share * self.frequency(noisy).unsqueeze(-1)

    def frequency(self, noisy: Tensor) -> Tensor:
        r"""The probability :math:`\pi(z)` of noisy symbols as noise alone."""
        table = self.stationary.expand(*noisy.shape, self.states)
        return table.gather(-1, noisy.long().unsqueeze(-1)).squeeze(-1)

    def back(self, noisy: Tensor, probabilities: Tensor, before: float, after: float) -> Tensor:
        r"""The probabilities :math:`p(z_s \mid z_u)` of symbols with less noise, ``(*noisy, states)``.

        A noisy symbol that all others rule out stays as it is.

        Args:
            noisy: Noisy symbols :math:`z_u`.
            probabilities: What all other symbols leave, :math:`c(x)`, ``(*noisy, symbols)``.
            before: The share of noise :math:`u` in ``noisy``.
            after: The smaller one :math:`s`.
        """
        jumped = (before - after) / (1 - after) if after < 1 else 0.0
        missing = self.states - probabilities.shape[-1]
        prior = (1 - after) * nn.functional.pad(probabilities, (0, missing)) + after * self.stationary
        states = torch.arange(self.states, device=noisy.device)
        stayed = (1 - jumped) * (noisy.unsqueeze(-1) == states)
        joint = prior * (stayed + jumped * self.frequency(noisy).unsqueeze(-1))
        total = joint.sum(-1, keepdim=True)
        return torch.where(total > 0, joint / total, (noisy.unsqueeze(-1) == states).to(joint))


class MaskNoise(SymbolNoise):
    """Symbols are hidden by a mask, whose number is that of the symbols.

    Args:
        counts: How many symbols each element of an event has.
    """

    def __init__(self, counts: Tensor) -> None:
        symbols = int(counts.max())
        stationary = torch.zeros(*counts.shape, symbols + 1)
        stationary[..., symbols] = 1
        super().__init__(counts, stationary)

    @property
    def mask(self) -> int:
        """The number that stands for a hidden symbol."""
        return self.symbols

    def drawn(self, uniform: Tensor) -> Tensor:
        return torch.full_like(uniform, self.mask, dtype=torch.long)


class UniformNoise(SymbolNoise):
    """Symbols are replaced by any symbol, all equally likely.

    Args:
        counts: How many symbols each element of an event has.
    """

    def __init__(self, counts: Tensor) -> None:
        inside = torch.arange(int(counts.max())) < counts.unsqueeze(-1)
        super().__init__(counts, inside / counts.unsqueeze(-1))

    def drawn(self, uniform: Tensor) -> Tensor:
        return torch.minimum((uniform * self.counts).long(), self.counts - 1)


def log_odds(share: Tensor) -> Tensor:
    """The logarithm of the odds of noise, cut off at its ends."""
    return torch.logit(share, eps=math.exp(-8))
