r"""Couplings of data and noise: which draw of noise goes with which datum.

A coupling of a batch keeps both marginals and changes who is paired with whom. With optimal transport the pairs are
those of least total squared distance, so the straight paths between them hardly cross, and a flow trained on them is
straighter and cheaper to follow.

References:
    Tong et al. 2024, "Improving and generalizing flow-based generative models with minibatch optimal transport",
    https://arxiv.org/abs/2302.00482
    Pooladian et al. 2023, "Multisample flow matching: straightening flows with minibatch couplings",
    https://arxiv.org/abs/2304.14772
    Cuturi 2013, "Sinkhorn distances: lightspeed computation of optimal transport", https://arxiv.org/abs/1306.0895
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class IndependentCoupling:
    """Every datum with its own draw of noise."""

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        """``noise`` as it is."""
        return noise


@dataclass(frozen=True)
class OptimalTransport:
    """Within a batch, the pairs of least total squared distance.

    Args:
        regularization: If given, pairs are drawn from the entropic plan (Sinkhorn) with this multiple of the mean cost
            as its temperature, on the device of the data; else the assignment is exact, by scipy, on the CPU.

    Raises:
        ValueError: ``regularization`` is not positive.
    """

    regularization: float | None = None

    def __post_init__(self) -> None:
        if self.regularization is not None and not self.regularization > 0:
            raise ValueError(f"`regularization` must be positive, got {self.regularization}")

    @torch.no_grad()
    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        """The rows of ``noise`` in the order in which they go with the rows of ``x``; both are ``(N, *event)``."""
        cost = torch.cdist(x.reshape(len(x), -1), noise.reshape(len(x), -1)).square()
        if self.regularization is None:
            return noise[assignment(cost)]
        log_plan = sinkhorn(cost, temperature=self.regularization * float(cost.mean()))
        return noise[torch.distributions.Categorical(logits=log_plan, validate_args=False).sample()]


def assignment(cost: Tensor) -> Tensor:
    """For each row the column that goes with it, each column once, of least total cost.

    Shape:
        ``(N, N)`` to ``(N,)``.
    """
    from scipy.optimize import linear_sum_assignment

    columns = linear_sum_assignment(cost.detach().cpu().numpy())[1]
    return torch.from_numpy(columns).to(cost.device)


def sinkhorn(cost: Tensor, *, temperature: float, iterations: int = 1000, tolerance: float = 1e-3) -> Tensor:
    r"""The logarithm of the plan with uniform marginals that minimizes cost minus ``temperature`` times entropy.

    Args:
        cost: Of each pair.
        temperature: In units of the cost.
        iterations: At most so many.
        tolerance: Relative error of the marginals at which to stop.

    Shape:
        ``(N, M)`` to the same.
    """
    kernel = -cost / temperature
    rows, columns = -math.log(cost.shape[0]), -math.log(cost.shape[1])
    v = torch.zeros_like(cost[0])
    for _ in range(iterations):
        u = rows - torch.logsumexp(kernel + v, 1)
        total = torch.logsumexp(kernel + u[:, None], 0)
        if bool((total + v - columns).abs().max() < tolerance):
            break
        v = columns - total
    return kernel + u[:, None] + v
