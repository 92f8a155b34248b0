r"""Games: a critic that learns to separate data from draws, and a generator that learns from the critic.

.. math:: \max_D \; V(D, q) \quad \text{and} \quad \min_q \; V(D, q),

where :math:`V` is a lower bound of a divergence between :math:`p` and :math:`q`, exact at the best critic
(:mod:`pyrogen.implicit.losses`). The two are trained in turns, each with the other frozen. This is no minimization:
the gradients of the two need not lead anywhere, and without friction (:mod:`pyrogen.implicit.penalties`) they lead
around in circles. The default, the relativistic loss with R1 and R2, has friction.

The losses of a game do not show how well it goes: they are those of two moving opponents, and a critic that was just
fooled gives a small bound where the generator is at its worst. :meth:`Game.metric` does: it compares draws with
held-out data without any critic, by the energy score

.. math:: \mathbb{E}\,|X - x| - \tfrac12 \, \mathbb{E}\,|X - X'|,

which is smallest in expectation where draws :math:`X, X'` given the context have the distribution of the data.

References:
    Goodfellow et al. 2014, "Generative adversarial nets", https://arxiv.org/abs/1406.2661
    Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
    https://doi.org/10.1198/016214506000001437
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam

from pyrogen.arguments import anything, checked, instance_of, integer
from pyrogen.core.batch import Batch, map_tensors, rows
from pyrogen.core.estimate import Estimate
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context, context_of_each
from pyrogen.networks.statistics import ReadsData, Standardizer, Statistic
from pyrogen.training.turn import MakeOptimizer, TakesTurns, Turn

from .critic import Critic
from .divergences import warn_of_tail
from .draws import as_generator
from .losses import Loss, Relativistic
from .model import Generator
from .penalties import Penalty, Scored
from .quadratic import QuadraticCritic

_LIMIT = 1e4
"""Losses beyond it are of a game that diverges: scores are of order one to a hundred, whatever the loss."""
_POINTS = 500
_DRAWS = 8


def _penalties(value: Any, name: str) -> None:
    if not isinstance(value, Sequence) or not all(isinstance(entry, Penalty) for entry in value):
        raise TypeError(f"`{name}` must be a sequence of Penalties, got {value!r}")


class Game(TakesTurns, ReadsData, nn.Module):
    r"""A generator against a critic, for ``fit(game, x)`` or ``fit(game, (x, context))``.

    ``ema=0.999`` averages the generator alone, which then validates and remains. ``validation=`` needs no ``metric``:
    that of a game is :meth:`metric`. A game whose losses grow beyond ten thousand has diverged: ``fit`` raises
    FloatingPointError, and leaves the best weights on held-out data, or else the average, or else the last weights.

    Args:
        generator: What is trained to draw like the data: a :class:`~pyrogen.implicit.model.Generator`, or any module
            whose draws carry gradients, such as a flow.
        critic: Any module: ``critic(x)``, or ``critic(x, context)`` if the generator has a context, gives scores
            ``(N,)`` of events ``(N, *event_shape)`` in data units, one for each row, or for each pack of
            ``critic.pack`` rows. Under penalties it scores each row by itself: statistics of a batch would count the
            slopes of other rows.
        loss: What both minimize; :class:`~pyrogen.implicit.losses.Relativistic` if ``None``.
        penalties: On the critic's slope. ``None``: those that the loss is used with, R1 and R2 of weight one for most;
            ``()`` for none.
        critic_steps: Steps of the critic for each one of the generator, each with a minibatch of its own.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: ``generator`` is no module that gives distributions, or ``critic`` takes other events or contexts;
            when called: the critic gives no scores ``(N,)`` or none that depend on its input, or batch normalization
            meets a single row.
        NotImplementedError: when called, draws of the generator carry no gradients.

    Example:
        >>> generator = pg.implicit.mlp((2,), noise=(4,))
        >>> critic = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
        >>> fit = pg.fit(Game(generator, critic), torch.randn(500, 2), steps=5, ema=0.9)
        >>> generator().sample((3,)).shape
        torch.Size([3, 2])
    """

    @checked(
        generator=anything,
        critic=instance_of(nn.Module),
        loss=instance_of(Loss),
        penalties=_penalties,
        critic_steps=integer,
    )
    def __init__(
        self,
        generator: DistributionModule,
        critic: nn.Module,
        *,
        loss: Loss | None = None,
        penalties: Sequence[Penalty] | None = None,
        critic_steps: int = 1,
    ) -> None:
        super().__init__()
        check_part(generator, "generator")
        self.generator = as_generator(generator)
        self.critic = critic
        _require_fitting(critic, self.generator)
        self.loss = Relativistic() if loss is None else loss
        self.penalties = self.loss.penalties() if penalties is None else tuple(penalties)
        self.steps_of_critic = critic_steps
        self.standardizer = Standardizer(self.generator.represented_shape, name="x")
        self.register_buffer("taken", torch.zeros((), dtype=torch.long))

    def turns(self) -> list[Turn]:
        """The turns of a step: the critic's, and then the generator's."""
        return self.turns_of(self)

    def turns_of(self, played: Game | Played) -> list[Turn]:
        """The turns of what is played against the critic of this game: the critic's, and then that of the others.

        Raises:
            ValueError: a parameter would be trained by both.
        """
        shared = {id(parameter) for parameter in played.averaged().parameters() if parameter.requires_grad}
        for name, parameter in self.critic.named_parameters():
            if id(parameter) in shared:
                raise ValueError(
                    "`critic` must share no parameter with what it plays against, or both would train it, each against "
                    f"the other, got {name!r}; give each a module of its own"
                )
        pack = getattr(self.critic, "pack", 1)
        critic = Turn(CriticLoss(played, pack), self.critic, repeats=self.steps_of_critic)
        return [critic, Turn(GeneratorLoss(played, pack), played.averaged())]

    def averaged(self) -> nn.Module:
        """The generator: a critic is of use to the generator that it plays against, and to no average."""
        return self.generator

    def optimizer(self, lr: float | None) -> MakeOptimizer:
        """Adam without momentum, which games turn into oscillation; a learning rate of 1e-3 if ``None``."""
        return partial(Adam, lr=1e-3 if lr is None else lr, betas=(0.0, 0.99), fused=True)

    def critic_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The loss of the critic, with penalties."""
        context = self._of_each(x, context)
        self._refuse_single_row(x)
        real = self.generator.represent(x).detach()
        with torch.no_grad():
            fake = self.generator.represented(x.shape[0], context)
        if not self.penalties:
            return self.loss.critic(self.scores(real, context), self.scores(fake, context))
        with torch.enable_grad():
            real, fake = (self._scored(events.requires_grad_(), context) for events in (real, fake))
            return sum(self._due(real, fake, context), self.loss.critic(real.scores, fake.scores))

    def generator_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The loss of the generator."""
        context = self._of_each(x, context)
        self._refuse_single_row(x)
        fake = self.scores(self.generator.represented(x.shape[0], context), context)
        if not self.loss.is_paired:
            return self.loss.generator(None, fake)
        with torch.no_grad():
            real = self.scores(self.generator.represent(x), context)
        return self.loss.generator(real, fake)

    def scores(self, x: Tensor, context: Context = None) -> Tensor:
        """The critic's scores of events in the generator's form for comparison, ``(N,)`` or one for each pack."""
        scores = self.critic(x) if context is None else self.critic(x, context)
        rows = x.shape[0]
        if scores.dim() != 1 or rows % max(scores.shape[0], 1):
            raise ValueError(
                f"`critic` must give scores ({rows},) of {rows} rows, got shape {tuple(scores.shape)}; end it with "
                "nn.Linear(width, 1) and nn.Flatten(0), say"
            )
        if is_validation_enabled() and x.requires_grad:
            _require_dependence(scores, x)
        return scores

    def metric(self, x: Tensor, context: Context = None) -> Tensor:
        """The mean energy score of draws given held-out data, in standard deviations of the data; lower is better."""
        context = self._of_each(x, context)
        with torch.no_grad():
            x = self._standard(self.generator.represent(x))
            if context is None:
                draws = self._standard(self.generator.represented(_POINTS)).unsqueeze(1)
            else:
                draws = torch.stack(
                    [self._standard(self.generator.represented(len(x), context)) for _ in range(_DRAWS)]
                )
            return energy_score(draws, x)

    def bound(self, x: Tensor, context: Context = None) -> Estimate:
        """What the critic shows on held-out data: a lower bound of the divergence of draws from data.

        Under the :class:`~pyrogen.implicit.losses.Wasserstein` loss it is an estimate: a steeper critic shows more.

        It is as good as the critic. That of a game in progress has seen no generator for long, so a small value may be
        its fault: train it on while the generator rests, ``fit(game.turns()[0], x, steps=…)``, for a bound that counts.
        Of a critic of packs it is the divergence of packs of independent draws from packs of data, which is larger.

        Args:
            x: Data that the critic has not seen.
            context: Their contexts.

        Warns:
            UserWarning: it averages numbers without a variance, which those of the KL divergences and Pearson's may be.
        """
        context = self._of_each(x, context)
        with torch.no_grad(), evaluating(self):
            fake = self.generator.represented(len(x), context)
            real = self.scores(self.generator.represent(x), context)
            bound = self.loss.bound(real.cpu().double(), self.scores(fake, context).cpu().double())
        below = bound.max() - bound
        warn_of_tail(below.clamp(min=torch.finfo(below.dtype).tiny).log(), f"the bound of {self.loss}")
        return Estimate.of_mean(bound, unit=self.loss.unit, density=self.loss.density)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        found = list(self.generator.read_data(x, context))
        yield from found
        if not all(statistic.learned for statistic, _ in found):  # the form for comparison may depend on them
            return
        real = self.generator.represent(x)
        yield from self.standardizer.read_data(real)
        if isinstance(self.critic, ReadsData):
            yield from self.critic.read_data(real, context)

    def _scored(self, events: Tensor, context: Context) -> Scored:
        return Scored(events, self.scores(events, context), self.standardizer.scale)

    def _due(self, real: Scored, fake: Scored, context: Context) -> Iterator[Tensor]:
        """The penalties that are due in this step."""
        taken = 0
        if any(penalty.every > 1 for penalty in self.penalties):
            taken = self.taken.item()
            self.taken += self.training
        critic = partial(self.scores, context=context)
        for penalty in self.penalties:
            if taken % penalty.every == 0:
                value = penalty(critic, real, fake)
                yield value if penalty.every == 1 else penalty.every * value

    def _standard(self, x: Tensor) -> Tensor:
        return self.standardizer(x).reshape(len(x), prod(self.standardizer.shape))

    def _of_each(self, x: Tensor, context: Context) -> Context:
        return context_of_each(x, context, self.generator.event_shape, self.generator.context_shape)

    def _refuse_single_row(self, x: Tensor) -> None:
        if x.shape[0] != 1 or not self.training:
            return
        for name in ("generator", "critic"):
            if any(isinstance(part, _BatchNorm) and part.training for part in getattr(self, name).modules()):
                raise ValueError(f"`{name}` normalizes by the statistics of a batch, which needs two rows, got one")


class Played(TakesTurns, ReadsData, nn.Module):
    """What is trained against the critic of a game by a loss of its own; abstract.

    Subclasses set :attr:`game`, and define :meth:`generator_loss`, :meth:`averaged` and :meth:`metric`.

    Attributes:
        game: Its critic, loss and penalties.
    """

    game: Game

    @abstractmethod
    def generator_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The loss of all but the critic."""

    def critic_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The loss of the critic, with penalties."""
        return self.game.critic_loss(x, context)

    @property
    def loss(self) -> Loss:
        """What both sides minimize."""
        return self.game.loss

    def turns(self) -> list[Turn]:
        """The turns of a step: the critic's, and then that of all others."""
        return self.game.turns_of(self)

    def optimizer(self, lr: float | None) -> MakeOptimizer:
        """That of a game."""
        return self.game.optimizer(lr)


