"""The recipes of flows over images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pyrogen.arguments import checked, count, several_or_none
from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape
from pyrogen.networks.context import Classes
from pyrogen.networks.image_conditioner import ImageConditioner, ImageContext
from pyrogen.networks.patch_transformer import PatchTransformer
from pyrogen.transforms.affine import Affine
from pyrogen.transforms.elements import Element
from pyrogen.transforms.images import ImageSplit, coarse_shape
from pyrogen.transforms.spline import Spline

from .images import ActNorm, ImageCouplingLayer, InvertibleConvolution, ScaleLayer, at_scale
from .model import Flow
from .patches import PatchLayer
from .stacks import TEXTS, FlowEnds, FlowShapes, GivenInterval, finished

_MOST, _SMALLEST = 3, 4
"""How many times an image is halved by default, and to sides of at least how many pixels, if more than once."""

_TEXTS = {
    **TEXTS,
    "event_shape": "``(channels, height, width)``.",
    "context_shape": "``None``, the shape of one context tensor, or a dict of shapes. A tensor with the sides of the"
    " event is taken as an image, place by place; anything else becomes one vector.",
    "bins": "How many bins each spline has; if ``None``, elements are scaled and shifted, which is cheaper.",
}


@recipe(texts=_TEXTS)
@checked(halvings=count, bins=several_or_none)
def multiscale(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    halvings: int | None = None,
    layers: int = 4,
    width: int = 64,
    blocks: int = 2,
    bins: int | None = 8,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    standardize: bool = True,
    interval: GivenInterval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A multi-scale flow of images (Glow): coupling layers by convolutions, which never see all pixels at once.

    The image is halved again and again, half of what is left leaving each time, mapped given the other half. Each
    layer normalizes the channels, mixes them by an invertible 1x1 convolution, and maps half of them given the others.

    Args:
        halvings: How many times sides are halved, which both must allow; if ``None``, three times, fewer where sides
            are odd or below eight. Without any, the elements of a checkerboard take turns.
        layers: How many coupling layers there are at each scale.
        width: Channels of the hidden layers of the convolutions.
        blocks: How many residual blocks the convolutions of a layer have.

    Raises:
        ValueError: ``event_shape`` is no image, or its sides cannot be halved so often.

    References:
        Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803
        Kingma and Dhariwal 2018, "Glow: Generative flow with invertible 1x1 convolutions",
        https://arxiv.org/abs/1807.03039
        Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032

    Example:
        >>> flow = multiscale((1, 8, 8), layers=1, width=8)
        >>> flow().sample((5,)).shape
        torch.Size([5, 1, 8, 8])
    """
    shapes = _ImageShapes(event_shape, context_shape, classes, embedding)
    element = Affine(log_scale_bound) if bins is None else Spline(bins, bound)
    stack = _Scales(shapes, element, width=width, blocks=blocks, dropout=dropout).stack(
        _possible(shapes.event_shape, halvings), layers
    )
    return finished(stack[::-1], shapes, False, 0, FlowEnds(standardize, False, interval, margin), base)


