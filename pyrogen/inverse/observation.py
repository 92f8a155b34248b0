"""Observations: a scored site of a Pyro model taken apart into entries, what each holds, and how much it counts.

Pyro hides entries of a site by masks that stand anywhere: round the site (``poutine.mask``), round its distribution, or
deep in it, under ``to_event``, an expansion or an elementwise transform. Here all of them become one mask over the
entries of the innermost distribution. What stands in a hidden entry never matters; it may be NaN.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pyro.distributions import ExpandedDistribution, MaskedDistribution, Normal
from pyro.ops.provenance import detach_provenance, get_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, Independent, Transform, TransformedDistribution, biject_to

from pyrogen.core.density import density_of
from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.programs.site import Site, is_site, site_of


class Observed(NamedTuple):
    """A scored site taken apart.

    Attributes:
        base: The distribution under ``Independent``, masks, expansions and elementwise transforms.
        base_dim: The event dimensions of ``base``.
        value: The value in the coordinates of ``base``, of the full shape of the site; anything where hidden.
        shape: The shape of the entries: that of the site without the event dimensions of ``base``.
        event_dim: How many of its dimensions are event dimensions of the site.
        weight: The scale of the log-probability of each entry, zero where hidden; of shape ``shape``.
        shown: Which entries count, of the same shape.
        volume: The log-determinants of the transforms at each entry, which the log-probability gains.
    """

    base: Distribution
    base_dim: int
    value: Tensor
    shape: torch.Size
    event_dim: int
    weight: Tensor
    shown: Tensor
    volume: Tensor

    def log_prob(self) -> Tensor:
        """Log-probabilities of the entries, of shape ``shape``, without weights; zero where hidden."""
        entries = self.base.log_prob(self.value) + self.volume
        return torch.where(self.shown, entries, torch.zeros_like(entries))


class _Layers(NamedTuple):
    """What lies round a base distribution: masks with the event dimensions of their layer, and transforms."""

    base: Distribution
    event_dim: int
    masks: list[tuple[Any, int]]
    transforms: list[Transform]  # the innermost first


def observed(site: Site) -> Observed:
    """A site of a program, taken apart."""
    fn = site.distribution
    base, base_dim, masks, transforms = _peeled(fn)
    layers = [(True if site.mask is None else site.mask, fn.event_dim), *masks]
    value = torch.as_tensor(site.value)
    scale = torch.as_tensor(site.scale, device=value.device)
    batch = torch.broadcast_shapes(fn.batch_shape, scale.shape, torch.as_tensor(layers[0][0]).shape)
    full = batch + fn.event_shape
    shape = full[: len(full) - base_dim]

    def entries(tensor: Any, event_dim: int) -> Tensor:
        """What belongs to the batch dimensions of a layer, over the entries."""
        tensor = torch.as_tensor(tensor, device=value.device)
        return tensor.reshape(tensor.shape + (1,) * (event_dim - base_dim)).expand(shape)

    shown = torch.ones(shape, dtype=torch.bool, device=value.device)
    for mask, event_dim in layers:
        shown = shown & entries(mask, event_dim).bool()
    value, volume = _pulled(_filled(value.expand(full), shown, base, transforms), base, transforms)
    weight = entries(scale, fn.event_dim) * shown
    return Observed(base, base_dim, value, shape, fn.event_dim - base_dim, weight, shown, volume)


def filled(site: Site) -> Tensor:
    """The value of a site with possible values where it is hidden, so that no gradient meets NaN."""
    found = observed(site)
    value = found.value
    for part in _peeled(site.distribution).transforms:
        value = part(value)
    return value.to(site.value.dtype)


class Filled(Messenger):
    """Puts possible values where observed sites are hidden by a mask: gradients of NaN are NaN, hidden or not."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and is_site(msg) and not torch.as_tensor(msg["value"]).isfinite().all():
            msg["value"] = filled(site_of(msg))


def shown_data(site: Site) -> Tensor:
    """The value of an observed site, zero where it is hidden, whatever stands there."""
    found, value = observed(site), torch.as_tensor(site.value).expand(site.distribution.shape())
    wide = found.shown.reshape(found.shape + (1,) * found.base_dim)
    return detach_provenance(torch.where(wide, value, torch.zeros_like(value))).detach()


def is_hidden(site: Site) -> bool:
    """Whether a mask hides a part of a site."""
    masks = [site.mask, *(mask for mask, _ in _peeled(site.distribution).masks)]
    return any(mask is not None and not torch.as_tensor(mask).all() for mask in masks)


