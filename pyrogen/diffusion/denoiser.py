r"""Denoisers: the one thing a diffusion model learns.

Given :math:`x_t = \alpha_t x_0 + \sigma_t \varepsilon`, a denoiser is the posterior mean of the datum,

.. math:: D(x, t) = \mathbb{E}[x_0 \mid x_t = x].

Three other quantities are the same thing in other words (:math:`p_t` is the density of :math:`x_t`):

.. math::
    \text{noise} \quad & \hat\varepsilon(x, t) = \mathbb{E}[\varepsilon \mid x_t = x] = (x - \alpha_t D) / \sigma_t \\
    \text{score} \quad & \nabla_x \log p_t(x) = -\hat\varepsilon / \sigma_t \quad \text{(Tweedie's formula)} \\
    \text{velocity} \quad & \mathbb{E}[\dot x_t \mid x_t = x] = \alpha'_t D + \sigma'_t \hat\varepsilon

The velocity drives the probability-flow equation :math:`dx / dt = \text{velocity}(x, t)`, whose solutions have the
densities :math:`p_t`. What a network puts out is a matter of numerics: every parameterisation is

.. math:: D(x, t) = c_\text{skip} x + c_\text{out} F(c_\text{in} x, c_\text{noise})

with coefficients that depend on the time (Karras et al. 2022, eq. 7). The network sees the time as
:math:`c_\text{noise} = \tfrac{1}{4} \log(\sigma_t / \alpha_t)`, the same under every schedule.

References:
    Karras, Aittala, Aila and Laine 2022, "Elucidating the design space of diffusion-based generative models",
    https://arxiv.org/abs/2206.00364
    Salimans and Ho 2022, "Progressive distillation for fast sampling of diffusion models",
    https://arxiv.org/abs/2202.00512
    Efron 2011, "Tweedie's formula and selection bias", https://doi.org/10.1198/jasa.2011.tm11181
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import positive
from pyrogen.core.shapes import Context, ContextShape, Shape, as_context_shape, as_shape, context_batch_shape
from pyrogen.networks.statistics import ReadsData, Statistic, read_by
from pyrogen.numerics.autograd import tensors_of
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.representation import by_settings
from pyrogen.numerics.schedule import Schedule, check_schedule


class Denoiser(Abstract, ReadsData, nn.Module):
    r"""The posterior mean :math:`D(x, t) = \mathbb{E}[x_0 \mid x_t = x]`.

    Subclasses define :meth:`forward`, and :meth:`noise` where a direct formula loses fewer digits than
    :math:`(x - \alpha D) / \sigma`.

    Args:
        event_shape: Shape of one datum.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
        schedule: The path from data to noise.

    Raises:
        ValueError: the log-SNR of the schedule is not finite or does not fall strictly.
    """

    has_divergence: bool = False
    """Whether :meth:`velocity_and_divergence` is implemented."""
    has_posterior: bool = False
    """Whether :meth:`posterior_sample` is implemented."""

    def __init__(
        self, event_shape: int | tuple[int, ...], schedule: Schedule, *, context_shape: ContextShape = None
    ) -> None:
        super().__init__()
        self.event_shape: Shape = as_shape(event_shape, "event_shape")
        self.context_shape = as_context_shape(context_shape)
        check_schedule(schedule)
        self.schedule = schedule

    @property
    def data_scale(self) -> Tensor | float:
        """The standard deviation of the data, in data units, where it is known; 1 where it is not."""
        return 1.0

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        """The posterior mean of the datum.

        Args:
            x: Noisy data, of shape ``(*batch, *event_shape)``.
            t: Their times in [0, 1]: one for all, or of shape ``batch``.
            context: What the data depend on; its batch dimensions broadcast with those of ``x``.

        Shape:
            That of ``x``.
        """

    def noise(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        r"""The posterior mean of the noise, :math:`(x - \alpha_t D) / \sigma_t`."""
        return self.path(x, t).noise(x, self(x, t, context))

    def score(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        r"""The gradient of the log-density of the noisy data, :math:`-\hat\varepsilon / \sigma_t`."""
        return self.path(x, t).score(self.noise(x, t, context))

    def velocity(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        r"""The direction of the probability flow, :math:`dx / dt = \alpha'_t D + \sigma'_t \hat\varepsilon`."""
        data = self(x, t, context)
        return self.slope(x, t).mix(data, self.path(x, t).noise(x, data))

    def velocity_and_divergence(self, x: Tensor, t: Tensor | float, context: Context = None) -> tuple[Tensor, Tensor]:
        """The velocity and its divergence, of the shape of ``batch``, in closed form.

        Raises:
            NotImplementedError: there is none.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no divergence in closed form; GaussianMixtureDenoiser has"
        )

    def posterior_sample(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        """A draw of the datum given its noisy version, for each of them, of the shape of ``x``.

        Raises:
            NotImplementedError: only the mean is known.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has only the mean of data given noisy ones; GaussianMixtureDenoiser draws them"
        )

    def like(self) -> Tensor:
        """A number of the dtype and the device of the denoiser."""
        parts = (part for part in tensors_of(self).values() if part.is_floating_point())
        return next(parts, torch.empty(())).new_zeros(())

    def path(self, x: Tensor, t: Tensor | float) -> GaussianPath:
        r"""The path from data to noise, :math:`(\alpha_t, \sigma_t)`, broadcasting with ``x``."""
        return self.schedule(self.times(x, t)).over(len(self.event_shape))

    def slope(self, x: Tensor, t: Tensor | float) -> GaussianPath:
        r"""Its derivative in time, :math:`(\alpha'_t, \sigma'_t)`, broadcasting with ``x``."""
        return GaussianPath(*self.schedule.derivatives(self.times(x, t))).over(len(self.event_shape))

    def times(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The times as a tensor of the dtype and device of ``x``."""
        return torch.as_tensor(t, dtype=x.dtype, device=x.device)

    def noise_level(self, t: Tensor) -> Tensor:
        r"""The noise level that a network gets as its second input, :math:`\tfrac{1}{4} \log(\sigma_t / \alpha_t)`."""
        return -self.schedule.log_snr(t) / 8

    def over_events(self, value: Tensor) -> Tensor:
        """One number for each datum, with dimensions for the event put on its right."""
        return value.reshape(value.shape + (1,) * len(self.event_shape)) if value.dim() else value


class Parameterisation(ABC):
    """What the output of a network means.

    Subclasses are immutable and define :meth:`coefficients`.

    Attributes:
        data_scale: The standard deviation of the data, in data units, that it reckons with.
    """

    data_scale: float = 1.0

    def __repr__(self) -> str:
        return by_settings(self)

    @abstractmethod
    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r""":math:`(c_\text{skip}, c_\text{out}, c_\text{in})`, each of the shape of ``t``.

        A network trained by squared errors in its own output has the target
        :math:`(x_0 - c_\text{skip} x_t) / c_\text{out}`.
        """


class Noise(Parameterisation):
    r"""The network predicts the noise :math:`\varepsilon` (Ho et al. 2020): weak where there is nearly only noise."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        path = schedule(t)
        return 1 / path.alpha, -path.ratio, path.whitening()


class Data(Parameterisation):
    r"""The network predicts the datum :math:`x_0`: weak where there is nearly only data."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t), schedule(t).whitening()


class Velocity(Parameterisation):
    r"""The network predicts a velocity that does not depend on how time is measured.

    .. math:: v = \frac{\alpha' x_0 + \sigma' \varepsilon}{\alpha \sigma' - \sigma \alpha'}

    It is :math:`\alpha \varepsilon - \sigma x_0` under a variance-preserving schedule (Salimans and Ho 2022),
    :math:`\varepsilon - x_0` for a rectified flow, and :math:`\varepsilon` where :math:`\alpha = 1`.
    """

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = path = schedule(t)
        alpha_slope, sigma_slope = schedule.derivatives(t)
        return sigma_slope / (alpha * sigma_slope - sigma * alpha_slope), -sigma, path.whitening()


class Score(Parameterisation):
    r"""The network predicts the score :math:`\nabla_x \log p_t(x)`, which grows as :math:`1 / \sigma`."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        path = schedule(t)
        return 1 / path.alpha, path.sigma**2 / path.alpha, path.whitening()


class Preconditioned(Parameterisation):
    r"""The preconditioning of EDM (Karras et al. 2022, table 1) for any schedule.

    With :math:`d` the standard deviation of the data,

    .. math::
        c_\text{skip} = \frac{\alpha d^2}{\alpha^2 d^2 + \sigma^2}, \quad
        c_\text{out} = \frac{\sigma d}{\sqrt{\alpha^2 d^2 + \sigma^2}}, \quad
        c_\text{in} = \frac{1}{\sqrt{\alpha^2 d^2 + \sigma^2}} .

    This is EDM's own, applied to :math:`x_t / \alpha_t`: inputs and targets of the network have unit variance, and its
    errors are amplified as little as possible.

    Args:
        data_scale: The standard deviation :math:`d` of the data, in data units.
    """

    def __init__(self, *, data_scale: float = 1.0) -> None:
        self.data_scale = positive(data_scale, "data_scale")

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.at(schedule(t))

    def at(self, path: GaussianPath) -> tuple[Tensor, Tensor, Tensor]:
        """The coefficients at a place of a path."""
        whitening = path.whitening(self.data_scale)
        scaled = self.data_scale * whitening
        return path.alpha * scaled**2, path.sigma * scaled, whitening


class NetworkDenoiser(Denoiser):
    r"""A network read as a denoiser, :math:`D = c_\text{skip} x + c_\text{out} F(c_\text{in} x, c_\text{noise})`.

    Args:
        network: Called as ``network(x, c_noise, context)``: scaled noisy data of shape ``(*batch, *event_shape)``,
            their noise levels of shape ``batch``, and the context. Gives the shape of its first argument.
        schedule: The path from data to noise.
        parameterisation: What the output of the network means.
        event_shape: Shape of one datum.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterisation: Parameterisation,
        *,
        event_shape: int | tuple[int, ...],
        context_shape: ContextShape = None,
    ) -> None:
        super().__init__(event_shape, schedule, context_shape=context_shape)
        if not isinstance(parameterisation, Parameterisation):
            raise ValueError(
                f"`parameterisation` must be a Parameterisation such as Velocity(), got {parameterisation!r}"
            )
        self.network = network
        self.parameterisation = parameterisation

    @property
    def data_scale(self) -> float:
        return self.parameterisation.data_scale

    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        t = self.times(x, t)
        skip, out, scale = map(self.over_events, self.parameterisation.coefficients(self.schedule, t))
        return skip * x + out * self.output(x, t, scale, context)

    def noise(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        # In one expression: at little noise the large terms of (x - alpha D) / sigma cancel before they meet.
        t = self.times(x, t)
        skip, out, scale = map(self.over_events, self.parameterisation.coefficients(self.schedule, t))
        alpha, sigma = self.path(x, t)
        return ((1 - alpha * skip) / sigma) * x - (alpha * out / sigma) * self.output(x, t, scale, context)

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.network, context)

    def output(self, x: Tensor, t: Tensor, scale: Tensor, context: Context = None) -> Tensor:
        r"""What the network puts out for the input :math:`c_\text{in} x`.

        Raises:
            ValueError: it has another shape than ``x``, or the context is not of the shape declared.
        """
        if context is not None:
            context_batch_shape(context, self.context_shape)
        batch = x.shape[: x.dim() - len(self.event_shape)]
        found = self.network(scale * x, self.noise_level(t).expand(batch), context)
        if found.shape != x.shape:
            raise ValueError(f"the denoiser must keep the shape {tuple(x.shape)}, got {tuple(found.shape)}")
        return found
