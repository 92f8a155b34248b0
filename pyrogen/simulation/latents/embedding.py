"""What is observed beside discrete values, as one context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pyrogen.core.shapes import ContextShape
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.embedding import Embedding, VectorEmbedding, takes_absent
from pyrogen.networks.statistics import Statistic, read_by


class WithDiscrete(Embedding):
    """An embedding of what is observed, with the discrete numbers beside its features.

    Args:
        embedding: Takes what is observed.
        observed_shape: The shape of that: of one site its value, of several a dict.
        site: The name that a single observed site has in the context.
        name: The name of the discrete numbers there.
        features: How many they are.
    """

    def __init__(
        self, embedding: nn.Module, observed_shape: ContextShape, *, site: str, name: str, features: int
    ) -> None:
        shapes = observed_shape if isinstance(observed_shape, dict) else {site: observed_shape}
        super().__init__({**shapes, name: (features,)})
        self.observed = VectorContext(observed_shape, embedding=embedding)
        self.discrete = VectorEmbedding((features,))
        self.name, self.site = name, None if isinstance(observed_shape, dict) else site

    @property
    def size(self) -> int:
        return self.observed.size + self.discrete.size

    @property
    def fixed(self) -> int:
        return self.discrete.size + self.observed.fixed

    @property
    def takes_absent(self) -> bool:
        return takes_absent(self.observed)

    def forward(self, context: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([self.discrete(context[self.name]), self.observed(self._observed(context))], -1)

    def read_data(self, context: Mapping[str, Tensor]) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_by(self.observed, self._observed(context))
        yield from read_by(self.discrete, context.get(self.name))

    def _observed(self, context: Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor] | None:
        if self.site is not None:
            return context.get(self.site)
        return {name: value for name, value in context.items() if name != self.name}
