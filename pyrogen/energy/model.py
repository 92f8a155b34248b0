r"""Energies: densities that are known up to a constant.

An energy :math:`E_\theta(x, c)` is a number for every event, and defines the Boltzmann distribution

.. math:: p_\theta(x \mid c) = \frac{e^{-E_\theta(x, c)}}{Z_\theta(c)}, \qquad
    Z_\theta(c) = \int e^{-E_\theta(x, c)} \, dx .

Any network makes an energy, since nothing has to be invertible, causal or normalized: energies may be added (a product
of experts), and a classifier is one. The price is :math:`Z`. It is not known, so ``log_prob`` is :math:`-E` and its
density ``"unnormalized"``; draws come from Markov chains (:mod:`pyrogen.energy.chains`), and the gradient of the
log-likelihood has two phases,

.. math:: \nabla_\theta \log p_\theta(x) = -\nabla_\theta E_\theta(x) +
    \mathbb{E}_{x^- \sim p_\theta} \nabla_\theta E_\theta(x^-) ,

of which the second, the gradient of :math:`-\log Z`, needs such draws. Objectives differ in how they find it, or go
around it: contrastive divergence, noise-contrastive estimation, score matching.

An energy is often a correction to a distribution :math:`q` that is known, its *base*: :math:`p(x) \propto q(x)\,
e^{-f(x)}` (an exponential tilting). Chains then start from the base, and what :math:`f` has not learned stays as it is.

References:
    LeCun, Chopra, Hadsell, Ranzato and Huang 2006, "A tutorial on energy-based learning"
    Song and Kingma 2021, "How to train your energy-based models", https://arxiv.org/abs/2101.03288
    Nijkamp, Hill, Han, Zhu and Wu 2020, "On the anatomy of MCMC-based maximum likelihood learning of energy-based
    models", https://arxiv.org/abs/1903.12370
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from math import prod
from typing import Self

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution, biject_to, constraints
from torch.distributions.constraints import Constraint
from torch.nn.functional import one_hot

from pyrogen.arguments import switch
from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.shapes import Context, ContextShape, Shape, context_batch_shape, context_of_part
from pyrogen.distributions.independent import as_event
from pyrogen.distributions.normal import UnitNormal
from pyrogen.networks.context import context_rows
from pyrogen.networks.statistics import ReadsData, Standardizer, Statistic
from pyrogen.numerics.markov.paths import DensityPath, Elements, InformedPath
from pyrogen.numerics.markov.state import LogDensity
from pyrogen.numerics.supports import element_of, is_real, is_same, opened, widened
from pyrogen.transforms.distribution import TransformedDistribution
from pyrogen.transforms.transform import Compose, Transform

from .bases import DataNormal, DataUnits
from .boltzmann import Boltzmann
from .chains import Chains, FreshChains
from .kernels import AdjustedLangevin, GibbsWithGradients

_CHANGES = 10  # of bits or symbols at each inverse temperature


class EnergyModule(DistributionModule):
    r"""A module whose :meth:`energies` define a distribution up to a constant; abstract.

    Subclasses define :meth:`energies`, of events as numbers: real events and bits as they are, symbols as one-hot
    vectors, between which an energy is defined too and has gradients (for kernels that use them).

    Args:
        event_shape: Shape of one event.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
        support: Where each element of an event lies: ``constraints.real``, an interval, ``constraints.boolean``, or
            ``constraints.integer_interval(0, symbols - 1)``.
        chains: How it draws; what :meth:`default_chains` gives if ``None``.

    Attributes:
        symbols: How many values an element has; ``None`` for real numbers.
    """

    density: Density = "unnormalized"

    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape = None,
        *,
        support: Constraint = constraints.real,
        chains: Chains | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.support = widened(support, len(self.event_shape))
        self.symbols = _symbols(element_of(support))
        self.standardizer = Standardizer(self.event_shape, name="x") if self.symbols is None else None
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.drawing_by(self.default_chains() if chains is None else chains)

    @abstractmethod
    def energies(self, x: Tensor, context: Context = None) -> Tensor:
        """Energies of rows, in nats.

        Args:
            x: Events as numbers (:meth:`numbers`), ``(N, *event_shape)``, of symbols ``(N, *event_shape, symbols)``.
            context: A context for each, ``(N, *context_shape)``.

        Shape:
            ``(N,)``.
        """

    def forward(self, context: Context = None) -> Boltzmann:
        return Boltzmann(self, context, context_batch_shape(context, self.context_shape), validate_args=False)

    def numbers(self, x: Tensor) -> Tensor:
        """Events as floating-point numbers: symbols as one-hot vectors, all others as they are."""
        if self.symbols is None and x.is_floating_point():
            return x
        if self.symbols is None or self.symbols == 2:
            return x.to(self.zero.dtype)
        return one_hot(x.long(), self.symbols).to(self.zero)

    def events(self, numbers: Tensor) -> Tensor:
        """The events that numbers stand for."""
        return numbers if self.symbols is None or self.symbols == 2 else numbers.argmax(-1)

    def start(self, context: Context = None) -> TorchDistributionMixin:
        """A distribution of a known density, which chains begin at: here normal in the coordinates, or even.

        Its batch shape is that of the context.
        """
        batch = context_batch_shape(context, self.context_shape)
        if self.symbols is not None:
            return _even(self.symbols, self.zero, self.event_shape).expand(batch)
        return TransformedDistribution(
            UnitNormal(self.event_shape, self.zero, batch, validate_args=False), [self.coordinates(context)]
        )

    def coordinates(self, context: Context = None) -> Transform:
        """From the coordinates in which chains of real events move to events: here the data's mean and scale."""
        element = element_of(self.support)
        if is_real(element):
            return DataUnits(self.standardizer)
        return Compose([biject_to(element)], event_dim=len(self.event_shape))

    def in_coordinates(self, context: Context = None) -> tuple[Transform, LogDensity]:
        """The coordinates, and the log-density in them, ``(N, *event_shape)`` to ``(N,)``, up to a constant.

        Args:
            context: A context for each of the rows.
        """
        coordinates = self.coordinates(context)

        def log_density(z: Tensor) -> Tensor:
            x, log_det = coordinates.forward_and_log_det(z)
            return log_det - self.energies(x, context)

        return coordinates, log_density

    def path(self, base: Elements, context: Context = None) -> DensityPath:
        """From independent bits or symbols to this energy, as a path along which its normalizer is estimated.

        Here its chains move by Gibbs sampling with gradients. An energy that can draw many elements at once has a path
        of its own.

        Args:
            base: Where it begins.
            context: A single one.
        """
        return InformedPath(base, self.of_vectors(context), steps=_CHANGES)

    def of_vectors(self, context: Context = None) -> Callable[[Tensor], Tensor]:
        """Minus the energies of discrete events in one row each, bits ``(N, D)`` or one-hot symbols ``(N, D, K)``.

        Args:
            context: A single one.
        """
        shape = (*self.event_shape, *(() if self.symbols == 2 else (self.symbols,)))

        def log_density(x: Tensor) -> Tensor:
            return -self.energies(x.reshape(len(x), *shape), context_rows(context, self.context_shape, (len(x),)))

        return log_density

    def drawing_by(self, chains: Chains) -> Self:
        """The same energy, which from now on draws by these chains."""
        self.chains = chains
        chains.prepare(self)
        return self

    def default_chains(self) -> Chains:
        """How it draws where nothing else is given."""
        if self.symbols is None:
            return FreshChains(AdjustedLangevin(), steps=100)
        return FreshChains(GibbsWithGradients(changes=max(1, prod(self.event_shape) // 10)), steps=100)

    def objective(self) -> nn.Module:
        """Contrastive divergence with persistent chains."""
        from .contrastive import ContrastiveDivergence  # which is built upon this module

        return ContrastiveDivergence(self)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        if self.standardizer is not None:
            yield from self.standardizer.read_data(x)


class Energy(EnergyModule):
    r"""An energy by any network: :math:`E(x, c) = f(x, c)`, or :math:`f(x, c) - \log q(x \mid c)` with a base.

    Args:
        network: Called with events as numbers ``(N, *event_shape)``, and with their contexts if there are any, it gives
            ``(N,)``. A critic of :mod:`pyrogen.implicit` is one, of the other sign.
        event_shape: Shape of one event.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
        base: A distribution of real events that the energy corrects, of exact density: a flow, say. It has no context
            or that of the energy, and is trained with it unless it is frozen (``base.requires_grad_(False)``).
        standardize: Whether the network is given real events in deviations of the data from their mean, learned from
            the data set, and not as they are.
        support: As for :class:`EnergyModule`.
        chains: As for :class:`EnergyModule`.

    Raises:
        ValueError: shapes or supports do not fit, or the base has no exact density; when called, the network gives
            something else than one number a row.

    Example:
        >>> energy = Energy(nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, 1), nn.Flatten(0)), (2,))
        >>> energy().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
        >>> energy.density
        'unnormalized'
    """

    def __init__(
        self,
        network: nn.Module,
        event_shape: Shape,
        context_shape: ContextShape = None,
        *,
        base: DistributionModule | None = None,
        standardize: bool = False,
        support: Constraint = constraints.real,
        chains: Chains | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape, support=support, chains=chains)
        self.network, self.base = network, base
        self.standardize = switch(standardize, "standardize") and self.symbols is None
        if base is not None:
            _check_base(base, self)
            if base.context_shape is None:
                self._base(None)
        if isinstance(base, DataNormal):  # whose coordinates are then what the network is given
            self.standardizer = base.standardizer

    def energies(self, x: Tensor, context: Context = None) -> Tensor:
        value = self.tilt(x, context)
        return value if self.base is None else value - self._base(context).log_prob(x)

    def tilt(self, x: Tensor, context: Context = None) -> Tensor:
        """What the network gives: energies, without those of the base."""
        return self._tilt(self.standardizer(x) if self.standardize else x, context)

    def _tilt(self, x: Tensor, context: Context) -> Tensor:
        """What the network gives for what it is given."""
        value = self.network(x) if context is None else self.network(x, context)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"`network` must give one number a row, ({len(x)},), got shape {tuple(value.shape)}; end it with "
                "nn.Flatten(0), say"
            )
        return value

    def train(self, mode: bool = True) -> Self:
        """As torch's; a frozen base stays in evaluation mode, since units that it drops would be noise in energies."""
        super().train(mode)
        if mode:
            evaluate_frozen(self.base)
        return self

    def start(self, context: Context = None) -> TorchDistributionMixin:
        if self.base is None:
            return super().start(context)
        batch = context_batch_shape(context, self.context_shape)
        base = self._base(context)
        return base if base.batch_shape == batch else base.expand(batch)

    def coordinates(self, context: Context = None) -> Transform:
        found = None if self.base is None else coordinates_of(self._base(context))
        return super().coordinates(context) if found is None else found

    def in_coordinates(self, context: Context = None) -> tuple[Transform, LogDensity]:
        base = None if self.base is None else self._base(context)
        coordinates = None if base is None else coordinates_of(base)
        if coordinates is None:
            return super().in_coordinates(context)
        # With its noise as coordinates the base has the density of noise there, and no log-determinant is needed.
        noise = base.base_dist
        if self.standardize and isinstance(coordinates, DataUnits) and coordinates.standardizer is self.standardizer:
            return coordinates, lambda z: noise.log_prob(z) - self._tilt(z, context)
        return coordinates, lambda z: noise.log_prob(z) - self.tilt(coordinates(z), context)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        if self.base is not None:
            yield from self.base.read_data(x, context_of_part(context, self.base.context_shape))
        yield from super().read_data(x, context)
        if isinstance(self.network, ReadsData):
            yield from self.network.read_data(x, *(() if context is None else (context,)))

    def _base(self, context: Context) -> TorchDistributionMixin:
        base = self.base(context_of_part(context, self.base.context_shape))
        require_support(base, self, "base")
        return base


def evaluate_frozen(part: nn.Module | None) -> None:
    """Puts a part of which nothing is trained into evaluation mode."""
    if part is not None and not any(parameter.requires_grad for parameter in part.parameters()):
        part.eval()


def coordinates_of(distribution: TorchDistributionMixin) -> Transform | None:
    """What sends noise to draws of a distribution, if it is made of noise by transforms."""
    if not isinstance(distribution, TransformedDistribution):
        return None
    transforms, event_dim = distribution.transforms, len(distribution.event_shape)
    return transforms[0] if len(transforms) == 1 else Compose(transforms, event_dim=event_dim)


def require_support(distribution: TorchDistributionMixin, energy: EnergyModule, name: str) -> None:
    """Refuses a part of an energy whose events lie elsewhere, where torch validates the arguments of distributions.

    Raises:
        ValueError: they do.
    """
    if Distribution._validate_args and not same_support(distribution.support, energy.support):
        raise ValueError(
            f"`{name}` must have events in the support of the energy, {energy.support}, got {distribution.support}"
        )


def same_support(one: Constraint, other: Constraint) -> bool:
    """Whether events lie in the same place, but for the ends of intervals; two symbols are bits."""
    if one.is_discrete and other.is_discrete:
        return _symbols(element_of(one)) == _symbols(element_of(other))
    return is_same(opened(one), opened(other))


def _symbols(element: Constraint) -> int | None:
    """How many values an element has, where it has values."""
    if not element.is_discrete:
        return None
    if isinstance(element, type(constraints.boolean)):
        return 2
    if isinstance(element, constraints.integer_interval) and element.lower_bound == 0:
        return int(element.upper_bound) + 1
    raise ValueError(
        "`support` must be of real numbers, constraints.boolean or constraints.integer_interval(0, symbols - 1), got "
        f"{element}"
    )


def _even(symbols: int, like: Tensor, shape: Shape) -> TorchDistributionMixin:
    """All events of a shape with equal probability."""
    if symbols == 2:
        return as_event(dist.Bernoulli(logits=like.new_zeros(shape)), len(shape))
    return as_event(dist.Categorical(logits=like.new_zeros((*shape, symbols))), len(shape))


def _check_base(base: DistributionModule, energy: EnergyModule) -> None:
    check_part(base, "base")
    if base.density != "exact" or energy.symbols is not None:
        raise ValueError(
            f"`base` must be of real events and exact density, got {base.density!r} for {energy.support}; energies of "
            "other kinds add up in a Product"
        )
    if base.event_shape != energy.event_shape or base.context_shape not in (None, energy.context_shape):
        raise ValueError(
            f"`base` must have event shape {energy.event_shape} and no context or one of {energy.context_shape}, got "
            f"{base.event_shape} and {base.context_shape}"
        )
