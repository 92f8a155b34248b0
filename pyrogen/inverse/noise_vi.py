"""Variational inference in noise space: a guide fitted to the noise of a prior, its draws weighed by the true joint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Importance, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn
from torch.optim import Adam

from pyrogen.arguments import function, integer, site_name, switch
from pyrogen.numerics.resampling import effective_sample_size, systematic
from pyrogen.training.fit import fit
from pyrogen.training.turn import MakeOptimizer

from .noise import check_model, constant, draws_of, in_noise

_FEW = 20  # draws that carry the answer; below, quantiles and spreads mean little


@dataclass(frozen=True)
class GuideDiagnostics:
    """How well a guide fits.

    Attributes:
        draws: How many draws were weighted.
        effective_sample_size: How many equally weighted ones they are worth.
        elbo: The evidence lower bound of the fitted guide, in nats.
        log_evidence: The logarithm of the average weight, in nats.
    """

    draws: int
    effective_sample_size: float
    elbo: float
    log_evidence: float

    @property
    def gap(self) -> float:
        """The divergence KL(guide || posterior) in nats, as far as the weights show it."""
        return self.log_evidence - self.elbo

    @property
    def collapsed(self) -> bool:
        """Whether fewer than 20 draws carry the answer."""
        return not self.effective_sample_size >= min(_FEW, self.draws)

    def attributes(self) -> dict[str, Any]:
        """Single numbers, as files keep them."""
        return {
            "effective_sample_size": self.effective_sample_size,
            "elbo": self.elbo,
            "log_evidence": self.log_evidence,
            "collapsed": int(self.collapsed),
        }

    def __str__(self) -> str:
        lines = [
            f"{self.draws} draws of the guide worth {self.effective_sample_size:.0f}",
            f"evidence lower bound {self.elbo:.2f} nats, evidence {self.log_evidence:.2f} nats",
        ]
        if self.collapsed:
            lines.append("COLLAPSED: the guide misses the posterior; use a richer one, or another method")
        return "\n".join(lines)


class NoiseVI:
    r"""The posterior of a prior that is a push-forward of noise, by a guide over the noise and importance weights.

    For the same priors as :class:`~pyrogen.inverse.noise_mcmc.NoiseMCMC`. The guide is fitted by the evidence lower
    bound; its draws are then weighted by the joint density over its own, so that they estimate the posterior and the
    evidence however well it fits, and :meth:`diagnostics` says how few carry the answer. The weights are of the whole
    model: many plates, or many numbers, ask for a guide that fits well.

    Args:
        model: The Pyro model.
        site: The name of the latent site.
        guide: Makes the guide, an ``nn.Module``, of a model: any autoguide, or ``partial(AutoFlow, ...)``. It should
            start as wide as the noise, as the default does: what a narrow guide misses no weight tells.
        draws: How many draws are weighted.
        steps: How many gradient steps the guide takes.
        optimizer: Makes the optimizer of a list of parameters.
        resample: Whether the draws are resampled to equal weights in the end; if not, they are the guide's.

    Raises:
        ValueError: a number is out of range.

    References:
        Hoffman, Sountsov, Dillon, Langmore, Tran and Vasudevan 2019, "NeuTra-lizing bad geometry in Hamiltonian Monte
        Carlo using neural transport", https://arxiv.org/abs/1903.03704

    Example:
        >>> import pyrogen as pg, pyro, pyro.distributions as dist
        >>> prior = pg.flows.affine_coupling((2,))
        >>> def model(y):
        ...     x = pyro.sample("x", prior())
        ...     pyro.sample("y", dist.Poisson(x.sum().exp()), obs=y)
        >>> posterior = NoiseVI(model, site="x", draws=20, steps=20).run(torch.tensor(3.0))
        >>> posterior.get_samples()["x"].shape
        torch.Size([20, 2])
    """

    def __init__(
        self,
        model: Callable,
        *,
        site: str,
        guide: Callable[[Callable], nn.Module] = partial(AutoMultivariateNormal, init_scale=1.0),
        draws: int = 1000,
        steps: int = 1000,
        optimizer: MakeOptimizer = partial(Adam, lr=0.02),
        resample: bool = True,
    ) -> None:
        for name, value in (("draws", draws), ("steps", steps)):
            integer(value, name)
        switch(resample, "resample")
        self.model, self.site = function(model, "model"), site_name(site, "site")
        self.make_guide = function(guide, "guide")
        function(optimizer, "optimizer")
        self.draws, self.steps, self.optimizer, self.resample = draws, steps, optimizer, resample
        self.guide: nn.Module | None = None

    def run(self, *args: Any, **kwargs: Any) -> NoiseVI:
        """Fits the guide and weighs its draws, given the arguments of the model; gives itself.

        Raises:
            ValueError: the model has no such latent site, or its prior has no noise to move in.
        """
        model = in_noise(self.model, site=self.site)
        check_model(self.model, args, kwargs, self.site)
        guide = self.make_guide(model)
        with constant(model, args, kwargs), _store_of(guide):
            guide(*args, **kwargs)  # makes the parameters of a lazy guide
            fit(_Bound(model, guide, args, kwargs), (), steps=self.steps, optimizer=self.optimizer)
            with torch.no_grad():
                weighted = Importance(model, guide, self.draws).run(*args, **kwargs)
        self._keep(weighted)
        self.guide = guide
        return self

    def get_samples(self) -> dict[str, Tensor]:
        """The draws by site, each of shape ``(draws, *shape of the site)``; weighted by :attr:`log_weights`."""
        self._finished()
        return dict(self._draws)

    @property
    def log_weights(self) -> Tensor:
        """The logarithms of the weights of the draws, ``(draws,)``: all zero after resampling."""
        weights = self._finished()
        return torch.zeros_like(weights) if self.resample else weights

    @property
    def log_evidence(self) -> Tensor:
        r"""The estimate of :math:`\log p(y)` in nats, all latent sites integrated out. Its exponential is unbiased."""
        weights = self._finished()
        return weights.logsumexp(0) - math.log(len(weights))

    @property
    def attrs(self) -> dict[str, Any]:
        """The facts about the run that ``to_arviz`` keeps as attributes."""
        return self.diagnostics().attributes()

    def diagnostics(self) -> GuideDiagnostics:
        """The effective sample size, the evidence, and the bound that the guide reaches."""
        weights = self._finished()
        return GuideDiagnostics(
            draws=self.draws,
            effective_sample_size=effective_sample_size(weights).item(),
            elbo=weights.mean().item(),
            log_evidence=self.log_evidence.item(),
        )

    def _keep(self, weighted: Importance) -> None:
        traces, self._weights = weighted.exec_traces, torch.stack(weighted.log_weights)
        self._draws = draws_of(traces, self.site)
        if self.resample:
            chosen = systematic(self._weights)
            # Copies of a draw lie side by side; in random order any part of the draws is as good as any other.
            chosen = chosen[torch.randperm(len(chosen))]
            self._draws = {name: values[chosen] for name, values in self._draws.items()}

    def _finished(self) -> Tensor:
        """The logarithms of the weights of the guide's draws."""
        if self.guide is None:
            raise ValueError("`run(*args)` must come first")
        return self._weights


class _Bound(nn.Module):
    """Minus the evidence lower bound of a guide, whose parameters are all that is trained."""

    def __init__(self, model: Callable, guide: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.guide = guide
        fixed = poutine.block(model, hide_types=["param"])
        self.loss = partial(Trace_ELBO().differentiable_loss, fixed, guide, *args, **kwargs)

    def forward(self) -> Tensor:
        return self.loss()


def _store_of(guide: nn.Module) -> AbstractContextManager[Any]:
    """Pyro's parameter store without those of other guides of this class, which have the same names."""
    store, prefix = pyro.get_param_store(), f"{type(guide).__name__}."
    others = {
        kind: {name: entry for name, entry in entries.items() if not name.startswith(prefix)}
        for kind, entries in store.get_state().items()
    }
    return store.scope(others)
