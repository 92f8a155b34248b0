"""The setting of an inverse problem: a model, its arguments, and the site with the diffusion prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrogen.distributions.abilities import abilities_of
from pyrogen.programs.site import Site

from .chain import Level
from .filter import Posterior
from .likelihood import Likelihood, sites_given
from .problems import Problems
from .sites import look, prior_of


class Setting:
    """What stands where in the model, and the posterior of the site given all else.

    Args:
        model: The Pyro model.
        args: Its arguments.
        kwargs: Its keyword arguments.
        site: The site with the diffusion prior.

    Raises:
        ValueError: there is no such latent site, nothing that depends on it is observed, or it has no denoiser.
    """

    def __init__(self, model: Callable, args: tuple, kwargs: Mapping[str, Any], site: str) -> None:
        self.model, self.args, self.kwargs, self.site = model, args, kwargs, site
        layout = look(model, args, kwargs, site)
        self.upstream, self.downstream, self.scored = layout.upstream, layout.downstream, layout.scored
        self.problems: Problems = layout.problems
        self.values: dict[str, Tensor] = layout.values
        with torch.no_grad():
            prior = prior_of(model, args, kwargs, site, self.values)
        if not abilities_of(prior).has_denoiser:
            raise ValueError(
                f"`site` must have a distribution with a denoiser, such as Diffusion; {site!r} is "
                f"{type(prior).__name__}. Under other priors use NUTS or SVI."
            )
        self.denoiser = abilities_of(prior).denoiser
        if getattr(prior.support, "is_discrete", False):
            raise ValueError(f"`site` must have a prior over real numbers, got one over integers at {site!r}")

    @property
    def others(self) -> tuple[str, ...]:
        """The latent sites that are updated between filters."""
        return self.upstream + self.downstream

    def posterior(self, values: Mapping[str, Tensor]) -> Posterior:
        """The posterior of the site, to be filtered, given values of the other sites."""
        others = {name: value for name, value in values.items() if name != self.site}
        prior = prior_of(self.model, self.args, self.kwargs, self.site, {**others, self.site: values[self.site]})
        diffusion = abilities_of(prior)
        denoiser, context = diffusion.denoiser, diffusion.context
        problems = self.problems

        def denoise(x: Tensor, level: Level) -> Tensor:
            time = torch.as_tensor(level.time, dtype=x.dtype, device=x.device)
            return problems.rows(denoiser(problems.whole(x), time, context), len(problems.event_shape), leading=1)

        likelihood = Likelihood(
            self.model,
            self.args,
            self.kwargs,
            site=self.site,
            values=others,
            sites=self.scored,
            problems=problems,
            typical=values[self.site],
        )
        return Posterior(denoise, likelihood, (problems.count, problems.size))

    def sites(self, values: Mapping[str, Tensor]) -> dict[str, Site]:
        """The sites of a run of the model with all latent sites given."""
        with torch.no_grad():
            return sites_given(self.model, self.args, self.kwargs, values)
