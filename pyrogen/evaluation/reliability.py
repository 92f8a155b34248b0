r"""Are probabilities right: of all that was said to happen with probability 0.7, did 70 % happen?

With :math:`p_i` stated for outcomes :math:`y_i \in \{0, 1\}`, sorted into bins :math:`b` of equal counts, the expected
calibration error is

.. math:: \frac1n \sum_b \Big| \sum_{i \in b} (y_i - p_i) \Big| .

By chance alone it is above zero, the more so the fewer data a bin holds. So beside it stands what it is on average
where the probabilities are right, and a test: outcomes drawn with exactly the stated probabilities give the
distribution of the error under that hypothesis, whatever the probabilities are.

It says nothing of how much the probabilities know: the share of the majority, stated for all, is calibrated. The log
loss :math:`-\frac1n \sum_i \log p(y_i)` judges both at once.

References:
    Naeini, Cooper and Hauskrecht 2015, "Obtaining well calibrated probabilities using Bayesian binning",
    https://doi.org/10.1609/aaai.v29i1.9602
    Vaicenavicius et al. 2019, "Evaluating model calibration in classification", https://arxiv.org/abs/1902.06977 (the
    test)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrogen.arguments import checked, numbers, vector
from pyrogen.arrays import takes_arrays
from pyrogen.core.estimate import Estimate, TestResult, permutation_p_value, share_error

_AT_ONCE = 2**22  # simulated outcomes in memory


@dataclass(frozen=True)
class Reliability:
    """Stated probabilities beside what happened.

    Args:
        stated: The mean stated probability of each bin, rising, ``(bins,)``.
        found: The share of each bin that happened, ``(bins,)``.
        counts: How many data each bin holds, ``(bins,)``.
        calibration_error: The expected calibration error. Its standard error is meant for probabilities that are
            wrong; for right ones see ``if_calibrated``.
        if_calibrated: What the calibration error is on average where the stated probabilities are right.
        log_loss: Of the stated probabilities, infinite where what was called impossible happened.
        test: Of the hypothesis that the stated probabilities are right.
    """

    stated: Tensor = field(repr=False)
    found: Tensor = field(repr=False)
    counts: Tensor = field(repr=False)
    calibration_error: Estimate
    if_calibrated: float
    log_loss: Estimate
    test: TestResult

    @property
    def errors(self) -> Tensor:
        """The standard error of ``found``, ``(bins,)``, that of Agresti and Coull 1998."""
        pairs = zip(self.found.tolist(), self.counts.tolist(), strict=True)
        return torch.tensor([share_error(share, count) for share, count in pairs], dtype=self.found.dtype)

    def __str__(self) -> str:
        return (
            f"calibration error {self.calibration_error.rounded()} ({self.if_calibrated:.3f} if calibrated, "
            f"p = {self.test.p_value:.2g}), log loss {self.log_loss}"
        )


@takes_arrays
@checked
def reliability(
    probabilities: Tensor,
    outcomes: Tensor,
    *,
    bins: int = 10,
    simulations: int = 999,
    generator: torch.Generator | None = None,
) -> Reliability:
    """Whether stated probabilities are as often right as they say.

    For more classes than two state the probability of the class that was chosen, and whether it is the right one.

    Args:
        probabilities: That an outcome happens, for each datum.
        outcomes: Whether it happened.
        bins: How many bins of equal counts; fewer where many probabilities are equal, which share a bin.
        simulations: How many times outcomes are drawn with the stated probabilities.
        generator: Of the simulations.

    Shape:
        Both ``(n,)``.

    Raises:
        TypeError: the outcomes are no booleans.
        ValueError: the shapes differ, there are fewer data than ``bins``, or a probability is not from 0 to 1.

    Example:
        >>> stated, happened = torch.full((200,), 0.9), torch.arange(200) % 10 < 7
        >>> print(reliability(stated, happened, generator=torch.Generator().manual_seed(0)))
        calibration error 0.200 ± 0.032 (0.016 if calibrated, p = 0.001), log loss 0.765 ± 0.071 nats
    """
    p, y = _checked(probabilities, outcomes, bins)
    place = _bins(p, bins)
    weights = one_hot(place, int(place.max()) + 1).to(p)  # (n, bins)
    counts = weights.sum(0)
    residuals = y - p
    signs = (residuals @ weights).sign()
    value = float((residuals @ weights).abs().sum()) / len(p)
    spread = float((signs[place] * residuals).std()) / sqrt(len(p)) if len(p) > 1 else float("nan")
    null = _simulated(p, weights, simulations, generator)
    return Reliability(
        stated=p @ weights / counts,
        found=y @ weights / counts,
        counts=counts.long(),
        calibration_error=Estimate(value, spread, "calibration error", None),
        if_calibrated=float(null.mean()),
        log_loss=Estimate.of_mean(-torch.where(y > 0, p, 1 - p).log(), density=None),
        test=TestResult(value, permutation_p_value(value, null), "calibration error", null),
    )


def _simulated(p: Tensor, weights: Tensor, simulations: int, generator: torch.Generator | None) -> Tensor:
    """The calibration error of outcomes drawn with the stated probabilities, ``(simulations,)``."""
    device = generator.device if generator is not None else p.device
    found = []
    for part in torch.arange(simulations).split(max(1, _AT_ONCE // len(p))):
        uniform = torch.rand(len(part), len(p), generator=generator, device=device, dtype=p.dtype).to(p)
        found.append((((uniform < p).to(p) - p) @ weights).abs().sum(1) / len(p))
    return torch.cat(found)


def _bins(p: Tensor, bins: int) -> Tensor:
    """The bin of each probability; equal ones share one, so that their order does not matter."""
    ordered = p.sort().values
    ranks = torch.searchsorted(ordered, p, right=False) + torch.searchsorted(ordered, p, right=True)  # twice the rank
    return (ranks * bins // (2 * len(p))).unique(return_inverse=True)[1]  # without empty bins


def _checked(probabilities: Tensor, outcomes: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    numbers(probabilities, "probabilities")
    if not isinstance(outcomes, Tensor) or outcomes.dtype != torch.bool:
        got = getattr(outcomes, "dtype", type(outcomes).__name__)
        raise TypeError(f"`outcomes` must be a tensor of booleans, got {got}")
    vector(probabilities, "probabilities", least=bins)
    if outcomes.shape != probabilities.shape:
        raise ValueError(f"`outcomes` must have shape {tuple(probabilities.shape)}, got {tuple(outcomes.shape)}")
    p = probabilities.detach().double().contiguous()
    outside = (p < 0) | (p > 1)
    if outside.any():
        raise ValueError(f"`probabilities` must be from 0 to 1, got {float(p[outside][0])}")
    return p, outcomes.to(p)
