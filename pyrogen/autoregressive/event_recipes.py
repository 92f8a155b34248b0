"""Recipes of temporal point processes: neural ones, and the classical self-exciting one."""

from __future__ import annotations

from torch import nn

from pyrogen.arguments import checked, positive, several
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.causal_transformer import CausalStack, CausalTransformer
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import SequenceContext, VectorContext
from pyrogen.networks.statistics import Standardizer

from .conditionals import Categorical
from .point_process.histories import EventVectors, Exciting
from .point_process.marks import ShareOfHazard
from .point_process.model import PointProcess, require_layout
from .point_process.waiting import DecayingHazards, LogNormalMixtures

_TEXTS = {
    "window": "Events are observed from time zero to here, in units of the data.",
    "event_shape": "``(length,)``: places for so many events, more than nearly all windows hold; the window's end"
    " stands in those that are left.",
    "components": "How many log-normals the mixture of waiting times has.",
    "depth": "How many blocks.",
    "heads": "How many heads.",
}


@recipe(texts=_TEXTS)
@checked(window=positive, marks=several)
def point_process(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    window: float,
    marks: int | None = None,
    components: int = 16,
    classes: Classes = None,
    embedding: nn.Module | None = None,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
) -> PointProcess:
    """A neural point process: a causal transformer over events, and mixtures of log-normal waiting times.

    Args:
        event_shape: ``(length,)``: places for so many events, more than nearly all windows hold; the window's end
            stands in those that are left. ``(length, 2)`` with marks, which are 0 there.
        marks: How many kinds of events there are, counted from zero, as the second column of an event.

    Raises:
        ValueError: ``event_shape`` does not fit the marks, or sizes do not divide.

    References:
        Shchur, Biloš and Günnemann 2020, "Intensity-free learning of temporal point processes",
        https://arxiv.org/abs/1909.12127

    Example:
        >>> process = point_process((20, 2), window=5.0, marks=3, width=16, depth=1)
        >>> process().sample((4,)).shape
        torch.Size([4, 20, 2])
    """
    event_shape = as_shape(event_shape, "event_shape")
    require_layout(event_shape, marks is not None)
    log_gaps = Standardizer((), name="x")
    waiting = LogNormalMixtures(components, log_gaps)
    mark = None if marks is None else Categorical(marks)
    context = SequenceContext(context_shape, width, classes=classes, embedding=embedding)
    stack = CausalStack(width, event_shape[0] + context.length, depth=depth, heads=heads, dropout=dropout)
    vectors = EventVectors(width, window, log_gaps, marks=marks)
    features = waiting.size + (0 if mark is None else mark.size)
    return PointProcess(
        CausalTransformer(vectors, stack, width=width, features=features),
        waiting,
        event_shape=event_shape,
        window=window,
        mark=mark,
        context_shape=context.context_shape,
        embedding=context,
    )


@recipe(texts=_TEXTS)
@checked(window=positive, marks=several)
def hawkes(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    window: float,
    marks: int | None = None,
    classes: Classes = None,
    embedding: nn.Module | None = None,
) -> PointProcess:
    r"""The Hawkes process: each event raises the rate of those to come, for a while, of its own and of other kinds.

    .. math:: \lambda_k(t) = \mu_k + \sum_{t_j < t} \alpha_{m_j k} \, \beta e^{-\beta (t - t_j)}

    The logarithms of :math:`\mu`, :math:`\alpha` and :math:`\beta` are learned, and linear in the context.

    Args:
        event_shape: ``(length,)``: places for so many events, more than nearly all windows hold; the window's end
            stands in those that are left. ``(length, 2)`` with marks, which are 0 there.
        marks: How many kinds of events there are, counted from zero, as the second column of an event.

    Raises:
        ValueError: ``event_shape`` does not fit the marks.

    References:
        Hawkes 1971, "Spectra of some self-exciting and mutually exciting point processes",
        https://doi.org/10.1093/biomet/58.1.83

    Example:
        >>> hawkes((20,), window=5.0)().sample((4,)).shape
        torch.Size([4, 20])
        >>> hawkes((20, 2), window=5.0, marks=3)().sample((4,)).shape
        torch.Size([4, 20, 2])
    """
    event_shape = as_shape(event_shape, "event_shape")
    require_layout(event_shape, marks is not None)
    context = VectorContext(context_shape, classes=classes, embedding=embedding)
    return PointProcess(
        Exciting(0.5 * event_shape[0] / window, marks=marks, context=context.size),
        DecayingHazards(),
        event_shape=event_shape,
        window=window,
        mark=None if marks is None else ShareOfHazard(marks),
        context_shape=context.context_shape,
        embedding=context,
    )
