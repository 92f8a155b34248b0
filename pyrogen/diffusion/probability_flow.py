r"""The probability flow: a diffusion model as a bijection of noise, with a density one can differentiate.

The equation :math:`dx / dt = \alpha'_t D + \sigma'_t \hat\varepsilon` carries :math:`p_0` to :math:`p_1` through all
the densities of the noisy data. Followed from noise to data it draws; followed from a datum to its noise it gives

.. math:: \log p(x) = \log \mathcal{N}(x_1; \mu, s_1^2 I) + \int_0^1 \operatorname{div} v(x_t, t) \, dt
    + D \log \alpha_0 , \qquad x_{t = 0} = \alpha_0 x .

Besides solver and trace there are two sources of error, both the schedule's:

- At :math:`t = 0` a little noise is left, and the density is that of :math:`x_0 + (\sigma_0 / \alpha_0) \varepsilon`.
  For data whose smallest scale is :math:`\tau` in :math:`D` dimensions this changes the log-density by about
  :math:`\tfrac{1}{2} D (\sigma_0 / \alpha_0 \tau)^2` nats.
- At :math:`t = 1` a little data is left. The noise is taken to be normal with the mean
  :math:`\mu = \alpha_1 D(0, 1) s_1^2 / \sigma_1^2` of the denoiser, and the variance
  :math:`s_1^2 = \sigma_1^2 + \alpha_1^2 d^2` of data of scale :math:`d`, which is exact for Gaussian data with
  independent elements of that scale. Where their variance is :math:`d^2 + \delta` in each of :math:`D` dimensions, the
  log-density of data is off by about :math:`\sqrt{D / 2} \, \delta (\alpha_1 / \sigma_1)^2` nats (root mean square).

References:
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole 2021, "Score-based generative modeling through stochastic
    differential equations", section 4.3, https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import AffineTransform

from pyrogen.arguments import positive
from pyrogen.core.matching import Matchable
from pyrogen.core.module import DistributionModule
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, context_batch_shape, expand_context
from pyrogen.distributions.assembled import Assembled
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.autograd import tensors_of, with_tensors
from pyrogen.numerics.ode import AdaptiveSolver, Solver
from pyrogen.numerics.trace import ExactTrace, Trace
from pyrogen.transforms.distribution import TransformedDistribution
from pyrogen.transforms.ode import ODE

from .denoiser import Denoiser


class ProbabilityFlow(DistributionModule, Matchable):
    """A denoiser as a distribution with a differentiable ``log_prob`` and ``rsample``.

    Use it where the density of a single point is needed: under NUTS, as a prior in variational inference, for scoring.
    :class:`~pyrogen.diffusion.model.Diffusion` is cheaper to train with and to draw from.

    Args:
        denoiser: What was learned. If it has a divergence in closed form, exact traces use that.
        solver: Chooses the steps; see :class:`~pyrogen.numerics.ode.AdaptiveSolver` for what its tolerance means. A
            :class:`~pyrogen.numerics.ode.FixedSolver` draws at a fixed cost and refuses densities it cannot vouch for.
        trace: Exact, or Hutchinson's estimate.
        data_scale: The standard deviation of the data, in data units, for the noise at :math:`t = 1`; what the denoiser
            knows of it (:attr:`~pyrogen.diffusion.denoiser.Denoiser.data_scale`) if ``None``.
    """

    density = "estimate"

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        solver: Solver = AdaptiveSolver(),
        trace: Trace = ExactTrace(),
        data_scale: float | None = None,
    ) -> None:
        super().__init__(denoiser.event_shape, denoiser.context_shape)
        self.denoiser, self.solver, self.trace = denoiser, solver, trace
        self.data_scale = None if data_scale is None else positive(data_scale, "data_scale")

    def forward(self, context: Context = None) -> TransformedDistribution:
        batch = context_batch_shape(context, self.context_shape)
        context = expand_context(context, self.context_shape, batch)
        flow = ODE(
            self.denoiser.velocity,
            self.event_shape,
            context=context,
            batch_shape=batch,
            divergence=self.denoiser.velocity_and_divergence if self.denoiser.has_divergence else None,
            solver=self.solver,
            trace=self.trace,
            module=self.denoiser,
        )
        alpha, _ = self.denoiser.schedule(self._time(0.0))
        # One number for each element: torch counts the scale of a single number once for a whole event.
        rescale = AffineTransform(0.0, (1 / alpha).expand(self.event_shape), event_dim=len(self.event_shape))
        remake = None if context is None else Remade(self, context)
        make = partial(_noise_with, self, context, batch)
        noise = Assembled(make, *tensors_of(self.denoiser).values(), batch_shape=batch)
        return TransformedDistribution(noise, [flow, rescale], parameters=self._tensors, remake=remake)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.denoiser.read_data(context)

    def noise(self, x: Tensor, context: Context = None) -> Tensor:
        """The noise behind data, which sampling sends to them: of the shape of ``x``.

        Args:
            x: Events, ``(*batch, *event_shape)``.
            context: What the flow depends on; its batch dimensions broadcast with those of ``x``.
        """
        return self(context).noise(x)

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The data, and as many draws of noise."""
        return x, torch.randn_like(x)

    def slopes(self, data: Tensor, noise: Tensor, t: Tensor, context: Context = None) -> tuple[Tensor, Tensor]:
        """The velocity at time ``t`` on the schedule's path from data to noise, and that of the path."""
        denoiser = self.denoiser
        noisy = denoiser.path(data, t).mix(data, noise)
        return denoiser.velocity(noisy, t, context), denoiser.slope(data, t).mix(data, noise)

    @property
    def noise_scale(self) -> float:
        r"""How much noise the density is smoothed with, :math:`\sigma_0 / \alpha_0`, in data units."""
        with torch.no_grad():
            return float(self.denoiser.schedule(self._time(0.0)).ratio)

    def _noise(self, context: Context, batch: torch.Size) -> dist.TorchDistribution:
        """Where the flow begins: normal, with the mean that is left of the data."""
        time = self._time(1.0)
        alpha, sigma = self.denoiser.schedule(time)
        origin = time.new_zeros(batch + self.event_shape)
        data_scale = self.denoiser.data_scale if self.data_scale is None else self.data_scale
        scale = (sigma**2 + (alpha * data_scale) ** 2).sqrt()
        # The denoiser draws the mean of the data towards its input, here zero.
        mean = alpha * self.denoiser(origin, time, context) * (scale / sigma) ** 2
        return dist.Normal(mean, scale.expand(mean.shape)).to_event(len(self.event_shape))

    def _time(self, t: float) -> Tensor:
        return torch.full_like(self.denoiser.like(), t)

    def _tensors(self) -> list[Tensor]:
        """All that may want a gradient: the tensors of a mixture are buffers of its denoiser."""
        return [part for part in tensors_of(self.denoiser).values() if part.requires_grad]


def _noise_with(flow: ProbabilityFlow, context: Context, batch: torch.Size, *tensors: Tensor) -> dist.TorchDistribution:
    """The noise that a flow begins with, of a denoiser that has such tensors."""
    return with_tensors(flow._noise, flow.denoiser, tensors)(context, batch)