@recipe(texts=_TEXTS)
@checked(bins=several_or_none)
def patch_autoregressive(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    patch: int = 2,
    layers: int = 4,
    width: int = 128,
    depth: int = 2,
    heads: int = 4,
    bins: int | None = 8,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    standardize: bool = True,
    interval: GivenInterval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of images whose layers are causal transformers over patches (TarFlow), in both directions by turns.

    A density takes one pass, a draw a step for each patch and layer, what was computed of earlier patches kept.

    Args:
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; flattened and concatenated.
        patch: Side of a patch, which divides both sides of an image.
        layers: How many layers, in turns from the first patch to the last and back.
        depth: How many blocks each transformer has.
        heads: How many heads.

    Raises:
        ValueError: ``event_shape`` is no image, or ``patch`` does not divide its sides.

    References:
        Zhai et al. 2024, "Normalizing flows are capable generative models", https://arxiv.org/abs/2412.06329

    Example:
        >>> flow = patch_autoregressive((1, 4, 4), layers=2, width=8, depth=1, heads=2)
        >>> flow().sample((5,)).shape
        torch.Size([5, 1, 4, 4])
    """
    shapes = FlowShapes(event_shape, context_shape, classes, embedding)
    _require_image(shapes.event_shape)
    if any(side % patch for side in shapes.event_shape[1:]):
        raise ValueError(f"`patch` must divide both sides of {shapes.event_shape}, got {patch}")
    element = Affine(log_scale_bound) if bins is None else Spline(bins, bound)
    size = shapes.event_shape[0] * patch**2
    options = {"width": width, "depth": depth, "heads": heads, "dropout": dropout, "context": shapes.context.size}
    stack = [
        PatchLayer(
            PatchTransformer(shapes.size // size, size, element.size * size, **options),
            element,
            patch=patch,
            reverse=index % 2 == 0,
            **shapes.of_layer,
        )
        for index in range(layers)
    ]
    return finished(stack, shapes, False, 0, FlowEnds(standardize, False, interval, margin), base)


def _require_image(event_shape: Shape) -> None:
    if len(event_shape) != 3:
        raise ValueError(f"`event_shape` must be (channels, height, width), got {event_shape}")


class _ImageShapes(FlowShapes):
    """The shapes of a flow of images, and what makes an image of a context."""

    def __init__(
        self, event_shape: Shape, context_shape: ContextShape, classes: Classes, embedding: nn.Module | None
    ) -> None:
        super().__init__(event_shape, None)
        _require_image(self.event_shape)
        self.context = ImageContext(context_shape, self.event_shape[1:], classes=classes, embedding=embedding)
        self.of_layer["context_shape"] = self.context.image_shape
        self.of_flow["context_shape"] = self.context.context_shape


class _Scales:
    """The layers of a multi-scale flow.

    Args:
        shapes: Of the flow.
        element: How elements are mapped.
        options: Of the conditioners.
    """

    def __init__(self, shapes: _ImageShapes, element: Element, **options: Any) -> None:
        self.shapes, self.element, self.options = shapes, element, options

    def stack(self, halvings: int, layers: int) -> list[BijectionModule]:
        """Layers at every scale, data to noise."""
        first = min(halvings, 1)
        return [layer for scale in range(first, halvings + 1) for layer in self.at(scale, scale < halvings, layers)]

    def at(self, scale: int, leaves: bool, layers: int) -> list[BijectionModule]:
        """Layers after so many halvings, and one that maps what leaves, if it does, given what is left."""
        shape = coarse_shape(self.shapes.event_shape, scale)
        found: list[BijectionModule] = []
        for index in range(layers):
            found.append(ActNorm(shape))
            if shape[0] > 1:
                found.append(InvertibleConvolution(shape))
            found.append(self.coupling(shape, scale, _half(shape) if scale else _checkerboard(shape, index)))
        if leaves:
            found += [ActNorm(shape), self.coupling(shape, scale, _half(shape))]
        return [ScaleLayer(layer, scale, **self.shapes.of_layer) for layer in found]

    def coupling(self, shape: Shape, scale: int, split: ImageSplit) -> ImageCouplingLayer:
        """One coupling layer."""
        context = at_scale(self.shapes.of_layer["context_shape"], scale)
        seen, mapped = (len(range(*channels.indices(shape[0]))) for channels in (split.seen, split.mapped))
        channels = 0 if context is None else context[0]
        conditioner = ImageConditioner(
            seen, self.element.size * mapped, sides=shape[1:], context=channels, **self.options
        )
        return ImageCouplingLayer(conditioner, self.element, split, event_shape=shape, context_shape=context)


def _half(shape: Shape) -> ImageSplit:
    """The first half of the channels stays."""
    return ImageSplit(slice(0, shape[0] // 2), slice(shape[0] // 2, shape[0]))


def _checkerboard(shape: Shape, index: int) -> ImageSplit:
    """The places of one colour stay, that of the other by turns; of a single place, none."""
    count, height, width = shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    stay = ((rows + columns) % 2 == index % 2) & (height * width > 1)
    return ImageSplit(slice(0, count), slice(0, count), stay)


def _possible(event_shape: Shape, halvings: int | None) -> int:
    """How many times an image is halved.

    Raises:
        ValueError: its sides do not allow it.
    """
    _, *sides = event_shape
    if halvings is None:
        fitting = [n for n in range(1, _MOST + 1) if _divide(sides, n) and (n == 1 or min(sides) >= _SMALLEST * 2**n)]
        return max(fitting, default=0)
    if not _divide(sides, halvings):
        raise ValueError(
            f"`halvings` must be so few that 2 ** halvings divides both sides of {event_shape}, got {halvings}"
        )
    return halvings


def _divide(sides: list[int], halvings: int) -> bool:
    return not any(side % 2**halvings for side in sides)
