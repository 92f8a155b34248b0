"""The layer of patch-autoregressive flows."""

from __future__ import annotations

from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.patch_transformer import PatchTransformer
from pyrogen.networks.patches import Patches
from pyrogen.transforms.elements import Element
from pyrogen.transforms.patches import PatchAutoregressive
from pyrogen.transforms.transform import Inverse


class PatchLayer(BijectionModule):
    """Each patch of an image is mapped with parameters from a transformer that sees the patches before it.

    Data to noise takes one pass, a draw a step for each patch; see :mod:`pyrogen.transforms.patches`.

    Args:
        network: From patches to ``element.size`` parameters for each of their elements.
        element: How each element is mapped.
        event_shape: ``(channels, height, width)``.
        patch: Side of a patch, which divides both sides.
        reverse: Whether the last patch comes first.
        context_shape: ``None`` or the shape ``(C,)`` of the context vector the network takes.
    """

    def __init__(
        self,
        network: PatchTransformer,
        element: Element,
        *,
        event_shape: Shape,
        patch: int,
        reverse: bool = False,
        context_shape: ContextShape = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.network, self.element, self.reverse = network, element, reverse
        self.patches = Patches(self.event_shape, patch)

    def forward(self, context: Context = None) -> Inverse:
        return Inverse(
            PatchAutoregressive(self.network, self.element, self.patches, reverse=self.reverse, context=context)
        )
