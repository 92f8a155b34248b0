"""Which of Pyro's statements an objective runs, without changing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor, nn


class Statements(Messenger):
    """Counts Pyro's statements, and notes which parameters they make and which modules run none.

    Attributes:
        count: How many statements ran.
        parameters: The parameters (unconstrained) that ``pyro.param`` gave, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.parameters: dict[str, Tensor] = {}
        self._without: set[nn.Module] = set()
        self._with: set[nn.Module] = set()
        self._before: list[int] = []

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """A scope in which it also notes the calls of a module's parts."""
        with ExitStack() as stack:
            for part in module.modules():
                stack.enter_context(part.register_forward_pre_hook(self._enter))
                stack.enter_context(part.register_forward_hook(self._leave))
            stack.enter_context(self)
            yield

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._before.append(self.count)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._before.pop() != self.count:
            self._with.add(module)
        elif _holds_tensors(output):
            self._without.add(module)

    @property
    def networks(self) -> set[nn.Module]:
        """The modules that gave tensors and never ran a statement."""
        return self._without - self._with

    def _pyro_post_sample(self, msg: Any) -> None:
        self.count += 1

    def _pyro_post_param(self, msg: Any) -> None:
        self.count += 1
        self.parameters[msg["name"]] = msg["value"].unconstrained()

    def refuse_parameters_outside(self, module: nn.Module) -> None:
        """Raises if ``pyro.param`` made a parameter that no part of a module owns."""
        known = {id(parameter) for parameter in module.parameters()}
        outside = [name for name, value in self.parameters.items() if id(value) not in known]
        if outside:
            raise ValueError(
                f"`target` has parameters made by `pyro.param` that no module owns and `fit` cannot train: {outside}; "
                "make them nn.Parameter or PyroParam attributes, or train with pyro.infer.SVI"
            )


def _holds_tensors(output: Any) -> bool:
    if isinstance(output, (tuple, list)):
        return bool(output) and all(map(_holds_tensors, output))
    return isinstance(output, Tensor)
