r"""What is known of the values of a transform: the image of a set of arguments.

A distribution of :math:`f(z)` lives on the image of the support of :math:`z`, which may be smaller than what :math:`f`
can give: a sigmoid of a sigmoid lies between 0.5 and 0.731.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to, transforms
from torch.distributions.constraints import Constraint

from pyrogen.numerics.autograd import is_functional
from pyrogen.numerics.supports import (
    End,
    OnBase,
    OpenInterval,
    PartlyClosed,
    element_of,
    ends,
    held_ends,
    is_closed,
    is_real,
    point_inside,
    widened,
)


class Mapping(Protocol):
    """What is read of a :class:`~pyrogen.transforms.transform.Transform` to find where it sends a support."""

    domain: Constraint
    codomain: Constraint
    event_dims: tuple[int, int]
    fills_codomain: bool
    monotone: bool
    sign: Tensor | int
    inv: Mapping

    def inverse_shape(self, shape: torch.Size) -> torch.Size: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class Image(OnBase):
    """Where a transform sends what meets a constraint.

    Args:
        transform: A bijection.
        base_constraint: On its arguments.
    """

    def __init__(self, transform: Mapping, base_constraint: Constraint) -> None:
        self.transform = transform
        super().__init__(base_constraint)

    @property
    def event_dim(self) -> int:
        before, after = self.transform.event_dims
        return self.base_constraint.event_dim + after - before

    @torch.no_grad()
    def check(self, value: Tensor) -> Tensor:
        codomain = widened(self.transform.codomain, self.event_dim)
        possible = codomain.check(value)
        inside = possible.reshape(possible.shape + (1,) * self.event_dim)
        safe = torch.where(inside, value, point_inside(codomain, value))
        return possible & self.base_constraint.check(self.transform.inv(safe))

    def point_inside(self, like: Tensor) -> Tensor:
        return self.transform(
            point_inside(self.base_constraint, like.new_zeros(self.transform.inverse_shape(like.shape)))
        )

    def __repr__(self) -> str:
        return f"Image({repr(self.transform).removesuffix('()')} of {self.base_constraint})"


def image_of(transform: Mapping, within: Constraint) -> Constraint:
    """The constraint that the values of a transform, not made of others, meet whose arguments meet ``within``."""
    before, after = transform.event_dims
    event_dim = max(within.event_dim, before) + after - before
    if is_real(within) and is_real(transform.domain) and is_real(transform.codomain):
        return widened(transform.codomain, event_dim)
    within = widened(within, before)
    reached = transform.fills_codomain or not transform.monotone or is_real(transform.codomain)
    if reached and _covers(within, transform.domain):
        return widened(_opened(transform.codomain, within), event_dim)
    if transform.monotone and ends(within) is not None:
        return widened(_between(transform, within), event_dim)
    return Image(transform, within)


def _covers(within: Constraint, domain: Constraint) -> bool:
    """Whether nothing in a transform's domain is outside of a constraint."""
    ours, theirs = ends(within), ends(domain)
    if ours is None or theirs is None:
        return type(element_of(within)) is type(element_of(domain))
    return _at_most(ours[0], theirs[0]) and _at_most(theirs[1], ours[1])


def _at_most(one: End, other: End) -> bool:
    """Whether an end is known to be at most another, without waiting for a device: of tensors, only if it is it."""
    return one is other or not isinstance(one, Tensor) and not isinstance(other, Tensor) and one <= other


def _opened(codomain: Constraint, within: Constraint) -> Constraint:
    """What a transform can give, without ends that no argument is sent to."""
    if not is_closed(codomain) or is_closed(within):
        return codomain
    return widened(OpenInterval(*ends(codomain)), codomain.event_dim)


@torch.no_grad()
def _between(transform: Mapping, within: Constraint) -> Constraint:
    """The image of an interval under a monotone map: between the images of its ends."""
    arguments = [torch.as_tensor(end, dtype=torch.float64) for end in ends(within)]
    limits = [torch.as_tensor(end, dtype=torch.float64) for end in ends(transform.codomain)]
    images, sign = [transform(end) for end in arguments], torch.as_tensor(transform.sign)
    low, high = torch.where(sign > 0, images[0], images[1]), torch.where(sign > 0, images[1], images[0])
    first, last = torch.where(sign > 0, *arguments), torch.where(sign > 0, *arguments[::-1])
    # Towards infinity a map nears a limit, which rounding may fall short of and a declaration may forget.
    low = torch.where(first.isinf(), torch.fmin(low, limits[0]), low)
    high = torch.where(last.isinf(), torch.fmax(high, limits[1]), high)
    if not is_closed(within):
        return OpenInterval(*_numbers(low, high))
    held = _held(transform, within)
    held_low, held_high = torch.where(sign > 0, *held), torch.where(sign > 0, *held[::-1])
    held_low, held_high = held_low & low.isfinite(), held_high & high.isfinite()
    return _closed(*_numbers(low, high), _numbers(held_low, held_high))


def _held(transform: Mapping, within: Constraint) -> list[Tensor]:
    """Which of the two ends of what meets a constraint are finite, can be met, and are of a transform's domain."""
    known = ends(transform.domain) or (-math.inf, math.inf)
    held = []
    for end, holds, limit, includes in zip(
        ends(within), held_ends(within), known, held_ends(transform.domain), strict=True
    ):
        end, holds, limit = torch.as_tensor(end), torch.as_tensor(holds), torch.as_tensor(limit)
        held.append(holds & end.isfinite() & ((end != limit.to(end)) | includes))
    return held


def _numbers(low: Tensor, high: Tensor) -> tuple[End, End]:
    """Two ends, or two of other things, as numbers where they are the same for all elements."""
    if low.dim() == high.dim() == 0 and not is_functional((low, high)):
        return low.item(), high.item()
    return low, high


def _closed(low: End, high: End, held: tuple[bool | Tensor, bool | Tensor]) -> Constraint:
    """An interval that holds some of its ends, as torch's own where torch has one."""
    if not any(isinstance(known, Tensor) for known in (low, high, *held)):
        if held == (True, True):
            return constraints.interval(low, high)
        if held == (True, False) and high == math.inf:
            return constraints.greater_than_eq(low)
        if held == (False, False):
            return OpenInterval(low, high)
    return PartlyClosed(low, high, *held)


@biject_to.register(Image)
@transform_to.register(Image)
def _to_image(constraint: Image) -> transforms.Transform:
    parts = [biject_to(constraint.base_constraint), constraint.transform]
    return transforms.ComposeTransform(parts)
