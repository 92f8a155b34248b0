"""Scores of particles: the log-likelihood of the sites of a program, by independent problem, for all particles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrogen.programs.problems import IndependentProblems
from pyrogen.programs.site import Site

from .observation import Observed, observed


class ParticleMap:
    """Evaluates a function of one particle for all of them: under ``torch.func.vmap``, or else one by one.

    Attributes:
        mapped: Whether the function could be mapped so far.
    """

    def __init__(self) -> None:
        self.mapped = True

    def __call__(self, function: Callable, particles: Any) -> Any:
        """The values, tensors or dictionaries of them, of particles that are a tensor or a dictionary of tensors."""
        with pyro.validation_enabled(False):
            if self.mapped:
                try:
                    return torch.func.vmap(function, randomness="different")(particles)
                except RuntimeError as error:
                    if not _cannot_be_mapped(error):
                        raise
                    self.mapped = False
            return _stacked([function(particle) for particle in _each(particles)])


def log_likelihood(sites: Iterable[Site], problems: IndependentProblems) -> Tensor:
    """The log-probability of sites in nats, with their scales and masks, by problem: ``(N,)``."""
    total = 0.0
    for site in map(observed, sites):
        total = total + entries_by_problem(site.log_prob() * site.weight, site, problems).sum(-1)
    return total


def require_mapped(score: Tensor, name: str) -> None:
    """Refuses to map a function if a score in it does not show as a tensor that it depends on the particle.

    A rule may have left tensors, and caught the error of that with those of bad values.

    Raises:
        RuntimeError: under ``vmap``, which :class:`ParticleMap` takes as a reason to go one by one.
    """
    level = torch._C._functorch.maybe_current_level()
    if level is not None and not torch._C._functorch.is_batchedtensor(score):
        raise RuntimeError(f"vmap: the score of {name!r} does not depend on what is mapped")


def entries_by_problem(value: Tensor, site: Observed, problems: IndependentProblems) -> Tensor:
    """A tensor over the entries of a site, one row a problem; dimensions of matrices and vectors to the right.

    A site that lacks an independent dimension by broadcasting gets it.
    """
    value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
    right = max(value.dim() - len(site.shape), 0)
    value = value.expand(site.shape + value.shape[value.dim() - right :])
    lowest = -problems.dims[0] if problems.dims else 0
    batch = value.dim() - site.event_dim - right
    value = value.reshape((1,) * max(lowest - batch, 0) + tuple(value.shape))
    return problems.rows(value, site.event_dim + right)


_UNMAPPED = ("vmap", "data-dependent", "functorch", "Batching rule", "data pointer")


def _cannot_be_mapped(error: RuntimeError) -> bool:
    return any(words in str(error) for words in _UNMAPPED)


def _each(particles: Any) -> Iterable[Any]:
    if isinstance(particles, Tensor):
        return particles
    count = len(next(iter(particles.values())))
    return ({name: value[place] for name, value in particles.items()} for place in range(count))


def _stacked(results: list[Any]) -> Any:
    first = results[0]
    if isinstance(first, Tensor):
        return torch.stack(results)
    if isinstance(first, tuple):
        return tuple(_stacked([result[i] for result in results]) for i in range(len(first)))
    return {key: _stacked([result[key] for result in results]) for key in first}
