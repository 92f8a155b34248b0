"""The parts of a state-space model: the chain of states, what is observed of them, and what observations say."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from math import prod
from typing import Self

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrogen.arguments import integer
from pyrogen.core.module import DistributionModule
from pyrogen.core.parts import given
from pyrogen.core.shapes import Context, Shape, context_batch_shape
from pyrogen.distributions.families import Family
from pyrogen.distributions.incomplete import Incomplete
from pyrogen.distributions.normal import DiagonalNormal
from pyrogen.networks.context import context_rows
from pyrogen.networks.messages import RecurrentMessages, last_observed
from pyrogen.networks.statistics import Standardizer, Statistic
from pyrogen.networks.step_context import StepContext
from pyrogen.networks.transition import Transition
from pyrogen.numerics.autograd import full

from .chain import PosteriorChain, StateChain
from .kernels import Message, Normal, PosteriorKernel, Potential, Replacement, Transitions
from .proposals import NormalProposals, Proposals

_BEND = 10.0


class SequencePart(DistributionModule):
    """A distribution of sequences whose parameters do not depend on how many steps there are.

    Args:
        length: How many steps there are.
        step_shape: Shape of one step of the event.
        context: What is given at each step.
        own: The shape of one step of the entry that the model gives, ``{"z": (states,)}`` say.
    """

    def __init__(self, length: int, step_shape: Shape, context: StepContext, own: dict[str, Shape]) -> None:
        self._own_shapes = own
        shapes = self._shapes(length, context)
        super().__init__((integer(length, "length"), *step_shape), shapes)
        self.context = context

    @property
    def length(self) -> int:
        """How many steps there are."""
        return self.event_shape[0]

    def over(self, length: int) -> Self:
        """The same with another number of steps, and the same parameters."""
        twin = copy(self)
        twin.event_shape = (integer(length, "length"), *self.event_shape[1:])
        twin.context_shape = self._shapes(length, self.context)
        return twin

    def given_at(self, context: Context, batch: torch.Size) -> tuple[Tensor | None, Tensor | None]:
        """The vector that is given at each step, ``(*batch, length, size)``, and the gaps ``(*batch, length - 1)``."""
        shapes = self.context.shapes(self.length)
        entries = self._entries(context, shapes)
        if not shapes:
            return None, None
        rows = context_rows(entries, shapes, batch)
        vectors, gaps = self.context(rows, self.length), self.context.gaps(rows)
        return tuple(None if part is None else part.reshape(*batch, *part.shape[1:]) for part in (vectors, gaps))

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        entries = context if isinstance(context, Mapping) else {"context": context}
        return self.context.read_data({key: value for key, value in entries.items() if value is not None})

    def _entries(self, context: Context, shapes: dict[str, Shape]) -> dict[str, Tensor]:
        entries = context if isinstance(context, Mapping) else {"context": context}
        return {key: entries[key] for key in shapes}

    def _own_entry(self, context: Context) -> Tensor:
        """The entry that the model gives, alone or among others."""
        (name,) = self._own_shapes
        return context[name] if isinstance(self.context_shape, dict) else context

    def _batch_of_given(self, context: Context) -> torch.Size:
        """The batch dimensions of what is given at each step."""
        shapes = self.context.shapes(self.length)
        return context_batch_shape(self._entries(context, shapes), shapes) if shapes else torch.Size()

    def _shapes(self, length: int, context: StepContext) -> Shape | dict[str, Shape] | None:
        own = {name: (length, *shape) for name, shape in self._own_shapes.items()}
        shapes = own | context.shapes(length)
        if len(shapes) == 1 and ({"context", *own} & set(shapes)):
            return next(iter(shapes.values()))
        return shapes or None


class ObservingPart(SequencePart):
    """A posterior of states given observations, whose moments are learned from the data set; abstract."""

    @abstractmethod
    def read_observations(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        """The statistics to learn from observations ``(N, length, n)``, of which NaN marks missing ones."""

    def read_context(self, context: Context) -> Iterator[tuple[Statistic, Tensor]]:
        entries = dict(context) if isinstance(context, Mapping) else {"x": context}
        if (x := entries.pop("x", None)) is not None:
            rows = x.reshape(-1, self.length, prod(self._own_shapes["x"]))
            yield from self.read_observations(rows if rows.is_floating_point() else rows.to(torch.get_default_dtype()))
        yield from super().read_context(entries)


class Dynamics(SequencePart):
    """The prior of states: a chain of normals, whose means and scales a network computes from the state before.

    Args:
        length: How many steps there are.
        states: Size of a state.
        network: The transition.
        context: What is given at each step.
    """

    def __init__(self, length: int, states: int, network: Transition, context: StepContext) -> None:
        super().__init__(length, (states,), context, {})
        self.network = network
        self.loc = nn.Parameter(torch.zeros(states))
        self.log_scale = nn.Parameter(torch.zeros(states))
        self.start = nn.Linear(context.size, 2 * states, bias=False) if context.size else None
        self.log_rate = nn.Parameter(torch.zeros(states)) if context.irregular else None
        if self.start is not None:
            nn.init.zeros_(self.start.weight)

    def forward(self, context: Context = None) -> StateChain:
        batch = context_batch_shape(context, self.context_shape)
        return StateChain(self.kernel(context), batch, self.event_shape)

    def kernel(self, context: Context = None) -> Transitions:
        """The chain step by step."""
        vectors, start, rates = self.given_start(context)
        inputs = None if vectors is None else self.network.project(vectors[..., 1:, :])
        return Transitions(self.network, start, self.length, inputs, rates)

    def given_start(self, context: Context) -> tuple[Tensor | None, Normal, Tensor | None]:
        """What is given at each step, the distribution of the first state, and how far states relax over each gap."""
        vectors, gaps = self.given_at(context, context_batch_shape(context, self.context_shape))
        loc, log_scale = self.loc, self.log_scale
        if vectors is not None:
            moved = self.start(vectors[..., 0, :])
            loc, log_scale = (own + part for own, part in zip((loc, log_scale), moved.chunk(2, -1), strict=True))
        rates = None if gaps is None else self.log_rate.exp() * gaps.unsqueeze(-1).to(self.loc.dtype)
        return vectors, (full(loc), _bounded(full(log_scale))), rates


class Emissions(SequencePart):
    """The likelihood of observations given the states, each of its own state; NaN marks what is missing.

    Args:
        length: How many steps there are.
        observation_shape: Shape of what is observed at one step.
        states: Size of a state.
        network: From a state, and the vector that is given at its step beside it, to the numbers of the family.
        family: The distribution of an observation, of independent elements.
        context: What is given at each step.
        units: If given, the family is a diagonal normal of observations brought to mean zero and scale one.
    """

    takes_missing = True

    def __init__(
        self,
        length: int,
        observation_shape: Shape,
        states: int,
        network: nn.Module,
        family: Family,
        context: StepContext,
        units: Standardizer | None = None,
    ) -> None:
        super().__init__(length, observation_shape, context, {"z": (states,)})
        self.network = network
        self.family = family
        self.units = units

    def forward(self, context: Context = None) -> Incomplete:
        z = self._own_entry(context)
        vectors, _ = self.given_at(context, self._batch_of_given(context))
        return self.at(z, vectors)

    def at(self, z: Tensor, vectors: Tensor | None) -> Incomplete:
        """The distribution of observations at states ``(*batch, length, states)``, of any length."""
        numbers = full(self.network(beside(z, vectors)))
        shape = self.event_shape[1:]
        numbers = numbers.reshape(*numbers.shape[:-1], *self.family.numbers_shape(shape))
        return Incomplete(in_units(self.family(numbers, len(shape)), self.units).to_event(1))


class AmortizedInference(ObservingPart):
    """A posterior of states: the prior's chain, met at each step by what a network makes of observations; abstract.

    Args:
        prior: The prior, whose chain it follows.
        observation_shape: Shape of what is observed at one step.
        network: From observations, what is given at each step, and gaps, to two vectors for each step.
        context: What is given at each step.
    """

    def __init__(self, prior: SequencePart, observation_shape: Shape, network: nn.Module, context: StepContext) -> None:
        super().__init__(prior.length, prior.event_shape[1:], context, {"x": observation_shape})
        self.prior = prior
        self.network = network

    @abstractmethod
    def proposals(self, context: Context) -> Proposals:
        """The chain as proposals of particles."""

    def over(self, length: int) -> Self:
        twin = super().over(length)
        twin._modules = {**self._modules, "prior": self.prior.over(length)}
        return twin

    def normals(self, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Means and log-scales by the observations, ``(*batch, length, n)``, and where they count, ``(..., 1)``."""
        x = self._own_entry(context)
        batch = context_batch_shape(context, self.context_shape)
        x = (
            x.expand(*batch, *self._own_shape)
            .reshape(prod(batch), self.length, prod(self._own_shape[1:]))
            .to(next(self.prior.parameters()).dtype)
        )
        vectors, gaps = self.given_at(context, batch)
        vectors, gaps = (
            None if part is None else part.reshape(len(x), *part.shape[len(batch) :]) for part in (vectors, gaps)
        )
        observed = ~x.isnan()
        steps = torch.arange(self.length, device=x.device)
        known = observed.any(-1) if self.network.future is None else steps <= last_observed(observed)[:, None]
        found = [
            part.reshape(*batch, *part.shape[1:]) for part in (*self.network(x, vectors, gaps), known.unsqueeze(-1))
        ]
        return full(found[0]), _bounded(full(found[1])), found[2]

    def potential(self, context: Context) -> Potential:
        """What the observations say about each state, nothing after the last of them."""
        loc, log_scale, known = self.normals(context)
        precision = torch.where(known, (-2 * log_scale).exp(), 0.0)
        return Potential(precision * loc, precision)

    def read_observations(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        return self.network.read_data(x)

    @property
    def _own_shape(self) -> Shape:
        return self.context_shape["x"] if isinstance(self.context_shape, dict) else self.context_shape


class Inference(AmortizedInference):
    """The posterior of states: the prior's chain, met at each step by a message that a network makes of observations.

    Args:
        prior: The prior, whose chain it follows.
        observation_shape: Shape of what is observed at one step.
        network: From observations, what is given at each step, and gaps, to two vectors for each step.
        context: What is given at each step.
        structured: Whether a message is a potential, which the prior's transition meets; else it is a distribution of
            the state by itself (mean field).
    """

    prior: Dynamics

    def __init__(
        self,
        prior: Dynamics,
        observation_shape: Shape,
        network: RecurrentMessages,
        context: StepContext,
        *,
        structured: bool = True,
    ) -> None:
        super().__init__(prior, observation_shape, network, context)
        self.structured = structured

    def forward(self, context: Context = None) -> PosteriorChain:
        batch = context_batch_shape(context, self.context_shape)
        return PosteriorChain(self.kernel(context), batch, self.event_shape)

    def kernel(self, context: Context) -> PosteriorKernel:
        """The chain step by step."""
        return PosteriorKernel(self.prior.kernel(given(self.prior, context)), self.message(context))

    def message(self, context: Context) -> Message:
        """What the observations say about each state."""
        return self.potential(context) if self.structured else Replacement(*self.normals(context))

    def proposals(self, context: Context) -> Proposals:
        return NormalProposals(self.prior.kernel(given(self.prior, context)), self.message(context))


def beside(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Vectors with others beside them, where there are both."""
    if first is None or second is None:
        return second if first is None else first
    batch = torch.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return torch.cat([part.expand(*batch, part.shape[-1]) for part in (first, second)], -1)


def in_units(distribution: TorchDistributionMixin, units: Standardizer | None) -> TorchDistributionMixin:
    """A distribution of standardized events as one of events; a diagonal normal, unless there are no units."""
    if units is None:
        return distribution
    shape = distribution.event_shape
    mean, scale = units.mean.reshape(shape), units.scale.reshape(shape)
    loc, log_scale = torch.addcmul(mean, scale, distribution.loc), distribution.log_scale + scale.log()
    return DiagonalNormal(loc, log_scale, len(shape))


def _bounded(log_scale: Tensor) -> Tensor:
    """A log-scale of a latent, between -10 and 10."""
    return _BEND * torch.tanh(log_scale / _BEND)
