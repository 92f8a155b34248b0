"""Scoring data with a module: without gradients, in evaluation mode; and what the scores mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import hypot
from typing import NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import Distribution

from pyrogen.arguments import integer, real_tensor
from pyrogen.core.density import Density, density_of, weakest
from pyrogen.core.log_prob import log_prob
from pyrogen.core.modes import evaluating
from pyrogen.core.module import DistributionModule
from pyrogen.core.shapes import Context, ContextShape, batch_shape_of, context_batch_shape, flatten_batch
from pyrogen.distributions.abilities import abilities_of

Model = DistributionModule | Distribution


class Scores(NamedTuple):
    """Log-probabilities in double precision, what they mean, and the distribution of the first datum.

    All of them share an error where a normalizer was estimated, whose standard error is ``shared_error``.
    """

    log_probs: Tensor
    density: Density
    distribution: Distribution
    shared_error: float


def score(
    model: Model, x: Tensor, context: Context, batch_size: int, *, name: str = "module", data: str = "x"
) -> Scores:
    """The log-probability of each datum.

    Args:
        model: A distribution module or a distribution.
        x: The data.
        context: Its context.
        batch_size: How many data are scored at once.
        name: Of the argument that the model is.
        data: Of the argument that ``x`` is.

    Raises:
        NotImplementedError: the module is implicit.
        TypeError: ``model`` is neither a distribution module nor a distribution, or ``x`` is no tensor.
        ValueError: a shape does not fit, there are no data, ``batch_size`` is not positive, ``x`` cannot be scored, or
            a log-probability is NaN or infinity.
    """
    require_model(model, name)
    real_tensor(x, data)
    integer(batch_size, "batch_size")
    module = model if isinstance(model, DistributionModule) else _Given(model, name)
    batch_shape = batch_shape_of(x, module.event_shape, data)
    if not batch_shape.numel():
        raise ValueError(f"`{data}` must hold at least one datum, got shape {tuple(x.shape)}")
    shape = context_batch_shape(context, module.context_shape)
    if not broadcasts_to(shape, batch_shape):
        raise ValueError(f"`context` must broadcast to the batch {tuple(batch_shape)} of `{data}`, got {tuple(shape)}")
    _require_log_prob(model, module.density)
    with as_evaluated(module):
        distribution = module(_first(context, module.context_shape))
    density = weakest(module.density, density_of(distribution))
    _require_log_prob(model, density)
    try:
        log_probs = log_prob(module, x, context, rows=batch_size).double()
    except ValueError as error:  # Pyro's validation: a value outside the support, or NaN
        raise ValueError(f"`{data}` must hold events of {name_of(model)}: {error}{_missing(x, data)}") from error
    except RuntimeError as error:
        if x.dtype != torch.bool:
            raise
        raise TypeError(f"`{data}` must hold numbers that {name_of(model)} can score, got booleans: {error}") from error
    for bad, what in ((log_probs.isnan(), "NaN"), (log_probs.isposinf(), "infinity")):
        places = bad.flatten().nonzero()
        if len(places):
            raise ValueError(
                f"log_prob of {name_of(model)} is {what} at {len(places)} of {log_probs.numel()} rows, "
                f"the first is {int(places[0])}{_missing(x, data)}"
            )
    return Scores(log_probs, density, distribution, shared_error_of(module))


def shared_error_of(module: nn.Module) -> float:
    """The standard error that all log-probabilities of a module share, in nats: of the normalizers of its parts."""
    return hypot(*(part.shared_error for part in module.modules() if isinstance(part, DistributionModule)))


def require_model(model: object, name: str) -> None:
    """Refuses what has no log-probabilities of data.

    Raises:
        TypeError: it is neither a distribution module nor a distribution.
    """
    if not isinstance(model, DistributionModule | Distribution):
        raise TypeError(f"`{name}` must be a DistributionModule or a distribution, got {type(model).__name__}")


def _missing(x: Tensor, name: str) -> str:
    count = int(x.isnan().sum())
    return f" (`{name}` holds {count} NaN)" if count else ""


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
            f"{what}; estimate the normalizer first"
        )


def require_baseline(density: Density, what: str) -> None:
    """Refuses to subtract a bound.

    Raises:
        NotImplementedError: the density is neither "exact" nor an "estimate".
    """
    if density not in ("exact", "estimate"):
        raise NotImplementedError(
            f"{what} has density {density!r}: minus a bound bounds nothing; compare with a model whose log_prob is "
            "exact"
        )


def name_of(module: Model) -> str:
    """What to call a module in a message."""
    return type(module).__name__


def broadcasts_to(shape: torch.Size, target: torch.Size) -> bool:
    """Whether a tensor of this shape expands to the target shape."""
    trailing = tuple(target)[len(target) - len(shape) :] if len(shape) <= len(target) else None
    return trailing is not None and all(size in (1, goal) for size, goal in zip(shape, trailing, strict=True))


class _Given(DistributionModule):
    """A distribution as the module that always gives it.

    Raises:
        ValueError: the distribution has batch dimensions.
    """

    def __init__(self, distribution: Distribution, name: str) -> None:
        if distribution.batch_shape:
            raise ValueError(
                f"`{name}` must have an empty batch shape, got {name_of(distribution)} of "
                f"{tuple(distribution.batch_shape)}"
            )
        super().__init__(tuple(distribution.event_shape))
        self.distribution = distribution
        self.density = density_of(distribution)
        self.shared_error = abilities_of(distribution).shared_error

    def forward(self, context: Context = None) -> TorchDistributionMixin:
        return self.distribution


def _require_log_prob(module: Model, density: Density) -> None:
    if density is None:
        raise NotImplementedError(
            f"{name_of(module)} has density None: it draws samples and has no log_prob; use the two-sample tests"
        )


def _first(context: Context, context_shape: ContextShape) -> Context:
    """The context of the first datum, with one batch dimension."""
    if isinstance(context, Mapping):
        return {key: flatten_batch(context[key], shape)[:1] for key, shape in context_shape.items()}
    return None if context is None else flatten_batch(context, context_shape)[:1]
