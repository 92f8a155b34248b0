"""Data that were changed a little to raise a loss: what a classifier, or whatever defends it, should be tested on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyrogen.arguments import checked, finite, integer, interval, positive
from pyrogen.arrays import takes_arrays


@takes_arrays
@checked(x=finite, limit=positive, steps=integer, interval=interval)
def adversarial(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    limit: float,
    steps: int = 10,
    interval: tuple[float, float] | None = None,
) -> Tensor:
    r"""Data near to given ones with a higher loss, by projected gradient ascent.

    .. math:: x_{k+1} = \operatorname{clip}\left(x_k + \eta \operatorname{sign} \nabla L(x_k)\right), \qquad
        \eta = 2.5 \, \epsilon / K ,

    within the cube of changes of at most :math:`\epsilon` of each number, from :math:`x_0 = x`.

    Args:
        loss: Of a batch: the sum over the data, or one number for each datum.
        x: The data.
        limit: The largest change, :math:`\epsilon`, in data units.
        steps: How many, :math:`K`.
        interval: In which data lie; anywhere if not given.

    Shape:
        That of ``x``.

    Raises:
        ValueError: an entry of ``x`` is not finite, ``limit`` is not positive, or ``steps`` is less than one.

    References:
        Madry, Makelov, Schmidt, Tsipras and Vladu 2018, "Towards deep learning models resistant to adversarial
        attacks", https://arxiv.org/abs/1706.06083

    Example:
        >>> adversarial(lambda x: (x - 1).square(), torch.tensor([0.5, 3.0]), limit=0.1)
        tensor([0.4000, 3.1000])
    """
    low, high = (-torch.inf, torch.inf) if interval is None else interval
    changed = x.detach()
    for _ in range(steps):
        changed = changed.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss(changed).sum(), changed)
        changed = (changed + 2.5 * limit / steps * slope.sign()).clamp(x - limit, x + limit).clamp(low, high)
    return changed.detach()
