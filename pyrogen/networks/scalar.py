"""Networks that give one number for an event, with a context beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

from torch import Tensor, nn

from pyrogen.numerics.rows import by_datum

from .context import Context, Shape
from .context_embeddings import VectorContext
from .mlp import MLP, rectifier
from .statistics import ReadsData, Statistic


class ScalarNetwork(ReadsData, nn.Module):
    """One number for each event: features of the event and the context, through a perceptron.

    It starts at zero.

    Args:
        event_shape: Shape of one event, its numbers of order one.
        context: What becomes of a context, one vector; ``None`` if there is none.
        hidden: Sizes of the hidden layers of the perceptron.
        features: From events ``(N, *event_shape)`` to features ``(N, width)``; they are flattened if ``None``.
        width: How many features there are.
        activation: Makes the nonlinearity after each hidden layer.

    Shape:
        Events ``(N, *event_shape)`` and contexts ``(N, *context_shape)`` to ``(N,)``.

    Example:
        >>> ScalarNetwork((3,), VectorContext((2,)))(torch.randn(5, 3), torch.randn(5, 2))
        tensor([0., 0., 0., 0., 0.], grad_fn=<SqueezeBackward1>)
    """

    def __init__(
        self,
        event_shape: Shape,
        context: VectorContext | None = None,
        *,
        hidden: Sequence[int] = (128, 128),
        features: nn.Module | None = None,
        width: int | None = None,
        activation: Callable[[], nn.Module] = rectifier,
    ) -> None:
        super().__init__()
        self.features, self.width = features, prod(event_shape) if width is None else width
        self.context = context if context is not None and context.size else None
        size = (prod(event_shape) if width is None else width) + (0 if self.context is None else context.size)
        self.readout = MLP(size, 1, hidden=hidden, activation=activation)
        nn.init.zeros_(self.readout.layers[-1].weight)
        nn.init.zeros_(self.readout.layers[-1].bias)

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        features = by_datum(x, x.dim() - 1) if self.features is None else self.features(x)
        return self.readout(features, None if self.context is None else self.context(context)).squeeze(-1)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        if self.context is not None and context is not None:
            yield from self.context.read_data(context)
