r"""Models of rows with missing entries, and their imputation.

A row :math:`x` falls into what is observed and what is missing, and :math:`s` says which. If the pattern carries no
information (entries are *missing at random*), a VAE is fitted to what is observed alone, by the bound of Mattei and
Frellsen,

.. math:: \log p(x_{obs}) \ge \mathbb{E} \left[ \log \frac1K \sum_k
    \frac{p(x_{obs} \mid z_k) \, p(z_k)}{q(z_k \mid x_{obs})} \right], \qquad z_k \sim q(z \mid x_{obs}),

and if entries are missing for what they would have been, the pattern gets a model :math:`p(s \mid x)` of its own
(Ipsen et al.), with missing entries drawn from the likelihood beside the latent:

.. math:: w_k = \frac{p(x_{obs} \mid z_k) \, p(s \mid x_{obs}, x_{mis, k}) \, p(z_k)}{q(z_k \mid x_{obs})},
    \qquad x_{mis, k} \sim p(x_{mis} \mid z_k) .

Both are a :class:`~pyrogen.latent.model.VAE` whose likelihood is an :class:`IncompleteLikelihood`, trained by
:class:`~pyrogen.latent.objectives.ImportanceWeighted`. The same weights make of the draws a sample of
:math:`p(x_{mis} \mid x_{obs})`.

References:
    Mattei and Frellsen 2019, "MIWAE: deep generative modelling and imputation of incomplete data sets",
    https://arxiv.org/abs/1812.02633
    Ipsen, Mattei and Frellsen 2021, "not-MIWAE: deep generative modelling with missing not at random data",
    https://arxiv.org/abs/2006.12871
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.arguments import checked, instance_of, whole_share
from pyrogen.core.density import Density, weakest
from pyrogen.core.module import DistributionModule
from pyrogen.core.parts import given, taken
from pyrogen.core.shapes import Context
from pyrogen.distributions.abilities import draw_and_score, has_draw_and_score
from pyrogen.distributions.incomplete import Incomplete
from pyrogen.networks.statistics import Statistic

from .model import VAE
from .state_space.recurrent import DrivenSequences


class IncompleteLikelihood(DistributionModule):
    """A likelihood of events with gaps, which NaN marks.

    Args:
        likelihood: That of complete events, whose elements are independent given the latent.
        missingness: If entries are missing for what they would have been: the distribution of a binary event, one where
            observed, that takes the complete event as its context (an entry ``"x"`` if it takes several).

    Raises:
        ValueError: the missingness model's event is not that of the likelihood, or it does not take such an event.

    Example:
        >>> import pyrogen as pg
        >>> decoder = pg.Parametric(torch.nn.Linear(2, 3), pg.families.normal(1.0), event_shape=3, context_shape=2)
        >>> IncompleteLikelihood(decoder)(torch.zeros(2)).log_prob(torch.tensor([0.0, torch.nan, torch.nan]))
        tensor(..., grad_fn=<SumBackward1>)
    """

    takes_missing = True
    weighs_without_bias = True

    def __init__(self, likelihood: DistributionModule, missingness: DistributionModule | None = None) -> None:
        super().__init__(likelihood.event_shape, likelihood.context_shape)
        if missingness is not None and not self.event_shape == missingness.event_shape == taken(missingness, "x"):
            raise ValueError(
                f"`missingness` must have event and context shape {self.event_shape}, as the likelihood's event, got "
                f"{missingness.event_shape} and {missingness.context_shape}"
            )
        self.likelihood = likelihood
        self.missingness = missingness

    @property
    def density(self) -> Density:
        """Exact, or a lower bound in expectation where missing entries have to be drawn."""
        return weakest(self.likelihood.density, "exact" if self.missingness is None else "lower bound")

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        return self.likelihood.read_context(context)

    def forward(self, context: Context = None) -> Incomplete:
        missingness = self.missingness
        if missingness is None:
            return Incomplete(self.likelihood(context))
        return Incomplete(self.likelihood(context), lambda x: missingness(given(missingness, context, x=x)))


@dataclass(frozen=True)
class Imputation:
    """Completed events with importance weights: a sample of what is missing given what is observed.

    Observed entries are the same in all draws. Averages use the weights, which is more precise than drawing anew.
    """

    values: Tensor
    """Completed events, ``(draws, *batch, *event)``."""

    log_weights: Tensor
    """Logarithms of their normalized weights, ``(draws, *batch)``."""

    @property
    def mean(self) -> Tensor:
        """The mean of each entry, ``(*batch, *event)``."""
        return (self._weights * self.values).sum(0)

    @property
    def effective_draws(self) -> Tensor:
        """How many draws of equal weight would be as precise, ``batch``; take more draws where they are few."""
        return (-(2 * self.log_weights).logsumexp(0)).exp()

    def probability(self, value: float) -> Tensor:
        """The probability that an entry has a value, for counts and labels, ``(*batch, *event)``."""
        return (self._weights * (self.values == value)).sum(0)

    def quantile(self, level: float) -> Tensor:
        """The value below which an entry lies with probability ``level``, ``(*batch, *event)``.

        Raises:
            ValueError: ``level`` is not between 0 and 1.
        """
        whole_share(level, "level")
        values, order = self.values.sort(0)
        below = self._weights.expand_as(self.values).gather(0, order).cumsum(0)
        place = (below < level * below[-1:]).sum(0, keepdim=True).clamp(max=len(values) - 1)
        return values.gather(0, place).squeeze(0)

    def interval(self, coverage: float = 0.9) -> tuple[Tensor, Tensor]:
        """The central interval that holds an entry with probability ``coverage``.

        Raises:
            ValueError: ``coverage`` is not between 0 and 1.
        """
        whole_share(coverage, "coverage")
        return self.quantile((1 - coverage) / 2), self.quantile((1 + coverage) / 2)

    def sample(self, draws: int) -> Tensor:
        """Completed events of equal weight, ``(draws, *batch, *event)``."""
        rows = self.log_weights.flatten(1).T.exp()
        chosen = torch.multinomial(rows, draws, replacement=True).T.reshape(draws, *self.log_weights.shape[1:])
        index = chosen.reshape(chosen.shape + (1,) * (self.values.dim() - chosen.dim()))
        return self.values.gather(0, index.expand(draws, *self.values.shape[1:]))

    @property
    def _weights(self) -> Tensor:
        extra = self.values.dim() - self.log_weights.dim()
        return self.log_weights.exp().reshape(self.log_weights.shape + (1,) * extra)


@checked(vae=instance_of(VAE))
def impute(vae: VAE, x: Tensor, *, draws: int, context: Context = None) -> Imputation:
    r"""What stands in the gaps of events, by self-normalized importance sampling.

    Each draw is a latent of the posterior, the missing entries drawn from the likelihood given it, and its weight
    :math:`w_k`; normalized, they are a sample of :math:`p(x_{mis} \mid x_{obs})`, or with a missingness model of
    :math:`p(x_{mis} \mid x_{obs}, s)`, that is exact in the limit of many draws.

    Args:
        vae: A VAE whose likelihood is an :class:`IncompleteLikelihood`, or a state-space model.
        x: Events with NaN where entries are missing, ``(*batch, *event)``.
        draws: How many draws for each event, all held at once.
        context: The context of a conditional VAE.

    Raises:
        TypeError: ``vae`` is no VAE.
        ValueError: the likelihood takes no gaps, or there is no draw.

    Example:
        >>> from pyrogen.latent import missing_data_vae
        >>> module = missing_data_vae((3,), latent_shape=(2,))
        >>> filled = impute(module, torch.tensor([[0.5, torch.nan, 1.0]]), draws=50)
        >>> filled.mean.shape, [bound.shape for bound in filled.interval(0.9)]
        (torch.Size([1, 3]), [torch.Size([1, 3]), torch.Size([1, 3])])
    """
    with torch.no_grad():
        posterior = vae.posterior_at(x, context)
        if has_draw_and_score(posterior):
            z, log_posterior = draw_and_score(posterior, (draws,))
        else:
            z = posterior.sample((draws,))
            log_posterior = posterior.log_prob(z)
        likelihood = vae.likelihood_at(z, context)
        if not isinstance(likelihood, Incomplete | DrivenSequences):
            raise ValueError(f"`vae` must have an IncompleteLikelihood, got {type(vae.likelihood).__name__}")
        values, log_likelihood = likelihood.complete(x)
        log_weights = log_likelihood + vae.prior_at(context).log_prob(z) - log_posterior
        return Imputation(values, log_weights.log_softmax(0))
