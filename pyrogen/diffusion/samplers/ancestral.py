r"""Ancestral sampling: a step back in time is a Gaussian, perhaps corrected by Langevin steps at its end.

If :math:`x_0` were the denoised mean :math:`D`, going from time :math:`t` to an earlier :math:`s` would be a draw from
the Gaussian :math:`q(x_s \mid x_t, x_0 = D)` of :mod:`pyrogen.numerics.gaussian_path`, whose variance is
:math:`\tilde\beta = \sigma^2_{t|s} \sigma_s^2 / \sigma_t^2`. DDIM keeps the marginals and takes any smaller variance.

References:
    Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", https://arxiv.org/abs/2006.11239
    Nichol and Dhariwal 2021, "Improved denoising diffusion probabilistic models", https://arxiv.org/abs/2102.09672
    Song, Meng and Ermon 2021, "Denoising diffusion implicit models", https://arxiv.org/abs/2010.02502
    Boys, Girolami, Pidstrigach, Reich, Mosca and Akyildiz 2023, "Tweedie moment projected diffusions for inverse
    problems", https://arxiv.org/abs/2310.06721
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole 2021, "Score-based generative modeling through stochastic
    differential equations", section 4.2 (predictor and corrector), https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from pyrogen.arguments import integer, number, positive
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.grids import Grid
from pyrogen.numerics.schedule import Schedule

from .sampler import GridDenoiser, Sampler


class GaussianSampler(Sampler):
    """A sampler whose steps are Gaussian with a mean linear in the noisy and the denoised data."""

    @abstractmethod
    def coefficients(self, start: GaussianPath, end: GaussianPath) -> tuple[Tensor, Tensor, Tensor]:
        """What multiplies the noisy data, the denoised data and fresh noise in steps from ``start`` to ``end``."""

    def plan(self, path: GaussianPath, schedule: Schedule) -> list[tuple[float, float, float]]:
        return list(zip(*(each.tolist() for each in self.coefficients(*path.steps())), strict=True))

    def walk(self, denoise: GridDenoiser, plan: list[tuple[float, float, float]], x: Tensor) -> Iterator[Tensor]:
        for step, coefficients in enumerate(plan):
            x = _gaussian_step(x, denoise(x, step), *coefficients)
            yield x


class DDIM(GaussianSampler):
    r"""Denoising diffusion implicit sampling.

    .. math:: x_s = \alpha_s D + \sqrt{\sigma_s^2 - \eta^2 \tilde\beta}\, \hat\varepsilon + \eta \sqrt{\tilde\beta}\, z

    Without fresh noise (``eta=0``) it is the exponential integrator of order one, and Euler's method for a rectified
    flow; with ``eta=1`` it is :class:`Ancestral` sampling.

    Args:
        grid: The times of the steps.
        eta: The share of fresh noise, in [0, 1].
    """

    def __init__(self, grid: Grid, *, eta: float = 0.0) -> None:
        super().__init__(grid)
        if not 0 <= number(eta, "eta") <= 1:
            raise ValueError(f"`eta` must lie in [0, 1], got {eta}")
        self.eta = eta

    def coefficients(self, start: GaussianPath, end: GaussianPath) -> tuple[Tensor, Tensor, Tensor]:
        variance = self.eta**2 * start.posterior(end).variance
        noisy = (end.sigma**2 - variance).sqrt() / start.sigma
        return noisy, end.alpha - noisy * start.alpha, variance.sqrt()


class Ancestral(GaussianSampler):
    r"""Ancestral sampling of DDPM.

    The mean is that of :math:`q(x_s \mid x_t, x_0 = D)`. The best variance depends on how much of the step's
    uncertainty is the datum's: it lies between :math:`\tilde\beta` (none: the datum is known) and
    :math:`\sigma^2_{t|s}` (all: the datum is white noise, under a variance-preserving schedule).

    Args:
        grid: The times of the steps.
        variance: Where between the two, geometrically: 0 is :math:`\tilde\beta`, 1 is :math:`\sigma^2_{t|s}` (the
            ``v`` of Nichol and Dhariwal 2021, eq. 15). The last step is always with :math:`\tilde\beta`.
    """

    def __init__(self, grid: Grid, *, variance: float = 0.0) -> None:
        super().__init__(grid)
        if not 0 <= number(variance, "variance") <= 1:
            raise ValueError(f"`variance` must lie in [0, 1], got {variance}")
        self.variance = variance

    def coefficients(self, start: GaussianPath, end: GaussianPath) -> tuple[Tensor, Tensor, Tensor]:
        step = start.posterior(end)
        variance = start.between(end) ** self.variance * step.variance ** (1 - self.variance)
        variance[-1] = step.variance[-1]  # else the draws end up noisier than the data
        return step.noisy, step.data, variance.sqrt()


class CovarianceAncestral(Sampler):
    r"""Ancestral sampling that draws the datum, with its covariance, in every step.

    The datum is not the denoised mean: given :math:`x_t` it has the covariance :math:`\tfrac{\sigma_t^2}{\alpha_t^2} P`
    with :math:`P = \alpha_t \, \partial D / \partial x_t` (Tweedie's second formula), another one for every
    :math:`x_t`, and far from diagonal for images. A step is :math:`q(x_s \mid x_t, x_0)` with

    .. math:: x_0 = D + \frac{\sigma_t}{\alpha_t} \, q(P) \, \varepsilon, \qquad q(p)^2 \approx p

    with a polynomial :math:`q`, whose degree is the number of backward passes through the denoiser. So it is nearly
    exact for Gaussian data of any covariance in few steps, and it draws from :math:`p(x_0 \mid x_t)` whatever the noise
    it begins with, which a probability flow does not.

    What a trained denoiser makes of its law shows :func:`pyrogen.evaluation.self_consistency`.

    Args:
        grid: The times of the steps.
        passes: The degree of the polynomial. Of the largest possible variance, two leave errors of 9 %, three of 5 %
            and four of 3 %.
    """

    def __init__(self, grid: Grid, *, passes: int = 2) -> None:
        super().__init__(grid)
        self.passes = integer(passes, "passes")

    def plan(self, path: GaussianPath, schedule: Schedule) -> list[tuple[float, ...]]:
        start, end = path.steps()
        step = start.posterior(end)
        numbers = step.noisy, step.data, step.variance.sqrt(), start.alpha, start.sigma / start.alpha
        return list(zip(*(each.tolist() for each in numbers), strict=True))

    def walk(self, denoise: GridDenoiser, plan: list[tuple[float, ...]], x: Tensor) -> Iterator[Tensor]:
        root = root_polynomial(self.passes)
        for step, (noisy, share, fresh, alpha, ratio) in enumerate(plan):
            with torch.enable_grad():
                point = x.detach().requires_grad_(True)
                mean = denoise(point, step)
            datum, vector = mean.detach(), torch.randn_like(x)
            for coefficient in root:
                vector = alpha * torch.autograd.grad(mean, point, vector, retain_graph=True)[0]
                datum = datum + ratio * coefficient * vector
            x = _gaussian_step(x, datum, noisy, share, fresh)
            yield x


def root_polynomial(degree: int) -> list[float]:
    r"""The coefficients of :math:`p, p^2, \dots` of a polynomial whose square is near :math:`p` on [0, 1].

    It is exact at the ends: where nothing is known of the datum all of the variance counts. In between it is nearest in
    the mean square; where a root is off by :math:`e`, its square is by about :math:`2 \sqrt p e`.
    """
    points = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(200, dtype=torch.double) + 0.5) / 200)
    powers = points.unsqueeze(-1) ** torch.arange(1, degree + 1)
    weight, bumps = points.sqrt().unsqueeze(-1), -powers.diff(dim=-1)
    coefficients = torch.nn.functional.one_hot(torch.tensor(0), degree).double()
    if degree > 1:
        found = torch.linalg.lstsq(weight * bumps, weight * (points.sqrt() - points).unsqueeze(-1)).solution.squeeze(-1)
        coefficients[:-1] += found
        coefficients[1:] -= found
    return coefficients.tolist()


class PredictorCorrector(Sampler):
    r"""After every step in time, Langevin steps that move the draws towards the density at that time.

    .. math:: x \leftarrow x + \tfrac{1}{2} r^2 \sigma_t^2 \nabla \log p_t(x) + r \sigma_t z

    The step is proportional to the noise, the same for all data of a batch. Its own bias is of the order :math:`r^2`;
    there is no correction after the last step.

    Args:
        predictor: The steps in time: :class:`DDIM` or :class:`Ancestral`, with their grid.
        corrections: Langevin steps after each; a grid of n steps costs n + (n - 1) * ``corrections`` evaluations.
        stride: The length :math:`r` of a Langevin step, in units of the noise.
    """

    def __init__(self, predictor: GaussianSampler, *, corrections: int = 1, stride: float = 0.3) -> None:
        if not isinstance(predictor, GaussianSampler):
            raise ValueError(f"`predictor` must be a DDIM or Ancestral sampler, got {type(predictor).__name__}")
        super().__init__(predictor.grid)
        self.predictor = predictor
        self.corrections = integer(corrections, "corrections", least=0)
        self.stride = positive(stride, "stride")

    def plan(self, path: GaussianPath, schedule: Schedule) -> list[tuple[tuple[float, ...], float, float]]:
        _, end = path.steps()  # the corrections are made at the end of each step
        return list(zip(self.predictor.plan(path, schedule), end.alpha.tolist(), end.sigma.tolist(), strict=True))

    def walk(
        self, denoise: GridDenoiser, plan: list[tuple[tuple[float, ...], float, float]], x: Tensor
    ) -> Iterator[Tensor]:
        pull, last = 0.5 * self.stride**2, len(plan) - 1
        for step, (coefficients, alpha, sigma) in enumerate(plan):
            x = _gaussian_step(x, denoise(x, step), *coefficients)
            for _ in range(self.corrections if step < last else 0):
                # sigma^2 times the score is alpha D - x.
                x = _gaussian_step(x, denoise(x, step + 1), 1 - pull, pull * alpha, self.stride * sigma)
            yield x


def _gaussian_step(x: Tensor, data: Tensor, noisy: float, denoised: float, fresh: float) -> Tensor:
    """The noisy data, the denoised data and fresh noise, each times its number."""
    x = torch.add(x * noisy, data, alpha=denoised)
    return torch.add(x, torch.randn_like(x), alpha=fresh) if fresh else x
