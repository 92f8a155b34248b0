"""What learns the distribution of a row by default, by where the row lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrogen.autoregressive.recipes import made
from pyrogen.core.module import DistributionModule
from pyrogen.core.parametric import Parametric
from pyrogen.core.shapes import ContextShape, Shape
from pyrogen.distributions import families
from pyrogen.distributions.families import ElementFamily
from pyrogen.flows.linear import Standardize
from pyrogen.flows.model import Flow
from pyrogen.flows.recipes import affine_autoregressive, spline_autoregressive
from pyrogen.flows.regression import Regression
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.mlp import MLP
from pyrogen.networks.statistics import Chained
from pyrogen.numerics.supports import element_of

from .rows.counts import counts

Recipe = Callable[..., DistributionModule]


_MANY = 256
"""Of more labels than these no table of probabilities is learned: they count as counts up to a largest one."""


def flow(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    embedding: nn.Module | None = None,
    dependence: Sequence[Sequence[bool]] | None = None,
) -> Flow:
    """What learns real numbers by default: splines, then an affine layer, then a linear regression on the context.

    Where the numbers lie linearly in the context is known before training begins. Where that is far off, as of a sine,
    the affine layer brings them back to where the splines bend.

    Args:
        event_shape: Shape of the numbers.
        context_shape: Of the context.
        embedding: Of the context.
        dependence: Which number may depend on which.
    """
    given = {"embedding": embedding, "dependence": dependence}
    splines = spline_autoregressive(event_shape, context_shape, regression=True, **given)
    affine = affine_autoregressive(event_shape, context_shape, layers=1, mixing=False, standardize=False, **given)
    layers = list(splines.bijections)
    end = next(place for place, layer in enumerate(layers) if isinstance(layer, Regression | Standardize))
    layers[end:end] = affine.bijections
    shapes = {"event_shape": splines.event_shape, "context_shape": splines.context_shape}
    return Flow(layers, splines.base, embedding=splines.embedding, **shapes)


def builder(value: Any, name: str) -> Any:
    """A recipe, and not a module that one has built; raises a TypeError for what is none."""
    if not callable(value) or isinstance(value, nn.Module):
        raise TypeError(
            f"`{name}` must be a function that builds a module, such as `pyrogen.flows.spline_autoregressive`, got "
            f"{type(value).__name__}"
        )
    return value


def default_recipe(support: Constraint) -> Recipe:
    """The recipe for rows of such a support; those of one number need no more than a network of the context.

    Raises:
        NotImplementedError: no family fits discrete rows of this support.
    """
    if not support.is_discrete:
        return flow
    element = element_of(support)
    if isinstance(element, type(constraints.boolean)):
        return partial(discrete, symbols=2, family=families.bernoulli)
    if isinstance(element, constraints.integer_interval) and element.lower_bound == 0:
        symbols = int(torch.as_tensor(element.upper_bound).max()) + 1
        if symbols <= _MANY:
            return partial(discrete, symbols=symbols, family=families.categorical(symbols))
        return partial(discrete, symbols=symbols, family=families.discretized_logistic_mixture(symbols))
    if isinstance(element, type(constraints.nonnegative_integer)) and element.lower_bound == 0:
        return counts
    raise NotImplementedError(
        f"`recipe` must be given for rows within {support}: those that are known by default are real ones, of any "
        "bounds, labels and counts from zero, and binary ones"
    )


def discrete(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    symbols: int,
    family: ElementFamily,
    embedding: nn.Module | None = None,
    hidden: tuple[int, ...] = (128, 128),
) -> DistributionModule:
    """Labels: of one number a network of the context alone, of several an autoregressive one.

    Args:
        event_shape: Shape of one row.
        context_shape: Of the context.
        symbols: How many labels there are.
        family: That of a single label.
        embedding: Of the context.
        hidden: Sizes of the hidden layers.
    """
    if prod(event_shape) > 1:
        return made(event_shape, context_shape, symbols=symbols, embedding=embedding, hidden=hidden)
    vector = VectorContext(context_shape, embedding=embedding)
    network = Chained(vector, MLP(vector.size, prod(family.numbers_shape(event_shape)), hidden=hidden))
    return Parametric(network, family, event_shape=event_shape, context_shape=context_shape)
