"""Running Pyro programs on data: every site's log-probability, for each row of the one data plate or for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution

from pyrogen.core.density import Density, density_of

Program = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """A sample site of a program that ran on rows.

    Args:
        name: Its name.
        value: The rows of its value.
        distribution: Its distribution, expanded to the plates.
        observed: Whether its value was given.
        auxiliary: Whether it only serves to build other sites of a guide.
        plate_dim: The dimension of the data plate, counted from the right of the batch shape; ``None`` where the data
            count as one datum.
        mask: Pyro's mask, if it has one.
    """

    name: str
    value: Tensor
    distribution: Distribution
    observed: bool
    auxiliary: bool
    plate_dim: int | None
    mask: Tensor | bool | None

    @property
    def density(self) -> Density:
        """What its ``log_prob`` means."""
        return density_of(self.distribution)

    def log_prob(self) -> Tensor:
        """Its log-probability for each row, in double precision: masked, but not scaled."""
        log_prob = scale_and_mask(self.distribution.log_prob(self.value), mask=self.mask)
        if self.plate_dim is None:
            return log_prob.double().sum().reshape(1)
        return log_prob.movedim(self.plate_dim, -1).reshape(-1, log_prob.shape[self.plate_dim]).double().sum(0)


def sites_of(program: Program, *args: object, rows: int | None, what: str, **kwargs: object) -> dict[str, Site]:
    """Runs a program and finds its sample sites, without subsampling and deterministic ones.

    Args:
        program: A Pyro model or guide.
        args: What it is called with.
        rows: How many rows the data plate must have; ``None`` if the data count as one datum.
        what: What to call the program in a message.
        kwargs: What it is called with.

    Raises:
        ValueError: a site lies outside the data plate, or there is no plate of ``rows`` rows, or more than one.
    """
    nodes = poutine.trace(program).get_trace(*args, **kwargs).nodes.values()
    samples = [node for node in nodes if node["type"] == "sample" and not _is_bookkeeping(node)]
    plate = _data_plate(samples, rows, what) if samples and rows is not None else None
    return {node["name"]: _site(node, plate) for node in samples}


def values_of(sites: Iterable[Site]) -> dict[str, Tensor]:
    """The values of sites by name, rows first."""
    return {site.name: site.value for site in sites}


def select_rows(entry: object, index: Tensor) -> object:
    """Some rows of a batch entry: those of a tensor, of a dict of tensors; anything else as it is."""
    if isinstance(entry, Mapping):
        return {key: select_rows(value, index) for key, value in entry.items()}
    return entry[index.to(entry.device)] if isinstance(entry, Tensor) and entry.dim() else entry


def check_names(drawn: dict[str, Site], scored: dict[str, Site]) -> None:
    """Raises a ValueError unless a model, run on what its guide drew, has the guide's latent sites and no others."""
    missing = [name for name, site in scored.items() if not site.observed]
    if missing:
        raise ValueError(f"`guide` must draw every latent site of the model, missing are {missing}")
    surplus = [name for name, site in drawn.items() if name not in scored and not site.auxiliary]
    if surplus:
        raise ValueError(f"`model` must have every site of the guide, missing are {surplus}")


def total(sites: Iterable[Site]) -> Tensor:
    """The log-probabilities of sites, summed for each row; zero if there are none."""
    return sum((site.log_prob() for site in sites), torch.zeros((), dtype=torch.double))


def _site(node: dict, plate: str | None) -> Site:
    plate_dim = next((frame.dim for frame in node["cond_indep_stack"] if frame.name == plate), None)
    return Site(
        node["name"],
        node["value"],
        node["fn"],
        node["is_observed"],
        bool(node["infer"].get("is_auxiliary")),
        plate_dim,
        node["mask"],
    )


def _data_plate(samples: list[dict], rows: int, what: str) -> str:
    """The plate that all sites share."""
    plates = [{frame.name: frame.size for frame in node["cond_indep_stack"] if frame.vectorized} for node in samples]
    shared = [name for name in plates[0] if all(name in others for others in plates)]
    fitting = [name for name in shared if plates[0][name] == rows]
    if len(fitting) == 1:
        return fitting[0]
    outside = [node["name"] for node, others in zip(samples, plates, strict=True) if rows not in others.values()]
    raise ValueError(
        f"`{what}` must have all its sites in one data plate of {rows} rows, so that data are independent; "
        + (f"outside are {outside}" if outside else f"shared plates are {shared}")
    )


def _is_bookkeeping(node: dict) -> bool:
    return site_is_subsample(node) or bool(node["infer"].get("_deterministic"))
