"""Hearing what a Pyro program does, without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn


class Listener(Messenger):
    """Hears Pyro's statements: how many, which parameters they make, and which modules make none.

    Attributes:
        statements: How many statements ran.
        parameters: The parameters (unconstrained) that ``pyro.param`` gave, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.statements = 0
        self.parameters: dict[str, Tensor] = {}
        self._silent: set[nn.Module] = set()
        self._speaking: set[nn.Module] = set()
        self._before: list[int] = []

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """A scope in which it hears everything that is run, and sees the calls of a module's parts."""
        with ExitStack() as stack:
            for part in module.modules():
                stack.enter_context(part.register_forward_pre_hook(self._enter))
                stack.enter_context(part.register_forward_hook(self._leave))
            stack.enter_context(self)
            yield

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._before.append(self.statements)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        silent = self._before.pop() == self.statements
        if not silent:
            self._speaking.add(module)
        elif _holds_tensors(output):
            self._silent.add(module)

    @property
    def networks(self) -> set[nn.Module]:
        """The modules that gave tensors and never ran a statement."""
        return self._silent - self._speaking

    def _pyro_post_sample(self, msg: Any) -> None:
        self.statements += 1

    def _pyro_post_param(self, msg: Any) -> None:
        self.statements += 1
        self.parameters[msg["name"]] = msg["value"].unconstrained()

    def refuse_strangers(self, module: nn.Module) -> None:
        """Raises if ``pyro.param`` made a parameter that no module owns."""
        known = {id(parameter) for parameter in module.parameters()}
        strange = [name for name, value in self.parameters.items() if id(value) not in known]
        if strange:
            raise ValueError(
                f"`target` has parameters made by `pyro.param` that no module owns and `fit` cannot train: {strange}; "
                "make them nn.Parameter or PyroParam attributes, or train with pyro.infer.SVI"
            )


def _holds_tensors(output: Any) -> bool:
    if isinstance(output, (tuple, list)):
        return bool(output) and all(map(_holds_tensors, output))
    return isinstance(output, Tensor)
