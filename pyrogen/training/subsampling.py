"""When minibatches would change the posterior of a Pyro program, and what held-out data stand for.

A posterior of all data is trained on minibatches if the program states how many data they stand for (see
:mod:`pyrogen.programs.data_plate`), and if what belongs to a single row is computed from the row, or found by its
number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pyrogen.core.batch import Batch, map_tensors, row_numbers, without_last_row
from pyrogen.core.batches import Batches, LoaderBatches
from pyrogen.programs.data_plate import FullSize, data_of
from pyrogen.programs.dependence import independent_sites, loose_sites
from pyrogen.programs.reading import Reading, reading_of, settled_data_plates
from pyrogen.programs.run import Record
from pyrogen.programs.site import Plate


def read_programs(
    play: Callable[[Batch], None],
    batch: Batch,
    rows: int,
    trained: Iterable[nn.Module],
    data: Batches | LoaderBatches,
) -> Reading:
    """Runs objectives on a minibatch and reads the Pyro programs in them.

    Args:
        play: Runs them.
        batch: The minibatch.
        rows: How many rows it has.
        trained: All that is trained; lazy modules come to be as they run.
        data: The data that it is of.

    Raises:
        ValueError: several plates may be that of the data.
    """

    def again() -> Record:
        return Record() if data.whole else _recorded(play, without_last_row(batch, rows))

    record = _recorded(play, batch)
    try:
        plates = settled_data_plates(record, rows, again)
    except ValueError:
        if not data.whole:
            raise
        plates = []
    parameters = {name: value for part in trained for name, value in part.named_parameters()}
    reading = reading_of(record, rows, row_numbers(batch), parameters, plates)
    if not reading.outside or data.whole:
        return reading
    one = _may_be_one_datum(reading, data)
    beside = [site for site in record.sites if site.observed and not site.inside(plates)]
    if not one and not (plates and beside):
        return reading
    batch, inputs = _with_gradients(batch)
    record = _recorded(play, batch)
    loose = tuple(loose_sites(record.sites, plates, inputs)) if plates else ()
    if not one:
        return replace(reading, loose=loose)
    # A guide that computes latents from the minibatch shows that they are those of this datum.
    return replace(reading, outside=independent_sites(record, reading.outside, inputs), loose=loose)


def check_minibatches(reading: Reading, data: Batches | LoaderBatches, *, validated: bool = False) -> None:
    """Checks that minibatches of the data leave the posterior as it is.

    Args:
        reading: What the programs are.
        data: The data.
        validated: Whether the programs also run on held-out data.

    Raises:
        ValueError: they would change it; the message shows the ways out.
    """
    rows = data.rows
    if reading.owned:
        _check_owned(reading.owned, data, rows, validated)
    if reading.outside and not _states_size(reading, data):
        raise ValueError(_complaint(reading, rows))
    if reading.outside and reading.twice and not data.whole:
        raise ValueError(
            f"`target` scales the rows of the plate {reading.twice[0]!r} up twice beside the latent sites of all data "
            f"{reading.outside}, by the plate's size and by `poutine.scale`: leave one of them out"
        )
    if reading.outside and reading.loose:
        raise ValueError(
            f"`target` observes {list(reading.loose)} outside the data plate {reading.plates[0].name!r}, where the "
            "rows of a minibatch stand for themselves alone, beside the latent sites of all data "
            f"{reading.outside}: put them in a plate of their full number; or give all data at once by "
            f"`batch_size={rows or 'N'}`"
        )


def held_out_scope(reading: Reading | None) -> AbstractContextManager[Any]:
    """A scope in which held-out rows stand for as many data as were trained on, beside latent sites of all data."""
    if reading is None or not reading.outside or any(plate.size > plate.rows for plate in reading.plates):
        return nullcontext()
    return FullSize({plate.name: plate.size for plate in reading.plates})


def most_rows(reading: Reading, rows: int) -> int:
    """How many rows a minibatch may have: a plate takes no more than it stands for."""
    return min([rows, *(data_of(plate, plate.size, reading.rows) for plate in reading.plates)])


def _may_be_one_datum(reading: Reading, data: Batches | LoaderBatches) -> bool:
    """Whether a minibatch may be one datum: a single row, which needs no plate, or a set that a user's loader gave."""
    own = data.rows is None
    return (own or (reading.rows == 1 and not reading.plates)) and not data.whole


def _recorded(play: Callable[[Batch], None], batch: Batch) -> Record:
    with Record() as record:
        play(batch)
    return record


def _with_gradients(batch: Batch) -> tuple[Batch, list[Tensor]]:
    """A batch whose floating tensors take gradients, and these tensors."""
    inputs: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        inputs.append(tensor.detach().clone().requires_grad_())
        return inputs[-1]

    return map_tensors(batch, leaf), inputs


def _check_owned(owned: list[str], data: Batches | LoaderBatches, rows: int | None, validated: bool) -> None:
    if not isinstance(data, Batches) or not data.whole:
        raise ValueError(
            f"`target` holds an entry for each row of a minibatch, in {owned}, and the rows of other minibatches would "
            "share it: use a guide that computes it from the row; or make the number of the row an entry of `data` and "
            f'write `pyro.plate("data", {rows or "N"}, subsample=number)`; or give all data at once, as tensors, by '
            f"`batch_size={rows or 'N'}`"
        )
    if validated:
        raise ValueError(
            f"`validation` must be None for a target that holds an entry for each row of `data`, in {owned}: held-out "
            "rows have none"
        )


def _states_size(reading: Reading, data: Batches | LoaderBatches) -> bool:
    """Whether the programs state how many data a minibatch stands for."""
    if not reading.plates:
        return data.whole
    if data.rows is not None:
        return bool(reading.sizes & {data.rows, data.total})
    return max(reading.sizes, default=0) > reading.rows or data.whole


def _complaint(reading: Reading, rows: int | None) -> str:
    for plate in reading.plates:
        if plate.size > plate.rows:
            return (
                f"`data` must have the {data_of(plate, plate.size, reading.rows)} rows that the plate {plate.name!r} "
                f"stands for beside the latent sites {reading.outside}, got {rows}"
            )
    count = rows or "N"
    ways = [f"pyro.plate({plate.name!r}, {_full(plate, reading, rows)}" for plate in reading.plates]
    written = " and ".join(f"`{way}, subsample_size=...)`" for way in ways or [f"pyro.plate('data', {count}"])
    return (
        f"`target` has latent sites outside the data plate, {reading.outside}, whose posterior would be that of a "
        f"minibatch: write {written} in model and guide, or `pyrogen.Elbo(model, guide, size={count})`, or give all "
        f"data at once by `batch_size={count}`"
    )


def _full(plate: Plate, reading: Reading, rows: int | None) -> int | str:
    """The full size to be written, as it would stand in the program."""
    each = plate.size // data_of(plate, plate.size, reading.rows)
    return rows * each if rows else "N" if each == 1 else f"{each} * N"
