"""Markov chains in noise space: the posterior under a prior that is a push-forward, by Pyro's own ``MCMC``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pyro.infer import MCMC, NUTS, config_enumerate, infer_discrete
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from pyrogen.arguments import checked, function, integer
from pyrogen.numerics.markov.sampling import AdaptiveKernel
from pyrogen.programs.run import Given, run
from pyrogen.programs.site import Site

from .answer import Answer, Results
from .chain_diagnostics import chain_diagnostics
from .many_chains import ManyChains
from .noise import check_model, constant, draws_of, in_noise, is_noise


def _kernel(value: Any, name: str) -> Any:
    return value if isinstance(value, AdaptiveKernel) else function(value, name)


class NoiseMCMC(Answer):
    r"""The posterior of a prior that is a push-forward of noise, by a Markov chain over the noise.

    For flows, :class:`~pyrogen.diffusion.probability_flow.ProbabilityFlow`, autoencoders, and whatever else declares
    ``push_forward``, such as a generator without a density, at ``site``; see
    :func:`~pyrogen.inverse.noise.in_noise`, which does the work and serves several chains or other settings. Under an
    autoencoder the draws are of the joint posterior :math:`p(x, z \mid y)`, the latent at ``"{site}_latent"``. Other
    latent sites are sampled along; discrete ones are summed over, and drawn in the end.

    It is exact in the long run; a chain may not find all modes of a posterior that is in pieces.

    Args:
        model: The Pyro model.
        site: The name of the latent site.
        kernel: Makes one of Pyro's kernels of a model, such as ``partial(NUTS, max_tree_depth=6)``; or is one for many
            chains, such as :class:`~pyrogen.numerics.markov.sampling.AdaptiveHMC`: then
            :class:`~pyrogen.inverse.many_chains.ManyChains` runs.
        draws: How many draws of each chain are kept.
        warmup: How many go before.
        chains: How many chains there are; if not given, 64 of a kernel for many, and one of Pyro's.

    References:
        Hoffman and Gelman 2014, "The No-U-Turn sampler", https://www.jmlr.org/papers/v15/hoffman14a.html

    Example:
        >>> import pyrogen as pg, pyro, pyro.distributions as dist
        >>> prior = pg.flows.affine_coupling((2,))
        >>> def model(y):
        ...     x = pyro.sample("x", prior())
        ...     pyro.sample("y", dist.Poisson(x.sum().exp()), obs=y)
        >>> posterior = NoiseMCMC(model, site="x", draws=20, warmup=20).run(torch.tensor(3.0))
        >>> posterior.get_samples()["x"].shape
        torch.Size([20, 2])
    """

    no_evidence = "a Markov chain does not estimate the evidence; NoiseVI does"

    @checked(kernel=_kernel, draws=partial(integer, least=4))
    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        kernel: Callable[[Callable], MCMCKernel] | AdaptiveKernel = NUTS,
        draws: int = 1000,
        warmup: int = 500,
        chains: int | None = None,
    ) -> None:
        super().__init__(model, site=site)
        self.many = isinstance(kernel, AdaptiveKernel)
        if not self.many and chains not in (None, 1):
            raise ValueError(
                f"`chains` must be 1 for a kernel of Pyro's, got {chains}; give `kernel=AdaptiveHMC()` for many chains"
            )
        self.kernel, self.draws, self.warmup = kernel, draws, warmup
        self.number_of_chains = chains or (64 if self.many else 1)
        self.mcmc: MCMC | None = None

    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        model = in_noise(self.model, site=self.site)
        check_model(self.model, args, kwargs, self.site)
        return self._many(model, args, kwargs) if self.many else self._one(model, args, kwargs)

    def _many(self, model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        settings = {"chains": self.number_of_chains, "draws": self.draws, "warmup": self.warmup}
        found = ManyChains(model, kernel=self.kernel, **settings).infer(args, kwargs)
        draws = {name: value for name, value in found.draws.items() if not is_noise(name, self.site)}
        return replace(found, draws=draws, diagnostics=found.diagnostics.of(draws))

    def _one(self, model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        mcmc = MCMC(self.kernel(model), self.draws, warmup_steps=self.warmup, disable_progbar=not sys.stderr.isatty())
        with constant(model, args, kwargs):
            mcmc.run(*args, **kwargs)
            draws = self._pushed(model, mcmc.get_samples(), args, kwargs)
        self.mcmc = mcmc
        found = mcmc.diagnostics()
        failed = list(found["divergences"]["chain 0"])
        diverging = torch.zeros(self.draws, dtype=torch.bool)
        diverging[failed] = True
        diagnostics = chain_diagnostics(
            {name: value.unsqueeze(0) for name, value in draws.items()},
            divergences=len(failed),
            acceptance=found["acceptance rate"]["chain 0"],
        )
        return Results(draws, diagnostics, sample_stats={"diverging": diverging})

    @torch.no_grad()
    def _pushed(self, model: Callable, given: dict[str, Tensor], args: tuple, kwargs: dict) -> dict[str, Tensor]:
        """The draws of all latent sites but the noise, from those of the chain."""
        rows = [{name: values[draw] for name, values in given.items()} for draw in range(self.draws)]
        plates = _plates_of_discrete(run(Given(rows[0])(model), args, kwargs, validate=False).statements)
        runs = [run(_drawn(Given(row)(model), plates), args, kwargs, validate=False).statements for row in rows]
        return draws_of(runs, self.site)


def _drawn(model: Callable, plates: int | None) -> Callable:
    """The model with its discrete sites, over which the chain summed, drawn given everything else."""
    return model if plates is None else infer_discrete(config_enumerate(model), first_available_dim=-1 - plates)


def _plates_of_discrete(statements: Mapping[str, Site]) -> int | None:
    """How many plates are nested in a model with discrete latent sites; ``None`` if it has none."""
    if not any(site.kind == "latent" and site.distribution.has_enumerate_support for site in statements.values()):
        return None
    plates = [plate.dim for site in statements.values() for plate in site.plates if plate.dim is not None]
    return max((-dim for dim in plates), default=0)
