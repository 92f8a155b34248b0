r"""Bidirectional games: a generator and an encoder, compared as joint distributions of data and latents.

There are two ways to draw a pair: from the prior, :math:`z \sim p(z)`, :math:`x \sim p(x \mid z)`, and from the data,
:math:`x \sim p_\text{data}`, :math:`z \sim q(z \mid x)`. A critic of pairs learns to tell them apart, and generator and
encoder leave no difference. Where there is none,

.. math:: p(z) \, p(x \mid z) = p_\text{data}(x) \, q(z \mid x),

so that :math:`p(x) = p_\text{data}(x)`, and **the encoder is the posterior** :math:`p(z \mid x)`. No density of either
is needed: both may be networks pushed over noise, the likelihood may be a simulator. It is inference by comparing
samples: adversarially learned inference (ALI) with stochastic parts, BiGAN with deterministic ones. In a game that has
not come so far the encoder is a guess, and reconstructions are of another datum with like features. Whether it is the
posterior of the model is tested by ``simulation_based_calibration(game.model, game.posterior, observed="x")``.

Nor does the equation imply that a latent depends on the data. A likelihood with enough noise of its own may give
all data by itself, :math:`p(x \mid z) = p_\text{data}(x)`, whose posterior is the prior: both sides agree and
reconstructions are other data (Li et al. 2017). A latent is used where the likelihood alone cannot be the data: with
noise that is small, or independent for each element, or none.

References:
    Dumoulin et al. 2017, "Adversarially learned inference", https://arxiv.org/abs/1606.00704
    Li et al. 2017, "ALICE: towards understanding adversarial learning for joint distribution matching",
    https://arxiv.org/abs/1709.01215
    Donahue, Krähenbühl and Darrell 2017, "Adversarial feature learning", https://arxiv.org/abs/1605.09782
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.arguments import anything, checked
from pyrogen.core.estimate import Estimate
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule, Guide, Model, check_part, data_plate
from pyrogen.core.parts import given, merged_context_shape, read_part, taken
from pyrogen.core.reparameterized import reparameterized
from pyrogen.core.shapes import Context, Shape, context_batch_shape, context_of_each
from pyrogen.distributions.point import Point
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.kernels import DistanceKernel

from .draws import Drawn, require_plain
from .game import Game, Played
from .losses import Loss
from .matching import unbiased_squared_mmd
from .model import Generator
from .penalties import Penalty


class Bidirectional(Played):
    r"""Generator and encoder against a critic of pairs, for ``fit(bidirectional, x)`` or ``fit(…, (x, context))``.

    The critic scores pairs as vectors, the elements of :math:`x` first and those of :math:`z` after them:
    ``mlp_critic((d_x + d_z,))`` is one. It minimizes the loss of a critic, with encoded pairs as the real ones;
    generator and encoder minimize *the same loss with the two exchanged*, which teaches both, and at once. Parts
    without parameters that take gradients stay as they are: with a fixed likelihood the encoder alone is trained, to
    the posterior of that likelihood if the data are draws of it.

    Afterwards the encoder is a posterior: at a ``pyro.sample`` site, as :attr:`guide` of :attr:`model`, in
    :meth:`reconstruct`.

    Args:
        generator: :math:`p(x \mid z)`: a module whose context is :math:`z`, alone or as the entry ``latent``, if there
            is a ``prior``. Else a :class:`~pyrogen.implicit.Generator`, whose latent is its noise: :math:`x` is
            then a function of it.
        encoder: :math:`q(z \mid x)`: a module whose context is :math:`x`, alone or as ``"x"``, that draws with a
            gradient: normals, a flow, or a generator itself.
        critic: ``critic(pairs)``, or ``critic(pairs, context)`` if there is a context, gives scores ``(N,)``.
        prior: :math:`p(z)`. ``None``: the noise of the generator.
        latent: The name of :math:`z` among the entries of a generator that takes several. Of a ``Generator`` it cannot
            be ``"z"``, the name of its own noise.
        loss: As for :class:`~pyrogen.implicit.game.Game`.
        penalties: As for :class:`~pyrogen.implicit.game.Game`.
        critic_steps: As for :class:`~pyrogen.implicit.game.Game`.

    Raises:
        TypeError: an argument of the game is of another kind.
        ValueError: shapes do not fit, or a part is no module that gives distributions.
        NotImplementedError: when called, a part draws without a gradient.

    Shape:
        Pairs are ``(N, d_x + d_z)``, in data units.

    Example:
        >>> import pyrogen as pg
        >>> likelihood = pg.implicit.mlp((2,), (1,), noise=(1,))
        >>> encoder = pg.implicit.mlp((1,), (2,), noise=(1,))
        >>> prior = pg.latent.StandardNormal((1,))
        >>> game = Bidirectional(likelihood, encoder, pg.implicit.mlp_critic((3,)), prior=prior)
        >>> _ = pg.fit(game, torch.randn(100, 2), steps=3)
        >>> game.reconstruct(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    @checked(generator=anything, loss=anything, penalties=anything)
    def __init__(
        self,
        generator: DistributionModule,
        encoder: DistributionModule,
        critic: nn.Module,
        *,
        prior: DistributionModule | None = None,
        latent: str = "z",
        loss: Loss | None = None,
        penalties: Sequence[Penalty] | None = None,
        critic_steps: int = 1,
    ) -> None:
        super().__init__()
        check_part(generator, "generator")
        check_part(encoder, "encoder")
        self.pairs = GeneratedPairs(generator, prior, encoder, latent)
        self.encoder = encoder
        self.event_shape, self.context_shape = generator.event_shape, self.pairs.context_shape
        latent_shape = self.pairs.prior.event_shape
        if (taken(encoder, "x"), encoder.event_shape) != (self.event_shape, latent_shape):
            raise ValueError(
                f"`encoder` must take events of shape {self.event_shape} and give latents of shape {latent_shape}, "
                f"got {taken(encoder, 'x')} and {encoder.event_shape}"
            )
        self.game = Game(self.pairs, critic, loss=loss, penalties=penalties, critic_steps=critic_steps)
        self.beside = VectorContext(self.context_shape)

    @property
    def model(self) -> nn.Module:
        """The Pyro model: sites ``"z"`` and ``"x"`` in a plate ``"data"``.

        Called as ``model(x=None, context=None, size=None)``; without ``x``, ``size`` pairs are drawn.
        """
        return BidirectionalModel(self)

    @property
    def guide(self) -> nn.Module:
        """The Pyro guide: the encoder at the site ``"z"``, called like :attr:`model`."""
        return BidirectionalGuide(self)

    def posterior_at(self, x: Tensor, context: Context = None) -> TorchDistributionMixin:
        """The encoder's posterior :math:`q(z | x, c)`."""
        return self.encoder(given(self.encoder, context, x=x))

    def posterior(self, data: Mapping[str, Tensor], draws: int) -> dict[str, Tensor]:
        """Draws of the latent for each datum, as :func:`pyrogen.evaluation.simulation_based_calibration` takes them.

        Args:
            data: Data by site: ``"x"``.
            draws: How many for each.

        Shape:
            ``(rows, *event_shape)`` to ``(draws, rows, *latent_shape)``.
        """
        with torch.no_grad():
            return {"z": self.posterior_at(data["x"]).sample(torch.Size((draws,)))}

    def reconstruct(self, x: Tensor, context: Context = None) -> Tensor:
        """Draws of data from the latents that the encoder draws.

        Shape:
            ``(*batch, *event_shape)`` to the same.
        """
        with torch.no_grad():
            return self.pairs.likelihood_at(self.posterior_at(x, context).sample(), context).sample()

    def averaged(self) -> nn.Module:
        """Generator and encoder."""
        return nn.ModuleList([self.pairs, self.encoder])

    def critic_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The loss of the critic, with penalties."""
        context = self._of_each(x, context)
        with torch.no_grad():
            pairs = self._encoded(x, context)
        return self.game.critic_loss(pairs, context)

    def generator_loss(self, x: Tensor, context: Context = None) -> Tensor:
        """The loss of generator and encoder: that of a critic to whom drawn pairs are the real ones."""
        context = self._of_each(x, context)
        encoded = self.game.scores(self._encoded(x, context), context)
        drawn = self.game.scores(self.pairs.drawn((len(x),), context), context)
        return self.loss.critic(drawn, encoded)

    def metric(self, x: Tensor, context: Context = None) -> Tensor:
        """The energy distance between drawn and encoded pairs, in standard deviations, of held-out data.

        Contexts are part of the pairs. It is zero in expectation where generator and encoder agree.
        """
        context = self._of_each(x, context)
        with torch.no_grad():
            pairs = (self._encoded(x, context), self.pairs.drawn((len(x),), context))
            pairs = [self.game.standardizer(pair) for pair in pairs]
            if context is not None:
                pairs = [torch.cat([pair, self.beside(context)], 1) for pair in pairs]
            return unbiased_squared_mmd(*pairs, DistanceKernel())

    def bound(self, x: Tensor, context: Context = None) -> Estimate:
        """What the critic shows on held-out data: a lower bound of the divergence of the two kinds of pairs.

        See :meth:`Game.bound <pyrogen.implicit.game.Game.bound>` for what it is worth.
        """
        context = self._of_each(x, context)
        with torch.no_grad(), evaluating(self):
            return self.game.bound(self._encoded(x, context), context)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        z = self.pairs.latents((len(x),), context)
        yield from self.pairs.read_pairs(x, z, context)
        yield from self.encoder.read_data(z, given(self.encoder, context, x=x))
        yield from self.game.read_data(joined(x, z, self.event_shape), context)
        yield from self.beside.read_data(context)

    def _of_each(self, x: Tensor, context: Context) -> Context:
        return context_of_each(x, context, self.event_shape, self.context_shape)

    def _encoded(self, x: Tensor, context: Context) -> Tensor:
        posterior = reparameterized(self.posterior_at(x, context), self.encoder)
        return joined(x, posterior.rsample(), self.event_shape)


class GeneratedPairs(DistributionModule):
    """The joint distribution of data and latents by prior and generator, as vectors.

    Args:
        generator: As for :class:`Bidirectional`.
        prior: As for :class:`Bidirectional`.
        encoder: The other part that may take a context.
        latent: As for :class:`Bidirectional`.

    Raises:
        ValueError: shapes do not fit.
        NotImplementedError: the generator compares its draws in another form than events.
    """

    density = None

    def __init__(
        self,
        generator: DistributionModule,
        prior: DistributionModule | None,
        encoder: DistributionModule,
        latent: str,
    ) -> None:
        self_contained = prior is None
        if self_contained and not isinstance(generator, Generator):
            raise ValueError(f"`prior` must be given for a generator that is a {type(generator).__name__}, got None")
        prior = generator.noise if self_contained else prior
        check_part(prior, "prior")
        if not self_contained and taken(generator, latent) != prior.event_shape:
            raise ValueError(
                f"`generator` must take latents of shape {prior.event_shape}, that of the prior, got "
                f"{taken(generator, latent)}; without `prior` its noise is the latent"
            )
        require_plain(generator)
        context_shape = merged_context_shape(
            ("prior", prior, None),
            ("generator", generator, None if self_contained else latent),
            ("encoder", encoder, "x"),
        )
        super().__init__((prod(generator.event_shape) + prod(prior.event_shape),), context_shape)
        self.generator, self.prior = generator, prior
        self.self_contained, self.latent = self_contained, latent

    def forward(self, context: Context = None) -> Drawn:
        batch = context_batch_shape(context, self.context_shape)
        return Drawn(partial(self.drawn, context=context), batch, self.event_shape)

    def prior_at(self, context: Context = None) -> TorchDistributionMixin:
        """The prior :math:`p(z | c)`."""
        return self.prior(given(self.prior, context))

    def likelihood_at(self, z: Tensor, context: Context = None) -> TorchDistributionMixin:
        """The likelihood :math:`p(x | z, c)`; a point, where the noise of a generator is the latent."""
        if not self.self_contained:
            return self.generator(given(self.generator, context, **{self.latent: z}))
        x = self.generator.generated(z, given(self.generator, context))
        return Point(x, event_dim=len(self.generator.event_shape))

    def latents(self, shape: Iterable[int], context: Context = None) -> Tensor:
        """Draws of the prior, ``(*shape, *latent)``, where the shape ends in the batch dimensions of the context."""
        prior = self.prior_at(context).expand(torch.Size(shape))
        return prior.rsample() if prior.has_rsample else prior.sample()

    def drawn(self, shape: Iterable[int], context: Context = None) -> Tensor:
        """Draws of pairs, ``(*shape, d_x + d_z)``, differentiable."""
        z = self.latents(shape, context)
        x = reparameterized(self.likelihood_at(z, context), self.generator).rsample()
        return joined(x, z, self.generator.event_shape)

    def read_pairs(self, x: Tensor, z: Tensor, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads data, with latents of the prior in the place of theirs, which are unknown."""
        yield from read_part(self.prior, context)
        own = {} if self.self_contained else {self.latent: z}
        yield from self.generator.read_data(x, given(self.generator, context, **own))


class BidirectionalModel(Model):
    """The Pyro model of a :class:`Bidirectional`."""

    module: Bidirectional

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Tensor:
        pairs = self.module.pairs
        with data_plate(self.module, x, context, size):
            z = pyro.sample("z", pairs.prior_at(context))
            return pyro.sample("x", pairs.likelihood_at(z, context), obs=x)


class BidirectionalGuide(Guide):
    """The Pyro guide of a :class:`Bidirectional`; empty without ``x``."""

    module: Bidirectional

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Tensor | None:
        if x is None:
            return None
        with data_plate(self.module, x, context, size):
            return pyro.sample("z", self.module.posterior_at(x, context))


def joined(x: Tensor, z: Tensor, event_shape: Shape) -> Tensor:
    """Data and latents of the same batch shape, as vectors ``(*batch, d_x + d_z)``."""
    batch = x.shape[: x.dim() - len(event_shape)]
    return torch.cat([x.reshape(*batch, prod(event_shape)), z.reshape(*batch, prod(z.shape[len(batch) :]))], -1)
