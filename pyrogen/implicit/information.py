r"""Codes: parts of the noise that can be recovered from draws, and how much information draws contain about them.

Some of the noise of a generator gets a meaning by a rule: from a draw :math:`x \sim p(x \mid c)`, the code
:math:`c \sim p(c)` must be recognized. With a recognition network :math:`q(c \mid x)`,

.. math:: I(c; x) = \mathbb{E}\left[\log \frac{p(c \mid x)}{p(c)}\right]
    \ge \mathbb{E}_{p(c) p(x \mid c)} \left[\log q(c \mid x) - \log p(c)\right],

with equality where :math:`q` is the posterior of the code: the gap is its mean divergence from it. The bound is added
to a game, so generator and recognition network raise it together, and codes become what the data are made of where
that is cheapest to recognize: classes, angles, widths. No label is used, and nothing says that a code means one thing.

The information of a discrete code is at most its entropy (:math:`\log 8` of eight equal classes). That of a continuous
code has no limit: it grows as draws for different codes overlap less, which is a reason for a small weight.

References:
    Chen et al. 2016, "InfoGAN: interpretable representation learning by information maximizing generative adversarial
    nets", https://arxiv.org/abs/1606.03657
    Barber and Agakov 2003, "The IM algorithm: a variational approach to information maximization",
    https://proceedings.neurips.cc/paper/2003/hash/a6ea8471c120fe8cc35a2954c9b9c595-Abstract.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from pyrogen.arguments import anything, checked, integer, non_negative
from pyrogen.core.density import require_normalized
from pyrogen.core.estimate import Estimate
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.parts import given, taken
from pyrogen.core.reparameterized import reparameterized
from pyrogen.core.shapes import Context, ContextShape, context_batch_shape, context_of_each
from pyrogen.networks.statistics import Statistic

from .draws import Drawn, as_generator, require_plain
from .game import Game, Played
from .losses import Loss
from .model import Generator
from .penalties import Penalty

Parts = DistributionModule | Mapping[str, DistributionModule]


class Information(Played):
    r"""A game whose draws tell of codes, for ``fit(information, x)`` or ``fit(information, (x, context))``.

    The loss of generator and recognition is that of a generator minus ``weight`` times the bound of the information.

    Args:
        generator: Draws events given codes: its context is the code, or a dict in which codes have names. Entries that
            are no codes are the context of the data.
        codes: :math:`p(c)`: the distribution of the code, such as ``latent.Classes(8)``, or a dict of such by the
            names of the generator's entries. They stay as they are.
        recognition: :math:`q(c \mid x)`: a module whose context is an event, or a dict of such by the same names, for
            codes that are independent given an event.
        critic: As for :class:`~pyrogen.implicit.game.Game`.
        weight: Of the bound, in losses per nat.
        loss: As for :class:`~pyrogen.implicit.game.Game`.
        penalties: As for :class:`~pyrogen.implicit.game.Game`.
        critic_steps: As for :class:`~pyrogen.implicit.game.Game`.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: names or shapes do not fit, or a part is no module that gives distributions.
        NotImplementedError: the density of ``recognition`` is no ``log_prob`` or bound of one, or that of ``codes``,
            which is subtracted, is a bound; when called, draws of the generator carry no gradients.

    Example:
        >>> import pyrogen as pg
        >>> generator = pg.implicit.mlp((2,), classes=8, noise=(2,))
        >>> network = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 8))
        >>> recognition = pg.Parametric(network, pg.families.categorical(8), event_shape=(), context_shape=(2,))
        >>> information = Information(generator, pg.latent.Classes(8), recognition, pg.implicit.mlp_critic((2,)))
        >>> _ = pg.fit(information, torch.randn(100, 2), steps=3)
        >>> information.bound(draws=100).label
        'lower bound'
    """

    @checked(generator=anything, codes=anything, weight=non_negative, loss=anything, penalties=anything)
    def __init__(
        self,
        generator: DistributionModule,
        codes: Parts,
        recognition: Parts,
        critic: nn.Module,
        *,
        weight: float = 1.0,
        loss: Loss | None = None,
        penalties: Sequence[Penalty] | None = None,
        critic_steps: int = 1,
    ) -> None:
        super().__init__()
        self.coded = Coded(generator, codes)
        self.recognition = nn.ModuleDict(_named(recognition, "recognition"))
        self._check_recognition()
        self.weight = weight
        marginal = as_generator(self.coded, generator.support if isinstance(generator, Generator) else None)
        self.game = Game(marginal, critic, loss=loss, penalties=penalties, critic_steps=critic_steps)

    @property
    def marginal(self) -> Generator:
        """The generator whose codes are drawn as well."""
        return self.game.generator

    def bound(self, context: Context = None, *, draws: int = 10_000, name: str | None = None) -> Estimate:
        """The information that fresh draws tell of the codes: a lower bound, in nats.

        No draw was trained on, so what recognition learned by heart does not count.

        Args:
            context: Contexts, each of which gets one draw; ``None`` for a generator that takes codes alone.
            draws: How many, without a context.
            name: Of a single code; all together if ``None``.

        Raises:
            ValueError: there is no code of this name.
        """
        if name is not None and name not in self.recognition:
            raise ValueError(f"`name` must be one of {list(self.recognition)}, got {name!r}")
        batch = context_batch_shape(context, self.coded.context_shape) or (integer(draws, "draws"),)
        with torch.no_grad(), evaluating(self):
            codes, x = self.coded.drawn(batch, context)
            return Estimate.of_mean(self._information(codes, x, context, name), density="lower bound")

    def averaged(self) -> nn.Module:
        """Generator and recognition."""
        return nn.ModuleList([self.coded.generator, self.recognition])

    def generator_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The loss of the generator, and of recognition, on the same draws."""
        context = context_of_each(x, context, self.coded.event_shape, self.coded.context_shape)
        codes, drawn = self.coded.drawn((len(x),), context)
        with torch.no_grad():
            real = self.game.scores(x, context) if self.loss.is_paired else None
        loss = self.loss.generator(real, self.game.scores(drawn, context))
        return loss - self.weight * self._information(codes, drawn, context).mean()

    def metric(self, x: Tensor, context: Context = None) -> Tensor:
        """That of a game."""
        return self.game.metric(x, context)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        codes = self.coded.draw_codes((len(x),))
        for name, part in self.recognition.items():
            yield from part.read_data(codes[name], given(part, context, x=x))
        yield from self.game.read_data(x, context)

    def _information(self, codes: Mapping[str, Tensor], x: Tensor, context: Context, name: str | None = None) -> Tensor:
        """The logarithm of posterior over prior at the codes, (N,)."""
        found = []
        for key in self.recognition if name is None else [name]:
            part = self.recognition[key]
            with torch.no_grad():
                prior = self.coded.codes[key]().log_prob(codes[key])
            found.append(part(given(part, context, x=x)).log_prob(codes[key]) - prior)
        return sum(found)

    def _check_recognition(self) -> None:
        codes, event_shape = self.coded.codes, self.coded.event_shape
        if set(self.recognition) != set(codes):
            raise ValueError(f"`recognition` must be of the codes {sorted(codes)}, got {sorted(self.recognition)}")
        for name, part in self.recognition.items():
            _require_bound(part, codes[name])
            expected, got = (event_shape, codes[name].event_shape), (taken(part, "x"), part.event_shape)
            if got != expected:
                raise ValueError(
                    f"`recognition` must take events of shape {expected[0]} and give codes of shape {expected[1]}, "
                    f"got {got[0]} and {got[1]}"
                )


