r"""Twists of prefixes: what is known of a sequence before it is complete.

The best guide of a particle that has come as far as :math:`x_{\le t}` is the probability that it will fit,
:math:`\psi_t(x_{\le t}) = \mathbb{E}[p(y \mid x) \mid x_{\le t}]`. A twist is a non-negative function near it, up to a
constant. Any twist is right as long as it is positive for all beginnings of sequences that the posterior contains: the
filter divides by what it multiplied, and weighs by the true likelihood in the end. A good one needs few particles.

Some twists score all symbols that may come next, so that one is drawn in proportion to prior times twist
(:class:`Admissible`, :class:`LearnedTwist`); others score a prefix once it is there (:class:`Lookahead`).

References:
    Lew, Zhi-Xuan, Grand and Mansinghka 2023, "Sequential Monte Carlo steering of large language models using
    probabilistic programs", https://arxiv.org/abs/2306.03081
    Zhao, Brekelmans, Makhzani and Grosse 2024, "Probabilistic inference in language models via twisted sequential Monte
    Carlo", https://arxiv.org/abs/2404.17546
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, function, no_symbol
from pyrogen.networks.sequence import SequenceNetwork, State
from pyrogen.numerics.autograd import is_functional


class PrefixTwist:
    """What is known of a prefix: nothing, here. Subclasses define one of two methods, :meth:`before` or :meth:`after`.

    Prefixes are ``(R, t, *symbol)``, in the order of the prior; logarithms are in nats, and minus infinity means that
    no sequence of the posterior begins like this.
    """

    length: int | None = None
    """How many symbols a sequence may have at most, for a twist that has places for so many."""

    def start(self, rows: int) -> State | None:
        """What is kept of so many prefixes between symbols, with the rows in front; ``None`` for nothing."""
        return None

    def before(self, prefixes: Tensor, state: State | None) -> Tensor | None:
        """The log-twist of prefixes followed by each symbol there is, ``(R, K)``; ``None`` if it is not known."""
        return None

    def after(self, prefixes: Tensor) -> Tensor | None:
        """The log-twist of prefixes, ``(R,)``, for a twist that does not know it before the last symbol is there."""
        return None


class Lookahead(PrefixTwist):
    """A twist that is a function of prefixes.

    Args:
        function: From prefixes ``(R, t, *symbol)`` to their log-twists ``(R,)`` in nats.

    Example:
        >>> ones = Lookahead(lambda prefixes: 2.0 * (prefixes == 1).sum(-1))
        >>> ones.after(torch.tensor([[0, 1, 1], [0, 0, 1]])).tolist()
        [4.0, 2.0]
    """

    @checked(function=function)
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def after(self, prefixes: Tensor) -> Tensor:
        found = self.function(prefixes)
        with suppress(TypeError, RuntimeError, ValueError):  # what is no array of numbers is refused below
            found = torch.as_tensor(found)
        if not isinstance(found, Tensor) or found.shape != prefixes.shape[:1]:
            raise ValueError(
                f"`function` must give one number for each of {len(prefixes)} prefixes, got {_described(found)}"
            )
        return found


class Admissible(PrefixTwist):
    """A rule: at each place, the symbols that may come next.

    It is the same rule that :func:`pyrogen.autoregressive.constrained` takes. There it is applied symbol by symbol,
    which is not the model given the rule; here particles are weighed by how much of the model's probability the rule
    leaves at each place, so that it is. In a program the rule itself is a factor, ``pyro.factor("rule", rule(x))``.

    Args:
        allowed: Boolean, ``(symbols,)`` for all places alike or ``(length, symbols)``; or a function from what came
            before, ``(R, t, *symbol)``, to booleans ``(R, symbols)``.

    Example:
        >>> rule = Admissible(lambda before: torch.tensor([True, False]).expand(len(before), 2))
        >>> rule(torch.tensor([[0, 0, 0], [0, 1, 0]])).tolist()
        [0.0, -inf]
    """

    def __init__(self, allowed: Tensor | Callable[[Tensor], Tensor]) -> None:
        if isinstance(allowed, Tensor):
            if allowed.dtype != torch.bool or allowed.dim() not in (1, 2):
                raise ValueError(
                    "`allowed` must be boolean of shape (symbols,) or (length, symbols), "
                    f"got {allowed.dtype} of shape {tuple(allowed.shape)}"
                )
        else:
            function(allowed, "allowed")
        self.allowed = allowed

    def before(self, prefixes: Tensor, state: State | None) -> Tensor:
        return torch.where(self._next(prefixes), 0.0, -torch.inf)

    def __call__(self, sequences: Tensor, *, end: int | None = None) -> Tensor:
        """Whether whole sequences keep to the rule, as logarithms: 0 or minus infinity.

        Args:
            sequences: ``(*batch, L)``, of symbols counted from zero.
            end: The symbol after which the rule no longer holds, if sequences end.

        Shape:
            ``batch``.
        """
        if not isinstance(sequences, Tensor) or not sequences.dim():
            raise ValueError(f"`sequences` must be symbols (*batch, length), got {_described(sequences)}")
        rows = sequences.reshape(-1, sequences.shape[-1])
        kept = torch.stack([self._keeps(rows[:, :place], rows[:, place]) for place in range(rows.shape[1])], 1)
        if end is not None:
            kept = kept | ((rows == end).cumsum(1) - (rows == end).long() > 0)
        return torch.where(kept.all(1), 0.0, -torch.inf).reshape(sequences.shape[:-1])

    def _keeps(self, prefixes: Tensor, symbols: Tensor) -> Tensor:
        """Whether the symbols after prefixes are allowed, ``(R,)``."""
        allowed = self._next(prefixes)
        if not is_functional((symbols,)):
            bad = no_symbol(symbols, allowed.shape[1])
            if bool(bad.any()):
                raise ValueError(
                    f"`sequences` must hold symbols from 0 to {allowed.shape[1] - 1}, got {symbols[bad][0].item()} at "
                    f"position {prefixes.shape[1]}"
                )
        return allowed.gather(1, symbols[:, None].long())[:, 0]

    def _next(self, prefixes: Tensor) -> Tensor:
        if isinstance(self.allowed, Tensor):
            if self.allowed.dim() == 2 and prefixes.shape[1] >= len(self.allowed):
                raise ValueError(
                    f"`allowed` must have a row for each position, got {len(self.allowed)} rows at position "
                    f"{prefixes.shape[1]}"
                )
            allowed = self.allowed if self.allowed.dim() == 1 else self.allowed[prefixes.shape[1]]
            return allowed.to(prefixes.device).expand(len(prefixes), -1)
        allowed = self.allowed(prefixes)
        fits = isinstance(allowed, Tensor) and allowed.dtype == torch.bool and allowed.dim() == 2
        if not fits or len(allowed) != len(prefixes):
            raise ValueError(
                f"`allowed` must give booleans of shape ({len(prefixes)}, symbols), "
                f"got {_described(allowed)} at position {prefixes.shape[1]}"
            )
        return allowed


class LearnedTwist(PrefixTwist, nn.Module):
    """A network whose outputs are the log-twists of all symbols at each place; see :class:`TwistContrast`.

    Args:
        network: A sequence network with one output for each symbol.
        end: The symbol that ends a sequence, if lengths differ; after it the twist stays what it is.
        symbols: How many symbols the network takes, if it is to be checked.
        length: How many symbols a sequence may have at most, if the network has places for so many.

    Raises:
        ValueError: ``end`` is no symbol; when called: sequences are longer, or hold what is none.
    """

    def __init__(
        self,
        network: SequenceNetwork,
        *,
        end: int | None = None,
        symbols: int | None = None,
        length: int | None = None,
    ) -> None:
        super().__init__()
        require_end(end, symbols)
        self.network, self.end, self.symbols, self.length = network, end, symbols, length

    def forward(self, sequences: Tensor) -> Tensor:
        """The log-twist of each prefix of sequences ``(R, L)``, the shortest first, ``(R, L)``."""
        require_sequences(sequences, self.symbols, self.length)
        return of_prefixes(self.network(sequences), sequences, self.end)

    def start(self, rows: int) -> Stepped:
        return Stepped(self.network.start((rows,)))

    def before(self, prefixes: Tensor, state: Stepped) -> Tensor:
        return state.advance(self.network, prefixes)


def require_end(end: int | None, symbols: int | None) -> None:
    """Refuses an end of sequences that is no symbol, which none would ever reach.

    Raises:
        ValueError: it is none.
    """
    if end is not None and symbols is not None and not 0 <= end < symbols:
        raise ValueError(f"`end` must be one of the {symbols} symbols, got {end}")


def require_sequences(sequences: Tensor, symbols: int | None, length: int | None) -> None:
    """Refuses sequences that are longer than there are places, or hold what is no symbol.

    Raises:
        ValueError: they do.
    """
    if length is not None and sequences.shape[-1] > length:
        raise ValueError(
            f"`sequences` must have at most the {length} symbols that the twist was made for, got {sequences.shape[-1]}"
        )
    if symbols is not None and not is_functional((sequences,)):
        bad = no_symbol(sequences, symbols)
        if bool(bad.any()):
            raise ValueError(
                f"`sequences` must hold symbols from 0 to {symbols - 1}, got {sequences[bad][0].item()} at "
                f"position {int(bad.nonzero()[0, -1])}"
            )


def of_prefixes(outputs: Tensor, sequences: Tensor, end: int | None) -> Tensor:
    """A network's outputs ``(R, L, symbols)`` for the symbols that came, ``(R, L)``; after an end they stay."""
    scores = outputs.gather(-1, sequences.long().unsqueeze(-1)).squeeze(-1)
    if end is None:
        return scores
    places = torch.arange(scores.shape[1], device=scores.device)
    ended = (sequences == end).long()
    first = torch.where(ended.any(1), ended.argmax(1), scores.shape[1] - 1)
    return scores.gather(1, torch.minimum(places, first.unsqueeze(1)))


def _described(value: object) -> str:
    """What came instead of a tensor of another kind."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


@dataclass
class Stepped(State):
    """What a network keeps of prefixes, its output after them, and how many symbols it has taken in."""

    inner: State
    output: Tensor | None = None
    count: int = 0

    def advance(self, network: SequenceNetwork, prefixes: Tensor) -> Tensor:
        """Takes in what is new of prefixes, and gives the output after them."""
        if self.output is None:
            known = prefixes.shape[1]
            self.output, self.inner = network.read(prefixes, self.inner) if known else network.step(None, self.inner)
            self.count = known
        for symbol in prefixes[:, self.count :].unbind(1):
            self.output, self.inner = network.step(symbol, self.inner)
        self.count = prefixes.shape[1]
        return self.output
