r"""The distribution of a transformed variable.

If :math:`z \sim p_0` and :math:`x = f(z)` with a bijection :math:`f`, then

.. math:: \log p(x) = \log p_0(f^{-1}(x)) + \log \left| \det \frac{\partial f^{-1}}{\partial x} \right|

Value and log-determinant come from one pass. Nothing is cached between calls but one thing: a distribution remembers
what it needs to score its own last draw, because variational inference scores what it has just drawn. The memory holds
only as long as draw and parameters are the very same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints, transforms

from pyrogen.distributions.abilities import Abilities, Density, Map
from pyrogen.numerics.autograd import deepcopied, is_functional
from pyrogen.numerics.representation import by_shapes
from pyrogen.numerics.rows import Remake, rearranged, spared
from pyrogen.numerics.supports import (
    ends,
    is_real,
    kept,
    middle,
    point_inside,
    resolved,
    shared,
    widened,
)
from pyrogen.numerics.values import require_expandable, require_numbers, require_value

from .transform import Compose


class TransformedDistribution(Abilities, dist.TransformedDistribution):
    """A base distribution sent through bijections, in one pass and without stale values.

    It is Pyro's ``TransformedDistribution`` in every respect (``TransformReparam`` and ``NeuTraReparam`` work), but
    where a transform's parameters have batch dimensions (from a context) the base is expanded to them, so that every
    row draws noise of its own. A row that holds NaN has ``log_prob`` NaN; one that holds an infinity, or lies outside
    the support (with validation off), has minus infinity; neither touches the other rows or their gradients.

    Args:
        base_distribution: Where the noise comes from.
        transforms: Noise to data, the first applied first; any torch or Pyro transforms.
        validate_args: Whether shapes (and a support other than the real numbers) are checked; Pyro's switch if
            ``None``.
        parameters: Gives the tensors the transforms depend on. A remembered score is forgotten once one has changed.
        remake: Gives the same distribution for rows of its context in other places; see
            :class:`~pyrogen.core.remade.Remade`.

    Raises:
        ValueError: ``transforms`` holds something else, or needs events of more dimensions than the base has.

    Example:
        >>> base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> lognormal = TransformedDistribution(base, [transforms.ExpTransform()])
        >>> lognormal.log_prob(torch.ones(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        base_distribution: TorchDistributionMixin,
        transforms: transforms.Transform | Iterable[transforms.Transform],
        validate_args: bool | None = None,
        *,
        parameters: Callable[[], Iterable[Tensor]] | None = None,
        remake: Remake | None = None,
    ) -> None:
        self.transforms = _as_list(transforms)
        self._transform = Compose(self.transforms, event_dim=len(base_distribution.event_shape))
        self._parameters, self._remake = parameters, remake
        self._memory: _Memory | None = None
        self.base_dist, shape = _fitted(base_distribution, self._transform)
        self.has_rsample = base_distribution.has_rsample
        cut = len(shape) - self._transform.event_dims[1]
        torch.distributions.Distribution.__init__(self, shape[:cut], shape[cut:], validate_args=validate_args)

    has_rsample = False  # an attribute, since Pyro copies and sets it

    def __repr__(self) -> str:
        names = ", ".join(repr(part).removesuffix("()") for part in self.transforms)
        return by_shapes(self, repr(self.base_dist), f"[{names}]")

    @property
    def density(self) -> Density:
        """What the transforms make of an exact base: ``"exact"``, unless one of them makes it less."""
        return self._transform.density

    has_push_forward = True

    @property
    def has_rsample_and_log_prob(self) -> bool:
        return self.has_rsample

    @property
    def support(self) -> constraints.Constraint:
        """The image of the base's support: what the transforms can give of what the base can."""
        return widened(self._transform.image(shared(self.base_dist.support)), len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError("a transformed distribution has no closed-form mean; average draws instead")

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError("a transformed distribution has no closed-form variance; average draws instead")

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> TransformedDistribution:
        shape = require_expandable(self, batch_shape) + self.event_shape
        base_shape = self._transform.inverse_shape(shape)
        base_batch = base_shape[: len(base_shape) - len(self.base_dist.event_shape)]
        base = _expanded(self.base_dist, base_batch)
        new = TransformedDistribution(
            base, self.transforms, validate_args=False, parameters=self._parameters, remake=self._remake
        )
        new._validate_args = self._validate_args
        new.has_rsample = self.has_rsample
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        if self._validate_args and self._parameters is not None:
            require_numbers(value, self.support, self._parameters())
        if self._memory is not None and self._memory.is_of(value, self._parameters):
            return self._memory.log_prob(self.base_dist)
        noisy = None if self.density == "exact" else value.device
        return spared(partial(self._score, value), partial(self._score_rows, value), self._remake, noisy=noisy)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        return self._draw(self.base_dist.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        with torch.no_grad():
            return self._draw(self.base_dist.sample(torch.Size(sample_shape)))

    def rsample_and_log_prob(self, sample_shape: Sequence[int] = torch.Size()) -> tuple[Tensor, Tensor]:
        if not self.has_rsample:
            raise NotImplementedError("the base cannot be sampled differentiably; use `sample` and `log_prob`")
        noise = self.base_dist.rsample(torch.Size(sample_shape))
        value, log_det = self._transform.forward_and_log_det(noise)
        value, rounded = self._kept_inside(value)
        log_prob = _log_prob(self.base_dist, noise) - log_det
        return value, log_prob if rounded is None else torch.where(rounded, self._score(value), log_prob)

    def push_forward(self) -> tuple[TorchDistributionMixin, Map]:
        return self.base_dist, self._transform

    def noise(self, value: Tensor) -> Tensor:
        """The noise that the transforms send to a value: sampling, the other way."""
        require_value(self, value)
        return self._transform._inverse(value)

    def _draw(self, noise: Tensor) -> Tensor:
        if self._transform.costly_log_det:  # most draws are never scored
            return self._kept_inside(self._transform(noise))[0]
        value, log_det = self._transform.forward_and_log_det(noise)
        value, rounded = self._kept_inside(value)
        kept = rounded is None and not _untracked(value)
        self._memory = _Memory(value, noise, log_det, self._parameters) if kept else None
        return value

    def _kept_inside(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """Draws, those that rounding took out of an open interval at the nearest number in it; and which are rounded.

        Those are so near to an end that rounding moves their noise, and so their score; ``None`` if there are none.
        """
        support = self.support
        least_and_most = kept(support, value.dtype)
        if least_and_most is None:
            return value, None
        value = value.clamp(*least_and_most)
        if not value.numel() or is_functional((value,)):
            return value, None
        first, last = resolved(*ends(support), value.dtype)
        near = (value < first) | (value > last)
        if not bool(near.any()):
            return value, None
        event_dim = len(self.event_shape)
        return value, near.flatten(-event_dim).any(-1) if event_dim else near

    def _score(self, value: Tensor) -> Tensor:
        event_dim, support = len(self.event_shape), self.support
        size = value.detach().abs()
        size = size.flatten(-event_dim).sum(-1) if event_dim else size
        inside = size < torch.inf  # neither NaN nor infinite
        if value.numel() == 0 or is_real(support):
            return torch.where(inside, self._score_inside(value.nan_to_num(0.0, 0.0, 0.0)), -size)
        inside = inside & support.check(value.detach())
        safe = torch.where(inside.reshape(inside.shape + (1,) * event_dim), value, _point_inside(support, value))
        return torch.where(inside, self._score_inside(safe), torch.where(size.isnan(), torch.nan, -torch.inf))

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        there = self if self._remake is None else self._remake(places, batch)
        return there._score(rearranged(value, self.event_shape, batch, places))

    def _score_inside(self, value: Tensor) -> Tensor:
        noise, log_det = self._transform.inverse_and_log_det(value)
        log_prob = _log_prob(self.base_dist, noise) + log_det
        if is_real(self.base_dist.support) or self.base_dist.support.is_discrete:
            return log_prob
        # Where rounding takes the noise to infinity, most bases have no number, where their density goes to zero.
        event_dim = len(self.base_dist.event_shape)
        size = noise.detach().abs()
        size = size.flatten(-event_dim).sum(-1) if event_dim else size
        return torch.where(size == torch.inf, -torch.inf, log_prob)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_memory": None}

    def __deepcopy__(self, memo: dict) -> TransformedDistribution:
        return deepcopied(self, memo)


class _Memory:
    """What it takes to score one draw, as long as draw, grad mode and parameters are what they were."""

    def __init__(self, value: Tensor, noise: Tensor, log_det: Tensor, parameters: Callable | None) -> None:
        self.value, self.noise, self.log_det = value, noise, log_det
        self.key = self._key(parameters)

    def is_of(self, value: Tensor, parameters: Callable | None) -> bool:
        return value is self.value and self.key == self._key(parameters)

    def log_prob(self, base: TorchDistributionMixin) -> Tensor:
        return _log_prob(base, self.noise) - self.log_det

    def _key(self, parameters: Callable | None) -> tuple:
        versions = [(id(tensor), tensor._version) for tensor in parameters()] if parameters else []
        return torch.is_grad_enabled(), self.value._version, versions


def _untracked(value: Tensor) -> bool:
    return torch.compiler.is_compiling() or value.is_inference()


def _as_list(given: transforms.Transform | Iterable[transforms.Transform]) -> list[transforms.Transform]:
    parts = [given] if isinstance(given, transforms.Transform) else list(given)
    if not all(isinstance(part, transforms.Transform) for part in parts):
        raise ValueError(f"`transforms` must hold transforms, got {[type(part).__name__ for part in parts]}")
    return parts


def _fitted(base: TorchDistributionMixin, transform: Compose) -> tuple[TorchDistributionMixin, torch.Size]:
    """The base with the batch and event dimensions the transform needs, and the shape of what comes out."""
    shape = base.batch_shape + base.event_shape
    if len(shape) < transform.event_dim:
        raise ValueError(
            f"`base_distribution` must have at least {transform.event_dim} dimensions, got shape {tuple(shape)}"
        )
    out = transform.forward_shape(shape)
    needed = transform.inverse_shape(out)
    if needed != shape:
        base = _expanded(base, needed[: len(needed) - len(base.event_shape)])
    if (missing := transform.event_dim - len(base.event_shape)) > 0:
        base = dist.Independent(base, missing)
    return base, out


def _expanded(base: TorchDistributionMixin, batch_shape: torch.Size) -> TorchDistributionMixin:
    if batch_shape == base.batch_shape:
        return base
    if isinstance(base, ExpandedDistribution):  # its own `expand` changes itself
        return ExpandedDistribution(base.base_dist, batch_shape)
    return base.expand(batch_shape)


def _log_prob(base: TorchDistributionMixin, noise: Tensor) -> Tensor:
    if noise.numel():
        return base.log_prob(noise)
    event_dim = len(base.event_shape)  # torch's `Independent` fails on empty batches
    return noise.flatten(-event_dim).sum(-1) if event_dim else noise


def _point_inside(support: constraints.Constraint, like: Tensor) -> Tensor | float:
    found = ends(support)
    return point_inside(support, like) if found is None else middle(*found)
