"""Whether prior, likelihood and posterior fit together, and what context they ask for between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyrogen.core.density import weakest
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.shapes import Context, ContextShape, Shape, flatten_batch
from pyrogen.networks.statistics import Statistic


def check_shapes(prior: DistributionModule, likelihood: DistributionModule, posterior: DistributionModule) -> None:
    """Sees that latents and data have one shape in all parts.

    Raises:
        ValueError: they have not, or a part is no DistributionModule.
    """
    for name, part in (("prior", prior), ("likelihood", likelihood), ("posterior", posterior)):
        check_part(part, name)
    _check_takes("likelihood", likelihood, "z", prior.event_shape, "the prior's `event_shape`")
    _check_takes("posterior", posterior, "x", likelihood.event_shape, "the likelihood's `event_shape`")
    if posterior.event_shape != prior.event_shape:
        raise ValueError(
            f"`posterior` must have event shape {prior.event_shape}, that of the prior, got {posterior.event_shape}"
        )


def _check_takes(part: str, module: DistributionModule, entry: str, expected: Shape, whose: str) -> None:
    shape = module.context_shape
    found = shape.get(entry) if isinstance(shape, dict) else shape
    if found is None:
        raise ValueError(f'`{part}` must take the entry "{entry}" of shape {expected}, got context shape {shape}')
    if found != expected:
        raise ValueError(f'`{part}` must take "{entry}" of shape {expected}, {whose}, got {found}')


def check_densities(prior: DistributionModule, likelihood: DistributionModule, posterior: DistributionModule) -> None:
    """Sees that the evidence lower bound is one.

    Raises:
        ValueError: a bound of the posterior's density has the wrong sign in it, and an unnormalised or missing density
            of any part leaves it unknown.
    """
    if weakest(posterior.density, "estimate") != "estimate":
        raise ValueError(
            "`posterior` must have density 'exact' or 'estimate' (minus a lower bound of log q is an upper one, so the "
            f"objective would bound nothing), got {posterior.density!r}"
        )
    for name, part in (("prior", prior), ("likelihood", likelihood)):
        if weakest(part.density, "lower bound") != "lower bound":
            raise ValueError(f"`{name}` must have a normalised log_prob or a bound of it, got density {part.density!r}")


def check_draws(module: DistributionModule, draws: int, name: str = "draws") -> None:
    """Sees that so many importance weights may be averaged.

    Raises:
        ValueError: there is no draw, or there are several and the ``log_prob`` of a part may be noisy.
    """
    if draws < 1:
        raise ValueError(f"`{name}` must be at least 1, got {draws}")
    if draws > 1:
        check_exact(module, f"`{name}` must be 1 for a")


def check_exact(module: DistributionModule, demand: str) -> None:
    """Sees that importance weights are not noisy: the exponential of noise is biased upwards.

    Raises:
        ValueError: a part of the VAE has a density that is not exact.
    """
    for name in ("prior", "likelihood", "posterior"):
        part = getattr(module, name)
        density = part.density
        if density != "exact" and not getattr(part, "weighs_without_bias", False):
            raise ValueError(
                f"{demand} {name} of density {density!r}: a noisy log_prob inside averaged importance weights is "
                "biased, and what they give is no bound"
            )


def check_separate(module: DistributionModule) -> None:
    """Sees that posterior and model can be given gradients of different losses.

    Raises:
        ValueError: the posterior shares parameters with another part of the VAE.
    """
    own = set(map(id, module.posterior.parameters()))
    if own & {id(parameter) for part in (module.prior, module.likelihood) for parameter in part.parameters()}:
        raise ValueError("`vae` must have a posterior that shares no parameter with its other parts")


def common_context_shape(*parts: DistributionModule) -> ContextShape:
    """The context that prior, likelihood and posterior ask for between them.

    Raises:
        ValueError: they ask for one entry in two shapes.
    """
    prior, likelihood, posterior = parts
    return merged_context_shape(("prior", prior, None), ("likelihood", likelihood, "z"), ("posterior", posterior, "x"))


def merged_context_shape(*parts: tuple[str, DistributionModule, str | None]) -> ContextShape:
    """The context that parts ask for between them, besides the entries that are their own.

    Args:
        parts: For each its name, itself, and the entry it is given by the whole: ``None`` if it is given none.

    Raises:
        ValueError: they ask for one entry in two shapes.
    """
    asked: dict[str, Shape] = {}
    for name, part, own in parts:
        for key, shape in _entries(part, own).items():
            if asked.setdefault(key, shape) != shape:
                raise ValueError(f"`{name}` must take {key!r} of shape {asked[key]}, as other parts do, got {shape}")
    return asked["context"] if set(asked) == {"context"} else asked or None


def _entries(part: DistributionModule, own: str | None) -> dict[str, Shape]:
    """What a part asks for besides its main entry."""
    shape = part.context_shape
    if isinstance(shape, dict):
        return {key: value for key, value in shape.items() if key != own}
    return {} if own is not None or shape is None else {"context": shape}


def given(part: DistributionModule, context: Context, **own: Tensor) -> Context:
    """What a part is given: its main entry (its own, or the context), or all those it names."""
    shape = part.context_shape
    if shape is None:
        return None
    if not isinstance(shape, dict) and own:
        (main,) = own.values()
        return main
    entries = {**(context if isinstance(context, Mapping) else {"context": context}), **own}
    return {key: entries[key] for key in shape} if isinstance(shape, dict) else entries["context"]


def read_part(
    part: DistributionModule, context: Context, own: str | None = None, value: Tensor | None = None
) -> Iterator[tuple[Statistic, Tensor]]:
    """Reads what a part is given, before training, as far as it is known.

    Args:
        part: The part.
        context: The context of the whole.
        own: The name of the part's main entry, if that is not the context.
        value: That entry; ``None`` for a latent, which is unknown.
    """
    shape = part.context_shape
    entries = dict(context) if isinstance(context, Mapping) else {"context": context}
    entries |= {} if own is None else {own: value}
    if isinstance(shape, dict):
        return part.read_context({key: entry for key in shape if (entry := entries.get(key)) is not None})
    return part.read_context(None if shape is None else entries["context" if own is None else own])


def context_rows(context: Context, shape: ContextShape, batch: torch.Size) -> Context:
    """The context with one batch dimension, a row for each of ``batch``."""
    if context is None:
        return None
    if isinstance(shape, dict):
        return {key: flatten_batch(context[key].expand((*batch, *part)), part) for key, part in shape.items()}
    return flatten_batch(context.expand((*batch, *shape)), shape)
