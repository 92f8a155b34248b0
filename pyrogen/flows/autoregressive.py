"""Autoregressive layers with learnable masked networks."""

from __future__ import annotations

from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.masked import MaskedConditioner
from pyrogen.transforms.autoregressive import MaskedAutoregressive
from pyrogen.transforms.elements import Element
from pyrogen.transforms.transform import Transform


class AutoregressiveLayer(BijectionModule):
    """Each element of an event is mapped as a network says that sees some of the others.

    The network sees data, so that densities take one pass and draws a sweep over the elements; or noise, and it is the
    other way round.

    Args:
        conditioner: A masked network that gives ``element.size`` parameters for each of ``prod(event_shape)`` elements.
        element: How each element is mapped.
        event_shape: Shape of one event.
        context_shape: ``None`` or the shape ``(C,)`` of the context vector the conditioner takes.
        sees_noise: Whether the network sees noise (draws in one pass) instead of data (densities in one pass).
    """

    def __init__(
        self,
        conditioner: MaskedConditioner,
        element: Element,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        sees_noise: bool = False,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.conditioner, self.element, self.sees_noise = conditioner, element, sees_noise

    def forward(self, context: Context = None) -> Transform:
        network = self.conditioner.weighted(context=context)
        transform = MaskedAutoregressive(self.conditioner, network, self.element, self.event_shape)
        return transform if self.sees_noise else transform.inv
