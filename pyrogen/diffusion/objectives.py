r"""Objectives for diffusion models: what errors at which noise levels cost.

All are averages over noise levels of the error of the predicted noise,
:math:`\tfrac12 \int w(\lambda) \, \mathbb{E} \lVert \varepsilon - \hat\varepsilon \rVert^2 d\lambda`. Their weightings
differ, and their minimizer does not: at every noise level it is the posterior mean. With :math:`w = 1` the integral is
that of the variational bound; other weightings trade likelihood for visual quality (Kingma and Gao 2023).

=================================  ====================================================================================
:class:`.model.VariationalBound`   minus the bound of the log-likelihood, in nats
:class:`DenoisingScoreMatching`    a weighted squared error, with one of the weightings below
:class:`UniformWeighting`          :math:`\lVert \varepsilon - \hat\varepsilon \rVert^2` at uniform times, as in DDPM
:class:`MinSNRWeighting`           :math:`\min(v, \gamma) \lVert x - D \rVert^2` at uniform times
:class:`EDMWeighting`              :math:`(\tilde\sigma^2 + d^2) / (\tilde\sigma d)^2 \, \lVert x - D \rVert^2` at
                                   log-normal :math:`\tilde\sigma = \sigma / \alpha`
:class:`LikelihoodWeighting`       :math:`w = 1`
:class:`LearnedUncertainty`        any of these, every noise level brought to the same size
=================================  ====================================================================================

References:
    Kingma and Gao 2023, "Understanding diffusion objectives as the ELBO with simple data augmentation",
    https://arxiv.org/abs/2303.00848
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import integer, positive
from pyrogen.core.objective import Objective
from pyrogen.core.shapes import Context
from pyrogen.networks.noise_level import FourierFeatures, zeroed
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.rows import by_datum
from pyrogen.numerics.times import LogNormalTimes, LogSNRTimes, Times, UniformTimes

from .model import Diffusion


class Weighting(Abstract, nn.Module):
    r"""At which noise levels errors count, and how much.

    Args:
        times: How the noise levels are drawn.
    """

    def __init__(self, times: Times) -> None:
        super().__init__()
        self.times = times

    @abstractmethod
    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        r"""The losses of rows.

        Args:
            error: The mean square of :math:`\varepsilon - \hat\varepsilon` over the elements.
            log_snr: The noise level of each row.
            density: The density of that level in the log-SNR.
        """


class UniformWeighting(Weighting):
    """The squared error of the noise at uniform times: the "simple" loss of DDPM.

    References:
        Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", https://arxiv.org/abs/2006.11239
    """

    def __init__(self) -> None:
        super().__init__(UniformTimes())

    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        return error


class MinSNRWeighting(Weighting):
    r"""The squared error of the datum, times the signal-to-noise ratio or :math:`\gamma`, whichever is less.

    Args:
        gamma: The largest weight.

    Raises:
        ValueError: ``gamma`` is not positive.

    References:
        Hang et al. 2023, "Efficient diffusion training via min-SNR weighting strategy",
        https://arxiv.org/abs/2303.09556
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        super().__init__(UniformTimes())
        self.gamma = positive(gamma, "gamma")

    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        return error * (self.gamma * torch.exp(-log_snr)).clamp(max=1)


class EDMWeighting(Weighting):
    r"""That of EDM: noise levels log-normal, errors in the units of a preconditioned network's output.

    Args:
        data_scale: The standard deviation :math:`d` of the data.
        mean: Of :math:`\log(\sigma / \alpha)`.
        scale: Standard deviation of the same.

    References:
        Karras, Aittala, Aila and Laine 2022, "Elucidating the design space of diffusion-based generative models",
        https://arxiv.org/abs/2206.00364
    """

    def __init__(self, *, data_scale: float = 0.5, mean: float = -1.2, scale: float = 1.2) -> None:
        super().__init__(LogNormalTimes(mean=mean, scale=scale))
        self.data_scale = positive(data_scale, "data_scale")

    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        return error * (torch.exp(-log_snr) / self.data_scale**2 + 1)


class LikelihoodWeighting(Weighting):
    """All noise levels as they count in the variational bound.

    Args:
        times: How the noise levels are drawn; those of :class:`~pyrogen.numerics.times.LogSNRTimes` if ``None``.

    References:
        Song, Durkan, Murray and Ermon 2021, "Maximum likelihood training of score-based diffusion models",
        https://arxiv.org/abs/2101.09258
    """

    def __init__(self, *, times: Times | None = None) -> None:
        super().__init__(LogSNRTimes() if times is None else times)

    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        return 0.5 * error / density


class LearnedUncertainty(Weighting):
    r"""Another weighting, its losses :math:`\ell` brought to one size by a learned log-uncertainty :math:`u(\lambda)`.

    .. math:: e^{-u(\lambda)} \ell + u(\lambda)

    At its minimum :math:`e^u` is the mean loss at each noise level, so none of them outweighs another's gradient.

    Args:
        weighting: The other weighting.
        width: Size of the hidden layer of the network for :math:`u`.

    References:
        Karras, Aittala, Lehtinen, Hellsten, Aila and Laine 2024, "Analyzing and improving the training dynamics of
        diffusion models", https://arxiv.org/abs/2312.02696
    """

    def __init__(self, weighting: Weighting, *, width: int = 64) -> None:
        super().__init__(weighting.times)
        self.weighting = weighting
        self.level = FourierFeatures(integer(width, "width"))
        self.last = zeroed(nn.Linear(width, 1))

    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        uncertainty = self.last(nn.functional.silu(self.level(-log_snr / 8))).squeeze(-1)
        return self.weighting(error, log_snr, density) * torch.exp(-uncertainty) + uncertainty


class DenoisingScoreMatching(Objective):
    r"""The weighted squared error of a denoiser, averaged over elements and rows.

    Args:
        diffusion: What is fitted.
        weighting: Which errors count how much.

    References:
        Vincent 2011, "A connection between score matching and denoising autoencoders",
        https://doi.org/10.1162/NECO_a_00142
    """

    unit = "weighted squared error per element"

    def __init__(self, diffusion: Diffusion, weighting: Weighting) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.weighting = weighting

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        denoiser = self.diffusion.denoiser
        value, uniform, noise = self.diffusion.noise_draw(x)
        data = self.diffusion.reference.encode(value)
        t, density = self.weighting.times(uniform, denoiser.schedule)
        predicted = denoiser.noise(denoiser.path(data, t).mix(data, noise), t, context)
        error = by_datum((noise - predicted).square(), len(self.diffusion.event_shape)).mean(-1)
        return self.weighting(error, denoiser.schedule.log_snr(t), density).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.diffusion.read_data(x, context)
