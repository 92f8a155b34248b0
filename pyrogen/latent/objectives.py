r"""Objectives for variational autoencoders: bounds of the evidence, and gradients of them with less noise.

For a Pyro pair that somebody wrote see :mod:`~pyrogen.latent.pair_objectives`.

All are losses in nats per datum of a :class:`~pyrogen.latent.model.VAE` on a minibatch ``(x, context)``. They run the
three parts directly, without Pyro's handlers, on the noise that Pyro would use. With :math:`K` draws
:math:`z_k \sim q(z \mid x)` and weights :math:`w_k = p(x, z_k) / q(z_k \mid x)`:

=================================  ====================================================================================
:class:`Elbo`                      :math:`\frac1K \sum_k \log w_k`
:class:`StickingTheLanding`        the same bound; its gradient is without noise where the posterior is the true one
:class:`ImportanceWeighted`        :math:`\log \frac1K \sum_k w_k`, tighter
:class:`DoublyReparameterized`     the same bound; its gradient in the posterior does not vanish with many draws
:class:`Renyi`                     :math:`\frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}`
=================================  ====================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import is_identically_zero
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyrogen.arguments import checked, non_negative
from pyrogen.core.module import DistributionModule
from pyrogen.core.parametric import Parametric
from pyrogen.core.shapes import Context
from pyrogen.distributions.abilities import draw_and_score, has_draw_and_score
from pyrogen.networks.statistics import ReadsData, Statistic
from pyrogen.training.turn import frozen

from .annealing import Annealing
from .parts import check_draws, check_exact, check_separate, given

if TYPE_CHECKING:
    from .model import VAE


class VAEObjective(ReadsData, nn.Module):
    """An objective of a VAE, which reads the data set before training as the VAE does."""

    vae: VAE

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.vae.read_data(x, context)


class Elbo(VAEObjective):
    r"""Minus the evidence lower bound: distortion plus rate.

    .. math::
        -\mathbb{E}_{q(z \mid x)} [\log p(x \mid z)] + \beta \max(\lambda, \operatorname{KL}(q(z \mid x) \,\|\, p(z)))

    Equal, on the same noise, to Pyro's ``Trace_ELBO`` on the model and guide of the VAE divided by the number of rows,
    and with ``analytic_kl`` to ``TraceMeanField_ELBO``. A posterior that is not reparameterised is trained by the score
    function, as Pyro does, without a baseline.

    Args:
        vae: The VAE.
        draws: How many draws of the posterior to average over.
        beta: Weight of the rate; other than one it is a bound no longer, but a trade of distortion for rate. A module
            that gives it when called, such as :class:`~pyrogen.latent.annealing.LinearAnnealing`, changes it from step
            to step.
        free_nats: The rate, averaged over the minibatch, costs at least so much: below, nothing pushes the posterior
            towards the prior.
        analytic_kl: Whether the rate is the closed form registered with torch, instead of an average over the draws.

    Raises:
        ValueError: ``draws`` is not positive, or ``beta`` or ``free_nats`` is negative.

    References:
        Kingma and Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114
        Higgins et al. 2017, "beta-VAE: learning basic visual concepts with a constrained variational framework",
        https://openreview.net/forum?id=Sy2fzU9gl
        Kingma et al. 2016, "Improving variational inference with inverse autoregressive flow" (free bits),
        https://arxiv.org/abs/1606.04934
    """

    @checked
    def __init__(
        self,
        vae: VAE,
        *,
        draws: int = 1,
        beta: float | Annealing = 1.0,
        free_nats: float = 0.0,
        analytic_kl: bool = False,
    ) -> None:
        super().__init__()
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1, got {draws}")
        if not isinstance(beta, nn.Module):
            non_negative(beta, "beta")
        self.vae = vae
        self.draws = draws
        self.beta = beta
        self.free_nats = free_nats
        self.analytic_kl = analytic_kl

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        posterior, prior = self.vae.posterior_at(x, context), self.vae.prior_at(context)
        beta = self.beta() if isinstance(self.beta, nn.Module) else self.beta
        shape = _sample_shape(self.draws)
        if self.analytic_kl and posterior.has_rsample:
            z, rate = posterior.rsample(shape), _closed_form(posterior, prior)
            return self._loss(self.vae.likelihood_at(z, context).log_prob(x), rate, beta)
        drawn = _scored_draws(posterior, shape)
        if drawn is None:
            return self._loss_by_score(x, context, posterior, prior, beta)
        z, log_posterior = drawn
        return self._loss(self.vae.likelihood_at(z, context).log_prob(x), log_posterior - prior.log_prob(z), beta)

    def _loss(self, log_likelihood: Tensor, rate: Tensor, beta: Tensor | float) -> Tensor:
        if isinstance(beta, float) and beta == 1 and not self.free_nats:
            return (rate - log_likelihood).mean()
        rate = rate.mean()
        if self.free_nats:
            rate = rate.clamp(min=self.free_nats)
        return beta * rate - log_likelihood.mean()

    def _loss_by_score(
        self,
        x: Tensor,
        context: Context,
        posterior: TorchDistributionMixin,
        prior: TorchDistributionMixin,
        beta: Tensor | float,
    ) -> Tensor:
        """The loss of a posterior that is not, or not wholly, reparameterised."""
        z = posterior(_sample_shape(self.draws))
        parts = posterior.score_parts(z)
        log_likelihood, log_prior = self.vae.likelihood_at(z, context).log_prob(x), prior.log_prob(z)
        if self.analytic_kl:
            rate = _closed_form(posterior, prior)
            return self._loss(log_likelihood, rate, beta) + _score(-log_likelihood, parts.score_function)
        rate, pathwise = parts.log_prob - log_prior, parts.entropy_term - log_prior
        weight = beta * (rate.mean() >= self.free_nats)
        score = _score(weight * rate - log_likelihood, parts.score_function)
        return self._loss(log_likelihood, rate.detach() + pathwise - pathwise.detach(), beta) + score


class StickingTheLanding(VAEObjective):
    r"""Minus the evidence lower bound, by the path derivative alone.

    The gradient of :math:`\log q_\phi(z \mid x)` in :math:`\phi` at fixed :math:`z` has expectation zero and is left
    out. The bound and the expected gradient are those of :class:`Elbo`; at the true posterior every draw's gradient in
    :math:`\phi` is zero. A posterior other than :class:`~pyrogen.core.parametric.Parametric` runs twice.

    Args:
        vae: The VAE; its posterior must be reparameterised.
        draws: How many draws of the posterior to average over.

    Raises:
        ValueError: ``draws`` is not positive.
        NotImplementedError: the posterior is not reparameterised (when called).

    References:
        Roeder, Wu and Duvenaud 2017, "Sticking the landing: simple, lower-variance gradient estimators for variational
        inference", https://arxiv.org/abs/1703.09194
    """

    @checked
    def __init__(self, vae: VAE, *, draws: int = 1) -> None:
        super().__init__()
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1, got {draws}")
        self.vae = vae
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        z, log_weights = _log_weights_by_path(self.vae, x, context, _sample_shape(self.draws))
        return -log_weights.mean()


class ImportanceWeighted(VAEObjective):
    r"""Minus the importance-weighted bound, :math:`-\log \frac1K \sum_k w_k`; all draws run at once.

    Args:
        vae: The VAE, of parts with exact densities and a reparameterised posterior.
        draws: :math:`K`.

    Raises:
        ValueError: ``draws`` is not positive, or a part has a density that is not exact.
        NotImplementedError: the posterior is not reparameterised (when called).

    References:
        Burda, Grosse and Salakhutdinov 2016, "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519
    """

    @checked
    def __init__(self, vae: VAE, *, draws: int) -> None:
        super().__init__()
        check_draws(vae, draws)
        self.vae = vae
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        log_weights = _log_weights(self.vae, x, context, self.draws)
        return math.log(self.draws) - log_weights.logsumexp(0).mean()


class DoublyReparameterized(VAEObjective):
    r"""Minus the importance-weighted bound, with the doubly reparameterised gradient in the posterior.

    With normalised weights :math:`\tilde w_k`, the gradient in the posterior's parameters :math:`\phi` is

    .. math:: \sum_k \tilde w_k^2 \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi},

    of the same expectation as that of :class:`ImportanceWeighted`, and with a signal that does not drown in noise as
    draws become many. The gradient in prior and likelihood is the same. The posterior must share no parameter with
    them; other than :class:`~pyrogen.core.parametric.Parametric` it runs twice.

    Args:
        vae: The VAE, of parts with exact densities and a reparameterised posterior.
        draws: :math:`K`.

    Raises:
        ValueError: ``draws`` is not positive, a part has a density that is not exact, or the posterior shares
            parameters with another part.
        NotImplementedError: the posterior is not reparameterised (when called).

    References:
        Tucker, Lawson, Gu and Maddison 2019, "Doubly reparameterized gradient estimators for Monte Carlo objectives",
        https://arxiv.org/abs/1810.04152
    """

    def __init__(self, vae: VAE, *, draws: int) -> None:
        super().__init__()
        check_draws(vae, draws)
        check_separate(vae)
        self.vae = vae
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        z, log_weights = _log_weights_by_path(self.vae, x, context, torch.Size((self.draws,)))
        weights = log_weights.detach().softmax(0)
        if z.requires_grad:
            latent = z.dim() - weights.dim()
            z.register_hook(lambda gradient: gradient * weights.reshape(weights.shape + (1,) * latent))
        loss = -(weights * log_weights).sum(0).mean()
        value = math.log(self.draws) - log_weights.detach().logsumexp(0).mean()
        return value + loss - loss.detach()


class Renyi(VAEObjective):
    r"""Minus the variational Rényi bound, :math:`-\frac{1}{1 - \alpha} \log \frac1K \sum_k w_k^{1 - \alpha}`.

    For :math:`\alpha = 0` it is the importance-weighted bound, towards one it becomes the evidence lower bound, and
    below zero it is no lower bound any more. Unlike Pyro's ``RenyiELBO``, which weighs a minibatch as a whole, it
    weighs every datum by itself.

    Args:
        vae: The VAE, of parts with exact densities and a reparameterised posterior.
        alpha: :math:`\alpha`, other than one.
        draws: :math:`K`.

    Raises:
        ValueError: ``alpha`` is one, ``draws`` is not positive, or a part has a density that is not exact.
        NotImplementedError: the posterior is not reparameterised (when called).

    References:
        Li and Turner 2016, "Rényi divergence variational inference", https://arxiv.org/abs/1602.02311
    """

    @checked
    def __init__(self, vae: VAE, *, alpha: float, draws: int) -> None:
        super().__init__()
        if alpha == 1:
            raise ValueError("`alpha` must not be 1, where the bound is that of `Elbo`, got 1")
        check_draws(vae, draws)
        check_exact(vae, "`vae` must have no")
        self.vae = vae
        self.alpha = alpha
        self.draws = draws

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        power = 1 - self.alpha
        log_weights = power * _log_weights(self.vae, x, context, self.draws)
        return (math.log(self.draws) - log_weights.logsumexp(0).mean()) / power


def _sample_shape(draws: int) -> torch.Size:
    return torch.Size() if draws == 1 else torch.Size((draws,))


def _log_weights(vae: VAE, x: Tensor, context: Context, draws: int) -> Tensor:
    """The logarithms of importance weights, ``(draws, *batch)``."""
    posterior = vae.posterior_at(x, context)
    _require_reparameterized(posterior)
    z, log_posterior = draw_and_score(posterior, torch.Size((draws,)))
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


def _scored_draws(posterior: TorchDistributionMixin, shape: torch.Size) -> tuple[Tensor, Tensor] | None:
    """Differentiable draws and their log-probabilities; ``None`` if the gradient has a score-function part."""
    if not posterior.has_rsample:
        return None
    if has_draw_and_score(posterior):
        return draw_and_score(posterior, shape)
    z = posterior.rsample(shape)
    # Rejection samplers say has_rsample, and still have a score-function part.
    parts = posterior.score_parts(z)
    return (z, parts.log_prob) if is_identically_zero(parts.score_function) else None


def _require_reparameterized(posterior: TorchDistributionMixin) -> None:
    if not posterior.has_rsample:
        raise NotImplementedError("the posterior's draws are not differentiable, as this objective needs; use `Elbo`")


def _closed_form(posterior: TorchDistributionMixin, prior: TorchDistributionMixin) -> Tensor:
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"torch knows no closed form for the divergence of {type(posterior).__name__} from {type(prior).__name__}; "
            "use `analytic_kl=False`"
        ) from error


def _score(cost: Tensor, score: Tensor) -> Tensor:
    """Zero, with the gradient of the score-function estimate."""
    surrogate = (cost.detach() * score).mean()
    return surrogate - surrogate.detach()
