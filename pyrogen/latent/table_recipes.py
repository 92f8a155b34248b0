"""Recipes for tables: columns of mixed kinds, and rows with gaps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod

from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.module import DistributionModule
from pyrogen.core.parametric import Parametric
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.distributions import families
from pyrogen.networks.columns import ColumnFeatures, Elementwise, GapFeatures
from pyrogen.networks.context import Classes

from .builder import Builder, likelihood_of
from .missing import IncompleteLikelihood
from .model import VAE
from .recipes import TEXTS

_TEXTS = {
    **TEXTS,
    "counts": "Columns that hold counts.",
    "binary": "Columns that hold zeros and ones.",
    "categories": "Columns that hold labels from zero, with how many labels there are.",
}


@recipe(texts=_TEXTS)
@checked
def tabular_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    counts: Collection[int] = (),
    binary: Collection[int] = (),
    categories: Mapping[int, int] | None = None,
    hidden: Sequence[int] = (128, 128),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    prior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    """A variational autoencoder of rows of a table whose columns are of different kinds.

    Columns that are not named are real and should be standardized: the encoder takes them as they are, and the normal
    likelihood starts at scale one. Counts are negative binomial, labels categorical; both come as floats.

    Args:
        event_shape: ``(columns,)``.

    Raises:
        ValueError: a column is named twice or does not exist, or shapes do not fit.

    Example:
        >>> module = tabular_vae((4,), latent_shape=(2,), counts=[1], categories={3: 5})
        >>> module().sample((5,)).shape
        torch.Size([5, 4])
    """
    (columns,) = event_shape = _as_row(event_shape)
    build = Builder(event_shape, context_shape, latent_shape, hidden, classes, embedding)
    likelihood = build.part("z", _columns(columns, None, counts, binary, categories))
    features = ColumnFeatures(columns, counts=counts, categories=categories)
    posterior = build.part("x", prepare=features, size=features.size)
    return build.vae(likelihood, prior, posterior, draws)


@recipe(texts=_TEXTS)
@checked
def missing_data_vae(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    latent_shape: Shape,
    counts: Collection[int] = (),
    binary: Collection[int] = (),
    categories: Mapping[int, int] | None = None,
    scale: float | None = None,
    missingness: DistributionModule | None = None,
    hidden: Sequence[int] = (128, 128),
    classes: Classes = None,
    embedding: nn.Module | None = None,
    prior: DistributionModule | None = None,
    draws: int = 100,
) -> VAE:
    r"""A variational autoencoder of rows with gaps, which NaN marks: MIWAE, or with a missingness model not-MIWAE.

    Its ``log_prob`` bounds that of what is observed. Train it by
    :class:`~pyrogen.latent.objectives.ImportanceWeighted`, and fill the gaps by :func:`~pyrogen.latent.missing.impute`.
    Draws are complete rows, or with a missingness model rows as they would be recorded.

    Args:
        event_shape: Shape of one event; ``(columns,)`` if some columns are named.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes; a context has no gaps.
        missingness: :math:`p(s \mid x)` if entries are missing for what they would have been, such as
            :func:`self_masking`; itself built by a recipe if the model is to be saved.

    Raises:
        ValueError: a column is named twice or does not exist, or shapes do not fit.

    References:
        Mattei and Frellsen 2019, "MIWAE: deep generative modelling and imputation of incomplete data sets",
        https://arxiv.org/abs/1812.02633
        Ipsen, Mattei and Frellsen 2021, "not-MIWAE: deep generative modelling with missing not at random data",
        https://arxiv.org/abs/2006.12871

    Example:
        >>> module = missing_data_vae((3,), latent_shape=(2,), hidden=(16,))
        >>> module().log_prob(torch.tensor([[0.5, torch.nan, 1.0], [torch.nan, torch.nan, 0.1]])).shape
        torch.Size([2])
    """
    event_shape = as_shape(event_shape, "event_shape")
    family, features, size = likelihood_of(scale), GapFeatures(len(event_shape)), 2 * prod(event_shape)
    if counts or binary or categories:
        (columns,) = _as_row(event_shape)
        family = _columns(columns, scale, counts, binary, categories)
        features = ColumnFeatures(columns, counts=counts, categories=categories, flags=True)
        size = features.size
    build = Builder(event_shape, context_shape, latent_shape, hidden, classes, embedding)
    likelihood = IncompleteLikelihood(build.part("z", family), missingness)
    posterior = build.part("x", prepare=features, size=size)
    return build.vae(likelihood, prior, posterior, draws)


@recipe(texts=_TEXTS)
@checked
def self_masking(event_shape: Shape, context_shape: None = None, *, sign: int | None = None) -> Parametric:
    r"""A missingness model: whether an entry is observed depends on its own value, :math:`\sigma(a_i + b_i x_i)`.

    The likelihood can have a second maximum at slopes :math:`b_i` of the wrong sign. Where it is known whether large
    or small values go missing, give ``sign``; else train from several seeds and keep the largest bound.

    Args:
        event_shape: Shape of one event.
        context_shape: None: the context is the complete event.
        sign: The sign of all slopes: -1 if large values go missing, 1 if small ones do, ``None`` if unknown.

    Raises:
        ValueError: ``sign`` is not -1, 1 or ``None``, or there is a context.

    References:
        Ipsen, Mattei and Frellsen 2021, section 4, https://arxiv.org/abs/2006.12871

    Example:
        >>> self_masking((2,))(torch.zeros(5, 2)).mean[0]
        tensor([0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """
    if sign not in (None, -1, 1):
        raise ValueError(f"`sign` must be -1, 1 or None, got {sign}")
    if context_shape is not None:
        raise ValueError(f"`context_shape` must be None, the context is the event, got {context_shape}")
    event_shape = as_shape(event_shape, "event_shape")
    network = Elementwise(event_shape, sign)
    return Parametric(network, families.bernoulli, event_shape=event_shape, context_shape=event_shape)


def _as_row(event_shape: Shape) -> Shape:
    event_shape = as_shape(event_shape, "event_shape")
    if len(event_shape) != 1:
        raise ValueError(f"`event_shape` must be (columns,) for a table, got {event_shape}")
    return event_shape


def _columns(
    columns: int,
    scale: float | None,
    counts: Collection[int],
    binary: Collection[int],
    categories: Mapping[int, int] | None,
) -> families.Columns:
    named = [*counts, *binary, *(categories or {})]
    if len(set(named)) < len(named) or not all(0 <= column < columns for column in named):
        raise ValueError(f"columns must be named once and lie in 0 … {columns - 1}, got {named}")
    real = likelihood_of(scale)
    labels = {symbols: families.categorical(symbols) for symbols in (categories or {}).values()}
    kinds = {column: labels[symbols] for column, symbols in (categories or {}).items()}
    kinds |= dict.fromkeys(counts, families.negative_binomial) | dict.fromkeys(binary, families.bernoulli)
    return families.columns(kinds.get(column, real) for column in range(columns))
