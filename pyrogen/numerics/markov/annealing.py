r"""Annealing along a path: weighted draws of the target, and the ratio of its normalizer to that of the base.

Chains are carried from one end of a path to the other (Neal 2001). A chain's weight is

.. math:: \log w = \sum_k \log f_{\beta_{k + 1}}(x_k) - \log f_{\beta_k}(x_k)

with :math:`x_k` drawn by the kernel at :math:`\beta_k`. Whatever the kernels, however few the steps, the mean weight of
chains that begin at exact draws is *exactly* the ratio of normalizers, :math:`\mathbb{E}\, w = Z_1 / Z_0` forwards and
:math:`Z_0 / Z_1` backwards. The logarithm of a mean of weights is therefore a lower bound in expectation of
:math:`\log Z_1 / Z_0` forwards, and minus that logarithm an upper bound backwards (Grosse, Ghahramani and Adams 2015):
but only from exact draws of the target.

Inverse temperatures are best spaced evenly in the standard deviation of the log-weights' increments (the thermodynamic
length), which :func:`survey` measures in a pilot run.

References:
    Neal 2001, "Annealed importance sampling", https://arxiv.org/abs/physics/9803008
    Grosse, Ghahramani and Adams 2015, "Sandwiching the marginal likelihood using bidirectional Monte Carlo",
    https://arxiv.org/abs/1511.02543
    Bennett 1976, "Efficient estimation of free energy differences from Monte Carlo data",
    https://doi.org/10.1016/0021-9991(76)90078-4
    Crooks 2007, "Measuring thermodynamic length", https://arxiv.org/abs/0706.0559
"""

from __future__ import annotations

from itertools import pairwise
from math import log

import torch
from torch import Tensor

from pyrogen.numerics.resampling import effective_sample_size

from .paths import DensityPath

_SPACING = 0.5  # nats of standard deviation between the inverse temperatures of a pilot run
_MOST = 5000  # of them, and of trials that went too far
_LEAST = 1e-6  # of a step to where it begins: within less, only densities that run away differ by half a nat


def anneal(path: DensityPath, temperatures: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Chains carried along a path, and the logarithms of their weights.

    Args:
        path: The densities.
        temperatures: Inverse temperatures in the order in which they are visited: rising from 0, or falling from 1.
        x: Exact draws of the density at the first one, ``(chains, *event)``.

    Returns:
        The log-weights, ``(chains,)``, in double precision, and where the chains ended.
    """
    log_weights = torch.zeros(len(x), dtype=torch.double, device=x.device)
    for start, end in pairwise(temperatures):
        log_weights += path.increment(x, start, end)
        x = path.move(x, end)
    return log_weights, x


def survey(path: DensityPath, chains: int) -> tuple[Tensor, Tensor]:
    """A pilot run along a path, of which the path learns its step sizes.

    Args:
        path: The densities.
        chains: How many chains.

    Returns:
        The inverse temperatures that it visited, and how many standard deviations of the increments away from 0 each
        is: the thermodynamic length.

    Raises:
        ValueError: the densities are too far apart, or the target has no normalizer.
    """
    x = path.draw(chains)
    at, step = torch.zeros((), dtype=torch.double, device=x.device), 1.0
    visited, lengths = [0.0], [0.0]
    for _ in range(_MOST):
        if step < _LEAST * float(at):
            break
        end = (at + step).clamp(max=1)
        spread = _spread(path.increment(x, at, end))
        if spread > 1.5 * _SPACING:
            step = float(end - at) * max(_SPACING / spread, 0.1)
            continue
        step = float(end - at) * min(_SPACING / max(spread, 1e-300), 3.0)
        x, at = path.tune(x, end), end
        visited.append(float(at))
        lengths.append(lengths[-1] + spread)
        if at == 1:
            return torch.tensor(visited, dtype=torch.double), torch.tensor(lengths, dtype=torch.double)
    raise ValueError(
        f"`base` must be nearer to the energy, or the energy has no normalizer (give it a base of its own, or bounds): "
        f"{len(visited)} inverse temperatures that differ by half a nat have only come to {float(at):.6g}"
    )


def spaced(visited: Tensor, lengths: Tensor, count: int) -> Tensor:
    """So many inverse temperatures from 0 to 1, evenly spaced in the length that a pilot run measured.

    Args:
        visited: Inverse temperatures.
        lengths: How far away from 0 each is.
        count: How many steps there are between 0 and 1.
    """
    lengths = lengths + 1e-3 * visited * lengths[-1].clamp(min=1e-3)  # no two at one place
    wanted = torch.linspace(0, 1, count + 1, dtype=torch.double) * lengths[-1]
    above = torch.searchsorted(lengths, wanted).clamp(1, len(lengths) - 1)
    share = (wanted - lengths[above - 1]) / (lengths[above] - lengths[above - 1])
    found = torch.lerp(visited[above - 1], visited[above], share.clamp(0, 1))
    found[0], found[-1] = 0.0, 1.0
    return found


def log_mean(log_weights: Tensor) -> tuple[float, float]:
    """The logarithm of the mean weight, and its standard error to first order.

    Args:
        log_weights: Of independent chains, ``(chains,)``.
    """
    chains = len(log_weights)
    worth = float(effective_sample_size(log_weights))
    error = (max(chains / worth - 1, 0) / (chains - 1)) ** 0.5 if chains > 1 and worth else torch.nan
    return float(log_weights.logsumexp(0)) - log(chains), error


def bennett(forwards: Tensor, backwards: Tensor) -> tuple[Tensor, Tensor]:
    r"""The logarithm of the ratio of normalizers from the weights of both directions, and its standard error.

    The acceptance ratio of Bennett, of all combinations of both the one with the least variance. The forward weights
    have mean :math:`Z_1 / Z_0`, the backward ones :math:`Z_0 / Z_1`.

    Args:
        forwards: Log-weights of walks from exact draws of the first density to the second, ``(n, *batch)``.
        backwards: Those of the reversed walks, from exact draws of the second density, ``(m, *batch)``.

    Shape:
        ``batch`` each.
    """
    offset = log(len(forwards) / len(backwards))
    both = torch.cat([forwards, -backwards])
    none = ~both.isfinite()
    low = both.masked_fill(none, torch.inf).amin(0) - abs(offset) - 40
    high = both.masked_fill(none, -torch.inf).amax(0) + abs(offset) + 40
    for _ in range(100):
        middle = (low + high) / 2
        first, second = (forwards - middle - offset).sigmoid(), (backwards + middle + offset).sigmoid()
        below = first.sum(0) > second.sum(0)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle, (_relative_variance(first) + _relative_variance(second)).sqrt()


def _relative_variance(values: Tensor) -> Tensor:
    """That of the mean of independent values."""
    return values.var(0) / (len(values) * values.mean(0).square())


def _spread(increments: Tensor) -> float:
    """The standard deviation of normal increments that lose as much effective sample size; the dead do not count."""
    alive = increments[increments.isfinite()]
    return float((len(alive) / effective_sample_size(alive)).clamp(min=1).log().sqrt()) if len(alive) else 0.0
