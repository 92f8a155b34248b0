"""A Pyro model or guide, run once or many times with some of its sites given.

Many runs are made at once, under one outermost plate, where the program allows it. Whether it does is not taken on
trust: two of the runs are repeated alone, and where any log-probability or computed value differs, the program is run
once for each draw. So both ways give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.core.shapes import Shape
from pyrogen.numerics.randomness import seeded
from pyrogen.programs.layouts import DrawLayout, DrawsTogether, LayoutMismatch, OneDraw
from pyrogen.programs.run import Given, ProgramRun, run

from .sites import NamedSite, named_sites

_NUMBERS_AT_ONCE = 2**22


@dataclass
class Draws:
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

    @property
    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """All of them."""
        return self.values, self.log_probs, self.scaled


class BoundProgram:
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
        self.sites: dict[str, NamedSite] = {}

    def read(self, given: Mapping[str, Tensor]) -> dict[str, NamedSite]:
        """Runs once to see the sites, leaving the random generators as they were."""
        with seeded(0):
            found = self._run(given)
        self.rows = {**{name: torch.as_tensor(rows) for name, rows in found.indices.items()}, **self.rows}
        self.sites = named_sites(found.statements.values())
        return self.sites

    def draw(self, given: Mapping[str, Tensor], draws: int, *, score: bool = True) -> Draws:
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

    def unrepeatable(self, given: Mapping[str, Tensor]) -> set[str]:
        """The sites whose log-probability differs from run to run at the same values of all latent sites.

        So it does where the program draws numbers that are no sites: it is conditional on them, and not a function of
        the sites alone. Log-probabilities that are estimates by themselves do not count.

        Args:
            given: Values for sites, each of shape ``(draws, *site_shape)``, of which the first is tried.
        """
        found = self._alone(0, given, score=True)
        again = self._alone(0, self._drawn(found), score=True)
        first, second = found.log_probs, again.log_probs
        exact = [name for name in first.keys() & second.keys() if self.sites[name].density == "exact"]
        return {name for name in exact if _differ(first[name], second[name])}

    def scored(self, given: Mapping[str, Tensor], name: str) -> tuple[dict[str, Distribution], Tensor]:
        """The distributions of all sites in one run, and the log-probability of a site."""
        with seeded(0):
            found = self._run(given).statements
        return {site: found[site].distribution for site in self.sites}, found[name].log_prob()

    def _run(self, given: Mapping[str, Tensor], layout: DrawLayout | None = None) -> ProgramRun:
        program = (layout or OneDraw()).laid_out(self.function)

        def with_values(*args: Any, **kwargs: Any) -> Any:
            with _Fitted(given), Given({**self.rows, **given}, free=self.free):
                return program(*args, **kwargs)

        return run(with_values, self.args, self.kwargs)

    def _parts(self, draws: int) -> Iterator[slice]:
        """Draws that are run together, few enough for memory."""
        numbers = sum(prod(site.shape) for site in self.sites.values())
        size = max(1, min(draws, _NUMBERS_AT_ONCE // max(numbers, 1)))
        return (slice(start, min(start + size, draws)) for start in range(0, draws, size))

    def _together(self, part: slice, given: Mapping[str, Tensor], score: bool) -> Draws:
        draws = part.stop - part.start
        width = max((len(site.dims) for site in self.sites.values()), default=0)
        given = {name: self._broadcast(name, value[part], width) for name, value in given.items()}
        check = part.start == 0
        found = _draws_of(self._run(given, DrawsTogether(draws, width)), score or check)
        for tensors in (found.values, found.log_probs):
            for name, tensor in tensors.items():
                site = self.sites[name]
                shape = site.shape if tensors is found.values else site.batch_shape
                tensors[name] = _align(tensor, draws, shape)
        found.scaled = {name: _sum(tensor, draws) for name, tensor in found.scaled.items()}
        if check:
            self._check(found, {0, draws - 1})
        return found if score else Draws(found.values)

    def _broadcast(self, name: str, value: Tensor, width: int) -> Tensor:
        """``(draws, *shape)`` with room for the plates that are not around this site."""
        site = self.sites.get(name)
        if site is None:
            return value
        value = value.reshape(len(value), *site.shape)
        return value.reshape(len(value), *(1,) * (width - len(site.dims)), *site.shape)

    def _one_by_one(self, given: Mapping[str, Tensor], draws: int, score: bool) -> Draws:
        return _join([self._alone(draw, given, score) for draw in range(draws)])

    def _alone(self, draw: int, given: Mapping[str, Tensor], score: bool) -> Draws:
        found = _draws_of(self._run({name: value[draw] for name, value in given.items()}), score)
        found.scaled = {name: tensor.sum() for name, tensor in found.scaled.items()}
        for tensors in found.tensors:
            tensors.update({name: tensor[None] for name, tensor in tensors.items()})
        return found

    def _drawn(self, found: Draws) -> dict[str, Tensor]:
        """Values of the sites that are drawn, not computed."""
        return {name: value for name, value in found.values.items() if not self.sites[name].computed}

    def _check(self, found: Draws, draws: set[int]) -> None:
        """Repeats some of the runs alone.

        Raises:
            LayoutMismatch: they give other numbers, or none to compare.
        """
        for draw in draws:
            alone = self._alone(draw, self._drawn(found), score=True)
            if found.silent or alone.values.keys() != found.values.keys():
                raise LayoutMismatch
            for together, single in zip(found.tensors, alone.tensors, strict=True):
                for name, tensor in single.items():
                    if _differ(together[name][draw], tensor[0]):
                        raise LayoutMismatch


@contextmanager
def undisturbed() -> Iterator[None]:
    """A scope for reading programs: no gradients, no validation, no handlers outside, and no parameter left behind."""
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


class _Fitted(Messenger):
    """Brings the values given to sites, further in, into the shapes of their sites."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.given = given

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.given and not msg["is_observed"]:
            msg["value"] = fitted(msg["name"], msg["value"], msg["fn"].shape())


