"""An amortized posterior as a guide of its program."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor, nn

from pyrogen.arrays import as_tensors
from pyrogen.distributions.point import Point
from pyrogen.programs.run import Program, Record, Until, isolated

from .joint.joint import Joint
from .joint.variable import Variable

if TYPE_CHECKING:
    from .posterior import Posterior

_VECTOR = "_pyrogen_posterior"


class ProgramModel(nn.Module):
    """A program as a module, called as the program is, or with a dict of all observed values by site.

    Args:
        joint: The program, and what of it is observed.
    """

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.joint = joint

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        program, args, kwargs = _call(self.joint, args, kwargs)
        return program(*args, **kwargs)


class PosteriorGuide(nn.Module):
    """The guide of a program that draws all latent sites at once from a posterior; called as :class:`ProgramModel` is.

    It runs the program first, to see what is observed. One auxiliary site holds the vector of all latent sites; each of
    them is a point mass at its part of it, in the plates that it has in the program.

    Args:
        posterior: The posterior.
    """

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        distribution = self.posterior(self.posterior.context_of(self._observed(args, kwargs)))
        vector = pyro.sample(_VECTOR, distribution, infer={"is_auxiliary": True})
        values = self.posterior.sites(vector)
        plates = self._plates()
        return {name: self._site(variable, values[name], plates) for name, variable in self._variables.items()}

    @property
    def _variables(self) -> dict[str, Variable]:
        return self.posterior.packing.variables

    def _observed(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """The observed values in a call of the program."""
        names = list(self.posterior.joint.observed)
        program, args, kwargs = _call(self.posterior.joint, args, kwargs)
        with torch.no_grad(), pyro.validation_enabled(False), isolated(), Record() as record, Until(names):
            program(*args, **kwargs)
        statements = {statement.name: statement for statement in record.statements}
        free = [name for name in names if name not in statements or not statements[name].observed]
        if free:
            raise ValueError(
                f"the guide must be called with the data of all observed sites {names}, got none of {free}"
            )
        return {name: statements[name].value for name in names}

    def _plates(self) -> dict[str, pyro.plate]:
        """The plates of all sites: of one name there may be one statement only, for all sites that are in it."""
        found = {plate.name: plate for variable in self._variables.values() for plate in variable.plates}
        return {
            name: pyro.plate(name, plate.size, dim=plate.dim) for name, plate in found.items() if plate.dim is not None
        }

    @staticmethod
    def _site(variable: Variable, value: Tensor, plates: dict[str, pyro.plate]) -> Tensor:
        outer = value.shape[: value.dim() - len(variable.shape)]  # of plates around the guide, as for many particles
        spare = len(variable.batch_shape)
        kept = outer[: len(outer) - spare] if spare and len(outer) >= spare else outer
        value = value.reshape(kept + variable.shape) if kept.numel() == outer.numel() else value
        with ExitStack() as stack:
            for plate in variable.plates:
                if plate.dim is not None:
                    stack.enter_context(plates[plate.name])
            return pyro.sample(variable.name, Point(value, event_dim=variable.event_dim))


def _call(joint: Joint, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Program, tuple, Mapping[str, Any]]:
    """The program and its arguments; given all observed values by site, it is conditioned on them instead."""
    if len(args) == 1 and not kwargs and isinstance(args[0], Mapping) and set(args[0]) == set(joint.observed):
        return pyro.condition(joint.program, data=as_tensors(args[0], "data")), joint.args, joint.kwargs
    return joint.program, args, kwargs
