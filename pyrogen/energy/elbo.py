r"""Energies in latent-variable models: the evidence lower bound with the phase that an energy adds to its gradient.

Where an energy stands at a site of a model, as the prior of latents or as a likelihood, the bound holds its log-density
:math:`-E(z) - \log Z`. The constant is not known, but its gradient is: that of :math:`-E(z^-)` at draws :math:`z^-` of
the energy. An ELBO that scores :math:`-E(z)` alone would miss it, and train the energy to be low everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyrogen.core.density import Density, density_of
from pyrogen.core.objective import Meaning, PairObjective
from pyrogen.distributions.abilities import abilities_of
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.numerics.randomness import held
from pyrogen.programs.dependence import dependence

from .boltzmann import Boltzmann


class EnergyElbo(PairObjective):
    r"""Minus the evidence lower bound of a Pyro model in which energies stand, and its guide, per datum.

    Its gradient is that of the bound, also in the parameters of energies, and in what their contexts are computed from:
    draws of each energy, one for each row of its site, give that of its normalizer. Its value lacks :math:`\log Z`.
    Draws come from the energy's own chains; persistent ones go on from step to step.

    Args:
        model: A Pyro model, called with the batch.
        guide: Its guide, called with the same.
        size: As for :class:`~pyrogen.core.objective.Elbo`.

    Raises:
        NotImplementedError: when called with validation on, as ``fit`` does first: a site of the guide has no
            normalized ``log_prob``, or the context of an energy depends on one whose draws have no gradients.

    References:
        Pang, Han, Nijkamp, Zhu and Wu 2020, "Learning latent space energy-based prior model",
        https://arxiv.org/abs/2006.08205
    """

    unit = "nats per datum, but for the normalizers of energies"
    measures = False

    def total(self, *batch: Any) -> Tensor:
        guide = self.guide
        if is_validation_enabled():
            guide = Meaning("guide")(guide)
            self._refuse_scored_contexts(*batch)
        return Trace_ELBO().differentiable_loss(_TwoPhases()(self.model), guide, *batch)

    def _refuse_scored_contexts(self, *batch: Any) -> None:
        """Refuses contexts of energies that depend on draws without gradients.

        The gradient in what these are drawn by is found from the value of the bound, which lacks the normalizers.
        """
        with held(), poutine.block():
            drawn = poutine.trace(self.guide).get_trace(*batch).iter_stochastic_nodes()
            scored = {name for name, site in drawn if not site["fn"].has_rsample}
            found = dependence(self.model, batch) if scored else None
        for name, site in found.sites.items() if scored else ():
            causes = sorted(found.ancestors(name) & scored)
            if causes and density_of(site.distribution) == "unnormalized":
                raise NotImplementedError(
                    f"the normalizer of the energy at {name!r} depends on the sites {causes}, whose draws in `guide` "
                    "have no gradients: the gradient of the guide needs its value, which is not known; use a guide "
                    "whose draws have gradients, or Normalized"
                )


class _TwoPhases(Messenger):
    """Puts distributions of two phases in the places of energies."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if isinstance(msg["fn"], Distribution) and density_of(msg["fn"]) == "unnormalized":
            msg["fn"] = TwoPhases(msg["fn"])


class TwoPhases(PyrogenDistribution):
    r"""An energy whose ``log_prob`` has the gradient of the normalized one; its value is the same.

    Args:
        distribution: That of the energy.
    """

    density: Density = "unnormalized"

    def __init__(self, distribution: TorchDistributionMixin) -> None:
        self.base_dist = distribution
        super().__init__(distribution.batch_shape, distribution.event_shape, validate_args=False)

    @property
    def support(self) -> Constraint:
        return self.base_dist.support

    def _expanded(self, batch_shape: torch.Size) -> TwoPhases:
        return TwoPhases(self.base_dist.expand(batch_shape))

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        return self.base_dist.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        inner = abilities_of(self.base_dist)
        draws = inner.advanced() if isinstance(inner, Boltzmann) else self.base_dist.sample()
        drawn = self.base_dist.log_prob(draws)
        return self.base_dist.log_prob(value) - (drawn - drawn.detach())
