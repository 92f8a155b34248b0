r"""Measurements: an observed site as a linear measurement near a point.

Each kind says what is measured, :math:`\eta(x)`, and turns :math:`\eta` and the site's parameters at :math:`\hat x`
into residuals, noise variances and constants of a :class:`~pyrogen.inverse.surrogate.Surrogate`:

- :class:`Gaussian`: :math:`\eta` is the location of a Normal or MultivariateNormal. Exact where it is linear in
  :math:`x`.
- :class:`Scored`: :math:`\eta` is the one parameter of another elementwise family (Poisson, Bernoulli, Student-t) that
  depends on :math:`x`, in unconstrained coordinates (a log-rate). Slope and curvature of the log-likelihood make the
  residual and the noise, at any :math:`\eta` one likes.
- :class:`Energy`: :math:`\eta = \sqrt{2 (c - \log p(y \mid x))}` with :math:`c` an upper bound of the log-likelihood, a
  measurement of zero with unit noise: Gauss-Newton for whatever has a differentiable log-likelihood (categorical,
  classifiers, factors, learned likelihoods).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import (
    Delta,
    ExpandedDistribution,
    MaskedDistribution,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torch import Tensor
from torch.distributions import Distribution, Independent, biject_to

LOG_2PI = math.log(2 * math.pi)
_FAR = 30.0  # unconstrained coordinates beyond it are rounding


class Rows(NamedTuple):
    """Residuals ``(P, N, m)``, noise ``(P, N, m, m)`` and constants ``(P, N, m)`` of one measurement."""

    residual: Tensor
    noise: Tensor
    constant: Tensor


class Observed(NamedTuple):
    """An observed site taken apart.

    Attributes:
        base: The distribution under ``Independent``, masks and expansions.
        value: The observed value, of the full shape of the site.
        shape: The batch shape of ``base`` in that full shape.
        event_dim: How many of its dimensions are event dimensions of the site.
        weight: The scale of the log-probability, zero where masked; broadcasts with the batch shape of the site.
        shown: Where the value counts, of the same shape.
    """

    base: Distribution
    value: Tensor
    shape: torch.Size
    event_dim: int
    weight: Tensor
    shown: Tensor

    def log_prob(self) -> Tensor:
        """Log-probabilities of the entries, of shape ``shape``, without weights; zero where masked."""
        shown = self.over_entries(self.shown)
        wide = shown.reshape(self.shape + (1,) * self.base.event_dim)
        # Masked entries may be no numbers; any other value does in their place.
        entries = self.base.log_prob(torch.where(wide, self.value, torch.ones_like(self.value)))
        return torch.where(shown, entries, torch.zeros_like(entries))

    def over_entries(self, values: Tensor) -> Tensor:
        """What belongs to the site's batch dimensions, over the entries."""
        batch = len(self.shape) - self.event_dim
        values = values.expand(torch.broadcast_shapes(values.shape, self.shape[:batch]))
        return values.reshape(values.shape + (1,) * self.event_dim).expand(self.shape)


def observed(node: dict[str, Any]) -> Observed:
    """An observed site of a trace, taken apart."""
    fn, value = node["fn"], torch.as_tensor(node["value"])
    base, shown = fn, torch.as_tensor(True if node["mask"] is None else node["mask"], device=value.device)
    while isinstance(base, Independent | MaskedDistribution | ExpandedDistribution):
        if isinstance(base, MaskedDistribution):
            mask = torch.as_tensor(base._mask, device=value.device)
            extra = max(len(base.batch_shape) - len(fn.batch_shape), 0)
            shown = shown & (mask if not extra else mask.flatten(-extra).all(-1))
        base = base.base_dist
    full = fn.shape()
    shape = full[: len(full) - base.event_dim]
    weight = torch.as_tensor(node["scale"], device=value.device) * shown
    return Observed(base, value.expand(full), shape, len(shape) - len(fn.batch_shape), weight, shown)


