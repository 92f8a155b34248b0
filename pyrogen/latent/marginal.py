r"""Models of latent variables, and their marginal as a Pyro distribution."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from functools import partial

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule, Guide, Model, data_plate
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, batch_shape_of, context_batch_shape
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.rows import rearranged, spared
from pyrogen.numerics.supports import point_inside
from pyrogen.numerics.values import require_value

from .bounds import importance_weighted

Joint = tuple[TorchDistributionMixin, Callable[[Tensor], TorchDistributionMixin]]


class LatentVariableModel(DistributionModule):
    r"""A model of data by latent variables, with a posterior of them: called, it is its marginal :math:`p(x \mid c)`.

    Subclasses define how to draw and to weigh, and the sites of their Pyro model and guide.
    """

    density: Density = "lower bound"

    @abstractmethod
    def draw(self, shape: torch.Size, context: Context = None) -> Tensor:
        """Ancestral draws, ``(*shape, *event)``, where ``shape`` ends in the batch dimensions of the context."""

    @abstractmethod
    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        """The logarithms of importance weights of events ``(*batch, *event)``: ``(draws, *batch)``."""

    @abstractmethod
    def support_at(self, context: Context = None) -> constraints.Constraint:
        """The support of one event."""

    @abstractmethod
    def sample_model(self, x: Tensor | None, context: Context = None) -> Tensor:
        """The sites of the Pyro model, inside its data plate."""

    @abstractmethod
    def sample_guide(self, x: Tensor, context: Context = None) -> Tensor:
        """The sites of the Pyro guide, inside its data plate."""

    def joint_at(self, context: Context = None) -> Joint:
        """The distribution of the latent, and that of the event given a latent.

        Raises:
            NotImplementedError: the model is not one latent and one likelihood.
        """
        raise NotImplementedError(
            "the joint is that of a VAE; a marginal of another model does not split into one latent and one "
            "likelihood: sample the sites of that model in your own"
        )

    def forward(self, context: Context = None) -> MarginalDistribution:
        return MarginalDistribution(self, context_batch_shape(context, self.context_shape), context)

    @property
    def model(self) -> nn.Module:
        """The Pyro model: its sites in a plate ``"data"``.

        Called as ``model(x=None, context=None, size=None)``, where ``size`` is the number of data the minibatch stands
        for. Without ``x``, ``size`` data are drawn, one for each context, or one without a plate.
        """
        return LatentModel(self)

    @property
    def guide(self) -> nn.Module:
        """The Pyro guide of the latents, called like :attr:`model`; empty without ``x``."""
        return LatentGuide(self)


class LatentModel(Model):
    """The Pyro model of a :class:`LatentVariableModel`."""

    module: LatentVariableModel

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Tensor:
        with data_plate(self.module, x, context, size):
            return self.module.sample_model(x, context)


class LatentGuide(Guide):
    """The Pyro guide of a :class:`LatentVariableModel`."""

    module: LatentVariableModel

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Tensor | None:
        if x is None:
            return None
        with data_plate(self.module, x, context, size):
            return self.module.sample_guide(x, context)


class MarginalDistribution(PyrogenDistribution):
    r"""The marginal :math:`p(x) = \int p(x, z) \, dz` of a model with a guide.

    ``sample`` is ancestral. ``log_prob`` is the logarithm of an average of importance weights with fresh noise for
    every row, a lower bound in expectation:

    .. math:: \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x, z_k)}{q(z_k \mid x)}, \qquad z_k \sim q(z \mid x) .

    A row that holds NaN has ``log_prob`` NaN, one that holds an infinity minus infinity (with validation off); neither
    touches the other rows or their gradients. Where NaN marks what is missing, it is left to the model.

    Args:
        module: How to draw and to weigh.
        batch_shape: That of the context, possibly expanded.
        context: What the model is given.

    References:
        Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    """

    density = "lower bound"
    has_joint = True  # of a VAE; of another model it says what to do instead

    def __init__(
        self,
        module: LatentVariableModel,
        batch_shape: Iterable[int],
        context: Context = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.module, self.context = module, context
        self._remake = None if context is None else Remade(module, context)
        super().__init__(torch.Size(batch_shape), torch.Size(module.event_shape), validate_args=validate_args)

    @property
    def takes_missing(self) -> bool:
        """Whether NaN marks what is missing: where the model takes it so."""
        return self.module.takes_missing

    @property
    def support(self) -> constraints.Constraint:
        return self.module.support_at(self.context)

    def joint(self) -> Joint:
        prior, likelihood = self.module.joint_at(self.context)
        return prior.expand(self.batch_shape), likelihood

    def _expanded(self, batch_shape: torch.Size) -> MarginalDistribution:
        return MarginalDistribution(self.module, batch_shape, self.context, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            return self.module.draw(torch.Size(sample_shape) + self.batch_shape, self.context)

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
            return importance_weighted(self.module.log_weights(value, self.context))
        finite = value.isfinite() | (value.isnan() & self.takes_missing)
        whole = _all(finite, len(self.event_shape))
        filled = torch.where(_wide(whole, finite), value, point_inside(self.support, value))
        bound = importance_weighted(self.module.log_weights(filled, self.context))
        missing = ~_all(~value.isnan(), len(self.event_shape))
        return torch.where(whole, bound, torch.where(missing, math.nan, -math.inf).to(bound))


def _all(flags: Tensor, event_dim: int) -> Tensor:
    return flags.flatten(-event_dim).all(-1) if event_dim else flags


def _wide(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(flags.shape + (1,) * (like.dim() - flags.dim()))