class Coded(DistributionModule):
    """The distribution of events whose codes are drawn as well.

    Args:
        generator: As for :class:`Information`.
        codes: As for :class:`Information`.

    Raises:
        ValueError: names or shapes do not fit.
    """

    density = None

    def __init__(self, generator: DistributionModule, codes: Parts) -> None:
        check_part(generator, "generator")
        require_plain(generator)
        codes = _named(codes, "codes")
        for name, part in codes.items():
            if taken(generator, name) != part.event_shape:
                raise ValueError(
                    f"`generator` must take the code {name!r} of shape {part.event_shape}, got context shape "
                    f"{generator.context_shape}"
                )
        super().__init__(generator.event_shape, _besides(generator.context_shape, codes))
        self.generator, self.codes = generator, nn.ModuleDict(codes)

    def forward(self, context: Context = None) -> Drawn:
        def draw(shape: torch.Size) -> Tensor:
            return self.drawn(shape, context)[1]

        return Drawn(draw, context_batch_shape(context, self.context_shape), self.event_shape)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.generator.read_data(x, given(self.generator, context, **self.draw_codes((len(x),))))

    def draw_codes(self, shape: Sequence[int]) -> dict[str, Tensor]:
        """Draws of every code, ``(*shape, *code)``."""
        return {name: part().expand(torch.Size(shape)).sample() for name, part in self.codes.items()}

    def drawn(self, shape: Sequence[int], context: Context = None) -> tuple[dict[str, Tensor], Tensor]:
        """Codes and events, the latter differentiable; the shape ends in the batch dimensions of the context."""
        codes = self.draw_codes(shape)
        distribution = self.generator(given(self.generator, context, **codes))
        return codes, reparameterized(distribution, self.generator).rsample()


def _require_bound(recognition: DistributionModule, code: DistributionModule) -> None:
    require_normalized(recognition.density, "`recognition`", "a bound of the information")
    require_normalized(code.density, "`codes`", "a bound of the information")
    if code.density == "lower bound":
        raise NotImplementedError(
            "`codes` has density 'lower bound': with less than log p(c) subtracted, the bound is more than the "
            "information; give codes whose density is exact or an estimate without bias"
        )


def _named(parts: Parts, name: str) -> dict[str, DistributionModule]:
    parts = dict(parts) if isinstance(parts, Mapping) else {"code": parts}
    if not parts:
        raise ValueError(f"`{name}` must hold at least one module, got none")
    for part in parts.values():
        check_part(part, name)
    return parts


def _besides(context_shape: ContextShape, codes: Mapping[str, DistributionModule]) -> ContextShape:
    """The shape of what a generator takes besides codes."""
    if not isinstance(context_shape, dict):
        return None
    rest = {name: shape for name, shape in context_shape.items() if name not in codes}
    return rest["context"] if set(rest) == {"context"} else rest or None
