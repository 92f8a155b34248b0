"""A program with learned modules in the place of its simulators.

At each observed site whose module is given, the module's distribution stands in the place of the program's, in the same
plates and with the same data. Where it can, the program is left after its last latent site, so that nothing is
simulated: that is so when it takes its data by arguments, all its observed sites are replaced, and no mask or scale of
its own lies upon them. Else it runs to its end, and only draws of the simulator's own site are avoided. Which of the
two it is, and which plates stand around its observed sites, is read off one run for all calls alike: with the same
shapes of tensors and the same other arguments, single numbers in tensors among them. For a program that also changes
with what is outside of its arguments, make :func:`replaced` again after a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import Tensor, nn

from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.randomness import held
from pyrogen.programs.run import Until, isolated
from pyrogen.programs.site import is_site

from .joint.joint import Joint

if TYPE_CHECKING:
    from .rows.learned import LearnedSite

Path = tuple[int | str, ...]

_MANY = 64
"""So many kinds of calls are remembered."""


def replaced(joint: Joint, *modules: LearnedSite) -> ReplacedProgram:
    """The program with what is learned in the place of its simulators, a Pyro program that is called as it is.

    It serves NUTS, SVI, importance weights and all else that takes a program. The modules are copied as they are now,
    in evaluation mode, and frozen: inference over latent sites does not train them. Nuisance sites that were summed out
    of what was learned, and on which nothing else depends, are not shown to inference.

    Args:
        joint: The program.
        modules: Learned likelihoods and ratios, one for each observed site that is to be replaced.

    Raises:
        TypeError: an argument is something else.
        ValueError: there is no module, two are of one site, or one is of a site that the program does not have.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> import pyrogen as pg
        >>> def program(x=None):
        ...     theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(theta, 1.0), obs=x)
        >>> joint = pg.simulation.Joint(program, observed="x")
        >>> learned = replaced(joint, pg.simulation.likelihood(joint))
        >>> pyro.poutine.trace(learned).get_trace(torch.zeros(())).log_prob_sum().shape
        torch.Size([])
    """
    if not isinstance(joint, Joint):
        raise TypeError(f"`joint` must be a Joint, got {type(joint).__name__}")
    return ReplacedProgram(joint, modules)


class ReplacedProgram(nn.Module):
    """A program with learned modules at observed sites; see :func:`replaced`."""

    def __init__(self, joint: Joint, modules: tuple[LearnedSite, ...]) -> None:
        super().__init__()
        from .rows.learned import LearnedSite

        for module in modules:
            if not isinstance(module, LearnedSite):
                raise TypeError(f"`modules` must hold learned likelihoods and ratios, got {type(module).__name__}")
        names = [module.site for module in modules]
        if not names or len(set(names)) < len(names) or not set(names) <= joint.observed.keys():
            raise ValueError(
                f"`modules` must be of different sites among the observed ones {list(joint.observed)}, got {names}"
            )
        computed = [name for name in names if name not in joint.dependence.sites]
        if computed:
            raise ValueError(
                f"`modules` must be of sites that can be given data, got {computed[0]!r}, which is computed: write it "
                "as a `pyrogen.simulation.Simulator` with `obs=`, in the place of `pyro.deterministic`"
            )
        self.joint = joint
        self.learned = nn.ModuleList(deepcopy(module).eval().requires_grad_(False) for module in modules)
        self.hidden = _hidden(joint, set(names))
        self._plans: dict[tuple, _Plan | None] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        modules = {module.site: module for module in self.learned}
        plan = self._plan(args, kwargs)
        with poutine.block(hide=self.hidden), _Replacing(modules) as replacing:
            if plan is not None:
                return self._run_early(plan, replacing, args, kwargs)
            result = self.joint.program(*args, **kwargs)
        if modules.keys() - replacing.done:
            missing = sorted(modules.keys() - replacing.done)
            parts = " (but with parts of them, by `obs_mask`: write `poutine.mask` in its place)"
            split = parts if any(f"{name}_observed" in replacing.values for name in missing) else ""
            raise ValueError(f"`program` must run the sites that are replaced, got a run without {missing}{split}")
        return result

    def _run_early(self, plan: _Plan, replacing: _Replacing, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """Leaves the program after its last latent site, and goes on with its observed ones."""
        if plan.latent:
            with Until(plan.latent):
                self.joint.program(*args, **kwargs)
        for place in plan.places:
            if place.name not in replacing.done:
                with _Inside(place.frames):
                    pyro.sample(place.name, replacing.distribution(place.name), obs=place.value(args, kwargs))

    def _plan(self, args: tuple, kwargs: Mapping[str, Any]) -> _Plan | None:
        """How the program is left early when it is called so; ``None`` where it must run to its end."""
        key = tuple(_described((args, dict(kwargs))))
        if key not in self._plans:
            if len(self._plans) == _MANY:
                self._plans.clear()
            names = {module.site for module in self.learned}
            self._plans[key] = _plan(self.joint, names, self.hidden, args, kwargs)
        plan = self._plans[key]
        taken = {-1 - place for place, name in enumerate(_DIM_ALLOCATOR._stack) if name is not None}
        # Plates without a dimension of their own lie elsewhere where a plate around the call has theirs.
        return None if plan is None or taken & plan.dims else plan

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plans": {}}


@dataclass(frozen=True)
class _Place:
    """Where an observed site stands.

    Attributes:
        name: Its name.
        frames: The plates around it.
        path: Where its value is among the arguments; ``None`` if the program does not observe it.
    """

    name: str
    frames: tuple[CondIndepStackFrame, ...]
    path: Path | None

    def value(self, args: tuple, kwargs: Mapping[str, Any]) -> Any:
        found: Any = (args, kwargs)
        for step in self.path or ():
            found = found[step]
        return None if self.path is None else found


@dataclass(frozen=True)
class _Plan:
    """Which latent sites a program has, and where its observed sites stand, in the order of the program."""

    latent: frozenset[str]
    places: tuple[_Place, ...]

    @property
    def dims(self) -> set[int | None]:
        """The dimensions of the plates around observed sites."""
        return {frame.dim for place in self.places for frame in place.frames}


def _hidden(joint: Joint, replaced: set[str]) -> list[str]:
    """The nuisance sites on which nothing depends but replaced sites: inference need not know of them."""
    others = [name for name in (*joint.latents, *joint.observed) if name not in replaced]
    needed = {nuisance for name in others for nuisance in joint.dependence.ancestors(name)}
    return [name for name in joint.nuisance if name not in needed]


def _plan(
    joint: Joint, replaced: set[str], hidden: Sequence[str], args: tuple, kwargs: Mapping[str, Any]
) -> _Plan | None:
    messages = _Messages(replaced)
    args, kwargs = _apart((args, dict(kwargs)))
    try:
        with held(), torch.no_grad(), isolated(), messages:
            joint.program(*args, **kwargs)
    except Exception:  # a simulator may fail in any way; in inference it is not to run
        return None
    places = []
    observed = [message for message in messages.found if message["name"] in joint.observed or message["is_observed"]]
    for message in observed:
        frames, found = message["cond_indep_stack"], list(_paths((args, kwargs), message["given"]))
        plain = message["mask"] is None and message["scale"] == prod((f.full_size or f.size) / f.size for f in frames)
        if message["name"] not in replaced or not plain or (message["given"] is not None and not found):
            return None
        places.append(_Place(message["name"], frames, found[0] if found else None))
    latent = frozenset(
        message["name"] for message in messages.found if message not in observed and message["name"] not in hidden
    )
    return _Plan(latent, tuple(places))


class _Messages(Messenger):
    """Keeps what ran, and the values that the program itself gave; some sites are not drawn.

    Args:
        undrawn: Their names.
    """

    def __init__(self, undrawn: set[str]) -> None:
        super().__init__()
        self.undrawn = undrawn
        self.found: list[dict[str, Any]] = []
        self._given: Any = None

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        self._given = msg["value"] if msg["is_observed"] else None
        if msg["name"] in self.undrawn and msg["value"] is None:
            msg["value"], msg["done"] = torch.zeros(msg["fn"].shape()), True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if is_site(msg):
            self.found.append({**msg, "given": self._given})


class _Replacing(Messenger):
    """Puts the distributions of learned modules in the place of those of a program.

    Args:
        modules: The modules by site.
    """

    def __init__(self, modules: Mapping[str, LearnedSite]) -> None:
        super().__init__()
        self.modules = modules
        self.values: dict[str, Tensor] = {}
        self.done: set[str] = set()

    def distribution(self, name: str) -> TorchDistributionMixin:
        """The learned distribution, given the values of the run so far."""
        module = self.modules[name]
        self.done.add(name)
        missing = [parent for parent in module.row.parents if parent not in self.values]
        if missing:
            raise ValueError(f"`program` must run {missing} before the site {name!r}, got a run without them")
        return module(module.row.context(self.values))

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if name not in self.modules or not is_site(msg):
            return
        if name not in self.done:
            learned, own = self.distribution(name), msg["fn"]
            msg["fn"] = learned.expand(torch.broadcast_shapes(learned.batch_shape, own.batch_shape))
        if msg["value"] is not None and is_validation_enabled():
            _refuse(msg["value"], self.modules[name], msg["mask"])

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if is_site(msg):
            self.values[msg["name"]] = msg["value"]


class _Inside(Messenger):
    """Plates that a program had, without their statements.

    Args:
        frames: What Pyro knows of them.
    """

    def __init__(self, frames: tuple[CondIndepStackFrame, ...]) -> None:
        super().__init__()
        self.frames = frames

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        msg["cond_indep_stack"] = self.frames + msg["cond_indep_stack"]
        for frame in self.frames:
            msg["scale"] = msg["scale"] * (frame.full_size or frame.size) / frame.size
        BroadcastMessenger._pyro_sample(msg)


def _refuse(value: Any, module: LearnedSite, mask: Any) -> None:
    """Refuses data of another shape, or with NaN that no mask hides."""
    shape = module.event_shape
    if not isinstance(value, Tensor) or value.shape[value.dim() - len(shape) :] != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"the data of site {module.site!r} must end in shape {shape}, got {got}")
    if value.is_floating_point():
        missing = value.isnan().reshape(*value.shape[: value.dim() - len(shape)], -1).any(-1)
        shown = missing if mask is None else missing & mask
        if bool(shown.any()):
            raise ValueError(
                f"the data of site {module.site!r} must hold no NaN in rows that no mask hides, got {int(shown.sum())}"
            )


def _paths(value: Any, wanted: Any, path: Path = ()) -> Iterator[Path]:
    """Where an object is among arguments, in tuples, lists and dicts."""
    if value is wanted and isinstance(value, Tensor):
        yield path
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _paths(part, wanted, (*path, key))
    elif isinstance(value, (tuple, list)):
        for place, part in enumerate(value):
            yield from _paths(part, wanted, (*path, place))


def _described(value: Any, path: Path = ()) -> Iterator[tuple]:
    """What a program may run differently by: the shapes of its arguments, and values that are no data."""
    if isinstance(value, Tensor):
        yield path, tuple(value.shape), value.dtype
        if value.numel() == 1 and not is_functional((value,)):
            yield path, value.item()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _described(part, (*path, key))
    elif isinstance(value, (tuple, list)):
        for place, part in enumerate(value):
            yield from _described(part, (*path, place))
    else:
        plain = isinstance(value, (bool, int, float, str, type(None)))
        yield path, type(value), value if plain else _Itself(value)


class _Itself:
    """An object as a key, equal to itself alone; it is kept, so that no other can come to lie in its place.

    Args:
        value: The object.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _apart(value: Any) -> Any:
    """Arguments of which no two are one tensor, as those of a later call need not be: so the place of each is known."""
    if isinstance(value, Tensor):
        return value.view_as(value)
    if isinstance(value, Mapping):
        return {key: _apart(part) for key, part in value.items()}
    return type(value)(map(_apart, value)) if type(value) in (tuple, list) else value
