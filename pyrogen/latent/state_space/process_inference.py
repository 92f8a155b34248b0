r"""Gaussian processes as latents of any observations: the posterior is a process, too.

A network makes of each observation a normal :math:`\mathcal{N}(m_t, s_t^2)` of the values of the processes there, as if
these had been measured, and the posterior is that of the processes given such measurements,

.. math:: q(z \mid x) = \frac{1}{Z} \, p(z) \prod_t \psi_t(z_t), \qquad
    \log \psi_t(z) = \sum_i \frac{m_{ti} f_i - f_i^2 / 2}{s_{ti}^2} ,

so that :math:`\log q(z \mid x) - \log p(z) = \sum_t \log \psi_t(z_t) - \log Z`, where :math:`Z` is the evidence of a
linear-Gaussian chain. It is exact where the likelihood is normal, and linear in the values by orthogonal columns.

References:
    Casale, Dalca, Saglietti, Listgarten and Fusi 2018, "Gaussian process prior variational autoencoders",
    https://arxiv.org/abs/1810.11738
    Fortuin, Baranchuk, Rätsch and Mandt 2020, "GP-VAE: deep probabilistic time series imputation",
    https://arxiv.org/abs/1907.04155
    Pearce 2020, "The Gaussian process prior VAE for interpretable latent dynamics from pixels",
    https://proceedings.mlr.press/v118/pearce20a.html
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyrogen.core.parts import given
from pyrogen.core.shapes import Context, Shape, context_batch_shape
from pyrogen.networks.step_context import StepContext

from .gaussian import (
    Belief,
    LinearChain,
    LinearTransition,
    QuadraticPotential,
    ahead,
    in_precision,
    log_evidence,
    smoothed,
)
from .gaussian_process import MaternProcesses
from .parts import AmortizedInference
from .proposals import LinearProposals


class ProcessInference(AmortizedInference):
    """The posterior of Gaussian processes given observations of any kind.

    Args:
        prior: The processes.
        observation_shape: Shape of what is observed at one step.
        network: From observations, what is given at each step, and gaps, to means and log-scales of the values.
        context: What is given at each step.
    """

    prior: MaternProcesses

    def __init__(
        self, prior: MaternProcesses, observation_shape: Shape, network: nn.Module, context: StepContext
    ) -> None:
        super().__init__(prior, observation_shape, network, context)

    def forward(self, context: Context = None) -> PosteriorProcess:
        batch = context_batch_shape(context, self.context_shape)
        return PosteriorProcess(*self._problem(context), batch, self.event_shape, self.prior.length_scale.dtype)

    def proposals(self, context: Context) -> LinearProposals:
        start, move, potential = self._problem(context)
        return LinearProposals(start, move.steps(), ahead(move, potential), self.prior.length_scale.dtype)

    def _problem(self, context: Context) -> tuple[Belief, LinearTransition, QuadraticPotential]:
        """The chain of the prior and what observations say about each state, in double precision."""
        found = self.potential(context)
        first = torch.zeros(self.prior.order).to(found.linear)
        first[0] = 1  # of each process the value alone, not its derivatives
        linear, precision = (torch.kron(part, first) for part in (found.linear, found.precision))
        parts = *self.prior.chain(given(self.prior, context)), QuadraticPotential(linear, torch.diag_embed(precision))
        return tuple(in_precision(part, torch.float64) for part in parts)


class PosteriorProcess(LinearChain):
    """Processes given what a network makes of observations.

    Args:
        start: The first state under the prior.
        move: The transitions of the prior.
        potential: What observations say about each state.
        batch_shape: Batch dimensions, to which those of the parameters broadcast.
        event_shape: ``(length, states)``.
        dtype: That of draws; the parameters are in double precision.
    """

    def __init__(
        self,
        start: Belief,
        move: LinearTransition,
        potential: QuadraticPotential,
        batch_shape: Iterable[int],
        event_shape: Iterable[int],
        dtype: torch.dtype,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.problem = start, move, potential
        chain = smoothed(start, move, potential)
        super().__init__(*chain, batch_shape, event_shape, dtype=dtype, validate_args=validate_args)

    def _expanded(self, batch_shape: torch.Size) -> PosteriorProcess:
        return PosteriorProcess(*self.problem, batch_shape, self.event_shape, self.dtype, validate_args=False)

    def rsample_and_rate(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        r"""Draws, and :math:`\log q(z) - \log p(z)` of each, which the prior's narrow noise does not blur."""
        z, potential = self.rsample(sample_shape), self.problem[2]
        rate = potential.at(z.double()).sum(-1) - log_evidence(*self.problem)
        return z, rate.to(self.dtype)
