"""The likelihood of a site: what the other sites of a Pyro model say about it, for many particles at once.

The model runs with the site and all other latent sites given, under ``torch.func.vmap`` over particles, so that it is
written for one value as usual: no plate is added, and no dimension moves. A model whose control flow depends on values
cannot be mapped; it runs particle by particle instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from .measurement import Measurement, Observed, measurement_of, observed
from .problems import Problems
from .surrogate import Surrogate

Parts = dict[str, dict[str, Tensor]]


class Given(Messenger):
    """Gives sites their values, latent or not, without asking their distributions."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def run(
    model: Callable,
    args: tuple,
    kwargs: Mapping[str, Any],
    values: Mapping[str, Tensor],
    handler: AbstractContextManager | None = None,
) -> Trace:
    """One run of the model with given values, seen by no handler outside but ``handler``, and without validation."""
    with poutine.block(), pyro.validation_enabled(False), handler or nullcontext(), Given(values):
        return poutine.trace(model).get_trace(*args, **kwargs)


class _Line(NamedTuple):
    """Linear measurements: slopes ``(1, N, m, D)``, their parts, and what is measured at zero, ``(N, m)``."""

    slopes: Tensor
    parts: Parts
    offset: Tensor


class Likelihood:
    """The observed sites of a model as a function of one latent site.

    Args:
        model: The Pyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        site: The latent site.
        values: Values of all other latent sites.
        sites: The names of the observed sites that depend on it.
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
        self._linear: _Line | None = None
        self.measurements = self._look(typical)

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-likelihood in nats, ``(P, N)``, of particles in rows ``(P, N, D)``."""
        with torch.no_grad():
            return self._over_particles(self._log_prob, x).nan_to_num(-torch.inf, posinf=torch.inf)

    def surrogate(self, x: Tensor) -> Surrogate:
        """The linear-Gaussian surrogate near particles in rows ``(P, N, D)``.

        Measurements with one slope at probes near and far are linear, and the model no longer runs for them. Weights
        do not depend on this being right.
        """
        if not self._probed:
            self._linear, self._probed = self._probe(x), True
        slopes, parts = self._line(x) if self._linear else self._tangents(x)
        sizes = [part["eta"].shape[-1] for part in parts.values()]

        def at(shift: Tensor | None) -> Surrogate:
            shifts = [None] * len(sizes) if shift is None else shift.split(sizes, -1)
            pieces = [self.measurements[name].rows(parts[name], s) for name, s in zip(parts, shifts, strict=True)]
            return Surrogate(
                residual=torch.cat([piece.residual for piece in pieces], -1),
                jacobian=slopes,
                noise=_block_diagonal([piece.noise for piece in pieces]),
                constant=sum(piece.constant.sum(-1) for piece in pieces),
                refit=at if any(self.measurements[name].refits for name in parts) else None,
                exact=self._linear is not None,
            )

        return at(None)

    def _tangents(self, x: Tensor) -> tuple[Tensor, Parts]:
        """Slopes ``(P, N, m, D)`` and parts of all measurements at the particles."""
        with torch.no_grad():
            slopes, parts = self._over_particles(torch.func.jacrev(self._measured, has_aux=True), x)
        return slopes.transpose(1, 2), parts

    def _probe(self, x: Tensor) -> _Line | None:
        """The line that the measurements are, if near and far, on both sides of zero, they have one slope.

        Only Gaussian measurements have one: of other families more than the measured number changes with the particles.
        """
        near = x[:2]
        far = torch.randn_like(near)
        points = torch.cat([near, -near, 1 - near, far, -far, 10 * far, -10 * far, 1000 * far, -1000 * far])
        return _same(*self._tangents(points), points)

    def _line(self, x: Tensor) -> tuple[Tensor, Parts]:
        """The same where the measurements are known to be linear: ``(1, N, m, D)``, without running the model."""
        slopes, parts, offset = self._linear
        etas = offset + (slopes[0] @ x.unsqueeze(-1)).squeeze(-1)
        split = etas.split([part["eta"].shape[-1] for part in parts.values()], -1)
        return slopes, {name: {**parts[name], "eta": eta} for name, eta in zip(parts, split, strict=True)}

    def _look(self, typical: Tensor) -> dict[str, Measurement]:
        """The kinds of the measurements, from one run with gradients."""
        with torch.enable_grad():
            trace = self._trace(typical.detach().clone().requires_grad_(True))
            found = {name: measurement_of(observed(trace.nodes[name])) for name in self._sites}
        return {name: measurement for name, measurement in found.items() if measurement is not None}

    def _trace(self, value: Tensor) -> Trace:
        return run(self._model, self._args, self._kwargs, {**self._values, self._site: value})

    def _log_prob(self, row: Tensor) -> Tensor:
        nodes = self._trace(self._problems.whole(row)).nodes
        total = 0.0
        for name in self._sites:
            site = observed(nodes[name])
            entries = site.log_prob() * site.over_entries(site.weight)
            total = total + self._problems.rows(self._placed(entries, site), site.event_dim).sum(-1)
        return total

    def _measured(self, row: Tensor) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        nodes = self._trace(self._problems.whole(row)).nodes
        etas, parts = [], {}
        for name, measurement in self.measurements.items():
            site = observed(nodes[name])
            found = measurement.parts(site)
            found |= {"shown": site.over_entries(site.shown), "weight": site.over_entries(site.weight)}
            parts[name] = {key: self._rows(value, site) for key, value in found.items()}
            parts[name] |= {key: _repeated(parts[name], key) for key in ("shown", "weight")}
            # What is not shown measures nothing: its slope is zero.
            etas.append(torch.where(parts[name]["shown"].bool(), parts[name]["eta"], 0.0))
        # Problems are independent, so the slope of the sum over problems is the slope of each.
        return torch.cat(etas, -1).sum(0), parts

    def _rows(self, value: Tensor, site: Observed) -> Tensor:
        """A tensor over the entries of a site, one row a problem; dimensions of matrices and vectors to the right."""
        value = value.to(torch.get_default_dtype()) if not value.is_floating_point() else value
        right = max(value.dim() - len(site.shape), 0) if value.dim() > len(site.shape) else 0
        right = site.base.event_dim if value is site.value else right
        value = value.expand(site.shape + value.shape[value.dim() - right :])
        return self._problems.rows(self._placed(value, site, right), site.event_dim + right)

    def _placed(self, value: Tensor, site: Observed, right: int = 0) -> Tensor:
        """With all independent dimensions in place: a site that lacks one by broadcasting gets it."""
        lowest = -self._problems.dims[0] if self._problems.dims else 0
        batch = value.dim() - site.event_dim - right
        return value.reshape((1,) * max(lowest - batch, 0) + tuple(value.shape))

    def _over_particles(self, function: Callable, x: Tensor) -> Any:
        if self.mapped:
            try:
                return torch.func.vmap(function, randomness="different")(x)
            except RuntimeError as error:
                if not _cannot_be_mapped(error):
                    raise
                self.mapped = False
        return _stacked([function(row) for row in x])


