"""The distribution of an energy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyrogen.core.density import Density
from pyrogen.core.modes import evaluating
from pyrogen.core.remade import Remade
from pyrogen.core.shapes import Context, context_batch_shape, flatten_batch
from pyrogen.distributions.distribution import PyrogenDistribution
from pyrogen.networks.context import context_rows
from pyrogen.numerics.rows import by_datum, rearranged, spared
from pyrogen.numerics.supports import contains, element_of, point_inside
from pyrogen.numerics.values import require_numbers, require_value
from pyrogen.programs.chain import under_a_chain, under_an_elbo

from .chains import started

if TYPE_CHECKING:
    from .model import EnergyModule

_TWO_PHASES = "pyrogen.energy.elbo"


class Boltzmann(PyrogenDistribution):
    r"""The distribution of an energy, :math:`p(x \mid c) \propto e^{-E(x, c)}`: drawn from by chains.

    Args:
        module: The energy.
        context: What it is given.
        batch_shape: That of the context, possibly expanded.
    """

    density: Density = "unnormalized"

    def __init__(
        self,
        module: EnergyModule,
        context: Context = None,
        batch_shape: Iterable[int] = (),
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.module, self.context = module, context
        super().__init__(torch.Size(batch_shape), torch.Size(module.event_shape), validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return self.module.support

    @property
    def persistent(self) -> bool:
        """Whether draws come from chains that go on where they were, so that they depend on the draws before."""
        return self.module.chains.persistent

    def log_prob(self, value: Tensor) -> Tensor:
        require_value(self, value)
        if self._validate_args:
            require_numbers(value, self.support, self.module.parameters())
        if self.density == "unnormalized":
            self._refuse_inference(value)
        remake = None if self.context is None else Remade(self.module, self.context)
        return spared(partial(self._score, value), partial(self._score_rows, value), remake)

    def sample(self, sample_shape: Iterable[int] = ()) -> Tensor:
        with evaluating(self.module.chains):
            return self.advanced(sample_shape)

    @torch.no_grad()
    def advanced(self, sample_shape: Iterable[int] = ()) -> Tensor:
        """Draws like :meth:`sample`, which in training mode take persistent chains and step sizes along."""
        module, shape = self.module, self._extended_shape(torch.Size(sample_shape))
        batch = shape[: len(shape) - len(self.event_shape)]
        if self.persistent and self.context is not None:
            raise NotImplementedError(
                "persistent chains have contexts of their own, so that there are no draws for others: give the energy "
                "FreshChains"
            )
        context = context_rows(self.context, module.context_shape, batch)
        if not batch.numel():
            return module.events(started(module, 0, context)).reshape(shape)
        return module.events(module.chains.draw(module, batch.numel(), context).x).reshape(shape)

    def _refuse_inference(self, value: Tensor) -> None:
        """Refuses to be scored by inference that would miss a normalizer.

        Raises:
            NotImplementedError: it is inferred which context a value has, or parameters are trained by an ELBO.
        """
        name, batch = type(self.module).__name__, value.shape[: value.dim() - len(self.event_shape)]
        inferred = _requires_grad(self.context) or (
            self.context is not None
            and torch.broadcast_shapes(batch, context_batch_shape(self.context, self.module.context_shape)) != batch
        )
        trained = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.module.parameters())
        by_elbo = (inferred or trained) and under_an_elbo(apart=_TWO_PHASES)
        if inferred and (by_elbo or under_a_chain()):
            raise NotImplementedError(
                f"the normalizer of {name} depends on its context, which is inferred, and is not known: the posterior "
                "would be another one; use Normalized, an energy without that context, or where a bound is trained "
                "`pg.energy.EnergyElbo`"
            )
        if by_elbo:
            raise NotImplementedError(
                f"an ELBO would miss the gradient of the normalizer of {name}, and train it to be low everywhere: use "
                "`pg.energy.EnergyElbo(model, guide)`, or freeze it by `requires_grad_(False)`"
            )

    def _expanded(self, batch_shape: torch.Size) -> Boltzmann:
        return Boltzmann(self.module, self.context, batch_shape, validate_args=False)

    def _score(self, value: Tensor) -> Tensor:
        module, event_dim = self.module, len(self.event_shape)
        missing = by_datum(value.isnan(), event_dim).any(-1)
        possible = contains(element_of(self.support), value.detach()) & value.isfinite()
        inside = by_datum(possible, event_dim).all(-1)
        safe = torch.where(_beside(inside, event_dim), value, point_inside(self.support, value).detach())
        batch = torch.broadcast_shapes(inside.shape, self.batch_shape)
        rows = module.numbers(flatten_batch(safe.expand((*batch, *self.event_shape)), self.event_shape))
        score = -module.energies(rows, context_rows(self.context, module.context_shape, batch)).reshape(batch)
        return torch.where(inside, score, torch.where(missing, torch.nan, -torch.inf).to(score))

    def _score_rows(self, value: Tensor, places: Tensor, batch: torch.Size) -> Tensor:
        """The scores with other rows at each place."""
        there = self.module.forward(Remade(self.module, self.context).rows(places, batch))
        return there._score(rearranged(value, self.event_shape, batch, places))


def _requires_grad(context: Context) -> bool:
    tensors = context.values() if isinstance(context, Mapping) else () if context is None else (context,)
    return any(tensor.requires_grad for tensor in tensors)


def _beside(rows: Tensor, event_dim: int) -> Tensor:
    """A number for each event, with dimensions to broadcast over its elements."""
    return rows.reshape(rows.shape + (1,) * event_dim)
