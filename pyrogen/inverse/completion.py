r"""Completion: the rest given a part, for priors with a conditional of their own.

A prior whose distribution has ``given(values, mask)``, such as an autoregressive model, needs no inference where a part
of :math:`x` is measured without noise: ``prior().given(values, mask).sample((1000,))`` are draws of the posterior, and
``prior().part_log_prob(values, mask)`` is the evidence. Here mask and values are read off a Pyro model, by what
it measures of the numbers 0, 1, 2, ..., and of -1, -2, -3, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrogen.arguments import checked
from pyrogen.distributions.abilities import abilities_of

from .answer import Answer, DrawDiagnostics, Results
from .observation import observed
from .problem import InverseProblem


class Completion(Answer):
    """The exact posterior of a prior that can be given a part, in a model that measures a part of it without noise.

    The measurement is a point mass at some entries of the site, ``dist.Delta(x[kept], event_dim=1)``, or several. They
    may be real numbers or integers. Draws and evidence are exact where the prior's ``given`` and ``part_log_prob`` are.

    Args:
        model: The Pyro model, without other latent sites. Its distribution at ``site`` has ``given(values, mask)``.
        site: The name of the latent site.
        draws: How many draws.

    Raises:
        ValueError: when it runs: the model has other latent sites, the prior cannot be given
            a part, or the measurements are not entries of the site, or contradict each other.

    Example:
        >>> import pyro, pyro.distributions as dist, pyrogen as pg
        >>> prior = pg.autoregressive.any_order((4,), symbols=2, width=32, depth=1)
        >>> def model(y):
        ...     x = pyro.sample("x", prior())
        ...     pyro.sample("y", dist.Delta(x[1::2], event_dim=1), obs=y)
        >>> posterior = Completion(model, site="x", draws=5).run(torch.tensor([1.0, 0.0]))
        >>> posterior.get_samples()["x"][:, 1].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """

    @checked
    def __init__(self, model: Callable, *, site: str, draws: int = 1000) -> None:
        super().__init__(model, site=site)
        self.draws = draws

    @torch.no_grad()
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        problem = InverseProblem(self.model, args, kwargs, self.site)
        if problem.others:
            raise ValueError(
                f"`model` must have no other latent site than {self.site!r} on which data depend, got "
                f"{sorted(problem.others)}"
            )
        prior, like = problem.prior(problem.values), problem.values[self.site]
        if not abilities_of(prior).has_given:
            raise ValueError(
                f"`site` must have a distribution with `given(values, mask)`, such as an autoregressive model; "
                f"{self.site!r} is {type(prior).__name__}"
            )
        index, measured = _measured(problem, like)
        values = torch.zeros_like(like).flatten().index_put((index,), measured)
        if not torch.equal(values[index], measured):
            raise ValueError(f"`model` must not measure an entry of {self.site!r} twice with different values")
        mask = torch.zeros_like(values, dtype=torch.bool).index_fill(0, index, True)
        part = values.reshape(like.shape), mask.reshape(like.shape)
        draws = abilities_of(prior).given(*part).sample((self.draws,))
        return Results(
            {self.site: draws},
            DrawDiagnostics(self.draws, law="the posterior"),
            log_evidence=abilities_of(prior).part_log_prob(*part),
        )


def _measured(problem: InverseProblem, like: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries of the site are measured, counted over the flattened site, and their values."""
    numbers = torch.arange(like.numel(), dtype=like.dtype, device=like.device)
    index, measured = _points(problem, numbers.reshape(like.shape))
    negative, _ = _points(problem, (-1 - numbers).reshape(like.shape))
    inside = (index >= 0) & (index < like.numel()) & (index == index.round())
    if not bool((inside & (negative == -1 - index)).all()):
        raise ValueError(f"`model` must measure entries of {problem.site!r} as they are, got a function of them")
    return index.long(), measured.to(like)


def _points(problem: InverseProblem, value: Tensor) -> tuple[Tensor, Tensor]:
    """Where the measurements have their mass given a value of the site, and what they are, in one row."""
    points, measured = [], []
    for name, site in problem.sites({problem.site: value}).items():
        if not site.observed:
            continue
        found = observed(site)
        if not isinstance(found.base, dist.Delta):
            kind = type(found.base).__name__
            raise ValueError(f"`model` must measure without noise, by Delta, got {kind} at {name!r}")
        shown = found.shown.reshape(found.shape + (1,) * found.base_dim).expand_as(found.value)
        points.append(found.base.v.expand_as(found.value)[shown])
        measured.append(found.value[shown])
    if not points:
        raise ValueError(f"`model` must measure entries of {problem.site!r}, got no observed site")
    return torch.cat(points), torch.cat(measured)
