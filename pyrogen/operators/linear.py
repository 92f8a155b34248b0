"""Linear operators and their adjoints."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import finite, sizes
from pyrogen.arguments import function as callable_argument
from pyrogen.numerics.krylov import largest_eigenvalue

from .sparse import SparseMatrix
from .spectrum import ExactSpectrum, KrylovSpectrum, Spectrum

_SIGNALS = 8  # by which the sizes of rows are known, to a small factor


class Linear(ABC):
    """A linear operator. Subclasses define :meth:`__call__`.

    Args:
        shape: The shape of one input; the output may have another.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The measurement of ``x``, of shape ``(*batch, *shape)``, without noise."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one measurement."""
        return tuple(self(self.zero()).shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """The adjoint at ``y``, of shape ``(*batch, *shape)``; by differentiation unless a subclass defines it."""
        zero = torch.zeros(self.shape, dtype=y.dtype, device=y.device)
        start = zero.expand(*y.shape[: y.dim() - self(zero).dim()], *self.shape)
        return torch.func.vjp(self, start)[1](y)[0]

    def gram(self, x: Tensor) -> Tensor:
        r"""The normal operator :math:`A^\top A` at ``x``, of shape ``(*batch, *shape)``."""
        return self.adjoint(self(x))

    def norm(self) -> float:
        """The operator norm: the largest singular value, by Lanczos' method where it is not known."""
        if (diagonal := self._diagonal()) is not None:
            return diagonal.max().sqrt().item()
        start = _random(self.zero())
        top = largest_eigenvalue(lambda v: self.gram(v.view_as(start)).flatten(), start.flatten())
        return max(top, 0.0) ** 0.5

    def spectrum(self, dense: int = 4096) -> Spectrum:
        r"""The spectrum of :math:`A A^\top`, which makes Gaussian measurements easy for any variances.

        It is known in closed form for some operators, and wherever :math:`A A^\top` is diagonal, which a random probe
        finds. Others are decomposed, once, if they measure few numbers; of those that measure more than ``dense`` only
        products are taken. Nothing is remembered: keep what is returned.

        Args:
            dense: How many measured numbers are few: the decomposition takes memory for so many squared.
        """
        if (diagonal := self._diagonal()) is not None:
            return ExactSpectrum(self, diagonal)
        if math.prod(self.output_shape) > dense:
            return KrylovSpectrum(self)
        values, vectors = torch.linalg.eigh(self._covariance())
        rotation = ChangeOfBasis(self.output_shape, vectors)
        return ExactSpectrum(self, values.reshape(self.output_shape), rotation, rotation.adjoint)

    def zero(self) -> Tensor:
        """An input of zeros, in double precision, where the operator is."""
        return torch.zeros(self.shape, dtype=torch.double, device=_place(self))

    def __matmul__(self, other: Linear) -> Composition:
        return Composition(self, other)

    def _diagonal(self) -> Tensor | None:
        r"""The diagonal of :math:`A A^\top`, if it is a diagonal matrix."""
        sizes = row_sizes(self, 1e-6)
        probe = _random(sizes) / sizes
        diagonal, product = sizes * self(self.adjoint(1 / sizes)), self(self.adjoint(probe))
        error = (product - diagonal * probe) / sizes
        return diagonal if (error.abs() <= 1e-9 * (product / sizes).abs().max()).all() else None

    def _covariance(self) -> Tensor:
        r"""The matrix :math:`A A^\top`."""
        one = self(self.zero())
        size = one.numel()
        identity = torch.eye(size, dtype=one.dtype, device=one.device).reshape(size, *one.shape)
        return torch.cat([self(self.adjoint(rows)).flatten(1) for rows in identity.split(64)])

    def to(self, *place: Any) -> Linear:
        """The same operator on another device or of another dtype, as ``torch.Tensor.to`` takes them."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            setattr(moved, name, _moved(value, place))
        return moved


class Composition(Linear):
    """Operators one after the other, the last one first: ``Composition(a, b)(x)`` is ``a(b(x))``, as is ``(a @ b)(x)``.

    Args:
        operators: Of which each takes what the next one measures.

    Example:
        >>> from pyrogen.operators import Mask, gaussian_blur
        >>> kept = torch.arange(64).reshape(1, 8, 8) % 3 == 0
        >>> (Mask(kept) @ gaussian_blur((1, 8, 8), 1.0))(torch.ones(1, 8, 8)).shape
        torch.Size([22])
    """

    def __init__(self, *operators: Linear) -> None:
        if not operators or not all(isinstance(operator, Linear) for operator in operators):
            raise TypeError(
                f"`operators` must be one or more Linear, got {[type(part).__name__ for part in operators]}"
            )
        for after, before in pairwise(operators):
            if before.output_shape != after.shape:
                raise ValueError(f"`operators` must fit: one gives {before.output_shape}, the next takes {after.shape}")
        super().__init__(operators[-1].shape)
        self.operators = operators

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.operators[0].output_shape

    def __call__(self, x: Tensor) -> Tensor:
        for operator in reversed(self.operators):
            x = operator(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        for operator in self.operators:
            y = operator.adjoint(y)
        return y

    def zero(self) -> Tensor:
        return self.operators[-1].zero()


class ChangeOfBasis(Linear):
    """Coordinates of signals in orthonormal vectors; the adjoint is the inverse.

    Args:
        shape: The shape of one input.
        vectors: As columns, ``(numbers, numbers)``.
    """

    def __init__(self, shape: tuple[int, ...], vectors: Tensor) -> None:
        super().__init__(shape)
        self.vectors = vectors

    def __call__(self, x: Tensor) -> Tensor:
        return (flattened(x, self.shape, "x") @ self.vectors.to(x)).reshape(x.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        return (flattened(y, self.shape, "y") @ self.vectors.T.to(y)).reshape(y.shape)


class LinearMap(Linear):
    """Any linear function as an operator; the adjoint is by differentiation.

    Args:
        function: Takes one signal, without batch dimensions; it is mapped over them.
        shape: The shape of one input.
        device: Where its inputs are; torch's default if not given.

    Raises:
        ValueError: the function does not take zero to zero.

    Example:
        >>> slopes = LinearMap(lambda x: x.diff(), (5,))
        >>> slopes.adjoint(torch.ones(4))
        tensor([-1.,  0.,  0.,  0.,  1.])
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, device: torch.device | str | None = None
    ) -> None:
        super().__init__(sizes(shape, "shape"))
        self.function, self.device = callable_argument(function, "function"), device
        if function(torch.zeros(self.shape, device=device)).any():
            raise ValueError("`function` must be linear, got one that does not take zero to zero")

    def __call__(self, x: Tensor) -> Tensor:
        batch = x.shape[: x.dim() - len(self.shape)]
        if not batch:
            return self.function(x)
        found = torch.func.vmap(self.function)(x.reshape(-1, *self.shape))
        return found.reshape(*batch, *found.shape[1:])

    def zero(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.double, device=self.device)


