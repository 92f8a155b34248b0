r"""Enumeration: discrete latents summed over instead of drawn.

A latent of few values leaves nothing to chance: the expectation over the posterior is a sum,

.. math:: \sum_z q(z \mid x) \left[ \log p(x \mid z) + \log p(z) - \log q(z \mid x) \right] ,

whose gradient has no noise. A single draw in its place needs the score function, whose noise is the reason why discrete
latents have the name of training badly.
"""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.distributions import Independent

from pyrogen.arguments import integer
from pyrogen.core.objective import PairObjective
from pyrogen.core.shapes import Context
from pyrogen.distributions.bernoulli import IndependentBernoulli

from .model import VAEObjective

LIMIT = 2**16


class EnumeratedElbo(VAEObjective):
    """Minus the evidence lower bound of a VAE with discrete latents, exactly: a sum over all their values.

    Equal to Pyro's ``TraceEnum_ELBO`` on the model and the enumerated guide of the VAE, divided by the number of rows.
    A latent of several independent elements takes all their combinations.

    Args:
        vae: The VAE; its posterior gives categorical, Bernoulli or one-hot latents, or independent ones of them.

    Raises:
        NotImplementedError: the latents cannot be enumerated (when called).
        ValueError: there are more than 65,536 of their values (when called).
    """

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        posterior = self.vae.posterior_at(x, context)
        z = support_of(posterior)
        log_posterior = posterior.log_prob(z)  # (values, *batch)
        z = z.expand(log_posterior.shape + posterior.event_shape)
        log_joint = self.vae.likelihood_at(z, context).log_prob(x) + self.vae.prior_at(context).log_prob(z)
        return (log_posterior.exp() * (log_posterior - log_joint)).sum(0).mean()


class EnumeratedPair(PairObjective):
    """Minus the evidence lower bound of a Pyro model/guide pair whose discrete sites are summed over.

    Pyro's ``TraceEnum_ELBO`` with all discrete sites of model and guide enumerated in parallel, per datum, as a module
    that owns the parameters of both (a function that ``config_enumerate`` gives owns none).

    Args:
        model: A Pyro model, called with the batch.
        guide: Its guide, called with the same; discrete sites that it lacks are summed over in the model.
        plates: How many plates nest in model and guide, at most.
        size: How many data there are in all, as for :class:`pyrogen.Elbo`.

    Raises:
        ValueError: ``plates`` is negative, or ``size`` not positive.

    References:
        Obermeyer et al. 2019, "Tensor variable elimination for plated factor graphs", https://arxiv.org/abs/1902.03210
    """

    def __init__(self, model: nn.Module, guide: nn.Module, *, plates: int = 1, size: int | None = None) -> None:
        super().__init__(model, guide, size=size)
        self.plates = integer(plates, "plates", least=0)

    def total(self, *batch: Any) -> Tensor:
        elbo = TraceEnum_ELBO(max_plate_nesting=self.plates)
        return elbo.differentiable_loss(config_enumerate(self.model), config_enumerate(self.guide), *batch)


def support_of(distribution: TorchDistributionMixin) -> Tensor:
    """All values of a discrete distribution, ``(values, 1, ..., 1, *event)``: one singleton a batch dimension.

    Raises:
        NotImplementedError: it is not discrete, or not finite.
        ValueError: it has more than 65,536 values.
    """
    wraps = isinstance(distribution, Independent | IndependentBernoulli)
    elements = distribution.base_dist if wraps else distribution
    event = distribution.event_shape[: len(distribution.event_shape) - len(elements.event_shape)]
    if not elements.has_enumerate_support:
        raise NotImplementedError(f"{type(elements).__name__} has no finite support to enumerate; use `BetaElbo`")
    values = elements.enumerate_support(expand=False)
    if not event:
        return values
    own = values.reshape(len(values), *elements.event_shape)
    count = len(own) ** event.numel()
    if count > LIMIT:
        raise ValueError(f"the latents must have at most {LIMIT} values to be enumerated, got {count}")
    index = torch.cartesian_prod(*repeat(torch.arange(len(own), device=own.device), event.numel()))
    chosen = own[index.reshape(count, *event)]
    return chosen.reshape(count, *[1] * len(distribution.batch_shape), *distribution.event_shape)
