r"""Resampling: from weighted particles to equally weighted ones.

A cloud of :math:`P` particles with weights :math:`W_i` becomes :math:`P` copies, particle :math:`i` being copied
:math:`P W_i` times on average. The schemes differ in the noise around that number. Systematic resampling draws a single
uniform number :math:`u` and copies the particle in whose share of the unit interval each of the points
:math:`(k + u) / P` falls; its counts never leave :math:`\lfloor P W_i \rfloor, \lceil P W_i \rceil`.

Because neighbouring particles share a point, the order of the cloud matters: if particles that are alike lie side by
side, every *region* receives the right number of copies to within one or two as well. :func:`order` finds such an
order.

Log-weights have shape ``(particles, *batch)``: the clouds of a batch are independent.

References:
    Douc, Cappe and Moulines 2005, "Comparison of resampling schemes for particle filtering",
    https://arxiv.org/abs/cs/0507025
    Chopin and Singh 2015, "On particle Gibbs sampling", https://arxiv.org/abs/1304.1887
    Gerber, Chopin and Whiteley 2019, "Negative association, ordering and convergence of resampling methods",
    https://arxiv.org/abs/1707.01845
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 10  # of each coordinate on the space-filling curve


def effective_sample_size(log_weights: Tensor) -> Tensor:
    r"""How many equally weighted particles the cloud is worth, :math:`1 / \sum_i W_i^2`.

    Zero for a dead cloud, in which all weights are zero, or one is no number or infinite.

    Args:
        log_weights: Unnormalized, of shape ``(particles, *batch)``.

    Shape:
        ``batch``.
    """
    weights = normalized(log_weights)
    return torch.where(_alive(log_weights), 1 / weights.square().sum(0), 0.0)


def normalized(log_weights: Tensor) -> Tensor:
    """The weights, summing to one over the particles; equal weights where all of them are zero, or one is no number."""
    return torch.where(_alive(log_weights), log_weights.softmax(0), 1 / len(log_weights))


def _alive(log_weights: Tensor) -> Tensor:
    """Whether the weights of a cloud can be normalized."""
    return log_weights.logsumexp(0).isfinite()


def systematic(log_weights: Tensor, *, count: int | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Which particle each copy is of, by systematic resampling; copies of a particle lie side by side.

    Args:
        log_weights: Unnormalized, of shape ``(particles, *batch)``.
        count: How many copies there are in all; as many as particles if not given.
        generator: Where the one uniform number of each cloud comes from; torch's own if not given.

    Shape:
        ``(count, *batch)``, integers.
    """
    weights = normalized(log_weights)
    uniform = torch.rand(weights.shape[1:], dtype=weights.dtype, device=weights.device, generator=generator)
    return _comb(weights, uniform, len(weights) if count is None else count)


def conditional_systematic(log_weights: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Systematic resampling given that the first particle is copied to the first place.

    This is the law of :func:`systematic` (followed by a random rotation) under that condition, as particle Gibbs needs
    it (section 3.2 of Chopin and Singh 2015).

    Args:
        log_weights: Unnormalized, of shape ``(particles, *batch)``; the first particle is the retained one.
        generator: Where the random numbers come from; torch's own if not given.

    Shape:
        That of ``log_weights``, integers; the first entry is always zero.
    """
    weights = normalized(log_weights)
    expected = len(weights) * weights[0]
    whole = expected.floor()
    rest = expected - whole
    first, second = torch.rand((2, *expected.shape), dtype=weights.dtype, device=weights.device, generator=generator)
    # The comb starts in [0, 1); its offset has the density of the number of copies of the first particle.
    more = first * expected < rest * (whole + 1)
    uniform = torch.where(more, second * rest, rest + second * (1 - rest))
    chosen = _comb(weights, torch.where(expected < 1, second * expected, uniform), len(weights))
    chosen[0] = 0
    return chosen


def order(points: Tensor) -> Tensor:
    r"""An order of particles in which neighbours are alike: along a Z-curve through their two main directions.

    Args:
        points: Of shape ``(particles, batch, size)``.

    Shape:
        ``(particles, batch)``, integers: the indices of the particles in their new order.
    """
    points = torch.where(points.isfinite(), points, 0.0)
    centred = (points - points.mean(0)).transpose(0, 1)  # (B, P, D)
    count = min(2, *centred.shape[1:])
    main = torch.linalg.svd(_sketch(centred, count), full_matrices=False).U[..., :count]  # (B, P, count)
    ranks = main.argsort(1).argsort(1)
    cells = ranks * 2**_BITS // points.shape[0]  # (B, P, count)
    shifts = torch.arange(_BITS, device=points.device)
    bits = (cells.unsqueeze(-1) >> shifts) & 1  # (B, P, count, bits)
    places = count * shifts + torch.arange(count, device=points.device).unsqueeze(-1)
    return (bits << places).sum((-1, -2)).argsort(1).T


def in_place(chosen: Tensor) -> Tensor:
    """The same copies in another order: the first of each particle stands where that particle stood.

    Then particles that are kept need not be moved.

    Args:
        chosen: Which particle each copy is of, in increasing order, ``(particles, *batch)``.

    Example:
        >>> in_place(torch.tensor([2, 2, 3, 3])).tolist()
        [2, 3, 2, 3]
    """
    first = torch.ones_like(chosen, dtype=torch.bool)
    first[1:] = chosen[1:] != chosen[:-1]
    kept = torch.zeros_like(first).scatter(0, chosen, True)
    free_places_first, repeats_first = (mask.long().argsort(dim=0, stable=True) for mask in (kept, first))
    return torch.empty_like(chosen).scatter(0, free_places_first, chosen.gather(0, repeats_first))


def take(values: Tensor, chosen: Tensor) -> Tensor:
    """The chosen particles of each cloud: ``values`` is ``(particles, *batch, ...)``, ``chosen`` ``(n, *batch)``."""
    index = chosen.reshape(chosen.shape + (1,) * (values.dim() - chosen.dim()))
    return values.gather(0, index.expand(chosen.shape + values.shape[chosen.dim() :]))


def _sketch(centred: Tensor, count: int) -> Tensor:
    """A thin matrix with nearly the same main directions: two steps of subspace iteration."""
    start = torch.randn(centred.shape[-1], count + 2, dtype=centred.dtype, device=centred.device)
    sketch = centred @ start
    for _ in range(2):
        sketch = centred @ (centred.mT @ torch.linalg.qr(sketch).Q)
    return sketch


def _comb(weights: Tensor, uniform: Tensor, count: int) -> Tensor:
    steps = torch.arange(count, dtype=torch.double, device=weights.device).reshape(-1, *(1,) * uniform.dim())
    points = (steps + uniform.double()) / count
    cumulative = weights.double().cumsum(0)
    cumulative = cumulative / cumulative[-1:]
    chosen = torch.searchsorted(_last(cumulative), _last(points), right=True)
    return chosen.movedim(-1, 0).clamp(max=len(weights) - 1)


def _last(values: Tensor) -> Tensor:
    return values.movedim(0, -1).contiguous()
