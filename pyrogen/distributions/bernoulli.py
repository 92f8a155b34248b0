"""Bernoulli distributions over whole events, scored in a few operations."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from pyro.distributions import Bernoulli, Independent
from torch import Tensor
from torch.distributions import constraints, kl_divergence, register_kl

from pyrogen.numerics.values import checks, require_value

from .abilities import Abilities
from .distribution import PyrogenDistribution


class Bits(Abilities, Bernoulli):
    """A Bernoulli distribution of bits of any dtype, booleans and integers included."""

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_prob(self.logits, value, 0, bits=require_value(self, value))


class IndependentBernoulli(PyrogenDistribution):
    r"""Independent binary variables, :math:`\prod_i p_i^{x_i} (1 - p_i)^{1 - x_i}`.

    ``Bernoulli(logits=...).to_event(n)`` is the same with a second object and more operations a call.

    Args:
        logits: Of shape ``(*batch, *event)``.
        event_dim: How many rightmost dimensions make one event, at least one.
    """

    arg_constraints = {"logits": constraints.real}

    def __init__(self, logits: Tensor, event_dim: int = 1, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        cut = logits.dim() - event_dim
        if event_dim < 1 or cut < 0:
            raise ValueError(f"`event_dim` must be from 1 to the {logits.dim()} of `logits`, got {event_dim}")
        super().__init__(logits.shape[:cut], logits.shape[cut:], validate_args=checks(validate_args, logits))

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.boolean, len(self.event_shape))

    @property
    def base_dist(self) -> Bernoulli:
        """The elements."""
        return Bernoulli(logits=self.logits, validate_args=False)

    @property
    def probs(self) -> Tensor:
        return self.logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        return (self.logits >= 0).to(self.logits)

    @property
    def variance(self) -> Tensor:
        return self.logits.sigmoid() * (-self.logits).sigmoid()

    def _expanded(self, batch_shape: torch.Size) -> IndependentBernoulli:
        logits = self.logits.expand(batch_shape + self.event_shape)
        return IndependentBernoulli(logits, len(self.event_shape), validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            return torch.bernoulli(self.probs.expand(self._extended_shape(torch.Size(sample_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        return _log_prob(self.logits, value, len(self.event_shape), bits=require_value(self, value))

    def log_prob_by_element(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value)

    def entropy(self) -> Tensor:
        energy = F.binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")
        return energy.flatten(-len(self.event_shape)).sum(-1)


def _log_prob(logits: Tensor, value: Tensor, event_dim: int, *, bits: bool) -> Tensor:
    """Log-probabilities of events, of which it is known or not that they are bits."""
    value = value if value.is_floating_point() else value.to(logits.dtype)
    if bits:
        return -_energies(logits, value, event_dim)
    # Zero for bits, positive for other numbers, and NaN for NaN, which has no part in the gradient of others.
    wrong = _summed((value * (value - 1)).abs(), event_dim)
    return -_energies(logits, value.nan_to_num(0.0, 0.0, 0.0), event_dim) - torch.where(wrong > 0, torch.inf, wrong)


def _energies(logits: Tensor, bits: Tensor, event_dim: int) -> Tensor:
    """Minus the log-probabilities of events of bits."""
    if bits.shape != logits.shape:
        logits, bits = torch.broadcast_tensors(logits, bits)
    return _summed(F.binary_cross_entropy_with_logits(logits, bits, reduction="none"), event_dim)


def _summed(value: Tensor, event_dim: int) -> Tensor:
    """The sum over the dimensions of an event."""
    return value.flatten(-event_dim).sum(-1) if event_dim else value


@register_kl(IndependentBernoulli, IndependentBernoulli)
@register_kl(IndependentBernoulli, Independent)
@register_kl(Independent, IndependentBernoulli)
def _kl(q: IndependentBernoulli | Independent, p: IndependentBernoulli | Independent) -> Tensor:
    if q.event_shape != p.event_shape:  # Pyro falls back to a sampled divergence on this error and on no other
        raise NotImplementedError(f"events must have one shape, got {tuple(q.event_shape)} and {tuple(p.event_shape)}")
    event = len(q.event_shape)
    return kl_divergence(Independent(q.base_dist, event), Independent(p.base_dist, event))
