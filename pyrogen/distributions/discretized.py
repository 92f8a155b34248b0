r"""Distributions of pixels and other levels: integers :math:`0 \ldots K - 1`, the mass of bins under a real density.

Values are **integers stored as floating-point numbers**, ``0., …, symbols - 1`` (eight-bit images as they come, cast
to float, not scaled). Locations and scales live on another axis, on which the levels are evenly spaced over
:math:`[-1, 1]`: level :math:`v` stands for :math:`2v / (K - 1) - 1`. Bins are half a step wide on each side; the first
and the last are open, so that the levels' probabilities sum to one.

With a logistic density, :math:`\sigma` the logistic function and the bin's ends standardized,

.. math:: P(v) = \sigma(b) - \sigma(a) = \sigma(b) \, \sigma(-a) \, (1 - e^{a - b}),

whose logarithm keeps value and gradient in the farthest tails, without thresholds.

References:
    Salimans, Karpathy, Chen and Kingma 2017, "PixelCNN++: improving the PixelCNN with discretized logistic mixture
    likelihood and other modifications", https://arxiv.org/abs/1701.05517
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyrogen.numerics.scores import score_inside
from pyrogen.numerics.special import log_logistic_mass, log_normal_cdf, log_normal_mass
from pyrogen.numerics.supports import contains
from pyrogen.numerics.values import require_value

from .distribution import PyrogenDistribution

_NARROWEST = -40.0
"""The least logarithm of a scale that makes a difference: all mass is then in one bin, and no exponential overflows."""


def scaled(value: Tensor, symbols: int) -> Tensor:
    """Levels ``0 … symbols - 1`` on the axis of locations, from -1 to 1."""
    return value * (2 / (symbols - 1)) - 1


def nearest_level(point: Tensor, symbols: int) -> Tensor:
    """The level into whose bin a point of the axis of locations falls."""
    return ((point + 1) * ((symbols - 1) / 2)).round().clamp(0, symbols - 1)


class Levels(PyrogenDistribution):
    """What distributions of one integer ``0 … symbols - 1`` have in common; abstract.

    Moments are sums over all symbols, of so many numbers for each element.

    Args:
        symbols: How many integers :math:`K` there are.
        parameters: The tensors that :meth:`expand` expands, each of shape ``(*batch, *rest)``.
        batch_shape: Their batch dimensions.

    Raises:
        ValueError: there are fewer than two levels.
    """

    has_enumerate_support = True

    def __init__(
        self,
        symbols: int,
        parameters: tuple[Tensor, ...],
        batch_shape: Iterable[int],
        *,
        validate_args: bool | None = None,
    ) -> None:
        if symbols < 2:
            raise ValueError(f"`symbols` must be at least 2, got {symbols}")
        self.symbols = symbols
        self._parameters = parameters
        super().__init__(torch.Size(batch_shape), validate_args=validate_args)

    @abstractmethod
    def _score(self, value: Tensor) -> Tensor:
        """``log_prob`` of integers stored in the dtype of the parameters."""

    @abstractmethod
    def _points(self, shape: torch.Size) -> Tensor:
        """Draws before they are put into bins."""

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(0, self.symbols - 1)

    @property
    def mean(self) -> Tensor:
        return (self._probabilities() * self._all_levels()).sum(0)

    @property
    def variance(self) -> Tensor:
        return (self._probabilities() * (self._all_levels() - self.mean).square()).sum(0)

    def _expanded(self, batch_shape: torch.Size) -> Self:
        rank = len(self.batch_shape)
        parameters = (parameter.expand(batch_shape + parameter.shape[rank:]) for parameter in self._parameters)
        return type(self)(*parameters, self.symbols, validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with torch.no_grad():
            return nearest_level(self._points(self._extended_shape(torch.Size(sample_shape))), self.symbols)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        return score_inside(self._score, self.support, value.to(self._parameters[0].dtype))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = self._all_levels()
        return values.expand(self.symbols, *self.batch_shape) if expand else values

    def _all_levels(self) -> Tensor:
        like = self._parameters[0]
        values = torch.arange(self.symbols, dtype=like.dtype, device=like.device)
        return values.reshape(-1, *(1,) * len(self.batch_shape))

    def _probabilities(self) -> Tensor:
        return self._score(self.enumerate_support()).exp()


class DiscretizedLogistic(Levels):
    r"""An integer whose probability is the mass of its bin under a logistic density.

    Args:
        loc: Location :math:`\mu`, -1 at level 0 and 1 at the last; of shape ``batch``.
        log_scale: Logarithm of the scale, on the same axis; it broadcasts with ``loc``.
        symbols: How many integers :math:`K` there are.

    Example:
        >>> pixel = DiscretizedLogistic(torch.zeros(3), torch.full((3,), -2.0), symbols=256)
        >>> pixel.log_prob(torch.tensor([0.0, 127.0, 255.0])).exp()
        tensor([0.0006, 0.0145, 0.0006])
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, symbols: int, *, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(symbols, (self.loc, self.log_scale), self.loc.shape, validate_args=validate_args)

    def _score(self, value: Tensor) -> Tensor:
        return _logistic_score(value, self.loc, self.log_scale, self.symbols)

    def _points(self, shape: torch.Size) -> Tensor:
        return self.loc + self.log_scale.exp() * _logistic_noise(self.loc, shape)


