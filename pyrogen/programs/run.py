"""Running a Pyro program with given values, and recording what ran."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .site import Site, is_site, site_of

Program = Callable[..., Any]


@dataclass(frozen=True)
class Run:
    """What a run of a program left.

    Attributes:
        sites: Its sites by name, in the order of the program.
        indices: The rows that each plate took, by the name of the plate.
        result: What the program returned.
    """

    sites: dict[str, Site]
    indices: dict[str, Tensor]
    result: Any


def run(
    program: Program,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    given: Mapping[str, Tensor] | None = None,
) -> Run:
    """Runs a program once, unseen by handlers around it.

    Args:
        program: A Pyro model or guide.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        given: Values of latent sites, by name. Names that the program lacks are ignored, as Pyro does. The name of a
            plate gives the rows that a subsampled plate takes.
    """
    with poutine.block(), Record() as record, Given(given or {}):
        result = program(*args, **(kwargs or {}))
    return Run({site.name: site for site in record.sites}, record.indices, result)


class Record(Messenger):
    """Records the sites of whatever programs run in its scope.

    Attributes:
        sites: The sites in the order they ran; a guide's site and the model's of the same name are two entries.
        indices: The rows that each plate took, by the name of the plate.
        parameters: The names of the parameters that ``pyro.param`` gave inside a plate, with an entry for each of its
            rows, by the name of the plate.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Site] = []
        self.indices: dict[str, Tensor] = {}
        self.parameters: dict[str, list[str]] = {}

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            self.indices[msg["name"]] = msg["value"]
        elif is_site(msg):
            self.sites.append(site_of(msg))

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        event_dim, shape = msg["kwargs"].get("event_dim"), msg["value"].shape
        for frame in msg["cond_indep_stack"] if event_dim is not None else ():
            place = event_dim - frame.dim if frame.vectorized else len(shape) + 1
            if place <= len(shape) and shape[-place] in (frame.size, frame.full_size):
                self.parameters.setdefault(frame.name, []).append(msg["name"])


class Given(Messenger):
    """Gives latent sites their values, and plates their rows, by name.

    Args:
        values: The values. Names that a program lacks are ignored.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True
