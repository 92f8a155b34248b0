r"""Which model gives held-out data more probability, and by how much: several models on the same data, in pairs.

All models find the same data hard, so what is compared is the difference of two models' log-probabilities datum by
datum, whose standard error is usually far below those of the two means.

A *module* is ready: it is scored as it is, once, on all the data, which it must not have seen. A *factory*, a function
without arguments that makes a fresh module, is fitted: the data are divided into folds, and each fold is scored by a
module that was fitted to the others, so that every datum is held out once. The standard error is then the larger of
two: that over the data, and that over the folds, which sees the luck of training. (Folds share their training data, so
even that is a little too small: Bengio and Grandvalet 2004, "No unbiased estimator of the variance of K-fold
cross-validation", https://www.jmlr.org/papers/v5/grandvalet04a.html.)

A bound is shown with its label, and no difference from a bound is given: bound minus bound bounds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import hypot, sqrt
from typing import TYPE_CHECKING

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.arguments import integer
from pyrogen.arrays import takes_arrays
from pyrogen.core.density import Density, weakest
from pyrogen.core.estimate import Estimate
from pyrogen.core.module import DistributionModule
from pyrogen.numerics.randomness import seeded
from pyrogen.programs.layouts import select_rows
from pyrogen.training.progress import Fit

from .density import paired
from .pairs import checked_rows
from .scoring import Model, Scores, require_baseline, require_model, require_normalized, score
from .table import aligned

if TYPE_CHECKING:
    from pandas import DataFrame

MakeModule = Callable[[], DistributionModule]


@dataclass(frozen=True, repr=False)
class Comparison:
    """The log-probabilities that several models give the same data.

    Args:
        log_probs: For each model that of every datum, in nats.
        densities: What they mean.
        baseline: The model that the others are compared with in the table; ``None`` where all are bounds.
        fold: For each datum the fold in which it was held out.
        fitted: The models that were fitted on the other folds.
        shared_errors: The standard error that all log-probabilities of a model share, of an estimated normalizer.
    """

    log_probs: Mapping[str, Tensor]
    densities: Mapping[str, Density]
    baseline: str | None
    fold: Tensor
    fitted: frozenset[str] = field(default_factory=frozenset)
    shared_errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def data(self) -> int:
        """How many data there are."""
        return len(self.fold)

    def log_likelihood(self, name: str) -> Estimate:
        """The mean log-likelihood of a model, in nats per datum.

        Raises:
            ValueError: there is no such model.
        """
        return self._mean(self._of(name), self.densities[name], name)

    def difference(self, first: str, second: str) -> Estimate:
        """By how many nats per datum the first model beats the second, with the paired standard error.

        Raises:
            NotImplementedError: the second model's log-probabilities are a bound.
            ValueError: there is no such model, or a datum has probability zero under both.
        """
        values = paired(self._of(first), self._of(second), "data")
        require_baseline(self.densities[second], f"`second` {second!r}")
        density = weakest(self.densities[first], self.densities[second])
        return self._mean(values, density, first, second)

    def to_dataframe(self) -> DataFrame:
        """The table: a row for each model, with means, standard errors and what they mean."""
        from pandas import DataFrame

        rows = []
        for name in self.log_probs:
            mean, difference = self.log_likelihood(name), self._from_baseline(name)
            rows.append(
                {
                    "model": name,
                    "log_likelihood": mean.value,
                    "standard_error": mean.standard_error,
                    "density": self.densities[name],
                    "difference": difference and difference.value,
                    "difference_standard_error": difference and difference.standard_error,
                    "difference_density": difference and difference.density,
                }
            )
        return DataFrame(rows).set_index("model")

    def _from_baseline(self, name: str) -> Estimate | None:
        return None if self.baseline in (None, name) else self.difference(name, self.baseline)

    def _of(self, name: str) -> Tensor:
        if name not in self.log_probs:
            raise ValueError(f"`name` must be one of {list(self.log_probs)}, got {name!r}")
        return self.log_probs[name]

    def _mean(self, values: Tensor, density: Density, *names: str) -> Estimate:
        shared = hypot(*(self.shared_errors.get(name, 0.0) for name in names))
        estimate = Estimate.of_mean(values, density=density, shared_error=shared)
        if not self.fitted.intersection(names):
            return estimate
        means = torch.stack([values[self.fold == fold].mean() for fold in self.fold.unique()])
        over_folds = float(means.std()) / sqrt(len(means))
        return Estimate(estimate.value, max(estimate.standard_error, over_folds), density=density)

    def __str__(self) -> str:
        against = "" if self.baseline is None else f"minus {self.baseline}"
        lines = [("model", "nats per datum", "what it is", against)]
        for name in self.log_probs:
            mean, difference = self.log_likelihood(name), self._from_baseline(name)
            kind = f"{mean.label}, {len(self.fold.unique())} folds" if name in self.fitted else mean.label
            shown = "" if difference is None else f"{difference.rounded()} ({difference.label})"
            lines.append((name, mean.rounded(), kind, shown))
        if self.baseline is None:
            lines.append(("", "", "no differences: bound minus bound bounds nothing", ""))
        return aligned(lines)

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.log_probs)} models on {self.data} data>\n{self}"


@takes_arrays
def compare(
    models: Mapping[str, Model | MakeModule],
    data: Tensor | tuple,
    *,
    folds: int = 5,
    fit: Callable[..., Fit] | None = None,
    baseline: str | None = None,
    seed: int = 0,
    batch_size: int = 1024,
) -> Comparison:
    """Compares the log-likelihoods of models on the same held-out data.

    Args:
        models: By name, modules (or distributions) that are ready, and are scored once on all the data; or factories,
            which are fitted for each fold: ``lambda: pg.flows.spline_coupling((2,))``.
        data: The data, or data and context. Modules must not have seen them. A module without a context is compared
            with those that have one by its unconditional density.
        folds: In how many parts the data are divided, where there are factories; ready modules have no use for it.
        fit: ``pg.fit`` with its options, as ``partial(pg.fit, steps=1000)``, where there are factories; called as
            ``fit(module, data, seed=…)``.
        baseline: The model that the others are compared with; the first whose log-probabilities are no bound if
            ``None``.
        seed: Of the folds, the initial weights and the training.
        batch_size: How many data are scored at once.

    Raises:
        NotImplementedError: a ``log_prob`` is missing or unnormalized, or the baseline's is a bound.
        TypeError: a model is neither a module, a distribution nor a factory, or the data are no tensors.
        ValueError: there are no models, too few data for the folds, the models differ in their events or are discrete
            in part, ``fit`` is missing, or a log-probability is NaN.

    Example:
        >>> wide, narrow = (torch.distributions.Normal(0.0, scale) for scale in (2.0, 1.0))
        >>> result = compare({"narrow": narrow, "wide": wide}, torch.randn(500))
        >>> result.difference("wide", "narrow").value < 0
        True
    """
    if not isinstance(models, Mapping) or not models:
        raise ValueError("`models` must be a dict with at least one model, got none")
    data = data if isinstance(data, tuple) else (data,)
    if len(data) > 2:
        raise ValueError(f"`data` must be the data, or data and context, got {len(data)} entries")
    rows = checked_rows(data, name="data")
    integer(batch_size, "batch_size")
    integer(seed, "seed", least=0)
    makers = {name: model for name, model in models.items() if not isinstance(model, DistributionModule | Distribution)}
    fold = _folds(rows, folds, seed) if makers else torch.zeros(rows, dtype=torch.long)
    for name, maker in makers.items():
        _check_maker(name, maker, fit)
    known = _checked(models, makers, data, seed, batch_size)
    densities = {name: scores.density for name, scores in known.items()}
    baseline = _baseline(densities, baseline)
    log_probs = {}
    for name, model in models.items():
        if name in makers:
            log_probs[name] = _held_out(model, data, fold, fit, seed, batch_size)
        else:
            log_probs[name] = _scores(model, data, batch_size, name).log_probs
    shared_errors = {name: scores.shared_error for name, scores in known.items()}
    return Comparison(log_probs, densities, baseline, fold, frozenset(makers), shared_errors)


def _held_out(
    make: MakeModule, data: tuple, fold: Tensor, fit: Callable[..., Fit], seed: int, batch_size: int
) -> Tensor:
    """The log-probability of every datum under the module that was fitted to the other folds."""
    log_probs = torch.empty(len(fold), dtype=torch.double)
    for held_out in fold.unique().tolist():
        inside = fold == held_out
        learned, tested = (_rows(data, where.nonzero().squeeze(1)) for where in (~inside, inside))
        with seeded(seed + held_out), pyro.get_param_store().scope():
            module = make()
            fit(module, _for(module, learned), seed=seed + held_out)
            log_probs[inside] = _scores(module, tested, batch_size, "module").log_probs.cpu()
    return log_probs


def _checked(
    models: Mapping[str, Model | MakeModule], makers: Mapping[str, MakeModule], data: tuple, seed: int, batch_size: int
) -> dict[str, Scores]:
    """Every model on one datum, before any of them is trained."""
    first, known = _rows(data, torch.arange(1)), {}
    shapes, kinds = {}, {}
    for name, model in models.items():
        with seeded(seed), pyro.get_param_store().scope():
            made = makers[name]() if name in makers else model
            require_model(made, f"models[{name!r}]" + ("()" if name in makers else ""))
            known[name] = _scores(made, first, batch_size, f"models[{name!r}]")
        require_normalized(made, known[name].density, "a log-likelihood")
        shapes[name] = tuple(made.event_shape)
        if known[name].log_probs.shape != (1,):
            raise ValueError(
                f"`data` must have shape (rows, *event_shape) for events of shape {shapes[name]}, got rows of shape "
                f"{tuple(first[0].shape[1:])}"
            )
        kinds[name] = "discrete" if known[name].distribution.support.is_discrete else "continuous"
    for what, found in (("events of one shape", shapes), ("distributions of one kind", kinds)):
        if len(set(found.values())) != 1:
            raise ValueError(f"`models` must have {what}, got {found}")
    return known


def _scores(model: Model, data: tuple, batch_size: int, name: str) -> Scores:
    x, *context = _for(model, data)
    return score(model, x, context[0] if context else None, batch_size, name=name, data="data")


def _for(model: Model, data: tuple) -> tuple:
    """The entries of the data that a model takes: one without a context leaves it aside."""
    takes_context = isinstance(model, DistributionModule) and model.context_shape is not None
    return data if takes_context else data[:1]


def _rows(data: tuple, index: Tensor) -> tuple:
    return tuple(select_rows(entry, index) for entry in data)


def _folds(rows: int, folds: int, seed: int) -> Tensor:
    if integer(folds, "folds", least=2) > rows // 2:
        raise ValueError(f"`folds` must leave at least two data in each, got {folds} for {rows} data")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(rows, dtype=torch.long)
    fold[order] = torch.arange(rows) % folds
    return fold


def _check_maker(name: str, maker: object, fit: Callable[..., Fit] | None) -> None:
    if not callable(maker):
        raise TypeError(
            f"`models[{name!r}]` must be a DistributionModule, a distribution, or a function that makes a module, got "
            f"{type(maker).__name__}"
        )
    if fit is None:
        raise ValueError(
            f"`fit` must be given, as models[{name!r}] is to be fitted for each fold: `fit=partial(pg.fit, steps=1000)`"
        )


def _baseline(densities: Mapping[str, Density], baseline: str | None) -> str | None:
    if baseline is None:
        return next((name for name, density in densities.items() if density in ("exact", "estimate")), None)
    if baseline not in densities:
        raise ValueError(f"`baseline` must be one of {list(densities)}, got {baseline!r}")
    require_baseline(densities[baseline], f"`baseline` {baseline!r}")
    return baseline
