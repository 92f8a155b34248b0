r"""Masked diffusion: symbols are hidden, and found again given those that are seen.

What the bound integrates depends on the share :math:`u` of hidden symbols only by which are hidden. How many of
:math:`L` are is then all that is left of :math:`u`, and the integral over it has a closed form,

.. math::
    \log p(x) \ge \int_0^1 \frac{1}{u} \, \mathbb{E}_{S \sim u} \sum_{i \in S} \log c_i(x_i \mid x_{\bar S}) \, du
    = \mathbb{E}_{m} \, \mathbb{E}_{|S| = m} \, \frac{L}{m} \sum_{i \in S} \log c_i(x_i \mid x_{\bar S}),

with :math:`m` uniform in :math:`1, \dots, L` and :math:`S` any :math:`m` of the places. That is also the average over
all orders of the log-probability along an order (Hoogeboom et al. 2022): one network is a masked diffusion and a model
over any order (:class:`~pyrogen.autoregressive.AnyOrder`), and the two have one bound. No schedule enters. It is
computed as what it gains over even chances for all symbols, whose :math:`\log p` is known: the same number with less
noise.

References:
    Sahoo et al. 2024, "Simple and effective masked diffusion language models", https://arxiv.org/abs/2406.07524
    Shi, Han, Wang, Doucet and Titsias 2024, "Simplified and generalized masked diffusion for discrete data",
    https://arxiv.org/abs/2406.04329
    Hoogeboom et al. 2022, "Autoregressive diffusion models", https://arxiv.org/abs/2110.02037
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, batch_shape_of, common_batch_shape, context_batch_shape
from pyrogen.numerics.rows import by_datum, rearranged, spared
from pyrogen.numerics.values import require_value

from .denoiser import SymbolDenoiser
from .model import DiscreteDiffusion, DiscreteDistribution
from .noise import MaskNoise
from .samplers import RandomOrder, SymbolSampler
from .schedules import CosineSymbols, SymbolSchedule


class MaskedDiffusion(DiscreteDiffusion):
    """Diffusion whose noise hides symbols; see :mod:`pyrogen.diffusion.discrete.masked`.

    Args:
        denoiser: What the symbols that are seen leave for each that is not.
        schedule: The share of hidden symbols at each time, for samplers in steps; a quarter of a sine if ``None``.
        sampler: Turns noise into data; one symbol at a time in a random order, which is exact, if ``None``.
        draws: How many noisy events ``log_prob`` averages over.
        noise_seed: As for :class:`~pyrogen.diffusion.discrete.model.DiscreteDiffusion`.

    Example:
        >>> from pyrogen.diffusion.discrete.analytic import EnumeratedDenoiser
        >>> coins = torch.tensor([0.4, 0.1, 0.1, 0.4]).log()  # of 00, 01, 10, 11
        >>> model = MaskedDiffusion(EnumeratedDenoiser(coins, MaskNoise, symbols=2, event_shape=(2,)))
        >>> model().log_prob(torch.tensor([0, 0])).exp()  # of two coins with even chances each any order gives as much
        tensor(0.4000)
    """

    def __init__(
        self,
        denoiser: SymbolDenoiser,
        *,
        schedule: SymbolSchedule | None = None,
        sampler: SymbolSampler | None = None,
        draws: int = 8,
        noise_seed: int | None = None,
    ) -> None:
        super().__init__(
            denoiser,
            MaskNoise,
            schedule=CosineSymbols() if schedule is None else schedule,
            sampler=RandomOrder() if sampler is None else sampler,
            draws=draws,
            noise_seed=noise_seed,
        )

    def forward(self, context: Context = None) -> MaskedDiffusionDistribution:
        return MaskedDiffusionDistribution(self, context, context_batch_shape(context, self.context_shape))

    def bound(
        self,
        x: Tensor,
        level: Tensor,
        uniform: Tensor,
        context: Context = None,
        *,
        seen: Tensor | None = None,
        part: Tensor | None = None,
    ) -> Tensor:
        """Draws of the bound, of the log-probability of a part of each event given another.

        Args:
            x: Events of symbols, as long integers.
            level: Numbers in [0, 1), which become how many symbols are hidden.
            uniform: Numbers in [0, 1): the least ones are hidden.
            context: What the events depend on.
            seen: What is given and never hidden, ``(*batch, *event)``; nothing if ``None``.
            part: What is scored; everything but what is seen if ``None``. What is in neither is always hidden.
        """
        event_dim = len(self.event_shape)
        free = torch.ones_like(x, dtype=torch.bool) if seen is None else ~seen
        free = free if part is None else free & part
        always = None if part is None else ~part if seen is None else ~part & ~seen
        count = by_datum(free, event_dim).sum(-1)
        hidden_count = torch.minimum((level * count).long() + 1, count)
        hidden = self._lowest(by_datum(uniform.masked_fill(~free, 2.0), event_dim), hidden_count)
        hidden = hidden.reshape(uniform.shape) & free
        noisy = x.masked_fill(hidden if always is None else hidden | always, self.noise.mask)
        share = hidden_count / count.clamp(min=1)
        log_probs = self.denoiser(noisy, share.to(self.denoiser.like()), context)
        even = self.noise.counts.log().to(log_probs)  # minus the log-probability of each symbol by chance
        gain = log_probs.gather(-1, x.expand(noisy.shape).unsqueeze(-1)).squeeze(-1) + even
        total = by_datum(torch.where(hidden, gain, 0.0), event_dim).sum(-1)
        chance = by_datum(torch.where(free, even, 0.0), event_dim).sum(-1)
        return total * (count / hidden_count.clamp(min=1)).to(total) - chance

    @staticmethod
    def _lowest(values: Tensor, count: Tensor) -> Tensor:
        """Which of the numbers in each row, ``(..., size)``, are among the lowest, so many of them."""
        return values.argsort(-1).argsort(-1) < count.unsqueeze(-1)


class MaskedDiffusionDistribution(DiscreteDistribution):
    """The distribution of a :class:`MaskedDiffusion`, of which any part can be given and any part scored.

    Args:
        module: The model.
        context: What it depends on.
        batch_shape: That of the context, possibly expanded.
        known: Events of which a part is given, and which part; they broadcast with the batch.
    """

    has_given = True

    def __init__(
        self,
        module: MaskedDiffusion,
        context: Context,
        batch_shape: Iterable[int],
        *,
        known: tuple[Tensor, Tensor] | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.known = known
        super().__init__(module, context, batch_shape, validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> MaskedDiffusionDistribution:
        return MaskedDiffusionDistribution(
            self.module, self.context, batch_shape, known=self.known, validate_args=False
        )

    def given(self, values: Tensor, mask: Tensor) -> MaskedDiffusionDistribution:
        """The distribution of the whole event given a part of it, which is then seen from the start.

        Args:
            values: Events ``(*batch, *event)``; only what is known by the mask counts.
            mask: Boolean, of the same shape or one that broadcasts to it: what is known.

        Returns:
            A distribution over whole events. Its draws repeat what is known; its ``log_prob`` bounds that of the rest,
            and is minus infinity where an event differs from what is known.

        Raises:
            ValueError: the mask is not boolean, or a known number is no symbol or differs from what is given already.
        """
        mask = self._part(mask, "mask")
        shapes = {"values": batch_shape_of(values, self.event_shape, "values"), "mask": self._front(mask)}
        batch = common_batch_shape({**shapes, "context": self.batch_shape})
        wrong = (~self.inside(values) & mask).nonzero()
        if len(wrong):
            place = tuple(wrong[0].tolist())
            got = torch.broadcast_tensors(values, mask)[0][place].item()
            raise ValueError(f"`values` must hold symbols within {self.support}, got {got} at {place}")
        known = torch.where(mask, values, 0).long()
        if self.known is not None:
            old, before = self.known
            if bool((mask & before & (known != old)).any()):
                raise ValueError("`values` must agree with what is given already, got another symbol")
            known, mask = torch.where(before, old, known), mask | before
        return MaskedDiffusionDistribution(self.module, self.context, batch, known=(known, mask), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        start = self._start(torch.Size(sample_shape) + self.batch_shape + self.event_shape)
        if self.known is None:
            return self._generated(start, None)
        symbols, mask = (part.expand(start.shape) for part in self.known)
        return self._generated(torch.where(mask, symbols, start), mask)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._scored(value, None)

    def part_log_prob(self, value: Tensor, part: Tensor) -> Tensor:
        r"""A lower bound of the log-probability of a part of the event, whatever the rest: :math:`\log p(x_S)`.

        Args:
            value: Events; what is not in the part does not count.
            part: Boolean, of the event's shape or one that broadcasts to it: what the part is.

        Raises:
            ValueError: the part is not boolean or of another shape.
        """
        part = self._part(part, "part")
        return self._scored(torch.where(part, value, 0), part)

    def _scored(self, value: Tensor, part: Tensor | None) -> Tensor:
        require_value(self, value)
        first, again = partial(self._score_part, value, part), partial(self._score_rows, value, part)
        return spared(first, again, Remade(self.module, self.context), noisy=value.device)

    def _score_rows(self, value: Tensor, part: Tensor | None, places: Tensor, batch: torch.Size) -> Tensor:
        moved = partial(rearranged, event_shape=self.event_shape, batch=batch, places=places)
        known = None if self.known is None else tuple(map(moved, self.known))
        context = Remade(self.module, self.context).rows(places, batch)
        there = MaskedDiffusionDistribution(self.module, context, batch, known=known, validate_args=False)
        return there._score_part(moved(value), None if part is None else moved(part))

    def _score_part(self, value: Tensor, part: Tensor | None) -> Tensor:
        def score(symbols: Tensor, seen: Tensor | None) -> Tensor:
            noise, whose = self._noise(self._front(symbols)), None if part is None else part.expand(symbols.shape)
            return self.module.bound(symbols, *noise, self.context, seen=seen, part=whose).mean(0)

        return self._with_impossible(value, score, part)

    def _with_impossible(
        self, value: Tensor, score: Callable[[Tensor, Tensor | None], Tensor], part: Tensor | None = None
    ) -> Tensor:
        shapes = {"value": batch_shape_of(value, self.event_shape, "value"), "context": self.batch_shape}
        shape = common_batch_shape(shapes if part is None else {**shapes, "part": self._front(part)}) + self.event_shape
        value, part = value.expand(shape), None if part is None else part.expand(shape)
        inside, impossible = self.inside(value), self._impossible(value)
        symbols, seen = torch.where(inside, value, 0).long(), None
        if self.known is not None:
            given, seen = (tensor.expand(shape) for tensor in self.known)
            compared = seen if part is None else seen & part
            inside = inside & ~(compared & (symbols != given))
            symbols = torch.where(seen, given, symbols)
        found = score(symbols, seen)
        return torch.where(by_datum(inside, len(self.event_shape)).all(-1), found, impossible.to(found))

    def _part(self, mask: Tensor, name: str) -> Tensor:
        """A mask over events, of their shape.

        Raises:
            ValueError: it is not boolean, or does not broadcast to events.
        """
        if mask.dtype != torch.bool:
            raise ValueError(f"`{name}` must be boolean, got {mask.dtype}")
        front = mask.shape[: max(mask.dim() - len(self.event_shape), 0)]
        try:
            return mask.expand(*front, *self.event_shape)
        except RuntimeError:
            expected = tuple(self.event_shape)
            raise ValueError(
                f"`{name}` must end in shape {expected} or broadcast to it, got {tuple(mask.shape)}"
            ) from None

    def _front(self, x: Tensor) -> torch.Size:
        return x.shape[: x.dim() - len(self.event_shape)]
