r"""Amortized posteriors: one network for the posterior of a program at every observed value.

From simulations :math:`(\theta, x) \sim p(\theta, x)` of a program a conditional density is learned by maximum
likelihood (neural posterior estimation),

.. math:: \min_q \mathbb{E}_{p(\theta, x)} [-\log q(\theta \mid x)]
          = \mathbb{E}_{p(x)} \, \mathrm{KL}(p(\theta \mid x) \,\|\, q(\theta \mid x)) + \text{const.}

No ``log_prob`` of the program is used. What is learned is a vector of all latent sites. Its continuous numbers are a
flow (or another recipe) over unconstrained numbers :math:`u`, brought into the supports of the sites by a bijection
:math:`c = T(u)`, so that no probability leaks out of them:

.. math:: q(d, c \mid x) = q(d \mid x) \, q(u \mid d, x) \left| \det \frac{\partial T}{\partial u} \right|^{-1} .

Discrete numbers :math:`d` come first, one after the other.

======================  =======================================================================
:math:`\theta`          the latent sites that are learned, packed into one vector ``(D,)``
:math:`x`               what is observed: a tensor, or a dict of tensors by site
:math:`d, c`            the discrete and the continuous numbers of :math:`\theta`
:math:`u`               the continuous ones as unconstrained numbers
======================  =======================================================================

References:
    Papamakarios and Murray 2016, "Fast epsilon-free inference of simulation models with Bayesian conditional density
    estimation", https://arxiv.org/abs/1605.06376
    Cranmer, Brehmer and Louppe 2020, "The frontier of simulation-based inference", https://arxiv.org/abs/1911.01429
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyrogen.arguments import checked, inner_share, instance_of, integer, switch, whole_share
from pyrogen.arrays import as_tensors
from pyrogen.autoregressive.constraints import constrained
from pyrogen.autoregressive.recipes import made
from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule
from pyrogen.core.objective import Objective
from pyrogen.core.recipe import recipe
from pyrogen.core.shapes import Context, ContextShape, context_batch_shape, require_one_context_each
from pyrogen.networks.statistics import RefusedDataError, Statistic, entry_key
from pyrogen.numerics.supports import outlying
from pyrogen.transforms.packed import Packing

from .guide import PosteriorGuide, ProgramModel
from .joint.joint import Joint
from .latents.continuous import ContinuousSites
from .latents.discrete import Alphabets, DiscreteSites
from .latents.embedding import WithDiscrete
from .latents.mixed import MixedVectors
from .latents.packing import PackedSites
from .latents.structure import dependence_matrix
from .observed import ObservedSites
from .recipes import builder, flow
from .truncated import TruncatedPrior, threshold_of

Values = Mapping[str, Tensor]


class Posterior(DistributionModule):
    r"""The amortized posterior of a program's latent sites.

    An event is one vector of all latent sites that are learned, within their own supports, in the order of the program;
    :meth:`sites` takes it apart. The context is what is observed: a tensor where there is one observed site, a dict by
    site where there are several. Objectives and :meth:`read_data` take both values by site, as
    :class:`~pyrogen.simulation.joint.simulations.Simulations` hold them, and vectors with their contexts.

    Args:
        joint: The program, and what of it is observed.
        continuous: The distribution of the continuous numbers, given what is observed and, where there are any, the
            discrete ones; ``None`` where all sites are discrete.
        discrete: The distribution of the discrete numbers; ``None`` where all sites are continuous.

    Attributes:
        joint: The program, and what of it is observed.
        packing: Where each latent site lies in a vector.
        observed: The observed sites as a context.
    """

    has_own_programs = True

    def __init__(self, joint: Joint, continuous: ContinuousSites | None, discrete: DiscreteSites | None = None) -> None:
        packing, observed = PackedSites(joint.latents), ObservedSites(joint)
        super().__init__((packing.size,), observed.shape)
        self.joint, self.packing, self.observed = joint, packing, observed
        self.continuous, self.discrete = continuous, discrete
        self._places = packing.places(discrete=True), packing.places(discrete=False)
        for place, (name, variable) in enumerate(packing.variables.items()):  # so that files fit no other sites
            self.register_buffer(f"site_{place}_{entry_key(name)}", torch.empty(0, *variable.shape))

    @property
    def density(self) -> Density:
        """That of the continuous numbers; the discrete ones are exact."""
        return "exact" if self.continuous is None else self.continuous.density

    @property
    def model(self) -> nn.Module:
        """The program as a module, called as the program is, or with a dict of all observed values by site."""
        return ProgramModel(self.joint)

    @property
    def guide(self) -> nn.Module:
        """The posterior as a guide of the program, called as its :attr:`model` is, with data.

        Raises:
            NotImplementedError: the program has nuisance sites, of which no posterior was learned.
        """
        if self.joint.nuisance:
            raise NotImplementedError(
                f"the posterior is that of {list(self.packing.variables)} alone: a guide would need one of the "
                f"nuisance sites {list(self.joint.nuisance)} too; draw from the posterior itself"
            )
        return PosteriorGuide(self)

    def __call__(self, context: Context = None) -> TorchDistributionMixin:
        context = as_tensors(context, "context")
        if not isinstance(self.context_shape, dict):  # of a single site, as its value or by its name
            context = self.observed.context(context)
        context = self.observed.padded(context)
        distribution = super().__call__(context)
        if is_validation_enabled():
            self.observed.require_numbers(context)
        return distribution

    def forward(self, context: Context = None) -> TorchDistributionMixin:
        if self.discrete is None:
            return self.continuous(context)
        if self.continuous is None:
            return self.discrete(context)
        return MixedVectors(
            self.discrete(context),
            _GivenDiscrete(self, context),
            places=self._places,
            support=self.packing.support,
        )

    def objective(self) -> PosteriorObjective:
        """Minus the log-density of the posterior; of a recipe that is trained otherwise, its own objective."""
        return PosteriorObjective(self)

    def packed(self, values: Values) -> Tensor:
        """Values by site, ``(*batch, *shape)``, as vectors ``(*batch, D)``.

        A number that rounding took to an end of its interval becomes the nearest one inside.

        Raises:
            ValueError: a site is missing or unknown, or its values have another shape.
        """
        dtype = next(part.dtype for part in self.parameters() if part.is_floating_point())
        return self.packing.packed(as_tensors(values, "values"), dtype)

    def sites(self, draws: Tensor) -> dict[str, Tensor]:
        """Vectors ``(*batch, D)`` as values by site, ``(*batch, *shape)``; those of discrete sites in their dtype."""
        return self.packing.sites(draws)

    @torch.no_grad()
    def draw(self, data: Values, draws: int) -> dict[str, Tensor]:
        """Draws for each of several data, as ``simulation_based_calibration`` takes them.

        Args:
            data: The observed values by site, rows first.
            draws: How many draws each row gets.

        Shape:
            ``(draws, rows, *shape)`` for each latent site.
        """
        return self.sites(self(self.context_of(data)).sample((integer(draws, "draws"),)))

    def log_posterior(self, latents: Values, data: Values) -> Tensor:
        """The log-density of latent values given data, one number a row: a quantity for calibration.

        Args:
            latents: The latent values by site, rows first.
            data: The observed values by site, rows first.
        """
        return self(self.context_of(data)).log_prob(self.packed(latents))

    @checked(quantile=inner_share, least_acceptance=whole_share)
    def truncated(
        self,
        x_observed: Values | Tensor,
        quantile: float = 1e-4,
        *,
        draws: int = 10_000,
        least_acceptance: float = 0.01,
    ) -> TruncatedPrior:
        """The prior where this posterior has its mass: what to simulate next for one observed datum.

        Args:
            x_observed: The datum: the value of the observed site, or values by site.
            quantile: The share of the posterior's mass that is cut off.
            draws: How many draws of the posterior the threshold of its log-density is found from.
            least_acceptance: The share of prior draws in the region below which draws are made by resampling.

        Raises:
            NotImplementedError: the log-density is a bound only, of which no region is made.
            ValueError: ``x_observed`` is more than one datum, or of another shape.
        """
        if self.density not in ("exact", "estimate"):
            raise NotImplementedError(
                f"the posterior has density {self.density!r}: the region of highest density needs an exact one, as "
                "flows have, or an estimate"
            )
        context = self.context_of(x_observed)
        if context_batch_shape(context, self.context_shape):
            raise ValueError("`x_observed` must be one datum, without batch dimensions, got several")
        threshold = threshold_of(self, context, quantile, draws)
        return TruncatedPrior(self, context, threshold, least_acceptance=least_acceptance)

    def context_of(self, observed: Values | Tensor) -> Context:
        """What is observed, by site, as the context it is here: of a single site its value alone.

        Raises:
            ValueError: a site is missing or unknown, or a plate has too few rows, or too many.
        """
        return self.observed.padded(self.observed.context(as_tensors(observed, "observed")))

    def vectors_of(self, latents: Values | Tensor) -> Tensor:
        """Latent values by site as vectors; what are vectors already stays as it is."""
        return latents if isinstance(latents, Tensor) else self.packed(latents)

    def given(self, context: Context, numbers: Tensor) -> Context:
        """The context of the continuous numbers: what is observed and, where there are any, the discrete ones."""
        if self.discrete is None:
            return context
        return {**self.observed.by_site(context), discrete_name(self.joint): self.discrete.alphabets.described(numbers)}

    def split(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The discrete and the continuous numbers of vectors."""
        if self.discrete is None:
            return vectors[..., :0], vectors
        return tuple(vectors[..., places] for places in self._places)

    def read_data(self, latents: Values | Tensor, observed: Values | Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads latent values and what was observed, see :class:`~pyrogen.networks.statistics.ReadsData`."""
        x, context = self.vectors_of(latents), self.context_of(observed)
        require_one_context_each(x, context, self.event_shape, self.context_shape)
        self.observed.require_numbers(context)
        self._refuse_outside(x)
        discrete, continuous = self.split(x)
        if self.discrete is not None:
            yield from self.discrete.read_data(discrete, context)
        if self.continuous is not None:
            yield from self.continuous.read_data(continuous, self.given(context, discrete))

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        if self.discrete is not None:
            yield from self.discrete.read_context(context)
        if self.continuous is not None:
            yield from self.continuous.read_context(
                context if self.discrete is None else self.observed.by_site(context)
            )

    def _refuse_outside(self, vectors: Tensor) -> None:
        found = self.packing.outside(vectors)
        if found is None:
            return
        name, wrong = found
        values, support = self.packing.sites(vectors)[name][wrong], self.packing.variables[name].support
        missing = values.is_floating_point() and bool(values.isnan().any())
        got = "NaN" if missing else outlying(support, values.reshape(-1, *self.packing.variables[name].shape)[0])
        rows = wrong.nonzero()[:, 0].tolist() if wrong.dim() else []
        raise RefusedDataError(f"`latents[{name!r}]` must lie in the support {support} of its site", got, rows)


@dataclass(frozen=True)
class _GivenDiscrete:
    """From discrete numbers to the distribution of the continuous ones, for what is observed."""

    posterior: Posterior
    context: Context

    def __call__(self, numbers: Tensor) -> TorchDistributionMixin:
        return self.posterior.continuous(self.posterior.given(self.context, numbers))


class PosteriorObjective(Objective):
    """Minus the mean log-density of the posterior at simulated latent values, in nats per simulation.

    Where the recipe of the continuous numbers is trained otherwise (flow matching), its own loss stands in the place of
    their part, and its unit.

    Args:
        posterior: What is trained.
    """

    def __init__(self, posterior: Posterior) -> None:
        super().__init__()
        self.posterior = posterior
        self.of_discrete = None if posterior.discrete is None else posterior.discrete.objective()
        self.of_continuous = None if posterior.continuous is None else posterior.continuous.objective()
        if self.of_continuous is not None:
            self.unit = self.of_continuous.unit

    def forward(self, latents: Values | Tensor, observed: Values | Tensor) -> Tensor:
        context = self.posterior.context_of(observed)
        discrete, continuous = self.posterior.split(self.posterior.vectors_of(latents))
        losses = []
        if self.of_discrete is not None:
            losses.append(self.of_discrete(discrete, context))
        if self.of_continuous is not None:
            losses.append(self.of_continuous(continuous, self.posterior.given(context, discrete)))
        return sum(losses)

    def read_data(self, latents: Values | Tensor, observed: Values | Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.posterior.read_data(latents, observed)


def discrete_name(joint: Joint) -> str:
    """The name that the discrete numbers have beside the observed sites: that of the first discrete site."""
    return next(name for name, variable in joint.latents.items() if variable.is_discrete)


Recipe = Callable[..., DistributionModule]


@recipe
@checked(joint=instance_of(Joint), recipe=builder, embedding=instance_of(nn.Module), structure=switch)
def posterior(
    joint: Joint, recipe: Recipe | None = None, *, embedding: nn.Module | None = None, structure: bool = False
) -> Posterior:
    """The amortized posterior of a program's latent sites, ready to be trained.

    Args:
        joint: The program, and what of it is observed.
        recipe: Builds the distribution of the continuous numbers, called as ``recipe((numbers,), context_shape,
            embedding=...)``: one of pyrogen's, or a ``functools.partial`` of one;
            :func:`~pyrogen.simulation.recipes.flow` if ``None``. ``pg.ensemble(pg.simulation.flow)`` builds five such
            flows, whose mixture is better where simulations are few.
        embedding: A network from what is observed, ``(N, *shape)`` or a dict by site, to features; one that fits the
            shapes if ``None``, and a plate whose rows are exchangeable becomes a set.
        structure: Whether each continuous number sees only those that it must, read off the program: for many local
            latent variables. The recipe must take ``dependence``, as autoregressive flows do.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> import pyrogen as pg
        >>> def program(x=None):
        ...     z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> learned = posterior(Joint(program, observed="x"))
        >>> learned(torch.tensor(1.0)).sample((5,)).shape
        torch.Size([5, 1])
    """
    recipe = flow if recipe is None else recipe
    observed = ObservedSites(joint)
    embedding = observed.embedding() if embedding is None else embedding
    shape, discrete, continuous = observed.shape, None, None
    if any(variable.is_discrete for variable in joint.latents.values()):
        discrete = _discrete_sites(joint, shape, embedding)
        site, name, features = observed.names[0], discrete_name(joint), discrete.alphabets.features
        embedding = WithDiscrete(embedding, shape, site=site, name=name, features=features)
        shape = embedding.context_shape
    support = PackedSites(joint.latents).continuous
    if support.parts:
        numbers = Packing(support).inverse_shape(torch.Size((sum(support.sizes),)))
        options = {"dependence": dependence_matrix(joint).tolist()} if structure else {}
        continuous = ContinuousSites(recipe(tuple(numbers), shape, embedding=embedding, **options), support)
    return Posterior(joint, continuous, discrete)


def _discrete_sites(joint: Joint, shape: ContextShape, embedding: nn.Module) -> DiscreteSites:
    variables = [variable for variable in joint.latents.values() if variable.is_discrete]
    alphabets = Alphabets(variables, joint.prior(1000, seed=0))
    symbols = made((alphabets.length,), shape, symbols=alphabets.symbols, hidden=(128, 128), embedding=embedding)
    if not bool(alphabets.allowed.all()):
        symbols = constrained(symbols, alphabets.allowed)
    return DiscreteSites(symbols, alphabets)
