r"""Split Gibbs sampling: a posterior under a diffusion prior, one noise level at a time.

The posterior of a linear measurement with Gaussian noise, of data that have noise of width :math:`\tau` of their own
(:mod:`~pyrogen.inverse.inflated`), is left as it is by a move in two steps:

1. :math:`z \mid x, y`, a Gaussian: the data with noise :math:`\rho`, drawn towards the measurement;
2. :math:`x \mid z`, the prior alone: its chain from noise :math:`\rho` on (:mod:`~pyrogen.inverse.reverse`).

With :math:`\rho^2 = \tau^2 + c / \lVert A \rVert^2`, :math:`c < 1` (in units of the noise of the measurement), this is
so down to :math:`\tau = 0`, the posterior itself. Under other likelihoods the move has a Metropolis correction
(:mod:`~pyrogen.inverse.powered`).

References:
    Wu, Sun, Chen, Zhang, Yue and Bouman 2024, "Principled probabilistic imaging using diffusion models as plug-and-play
    priors", https://arxiv.org/abs/2405.18782
    Vono, Dobigeon and Chainais 2019, "Split-and-augmented Gibbs sampler: application to large-scale inference
    problems", https://arxiv.org/abs/1804.05809
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, count, instance_of, integer, non_negative
from pyrogen.numerics.grids import Grid, default_grid
from pyrogen.operators.spectrum import ExactSpectrum
from pyrogen.training.progress import watched

from .answer import Answer, Results
from .chain import Chain, data_norm
from .chain_diagnostics import chain_diagnostics
from .inflated import Inflated
from .powered import Powered
from .powered_others import PoweredOthers
from .problem import InverseProblem
from .reverse import Reverse
from .tempered_likelihood import TemperedLikelihood
from .unknowns import Unknowns

_SHARE = 0.9  # of the largest noise that the measurement leaves room for, at most
_GOAL, _EAGER = 0.5, 2.0  # acceptance to reach, and how fast


class SplitMove:
    """A move that leaves the posterior at every width as it is.

    Args:
        likelihood: The measurement.
        reverse: The prior.

    Attributes:
        accepted: The share of particles that moved, at each move.
        pilots: The particles to which moves are fitted: all, unless it is set.
    """

    def __init__(self, likelihood: TemperedLikelihood, reverse: Reverse) -> None:
        self.likelihood, self.reverse = likelihood, reverse
        self.accepted: list[float] = []
        self.pilots = slice(None)
        self._share, self._of_pilots = _SHARE, _GOAL

    def __call__(self, x: Tensor, width: float) -> Tensor:
        """The next particles ``(P, N, D)`` at a width."""
        noise = self.noise(width)
        x, accepted = self.likelihood.move(x, width, noise, lambda z: self.reverse(z, noise))
        self.accepted.append(accepted.double().mean().item())
        self._of_pilots = accepted[self.pilots].double().mean().item()
        return x

    def noise(self, width: float) -> float:
        """How much noise particles get on the way."""
        return min(self.likelihood.noise(width, self._share), self.reverse.most)

    def fit(self, x: Tensor) -> None:
        """Prepares moves of particles that are now here."""
        self.likelihood.fit(x[self.pilots])

    def adapt(self) -> None:
        """Adds more noise or less, by what became of the last move."""
        self._share = min(self._share * math.exp(_EAGER * (self._of_pilots - _GOAL)), _SHARE)


def split_move(unknowns: Unknowns, grid: Grid | None, steps: int, chunk: int, backward: int = 0) -> SplitMove:
    """The move of all unknowns of a problem.

    Args:
        unknowns: What is to be inferred.
        grid: The noise levels of the chain of the prior; the default ones if ``None``.
        steps: How many steps these have.
        chunk: How many particles the denoiser takes at once.
        backward: How many backward passes each step of the chain makes.
    """
    target = unknowns.target
    prior = target.denoise, target.shape, unknowns.typical
    grid = grid or default_grid(target.schedule, steps, norm=data_norm(target.schedule, *prior))
    chain = Chain(target.schedule, grid)
    chain.calibrate(*prior)
    reverse = Reverse(target, chain, chunk, backward)
    return SplitMove(tempered_likelihood(unknowns, reverse.most), reverse)


def tempered_likelihood(unknowns: Unknowns, most: float) -> TemperedLikelihood:
    """The likelihood at every width.

    Args:
        unknowns: Of which.
        most: The largest noise, in data units.
    """
    if unknowns.others:
        return PoweredOthers(unknowns, most)
    target, zero = unknowns.target, torch.zeros_like(unknowns.typical).unsqueeze(0)
    if target.is_linear(zero):
        residual, operator, constant = target.linearized(zero)
        spectrum = operator.spectrum()
        if isinstance(spectrum, ExactSpectrum):
            return Inflated(residual, spectrum, constant)
    return Powered(target, zero, most, linear=target.is_linear(zero))


class SplitGibbs(Answer):
    r"""Split Gibbs sampling of the posterior of a diffusion prior under a measurement of many numbers.

    Many chains start at draws of the prior, come down to the posterior while they warm up, and draw from it. Nothing is
    weighed, and there is no evidence: :class:`~pyrogen.inverse.tempered.TemperedSMC` makes the same moves and has it.
    A chain that came down in one mode stays there for long; R-hat over chains says whether they agree.

    Args:
        model: The Pyro model, as for :class:`~pyrogen.inverse.tempered.TemperedSMC`.
        site: The name of the latent site with the diffusion prior.
        chains: How many chains there are.
        draws: How many draws of each are kept, one for each move.
        warmup: How many moves go before, with less and less noise.
        coupling: The noise :math:`\tau` that data have of their own in the end, in data units. At 0 the draws are of
            the posterior itself; with more, moves are larger, and draws are of a posterior in which the measurement has
            the additional covariance :math:`\tau^2 A A^\top`: wider, as serves a prior that is not quite right. Where
            the measurement is not linear and Gaussian, the log-likelihood counts :math:`1 / (1 + \tau^2)` times.
        steps: How many steps the chain of the prior has, from noise to data.
        backward: How many backward passes through the denoiser each of these steps makes, so that it draws data with
            their covariance (:class:`~pyrogen.diffusion.samplers.CovarianceAncestral`); with 0 their numbers are drawn
            independently, with variances of a pilot run. It does not matter where the denoiser draws data exactly.
        grid: The noise levels; if not given, as for :class:`~pyrogen.inverse.smc.TwistedSMC`.
        chunk: How many particles (of all problems together) the denoiser takes at once.

    Raises:
        NotImplementedError: by ``run``: another latent site is discrete, or the site depends on it, or it on the site.

    References:
        Wu, Sun, Chen, Zhang, Yue and Bouman 2024, "Principled probabilistic imaging using diffusion models as
        plug-and-play priors", https://arxiv.org/abs/2405.18782

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> from pyrogen.diffusion import Diffusion, GaussianMixtureDenoiser, LinearVP
        >>> standard = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        >>> prior = Diffusion(GaussianMixtureDenoiser(standard, LinearVP()))
        >>> def model(y):
        ...     x = pyro.sample("x", prior())
        ...     pyro.sample("y", dist.Normal(x.sum(), 0.5), obs=y)
        >>> posterior = SplitGibbs(model, site="x", chains=8, draws=50, warmup=20).run(torch.tensor(1.0))
        >>> posterior.get_samples(group_by_chain=True)["x"].shape
        torch.Size([8, 50, 2])
    """

    no_evidence = "split Gibbs chains do not estimate the evidence; TemperedSMC makes the same moves and does"

    @checked(draws=partial(integer, least=4), grid=instance_of(Grid), coupling=non_negative, backward=count)
    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        chains: int = 16,
        draws: int = 50,
        warmup: int = 50,
        coupling: float = 0.0,
        steps: int = 50,
        backward: int = 0,
        grid: Grid | None = None,
        chunk: int = 4096,
    ) -> None:
        super().__init__(model, site=site)
        self.number_of_chains, self.draws, self.warmup, self.coupling = chains, draws, warmup, coupling
        self.steps, self.grid, self.chunk, self.backward = steps, grid, chunk, backward

    @torch.no_grad()
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        unknowns = Unknowns(InverseProblem(self.model, args, kwargs, self.site))
        move = split_move(unknowns, self.grid, self.steps, self.chunk, self.backward)
        x = started(unknowns, move, self.number_of_chains)
        kept = []
        with watched(self.warmup + self.draws, unit="move") as bar:
            for width in falling(move, self.coupling, self.warmup):
                move.fit(x)
                move.adapt()
                x = move(x, width)
                bar.update()
            for _ in range(self.draws):
                x = move(x, self.coupling)
                kept.append(x)
                bar.update()
        draws = unknowns.values(torch.stack(kept, 1).flatten(0, 1))
        by_chain = {name: values.unflatten(0, (self.number_of_chains, -1)) for name, values in draws.items()}
        acceptance = math.fsum(move.accepted[-self.draws :]) / self.draws
        diagnostics = chain_diagnostics(by_chain, divergences=0, acceptance=acceptance)
        return Results(draws, diagnostics, chains=self.number_of_chains)


def started(unknowns: Unknowns, move: SplitMove, count: int) -> Tensor:
    """Draws of all unknowns without the data, in rows ``(count, N, D + k)``."""
    return torch.cat([move.reverse.prior(count, unknowns.typical), unknowns.draw(count)], -1)


def falling(move: SplitMove, coupling: float, count: int) -> list[float]:
    """Widths whose noise falls in equal ratios from that of the prior to that of a coupling."""
    last = move.noise(coupling)
    noises = torch.logspace(0, 1, count + 1, last / move.reverse.most, dtype=torch.double)[:-1] * move.reverse.most
    return [max(noise**2 - last**2 + coupling**2, coupling**2) ** 0.5 for noise in noises.tolist()]
