r"""Posteriors of learned likelihoods and ratios in milliseconds: draws of a learned posterior, weighted.

A chain on a learned likelihood is right and slow. A learned posterior :math:`q(\theta \mid x)` draws at once, and the
weights

.. math:: w_k = \frac{p(\theta_k) \, \prod_i \hat p(x_i \mid \theta_k)}{q(\theta_k \mid x)}, \qquad
          \theta_k \sim q(\theta \mid x) ,

make its draws those of the program in which the learned likelihood :math:`\hat p` stands. Their mean estimates its
evidence without bias; with a ratio in place of a likelihood all weights lack one factor, the evidence of single rows,
which cancels in the posterior. Whether there are enough draws is what the Pareto :math:`\hat k` of the weights tells
(:func:`pyrogen.evaluation.importance.pareto_k_of`).

A likelihood or a ratio may be learned from simulations at latent values of any proposal, so it can be sharpened in
rounds for one observation, each with draws of the posterior so far::

    for _ in range(rounds):
        draws = weighted_draws(posterior, likelihood.program, x).resample(500)
        simulations = simulations + joint.simulate(draws)
        pg.fit(likelihood, simulations)

For the likelihood all simulations count alike. A ratio is then one to another distribution of :math:`x`, which cancels
as before. The posterior that draws is only a proposal, and is right in no round but the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, function, integer
from pyrogen.arrays import takes_arrays
from pyrogen.core.density import Density, density_of, weakest
from pyrogen.core.shapes import context_batch_shape
from pyrogen.numerics.randomness import seeded
from pyrogen.numerics.resampling import effective_sample_size
from pyrogen.programs.layouts import DrawsTogether
from pyrogen.programs.run import Program, run
from pyrogen.programs.site import Site

from .posterior import Posterior

Values = Mapping[str, Tensor]


@dataclass(frozen=True, repr=False)
class WeightedDraws:
    """Draws of latent sites with importance weights.

    Attributes:
        latents: The values by site, draws first.
        log_weights: The logarithms of the weights, ``(draws, 1)`` in double precision, as
            :func:`~pyrogen.evaluation.importance.pareto_k_of` takes them.
        density: What the log-probability of the program means: ``"unnormalized"`` where a ratio stands in it.
    """

    latents: dict[str, Tensor]
    log_weights: Tensor
    density: Density

    @property
    def effective_sample_size(self) -> float:
        """How many equally weighted draws they are worth."""
        return effective_sample_size(self.log_weights).item()

    @property
    def log_evidence(self) -> float:
        """The logarithm of the mean weight, in nats: the evidence of the program.

        Raises:
            NotImplementedError: a ratio stands in the program, whose weights lack the evidence of single rows.
        """
        if self.density == "unnormalized":
            raise NotImplementedError(
                "the program has density 'unnormalized': weights of a ratio lack the evidence of single rows; learn a "
                "likelihood (`pyrogen.simulation.likelihood`)"
            )
        return self.log_weights.logsumexp(0).item() - log(len(self.log_weights))

    def resample(self, draws: int, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draws without weights, chosen with replacement by their weights.

        Args:
            draws: How many; far fewer than the effective sample size give few repetitions.
            seed: Of the choice, in a scope of its own; from torch's generator if ``None``.

        Shape:
            ``(draws, *shape)`` for each site.
        """
        with seeded(seed):
            chosen = self.log_weights[:, 0].softmax(0).multinomial(integer(draws, "draws"), replacement=True)
        return {name: value[chosen] for name, value in self.latents.items()}

    def __repr__(self) -> str:
        return (
            f"<WeightedDraws of {', '.join(self.latents)}: {len(self.log_weights)} draws, worth "
            f"{self.effective_sample_size:.0f}>"
        )


