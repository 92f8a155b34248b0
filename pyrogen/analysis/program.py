"""Programs: a Pyro model or guide, run once or many times with some of its sites given.

Many runs are made at once, under one outermost plate, where the program allows it. Whether it does is not taken on
trust: two of the runs are repeated alone, and where any log-probability or deterministic value differs, the program is
run once for each draw. So both ways give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrogen.core.shapes import Shape
from pyrogen.numerics.randomness import seeded

from .sites import Site, kind_of, rows_of, sites_of

_NUMBERS_AT_ONCE = 2**22
_PLATE = "_pyrogen_draws"


@dataclass
class Runs:
    """What many runs of a program gave; the leading dimension of every tensor counts the runs.

    Attributes:
        values: The value at each site, without factors and observed sites.
        log_probs: For each site its log-probability, masked but not scaled, of shape ``(draws, *batch_shape)``.
        scaled: For each site the sum of its log-probability, scaled and masked, of shape ``(draws,)``.
        silent: Sites that have no ``log_prob``, and therefore none of the two.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    log_probs: dict[str, Tensor] = field(default_factory=dict)
    scaled: dict[str, Tensor] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)


class Program:
    """A model or guide with its arguments.

    The rows that subsampling plates draw in the first run are kept for all later ones.

    Args:
        function: The Pyro program.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        rows: Rows for subsampling plates, as another program drew them.
        free: Whether observed sites are drawn as if they were not observed.
    """

    def __init__(
        self,
        function: Callable,
        args: tuple,
        kwargs: Mapping[str, Any],
        *,
        rows: dict[str, Tensor] | None = None,
        free: bool = False,
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.rows = dict(rows or {})
        self.free = free
        self.sites: dict[str, Site] = {}

    def look(self, given: Mapping[str, Tensor]) -> dict[str, Site]:
        """Runs once to see the sites, leaving the random generators as they were."""
        with seeded(0):
            trace = self._trace(given)
        self.rows = {**rows_of(trace), **self.rows}
        self.sites = sites_of(trace)
        return self.sites

    def run(self, given: Mapping[str, Tensor], draws: int, *, score: bool = True) -> Runs:
        """Runs ``draws`` times.

        Args:
            given: Values for some sites, each of shape ``(draws, *site_shape)``.
            draws: How many runs.
            score: Whether log-probabilities are wanted.
        """
        try:
            return _join([self._together(part, given, score) for part in self._parts(draws)])
        except Exception:  # a program may fail in any way on many draws at once; on one, it shows its own errors
            return self._one_by_one(given, draws, score)

    def scored(self, given: Mapping[str, Tensor], name: str) -> tuple[dict[str, Any], Tensor]:
        """The distributions of all sites in one run, and the log-probability of a site."""
        with seeded(0):
            trace = self._trace(given)
        return {site: trace.nodes[site]["fn"] for site in self.sites}, _scores(trace).log_probs[name]

    def _trace(self, given: Mapping[str, Tensor], plate: AbstractContextManager | None = None) -> Trace:
        with _Given(given, self.rows, self.free), plate or nullcontext():  # given last, once the plate has broadcast
            return poutine.trace(self.function).get_trace(*self.args, **self.kwargs)

    def _parts(self, draws: int) -> Iterator[slice]:
        """Draws that are run together, few enough for memory."""
        numbers = sum(prod(site.shape) for site in self.sites.values())
        size = max(1, min(draws, _NUMBERS_AT_ONCE // max(numbers, 1)))
        return (slice(start, min(start + size, draws)) for start in range(0, draws, size))

    def _together(self, part: slice, given: Mapping[str, Tensor], score: bool) -> Runs:
        draws = part.stop - part.start
        width = max((len(site.plates) for site in self.sites.values()), default=0)
        given = {name: self._spread(name, value[part], width) for name, value in given.items()}
        trace = self._trace(given, pyro.plate(_PLATE, draws, dim=-width - 1))
        check = part.start == 0
        runs = _scores(trace) if score or check else Runs()
        runs.values = _values(trace)
        for tensors in (runs.values, runs.log_probs):
            for name, tensor in tensors.items():
                site = self.sites[name]
                shape = site.shape if tensors is runs.values else site.batch_shape
                tensors[name] = _align(tensor, draws, shape)
        runs.scaled = {name: _sum(tensor, draws) for name, tensor in runs.scaled.items()}
        if check:
            self._check(runs, {0, draws - 1})
        return runs if score else Runs(runs.values)

    def _spread(self, name: str, value: Tensor, width: int) -> Tensor:
        """``(draws, *shape)`` with room for the plates that are not around this site."""
        site = self.sites.get(name)
        if site is None:
            return value
        value = value.reshape(len(value), *site.shape)
        return value.reshape(len(value), *(1,) * (width - len(site.plates)), *site.shape)

    def _check(self, runs: Runs, draws: set[int]) -> None:
        """Repeats some of the runs alone.

        Raises:
            _Differs: they give other numbers, or none to compare.
        """
        drawn = {name: value for name, value in runs.values.items() if self.sites[name].kind != "deterministic"}
        for draw in draws:
            trace = self._trace({name: value[draw] for name, value in drawn.items()})
            alone = _scores(trace)
            alone.values = _values(trace)
            if runs.silent or alone.values.keys() != runs.values.keys():
                raise _Differs
            for name, value in alone.values.items():
                _compare(runs.values[name][draw], value)
            for name, log_prob in alone.log_probs.items():
                _compare(runs.log_probs[name][draw], log_prob)
            for name, total in alone.scaled.items():
                _compare(runs.scaled[name][draw], total.sum())

    def _one_by_one(self, given: Mapping[str, Tensor], draws: int, score: bool) -> Runs:
        collected = []
        for draw in range(draws):
            trace = self._trace({name: value[draw] for name, value in given.items()})
            runs = _scores(trace) if score else Runs()
            runs.values = _values(trace)
            runs.scaled = {name: tensor.sum() for name, tensor in runs.scaled.items()}
            for tensors in (runs.values, runs.log_probs, runs.scaled):
                tensors.update({name: tensor[None] for name, tensor in tensors.items()})
            collected.append(runs)
        return _join(collected)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A scope for looking: no gradients, no validation, nothing seen by handlers outside, no parameter left behind."""
    store = pyro.get_param_store()
    known = set(store.keys())
    with torch.no_grad(), poutine.block(), pyro.validation_enabled(False):
        try:
            yield
        finally:
            for name in set(store.keys()) - known:
                del store[name]


def fitted(name: str, value: Tensor, shape: Shape) -> Tensor:
    """A value in the shape of its site; ``Predictive`` puts dimensions of size one to the left of it.

    Raises:
        ValueError: it has another shape.
    """
    extra = value.dim() - len(shape)
    if tuple(value.shape) == tuple(shape):
        return value
    if extra > 0 and tuple(value.shape) == (1,) * extra + tuple(shape):
        return value.reshape(shape)
    raise ValueError(f"the draws of site `{name}` must each have shape {tuple(shape)}, got {tuple(value.shape)}")


class _Differs(Exception):
    """A run among many gave other numbers than alone."""


class _Given(Messenger):
    """Gives sites their values and plates their rows; leaves observed sites alone, or frees them first.

    ``poutine.uncondition`` would free deterministic sites as well, and in a plate their drawn value has another shape.
    """

    def __init__(self, values: Mapping[str, Tensor], rows: Mapping[str, Tensor], free: bool) -> None:
        super().__init__()
        self.values = values
        self.rows = rows
        self.free = free

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name, value = msg["name"], None
        if self.free and kind_of(msg) == "observed":
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
        if site_is_subsample(msg):
            value = self.rows.get(name) if msg["value"] is None else None
        elif name in self.values and not msg["is_observed"]:
            value = fitted(name, self.values[name], msg["fn"].shape())
        if value is not None:
            msg["value"], msg["done"] = value, True


def _values(trace: Trace) -> dict[str, Tensor]:
    return {name: node["value"] for name, node in trace.nodes.items() if kind_of(node) in ("latent", "deterministic")}


def _scores(trace: Trace) -> Runs:
    """The log-probabilities of all sites; observed values need no record."""
    runs = Runs()
    for name, node in trace.nodes.items():
        if kind_of(node) in (None, "deterministic"):
            continue
        try:
            log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
        except NotImplementedError:  # an implicit distribution
            runs.silent.add(name)
            continue
        shape = torch.broadcast_shapes(log_prob.shape, node["fn"].batch_shape)
        runs.log_probs[name] = scale_and_mask(log_prob, 1.0, node["mask"]).expand(shape)
        runs.scaled[name] = scale_and_mask(log_prob, node["scale"], node["mask"]).expand(shape)
    return runs


def _align(tensor: Tensor, draws: int, shape: Shape) -> Tensor:
    """``(draws, 1, ..., *shape)``, or a constant of ``shape``, as ``(draws, *shape)``."""
    if tuple(tensor.shape) == tuple(shape):
        return tensor.expand(draws, *shape)
    ones = (1,) * (tensor.dim() - 1 - len(shape))
    if tuple(tensor.shape) != (draws, *ones, *shape):
        raise _Differs
    return tensor.reshape(draws, *shape)


def _sum(tensor: Tensor, draws: int) -> Tensor:
    if not tensor.dim() or len(tensor) != draws:
        raise _Differs
    return tensor.flatten(1).sum(1) if tensor.dim() > 1 else tensor


def _compare(together: Tensor, alone: Tensor) -> None:
    """Compares numbers of the same draw, run with others and alone.

    Raises:
        _Differs: they are not equal up to rounding.
    """
    if together.shape != alone.shape:
        raise _Differs
    exact = not (alone.is_floating_point() or alone.is_complex())
    tolerance = 0.0 if exact else 200 * torch.finfo(alone.dtype).eps
    if not torch.allclose(together, alone, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise _Differs


def _join(parts: list[Runs]) -> Runs:
    """Several parts after one another; a site that is not in all of them, in one shape, is dropped."""
    return Runs(
        _concatenate([part.values for part in parts]),
        _concatenate([part.log_probs for part in parts]),
        _concatenate([part.scaled for part in parts]),
        set().union(*(part.silent for part in parts)),
    )


def _concatenate(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    common = [name for name in parts[0] if all(name in part for part in parts)]
    same = [name for name in common if len({part[name].shape[1:] for part in parts}) == 1]
    return {name: torch.cat([part[name] for part in parts]) for name in same}
