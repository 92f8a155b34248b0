r"""Objectives for variational autoencoders: bounds of the evidence, and gradients of them with less noise.

For a Pyro pair of your own see :mod:`~pyrogen.latent.pair_objectives`; the bounds of both are in
:mod:`~pyrogen.latent.bounds`.

All are losses in nats per datum of a :class:`~pyrogen.latent.model.VAE` on a minibatch ``(x, context)``. They run the
three parts directly, without Pyro's handlers, on the noise that Pyro would use. With :math:`K` draws
:math:`z_k \sim q(z \mid x)` and weights :math:`w_k = p(x, z_k) / q(z_k \mid x)`:

=========================================  ============================================================================
:class:`~pyrogen.latent.model.BetaElbo`    :math:`\frac1K \sum_k \log w_k`, the default
:class:`StickingTheLanding`                the same bound; its gradient is without noise at the true posterior
:class:`ImportanceWeighted`                :math:`\log \frac1K \sum_k w_k`, tighter
:class:`DoublyReparameterized`             the same bound; its gradient in the posterior does not vanish with many draws
:class:`Renyi`                             :math:`\frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}`
:class:`ReweightedWakeSleep`               no gradient through draws, also of discrete latents
=========================================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyrogen.arguments import checked
from pyrogen.core.module import DistributionModule
from pyrogen.core.parametric import Parametric
from pyrogen.core.parts import given
from pyrogen.core.shapes import Context, batch_shape_of
from pyrogen.distributions.abilities import draw_and_score
from pyrogen.training.turn import frozen

from .bounds import doubly_reparameterized, importance_weighted, renyi, weigh_gradients
from .model import VAE, VAEObjective, sample_shape
from .parts import check_draws, check_exact, check_separate


class StickingTheLanding(VAEObjective):
    r"""Minus the evidence lower bound, by the path derivative alone.

    The gradient of :math:`\log q_\phi(z \mid x)` in :math:`\phi` at fixed :math:`z` has expectation zero and is left
    out. The expected gradient stays as it was; at the true posterior every draw's gradient in :math:`\phi` is zero. A
    posterior other than :class:`~pyrogen.core.parametric.Parametric` runs twice.

    Args:
        vae: The VAE; its posterior must be reparameterized.
        draws: How many draws of the posterior to average over.

    Raises:
        ValueError: ``draws`` is not positive.
        NotImplementedError: the posterior is not reparameterized (when called).

    References:
        Roeder, Wu and Duvenaud 2017, "Sticking the landing: simple, lower-variance gradient estimators for variational
        inference", https://arxiv.org/abs/1703.09194
    """

    @checked
    def __init__(self, vae: VAE, *, draws: int = 1) -> None:
        super().__init__(vae)
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        z, log_weights = _log_weights_by_path(self.vae, x, context, sample_shape(self.draws))
        return -log_weights.mean()


class ImportanceWeighted(VAEObjective):
    r"""Minus the importance-weighted bound, :math:`-\log \frac1K \sum_k w_k`; all draws run at once.

    Args:
        vae: The VAE, of parts with exact densities and a reparameterized posterior.
        draws: :math:`K`.

    Raises:
        ValueError: ``draws`` is not positive, or a part has a density that is not exact.
        NotImplementedError: the posterior is not reparameterized (when called).

    References:
        Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    """

    @checked
    def __init__(self, vae: VAE, *, draws: int) -> None:
        super().__init__(vae)
        check_draws(vae.parts, draws)
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        return -self.bound(_log_weights(self.vae, x, context, self.draws)).mean()

    def bound(self, log_weights: Tensor) -> Tensor:
        """What is maximized, in nats, from the logarithms of weights ``(draws, *batch)``."""
        return importance_weighted(log_weights)


class DoublyReparameterized(ImportanceWeighted):
    r"""Minus the importance-weighted bound, with the doubly reparameterized gradient in the posterior.

    With normalized weights :math:`\tilde w_k`, the gradient in the posterior's parameters :math:`\phi` is

    .. math:: \sum_k \tilde w_k^2 \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi},

    of the same expectation as that of :class:`ImportanceWeighted`, and with a signal that does not drown in noise as
    draws become many. The gradient in prior and likelihood is the same. The posterior must share no parameter with
    them; other than :class:`~pyrogen.core.parametric.Parametric` it runs twice.

    Args:
        vae: As for :class:`ImportanceWeighted`.
        draws: :math:`K`.

    Raises:
        ValueError: as for :class:`ImportanceWeighted`, or the posterior shares parameters with another part.

    References:
        Tucker, Lawson, Gu and Maddison 2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives",
        https://arxiv.org/abs/1810.04152
    """

    def __init__(self, vae: VAE, *, draws: int) -> None:
        super().__init__(vae, draws=draws)
        check_separate(vae.parts)

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        z, log_weights = _log_weights_by_path(self.vae, x, context, torch.Size((self.draws,)))
        weights = log_weights.detach().softmax(0)
        weigh_gradients(z, weights.reshape(weights.shape + (1,) * (z.dim() - weights.dim())))
        return -doubly_reparameterized(log_weights).mean()


class Renyi(ImportanceWeighted):
    r"""Minus the variational Rényi bound, :math:`-\frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}`.

    For :math:`\alpha = 0` it is the importance-weighted bound, towards one it becomes the evidence lower bound, and
    below zero it is no lower bound any more. Unlike Pyro's ``RenyiELBO``, which weighs a minibatch as a whole, it
    weighs every datum by itself.

    Args:
        vae: As for :class:`ImportanceWeighted`.
        alpha: :math:`\alpha`, other than one.
        draws: :math:`K`.

    Raises:
        ValueError: as for :class:`ImportanceWeighted`, or ``alpha`` is one.

    References:
        Li and Turner 2016, "Rényi divergence variational inference", https://arxiv.org/abs/1602.02311
    """

    @checked
    def __init__(self, vae: VAE, *, alpha: float, draws: int) -> None:
        if alpha == 1:
            raise ValueError("`alpha` must not be 1, where the bound is that of `BetaElbo`, got 1")
        super().__init__(vae, draws=draws)
        check_exact(vae.parts, "`vae` must have no")
        self.alpha = alpha

    def bound(self, log_weights: Tensor) -> Tensor:
        return renyi(log_weights, self.alpha)


class ReweightedWakeSleep(VAEObjective):
    r"""Minus the importance-weighted bound, with the gradients of reweighted wake-sleep.

    The other objectives move the posterior to make the bound tight, which differentiates through its draws, or, for
    discrete latents, multiplies by noisy scores. Wake-sleep fits it by maximum likelihood instead: to the latents of
    data, weighed by importance (*wake*), or to latents that the model drew along with data of its own (*sleep*).

    With draws :math:`z_k \sim q(z \mid x)`, which carry no gradient, and normalized weights :math:`\tilde w_k` of
    :math:`w_k = p(x, z_k) / q(z_k \mid x)`, prior and likelihood (:math:`\theta`) and posterior (:math:`\phi`) follow

    .. math::
        \sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k), \qquad
        (1 - s) \sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k \mid x)
        + s \, \nabla_\phi \log q_\phi(z' \mid x'), \quad z', x' \sim p_\theta(x, z) .

    The gradient in :math:`\theta` is that of :class:`ImportanceWeighted`. The first of the
    two in :math:`\phi`, *wake*, estimates that of :math:`\operatorname{KL}(p(z \mid x) \,\|\, q(z \mid x))` with a bias
    that goes as :math:`1 / K`; the second, *sleep*, has no bias, but learns where the model has its mass, not the data.
    Posteriors need not be reparameterized and latents may be discrete.

    Args:
        vae: The VAE, of parts with exact densities; the posterior shares no parameter with the others.
        draws: :math:`K`.
        sleep: :math:`s`, the share of the model's own draws in what the posterior learns from. With 1 there is no
            reweighting but that of :math:`\theta`; with one draw besides, it is the wake-sleep algorithm.

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
        super().__init__(vae)
        check_draws(vae.parts, draws)
        check_exact(vae.parts, "`vae` must have no")
        check_separate(vae.parts)
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
            surrogate = surrogate - self.sleep * self._log_posterior_of_draws(x, context).mean()
        return surrogate - surrogate.detach() - importance_weighted(log_weights).mean()

    def _log_posterior_of_draws(self, x: Tensor, context: Context) -> Tensor:
        """The posterior's log-density of latents and data that the model drew, as many as there are rows."""
        with torch.no_grad():
            z = self.vae.prior_at(context).expand(batch_shape_of(x, self.vae.event_shape, "x")).sample()
            drawn = self.vae.likelihood_at(z, context).sample()
        return self.vae.posterior_at(drawn, context).log_prob(z)


