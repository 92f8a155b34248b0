"""Split Gibbs sampling in many chains: draws of a posterior under a diffusion prior, without weights.

References:
    Wu, Sun, Chen, Zhang, Yue and Bouman 2024, "Principled probabilistic imaging using diffusion models as plug-and-play
    priors", https://arxiv.org/abs/2405.18782
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyrogen.arguments import checked, count, instance_of, integer, non_negative
from pyrogen.numerics.grids import Grid
from pyrogen.training.checkpoint import Checkpoint
from pyrogen.training.progress import watched

from .answer import Answer, Results
from .chain_diagnostics import chain_diagnostics
from .problem import InverseProblem
from .saved import as_checkpoint, check_same, saved
from .split_move import SplitMove, beginning, split_move, started
from .unknowns import Unknowns


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
        checkpoint: Where the run is saved, if anywhere. A run that finds its file goes on from there, to the last
            random number; one that was finished, with more ``draws``, goes on to these.

    Raises:
        ValueError: by ``run``: ``checkpoint`` holds a run of other settings, another model or other data.
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
        checkpoint: str | os.PathLike | Checkpoint | None = None,
    ) -> None:
        super().__init__(model, site=site)
        self.number_of_chains, self.draws, self.warmup, self.coupling = chains, draws, warmup, coupling
        self.steps, self.grid, self.chunk, self.backward = steps, grid, chunk, backward
        self.checkpoint = as_checkpoint(checkpoint)

    @torch.no_grad()
    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        with saved(self.checkpoint) as file:
            unknowns = Unknowns(InverseProblem(self.model, args, kwargs, self.site))
            move = split_move(unknowns, self.grid, self.steps, self.chunk, self.backward)
            widths = falling(move, self.coupling, self.warmup)
            run = SplitChains(move, started(unknowns, move, self.number_of_chains), widths, self.coupling)
            file.resume(run, partial(beginning, unknowns, move), **self._settings(run))
            if len(run.kept) > self.draws:
                raise ValueError(f"`draws` must be at least the {len(run.kept)} in `checkpoint`, got {self.draws}")
            with watched(self.warmup + self.draws, unit="move", initial=run.moves) as bar:
                while len(run.kept) < self.draws:
                    run.go()
                    file.save(run, last=len(run.kept) == self.draws)
                    bar.update()
        draws = unknowns.values(run.draws())
        by_chain = {name: values.unflatten(0, (self.number_of_chains, -1)) for name, values in draws.items()}
        acceptance = math.fsum(move.accepted[-self.draws :]) / self.draws
        diagnostics = chain_diagnostics(by_chain, divergences=0, acceptance=acceptance)
        return Results(draws, diagnostics, chains=self.number_of_chains)

    def _settings(self, run: SplitChains) -> dict[str, Any]:
        """What a run that goes on must have in common with the one before it."""
        settings = {"method": "SplitGibbs", "shape": list(run.x.shape), "warmup": self.warmup}
        return settings | {"coupling": self.coupling, "noises": run.move.reverse.noises, "backward": self.backward}


class SplitChains:
    """Chains on their way to the posterior, and what they draw there.

    Args:
        move: How they move.
        x: Where they start, ``(chains, N, D)``.
        widths: Those of the moves by which they warm up, to which moves are fitted.
        coupling: The width of all others.

    Attributes:
        x: Where they are.
        kept: Where they were after each move that is kept.
    """

    def __init__(self, move: SplitMove, x: Tensor, widths: list[float], coupling: float) -> None:
        self.move, self.x, self.coupling = move, x, coupling
        self._widths = widths
        self.kept: list[Tensor] = []

    @property
    def moves(self) -> int:
        """How many were made."""
        return len(self.move.accepted)

    def go(self) -> None:
        """Makes one move."""
        if self.moves < len(self._widths):
            width = self._widths[self.moves]
            self.move.fit(self.x)
            self.move.adapt()
            self.x = self.move(self.x, width)
        else:
            self.x = self.move(self.x, self.coupling)
            self.kept.append(self.x)

    def draws(self) -> Tensor:
        """What is kept, one chain after the other, ``(chains draws, N, D)``."""
        return torch.stack(self.kept, 1).flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """All of it, in numbers and tensors."""
        kept = torch.stack(self.kept) if self.kept else self.x.new_zeros(0, *self.x.shape)
        state = {"x": self.x.clone(), "kept": kept, "move": self.move.state_dict()}
        return state | {"log_likelihood": self._log_likelihood()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what other chains were."""
        self.x, self.kept = state["x"], list(state["kept"])
        self.move.load_state_dict(state["move"])
        check_same(self._log_likelihood(), state["log_likelihood"])

    def _log_likelihood(self) -> Tensor:
        likelihood = self.move.likelihood
        return likelihood.log_likelihood(likelihood.seen(self.x), 0.0)


def falling(move: SplitMove, coupling: float, count: int) -> list[float]:
    """Widths whose noise falls in equal ratios from that of the prior to that of a coupling."""
    last = move.noise(coupling)
    noises = torch.logspace(0, 1, count + 1, last / move.reverse.most, dtype=torch.double)[:-1] * move.reverse.most
    return [max(noise**2 - last**2 + coupling**2, coupling**2) ** 0.5 for noise in noises.tolist()]