class QuantizedNormal(Levels):
    r"""An integer whose probability is the mass of its bin under a normal density.

    Args:
        loc: Mean :math:`\mu` of the normal, -1 at level 0 and 1 at the last; of shape ``batch``.
        log_scale: Logarithm of its standard deviation, on the same axis; it broadcasts with ``loc``.
        symbols: How many integers :math:`K` there are.

    Example:
        >>> QuantizedNormal(torch.zeros(()), torch.tensor(-1.0), symbols=5).mean
        tensor(2.)
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, symbols: int, *, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(symbols, (self.loc, self.log_scale), self.loc.shape, validate_args=validate_args)

    def _score(self, value: Tensor) -> Tensor:
        lower, upper = _ends(value, self.loc, self.log_scale, self.symbols)
        below, above = log_normal_cdf(upper), log_normal_cdf(-lower)
        inside = log_normal_mass(lower, upper)
        return torch.where(value <= 0, below, torch.where(value >= self.symbols - 1, above, inside))

    def _points(self, shape: torch.Size) -> Tensor:
        return self.loc + self.log_scale.exp() * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)


class DiscretizedLogisticMixture(Levels):
    r"""An integer whose probability is the mass of its bin under a mixture of logistic densities.

    Args:
        logits: Unnormalized log-weights of the :math:`M` components, of shape ``(*batch, M)``.
        loc: Their locations, -1 at level 0 and 1 at the last; ``(*batch, M)``.
        log_scale: Logarithms of their scales, on the same axis; ``(*batch, M)``.
        symbols: How many integers :math:`K` there are.

    Example:
        >>> parameters = torch.randn(3, 7, 5)
        >>> DiscretizedLogisticMixture(*parameters, symbols=256).sample().shape
        torch.Size([7])
    """

    def __init__(
        self, logits: Tensor, loc: Tensor, log_scale: Tensor, symbols: int, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.loc, self.log_scale = torch.broadcast_tensors(logits, loc, log_scale)
        parameters = self.logits, self.loc, self.log_scale
        super().__init__(symbols, parameters, self.loc.shape[:-1], validate_args=validate_args)

    def _score(self, value: Tensor) -> Tensor:
        components = _logistic_score(value.unsqueeze(-1), self.loc, self.log_scale, self.symbols)
        return (self.logits.log_softmax(-1) + components).logsumexp(-1)

    def _points(self, shape: torch.Size) -> Tensor:
        chosen = _choose(self.logits.expand(*shape, -1), -1)
        loc, log_scale = (p.expand(*shape, -1).gather(-1, chosen).squeeze(-1) for p in (self.loc, self.log_scale))
        return loc + log_scale.exp() * _logistic_noise(loc, shape)


class PixelLogisticMixture(PyrogenDistribution):
    r"""Pixels of several channels under a mixture of logistics in which later channels follow earlier ones.

    A pixel's channels share one mixture component. Given it, channel :math:`c` is a discretized logistic whose
    location moves with the values of the channels before,
    :math:`\mu_c + \sum_{j < c} r_{cj} x_j` (scaled to :math:`[-1, 1]`): the exact conditional is sampled and scored.
    Pixels are independent. An event is ``(channels, *positions)``: one pixel, or an image with the channels first.

    Args:
        logits: Unnormalized log-weights of the components, ``(*batch, M, *positions)``.
        loc: Locations :math:`\mu`, ``(*batch, M, channels, *positions)``.
        log_scale: Logarithms of the scales, like ``loc``.
        coefficients: :math:`r`, in the order :math:`r_{10}, r_{20}, r_{21}, \ldots`;
            ``(*batch, M, channels * (channels - 1) / 2, *positions)``.
        symbols: How many values a channel has.
        event_dim: How many dimensions an event has, one more than there are dimensions of positions.

    Raises:
        ValueError: there are fewer than two symbols, or shapes do not fit.

    References:
        Salimans, Karpathy, Chen and Kingma 2017, section 2.2, https://arxiv.org/abs/1701.05517
    """

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        coefficients: Tensor,
        symbols: int,
        event_dim: int = 1,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if symbols < 2:
            raise ValueError(f"`symbols` must be at least 2, got {symbols}")
        cut = loc.dim() - event_dim - 1
        if cut < 0 or log_scale.shape != loc.shape:
            raise ValueError(
                f"`loc` and `log_scale` must both have shape (*batch, components, *event) with {event_dim} event "
                f"dimensions, got {tuple(loc.shape)} and {tuple(log_scale.shape)}"
            )
        (batch, (components, channels, *positions)) = loc.shape[:cut], loc.shape[cut:]
        pairs = channels * (channels - 1) // 2
        for name, parameter, expected in (
            ("logits", logits, (*batch, components, *positions)),
            ("coefficients", coefficients, (*batch, components, pairs, *positions)),
        ):
            if parameter.shape != expected:
                raise ValueError(f"`{name}` must have shape {expected}, got {tuple(parameter.shape)}")
        self.logits, self.loc, self.log_scale, self.coefficients = logits, loc, log_scale, coefficients
        self.symbols = symbols
        super().__init__(batch, torch.Size((channels, *positions)), validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.integer_interval(0, self.symbols - 1), len(self.event_shape))

    def _expanded(self, batch_shape: torch.Size) -> PixelLogisticMixture:
        rank = len(self.batch_shape)
        parameters = (
            parameter.expand(batch_shape + parameter.shape[rank:])
            for parameter in (self.logits, self.loc, self.log_scale, self.coefficients)
        )
        return PixelLogisticMixture(*parameters, self.symbols, len(self.event_shape), validate_args=False)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        dim = -len(self.event_shape)
        with torch.no_grad():
            whole = self.expand(torch.Size(sample_shape) + self.batch_shape)
            chosen = _choose(whole.logits, dim).unsqueeze(dim)  # (*shape, 1, 1, *positions)

            def of_chosen(parameter: Tensor) -> Tensor:
                index = chosen.expand(*parameter.shape[: dim - 1], 1, *parameter.shape[dim:])
                return parameter.gather(dim - 1, index).squeeze(dim - 1)

            loc, log_scale, coefficients = map(of_chosen, (whole.loc, whole.log_scale, whole.coefficients))
            points = loc + log_scale.exp() * _logistic_noise(loc, loc.shape)
            found: list[Tensor] = []
            for channel, point in enumerate(points.unbind(dim)):
                for before, level in enumerate(found):
                    point = point + coefficients.select(dim, _pair(channel, before)) * scaled(level, self.symbols)
                found.append(nearest_level(point, self.symbols))
            return torch.stack(found, dim)

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        dim = -len(self.event_shape)
        value = value.to(self.loc.dtype)
        inside = contains(self.support.base_constraint, value)
        channels = torch.where(inside, value, 0.0).unsqueeze(dim - 1)  # (*batch, 1, channels, *positions)
        parts = _logistic_score(channels, self._locations(channels), self.log_scale, self.symbols).sum(dim)
        pixels = (self.logits.log_softmax(dim) + parts).logsumexp(dim)
        whole = pixels.flatten(dim + 1).sum(-1) if dim < -1 else pixels
        spoiled = torch.where(inside, 0.0, torch.where(value.isnan(), torch.nan, torch.inf)).flatten(dim).sum(-1)
        return whole - spoiled

    def _locations(self, channels: Tensor) -> Tensor:
        """Locations of all channels given the values of those before, ``(*batch, M, channels, *positions)``."""
        dim = -len(self.event_shape)
        points = scaled(channels, self.symbols).unbind(dim)
        locations = []
        for channel, location in enumerate(self.loc.unbind(dim)):
            for before in range(channel):
                location = location + self.coefficients.select(dim, _pair(channel, before)) * points[before]
            locations.append(location)
        return torch.stack(torch.broadcast_tensors(*locations), dim)


def _ends(value: Tensor, loc: Tensor, log_scale: Tensor, symbols: int) -> tuple[Tensor, Tensor]:
    """The standardized ends of a value's bin."""
    precision = (-log_scale.clamp(min=_NARROWEST)).exp()
    centre, half = (scaled(value, symbols) - loc) * precision, precision / (symbols - 1)
    return centre - half, centre + half


def _logistic_score(value: Tensor, loc: Tensor, log_scale: Tensor, symbols: int) -> Tensor:
    lower, upper = _ends(value, loc, log_scale, symbols)
    inside = log_logistic_mass(lower, upper)
    return torch.where(value <= 0, logsigmoid(upper), torch.where(value >= symbols - 1, logsigmoid(-lower), inside))


def _logistic_noise(like: Tensor, shape: torch.Size) -> Tensor:
    tiny = torch.finfo(like.dtype).tiny
    uniform = torch.rand(shape, dtype=like.dtype, device=like.device).clamp(min=tiny)
    return uniform.log() - torch.log1p(-uniform)


def _choose(logits: Tensor, dim: int) -> Tensor:
    """One component each, with that dimension kept at size one: the Gumbel trick."""
    noise = -torch.empty_like(logits).exponential_().log()
    return (logits + noise).argmax(dim, keepdim=True)


def _pair(channel: int, before: int) -> int:
    return channel * (channel - 1) // 2 + before
