"""The likelihood of a site: what the sites that depend on it say about it, for many particles at once.

The model runs with the site and all other latent sites given, under ``torch.func.vmap`` over particles, so that it is
written for one value as usual: no plate is added, and no dimension moves. A model whose control flow depends on values
cannot be mapped; it runs particle by particle instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyrogen.numerics.linear import times
from pyrogen.programs.run import run
from pyrogen.programs.site import Site

from .measurement import Gaussian, Measurement, Parts, energy_of, measurement_of
from .observation import Observed, observed
from .problems import Problems
from .surrogate import Surrogate

AllParts = dict[str, Parts]


def sites_given(
    model: Callable, args: tuple, kwargs: Mapping[str, Any], values: Mapping[str, Tensor]
) -> dict[str, Site]:
    """The sites of one run of the model with given values, without validation."""
    with pyro.validation_enabled(False):
        return run(model, args, kwargs, given=values).sites


class _Line(NamedTuple):
    r"""Linear measurements with Gaussian noise, along the directions in which they measure anything.

    In units of the noise the operator is :math:`U S V^\top`; the rest of what is measured does not depend on the
    unknown and belongs to the constant. So a number may be measured twice, or a blur leave nothing of a direction.

    Attributes:
        slopes: :math:`S V^\top`, of shape ``(1, N, r, D)``.
        value: What is measured less what is measured at zero, along the same directions, ``(N, r)``.
        constant: The log-likelihood where the residual is zero, ``(N,)``.
    """

    slopes: Tensor
    value: Tensor
    constant: Tensor

    def surrogate(self, x: Tensor) -> Surrogate:
        """The likelihood itself, seen from particles."""
        residual = self.value - times(self.slopes[0], x.double())
        ones = torch.ones_like(self.value).unsqueeze(0)
        return Surrogate(residual, self.slopes, ones, self.constant.unsqueeze(0), exact=True)


@dataclass(frozen=True)
class _Refit:
    """The measurements as functions of the measured numbers, near some particles."""

    measurements: list[Measurement]
    parts: list[Parts]
    slopes: Tensor

    def expand(self, shift: Tensor) -> Surrogate:
        pairs = zip(self.measurements, self.parts, self._split(shift), strict=True)
        pieces = [measurement.rows(part, point) for measurement, part, point in pairs]
        return Surrogate(
            residual=torch.cat([piece.residual for piece in pieces], -1),
            jacobian=self.slopes,
            precision=torch.cat([piece.precision for piece in pieces], -1),
            constant=sum(piece.constant.double().sum(-1) for piece in pieces),
            refit=self if any(measurement.refits for measurement in self.measurements) else None,
        )

    def log_likelihood(self, shift: Tensor) -> Tensor:
        pairs = zip(self.measurements, self.parts, self._split(shift), strict=True)
        return sum(measurement.log_likelihood(part, point).double() for measurement, part, point in pairs)

    def _split(self, shift: Tensor) -> tuple[Tensor, ...]:
        return shift.split([part["eta"].shape[-1] for part in self.parts], -1)


class Likelihood:
    """The sites that depend on one latent site of a model, as a function of it.

    Args:
        model: The Pyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        site: The latent site.
        values: Values of all other latent sites.
        sites: The names of the sites that depend on it directly, observed or latent, and so are scored given it.
        problems: How its values split into independent problems.
        typical: A value of the site, of its full shape, at which to look at the model.
    """

    def __init__(
        self,
        model: Callable,
        args: tuple,
        kwargs: Mapping[str, Any],
        *,
        site: str,
        values: Mapping[str, Tensor],
        sites: tuple[str, ...],
        problems: Problems,
        typical: Tensor,
    ) -> None:
        self._model, self._args, self._kwargs = model, args, kwargs
        self._site, self._values, self._sites, self._problems = site, dict(values), sites, problems
        self.mapped = True
        self._probed = False
        self._line: _Line | None = None
        self.measurements = self._look(typical)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-likelihood in nats, ``(P, N)``, of particles in rows ``(P, N, D)``."""
        with torch.no_grad():
            return self._over_particles(self._log_prob, x).nan_to_num(-torch.inf, torch.inf, -torch.inf)

    def surrogate(self, x: Tensor) -> Surrogate:
        """The linear-Gaussian surrogate near particles in rows ``(P, N, D)``.

        Measurements with one slope at probes near and far are linear, and the model no longer runs for them. Weights
        do not depend on this being right.
        """
        if not self._probed:
            self._line, self._probed = self._probe(x), True
        return self._line.surrogate(x) if self._line else self._near(x)

    def residual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals ``(P, N, m)`` in units of the data, and their slopes ``(P, N, m, D)``."""
        surrogate = self._near(x)
        return surrogate.residual, surrogate.jacobian

    def _near(self, x: Tensor) -> Surrogate:
        slopes, parts = self._tangents(x)
        refit = _Refit([self.measurements[name] for name in parts], list(parts.values()), slopes)
        return refit.expand(torch.zeros_like(slopes[..., 0]))

    def _tangents(self, x: Tensor) -> tuple[Tensor, AllParts]:
        """Slopes ``(P, N, m, D)`` and parts of all measurements at the particles."""
        with torch.no_grad():
            slopes, parts = self._over_particles(torch.func.jacrev(self._measured, has_aux=True), x)
        # A particle at which a slope is no number is not led.
        return slopes.transpose(1, 2).nan_to_num(0.0, posinf=0.0, neginf=0.0), parts

    def _probe(self, x: Tensor) -> _Line | None:
        """The line that the measurements are, if near and far, on both sides of zero, they have one slope.

        Only Gaussian measurements have one: of other families more than the measured number changes with the particles.
        Between kinks and steps slopes may agree and what is measured not lie on one line.
        """
        if not all(isinstance(measurement, Gaussian) for measurement in self.measurements.values()):
            return None
        near = x[:2]
        far = torch.randn_like(near)
        points = torch.cat([near, -near, 1 - near, far, -far, 10 * far, -10 * far, 1000 * far, -1000 * far])
        slopes, parts = self._tangents(points)
        if not _same(slopes, parts, points):
            return None
        # Where the unknown is zero nothing is lost to rounding.
        _, parts = self._tangents(torch.zeros_like(x[:1]))
        refit = _Refit([self.measurements[name] for name in parts], list(parts.values()), slopes[:1])
        return _line(refit.expand(torch.zeros_like(slopes[:1, ..., 0])))

    def _look(self, typical: Tensor) -> dict[str, Measurement]:
        """The kinds of the measurements, from one run with gradients."""
        with torch.enable_grad(), pyro.validation_enabled(False):
            sites = self._run(typical.detach().clone().requires_grad_(True))
            scored = {name: observed(sites[name]) for name in self._sites}
            found = {name: measurement_of(name, site) for name, site in scored.items()}
            if not any(found.values()):  # steps, whose slope is zero wherever there is one
                return {name: energy_of(site) for name, site in scored.items()}
        return {name: measurement for name, measurement in found.items() if measurement is not None}

    def _run(self, value: Tensor) -> dict[str, Site]:
        return sites_given(self._model, self._args, self._kwargs, {**self._values, self._site: value})

    def _log_prob(self, row: Tensor) -> Tensor:
        sites = self._run(self._problems.whole(row))
        total = 0.0
        for name in self._sites:
            site = observed(sites[name])
            entries = site.log_prob() * site.weight
            total = total + self._problems.rows(self._placed(entries, site), site.event_dim).sum(-1)
        return total

    def _measured(self, row: Tensor) -> tuple[Tensor, AllParts]:
        sites = self._run(self._problems.whole(row))
        etas, parts = [], {}
        for name, measurement in self.measurements.items():
            site = observed(sites[name])
            found = measurement.parts(site)
            found |= {"shown": site.shown, "weight": site.weight}
            parts[name] = {key: self._rows(value, site) for key, value in found.items()}
            parts[name] |= {key: _repeated(parts[name], key) for key in ("shown", "weight")}
            # What is not shown measures nothing, at whatever the unknown is.
            parts[name]["eta"] = torch.where(parts[name]["shown"].bool(), parts[name]["eta"], 0.0)
            etas.append(parts[name]["eta"])
        # Problems are independent, so the slope of the sum over problems is the slope of each.
        return torch.cat(etas, -1).sum(0), parts

    def _rows(self, value: Tensor, site: Observed) -> Tensor:
        """A tensor over the entries of a site, one row a problem; dimensions of matrices and vectors to the right."""
        value = value.to(torch.get_default_dtype()) if not value.is_floating_point() else value
        right = max(value.dim() - len(site.shape), 0) if value.dim() > len(site.shape) else 0
        right = site.base_dim if value is site.value else right
        value = value.expand(site.shape + value.shape[value.dim() - right :])
        return self._problems.rows(self._placed(value, site, right), site.event_dim + right)

    def _placed(self, value: Tensor, site: Observed, right: int = 0) -> Tensor:
        """With all independent dimensions in place: a site that lacks one by broadcasting gets it."""
        lowest = -self._problems.dims[0] if self._problems.dims else 0
        batch = value.dim() - site.event_dim - right
        return value.reshape((1,) * max(lowest - batch, 0) + tuple(value.shape))

    def _over_particles(self, function: Callable, x: Tensor) -> Any:
        with pyro.validation_enabled(False):
            if self.mapped:
                try:
                    return torch.func.vmap(function, randomness="different")(x)
                except RuntimeError as error:
                    if not _cannot_be_mapped(error):
                        raise
                    self.mapped = False
            return _stacked([function(row) for row in x])


def _same(slopes: Tensor, parts: AllParts, x: Tensor) -> bool:
    """Whether what is measured lies on one line, and all else is the same for all particles."""
    eta = torch.cat([part["eta"] for part in parts.values()], -1)
    moved = times(slopes, x)
    size = moved.abs() + eta.abs()
    offset = eta - moved
    return (
        torch.allclose(slopes, slopes[:1].expand_as(slopes), rtol=1e-5, atol=1e-6)
        and bool(((offset - offset[:1]).abs() <= 1e-4 * (size + size[:1]) + 1e-6).all())
        and all(_constant(value) for part in parts.values() for key, value in part.items() if key != "eta")
    )


def _line(surrogate: Surrogate) -> _Line:
    """A linear measurement seen from zero, in units of its noise and without the directions that measure nothing."""
    residual, operator = surrogate.white
    left, singular, right = torch.linalg.svd(operator[0], full_matrices=False)
    smallest = max(operator.shape[-2:]) * torch.finfo(surrogate.jacobian.dtype).eps
    singular = torch.where(singular > smallest * singular.amax(-1, keepdim=True), singular, 0.0)
    count = max(int((singular > 0).sum(-1).max()), 1)
    value = times(left.mT, residual[0])
    rest = residual[0] - times(left[..., :count], value[..., :count])
    constant = surrogate.constant[0] - 0.5 * rest.square().sum(-1)
    slopes = singular[..., :count].unsqueeze(-1) * right[..., :count, :]
    return _Line(slopes.unsqueeze(0), value[..., :count], constant)


def _constant(value: Tensor) -> bool:
    """Whether all particles have the same; missing values are NaN."""
    return torch.allclose(value, value[:1].expand_as(value), rtol=0, atol=0, equal_nan=True)


def _cannot_be_mapped(error: RuntimeError) -> bool:
    text = str(error)
    return "vmap" in text or "data-dependent" in text or "functorch" in text or "Batching rule" in text


def _stacked(results: list[Any]) -> Any:
    first = results[0]
    if isinstance(first, Tensor):
        return torch.stack(results)
    if isinstance(first, tuple):
        return tuple(_stacked([result[i] for result in results]) for i in range(len(first)))
    return {key: _stacked([result[key] for result in results]) for key in first}


def _repeated(parts: Parts, key: str) -> Tensor:
    """One entry for each component of a vector-valued measurement."""
    times = parts["eta"].shape[-1] // parts[key].shape[-1]
    return parts[key].repeat_interleave(times, -1) if times > 1 else parts[key]
