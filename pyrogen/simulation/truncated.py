r"""The prior restricted to where an amortized posterior has its mass: what to simulate next, for one observed datum.

A posterior learned from simulations of the whole prior spends most of them where the observed datum cannot come from.
Restricted to the region of highest posterior density that holds all but a share :math:`\epsilon` of the mass,

.. math:: \tilde p(\theta) \propto p(\theta) \, \mathbb{1}[q(\theta \mid x_o) \ge \tau], \qquad
          \mathbb{P}_{q(\theta \mid x_o)} [q(\theta \mid x_o) < \tau] = \epsilon,

the prior keeps its shape there. So a posterior learned from simulations of :math:`\tilde p` needs no correction: at
:math:`x_o` it is the posterior under :math:`p`, up to what was cut off.

References:
    Deistler, Goncalves and Macke 2022, "Truncated proposals for scalable and hassle-free simulation-based inference",
    https://arxiv.org/abs/2210.04815
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrogen.arguments import integer
from pyrogen.core.shapes import Context
from pyrogen.numerics.randomness import seeded
from pyrogen.numerics.resampling import effective_sample_size, systematic

from .joint.prior import log_prior, require_density

if TYPE_CHECKING:
    from .posterior import Posterior

Values = dict[str, Tensor]

_BATCH = 4096
"""Prior draws that are scored at once."""
_CANDIDATES = 20
"""Candidates for each draw that resampling gives."""
_WIDER = 2.0
"""How much wider than the posterior half of the candidates spread."""


class TruncatedPrior:
    """The prior of a program's latent sites where an amortized posterior is at least a threshold.

    Draws of the prior are kept where they lie in the region (rejection), which is exact. Where too few do, candidates
    from around the posterior are weighted by the prior and resampled, which is right for many candidates only;
    :attr:`method` names which of the two it is.

    Args:
        posterior: The posterior.
        context: What was observed, one datum.
        threshold: The least log-density of the region, in nats.
        least_acceptance: The share of prior draws in the region below which candidates are resampled.

    Attributes:
        threshold: The least log-density of the region, in nats.
        acceptance: Which share of 4,096 draws of the prior lies in the region.
        method: How draws are made.

    Raises:
        NotImplementedError: candidates are to be resampled, and the prior has no density of the latent sites alone.
    """

    def __init__(self, posterior: Posterior, context: Context, threshold: float, *, least_acceptance: float) -> None:
        self.posterior, self.context, self.threshold = posterior, context, threshold
        found = self.contains(posterior.joint.prior(_BATCH))
        self.acceptance = found.double().mean().item()
        self.method: Literal["rejection", "resampling"] = (
            "rejection" if self.acceptance >= max(least_acceptance, 1 / _BATCH) else "resampling"  # or none is found
        )
        if self.method == "resampling":
            require_density(posterior.joint)

    @torch.no_grad()
    def contains(self, latents: Values) -> Tensor:
        """Whether latent values, rows first, lie in the region."""
        return self._scores(self.posterior.packed(latents)) >= self.threshold

    def draw(self, n: int, *, seed: int | None = None) -> Values:
        """Draws by site, rows first: what ``joint.simulate`` takes.

        Args:
            n: How many.
            seed: Of all noise, in a scope of its own.
        """
        integer(n, "n")
        with torch.no_grad(), seeded(seed):
            return self._rejected(n) if self.method == "rejection" else self._resampled(n)

    def __repr__(self) -> str:
        return f"<TruncatedPrior by {self.method}, {self.acceptance:.2%} of the prior>"

    def _rejected(self, n: int) -> Values:
        kept: list[Values] = []
        while sum(len(next(iter(part.values()))) for part in kept) < n:
            latents = self.posterior.joint.prior(_BATCH)
            inside = self.contains(latents)
            kept.append({name: value[inside] for name, value in latents.items()})
        return {name: torch.cat([part[name] for part in kept])[:n] for name in kept[0]}

    def _resampled(self, n: int) -> Values:
        vectors, log_proposal = self._candidates(_CANDIDATES * n)
        latents = self.posterior.sites(vectors)
        log_weights = log_prior(self.posterior.joint, latents).double() - log_proposal.double()
        log_weights = torch.where(self._scores(vectors) >= self.threshold, log_weights, -torch.inf)
        worth = effective_sample_size(log_weights).item()
        if worth < n:
            warnings.warn(
                f"the {len(vectors)} candidates that {n} draws are resampled from are worth {worth:.0f} by their "
                "weights: the draws follow the truncated prior roughly, and many are the same",
                UserWarning,
                stacklevel=3,
            )
        chosen = systematic(log_weights)[torch.randperm(len(vectors))[:n]]
        return {name: value[chosen] for name, value in latents.items()}

    def _candidates(self, count: int) -> tuple[Tensor, Tensor]:
        """Vectors around the posterior, with the log-density of what they were drawn from."""
        distribution = self.posterior(self.context)
        vectors = distribution.sample((count,))
        continuous = self.posterior.continuous
        if self.posterior.discrete is not None:
            return vectors, self._scores(vectors)
        reals = continuous.packing.inverse_and_log_det(vectors)[0]
        spread = torch.cov(reals.T).reshape(reals.shape[1], -1) * _WIDER**2
        spread = spread + 1e-6 * torch.diag(spread.diagonal())
        wider = dist.MultivariateNormal(reals.mean(0), spread)
        half = count // 2
        vectors = torch.cat([vectors[:half], continuous.packing(wider.sample((count - half,)))])
        reals, log_det = continuous.packing.inverse_and_log_det(vectors)
        parts = torch.stack([self._scores(vectors), wider.log_prob(reals) + log_det])
        return vectors, parts.logsumexp(0) - torch.log(torch.tensor(2.0))

    def _scores(self, vectors: Tensor) -> Tensor:
        distribution = self.posterior(self.context)
        return torch.cat([distribution.log_prob(part) for part in vectors.split(_BATCH)])


def threshold_of(posterior: Posterior, context: Context, quantile: float, draws: int) -> float:
    """The quantile of the log-density of a posterior's own draws, in nats."""
    distribution = posterior(context)
    with torch.no_grad():
        scores = torch.cat([distribution.log_prob(part) for part in distribution.sample((draws,)).split(_BATCH)])
    return scores.double().quantile(quantile).item()
