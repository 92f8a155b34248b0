r"""What is learned from the whole data set before training begins, and what is refused there.

Networks work best on numbers of order one, so means and scales of data and contexts are put into layers of their own.
Found from a minibatch they would depend on what it happens to hold, and change whenever something is scored.
They are found from the data set instead: ``fit`` reads it once, passes every minibatch to :meth:`ReadsData.read_data`,
and merges the moments of the rows in double precision (Chan, Golub and LeVeque 1983),

.. math::
    n = n_a + n_b, \quad \delta = \bar x_b - \bar x_a, \quad \bar x = \bar x_a + \frac{n_b}{n} \delta, \quad
    M = M_a + M_b + \frac{n_a n_b}{n} \delta^2 .

The same pass sees every row, so values that a module cannot take (a label out of range, NaN) are refused there.

References:
    Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance: analysis and recommendations",
    https://doi.org/10.1080/00031305.1983.10483115
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.abstract import Abstract
from pyrogen.arguments import checked, shape

Shape = tuple[int, ...]


class RefusedDataError(ValueError):
    """Rows of data that a module cannot take.

    Args:
        demand: What was expected, naming the argument.
        got: What came.
        rows: Which rows, counted in the tensor at hand; none where it is all of them.
    """

    def __init__(self, demand: str, got: str, rows: list[int]) -> None:
        super().__init__(f"{demand}, got {got}{' in ' + listed('row', rows) if rows else ''}")
        self.demand, self.got, self.rows = demand, got, rows


def listed(noun: str, numbers: list[int]) -> str:
    """A noun and its numbers, the first few of many."""
    shown = ", ".join(map(str, numbers[:5]))
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"{noun}{'s' if len(numbers) > 1 else ''} {shown}{more}"


def require_rows(kept: Tensor, values: Tensor, demand: str) -> None:
    """Refuses rows of which an element is not as demanded.

    Args:
        kept: Whether each element is, ``(N, ...)``; a scalar counts as one row.
        values: The elements, of the same shape.
        demand: What was expected, naming the argument.

    Under ``torch.vmap``, where no branch depends on numbers, nothing is refused.

    Raises:
        RefusedDataError: an element is not.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(kept) or kept.all():
        return
    wrong = ~kept.reshape(len(kept) if kept.dim() else 1, -1)
    worst = values.reshape(wrong.shape)[wrong][0].item()
    raise RefusedDataError(demand, f"{worst:g}", wrong.any(-1).nonzero().flatten().tolist())


def require_finite(values: Tensor, name: str) -> None:
    """Refuses rows that hold NaN or an infinity.

    Raises:
        RefusedDataError: a row does.
    """
    require_rows(values.isfinite(), values, f"`{name}` must be finite")


def require_labels(labels: Tensor, classes: int, name: str = "context", lowest: int = 0) -> None:
    """Refuses labels that are not integers from ``lowest`` to ``classes - 1``.

    Raises:
        RefusedDataError: a label is out of range.
        ValueError: labels are not of an integer type.
    """
    demand = f"`{name}` must hold integer labels from {lowest} to {classes - 1}"
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"{demand}, got {labels.dtype}")
    wide = labels.long()  # a number beyond what a short type holds would wrap around in a comparison
    require_rows((wide >= lowest) & (wide < classes), labels, demand)


class Moments:
    """Count, mean and scale of rows that come in parts, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = self._square = self._low = self._high = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Takes rows ``(N, features)`` in."""
        if not len(rows):
            return
        rows = rows.detach().to("cpu" if rows.device.type == "mps" else rows.device)  # which has no float64
        part, (low, high) = type(self)(), torch.aminmax(rows, dim=0)
        part.count, part._low, part._high = len(rows), low.double(), high.double()
        part._read(rows.double())
        self.merge(part)

    def merge(self, other: Moments) -> None:
        """Takes in what another has seen."""
        if not other.count:
            return
        if not self.count:
            self.__dict__.update(other.__dict__)
            return
        count = self.count + other.count
        difference = other._mean - self._mean
        self._mean = self._mean + difference * (other.count / count)
        self._square = self._square + other._square + self._squared(difference) * (self.count * other.count / count)
        self._low, self._high = torch.minimum(self._low, other._low), torch.maximum(self._high, other._high)
        self.count = count

    def cpu(self) -> Moments:
        """The same on the CPU, as processes exchange it."""
        copy = type(self)()
        copy.__dict__ = {key: v.cpu() if isinstance(v, Tensor) else v for key, v in vars(self).items()}
        return copy

    @property
    def mean(self) -> Tensor:
        """The mean of each feature."""
        return self._mean

    @property
    def scale(self) -> Tensor:
        """The standard deviation of each feature; one where it is constant."""
        # Rounding gives a constant a tiny deviation, hence the comparison of the extremes.
        deviation = self._variance.sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return torch.where(self._high > self._low, deviation, 1.0)

    @property
    def _variance(self) -> Tensor:
        return self._square / max(self.count - 1, 1)

    def _read(self, rows: Tensor) -> None:
        variance, self._mean = torch.var_mean(rows, 0, correction=0)
        self._square = self.count * variance

    @staticmethod
    def _squared(difference: Tensor) -> Tensor:
        return difference.square()


