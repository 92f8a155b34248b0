r"""Mixtures of flows, :math:`p(x \mid c) = \sum_k w_k(c) \, p_k(x \mid c)`, trained together.

A flow is a continuous map of connected noise and cannot tear it: separate clusters stay joined by thin bridges. A
mixture has a flow for each. Its density is exact, and so are the responsibilities

.. math:: r_k(x) = \frac{w_k \, p_k(x)}{\sum_j w_j \, p_j(x)} ,

the probability that an event came from component :math:`k`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pyrogen.core.density import Density, require_normalized, weakest
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context
from pyrogen.distributions.pool import LinearPool
from pyrogen.networks.statistics import Statistic, read_by


class FlowMixture(DistributionModule):
    r"""Several flows with learned weights, trained together by maximum likelihood.

    :class:`pyrogen.Ensemble` is another thing: it averages models that are each trained on all of the data.

    Args:
        members: The flows, or other models with a normalized density, of one event shape, context shape and support.
        gate: A network from a context to the logits of the weights, ``(*batch, len(members))``; one logit for each
            member, whatever the context is, if ``None``.

    Raises:
        ValueError: there is no member, their events or contexts differ, one is no DistributionModule, or there is a
            gate and no context.
        NotImplementedError: a member's density is unnormalized or missing.

    Example:
        >>> import pyrogen as pg
        >>> two = FlowMixture([pg.flows.spline_coupling((2,), layers=2) for _ in range(2)])
        >>> two().responsibilities(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, members: Sequence[DistributionModule], *, gate: nn.Module | None = None) -> None:
        members = list(members)
        if not members:
            raise ValueError("`members` must hold at least one model, got none")
        for place, member in enumerate(members):
            check_part(member, f"members[{place}]")
            require_normalized(member.density, f"members[{place}]", "a mixture")
            found = member.event_shape, member.context_shape
            if found != (members[0].event_shape, members[0].context_shape):
                raise ValueError(
                    "`members` must have one event shape and context shape, got "
                    f"{(members[0].event_shape, members[0].context_shape)}, and {found} at {place}"
                )
        super().__init__(members[0].event_shape, members[0].context_shape)
        if gate is not None and self.context_shape is None:
            raise ValueError("`gate` must be None: the members take no context")
        self.members, self.gate = nn.ModuleList(members), gate
        self.logits = nn.Parameter(torch.zeros(len(members))) if gate is None else None

    @property
    def density(self) -> Density:
        """The weakest of its members'."""
        return weakest(*(member.density for member in self.members))

    def forward(self, context: Context = None) -> LinearPool:
        components = [member(context) for member in self.members]
        if self.gate is None:
            return LinearPool(components, self.logits)
        logits, expected = self.gate(context), (*components[0].batch_shape, len(components))
        if logits.shape != expected:
            raise ValueError(f"`gate` must give a logit for each member, shape {expected}, got {tuple(logits.shape)}")
        return LinearPool(components, logits.movedim(-1, 0), remake=Remade(self, context))

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        for member in self.members:
            yield from member.read_data(x, context)
        yield from read_by(self.gate, context)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        for member in self.members:
            yield from member.read_context(context)
        yield from read_by(self.gate, context)
