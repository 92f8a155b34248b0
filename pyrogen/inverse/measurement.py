r"""Measurements: a scored site as a linear measurement near a point.

Each kind names what is measured, :math:`\eta(x)`, and expands the log-likelihood to second order in it,

.. math:: \log p(y \mid \eta + \delta) \approx c - \tfrac{1}{2} \Lambda (r - \delta)^2 ,

with a residual :math:`r`, a precision :math:`\Lambda` and a constant :math:`c` for each measured number:

- :class:`GaussianMeasurement`: :math:`\eta` is the location of a Normal. Exact where it is linear in :math:`x`.
  Elementwise transforms, as in LogNormal, are undone first.
- :class:`CorrelatedMeasurement`: the same of a MultivariateNormal, whose noise is made independent first.
- :class:`ElementwiseMeasurement`: :math:`\eta` is the one parameter of another elementwise family (Poisson, Bernoulli,
  Student-t) that depends on :math:`x`, in unconstrained coordinates (a log-rate). Slope and curvature of the
  log-likelihood make the expansion, at any :math:`\eta` one likes.
- :class:`EnergyMeasurement`: :math:`\eta = \sqrt{2 (c - \log p(y \mid x))}` with :math:`c` an upper bound of the
  log-likelihood, a measurement of zero with unit noise: Gauss-Newton for whatever has a differentiable log-likelihood
  (categorical, classifiers, factors, learned likelihoods).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import (
    Distribution,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    biject_to,
)
from torch.distributions.constraints import Constraint, real

from .observation import Observed
from .slopes import Slopes
from .surrogate import Surrogate

LOG_2PI = math.log(2 * math.pi)
_FLOOR = 1e-9  # of a precision: less measures nothing
_FAR = 80.0  # unconstrained coordinates beyond it are rounding

Parts = dict[str, Tensor]


class Expansion(NamedTuple):
    """A log-likelihood to second order: residuals, precisions and constants, each of shape ``(P, N, m)``."""

    residual: Tensor
    precision: Tensor
    constant: Tensor


class Measurement(ABC):
    """What one scored site measures.

    Subclasses define what is measured, :meth:`parts`, and its expansion, :meth:`expand_shown`.
    """

    refits: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its kind, as diagnostics show it."""
        return type(self).__name__.removesuffix("Measurement")

    @abstractmethod
    def parts(self, site: Observed) -> Parts:
        r"""Tensors of shape ``site.shape`` (plus event dimensions of the base); ``"eta"`` is what is measured."""

    @abstractmethod
    def expand_shown(self, parts: Parts, point: Tensor) -> Expansion:
        """The expansion at ``"eta"`` + ``point``, of entries that count once.

        Args:
            parts: As made by :meth:`parts`, in rows ``(P, N, m)``.
            point: How far from ``"eta"``; makes a difference where :attr:`refits`.
        """

    def expand(self, parts: Parts, point: Tensor) -> Expansion:
        """The same of all entries: what is hidden measures nothing."""
        shown, weight = parts["shown"].bool(), parts["weight"]
        zero = torch.zeros_like(parts["eta"])
        residual, precision, constant = self.expand_shown(parts, point)
        return Expansion(
            torch.where(shown, residual, zero),
            torch.where(shown, weight * precision, zero),
            torch.where(shown, weight * constant, zero),
        )

    def log_likelihood(self, parts: Parts, shift: Tensor) -> Tensor:
        """The log-likelihood at ``"eta"`` + ``shift`` ``(..., P, N, m)``, summed over the numbers."""
        residual, precision, constant = self.expand(parts, torch.zeros_like(parts["eta"]))
        return (constant - 0.5 * precision * (residual - shift).square()).sum(-1)


class GaussianMeasurement(Measurement):
    """The location of independent Normals."""

    def parts(self, site: Observed) -> Parts:
        return {
            "eta": site.base.loc,
            "scale": site.base.scale,
            "value": site.value,
            "volume": site.volume,
        }

    def expand_shown(self, parts: Parts, point: Tensor) -> Expansion:
        scale = parts["scale"]
        return Expansion(
            parts["value"] - parts["eta"], scale.square().reciprocal(), parts["volume"] - scale.log() - 0.5 * LOG_2PI
        )


