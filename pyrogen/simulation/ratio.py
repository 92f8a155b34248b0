r"""Learned ratios of likelihood to evidence, for one row of an observed site.

.. math:: r(x, \theta) = \frac{p(x \mid \theta)}{p(x)}

is learned by telling pairs :math:`(\theta, x)` of one simulation from pairs of two
(:mod:`pyrogen.numerics.contrastive`), without a density of :math:`x`: data of many dimensions, images and
mixtures of kinds are no harder for it than numbers. In a program it stands where the likelihood stood. Since
:math:`p(x)` does not depend on :math:`\theta`, the posterior is the same; the evidence is not, nor is an evidence lower
bound: both are too small by :math:`\sum_i \log p(x_i)`. Hence the density ``"unnormalized"``, and there is nothing to
draw from.

Under the prior its mean is one, :math:`\mathbb{E}_{p(\theta)}[r(x, \theta)] = 1` for every :math:`x`, and the mean of
its logarithm over simulations is the mutual information of :math:`\theta` and :math:`x`.

References:
    Hermans, Begy and Louppe 2020, "Likelihood-free MCMC with amortized approximate ratio estimators",
    https://arxiv.org/abs/1903.04057
    Miller, Weniger and Forre 2022, "Contrastive neural ratio estimation", https://arxiv.org/abs/2210.06170
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from pyrogen.arguments import checked, instance_of, integer, non_negative, positive
from pyrogen.core.density import Density
from pyrogen.core.recipe import recipe
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, Shape, context_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.context import context_rows
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.pairs import EachPair, PairNetwork
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.contrastive import contrastive_loss, imbalance, shifted, weighted_mean
from pyrogen.numerics.rows import Remake, rearranged, spared
from pyrogen.numerics.supports import contains, point_inside
from pyrogen.numerics.values import require_value

from .joint.joint import Joint
from .rows.coordinates import Coordinates, coordinates_of
from .rows.learned import LearnedSite, RowObjective
from .rows.row import ObservedRow, Values, row_of

LogRatio = Callable[[Tensor, Tensor], Tensor]


class Ratio(LearnedSite):
    """The learned ratio of likelihood to evidence of one row of an observed site.

    Made by :func:`ratio`.

    Args:
        network: From what ``event`` makes of a row, and the vector of its context, to a number; batch dimensions
            broadcast.
        event: What makes a row ready for the network.
        given: What makes a context a vector.
        row: The row.
        joint: The program, of which a pickle holds nothing.
        classes: How many candidates each row has in training.
        gamma: The odds that one of them is right.
        balanced: The weight of the imbalance.
    """

    density: Density = "unnormalized"

    def __init__(
        self,
        network: nn.Module,
        event: EventFeatures,
        given: Coordinates,
        row: ObservedRow,
        joint: Joint,
        *,
        classes: int,
        gamma: float,
        balanced: float,
    ) -> None:
        super().__init__(row, joint)
        self.network, self.event, self.given = network, event, given
        self.vector = VectorContext((given.size,))
        self.classes, self.gamma, self.balanced = classes, gamma, balanced

    def forward(self, context: Context = None) -> RatioDistribution:
        return RatioDistribution(
            self.log_ratio,
            self.features(context),
            context_batch_shape(context, self.context_shape),
            self.event_shape,
            self.row.variable.support,
            remake=Remade(self, context),
        )

    def features(self, context: Context) -> Tensor:
        """A context as the vector that the network takes."""
        return self.vector(self.given(self.row.named(context)))

    def log_ratio(self, x: Tensor, features: Tensor) -> Tensor:
        """The logarithm of the ratio, of rows ``(*batch, *event)`` and features ``(*batch, size)``."""
        return self.network(self.event(x), features)

    def objective(self) -> nn.Module:
        """The cross-entropy of :func:`~pyrogen.numerics.contrastive.contrastive_loss`, a mean over rows."""
        return RatioObjective(self)

    def read_row(self, x: Tensor, context: Values) -> Iterator[tuple[Statistic, Tensor]]:
        yield from self.event.read_data(x)
        yield from self.vector.read_data(self.given(context))


class RatioObjective(RowObjective):
    """The cross-entropy of a learned ratio, and the imbalance; the candidates are those of other simulations.

    Args:
        module: What is trained.

    Raises:
        ValueError: when called: there is one simulation alone.
    """

    unit = "nats of cross-entropy per row"

    def forward(self, latents: Any, observed: Any) -> Tensor:
        module = self.module
        pairs = module.pairs(latents, observed)
        if len(pairs.x) < 2:
            raise ValueError(
                f"a minibatch must hold at least 2 simulations, which serve each other, got {len(pairs.x)}"
            )
        features = module.features(module.row.packed(pairs.context))
        # The optimum does not depend on how many candidates there are, so a small minibatch may have fewer.
        log_ratios = module.log_ratio(pairs.x, shifted(features, min(module.classes, len(pairs.x) - 1)))
        weights = None if pairs.present is None else pairs.present.to(log_ratios.dtype)
        loss = weighted_mean(contrastive_loss(log_ratios, gamma=module.gamma), weights)
        return loss + module.balanced * imbalance(log_ratios, weights) if module.balanced else loss


class RatioDistribution(PyrogenDistribution):
    """Scores rows by the logarithm of their ratio of likelihood to evidence; it has no draws.

    Args:
        log_ratio: Of rows and features, whose batch dimensions broadcast.
        features: What stands for the context, ``(*batch, size)``.
        batch_shape: The batch dimensions.
        event_shape: Of a row.
        support: Where rows lie.
        remake: Gives the same for rows of the context in other places.
    """

    density: Density = "unnormalized"

    def __init__(
        self,
        log_ratio: LogRatio,
        features: Tensor,
        batch_shape: Sequence[int],
        event_shape: Shape,
        support: Constraint,
        *,
        remake: Remake | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._log_ratio, self._features, self._support, self._remake = log_ratio, features, support, remake
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return self._support

    def _expanded(self, batch_shape: torch.Size) -> RatioDistribution:
        # The features stay as few as they are, and broadcast.
        return RatioDistribution(
            self._log_ratio,
            self._features,
            batch_shape,
            self.event_shape,
            self._support,
            remake=self._remake,
            validate_args=False,
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> NoReturn:
        raise NotImplementedError(
            "a ratio of likelihood to evidence has no draws (density 'unnormalized'): draw from the program itself, or "
            "learn a likelihood (`pyrogen.simulation.likelihood`)"
        )

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return spared(partial(self._score, value), partial(self._score_rows, value), self._remake)

    def _score(self, value: Tensor) -> Tensor:
        event_dim = len(self.event_shape)
        known = value.isfinite().flatten(-event_dim).all(-1) if event_dim else value.isfinite()
        # Constraints of vectors fail on none.
        inside = known & contains(self._support, value.detach()) if value.numel() else known
        safe = torch.where(
            inside.reshape(inside.shape + (1,) * event_dim), value, point_inside(self._support, value).detach()
        )
        score = self._log_ratio(safe, self._features)
        missing = value.isnan().flatten(-event_dim).any(-1) if event_dim else value.isnan()
        score = torch.where(inside, score, torch.where(missing, torch.nan, -torch.inf).to(score))
        return score.expand(torch.broadcast_shapes(score.shape, self.batch_shape))

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        there = self if self._remake is None else self._remake(places, batch)
        return there._score(rearranged(value, self.event_shape, batch, places))


class EventFeatures(nn.Module):
    """What a network of ratios takes of a row.

    Args:
        shape: Of a row.
        support: Where it lies.
        embedding: Any module from rows to features; ``None`` for none.
        flat: Whether the row becomes one vector, in coordinates that suit its support.
    """

    def __init__(self, shape: Shape, support: Constraint, *, embedding: nn.Module | None = None, flat: bool) -> None:
        super().__init__()
        self.shape, self.flat = tuple(shape), flat or embedding is not None
        self.coordinates = Coordinates({"": self.shape}, {"": support}) if flat and embedding is None else None
        own = self.shape if self.coordinates is None else (self.coordinates.size,)
        self.context = VectorContext(own, embedding=embedding)

    @property
    def size(self) -> int:
        """How long the vector is."""
        return self.context.size

    def forward(self, x: Tensor) -> Tensor:
        if self.coordinates is not None:
            return self.context(self._own(x))
        batch = x.shape[: x.dim() - len(self.shape)]
        vector = self.context(context_rows(x, self.shape, batch)).reshape(*batch, self.size)
        return vector if self.flat else vector.reshape(*batch, *self.shape)

    def read_data(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.context.read_data(self._own(x))

    def _own(self, x: Tensor) -> Tensor:
        return x if self.coordinates is None else self.coordinates({"": x})


@recipe
@checked(
    classes=integer,
    gamma=positive,
    balanced=non_negative,
    network=instance_of(nn.Module),
    embedding=instance_of(nn.Module),
    site=instance_of(str),
)
def ratio(
    joint: Joint,
    *,
    network: nn.Module | None = None,
    classes: int = 5,
    gamma: float = 1.0,
    balanced: float = 0.0,
    site: str | None = None,
    embedding: nn.Module | None = None,
) -> Ratio:
    """A ratio of likelihood to evidence to be learned from simulations, for one row of an observed site.

    It is trained, called and put into programs as what :func:`~pyrogen.simulation.likelihood.likelihood` makes.

    Args:
        joint: The program.
        network: Any module from rows ``(N, *event)``, standardized, or their features ``(N, size)``, and a vector of
            the parents ``(N, C)``, standardized, to ``(N,)``. If ``None``, a perceptron with residual blocks.
        classes: How many candidates each row has in training, those of other simulations in the minibatch among them.
        gamma: The odds that one of the candidates is right.
        balanced: The weight of the imbalance of the classifier, which makes ratios cautious; Delaunoy et al. take 100.
        site: The name of the observed site; may be left out where there is one alone.
        embedding: Any module from rows ``(N, *event)``, standardized, to features, computed once for each row.

    Raises:
        TypeError: an argument is something else.
        ValueError: there is no such site, or one ratio cannot serve all its rows.
    """
    row = row_of(joint, site)
    given = coordinates_of(row.parents)
    event = EventFeatures(row.event_shape, row.variable.support, embedding=embedding, flat=network is None)
    if network is None:
        network = PairNetwork(event.size, given.size)
    else:
        network = EachPair(network, 1 if event.flat else len(row.event_shape))
    return Ratio(network, event, given, row, joint, classes=classes, gamma=gamma, balanced=balanced)
