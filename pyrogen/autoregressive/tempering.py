r"""Tempered, truncated and constrained models: each again a distribution that scores what it samples.

Each wraps the conditional of one symbol and normalizes it anew, so the whole model,
:math:`q(x) = \prod_i q(x_i \mid x_{<i})`, has an exact ``log_prob``. That differs from tempering or constraining
:math:`p(x)` as a whole, whose normalizer is intractable.

References:
    Holtzman, Buys, Du, Forbes and Choi 2020, "The curious case of neural text degeneration",
    https://arxiv.org/abs/1904.09751
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrogen.arguments import checked
from pyrogen.arrays import takes_arrays
from pyrogen.core.log_prob import log_prob
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import Context
from pyrogen.distributions.normal import DiagonalNormal

from .conditionals import Reweighted
from .model import SequenceModel
from .orders import MixedOrders

Model = SequenceModel | MixedOrders


@dataclass(frozen=True)
class Tempered(Reweighted):
    """Probabilities to the power ``1 / temperature``; also for single normals."""

    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {self.temperature}; `top_k(model, 1)` is greedy")

    def change(self, logits: Tensor) -> Tensor:
        return logits / self.temperature

    def _changed(self, distribution: TorchDistributionMixin) -> TorchDistributionMixin:
        if isinstance(distribution, DiagonalNormal):
            log_scale = distribution.log_scale + 0.5 * math.log(self.temperature)
            return DiagonalNormal(distribution.loc, log_scale, len(distribution.event_shape), validate_args=False)
        if isinstance(distribution, dist.Normal):
            scale = distribution.scale * math.sqrt(self.temperature)
            return dist.Normal(distribution.loc, scale, validate_args=False)
        return super()._changed(distribution)


@dataclass(frozen=True)
class TopK(Reweighted):
    """The ``count`` likeliest symbols."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"`count` must be at least 1, got {self.count}")

    def change(self, logits: Tensor) -> Tensor:
        kept = logits.topk(min(self.count, logits.shape[-1]), -1).indices
        return _only(logits, torch.zeros_like(logits, dtype=torch.bool).scatter(-1, kept, True))


@dataclass(frozen=True)
class Nucleus(Reweighted):
    """The fewest symbols whose probabilities together reach ``mass``, likeliest first."""

    mass: float

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise ValueError(f"`mass` must be in (0, 1], got {self.mass}")

    def change(self, logits: Tensor) -> Tensor:
        if self.mass == 1:
            return logits
        ordered, places = logits.double().softmax(-1).sort(-1, descending=True)  # else sums round rare symbols away
        kept = ordered.cumsum(-1) - ordered < self.mass
        return _only(logits, torch.zeros_like(kept).scatter(-1, places, kept))


@recipe
@checked
def tempered(model: Model, temperature: float) -> Model:
    """A model with each conditional to the power ``1 / temperature``, normalized: sharper below 1, flatter above.

    Args:
        model: An autoregressive model over few symbols or normals; it shares its parameters with the result.
        temperature: Positive.

    Raises:
        ValueError: ``temperature`` is not positive.

    Example:
        >>> model = pg.autoregressive.transformer((4,), symbols=3, width=16, depth=1)
        >>> cold = tempered(model, 0.7)()
        >>> cold.log_prob(cold.sample((5,))).shape
        torch.Size([5])
    """
    return model.altered(lambda conditional: Tempered(conditional, temperature))


@takes_arrays
def best_temperature(model: Model, x: Tensor, context: Context = None) -> float:
    r"""The temperature under which data are most probable: :func:`tempered` with it states the best probabilities.

    A model that has learned its training data too well is too sure elsewhere, so the data should be others. Their
    log-probability has one maximum, as it is a concave function of the inverse temperature; golden sections find it to
    three digits, between 1/8 and 8.

    Args:
        model: An autoregressive model over few symbols or normals.
        x: Held-out data.
        context: Their context, if the model takes one.

    Shape:
        ``(*batch, *event_shape)``.

    References:
        Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks",
        https://arxiv.org/abs/1706.04599

    Example:
        >>> model = pg.autoregressive.transformer((4,), symbols=3, width=16, depth=1)
        >>> 0.125 <= best_temperature(model, torch.randint(3, (20, 4))) <= 8
        True
    """

    def score(logarithm: float) -> float:
        return float(log_prob(tempered(model, math.exp(logarithm)), x, context).double().sum())

    share = (math.sqrt(5) - 1) / 2
    low, high = -math.log(8), math.log(8)
    inner = [high - share * (high - low), low + share * (high - low)]
    scores = [score(place) for place in inner]
    while high - low > 1e-3:
        if scores[0] > scores[1]:
            high, inner = inner[1], [inner[1] - share * (inner[1] - low), inner[0]]
            scores = [score(inner[0]), scores[0]]
        else:
            low, inner = inner[0], [inner[1], inner[0] + share * (high - inner[0])]
            scores = [scores[1], score(inner[1])]
    return math.exp((low + high) / 2)


@recipe
@checked
def top_k(model: Model, count: int) -> Model:
    """A model that only takes the ``count`` likeliest symbols at each place; with one it is greedy.

    Args:
        model: An autoregressive model over few symbols; it shares its parameters with the result.
        count: How many symbols are kept.

    Raises:
        ValueError: ``count`` is not positive.
    """
    return model.altered(lambda conditional: TopK(conditional, count))


@recipe
@checked
def nucleus(model: Model, mass: float) -> Model:
    """A model that at each place takes the fewest symbols whose probabilities reach ``mass``.

    Args:
        model: An autoregressive model over few symbols; it shares its parameters with the result.
        mass: Above 0, at most 1.

    Raises:
        ValueError: ``mass`` is out of range.
    """
    return model.altered(lambda conditional: Nucleus(conditional, mass))


def _only(logits: Tensor, kept: Tensor) -> Tensor:
    return logits.masked_fill(~kept, -torch.inf)
