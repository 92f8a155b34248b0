r"""Variational autoencoders: latent-variable models with amortized inference.

A latent :math:`z \sim p(z \mid c)` explains a datum, :math:`x \sim p(x \mid z, c)`. The density of data is an integral,
which a *posterior* (guide, encoder) :math:`q(z \mid x, c)` bounds from below, with equality where it is the true one:

.. math::
    \log p(x \mid c) = \log \int p(x \mid z, c) \, p(z \mid c) \, dz
    \ge \mathbb{E}_{q(z \mid x, c)} \left[ \log p(x \mid z, c) + \log p(z \mid c) - \log q(z \mid x, c) \right] .

The expression in brackets is a log importance weight, :math:`\log w`. An average of :math:`K` weights inside the
logarithm bounds it tighter (Burda et al. 2016): the gap shrinks as :math:`\operatorname{var}(w / p(x)) / 2K`.

==========================  =====================================================================
:math:`x`, :math:`z`        datum and latent
:math:`c`                   context
:math:`p(z \mid c)`         the prior
:math:`p(x \mid z, c)`      the likelihood, or decoder
:math:`q(z \mid x, c)`      the posterior, or encoder
:math:`w`, :math:`K`        importance weight :math:`p(x, z) / q(z \mid x)`, and the number of draws
==========================  =====================================================================

References:
    Kingma and Welling 2014, "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114
    Rezende, Mohamed and Wierstra 2014, "Stochastic backpropagation and approximate inference in deep generative
    models", https://arxiv.org/abs/1401.4082
"""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import is_identically_zero
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence

from pyrogen.arguments import checked, integer, non_negative
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.parts import given, merged_context_shape, read_part
from pyrogen.core.shapes import Context, Shape, flatten_batch
from pyrogen.distributions.abilities import draw_and_score, has_draw_and_score
from pyrogen.networks.context import context_rows
from pyrogen.networks.statistics import Statistic
from pyrogen.numerics.randomness import held, require_one_noise
from pyrogen.numerics.supports import point_inside
from pyrogen.programs.chain import refuse_chain

from .annealing import Annealing
from .marginal import Joint, LatentVariableModel
from .parts import Parts, check_densities, check_draws, check_shapes


