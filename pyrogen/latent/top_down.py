r"""Hierarchies of latents, drawn from the top down: ladder and very deep variational autoencoders.

A latent at each of :math:`L` levels, each given those above, explains the datum, and the posterior draws them in the
same order:

.. math::
    p(x, z \mid c) = p(x \mid z) \prod_{l=1}^L p(z_l \mid z_{<l}, c), \qquad
    q(z \mid x, c) = \prod_{l=1}^L q(z_l \mid z_{<l}, x, c) .

A state :math:`s_l` carries the latents down, :math:`s_{l+1} = f_l(s_l, z_l)`, in model and posterior alike. One pass of
the datum from the bottom up gives features :math:`d_l(x)` for each level, and the posterior is stated relative to the
prior, by what the features add to it:

.. math::
    p(z_l \mid s_l) = \mathcal{N}(\mu, \sigma^2), \qquad
    q(z_l \mid s_l, x) = \mathcal{N}(\mu + \sigma \, \Delta\mu, (\sigma \, \Delta\sigma)^2), \qquad
    (\Delta\mu, \log \Delta\sigma) = r_l(s_l, d_l(x)) .

Where the features say nothing the posterior is the prior, and the divergence of a level does not depend on its prior,
:math:`\operatorname{KL}_l = \frac12 \sum (\Delta\mu^2 + \Delta\sigma^2 - 1) - \sum \log \Delta\sigma`. The evidence
lower bound is

.. math::
    \log p(x \mid c) \ge \mathbb{E}_{q} \left[ \log p(x \mid z) - \sum_{l=1}^L \operatorname{KL}_l(z_{<l}) \right] .

References:
    Sønderby, Raiko, Maaløe, Sønderby and Winther 2016, "Ladder variational autoencoders",
    https://arxiv.org/abs/1602.02282
    Vahdat and Kautz 2020, "NVAE: a deep hierarchical variational autoencoder" (residual normals),
    https://arxiv.org/abs/2007.03898
    Child 2021, "Very deep VAEs generalize autoregressive models and can outperform them on images",
    https://arxiv.org/abs/2011.10650
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence

from pyrogen.arguments import anything, checked, non_negative
from pyrogen.core.module import DistributionModule, check_part
from pyrogen.core.objective import Objective
from pyrogen.core.parts import given, read_part, taken
from pyrogen.core.shapes import Context, ContextShape, Shape, batch_shape_of, context_batch_shape, flatten_batch
from pyrogen.distributions.abilities import draw_and_score
from pyrogen.distributions.families import latent_normal
from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.networks.context import context_rows
from pyrogen.networks.statistics import Statistic, read_by
from pyrogen.networks.top_down import TopDownLevel
from pyrogen.numerics.autograd import full
from pyrogen.numerics.randomness import held
from pyrogen.numerics.rows import by_rows
from pyrogen.programs.chain import refuse_chain

from .annealing import Annealing
from .marginal import LatentVariableModel
from .model import sample_shape
from .parts import check_bounding, check_draws

Choose = Callable[[str, DiagonalNormal, DiagonalNormal | None], Tensor]
"""Gives the latent of a level from its site's name, its prior and, where there is a datum, its posterior."""


