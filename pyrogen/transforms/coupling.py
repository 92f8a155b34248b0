r"""Coupling transforms: some elements of an event stay, and say how each of the others is mapped.

With :math:`x = (x_1, x_2)`: :math:`y_1 = x_1` and :math:`y_2 = g(x_2; \theta(x_1))`, where :math:`g` maps element by
element. The Jacobian is triangular, and the inverse costs what the forward pass costs.

References:
    Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .elements import Element
from .vector import VectorTransform, feature_major


class Coupling(VectorTransform):
    """A coupling transform of a (flattened) event of ``D`` elements.

    Args:
        conditioner: From the elements that stay, ``(*batch, S)``, to the parameters of the others, parameter-major:
            ``(size, D - S, *batch)``.
        element: How those are mapped.
        halves: Which elements stay, and which are mapped.
        event_shape: Shape of one event.
        batch_shape: Batch dimensions that the conditioner brings along from a context.
    """

    def __init__(
        self,
        conditioner: Callable[[Tensor], Tensor],
        element: Element,
        halves: Halves,
        event_shape: tuple[int, ...],
        batch_shape: torch.Size = torch.Size(),
    ) -> None:
        super().__init__(event_shape, batch_shape)
        self.conditioner, self.element, self.halves = conditioner, element, halves

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(x, self.element.forward)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._map(y, self.element.inverse)

    def _map(self, x: Tensor, element: Callable) -> tuple[Tensor, Tensor]:
        stay = x.index_select(-1, self.halves.stay)
        parameters = self.conditioner(stay)
        batch = parameters.shape[2:]
        moved = feature_major(x.index_select(-1, self.halves.move), batch)  # (D - S, *batch)
        moved, log_slope = element(parameters, moved)
        both = torch.cat((stay.expand(*batch, -1), moved.movedim(0, -1)), -1)
        return both.index_select(-1, self.halves.back), log_slope.sum(0)


class Halves(NamedTuple):
    """Which elements of an event stay and which move, by index; ``back`` puts stayed and moved into the old order."""

    stay: Tensor
    move: Tensor
    back: Tensor
