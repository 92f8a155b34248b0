r"""The marginal of a latent-variable model, as a Pyro distribution: ancestral draws, importance-weighted scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.core.shapes import batch_shape_of
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.points import point_inside
from pyrogen.numerics.rows import Remake, rearranged, spared
from pyrogen.numerics.values import require_value

Joint = tuple[TorchDistributionMixin, Callable[[Tensor], TorchDistributionMixin]]


class Program(Protocol):
    """What a marginal asks of a model and its guide, with the context already in place."""

    def draw(self, shape: torch.Size) -> Tensor:
        """Ancestral draws, ``(*shape, *event)``."""

    def log_weights(self, x: Tensor) -> Tensor:
        """The logarithms of importance weights of events ``(*batch, *event)``: ``(draws, *batch)``."""

    def support(self) -> constraints.Constraint:
        """Of one event."""


class MarginalDistribution(PyrogenDistribution):
    r"""The marginal :math:`p(x) = \int p(x, z) \, dz` of a model with a guide.

    ``sample`` is ancestral. ``log_prob`` is the logarithm of an average of importance weights with fresh noise for
    every row, a lower bound in expectation:

    .. math:: \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q(z \mid x) .

    A row that holds NaN has ``log_prob`` NaN, one that holds an infinity minus infinity (with validation off); neither
    touches the other rows or their gradients. Where NaN marks what is missing, it is left to the program.

    Args:
        program: How to draw and to weigh.
        batch_shape: That of the context, possibly expanded.
        event_shape: Shape of one event.
        takes_missing: Whether the program weighs rows that hold NaN.
        remake: Gives the same distribution for rows of its context in other places.

    References:
        Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    """

    density = "lower bound"
    has_joint = True

    def __init__(
        self,
        program: Program,
        batch_shape: Iterable[int],
        event_shape: Iterable[int],
        *,
        takes_missing: bool = False,
        remake: Remake | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.program = program
        self.takes_missing = takes_missing
        self._remake = remake
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return self.program.support()

    def joint(self) -> Joint:
        if not hasattr(self.program, "joint"):
            raise NotImplementedError(
                "the joint is that of a VAE; a marginal of another model does not split into one latent and one "
                "likelihood: sample the sites of that model in your own"
            )
        prior, likelihood = self.program.joint()
        return prior.expand(self.batch_shape), likelihood

    def _expanded(self, batch_shape: torch.Size) -> MarginalDistribution:
        return MarginalDistribution(
            self.program,
            batch_shape,
            self.event_shape,
            takes_missing=self.takes_missing,
            remake=self._remake,
            validate_args=False,
        )

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.program.draw(torch.Size(sample_shape) + self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        first, again = partial(self._score, value), partial(self._score_rows, value)
        return spared(first, again, self._remake, noisy=value.device)

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        there = self if self._remake is None else self._remake(places, batch)
        return there._score(rearranged(value, self.event_shape, batch, places))

    def _score(self, value: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(batch_shape_of(value, self.event_shape, "value"), self.batch_shape)
        value = value.expand(batch + self.event_shape)
        if not value.is_floating_point():
            return _log_mean_exp(self.program.log_weights(value))
        finite = value.isfinite() | (value.isnan() & self.takes_missing)
        whole = _all(finite, len(self.event_shape))
        bound = _log_mean_exp(
            self.program.log_weights(torch.where(_wide(whole, finite), value, point_inside(self.support, value)))
        )
        missing = ~_all(~value.isnan(), len(self.event_shape))
        return torch.where(whole, bound, torch.where(missing, math.nan, -math.inf).to(bound))


def _log_mean_exp(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _all(flags: Tensor, event_dim: int) -> Tensor:
    return flags.flatten(-event_dim).all(-1) if event_dim else flags


def _wide(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(flags.shape + (1,) * (like.dim() - flags.dim()))
