"""Variational inference in noise space: a guide of the noise of a prior, its draws weighted by the true joint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.infer import Importance, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor, nn
from torch.optim import Adam

from pyrogen.arguments import checked, function
from pyrogen.numerics.resampling import effective_sample_size, systematic
from pyrogen.programs.site import statements_of
from pyrogen.training.fit import fit
from pyrogen.training.turn import MakeOptimizer

from .answer import Answer, Diagnostics, Results
from .noise import check_model, constant, draws_of, in_noise


@dataclass(frozen=True)
class GuideDiagnostics(Diagnostics):
    """How well a guide fits.

    Attributes:
        draws: How many draws were weighted.
        effective_sample_size: How many equally weighted ones they are worth.
        elbo: The evidence lower bound of the fitted guide, in nats.
        log_evidence: The logarithm of the average weight, in nats.
        normalized: Whether the bound and the evidence are; else both lack a constant, which a prior known up to a
            constant has left out.
    """

    advice: ClassVar[str] = "use a richer one, or another method"

    draws: int
    effective_sample_size: float
    elbo: float
    log_evidence: float
    normalized: bool = True

    @property
    def gap(self) -> float:
        """The divergence KL(guide || posterior) in nats, as far as the weights show it."""
        return self.log_evidence - self.elbo

    @property
    def carried(self) -> Tensor:
        return torch.tensor(self.effective_sample_size)

    @property
    def reason(self) -> str:
        return "the guide misses the posterior"

    def numbers(self) -> dict[str, Any]:
        evidence = {"elbo": self.elbo, "log_evidence": self.log_evidence} if self.normalized else {}
        return {"effective_sample_size": self.effective_sample_size, **evidence}

    def lines(self) -> list[str]:
        return [
            f"{self.draws} draws of the guide worth {self.effective_sample_size:.0f}",
            f"evidence lower bound {self.elbo:.2f} nats, evidence {self.log_evidence:.2f} nats"
            + ("" if self.normalized else ", both but for a constant"),
        ]


class NoiseVI(Answer):
    r"""The posterior of a prior that is a push-forward of noise, by a guide over the noise and importance weights.

    For the same priors as :class:`~pyrogen.inverse.noise_mcmc.NoiseMCMC`. The guide is fitted by the evidence lower
    bound; its draws are then weighted by the joint density over its own, so that they estimate the posterior and the
    evidence however well it fits, and :meth:`diagnostics` shows how few carry the answer. The weights are of the whole
    model: many plates, or many numbers, need a guide that fits well.

    Args:
        model: The Pyro model.
        site: The name of the latent site.
        guide: Makes the guide, an ``nn.Module``, of a model: any autoguide, or ``partial(AutoFlow, ...)``. It should
            start as wide as the noise, as the default does: what a narrow guide misses shows in no weight.
        draws: How many draws are weighted.
        steps: How many gradient steps the guide takes.
        optimizer: Makes the optimizer of a list of parameters.
        resample: Whether the draws are resampled to equal weights in the end; if not, they are the guide's.

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

    no_evidence = "a site has a density that is known up to a constant only, and so is the evidence"

    @checked(guide=function, optimizer=function)
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
        super().__init__(model, site=site)
        self.make_guide, self.optimizer = guide, optimizer
        self.draws, self.steps, self.resample = draws, steps, resample
        self.guide: nn.Module | None = None

    def infer(self, args: tuple, kwargs: Mapping[str, Any]) -> Results:
        model = in_noise(self.model, site=self.site)
        normalized = check_model(self.model, args, kwargs, self.site)
        guide = self.make_guide(model)
        with constant(model, args, kwargs), _store_of(guide):
            guide(*args, **kwargs)  # makes the parameters of a lazy guide
            fit(_Bound(model, guide, args, kwargs), (), steps=self.steps, optimizer=self.optimizer)
            with torch.no_grad():
                weighted = Importance(model, guide, self.draws).run(*args, **kwargs)
        self.guide = guide
        return self._results_of(weighted, normalized)

    def _results_of(self, weighted: Importance, normalized: bool) -> Results:
        draws = draws_of([statements_of(trace) for trace in weighted.exec_traces], self.site)
        log_weights = torch.stack(weighted.log_weights)
        log_evidence = log_weights.logsumexp(0) - math.log(len(log_weights))
        diagnostics = GuideDiagnostics(
            draws=self.draws,
            effective_sample_size=effective_sample_size(log_weights).item(),
            elbo=log_weights.mean().item(),
            log_evidence=log_evidence.item(),
            normalized=normalized,
        )
        if self.resample:
            chosen = systematic(log_weights)
            # Copies of a draw lie side by side; in random order any part of the draws is as good as any other.
            chosen = chosen[torch.randperm(len(chosen))]
            draws = {name: values[chosen] for name, values in draws.items()}
            log_weights = torch.zeros_like(log_weights)
        return Results(draws, diagnostics, log_weights, log_evidence if normalized else None)


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
