r"""Critics: what a game or a ratio estimate compares samples with.

A critic reads features :math:`\phi(x)` of an event by weights and an offset, which may depend on the context:

.. math:: f(x, c) = (w + w(c))^\top \phi(x) + b + b(c) .

That is *projection conditioning*. Where it estimates the log-ratio of :math:`p(x, c)` and :math:`q(x, c)`, for labels

.. math:: \log \frac{p(x, c)}{q(x, c)} = \log p(c \mid x) - \log q(c \mid x) + \log \frac{p(x)}{q(x)} ,

and if both posteriors of the label are log-linear in the features, :math:`p(c \mid x) \propto
\exp(v_c^p \cdot \phi(x))`, then :math:`w(c) = v_c^p - v_c^q`, and the rest is the part without the label.

*Packing* puts several independent events side by side as one. From packs the critic sees not only whether each event is
likely, but also whether they vary as much as the data do, so that a generator cannot leave modes out.

References:
    Miyato and Koyama 2018, "cGANs with projection discriminator", https://arxiv.org/abs/1802.05637
    Lin, Khetan, Fanti and Oh 2018, "PacGAN: the power of two samples in generative adversarial networks",
    https://arxiv.org/abs/1712.04086
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from pyrogen.arguments import checked, instance_of
from pyrogen.core.shapes import Context, Shape, context_of_each
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.statistics import ReadsData, Standardizer, Statistic
from pyrogen.numerics.rows import shaped


class Critic(ReadsData, nn.Module):
    """Scores of events, or of packs of several.

    Events are standardized by moments of the data set, which ``fit`` learns before it trains; the critic of a
    :class:`~pyrogen.implicit.model.Generator` gets them in the form of its ``represent``.

    Args:
        network: Gives the features ``(M, width)`` of packs ``(M, *pack_shape)``.
        event_shape: Shape of one event.
        context: What becomes of a context, one vector; ``None`` if there is none.
        projection: Gives ``width + 1`` numbers for the context vectors of a pack, ``(M, pack * size)``: weights and an
            offset. Linear if ``None``.
        width: How many features there are.
        pack: How many events are scored together; side by side in the first dimension, the channels of images.
        standardize: Whether events are standardized, or come in numbers of order one already.

    Attributes:
        pack_shape: Shape of a pack.

    Raises:
        ValueError: when called, shapes do not fit, or rows are no whole number of packs.

    Shape:
        Events ``(N, *event_shape)`` and contexts ``(N, *context_shape)`` to scores ``(N / pack,)``, of each ``pack``
        rows that follow each other.

    Example:
        >>> critic = Critic(nn.Linear(6, 8), (3,), width=8, pack=2)
        >>> critic(torch.zeros(10, 3)).shape
        torch.Size([5])
    """

    @checked(context=instance_of(VectorContext))
    def __init__(
        self,
        network: nn.Module,
        event_shape: Shape,
        context: VectorContext | None = None,
        projection: nn.Module | None = None,
        *,
        width: int,
        pack: int = 1,
        standardize: bool = True,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.pack, self.pack_shape = pack, packed_shape(event_shape, pack)
        self.standardizer = Standardizer(self.event_shape, name="x") if standardize else None
        self.network, self.width, self.readout = network, width, nn.Linear(width, 1)
        self.context, self.projection = None, None
        if context is not None and context.size:
            self.context = context
            self.projection = nn.Linear(pack * context.size, width + 1) if projection is None else projection

    @property
    def context_shape(self) -> Shape | dict[str, Shape] | None:
        """Shape of the context, a dict of shapes, or ``None``."""
        return None if self.context is None else self.context.context_shape

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        context = context_of_each(x, context, self.event_shape, self.context_shape)
        packs = self._packs(x)
        x = x if self.standardizer is None else self.standardizer(x)
        features = _require_rows(self.network(shaped(x, (packs, *self.pack_shape))), packs, self.width, "network")
        score = self.readout(features).squeeze(-1)
        if self.context is None:
            return score
        numbers = self.projection(self.context(context).reshape(packs, self.pack * self.context.size))
        weight, offset = _require_rows(numbers, packs, self.width + 1, "projection").split([self.width, 1], 1)
        return score + (weight * features).sum(-1) + offset.squeeze(-1)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        if self.standardizer is not None:
            yield from self.standardizer.read_data(x)
        if self.context is not None:
            yield from self.context.read_data(context)

    def _packs(self, x: Tensor) -> int:
        """How many packs the rows make."""
        packs, left = divmod(x.shape[0], self.pack)
        if left:
            raise ValueError(f"`x` must hold a multiple of `pack` = {self.pack} rows, got {x.shape[0]}")
        return packs


def packed_shape(event_shape: Shape, pack: int) -> Shape:
    """The shape of so many events side by side in their first dimension."""
    first, *rest = event_shape or (1,)
    return (pack * first, *rest)


def _require_rows(numbers: Tensor, rows: int, size: int, name: str) -> Tensor:
    if numbers.shape != (rows, size):
        raise ValueError(f"`{name}` must give {(rows, size)} numbers for {rows} packs, got {tuple(numbers.shape)}")
    return numbers
