r"""Coupling transforms: some elements of an event are mapped, in a way that a network computes from others.

Of a vector :math:`x`, the network takes :math:`x_s`, and the elements :math:`x_m` are mapped one by one,

.. math:: y_m = g(x_m; \theta(x_s)), \qquad \log |\det J| = \sum_{i \in m} \log g'(x_i; \theta_i(x_s)) ,

the others stay. If :math:`s` and :math:`m` share no element, the Jacobian is triangular, and the inverse costs what the
forward pass costs. If a masked network takes all elements and all are mapped, the transform is autoregressive; see
:mod:`pyrogen.transforms.autoregressive`. Both are :func:`definition`, for which a fused twin stands in where it can
(:mod:`pyrogen.transforms.kernels`).

References:
    Dinh, Sohl-Dickstein and Bengio 2017, "Density estimation using Real NVP", https://arxiv.org/abs/1605.08803
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import torch
from torch import Tensor

from pyrogen.networks.weighted import Weighted

from . import kernels
from .elements import Element, Split
from .transform import VectorTransform


def definition(split: Split, g: Callable[[Tensor, Tensor], tuple], network: Weighted, x: Tensor) -> tuple:
    """Vectors ``(N, D)`` with some elements mapped by ``g``, and the log-determinants ``(N,)``."""
    x = x.T  # (D, N)
    seen, given = split.take(x)
    parameters = network(seen.T)  # (size, mapped, N)
    value, log_slope = g(parameters, given)
    return split.join(value, x).T, log_slope.sum(0)


def conditional(
    network: Weighted, split: Split, element: Element, x: Tensor, *, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Vectors ``(*batch, D)`` with some elements mapped by an element or its inverse, and the log-determinants.

    The batch dimensions of ``x`` and of the network's context broadcast.
    """
    batch, network = x.shape[:-1], network.projecting()
    if x.shape[-1] == 1 and network.shares_context(batch):
        return _single(network, element.inverse if inverse else element.forward, x)
    if network.batch_shape:
        batch = torch.broadcast_shapes(batch, network.batch_shape)
        x, network = x.expand(*batch, x.shape[-1]), network.for_rows(batch)
    rows = x if len(batch) == 1 else x.reshape(prod(batch), x.shape[-1])
    network = network.dropping(len(rows))
    defined = partial(definition, split, element.inverse if inverse else element.forward)
    y, log_det = kernels.conditional(network, split, element.kernel(inverse), defined, rows)
    return (y, log_det) if len(batch) == 1 else (y.reshape(*batch, y.shape[-1]), log_det.reshape(batch))


def _single(network: Weighted, g: Callable[[Tensor, Tensor], tuple], x: Tensor) -> tuple[Tensor, Tensor]:
    """The only element of vectors ``(*batch, 1)``: rows share what the network makes of the context they share."""
    inputs = network.layers[0][0].shape[1]  # one that masks keep from having any influence, or none
    parameters = network(network.projected.new_zeros(*network.batch_shape, inputs))  # (size, 1, *context)
    y, log_slope = g(*_aligned(parameters.squeeze(1), x.squeeze(-1)))
    return y.unsqueeze(-1), log_slope


def _aligned(parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(parameters.shape[1:], x.shape)
    missing = (1,) * (len(batch) - parameters.dim() + 1)
    parameters = parameters.reshape(len(parameters), *missing, *parameters.shape[1:])
    return parameters.expand(len(parameters), *batch), x.expand(batch)


class Coupling(VectorTransform):
    """A coupling transform of a (flattened) event of ``D`` elements: some stay, the others are mapped.

    Args:
        network: From the elements that stay, ``(*batch, S)``, to the parameters of the others.
        element: How those are mapped.
        stay: Which elements stay, by index.
        move: Which are mapped.
        event_shape: Shape of one event.
    """

    def __init__(
        self, network: Weighted, element: Element, stay: Tensor, move: Tensor, event_shape: tuple[int, ...]
    ) -> None:
        super().__init__(event_shape, network.batch_shape)
        self.network, self.element, self.split = network, element, Split(stay, move)

    def forward_vector(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return conditional(self.network, self.split, self.element, x)

    def inverse_vector(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return conditional(self.network, self.split, self.element, y, inverse=True)
