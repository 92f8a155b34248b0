"""How a state moves on: networks from one state to the mean and the scale of the next."""

from __future__ import annotations

from abc import abstractmethod
from math import prod

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, count

_BEND = 10.0

Normal = tuple[Tensor, Tensor]
"""A mean and a log-scale, each ``(*batch, states)``."""


class Transition(Abstract, nn.Module):
    """From states to the distributions of the next, of a whole trajectory or step by step.

    Attributes:
        project: From what is given at each step to what :meth:`forward` takes of it; ``None`` if nothing is given.
    """

    project: nn.Module | None

    @abstractmethod
    def forward(self, z: Tensor, projected: Tensor | None = None) -> Normal:
        """The distributions of the states after each of ``z``, ``(*batch, steps, states)``."""

    def step(self, z: Tensor, projected: Tensor | None, memory: Tensor | None) -> tuple[Normal, Tensor | None]:
        """The distribution of the state after ``z``, and what is to be remembered of it and those before.

        Args:
            z: A state, ``(*batch, states)``.
            projected: What is given at the step.
            memory: That of the states before, ``(*batch, n)``; ``None`` before the first. By default there is none.
        """
        return self(z, projected), memory


class GatedTransition(Transition):
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


class RecurrentTransition(Transition):
    r"""A gated transition that remembers all states before, by a recurrent path without noise beside them.

    .. math::
        h_t = \mathrm{GRU}(h_{t-1}, z_{t-1}), \qquad z_t \sim \mathcal{N}(\mu(z_{t-1}, h_t), \sigma(z_{t-1}, h_t)^2)

    Args:
        states: Size of a state.
        memory: Size of :math:`h`.
        inputs: Size of the vector that is given at each step; 0 for none.
        width: Size of the hidden layer of each perceptron.

    References:
        Hafner et al. 2019, "Learning latent dynamics for planning from pixels", https://arxiv.org/abs/1811.04551

    Example:
        >>> loc, log_scale = RecurrentTransition(3, memory=8)(torch.zeros(5, 7, 3))
        >>> loc.shape, log_scale.shape
        (torch.Size([5, 7, 3]), torch.Size([5, 7, 3]))
    """

    @checked(inputs=count, states=count)
    def __init__(self, states: int, *, memory: int, inputs: int = 0, width: int = 64) -> None:
        super().__init__()
        self.gated = GatedTransition(states, inputs=inputs, width=width)
        self.path = nn.GRU(states, memory, batch_first=True)
        self.remembered = nn.Linear(memory, sum(self.gated.sizes), bias=False)

    @property
    def project(self) -> nn.Module | None:
        return self.gated.project

    def forward(self, z: Tensor, projected: Tensor | None = None) -> Normal:
        memory = self.path(z.reshape(prod(z.shape[:-2]), *z.shape[-2:]))[0] if z.numel() else z.new_zeros(0)
        return self._moved(z, projected, memory.reshape(*z.shape[:-1], self.path.hidden_size))

    def step(self, z: Tensor, projected: Tensor | None, memory: Tensor | None) -> tuple[Normal, Tensor | None]:
        batch, size = z.shape[:-1], self.path.hidden_size
        memory = z.new_zeros(*batch, size) if memory is None else memory.expand(*batch, size)
        weights = (getattr(self.path, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        memory = torch.gru_cell(z.reshape(prod(batch), z.shape[-1]), memory.reshape(prod(batch), size), *weights)
        memory = memory.reshape(*batch, size)
        return self._moved(z, projected, memory), memory

    def _moved(self, z: Tensor, projected: Tensor | None, memory: Tensor) -> Normal:
        remembered = self.remembered(memory)
        return self.gated(z, remembered if projected is None else remembered + projected)
