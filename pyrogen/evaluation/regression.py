r"""A quantity that depends on the data, learned from simulations alone: how well latent values fit the data.

Ranks of a log-likelihood :math:`\log p(y \mid \theta)` at fixed data are ranks of the log-ratio
:math:`\log p(\theta \mid y) / p(\theta)`. Where there is no likelihood, a regression estimates the ratio: features
:math:`t_j(\theta)` (coordinates, and random cosines of them) are regressed on features of the data, and

.. math:: s(\theta, y) = \frac12 \sum_j \Big[ \frac{(t_j(\theta) - \mu_j)^2}{\sigma_j^2}
    - \frac{(t_j(\theta) - g_j(y))^2}{s_j^2} \Big]

with the mean :math:`\mu_j` and the variance :math:`\sigma_j^2` of a feature, and its regression :math:`g_j` with the
variance :math:`s_j^2` of what is left. A feature that the data do not determine drops out. Any function of both is a
valid quantity of simulation-based calibration, so the estimate need not be good; a better one detects more.

References:
    Modrák et al. 2023, "Simulation-based calibration checking for Bayesian computation: The choice of test quantities
    shapes sensitivity", https://arxiv.org/abs/2211.02383
    Rahimi and Recht 2007, "Random features for large-scale kernel machines",
    https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.arrays import takes_arrays
from pyrogen.numerics.ridge import ridge

from .features import Features, RandomFeatures, Summary, Values, checked_values


class RegressionScore:
    """How well latent values fit data, by a regression on simulations.

    A quantity of :func:`~pyrogen.evaluation.simulation_based_calibration`, which uses one by itself where there is no
    log-likelihood. It is learned once, in closed form; the simulations must be others than those that are ranked.

    Args:
        latents: Latent values of simulations by site, rows first.
        observed: Their data by site; NaN where rows are absent.
        summary: Features of the data, as a function of such a dict: ``(rows, features)``. By default the entries of
            the sites, with mean and spread over their first dimension.

    Raises:
        TypeError: a value is no tensor.
        ValueError: there are fewer than ten simulations, sites differ in their number, latent values are NaN, or values
            are infinite.

    Example:
        >>> theta = torch.randn(500)
        >>> score = RegressionScore({"theta": theta}, {"x": theta + 0.1 * torch.randn(500)})
        >>> score({"theta": torch.tensor([0.0, 1.0])}, {"x": torch.zeros(2)}).diff() < 0
        tensor([True])
    """

    @takes_arrays
    def __init__(self, latents: Values, observed: Values, *, summary: Summary | None = None) -> None:
        rows = len(next(iter(checked_values({**checked_values(latents, "latents")}, "latents").values())))
        checked_values({**latents, **checked_values(observed, "observed")}, "observed")
        if rows < 10:
            raise ValueError(f"`latents` must hold at least ten simulations, got {rows}")
        for site, value in latents.items():
            if value.isnan().any():
                raise ValueError(f"`latents[{site!r}]` must hold numbers, got {int(value.isnan().sum())} NaN")
        self._latent, self._data = Features(latents, sets=False, name="latents"), Features(observed, summary=summary)
        self._targets = RandomFeatures(self._latent(latents), 64)
        self._inputs = RandomFeatures(self._data(observed), 200)
        targets, inputs = self._targets(self._latent(latents)), self._inputs(self._data(observed))
        self.mean, self.center = targets.mean(0), inputs.mean(0)
        self.variance, varies = targets.var(0), targets.var(0) > 1e-12
        self.variance = torch.where(varies, self.variance, 1.0)
        self.weights, left = regressed(inputs, targets)
        informative = varies & (left < self.variance)
        self.weights *= informative
        self.left = torch.where(informative, left, self.variance).clamp(min=1e-9 * self.variance)

    @property
    def explained(self) -> Tensor:
        """The share of each latent entry's variance that the data explain, on held-out data (by leaving one out)."""
        entries = sum(shape.numel() for shape in map(torch.Size, self._latent.shapes.values()))
        return (1 - self.left / self.variance)[:entries]

    @takes_arrays
    def __call__(self, latents: Values, data: Values) -> Tensor:
        """The score of each row: larger where the latent values fit the data better."""
        targets = self._targets(self._latent(latents)) - self.mean
        fitted = (self._inputs(self._data(data)) - self.center) @ self.weights
        return 0.5 * (targets.square() / self.variance - (targets - fitted).square() / self.left).sum(1)

    def __repr__(self) -> str:
        return f"<RegressionScore of {', '.join(self._latent.shapes)} given {', '.join(self._data.shapes)}>"


def regressed(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of a ridge regression, each target with its own ridge, and the variance that each leaves when held out.

    Args:
        inputs: ``(rows, features)``.
        targets: ``(rows, targets)``.

    Shape:
        ``(features, targets)`` and ``(targets,)``.
    """
    covariance = torch.cov(torch.cat([targets, inputs], 1).double().T, correction=0)
    found = ridge(covariance, len(inputs), targets.shape[1])
    return found.weight.T.to(inputs), found.error.to(targets)
