"""Values by site as feature vectors of order one, for checks that compare simulations by distance or regression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from pyrogen.arguments import numbers, real_tensor
from pyrogen.numerics.pairwise import median_distance

Values = Mapping[str, Tensor]
Summary = Callable[[dict[str, Tensor]], Tensor]

_LINEAR = 5.0  # so many standard deviations from the mean, numbers are compressed to their logarithm
_MOST = 256


class Simulated(Protocol):
    """Simulations that are there already: values by site, rows first.

    Attributes:
        latents: Of the latent sites.
        observed: Of the observed sites; NaN where rows are absent.
    """

    latents: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]


class Features:
    """Feature vectors of values by site, standardized by those they are made from.

    A site has its entries for features. Where their first dimension, that of a plate if there is one, has more than
    four rows, or rows that are absent (NaN), mean, logarithm of the standard deviation and number of the rows join
    them. An absent entry counts as a mean one. Numbers beyond five standard deviations count by their logarithm. Of
    more than ``most`` features the principal components are taken.

    Args:
        values: By site, rows first.
        sets: Whether first dimensions are summarized.
        summary: A function from such values to features of its own, ``(rows, features)``; it replaces the entries.
        most: How many features there may be.
        name: What errors call the values.

    Raises:
        TypeError: a value is no tensor.
        ValueError: values are infinite, there are no rows, or the sites differ in how many they have; or what
            ``summary`` gives are no finite rows.
    """

    def __init__(
        self,
        values: Values,
        *,
        sets: bool = True,
        summary: Summary | None = None,
        most: float = _MOST,
        name: str = "observed",
    ) -> None:
        self.summary = summary
        self.shapes = {site: tuple(value.shape[1:]) for site, value in checked_values(values, name).items()}
        self.sets = {
            site
            for site, shape in self.shapes.items()
            if sets and shape and (shape[0] > 4 or values[site].isnan().any())
        }
        self.units = {
            site: _spread(values[site].detach().double().reshape(-1, 1)).nan_to_num(1.0) for site in self.sets
        }
        parts, resolutions = zip(*self._parts(values), strict=True)
        raw = torch.cat(parts, 1)
        resolution = torch.cat([raw.new_full(p.shape[1:], r) for p, r in zip(parts, resolutions, strict=True)])
        spread = _spread(raw)
        # A column that is constant up to rounding says nothing.
        varies = spread > 4 * resolution * raw.nan_to_num().abs().amax(0)
        self.mean = raw.nan_to_num().sum(0) / (~raw.isnan()).sum(0).clamp(min=1)
        self.scale = torch.where(varies, spread, torch.inf)
        self.axes = None
        if raw.shape[1] > most:
            self.axes = torch.linalg.svd(self._standardized(raw), full_matrices=False).Vh[: int(most)].T

    def __call__(self, values: Values) -> Tensor:
        """The features of values, ``(rows, features)`` in double precision."""
        found = self._standardized(torch.cat([part for part, _ in self._parts(values)], 1))
        return found if self.axes is None else found @ self.axes

    def _standardized(self, raw: Tensor) -> Tensor:
        z = ((raw - self.mean) / self.scale).nan_to_num()
        return _LINEAR * torch.asinh(z / _LINEAR)

    def _parts(self, values: Values) -> Iterator[tuple[Tensor, float]]:
        """Features in double precision, and the relative rounding of the numbers they are made of."""
        rows = len(next(iter(values.values())))
        if self.summary is not None:
            found = numbers(self.summary(dict(values)), "summary(...)")
            if found.dim() != 2 or len(found) != rows:
                raise ValueError(f"`summary` must give features of shape ({rows}, n), got {tuple(found.shape)}")
            yield found.detach().double(), _rounding(found)
            return
        for site, shape in self.shapes.items():
            value = values[site].detach().double().reshape(rows, *shape)
            yield value.reshape(rows, -1), _rounding(values[site])
            if site in self.sets:
                for part in _over_rows(value / self.units[site]):
                    yield part, _rounding(values[site])


def _rounding(value: Tensor) -> float:
    return torch.finfo(value.dtype if value.is_floating_point() else torch.double).eps


def _spread(columns: Tensor) -> Tensor:
    """The standard deviation of each column, over what is there; NaN where it is zero."""
    present = ~columns.isnan()
    count = present.sum(0).clamp(min=1)
    mean = columns.nan_to_num().sum(0) / count
    variance = torch.where(present, (columns - mean).square(), 0.0).sum(0) / count
    return torch.where(variance > 0, variance.sqrt(), torch.nan)


def _over_rows(value: Tensor) -> list[Tensor]:
    """Mean, logarithm of the standard deviation and number of the rows of a set that are there."""
    present = ~value.isnan()
    count = present.sum(1)
    mean = value.nan_to_num().sum(1) / count.clamp(min=1)
    variance = torch.where(present, (value - mean.unsqueeze(1)).square(), 0.0).sum(1) / count.clamp(min=1)
    parts = [torch.where(count > 0, mean, torch.nan), 0.5 * variance.log().clamp(min=-50.0)]
    return [part.reshape(len(value), -1) for part in (*parts, count.double())]


class RandomFeatures:
    r"""Points, and random cosines of them: linear functions of these approximate a Gaussian kernel's.

    Args:
        points: Points from which the bandwidth, their median distance, is found.
        count: How many cosines.

    Shape:
        ``(..., d)`` to ``(..., d + count)``.

    References:
        Rahimi and Recht 2007, "Random features for large-scale kernel machines"
    """

    def __init__(self, points: Tensor, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        options = {"generator": generator, "dtype": torch.double}
        try:
            bandwidth = float(median_distance(points, generator=generator))
        except ValueError:  # all points coincide
            bandwidth = 1.0
        self.frequencies = (torch.randn(points.shape[1], count, **options) / bandwidth).to(points.device)
        self.phases = (2 * torch.pi * torch.rand(count, **options)).to(points.device)

    def __call__(self, points: Tensor) -> Tensor:
        return torch.cat([points, torch.cos(points @ self.frequencies + self.phases)], -1)


def data_of(simulated: Values | Simulated, name: str) -> Values:
    """Data by site, of simulations their observed values; see :func:`checked_values`.

    Raises:
        TypeError: they are neither.
    """
    try:
        data = simulated if isinstance(simulated, Mapping) else simulated.observed
    except AttributeError:
        raise TypeError(
            f"`{name}` must be a dict of tensors by site, or simulations with `observed` by site, got "
            f"{type(simulated).__name__}"
        ) from None
    return checked_values(data, name)


def checked_values(values: Values, name: str, *, like: Features | None = None) -> Values:
    """Values by site with equally many rows, infinities refused.

    Args:
        values: The values.
        name: Of the argument.
        like: Features whose sites and shapes they must have.
    """
    if not isinstance(values, Mapping) or not values:
        raise TypeError(f"`{name}` must be a dict of tensors by site, got {type(values).__name__}")
    for site, value in values.items():
        real_tensor(value, f"{name}[{site!r}]")
        infinite = int(value.isinf().sum()) if value.is_floating_point() else 0
        if infinite:
            raise ValueError(f"`{name}[{site!r}]` must be finite, got {infinite} infinite entries")
    counts = {site: len(value) if value.dim() else 0 for site, value in values.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"`{name}` must have equally many rows at every site, at least one, got {counts}")
    if like is not None:
        shapes = {site: tuple(value.shape[1:]) for site, value in values.items()}
        if shapes != like.shapes:
            raise ValueError(f"`{name}` must have rows of the shapes {like.shapes}, got {shapes}")
    return values


def one_row(values: Values | Tensor, simulated: Values, name: str = "observed") -> dict[str, Tensor]:
    """A datum as one row of values by site, of the shapes of simulations.

    Args:
        values: Of the datum by site; a tensor where there is one site.
        simulated: Values of simulations, rows first.
        name: Of the argument.

    Raises:
        TypeError: a value is no tensor.
        ValueError: a site is missing, a shape is another one, a value is infinite, or NaN where simulations have none.
    """
    if isinstance(values, Tensor) and len(simulated) == 1:
        values = dict.fromkeys(simulated, values)
    if not isinstance(values, Mapping) or set(values) != set(simulated):
        got = list(values) if isinstance(values, Mapping) else type(values).__name__
        raise ValueError(f"`{name}` must have values of the sites {list(simulated)}, got {got}")
    for site, simulation in simulated.items():
        value = real_tensor(values[site], f"{name}[{site!r}]")
        if value.shape != simulation.shape[1:]:
            wanted = tuple(simulation.shape[1:])
            raise ValueError(f"`{name}[{site!r}]` must have shape {wanted}, got {tuple(value.shape)}")
        if not simulation.isnan().any():
            numbers(value, f"{name}[{site!r}]")
    return dict(checked_values({site: values[site][None] for site in simulated}, name))
