"""The recipe of a mixture of flows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from pyrogen.arguments import checked
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import ContextShape, Shape, as_shape
from pyrogen.networks.context import Classes
from pyrogen.networks.context_embeddings import VectorContext
from pyrogen.networks.mlp import MLP

from .bases import GaussianMixture
from .linear import Mixing
from .mixture import FlowMixture
from .recipes import spline_coupling
from .stacks import MANY, TEXTS, GivenInterval


@recipe(texts=TEXTS)
@checked
def mixture(
    event_shape: Shape,
    context_shape: ContextShape = None,
    *,
    components: int = 4,
    layers: int = 2,
    hidden: Sequence[int] = (64, 64),
    bins: int = 8,
    bound: float = 5.0,
    spread: float = 1.0,
    classes: Classes = None,
    standardize: bool = True,
    interval: GivenInterval = None,
    margin: float = 0.0,
    dropout: float = 0.0,
) -> FlowMixture:
    """A mixture of spline coupling flows with learned weights, for data in separate clusters.

    With a context the weights depend on it, too. A learned matrix mixes the elements of each flow between its layers
    where there are at most 256 of them; of more, it would be most of the flow, whose noise has a learned place instead.

    Args:
        components: How many flows.
        layers: How many coupling layers each has.
        spread: Standard deviation of the places at which they start, in units of the data's.

    Example:
        >>> clusters = mixture((2,), components=3, layers=1, hidden=(16,))
        >>> clusters().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """
    options = {"layers": layers, "hidden": hidden, "bins": bins, "bound": bound, "classes": classes}
    options |= {"standardize": standardize, "interval": interval, "margin": margin, "dropout": dropout}
    many = prod(as_shape(event_shape, "event_shape")) > MANY
    bases = [GaussianMixture(event_shape, components=1, spread=spread) if many else None for _ in range(components)]
    members = [spline_coupling(event_shape, context_shape, mixing=not many, base=base, **options) for base in bases]
    for member in members if not many else ():
        _move(member, spread)
    gate = None
    if context_shape is not None or classes is not None:
        vector = VectorContext(members[0].context_shape, classes=classes)
        gate = nn.Sequential(vector, MLP(vector.size, components, hidden=hidden))
    return FlowMixture(members, gate=gate)


@torch.no_grad()
def _move(member: nn.Module, spread: float) -> None:
    """Moves where a flow starts, so that no two learn the same."""
    last = [part for part in member.modules() if isinstance(part, Mixing)][-1:]
    for part in last or [part.conditioner for part in member.bijections[:1]]:
        part.bias.normal_(0.0, spread)
