"""Recipes of twists of prefixes."""

from __future__ import annotations

from math import prod

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import Shape
from pyrogen.networks.causal_transformer import CausalStack, CausalTransformer
from pyrogen.networks.sequence import Tokens

from .sequences.regression import PrefixRegression
from .sequences.twist import LearnedTwist


@recipe
@checked
def transformer_twist(
    event_shape: Shape,
    *,
    symbols: int,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    end: int | None = None,
) -> LearnedTwist:
    """A twist of prefixes out of a causal transformer; it is one to begin with.

    Args:
        event_shape: Shape of one event of the prior, taken row by row.
        symbols: How many symbols there are.
        width: Size of the vectors.
        depth: How many blocks.
        heads: How many heads they have.
        end: The symbol that ends a sequence, if lengths differ.

    Raises:
        ValueError: sizes do not divide, or ``end`` is no symbol.
    """
    stack = CausalStack(width, prod(event_shape), depth=depth, heads=heads)
    network = CausalTransformer(Tokens(symbols, width), stack, width=width, features=symbols)
    return LearnedTwist(network, end=end, symbols=symbols, length=prod(event_shape))


@recipe
@checked
def transformer_regression(
    event_shape: Shape,
    *,
    symbols: int,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    end: int | None = None,
) -> PrefixRegression:
    """A prediction of a number of whole sequences from their prefixes, out of a causal transformer.

    Args:
        event_shape: Shape of one event of the prior, taken row by row.
        symbols: How many symbols there are.
        width: Size of the vectors.
        depth: How many blocks.
        heads: How many heads they have.
        end: The symbol that ends a sequence, if lengths differ.

    Raises:
        ValueError: sizes do not divide, or ``end`` is no symbol.
    """
    stack = CausalStack(width, prod(event_shape), depth=depth, heads=heads)
    network = CausalTransformer(Tokens(symbols, width), stack, width=width, features=2 * symbols)
    return PrefixRegression(network, end=end, symbols=symbols, length=prod(event_shape))
