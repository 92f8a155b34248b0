r"""Reweighted wake-sleep: the posterior learns what it should have drawn, without a gradient through its draws.

The objectives of :mod:`~pyrogen.latent.objectives` move the posterior to make the bound tight, which differentiates
through its draws, or, for discrete latents, multiplies by noisy scores. Wake-sleep fits it by maximum likelihood
instead: to the latents of data, weighed by importance (*wake*), or to latents that the model dreamt (*sleep*).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked
from pyrogen.core.shapes import Context, batch_shape_of

from .parts import check_draws, check_exact, check_separate

if TYPE_CHECKING:
    from .model import VAE


class ReweightedWakeSleep(nn.Module):
    r"""Minus the importance-weighted bound, with the gradients of reweighted wake-sleep.

    With draws :math:`z_k \sim q(z \mid x)`, which carry no gradient, and normalised weights :math:`\tilde w_k` of
    :math:`w_k = p(x, z_k) / q(z_k \mid x)`, prior and likelihood (:math:`\theta`) and posterior (:math:`\phi`) follow

    .. math::
        \sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k), \qquad
        (1 - s) \sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k \mid x)
        + s \, \nabla_\phi \log q_\phi(z' \mid x'), \quad z', x' \sim p_\theta(x, z) .

    The gradient in :math:`\theta` is that of :class:`~pyrogen.latent.objectives.ImportanceWeighted`. The first of the
    two in :math:`\phi`, *wake*, estimates that of :math:`\operatorname{KL}(p(z \mid x) \,\|\, q(z \mid x))` with a bias
    that goes as :math:`1 / K`; the second, *sleep*, has no bias, but looks where the model has its mass, not the data.
    Posteriors need not be reparameterised and latents may be discrete.

    Args:
        vae: The VAE, of parts with exact densities; the posterior shares no parameter with the others.
        draws: :math:`K`.
        sleep: :math:`s`, the share of dreams in what the posterior learns from. With 1 there is no reweighting but
            that of :math:`\theta`; with one draw besides, it is the wake-sleep algorithm.

    Raises:
        ValueError: ``draws`` is not positive, ``sleep`` is not from 0 to 1, a part has a density that is not exact, or
            the posterior shares parameters with another part.

    References:
        Bornschein and Bengio 2015, "Reweighted wake-sleep", https://arxiv.org/abs/1406.2751
        Le et al. 2019, "Revisiting reweighted wake-sleep for models with stochastic control flow",
        https://arxiv.org/abs/1805.10469
        Hinton, Dayan, Frey and Neal 1995, "The wake-sleep algorithm for unsupervised neural networks",
        https://doi.org/10.1126/science.7761831
    """

    @checked
    def __init__(self, vae: VAE, *, draws: int, sleep: float = 0.0) -> None:
        super().__init__()
        check_draws(vae, draws)
        check_exact(vae, "`vae` must have no")
        check_separate(vae)
        if not 0 <= sleep <= 1:
            raise ValueError(f"`sleep` must be from 0 to 1, got {sleep}")
        self.vae = vae
        self.draws = draws
        self.sleep = sleep

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        posterior = self.vae.posterior_at(x, context)
        with torch.no_grad():
            z = posterior.sample(torch.Size((self.draws,)))
        log_joint = self.vae.likelihood_at(z, context).log_prob(x) + self.vae.prior_at(context).log_prob(z)
        log_posterior = posterior.log_prob(z)
        log_weights = (log_joint - log_posterior).detach()
        weights = log_weights.softmax(0)
        surrogate = -(weights * (log_joint + (1 - self.sleep) * log_posterior)).sum(0).mean()
        if self.sleep:
            surrogate = surrogate - self.sleep * self._dreams(x, context).mean()
        value = math.log(self.draws) - log_weights.logsumexp(0).mean()
        return value + surrogate - surrogate.detach()

    def _dreams(self, x: Tensor, context: Context) -> Tensor:
        """The posterior's log-density of latents and data that the model drew, as many as there are rows."""
        with torch.no_grad():
            z = self.vae.prior_at(context).expand(batch_shape_of(x, self.vae.event_shape, "x")).sample()
            dreamt = self.vae.likelihood_at(z, context).sample()
        return self.vae.posterior_at(dreamt, context).log_prob(z)
