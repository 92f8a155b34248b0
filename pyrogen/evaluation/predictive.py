"""Posterior predictive checks: do data replicated from the posterior look like the observed ones?

References:
    Gelman, Meng and Stern 1996, "Posterior predictive assessment of model fitness via realized discrepancies",
    https://www.stat.columbia.edu/~gelman/research/published/A6n41.pdf
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrogen.arguments import without_nan
from pyrogen.arrays import takes_arrays

from .features import Simulated, Values, data_of, one_row

Statistic = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True, repr=False)
class PredictiveCheck:
    """Statistics of the observed data among those of replicated data.

    Args:
        replicated: By statistic, of each replication, ``(draws, ...)``.
        observed: By statistic, of the observed data.
    """

    replicated: Mapping[str, Tensor]
    observed: Mapping[str, Tensor]

    @property
    def p_values(self) -> dict[str, Tensor]:
        """For each statistic the share of replications in which it is larger; equal ones count half.

        Near zero or one, the model does not reproduce the statistic. In between they are not uniform: data that the
        posterior was fitted to are closer to its replications than new ones.
        """
        return {name: _share_above(values, self.observed[name]) for name, values in self.replicated.items()}

    @property
    def two_sided(self) -> dict[str, Tensor]:
        """For each statistic twice the share of data sets as far out, on the side where there are fewer.

        The observed data are one of them, and equal ones count in full, so that few replications or few values of the
        statistic make no p-value too small.
        """
        return {name: _two_sided(values, self.observed[name]) for name, values in self.replicated.items()}

    @property
    def p_value(self) -> float:
        """One of all statistics: the smallest two-sided one, times their number (Bonferroni)."""
        every = torch.cat([p.flatten() for p in self.two_sided.values()])
        return min(1.0, every.numel() * float(every.min()))

    def __str__(self) -> str:
        count = sum(p.numel() for p in self.two_sided.values())
        lines = [f"{count} statistic{'s' * (count != 1)}: p = {self.p_value:.2g}"]
        return "\n".join(lines + [f"{name}: {_shown(p)}" for name, p in self.two_sided.items()])

    def __repr__(self) -> str:
        draws = len(next(iter(self.replicated.values())))
        return f"<PredictiveCheck of {', '.join(self.replicated)} in {draws} replications>"


@takes_arrays
def predictive_check(
    replicated: Values | Simulated, observed: Values | Tensor, *, statistics: Mapping[str, Statistic] | None = None
) -> PredictiveCheck:
    """A posterior predictive check: statistics of the observed data among those of data replicated from the posterior.

    Args:
        replicated: Data simulated at posterior draws, by site, draws first; NaN where rows are absent. Or simulations
            with ``observed`` by site, as :meth:`pyrogen.simulation.Joint.simulate` gives them.
        observed: The observed data by site, without that dimension; a tensor where there is one site.
        statistics: By name, functions of data by site, rows first, that give numbers ``(rows, ...)``. If ``None``,
            mean, standard deviation, minimum and maximum over the entries of each site.

    Raises:
        TypeError: a value is no tensor, or a statistic no function.
        ValueError: shapes do not fit, values are infinite, or a statistic is NaN or has no row for each replication.

    Example:
        >>> statistics = {"sum": lambda data: data["x"].sum(1)}
        >>> print(predictive_check({"x": torch.zeros(100, 5)}, torch.ones(5), statistics=statistics))
        1 statistic: p = 0.02
        sum: two-sided p = 0.02
    """
    replicated = data_of(replicated, "replicated")
    row = one_row(observed, replicated)
    if statistics is None:
        statistics = _default(replicated)
    if not isinstance(statistics, Mapping) or not statistics or not all(map(callable, statistics.values())):
        raise TypeError(f"`statistics` must be a dict of functions, got {statistics!r}")
    draws = len(next(iter(replicated.values())))
    found = {name: _of(name, statistic, dict(replicated), draws) for name, statistic in statistics.items()}
    seen = {name: _of(name, statistic, row, 1)[0] for name, statistic in statistics.items()}
    return PredictiveCheck(found, seen)


def _of(name: str, statistic: Statistic, values: dict[str, Tensor], rows: int) -> Tensor:
    result = without_nan(statistic(values), f"statistics[{name!r}]")
    if not result.dim() or len(result) != rows:
        raise ValueError(f"statistic {name!r} must give {rows} rows, got shape {tuple(result.shape)}")
    return result.detach()


def _default(replicated: Values) -> dict[str, Statistic]:
    statistics: dict[str, Statistic] = {}
    for site, value in replicated.items():
        if value[0].numel() == 1:
            statistics[site] = _entries(site, lambda entries: entries[:, 0])
            continue
        for name, function in _SUMMARIES.items():
            statistics[f"{name} of {site}"] = _entries(site, function)
    return statistics


def _entries(site: str, function: Callable[[Tensor], Tensor]) -> Statistic:
    return lambda values: function(values[site].double().reshape(len(values[site]), -1))


def _deviation(entries: Tensor) -> Tensor:
    return (entries - entries.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()


_SUMMARIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda entries: entries.nanmean(1),
    "standard deviation": _deviation,
    "minimum": lambda entries: entries.nan_to_num(torch.inf).amin(1),
    "maximum": lambda entries: entries.nan_to_num(-torch.inf).amax(1),
}


def _share_above(values: Tensor, observed: Tensor) -> Tensor:
    return ((values > observed).double() + 0.5 * (values == observed).double()).mean(0)


def _two_sided(values: Tensor, observed: Tensor) -> Tensor:
    fewer = torch.minimum((values >= observed).sum(0), (values <= observed).sum(0))
    return (2 * (1 + fewer).double() / (1 + len(values))).clamp(max=1.0)


def _shown(p: Tensor) -> str:
    shown = f"= {float(p):.2g}" if p.numel() == 1 else f"from {float(p.min()):.2g} to {float(p.max()):.2g}"
    return f"two-sided p {shown}"
