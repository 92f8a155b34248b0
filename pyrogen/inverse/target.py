"""The posterior of one site given all others: its prior as a denoiser, and what is measured of it.

Particles are rows ``(P, N, D)`` of :math:`N` independent problems. The model runs for them with all latent sites given,
under ``torch.func.vmap``; one whose control flow depends on values runs particle by particle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyrogen.distributions.abilities import Abilities
from pyrogen.numerics.schedule import Schedule
from pyrogen.programs.problems import IndependentProblems
from pyrogen.programs.site import Site

from .chain import Level
from .derivative import Derivative
from .measurement import GaussianMeasurement, Measured, Measurement, Parts, energy_of, measurement_of
from .observation import Observed, observed
from .scores import ParticleMap, entries_by_problem, log_likelihood
from .slopes import Slopes, Tangents
from .surrogate import Surrogate

AllParts = dict[str, Parts]

_PROBES = 32  # random vectors by which the size of a map is known


class Denoised(NamedTuple):
    """Noisy particles and what the denoiser makes of them.

    Attributes:
        noisy: The particles, ``(P, N, D)``, at which the denoiser was differentiably evaluated.
        output: Its output, with its graph.
        level: The noise level.
    """

    noisy: Tensor
    output: Tensor
    level: Level

    @property
    def mean(self) -> Tensor:
        """The denoised mean, without its graph."""
        return self.output.detach()

    def pull(self, vectors: Tensor) -> Tensor:
        r"""Vectors ``(P, N, m, D)`` times the Jacobian of the denoiser: :math:`v^\top \partial D / \partial x_t`."""
        columns = [column.to(self.output.dtype).expand_as(self.output) for column in vectors.unbind(-2)]
        pulled = [torch.autograd.grad(self.output, self.noisy, v, retain_graph=True)[0] for v in columns]
        return torch.stack(pulled, -2)


class MeasuredSites(NamedTuple):
    """What is measured of rows of unknowns: the numbers of the site, and perhaps those of others after them.

    Attributes:
        sites: The sites of a run of the model with the unknowns of a row ``(N, D)`` or more.
        scored: The names of the sites that are scored given them.
        problems: How the values of the site split into independent problems.
        typical: A row, for a first run of the model.
    """

    sites: Callable[[Tensor], Mapping[str, Site]]
    scored: tuple[str, ...]
    problems: IndependentProblems
    typical: Tensor


class Linearized(NamedTuple):
    """A surrogate near one particle, in units of its noise.

    Attributes:
        residual: What is measured less what is expected there, ``(1, N, m)``.
        operator: The derivative of what is measured.
        constant: The log-likelihood of data that fit, ``(N,)``.
    """

    residual: Tensor
    operator: Derivative
    constant: Tensor


class Target:
    """What twists and guidances are made of: prior and measurements of one site, for particles in rows ``(P, N, D)``.

    Args:
        prior: The prior of the site, which has a denoiser.
        likelihood: What is measured.
    """

    def __init__(self, prior: Abilities, likelihood: MeasuredSites) -> None:
        self._sites, self._scored, self._problems, typical = likelihood
        problems = self._problems
        self._denoiser, self._context = prior.denoiser, prior.context
        self.schedule: Schedule = prior.denoiser.schedule
        self.shape = problems.count, problems.size
        self._grid = problems.unknown_shape
        self._map = ParticleMap()
        self._is_linear: bool | None = None
        self._linear: Surrogate | None = None
        self.measurements = self._kinds(typical)

    @property
    def mapped(self) -> bool:
        """Whether the model can be mapped over particles."""
        return self._map.mapped

    def denoise(self, x: Tensor, level: Level) -> Tensor:
        """The denoised means of noisy particles."""
        return self._of_noisy(self._denoiser, x, level)

    def _of_noisy(self, function: Callable, x: Tensor, level: Level) -> Tensor:
        time = torch.as_tensor(level.time, dtype=x.dtype, device=x.device)
        values = function(self._problems.whole(x), time, self._context)
        return self._problems.rows(values, len(self._problems.event_shape), leading=1)

    @property
    def has_posterior(self) -> bool:
        """Whether data can be drawn exactly given noisy ones."""
        return self._denoiser.has_posterior

    def posterior_sample(self, x: Tensor, level: Level) -> Tensor:
        """Exact draws of the data of noisy particles, without the measurement."""
        return self._of_noisy(self._denoiser.posterior_sample, x, level)

    @torch.enable_grad()
    def denoised(self, x: Tensor, level: Level) -> Denoised:
        """Noisy particles with their denoised means, which can be differentiated."""
        noisy = x.detach().requires_grad_(True)
        return Denoised(noisy, self.denoise(noisy, level), level)

    @torch.no_grad()
    def log_likelihood(self, x: Tensor) -> Tensor:
        """The true log-likelihood in nats, ``(P, N)``."""
        return self.over_particles(self._log_prob, x).nan_to_num(-torch.inf, torch.inf, -torch.inf)

    @torch.no_grad()
    def score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The log-likelihood ``(P, N)``, and its slopes in the unknowns ``(P, N, D)``, zero where there are none."""
        with torch.enable_grad():
            data, x = self._with_slopes(x)
            value = self.over_particles(self._log_prob, x) + 0 * data.sum(-1)
            slope = torch.autograd.grad(value.sum(), data)[0]
        value = value.detach().nan_to_num(-torch.inf, torch.inf, -torch.inf)
        return value, slope.nan_to_num(0.0, posinf=0.0, neginf=0.0)

    def _with_slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The data of rows, which require gradients, and the rows with these data."""
        data = x[..., : self.shape[1]].detach().clone().requires_grad_(True)
        return data, torch.cat([data, x[..., self.shape[1] :].detach()], -1)

    def surrogate(self, x: Tensor) -> Surrogate:
        """The linear-Gaussian surrogate near the particles.

        Measurements with one slope at probes near and far are linear, and the model no longer runs for them. Weights
        do not depend on this being right.
        """
        if not self.is_linear(x):
            return self._near(x)
        if self._linear is None:  # where the unknown is zero nothing is lost to rounding
            self._linear = self._near(torch.zeros_like(x[:1])).compressed()
        return self._linear.seen_from(x)

    def is_linear(self, x: Tensor) -> bool:
        """Whether the measurements are linear with Gaussian noise, as slopes at particles and elsewhere show, once."""
        if self._is_linear is None:
            self._is_linear = self._probe(x)
        return self._is_linear

    def linearized(self, point: Tensor) -> Linearized:
        """The surrogate near one particle ``(1, N, D)``, in units of the noise, without a matrix if that were large."""
        surrogate = self._near(point)
        root = surrogate.precision.double().sqrt()
        operator = Derivative(lambda count: self._tangents(point.expand(count, -1, -1))[0], root, self._grid)
        return Linearized(root * surrogate.residual, operator, surrogate.constant[0])

    def residual(self, x: Tensor) -> tuple[Tensor, Slopes]:
        """What is measured less what is expected at the particles ``(P, N, m)``, in data units, and its slopes."""
        surrogate = self._near(x)
        return surrogate.residual, surrogate.slopes

    def _near(self, x: Tensor) -> Surrogate:
        return self._expanded(*self._tangents(x))

    def _expanded(self, slopes: Slopes, parts: AllParts) -> Surrogate:
        measured = Measured([self.measurements[name] for name in parts], list(parts.values()), slopes)
        return measured.expand(torch.zeros_like(_eta(parts)))

    @torch.enable_grad()
    def _tangents(self, x: Tensor) -> tuple[Tangents, AllParts]:
        """Slopes and parts of all measurements at the particles."""
        data, x = self._with_slopes(x)
        parts = self.over_particles(self._measured, x)
        slopes = Tangents(data, _eta(parts))
        return slopes, {name: {key: value.detach() for key, value in part.items()} for name, part in parts.items()}

    def _probe(self, x: Tensor) -> bool:
        """Whether the measurements have one slope near and far, on both sides of zero.

        Only Gaussian measurements have one: of other families more than the measured number changes with the particles.
        Between kinks and steps slopes may agree and what is measured not lie on one line.
        """
        kinds = [self.measurements.get(name) for name in self._scored]  # None of those that have steps and no slopes
        if not all(isinstance(kind, GaussianMeasurement) for kind in kinds):
            return False
        near = x[:2]
        far = torch.randn_like(near)
        points = torch.cat([near, -near, 1 - near, far, -far, 10 * far, -10 * far, 1000 * far, -1000 * far])
        start = self._tangents(torch.zeros_like(points))
        several = self._tangents(near.new_zeros(_PROBES, *near.shape[1:]))[0]
        return _on_one_line(*start, *self._tangents(points), points, several)

    @torch.enable_grad()
    def _kinds(self, typical: Tensor) -> dict[str, Measurement]:
        """The kinds of the measurements, from one run with gradients."""
        with pyro.validation_enabled(False):
            sites = self._sites(self._with_slopes(typical)[1])
            scored = {name: observed(sites[name]) for name in self._scored}
            found = {name: measurement_of(name, site) for name, site in scored.items()}
            if not any(found.values()):  # steps, whose slope is zero wherever there is one
                return {name: energy_of(site) for name, site in scored.items()}
        return {name: measurement for name, measurement in found.items() if measurement is not None}

    def _log_prob(self, row: Tensor) -> Tensor:
        sites = self._sites(row)
        return log_likelihood((sites[name] for name in self._scored), self._problems)

    def _measured(self, row: Tensor) -> AllParts:
        sites = self._sites(row)
        parts = {}
        for name, measurement in self.measurements.items():
            site = observed(sites[name])
            found = {key: self._rows(value, site) for key, value in measurement.parts(site).items()}
            # One entry for each component of a vector-valued measurement.
            for key, value in (("shown", site.shown), ("weight", site.weight)):
                entries = self._rows(value, site)
                found[key] = entries.repeat_interleave(found["eta"].shape[-1] // entries.shape[-1], -1)
            # Hidden entries measure nothing, whatever the unknown is.
            found["eta"] = torch.where(found["shown"].bool(), found["eta"], 0.0)
            parts[name] = found
        return parts

    def _rows(self, value: Tensor, site: Observed) -> Tensor:
        return entries_by_problem(value, site, self._problems)

    def over_particles(self, function: Callable, x: Tensor) -> Any:
        """A function of the unknowns of one particle, of tensors or dictionaries of them, for all of them."""
        return self._map(function, x)


def _eta(parts: AllParts) -> Tensor:
    """All measured numbers side by side."""
    return torch.cat([part["eta"] for part in parts.values()], -1)


def _on_one_line(
    slopes: Tangents, parts: AllParts, others: Tangents, other_parts: AllParts, x: Tensor, several: Tangents
) -> bool:
    """Whether what is measured has the slopes at zero at others ``x`` too, and all else is the same.

    Slopes are compared by what they make of a random sum of the measured numbers. A sum of many large numbers that
    nearly cancel is right to the size of these, which random vectors tell. All is in units of the noise.
    """
    scales = [torch.where(part["shown"].bool(), part["scale"], 1.0)[:1] for part in parts.values()]
    root = 1 / torch.cat(scales, -1).double()
    eta, start = root * _eta(other_parts), root * _eta(parts)
    moved = root * slopes.push(x)
    noise, signs = torch.randn(_PROBES, *x.shape[1:]).to(x), root * (torch.randint_like(eta[:1], 2) * 2 - 1)
    rows = root * several.push(noise).square().mean(0, keepdim=True).sqrt()  # norms of the rows of the map, (1, N, m)
    columns = several.pull(root * torch.randn(_PROBES, *eta.shape[1:]).to(eta)).square().mean(0, keepdim=True).sqrt()
    tolerance = 1e-4 * (moved.abs() + eta.abs() + start.abs()) + 1e-6 * (1 + rows * x.norm(dim=-1, keepdim=True))
    found, expected = others.pull(signs.expand_as(eta)), slopes.pull(signs.expand_as(eta))
    alike = {
        name: {key: torch.cat([value, parts[name][key][:1]]) for key, value in part.items() if key != "eta"}
        for name, part in other_parts.items()
    }
    return (
        bool(((found - expected).abs() <= 1e-5 * columns + 1e-6 * columns.amax(-1, keepdim=True)).all())
        and bool(((eta - moved - start).abs() <= tolerance).all())
        and all(_constant(value) for part in alike.values() for value in part.values())
    )


def _constant(value: Tensor) -> bool:
    """Whether all particles have the same; missing values are NaN."""
    return torch.allclose(value, value[:1].expand_as(value), rtol=0, atol=0, equal_nan=True)
