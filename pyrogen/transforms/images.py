r"""Transforms of images ``(channels, height, width)``: at every place, at a coarser scale, and by coupling.

*Squeezing* halves an image: the four pixels of a square become four times the channels at one place, in the order
upper left, lower right, upper right, lower left. So the two halves of the channels are the two colours of a
checkerboard. :class:`AtScale` applies a transform to what is left of an image after halving it :math:`k` times, where
half of the channels leave before each halving but the first; all else stays. A chain of transforms at growing scales is
the multi-scale architecture, its noise in the shape of the image.

References:
    Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", section 3.6,
    https://arxiv.org/abs/1605.08803
    Kingma and Dhariwal 2018, "Glow: Generative flow with invertible 1x1 convolutions",
    https://arxiv.org/abs/1807.03039
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.numerics.autograd import in_full_precision, tensors_of, with_tensors
from pyrogen.numerics.rows import by_datum

from .elements import Element
from .transform import Transform

_IMAGE = 3
_SQUARE = ((0, 0), (1, 1), (0, 1), (1, 0))
"""Rows and columns of the pixels of a square, in the order in which they become channels."""


class AtEachPlace(Transform):
    """One transform of the channels, the same at every place: a 1x1 convolution if it is linear.

    Args:
        transform: Of vectors of as many elements as there are channels.
    """

    def __init__(self, transform: Transform) -> None:
        super().__init__(_IMAGE, transform.batch_shape)
        self.transform = transform

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._everywhere(self.transform.forward_and_log_det, x)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._everywhere(self.transform.inverse_and_log_det, y)

    @in_full_precision
    def _everywhere(self, direction: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = direction(x.movedim(-_IMAGE, -1))
        return y.movedim(-1, -_IMAGE), log_det.flatten(-2).sum(-1)


class AtScale(Transform):
    """A transform of what is left of an image after halving it; see :mod:`pyrogen.transforms.images`.

    Args:
        transform: Of the coarse image, :func:`coarse_shape`.
        halvings: How many times the image is halved.
    """

    def __init__(self, transform: Transform, halvings: int) -> None:
        super().__init__(_IMAGE, transform.batch_shape)
        self.transform, self.halvings = transform, halvings

    def __repr__(self) -> str:
        return f"{self.transform} after {self.halvings} halvings"

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._there(self.transform.forward_and_log_det, x)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._there(self.transform.inverse_and_log_det, y)

    def _there(self, direction: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
        x, leaving = coarse(x, self.halvings)
        y, log_det = direction(x)
        return fine(y, leaving, self.halvings), log_det


class ImageSplit(NamedTuple):
    """Which elements of an image stay in a coupling, and which are mapped.

    Args:
        seen: The channels in which elements stay.
        mapped: The channels in which elements are mapped.
        stay: Where elements stay, ``(height, width)``, if both are all channels.
    """

    seen: slice
    mapped: slice
    stay: Tensor | None = None

    def take(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen and what is mapped, of images ``(N, channels, height, width)``."""
        seen = x[:, self.seen]
        return seen if self.stay is None else seen * self.stay, x[:, self.mapped]

    def join(self, mapped: Tensor, log_slope: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The images with mapped elements in their places, and the sums ``(N,)`` of their log-slopes."""
        if self.stay is not None:
            mapped, log_slope = torch.where(self.stay, x, mapped), log_slope.masked_fill(self.stay, 0.0)
        parts = x[:, : self.mapped.start], mapped, x[:, self.mapped.stop :]
        return torch.cat(parts, 1), by_datum(log_slope, _IMAGE).sum(-1)


class ImageCoupling(Transform):
    """A coupling transform of images: some elements stay, and a network computes from them how the others are mapped.

    Args:
        network: From what is seen, ``(N, channels, height, width)``, and the context to the parameters of what is
            mapped, ``(N, size * channels, height, width)``.
        element: How each element is mapped.
        split: Which elements stay, and which are mapped.
        context: What the network takes besides, ``(*batch, channels, height, width)``.
    """

    def __init__(self, network: nn.Module, element: Element, split: ImageSplit, context: Tensor | None = None) -> None:
        super().__init__(_IMAGE, torch.Size() if context is None else context.shape[:-_IMAGE])
        self.network, self.element, self.split, self.context = network, element, split, context
        self.state = tensors_of(network)

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._mapped(x, self.element.forward)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self._mapped(y, self.element.inverse)

    @in_full_precision
    def _mapped(self, x: Tensor, g: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        rows = RowsOf(x, self.context, _IMAGE, _IMAGE)
        seen, given = self.split.take(rows.x)
        network = with_tensors(self.network, self.network, tuple(self.state.values()))
        parameters = network(seen, *rows.context).unflatten(1, (self.element.size, -1)).movedim(1, 0)
        y, log_det = self.split.join(*g(parameters, given), rows.x)
        return rows.restored(y), rows.restored(log_det)


class RowsOf:
    """Events and contexts with one batch dimension, which broadcast, and what has been made of them put back.

    Args:
        x: Events, ``(*batch, *event)``.
        context: Contexts ``(*batch, *context)``, if there are any.
        event_dim: How many dimensions an event has.
        context_dim: How many dimensions a context has.
    """

    def __init__(self, x: Tensor, context: Tensor | None, event_dim: int, context_dim: int) -> None:
        given = [(x, event_dim)] if context is None else [(x, event_dim), (context, context_dim)]
        self.batch = torch.broadcast_shapes(*(part.shape[: part.dim() - dims] for part, dims in given))
        self.x, *self.context = (self._rows(part, dims) for part, dims in given)

    def restored(self, rows: Tensor) -> Tensor:
        """``(N, *shape)`` with the batch dimensions as they were."""
        return rows if len(self.batch) == 1 else rows.reshape(self.batch + rows.shape[1:])

    def _rows(self, x: Tensor, dims: int) -> Tensor:
        event = x.shape[x.dim() - dims :]
        x = x.expand(self.batch + event)
        return x if len(self.batch) == 1 else x.reshape(self.batch.numel(), *event)


def coarse_shape(event_shape: tuple[int, ...], halvings: int) -> tuple[int, int, int]:
    """The shape of what is left of an image after halving it."""
    count, height, width = event_shape
    return count * 4**halvings // 2 ** max(0, halvings - 1), height // 2**halvings, width // 2**halvings


def coarse(x: Tensor, halvings: int) -> tuple[Tensor, list[Tensor]]:
    """What is left of images ``(*batch, channels, height, width)``, and what leaves before halvings but the first."""
    leaving: list[Tensor] = []
    for number in range(halvings):
        if number:
            x, left = x.chunk(2, -_IMAGE)
            leaving.append(left)
        x = squeezed(x)
    return x, leaving


def fine(x: Tensor, leaving: list[Tensor], halvings: int) -> Tensor:
    """The images of which :func:`coarse` gives these."""
    for number in range(halvings):
        x = unsqueezed(x)
        if number < len(leaving):
            x = torch.cat([x, leaving[-1 - number]], -_IMAGE)
    return x


def squeezed(x: Tensor) -> Tensor:
    """Images ``(*batch, channels, height, width)`` of half the sides and four times the channels."""
    return torch.cat([x[..., row::2, column::2] for row, column in _SQUARE], -_IMAGE)


def unsqueezed(x: Tensor) -> Tensor:
    """The images of which :func:`squeezed` gives these."""
    pixels = dict(zip(_SQUARE, x.chunk(4, -_IMAGE), strict=True))
    rows = [torch.stack([pixels[row, 0], pixels[row, 1]], -1).flatten(-2) for row in (0, 1)]
    return torch.stack(rows, -2).flatten(-3, -2)