class VAE(LatentVariableModel):
    r"""A variational autoencoder: a prior, a likelihood and a posterior of any family.

    Called, it is its marginal :math:`p(x \mid c)`: draws are ancestral, ``log_prob`` is an importance-weighted lower
    bound. Its Pyro ``model`` has the sites ``"z"`` and ``"x"`` in one plate ``"data"``, its ``guide`` the site ``"z"``.

    What each part is given follows from the ``context_shape`` it declares. A part with a single shape gets its main
    entry: the latent ``z`` (likelihood), the datum ``x`` (posterior), the context (prior). A part with a dict of shapes
    gets the entries it names: ``"z"`` or ``"x"``, and ``"context"``, or, for a context of several tensors, their keys.
    The ``context_shape`` of the whole is what its parts take, so a likelihood
    ``{"z": (2,), "context": (3,)}`` makes a conditional model with contexts of shape ``(3,)``.

    Args:
        prior: :math:`p(z)` or :math:`p(z \mid c)`.
        likelihood: :math:`p(x \mid z)` or :math:`p(x \mid z, c)`.
        posterior: :math:`q(z \mid x)` or :math:`q(z \mid x, c)`.
        draws: How many draws of the posterior ``log_prob`` averages over, all at once.
        noise_seed: If given, ``log_prob`` uses the same noise for every row and call, as comparisons between models
            need; the rows' errors are then no longer independent, and posteriors run row by row. A Markov chain, which
            refuses fresh noise, then samples what is proportional to the exponential of that one draw of the bound.

    Raises:
        ValueError: shapes do not fit; the posterior's density is a bound (so that the objective would be none), or
            unknown; ``draws`` is more than one and a part's density is not exact (a noisy ``log_prob`` inside
            importance weights makes them biased).

    Example:
        >>> import pyrogen as pg
        >>> from pyrogen.latent import StandardNormal
        >>> likelihood = pg.Parametric(nn.Linear(2, 8), pg.families.bernoulli, event_shape=8, context_shape=2)
        >>> posterior = pg.Parametric(nn.Linear(8, 4), pg.families.diagonal_normal, event_shape=2, context_shape=8)
        >>> module = VAE(StandardNormal((2,)), likelihood, posterior)
        >>> module().log_prob(module().sample((5,))).shape
        torch.Size([5])
    """

    @checked
    def __init__(
        self,
        prior: DistributionModule,
        likelihood: DistributionModule,
        posterior: DistributionModule,
        *,
        draws: int = 100,
        noise_seed: int | None = None,
    ) -> None:
        check_shapes(prior, likelihood, posterior)
        check_densities(prior, likelihood, posterior)
        context_shape = merged_context_shape(
            ("prior", prior, None), ("likelihood", likelihood, "z"), ("posterior", posterior, "x")
        )
        super().__init__(likelihood.event_shape, context_shape)
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        check_draws(self.parts, draws)
        self.draws = draws
        self.noise_seed = noise_seed

    @property
    def parts(self) -> Parts:
        """Prior, likelihood and posterior, by these names."""
        return {"prior": self.prior, "likelihood": self.likelihood, "posterior": self.posterior}

    @property
    def latent_shape(self) -> Shape:
        """Shape of one latent."""
        return self.prior.event_shape

    @property
    def takes_missing(self) -> bool:
        """Whether NaN in an event marks what is missing: where the likelihood takes it so."""
        return self.likelihood.takes_missing

    def prior_at(self, context: Context = None) -> TorchDistributionMixin:
        """The prior :math:`p(z | c)`."""
        return self.prior(given(self.prior, context))

    def likelihood_at(self, z: Tensor, context: Context = None) -> TorchDistributionMixin:
        """The likelihood :math:`p(x | z, c)`."""
        return self.likelihood(given(self.likelihood, context, z=z))

    def posterior_at(self, x: Tensor, context: Context = None) -> TorchDistributionMixin:
        """The posterior :math:`q(z | x, c)`."""
        return self.posterior(given(self.posterior, context, x=x))

    def draws_and_rates(
        self, posterior: TorchDistributionMixin, prior: TorchDistributionMixin, shape: torch.Size
    ) -> tuple[Tensor, Tensor] | None:
        r"""Differentiable draws of the posterior, and :math:`\log q(z) - \log p(z)` of each.

        ``None`` if the gradient has a score-function part.
        """
        drawn = _scored_draws(posterior, shape)
        return None if drawn is None else (drawn[0], drawn[1] - prior.log_prob(drawn[0]))

    def bound_terms(
        self,
        x: Tensor,
        context: Context,
        posterior: TorchDistributionMixin,
        prior: TorchDistributionMixin,
        shape: torch.Size,
    ) -> tuple[Tensor, Tensor] | None:
        """Log-likelihood and rate of draws of the posterior, ``(*shape, *batch)``; ``None`` as of the rates."""
        drawn = self.draws_and_rates(posterior, prior, shape)
        return None if drawn is None else (self.likelihood_at(drawn[0], context).log_prob(x), drawn[1])

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from read_part(self.posterior, context, "x", x)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_part(self.prior, context)
        yield from read_part(self.likelihood, context, "z")
        yield from read_part(self.posterior, context, "x")

    def draw(self, shape: torch.Size, context: Context = None) -> Tensor:
        z = self.prior_at(context).expand(shape).sample()
        return self.likelihood_at(z, context).sample()

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        posterior = self.posterior_at(x, context)
        if self.noise_seed is None:
            refuse_chain("a VAE", "sample its latent at a site of its own, from `prior_at` and `likelihood_at`")
            z = posterior(torch.Size((self.draws,)))
        else:
            z = self._frozen_draws(x, context)
        log_joint = self.likelihood_at(z, context).log_prob(x) + self.prior_at(context).log_prob(z)
        return log_joint - posterior.log_prob(z)

    def support_at(self, context: Context = None) -> constraints.Constraint:
        with torch.no_grad():
            like = next(self.parameters(), torch.empty(()))
            return self.likelihood_at(_latent_inside(self.prior_at(context), like), context).support

    def joint_at(self, context: Context = None) -> Joint:
        return self.prior_at(context), lambda z: self.likelihood_at(z, context)

    def sample_model(self, x: Tensor | None, context: Context = None) -> Tensor:
        z = pyro.sample("z", self.prior_at(context))
        return pyro.sample("x", self.likelihood_at(z, context), obs=x)

    def sample_guide(self, x: Tensor, context: Context = None) -> Tensor:
        return pyro.sample("z", self.posterior_at(x, context))

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: the evidence lower bound."""
        return BetaElbo(self)

    def _frozen_draws(self, x: Tensor, context: Context) -> Tensor:
        """Draws from the same noise for each row, whatever rows there are beside it."""
        batch = x.shape[: x.dim() - len(self.event_shape)]
        contexts = context_rows(context, self.context_shape, batch)
        draws = []
        require_one_noise()
        with held():
            for row, value in enumerate(flatten_batch(x, self.event_shape)):
                torch.manual_seed(self.noise_seed)
                own = {key: c[row] for key, c in contexts.items()} if isinstance(contexts, dict) else contexts
                own = own[row] if isinstance(own, Tensor) else own
                draws.append(self.posterior_at(value, own)((self.draws,)))
        latent = (self.draws, *batch, *self.latent_shape)
        return torch.stack(draws, 1).reshape(latent) if draws else x.new_zeros(latent)


class VAEObjective(Objective):
    """An objective of a VAE, which reads the data set before training as the VAE does.

    Args:
        vae: The VAE.
    """

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.vae.read_data(x, context)


class BetaElbo(VAEObjective):
    r"""Minus the evidence lower bound: distortion plus rate.

    .. math::
        -\mathbb{E}_{q(z \mid x)} [\log p(x \mid z)] + \beta \max(\lambda, \operatorname{KL}(q(z \mid x) \,\|\, p(z)))

    Equal, on the same noise, to Pyro's ``Trace_ELBO`` on the model and guide of the VAE divided by the number of rows,
    and with ``analytic_kl`` to ``TraceMeanField_ELBO``. A posterior that is not reparameterized is trained by the score
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
        super().__init__(vae)
        if not isinstance(beta, nn.Module):
            non_negative(beta, "beta")
        self.draws = draws
        self.beta = beta
        self.free_nats = free_nats
        self.analytic_kl = analytic_kl

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        posterior, prior = self.vae.posterior_at(x, context), self.vae.prior_at(context)
        beta = self.beta() if isinstance(self.beta, nn.Module) else self.beta
        shape = sample_shape(self.draws)
        if self.analytic_kl and posterior.has_rsample:
            z, rate = posterior.rsample(shape), _closed_form(posterior, prior)
            return self._loss(self.vae.likelihood_at(z, context).log_prob(x), rate, beta)
        terms = self.vae.bound_terms(x, context, posterior, prior, shape)
        if terms is None:
            return self._loss_by_score(x, context, posterior, prior, beta)
        return self._loss(*terms, beta)

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
        """The loss of a posterior that is not, or not wholly, reparameterized."""
        z = posterior(sample_shape(self.draws))
        parts = posterior.score_parts(z)
        log_likelihood, log_prior = self.vae.likelihood_at(z, context).log_prob(x), prior.log_prob(z)
        if self.analytic_kl:
            rate = _closed_form(posterior, prior)
            return self._loss(log_likelihood, rate, beta) + _score(-log_likelihood, parts.score_function)
        rate, pathwise = parts.log_prob - log_prior, parts.entropy_term - log_prior
        weight = beta * (rate.mean() >= self.free_nats)
        score = _score(weight * rate - log_likelihood, parts.score_function)
        return self._loss(log_likelihood, rate.detach() + pathwise - pathwise.detach(), beta) + score


