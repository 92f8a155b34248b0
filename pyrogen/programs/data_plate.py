r"""The data plate: the plate whose rows are the data, and how many data it stands for.

A program is called with a minibatch of :math:`b` rows and observes them in a plate. Written
``pyro.plate("data", len(x))`` the plate holds all the rows there are; written
``pyro.plate("data", N, subsample_size=len(x))`` (or ``subsample=rows``) its rows stand for :math:`N`, and Pyro
multiplies the log-probability of everything inside by :math:`N / b`. Sites outside it, the *global* ones, count once.
With global latent variables :math:`\theta` and local ones :math:`z_i` the evidence lower bound of all data is

.. math::
    \mathbb{E}_q \Bigl[ \log \frac{p(\theta)}{q(\theta)} + \frac{N}{b} \sum_{i \in \text{batch}}
    \log \frac{p(x_i, z_i \mid \theta)}{q(z_i \mid \theta)} \Bigr] ,

so that without the factor the posterior of :math:`\theta` is that of :math:`b` data, too wide by
:math:`\sqrt{N / b}`. Nats per datum are this over :math:`N`, the *full size* of the data plate.

The data plate is found by its length: it lies around an observed site, and as many rows as the minibatch has are in it,
or are what it takes its own subsample of. Where there is none it may hold several rows for each datum, such as all
pixels of a minibatch in one plate. Plates of the same rows side by side, one for each of several outcomes, are as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from .site import Plate, Site, is_site, plate_of


def possible_data_plates(sites: Iterable[Site], rows: int) -> list[Plate]:
    """The plates that can be the data plate, for a program called with so many rows.

    They lie around an observed site and have so many rows, or take a subsample of so many. Where some of them stand for
    more rows than they have, it is one of these.
    """
    fitting = [plate for plate in observed_plates(sites) if rows in (plate.rows, plate.size)]
    return [plate for plate in fitting if plate.size > plate.rows] or fitting


def observed_plates(sites: Iterable[Site]) -> list[Plate]:
    """The plates around observed sites."""
    return list({plate.name: plate for site in sites if site.observed for plate in site.plates}.values())


def data_of(plate: Plate, size: int, rows: int) -> int:
    """How many data there are where the data plate of a call with so many rows stands for ``size`` of its own."""
    return size if rows in (plate.rows, plate.size) else round(size * rows / plate.rows)


def data_plate(sites: Iterable[Site], rows: int) -> Plate | None:
    """The data plate of a program that was called with so many rows; ``None`` if it has none.

    Args:
        sites: What ran: the sites of the model, or of model and guide.
        rows: How many rows the program was called with.

    Raises:
        ValueError: several plates are as long as the data.
    """
    found = possible_data_plates(sites, rows)
    if len(found) > 1:
        raise ValueError(
            f"the data plate must be the only plate of {rows} rows around observed sites, got "
            f"{sorted(plate.name for plate in found)}; "
            "call the program with another number of rows, another `batch_size` of `fit`"
        )
    return found[0] if found else None


class DataCount(Messenger):
    """Counts for how many data the observed sites stand that run in its scope.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     with pyro.plate("data", 100, subsample_size=len(x)):
        ...         pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
        >>> with DataCount() as count:
        ...     model(torch.zeros(5))
        >>> count.of(5)
        100
    """

    def __init__(self) -> None:
        super().__init__()
        self._frames: dict[str, CondIndepStackFrame] = {}

    def of(self, rows: int) -> int:
        """The data that a call with so many rows stands for: the full size of the data plate; without one, the rows."""
        plates = [plate_of(frame) for frame in self._frames.values()]
        exact = [plate for plate in plates if rows in (plate.rows, plate.size)]
        several = [plate for plate in plates if plate.rows % rows == 0]
        return max((data_of(plate, plate.size, rows) for plate in exact or several), default=rows)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and is_site(msg):
            for frame in msg["cond_indep_stack"]:
                self._frames[frame.name] = frame


class FullSize(Messenger):
    """Makes plates stand for so many rows, whatever the program declares: all inside is scaled up to them.

    Args:
        sizes: How many rows a plate stands for, by its name.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.sizes = sizes

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.name in self.sizes:
                size = self.sizes[frame.name]
                msg["scale"] = msg["scale"] * (size / (frame.full_size or frame.size))
                msg["cond_indep_stack"] = tuple(
                    other._replace(full_size=size) if other is frame else other for other in msg["cond_indep_stack"]
                )


class DataRows(Messenger):
    """Lets the data plate have the rows at hand, also where they are more than it stands for.

    Args:
        plate: The name of the data plate.
        rows: How many rows the program is called with.

    Raises:
        ValueError: when the program runs: the plate has another fixed size.
    """

    def __init__(self, plate: str, rows: int) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] != self.plate or not site_is_subsample(msg) or msg["value"] is not None:
            return
        full_size, taken = msg["fn"].size, msg["fn"].subsample_size
        if taken is not None:
            msg["value"], msg["done"] = torch.arange(taken) % full_size, True
        elif full_size != self.rows:
            raise ValueError(
                f"`plate` {self.plate!r} must take the rows that the program is called with, {self.rows} here (data "
                f"times draws), got the fixed size {full_size}: write `pyro.plate({self.plate!r}, len(x))`"
            )
