r"""Diffusion over symbols: a distribution of integers, found again from noise that hides or replaces them.

The symbols of a datum :math:`x` turn into noise one by one (:mod:`~pyrogen.diffusion.discrete.noise`); at a share
:math:`u` of noise the noisy event is :math:`z \sim q_u(z \mid x)`. A denoiser knows what all other symbols leave for
each (:mod:`~pyrogen.diffusion.discrete.denoiser`), and with it the process runs backwards, from noise alone to data.
The path of the noise is the posterior of all that lies between, which gives a variational bound, in the limit of many
steps an integral over the share of noise. It has no other part: noise alone says nothing of the datum, and a datum
without noise is itself. Nor does the schedule enter it: only the way from one to the other, not its speed, counts.

=======================================  ===============================================================================
:class:`.masked.MaskedDiffusion`         symbols are hidden; any part of an event can be given
:class:`.uniform.UniformDiffusion`       symbols are replaced by any; what was drawn can be corrected later
=======================================  ===============================================================================

References:
    Campbell, Benton, De Bortoli, Rainforth, Deligiannidis and Doucet 2022, "A continuous time framework for discrete
    denoising models", https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.arguments import instance_of, integer, seed_or_none
from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, batch_shape_of, context_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.randomness import fixed_noise
from pyrogen.numerics.rows import by_datum, rearranged, spared
from pyrogen.numerics.supports import contains
from pyrogen.numerics.times import stratified
from pyrogen.numerics.values import require_value
from pyrogen.programs.chain import refuse_chain

from .denoiser import SymbolDenoiser
from .noise import SymbolNoise
from .samplers import SymbolSampler
from .schedules import SymbolSchedule


class DiscreteDiffusion(DistributionModule):
    """A diffusion model of symbols: draws by a sampler, ``log_prob`` a variational bound in continuous time.

    Args:
        denoiser: What all other noisy symbols leave for each.
        noise: How symbols become noise.
        schedule: The share of noise at each time.
        sampler: Turns noise into data.
        draws: How many noisy events ``log_prob`` averages over, all at once.
        noise_seed: If given, ``log_prob`` uses the same noise for every row and call, as comparisons need; it is then
            one draw of the bound, and the rows' errors are no longer independent.

    Raises:
        ValueError: ``draws`` is not positive, or ``denoiser`` is none.
        TypeError: ``schedule`` or ``sampler`` is none of symbols.
    """

    density: Density = "lower bound"

    def __init__(
        self,
        denoiser: SymbolDenoiser,
        noise: type[SymbolNoise],
        *,
        schedule: SymbolSchedule,
        sampler: SymbolSampler,
        draws: int = 8,
        noise_seed: int | None = None,
    ) -> None:
        if not isinstance(denoiser, SymbolDenoiser):
            raise ValueError(f"`denoiser` must be a SymbolDenoiser, got {type(denoiser).__name__}")
        super().__init__(denoiser.event_shape, denoiser.context_shape)
        self.denoiser, self.noise = denoiser, noise(denoiser.counts)
        self.schedule = instance_of(SymbolSchedule)(schedule, "schedule")
        self.sampler = instance_of(SymbolSampler)(sampler, "sampler")
        self.draws, self.noise_seed = integer(draws, "draws"), seed_or_none(noise_seed, "noise_seed")

    def forward(self, context: Context = None) -> DiscreteDistribution:
        return DiscreteDistribution(self, context, context_batch_shape(context, self.context_shape))

    @abstractmethod
    def bound(self, x: Tensor, level: Tensor, uniform: Tensor, context: Context = None) -> Tensor:
        """Draws of the bound, from given noise.

        Args:
            x: Events of symbols, as long integers.
            level: Numbers in [0, 1), which become shares of noise.
            uniform: Numbers in [0, 1), in double precision, which become noise.
            context: What the events depend on.

        Shape:
            ``x`` ``(*batch, *event)``, ``level`` ``(draws, *batch)``, ``uniform`` ``(draws, *batch, *event)``; the
            result is ``(draws, *batch)``.
        """

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.denoiser.read_data(context)

    def objective(self) -> SymbolBound:
        """The default objective, which ``fit`` uses: the variational bound."""
        return SymbolBound(self)


class DiscreteDistribution(PyrogenDistribution):
    """The distribution of a :class:`DiscreteDiffusion` for one context.

    A row that holds NaN has ``log_prob`` NaN, one with numbers that are no symbols minus infinity (with validation
    off); neither touches the other rows or their gradients.

    Args:
        module: The model.
        context: What it depends on.
        batch_shape: That of the context, possibly expanded.
    """

    density = "lower bound"

    def __init__(
        self,
        module: DiscreteDiffusion,
        context: Context,
        batch_shape: Iterable[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.module, self.context = module, context
        super().__init__(torch.Size(batch_shape), torch.Size(module.event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        denoiser = self.module.denoiser
        last = denoiser.counts - 1 if denoiser.uneven else denoiser.most - 1
        return constraints.independent(constraints.integer_interval(0, last), len(self.event_shape))

    def _expanded(self, batch_shape: torch.Size) -> DiscreteDistribution:
        return DiscreteDistribution(self.module, self.context, batch_shape, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        return self._generated(self._start(shape), None)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        first, again = partial(self._score, value), partial(self._score_rows, value)
        return spared(first, again, Remade(self.module, self.context), noisy=value.device)

    @torch.no_grad()
    def bound_in_steps(self, value: Tensor, steps: int) -> Tensor:
        """The bound for draws in so many steps of the schedule, in each of which symbols are drawn independently.

        Less than ``log_prob`` by what drawing several symbols at once costs, which is nothing in the limit of many
        steps. It is that of the sampler :class:`~pyrogen.diffusion.discrete.samplers.SymbolAncestral`.

        Args:
            value: Events ``(*batch, *event)``.
            steps: How many.

        Returns:
            The average over the model's ``draws`` of the bound, ``batch``.
        """
        require_value(self, value)
        shares = self.module.schedule.grid(integer(steps, "steps"))
        return self._with_impossible(value, partial(self._bound_along, shares))

    def _bound_along(self, shares: list[float], x: Tensor, seen: Tensor | None) -> Tensor:
        """Minus what all steps err by, each from a share of noise to the next; what is seen counts for nothing."""
        noise, total = self.module.noise, 0.0
        certain = noise.likelihood(x, 0.0).double()
        for before, after in zip(shares, shares[1:], strict=False):
            uniform = torch.rand((self.module.draws, *x.shape), dtype=torch.float64, device=x.device)
            noisy = noise.corrupt(x, before, uniform)
            noisy = noisy if seen is None else torch.where(seen, x, noisy)
            found = self.module.denoiser(noisy, before, self.context).double().exp()
            true, model = (noise.back(noisy, prior, before, after) for prior in (certain, found))
            gap = torch.where(true > 0, true * (true / model).log(), 0.0).sum(-1)
            gap = gap if seen is None else gap.masked_fill(seen, 0.0)
            total = total - by_datum(gap, len(self.event_shape)).sum(-1).mean(0)
        return total

    def _with_impossible(self, value: Tensor, score: Callable[[Tensor, Tensor | None], Tensor]) -> Tensor:
        """A score of events of symbols, and what those score that are none."""
        batch = torch.broadcast_shapes(batch_shape_of(value, self.event_shape, "value"), self.batch_shape)
        value = value.expand(batch + self.event_shape)
        inside, impossible = self.inside(value), self._impossible(value)
        found = score(torch.where(inside, value, 0).long(), None)
        return torch.where(by_datum(inside, len(self.event_shape)).all(-1), found, impossible.to(found))

    def _start(self, shape: torch.Size) -> Tensor:
        uniform = torch.rand(shape, dtype=torch.float64, device=self.module.denoiser.counts.device)
        return self.module.noise.drawn(uniform)

    def _generated(self, start: Tensor, fixed: Tensor | None) -> Tensor:
        return self.module.sampler(self.module, start, self.context, fixed=fixed)

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        context = Remade(self.module, self.context).rows(places, batch)
        there = DiscreteDistribution(self.module, context, batch, validate_args=False)
        return there._score(rearranged(value, self.event_shape, batch, places))

    def _score(self, value: Tensor) -> Tensor:
        return self._with_impossible(value, self._bound)

    def _bound(self, x: Tensor, seen: Tensor | None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.event_shape)]
        return self.module.bound(x, *self._noise(batch), self.context).mean(0)

    def inside(self, value: Tensor) -> Tensor:
        """Which elements of events are symbols."""
        inside = contains(self.support.base_constraint, value) if self.event_shape else contains(self.support, value)
        return inside & value.isfinite()

    def _impossible(self, value: Tensor) -> Tensor:
        """The scores of rows that hold numbers that are no symbols."""
        missing = by_datum(value.isnan(), len(self.event_shape)).any(-1)
        return torch.where(missing, math.nan, -math.inf)

    def _noise(self, batch: torch.Size) -> tuple[Tensor, Tensor]:
        """Levels ``(draws, *batch)``, stratified within a row, and uniform numbers ``(draws, *batch, *event)``."""
        draws, like = self.module.draws, self.module.denoiser.like()
        if self.module.noise_seed is None:
            refuse_chain("a diffusion model of symbols", "use an autoregressive model of them")
            return stratified(draws, batch, like), _uniform((draws, *batch, *self.event_shape), like)
        with fixed_noise(self.module.noise_seed):
            level, uniform = stratified(draws, (), like), _uniform((draws, *self.event_shape), like)
        ones = (1,) * len(batch)
        return (
            level.reshape(draws, *ones).expand(draws, *batch),
            uniform.reshape(draws, *ones, *self.event_shape).expand(draws, *batch, *self.event_shape),
        )


class SymbolBound(Objective):
    """Minus the variational bound, in nats per datum, with shares of noise stratified over the minibatch.

    Args:
        diffusion: What is fitted.
    """

    def __init__(self, diffusion: DiscreteDiffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        batch, like = batch_shape_of(x, self.diffusion.event_shape, "x"), self.diffusion.denoiser.like()
        level = stratified(batch.numel(), (), like).reshape(1, *batch)
        return -self.diffusion.bound(x.long(), level, _uniform((1, *x.shape), like), context).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.diffusion.read_data(x, context)


def _uniform(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, device=like.device)
