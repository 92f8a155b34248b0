"""Coupling layers with learnable conditioners."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.mlp import Conditioner
from pyrogen.transforms.coupling import Coupling
from pyrogen.transforms.elements import Element
from pyrogen.transforms.transform import Inverse


class CouplingLayer(BijectionModule):
    """Some elements of an event stay and a network computes from them how the others are mapped.

    The element's forward map goes from data to noise, so that densities take the cheaper direction.

    Args:
        conditioner: From the elements that stay (and the context) to ``element.size`` parameters for each of the
            others.
        element: How each element is mapped.
        stay: For each of the (flattened) event's elements, whether it stays.
        event_shape: Shape of one event.
        context_shape: ``None`` or the shape ``(C,)`` of the context vector the conditioner takes.

    Raises:
        ValueError: ``stay`` does not have one entry for each element.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        element: Element,
        stay: Sequence[bool],
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        if len(stay) != prod(self.event_shape):
            raise ValueError(f"`stay` must have {prod(self.event_shape)} entries, got {len(stay)}")
        self.conditioner, self.element = conditioner, element
        staying = torch.tensor(stay, dtype=torch.bool)
        self.register_buffer("stay", staying.nonzero().flatten(), persistent=False)
        self.register_buffer("move", (~staying).nonzero().flatten(), persistent=False)

    def forward(self, context: Context = None) -> Inverse:
        network = self.conditioner.weighted(context=context)
        return Inverse(Coupling(network, self.element, self.stay, self.move, self.event_shape))
