r"""Coupling transforms: some elements of an event stay, and say how each of the others is mapped.

With :math:`x = (x_1, x_2)`: :math:`y_1 = x_1` and :math:`y_2 = g(x_2; \theta(x_1))`, where :math:`g` maps element by
element. The Jacobian is triangular, and the inverse costs what the forward pass costs.

References:
    Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803
"""

from __future__ import annotations

from torch import Tensor

from pyrogen.networks.weighted import Weighted

from .conditional import Move, moved
from .elements import Element
from .vector import VectorTransform


class Coupling(VectorTransform):
    """A coupling transform of a (flattened) event of ``D`` elements.

    Args:
        network: From the elements that stay, ``(*batch, S)``, to the parameters of the others.
        element: How those are mapped.
        stay: Which elements stay, by index.
        move: Which are mapped.
        event_shape: Shape of one event.
    """

    def __init__(
        self, network: Weighted, element: Element, stay: Tensor, move: Tensor, event_shape: tuple[int, ...]
    ) -> None:
        super().__init__(event_shape, network.batch_shape)
        self.network, self.element, self.stay, self.move = network, element, stay, move

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        written = self.element.written
        return moved(self.network, Move(self.stay, self.move, None, self.element.forward, written and written[0]), x)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        written = self.element.written
        return moved(self.network, Move(self.stay, self.move, None, self.element.inverse, written and written[1]), y)
