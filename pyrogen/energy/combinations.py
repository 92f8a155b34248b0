"""Energies made of energies: products of experts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrogen.arguments import checked, instance_of
from pyrogen.core.density import weakest
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, context_batch_shape, context_of_part
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.supports import element_of, opened
from pyrogen.transforms.transform import Transform

from .chains import Chains
from .model import EnergyModule, coordinates_of, require_support, same_support


def _parts(value: Any, name: str) -> None:
    if not isinstance(value, Sequence) or not value or not all(isinstance(part, DistributionModule) for part in value):
        raise TypeError(f"`{name}` must be a sequence of DistributionModules, got {value!r}")


class Product(EnergyModule):
    r"""A product of distributions, :math:`p(x) \propto \prod_k p_k(x)^{w_k}`: their energies add up.

    It draws what no part rules out. Experts are energies, whose energies are added, or any modules with a ``log_prob``
    that is exact or unnormalized and draws no noise, such as flows.

    Args:
        experts: The parts, of one event shape and one support: that of the energies, or what a part without context
            has, or real numbers. Chains start from what the first one starts from, or is, and move in its coordinates.
        weights: The power of each; ones if ``None``.
        chains: As for :class:`~pyrogen.energy.model.EnergyModule`.

    Raises:
        TypeError: ``experts`` holds something else.
        ValueError: their events or contexts differ, a density is a bound or noisy, or there is a weight too many.

    References:
        Hinton 2002, "Training products of experts by minimizing contrastive divergence",
        https://doi.org/10.1162/089976602760128018

    Example:
        >>> experts = [pg.energy.mlp((2,), hidden=(8,)), pg.flows.affine_coupling((2,), layers=1, hidden=(8,))]
        >>> Product(experts)().sample((3,)).shape
        torch.Size([3, 2])
    """

    @checked(experts=_parts, chains=instance_of(Chains))
    def __init__(
        self,
        experts: Sequence[DistributionModule],
        *,
        weights: Sequence[float] | None = None,
        chains: Chains | None = None,
    ) -> None:
        first = experts[0]
        supports = [*_supports(experts), constraints.real]
        contexts = [part.context_shape for part in experts if part.context_shape is not None]
        context_shape = contexts[0] if contexts else None
        super().__init__(first.event_shape, context_shape, support=element_of(supports[0]), chains=chains)
        self.experts = nn.ModuleList(experts)
        self.weights = (1.0,) * len(experts) if weights is None else tuple(map(float, weights))
        _check(self)

    def energies(self, x: Tensor, context: Context = None) -> Tensor:
        return sum(
            weight * self._energies(part, x, context) for weight, part in zip(self.weights, self.experts, strict=True)
        )

    def start(self, context: Context = None) -> TorchDistributionMixin:
        first, batch = self.experts[0], context_batch_shape(context, self.context_shape)
        own = context_of_part(context, first.context_shape)
        distribution = first.start(own) if isinstance(first, EnergyModule) else first(own)
        return distribution if distribution.batch_shape == batch else distribution.expand(batch)

    def coordinates(self, context: Context = None) -> Transform:
        first, own = self.experts[0], context_of_part(context, self.experts[0].context_shape)
        if isinstance(first, EnergyModule):
            return first.coordinates(own)
        return coordinates_of(first(own)) or super().coordinates(context)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        for part in self.experts:
            yield from part.read_data(x, context_of_part(context, part.context_shape))
        yield from super().read_data(x, context)

    def _energies(self, part: DistributionModule, x: Tensor, context: Context) -> Tensor:
        own = context_of_part(context, part.context_shape)
        if isinstance(part, EnergyModule):
            return part.energies(x, own)
        distribution = part(own)
        require_support(distribution, self, "experts")
        return -distribution.log_prob(self.events(x))


@checked
def tempered(module: DistributionModule, temperature: float) -> Product:
    r"""A distribution at another temperature, :math:`p(x) \propto p_1(x)^{1 / T}`: its energies divided by :math:`T`.

    Below one it keeps to what is likely, above one it is flatter. It shares the parameters of the module.

    Args:
        module: An energy, or any module with a ``log_prob`` that is exact, such as a flow.
        temperature: :math:`T`.

    Raises:
        ValueError: the temperature is not positive, or the module's density is a bound or noisy.

    Example:
        >>> flow = pg.flows.affine_coupling((2,), layers=1, hidden=(8,))
        >>> tempered(flow, 0.5).density
        'unnormalized'
    """
    return Product([module], weights=[1 / temperature])


def _supports(experts: Sequence[DistributionModule]) -> Iterator[Constraint]:
    """Where events lie, as far as it is known without a context; energies first."""
    for part in sorted(experts, key=lambda part: not isinstance(part, EnergyModule)):
        if isinstance(part, EnergyModule):
            yield part.support
        elif part.context_shape is None:
            yield opened(part().support)


def _check(product: Product) -> None:
    if len(product.weights) != len(product.experts):
        raise ValueError(
            f"`weights` must be {len(product.experts)} numbers, one for each expert, got {product.weights}"
        )
    if not all(map(isfinite, product.weights)):
        raise ValueError(f"`weights` must be finite, got {product.weights}")
    for support in _supports(product.experts):
        if not same_support(support, product.support):
            raise ValueError(f"`experts` must have one support, {product.support}, got {support}")
    for place, part in enumerate(product.experts):
        if part.event_shape != product.event_shape or part.context_shape not in (None, product.context_shape):
            raise ValueError(
                f"`experts` must have one event shape, {product.event_shape}, and no context or one of "
                f"{product.context_shape}, got {part.event_shape} and {part.context_shape} at {place}"
            )
        if weakest(part.density, "unnormalized") != "unnormalized" or part.density in ("estimate", "lower bound"):
            raise ValueError(f"`experts` must have an exact or unnormalized log_prob, got {part.density!r} at {place}")
