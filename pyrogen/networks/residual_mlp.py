"""A perceptron for noisy vectors: residual blocks modulated by noise level and context."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

from pyrogen.arguments import checked

from .conditions import Conditions
from .context import Classes, ContextShape, Shape
from .noise_level import Modulation, zeroed
from .noisy import NoisyNetwork


class ResidualMLP(NoisyNetwork):
    """A network of noisy events of any shape, flattened: residual blocks with adaptive norms.

    Called ``network(x, level, context)``; the output starts at zero.

    Args:
        event_shape: Shape of one event.
        context_shape: As for :class:`~pyrogen.networks.conditions.ContextEncoder`; sequences and images are flattened.
        outputs: How many outputs each element of the event gets; ``None`` for one, without a dimension of its own.
        levels: As for :class:`~pyrogen.networks.noisy.NoisyNetwork`.
        width: Size of the hidden vectors.
        depth: How many blocks.
        classes: How many values integer contexts take.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        context_dropout: Share of the rows that lose their context in training.
        dropout: Share of the hidden units dropped in training.

    Shape:
        ``x`` ``(*batch, *event)``, ``level`` a scalar, ``batch`` or ``(*batch, levels)``; the output is
        ``(*batch, *event)``, or ``(*batch, outputs, *event)``.

    Example:
        >>> ResidualMLP((3,))(torch.zeros(5, 3), torch.zeros(5)).shape
        torch.Size([5, 3])
    """

    @checked
    def __init__(
        self,
        event_shape: Shape,
        context_shape: ContextShape = None,
        *,
        outputs: int | None = None,
        levels: int = 1,
        width: int = 128,
        depth: int = 3,
        classes: Classes = None,
        embedding: nn.Module | None = None,
        context_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            event_shape,
            context_shape,
            outputs=outputs,
            levels=levels,
            width=width,
            classes=classes,
            embedding=embedding,
            context_dropout=context_dropout,
            flat=True,
        )
        self.first = nn.Linear(prod(self.event_shape), width)
        self.blocks = nn.ModuleList(_Block(width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.last = zeroed(nn.Linear(width, prod(self.output_shape)))

    def compute(self, x: Tensor, condition: Tensor, given: Conditions) -> Tensor:
        h = self.first(x.reshape(len(x), self.first.in_features))
        for block in self.blocks:
            h = block(h, condition)
        return self.last(nn.functional.silu(self.norm(h)))


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = Modulation(width, width, 3)
        self.inner = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(width, width)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(condition)
        inner = nn.functional.silu(self.inner(self.norm(h) * (1 + scale) + shift))
        return h + (1 + gate) * self.outer(self.dropout(inner))
