"""Objectives beside maximum likelihood, which is the default."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context
from pyrogen.networks.statistics import Statistic

from .model import SequenceModel


class ObservedLikelihood(Objective):
    r"""Minus the mean log-likelihood of what is observed of each datum, :math:`-\frac{1}{N} \sum_i \log p(x_{i, S_i})`.

    Right where what is missing does not depend on what it would have been (missing at random). An ``any_order`` model
    takes any pattern; a model of one order only what comes first in it.

    Args:
        model: What is fitted.

    Example:
        >>> model = pg.autoregressive.any_order((3,), symbols=2, width=16, depth=1)
        >>> x, observed = torch.zeros(5, 3), torch.rand(5, 3) < 0.7
        >>> ObservedLikelihood(model)(x, observed).shape
        torch.Size([])
    """

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, observed: Tensor, context: Context = None) -> Tensor:
        return -self.model(context).part_log_prob(x, observed).mean()

    def read_data(self, x: Tensor, observed: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.model.read_context(context)
