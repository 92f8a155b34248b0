r"""Objectives for diffusion models: what errors at which noise levels cost.

All are averages over noise levels of the error of the predicted noise,
:math:`\tfrac12 \int w(\lambda) \, \mathbb{E} \lVert \varepsilon - \hat\varepsilon \rVert^2 d\lambda`. Their weightings
differ, and their minimiser does not: at every noise level it is the posterior mean. With :math:`w = 1` the integral is
that of the variational bound; other weightings trade likelihood for looks (Kingma and Gao 2023).

=================================  ====================================================================================
:class:`VariationalBound`          minus the bound of the log-likelihood, in nats
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

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyrogen.arguments import positive
from pyrogen.core.shapes import Context, batch_shape_of
from pyrogen.networks.noise_level import Fourier, zeroed
from pyrogen.networks.statistics import ReadsData, Statistic
from pyrogen.numerics.learned_schedule import LearnedSchedule
from pyrogen.numerics.times import LogNormalTimes, LogSNRTimes, Times, UniformTimes, stratified

if TYPE_CHECKING:
    from .model import Diffusion


class VariationalBound(ReadsData, nn.Module):
    r"""Minus the variational bound, in nats per datum, with noise levels stratified over the minibatch.

    The bound does not depend on how a schedule goes from its first to its last log-SNR; the variance of its estimate
    does. So the shape of a :class:`~pyrogen.numerics.schedules.LearnedSchedule` descends the variance of the
    estimate, while its ends and the denoiser descend the bound (Kingma et al. 2021, appendix H).

    Args:
        diffusion: What is fitted.

    References:
        Kingma, Salimans, Poole and Ho 2021, "Variational diffusion models", https://arxiv.org/abs/2107.00630
    """

    def __init__(self, diffusion: Diffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        distribution = self.diffusion(context)
        bound = distribution.bound(*_one_draw(x, self.diffusion))
        schedule = self.diffusion.denoiser.schedule
        loss = -bound.mean()
        if isinstance(schedule, LearnedSchedule) and bound.requires_grad and schedule.log_rate.requires_grad:
            spread = (bound - bound.detach().mean()).square().mean()
            loss = _with_gradient(loss, spread, schedule.log_rate)
        return loss

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.diffusion.read_data(x, context)


class Weighting(nn.Module):
    r"""Which noise levels are looked at, and what an error there costs.

    Args:
        times: How the noise levels are drawn.
    """

    def __init__(self, times: Times) -> None:
        super().__init__()
        self.times = times

    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        r"""The losses of rows.

        Args:
            error: The mean square of :math:`\varepsilon - \hat\varepsilon` over the elements.
            log_snr: Where each row was looked at.
            density: The density of that place in the log-SNR.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `forward(error, log_snr, density)`")


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
        self.level = Fourier(width)
        self.last = zeroed(nn.Linear(width, 1))

    def forward(self, error: Tensor, log_snr: Tensor, density: Tensor) -> Tensor:
        uncertainty = self.last(nn.functional.silu(self.level(-log_snr / 8))).squeeze(-1)
        return self.weighting(error, log_snr, density) * torch.exp(-uncertainty) + uncertainty


class DenoisingScoreMatching(ReadsData, nn.Module):
    r"""The weighted squared error of a denoiser, averaged over elements and rows.

    Args:
        diffusion: What is fitted.
        weighting: Which errors count how much.

    References:
        Vincent 2011, "A connection between score matching and denoising autoencoders",
        https://doi.org/10.1162/NECO_a_00142
    """

    def __init__(self, diffusion: Diffusion, weighting: Weighting) -> None:
        super().__init__()
        self.diffusion = diffusion
        self.weighting = weighting

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        denoiser = self.diffusion.denoiser
        value, uniform, noise = _one_draw(x, self.diffusion)
        data = self.diffusion.reference.encode(value)
        t, density = self.weighting.times(uniform, denoiser.schedule)
        predicted = denoiser.noise(denoiser.path(data, t).mix(data, noise), t, context)
        error = _mean((noise - predicted).square(), len(self.diffusion.event_shape))
        return self.weighting(error, denoiser.schedule.log_snr(t), density).mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.diffusion.read_data(x, context)


def _mean(numbers: Tensor, event_dim: int) -> Tensor:
    return numbers.flatten(-event_dim).mean(-1) if event_dim else numbers


def _one_draw(x: Tensor, diffusion: Diffusion) -> tuple[Tensor, Tensor, Tensor]:
    """Events of floating point, uniform numbers stratified over the rows, and noise: one draw for each row."""
    batch = batch_shape_of(x, diffusion.event_shape, "x")
    value = diffusion.as_numbers(x)
    return value, stratified(batch.numel(), (), value).reshape(batch), torch.randn_like(value)


def _with_gradient(loss: Tensor, other: Tensor, parameter: Tensor) -> Tensor:
    """The loss, with the gradient of another one in place of its own for a parameter."""
    (wanted,) = torch.autograd.grad(other - loss, parameter, retain_graph=True)
    return loss + ((parameter - parameter.detach()) * wanted).sum()
