r"""A denoiser of integers: a network's opinion of each level, weighted by what the noisy datum itself says.

For data on a grid of levels :math:`x_v` the posterior mean, element by element, is a sum over levels,

.. math::
    D_i(z, t) = \sum_v x_v \, \operatorname{softmax}_v
    \Bigl( F_{v, i}(z, t) - \frac{(z_i - \alpha x_v)^2}{2 \sigma^2} \Bigr),

with :math:`F` free. At little noise the quadratic term alone rounds to the nearest level, which a network with real
outputs has to learn at great cost in bits; the network is left with what the other elements say about this one.

References:
    Graves, Srivastava, Atkinson and Gomez 2023, "Bayesian flow networks", https://arxiv.org/abs/2308.07037
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from pyrogen.core.shapes import Context, ContextShape
from pyrogen.networks.statistics import Statistic, read_by
from pyrogen.numerics.schedules import Schedule

from .denoiser import Denoiser
from .reference import LevelReference


class LevelDenoiser(Denoiser):
    """A denoiser of data with few levels, such as grey values.

    Args:
        network: Called as ``network(x, c_noise, context)`` like that of a
            :class:`~pyrogen.diffusion.denoiser.NetworkDenoiser`; gives a number for each level of each element,
            ``(*batch, levels, *event_shape)``.
        schedule: The path from data to noise.
        reference: Where the levels lie.
        event_shape: Shape of one datum.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        reference: LevelReference,
        *,
        event_shape: int | tuple[int, ...],
        context_shape: ContextShape = None,
    ) -> None:
        super().__init__(event_shape, schedule, context_shape=context_shape)
        self.network = network
        self.reference = reference

    def forward(self, x: Tensor, t: Tensor | float, context: Context = None) -> Tensor:
        t = self.times(x, t)
        path = self.path(x, t)
        batch = x.shape[: x.dim() - len(self.event_shape)]
        scaled = x * (path.alpha**2 + path.sigma**2).rsqrt()
        opinions = self.network(scaled, (-self.schedule.log_snr(t) / 8).expand(batch), context)
        weights = opinions.movedim(len(batch), -1) + self.reference.log_weights(x, path)
        return weights.softmax(-1) @ self.reference.values(x)

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.network, context)
