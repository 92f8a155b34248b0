"""Energies whose distributions are known."""

import torch
from torch import nn

from pyrogen import energy


class Precision(nn.Module):
    """The energy of independent normals of one precision."""

    def __init__(self, start=1.0):
        super().__init__()
        self.log_precision = nn.Parameter(torch.tensor(start).log())

    @property
    def precision(self):
        return self.log_precision.exp().item()

    def forward(self, x):
        return 0.5 * self.log_precision.exp() * x.square().flatten(1).sum(1)


def gaussian(dimensions, start=1.0, **arguments):
    return energy.Energy(Precision(start), (dimensions,), **arguments)


class Biases(nn.Module):
    """The energy of independent bits, or of independent symbols as one-hot vectors."""

    def __init__(self, shape):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return -(self.bias * x).flatten(1).sum(1)
