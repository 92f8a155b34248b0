"""How a state moves on: networks from one state to the mean and the scale of the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, count

_BEND = 10.0


class GatedTransition(nn.Module):
    r"""A gated transition: between a linear map of a state and a nonlinear one, element by element.

    .. math::
        \mu = (1 - g) \odot (A z + b) + g \odot h, \qquad g = \sigma(g(z, u)), \quad h = h(z, u), \quad
        \log \sigma = s(h \, \sigma(h))

    :math:`g` and :math:`h` are perceptrons of one hidden layer; :math:`A` starts as the identity, and scales start near
    :math:`e^{-2}`, so that states of a random network are not lost in noise. (The paper has :math:`\max(h, 0)` in the
    scale, which falls silent where all elements of :math:`h` are negative.) All three take what is given at the step,
    :math:`u`; its share in the first layer is computed for all steps at once (:meth:`project`).

    Args:
        states: Size of a state.
        inputs: Size of the vector that is given at each step; 0 for none.
        width: Size of the hidden layer of each perceptron.

    Shape:
        States ``(*batch, states)`` and projected inputs ``(*batch, features)`` to means and log-scales, each
        ``(*batch, states)``.

    References:
        Krishnan, Shalit and Sontag 2017, "Structured inference networks for nonlinear state space models",
        https://arxiv.org/abs/1609.09869

    Example:
        >>> loc, log_scale = GatedTransition(3)(torch.zeros(5, 3))
        >>> loc.shape, log_scale.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    @checked(inputs=count, states=count)
    def __init__(self, states: int, *, inputs: int = 0, width: int = 64) -> None:
        super().__init__()
        self.sizes = [2 * width, states]
        self.first = nn.Linear(states, sum(self.sizes))
        self.project = nn.Linear(inputs, sum(self.sizes), bias=False) if inputs else None
        self.gate = nn.Linear(width, states)
        self.proposal = nn.Linear(width, states)
        self.log_scale = nn.Linear(states, states)
        with torch.no_grad():
            self.first.weight[2 * width :] = torch.eye(states)
            self.first.bias[2 * width :] = 0
            self.log_scale.bias.fill_(-2)

    def forward(self, z: Tensor, projected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean and the log-scale of the next state."""
        wide = self.first(z) if projected is None else self.first(z) + projected
        hidden, linear = wide.split(self.sizes, -1)
        for_gate, for_proposal = hidden.relu().chunk(2, -1)
        proposal = self.proposal(for_proposal)
        loc = torch.lerp(linear, proposal, self.gate(for_gate).sigmoid())
        return loc, _BEND * torch.tanh(self.log_scale(nn.functional.silu(proposal)) / _BEND)
