"""Hearing what a Pyro program does, without changing it."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn


class Listener(Messenger):
    """Hears whether Pyro statements run, and which parameters they register outside any module."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = False
        self.parameters: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        self.sites = True

    def _pyro_post_param(self, msg: Any) -> None:
        self.parameters[msg["name"]] = msg["value"]

    def refuse_strangers(self, module: nn.Module) -> None:
        """Raises if ``pyro.param`` made a parameter that no module owns."""
        known = {id(parameter) for parameter in module.parameters()}
        strange = [name for name, value in self.parameters.items() if id(value.unconstrained()) not in known]
        if strange:
            raise ValueError(
                f"`target` has parameters made by `pyro.param` that no module owns and `fit` cannot train: {strange}; "
                "make them nn.Parameter or PyroParam attributes, or train with pyro.infer.SVI"
            )