def _latent_inside(prior: TorchDistributionMixin, like: Tensor) -> Tensor:
    """A latent that the prior can give: the same each time where its support names a point, else a draw."""
    if not prior.support.is_discrete:
        try:
            return point_inside(prior.support, like.new_empty(prior.shape()))
        except NotImplementedError:  # torch names no point inside the support of a mixture
            pass
    with held():
        return prior.sample()


def sample_shape(draws: int) -> torch.Size:
    """That of so many draws, without a dimension for a single one."""
    integer(draws, "draws")
    return torch.Size() if draws == 1 else torch.Size((draws,))


def _scored_draws(posterior: TorchDistributionMixin, shape: torch.Size) -> tuple[Tensor, Tensor] | None:
    """Differentiable draws and their log-probabilities; ``None`` if the gradient has a score-function part."""
    if not posterior.has_rsample:
        return None
    if has_draw_and_score(posterior):
        return draw_and_score(posterior, shape)
    z = posterior.rsample(shape)
    # Rejection samplers have `has_rsample`, and still have a score-function part.
    parts = posterior.score_parts(z)
    return (z, parts.log_prob) if is_identically_zero(parts.score_function) else None


def _closed_form(posterior: TorchDistributionMixin, prior: TorchDistributionMixin) -> Tensor:
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"torch has no closed form for the divergence of {type(posterior).__name__} from {type(prior).__name__}; "
            "use `analytic_kl=False`"
        ) from error


def _score(cost: Tensor, score: Tensor) -> Tensor:
    """Zero, with the gradient of the score-function estimate."""
    surrogate = (cost.detach() * score).mean()
    return surrogate - surrogate.detach()