def _log_weights(vae: VAE, x: Tensor, context: Context, draws: int) -> Tensor:
    """The logarithms of importance weights, ``(draws, *batch)``."""
    posterior = vae.posterior_at(x, context)
    _require_reparameterized(posterior)
    z, log_posterior = draw_and_score(posterior, (draws,))
    return vae.likelihood_at(z, context).log_prob(x) + (vae.prior_at(context).log_prob(z) - log_posterior)


def _log_weights_by_path(vae: VAE, x: Tensor, context: Context, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Draws, and the logarithms of importance weights.

    The posterior's density moves with the draws, not with its parameters.
    """
    posterior, score = _fixed(vae.posterior, given(vae.posterior, context, x=x))
    _require_reparameterized(posterior)
    z = posterior.rsample(shape)
    return z, vae.likelihood_at(z, context).log_prob(x) + vae.prior_at(context).log_prob(z) - score(z)


def _fixed(module: DistributionModule, context: Context) -> tuple[TorchDistributionMixin, Callable[[Tensor], Tensor]]:
    """A distribution, and its log-probability with parameters that take no gradient."""
    if isinstance(module, Parametric):
        numbers = module.numbers(context)
        return module.at(numbers), module.at(numbers.detach()).log_prob

    def score(value: Tensor) -> Tensor:  # a distribution may run networks to score
        with frozen([parameter for parameter in module.parameters() if parameter.requires_grad]):
            return module(context).log_prob(value)

    return module(context), score


def _require_reparameterized(posterior: TorchDistributionMixin) -> None:
    if not posterior.has_rsample:
        raise NotImplementedError(
            "the posterior's draws are not differentiable, as this objective needs; use `BetaElbo`"
        )
