r"""Twisted SMC: the posterior of a Pyro model with a diffusion prior at one site.

The interface is that of Pyro's ``MCMC``: an ordinary Pyro model, a run with its arguments, draws. The model is any
model with a distribution at ``site`` that has a ``denoiser``; what it says about the site is read off its traces
(:mod:`~pyrogen.inverse.likelihood`), and a particle filter turns prior and measurements into the posterior and its
evidence (:mod:`~pyrogen.inverse.filter`).

Other latent sites, an unknown noise scale or a label, are updated between filters (:mod:`~pyrogen.inverse.gibbs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrogen import arguments
from pyrogen.numerics.grids import Grid, default_grid
from pyrogen.numerics.resampling import order, systematic, take

from .chain import Chain, data_norm
from .default_twist import default_twist
from .diagnostics import Diagnostics, PriorEvidence, diagnostics_of, prior_evidence
from .filter import Cloud, Filter
from .gibbs import Sweeps, Swept
from .likelihood import Likelihood
from .setting import Setting
from .twist import Twist


class TwistedSMC:
    r"""The posterior of a diffusion prior under any Pyro likelihood, asymptotically exact in the number of particles.

    Without other latent sites one filter runs, and the draws are its particles. With others each sweep updates them and
    runs a conditional filter (particle Gibbs), and the draws are one particle of each sweep.

    It is exact for the prior's chain of ``steps`` steps. How few particles carry the answer stands in
    :meth:`diagnostics`: it does not break down in silence.

    Args:
        model: The Pyro model. Its distribution at ``site`` has a ``denoiser`` with a ``schedule``, and if it likes a
            ``context``.
        site: The name of the latent site with the diffusion prior.
        particles: How many particles.
        steps: How many steps the chain of the prior has.
        twist: What the measurements say about noisy particles. If not given, :class:`Averaged` for up to eight unknowns
            or four measured numbers (:class:`MomentMatched` where they are linear with Gaussian noise), and
            :class:`Isotropic` for more.
        grid: The noise levels. If not given, uniform in the log-SNR, from a noise of five times the norm of the data
            (a short run of the prior tells it) down to 0.01 data units.
        threshold: Resampling where the effective sample size falls below this part of the particles.
        resample: Whether the draws are resampled to equal weights in the end.
        sweeps: How many sweeps are kept, where there are other latent sites.
        warmup: How many sweeps go before.
        chunk: How many particles (of all problems together) the denoiser differentiates at once.

    Raises:
        ValueError: a number is out of range.

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
        for name, value in (("particles", particles), ("steps", steps), ("sweeps", sweeps), ("chunk", chunk)):
            arguments.integer(value, name)
        arguments.integer(warmup, "warmup", least=0)
        if not 0 <= arguments.number(threshold, "threshold") <= 1:
            raise ValueError(f"`threshold` must lie in [0, 1], got {threshold}")
        arguments.switch(resample, "resample")
        arguments.instance(twist, Twist, "twist")
        arguments.instance(grid, Grid, "grid")
        self.model, self.site = arguments.function(model, "model"), arguments.site_name(site, "site")
        self.particles, self.steps, self.grid = particles, steps, grid
        self.twist = twist
        self.threshold, self.resample, self.chunk = threshold, resample, chunk
        self.sweeps, self.warmup = sweeps, warmup
        self._result: _Result | None = None

    def run(self, *args: Any, **kwargs: Any) -> TwistedSMC:
        """Infers the site given the arguments of the model; gives itself.

        Raises:
            ValueError: the model has no such latent site, nothing that depends on it is observed, or its distribution
                has no denoiser.
        """
        setting = Setting(self.model, args, kwargs, self.site)
        schedule, like = setting.denoiser.schedule, setting.values[self.site]
        posterior = setting.posterior(setting.values)
        look = posterior.denoise, posterior.shape, like
        chain = Chain(schedule, self.grid or default_grid(schedule, self.steps, norm=data_norm(schedule, *look)))
        pilot = chain.calibrate(*look)
        twist = self.twist or default_twist(posterior, pilot)
        filter_ = Filter(chain, twist, self.particles, self.threshold, self.chunk)
        self._args, self._kwargs = args, kwargs
        if setting.others:
            swept = Sweeps(setting, filter_, self.sweeps, self.warmup)()
            self._result = _from_sweeps(swept, setting, twist)
        else:
            draws = pilot + chain.errors[-1].sqrt() * torch.randn_like(pilot)
            prior = prior_evidence(posterior.log_likelihood(draws))
            cloud = filter_(posterior, like)
            self._result = _from_cloud(cloud, setting, self.resample, twist, prior, posterior.likelihood)
        return self

    def get_samples(self) -> dict[str, Tensor]:
        """The draws by site, each of shape ``(draws, *shape of the site)``; weighted by :attr:`log_weights`."""
        return dict(self._finished.draws)

    @property
    def log_weights(self) -> Tensor:
        """The logarithms of the weights of the draws, ``(draws,)``: all zero after resampling.

        Without resampling and with several problems they are ``(draws, *problems)``.
        """
        return self._finished.log_weights

    @property
    def log_evidence(self) -> Tensor:
        r"""The estimate of :math:`\log p(y)` in nats, one for each independent problem.

        Its exponential is unbiased.

        Raises:
            NotImplementedError: there are other latent sites. The estimates given their values are in
                :meth:`diagnostics`.
        """
        if self._finished.log_evidence is None:
            raise NotImplementedError(
                "the evidence is that of a model without other latent sites; `diagnostics()` has the evidence given "
                "their values, sweep by sweep"
            )
        return self._finished.log_evidence

    @property
    def cloud(self) -> tuple[Tensor, Tensor]:
        """The weighted particles of the last filter: values ``(particles, ...)``, log-weights ``(particles, ...)``."""
        return self._finished.cloud

    @property
    def attrs(self) -> dict[str, Any]:
        """The facts about the run that ``to_arviz`` keeps as attributes."""
        return self._finished.diagnostics.attributes()

    def diagnostics(self) -> Diagnostics:
        """Effective sample sizes, resampling, surviving ancestors, the twists used and what happened to other sites."""
        return self._finished.diagnostics

    @property
    def _finished(self) -> _Result:
        if self._result is None:
            raise ValueError("`run(*args)` must come first")
        return self._result


