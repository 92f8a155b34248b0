"""What observations tell about states, step by step: networks over sequences with gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pyrogen.arguments import checked, count

from .forms import Form, Plain
from .mlp import MLP
from .statistics import ReadsData, Standardizer, Statistic, require_rows


class RecurrentMessages(ReadsData, nn.Module):
    """Two vectors for each step of a sequence, from the observations after it, before it, or both.

    Observations of which NaN marks missing entries enter as zeros beside flags of what was observed. What comes after
    the last observation of a row touches nothing before it: towards the past, each row is read from its own end.

    Args:
        observations: How many numbers are observed at each step.
        states: Size of each of the two vectors.
        inputs: Size of the vector that is given at each step; 0 for none.
        irregular: Whether the times between steps are given.
        width: Size of the recurrent states.
        form: What is taken of each number that is observed; if ``None`` the number itself.
        past: Whether the observations up to a step are read.
        future: Whether those from a step on are read.

    Shape:
        Observations ``(N, length, observations)``, inputs ``(N, length, inputs)`` and gaps ``(N, length - 1)`` to two
        vectors ``(N, length, states)``.
    """

    @checked(observations=count, states=count, inputs=count)
    def __init__(
        self,
        observations: int,
        states: int,
        *,
        inputs: int = 0,
        irregular: bool = False,
        width: int = 64,
        form: Form | None = None,
        past: bool = False,
        future: bool = True,
    ) -> None:
        super().__init__()
        self.form = Plain() if form is None else form
        self.standardizer = Standardizer((1, observations * self.form.width), name="x", missing=True)
        features = observations * (self.form.width + 1) + inputs + 2 * irregular
        self.past = nn.GRU(features, width, batch_first=True) if past else None
        self.future = nn.GRU(features, width, batch_first=True) if future else None
        self.out = nn.Linear(width * (past + future), 2 * states)

    def forward(self, x: Tensor, inputs: Tensor | None = None, gaps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both vectors of each step."""
        parts, last = seen(x, self.form, self.standardizer, inputs), last_observed(~x.isnan())
        if gaps is not None:
            edges = nn.functional.pad(gaps.to(parts[0].dtype).log(), (1, 1))
            more = torch.arange(x.shape[1], device=x.device) < last[:, None]
            parts += [edges[:, :-1, None], (edges[:, 1:] * more).unsqueeze(-1)]
        features, found = torch.cat(parts, -1), []
        if self.past is not None:
            found.append(self.past(features)[0])
        if self.future is not None:
            backwards = _backwards(last, x.shape[1])
            found.append(_taken(self.future(_taken(features, backwards))[0], backwards))
        first, second = self.out(torch.cat(found, -1)).chunk(2, -1)
        return first, second

    def read_data(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads observations; missing ones do not count."""
        return read_observed(self.standardizer, self.form(x).flatten(-2))


class LocalMessages(ReadsData, nn.Module):
    """Two vectors for each step of a sequence, from the observation at that step alone.

    Args:
        observations: How many numbers are observed at each step.
        states: Size of each of the two vectors.
        inputs: Size of the vector that is given at each step; 0 for none.
        hidden: Sizes of hidden layers.
        form: What is taken of each number that is observed; if ``None`` the number itself.

    Shape:
        As :class:`RecurrentMessages`.
    """

    future = None

    @checked(observations=count, states=count, inputs=count)
    def __init__(
        self,
        observations: int,
        states: int,
        *,
        inputs: int = 0,
        hidden: Sequence[int] = (64,),
        form: Form | None = None,
    ) -> None:
        super().__init__()
        self.form = Plain() if form is None else form
        self.standardizer = Standardizer((1, observations * self.form.width), name="x", missing=True)
        self.network = MLP(observations * (self.form.width + 1) + inputs, 2 * states, hidden=hidden)

    def forward(self, x: Tensor, inputs: Tensor | None = None, gaps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both vectors of each step."""
        return self.network(torch.cat(seen(x, self.form, self.standardizer, inputs), -1)).chunk(2, -1)

    def read_data(self, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads observations; missing ones do not count."""
        return read_observed(self.standardizer, self.form(x).flatten(-2))


def seen(x: Tensor, form: Form, standardizer: Standardizer, inputs: Tensor | None) -> list[Tensor]:
    """Standardized observations with zeros for missing ones, flags of what was observed, and what else is given."""
    numbers = form(x).flatten(-2)
    values = standardizer(torch.where(numbers.isnan(), standardizer.mean, numbers))
    return [values, (~x.isnan()).to(values.dtype)] + ([] if inputs is None else [inputs])


def read_observed(standardizer: Standardizer, x: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
    """Reads observations ``(*batch, length, n)``; missing ones do not count.

    Raises:
        RefusedDataError: a sequence holds an infinity.
    """
    require_rows(~x.isinf(), x, "`x` must be finite, or NaN where it is missing")
    return standardizer.read_data(x.unsqueeze(-2))


def last_observed(observed: Tensor) -> Tensor:
    """The last step of which something is observed, ``(*batch)``, of flags ``(*batch, length, n)``; -1 if none is."""
    steps = torch.arange(observed.shape[-2], device=observed.device)
    return torch.where(observed.any(-1), steps, -1).amax(-1)


def _backwards(last: Tensor, length: int) -> Tensor:
    """The order ``last, ..., 0, last + 1, ...`` of each row's steps, which is its own inverse."""
    steps = torch.arange(length, device=last.device)
    return torch.where(steps <= last[:, None], last[:, None] - steps, steps)


def _taken(sequences: Tensor, order: Tensor) -> Tensor:
    """The steps of each row in an order of its own, picked whole; ``gather`` takes ten times as long."""
    rows, length = order.shape
    places = order + length * torch.arange(rows, device=order.device)[:, None]
    return sequences.flatten(0, 1).index_select(0, places.flatten()).reshape(sequences.shape)
