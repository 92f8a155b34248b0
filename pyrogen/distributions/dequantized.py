r"""Integers under a density over real numbers.

With :math:`K` symbols, the integer :math:`v` stands for the cell :math:`[v / K, (v + 1) / K)`. The first and the last
cell reach to the ends of the density's support, wherever these are, so that the cells share out all of its mass. Then
an integer vector has the probability :math:`P(v) = \int_{C(v)} p(x) \, dx` of its cell, of volume :math:`|C(v)|`. One
draw of uniform noise in the cell bounds its logarithm from below in expectation,

.. math:: \log P(v) \ge \mathbb{E}_{x \sim U(C(v))} [\log p(x)] + \log |C(v)| .

Noise of another distribution :math:`q(u \mid v)` over the place :math:`u` in the cell makes it tighter (*variational*
dequantization), and so does the mean of :math:`K` weights before the logarithm is taken,

.. math:: \log P(v) \ge \mathbb{E}_{u_k \sim q} \log \frac{1}{K} \sum_{k=1}^K \frac{p(x(u_k))\, |C(v)|}{q(u_k \mid v)} .

References:
    Ho, Chen, Srinivas, Duan and Abbeel 2019, "Flow++: Improving flow-based generative models with variational
    dequantization and architecture design", https://arxiv.org/abs/1902.00275
    Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from math import log

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints

from pyrogen.numerics.representation import by_shapes
from pyrogen.numerics.supports import contains, ends, innermost
from pyrogen.numerics.values import require_value
from pyrogen.programs.chain import refuse_chain

from .abilities import draw_and_score
from .distribution import PyrogenDistribution


class DequantizedDistribution(PyrogenDistribution):
    """Integers ``0 … symbols - 1``, scored by a density over an interval with noise in their cells; abstract.

    ``log_prob`` is a lower bound in expectation, with noise of its own for every row and call. Subclasses define
    :meth:`places`.

    Args:
        base: The distribution over real numbers, of a support with two ends.
        symbols: How many integers :math:`K` there are.
        draws: Over how many draws of the noise weights are averaged.

    Raises:
        ValueError: ``symbols`` or ``draws`` is not positive, or ``base`` has no support with two ends: cells without an
            end have no noise.
    """

    density = "lower bound"

    def __init__(
        self, base: TorchDistributionMixin, symbols: int, *, draws: int = 1, validate_args: bool | None = None
    ) -> None:
        for name, value in (("symbols", symbols), ("draws", draws)):
            if value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}")
        _require_ends(base)
        self.base_dist = base
        self.symbols, self.draws = symbols, draws
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @abstractmethod
    def places(self, value: Tensor) -> tuple[Tensor, Tensor | float]:
        """Where in its cell, from 0 to 1, the noise of each integer is, ``(*batch, *event)``; and its log-density."""

    def __repr__(self) -> str:
        return by_shapes(self, repr(self.base_dist))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.symbols - 1), len(self.event_shape))

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            draw = self.base_dist.sample(torch.Size(sample_shape))
        return (draw * self.symbols).floor().clamp(0, self.symbols - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        refuse_chain("a dequantized model", "add the noise to the data once, and observe them at the module underneath")
        value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
        if self.draws == 1:
            return self._log_weight(value)
        return self._log_weight(value.expand(self.draws, *value.shape)).logsumexp(0) - log(self.draws)

    def _log_weight(self, value: Tensor) -> Tensor:
        low, high = self._cells(value)
        within = innermost(*ends(self.base_dist.support), value.dtype)
        possible = contains(constraints.integer_interval(0, self.symbols - 1), value)
        place, log_density = self.places(torch.where(possible, value, 0.0))
        # Rounding must take no noise out of its cell, nor out of the support: a density is zero beyond.
        noise = low + (high - low) * place
        noise = noise.clamp(torch.nextafter(low, high), torch.nextafter(high, low))
        log_volume = torch.where(possible, (high - low).clamp(min=0.0), 0.0).log()
        event_dim = len(self.event_shape)
        log_volume = log_volume.flatten(-event_dim).sum(-1) if event_dim else log_volume
        return self.base_dist.log_prob(noise.clamp(*within)) + log_volume - log_density

    def _cells(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of each integer's cell."""
        low, high = self._ends(value)
        below, above = torch.maximum(value / self.symbols, low), torch.minimum((value + 1) / self.symbols, high)
        return torch.where(value == 0, low, below), torch.where(value == self.symbols - 1, high, above)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = ends(self.base_dist.support)
        return torch.as_tensor(low).to(like), torch.as_tensor(high).to(like)


class UniformDequantized(DequantizedDistribution):
    """Integers scored by a density over an interval with uniform noise; a lower bound in expectation.

    Args:
        base: The distribution over real numbers, of a support with two ends.
        symbols: How many integers there are, from zero.
        draws: Over how many draws of the noise weights are averaged.

    Raises:
        ValueError: ``symbols`` or ``draws`` is not positive, or ``base`` has no support with two ends.

    References:
        Theis, van den Oord and Bethge 2016, "A note on the evaluation of generative models",
        https://arxiv.org/abs/1511.01844
    """

    def places(self, value: Tensor) -> tuple[Tensor, float]:
        return torch.rand_like(value), 0.0

    def _expanded(self, batch_shape: torch.Size) -> UniformDequantized:
        base = self.base_dist.expand(batch_shape)
        return UniformDequantized(base, self.symbols, draws=self.draws, validate_args=False)


class VariationalDequantized(DequantizedDistribution):
    """Integers scored by a density over an interval with noise from a distribution that depends on them.

    Args:
        base: As for :class:`DequantizedDistribution`.
        symbols: Likewise.
        noise: Gives, for integers ``(*batch, *event)`` as real numbers, the distribution of their noise: over (0, 1),
            of an exact density, and with differentiable draws.
        draws: As for :class:`DequantizedDistribution`.

    References:
        Ho, Chen, Srinivas, Duan and Abbeel 2019, "Flow++: Improving flow-based generative models with variational
        dequantization and architecture design", https://arxiv.org/abs/1902.00275
    """

    def __init__(
        self,
        base: TorchDistributionMixin,
        symbols: int,
        noise: Callable[[Tensor], TorchDistributionMixin],
        *,
        draws: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(base, symbols, draws=draws, validate_args=validate_args)
        self.noise = noise

    def places(self, value: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.noise(value)
        if not _is_unit(noise):
            raise ValueError(
                f"`noise` must have the support (0, 1), as a flow with interval=(0, 1), got {noise.support}"
            )
        return draw_and_score(noise)

    def _expanded(self, batch_shape: torch.Size) -> VariationalDequantized:
        base = self.base_dist.expand(batch_shape)
        return VariationalDequantized(base, self.symbols, self.noise, draws=self.draws, validate_args=False)


def _is_unit(noise: TorchDistributionMixin) -> bool:
    found = ends(noise.support)
    return found is not None and all(
        bool((torch.as_tensor(end) == edge).all()) for end, edge in zip(found, (0, 1), strict=True)
    )


def _require_ends(base: TorchDistributionMixin) -> None:
    found = ends(base.support)
    if found is None or not all(bool(torch.as_tensor(end).isfinite().all()) for end in found):
        raise ValueError(
            "`base` must have a support with two ends, as a flow with interval=(0, 1) has: the first and the last "
            f"integer stand for all that lies beyond theirs; got {base.support}"
        )
