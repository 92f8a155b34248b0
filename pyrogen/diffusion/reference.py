r"""Reference models: simple data whose denoiser is known, against which a diffusion model is measured.

With :math:`\lambda` the log-SNR and :math:`\hat\varepsilon` the denoiser's noise, the variational bound of a diffusion
model in continuous time is (Kingma et al. 2021)

.. math::
    \log p(x) \ge \mathbb{E}[\log p(x \mid x_0)] - \operatorname{KL}(q(x_1 \mid x) \,\|\, p(x_1))
    - \tfrac{1}{2} \int_{\lambda_1}^{\lambda_0} \mathbb{E} \lVert \varepsilon - \hat\varepsilon \rVert^2 d\lambda .

Take simple data :math:`r(x)` with independent elements, whose optimal denoiser :math:`\hat\varepsilon_r`, posterior
:math:`r(x \mid x_0)` and noisy marginal :math:`r(x_1)` have closed forms. A diffusion model that starts from
:math:`p(x_1) = r(x_1)` and ends with :math:`p(x \mid x_0) = r(x \mid x_0)` differs from :math:`r` in its denoiser
alone. For :math:`r` itself the bound is an equality, and subtracting it leaves

.. math::
    \log p(x) \ge \log r(x) + \tfrac{1}{2} \int_{\lambda_1}^{\lambda_0}
    \mathbb{E} \bigl[ \lVert \varepsilon - \hat\varepsilon_r \rVert^2 - \lVert \varepsilon - \hat\varepsilon \rVert^2
    \bigr] d\lambda :

the bound grows by what the denoiser knows better than the reference (Kong et al. 2023 with Gaussian :math:`r`). The
difference vanishes where there is little noise, and its parts share their noise, which makes an estimate from a few
draws sharp. A network that puts out zero *is* the reference, with EDM's preconditioning for real numbers and with
:class:`~pyrogen.diffusion.integers.IntegerDenoiser` for integers: its bound has no noise at all.

References:
    Kingma, Salimans, Poole and Ho 2021, "Variational diffusion models", https://arxiv.org/abs/2107.00630
    Kong, Brekelmans and Ver Steeg 2023, "Information-theoretic diffusion", https://arxiv.org/abs/2302.03792
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import constraints

from pyrogen.arguments import integer, positive
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.representation import by_settings
from pyrogen.numerics.times import LogSNRTimes, Times

_LOG_2PI = math.log(2 * math.pi)


class Reference(ABC):
    """Simple data with independent elements, and how events become the real numbers that are diffused; immutable."""

    def __repr__(self) -> str:
        return by_settings(self)

    @abstractmethod
    def support(self, event_dim: int) -> constraints.Constraint:
        """Of one event."""

    def encode(self, value: Tensor) -> Tensor:
        """Events as what is diffused, of the same shape."""
        return value

    def decode(self, x: Tensor) -> Tensor:
        """What was generated as events."""
        return x

    def times(self) -> Times:
        """The noise levels at which denoisers usually know better than the reference."""
        return LogSNRTimes()

    @abstractmethod
    def draw(self, like: Tensor) -> Tensor:
        """Reference data of the shape of ``like``, as what is diffused."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """The log-probability of each element."""

    @abstractmethod
    def noise(self, x: Tensor, path: GaussianPath) -> Tensor:
        """The posterior mean of the noise in noisy data, element by element."""


class NormalReference(Reference):
    r"""Real numbers, :math:`r = \mathcal{N}(0, s^2 I)`.

    Args:
        scale: The standard deviation :math:`s`, in data units; best that of the data.

    Raises:
        ValueError: ``scale`` is not positive.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = positive(scale, "scale")

    def support(self, event_dim: int) -> constraints.Constraint:
        return constraints.independent(constraints.real, event_dim)

    def times(self) -> Times:
        return LogSNRTimes(mean=-2 * math.log(self.scale))

    def draw(self, like: Tensor) -> Tensor:
        return self.scale * torch.randn_like(like)

    def log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x / self.scale) ** 2 - 0.5 * _LOG_2PI - math.log(self.scale)

    def noise(self, x: Tensor, path: GaussianPath) -> Tensor:
        return x * path.sigma / (path.alpha**2 * self.scale**2 + path.sigma**2)


class IntegerReference(Reference):
    r"""Integers :math:`0, \dots, K - 1`, all equally likely, diffused as :math:`x_v = (2 v + 1) / K - 1` in (-1, 1).

    The bound is then one of the log-probability of integers, without dequantization (Kingma et al. 2021, eq. 10).

    Args:
        symbols: How many integers :math:`K` there are.

    Raises:
        ValueError: ``symbols`` is less than two.
    """

    def __init__(self, symbols: int) -> None:
        self.symbols = integer(symbols, "symbols", least=2)

    def support(self, event_dim: int) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.symbols - 1), event_dim)

    def encode(self, value: Tensor) -> Tensor:
        return (2 * value + 1) / self.symbols - 1

    def decode(self, x: Tensor) -> Tensor:
        return ((x + 1) * (0.5 * self.symbols)).floor().clamp(0, self.symbols - 1)

    def times(self) -> Times:
        # From where data of unit scale show to where neighbouring integers are distinguished: 0 to 2 log K, roughly.
        return LogSNRTimes(mean=math.log(self.symbols), scale=max(0.5 * math.log(self.symbols), 1.0), uniform=0.2)

    def draw(self, like: Tensor) -> Tensor:
        return self.encode(torch.randint_like(like, self.symbols))

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.full_like(x, -math.log(self.symbols))

    def noise(self, x: Tensor, path: GaussianPath) -> Tensor:
        return path.noise(x, self.log_weights(x, path).softmax(-1) @ self.values(x))

    def values(self, like: Tensor) -> Tensor:
        """What the integers are diffused as, ``(symbols,)``."""
        return self.encode(torch.arange(self.symbols, dtype=like.dtype, device=like.device))

    def log_weights(self, x: Tensor, path: GaussianPath) -> Tensor:
        r"""The log-likelihood of each integer by itself, :math:`\log q(x \mid x_v)` but for a constant.

        Shape:
            The scales of ``path`` broadcast with ``x``; the result is ``(*x, symbols)``.
        """
        signal = (path.alpha / path.sigma).unsqueeze(-1)
        deviation = (x / path.sigma).unsqueeze(-1) - signal * self.values(x)
        return -0.5 * deviation**2
