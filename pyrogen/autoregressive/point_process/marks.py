"""Marks of events that depend on how long it was to them."""

from __future__ import annotations

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..conditionals import Conditional


@dataclass(frozen=True)
class ShareOfHazard(Conditional):
    r"""Kinds of events by their shares of a hazard that decays.

    .. math:: p(k \mid \tau) \propto \mu_k + \rho_k e^{-\beta \tau}

    Args:
        marks: How many kinds there are; of each an output holds :math:`\log \mu_k`, then :math:`\rho_k`, after
            :math:`\log \beta`.
    """

    marks: int

    @property
    def size(self) -> int:
        return 1 + 2 * self.marks

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.marks - 1)

    def __call__(self, output: Tensor) -> dist.Categorical:
        return self.after(output, torch.zeros_like(output[..., 0]))

    def after(self, output: Tensor, gap: Tensor) -> dist.Categorical:
        log_decay, log_rates, excess = output.split([1, self.marks, self.marks], -1)
        hazards = log_rates.exp() + excess * (-log_decay.exp() * gap.unsqueeze(-1)).exp()
        return dist.Categorical(logits=hazards.log(), validate_args=False)
