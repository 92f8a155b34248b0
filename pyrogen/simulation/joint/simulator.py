"""A plain function as a site of a Pyro program."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import numpy as np
import torch
from pyro.ops.provenance import detach_provenance
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrogen.arguments import checked, count, instance_of, switch
from pyrogen.arguments import function as is_function
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.supports import contains, widened


class Simulator(PyrogenDistribution):
    """A plain function that simulates, with NumPy or anything else inside, as a distribution.

    It draws samples and has no ``log_prob``: posteriors, likelihoods and ratios are learned from its draws.

    The function gets NumPy arrays, copies of the arguments, and gives a number or an array. Its noise follows torch's
    seed: if it has a parameter ``rng``, it gets a NumPy generator; else NumPy's global generator and Python's are
    seeded for it, and afterwards as they were.

    Args:
        function: What simulates: one event from one value of each argument, or, if ``batched``, ``(n, *event_shape)``
            from n values of each, row by row. Where it has several results, it gives them as one array.
        arguments: Tensors whose batch dimensions broadcast.
        event_shape: Shape of what the function gives.
        event_dims: How many dimensions on the right of each argument are of one value; none if it is not given.
        batched: Whether the function takes many values at once.
        support: Where what it gives lies: real numbers if ``None``. A discrete one makes draws integers.
        dtype: Of the draws. If ``None``, that of the first floating-point argument, or long integers in a discrete
            support.
        validate_args: Whether the function's results are checked to lie in the support; their shape always is.

    Raises:
        TypeError: an argument is no tensor, or another one of another type.
        ValueError: ``arguments`` do not broadcast, or ``event_dims`` are not as many.

    Example:
        >>> def walk(drift, scale, rng):
        ...     return (drift + scale * rng.standard_normal(10)).cumsum()
        >>> drift, scale = torch.zeros(3), torch.tensor(0.5)
        >>> Simulator(walk, drift, scale, event_shape=(10,)).sample((2,)).shape
        torch.Size([2, 3, 10])
    """

    density = None

    @checked(function=is_function, batched=switch, support=instance_of(Constraint), dtype=instance_of(torch.dtype))
    def __init__(
        self,
        function: Callable[..., Any],
        *arguments: Tensor,
        event_shape: Sequence[int],
        event_dims: Sequence[int] | None = None,
        batched: bool = False,
        support: Constraint | None = None,
        dtype: torch.dtype | None = None,
        validate_args: bool | None = None,
    ) -> None:
        for place, argument in enumerate(arguments):
            if not isinstance(argument, Tensor):
                raise TypeError(f"`arguments` must be tensors, got {type(argument).__name__} at place {place}")
        event_dims = (0,) * len(arguments) if event_dims is None else tuple(event_dims)
        if len(event_dims) != len(arguments):
            raise ValueError(
                f"`event_dims` must be one number for each of {len(arguments)} arguments, got {event_dims}"
            )
        for place, (argument, dims) in enumerate(zip(arguments, event_dims, strict=True)):
            if count(dims, "event_dims") > argument.dim():
                raise ValueError(
                    f"`event_dims` must be at most the dimensions of an argument, got {dims} for shape "
                    f"{tuple(argument.shape)} at place {place}"
                )
        self.function, self.arguments, self.event_dims, self.batched = function, arguments, event_dims, batched
        event_shape = torch.Size((event_shape,) if isinstance(event_shape, int) else event_shape)
        self._support = widened(constraints.real if support is None else support, len(event_shape))
        self.dtype = dtype or self._usual_dtype()
        shapes = [tuple(argument.shape[: argument.dim() - dims]) for argument, dims in self._pairs()]
        try:
            batch_shape = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            raise ValueError(f"`arguments` must have batch shapes that broadcast, got {shapes}") from None
        super().__init__(torch.Size(batch_shape), event_shape, validate_args=False)
        self._validate_args = type(self)._validate_args if validate_args is None else validate_args

    @property
    def support(self) -> Constraint:
        return self._support

    def _expanded(self, batch_shape: torch.Size) -> Self:
        return type(self)(
            self.function,
            *self.expanded_arguments(batch_shape),
            event_shape=self.event_shape,
            event_dims=self.event_dims,
            batched=self.batched,
            support=self._support,
            dtype=self.dtype,
        )

    def expanded_arguments(self, batch_shape: torch.Size) -> list[Tensor]:
        """The arguments with a batch shape that theirs broadcasts to."""
        return [
            argument.expand((*batch_shape, *argument.shape[argument.dim() - dims :]))
            for argument, dims in self._pairs()
        ]

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        arguments = [detach_provenance(argument) for argument in self.expanded_arguments(shape)]
        rows = [argument.reshape((shape.numel(), *argument.shape[len(shape) :])) for argument in arguments]
        arrays = [each.cpu().numpy().copy() for each in rows]  # the function may change what it gets
        found = self._simulated(arrays, shape.numel())
        drawn = torch.from_numpy(found).to(self.dtype)
        self._check_values(drawn, found)
        device = self.arguments[0].device if self.arguments else None
        return drawn.to(device).reshape((*shape, *self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError(
            "Simulator draws samples and has no log_prob: learn a likelihood of it (`pyrogen.simulation.likelihood`), "
            "a ratio or a posterior"
        )

    def _simulated(self, arrays: Sequence[np.ndarray], rows: int) -> np.ndarray:
        """What the function gives for so many values of each argument, on a stream of noise for each call."""
        takes_generator = _takes_generator(self.function)

        def called(*values: np.ndarray) -> Any:
            seed = int(torch.randint(2**32, ()))
            if takes_generator:
                return self.function(*values, rng=np.random.default_rng(seed))
            np.random.seed(seed)
            random.seed(seed)
            return self.function(*values)

        with nullcontext() if takes_generator else _own_generators():
            if self.batched:
                return self._checked(called(*arrays), (rows, *self.event_shape))
            found = [self._checked(called(*(array[row] for array in arrays)), self.event_shape) for row in range(rows)]
        return np.stack(found) if found else np.empty((0, *self.event_shape))

    def _checked(self, result: Any, shape: Sequence[int]) -> np.ndarray:
        if isinstance(result, Tensor):
            result = result.detach().cpu().numpy()
        if isinstance(result, Mapping):
            raise TypeError(
                f"`function` must give one array, got a dict of {list(result)}: a Simulator is one site. Observe one "
                "array whole; or take it apart by `pyro.deterministic`, observe the parts, and name the site of the "
                "Simulator in `nuisance`"
            )
        found = np.asarray(result)
        if found.shape != tuple(shape):
            raise ValueError(f"`function` must give an array of shape {tuple(shape)}, got {found.shape}")
        if found.dtype.kind not in "fiub":
            raise ValueError(f"`function` must give real numbers, got dtype {found.dtype}")
        if not self.dtype.is_floating_point and not np.isfinite(found).all():
            raise ValueError(f"`function` must give finite numbers, for draws of {self.dtype}, got {found}")
        return found

    def _check_values(self, drawn: Tensor, found: np.ndarray) -> None:
        """Refuses values outside the support, where the distribution is validated; NaN is for others to count."""
        if not self._validate_args or not drawn.numel():
            return
        same = drawn.isnan() | (drawn.double() == torch.from_numpy(found).double())
        right = same if self._support.is_discrete else torch.ones_like(same)
        right = right.flatten(1).all(1) if right.dim() > 1 else right
        missing = drawn.isnan().flatten(1).any(1) if drawn.dim() > 1 else drawn.isnan()
        wrong = ~(right & (contains(self._support, drawn) | missing))
        if bool(wrong.any()):
            raise ValueError(
                f"`function` must give values in the support {self._support}, got {found[wrong.numpy()][0]}"
            )

    def _pairs(self) -> Iterator[tuple[Tensor, int]]:
        return zip(self.arguments, self.event_dims, strict=True)

    def _usual_dtype(self) -> torch.dtype:
        if self._support.is_discrete:
            return torch.long
        floating = (argument.dtype for argument in self.arguments if argument.is_floating_point())
        return next(floating, torch.get_default_dtype())


def _takes_generator(function: Callable[..., Any]) -> bool:
    try:
        return "rng" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a built-in function
        return False


@contextmanager
def _own_generators() -> Iterator[None]:
    """A scope in which NumPy's and Python's generators may be seeded, after which they are as they were."""
    bits, state = np.random.get_bit_generator(), random.getstate()
    np.random.set_bit_generator(np.random.MT19937(0))
    try:
        yield
    finally:
        np.random.set_bit_generator(bits)
        random.setstate(state)