def row_sizes(operator: Linear, least: float, units: Tensor | float = 1.0) -> Tensor:
    """About how large the rows of an operator are, in which its covariance is compared with another.

    Args:
        operator: The operator, or several side by side.
        least: The size beside the largest one below which rows are rounding.
        units: Of what is measured, in which rounding is alike.
    """
    zero = operator.zero()
    sizes = operator(_random(zero.expand(_SIGNALS, *zero.shape))).square().mean(0).sqrt() / units
    largest = sizes.amax(tuple(range(-len(operator.output_shape), 0)), keepdim=True)
    return units * torch.where(largest > 0, torch.maximum(sizes, least * largest), 1.0)


def _place(value: Any) -> torch.device | None:
    """Where an operator is: the first tensor of it, or of its parts."""
    if isinstance(value, Tensor):
        return value.device
    parts = vars(value).values() if isinstance(value, Linear) else value if isinstance(value, tuple) else ()
    return next((found for part in parts if (found := _place(part)) is not None), None)


def _random(like: Tensor) -> Tensor:
    """The same random numbers whenever asked for so many."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def flattened(signal: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """A signal ``(*batch, *shape)`` as vectors.

    Raises:
        ValueError: it has another shape; ``name`` is that of the argument.
    """
    batch = signal.dim() - len(shape)
    if tuple(signal.shape[max(batch, 0) :]) != shape:
        raise ValueError(f"`{name}` must end in shape {shape}, got {tuple(signal.shape)}")
    return signal.reshape(*signal.shape[:batch], math.prod(shape))


def varies(tensor: Tensor) -> bool:
    """Whether a tensor is differentiated or mapped over."""
    return tensor.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def floating(value: Tensor, name: str) -> Tensor:
    """A tensor of finite numbers; those of one that is mapped over cannot be looked at."""
    return value if isinstance(value, Tensor) and varies(value) else finite(value, name)


def _moved(value: Any, place: tuple) -> Any:
    if isinstance(value, Tensor) and not value.is_floating_point():
        kinds = [part.to_complex() for part in place if isinstance(part, torch.dtype) and value.is_complex()]
        return value.to(*(part for part in place if not isinstance(part, torch.dtype)), *kinds)
    if isinstance(value, tuple):
        return tuple(_moved(part, place) for part in value)
    return value.to(*place) if isinstance(value, Tensor | Linear | SparseMatrix) else value
