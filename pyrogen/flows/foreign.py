"""Bijections of other libraries as ours: any torch or Pyro transform, and the flows of Zuko."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributions import transforms

from pyrogen.core.module import BijectionModule, DistributionModule
from pyrogen.core.shapes import Context, ContextShape, Shape
from pyrogen.transforms.transform import Transform, as_transform, parts_of

from .model import Flow


def from_transforms(
    parts: transforms.Transform | Iterable[transforms.Transform],
    *,
    event_shape: Shape,
    base: DistributionModule | None = None,
) -> Flow:
    """A flow of torch or Pyro transforms, noise to data; learnable ones are trained, ``.inv`` or not.

    Args:
        parts: The transforms, the first applied first.
        event_shape: Shape of one event, the same before and after.
        base: The distribution of the noise; standard normal if ``None``.

    Example:
        >>> flow = from_transforms([transforms.ExpTransform()], event_shape=(2,))
        >>> flow().log_prob(torch.ones(5, 2)).shape
        torch.Size([5])
    """
    parts = [parts] if isinstance(parts, transforms.Transform) else list(parts)
    layers = [Foreign(part, event_shape=event_shape) for part in parts]
    return Flow(layers, base, event_shape=event_shape)


def from_zuko(flow: nn.Module, *, event_shape: Shape, context_shape: ContextShape = None) -> Flow:
    """A flow with the bijections of one of Zuko's, weights shared, over standard normal noise.

    Args:
        flow: A ``zuko.lazy.Flow`` whose base is a standard normal; its ``transform`` goes from data to noise.
        event_shape: Shape of one event, ``(D,)``.
        context_shape: ``None`` or the shape ``(C,)`` of the context the flow takes.

    Raises:
        ValueError: ``flow`` has no transform (a mixture), another base than a standard normal of ``event_shape`` (a
            circular flow), or only an estimate of its log-determinant (a continuous flow that is not ``exact``).
    """
    _check_zuko(flow, tuple(event_shape))
    layer = Zuko(flow.transform, event_shape=event_shape, context_shape=context_shape)
    return Flow([layer], event_shape=event_shape, context_shape=context_shape)


class Foreign(BijectionModule):
    """A torch or Pyro transform as a bijection module, without its caches.

    Args:
        transform: The transform; a learnable one, its inverse, or a composition of such is registered as a submodule.
        event_shape: Shape of one event.
    """

    def __init__(self, transform: transforms.Transform, *, event_shape: Shape) -> None:
        super().__init__(event_shape)
        self.transform = transform
        self.learnable = nn.ModuleList(part for part in parts_of(transform) if isinstance(part, nn.Module))

    def forward(self, context: Context = None) -> Transform:
        return as_transform(self.transform)


class Zuko(BijectionModule):
    """A lazy transform of Zuko's, from data to noise, as a bijection module from noise to data."""

    def __init__(self, transform: nn.Module, *, event_shape: Shape, context_shape: ContextShape = None) -> None:
        super().__init__(event_shape, context_shape)
        self.transform = transform

    def forward(self, context: Context = None) -> Transform:
        batch_shape = torch.Size() if context is None else context.shape[:-1]
        return _ZukoTransform(self.transform(context), len(self.event_shape), batch_shape)


class _ZukoTransform(Transform):
    def __init__(self, transform: transforms.Transform, event_dim: int, batch_shape: torch.Size) -> None:
        super().__init__(event_dim, batch_shape)
        self.transform = transform

    def forward_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.inv.call_and_ladj(x)

    def inverse_and_log_det(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.call_and_ladj(y)


def _check_zuko(flow: nn.Module, event_shape: Shape) -> None:
    if not isinstance(getattr(flow, "transform", None), nn.Module) or not hasattr(flow, "base"):
        raise ValueError(f"`flow` must have a `transform` and a `base`, got {type(flow).__name__}")
    if any(getattr(part, "exact", True) is False for part in flow.transform.modules()):
        raise ValueError("`flow` must have an exact log-determinant, got a continuous flow with `exact=False`")
    base = None if next(flow.base.parameters(), None) is not None else flow.base(None)
    normal = getattr(base, "base_dist", None)
    if not isinstance(normal, torch.distributions.Normal) or normal.loc.any() or (normal.scale != 1).any():
        raise ValueError(f"`flow` must have a fixed standard normal base, got {base or flow.base}")
    if base.event_shape != event_shape:
        raise ValueError(f"`flow` must have events of shape {event_shape}, got {tuple(base.event_shape)}")
