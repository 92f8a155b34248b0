"""The distribution of a module with the rows of its context in other places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrogen.networks.embedding import takes_absent
from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.rows import rearranged

from .module import DistributionModule
from .shapes import Context


@dataclass(frozen=True)
class Remade:
    """Makes a module's distribution anew, for rows of the same context; see :func:`pyrogen.numerics.rows.spared`.

    What a network made of a row that is not finite must not even stand in the graph beside the others.
    """

    module: DistributionModule
    context: Context

    def __call__(self, places: Tensor, batch: torch.Size) -> TorchDistributionMixin:
        """The distribution of batch shape ``batch``, which row ``places[i]`` of the context has at place ``i``."""
        return self.module.forward(self.rows(places, batch))

    def lost(self, batch: torch.Size) -> Tensor | None:
        """Which rows have a context that is not finite; ``None``: no row."""
        shapes = self.module.context_shape
        shapes, context = (shapes, self.context) if isinstance(shapes, dict) else ({"": shapes}, {"": self.context})
        found = None
        for key, shape in shapes.items():
            if self.context is None or not context[key].is_floating_point():
                continue
            bad = ~context[key].detach().isfinite()
            if not is_functional((bad,)) and bool(bad.any()):
                if takes_absent(self.module):  # a row that is bad in part is NaN all the same
                    bad = context[key].detach().isinf()
                bad = bad.flatten(bad.dim() - len(shape)).any(-1) if shape else bad
                found = bad if found is None else found | bad
        return None if found is None else found.expand(batch)

    def rows(self, places: Tensor, batch: torch.Size) -> Context:
        """The context whose rows stand so."""
        shape = self.module.context_shape
        if isinstance(self.context, Mapping):
            return {key: rearranged(self.context[key], part, batch, places) for key, part in shape.items()}
        return None if self.context is None else rearranged(self.context, shape, batch, places)
