r"""The density of the latent sites of a Pyro model, for many chains at once.

Latent sites of constrained support are functions of unconstrained numbers, :math:`z = t(x)` with Pyro's ``biject_to``,
and the density is :math:`\log p(z, y) + \log |\det \partial t / \partial x|`. Discrete sites are summed out.

The model runs for all chains in one of three ways, the first that gives what single runs give:

- *together*, under one more plate outside all others. This is the fastest, and asks of the model that it broadcasts;
- *mapped*, by ``torch.vmap``, which serves a model that knows of no batch, such as one that adds up a whole site;
- *one by one*, where Python branches on values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import pyro
import torch
import torch.utils._pytree
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import biject_to

from pyrogen.programs.layouts import DRAWS, DrawLayout, DrawsTogether, LayoutMismatch, OneDraw
from pyrogen.programs.run import Given, isolated, run
from pyrogen.programs.site import Site, is_statement, site_of

from .observation import check_data
from .problem import check_plates
from .summed_out import Enumerated, summed_log_prob

_AT_ONCE = 2**22  # numbers, where draws are completed
_ONE = OneDraw()


class LatentDensity:
    """The log-density of the continuous latent sites of a model, in unconstrained coordinates.

    Args:
        model: The Pyro model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Attributes:
        sites: The continuous latent sites, by name.
        discrete: The names of the discrete ones.
        size: How many coordinates a chain has.

    Raises:
        ValueError: the model has no continuous latent site, a plate takes a subsample, or data are missing or
            impossible.
        NotImplementedError: a discrete site has too many values to be summed out.
    """

    def __init__(self, model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
        self.model, self.args, self.kwargs = model, args, dict(kwargs)
        with torch.no_grad():
            self.statements = run(model, args, kwargs, validate=False).statements
        for site in self.statements.values():
            check_plates(site)
            if site.kind == "observed":
                check_data(site, support=is_validation_enabled())
        latent = {name: site for name, site in self.statements.items() if site.kind == "latent"}
        self.discrete = [name for name, site in latent.items() if site.support.is_discrete]
        self.sites = {name: site for name, site in latent.items() if name not in self.discrete}
        _check_sites(self.sites, [latent[name] for name in self.discrete])
        self.transforms = {name: biject_to(site.support) for name, site in self.sites.items()}
        self.shapes = {name: site.value.shape for name, site in self.sites.items()}
        self.free_shapes = {name: self.transforms[name].inv(site.value).shape for name, site in self.sites.items()}
        self.size = sum(map(prod, self.free_shapes.values()))
        self.width = max(len(site.distribution.batch_shape) for site in self.statements.values())
        self._density: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The log-density in nats at points ``(chains, size)``, ``(chains,)``."""
        with pyro.validation_enabled(False):
            if self._density is None:
                self._density = self._fastest(x)
            return self._density(x)

    @property
    def device(self) -> torch.device:
        """Where the sites are."""
        return next(iter(self.sites.values())).value.device

    def initial(self, chains: int, strategy: Callable) -> Tensor:
        """Points ``(chains, size)`` from one of Pyro's strategies of initialisation, such as ``init_to_sample``."""
        with torch.no_grad(), isolated(), pyro.validation_enabled(False):
            program = poutine.trace(InitMessenger(_continuous(strategy))(self.model))
            found = [program.get_trace(*self.args, **self.kwargs).nodes for _ in range(chains)]
        return self.packed({name: torch.stack([nodes[name]["value"] for nodes in found]) for name in self.sites})

    def packed(self, values: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained coordinates ``(chains, size)`` of values of all sites, each ``(chains, *shape)``."""
        free = [self.transforms[name].inv(values[name]).reshape(len(values[name]), -1) for name in self.sites]
        return torch.cat(free, 1).detach()

    def unpacked(self, x: Tensor) -> dict[str, Tensor]:
        """The values of the sites, each ``(*batch, *shape)``, at points ``(*batch, size)``."""
        return {name: self.transforms[name](free) for name, free in self._free(x).items()}

    @torch.no_grad()
    def completed(self, x: Tensor) -> dict[str, Tensor]:
        """The values of all latent sites and of all that is computed from them, at points ``(rows, size)``.

        Discrete sites are drawn given everything else.
        """
        names = [name for name, site in self.statements.items() if site.kind in ("latent", "computed")]
        if set(names) == set(self.sites):
            return self.unpacked(x)
        numbers = sum(site.value.numel() for site in self.statements.values())
        with pyro.validation_enabled(False):
            parts = [self._completed(part, names) for part in x.split(max(1, _AT_ONCE // numbers))]
        return {name: torch.cat([part[name] for part in parts]) for name in names}

    def blamed(self, row: Tensor) -> list[str]:
        """The sites whose log-probability is not finite at one point, or all latent ones if it is the gradient's."""
        with torch.no_grad(), pyro.validation_enabled(False), isolated():
            trace = poutine.trace(Given(self.unpacked(row))(self.model)).get_trace(*self.args, **self.kwargs)
            found = {
                node["name"]: site_of(node).log_prob_if_any() for node in trace.nodes.values() if is_statement(node)
            }
        bad = [name for name, value in found.items() if value is None or not value.isfinite().all()]
        return bad or list(self.sites)

    def _fastest(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The fastest way to run the model for all chains that agrees with single runs."""
        reasons = []
        with torch.no_grad():
            checked = sorted({0, len(x) - 1})
            alone = torch.stack([self._single(x[row]) for row in checked])
            for density in (self._together, self._mapped):
                try:
                    torch.testing.assert_close(density(x)[checked], alone, rtol=1e-4, atol=1e-3, equal_nan=True)
                except Exception as error:  # noqa: BLE001  a program may fail in any way on many chains at once
                    reasons.append(str(error).strip().split("\n")[0])
                else:
                    return density
        warnings.warn(
            "the model runs chain by chain, since neither a plate of chains nor torch.vmap runs it as single runs do "
            f"({'; '.join(reasons)}); write it for batches, without branches on values",
            UserWarning,
            stacklevel=2,
        )
        return self._one_by_one

    def _together(self, x: Tensor) -> Tensor:
        layout = DrawsTogether(len(x), self.width)
        free = self._free(x)
        values = {name: self.transforms[name](value) for name, value in free.items()}
        placed = {name: self._in_plate(name, value) for name, value in values.items()}
        trace = self._trace(placed, layout)
        return self._log_prob(trace, layout).add(self._volume(free, values, 1))

    def _single(self, row: Tensor) -> Tensor:
        free = self._free(row)
        values = {name: self.transforms[name](value) for name, value in free.items()}
        return self._log_prob(self._trace(values, _ONE), _ONE).add(self._volume(free, values, 0))

    def _mapped(self, x: Tensor) -> Tensor:
        return torch.vmap(self._single, randomness="different")(x)

    def _one_by_one(self, x: Tensor) -> Tensor:
        return torch.stack([self._single(row) for row in x])

    def _trace(self, values: Mapping[str, Tensor], layout: DrawLayout) -> Trace:
        program = layout.laid_out(Given(values)(self.model))
        if self.discrete:
            program = Enumerated(first_available_dim=-1 - self._width(layout))(config_enumerate(program))
        with isolated():
            return poutine.trace(program).get_trace(*self.args, **self.kwargs)

    def _width(self, layout: DrawLayout) -> int:
        return self.width + isinstance(layout, DrawsTogether)

    def _log_prob(self, trace: Trace, layout: DrawLayout) -> Tensor:
        chains = None if layout is _ONE else DRAWS
        if self.discrete:
            return summed_log_prob(trace, chains)
        trace.compute_log_prob()
        found = [node["log_prob"] for node in trace.nodes.values() if is_statement(node)]
        if chains is None:
            return sum(value.sum() for value in found)
        return sum(self._of_chains(value, layout).reshape(len(value), -1).sum(1) for value in found)

    def _of_chains(self, value: Tensor, layout: DrawLayout) -> Tensor:
        if value.dim() != self.width + 1 or len(value) != layout.draws:
            raise LayoutMismatch("a site is not batched by chains")
        return value

    def _volume(self, free: Mapping[str, Tensor], values: Mapping[str, Tensor], batch: int) -> Tensor:
        found = [self.transforms[name].log_abs_det_jacobian(free[name], values[name]) for name in free]
        return sum(volume.flatten(batch).sum(-1) if volume.dim() > batch else volume for volume in found)

    def _free(self, x: Tensor) -> dict[str, Tensor]:
        parts = x.split([prod(shape) for shape in self.free_shapes.values()], -1)
        return {
            name: part.reshape(x.shape[:-1] + shape)
            for (name, shape), part in zip(self.free_shapes.items(), parts, strict=True)
        }

    def _in_plate(self, name: str, value: Tensor) -> Tensor:
        """``(chains, *shape)`` with room for the plates that are not around this site."""
        missing = self.width - len(self.statements[name].distribution.batch_shape)
        return value.reshape(value.shape[:1] + (1,) * missing + value.shape[1:])

    def _completed(self, x: Tensor, names: list[str]) -> dict[str, Tensor]:
        values = self.unpacked(x)
        for name in self.discrete:
            values[name] = self._drawn(values, name)
        if self._density == self._together:
            try:
                return self._completed_together(values, names, len(x))
            except Exception:  # noqa: BLE001  as in `_fastest`
                pass
        return self._over_rows(lambda row: self._values(row, names), values)

    def _drawn(self, values: Mapping[str, Tensor], name: str) -> Tensor:
        """A discrete site given others, each ``(rows, *shape)``: the discrete ones after it are summed out.

        Given those before it, its entries in plates are independent of each other.
        """
        trace = self._trace({given: value[0] for given, value in values.items()}, _ONE)
        trace.compute_log_prob()
        node = trace.nodes[name]
        zeros = torch.zeros_like(node["log_prob"])  # (values, *batch)

        def probabilities(row: dict[str, Tensor]) -> Tensor:
            def evidence(added: Tensor) -> Tensor:
                return summed_log_prob(self._trace(row, _ONE), added={name: added})

            return torch.func.grad(evidence)(zeros)

        shape = self.statements[name].distribution.batch_shape
        chances = self._over_rows(probabilities, values).clamp(min=0)  # (rows, values, *batch)
        chances = chances.reshape(*chances.shape[:2], *shape).movedim(1, -1)
        support = node["fn"].enumerate_support(expand=False).reshape(chances.shape[-1], *node["fn"].event_shape)
        return support[torch.distributions.Categorical(chances).sample()]

    def _over_rows(self, function: Callable, values: Mapping[str, Tensor]) -> Any:
        """A function of the sites of one row, for all rows: mapped, or one by one where the density is."""
        values = dict(values)
        if self._density != self._one_by_one:
            return torch.vmap(function, randomness="different")(values)
        rows = [
            function({name: value[row] for name, value in values.items()})
            for row in range(len(next(iter(values.values()))))
        ]
        return torch.utils._pytree.tree_map(lambda *entries: torch.stack(entries), *rows)

    def _values(self, given: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        found = run(Given(given)(self.model), self.args, self.kwargs, validate=False).statements
        return {name: found[name].value for name in names}

    def _completed_together(self, values: Mapping[str, Tensor], names: list[str], rows: int) -> dict[str, Tensor]:
        placed = {name: self._in_plate(name, value) for name, value in values.items()}
        program = DrawsTogether(rows, self.width).laid_out(Given(placed)(self.model))
        found = run(program, self.args, self.kwargs, validate=False).statements
        completed = {name: _out_of_plate(found[name].value, self.statements[name].value.shape, rows) for name in names}
        alone = self._values({name: value[0] for name, value in values.items()}, names)
        for name in names:
            torch.testing.assert_close(completed[name][0], alone[name], rtol=1e-3, atol=1e-4, equal_nan=True)
        return completed


def _out_of_plate(value: Tensor, shape: torch.Size, rows: int) -> Tensor:
    """``(rows, *shape)`` of a value that has room for plates between the two."""
    if value.dim() <= len(shape):
        return value.expand(rows, *shape)
    between = value.dim() - 1 - len(shape)
    return value.expand(rows, *(1,) * between, *shape).reshape(rows, *shape)


def _continuous(strategy: Callable) -> Callable:
    """A strategy of initialisation for continuous sites; discrete ones, of which Pyro's have no notion, are drawn."""
    return lambda site: site["fn"].sample() if site["fn"].support.is_discrete else strategy(site)


def _check_sites(continuous: Mapping[str, Site], discrete: list[Site]) -> None:
    if not continuous:
        raise ValueError(f"`model` must have a continuous latent site, got discrete ones {[s.name for s in discrete]}")
    endless = [site.name for site in discrete if not site.distribution.has_enumerate_support]
    if endless:
        raise NotImplementedError(
            f"the discrete sites {endless} have no finite support, so they cannot be summed out; truncate their "
            "distributions, or sample them by a method of their own (TwistedSMC draws other latent sites along)"
        )