def _draws_of(found: ProgramRun, score: bool) -> Draws:
    """Values as they are, and the log-probabilities of all sites where they are wanted."""
    kinds = ("latent", "computed")
    draws = Draws({name: site.value for name, site in found.statements.items() if site.kind in kinds})
    for name, site in found.sites.items() if score else ():
        try:
            draws.log_probs[name] = site.log_prob()
        except NotImplementedError:  # an implicit distribution
            draws.silent.add(name)
            continue
        draws.scaled[name] = scale_and_mask(draws.log_probs[name], site.scale)
    return draws


def _align(tensor: Tensor, draws: int, shape: Shape) -> Tensor:
    """``(draws, 1, ..., *shape)``, or a constant of ``shape``, as ``(draws, *shape)``."""
    if tuple(tensor.shape) == tuple(shape):
        return tensor.expand(draws, *shape)
    ones = (1,) * (tensor.dim() - 1 - len(shape))
    if tuple(tensor.shape) != (draws, *ones, *shape):
        raise LayoutMismatch
    return tensor.reshape(draws, *shape)


def _sum(tensor: Tensor, draws: int) -> Tensor:
    if not tensor.dim() or len(tensor) != draws:
        raise LayoutMismatch
    return tensor.flatten(1).sum(1) if tensor.dim() > 1 else tensor


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether numbers of two runs are not equal up to rounding."""
    exact = not (one.is_floating_point() or one.is_complex())
    tolerance = 0.0 if exact else 200 * torch.finfo(one.dtype).eps
    return one.shape != other.shape or not torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)


def _join(parts: list[Draws]) -> Draws:
    """Several parts after one another; a site that is not in all of them, in one shape, is dropped."""
    tensors = (_concatenate(kind) for kind in zip(*(part.tensors for part in parts), strict=True))
    return Draws(*tensors, set().union(*(part.silent for part in parts)))


def _concatenate(parts: tuple[dict[str, Tensor], ...]) -> dict[str, Tensor]:
    common = [name for name in parts[0] if all(name in part for part in parts)]
    same = [name for name in common if len({part[name].shape[1:] for part in parts}) == 1]
    return {name: torch.cat([part[name] for part in parts]) for name in same}
