r"""Multistep exponential integrators, of any order.

With a suitable scale :math:`c`, position :math:`u` and kernel :math:`k` the probability flow is

.. math:: \frac{d (c\, x)}{du} = k(u)\, q

for what is predicted, :math:`q`; the linear part of the equation is solved exactly. Between positions :math:`u_i` and
:math:`u_{i+1}` the prediction is replaced by the polynomial through its last values,

.. math:: c_{i+1} x_{i+1} = c_i x_i + \sum_j w_j q_j, \qquad w_j = \int_{u_i}^{u_{i+1}} k(u)\, L_j(u)\, du,

with Lagrange's polynomials :math:`L_j`. Three choices of :math:`q`, with :math:`\ell = \log(\alpha / \sigma)`:

================  =======================  =================  =========================  =====================
prediction        :math:`q`                :math:`c`          :math:`u`                  :math:`k`
================  =======================  =================  =========================  =====================
data              :math:`D`                :math:`1/\sigma`   :math:`\ell`               :math:`e^\ell`
noise             :math:`\hat\varepsilon`  :math:`1/\alpha`   :math:`\ell`               :math:`-e^{-\ell}`
flow velocity     :math:`\hat\varepsilon   :math:`1/(\alpha   :math:`\sigma / (\alpha    1
                  - D`                     + \sigma)`         + \sigma)`
================  =======================  =================  =========================  =====================

Orders two and three in data are DPM-Solver++ (2M, 3M), in noise DPM-Solver and DEIS; with the corrector, UniPC. In
flow velocity it is Adams' method. A corrector repeats the step once the prediction at its end is known: interpolation
instead of extrapolation, without one more evaluation.

References:
    Lu, Zhou, Bao, Chen, Li and Zhu 2022, "DPM-Solver++: fast solver for guided sampling of diffusion probabilistic
    models", https://arxiv.org/abs/2211.01095
    Zhang and Chen 2023, "Fast sampling of diffusion models with exponential integrator",
    https://arxiv.org/abs/2204.13902
    Zhao, Bai, Rao, Zhou and Lu 2023, "UniPC: a unified predictor-corrector framework for fast sampling of diffusion
    models", https://arxiv.org/abs/2302.04867
    Gonzalez, Fernandez, Tran, Gherbi, Hajri and Masmoudi 2023, "SEEDS: exponential SDE solvers for fast high-quality
    sampling from diffusion models", https://arxiv.org/abs/2305.14267
    Xue, Yi, Luo, Zhang, Sun, Li and Ma 2023, "SA-Solver: stochastic Adams solver for fast sampling of diffusion
    models", https://arxiv.org/abs/2309.05019
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyrogen.arguments import integer, non_negative
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.grids import FlowGrid, Grid
from pyrogen.numerics.representation import by_settings
from pyrogen.numerics.schedule import Schedule

from .sampler import GridDenoiser, Sampler

Array = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(20)
_STRETCH = 3.0


class Prediction(ABC):
    r"""What a multistep method keeps and interpolates.

    Subclasses are immutable.

    Attributes:
        reach: The longest step, in :math:`\ell`, that is corrected.
    """

    reach = math.inf

    def __repr__(self) -> str:
        return by_settings(self)

    @abstractmethod
    def frame(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        """The scale ``c`` and the position ``u`` at each time of the grid."""

    @abstractmethod
    def kernel(self, position: Array) -> Array:
        """The kernel ``k`` at positions."""

    @abstractmethod
    def mixture(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        """What multiplies the noisy and the denoised data in the prediction at each time."""

    def fresh(self, alpha: Array, sigma: Array) -> Array:
        """The standard deviation of the fresh noise of each step; without it the method is deterministic."""
        return np.zeros(len(alpha) - 1)


class DataPrediction(Prediction):
    r"""The denoised data, :math:`q = D`, with a share :math:`\tau` of the reverse diffusion's fresh noise.

    With :math:`\tau = 0` it follows the probability flow (DPM-Solver++), with :math:`\tau = 1` the reverse diffusion
    (SDE-DPM-Solver++, SEEDS; of order one it is ancestral sampling), in between SA-Solver:
    :math:`c = e^{\tau^2 \ell} / \sigma` and :math:`k = (1 + \tau^2) e^{(1 + \tau^2) \ell}`.

    Args:
        noise: The share :math:`\tau` of fresh noise.
    """

    def __init__(self, *, noise: float = 0.0) -> None:
        self.rate = non_negative(noise, "noise") ** 2

    def frame(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        position = np.log(alpha / sigma)
        return np.exp(self.rate * position) / sigma, position

    def kernel(self, position: Array) -> Array:
        return (1 + self.rate) * np.exp((1 + self.rate) * position)

    def mixture(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        return np.zeros_like(alpha), np.ones_like(alpha)

    def fresh(self, alpha: Array, sigma: Array) -> Array:
        return sigma[1:] * np.sqrt(-np.expm1(-2 * self.rate * np.diff(np.log(alpha / sigma))))


class NoisePrediction(Prediction):
    r"""The denoiser's noise, :math:`q = \hat\varepsilon` (DPM-Solver, DEIS).

    What the first step adds is divided by the :math:`\alpha` it begins with. Where that is nearly zero, as under
    :class:`~pyrogen.numerics.schedules.RectifiedFlow`, a grid such as ``FlowGrid`` begins with a step of many units of
    :math:`\ell`, and a polynomial through its ends is far from the noise between them, which changes like
    :math:`\alpha^2`. Such steps are not corrected.
    """

    reach = 1.0

    def frame(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        return 1 / alpha, np.log(alpha / sigma)

    def kernel(self, position: Array) -> Array:
        return -np.exp(-position)

    def mixture(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        return 1 / sigma, -alpha / sigma


class VelocityPrediction(Prediction):
    r"""The velocity of a rectified flow, :math:`q = \hat\varepsilon - D`, under any schedule.

    Its interpolation variable is bounded and the velocity regular at both ends, where the log-SNR of a schedule makes
    its longest steps; so this is the one that goes with few steps.
    """

    def frame(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        return 1 / (alpha + sigma), sigma / (alpha + sigma)

    def kernel(self, position: Array) -> Array:
        return np.ones_like(position)

    def mixture(self, alpha: Array, sigma: Array) -> tuple[Array, Array]:
        return 1 / sigma, -1 - alpha / sigma


class Multistep(Sampler):
    r"""A multistep exponential integrator with a corrector.

    One evaluation a step. The error of a path falls as the power ``order`` of the steps, or, with a corrector, as the
    smaller of ``order + 1`` and ``corrector``. The first steps, which have no history yet, are of lower order, and so
    is a step more than three times as long as the one before, since extrapolation so far is worse than none.

    Args:
        grid: The times of the steps.
        order: How many predictions the step extrapolates.
        corrector: How many predictions the correction interpolates, the one at the end of the step among them; 0 for
            no correction.
        last: At most this order in the last step, which nothing corrects. It ends at the data, where the denoised mean
            hardly moves any more; with few steps one is best. With many, its error is the square of its length, which
            a grid that shortens it (``FlowGrid``) keeps small.
        prediction: What is kept and interpolated.
    """

    def __init__(
        self,
        grid: Grid = FlowGrid(20),
        *,
        order: int = 2,
        corrector: int = 3,
        last: int = 1,
        prediction: Prediction = VelocityPrediction(),
    ) -> None:
        super().__init__(grid)
        self.order, self.last = integer(order, "order"), integer(last, "last")
        self.corrector, self.prediction = integer(corrector, "corrector", least=0), prediction
        if corrector == 1:
            raise ValueError("`corrector` must be 0 or at least 2, got 1")
        if not isinstance(prediction, Prediction):
            raise ValueError(f"`prediction` must be a Prediction such as VelocityPrediction(), got {prediction!r}")

    def walk(self, denoise: GridDenoiser, plan: _Plan, x: Tensor) -> Iterator[Tensor]:
        history: list[Tensor] = []  # predictions, the newest first
        longest = max(self.order, self.corrector)
        before, noise = x, None
        for step, predict in enumerate(plan.predict):
            found = _predicted(x, denoise(x, step), plan.noisy[step], plan.denoised[step])
            history = [found, *history[: longest - 1]]
            if step and plan.correct[step - 1]:
                x = _advance(before, plan.keep[step - 1], plan.correct[step - 1], history)
                x = x if noise is None else x + noise
            before = x
            x = _advance(before, plan.keep[step], predict, history)
            if plan.fresh[step]:
                noise = torch.randn_like(x).mul_(plan.fresh[step])
                x = x + noise
            yield x

    def plan(self, path: GaussianPath, schedule: Schedule) -> _Plan:
        alpha, sigma = path.alpha.cpu().numpy(), path.sigma.cpu().numpy()
        scale, position = self.prediction.frame(alpha, sigma)
        steps = np.arange(len(alpha) - 1)
        gaps = np.abs(np.diff(position))
        order = np.minimum(self.order, steps + 1)
        order[1:][gaps[1:] > _STRETCH * gaps[:-1]] = 1
        order[-1] = min(order[-1], self.last)
        reached = np.abs(np.diff(np.log(alpha / sigma))) <= self.prediction.reach
        corrector = np.where(reached, np.minimum(self.corrector, steps + 2), 0)
        newest, counts = np.append(steps, steps + 1), np.append(order, corrector)
        weights = _weights(position, self.prediction.kernel, newest, counts) / np.tile(scale[1:], 2)[:, None]
        rows = [row[:count] for row, count in zip(weights.tolist(), counts.tolist(), strict=True)]
        noisy, denoised = self.prediction.mixture(alpha, sigma)
        fresh = self.prediction.fresh(alpha, sigma)
        keep = scale[:-1] / scale[1:]
        return _Plan(
            keep.tolist(), rows[: len(steps)], rows[len(steps) :], noisy.tolist(), denoised.tolist(), fresh.tolist()
        )


class _Plan(NamedTuple):
    """The coefficients of every step, as Python numbers."""

    keep: list[float]
    predict: list[list[float]]
    correct: list[list[float]]  # empty where a step is not corrected
    noisy: list[float]
    denoised: list[float]
    fresh: list[float]


def _weights(position: Array, kernel: Callable[[Array], Array], newest: Array, counts: Array) -> Array:
    r"""The integrals of :math:`k L_j` over all steps, and over all steps again, by Gauss and Legendre's rule.

    Args:
        position: Of the times, ``(steps + 1,)``.
        kernel: The kernel ``k``.
        newest: Number of the newest time that each polynomial goes through, ``(2 * steps,)``.
        counts: Through how many it goes.
    """
    middle, half = ((position[1:] + position[:-1]) / 2)[:, None], (np.diff(position) / 2)[:, None]
    points = middle + half * _NODES  # (steps, 20)
    measure = half * _WEIGHTS * kernel(points)
    points, measure = np.concatenate((points, points)), np.concatenate((measure, measure))
    nodes = [position[np.maximum(newest - j, 0)][:, None] for j in range(counts.max())]
    weights = []
    for j, node in enumerate(nodes):
        integrand = measure
        for m, other in enumerate(nodes):
            if m != j:
                unused = (counts <= max(m, j))[:, None]
                integrand = integrand * np.where(unused, 1.0, (points - other) / np.where(unused, 1.0, node - other))
        weights.append(integrand.sum(1))
    return np.stack(weights, 1)


def _predicted(x: Tensor, data: Tensor, noisy: float, denoised: float) -> Tensor:
    return data if noisy == 0 else torch.add(x * noisy, data, alpha=denoised)


def _advance(x: Tensor, keep: float, weights: list[float], history: list[Tensor]) -> Tensor:
    x = x * keep
    for weight, found in zip(weights, history, strict=False):
        x = torch.add(x, found, alpha=weight)
    return x