class GameLoss(Objective):
    """A loss in a game, as an objective: of the rows of a minibatch that make whole packs; abstract.

    The fewer than ``pack`` others have their turn in another epoch.

    Args:
        game: The game.
        pack: How many rows its critic scores together.

    Raises:
        ValueError: when called, there are fewer rows than that.
    """

    limit = _LIMIT

    def __init__(self, game: Game | Played, pack: int) -> None:
        super().__init__()
        self.game, self.pack = game, pack
        self.unit = game.loss.unit

    def whole_packs(self, batch: Batch) -> Batch:
        """The rows of a minibatch that make whole packs."""
        count = rows(batch)
        if count < self.pack:
            raise ValueError(f"`batch_size` must be at least `pack`, {self.pack} rows, got a minibatch of {count}")
        left = count % self.pack
        return map_tensors(batch, lambda tensor: tensor[: count - left]) if left else batch


class CriticLoss(GameLoss):
    """The critic's loss in a game, as an objective."""

    def forward(self, *batch: Any) -> Tensor:
        return self.game.critic_loss(*self.whole_packs(batch))

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.game.read_data(*batch)


class GeneratorLoss(GameLoss):
    """The generator's loss in a game, as an objective."""

    def forward(self, *batch: Any) -> Tensor:
        return self.game.generator_loss(*self.whole_packs(batch))


