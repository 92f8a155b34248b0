"""What is given at each step of a sequence: controls, times, and what belongs to the sequence as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrogen.arguments import checked, count

from .context import Classes, ContextShape, Shape, by_name
from .context_embeddings import VectorContext
from .statistics import ReadsData, Standardizer, Statistic, require_finite, require_rows

OWN = ("x", "z", "context", "controls", "times")
"""Names of entries that a model of sequences has for itself."""


class StepContext(ReadsData, nn.Module):
    """A context as a vector for each step of a sequence.

    Entries named ``"controls"`` hold a vector for each step, those named ``"times"`` the time of each. All others
    belong to the whole sequence and are the same at every step: one tensor by the name ``"context"``, several by their
    own.

    Args:
        context_shape: That of the whole sequence, as for
            :class:`~pyrogen.networks.context_embeddings.ContextEmbedding`.
        controls: How many numbers are given at each step.
        irregular: Whether the times of the steps are given, which else are one apart.
        classes: As for :class:`~pyrogen.networks.context_embeddings.VectorContext`.
        embedding: As for :class:`~pyrogen.networks.context_embeddings.VectorContext`.

    Raises:
        ValueError: an entry of ``context_shape`` has a name that the model has for itself.
    """

    @checked(controls=count)
    def __init__(
        self,
        context_shape: ContextShape = None,
        *,
        controls: int = 0,
        irregular: bool = False,
        classes: Classes = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.whole = VectorContext(context_shape, classes=classes, embedding=embedding)
        if taken := sorted(set(OWN) & set(by_name(self.whole.context_shape))):
            raise ValueError(f"`context_shape` must name entries otherwise than {list(OWN)}, got {taken}")
        self.controls = Standardizer((1, controls), name="context['controls']") if controls else None
        self.irregular = irregular
        self.size = self.whole.size + controls

    def shapes(self, length: int) -> dict[str, Shape]:
        """The entries of a context of so many steps."""
        whole = self.whole.context_shape
        entries = dict(whole) if isinstance(whole, dict) else {} if whole is None else {"context": whole}
        if self.controls is not None:
            entries["controls"] = (length, self.controls.shape[1])
        return entries | ({"times": (length,)} if self.irregular else {})

    def forward(self, entries: Mapping[str, Tensor], length: int) -> Tensor | None:
        """A vector for each step, ``(N, length, size)``; ``None`` where nothing is given."""
        parts = [] if self.controls is None else [self.controls(entries["controls"])]
        if self.whole.context_shape is not None:
            vector = self.whole(_of_whole(self.whole, entries))
            parts.append(vector.unsqueeze(1).expand(-1, length, -1))
        return torch.cat(parts, -1) if parts else None

    def gaps(self, entries: Mapping[str, Tensor]) -> Tensor | None:
        """The time between each step and the next, ``(..., length - 1)``; ``None`` where steps are one apart.

        Raises:
            RefusedDataError: times do not increase, where torch validates the arguments of distributions.
        """
        if not self.irregular:
            return None
        gaps = entries["times"].diff(dim=-1)
        if Distribution._validate_args:
            _require_increasing(gaps)
        return gaps

    def read_data(self, entries: Mapping[str, Tensor]) -> Iterator[tuple[Statistic, Tensor]]:
        yield from self.whole.read_data(_of_whole(self.whole, entries))
        for key in ("controls", "times"):
            if key in entries:
                require_finite(entries[key], f"context[{key!r}]")
        if self.controls is not None and "controls" in entries:
            yield from self.controls.read_data(entries["controls"])
        if self.irregular and "times" in entries:
            _require_increasing(entries["times"].diff(dim=-1))


def _require_increasing(gaps: Tensor) -> None:
    demand = "`context['times']` must increase from step to step"
    require_rows(~(gaps <= 0), gaps, f"{demand}, by more than 0")


def _of_whole(whole: VectorContext, entries: Mapping[str, Tensor]) -> Tensor | dict[str, Tensor] | None:
    if not isinstance(whole.context_shape, dict):
        return entries.get("context")
    return {key: entries[key] for key in whole.context_shape if key in entries}
