"""The bridge to ArviZ: one call from any posterior to InferenceData or DataTree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pyro
from torch import Tensor

from pyrogen.arguments import integer
from pyrogen.arrays import as_tensors
from pyrogen.core.batch import as_batch
from pyrogen.core.density import Density
from pyrogen.numerics.randomness import seeded
from pyrogen.numerics.resampling import effective_sample_size

from .collection import DRAWN_GROUPS, Collection, Wanted, collect, collect_batches
from .draws import undisturbed
from .names import Dims, Names
from .sources import PosteriorSource, resampled, source_of
from .tree import to_tree


def to_arviz(
    posterior: Any,
    *args: Any,
    model: Callable | None = None,
    kwargs: Mapping[str, Any] | None = None,
    dims: Dims | None = None,
    coords: Mapping[str, Any] | None = None,
    draws: int | None = None,
    chains: int = 1,
    prior: int = 0,
    predictive: bool = True,
    log_likelihood: bool = True,
    local_draws: int = 100,
    batches: Iterable | None = None,
    plate: str | None = None,
    constant_data: Mapping[str, Any] | None = None,
    resample: bool = True,
    seed: int | None = None,
) -> Any:
    r"""A posterior as ArviZ knows it, with dimensions named by the model's plates.

    The posterior may be

    - an ``MCMC`` run of Pyro, whose kernel knows the model and which remembers its arguments;
    - ``SVI``, or anything else with a ``model`` and a ``guide``: ``Trace_ELBO()(model, guide)``, a variational
      autoencoder;
    - a guide: an autoguide, or any other with ``model=``;
    - ``Predictive``;
    - importance samples: a run of ``Importance``, or a dict of ``EmpiricalMarginal``;
    - a dict of draws by site, of shape ``(draws, ...)``, chain after chain;
    - any object with ``get_samples()`` giving such a dict, and if it likes with ``model``, ``log_weights`` of shape
      ``(draws,)`` and ``sample_stats``, a dict of arrays of shape ``(draws,)``.

    The groups are ``posterior`` (latent and deterministic sites), ``posterior_predictive``, ``prior``,
    ``prior_predictive``, ``log_likelihood`` (pointwise :math:`\log p(y_i \mid z)`, without the scales of subsampling
    or ``poutine.scale``; where each datum has latents of its own, see below), ``sample_stats``, ``observed_data`` and
    ``constant_data``. ``sample_stats`` holds ``lp``, the
    joint log-probability of the model as written, scales included, in the constrained space; ``log_q``, that of the
    guide; ``diverging``; ``log_weight``. Factors count in ``lp`` and appear nowhere else. Entries that a mask hides are
    no data: a partly masked site gets a dimension of the entries that count. A discrete site that inference summed out
    has no draws; it is left out, with all that needs it. So is the log-likelihood where the model draws numbers outside
    its sites, as simulators do: what a run computes is conditional on them. What is left out, and why, stands in the
    attribute ``left_out``; a whole group that is left out also warns.

    Latents in all the plates of an observed site belong to single data: the *local* ones. Leave-one-out and WAIC need
    the likelihood given the global latents alone, so the local ones are integrated out, by importance sampling with the
    guide: the variable's attributes say so, with the Monte Carlo error over all data and the share of data whose
    weights have a Pareto k-hat above 0.7. Where they cannot be (draws of a chain; guides without a density of them;
    several observed sites that share them), the stored likelihood is conditional on them, its attribute ``likelihood``
    says ``"conditional"``, and a warning says that cross-validation of it is far too good. Without global latents every
    draw has the same marginal likelihood, and ArviZ finds no tail to fit its k-hat to.

    Where a ``log_prob`` is a lower bound, an estimate or unnormalized, the attribute ``density`` of the variable says
    so.

    Guide, predictions and prior draw from torch's generator, as everything in Pyro does; with ``seed`` they draw from
    their own and leave the generators as they were. The parameter store stays as it was. Modules run in the mode they
    are in: call ``eval()`` first on those with dropout.

    Args:
        posterior: Where the draws come from.
        *args: Arguments of the model (and guide), with the data; those of the run if an ``MCMC`` run remembers them.
        model: The model, where the posterior does not know it. Without any model, only the draws themselves are stored.
        kwargs: Keyword arguments of the model.
        dims: Names of dimensions by site: all of them, or those of the event only.
        coords: Coordinates by dimension, by the name of a plate for instance.
        draws: How many draws to take from a guide; 1000 unless ``Predictive`` says otherwise.
        chains: How many chains, one after another, the draws of a dict or sampler are. Those of a guide are one.
        prior: How many draws to take from the prior.
        predictive: Whether to predict the observed sites.
        log_likelihood: Whether to compute the log-likelihood and ``lp``.
        local_draws: How many draws of the local latents integrate them out, for each draw of the global ones; without
            global ones, all ``draws`` do.
        batches: Minibatches, for instance a loader, in place of ``args``: each a tensor or a tuple of arguments. Sites
            of the data plate are put one after another, in the order of the loader, and all others are drawn once.
            All scales are dropped, from ``lp`` and ``log_q`` too. Draws that are not from a guide can hold sites
            outside the data plate only.
        plate: The data plate of the minibatches, where the observed sites share more than one.
        constant_data: Further arrays to store, such as covariates.
        resample: Whether weighted draws are resampled to equal weights; if not, they are stored with ``log_weight``,
            which ArviZ does not use.
        seed: A seed for everything drawn here.

    Returns:
        An ``arviz.InferenceData`` on ArviZ 0.x, an ``xarray.DataTree`` on ArviZ 1.x.

    Raises:
        ValueError: the posterior is of no known kind, weights are NaN or all zero, ``dims`` names an unknown site, or
            shapes, plates or coordinates do not fit.

    Example:
        >>> data = to_arviz({"location": torch.randn(4 * 100)}, chains=4)
        >>> dict(data["posterior"].sizes)
        {'chain': 4, 'draw': 100}
    """
    integer(chains, "chains")
    args, kwargs = as_tensors(args, "args"), as_tensors(kwargs, "kwargs")
    source = source_of(posterior, chains=chains)
    source = replace(source, model=model or source.model)
    _check(source, args, batches)
    _check_counts(source, draws, chains, prior)
    integer(local_draws, "local_draws")
    drawn = draws or source.guide_draws or 1000
    wanted = Wanted(drawn, prior or source.prior_draws, predictive, log_likelihood, local_draws)
    weights = source.log_weights
    with seeded(seed), undisturbed():
        if weights is not None and resample:
            source = resampled(source)
        collection = _collected(source, args, kwargs, wanted, batches, plate)
    _warn(collection)
    _check_dims(collection, dims or {}, constant_data or {})
    names = Names(collection, dims or {}, coords or {}, source.chains)
    groups = {group: names.drawn(group, values) for group, values in collection.groups.items()}
    groups["sample_stats"] = names.statistics(_statistics(source, collection))
    groups["observed_data"] = names.observed()
    groups["constant_data"] = names.constant(constant_data or {})
    return to_tree(groups, names.coords, _attributes(source, collection, weights))


def _check(source: PosteriorSource, args: tuple, batches: Iterable | None) -> None:
    if source.model is None and source.draws is None:
        raise ValueError("`model` must be given: this guide does not know its model")
    if source.model is None and (args or batches is not None):
        raise ValueError("`model` must be given where its arguments are: these draws do not know it")
    if batches is not None and args:
        raise ValueError(f"`batches` take the place of the model's arguments, got {len(args)} arguments as well")


def _check_counts(source: PosteriorSource, draws: int | None, chains: int, prior: int) -> None:
    if draws is not None:
        integer(draws, "draws")
    integer(prior, "prior", least=0)
    if source.draws is None and chains != 1:
        raise ValueError(f"`chains` must be 1 where the draws come from a guide, got {chains}")


def _check_dims(collection: Collection, dims: Dims, constant_data: Mapping[str, Any]) -> None:
    drawn = {name for values in collection.groups.values() for name in values}
    unknown = sorted(set(dims) - drawn - set(collection.sites) - set(constant_data))
    if unknown:
        raise ValueError(f"`dims` must name sites among {sorted(drawn | set(collection.sites))}, got {unknown}")


def _collected(
    source: PosteriorSource,
    args: tuple,
    kwargs: Mapping[str, Any] | None,
    wanted: Wanted,
    batches: Iterable | None,
    plate: str | None,
) -> Collection:
    if source.model is None:
        collection = Collection()
        collection.groups["posterior"] = source.draws
        return collection
    if batches is not None:
        calls = map(as_batch, batches)
        return collect_batches(source, calls, kwargs or {}, wanted, plate)
    if not args and kwargs is None:
        args, kwargs = source.args, source.kwargs
    return collect(source, args, kwargs or {}, wanted)


def _statistics(source: PosteriorSource, collection: Collection) -> dict[str, tuple[Tensor, Density]]:
    """Statistics of the draws and what they mean, of shape ``(draws,)``."""
    statistics: dict[str, tuple[Tensor, Density]] = {name: (value, "exact") for name, value in source.stats.items()}
    if collection.log_p:
        statistics["lp"] = (sum(collection.log_p.values()), collection.density)
    if collection.log_q:
        statistics["log_q"] = (sum(collection.log_q.values()), collection.guide_density)
    if source.log_weights is not None:
        statistics["log_weight"] = (source.log_weights, "exact")
    return statistics


def _attributes(source: PosteriorSource, collection: Collection, weights: Tensor | None) -> dict[str, Any]:
    attrs = {"inference_library": "pyro", "inference_library_version": pyro.__version__, **source.attrs}
    if weights is not None:
        attrs.setdefault("effective_sample_size", float(effective_sample_size(weights)))
    if collection.left_out:
        attrs["left_out"] = "; ".join(f"{name}: {reason}" for name, reason in collection.left_out.items())
    return attrs


def _warn(collection: Collection) -> None:
    for name, pointwise in collection.pointwise.items():
        if pointwise.warning(name):
            warnings.warn(pointwise.warning(name), UserWarning, stacklevel=3)
    groups = {name: reason for name, reason in collection.left_out.items() if name in DRAWN_GROUPS}
    if groups:
        lost = "; ".join(f"{name} ({reason})" for name, reason in groups.items())
        warnings.warn(f"to_arviz leaves out {lost}", UserWarning, stacklevel=3)
