r"""A velocity network whose divergence has a closed form.

For a general network the divergence costs as many backward passes as there are dimensions. Not for a perceptron of at
most two hidden layers. With :math:`v = W_3 s(W_2 s(W_1 x + \dots) + \dots)`, the slopes :math:`s'_1, s'_2` of the
nonlinearities and the elementwise product :math:`\circ`,

.. math:: \operatorname{div} v = \operatorname{tr} W_3 \operatorname{diag}(s'_2) W_2 \operatorname{diag}(s'_1) W_1
    = s_2'^{\top} \bigl( W_2 \circ (W_1 W_3)^\top \bigr) s'_1 ,

one more product with a matrix of the size of :math:`W_2`, whatever the dimension: an exact divergence for the price of
a random estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked

_WAVES = 4


class VelocityField(nn.Module):
    """A network called as ``velocity(x, t, context)``, whose divergence may have a closed form."""

    has_divergence: bool = False
    """Whether :meth:`velocity_and_divergence` is implemented."""

    def velocity_and_divergence(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The velocity and its divergence ``(N,)``.

        Raises:
            NotImplementedError: there is no closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no divergence in closed form; use ExactTrace()")


class VelocityNetwork(VelocityField):
    """A perceptron that gives the velocity at a point and a time, and its divergence.

    Time (as a few sines and cosines) and context enter every hidden layer. The last layer starts at zero: at first
    nothing moves.

    Args:
        event_shape: Shape of one event.
        hidden: Sizes of the hidden layers. With one or two the divergence has a closed form.
        context: Size of the context vector, zero for none.

    Raises:
        ValueError: ``hidden`` is empty.
    """

    @checked
    def __init__(self, event_shape: tuple[int, ...], *, hidden: Sequence[int] = (128, 128), context: int = 0) -> None:
        super().__init__()
        if not hidden:
            raise ValueError("`hidden` must name at least one layer, got none")
        self.event_shape = tuple(event_shape)
        self.has_divergence = len(hidden) <= 2
        sizes = (math.prod(self.event_shape), *hidden)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in zip(sizes, hidden, strict=False))
        self.conditions = nn.ModuleList(nn.Linear(1 + 2 * _WAVES + context, after, bias=False) for after in hidden)
        self.last = nn.Linear(hidden[-1], sizes[0])
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("frequencies", math.pi * torch.arange(1.0, _WAVES + 1), persistent=False)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """The velocity at ``x`` of shape ``(N, *event_shape)`` and times ``(N,)``, given contexts ``(N, context)``."""
        return self._through(x, t, context)[0]

    def velocity_and_divergence(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self.has_divergence:  # with more than two hidden layers
            return super().velocity_and_divergence(x, t, context)
        velocity, inner = self._through(x, t, context)
        slopes = [_silu_slope(a) for a in inner]
        around = self.layers[0].weight @ self.last.weight  # from the last hidden layer round to the first
        if len(slopes) == 1:
            return velocity, slopes[0] @ around.diagonal()
        return velocity, (nn.functional.linear(slopes[0], self.layers[1].weight * around.T) * slopes[1]).sum(-1)

    def _through(self, x: Tensor, t: Tensor, context: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        condition = self._condition(t, context)
        h, inner = x.reshape(len(x), -1), []
        for layer, conditioned in zip(self.layers, self.conditions, strict=True):
            inner.append(layer(h) + conditioned(condition))
            h = nn.functional.silu(inner[-1])
        return self.last(h).reshape(x.shape), inner

    def _condition(self, t: Tensor, context: Tensor | None) -> Tensor:
        angles = t[:, None] * self.frequencies
        parts = [t[:, None], angles.sin(), angles.cos()]
        return torch.cat(parts if context is None else [*parts, context], -1)


def _silu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))
