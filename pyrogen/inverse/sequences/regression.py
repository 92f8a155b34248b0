r"""Twists for a number that has to lie in a band, learned by regression of the number on prefixes.

A rule may say that a number of the whole sequence lies in a band, :math:`a \le f(x) < b`: the weight of a molecule, the
length of a walk. The best twist of a prefix is the probability of that, :math:`\psi_t = p(a \le f < b \mid x_{\le t})`.
A network predicts the number from each prefix as a normal, :math:`\mathcal{N}(\mu_t, \sigma_t^2)`, by which

.. math:: \psi_t = \Phi \Bigl( \frac{b - \mu_t}{\sigma_t} \Bigr) - \Phi \Bigl( \frac{a - \mu_t}{\sigma_t} \Bigr).

Every sequence whose number is known teaches it, not only the few inside, and one network serves all bands.

References:
    Yang and Klein 2021, "FUDGE: controlled text generation with future discriminators",
    https://arxiv.org/abs/2104.05218, learns a classifier of prefixes in place of the regression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.special import log_ndtr

from pyrogen.arguments import checked, share, vector
from pyrogen.core.objective import Objective
from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.networks.sequence import SequenceNetwork, State
from pyrogen.networks.statistics import Standardizer, Statistic

from .twist import LearnedTwist, of_prefixes, require_end, require_sequences


class PrefixRegression(Objective):
    """What a number of a whole sequence will be, predicted from each of its prefixes.

    It is called with sequences and their numbers. The loss is minus the log-likelihood of the numbers in nats, a mean
    over sequences and over the prefixes of each. Mean and scale of the numbers are learned from the data set before
    training.

    Args:
        network: A sequence network with two outputs for each symbol: what the number will be if the symbol comes next,
            and how sure that is.
        symbols: How many symbols the network takes.
        end: The symbol that ends a sequence, if lengths differ; after it the prediction stays what it is.
        length: How many symbols a sequence may have at most, if the network has places for so many.

    Raises:
        ValueError: ``end`` is no symbol; when called: sequences are longer or hold what is none, or there is not one
            number for each.

    Example:
        >>> regression = pg.inverse.transformer_regression((4,), symbols=3, width=16, depth=1, heads=2)
        >>> x = torch.randint(3, (50, 4))
        >>> fit = pg.fit(regression, (x, x.sum(1).float()), steps=2)
        >>> regression.within(5, 8)(x).shape
        torch.Size([50, 4])
    """

    unit = "nats"

    def __init__(
        self, network: SequenceNetwork, *, symbols: int, end: int | None = None, length: int | None = None
    ) -> None:
        super().__init__()
        require_end(end, symbols)
        self.network, self.symbols, self.end, self.length = network, symbols, end, length
        self.standardize = Standardizer((), name="numbers")

    def forward(self, sequences: Tensor, numbers: Tensor) -> Tensor:
        if len(vector(numbers, "numbers")) != len(sequences):
            raise ValueError(f"`numbers` must have one for each of {len(sequences)} sequences, got {len(numbers)}")
        predicted = self.prediction(sequences.flatten(1))
        return -predicted.log_prob(numbers.to(predicted.loc).unsqueeze(1)).mean()

    def read_data(self, sequences: Tensor, numbers: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        yield from self.standardize.read_data(numbers)

    def prediction(self, sequences: Tensor) -> DiagonalNormal:
        """The number given each prefix of sequences ``(R, L)``, the shortest first: a batch ``(R, L)`` of normals."""
        require_sequences(sequences, self.symbols, self.length)
        parts = _prediction(self.network(sequences), self.standardize)
        return DiagonalNormal(*(of_prefixes(part, sequences, self.end) for part in parts), event_dim=0)

    @checked(doubt=share)
    def within(self, low: float, high: float, *, doubt: float = 1e-3) -> LearnedTwist:
        """The twist for numbers of at least ``low`` and less than ``high``, which may be infinite.

        Args:
            low: Where the band begins.
            high: Where it ends.
            doubt: The probability that a prediction says nothing, at least 0 and less than 1. It keeps the twist away
                from zero, and so the weights of what was predicted wrongly bounded.

        Raises:
            ValueError: the band is empty, or ``doubt`` is out of range.
        """
        if not low < high:
            raise ValueError(f"`low` must be less than `high`, got {low} and {high}")
        network = _Inside(self.network, self.standardize, low, high, doubt)
        return LearnedTwist(network, end=self.end, symbols=self.symbols, length=self.length)


class _Inside(SequenceNetwork):
    """The log-probability of a band for each symbol, where a network predicts the number as a normal."""

    def __init__(
        self, network: SequenceNetwork, standardize: Standardizer, low: float, high: float, doubt: float
    ) -> None:
        super().__init__()
        self.network, self.standardize = network, standardize
        self.low, self.high, self.doubt = low, high, doubt

    def forward(self, symbols: Tensor, context: Any = None) -> Tensor:
        return self._log_probability(self.network(symbols, context))

    def start(self, batch_shape: tuple[int, ...], context: Any = None) -> State:
        return self.network.start(batch_shape, context)

    def read(self, symbols: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = self.network.read(symbols, state)
        return self._log_probability(output), state

    def step(self, symbol: Tensor | None, state: State) -> tuple[Tensor, State]:
        output, state = self.network.step(symbol, state)
        return self._log_probability(output), state

    def _log_probability(self, outputs: Tensor) -> Tensor:
        loc, log_scale = _prediction(outputs, self.standardize)
        inside = _log_mass(*((end - loc.double()) * (-log_scale.double()).exp() for end in (self.low, self.high)))
        return torch.log(self.doubt + (1 - self.doubt) * inside.exp()).to(loc) if self.doubt else inside.to(loc)


def _prediction(outputs: Tensor, standardize: Standardizer) -> tuple[Tensor, Tensor]:
    """Mean and log-scale for each symbol, in the units of the numbers."""
    loc, log_scale = outputs.unflatten(-1, (-1, 2)).unbind(-1)
    return standardize.inverse(loc), log_scale.clamp(-6, 6) + standardize.scale.log()


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """The log-probability between two numbers under the standard normal, in the tail that keeps it exact."""
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    larger = log_ndtr(high)
    return larger + torch.log1p(-(log_ndtr(low) - larger).exp())