class TopDown(LatentVariableModel):
    r"""A hierarchy of latents, from the top down; see :mod:`pyrogen.latent.top_down`.

    Called, it is its marginal :math:`p(x \mid c)`: draws are ancestral, ``log_prob`` is an importance-weighted lower
    bound. Its Pyro ``model`` has the sites ``"z1"`` (the top) to ``"zL"`` and ``"x"`` in one plate ``"data"``, its
    ``guide`` the latent ones. Both run the same levels, whose parameters they share. Objectives of Pyro pairs, such as
    :class:`~pyrogen.latent.pair_objectives.ImportanceWeightedPair`, take the two, and
    :func:`pyrogen.evaluation.collapse_report` reports on them by level.

    Args:
        levels: The levels' networks, from the top down.
        likelihood: :math:`p(x \mid s)`, which takes the state below the last level as its entry ``"z"``, and the
            context if it names it.
        first: Gives the state above the first level, ``(N, *state)``: called with contexts, one batch dimension in
            front, or with nothing (for one row) if there is no context.
        encoder: The pass from the bottom up: from data, one batch dimension in front, to a list of features for each
            level, from the top down.
        context_shape: Shape of the context that ``first`` takes.
        draws: How many draws of the posterior ``log_prob`` averages over, all at once.

    Raises:
        ValueError: there is no level; the likelihood takes no state, or a context that is not that of the whole; its
            density is unnormalized or missing, or not exact and ``draws`` more than one.

    Example:
        >>> from pyrogen.latent import top_down
        >>> module = top_down((8,), levels=(2, 3), width=16, draws=10)
        >>> module().log_prob(module().sample((5,))).shape
        torch.Size([5])
    """

    @checked
    def __init__(
        self,
        levels: Sequence[TopDownLevel],
        likelihood: DistributionModule,
        *,
        first: nn.Module,
        encoder: nn.Module,
        context_shape: ContextShape = None,
        draws: int = 100,
    ) -> None:
        check_part(likelihood, "likelihood")
        check_bounding("likelihood", likelihood)
        check_draws({"likelihood": likelihood}, draws)
        super().__init__(likelihood.event_shape, context_shape)
        self.levels = nn.ModuleList(levels)
        self.likelihood = likelihood
        self.first = first
        self.encoder = encoder
        self.draws = draws
        _check(self)

    @property
    def sites(self) -> list[str]:
        """The names of the latent sites, from the top down."""
        return [f"z{place}" for place in range(1, len(self.levels) + 1)]

    @property
    def takes_missing(self) -> bool:
        """Whether NaN in an event marks what is missing: where the likelihood takes it so."""
        return self.likelihood.takes_missing

    def descend(self, choose: Choose, context: Context = None, x: Tensor | None = None) -> TorchDistributionMixin:
        """The likelihood below all levels, each of whose latents is chosen from its prior and posterior.

        Args:
            choose: Gives the latent of a level.
            context: The context.
            x: The datum of the posteriors; without one there are none.
        """
        state, rank = self._first_state(context), len(taken(self.likelihood, "z"))
        every = [None] * len(self.levels) if x is None else self._features(x)
        for name, level, features in zip(self.sites, self.levels, every, strict=True):
            prior = _normal(by_rows(level.prior, (state, rank)), level.latent_shape)
            if features is None:
                posterior = None
            else:
                residual = by_rows(level.residual, (state, rank), features)
                posterior = _relative(prior, _normal(residual, level.latent_shape))
            z = choose(name, prior, posterior)
            state = by_rows(level, (state, rank), (z, len(level.latent_shape)))
        return self.likelihood(given(self.likelihood, context, z=state))

    def rates(self, x: Tensor, context: Context = None, *, draws: int = 1) -> Tensor:
        """The divergence of each level's posterior from its prior, in nats of every datum, ``(levels, *batch)``.

        In the levels below the first it is a mean over draws of the latents above. Its sum over levels is the rate.
        """
        _, rates = self.bound_terms(x, context, draws=draws)
        return rates if draws == 1 else rates.mean(1)

    def bound_terms(self, x: Tensor, context: Context = None, *, draws: int = 1) -> tuple[Tensor, Tensor]:
        """What the evidence lower bound consists of: log-likelihood, and the divergence of each level in closed form.

        Returns:
            Nats ``(*batch)`` and ``(levels, *batch)`` of one draw of the posterior, ``(draws, *batch)`` and ``(levels,
            draws, *batch)`` of several.
        """
        whole = sample_shape(draws) + batch_shape_of(x, self.event_shape, "x")
        rates: list[Tensor] = []

        def drawn(name: str, prior: DiagonalNormal, posterior: DiagonalNormal) -> Tensor:
            rates.append(kl_divergence(posterior, prior).expand(whole))
            return posterior.expand(whole).rsample()

        return self.descend(drawn, context, x).log_prob(x), torch.stack(rates)

    def draw(self, shape: torch.Size, context: Context = None) -> Tensor:
        return self.descend(lambda name, prior, posterior: prior.expand(shape).sample(), context).sample()

    def log_weights(self, x: Tensor, context: Context = None) -> Tensor:
        refuse_chain("a TopDown", "sample its latents at sites of their own, as its `model` does")
        whole = torch.Size((self.draws, *batch_shape_of(x, self.event_shape, "x")))
        ratios: list[Tensor] = []

        def drawn(name: str, prior: DiagonalNormal, posterior: DiagonalNormal) -> Tensor:
            z, log_posterior = draw_and_score(posterior.expand(whole))
            ratios.append(prior.log_prob(z) - log_posterior)
            return z

        return self.descend(drawn, context, x).log_prob(x) + torch.stack(ratios).sum(0)

    def support_at(self, context: Context = None) -> constraints.Constraint:
        with held(), torch.no_grad():
            return self.descend(lambda name, prior, posterior: prior.mean, context).support

    def sample_model(self, x: Tensor | None, context: Context = None) -> Tensor:
        self(context)  # the call shows SVI the parameters of the levels, which are no distributions themselves
        likelihood = self.descend(lambda name, prior, posterior: pyro.sample(name, prior), context)
        return pyro.sample("x", likelihood, obs=x)

    def sample_guide(self, x: Tensor, context: Context = None) -> None:
        self(context)
        self.descend(lambda name, prior, posterior: pyro.sample(name, posterior), context, x)

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        yield from super().read_data(x, context)
        yield from read_by(self.encoder, x)

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        yield from read_by(self.first, context)
        yield from read_part(self.likelihood, context, "z")

    def objective(self) -> nn.Module:
        """The default objective, which ``fit`` uses: the evidence lower bound."""
        return TopDownElbo(self)

    def _first_state(self, context: Context) -> Tensor:
        batch = context_batch_shape(context, self.context_shape)
        rows = context_rows(context, self.context_shape, batch)
        state = self.first() if rows is None else self.first(rows)
        return state.reshape(batch + state.shape[1:])

    def _features(self, x: Tensor) -> list[tuple[Tensor, int]]:
        """What the pass from the bottom up gives each level, with how many dimensions that has."""
        batch = batch_shape_of(x, self.event_shape, "x")
        found = self.encoder(flatten_batch(x, self.event_shape))
        if len(found) != len(self.levels):
            raise ValueError(f"`encoder` must give features for {len(self.levels)} levels, got {len(found)}")
        return [(features.reshape(batch + features.shape[1:]), features.dim() - 1) for features in found]