def check_data(site: Site, *, support: bool) -> None:
    """Raises a ValueError unless an observed site can be scored, and holds data of its shape, finite and possible.

    What counts is what no mask hides.

    Args:
        site: The site.
        support: Whether to check the support as well, where it does not depend on a latent site: what does bears marks.
    """
    name, fn, value = site.name, site.distribution, torch.as_tensor(site.value)
    if density_of(fn) in ("unnormalized", None):
        raise ValueError(
            f"`{name}` must have a normalized log_prob to be measured, got {type(fn).__name__} of density "
            f"{density_of(fn)!r}: what it leaves out depends on what is inferred"
        )
    full = fn.shape()
    batch, event = value.shape[: value.dim() - fn.event_dim], value.shape[value.dim() - fn.event_dim :]
    fits = len(batch) <= len(fn.batch_shape) and event == fn.event_shape
    if not fits or torch.broadcast_shapes(batch, fn.batch_shape) != fn.batch_shape:
        raise ValueError(
            f"`{name}` must have observed values of shape {tuple(full)}, got {tuple(value.shape)}; several values of "
            "one distribution go in a `pyro.plate`"
        )
    found, value = observed(site), value.expand(full)
    wide = found.shown.reshape(found.shape + (1,) * found.base_dim)
    missing = ~value.isfinite() & wide
    _refuse(missing, f"`{name}` must be finite wherever it counts, got {_first(value, missing)}; hide it with a mask")
    outside = ~_possible(found) & found.shown
    if support and not get_provenance(outside):  # a support that moves with a latent site may yet hold the value
        kind = type(found.base).__name__
        _refuse(outside, f"`{name}` must lie in the support of {kind}, got {_first(value, outside)}")


def _refuse(bad: Tensor, message: str) -> None:
    if bad.any():
        places = [tuple(place) if len(place) > 1 else place[0] for place in bad.nonzero().tolist() if place]
        where = f" (at {', '.join(map(str, places[:5]))}{', ...' if len(places) > 5 else ''})" if places else ""
        raise ValueError(message + where)


def _first(value: Tensor, bad: Tensor) -> Any:
    found = value[bad].flatten(0)[:1].tolist()
    return found[0] if found else None


def _possible(site: Observed) -> Tensor:
    try:
        possible = site.base.support.check(site.value)
    except NotImplementedError:
        return torch.ones_like(site.shown)
    while possible.dim() > len(site.shape):  # some supports check numbers, not events
        possible = possible.all(-1)
    return possible.expand(site.shape)


def _peeled(fn: Distribution) -> _Layers:
    """A distribution without the layers round it."""
    base, masks, transforms = fn, [], []
    while True:
        if isinstance(base, MaskedDistribution):
            masks.append((base._mask, _event_dim(base)))
            base = base.base_dist
        elif isinstance(base, Independent | ExpandedDistribution):
            base = base.base_dist
        elif isinstance(base, TransformedDistribution) and _elementwise(base.transforms):
            transforms = [*base.transforms, *transforms]
            base = base.base_dist
        elif isinstance(base, DiagonalNormal):
            base = Normal(base.loc, base.stddev, validate_args=False)
        else:
            return _Layers(base, _event_dim(base), masks, transforms)


def _elementwise(transforms: list[Transform]) -> bool:
    return all(part.bijective and part.domain.event_dim == 0 == part.codomain.event_dim for part in transforms)


def _filled(value: Tensor, shown: Tensor, base: Distribution, transforms: list[Transform]) -> Tensor:
    instead = _stand_in(base, value)
    for part in transforms:
        instead = part(instead)
    wide = shown.reshape(shown.shape + (1,) * _event_dim(base))
    # NaN that counts was refused before; what is left is hidden by the distribution itself.
    return torch.where(wide & ~value.isnan(), value, instead.to(value.dtype))


def _pulled(value: Tensor, base: Distribution, transforms: list[Transform]) -> tuple[Tensor, Tensor]:
    """The value before the transforms, and the log-determinants of their inverses, entry by entry."""
    dims = _event_dim(base)
    volume = value.new_zeros((), dtype=value.dtype if value.is_floating_point() else torch.get_default_dtype())
    for part in reversed(transforms):
        before = part.inv(value)
        determinant = part.log_abs_det_jacobian(before, value)
        volume = volume - (determinant.sum(tuple(range(-dims, 0))) if dims else determinant)
        value = before
    return value, volume.expand(value.shape[: value.dim() - dims])


def _event_dim(distribution: Distribution) -> int:
    return len(distribution.event_shape)


def _stand_in(base: Distribution, value: Tensor) -> Tensor:
    """Values that the base takes, for hidden entries."""
    zeros = torch.zeros_like(value)
    try:
        if base.support.is_discrete:
            return zeros
        transform = biject_to(base.support)
        shape = transform.inverse_shape(value.shape)
        return transform(value.new_zeros(shape))
    except (NotImplementedError, AttributeError, TypeError):
        return zeros