class Measurement:
    """What one observed site measures.

    Subclasses say what is measured, :meth:`parts`, and what it says near a point, :meth:`rows`.
    """

    refits: ClassVar[bool] = False

    def parts(self, site: Observed) -> dict[str, Tensor]:
        r"""Tensors of shape ``site.shape`` (plus event dimensions of the base); ``"eta"`` is what is measured."""
        raise NotImplementedError(f"{type(self).__name__} must define `parts(site)`")

    def rows(self, parts: dict[str, Tensor], shift: Tensor | None = None) -> Rows:
        """Residuals, noise and constants from the parts, each now of shape ``(P, N, m)``.

        Args:
            parts: As made by :meth:`parts`, in rows.
            shift: How far from ``"eta"`` to look, where :attr:`refits` says that this makes a difference.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `rows(parts)`")


class Gaussian(Measurement):
    """The location of independent Normals."""

    def parts(self, site: Observed) -> dict[str, Tensor]:
        return {"eta": site.base.loc, "scale": site.base.scale, "value": site.value}

    def rows(self, parts: dict[str, Tensor], shift: Tensor | None = None) -> Rows:
        shown, weight = parts["shown"].bool(), parts["weight"].clamp_min(1e-30)
        zero = torch.zeros_like(parts["eta"])
        variance = torch.where(shown, parts["scale"].square(), 1.0 + zero)
        constant = -0.5 * (weight - 1) * (LOG_2PI + variance.log()) - 0.5 * weight.log()
        return Rows(
            torch.where(shown, parts["value"] - parts["eta"], zero),
            torch.diag_embed(torch.where(shown, variance / weight, 1.0 + zero)),
            torch.where(shown, constant, 0.5 * LOG_2PI + zero),
        )


class Correlated(Measurement):
    """The location of a MultivariateNormal."""

    def parts(self, site: Observed) -> dict[str, Tensor]:
        return {"eta": site.base.loc, "covariance": site.base.covariance_matrix, "value": site.value}

    def rows(self, parts: dict[str, Tensor], shift: Tensor | None = None) -> Rows:
        eta = parts["eta"]
        size = parts["covariance"].shape[-1] // eta.shape[-1]
        count = eta.shape[-1] // size
        blocked = parts["covariance"].unflatten(-1, (count, size, size))  # one for all particles if they agree
        shown, weight = parts["shown"].bool(), parts["weight"].clamp_min(1e-30)
        first, scale = shown.unflatten(-1, (count, size))[..., 0], weight.unflatten(-1, (count, size))[..., 0]
        identity = torch.eye(size, dtype=eta.dtype, device=eta.device)
        safe = torch.where(first[..., None, None], blocked, identity)
        constant = -0.5 * (scale - 1) * (size * LOG_2PI + torch.logdet(safe)) - 0.5 * size * scale.log()
        scaled = torch.where(first[..., None, None], blocked / scale[..., None, None], identity)
        noise = eta.new_zeros(*scaled.shape[:-3], count, size, count, size)
        index = torch.arange(count, device=eta.device)
        noise[..., index, :, index, :] = scaled.movedim(-3, 0)
        constant = torch.where(first, constant, 0.5 * size * LOG_2PI)
        return Rows(
            torch.where(shown, parts["value"] - eta, 0.0),
            noise.flatten(-2).flatten(-3, -2),
            constant,
        )


class Scored(Measurement):
    """The one parameter of an elementwise family that depends on the unknown, in unconstrained coordinates.

    Args:
        family: The class of the distribution.
        names: Its parameters.
        moving: The one that depends on the unknown.
    """

    refits = True

    def __init__(self, family: type[Distribution], names: tuple[str, ...], moving: str) -> None:
        self.family, self.names, self.moving = family, names, moving
        self.transform = biject_to(family.arg_constraints[moving])

    def parts(self, site: Observed) -> dict[str, Tensor]:
        values = {name: torch.as_tensor(getattr(site.base, name)) for name in self.names}
        eta = self.transform.inv(values[self.moving]).clamp(-_FAR, _FAR)
        return {**values, "eta": eta, "value": site.value}

    def rows(self, parts: dict[str, Tensor], shift: Tensor | None = None) -> Rows:
        start = parts["eta"].detach()
        shown, weight = parts["shown"].bool(), parts["weight"].clamp_min(1e-30)
        value = torch.where(shown, parts["value"], torch.ones_like(parts["value"]))
        point = start if shift is None else start + shift
        log_prob, slope, curvature = self._derivatives(parts, value, point)
        precision = weight * self._precision(slope, curvature, value - point).clamp_min(1e-8)
        if shift is None:
            precision = torch.maximum(precision, 0.5 * weight * slope.square())  # a careful first step
        missed = weight * slope / precision
        constant = weight * log_prob + 0.5 * (missed.square() * precision + LOG_2PI - precision.log())
        zero = torch.zeros_like(missed)
        return Rows(
            torch.where(shown, point - start + missed, zero),
            torch.diag_embed(torch.where(shown, 1 / precision, 1.0 + zero)),
            torch.where(shown, constant, 0.5 * LOG_2PI + zero),
        )

    def _precision(self, slope: Tensor, curvature: Tensor, distance: Tensor) -> Tensor:
        """Of the Gaussian with that slope, for a log-likelihood that need not be concave."""
        if self.moving != "loc":
            return torch.where(curvature > 0.01 * slope.square(), curvature, slope.square())
        # A location with heavy tails: the Gaussian round the value with the same slope (reweighted least squares).
        near = distance.abs() < 1e-6
        return torch.where(near, curvature, slope / torch.where(near, torch.ones_like(distance), distance))

    @torch.enable_grad()
    def _derivatives(self, parts: dict[str, Tensor], value: Tensor, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log-likelihood, its slope and minus its curvature, entry by entry."""
        eta = point.detach().requires_grad_(True)
        params = {name: parts[name] for name in self.names} | {self.moving: self.transform(eta)}
        log_prob = self.family(**params, validate_args=False).log_prob(value)
        slope = torch.autograd.grad(log_prob.sum(), eta, create_graph=True)[0]
        curvature = -torch.autograd.grad(slope.sum(), eta)[0] if slope.requires_grad else torch.zeros_like(slope)
        return log_prob.detach(), slope.detach(), curvature


