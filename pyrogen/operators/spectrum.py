r"""The spectrum of a linear operator: Gaussian measurements of a Gaussian signal, for any variances of both.

If a signal has independent entries of variance :math:`s` and its measurement independent noise of variance :math:`r`,
the measurement has the covariance

.. math:: C = r I + s A A^\top .

With the eigenvalues and eigenvectors of :math:`A A^\top` in hand its density, solutions and draws cost no more than a
change of coordinates, whatever :math:`r` and :math:`s` are; :math:`s` may be negative as long as :math:`C` is positive
definite. All of it is in the space of measurements; nothing here needs the eigenvectors in that of signals, since

.. math:: (r I + s A^\top A)^{-1} = \tfrac{1}{r} \bigl( I - s A^\top C^{-1} A \bigr) .
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyrogen.arguments import integer, positive
from pyrogen.numerics.krylov import apply, conjugate_gradients, quadrature

if TYPE_CHECKING:
    from .linear import Linear

Variance = float | Tensor


class Spectrum(ABC):
    r"""What can be done with :math:`r I + s A A^\top`; see :meth:`Linear.spectrum`.

    The variances ``noise`` :math:`r` and ``signal`` :math:`s` are numbers, or tensors that broadcast with the batch.

    Args:
        operator: The operator.
    """

    def __init__(self, operator: Linear) -> None:
        self.operator = operator

    norm: float
    """The norm of the operator; the largest of several."""

    @abstractmethod
    def resolve(self, residual: Tensor) -> Resolved:
        """A residual ``(*batch, *output_shape)`` resolved into eigenvectors, once for all variances."""

    @abstractmethod
    def log_det(self, noise: Variance, signal: Variance) -> Tensor:
        """The logarithm of the determinant of the covariance, in nats."""

    @abstractmethod
    def solve(self, y: Tensor, noise: Variance, signal: Variance) -> Tensor:
        r""":math:`(r I + s A A^\top)^{-1} y`, of shape ``(*batch, *output_shape)``."""

    @abstractmethod
    def draw(self, sample_shape: tuple[int, ...], noise: Variance, signal: Variance) -> Tensor:
        r"""Draws of :math:`\mathcal{N}(0, r I + s A A^\top)`, ``(*sample_shape, *output_shape)``, in double precision.

        The signal's variance may be negative.
        """

    def log_prob(self, residual: Tensor, noise: Variance, signal: Variance) -> Tensor:
        r""":math:`\log \mathcal{N}(y - A \mu; 0, r I + s A A^\top)` in nats, ``(*batch,)``, in double precision."""
        return self.resolve(residual).log_prob(noise, signal)

    def solve_signal(self, x: Tensor, noise: Variance, signal: Variance) -> Tensor:
        r""":math:`(r I + s A^\top A)^{-1} x`, of shape ``(*batch, *shape)``."""
        dims = len(self.operator.shape)
        seen = self.operator.adjoint(self.solve(self.operator(x), noise, signal))
        return (x - _wide(signal, dims, x) * seen) / _wide(noise, dims, x)


class Resolved(NamedTuple):
    r"""A residual in the coordinates of the eigenvectors of :math:`A A^\top`, or a quadrature of them.

    Attributes:
        spectrum: Where it comes from.
        rules: Eigenvalues ``(*batch, k)`` and squared coefficients; the last is the one that counts, and one before it
            shows how well it has converged.
        tolerance: By how many nats they may differ.
    """

    spectrum: Spectrum
    rules: tuple[tuple[Tensor, Tensor], ...]
    tolerance: float = math.inf

    def log_prob(self, noise: Variance, signal: Variance) -> Tensor:
        r""":math:`\log \mathcal{N}(y; 0, r I + s A A^\top)` in nats, ``(*batch,)``; raises as :meth:`square` does."""
        size = math.prod(self.spectrum.operator.output_shape)
        log_det = self.spectrum.log_det(noise, signal)
        return -0.5 * (self.square(noise, signal) + log_det + size * math.log(2 * math.pi))

    def square(self, noise: Variance, signal: Variance) -> Tensor:
        r""":math:`y^\top (r I + s A A^\top)^{-1} y`, ``(*batch,)``: twice what a Gaussian log-density loses by it.

        Raises:
            RuntimeError: a quadrature has not converged.
        """
        found = [(weights / _covariance(nodes, noise, signal)).sum(-1) for nodes, weights in self.rules]
        off = 0.5 * (found[-1] - found[0]).abs().nan_to_num(0.0).max().item() if found[0].numel() else 0.0
        if off > self.tolerance:
            raise RuntimeError(
                f"`steps` of the spectrum are too few for these variances: the log-density moves by {off:.2g} nats in "
                f"the last quarter of them, more than {self.tolerance:g}; "
                "1.5 (1 + signal norm^2 / noise)^0.5 are enough"
            )
        return found[-1]


class ExactSpectrum(Spectrum):
    r"""Eigenvalues and eigenvectors of :math:`A A^\top`.

    Args:
        operator: The operator.
        values: The eigenvalues, one for each measured number in some order, of shape ``(*output_shape)``; or those of
            several operators, ``(*operators, *output_shape)``, which are the last dimensions of all batches.
        into: From measurements to coefficients, orthonormal; the identity if not given.
        back: The inverse of ``into``.

    Attributes:
        into: As given.
        back: As given.
    """

    def __init__(
        self,
        operator: Linear,
        values: Tensor,
        into: Callable[[Tensor], Tensor] | None = None,
        back: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(operator)
        self.values = values.double().clamp_min(0)
        self.into, self.back = into or _same, back or _same
        self._shape = tuple(operator.output_shape)

    @property
    def norm(self) -> float:
        return self.values.max().sqrt().item()

    def resolve(self, residual: Tensor) -> Resolved:
        coefficients = self.into(residual.double()).square()
        return Resolved(self, ((self._flat(self.values), self._flat(coefficients)),))

    def log_det(self, noise: Variance, signal: Variance) -> Tensor:
        return _covariance(self._flat(self.values), noise, signal).log().sum(-1)

    def solve(self, y: Tensor, noise: Variance, signal: Variance) -> Tensor:
        return self.back(self.into(y.double()) / self._spread(noise, signal)).to(y.dtype)

    def draw(self, sample_shape: tuple[int, ...], noise: Variance, signal: Variance) -> Tensor:
        white = torch.randn(*sample_shape, *self._shape, dtype=torch.double, device=self.values.device)
        return self.back(self._spread(noise, signal).sqrt() * white)

    def _spread(self, noise: Variance, signal: Variance) -> Tensor:
        spread = _covariance(self._flat(self.values), noise, signal)
        return spread.reshape(spread.shape[:-1] + self._shape)

    def _flat(self, y: Tensor) -> Tensor:
        return y.reshape(*y.shape[: y.dim() - len(self._shape)], -1)


class KrylovSpectrum(Spectrum):
    r"""The spectrum of an operator too large to be decomposed, by products with :math:`A A^\top` alone.

    Args:
        operator: The operator.
        steps: How many products are taken for a quadratic form; :math:`1.5 \sqrt{1 + s \lVert A \rVert^2 / r}` are
            enough, if there are so many measured numbers.
        probes: How many random vectors the determinant is estimated from.
        tolerance: The relative error of solutions and draws.
        nats: The error of the quadratic forms in log-densities beyond which there is an error message.

    Raises:
        RuntimeError: (in use) these steps, or a thousand for solutions and draws, do not reach the tolerance.
    """

    def __init__(
        self, operator: Linear, *, steps: int = 200, probes: int = 30, tolerance: float = 1e-6, nats: float = 0.01
    ) -> None:
        super().__init__(operator)
        self.steps = integer(steps, "steps")
        self.tolerance, self.nats = positive(tolerance, "tolerance"), positive(nats, "nats")
        self.probes, self.norm = integer(probes, "probes"), operator.norm()

    def resolve(self, residual: Tensor) -> Resolved:
        flat = self._flat(residual.double())
        rules = quadrature(self._product, flat, min(self.steps, flat.shape[-1]))
        rules = tuple((nodes.clamp_min(0), weights) for nodes, weights in rules)
        return Resolved(self, rules, self.nats)

    def log_det(self, noise: Variance, signal: Variance) -> Tensor:
        """An estimate from random probes; :meth:`log_det_error` is its standard error."""
        return self._log_dets(noise, signal).mean(-1)

    def log_det_error(self, noise: Variance, signal: Variance) -> Tensor:
        """The standard error of :meth:`log_det`, in nats."""
        found = self._log_dets(noise, signal)
        return found.std(-1) / found.shape[-1] ** 0.5

    def solve(self, y: Tensor, noise: Variance, signal: Variance) -> Tensor:
        r, s = _wide(noise, 1, y.double()), _wide(signal, 1, y.double())
        found = conjugate_gradients(
            lambda v: r * v + s * self._product(v), self._flat(y.double()), tolerance=self.tolerance
        )
        return found.reshape(y.shape).to(y.dtype)

    def draw(self, sample_shape: tuple[int, ...], noise: Variance, signal: Variance) -> Tensor:
        shape = tuple(sample_shape) + tuple(self.operator.output_shape)
        white = torch.randn(shape, dtype=torch.double, device=self.operator.zero().device)
        if torch.as_tensor(noise).numel() * torch.as_tensor(signal).numel() > 1:
            raise NotImplementedError("a spectrum that is not decomposed draws for one pair of variances at a time")
        found = apply(
            lambda values: _covariance(values, noise, signal).sqrt(),
            self._product,
            self._flat(white),
            largest=self.norm**2,
            tolerance=self.tolerance,
        )
        return found.reshape(shape)

    def _product(self, y: Tensor) -> Tensor:
        operator = self.operator
        return self._flat(operator(operator.adjoint(y.reshape(*y.shape[:-1], *operator.output_shape))))

    def _flat(self, y: Tensor) -> Tensor:
        dims = len(self.operator.output_shape)
        return y.reshape(*y.shape[: y.dim() - dims], -1)

    @cached_property
    def _trace(self) -> tuple[Tensor, Tensor]:
        """Quadratures of random signs, where there are fewer numbers: of measurements, or else of signals."""
        zero, shape = self.operator.zero(), self.operator.shape
        fewer = zero.numel() < math.prod(self.operator.output_shape)
        size = zero.numel() if fewer else math.prod(self.operator.output_shape)

        def gram(x: Tensor) -> Tensor:
            return self.operator.gram(x.reshape(*x.shape[:-1], *shape)).reshape(x.shape)

        signs = torch.randint(2, (self.probes, size), generator=torch.Generator().manual_seed(0)).to(zero) * 2 - 1
        *_, (nodes, weights) = quadrature(gram if fewer else self._product, signs, min(self.steps, size))
        return nodes.clamp_min(0), weights

    def _log_dets(self, noise: Variance, signal: Variance) -> Tensor:
        """The estimate of each probe; what the signal does not reach has the variance of the noise."""
        nodes, weights = self._trace
        logs = _covariance(nodes.flatten(), noise, signal).log().unflatten(-1, nodes.shape)
        unseen = math.prod(self.operator.output_shape) - weights.sum(-1)  # the weights of a probe sum to its size
        return (weights * logs).sum(-1) + unseen * _wide(noise, 1, nodes).log()


def _same(y: Tensor) -> Tensor:
    return y


def _covariance(values: Tensor, noise: Variance, signal: Variance) -> Tensor:
    """The eigenvalues of the covariance, ``(*batch, k)``."""
    found = _wide(noise, 1, values) + _wide(signal, 1, values) * values
    if not (found > 0).all():
        raise ValueError(
            "`noise` and `signal` must make a positive definite covariance, got a smallest eigenvalue of "
            f"{found.min().item():.3g}"
        )
    return found


def _wide(variance: Variance, dims: int, like: Tensor) -> Tensor:
    """A variance over the entries of a signal."""
    variance = torch.as_tensor(variance, dtype=like.dtype, device=like.device)
    return variance.reshape(variance.shape + (1,) * dims)
