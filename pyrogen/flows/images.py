"""Layers of flows over images ``(channels, height, width)``; see :mod:`pyrogen.transforms.images`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pyrogen.arguments import count
from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, ContextShape, Shape, batch_shape_of
from pyrogen.networks.image_conditioner import ImageConditioner
from pyrogen.networks.statistics import Moments, Statistic, require_finite
from pyrogen.transforms.elements import Element
from pyrogen.transforms.images import AtEachPlace, AtScale, ImageCoupling, ImageSplit, coarse, coarse_shape, squeezed
from pyrogen.transforms.linear import DiagonalAffine, Factored
from pyrogen.transforms.transform import Inverse


class ActNorm(Statistic, BijectionModule):
    r"""A learned location and scale of each channel, :math:`x = \mu + \sigma z`; both start as those of the data.

    The identity until these are learned from the data set that ``fit`` is given, or by
    :meth:`~pyrogen.core.module.DistributionModule.learn_statistics` of the flow; from then on they are trained like all
    parameters, and no pass over data, no further ``fit`` and no ``load`` sets them back.

    Args:
        event_shape: ``(channels, height, width)``.

    References:
        Kingma and Dhariwal 2018, "Glow: Generative flow with invertible 1x1 convolutions",
        https://arxiv.org/abs/1807.03039, section 3.1
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.mean = nn.Parameter(torch.zeros(self.event_shape[0]))
        self.log_scale = nn.Parameter(torch.zeros(self.event_shape[0]))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def forward(self, context: Context = None) -> AtEachPlace:
        return AtEachPlace(DiagonalAffine(self.mean, self.log_scale, self.mean.shape))

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        batch_shape_of(x, self.event_shape, "x")
        require_finite(x, "x")
        yield self, x.movedim(-3, -1).reshape(-1, len(self.mean))

    @property
    def learned(self) -> bool:
        return bool(self.initialised)

    @torch.no_grad()
    def learn(self, moments: Moments) -> None:
        self.mean.copy_(moments.mean)
        self.log_scale.copy_(moments.scale.log())
        self.initialised.fill_(True)

    @torch.no_grad()
    def reset(self, *, learned: bool = False) -> None:
        self.mean.zero_()
        self.log_scale.zero_()
        self.initialised.fill_(learned)


class InvertibleConvolution(BijectionModule):
    """A learned invertible matrix that mixes the channels of each place; starts as a random rotation.

    It is a product of two triangles with a positive diagonal, as in :class:`~pyrogen.flows.linear.Mixing`.

    Args:
        event_shape: ``(channels, height, width)``.

    References:
        Kingma and Dhariwal 2018, "Glow: Generative flow with invertible 1x1 convolutions",
        https://arxiv.org/abs/1807.03039, section 3.2
    """

    def __init__(self, event_shape: Shape) -> None:
        super().__init__(event_shape)
        size = self.event_shape[0]
        _, lower, upper = torch.linalg.lu(torch.linalg.qr(torch.randn(size, size)).Q)
        signs = upper.diagonal().sign()  # with signs of rows turned, and rows exchanged, it is a rotation still
        self.triangles = nn.Parameter((signs[:, None] * lower * signs).tril(-1) + (signs[:, None] * upper).triu(1))
        self.log_diagonal = nn.Parameter(upper.diagonal().abs().log())

    def forward(self, context: Context = None) -> Inverse:
        shift = torch.zeros_like(self.log_diagonal)
        return Inverse(AtEachPlace(Factored(self.triangles, self.log_diagonal, shift, shift.shape)))


class ImageCouplingLayer(BijectionModule):
    """Some elements of an image stay, and convolutions compute from them how the others are mapped.

    The element's forward map goes from data to noise, as in :class:`~pyrogen.flows.layers.CouplingLayer`.

    Args:
        conditioner: From the channels that are seen, and the context, to ``element.size`` parameters for each of those
            mapped.
        element: How each element is mapped.
        split: Which elements stay, and which are mapped.
        event_shape: ``(channels, height, width)``.
        context_shape: ``None`` or the shape ``(channels, height, width)`` of what the conditioner takes besides;
            the last two may be one.
    """

    def __init__(
        self,
        conditioner: ImageConditioner,
        element: Element,
        split: ImageSplit,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.conditioner, self.element = conditioner, element
        self.seen, self.mapped = split.seen, split.mapped
        self.register_buffer("stay", split.stay, persistent=False)

    def forward(self, context: Context = None) -> Inverse:
        split = ImageSplit(self.seen, self.mapped, self.stay)
        return Inverse(ImageCoupling(self.conditioner, self.element, split, context))


class ScaleLayer(BijectionModule):
    """A layer of what is left of an image after halving it; see :class:`~pyrogen.transforms.images.AtScale`.

    Args:
        layer: Of the coarse image.
        halvings: How many times the image is halved.
        event_shape: ``(channels, height, width)`` of the whole image.
        context_shape: As the layer's; that of an image before it is squeezed as many times.

    Raises:
        ValueError: ``layer`` is not of events of the shape that is left.
    """

    def __init__(
        self, layer: BijectionModule, halvings: int, *, event_shape: Shape, context_shape: ContextShape = None
    ) -> None:
        super().__init__(event_shape, None if layer.context_shape is None else context_shape)
        left = coarse_shape(self.event_shape, count(halvings, "halvings"))
        if layer.event_shape != left:
            raise ValueError(f"`layer` must be of events of shape {left}, got {tuple(layer.event_shape)}")
        self.layer, self.halvings = layer, halvings

    def forward(self, context: Context = None) -> AtScale:
        return AtScale(self.layer(self._at_scale(context)), self.halvings)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        batch_shape_of(x, self.event_shape, "x")
        return self.layer.read_data(coarse(x, self.halvings)[0], self._at_scale(context))

    def _at_scale(self, context: Context) -> Context:
        if context is None or self.context_shape == self.layer.context_shape:
            return context
        for _ in range(self.halvings):
            context = squeezed(context)
        return context


def at_scale(context_shape: Shape | None, halvings: int) -> Shape | None:
    """The shape of a context, an image or a single pixel, for a layer after so many halvings."""
    if context_shape is None or context_shape[1:] == (1, 1):
        return context_shape
    features, height, width = context_shape
    return features * 4**halvings, height // 2**halvings, width // 2**halvings
