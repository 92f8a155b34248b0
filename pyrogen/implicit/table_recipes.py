"""Recipes for generators of tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from pyrogen.arguments import checked, integer
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext, WithContext
from pyrogen.networks.mlp import MLP
from pyrogen.networks.table_encoding import TableEncoding, TableOutput

from .table import TableGenerator


@recipe(texts={"noise": "How many numbers of standard normal noise the network takes; labels take more of their own."})
@checked(noise=integer)
def tabular(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    noise: int = 32,
    counts: Collection[int] = (),
    binary: Collection[int] = (),
    categories: Mapping[int, int] | None = None,
    hidden: Sequence[int] = (128, 128),
    temperature: float = 0.5,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> TableGenerator:
    """A generator of rows of a table whose columns are of different kinds; all its draws are valid rows.

    Columns that are not named hold real numbers, in any units. Its critic takes encoded rows,
    ``mlp_critic(generator.represented_shape)``. A draw has no gradient where a column is discrete.

    Args:
        event_shape: ``(columns,)``.
        counts: Columns that hold counts.
        binary: Columns that hold zeros and ones.
        categories: Columns that hold labels from zero, with how many labels there are.
        temperature: Of the relaxed labels through which gradients go.

    Raises:
        ValueError: a column is named twice or does not exist, or shapes do not fit.

    Example:
        >>> generator = tabular((4,), counts=[1], categories={3: 5}, hidden=(16,))
        >>> draws = generator().sample((100,))
        >>> (draws[:, 1] == draws[:, 1].round()).all(), (draws[:, 3] <= 4).all()
        (tensor(True), tensor(True))
    """
    event_shape = as_shape(event_shape, "event_shape")
    if len(event_shape) != 1:
        raise ValueError(f"`event_shape` must be (columns,) for a table, got {event_shape}")
    encoding = TableEncoding(event_shape[0], counts=counts, binary=binary, categories=categories)
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    dense = MLP(noise + context.size, encoding.size, hidden=hidden)
    output = TableOutput(dense, encoding, temperature=temperature)
    network = WithContext(output, "z", [context] if context.size else [])
    return TableGenerator(network, encoding, context.context_shape, noise=(noise + output.extra,))