class CorrelatedMeasurement(GaussianMeasurement):
    """The location of a MultivariateNormal, in coordinates in which its noise is independent."""

    def parts(self, site: Observed) -> Parts:
        factor = site.base.scale_tril.detach()
        scale = factor.diagonal(dim1=-2, dim2=-1)
        # One on the diagonal: where the noise is independent already, these are the coordinates of the data.
        factor = factor / scale.unsqueeze(-2)

        def independent(vector: Tensor) -> Tensor:
            return torch.linalg.solve_triangular(factor, vector.unsqueeze(-1), upper=False).squeeze(-1)

        eta, value = independent(site.base.loc), independent(site.value)
        volume = (site.volume / value.shape[-1]).unsqueeze(-1).expand_as(value)
        return {"eta": eta, "scale": scale, "value": value, "volume": volume}


class ElementwiseMeasurement(Measurement):
    """The one parameter of an elementwise family that depends on the unknown, in unconstrained coordinates.

    Args:
        family: The class of the distribution.
        names: Its parameters.
        moving: The one that depends on the unknown.
    """

    refits = True

    def __init__(self, family: type[Distribution], names: tuple[str, ...], moving: str) -> None:
        self.family, self.names, self.moving = family, names, moving
        self.location = moving == "loc"
        self.bounded = not _is_real(family.arg_constraints[moving])
        self.transform = biject_to(family.arg_constraints[moving])

    def parts(self, site: Observed) -> Parts:
        values = {name: torch.as_tensor(getattr(site.base, name)) for name in self.names}
        eta = self.transform.inv(values[self.moving])
        eta = eta.clamp(-_FAR, _FAR) if self.bounded else eta
        return {**values, "eta": eta, "value": site.value, "volume": site.volume}

    def expand_shown(self, parts: Parts, point: Tensor) -> Expansion:
        log_prob, slope, curvature = self._derivatives(parts, parts["eta"].detach() + point)
        precision = self._precision(slope, curvature, parts["value"] - parts["eta"] - point).clamp_min(_FLOOR)
        missed = slope / precision
        constant = parts["volume"] + log_prob + 0.5 * missed.square() * precision
        return Expansion(point + missed, precision, constant)

    def log_likelihood(self, parts: Parts, shift: Tensor) -> Tensor:
        log_prob = self._log_prob(parts, parts["eta"] + shift)
        found = torch.where(parts["shown"].bool(), log_prob + parts["volume"], 0.0)
        return (parts["weight"] * found).sum(-1)

    def _precision(self, slope: Tensor, curvature: Tensor, distance: Tensor) -> Tensor:
        """Of a Gaussian below the log-likelihood, which need not be concave."""
        if not self.location:
            return curvature.abs()
        # A location with heavy tails: the Gaussian round the value with the same slope (reweighted least squares). At
        # the kink of a Laplace it is no narrower than the kink.
        safe = torch.where(distance == 0, 1.0, distance)
        narrowest = torch.maximum(slope.square(), curvature)
        return torch.where(distance == 0, narrowest, torch.minimum((slope / safe).abs(), narrowest))

    def _log_prob(self, parts: Parts, eta: Tensor) -> Tensor:
        params = {name: parts[name] for name in self.names} | {self.moving: self.transform(eta)}
        return self.family(**params, validate_args=False).log_prob(parts["value"])

    @torch.enable_grad()
    def _derivatives(self, parts: Parts, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log-likelihood, its slope and minus its curvature, entry by entry."""
        eta = point.detach().requires_grad_(True)
        log_prob = self._log_prob(parts, eta)
        slope = torch.autograd.grad(log_prob.sum(), eta, create_graph=True)[0]
        curvature = -torch.autograd.grad(slope.sum(), eta)[0] if slope.requires_grad else torch.zeros_like(slope)
        return log_prob.detach(), slope.detach(), curvature


class EnergyMeasurement(Measurement):
    """The square root of what the log-likelihood lacks to its bound.

    Args:
        bound: The upper bound of the log-likelihood of an entry, in nats: zero for discrete values.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def parts(self, site: Observed) -> Parts:
        log_prob = site.log_prob()
        lack = (self.bound - log_prob).clamp_min(1e-6)
        return {"eta": (2 * lack).sqrt(), "log_prob": log_prob}

    def expand_shown(self, parts: Parts, point: Tensor) -> Expansion:
        eta = parts["eta"]
        return Expansion(-eta, torch.ones_like(eta), parts["log_prob"] + 0.5 * eta.square())


@dataclass(frozen=True)
class Measured:
    """All measurements near some particles, as a function of the measured numbers.

    Attributes:
        measurements: The kinds.
        parts: Their parts, in rows ``(P, N, m)``.
        slopes: Of what is measured, all numbers side by side, in the unknowns.
    """

    measurements: list[Measurement]
    parts: list[Parts]
    slopes: Slopes

    def expand(self, shift: Tensor) -> Surrogate:
        """The surrogate at the measured numbers plus a shift ``(P, N, m of all)``."""
        pieces = [measurement.expand(*point) for measurement, *point in self._points(shift)]
        return Surrogate(
            residual=torch.cat([piece.residual for piece in pieces], -1),
            slopes=self.slopes,
            precision=torch.cat([piece.precision for piece in pieces], -1),
            constant=sum(piece.constant.double().sum(-1) for piece in pieces),
            refit=self if any(measurement.refits for measurement in self.measurements) else None,
        )

    def log_likelihood(self, shift: Tensor) -> Tensor:
        """The true log-likelihood there, ``(..., P, N)``, for shifts ``(..., P, N, m of all)``."""
        return sum(measurement.log_likelihood(*point).double() for measurement, *point in self._points(shift))

    def _points(self, shift: Tensor) -> zip[tuple[Measurement, Parts, Tensor]]:
        shifts = shift.split([part["eta"].shape[-1] for part in self.parts], -1)
        return zip(self.measurements, self.parts, shifts, strict=True)


def measurement_of(name: str, site: Observed) -> Measurement | None:
    """The kind of measurement a scored site is, from one run in which the unknown requires gradients.

    Args:
        name: The name of the site.
        site: The site.

    Returns:
        ``None`` where the log-probability does not depend on the unknown.

    Raises:
        ValueError: the site has a point mass that depends on the unknown.
    """
    base = site.base
    if isinstance(base, Delta) and _depends(base.v):
        raise ValueError(
            f"`{name}` must be measured with noise, got a Delta; give it a small noise, or use Completion under a "
            "prior that can be given a part"
        )
    fixed = not _depends(site.value) and not _depends(site.volume)
    if fixed and isinstance(base, Normal) and _depends(base.loc):
        return GaussianMeasurement()
    if fixed and isinstance(base, MultivariateNormal | LowRankMultivariateNormal) and _depends(base.loc):
        return CorrelatedMeasurement()
    names = tuple(name for name in base.arg_constraints if name in vars(base))
    moving = [name for name in names if _depends(getattr(base, name))]
    elementwise = site.base_dim == 0 and not isinstance(base, TransformedDistribution | Delta)
    if fixed and elementwise and len(moving) == 1 and _rebuilds(base, names, moving[0], site):
        return ElementwiseMeasurement(type(base), names, moving[0])
    return energy_of(site) if _depends(site.log_prob()) else None


def energy_of(site: Observed) -> EnergyMeasurement:
    """The measurement of a site of which nothing is known but its log-probability."""
    return EnergyMeasurement(0.0 if _is_discrete(site.base) else site.log_prob().max().item() + 1.0)


def _depends(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _is_real(constraint: Constraint) -> bool:
    return constraint is real


def _is_discrete(base: Distribution) -> bool:
    try:
        return bool(base.support.is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def _rebuilds(base: Distribution, names: tuple[str, ...], moving: str, site: Observed) -> bool:
    """Whether its parameters, entry by entry, make the distribution again."""
    try:
        params = {name: torch.as_tensor(getattr(base, name)).detach().expand(site.shape) for name in names}
        again = type(base)(**params, validate_args=False)
        biject_to(base.arg_constraints[moving])
        draws = again.sample()
        found = again.log_prob(draws)
        return (
            draws.shape == site.shape and bool(found.isfinite().all()) and torch.allclose(found, base.log_prob(draws))
        )
    except (TypeError, RuntimeError, ValueError, NotImplementedError):
        return False
