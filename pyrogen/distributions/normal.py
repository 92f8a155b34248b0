r"""Normal distributions over whole events, scored in a few operations.

``Normal(loc, scale).to_event(n)`` is the same with an object, an expansion and a sum more per call; priors and
encoders of latent-variable models and bases of flows are scored millions of times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pyro.distributions import Independent, Normal
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from pyrogen.numerics.values import checks, require_value

from .abilities import Map
from .distribution import PyrogenDistribution

_LOG_2PI = math.log(2 * math.pi)


class DiagonalNormal(PyrogenDistribution):
    r"""Independent normals, :math:`\prod_i \mathcal{N}(x_i; \mu_i, e^{2 s_i})`.

    Args:
        loc: Means :math:`\mu`, of shape ``(*batch, *event)``.
        log_scale: Logarithms :math:`s` of the standard deviations, of the same shape.
        event_dim: How many rightmost dimensions make one event.
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}
    has_rsample = has_rsample_and_log_prob = has_push_forward = True

    def __init__(
        self, loc: Tensor, log_scale: Tensor, event_dim: int = 1, *, validate_args: bool | None = None
    ) -> None:
        if loc.shape != log_scale.shape:
            loc, log_scale = torch.broadcast_tensors(loc, log_scale)
        self.loc = loc
        self.log_scale = log_scale
        cut = loc.dim() - event_dim
        if cut < 0:
            raise ValueError(f"`loc` must have at least {event_dim} dimensions, got shape {tuple(loc.shape)}")
        super().__init__(loc.shape[:cut], loc.shape[cut:], validate_args=checks(validate_args, loc, log_scale))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.log_scale.exp()

    @property
    def variance(self) -> Tensor:
        return (2 * self.log_scale).exp()

    def _expanded(self, batch_shape: torch.Size) -> DiagonalNormal:
        shape = batch_shape + self.event_shape
        return DiagonalNormal(
            self.loc.expand(shape), self.log_scale.expand(shape), len(self.event_shape), validate_args=False
        )

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self._at(self._noise(sample_shape))

    def rsample_and_log_prob(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        noise = self._noise(sample_shape)
        energy = _sum(torch.add(self.log_scale, noise.square(), alpha=0.5), len(self.event_shape))
        return self._at(noise), -0.5 * _LOG_2PI * math.prod(self.event_shape) - energy

    def push_forward(self) -> tuple[UnitNormal, Map]:
        return UnitNormal(self.event_shape, self.loc, self.batch_shape), self._at

    def log_prob_by_element(self, value: Tensor) -> Tensor:
        return Normal(self.loc, self.stddev, validate_args=False).log_prob(value)

    def _noise(self, sample_shape: Iterable[int]) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def _at(self, noise: Tensor) -> Tensor:
        return torch.addcmul(self.loc, self.log_scale.exp(), noise)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        # An infinite or missing element keeps its own log_prob infinite or missing, and no gradient of others.
        finite = value.isfinite()
        noise = (torch.where(finite, value, self.loc) - self.loc) / self.log_scale.exp()
        constant = torch.where(finite, self.log_scale, value.abs())
        energy = _sum(torch.addcmul(constant, noise, noise, value=0.5), len(self.event_shape))
        return -0.5 * _LOG_2PI * math.prod(self.event_shape) - energy

    def entropy(self) -> Tensor:
        event = len(self.event_shape)
        return _sum(self.log_scale, event) + 0.5 * (1 + _LOG_2PI) * math.prod(self.event_shape)


class UnitNormal(PyrogenDistribution):
    r"""Noise, :math:`\mathcal{N}(0, I)`.

    Args:
        event_shape: Shape of one event.
        like: A tensor whose dtype and device the draws have.
        batch_shape: Batch dimensions.
    """

    arg_constraints = {}
    has_rsample = True

    def __init__(
        self,
        event_shape: Iterable[int],
        like: Tensor,
        batch_shape: Iterable[int] = (),
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.like = like
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        return self.like.new_zeros(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        return self.mean

    @property
    def variance(self) -> Tensor:
        return self.like.new_ones(self.batch_shape + self.event_shape)

    def _expanded(self, batch_shape: torch.Size) -> UnitNormal:
        return UnitNormal(self.event_shape, self.like, batch_shape, validate_args=False)

    def rsample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return torch.randn(shape, dtype=self.like.dtype, device=self.like.device)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        square = _sum(value.square(), len(self.event_shape))
        log_prob = torch.rsub(square, -0.5 * _LOG_2PI * math.prod(self.event_shape), alpha=0.5)
        return _over(log_prob, self.batch_shape)

    def entropy(self) -> Tensor:
        entropy = 0.5 * (1 + _LOG_2PI) * math.prod(self.event_shape)
        return self.like.new_full(self.batch_shape, entropy)


def _sum(value: Tensor, event_dim: int) -> Tensor:
    if event_dim == 1:
        return value.sum(-1)
    return value.flatten(-event_dim).sum(-1) if event_dim else value


def _over(value: Tensor, batch_shape: torch.Size) -> Tensor:
    """The value, broadcast over a batch shape."""
    if value.shape[max(0, value.dim() - len(batch_shape)) :] == batch_shape:
        return value  # broadcast_shapes is slow
    return value.expand(torch.broadcast_shapes(value.shape, batch_shape))


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    _require_equal_events(q, p)
    ratio = (2 * (q.log_scale - p.log_scale)).exp()
    distance = ((q.loc - p.loc) * (-p.log_scale).exp()).square()
    return _sum(0.5 * (ratio + distance - 1) + p.log_scale - q.log_scale, len(q.event_shape))


@register_kl(DiagonalNormal, UnitNormal)
def _kl_standard(q: DiagonalNormal, p: UnitNormal) -> Tensor:
    _require_equal_events(q, p)
    square = torch.addcmul(q.variance, q.loc, q.loc)
    energy = _sum(torch.sub(square, q.log_scale, alpha=2), len(q.event_shape))
    return _over(0.5 * (energy - math.prod(q.event_shape)), p.batch_shape)


@register_kl(DiagonalNormal, Independent)
def _kl_independent(q: DiagonalNormal, p: Independent) -> Tensor:
    _require_equal_events(q, p)
    return kl_divergence(Independent(Normal(q.loc, q.stddev), len(q.event_shape)), p)


@register_kl(Independent, DiagonalNormal)
def _kl_to_diagonal(q: Independent, p: DiagonalNormal) -> Tensor:
    _require_equal_events(q, p)
    return kl_divergence(q, Independent(Normal(p.loc, p.stddev), len(p.event_shape)))


def _require_equal_events(q: TorchDistributionMixin, p: TorchDistributionMixin) -> None:
    if q.event_shape != p.event_shape:  # Pyro falls back to a sampled divergence on this error and on no other
        raise NotImplementedError(f"events must have one shape, got {tuple(q.event_shape)} and {tuple(p.event_shape)}")
