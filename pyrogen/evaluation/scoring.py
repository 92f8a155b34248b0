"""Scoring data with a module: rows in chunks, without gradients, in evaluation mode; and what the scores mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrogen.core.chunks import evaluating
from pyrogen.core.density import Density, density_of, weakest
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, ContextShape, Shape, batch_shape_of, context_batch_shape, flatten_batch

Model = DistributionModule | Distribution


class Scores(NamedTuple):
    """Log-probabilities in double precision, what they mean, and the distribution of the last chunk."""

    log_probs: Tensor
    density: Density
    distribution: Distribution


def score(module: Model, x: Tensor, context: Context, batch_size: int) -> Scores:
    """The log-probability of each datum.

    Raises:
        NotImplementedError: the module is implicit.
        ValueError: a shape does not fit, there are no data, or a log-probability is NaN.
    """
    batch_shape = batch_shape_of(x, module.event_shape, "x")
    if not batch_shape.numel():
        raise ValueError(f"`x` must hold at least one datum, got shape {tuple(x.shape)}")
    densities, values = [getattr(module, "density", "exact")], []
    _require_log_prob(module, densities[0])
    with as_evaluated(module):
        for rows, row_context in rows_in_chunks(module, x, context, batch_size):
            distribution = _distribution(module, row_context)
            densities.append(density_of(distribution))
            _require_log_prob(module, densities[-1])
            values.append(distribution.log_prob(rows).double())
    log_probs = torch.cat(values)
    bad = log_probs.isnan().nonzero()
    if len(bad):
        raise ValueError(
            f"log_prob of {name_of(module)} is NaN at {len(bad)} of {len(log_probs)} rows, the first is {int(bad[0])}"
        )
    return Scores(log_probs.reshape(batch_shape), weakest(*densities), distribution)


def rows_in_chunks(module: Model, x: Tensor, context: Context, batch_size: int) -> Iterator[tuple[Tensor, Context]]:
    """The data and their contexts as rows, ``batch_size`` at a time.

    Raises:
        ValueError: a shape does not fit, or ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {batch_size}")
    context_shape = getattr(module, "context_shape", None)
    batch_shape = batch_shape_of(x, module.event_shape, "x")
    shape = context_batch_shape(context, context_shape)
    if not broadcasts_to(shape, batch_shape):
        raise ValueError(f"`context` must broadcast to the batch {tuple(batch_shape)} of `x`, got {tuple(shape)}")
    rows = flatten_batch(x, module.event_shape)
    contexts = _context_rows(context, context_shape, batch_shape)
    for start in range(0, len(rows), batch_size):
        window = slice(start, start + batch_size)
        if isinstance(contexts, Mapping):
            yield rows[window], {key: value[window] for key, value in contexts.items()}
        else:
            yield rows[window], None if contexts is None else contexts[window]


@contextmanager
def as_evaluated(*programs: object) -> Iterator[None]:
    """Runs without gradients, with all modules among ``programs`` in evaluation mode, and puts their modes back."""
    with torch.no_grad(), ExitStack() as scopes:
        for program in programs:
            if isinstance(program, nn.Module):
                scopes.enter_context(evaluating(program))
        yield


def require_normalized(module: Model, density: Density, what: str) -> None:
    """Refuses a density with an unknown constant.

    Raises:
        NotImplementedError: the density is "unnormalized".
    """
    if density == "unnormalized":
        raise NotImplementedError(
            f"{name_of(module)} has density 'unnormalized': its log_prob lacks an unknown constant, so it is not "
            f"{what}; estimate the normaliser first"
        )


def name_of(module: Model) -> str:
    """What to call a module in a message."""
    return type(module).__name__


def broadcasts_to(shape: torch.Size, target: torch.Size) -> bool:
    """Whether a tensor of this shape expands to the target shape."""
    trailing = tuple(target)[len(target) - len(shape) :] if len(shape) <= len(target) else None
    return trailing is not None and all(size in (1, goal) for size, goal in zip(shape, trailing, strict=True))


def _require_log_prob(module: Model, density: Density) -> None:
    if density is None:
        raise NotImplementedError(
            f"{name_of(module)} has density None: it draws samples and has no log_prob; use the two-sample tests"
        )


def _distribution(module: Model, context: Context) -> Distribution:
    if not isinstance(module, Distribution):
        return module(context)
    if module.batch_shape:
        raise ValueError(
            f"`module` must have an empty batch shape, got {name_of(module)} of {tuple(module.batch_shape)}"
        )
    return module


def _context_rows(context: Context, context_shape: ContextShape, batch_shape: torch.Size) -> Context:
    if context is None:
        return None
    if not isinstance(context_shape, Mapping):
        return _rows(context, context_shape, batch_shape)
    return {key: _rows(context[key], shape, batch_shape) for key, shape in context_shape.items()}


def _rows(value: Tensor, event_shape: Shape, batch_shape: torch.Size) -> Tensor:
    return flatten_batch(value.expand(*batch_shape, *event_shape), event_shape)
