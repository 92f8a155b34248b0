r"""Bounds of the evidence as functions of importance weights, for VAEs and for any Pyro pair.

With weights :math:`w_k = p(x, z_k) / q(z_k \mid x)` of :math:`K` draws :math:`z_k \sim q(z \mid x)`, each is a number
of nats, at most :math:`\log p(x)` in expectation, of which minus the mean over the data is an objective. All take
logarithms of weights along the first dimension, ``(draws, *batch)``, to ``batch``.
"""

from __future__ import annotations

import math

from torch import Tensor


def importance_weighted(log_weights: Tensor) -> Tensor:
    r"""The importance-weighted bound :math:`\log \frac1K \sum_k w_k`."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def renyi(log_weights: Tensor, alpha: float) -> Tensor:
    r"""The variational Rényi bound :math:`\frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}`."""
    return importance_weighted((1 - alpha) * log_weights) / (1 - alpha)


def doubly_reparameterized(log_weights: Tensor) -> Tensor:
    r"""The importance-weighted bound, with the gradient :math:`\sum_k \tilde w_k \nabla \log w_k`.

    :math:`\tilde w_k` are the normalized weights. Together with :func:`weigh_gradients` of the draws it is the doubly
    reparameterized gradient, for weights whose posterior density follows the draws alone.
    """
    weighted = (log_weights.detach().softmax(0) * log_weights).sum(0)
    return importance_weighted(log_weights.detach()) + weighted - weighted.detach()


def weigh_gradients(z: Tensor, weights: Tensor) -> None:
    """Multiplies the gradients that reach draws ``z`` by their weights, of a shape that broadcasts to that of ``z``."""
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * weights)
