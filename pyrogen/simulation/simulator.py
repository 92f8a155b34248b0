"""A plain function as a site of a Pyro program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.arguments import function as callable_
from pyrogen.arguments import switch
from pyrogen.distributions.distribution import PyrogenDistribution


class Simulator(PyrogenDistribution):
    """A plain function that simulates, as a distribution: it draws samples and has no ``log_prob``.

    The function gets NumPy arrays and gives numbers or an array. What it draws from NumPy's global generator, from
    Python's or from torch's is reproduced by their seeds.

    Args:
        function: Gives one event for one value of each argument; for all batch elements at once if ``batched``.
        arguments: Tensors, whose first dimensions broadcast to the batch shape.
        event_shape: Shape of what the function gives.
        event_dims: How many dimensions on the right of each argument the function takes at once; zero for all if
            ``None``.
        batched: Whether the function takes ``(n, *event)`` of each argument and gives ``(n, *event_shape)``.
        dtype: Of the draws; that of the first floating-point argument if ``None``.
        validate_args: As for all distributions.

    Example:
        >>> import numpy as np
        >>> def walk(drift, scale):
        ...     return np.cumsum(drift + scale * np.random.randn(10))
        >>> Simulator(walk, torch.zeros(3), torch.ones(()), event_shape=(10,)).sample((2,)).shape
        torch.Size([2, 3, 10])
    """

    density = None
    support = constraints.real

    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Tensor,
        event_shape: Sequence[int],
        event_dims: Sequence[int] | None = None,
        batched: bool = False,
        dtype: torch.dtype | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.function = callable_(function, "function")
        self.arguments = arguments
        self.event_dims = (0,) * len(arguments) if event_dims is None else tuple(event_dims)
        self.batched = switch(batched, "batched")
        self.dtype = dtype or next((a.dtype for a in arguments if a.is_floating_point()), torch.get_default_dtype())
        batch_shape = torch.broadcast_shapes(
            *(a.shape[: a.dim() - k] for a, k in zip(self.arguments, self.event_dims, strict=True))
        )
        super().__init__(batch_shape, torch.Size(event_shape), validate_args=False)
        self._validate_args = validate_args

    def _expanded(self, batch_shape: torch.Size) -> Self:
        arguments = [
            a.expand(*batch_shape, *a.shape[a.dim() - k :])
            for a, k in zip(self.arguments, self.event_dims, strict=True)
        ]
        return type(self)(
            self.function,
            *arguments,
            event_shape=self.event_shape,
            event_dims=self.event_dims,
            batched=self.batched,
            dtype=self.dtype,
        )

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        rows = [
            a.expand(*shape, *a.shape[a.dim() - k :]).reshape(shape.numel(), *a.shape[a.dim() - k :])
            for a, k in zip(self.arguments, self.event_dims, strict=True)
        ]
        arrays = [row.detach().cpu().numpy() for row in rows]
        if self.batched:
            drawn = np.asarray(self.function(*arrays))
        else:
            found = [np.asarray(self.function(*row)) for row in zip(*arrays, strict=True)]
            drawn = np.stack(found) if found else np.empty((0, *self.event_shape))
        device = self.arguments[0].device if self.arguments else None
        return torch.as_tensor(drawn, dtype=self.dtype, device=device).reshape(*shape, *self.event_shape)