def _same(slopes: Tensor, parts: Parts, x: Tensor) -> _Line | None:
    """The line through all particles, if their slopes and all parts but what is measured are the same."""
    if len(x) < 2 or not torch.allclose(slopes, slopes[:1].expand_as(slopes), rtol=1e-5, atol=1e-6):
        return None
    first: Parts = {}
    for name, part in parts.items():
        if not all(_constant(value) for key, value in part.items() if key != "eta"):
            return None
        first[name] = {key: value[:1] for key, value in part.items()}
    eta = torch.cat([part["eta"] for part in first.values()], -1)[0]
    return _Line(slopes[:1], first, eta - (slopes[0] @ x[0].unsqueeze(-1)).squeeze(-1))


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


def _repeated(parts: dict[str, Tensor], key: str) -> Tensor:
    """One entry for each component of a vector-valued measurement."""
    times = parts["eta"].shape[-1] // parts[key].shape[-1]
    return parts[key].repeat_interleave(times, -1) if times > 1 else parts[key]


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    if len(blocks) == 1:
        return blocks[0]
    shape = torch.broadcast_shapes(*(block.shape[:-2] for block in blocks))
    size = sum(block.shape[-1] for block in blocks)
    result = blocks[0].new_zeros(*shape, size, size)
    start = 0
    for block in blocks:
        stop = start + block.shape[-1]
        result[..., start:stop, start:stop] = block
        start = stop
    return result
