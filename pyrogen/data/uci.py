"""The five tabular data sets on which flows are compared, prepared as published, from files the user has.

The protocol is that of Papamakarios et al.: which columns stay, what noise is added, how the rows are split, and by
which moments they are standardized, so that log-likelihoods (nats of the prepared data, test split) compare with
published ones. Nothing is downloaded. The prepared sources are known as the "MAF data sets", a folder with
``power/data.npy``, ``gas/ethylene_CO.pickle``, ``hepmass/1000_train.csv``, ``hepmass/1000_test.csv``,
``miniboone/data.npy`` and ``BSDS300/BSDS300.hdf5``.

Two choices of the protocol are kept although one would not make them today: GAS is standardized by the moments of all
its rows, the test rows among them; HEPMASS drops a feature where its *smallest* value occurs more than five times.

References:
    Papamakarios, Pavlakou and Murray 2017, "Masked autoregressive flow for density estimation",
    https://arxiv.org/abs/1705.07057
    Durkan, Bekasov, Murray and Papamakarios 2019, "Neural spline flows", https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class Table(NamedTuple):
    """The three parts of a prepared data set, each of shape ``(N, D)`` in single precision.

    Attributes:
        train: To fit.
        validation: To stop early.
        test: To report.
    """

    train: Tensor
    validation: Tensor
    test: Tensor


def power(path: str | os.PathLike) -> Table:
    """POWER: electric power consumption of a household, 6 columns.

    Rows are shuffled, two columns of eight dropped, and uniform noise of the meters' resolution added, by a fixed seed;
    then standardized by the rows that are not for testing.

    Args:
        path: ``data.npy``, of 8 columns.

    Raises:
        ValueError: the file holds something else.
    """
    import numpy as np

    random = np.random.RandomState(42)
    rows = _array(path, columns=8)
    random.shuffle(rows)
    rows = np.delete(rows, (1, 3), 1)
    count = len(rows)
    voltage, active, meters = 0.01 * random.rand(count, 1), 0.001 * random.rand(count, 1), random.rand(count, 3)
    return _standardized(rows + np.hstack((active, voltage, meters, np.zeros((count, 1)))))


def gas(path: str | os.PathLike) -> Table:
    """GAS: sensors in a mixture of ethylene and carbon monoxide, 8 columns.

    Concentrations and time are dropped, then, from the left, each sensor that correlates above 0.98 with one that is
    still there. All rows standardize, those for testing among them, as published.

    Args:
        path: ``ethylene_CO.pickle``, a pandas frame with the columns ``Time``, ``Meth``, ``Eth`` and the sensors.
            Reading a pickle runs what is in it: read only a file you trust.

    Raises:
        ValueError: the file holds something else.
    """
    import pandas as pd

    frame = pd.read_pickle(path)
    dropped = ["Meth", "Eth", "Time"]
    if not isinstance(frame, pd.DataFrame) or not set(dropped) <= set(frame.columns):
        raise ValueError(f"`path` must hold a frame with the columns {dropped}, got {_columns(frame)}")
    frame = frame.drop(columns=dropped)
    while (alike := (frame.corr().to_numpy() > 0.98).sum(1) > 1).any():
        frame = frame.drop(columns=frame.columns[alike.argmax()])
    return _split(((frame - frame.mean()) / frame.std()).to_numpy())


def hepmass(folder: str | os.PathLike) -> Table:
    """HEPMASS: particle collisions that produced a particle of mass 1000, 21 columns.

    Only signal rows stay. They are standardized by the training file; a feature whose smallest value occurs more than
    five times there is dropped; the last tenth of the training file validates.

    Args:
        folder: Holds ``1000_train.csv`` and ``1000_test.csv``, the class in the first column. The test file has one
            more column at its end, which is dropped.

    Raises:
        ValueError: the files hold something else.
    """
    import numpy as np
    import pandas as pd

    folder = Path(folder)
    train, test = (_signal(pd.read_csv(folder / f"1000_{part}.csv", index_col=False)) for part in ("train", "test"))
    test = test.iloc[:, :-1]
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"`folder` must hold a test file of one column more than the training file, got {test.shape[1] + 2} and "
            f"{train.shape[1] + 1}"
        )
    mean, scale = train.mean().to_numpy(), train.std().to_numpy()
    rows, test_rows = ((part.to_numpy() - mean) / scale for part in (train, test))
    kept = np.flatnonzero((rows == rows.min(0)).sum(0) <= 5)
    rows, held_out = _without_last(rows[:, kept])
    return _table(rows, held_out, test_rows[:, kept])


def miniboone(path: str | os.PathLike) -> Table:
    """MINIBOONE: electron neutrinos told from muon neutrinos, 43 columns, standardized by the rows not for testing.

    Args:
        path: ``data.npy``, of 43 columns, its outliers and discrete features already removed.

    Raises:
        ValueError: the file holds something else.
    """
    return _standardized(_array(path, columns=43))


def bsds300(path: str | os.PathLike) -> Table:
    """BSDS300: patches of 8x8 pixels of natural images without their mean and last pixel, 63 columns, as they are.

    Args:
        path: ``BSDS300.hdf5``, with the data sets ``train``, ``validation`` and ``test``.

    Raises:
        ValueError: the file holds something else.
    """
    import h5py

    with h5py.File(path, "r") as file:
        missing = {"train", "validation", "test"} - set(file)
        if missing:
            raise ValueError(f"`path` must hold data sets train, validation and test, missing are {sorted(missing)}")
        return _table(file["train"][:], file["validation"][:], file["test"][:])


def _array(path: str | os.PathLike, columns: int) -> np.ndarray:
    import numpy as np

    rows = np.load(path)
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ValueError(f"`path` must hold an array of {columns} columns, got shape {rows.shape}")
    return rows


def _signal(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of class 1, without the class."""
    return frame[frame.iloc[:, 0] == 1].iloc[:, 1:]


def _columns(frame: object) -> object:
    return list(frame.columns) if hasattr(frame, "columns") else type(frame).__name__


def _standardized(rows: np.ndarray) -> Table:
    """Split, by the moments of the rows that are not for testing."""
    seen = _without_last(rows)[0]
    return _split((rows - seen.mean(0)) / seen.std(0))


def _split(rows: np.ndarray) -> Table:
    """The last tenth tests, the last tenth of the rest validates."""
    rest, test = _without_last(rows)
    return _table(*_without_last(rest), test)


def _without_last(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cut = len(rows) - int(0.1 * len(rows))
    return rows[:cut], rows[cut:]


def _table(*parts: np.ndarray) -> Table:
    return Table(*(torch.from_numpy(part.astype("float32")) for part in parts))