class TopDownElbo(Objective):
    r"""Minus the evidence lower bound of a hierarchy, with the divergence of each level in closed form.

    .. math::
        -\mathbb{E}_q [\log p(x \mid z)] + \beta \sum_l \max(\lambda_l, \mathbb{E}_q \operatorname{KL}_l)

    With :math:`\beta = 1` and no free nats it is, on the same noise, Pyro's ``TraceMeanField_ELBO`` on the model and
    guide divided by the number of rows. A weight and free nats act in training mode alone: in evaluation mode, as in
    the validation of ``fit``, the loss is minus the bound itself.

    Args:
        module: The hierarchy.
        draws: How many draws of the posterior to average over.
        beta: Weight of the rate, or a module that gives it, such as
            :class:`~pyrogen.latent.annealing.LinearAnnealing`.
        free_nats: The rate of each level, averaged over the minibatch, costs at least so much: below, nothing pushes
            the level's posterior towards its prior. A number for every level, or one for each from the top down.

    Raises:
        TypeError: ``free_nats`` is neither a number nor a list.
        ValueError: ``draws`` is not positive, a weight is negative, or there are not as many as levels.

    References:
        Kingma et al. 2016, "Improving variational inference with inverse autoregressive flow" (free bits),
        https://arxiv.org/abs/1606.04934
    """

    free: Tensor

    @checked(free_nats=anything)
    def __init__(
        self,
        module: TopDown,
        *,
        draws: int = 1,
        beta: float | Annealing = 1.0,
        free_nats: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        if not isinstance(beta, nn.Module):
            non_negative(beta, "beta")
        count = len(module.levels)
        each = [free_nats] * count if isinstance(free_nats, (int, float)) else free_nats
        if not isinstance(each, Sequence) or isinstance(each, str):
            got = type(each).__name__
            raise TypeError(f"`free_nats` must be a number, or a list of one for each of {count} levels, got {got}")
        if len(each) != count:
            raise ValueError(f"`free_nats` must be a number, or one for each of {count} levels, got {len(each)}")
        self.module = module
        self.draws = draws
        self.beta = beta
        self.register_buffer("free", torch.tensor([float(non_negative(one, "free_nats")) for one in each]), False)

    def forward(self, x: Tensor, context: Context = None) -> Tensor:
        log_likelihood, rates = self.module.bound_terms(x, context, draws=self.draws)
        rates = rates.flatten(1).mean(1)  # (levels,)
        if not self.training:
            return rates.sum() - log_likelihood.mean()
        beta = self.beta() if isinstance(self.beta, nn.Module) else self.beta
        return beta * rates.clamp(min=self.free.to(rates)).sum() - log_likelihood.mean()

    def read_data(self, x: Tensor, context: Context = None) -> Iterator[tuple[Statistic, Tensor]]:
        return self.module.read_data(x, context)


def _normal(numbers: Tensor, latent_shape: Shape) -> DiagonalNormal:
    """A normal of the numbers that a level gives, ``(*batch, 2 * size, ...)``."""
    batch = numbers.shape[: numbers.dim() - len(latent_shape)]
    return latent_normal(full(numbers.reshape(*batch, 2, *latent_shape)), len(latent_shape))


def _relative(prior: DiagonalNormal, residual: DiagonalNormal) -> DiagonalNormal:
    """The normal whose means and scales are given in those of another."""
    loc, log_scale = prior.loc + prior.stddev * residual.loc, prior.log_scale + residual.log_scale
    return DiagonalNormal(loc, log_scale, len(prior.event_shape))


def _check(module: TopDown) -> None:
    if not module.levels:
        raise ValueError("`levels` must hold at least one level, got none")
    for level in module.levels:
        if not isinstance(level, TopDownLevel):
            raise ValueError(f"`levels` must hold networks.TopDownLevel, got {type(level).__name__}")
    shape = module.likelihood.context_shape
    if taken(module.likelihood, "z") is None:
        raise ValueError(f'`likelihood` must take the last state as the entry "z", got context shape {shape}')
    own = module.context_shape
    known = own if isinstance(own, dict) else {} if own is None else {"context": own}
    others = {key: value for key, value in shape.items() if key != "z"} if isinstance(shape, dict) else {}
    if strange := {key: value for key, value in others.items() if known.get(key) != value}:
        raise ValueError(f"`likelihood` must take of the context what the whole has, {own}, got {strange}")
