r"""Networks that bring points closer together: their Lipschitz constant is below a bound that is below one.

A dense layer or a convolution is a linear map :math:`A`, divided by :math:`\max(1, \|A\| / b)` whenever the network is
used. So the bound holds for whatever weights there are, also right after a step of an optimizer. The norm of a dense
layer is computed exactly. That of a convolution, of an image of any size, is at most the largest singular value of its
transfer function :math:`\hat K(\omega)` over all frequencies, which is at most the largest on a grid of ``n``
frequencies in each direction, times

.. math:: \prod_i \cos(\pi (k_i - 1) / n_i)^{-1/2} ,

since :math:`v^* \hat K^* \hat K v` is a trigonometric polynomial of degree :math:`k_i - 1` for a kernel of :math:`k_i`
pixels. Activations have slopes of at most one.

References:
    Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen 2019, "Invertible residual networks",
    https://arxiv.org/abs/1811.00995
    Chen, Behrmann, Duvenaud and Jacobsen 2019, "Residual flows for invertible generative modeling" (the activation),
    https://arxiv.org/abs/1906.02735
    Ehlich and Zeller 1964, "Schwankung von Polynomen zwischen Gitterpunkten" (the bound between grid points),
    https://doi.org/10.1007/BF01111276
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyrogen.arguments import checked, inner_share, integer

_STEEPEST = 1.1
"""Above the largest slope of x times its logistic function, which is 1.0998."""
_FINE = 8
"""How many frequencies the grid has for each degree of the polynomial: bounds are at most 4 % too large for each
direction."""
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

Map = Callable[[Tensor], Tensor]


class Contraction(nn.Module, ABC):
    r"""A network :math:`g(x, c)` with :math:`|g(x, c) - g(x', c)| \le L |x - x'|`; abstract.

    Args:
        lipschitz: The bound :math:`L`, between zero and one.
    """

    @checked(lipschitz=inner_share)
    def __init__(self, lipschitz: float) -> None:
        super().__init__()
        self.lipschitz = lipschitz

    @abstractmethod
    def prepared(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        """The network with its weights divided, to be used several times: from ``(N, *event)`` and ``(N, C)``."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.prepared()(x, context)


class ContractivePerceptron(Contraction):
    """A perceptron from events of any shape to events, starting at zero.

    Args:
        size: How many numbers an event has.
        hidden: Sizes of the hidden layers.
        context: Size of a context vector, zero for none.
        lipschitz: The bound of its Lipschitz constant in the event.

    Shape:
        ``(N, *event)`` and ``(N, C)`` to ``(N, *event)``.

    Example:
        >>> network = ContractivePerceptron(3, hidden=(8,))
        >>> network(torch.zeros(5, 3)).shape
        torch.Size([5, 3])
    """

    @checked
    def __init__(
        self, size: int, *, hidden: Sequence[int] = (64, 64), context: int = 0, lipschitz: float = 0.9
    ) -> None:
        super().__init__(lipschitz)
        sizes = (size, *hidden, size)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False))
        self.context = nn.Linear(context, hidden[0], bias=False) if context else None
        nn.init.zeros_(self.layers[-1].weight)

    def prepared(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        share = self.lipschitz ** (1 / len(self.layers))
        layers = [(divided(part.weight, matrix_norm(part.weight), share), part.bias) for part in self.layers]
        project = None if self.context is None else self.context.weight
        size = self.layers[0].in_features

        def network(x: Tensor, context: Tensor | None = None) -> Tensor:
            h = x.reshape(len(x), size)
            for index, (weight, bias) in enumerate(layers):
                h = F.linear(activation(h) if index else h, weight, bias)
                h = h if index or context is None else h + F.linear(context.to(h.dtype), project)
            return h.reshape(x.shape)

        return network


class ContractiveConvolutions(Contraction):
    """Convolutions from images (or signals, or volumes) to images of the same shape, starting at zero.

    Args:
        event_shape: ``(channels, *size)``, of one to three dimensions besides the channels.
        channels: How many channels each hidden layer has.
        kernel: Side of the kernels, odd.
        context: Size of a context vector, zero for none.
        lipschitz: The bound of its Lipschitz constant in the event.

    Raises:
        ValueError: ``event_shape`` has another number of dimensions, or ``kernel`` is even.
    """

    @checked
    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 32),
        kernel: int = 3,
        context: int = 0,
        lipschitz: float = 0.9,
    ) -> None:
        super().__init__(lipschitz)
        self.dimensions, self.padding = len(event_shape) - 1, integer(kernel, "kernel") // 2
        if self.dimensions not in _CONVOLUTIONS:
            raise ValueError(f"`event_shape` must be (channels, *size) of 1 to 3 sizes, got {tuple(event_shape)}")
        if kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd, got {kernel}")
        counts = (event_shape[0], *channels, event_shape[0])
        make = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[self.dimensions]
        self.layers = nn.ModuleList(make(*pair, kernel) for pair in zip(counts, counts[1:], strict=False))
        self.context = nn.Linear(context, channels[0], bias=False) if context else None
        nn.init.zeros_(self.layers[-1].weight)

    def prepared(self) -> Callable[[Tensor, Tensor | None], Tensor]:
        share, convolve = self.lipschitz ** (1 / len(self.layers)), _CONVOLUTIONS[self.dimensions]
        layers = [(divided(part.weight, convolution_norm(part.weight), share), part.bias) for part in self.layers]
        project = None if self.context is None else self.context.weight

        def network(x: Tensor, context: Tensor | None = None) -> Tensor:
            h = x
            for index, (weight, bias) in enumerate(layers):
                h = convolve(activation(h) if index else h, weight, bias, padding=self.padding)
                if context is not None and not index:
                    added = F.linear(context.to(h.dtype), project)
                    h = h + added.reshape(added.shape + (1,) * self.dimensions)
            return h

        return network


def activation(x: Tensor) -> Tensor:
    r"""A smooth rectifier, :math:`x \, \sigma(x) / 1.1`, with slopes between -1 and 1."""
    return F.silu(x) / _STEEPEST


def divided(weight: Tensor, norm: Tensor, bound: float) -> Tensor:
    """A weight whose map has a norm of at most ``bound``, left as it is where it has so already."""
    return weight * (bound / norm.clamp_min(bound))


def matrix_norm(weight: Tensor) -> Tensor:
    """The operator norm of a dense layer: its largest singular value."""
    return torch.linalg.matrix_norm(weight, ord=2)


def convolution_norm(weight: Tensor) -> Tensor:
    """An upper bound of the operator norm of a convolution, of any stride, for an image of any size.

    It holds with zeros or the other side of the image as padding, and is at most 4 % above the largest norm in each
    direction.

    Args:
        weight: The kernel, ``(outputs, inputs, *kernel)``.

    Example:
        >>> mean = torch.full((1, 1, 3, 3), 1 / 9)
        >>> 1 <= convolution_norm(mean) < 1.09
        tensor(True)
    """
    sizes = weight.shape[2:]
    counts = [max(1, _FINE * (size - 1)) for size in sizes]
    transfer = torch.fft.fftn(weight, s=counts, dim=tuple(range(2, weight.dim()))).flatten(2).movedim(-1, 0)
    between = math.prod(math.cos(math.pi * (size - 1) / n) for size, n in zip(sizes, counts, strict=True)) ** -0.5
    return torch.linalg.matrix_norm(transfer, ord=2).amax() * between
