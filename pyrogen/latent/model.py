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
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyrogen.arguments import checked
from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule, data_plate
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, Shape, context_batch_shape, flatten_batch
from pyrogen.networks.statistics import ReadsData, Statistic
from pyrogen.numerics.points import point_inside
from pyrogen.numerics.randomness import held, require_one_noise
from pyrogen.programs.chain import refuse_chain

from .marginal import Joint, MarginalDistribution
from .objectives import Elbo
from .parts import check_densities, check_draws, check_shapes, common_context_shape, context_rows, given, read_part


class VAE(DistributionModule):
    r"""A variational autoencoder: a prior, a likelihood and a posterior of any family.

    Called, it is its marginal :math:`p(x \mid c)`: draws are ancestral, ``log_prob`` is an importance-weighted lower
    bound. Its Pyro ``model`` has the sites ``"z"`` and ``"x"`` in one plate ``"data"``, its ``guide`` the site ``"z"``.

    What each part is given follows from the ``context_shape`` it declares. A part with a single shape gets its main
    entry: the latent ``z`` (likelihood), the datum ``x`` (posterior), the context (prior). A part with a dict of shapes
    gets the entries it names: ``"z"`` or ``"x"``, and ``"context"``, or, for a context of several tensors, their keys.
    The ``context_shape`` of the whole is what its parts ask for, so a likelihood
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

    density: Density = "lower bound"

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
        super().__init__(likelihood.event_shape, common_context_shape(prior, likelihood, posterior))
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        check_draws(self, draws)
        self.draws = draws
        self.noise_seed = noise_seed

    @property
    def latent_shape(self) -> Shape:
        """Shape of one latent."""
        return self.prior.event_shape

    def forward(self, context: Context = None) -> MarginalDistribution:
        batch = context_batch_shape(context, self.context_shape)
        takes_missing = getattr(self.likelihood, "takes_missing", False)
        remake = None if context is None else Remade(self, context)
        return MarginalDistribution(
            _Program(self, context), batch, self.event_shape, takes_missing=takes_missing, remake=remake
        )

    def prior_at(self, context: Context = None) -> TorchDistributionMixin:
        """The prior :math:`p(z | c)`."""
        return self.prior(given(self.prior, context))

    def likelihood_at(self, z: Tensor, context: Context = None) -> TorchDistributionMixin:
        """The likelihood :math:`p(x | z, c)`."""
        return self.likelihood(given(self.likelihood, context, z=z))

    def posterior_at(self, x: Tensor, context: Context = None) -> TorchDistributionMixin:
        """The posterior :math:`q(z | x, c)`."""
        return self.posterior(given(self.posterior, context, x=x))

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from read_part(self.posterior, context, "x", x)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_part(self.prior, context)
        yield from read_part(self.likelihood, context, "z")
        yield from read_part(self.posterior, context, "x")

    @property
    def model(self) -> nn.Module:
        """The Pyro model: sites ``"z"`` and ``"x"`` in a plate ``"data"``.

        Called as ``model(x=None, context=None, size=None)``, where ``size`` is the number of data the minibatch stands
        for. Without ``x``, ``size`` data are drawn, one for each context, or one without a plate.
        """
        return VAEModel(self)

    @property
    def guide(self) -> nn.Module:
        """The Pyro guide, called like :attr:`model`: the site ``"z"``, or none without ``x``."""
        return VAEGuide(self)

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: the evidence lower bound."""
        return Elbo(self)


class VAEModel(ReadsData, nn.Module):
    """The Pyro model of a :class:`VAE`."""

    def __init__(self, module: VAE) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Tensor:
        with data_plate(self.module, x, context, size):
            z = pyro.sample("z", self.module.prior_at(context))
            return pyro.sample("x", self.module.likelihood_at(z, context), obs=x)

    def read_data(self, x: Tensor, context: Context = None, *rest: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)


class VAEGuide(nn.Module):
    """The Pyro guide of a :class:`VAE`."""

    def __init__(self, module: VAE) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor | None = None, context: Context = None, size: int | None = None) -> Tensor | None:
        if x is None:
            return None
        with data_plate(self.module, x, context, size):
            return pyro.sample("z", self.module.posterior_at(x, context))


@dataclass(frozen=True)
class _Program:
    """A VAE with its context in place, as its marginal needs it."""

    module: VAE
    context: Context

    def draw(self, shape: torch.Size) -> Tensor:
        z = self.module.prior_at(self.context).expand(shape).sample()
        return self.module.likelihood_at(z, self.context).sample()

    def log_weights(self, x: Tensor) -> Tensor:
        posterior = self.module.posterior_at(x, self.context)
        if self.module.noise_seed is None:
            refuse_chain("a VAE", "sample its latent at a site of its own, from `prior_at` and `likelihood_at`")
            z = posterior(torch.Size((self.module.draws,)))
        else:
            z = self._frozen_draws(x)
        log_joint = self.module.likelihood_at(z, self.context).log_prob(x)
        return log_joint + self.module.prior_at(self.context).log_prob(z) - posterior.log_prob(z)

    def support(self) -> constraints.Constraint:
        with torch.no_grad():
            like = next(self.module.parameters(), torch.empty(()))
            z = _latent_inside(self.module.prior_at(self.context), like)
            return self.module.likelihood_at(z, self.context).support

    def joint(self) -> Joint:
        return self.module.prior_at(self.context), lambda z: self.module.likelihood_at(z, self.context)

    def _frozen_draws(self, x: Tensor) -> Tensor:
        """Draws from the same noise for each row, whatever rows there are beside it."""
        shape, batch = self.module.event_shape, x.shape[: x.dim() - len(self.module.event_shape)]
        contexts = context_rows(self.context, self.module.context_shape, batch)
        draws = []
        require_one_noise()
        with held():
            for row, value in enumerate(flatten_batch(x, shape)):
                torch.manual_seed(self.module.noise_seed)
                context = {key: c[row] for key, c in contexts.items()} if isinstance(contexts, dict) else contexts
                context = context[row] if isinstance(context, Tensor) else context
                draws.append(self.module.posterior_at(value, context)((self.module.draws,)))
        latent = (self.module.draws, *batch, *self.module.latent_shape)
        return torch.stack(draws, 1).reshape(latent) if draws else x.new_zeros(latent)


def _latent_inside(prior: TorchDistributionMixin, like: Tensor) -> Tensor:
    """A latent that the prior can give: the same each time where its support names a point, else a draw."""
    if not prior.support.is_discrete:
        try:
            return point_inside(prior.support, like.new_empty(prior.shape()))
        except NotImplementedError:  # torch names no point inside the support of a mixture
            pass
    with held():
        return prior.sample()
