"""NumPy arrays and tables of pandas where tensors of data are taken: one rule for all, below all packages.

What NumPy can read becomes a tensor on the CPU, rows and columns in their order; the index of a table is not read:

- Floating-point numbers become torch's default dtype, as ``torch.tensor([0.5])`` has: the one that modules are built
  in. Complex numbers become that of the same precision. To compute in another, give a tensor.
- Integers and booleans stay what they are; unsigned ones of more than eight bits, which torch cannot compute with,
  become 64-bit integers.
- Memory is shared where an array has the dtype, is stored row by row, and may be written to: torch knows no read-only
  tensors. (A memory map is shared when it is opened with ``mode="c"``.)

Tensors, numbers and everything else pass as they are.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_PRECISION = {torch.float64: ("f8", "c16"), torch.float16: ("f2", "c8")}
"""NumPy's dtypes, real and complex, by torch's default one; for any other, single precision."""


@runtime_checkable
class Array(Protocol):
    """What NumPy can read: its own arrays, tables and columns of pandas and polars, arrays of xarray and JAX."""

    def __array__(self) -> np.ndarray: ...


def takes_arrays(function: Callable[Parameters, Result]) -> Callable[..., Result]:
    """Marks a function (or a method) that takes arrays and tables wherever its arguments are tensors.

    Raises:
        TypeError: one holds something else than numbers; the message names the argument (and the columns).
        ValueError: a table has missing values, or an array numbers that the dtype cannot hold.

    Example:
        >>> @takes_arrays
        ... def total(x):
        ...     return x.sum()
        >>> total(np.array([1.0, 2.0]))
        tensor(3.)
    """
    signature = inspect.signature(function)
    keywords = next((name for name, entry in signature.parameters.items() if entry.kind is entry.VAR_KEYWORD), None)

    @wraps(function)
    def taking(*args: Any, **kwargs: Any) -> Result:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            if name == keywords:
                given.arguments[name] = {key: as_tensors(part, key) for key, part in value.items()}
            else:
                given.arguments[name] = as_tensors(value, name)
        return function(*given.args, **given.kwargs)

    return taking


def as_tensors(value: Any, name: str) -> Any:
    """An array or a table as a tensor, also those in tuples and dicts; everything else as it is.

    Args:
        value: The argument.
        name: What errors call it.

    Raises:
        TypeError: an array or a table holds something else than numbers.
        ValueError: a table has missing values, or an array numbers that the dtype cannot hold.
    """
    if value is None or isinstance(value, (Tensor, np.generic, int, float, str)):
        return value
    if isinstance(value, tuple):
        new = tuple(as_tensors(part, f"{name}[{place}]") for place, part in enumerate(value))
        return new if any(one is not part for one, part in zip(new, value, strict=True)) else value
    if isinstance(value, Mapping):
        parts = [(key, part, as_tensors(part, f"{name}[{key!r}]")) for key, part in value.items()]
        return {key: new for key, _, new in parts} if any(new is not part for _, part, new in parts) else value
    if isinstance(value, Array):  # last, since the question takes longest
        return _tensor(_array(value, name), name)
    return value


def _tensor(array: np.ndarray, name: str) -> Tensor:
    """An array of numbers as a tensor."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    default = torch.get_default_dtype()
    if kind not in "biufc":
        raise TypeError(f"`{name}` must hold numbers, got an array of {array.dtype}")
    if kind in "fc":
        try:
            with np.errstate(over="raise"):
                array = array.astype(_PRECISION.get(default, ("f4", "c8"))[kind == "c"], order="C", copy=False)
        except FloatingPointError:
            raise ValueError(
                f"`{name}` must hold numbers that fit {default}, torch's default dtype, got larger ones: rescale them, "
                "or give a tensor"
            ) from None
    elif kind == "u" and size > 1:
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"`{name}` must hold integers that fit torch.int64, got {array.max()}")
        array = array.astype(np.int64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not (array.flags.c_contiguous and array.flags.writeable) or any(stride < 0 for stride in array.strides):
        array = array.copy(order="C")  # noise drawn like a tensor depends on its strides
    tensor = torch.from_numpy(array)
    return tensor.to(default) if kind == "f" else tensor


def _array(value: Array, name: str) -> np.ndarray:
    """What NumPy reads, of a table its numbers."""
    pandas = sys.modules.get("pandas")  # whoever gives a table of its kind has imported it
    if pandas is not None:
        if isinstance(value, pandas.DataFrame):
            return _table(value, name)
        if isinstance(value, (pandas.Series, pandas.Index, pandas.api.extensions.ExtensionArray)):
            return _table(pandas.Series(value).to_frame(), name)[:, 0]
    if np.ma.is_masked(value):
        raise ValueError(f"`{name}` must hold no masked entries, got {np.ma.count_masked(value)} of them")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`{name}` must hold numbers, got {type(value).__name__}: {error}") from error


def _table(table: Any, name: str) -> np.ndarray:
    """The numbers of a table of pandas.

    Raises:
        TypeError: columns hold something else.
        ValueError: values are missing.
    """
    is_numeric = sys.modules["pandas"].api.types.is_numeric_dtype
    other = [(column, str(dtype)) for column, dtype in table.dtypes.items() if not is_numeric(dtype)]
    if other:
        raise TypeError(
            f"`{name}` must hold numbers, got the {_columns(other)}: leave them out, or encode them, as columns of "
            "zeros and ones by `pandas.get_dummies` or as labels by `.astype('category').cat.codes`"
        )
    missing = [(column, f"{count} missing") for column, count in table.isna().sum().items() if count]
    if missing:
        raise ValueError(
            f"`{name}` must hold no missing values, got the {_columns(missing)}: drop or fill them, or, for a model "
            "that takes NaN as missing, give `.to_numpy(float, na_value=numpy.nan)` of it"
        )
    array = table.to_numpy()
    if array.dtype != object:
        return array
    return np.column_stack([table.iloc[:, place].to_numpy() for place in range(table.shape[1])])  # of several dtypes


def _columns(found: Iterable[tuple[Hashable, str]]) -> str:
    """Columns by their names, with what is wrong with each."""
    shown = [f"{column!r} ({what})" for column, what in found]
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return f"{'column' if len(shown) == 1 else 'columns'} {', '.join(shown[:5])}{more}"
