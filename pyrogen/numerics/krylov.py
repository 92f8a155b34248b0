r"""Large symmetric matrices, of which only products with vectors are needed.

:func:`conjugate_gradients` solves, :func:`quadrature` gives quadratic forms :math:`v^\top f(B) v` for as many functions
as one likes from one run of Lanczos' method, :func:`largest_eigenvalue` is what it says, and :func:`apply` is
:math:`f(B) v` by Chebyshev polynomials. Vectors have any batch dimensions; ``product`` takes vectors ``(*batch, m)``.

References:
    Golub and Meurant 2010, "Matrices, moments and quadrature with applications",
    https://doi.org/10.1515/9781400833887
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def conjugate_gradients(product: Product, right: Tensor, *, tolerance: float = 1e-6, steps: int = 1000) -> Tensor:
    r"""The solution of :math:`B x = r` for a positive definite :math:`B`.

    Args:
        product: :math:`B`, which may differ from row to row.
        right: :math:`r`, of shape ``(*batch, m)``.
        tolerance: How small the norm of :math:`B x - r` must be, relative to that of :math:`r`, in every row.
        steps: How many steps there may be.

    Raises:
        RuntimeError: they were not enough. Rows that are no numbers remain so, and spoil no other row.
    """
    x, residual = torch.zeros_like(right), right
    direction, size = right, _dot(right, right)
    goal = tolerance**2 * size
    for _ in range(steps):
        done = ~(size > goal)
        if done.all():
            return torch.where(size.isfinite(), x, torch.nan)
        image = product(direction)
        length = _ratio(size, _dot(direction, image), done)
        x, residual = x + length * direction, residual - length * image
        size, before = _dot(residual, residual), size
        direction = residual + _ratio(size, before, done) * direction
    worst = (size / goal).nan_to_num(0.0).max().sqrt().item() * tolerance
    raise RuntimeError(
        f"conjugate gradients did not converge in {steps} steps: the relative residual is {worst:.1e}, "
        f"not {tolerance:.1e}"
    )


def quadrature(product: Product, vector: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    r"""Gauss quadrature of :math:`v^\top f(B) v = \sum_k w_k f(\lambda_k)`, by Lanczos' method.

    Two of them, of three quarters of the steps and of all: by how much they differ is how well they have converged.

    Args:
        product: :math:`B`, symmetric.
        vector: :math:`v`, of shape ``(*batch, m)``.
        steps: How many products are taken.

    Yields:
        Nodes :math:`\lambda` and weights :math:`w`, ``(*batch, k)``.
    """
    diagonal, beside = zip(*_lanczos(product, vector, steps), strict=True)
    diagonal, beside = torch.stack(diagonal, -1), torch.stack(beside, -1)
    size = _dot(vector, vector)
    for count in (max(3 * steps // 4, 1), steps):
        nodes, vectors = torch.linalg.eigh(_tridiagonal(diagonal[..., :count], beside[..., : count - 1]))
        yield nodes, size * vectors[..., 0, :].square()


def largest_eigenvalue(product: Product, start: Tensor, *, tolerance: float = 1e-10, steps: int = 1000) -> float:
    """The largest eigenvalue of a symmetric matrix, from below, by Lanczos' method.

    Args:
        product: The matrix.
        start: A random vector, ``(m,)``.
        tolerance: The relative change in five steps at which it stops.
        steps: How many products may be taken.

    Raises:
        RuntimeError: they were not enough.
    """
    diagonal, beside, before = [], [], math.inf
    for step, (alpha, beta) in enumerate(_lanczos(product, start, steps), 1):
        diagonal, beside = [*diagonal, alpha], [*beside, beta]
        ended = step == len(start) or not beta > 0
        if step % 5 == 0 or ended:
            top = torch.linalg.eigvalsh(_tridiagonal(torch.stack(diagonal), torch.stack(beside)[:-1]))[-1].item()
            if ended or abs(top - before) <= tolerance * abs(top):
                return top
            before = top
    raise RuntimeError(f"the largest eigenvalue did not converge in {steps} steps, got {before} so far")


def apply(
    function: Callable[[Tensor], Tensor],
    product: Product,
    vector: Tensor,
    *,
    largest: float,
    tolerance: float = 1e-8,
    steps: int = 1000,
) -> Tensor:
    r""":math:`f(B) v` for a smooth function of a matrix with eigenvalues in :math:`[0, b]`, by Chebyshev polynomials.

    Args:
        function: :math:`f`, of eigenvalues, on all of the interval.
        product: :math:`B`, symmetric.
        vector: :math:`v`, of shape ``(*batch, m)``.
        largest: :math:`b`.
        tolerance: The coefficients that are left out, relative to the largest.
        steps: How many products may be taken.

    Raises:
        RuntimeError: they were not enough.
    """
    angle = math.pi * (torch.arange(steps, dtype=torch.double, device=vector.device) + 0.5) / steps
    values = function(0.5 * largest * (1 + angle.cos()))
    coefficients = 2 / steps * torch.cos(torch.arange(steps, device=vector.device).unsqueeze(-1) * angle) @ values
    kept = (coefficients.abs() > tolerance * coefficients.abs().max()).nonzero().max().item() + 1
    if kept > 0.9 * steps:
        raise RuntimeError(f"the function takes more than {steps} products with the matrix: it is too steep")

    def moved(vector: Tensor) -> Tensor:
        return 2 / largest * product(vector) - vector  # eigenvalues in [-1, 1]

    before, now = vector, moved(vector)
    total = 0.5 * coefficients[0].to(vector) * vector
    for coefficient in coefficients[1:kept].to(vector):
        total = total + coefficient * now
        before, now = now, 2 * moved(now) - before
    return total


def _lanczos(product: Product, vector: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The diagonal of the tridiagonal matrix and what stands beside it, one after the other; zeros at the end.

    Without orthogonalizing again: what is found twice shares its weight, and quadratures are right (Golub and Meurant).
    """
    before, now = torch.zeros_like(vector), _unit(vector)
    beta = torch.zeros_like(vector[..., :1])
    for _ in range(steps):
        ahead = product(now) - beta * before
        alpha = _dot(now, ahead)
        ahead = ahead - alpha * now
        beta = ahead.norm(dim=-1, keepdim=True)
        beta = torch.where(beta > 1e-13 * alpha.abs(), beta, 0.0)
        yield alpha.squeeze(-1), beta.squeeze(-1)
        before, now = now, torch.where(beta > 0, ahead / beta, 0.0)


def _tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)


def _unit(vector: Tensor) -> Tensor:
    size = vector.norm(dim=-1, keepdim=True)
    return torch.where(size > 0, vector / size, 0.0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _ratio(above: Tensor, below: Tensor, done: Tensor) -> Tensor:
    """The ratio where a row still moves, else zero."""
    return torch.where(done, 0.0, above / torch.where(done, 1.0, below))
