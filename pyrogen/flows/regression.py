r"""Linear regression of events on contexts, as the end of a flow that is known before training begins.

The first thing that a conditional density must learn is where its events are, given the context, and this has a closed
form. With the (embedded) context :math:`c` and standard noise :math:`z`,

.. math::
    x = b + A c + L z ,

where :math:`A, b` are found by ridge regression from the moments of the data set (:mod:`pyrogen.numerics.ridge`), and
:math:`L L^\top` is the covariance of what the regression leaves. Residuals are divided by :math:`1 - \text{df} / n`, so
that few data explain little. If events and contexts are jointly Gaussian, this is the conditional distribution, and
nothing is left to learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, integer
from pyrogen.core.module import BijectionModule
from pyrogen.core.shapes import Context, Shape, batch_shape_of, flatten_batch
from pyrogen.networks.statistics import JointMoments, Statistic
from pyrogen.numerics.ridge import ridge
from pyrogen.transforms.linear import LowerAffine

_LEAST = 1e-4
"""The least share of an element's deviation that a regression leaves, for float32's sake."""


class Regression(Statistic, BijectionModule):
    """Noise to events by a linear regression on the context; see :mod:`pyrogen.flows.regression`.

    The identity until it is learned from the data set, as :class:`~pyrogen.flows.linear.Standardize` is, and from then
    on as it was learned: it has no parameters.

    Args:
        event_shape: Shape of one event, of ``D`` elements.
        context_shape: ``(C,)``, the shape of the (embedded) context.
        features: On how many of its first elements events are regressed: those that training does not change.
        correlated: Whether what is left has a whole covariance, not one variance for each element.
    """

    @checked(features=integer)
    def __init__(
        self, event_shape: Shape, context_shape: Shape, *, features: int | None = None, correlated: bool = True
    ) -> None:
        super().__init__(event_shape, context_shape)
        size = prod(self.event_shape)
        self.features = self.context_shape[0] if features is None else features
        self.correlated = correlated
        self.register_buffer("weight", torch.zeros(size, self.features))
        self.register_buffer("bias", torch.zeros(size))
        self.register_buffer("lower", torch.eye(size))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def forward(self, context: Context = None) -> LowerAffine:
        loc = nn.functional.linear(context[..., : self.features], self.weight, self.bias)
        return LowerAffine(loc, self.lower, self.event_shape)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        batch = batch_shape_of(x, self.event_shape, "x")
        inputs = context[..., : self.features].expand(*batch, self.features)
        rows = torch.cat([x.reshape(*batch, len(self.bias)), inputs.to(x)], -1)
        yield self, flatten_batch(rows, rows.shape[-1:])

    @property
    def learned(self) -> bool:
        return bool(self.initialised)

    def moments(self) -> JointMoments:
        return JointMoments()

    def learn(self, moments: JointMoments) -> None:
        found = ridge_regression(moments, len(self.bias))
        residual = found.residual if self.correlated else found.residual.diagonal().diag()
        self.weight.copy_(found.weight)
        self.bias.copy_(found.bias)
        self.lower.copy_(torch.linalg.cholesky(residual))
        self.initialised.fill_(True)

    def reset(self, *, learned: bool = False) -> None:
        self.weight.zero_()
        self.bias.zero_()
        self.lower.copy_(torch.eye(len(self.bias)))
        self.initialised.fill_(learned)


class Fitted(NamedTuple):
    """What a regression found: weights ``(D, C)``, biases ``(D,)`` and the covariance ``(D, D)`` of what is left."""

    weight: Tensor
    bias: Tensor
    residual: Tensor


def ridge_regression(moments: JointMoments, outputs: int) -> Fitted:
    """Ridge regression of the first features on the others, from moments alone.

    Args:
        moments: Of the outputs and the inputs, side by side.
        outputs: How many outputs there are (D); the other features are inputs (C).
    """
    count, covariance = max(moments.count, 2), moments.covariance
    of_outputs, cross = covariance[:outputs, :outputs], covariance[outputs:, :outputs]
    of_inputs = covariance[outputs:, outputs:]
    weight, _, free = ridge(covariance, count, outputs)
    free = free.unsqueeze(-1)
    shared = weight @ cross
    residual = (of_outputs - shared - shared.T + weight @ of_inputs @ weight.T) / (free * free.T)
    bias = moments.mean[:outputs] - weight @ moments.mean[outputs:]
    return Fitted(weight, bias, _positive(residual, of_outputs.diagonal()))


def _positive(residual: Tensor, variance: Tensor) -> Tensor:
    """A covariance that has a Cholesky factor; a constant element has variance one."""
    constant = variance <= torch.finfo(torch.float32).tiny
    residual = residual.masked_fill(constant | constant.unsqueeze(-1), 0)
    return residual + torch.where(constant, 1.0, _LEAST**2 * variance).diag()
