r"""Learned likelihoods: the distribution of one row of an observed site given what it depends on.

A program draws :math:`\theta` and simulates :math:`x`. From such pairs a density estimator learns

.. math:: q(x \mid \theta) \approx p(x \mid \theta), \qquad
          \min_q \; -\mathbb{E}_{p(\theta, x)} \log q(x \mid \theta) ,

which takes the place of the simulator in any program: under NUTS, in plates of any number of rows, in a hierarchical
program. Where the row is bounded, the estimator has the real numbers :math:`u` that :math:`x = f(u)` is made of, so
that draws never leave the support and

.. math:: \log q(x \mid \theta) = \log q_u(f^{-1}(x) \mid \theta) + \log |\det J_{f^{-1}}(x)| .

What is learned is good where the prior put simulations. With :math:`n` rows its errors add up :math:`n` times.

References:
    Papamakarios, Sterratt and Murray 2019, "Sequential neural likelihood: fast likelihood-free inference with
    autoregressive flows", https://arxiv.org/abs/1805.07226
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.arguments import checked, instance_of
from pyrogen.core.density import Density
from pyrogen.core.module import DistributionModule, MaximumLikelihood
from pyrogen.core.objective import Objective
from pyrogen.core.recipe import recipe
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context
from pyrogen.networks.statistics import Statistic
from pyrogen.transforms.distribution import TransformedDistribution

from .joint.joint import Joint
from .recipes import builder, default_recipe
from .rows.coordinates import Coordinates, coordinates_of
from .rows.learned import LearnedSite, RowObjective
from .rows.row import ObservedRow, Values, row_of

Recipe = Callable[..., DistributionModule]


class Likelihood(LearnedSite):
    """The learned distribution of one row of an observed site given what it depends on.

    Made by :func:`likelihood`.

    Args:
        conditional: The distribution of the row as real numbers without bounds, or of a discrete row, given the context
            as it is, or one vector of it.
        row: The row.
        coordinates: What makes the context a vector; ``None`` for a conditional that takes it as it is.
        joint: The program, of which a pickle holds nothing.
    """

    def __init__(
        self, conditional: DistributionModule, row: ObservedRow, coordinates: Coordinates | None, joint: Joint
    ) -> None:
        super().__init__(row, joint)
        self.conditional, self.coordinates = conditional, coordinates

    @property
    def density(self) -> Density:
        """That of the conditional."""
        return self.conditional.density

    def forward(self, context: Context = None) -> TorchDistributionMixin:
        free, transform = self.conditional(self._features(context)), self.row.to_support
        if transform is None:
            return free
        return TransformedDistribution(free, [transform], parameters=self.parameters, remake=Remade(self, context))

    def objective(self) -> nn.Module:
        """Minus the mean log-likelihood of a row; of a conditional with another objective, that one."""
        return LikelihoodObjective(self)

    def read_row(self, x: Tensor, context: Values) -> Iterator[tuple[Statistic, Tensor]]:
        free = self._free(x)[0]
        if self.row.to_support is not None:
            self.row.refuse_ends(x, free)
        yield from self.conditional.read_data(free, self._features(self.row.packed(context)))

    def _features(self, context: Context) -> Context:
        return context if self.coordinates is None else self.coordinates(self.row.named(context))

    def _free(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """A row as real numbers without bounds, and the log-determinant of what made it so."""
        transform = self.row.to_support
        return (x, 0.0) if transform is None else transform.inverse_and_log_det(x)


class LikelihoodObjective(RowObjective):
    """The loss of a learned likelihood: that of its conditional; of maximum likelihood, the Jacobian counted.

    Args:
        module: What is trained.

    Raises:
        ValueError: the conditional is trained by a game.
    """

    def __init__(self, module: Likelihood) -> None:
        super().__init__(module)
        inner = module.conditional.objective()
        if not isinstance(inner, nn.Module):
            raise ValueError("`recipe` must give a module that one objective trains, got several turns")
        self.inner = inner
        self.unit = inner.unit if isinstance(inner, Objective) else self.unit

    def forward(self, latents: Any, observed: Any) -> Tensor:
        module, row = self.module, self.module.row
        pairs = module.pairs(latents, observed)
        likely = isinstance(self.inner, MaximumLikelihood)
        # Contexts that rows share go through the networks once, where all rows are there.
        x, context = row.flat(pairs) if pairs.present is not None or not likely else (pairs.x, pairs.context)
        free, log_det = module._free(x)
        loss = self.inner(free, module._features(row.packed(context)))
        return loss - torch.as_tensor(log_det).mean() if likely else loss


@recipe
@checked(recipe=builder, site=instance_of(str), embedding=instance_of(nn.Module))
def likelihood(
    joint: Joint, recipe: Recipe | None = None, *, site: str | None = None, embedding: nn.Module | None = None
) -> Likelihood:
    """A likelihood to be learned from simulations: the distribution of one row of an observed site given its parents.

    Its event is one row; its context holds the values of the parents by the names of their sites, or is a tensor where
    there is one parent alone. Freeze it, by ``.eval().requires_grad_(False)``, before it stands at a site of a program
    of your own, where ``SVI`` would train it with all else; in its ``program`` it is frozen.

    Args:
        joint: The program.
        recipe: From ``(event_shape, context_shape, *, embedding)`` to the module that learns. If ``None``,
            :func:`~pyrogen.simulation.recipes.flow`; for a discrete row a network of the
            context for a single number and a masked autoregressive one for several.
        site: The name of the observed site; may be left out where there is one alone.
        embedding: Any module from the values of the parents, rows first, to features: a tensor, or a dict by site.
            Numbers reach it standardized. ``None``: the values themselves, positive ones with their logarithms.

    Raises:
        TypeError: an argument is something else.
        ValueError: there is no such site, or one distribution cannot serve all its rows.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> import pyrogen as pg
        >>> def program(x=None):
        ...     theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", 5):
        ...         pyro.sample("x", dist.Normal(theta, 1.0), obs=x)
        >>> joint = pg.simulation.Joint(program, observed="x")
        >>> learned = likelihood(joint)
        >>> pg.fit(learned, joint.draw(50, seed=0), steps=2).reason
        'steps'
        >>> learned(torch.zeros(3)).log_prob(torch.zeros(7, 3)).shape
        torch.Size([7, 3])
    """
    row = row_of(joint, site)
    coordinates = None if embedding is not None else coordinates_of(row.parents)
    context_shape = row.context_shape if coordinates is None else (coordinates.size,)
    if recipe is None:
        recipe = default_recipe(row.variable.support)
    conditional = recipe(row.free_shape, context_shape, embedding=embedding)
    if not isinstance(conditional, DistributionModule):
        raise TypeError(f"`recipe` must give a DistributionModule, got {type(conditional).__name__}")
    return Likelihood(conditional, row, coordinates, joint)
