"""Methods of distributions beyond Pyro's interface: declared here, each with its meaning and the families that have it.

In Pyro a distribution that has ``rsample`` declares ``has_rsample``. In the same way :class:`Abilities` declares
``has_given`` for one that has ``given``, and so on. A distribution without an ability raises NotImplementedError, which
names those that have it. All distributions of pyrogen inherit it.

Distributions of Pyro and torch inherit nothing of ours, and wrap what does (``Independent``, ``Masked``, ``Expanded``):
:func:`abilities_of` finds what is inside, :func:`draw_and_score`, :func:`log_prob_by_element` and
:func:`push_forward` take any distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, NoReturn

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution, TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution

Density = Literal["exact", "estimate", "lower bound", "unnormalized"] | None
"""What a ``log_prob`` means; see :mod:`pyrogen.core.density`."""

Map = Callable[[Tensor], Tensor]


class Abilities:
    """Mixed into the distributions of pyrogen: what each may have, and has only where it is declared."""

    density: Density = "exact"
    """What ``log_prob`` means."""

    shared_error: float = 0.0
    """The standard error of a constant that every ``log_prob`` holds, in nats: of a normalizer that was estimated."""

    context: Any = None
    """The context that it was made with, where that is kept; ``None`` else."""

    takes_missing: bool = False
    """Whether NaN in an event marks a missing entry, whose value is integrated out; else its ``log_prob`` is NaN."""

    has_given: bool = False
    """Whether ``given`` and ``part_log_prob`` are implemented."""

    has_joint: bool = False
    """Whether ``joint`` is implemented."""

    has_denoiser: bool = False
    """Whether there is a ``denoiser``; it takes the ``context``."""

    has_push_forward: bool = False
    """Whether ``push_forward`` is implemented."""

    has_rsample_and_log_prob: bool = False
    """Whether ``rsample_and_log_prob`` is implemented: in one pass, which costs less than two."""

    def given(self, values: Tensor, mask: Tensor) -> TorchDistributionMixin:
        """The distribution of the whole event given a part of it.

        Args:
            values: Events; only what is known by the mask counts.
            mask: Boolean, of the events' shape or one that broadcasts to it: what is known.
        """
        self._lacks("given", "autoregressive models and `pyrogen.diffusion.masked` have it")

    def part_log_prob(self, value: Tensor, part: Tensor) -> Tensor:
        r"""The log-probability of a part of the event, whatever the rest: :math:`\log p(x_S)`.

        Args:
            value: Events; what is not in the part does not count.
            part: Boolean, of the events' shape or one that broadcasts to it: what the part is.
        """
        self._lacks("part_log_prob", "autoregressive models and `pyrogen.diffusion.masked` have it")

    def joint(self) -> tuple[TorchDistributionMixin, Callable[[Tensor], TorchDistributionMixin]]:
        """The distribution of a latent, of this batch shape, and that of the event given the latent."""
        self._lacks("joint", "variational autoencoders have one (`pyrogen.latent.VAE`)")

    @property
    def denoiser(self) -> Any:
        """What removes noise from events step by step."""
        self._lacks("denoiser", "diffusion models have one (`pyrogen.diffusion.Diffusion`)")

    def push_forward(self) -> tuple[TorchDistributionMixin, Map]:
        """Simpler noise, and the differentiable map that makes a draw of noise a draw of this distribution."""
        self._lacks("push_forward", "flows, probability flows and normal distributions have one")

    def rsample_and_log_prob(self, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
        """A differentiable draw and its ``log_prob``, in one pass."""
        self._lacks("rsample_and_log_prob", "use `draw_and_score`, which takes any distribution")

    def log_prob_by_element(self, value: Tensor) -> Tensor:
        """The log-probability of each element of an event on its own, ``(*batch, *event)``."""
        if not self.event_shape:
            return self.log_prob(value)
        return self._lacks("log_prob_by_element", _ELEMENTS)

    def _lacks(self, ability: str, who_has: str) -> NoReturn:
        raise NotImplementedError(_lacking(self, ability, who_has))


def _lacking(distribution: Any, ability: str, who_has: str) -> str:
    return f"{type(distribution).__name__} has no `{ability}`: {who_has}"


_ELEMENTS = (
    "the elements of an event are not known to be independent; use a family of single elements, such as those of "
    "`pyrogen.families`, or `families.columns`"
)


def abilities_of(distribution: TorchDistributionMixin) -> Abilities:
    """The distribution of pyrogen that a distribution is, or wraps; one without any ability if there is none.

    Follows Pyro's ``Independent``, ``Masked`` and ``Expanded``, which leave alone what an event is.
    """
    while isinstance(distribution, Independent | MaskedDistribution | ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution if isinstance(distribution, Abilities) else _Foreign(distribution)


class _Foreign(Abilities):
    """A distribution of another library."""

    def __init__(self, distribution: TorchDistributionMixin) -> None:
        self.distribution = distribution

    def _lacks(self, ability: str, who_has: str) -> NoReturn:
        raise NotImplementedError(_lacking(self.distribution, ability, who_has))


def has_draw_and_score(distribution: TorchDistributionMixin) -> bool:
    """Whether a distribution draws and scores in one pass, which costs less than two."""
    if isinstance(distribution, Abilities):
        return distribution.has_rsample_and_log_prob
    wraps = isinstance(distribution, Independent | MaskedDistribution | ExpandedDistribution)
    return wraps and has_draw_and_score(distribution.base_dist)


def draw_and_score(distribution: TorchDistributionMixin, sample_shape: Iterable[int] = ()) -> tuple[Tensor, Tensor]:
    """A differentiable draw of any distribution and its ``log_prob``: in one pass where it can, else in two."""
    sample_shape = torch.Size(sample_shape)
    if not has_draw_and_score(distribution):
        value = distribution.rsample(sample_shape)
        return value, distribution.log_prob(value)
    if isinstance(distribution, Abilities):
        return distribution.rsample_and_log_prob(sample_shape)
    if isinstance(distribution, ExpandedDistribution):
        return draw_and_score(distribution.base_dist.expand(distribution.batch_shape), sample_shape)
    value, log_prob = draw_and_score(distribution.base_dist, sample_shape)
    if isinstance(distribution, MaskedDistribution):
        return value, scale_and_mask(log_prob, mask=distribution._mask)
    count = distribution.reinterpreted_batch_ndims
    return value, log_prob.flatten(-count).sum(-1) if count else log_prob


def log_prob_by_element(distribution: TorchDistributionMixin, value: Tensor) -> Tensor:
    """The log-probability of each element of an event of any distribution on its own, ``(*batch, *event)``.

    Raises:
        NotImplementedError: the elements are not known to be independent.
    """
    if isinstance(distribution, Independent):
        return log_prob_by_element(distribution.base_dist, value)
    if isinstance(distribution, Abilities):
        return distribution.log_prob_by_element(value)
    if not distribution.event_shape:
        return distribution.log_prob(value)
    raise NotImplementedError(_lacking(distribution, "log_prob_by_element", _ELEMENTS))


def push_forward(distribution: TorchDistributionMixin) -> tuple[TorchDistributionMixin, Map] | None:
    """Simpler noise, and the map that makes a draw of noise a draw of any distribution; ``None`` if there is none.

    The noise of a distribution with ``n`` event dimensions more than this one has them on the left.
    """
    if isinstance(distribution, Independent):
        return push_forward(distribution.base_dist)
    if isinstance(distribution, Abilities):
        return distribution.push_forward() if distribution.has_push_forward else None
    if isinstance(distribution, TransformedDistribution):
        return distribution.base_dist, lambda noise: _sent_through(distribution.transforms, noise)
    if isinstance(distribution, dist.Normal):
        standard = dist.Normal(torch.zeros_like(distribution.loc), torch.ones_like(distribution.scale))
        return standard, lambda noise: distribution.loc + distribution.scale * noise
    return None


def _sent_through(transforms: Iterable[Map], value: Tensor) -> Tensor:
    for transform in transforms:
        value = transform(value)
    return value
