"""One process or several: what ``fit`` asks of the machine it runs on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class OneProcess:
    """This process alone, on the device of the parameters."""

    rank = 0
    world = 1

    def place(self, module: nn.Module) -> None:
        """Moves a module to where it is trained: here it stays."""

    def setup(self, objective: Any, optimizer: Optimizer) -> tuple[Any, Optimizer]:
        """The objective and optimizer as the loop calls them."""
        return objective, optimizer

    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradients of a loss."""
        loss.backward()

    def sum(self, *values: float) -> list[float]:
        """Sums of numbers over the processes."""
        return list(values)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value]

    def barrier(self) -> None:
        """Waits for the other processes."""


class FabricProcesses:
    """The processes, devices and precision of a Lightning Fabric object.

    Args:
        fabric: A launched ``Fabric``. Each process takes its share of every minibatch.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.rank = fabric.global_rank
        self.world = fabric.world_size

    def place(self, module: nn.Module) -> None:
        """Moves a module to the device of this process."""
        self.fabric.to_device(module)

    def setup(self, objective: Any, optimizer: Optimizer) -> tuple[Any, Optimizer]:
        """The objective wrapped for data-parallel training, and its optimizer."""
        return self.fabric.setup(objective, optimizer)

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients, averaged over the processes."""
        self.fabric.backward(loss)

    def sum(self, *values: float) -> list[float]:
        """Sums of numbers over the processes."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_reducible(self.fabric.device))
        return self.fabric.all_reduce(total, reduce_op="sum").tolist()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        values = [value] * self.world
        if self.world > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Waits for the other processes."""
        self.fabric.barrier()


def _reducible(device: torch.device) -> torch.device:
    # Apple's devices have no float64.
    return torch.device("cpu") if device.type == "mps" else device
