"""Generators of tables: columns of different kinds, and draws that are valid rows."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.networks.statistics import Statistic
from pyrogen.networks.table_encoding import TableEncoding
from pyrogen.numerics.supports import EachColumn

from .model import Generator


class TableGenerator(Generator):
    r"""A generator of rows of a table, compared with data in an encoding in which labels have a gradient.

    The network gives an encoded row :math:`h` with relaxed labels, which decodes to a row. The critic sees the encoding
    of that row, with the gradient of the relaxed one, :math:`h + (e(d(h)) - h)` with a constant bracket: what it sees
    of draws and of data is of one form, so that it cannot tell them apart by how they are written.

    Args:
        network: As for :class:`Generator`; gives encoded rows ``(N, encoding.size)``.
        encoding: That of the rows.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        noise: As for :class:`Generator`.
    """

    def __init__(
        self,
        network: nn.Module,
        encoding: TableEncoding,
        context_shape: ContextShape = None,
        *,
        noise: DistributionModule | Shape,
    ) -> None:
        super().__init__(network, (encoding.columns,), context_shape, noise=noise, support=_support(encoding))
        self.encoding = encoding

    @property
    def represented_shape(self) -> Shape:
        return (self.encoding.size,)

    def represent(self, x: Tensor) -> Tensor:
        return self.encoding(x)

    def represented(self, rows: int, context: Context = None) -> Tensor:
        relaxed, _ = self._output(self._drawn_noise(rows, context), context)
        row = self.encoding(self.encoding.decode(relaxed))
        return relaxed + (row - relaxed).detach()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from self.encoding.read_data(x)

    def _in_data_units(self, output: Tensor, batch: tuple[int, ...]) -> Tensor:
        return self.encoding.decode(output).reshape(*batch, *self.event_shape)


def _support(encoding: TableEncoding) -> EachColumn:
    """Where rows lie."""
    kinds = {column: constraints.integer_interval(0, symbols - 1) for column, symbols in encoding.labels.items()}
    kinds |= dict.fromkeys(encoding.counts, constraints.nonnegative_integer)
    return EachColumn([kinds.get(column, constraints.real) for column in range(encoding.columns)])
