"""Samplers of symbols: from noise alone to data, some symbols at a time.

Symbols that are drawn in one step are drawn independently of each other, given all others. One at a time is exact (as
far as the denoiser is), several at once are faster and miss how they depend on each other.

==========================  ============================================================================================
:class:`SymbolAncestral`    steps of the process backwards, for any noise
:class:`RandomOrder`        unmasking in a random order, by default one at a time: exact draws of a masked model
:class:`ConfidenceOrdered`  unmasking what is surest first: likely events rather than draws
:class:`Remasking`          unmasking that hides symbols again, so that what several steps got wrong can be mended
==========================  ============================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyrogen.arguments import integer, non_negative, share
from pyrogen.core.shapes import Context
from pyrogen.numerics.categorical import draw_symbols
from pyrogen.numerics.representation import by_settings
from pyrogen.numerics.rows import by_datum

from .noise import MaskNoise

if TYPE_CHECKING:
    from .model import DiscreteDiffusion


class SymbolSampler(ABC):
    """Takes noisy symbols to data; immutable."""

    def __repr__(self) -> str:
        return by_settings(self)

    @abstractmethod
    def __call__(
        self, model: DiscreteDiffusion, noisy: Tensor, context: Context = None, *, fixed: Tensor | None = None
    ) -> Tensor:
        """Data from noise.

        Args:
            model: Whose data they are.
            noisy: Noise alone, ``(*batch, *event)``, but for what is fixed.
            context: What the data depend on; its batch dimensions broadcast with ``batch``.
            fixed: Which elements stay as they are, of the same shape.
        """


class SymbolAncestral(SymbolSampler):
    """Ancestral sampling: every symbol jumps back, or not, by its probability given all others.

    Args:
        steps: How many, evenly spaced in the schedule's time.

    References:
        Austin, Johnson, Ho, Tarlow and van den Berg 2021, "Structured denoising diffusion models in discrete
        state-spaces", https://arxiv.org/abs/2107.03006
    """

    def __init__(self, steps: int) -> None:
        self.steps = integer(steps, "steps")

    def __call__(
        self, model: DiscreteDiffusion, noisy: Tensor, context: Context = None, *, fixed: Tensor | None = None
    ) -> Tensor:
        shares = model.schedule.grid(self.steps)
        for before, after in zip(shares, shares[1:], strict=False):
            found = model.denoiser(noisy, before, context).double().exp()
            drawn = draw_symbols(model.noise.back(noisy, found, before, after).log())
            noisy = drawn if fixed is None else torch.where(fixed, noisy, drawn)
        return noisy


class Unmasking(SymbolSampler):
    """Reveals masked symbols, in each step those that rank highest; subclasses say how they rank.

    Args:
        steps: How many, each of which leaves masked what the schedule says; one for each symbol if ``None``.
    """

    def __init__(self, *, steps: int | None = None) -> None:
        self.steps = None if steps is None else integer(steps, "steps")

    @abstractmethod
    def rank(self, log_probs: Tensor, drawn: Tensor, left: float, chance: Tensor) -> Tensor:
        """How early each symbol is revealed.

        Args:
            log_probs: Of all symbols, ``(*drawn, symbols)``.
            drawn: The symbols that would be revealed.
            left: The share that is still masked.
            chance: Numbers in [0, 1) for each element, the same in all steps.
        """

    def __call__(
        self, model: DiscreteDiffusion, noisy: Tensor, context: Context = None, *, fixed: Tensor | None = None
    ) -> Tensor:
        mask, event_dim = _mask(model, self), len(model.event_shape)
        chance = torch.rand(noisy.shape, dtype=torch.float64, device=noisy.device)
        hidden = by_datum(noisy == mask, event_dim)
        unknown = hidden.sum(-1, keepdim=True)
        most = int(unknown.max()) if unknown.numel() else 0
        for left, after in self._shares(model, most):
            log_probs = model.denoiser(noisy, left, context)
            drawn = draw_symbols(log_probs)
            rank = by_datum(self.rank(log_probs, drawn, left, chance), event_dim).masked_fill(~hidden, -torch.inf)
            keep = (
                (after * unknown).ceil() if self.steps is not None else (unknown - round((1 - after) * most)).clamp(0)
            )
            place = rank.argsort(-1, descending=True).argsort(-1)
            revealed = hidden & (place < hidden.sum(-1, keepdim=True) - keep)
            hidden = hidden & ~revealed
            noisy = torch.where(revealed.reshape(noisy.shape), drawn, noisy)
        return noisy

    def _shares(self, model: DiscreteDiffusion, most: int) -> list[tuple[float, float]]:
        """The shares still masked before and after each step."""
        if self.steps is None:
            shares = [1 - step / most for step in range(most + 1)] if most else []
        else:
            shares = model.schedule.grid(self.steps)
        return [*zip(shares, shares[1:], strict=False)]


class RandomOrder(Unmasking):
    """Unmasking in a random order: one symbol at a time, the process backwards without an error of steps.

    With ``steps`` several at a time, as many as the process reveals on average.

    Args:
        steps: How many; one for each symbol if ``None``.

    References:
        Zheng, Chen, Mao, Liu, Zhu and Zhang 2024, "Masked diffusion models are secretly time-agnostic masked models and
        exploit inaccurate categorical sampling", https://arxiv.org/abs/2409.02908
    """

    def rank(self, log_probs: Tensor, drawn: Tensor, left: float, chance: Tensor) -> Tensor:
        return chance


class ConfidenceOrdered(Unmasking):
    r"""Unmasking what is surest first: the log-probability of what was drawn, with some chance.

    These are no draws of the model: likely symbols come first and draw others after them, so that events are likelier
    and less diverse. With much temperature the order is random again.

    Args:
        temperature: How much Gumbel noise is added to the log-probabilities, in proportion to the share that is still
            masked.
        steps: How many; one for each symbol if ``None``.

    References:
        Chang, Zhang, Jiang, Liu and Freeman 2022, "MaskGIT: Masked generative image transformer",
        https://arxiv.org/abs/2202.04200
    """

    def __init__(self, *, temperature: float = 0.0, steps: int | None = None) -> None:
        super().__init__(steps=steps)
        self.temperature = non_negative(temperature, "temperature")

    def rank(self, log_probs: Tensor, drawn: Tensor, left: float, chance: Tensor) -> Tensor:
        sure = log_probs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1).double()
        return sure - self.temperature * left * torch.empty_like(sure).exponential_().log()


class Remasking(SymbolSampler):
    r"""Ancestral sampling that masks symbols again, at a rate that leaves the distribution at every time as it is.

    .. math::
        p(z_s \mid z_t) = \begin{cases}
        (1 - \sigma) [z_s = z_t] + \sigma [z_s = \text{mask}] & z_t \ne \text{mask} \\
        \frac{\alpha_s - (1 - \sigma) \alpha_t}{1 - \alpha_t} c(z_s), \text{ else mask} & z_t = \text{mask}
        \end{cases}

    with the share :math:`\alpha` that is not masked and :math:`\sigma = \eta \min(1, (1 - \alpha_s) / \alpha_t)`.

    Args:
        steps: How many, evenly spaced in the schedule's time.
        strength: How much is masked again, :math:`\eta` in [0, 1); zero is ancestral sampling.

    References:
        Wang, Schiff, Sahoo and Kuleshov 2025, "Remasking discrete diffusion models with inference-time scaling",
        https://arxiv.org/abs/2503.00307
    """

    def __init__(self, steps: int, *, strength: float = 0.2) -> None:
        self.steps, self.strength = integer(steps, "steps"), share(strength, "strength")

    def __call__(
        self, model: DiscreteDiffusion, noisy: Tensor, context: Context = None, *, fixed: Tensor | None = None
    ) -> Tensor:
        mask, shares = _mask(model, self), model.schedule.grid(self.steps)
        for before, after in zip(shares, shares[1:], strict=False):
            again = self.strength * min(1.0, after / (1 - before)) if before < 1 else 0.0
            reveal = ((1 - after) - (1 - again) * (1 - before)) / before if before > 0 else 1.0
            drawn = draw_symbols(model.denoiser(noisy, before, context))
            chance, hidden = torch.rand(noisy.shape, dtype=torch.float64, device=noisy.device), noisy == mask
            remasked = (~hidden & (chance < again)) if fixed is None else ~hidden & ~fixed & (chance < again)
            noisy = torch.where(hidden & (chance < reveal), drawn, noisy).masked_fill(remasked, mask)
        return noisy


def _mask(model: DiscreteDiffusion, sampler: SymbolSampler) -> int:
    """The number of the mask.

    Raises:
        ValueError: the model has none.
    """
    if not isinstance(model.noise, MaskNoise):
        raise ValueError(
            f"`sampler` must be SymbolAncestral for noise without a mask, got {type(sampler).__name__}: nothing marks "
            "the symbols that are wrong"
        )
    return model.noise.mask
