r"""Waiting times: how long it is to the next event, given what came before.

With density :math:`f`, survival function :math:`S(\tau) = P(\text{no event within } \tau)` and hazard
:math:`\lambda = f / S`, each is stated by :math:`\log f` and :math:`\log S`, and drawn beyond what one has waited
already.

References:
    Shchur, Biloš and Günnemann 2020, "Intensity-free learning of temporal point processes",
    https://arxiv.org/abs/1909.12127
    Dassios and Zhao 2013, "Exact simulation of Hawkes process with exponentially decaying intensity",
    https://doi.org/10.1214/ECP.v18-2717
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked
from pyrogen.distributions.families import bounded
from pyrogen.networks.statistics import ReadsData, Standardizer, Statistic
from pyrogen.numerics.special import log_normal_cdf


class WaitingTime(ABC):
    """The distribution of the time to the next event, of any batch shape."""

    @abstractmethod
    def log_prob(self, gap: Tensor) -> Tensor:
        """The log-density of positive times, in nats."""

    @abstractmethod
    def log_survival(self, gap: Tensor) -> Tensor:
        """The log-probability that nothing comes within a positive time."""

    @abstractmethod
    def sample_beyond(self, waited: Tensor) -> Tensor:
        """A draw of the whole time, given that nothing came within ``waited``; infinity where nothing ever comes."""


MakeWaiting = Callable[[Tensor], WaitingTime]
"""Makes waiting times ``(*batch)`` of outputs ``(*batch, size)``; a network with the attribute ``size``."""


class LogNormalMixture(WaitingTime):
    r"""Waiting times whose logarithm has a mixture of normals.

    Args:
        log_weights: Logarithms of the components' weights, ``(*batch, M)``.
        loc: Means of the logarithm of the time, ``(*batch, M)``.
        scale: Standard deviations of it, ``(*batch, M)``.
    """

    def __init__(self, log_weights: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.log_weights, self.loc, self.scale = log_weights, loc, scale

    def log_prob(self, gap: Tensor) -> Tensor:
        log_gap = gap.log()
        energy = 0.5 * self._standard(log_gap).square() + self.scale.log() + 0.5 * math.log(2 * math.pi)
        return (self.log_weights - energy).logsumexp(-1) - log_gap

    def log_survival(self, gap: Tensor) -> Tensor:
        return self._log_survivals(gap).logsumexp(-1)

    def sample_beyond(self, waited: Tensor) -> Tensor:
        start = waited.double()
        weights = self._log_survivals(start)
        chosen = torch.distributions.Categorical(logits=weights, validate_args=False).sample().unsqueeze(-1)
        loc, scale = (part.double().expand(weights.shape).gather(-1, chosen)[..., 0] for part in (self.loc, self.scale))
        beyond = torch.special.ndtr(-(start.log() - loc) / scale)  # of a logarithm of zero it is one
        share = torch.rand_like(beyond).clamp(min=torch.finfo(beyond.dtype).tiny)
        drawn = (loc - scale * torch.special.ndtri(share * beyond)).exp()
        return torch.where(drawn > start, drawn, start * (1 + 1e-12)).to(waited)

    def _standard(self, log_gap: Tensor) -> Tensor:
        return (log_gap.unsqueeze(-1) - self.loc) / self.scale

    def _log_survivals(self, gap: Tensor) -> Tensor:
        return self.log_weights + log_normal_cdf(-self._standard(gap.log()))


class LogNormalMixtures(ReadsData, nn.Module):
    """Makes mixtures of log-normal waiting times of outputs: logits, means, log-scales.

    Args:
        components: How many components there are.
        log_gaps: The mean and scale of the logarithms of waiting times, in which outputs are stated.
    """

    @checked
    def __init__(self, components: int, log_gaps: Standardizer) -> None:
        super().__init__()
        self.components = components
        self.log_gaps = log_gaps

    @property
    def size(self) -> int:
        """How many numbers an output has."""
        return 3 * self.components

    def forward(self, outputs: Tensor) -> LogNormalMixture:
        logits, loc, log_scale = outputs.chunk(3, -1)
        spread = torch.linspace(-1, 1, self.components, dtype=outputs.dtype, device=outputs.device)
        scale = self.log_gaps.scale * bounded(log_scale).exp()
        return LogNormalMixture(logits.log_softmax(-1), self.log_gaps.inverse(loc + spread), scale)

    def read_data(self, gaps: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.log_gaps.read_data(gaps.log())


class DecayingHazard(WaitingTime):
    r"""Waiting times whose hazard decays, :math:`\lambda(\tau) = \mu + \rho e^{-\beta \tau}`.

    Args:
        rate: :math:`\mu`, events per unit of time.
        excess: :math:`\rho`, at least zero.
        decay: :math:`\beta`, per unit of time.
    """

    def __init__(self, rate: Tensor, excess: Tensor, decay: Tensor) -> None:
        self.rate, self.excess, self.decay = rate, excess, decay

    def log_prob(self, gap: Tensor) -> Tensor:
        return (self.rate + self.excess * (-self.decay * gap).exp()).log() + self.log_survival(gap)

    def log_survival(self, gap: Tensor) -> Tensor:
        return -self.rate * gap + self.excess / self.decay * torch.expm1(-self.decay * gap)

    def sample_beyond(self, waited: Tensor) -> Tensor:
        # The earlier of an event at the constant rate and one, if it comes, at the excess that is left.
        left = self.excess * (-self.decay * waited).exp()
        constant, excess = (torch.empty_like(left).exponential_() for _ in range(2))
        inside = 1 - self.decay * excess / left
        return waited + torch.minimum(
            constant / self.rate, torch.where(inside > 0, -inside.log() / self.decay, math.inf)
        )


class DecayingHazards(nn.Module):
    """Makes waiting times of decaying hazard of outputs: the log-rate, the excess, the log-decay."""

    size = 3
    """How many numbers an output has."""

    def forward(self, outputs: Tensor) -> DecayingHazard:
        log_rate, excess, log_decay = outputs.unbind(-1)
        return DecayingHazard(log_rate.exp(), excess, log_decay.exp())
