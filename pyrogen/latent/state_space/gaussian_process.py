r"""Gaussian processes over time as linear-Gaussian chains, so that everything about them takes linear time.

A process with a Matérn kernel of smoothness :math:`\nu = p + 1/2` and length scale :math:`\ell` solves a linear
stochastic differential equation. With :math:`\lambda = \sqrt{2 \nu} / \ell` the state
:math:`z = (f, f' / \lambda, \dots, f^{(p)} / \lambda^p)` follows

.. math:: dz = \lambda F z \, dt + \sqrt{\lambda q} \, e_p \, dW, \qquad
    F = \begin{pmatrix} 0 & 1 & \\ & \ddots & \ddots \\ -\binom{p+1}{0} & \cdots & -\binom{p+1}{p} \end{pmatrix} ,

whose stationary covariance is the same for every length scale. Processes are of variance one; what is observed are
linear combinations of their values, with independent errors.

References:
    Hartikainen and Särkkä 2010, "Kalman filtering and smoothing solutions to temporal Gaussian process regression
    models", https://doi.org/10.1109/MLSP.2010.5589113
    Matérn 1986, "Spatial variation", 2nd edition, https://doi.org/10.1007/978-1-4615-7892-5
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, positive
from pyrogen.core.shapes import Context, context_batch_shape
from pyrogen.networks.step_context import StepContext

from .gaussian import Belief, LinearTransition
from .linear import LinearPrior, over_gaps

_STATIONARY = {
    0.5: [[1.0]],
    1.5: [[1.0, 0.0], [0.0, 1.0]],
    2.5: [[1.0, 0.0, -1 / 3], [0.0, 1 / 3, 0.0], [-1 / 3, 0.0, 1.0]],
}
"""The stationary covariance by smoothness."""


class MaternProcesses(LinearPrior):
    """The prior of states: independent Gaussian processes with Matérn kernels, each with its derivatives.

    Args:
        length: How many steps there are.
        processes: How many processes there are.
        smoothness: That of their kernels: 0.5, 1.5 or 2.5.
        length_scale: That of their kernels before training, in units of the times, which else are one apart.
        context: What is given at each step; processes read the times alone.

    Raises:
        ValueError: ``smoothness`` is none of the three, or ``length_scale`` is not positive.
    """

    @checked
    def __init__(
        self, length: int, processes: int, context: StepContext, *, smoothness: float = 1.5, length_scale: float = 10.0
    ) -> None:
        if smoothness not in _STATIONARY:
            raise ValueError(f"`smoothness` must be one of {sorted(_STATIONARY)}, got {smoothness}")
        order = len(_STATIONARY[smoothness])
        super().__init__(length, (processes * order,), context, {})
        self.smoothness, self.order = smoothness, order
        self.log_length_scale = nn.Parameter(torch.full((processes,), math.log(positive(length_scale, "length_scale"))))

    @property
    def length_scale(self) -> Tensor:
        """The length scale of each process."""
        return self.log_length_scale.exp()

    def chain(self, context: Context = None) -> tuple[Belief, LinearTransition]:
        like, size = self.log_length_scale, self.event_shape[1]
        _, gaps = self.given_at(context, context_batch_shape(context, self.context_shape))
        steps = like.new_ones(1) if gaps is None else gaps
        drift, root, stationary = self._equation()
        units = self._units(steps)
        drift, root = drift / units[..., :, None] * units[..., None, :], root / units[..., :, None]
        move = over_gaps(drift, units.new_zeros(*steps.shape, size), root, steps)
        matrix = move.matrix * units[..., :, None] / units[..., None, :]
        move = LinearTransition(*(part.to(like) for part in (matrix, move.shift, move.root * units[..., :, None])))
        if gaps is None:  # all steps are alike
            count = self.length - 1
            parts = move.matrix.expand(count, -1, -1), move.shift.expand(count, -1), move.root.expand(count, -1, -1)
            move = LinearTransition(*parts)
        return Belief(like.new_zeros(size), stationary), move

    def _units(self, steps: Tensor) -> Tensor:
        r"""Units of the state in which all elements move about as much over a step, ``(*steps, states)``, double.

        Over a share :math:`s` of a length scale the noise of the :math:`i`-th derivative is of size :math:`s^{p + 1/2
        - i}`, which is lost in rounding beside that of the last.
        """
        rates = (math.sqrt(2 * self.smoothness) / self.length_scale).double()
        share = (rates * steps.double().unsqueeze(-1)).detach().clamp(1e-30, 1.0)
        powers = self.smoothness - torch.arange(self.order).to(share)
        return (share.unsqueeze(-1) ** powers).flatten(-2)

    def _equation(self) -> tuple[Tensor, Tensor, Tensor]:
        """Drift, root of the noise, and root of the stationary covariance, of all processes together."""
        covariance = torch.tensor(_STATIONARY[self.smoothness]).to(self.log_length_scale)
        drift = torch.diag(covariance.new_ones(self.order - 1), 1)
        drift[-1] = covariance.new_tensor([-math.comb(self.order, power) for power in range(self.order)])
        noise = torch.zeros_like(covariance)
        noise[-1, -1] = (-2 * drift[-1] @ covariance[-1]).sqrt()  # what keeps the covariance
        rates = math.sqrt(2 * self.smoothness) / self.length_scale
        scales = rates.diag(), rates.sqrt().diag(), torch.eye(len(rates)).to(covariance)
        parts = drift, noise, torch.linalg.cholesky(covariance)
        return tuple(torch.kron(scale, part.contiguous()) for scale, part in zip(scales, parts, strict=True))


class ValueLoading(nn.Module):
    """A linear map of the values of processes, whatever their derivatives.

    Args:
        processes: How many processes there are.
        order: How many elements of a state belong to each, of which the first is its value.
        size: How many numbers it gives.
    """

    def __init__(self, processes: int, order: int, size: int) -> None:
        super().__init__()
        self.order = order
        self.values = nn.Linear(processes, size)

    @property
    def weight(self) -> Tensor:
        """The matrix from whole states, ``(size, processes * order)``."""
        alone = torch.zeros(self.order).to(self.values.weight)
        alone[0] = 1
        return torch.kron(self.values.weight, alone)

    @property
    def bias(self) -> Tensor:
        """What is observed of processes at zero."""
        return self.values.bias

    def forward(self, z: Tensor) -> Tensor:
        return self.values(z[..., :: self.order])


class OfValues(nn.Module):
    """A network that is given the values of processes, whatever their derivatives, and what stands beside a state.

    Args:
        processes: How many processes there are.
        order: How many elements of a state belong to each, of which the first is its value.
        network: Of the values, with what stands beside the state.
    """

    def __init__(self, processes: int, order: int, network: nn.Module) -> None:
        super().__init__()
        self.states, self.order = processes * order, order
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        values, rest = z[..., : self.states : self.order], z[..., self.states :]
        return self.network(torch.cat([values, rest], -1))
