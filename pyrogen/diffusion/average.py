r"""Denoisers of two times: the average of a denoiser along a step, which leads to any earlier time at once.

Write noisy data as :math:`z = x / \alpha_t`, and the signal-to-noise ratio as :math:`\kappa_t = \alpha_t / \sigma_t`.
In these coordinates the probability flow of a denoiser :math:`D` is a plain integral (:math:`z` is data plus noise of
scale :math:`1 / \kappa`),

.. math:: \frac{d (\kappa z)}{d \kappa} = D , \qquad \text{hence} \qquad
    \kappa_s z_s = \kappa_t z_t + (\kappa_s - \kappa_t) \bar D(x_t, t, s), \qquad
    \bar D(x_t, t, s) = \frac{1}{\kappa_s - \kappa_t} \int_{\kappa_t}^{\kappa_s} D \, d\kappa ,

the integral along the way. So the map of the flow from time :math:`t` to an earlier :math:`s` is

.. math:: X_{t, s}(x) = \tfrac{\sigma_s}{\sigma_t} x
    + \bigl(\alpha_s - \alpha_t \tfrac{\sigma_s}{\sigma_t}\bigr) \bar D(x, t, s) ,

one step of DDIM, exact whatever its length. Where both times are one, :math:`\bar D(x, t, t) = D(x, t)`: an average
denoiser is a denoiser, for every sampler, density and guidance. Three identities characterize it:

.. math::
    \text{Lagrangian} \quad & D(x_s, s) = \bar D + (\kappa_s - \kappa_t) \, \partial \bar D / \partial \kappa_s \\
    \text{Eulerian (MeanFlow)} \quad & D(x_t, t) = \bar D - (\kappa_s - \kappa_t) \, d \bar D / d \kappa_t \\
    \text{semigroup} \quad & (\kappa_s - \kappa_t) \bar D(x_t, t, s) = (\kappa_u - \kappa_t) \bar D(x_t, t, u)
    + (\kappa_s - \kappa_u) \bar D(x_u, u, s)

with :math:`x_s = X_{t, s}(x_t)`, and :math:`d / d \kappa_t` along the flow. The objectives of
:mod:`~pyrogen.diffusion.few_step_objectives` train by each of them.

References:
    Kim et al. 2024, "Consistency trajectory models: learning probability flow ODE trajectory of diffusion",
    https://arxiv.org/abs/2310.02279
    Boffi, Albergo and Vanden-Eijnden 2025, "How to build a consistency model: learning flow maps via
    self-distillation", https://arxiv.org/abs/2505.18825
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pyrogen.arguments import positive
from pyrogen.core.shapes import Context, ContextShape
from pyrogen.networks.statistics import Statistic, read_by
from pyrogen.numerics.gaussian_path import GaussianPath
from pyrogen.numerics.schedule import Schedule

from .denoiser import Denoiser, Preconditioned


class AverageDenoiser(Denoiser):
    r"""A denoiser averaged along the flow, :math:`\bar D(x, t, s)`; at :math:`s = t` the denoiser itself.

    Subclasses define :meth:`average`. Arguments are those of :class:`~pyrogen.diffusion.denoiser.Denoiser`.
    """

    @abstractmethod
    def average(self, x: Tensor, t: Tensor | float, s: Tensor | float, context: Context = None) -> Tensor:
        """The average of the denoised data on the way from one time to another.

        Args:
            x: Noisy data, of shape ``(*batch, *event_shape)``.
            t: Their times in [0, 1]: one for all, or of shape ``batch``.
            s: Where the way ends: times up to ``t``, one for all, or of shape ``batch``.
            context: What the data depend on; its batch dimensions broadcast with those of ``x``.

        Shape:
            That of ``x``.
        """

    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        return self.average(x, t, t, context)

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float, context: Context = None) -> Tensor:
        """The noisy data at time ``s`` of those at time ``t``: the map of the flow, by one evaluation.

        Arguments and shape are those of :meth:`average`.
        """
        return stepped(x, self.average(x, t, s, context), self.path(x, t), self.path(x, s))


class NetworkAverageDenoiser(AverageDenoiser):
    r"""A network of two times, read as an average denoiser.

    .. math:: \bar D(x, t, s) = c_\text{skip}(t) \, x + c_\text{out}(t) \, F(c_\text{in}(t) \, x, (\theta_t, \theta_t -
        \theta_s))

    The coefficients are those of :class:`~pyrogen.diffusion.denoiser.Preconditioned`. A time is seen as the angle
    :math:`\theta` with :math:`\tan \theta = \sigma / (\alpha d)`, in :math:`[0, \pi / 2]`. Derivatives in time train a
    flow map, and those of a log-SNR, without bounds at both ends, would make them noisy (Lu and Song 2025).

    Args:
        network: Called as ``network(x, angles, context)``: scaled noisy data of shape ``(*batch, *event_shape)``, the
            two angles ``(*batch, 2)``, and the context. Gives the shape of its first argument.
        schedule: The path from data to noise.
        event_shape: Shape of one datum.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
        data_scale: The standard deviation :math:`d` of the data, in data units.

    References:
        Lu and Song 2025, "Simplifying, stabilizing and scaling continuous-time consistency models",
        https://arxiv.org/abs/2410.11081
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        *,
        event_shape: int | tuple[int, ...],
        context_shape: ContextShape = None,
        data_scale: float = 1.0,
    ) -> None:
        super().__init__(event_shape, schedule, context_shape=context_shape)
        self.network = network
        self.parameterisation = Preconditioned(data_scale=positive(data_scale, "data_scale"))

    @property
    def data_scale(self) -> float:
        return self.parameterisation.data_scale

    def average(self, x: Tensor, t: Tensor | float, s: Tensor | float, context: Context = None) -> Tensor:
        batch = x.shape[: x.dim() - len(self.event_shape)]
        path = self.schedule(torch.stack([self.times(x, time).expand(batch) for time in (t, s)]))
        skip, out, scale = map(self.over_events, self.parameterisation.at(path.unbind()[0]))
        start, end = torch.atan2(path.sigma, self.data_scale * path.alpha)
        found = self.network(scale * x, torch.stack([start, start - end], -1), context)
        if found.shape != x.shape:
            raise ValueError(f"the network must keep the shape {tuple(x.shape)}, got {tuple(found.shape)}")
        return skip * x + out * found

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.network, context)


def stepped(x: Tensor, data: Tensor, start: GaussianPath, end: GaussianPath) -> Tensor:
    """Noisy data at another place of the path, if the data are denoised to ``data`` all the way: a step of DDIM."""
    kept = end.sigma / start.sigma
    return kept * x + (end.alpha - start.alpha * kept) * data
