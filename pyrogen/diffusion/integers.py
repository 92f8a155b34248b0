r"""A denoiser of integers: a network's logits and the likelihood of the noisy datum.

For data that take the values :math:`x_v` the posterior mean, element by element, is a sum over them,

.. math::
    D_i(z, t) = \sum_v x_v \, \operatorname{softmax}_v
    \Bigl( F_{v, i}(z, t) - \frac{(z_i - \alpha x_v)^2}{2 \sigma^2} \Bigr),

with :math:`F` free. At little noise the quadratic term alone rounds to the nearest value, which a network with real
outputs has to learn at great cost in bits; the network is left with what the other elements imply.

References:
    Graves, Srivastava, Atkinson and Gomez 2023, "Bayesian flow networks", https://arxiv.org/abs/2308.07037
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from pyrogen.core.shapes import Context, ContextShape
from pyrogen.networks.statistics import Statistic, read_by
from pyrogen.numerics.schedule import Schedule

from .denoiser import Denoiser
from .reference import IntegerReference


class IntegerDenoiser(Denoiser):
    """A denoiser of integers with few values, such as grey levels.

    Args:
        network: Called as ``network(x, c_noise, context)`` like that of a
            :class:`~pyrogen.diffusion.denoiser.NetworkDenoiser`; gives a logit for each value of each element,
            ``(*batch, symbols, *event_shape)``.
        schedule: The path from data to noise.
        reference: How integers are diffused.
        event_shape: Shape of one datum.
        context_shape: As for :class:`~pyrogen.core.module.DistributionModule`.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        reference: IntegerReference,
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
        logits = self.network(x * path.whitening(), self.noise_level(t).expand(batch), context)
        logits = logits.movedim(len(batch), -1) + self.reference.log_weights(x, path)
        return logits.softmax(-1) @ self.reference.values(x)

    def read_data(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self.network, context)