class _Result(NamedTuple):
    """What a run leaves."""

    draws: dict[str, Tensor]
    log_weights: Tensor
    log_evidence: Tensor | None
    cloud: tuple[Tensor, Tensor]
    diagnostics: Diagnostics


def _from_cloud(
    cloud: Cloud, setting: Setting, resample: bool, twist: Twist, prior: PriorEvidence, likelihood: Likelihood
) -> _Result:
    problems = setting.problems
    log_weights = cloud.log_weights.reshape(-1, *problems.shape)
    values = cloud.values
    if resample:
        along = order(values)
        values = take(values, take(along, systematic(take(cloud.log_weights, along))))
        # The copies lie along a curve; in random order any part of the draws is as good as any other.
        values = values[torch.randperm(len(values))]
    return _Result(
        draws={setting.site: problems.whole(values)},
        log_weights=torch.zeros(len(values)) if resample else log_weights,
        log_evidence=cloud.log_evidence.reshape(problems.shape),
        cloud=(problems.whole(cloud.values), log_weights),
        diagnostics=diagnostics_of(cloud, likelihood, twist, prior=prior),
    )


def _from_sweeps(swept: Swept, setting: Setting, twist: Twist) -> _Result:
    problems, cloud = setting.problems, swept.cloud
    count = len(swept.log_evidence)
    return _Result(
        draws=swept.draws,
        log_weights=torch.zeros(count),
        log_evidence=None,
        cloud=(problems.whole(cloud.values), cloud.log_weights.reshape(-1, *problems.shape)),
        diagnostics=diagnostics_of(
            cloud, swept.likelihood, twist, log_evidence=swept.log_evidence, acceptance=swept.acceptance
        ),
    )
