r"""The density of the latent sites of a Pyro model, for many chains at once.

Latent sites of constrained support are functions of unconstrained numbers, :math:`z = t(x)`, and the density is
:math:`\log p(z, y) + \log |\det \partial t / \partial x|`. Discrete sites are summed out.

The model runs for all chains in one of three ways, the first that gives what single runs give:

- *together*, under one more plate outside all others. This is the fastest, and requires that the model broadcasts;
- *mapped*, by ``torch.vmap``, which serves a model that knows of no batch, such as one that adds up a whole site;
- *one by one*, where Python branches on values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import pyro
import torch
import torch.utils._pytree
from pyro import poutine
from pyro.distributions.util import is_identically_one
from pyro.infer.autoguide.initialization import init_to_sample
from pyro.infer.util import is_validation_enabled
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrogen.programs.dependence import dependence
from pyrogen.programs.layouts import DRAWS, DrawLayout, DrawsTogether, LayoutMismatch, OneDraw
from pyrogen.programs.run import Given, isolated, run
from pyrogen.programs.site import Site, is_imputed, is_statement

from .free_sites import FreeSites, started, transform_of
from .observation import Filled, check_data, is_hidden, shown_data
from .problem import check_plates
from .summed_out import Enumerated, summed_log_prob
from .vectorization import TRIED, Way, fastest, where_possible

_AT_ONCE = 2**22  # numbers, where draws are completed
_ONE = OneDraw()


class LatentDensity:
    """The log-density of the continuous latent sites of a model, in unconstrained coordinates.

    Args:
        model: The Pyro model.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        initial: Where chains start: one of Pyro's strategies of initialisation, or values by site, each
            ``(chains, *shape)``.

    Attributes:
        statements: Those of one run, by name.
        shapes: Of the continuous latent sites, by name.
        free_shapes: The same of their coordinates.
        discrete: The names of the discrete latent sites.
        points: The names of those that are point masses: what they compute is no coordinate.
        imputed: The names of those that are parts of observations.
        size: How many coordinates a chain has.

    Raises:
        ValueError: the model has no continuous latent site, or not the same ones in every run, a plate takes a
            subsample, or data are missing or impossible.
        NotImplementedError: a discrete site has too many values to be summed out; no bijection to the support of a site
            is known; or a site cannot be drawn, of which no values are given.
    """

    def __init__(
        self,
        model: Callable,
        args: tuple,
        kwargs: Mapping[str, Any],
        initial: Callable | Mapping[str, Tensor] = init_to_sample,
    ) -> None:
        self.model, self.args, self.kwargs = model, args, dict(kwargs)
        self._started = started(model, initial)
        self.statements = self._run(self._started)
        for site in self.statements.values():
            check_plates(site)
            if site.kind == "observed":
                self._check_data(site)
                if not torch.as_tensor(site.value).isfinite().all():  # hidden, or it had been refused
                    self.model = Filled()(model)
        latent = {name: site for name, site in self.statements.items() if site.kind == "latent"}
        self.discrete = [name for name, site in latent.items() if site.support.is_discrete]
        self.points = [name for name, site in latent.items() if site.is_point and name not in self.discrete]
        sites = {name: site for name, site in latent.items() if name not in (*self.discrete, *self.points)}
        _check_sites(sites, [latent[name] for name in self.discrete])
        self.imputed = {name for name in latent if is_imputed(name, self.statements)}
        self.shapes = {name: site.value.shape for name, site in sites.items()}
        self.free_shapes = {name: x.shape for name, x in self._coordinates(self.statements).items()}
        self.size = sum(map(prod, self.free_shapes.values()))
        self.width = max(len(site.distribution.batch_shape) for site in self.statements.values())
        self._density: Way | None = None  # in two parts

    def _check_data(self, site: Site) -> None:
        """Checks an observed site; a support that moves with a latent site may yet hold the data."""
        try:
            check_data(site, support=is_validation_enabled())
        except ValueError:
            found = dependence(self._started, self.args, self.kwargs)
            if not found.traced or site.name not in found.sites:
                raise
            check_data(found.sites[site.name], support=True)

    @property
    def data(self) -> dict[str, Tensor]:
        """The observed values by site, zero where they are hidden."""
        return {name: shown_data(site) for name, site in self.statements.items() if site.kind == "observed"}

    def __call__(self, x: Tensor) -> Tensor:
        """The log-density in nats at points ``(chains, size)``, ``(chains,)``; NaN where the model cannot run."""
        with pyro.validation_enabled(False):
            return self._parts(x).sum(-1)

    @torch.no_grad()
    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density of the latent sites, and that of the data given these, ``(chains,)`` each.

        The first is that of draws; what ``poutine.scale`` makes of it besides counts as data.

        Raises:
            NotImplementedError: discrete sites are summed out, latent sites are parts of observations, or a mask hides
                latent ones.
        """
        together = [*self.discrete, *self.imputed]
        if together:
            raise NotImplementedError(f"the prior of {together} cannot be told from the likelihood; use ManyChains")
        hidden = [name for name in self.shapes if is_hidden(self.statements[name])]
        if hidden:
            raise NotImplementedError(
                f"a mask hides the density of the latent sites {hidden}, which then is not that of their draws; hide "
                "what is observed alone"
            )
        with pyro.validation_enabled(False):
            return self._parts(x).unbind(-1)

    @torch.no_grad()
    def alone(self, x: Tensor) -> Tensor:
        """The log-density by single runs, ``(chains,)``."""
        with pyro.validation_enabled(False):
            return torch.cat([where_possible(self._one_by_one, row) for row in x.split(1)]).sum(-1)

    def by_site(self, x: Tensor) -> dict[str, Tensor]:
        """The coordinates of each site, ``(chains, *free_shape)``."""
        return self._free(x)

    @torch.no_grad()
    def prior(self, draws: int) -> Tensor:
        """Draws of the latent sites without the data, ``(draws, size)``."""
        self(self.initial(TRIED))  # finds out how the model runs for many draws
        if self._density != self._together:
            return self.initial(draws)
        statements = self._run(DrawsTogether(draws, self.width).laid_out(self.model))
        found = self._coordinates(statements).items()
        return torch.cat([_out_of_plate(x, self.free_shapes[name], draws).reshape(draws, -1) for name, x in found], 1)

    @property
    def device(self) -> torch.device:
        """Where the sites are."""
        return self.statements[next(iter(self.shapes))].value.device

    def initial(self, chains: int) -> Tensor:
        """Points to start from, ``(chains, size)``."""
        return self._packed([self._started] * chains)

    def packed(self, values: Mapping[str, Tensor]) -> Tensor:
        """Unconstrained coordinates ``(chains, size)`` of values of all sites, each ``(chains, *shape)``."""
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        return self._packed([Given(row)(self.model) for row in rows])

    @torch.no_grad()
    def completed(self, x: Tensor) -> dict[str, Tensor]:
        """The values of all latent sites and of all that is computed from them, at points ``(rows, size)``.

        Discrete sites are drawn given everything else.
        """
        names = [name for name, site in self.statements.items() if site.kind in ("latent", "computed")]
        numbers = sum(site.value.numel() for site in self.statements.values())
        with pyro.validation_enabled(False):
            parts = [self._completed(part, names) for part in x.split(max(1, _AT_ONCE // numbers))]
        return {name: torch.cat([part[name] for part in parts]) for name in names}

    def blamed(self, row: Tensor) -> list[str]:
        """The sites whose log-probability is not finite at one point, or all latent ones if it is the gradient's."""
        found = {name: site.log_prob_if_any() for name, site in self._run(self._at(row)).items()}
        bad = [name for name, value in found.items() if value is None or not value.isfinite().all()]
        return bad or list(self.shapes)

    def _parts(self, x: Tensor) -> Tensor:
        """Log-densities of the latent sites and of the data, ``(chains, 2)``; discrete sites count as data."""
        if self._density is None:
            self._density = fastest(self._together, self._mapped, self._one_by_one, x)
        return where_possible(self._density, x)

    @torch.no_grad()
    def _run(self, program: Callable) -> dict[str, Site]:
        return run(program, self.args, self.kwargs, validate=False).statements

    def _coordinates(self, statements: Mapping[str, Site]) -> dict[str, Tensor]:
        sites = {name: statements[name] for name in self.shapes}
        return {name: transform_of(name, site.distribution).inv(site.value) for name, site in sites.items()}

    def _packed(self, programs: Sequence[Callable]) -> Tensor:
        found = [self._coordinates(self._run(program)).values() for program in programs]
        return torch.stack([torch.cat([x.flatten() for x in coordinates]) for coordinates in found])

    def _at(self, row: Tensor) -> Callable:
        """The model at one point."""
        return FreeSites(self._free(row))(self.model)

    def _together(self, x: Tensor) -> Tensor:
        layout = DrawsTogether(len(x), self.width)
        return self._log_prob(self._trace(self._placed(self._free(x)), layout), layout)

    def _single(self, row: Tensor) -> Tensor:
        return self._log_prob(self._trace(self._free(row), _ONE), _ONE)

    def _mapped(self, x: Tensor) -> Tensor:
        return torch.vmap(self._single, randomness="different")(x)

    def _one_by_one(self, x: Tensor) -> Tensor:
        return torch.stack([self._single(row) for row in x])

    def _trace(
        self, free: Mapping[str, Tensor], layout: DrawLayout, drawn: Mapping[str, Tensor] | None = None
    ) -> Trace:
        """A run with log-probabilities of free coordinates in place of those of continuous sites."""
        drawn = drawn or {}
        sites = FreeSites(free, drawn, imputed=self.imputed, enumerating=bool(self.discrete))
        program = layout.laid_out(sites(self.model))
        if self.discrete:
            ways = {name: None if name in drawn else "parallel" for name in self.discrete}
            program = poutine.infer_config(program, lambda site: _enumerated(ways, site["name"]))
            program = Enumerated(first_available_dim=-1 - self.width - isinstance(layout, DrawsTogether))(program)
        with isolated():
            trace = poutine.trace(program).get_trace(*self.args, **self.kwargs)
        self._check_same(trace)
        trace.compute_log_prob()
        for name, volume in sites.volumes.items():
            for kind in ("log_prob", "unscaled_log_prob"):
                trace.nodes[name][kind] = trace.nodes[name][kind] + volume
        return trace

    def _check_same(self, trace: Trace) -> None:
        found = {node["name"] for node in trace.nodes.values() if is_statement(node) and not node["is_observed"]}
        expected = {*self.shapes, *self.discrete, *self.points}
        if found != expected:
            raise ValueError(
                f"`model` must have the same latent sites in every run, got one with {sorted(expected)} and one with "
                f"{sorted(found)}"
            )

    def _log_prob(self, trace: Trace, layout: DrawLayout) -> Tensor:
        if self.discrete:
            found = summed_log_prob(trace, None if layout is _ONE else DRAWS)
            found = found if layout is _ONE else found.reshape(layout.draws)  # of one chain it is a single number
            return torch.stack([torch.zeros_like(found), found], -1)
        prior, data = [], []
        for name, node in trace.nodes.items():
            if name in self.shapes and is_identically_one(node["scale"]):
                prior.append(node["log_prob"])
            elif name in self.shapes:
                prior.append(node["unscaled_log_prob"])
                data.append(node["log_prob"] - node["unscaled_log_prob"])
            elif is_statement(node):
                data.append(node["log_prob"])
        prior = self._total(prior, layout)
        return torch.stack([prior, self._total(data, layout) if data else torch.zeros_like(prior)], -1)

    def _total(self, values: list[Tensor], layout: DrawLayout) -> Tensor:
        if layout is _ONE:
            return sum(value.sum() for value in values)
        return sum(self._of_chains(value, layout).reshape(len(value), -1).sum(1) for value in values)

    def _of_chains(self, value: Tensor, layout: DrawLayout) -> Tensor:
        if value.dim() != self.width + 1 or len(value) != layout.draws:
            raise LayoutMismatch("a site is not batched by chains")
        return value

    def _free(self, x: Tensor) -> dict[str, Tensor]:
        parts = x.split([prod(shape) for shape in self.free_shapes.values()], -1)
        return {
            name: part.reshape(x.shape[:-1] + shape)
            for (name, shape), part in zip(self.free_shapes.items(), parts, strict=True)
        }

    def _placed(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``(chains, *shape)`` by site, with room for the plates that are not around it."""
        missing = {name: self.width - len(self.statements[name].distribution.batch_shape) for name in values}
        return {
            name: value.reshape(value.shape[:1] + (1,) * missing[name] + value.shape[1:])
            for name, value in values.items()
        }

    def _completed(self, x: Tensor, names: list[str]) -> dict[str, Tensor]:
        drawn: dict[str, Tensor] = {}
        for name in self.discrete:
            drawn[name] = self._drawn(x, drawn, name)
        if self._density == self._together:
            try:
                return self._completed_together(x, drawn, names)
            except Exception:  # noqa: BLE001  as in `fastest`
                pass
        return self._over_rows(lambda row, given: self._values(self._free(row), given, names), x, drawn)

    def _drawn(self, x: Tensor, drawn: Mapping[str, Tensor], name: str) -> Tensor:
        """A discrete site ``(rows, *shape)``, given others: the discrete ones after it are summed out.

        Given those before it, its entries in plates are independent of each other.
        """
        node = self._trace(self._free(x[0]), _ONE, {given: value[0] for given, value in drawn.items()}).nodes[name]
        zeros = torch.zeros_like(node["log_prob"])  # (values, *batch)

        def probabilities(row: Tensor, given: dict[str, Tensor]) -> Tensor:
            def evidence(added: Tensor) -> Tensor:
                return summed_log_prob(self._trace(self._free(row), _ONE, given), added={name: added})

            return torch.func.grad(evidence)(zeros)

        shape = self.statements[name].distribution.batch_shape
        chances = self._over_rows(probabilities, x, drawn).clamp(min=0)  # (rows, values, *batch)
        chances = chances.reshape(*chances.shape[:2], *shape).movedim(1, -1)
        support = node["fn"].enumerate_support(expand=False).reshape(chances.shape[-1], *node["fn"].event_shape)
        return support[torch.distributions.Categorical(chances).sample()]

    def _over_rows(self, function: Callable, x: Tensor, drawn: dict[str, Tensor]) -> Any:
        """A function of one point and its discrete sites, for all rows: mapped, or one by one where the density is."""
        if self._density != self._one_by_one:
            return torch.vmap(function, randomness="different")(x, drawn)
        rows = [function(x[row], {name: value[row] for name, value in drawn.items()}) for row in range(len(x))]
        return torch.utils._pytree.tree_map(lambda *entries: torch.stack(entries), *rows)

    def _values(
        self,
        free: Mapping[str, Tensor],
        drawn: Mapping[str, Tensor],
        names: list[str],
        layout: DrawLayout = _ONE,
    ) -> dict[str, Tensor]:
        found = self._run(layout.laid_out(FreeSites(free, drawn)(self.model)))
        return {name: found[name].value for name in names}

    def _completed_together(self, x: Tensor, drawn: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        layout = DrawsTogether(len(x), self.width)
        found = self._values(self._placed(self._free(x)), self._placed(drawn), names, layout)
        completed = {
            name: _out_of_plate(value, self.statements[name].value.shape, len(x)) for name, value in found.items()
        }
        alone = self._values(self._free(x[0]), {name: value[0] for name, value in drawn.items()}, names)
        for name in names:
            torch.testing.assert_close(completed[name][0], alone[name], rtol=1e-3, atol=1e-4, equal_nan=True)
        return completed


def _out_of_plate(value: Tensor, shape: torch.Size, rows: int) -> Tensor:
    """``(rows, *shape)`` of a value that has room for plates between the two."""
    if value.dim() <= len(shape):
        return value.expand(rows, *shape)
    between = value.dim() - 1 - len(shape)
    return value.expand(rows, *(1,) * between, *shape).reshape(rows, *shape)


def _enumerated(ways: Mapping[str, str | None], name: str) -> dict[str, Any]:
    """What Pyro is to know of a site: whether it is enumerated, whatever the model says of it."""
    return {"enumerate": ways[name], "num_samples": None} if name in ways else {}


def _check_sites(continuous: Mapping[str, Site], discrete: list[Site]) -> None:
    if not continuous:
        raise ValueError(f"`model` must have a continuous latent site, got discrete ones {[s.name for s in discrete]}")
    endless = [site.name for site in discrete if not site.distribution.has_enumerate_support]
    if endless:
        raise NotImplementedError(
            f"the discrete sites {endless} have no finite support, so they cannot be summed out; truncate their "
            "distributions, or sample them by a method of their own (TwistedSMC draws other latent sites along)"
        )