class Energy(Measurement):
    """The square root of what the log-likelihood lacks to its bound.

    Args:
        bound: The upper bound of the log-likelihood of an entry, in nats: zero for discrete values.
    """

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def parts(self, site: Observed) -> dict[str, Tensor]:
        log_prob = site.log_prob()
        lack = (self.bound - log_prob).clamp_min(1e-6)
        return {"eta": (2 * lack).sqrt(), "log_prob": log_prob}

    def rows(self, parts: dict[str, Tensor], shift: Tensor | None = None) -> Rows:
        shown, weight = parts["shown"].bool(), parts["weight"].clamp_min(1e-30)
        zero = torch.zeros_like(parts["eta"])
        constant = weight * (parts["log_prob"] + 0.5 * parts["eta"].square()) + 0.5 * (LOG_2PI - weight.log())
        return Rows(
            torch.where(shown, -parts["eta"], zero),
            torch.diag_embed(torch.where(shown, 1 / weight, 1.0 + zero)),
            torch.where(shown, constant, 0.5 * LOG_2PI + zero),
        )


def measurement_of(site: Observed) -> Measurement | None:
    """The kind of measurement an observed site is, from one run in which the unknown asks for gradients.

    Returns:
        ``None`` where the log-probability does not depend on the unknown.
    """
    base = site.base
    if type(base) is Normal and _depends(base.loc):
        return Gaussian()
    if type(base) is MultivariateNormal and _depends(base.loc):
        return Correlated()
    names = tuple(name for name in base.arg_constraints if name in vars(base))
    moving = [name for name in names if _depends(getattr(base, name))]
    elementwise = base.event_dim == 0 and not isinstance(base, TransformedDistribution | Delta)
    if elementwise and len(moving) == 1 and _rebuilds(base, names, moving[0], site):
        return Scored(type(base), names, moving[0])
    log_prob = site.log_prob()
    if not _depends(log_prob):
        return None
    discrete = _is_discrete(base)
    return Energy(0.0 if discrete else log_prob.max().item() + 1.0)


def _depends(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


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
        return draws.shape == site.shape and bool(again.log_prob(draws).isfinite().all())
    except (TypeError, RuntimeError, ValueError, NotImplementedError):
        return False
