r"""Standard errors from random halves of two samples.

A statistic :math:`\theta` of both samples is computed for two disjoint halves of them, :math:`A` and :math:`B`. These
are independent, so :math:`(\theta_A - \theta_B)^2 / 4` has half the variance at half of the draws for its mean, which,
with variances that fall as one over the number of draws, is that of all of them:

.. math::
    \operatorname{E} \tfrac14 (\theta_A - \theta_B)^2 = \tfrac12 \operatorname{Var} \theta_{n/2}
    \approx \operatorname{Var} \theta_n .

The average over random divisions takes away the luck of one. Where the variance falls with :math:`1/n^2`, as that of a
distance between equal distributions does, the standard error is too large by :math:`\sqrt 2`.

The bootstrap would do worse here. Draws that it repeats lie at distance zero, so that spheres up to the nearest
neighbour shrink, for which it is inconsistent (Abadie and Imbens 2008); and a distance between resampled samples is
biased upwards a second time, so that its percentiles may miss the distance altogether.

References:
    Politis, Romano and Wolf 1999, "Subsampling", https://doi.org/10.1007/978-1-4612-1554-7
    Abadie and Imbens 2008, "On the failure of the bootstrap for matching estimators",
    https://doi.org/10.3982/ECTA6474
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Statistic = Callable[[Tensor, Tensor], Tensor]


def over_halves(
    statistic: Statistic, x: Tensor, y: Tensor, *, divisions: int, generator: torch.Generator | None
) -> Tensor:
    """A statistic of both halves of two samples, divided at random.

    Args:
        statistic: From ``(m, d)`` and ``(n, d)`` to ``(statistics,)``.
        x: A sample.
        y: A sample.
        divisions: How often they are divided; a draw that is left over is left out.
        generator: Of the divisions.

    Shape:
        ``(divisions, 2, statistics)``.
    """

    def both() -> Tensor:
        return torch.stack(
            [statistic(*half) for half in zip(_halves(x, generator), _halves(y, generator), strict=True)]
        )

    return torch.stack([both() for _ in range(divisions)])


def standard_errors(values: Tensor) -> Tensor:
    """The standard errors of statistics, from their values ``(divisions, 2, statistics)`` over halves."""
    return (values[:, 0] - values[:, 1]).square().mean(0).sqrt() / 2


def _halves(sample: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    device = generator.device if generator is not None else "cpu"
    order = torch.randperm(len(sample), generator=generator, device=device).to(sample.device)
    half = len(sample) // 2
    return sample[order[:half]], sample[order[half : 2 * half]]
