r"""The path of a Gaussian process of noise, and all that follows from its two scales.

A datum :math:`x_0` becomes noise along

.. math:: x_t = \alpha_t x_0 + \sigma_t \varepsilon, \qquad \varepsilon \sim \mathcal{N}(0, I) .

Given :math:`x_t`, each of :math:`x_0` and :math:`\varepsilon` determines the other, and so do their posterior means;
with :math:`\hat\varepsilon = \mathbb{E}[\varepsilon \mid x_t]` the score is
:math:`\nabla \log p_t(x_t) = -\hat\varepsilon / \sigma_t` (Tweedie's formula). A
:class:`~pyrogen.numerics.schedules.Schedule` gives the scales.

From a time :math:`t` to an earlier :math:`s` the process is Gaussian, too. With :math:`\alpha_{t|s} = \alpha_t /
\alpha_s` and :math:`\sigma^2_{t|s} = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2`,

.. math::
    q(x_t \mid x_s) &= \mathcal{N}(\alpha_{t|s} x_s, \sigma^2_{t|s} I) \\
    q(x_s \mid x_t, x_0) &= \mathcal{N}\Bigl(\frac{\alpha_{t|s} \sigma_s^2}{\sigma_t^2} x_t
    + \frac{\alpha_s \sigma^2_{t|s}}{\sigma_t^2} x_0, \; \frac{\sigma^2_{t|s} \sigma_s^2}{\sigma_t^2} I\Bigr) .

References:
    Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", https://arxiv.org/abs/2006.11239
    Efron 2011, "Tweedie's formula and selection bias", https://doi.org/10.1198/jasa.2011.tm11181
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class GaussianPath(NamedTuple):
    r"""The path at one time, or at several: :math:`\alpha_t` and :math:`\sigma_t`.

    The derivatives of a path in time, :math:`\alpha'_t` and :math:`\sigma'_t`, are such a pair as well, and :meth:`mix`
    of them is the velocity.

    Example:
        >>> path = GaussianPath(torch.tensor(0.6), torch.tensor(0.8))
        >>> data, noise = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
        >>> path.noise(path.mix(data, noise), data)
        tensor([ 0.5000, -1.0000])
    """

    alpha: Tensor
    sigma: Tensor

    def mix(self, data: Tensor, noise: Tensor) -> Tensor:
        r"""Noisy data, :math:`\alpha_t x_0 + \sigma_t \varepsilon`; of the derivatives the velocity."""
        return self.alpha * data + self.sigma * noise

    def noise(self, x: Tensor, data: Tensor) -> Tensor:
        r"""The noise in noisy data, :math:`(x_t - \alpha_t x_0) / \sigma_t`, or its posterior mean, likewise."""
        return (x - self.alpha * data) / self.sigma

    def data(self, x: Tensor, noise: Tensor) -> Tensor:
        r"""The data behind noisy data, :math:`(x_t - \sigma_t \varepsilon) / \alpha_t`, or their posterior mean."""
        return (x - self.sigma * noise) / self.alpha

    def score(self, noise: Tensor) -> Tensor:
        r""":math:`\nabla \log p_t(x_t) = -\hat\varepsilon / \sigma_t`, from the posterior mean of the noise."""
        return -noise / self.sigma

    @property
    def ratio(self) -> Tensor:
        r"""The noise-to-signal ratio :math:`\sigma_t / \alpha_t`."""
        return self.sigma / self.alpha

    @property
    def total(self) -> Tensor:
        r""":math:`\alpha_t + \sigma_t`: divided by it, noisy data lie on the path of a rectified flow."""
        return self.alpha + self.sigma

    def whitening(self, data_scale: float = 1.0) -> Tensor:
        """The inverse of the standard deviation of noisy data whose data have the given one."""
        return torch.hypot(self.alpha * data_scale, self.sigma).reciprocal()

    @property
    def flow_time(self) -> Tensor:
        r""":math:`\sigma_t / (\alpha_t + \sigma_t)`: the time of a rectified flow with as much noise."""
        return self.sigma / self.total

    def steps(self) -> tuple[GaussianPath, GaussianPath]:
        """The path where each step between its times begins, and where it ends."""
        return GaussianPath(self.alpha[:-1], self.sigma[:-1]), GaussianPath(self.alpha[1:], self.sigma[1:])

    def unbind(self) -> list[GaussianPath]:
        """The paths at several times, which are its first dimension."""
        return [GaussianPath(*pair) for pair in zip(self.alpha.unbind(), self.sigma.unbind(), strict=True)]

    def over(self, event_dim: int) -> GaussianPath:
        """The same with ``event_dim`` dimensions on the right of those of the times, to meet events."""
        if not self.alpha.dim():
            return self
        return GaussianPath(*(each.reshape(each.shape + (1,) * event_dim) for each in self))

    def between(self, earlier: GaussianPath) -> Tensor:
        r"""The variance :math:`\sigma^2_{t|s}` of the noise since an earlier time, free of cancellation."""
        return -(self.sigma**2) * torch.expm1(2 * (earlier.ratio / self.ratio).log())

    def posterior(self, earlier: GaussianPath) -> EarlierStep:
        r""":math:`q(x_s \mid x_t, x_0)` at an earlier time :math:`s`."""
        between = self.between(earlier)
        noisy = self.alpha / earlier.alpha * (earlier.sigma / self.sigma) ** 2
        data = earlier.alpha * between / self.sigma**2
        return EarlierStep(noisy, data, between * (earlier.sigma / self.sigma) ** 2)


class EarlierStep(NamedTuple):
    """A normal distribution: its mean is ``noisy`` times the noisy data plus ``data`` times the data."""

    noisy: Tensor
    data: Tensor
    variance: Tensor
