"""Exponential moving averages of weights, of all that is trained or of a chosen part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pyrogen.arguments import inner_share

from .turn import module_or_parameters, parameters_of


class Average:
    """An exponential moving average of a part of what is trained, for ``fit(ema=...)``, such as a generator.

    Args:
        decay: Between zero and one; smaller early on, see :class:`AveragedWeights`.
        of: What is averaged: a module, or parameters. What else is trained is validated, and remains, as it is.

    Raises:
        ValueError: ``decay`` is not in (0, 1), or ``of`` holds no parameters.

    Example:
        >>> average = Average(0.999, of=nn.Linear(2, 2))
    """

    def __init__(self, decay: float, *, of: nn.Module | Iterable[nn.Parameter]) -> None:
        self.decay = inner_share(decay, "decay")
        self.of = module_or_parameters(of, "of")


def averaged(ema: float | Average | None, trained: Iterable[nn.Parameter]) -> AveragedWeights | None:
    """What ``fit`` was given, as an average of trained parameters.

    Raises:
        ValueError: nothing that is to be averaged is trained.
    """
    trained = list(dict.fromkeys(trained))
    if not isinstance(ema, Average):
        return None if ema is None else AveragedWeights(trained, ema)
    known = set(map(id, trained))
    own = [parameter for parameter in parameters_of(ema.of) if id(parameter) in known]
    if not own:
        raise ValueError("`ema` must average a part of what is trained, got an Average of nothing that is")
    return AveragedWeights(own, ema.decay)


class AveragedWeights:
    r"""The exponential moving average of parameters, :math:`\bar w \leftarrow \beta \bar w + (1 - \beta) w`.

    Early on, when little has been seen, the decay is :math:`\min(\beta, (1 + n) / (10 + n))`.

    Args:
        parameters: What is averaged.
        decay: :math:`\beta`, between zero and one.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.updates = 0
        self.average = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes the present weights in."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A scope in which the parameters are their averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def is_finite(self) -> bool:
        """Whether all averages are finite."""
        return all(bool(average.isfinite().all()) for average in self.average)

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the averages in place of the parameters, for good."""
        torch._foreach_copy_(self.parameters, self.average)

    @torch.no_grad()
    def _swap(self) -> None:
        own = [parameter.detach().clone() for parameter in self.parameters]
        torch._foreach_copy_(self.parameters, self.average)
        torch._foreach_copy_(self.average, own)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """The averages and how many updates made them."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Puts the averages into the given state.

        Raises:
            ValueError: the state is that of averages of other parameters.
        """
        if [own.shape for own in self.average] != [stored.shape for stored in state["average"]]:
            raise ValueError("does not fit the average of the weights, which is of other parameters")
        self.updates = state["updates"]
        for own, stored in zip(self.average, state["average"], strict=True):
            own.copy_(stored)