class ObservedMoments(Moments):
    """Count, mean and scale of the entries of rows that are not NaN, for each feature by itself.

    Where all are NaN the mean is zero and the scale one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        missing = rows.isnan()
        if not len(rows):
            return
        rows = rows.detach().to("cpu" if rows.device.type == "mps" else rows.device).double()
        missing, part = missing.to(rows.device), type(self)()
        part.count, part._counts = len(rows), (~missing).sum(0).double()
        part._low, part._high = rows.masked_fill(missing, inf).amin(0), rows.masked_fill(missing, -inf).amax(0)
        part._read(rows)
        if bool(missing.any()):
            part._mean = rows.masked_fill(missing, 0.0).sum(0) / part._counts.clamp(min=1)
            part._square = (rows - part._mean).square().masked_fill(missing, 0.0).sum(0)
        self.merge(part)

    def merge(self, other: ObservedMoments) -> None:
        if not (self.count and other.count):
            super().merge(other)
            return
        counts, difference = self._counts + other._counts, other._mean - self._mean
        whole = counts.clamp(min=1)
        self._mean = self._mean + difference * (other._counts / whole)
        self._square = self._square + other._square + difference.square() * (self._counts * other._counts / whole)
        self._low, self._high = torch.minimum(self._low, other._low), torch.maximum(self._high, other._high)
        self.count, self._counts = self.count + other.count, counts

    @property
    def _variance(self) -> Tensor:
        return self._square / (self._counts - 1).clamp(min=1)


class JointMoments(Moments):
    """Count, mean and covariance of rows that come in parts, in double precision."""

    @property
    def scale(self) -> Tensor:
        """The standard deviation of each feature."""
        return self.covariance.diagonal().sqrt()

    @property
    def covariance(self) -> Tensor:
        """The covariance of the features, ``(features, features)``."""
        return self._square / max(self.count - 1, 1)

    def _read(self, rows: Tensor) -> None:
        self._mean = rows.mean(0)
        deviations = rows - self._mean
        self._square = deviations.T @ deviations

    @staticmethod
    def _squared(difference: Tensor) -> Tensor:
        return difference.outer(difference)


class Statistic(Abstract):
    """Part of a module that is learned from moments of the data set, once; it keeps whether it was in a buffer."""

    @property
    @abstractmethod
    def learned(self) -> bool:
        """Whether it has been learned."""

    def moments(self) -> Moments:
        """Empty moments, of the kind that it is learned from."""
        return Moments()

    @abstractmethod
    def learn(self, moments: Moments) -> None:
        """Takes its numbers from the moments of the data set."""

    @abstractmethod
    def reset(self, *, learned: bool = False) -> None:
        """Goes back to the identity, to be learned anew or, if it counts as learned, to stay."""


class ReadsData:
    """What reads the whole data set before it is trained: an objective, a module, a network."""

    def read_data(self, *batch: Any) -> Iterator[tuple[Statistic, Tensor]]:
        """Reads a minibatch of the data set: refuses what it cannot take, and gives the statistics to be learned.

        By default there are none. A statistic whose rows depend on another one comes after that one is learned.

        Args:
            batch: What the objective is called with; for a network the context alone, of which entries may be missing.

        Returns:
            Statistics, each with the rows ``(N, features)`` of the minibatch that it is learned from.

        Raises:
            RefusedDataError: rows hold values out of range.
        """
        return iter(())


class Standardizer(Statistic, ReadsData, nn.Module):
    r"""A context brought to mean zero and scale one, :math:`(c - \mu) / \sigma`; the identity until it is learned.

    Numbers have moments of their own, sequences ``(length, features)`` one for each feature, images (and what has more
    dimensions) one for each channel.

    Args:
        shape: Shape of one context.
        name: What errors call it.
        absent: Whether members of a sequence that are NaN are members that are not there.
        missing: Whether entries that are NaN are missing, of which nothing is learned.

    Shape:
        ``(*batch, *shape)`` to the same.
    """

    @checked(shape=shape)
    def __init__(self, shape: Shape, *, name: str = "context", absent: bool = False, missing: bool = False) -> None:
        super().__init__()
        self.shape, self.name, self.absent = tuple(shape), name, absent and len(shape) == 2
        self.missing = missing
        self.register_buffer("mean", torch.zeros(self._features()))
        self.register_buffer("scale", torch.ones(self._features()))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    def forward(self, context: Tensor) -> Tensor:
        mean, scale = self.mean, self.scale
        if not context.is_floating_point():
            context = context.to(mean.dtype)
        # In the precision of the context first: 1e9 + 1 and 1e9 - 1 differ in double precision.
        return ((context - mean) / scale).to(mean.dtype)

    def inverse(self, standardized: Tensor) -> Tensor:
        """What standardized numbers are in the units of the data."""
        return torch.addcmul(self.mean, self.scale, standardized)

    def read_data(self, context: Tensor) -> Iterator[tuple[Statistic, Tensor]]:
        rows = context.reshape(-1, *self.shape)
        if self.absent:
            missing = rows.isnan().all(-1, keepdim=True)
            require_rows(rows.isfinite() | missing, rows, f"`{self.name}` must be finite, or NaN in all of a member")
            yield self, rows[~missing.squeeze(-1)]
            return
        if self.missing:
            require_rows(~rows.isinf(), rows, f"`{self.name}` must be finite, or NaN where it is missing")
        else:
            require_finite(rows, self.name)
        if len(self.shape) < 3:
            yield self, rows.reshape(-1, self.mean.numel())
        else:
            yield self, rows.flatten(2).movedim(1, -1).flatten(0, 1)

    def moments(self) -> Moments:
        return ObservedMoments() if self.missing else Moments()

    @property
    def learned(self) -> bool:
        return bool(self.initialised)

    def learn(self, moments: Moments) -> None:
        if not moments.count:
            raise RefusedDataError(f"`{self.name}` must hold members that are there", "none in all of the data", [])
        self.mean.copy_(moments.mean.reshape(self.mean.shape))
        self.scale.copy_(moments.scale.reshape(self.scale.shape))
        self.initialised.fill_(True)

    def reset(self, *, learned: bool = False) -> None:
        self.mean.zero_()
        self.scale.fill_(1)
        self.initialised.fill_(learned)

    def _features(self) -> Shape:
        """The shape of the moments, which broadcasts with that of a context."""
        if len(self.shape) < 2:
            return self.shape
        return self.shape[-1:] if len(self.shape) == 2 else (self.shape[0], *(1,) * (len(self.shape) - 1))


class Standardizers(ReadsData, nn.ModuleDict):
    """Standardizers of the entries of a context, by name.

    Args:
        shapes: The entries to be standardized; a single context has the name ``""``.
        absent: Whether members of sequences that are NaN are members that are not there.
    """

    def __init__(self, shapes: Mapping[str, Shape], *, absent: bool = False) -> None:
        names = {key: f"context[{key!r}]" if key else "context" for key in shapes}
        parts = {key: Standardizer(shape, name=names[key], absent=absent) for key, shape in shapes.items()}
        super().__init__({entry_key(key): part for key, part in parts.items()})

    def forward(self, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All entries, those that have a standardizer standardized."""
        return {key: self[entry_key(key)](value) if entry_key(key) in self else value for key, value in entries.items()}

    def read_data(self, entries: Mapping[str, Tensor]) -> Iterator[tuple[Statistic, Tensor]]:
        for key, value in entries.items():
            if entry_key(key) in self:
                yield from self[entry_key(key)].read_data(value)


class Chained(ReadsData, nn.Sequential):
    """Networks one after the other, of which the first reads the data, if it can."""

    def read_data(self, context: Any) -> Iterator[tuple[Statistic, Tensor]]:
        return read_by(self[0], context)


def entry_key(name: str) -> str:
    """The name of a part that belongs to an entry of a context."""
    return f"entry_{name}".replace(".", "_")  # torch takes no dots


def read_by(network: nn.Module | None, context: Any) -> Iterator[tuple[Statistic, Tensor]]:
    """What a network reads of a context: nothing where either is missing, or the network reads no data."""
    return network.read_data(context) if isinstance(network, ReadsData) and context is not None else iter(())


def statistics_of(module: nn.Module) -> list[tuple[str, Statistic]]:
    """All statistics among the parts of a module, learned or not, with their names."""
    return [(name, part) for name, part in module.named_modules() if isinstance(part, Statistic)]
