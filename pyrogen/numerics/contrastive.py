r"""Learning a density ratio by classifying pairs that belong together against pairs that do not.

Of :math:`K` candidates :math:`\theta_1, \dots, \theta_K` for one :math:`x`, either one has produced :math:`x`, with
probability :math:`\gamma / (K (1 + \gamma))` each, or none. A classifier whose logits are :math:`h(\theta_k, x)`,

.. math::
    q(k \mid \theta_{1 \dots K}, x) = \frac{\gamma \, e^{h(\theta_k, x)}}{K + \gamma \sum_i e^{h(\theta_i, x)}},
    \qquad
    q(\text{none} \mid \theta_{1 \dots K}, x) = \frac{K}{K + \gamma \sum_i e^{h(\theta_i, x)}} ,

has the least expected cross-entropy where :math:`h(\theta, x) = \log p(\theta, x) / (p(\theta) \, p(x))`. The candidate
"none" is what fixes the constant: without it (:math:`\gamma \to \infty`) any function of :math:`x` may be added to
:math:`h`. One candidate and :math:`\gamma = 1` is plain classification.

Nothing here knows of programs: ``log_ratios`` holds :math:`h` of pairs, however they came about.

References:
    Miller, Weniger and Forre 2022, "Contrastive neural ratio estimation", https://arxiv.org/abs/2210.06170
    Delaunoy et al. 2022, "Towards reliable simulation-based inference with balanced neural ratio estimation",
    https://arxiv.org/abs/2208.13624
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor


def contrastive_loss(log_ratios: Tensor, *, gamma: float) -> Tensor:
    r"""The cross-entropy of the classifier for each :math:`x`, in nats.

    The candidates are the pair that belongs together with all others but one; and all others, of which none is right.

    Args:
        log_ratios: :math:`h`, of the pair that belongs together and then of :math:`K` that do not.
        gamma: The odds that one of the candidates is right.

    Shape:
        ``(K + 1, *batch)`` to ``batch``.
    """
    candidates = len(log_ratios) - 1
    right, none = log_ratios[:-1], log_ratios[1:]
    found = log(gamma) + right[0] - _log_total(right, gamma)
    return -(gamma * found + log(candidates) - _log_total(none, gamma)) / (1 + gamma)


def imbalance(log_ratios: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""The square of :math:`\mathbb{E}_{p(\theta, x)} \sigma(h) + \mathbb{E}_{p(\theta) p(x)} \sigma(h) - 1`.

    It is zero for the true ratio; where it is held near zero, a ratio that is wrong tends to be too cautious.

    Args:
        log_ratios: As for :func:`contrastive_loss`.
        weights: Of each :math:`x`; all alike if ``None``.

    Shape:
        ``(K + 1, *batch)`` to a scalar.
    """
    share = log_ratios.sigmoid()
    return (weighted_mean(share[0] + share[1:].mean(0), weights) - 1).square()


def shifted(values: Tensor, candidates: int) -> Tensor:
    """Values beside those of other rows, ``(candidates + 1, N, ...)``: their own first, then those of the next rows."""
    return torch.stack([values.roll(-place, 0) for place in range(candidates + 1)])


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """The mean of values, each with its weight."""
    return values.mean() if weights is None else (values * weights).sum() / weights.expand_as(values).sum()


def _log_total(log_ratios: Tensor, gamma: float) -> Tensor:
    """The logarithm of the sum over all answers."""
    none = log_ratios.new_full(log_ratios.shape[1:], log(len(log_ratios)))
    return torch.logaddexp(none, log(gamma) + log_ratios.logsumexp(0))
