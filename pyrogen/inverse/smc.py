r"""Twisted SMC: the posterior of a Pyro model with a diffusion prior at one site.

The interface is that of Pyro's ``MCMC``: an ordinary Pyro model, a run with its arguments, draws. The model is any
model with a distribution at ``site`` that has a ``denoiser``; its likelihood of the site is read off its runs
(:mod:`~pyrogen.inverse.problem`), and a particle filter turns prior and measurements into the posterior and its
evidence (:mod:`~pyrogen.inverse.filter`).

Other latent sites, an unknown noise scale or a label, are updated between filters (:mod:`~pyrogen.inverse.gibbs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, instance_of, whole_share
from pyrogen.numerics.grids import Grid, default_grid
from pyrogen.numerics.resampling import order, systematic, take

from .answer import Answer, Results
from .averaged import Averaged
from .chain import PILOT, Chain, data_norm
from .filter import Cloud, Filter
from .gibbs import Sweeps
from .particle_diagnostics import diagnostics_of, prior_evidence
from .problem import InverseProblem
from .target import Target
from .twist import Isotropic, MomentMatched, Twist

_FEW = 4  # measured numbers for which one backward pass each is worth it
_SMALL = 8  # unknowns for which it is, and whose posterior few points fill


class TwistedSMC(Answer):
    r"""The posterior of a diffusion prior under any Pyro likelihood, asymptotically exact in the number of particles.

    Without other latent sites one filter runs, and the draws are its particles. With others each sweep updates them and
    runs a conditional filter (particle Gibbs), and the draws are one particle of each sweep.

    It is exact for the prior's chain of ``steps`` steps. How few particles carry the answer stands in
    :meth:`diagnostics`: it does not break down in silence.

    Args:
        model: The Pyro model. Its distribution at ``site`` has a ``denoiser`` with a ``schedule``, and perhaps a
            ``context``.
        site: The name of the latent site with the diffusion prior.
        particles: How many particles.
        steps: How many steps the chain of the prior has.
        twist: What the measurements say about noisy particles. If not given, :class:`Averaged` for up to eight unknowns
            or four measured numbers (:class:`MomentMatched` where they are linear with Gaussian noise), and
            :class:`Isotropic` for more.
        grid: The noise levels. If not given, uniform in the log-SNR, from a noise of five times the norm of the data
            (estimated by a short run of the prior) down to 0.01 data units.
        threshold: Resampling where the effective sample size falls below this part of the particles.
        resample: Whether the draws are resampled to equal weights in the end.
        sweeps: How many sweeps are kept, where there are other latent sites.
        warmup: How many sweeps go before.
        chunk: How many particles (of all problems together) the denoiser differentiates at once.

    References:
        Wu, Trippe, Naesseth, Blei and Cunningham 2023, "Practical and asymptotically exact conditional sampling in
        diffusion models", https://arxiv.org/abs/2306.17775
        Cardoso, Janati El Idrissi, Le Corff and Moulines 2023, "Monte Carlo guided diffusion for Bayesian linear
        inverse problems", https://arxiv.org/abs/2308.07983

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
        >>> standard = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> prior = Diffusion(GaussianMixtureDenoiser(standard, LinearVP()))
        >>> def model(y):
        ...     x = pyro.sample("x", prior())
        ...     pyro.sample("y", dist.Normal(x.sum(), 0.5), obs=y)
        >>> posterior = TwistedSMC(model, site="x", particles=100, steps=20).run(torch.tensor(1.0))
        >>> posterior.get_samples()["x"].shape
        torch.Size([100, 2])
    """

    no_evidence = (
        "the evidence is that of a model without other latent sites; `diagnostics()` has the evidence given their "
        "values, sweep by sweep"
    )

    @checked(twist=instance_of(Twist), grid=instance_of(Grid), threshold=whole_share)
    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        particles: int = 1000,
        steps: int = 100,
        twist: Twist | None = None,
        grid: Grid | None = None,
        threshold: float = 0.5,
        resample: bool = True,
        sweeps: int = 200,
        warmup: int = 50,
        chunk: int = 4096,
    ) -> None:
        super().__init__(model, site=site)
        self.particles, self.steps, self.twist, self.grid = particles, steps, twist, grid
        self.threshold, self.resample, self.chunk = threshold, resample, chunk
        self.sweeps, self.warmup = sweeps, warmup

    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        problem = InverseProblem(self.model, args, kwargs, self.site)
        target, like = problem.target(problem.values), problem.values[self.site]
        prior = target.denoise, target.shape, like
        grid = self.grid or default_grid(target.schedule, self.steps, norm=data_norm(target.schedule, *prior))
        chain = Chain(target.schedule, grid)
        pilot = chain.calibrate(*prior, least=PILOT)
        filter_ = Filter(chain, self.twist or default_twist(target, pilot), self.particles, self.threshold, self.chunk)
        if problem.others:
            sweeps = Sweeps(problem, filter_, self.sweeps, self.warmup)
            results = sweeps()
            self._keep(problem, sweeps.cloud)
            return results
        draws = pilot + chain.errors[-1].sqrt() * torch.randn_like(pilot)
        evidence = prior_evidence(target.log_likelihood(draws))
        cloud = filter_(target, like)
        values, log_weights = self._keep(problem, cloud)
        if self.resample:
            values, log_weights = problem.problems.whole(_resampled(cloud)), torch.zeros(self.particles)
        return Results(
            {self.site: values},
            diagnostics_of(cloud, target, filter_.twist, prior=evidence),
            log_weights=log_weights,
            log_evidence=cloud.log_evidence.reshape(problem.problems.shape),
        )

    @property
    def cloud(self) -> tuple[Tensor, Tensor]:
        """The weighted particles of the last filter: values ``(particles, ...)``, log-weights ``(particles, ...)``."""
        self.get_samples()
        return self._cloud

    def _keep(self, problem: InverseProblem, cloud: Cloud) -> tuple[Tensor, Tensor]:
        problems = problem.problems
        self._cloud = problems.whole(cloud.values), cloud.log_weights.reshape(-1, *problems.shape)
        return self._cloud


def _resampled(cloud: Cloud) -> Tensor:
    """Equally weighted particles in random order: any part of them is as good as any other."""
    along = order(cloud.values)
    values = take(cloud.values, take(along, systematic(take(cloud.log_weights, along))))
    return values[torch.randperm(len(values))]


def default_twist(target: Target, data: Tensor) -> Twist:
    r"""The twist if none is given.

    - :class:`Averaged` for up to eight unknowns or four measured numbers;
    - of these :class:`MomentMatched`, where the measurement is linear with Gaussian noise, for four measured numbers;
    - :class:`Isotropic` for more. Its variance is that of what is measured, about zero, of data by that of white noise,
      :math:`\mathbb{E} \lVert A x \rVert^2 / \mathbb{E} \lVert A n \rVert^2`: rather too large than too small, since
      too small a variance costs far more particles.

    Args:
        target: The prior and the measurements.
        data: Draws of the prior, ``(P, N, D)``.
    """
    surrogate = target.surrogate(data)
    measured, unknown = surrogate.residual.shape[-1], data.shape[-1]
    if not surrogate.exact and target.mapped and (unknown <= _SMALL or measured <= _FEW):
        return Averaged(64 if unknown <= _SMALL else 32)
    if measured <= _FEW:
        return MomentMatched()
    power, size = (surrogate.slopes.push(x).square().sum().item() for x in (data, torch.randn_like(data)))
    return Isotropic(power / size if power > 0 else 1.0)
