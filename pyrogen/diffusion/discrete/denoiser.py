r"""Denoisers of symbols: what all other symbols leave for each.

A denoiser gives, for every element :math:`i` of a noisy event :math:`z` at the share of noise :math:`u`, the
log-probabilities of its true symbol given all *other* noisy symbols,

.. math:: \log c_i(x) = \log p(x_i = x \mid z_{\setminus i}, u) .

What the noisy symbol itself says, :math:`q_u(z_i \mid x)`, is known and need not be learned: it is multiplied in where
it is needed (:mod:`~pyrogen.diffusion.discrete.noise`). A mask says nothing, and masked symbols do not depend on the
share of those that are: there the best denoiser knows no time (Ou et al. 2024).

References:
    Ou, Nie, Xue, Zhu, Sun, Li and Li 2024, "Your absorbing discrete diffusion secretly models the conditional
    distributions of clean data", https://arxiv.org/abs/2406.03736
    Schiff et al. 2024, "Simple guidance mechanisms for discrete diffusion models", https://arxiv.org/abs/2412.10193
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import number, several, shape
from pyrogen.core.shapes import Context, ContextShape, as_context_shape, as_shape
from pyrogen.networks.statistics import ReadsData, Statistic, read_by
from pyrogen.numerics.autograd import tensors_of

from .noise import log_odds

Symbols = int | Sequence[int]


class SymbolDenoiser(Abstract, ReadsData, nn.Module):
    """The log-probabilities of each symbol given all other noisy ones.

    Args:
        event_shape: Shape of one event.
        symbols: How many symbols there are, counted from zero; or so many of each element of a vector.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.

    Raises:
        ValueError: there are fewer than two symbols, or another number of counts than elements.
    """

    counts: Tensor

    def __init__(
        self, event_shape: int | tuple[int, ...], symbols: Symbols, context_shape: ContextShape = None
    ) -> None:
        super().__init__()
        self.event_shape = as_shape(event_shape, "event_shape")
        self.context_shape = as_context_shape(context_shape)
        self.register_buffer("counts", symbol_counts(symbols, self.event_shape), persistent=False)
        self.most = int(self.counts.max())
        self.uneven = bool((self.counts < self.most).any())

    @abstractmethod
    def forward(self, noisy: Tensor, share: Tensor | float, context: Context = None) -> Tensor:
        """The log-probabilities, minus infinity for symbols that an element does not have.

        Args:
            noisy: Noisy symbols ``(*batch, *event)``; ``symbols`` itself where one is masked.
            share: The share of noise, a number or ``batch``.
            context: Whose batch dimensions broadcast with ``batch``.

        Shape:
            The result is ``(*batch, *event, symbols)``.
        """

    def like(self) -> Tensor:
        """A number of the dtype and the device of the denoiser."""
        parts = (part for part in tensors_of(self).values() if part.is_floating_point())
        return next(parts, torch.empty((), device=self.counts.device)).new_zeros(())

    def normalized(self, logits: Tensor) -> Tensor:
        """Logits ``(*batch, *event, symbols)`` as log-probabilities of the symbols that each element has."""
        if self.uneven:
            beyond = torch.arange(self.most, device=logits.device) >= self.counts.unsqueeze(-1)
            logits = logits.masked_fill(beyond, -torch.inf)
        return logits.log_softmax(-1)

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads contexts, for networks that standardize theirs."""
        return iter(())


class NetworkSymbolDenoiser(SymbolDenoiser):
    """A network's logits.

    Args:
        network: Called as ``network(noisy, level, context)``, where the level is the log-odds of the share of noise in
            [-2, 2], or zero; gives ``(*batch, *event, symbols)``.
        symbols: As for :class:`SymbolDenoiser`.
        event_shape: Shape of one event.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
        timed: Whether the network learns the share of noise; best not for masks.
    """

    def __init__(
        self,
        network: nn.Module,
        symbols: Symbols,
        *,
        event_shape: int | tuple[int, ...],
        context_shape: ContextShape = None,
        timed: bool,
    ) -> None:
        super().__init__(event_shape, symbols, context_shape)
        self.network, self.timed = network, timed

    def forward(self, noisy: Tensor, share: Tensor | float, context: Context = None) -> Tensor:
        level = self.like()
        if self.timed:
            level = log_odds(torch.as_tensor(share, dtype=level.dtype, device=level.device)) / 4
        return self.normalized(self.network(noisy, level, context))

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.network, context)


class ClassifierFreeSymbols(SymbolDenoiser):
    r"""Classifier-free guidance of symbols: :math:`c_w \propto c_\text{without}^{1 - w} \, c^w`.

    At weight one the denoiser itself, at zero that without the context. At others there is no distribution of data
    behind it, and its ``log_prob`` bounds none that was trained; a symbol that either of the two rules out stays out.

    Args:
        denoiser: Conditional; if ``unconditional`` is not given it must take ``context=None``, as the recipes do that
            are trained with ``context_dropout``.
        weight: How far to go.
        unconditional: A denoiser of the same symbols without context.

    Raises:
        ValueError: ``denoiser`` has no context, or ``unconditional`` other events.

    References:
        Schiff et al. 2024, "Simple guidance mechanisms for discrete diffusion models",
        https://arxiv.org/abs/2412.10193
    """

    def __init__(self, denoiser: SymbolDenoiser, *, weight: float, unconditional: SymbolDenoiser | None = None) -> None:
        if denoiser.context_shape is None:
            raise ValueError("`denoiser` must have a context to be guided by, got one without `context_shape`")
        super().__init__(denoiser.event_shape, denoiser.counts.flatten().tolist(), denoiser.context_shape)
        if unconditional is not None and not _alike(denoiser, unconditional):
            raise ValueError(
                f"`unconditional` must have events {denoiser.event_shape} of the same symbols, got "
                f"{unconditional.event_shape} of up to {unconditional.most}"
            )
        self.denoiser, self.unconditional = denoiser, unconditional
        self.weight = number(weight, "weight")

    def forward(self, noisy: Tensor, share: Tensor | float, context: Context = None) -> Tensor:
        strong = self.denoiser(noisy, share, context)
        if self.weight == 1:
            return strong
        weak = (self.denoiser if self.unconditional is None else self.unconditional)(noisy, share, None)
        if self.weight == 0:
            return weak
        possible = (strong > -torch.inf) & (weak > -torch.inf)
        weak, strong = (part.masked_fill(~possible, 0.0) for part in (weak, strong))
        logits = (weak + self.weight * (strong - weak)).masked_fill(~possible, -torch.inf)
        return self.normalized(logits).masked_fill(~possible, -torch.inf)

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.denoiser.read_data(context)


def symbol_counts(symbols: Symbols, event_shape: tuple[int, ...]) -> Tensor:
    """How many symbols each element of an event has, of the event's shape.

    Raises:
        ValueError: there are fewer than two, or another number of counts than elements.
        TypeError: a count is no integer.
    """
    size = torch.Size(event_shape).numel()
    if not isinstance(symbols, (tuple, list)):
        return torch.full(event_shape, several(symbols, "symbols"))
    counts = [several(count, "symbols") for count in shape(symbols, "symbols")]
    if len(counts) != size:
        raise ValueError(f"`symbols` must be one number, or one for each of the {size} elements, got {len(counts)}")
    return torch.tensor(counts).reshape(event_shape)


def _alike(one: SymbolDenoiser, other: SymbolDenoiser) -> bool:
    return one.event_shape == other.event_shape and torch.equal(one.counts, other.counts.to(one.counts.device))
