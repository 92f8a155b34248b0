r"""Normalizing flows: simple noise sent through a chain of bijections, with an exact density.

Noise :math:`z \sim p_0(z \mid c)` from a base goes through bijections :math:`f_1, \dots, f_n`, each with parameters of
its own and possibly a context :math:`c`, and comes out as data :math:`x = f_n \circ \dots \circ f_1 (z; c)`. So

.. math::
    \log p(x \mid c) = \log p_0(z \mid c) - \sum_{i=1}^{n} \log \left| \det J_{f_i}(z_{i-1}; c) \right|,
    \qquad z_0 = z, \quad z_i = f_i(z_{i-1}; c), \quad z_n = x .

A bijection is useful when its Jacobian is triangular (or otherwise easy) and its inverse cheap. *Coupling* maps one
half of the elements given the other: fast both ways. *Autoregressive* bijections map each element given all before it:
more flexible a layer, fast one way and sequential the other.

======================  ===========================================================
:math:`x`               data, shape ``event_shape``
:math:`z`               noise
:math:`c`               context
:math:`f_i`             a :class:`~pyrogen.core.module.BijectionModule`, noise to data
:math:`p_0`             the base, a :class:`~pyrogen.core.module.DistributionModule`
======================  ===========================================================

References:
    Papamakarios, Nalisnick, Rezende, Mohamed and Lakshminarayanan 2021, "Normalizing flows for probabilistic modeling
    and inference", https://arxiv.org/abs/1912.02762
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from pyrogen.core.density import Density, weakest
from pyrogen.core.module import BijectionModule, DistributionModule, check_part
from pyrogen.core.normal import StandardNormal
from pyrogen.core.reading import refuse_outside_support
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import (
    Context,
    ContextShape,
    Shape,
    embedded,
    require_one_context_each,
)
from pyrogen.networks.statistics import Statistic, read_by, statistics_of
from pyrogen.numerics.supports import is_real
from pyrogen.transforms.distribution import TransformedDistribution
from pyrogen.transforms.transform import Transform, as_transform


class Flow(DistributionModule):
    r"""A normalizing flow: a base distribution and bijections, noise to data in the order of the list.

    Args:
        bijections: The bijections :math:`f_1, \dots, f_n`. Those with a ``context_shape`` get the (embedded) context.
        base: The distribution of the noise; standard normal if ``None``. It gets the context as it is, if it takes one.
        event_shape: Shape of one event.
        context_shape: ``None``, the shape of one context tensor, or a dict of shapes.
        embedding: A network from the context, one batch dimension in front, to what the bijections take. It runs once
            for each call and all of them share its output.

    Raises:
        ValueError: the base has another event shape.

    Example:
        >>> from pyrogen.flows.linear import Mixing
        >>> flow = Flow([Mixing((3,))], event_shape=(3,))
        >>> flow().log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        bijections: Iterable[BijectionModule],
        base: DistributionModule | None = None,
        *,
        event_shape: Shape,
        context_shape: ContextShape = None,
        embedding: nn.Module | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape)
        self.bijections = nn.ModuleList(bijections)
        self.base = StandardNormal(self.event_shape) if base is None else base
        check_part(self.base, "base")
        self.embedding = embedding
        if self.base.event_shape != self.event_shape:
            raise ValueError(f"`base` must have event shape {self.event_shape}, got {self.base.event_shape}")

    @property
    def density(self) -> Density:
        """The weakest of the base's and of what the bijections make of an exact one."""
        return weakest(self.base.density, *(part.density for part in self.bijections))

    def forward(self, context: Context = None) -> TransformedDistribution:
        shared = embedded(context, self.context_shape, self.embedding)
        transforms = [self._transform(part, shared) for part in self.bijections]
        base = self.base(None if self.base.context_shape is None else context)
        remake = None if context is None else Remade(self, context)
        return TransformedDistribution(base, transforms, parameters=self.parameters, remake=remake)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads events and contexts; events go back through the bijections to where one learns from them."""
        require_one_context_each(x, context, self.event_shape, self.context_shape)
        known = list(self.read_context(context))
        yield from known
        shared = embedded(context, self.context_shape, self.embedding)
        if self._support_is_learned(shared):
            refuse_outside_support(self, x, context, self.parameters())
        learning = [place for place, part in enumerate(self.bijections) if statistics_of(part)]
        for place in range(len(self.bijections) - 1, min(learning, default=len(self.bijections)) - 1, -1):
            part = self.bijections[place]
            if part.context_shape is not None and not _all_learned(known):
                return  # what it sees of the context is still to change
            found = list(part.read_data(x, None if part.context_shape is None else shared))
            yield from found
            if not _all_learned(found):
                return  # what lies behind it changes with it
            x = as_transform(self._transform(part, shared)).inverse_and_log_det(x)[0]

    def _support_is_learned(self, shared: Context) -> bool:
        """Whether no statistic is still to be learned that moves an interval before it."""
        waiting = [place for place, part in enumerate(self.bijections) if not _is_learned(part)]
        before = self.bijections[: max(waiting, default=0)]
        return all(is_real(self._transform(part, shared).codomain) for part in before)

    @staticmethod
    def _transform(part: BijectionModule, shared: Context) -> Transform:
        return part(None if part.context_shape is None else shared)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_by(self.embedding, context)
        if self.base.context_shape is not None:
            yield from self.base.read_context(context)

    def noise(self, x: Tensor, context: Context = None) -> Tensor:
        """The noise behind data, which sampling sends to them: of the shape of ``x``.

        Args:
            x: Events, ``(*batch, *event_shape)``.
            context: What the flow depends on; its batch dimensions broadcast with those of ``x``.
        """
        return self(context).noise(x)


def _all_learned(found: list[tuple[Statistic, Tensor]]) -> bool:
    return all(statistic.learned for statistic, _ in found)


def _is_learned(part: nn.Module) -> bool:
    return all(statistic.learned for _, statistic in statistics_of(part))