def energy_score(draws: Tensor, x: Tensor) -> Tensor:
    r"""The mean over data of :math:`\mathbb{E}\,|X - x| - \frac12 \, \mathbb{E}\,|X - X'|`, without bias.

    Args:
        draws: At least two draws for each datum, or the same ones for all.
        x: The data.

    Shape:
        ``(K, N, d)`` or ``(K, 1, d)``, and ``(N, d)``, to a scalar.
    """
    by_datum = draws.transpose(0, 1)  # (N, K, d)
    to_data = torch.cdist(by_datum, x.unsqueeze(1 if len(by_datum) == len(x) else 0)).mean()
    count = len(draws)
    within = torch.cdist(by_datum, by_datum).sum((-1, -2)).mean() / (count * (count - 1))
    return to_data - 0.5 * within


def _require_fitting(critic: nn.Module, generator: Generator) -> None:
    """Refuses a critic of other events or contexts than the generator's, where that is known."""
    if not isinstance(critic, (Critic, QuadraticCritic)):
        return
    for noun, got, expected in (
        ("events", critic.event_shape, generator.represented_shape),
        ("contexts", critic.context_shape, generator.context_shape),
    ):
        if got != expected:
            raise ValueError(f"`critic` must take {noun} of shape {expected}, those of the generator, got {got}")


def _require_dependence(scores: Tensor, x: Tensor) -> None:
    """Refuses a critic whose scores are no function of the events."""
    found = (
        torch.autograd.grad(scores.sum(), x, allow_unused=True, retain_graph=True)[0] if scores.requires_grad else None
    )
    if found is None:
        raise ValueError("`critic` must give scores that depend on its input, got some that have no gradient by it")