@takes_arrays
@checked(program=function)
def weighted_draws(
    posterior: Posterior, program: Program, *args: Any, draws: int = 1000, seed: int | None = None, **kwargs: Any
) -> WeightedDraws:
    """Draws of a learned posterior, weighted so that they are those of a program on its data.

    Args:
        posterior: What draws; a :class:`~pyrogen.simulation.posterior.Posterior` of the same latent sites.
        program: A program with its data, such as ``likelihood.program``, ``ratio.program``, or the simulator itself
            where it has a ``log_prob``.
        args: What the program is called with.
        draws: How many draws.
        seed: Of the draws, in a scope of its own; from torch's generator if ``None``.
        kwargs: What the program is called with.

    Raises:
        TypeError: ``posterior`` is no learned posterior.
        ValueError: the program does not observe a site that the posterior is given, is called with several data, or has
            other latent sites.
        NotImplementedError: a site of the program or the posterior has a ``log_prob`` that cannot be a weight.
    """
    if not isinstance(posterior, Posterior):
        raise TypeError(f"`posterior` must be a Posterior, got {type(posterior).__name__}")
    call = _Call(posterior, program, args, kwargs)
    with torch.no_grad(), seeded(seed):
        observed = call.observed()
        context = posterior.context_of(observed)
        if context_batch_shape(context, posterior.context_shape):
            raise ValueError("`program` must be called with one datum, without batch dimensions, got several")
        distribution = posterior(context)
        _require_weight("posterior", density_of(distribution))
        vectors = distribution.sample((draws,))
        latents = posterior.sites(vectors)
        log_joint, density = call.log_joint(latents)
        return WeightedDraws(latents, (log_joint - distribution.log_prob(vectors).double()).unsqueeze(-1), density)


@dataclass(frozen=True)
class _Call:
    """A program with its arguments, and the latent sites that it is to be scored at."""

    posterior: Posterior
    program: Program
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @cached_property
    def alone(self) -> dict[str, Site]:
        """The sites of one run."""
        return run(self.program, self.args, self.kwargs).sites

    def observed(self) -> dict[str, Tensor]:
        """The data in the call.

        Raises:
            ValueError: sites differ from those of the posterior.
        """
        names, variables = list(self.posterior.joint.observed), self.posterior.packing.variables
        free = [name for name in names if name not in self.alone or not self.alone[name].observed]
        if free:
            raise ValueError(f"`program` must be called with the data of the sites {names}, got none of {free}")
        latent = {name for name, site in self.alone.items() if not site.observed}
        if latent != set(variables):
            raise ValueError(
                f"`program` must have the latent sites of the posterior, {list(variables)}, got {sorted(latent)}"
            )
        return {name: self.alone[name].value for name in names}

    def log_joint(self, latents: Values) -> tuple[Tensor, Density]:
        """The log-probability of latent values and data for each draw, and what it means."""
        densities = [(name, density_of(site.distribution)) for name, site in self.alone.items()]
        for name, density in densities:
            cancels = density == "unnormalized" and self.alone[name].observed
            if not cancels:
                _require_weight(f"site {name!r}", density)
        density = weakest(*(density for _, density in densities))
        together = self._together(latents)
        if together is None:
            together = torch.stack([self._one(latents, draw) for draw in range(_count(latents))])
        return together, density

    def _together(self, latents: Values) -> Tensor | None:
        """All draws under one more plate; ``None`` where the first or the last has another score alone."""
        draws = _count(latents)
        width = max((len(site.distribution.batch_shape) for site in self.alone.values()), default=0)
        variables = self.posterior.packing.variables
        given = {name: variables[name].spread(value, width) for name, value in latents.items()}
        try:
            program = DrawsTogether(draws, width).laid_out(self.program)
            sites = run(program, self.args, self.kwargs, given=given).sites
            found = sum(_by_draw(_score(site), draws) for site in sites.values())
            ends = {0, draws - 1}
            fits = all(torch.allclose(found[draw], self._one(latents, draw), rtol=1e-4, atol=1e-3) for draw in ends)
        except Exception:  # a program may fail in any way on more draws than one
            return None
        return found if fits else None

    def _one(self, latents: Values, draw: int) -> Tensor:
        given = {name: value[draw] for name, value in latents.items()}
        sites = run(self.program, self.args, self.kwargs, given=given).sites
        return sum(_score(site).sum() for site in sites.values())


def _score(site: Site) -> Tensor:
    """The log-probability of a site in its program: masked, and scaled by subsampled plates and ``poutine.scale``."""
    return site.log_prob().double() * site.scale


def _by_draw(log_prob: Tensor, draws: int) -> Tensor:
    return log_prob.reshape(draws, -1).sum(-1)


def _count(latents: Values) -> int:
    return len(next(iter(latents.values())))


def _require_weight(name: str, density: Density) -> None:
    if density is None:
        raise NotImplementedError(
            f"{name} has density None: it is simulated and has no log_prob to weigh by; learn one "
            "(`pyrogen.simulation.likelihood`), and give its `program`"
        )
    if density not in ("exact", "estimate"):
        raise NotImplementedError(
            f"{name} has density {density!r}: importance weights exponentiate it, so it must be exact; draw by NUTS, "
            "or take a recipe of flows"
        )
