"""One process or several: what ``fit`` needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Processes:
    """The processes of a run: here this one alone, on the device of the parameters."""

    rank = 0
    world = 1

    def place(self, module: nn.Module) -> None:
        """Moves a module to where it is trained: here it stays."""

    def setup(
        self, objective: Callable[..., Tensor], parameters: list[nn.Parameter], optimizer: Optimizer
    ) -> tuple[Callable[..., Tensor], Optimizer]:
        """The objective and optimizer as the loop calls them."""
        return objective, optimizer

    def evaluated(self, objective: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """An objective as it is called outside training."""
        return objective

    def backward(self, loss: Tensor) -> None:
        """Accumulates the gradients of a loss."""
        loss.backward()

    def accumulating(self, objective: Callable[..., Tensor], more: bool) -> AbstractContextManager[None]:
        """A scope for the loss and gradients of one minibatch of a step, of which there may be more."""
        return nullcontext()

    def sum(self, *values: float) -> list[float]:
        """Sums of numbers over the processes."""
        return list(values)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value]

    def equalize(self, module: nn.Module) -> None:
        """Gives a module the tensors it has in the first process."""

    def collect(self, value: Any) -> list[Any]:
        """The values of all processes, by rank, in the first one; nothing in the others."""
        return [value]

    def together(self) -> AbstractContextManager[None]:
        """A scope that all processes leave together: a failure of one is a failure of all.

        Raises:
            RuntimeError: another process failed in it.
        """
        return nullcontext()


class FabricProcesses(Processes):
    """The processes, devices and precision of a Lightning Fabric object.

    Args:
        fabric: A launched ``Fabric``. Each process takes its share of every minibatch.
    """

    def __init__(self, fabric: Any) -> None:
        if not hasattr(fabric, "global_rank") or not hasattr(fabric, "setup"):
            raise ValueError(f"`fabric` must be a lightning.fabric.Fabric, got {type(fabric).__name__}")
        self.precision = fabric.strategy.precision
        if getattr(self.precision, "scaler", None) is not None:
            raise ValueError(
                f"`fabric` must not scale losses, as precision {self.precision.precision!r} does; use 'bf16-mixed'"
            )
        self.fabric = fabric
        self.rank = fabric.global_rank
        self.world = fabric.world_size

    def place(self, module: nn.Module) -> None:
        """Moves a module to the device and precision of this process."""
        self.fabric.to_device(self.precision.convert_module(module))

    def setup(
        self, objective: Callable[..., Tensor], parameters: list[nn.Parameter], optimizer: Optimizer
    ) -> tuple[Callable[..., Tensor], Optimizer]:
        module = objective if isinstance(objective, nn.Module) else _Called(objective, parameters)
        return self.fabric.setup(module, optimizer)

    def evaluated(self, objective: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*batch: Any) -> Tensor:
            with self.precision.forward_context():
                return objective(*self.precision.convert_input(batch))

        return call

    def backward(self, loss: Tensor) -> None:
        """Accumulates gradients, averaged over the processes."""
        self.fabric.backward(loss)

    def accumulating(self, objective: Callable[..., Tensor], more: bool) -> AbstractContextManager[None]:
        """A scope in which gradients stay in this process as long as there are more."""
        return self.fabric.no_backward_sync(objective) if more and self.world > 1 else nullcontext()

    def sum(self, *values: float) -> list[float]:
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=_reducible(self.fabric.device))
        return self.fabric.all_reduce(total, reduce_op="sum").tolist()

    def gather(self, value: Any) -> list[Any]:
        values = [value] * self.world
        if self.world > 1:
            torch.distributed.all_gather_object(values, value)
        return values

    def collect(self, value: Any) -> list[Any]:
        if self.world == 1:
            return [value]
        values = [None] * self.world if self.rank == 0 else None
        torch.distributed.gather_object(value, values)
        return values or []

    def equalize(self, module: nn.Module) -> None:
        if self.world > 1:
            for tensor in module.state_dict(keep_vars=True).values():
                torch.distributed.broadcast(tensor.detach(), 0)

    @contextmanager
    def together(self) -> Iterator[None]:
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
        if not any(self.sum(float(failure is not None))):
            return
        messages = self.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        rank, message = next((rank, message) for rank, message in enumerate(messages) if message is not None)
        raise RuntimeError(f"process {rank} failed: {message}")


class _Called(nn.Module):
    """A function as a module, so that its parameters are averaged over the processes."""

    def __init__(self, function: Callable[..., Tensor], parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.function = function
        self.trained = nn.ParameterList(parameters)

    def forward(self, *batch: Any) -> Tensor:
        return self.function(*batch)


def _reducible(device: torch.device) -> torch.device:
    # Apple's devices have no float64.
    return torch.device("cpu") if device.type == "mps" else device
