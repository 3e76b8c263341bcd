"""Checks at the border: what a user passes in becomes arrays that native code can trust.

Each message names the argument, what came, and what was expected.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from .kernels.aot import executor

#: Numbers looked at together when data are searched for the first NaN: bounds the memory it takes.
_CHUNK = 1 << 18

#: Bytes from which the search for NaN is worth another thread, which takes some 80 us to start.
_THREAD_BYTES = 4 << 20


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """A finite number within [low, high], or an open end."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    value = float(value)
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (math.isfinite(value) and above and below):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        span = f"{left}{low:g}, {high:g}{right}"
        raise ValueError(f"{name}: expected a number in {span}, got {value}")
    return value


def suited(name: str, choice: Any, dims: int | None) -> None:
    """Raise a ValueError where a constraint or a penalty is not for arrays of ``dims`` dimensions.

    None is for any number of them.
    """
    wanted = getattr(choice, "dims", None)
    if dims is not None and wanted not in (None, dims):
        raise ValueError(
            f"{name}: {choice!r} needs an array of {wanted} dimensions, such as a kernel "
            f"(inputs, units), got one of {dims}"
        )


def _table(name: str, value: Any) -> np.ndarray:
    """The numbers of a DataFrame or Series. Columns of several types (with booleans, or those that
    know of missing values) become floats, with NaN for what is missing."""
    array = value.to_numpy()
    types: Any = getattr(value, "dtypes", None)
    if array.dtype != object or array.ndim != 2 or not hasattr(types, "items"):
        return array
    wrong = [str(column) for column, kind in types.items() if kind.kind not in "biuf"]
    if wrong:
        raise TypeError(f"{name}: expected columns of numbers, not so: {', '.join(wrong)}")
    return value.to_numpy(dtype="float64", na_value=np.nan)


def numeric(name: str, value: Any) -> np.ndarray:
    """An array of numbers or booleans, without a copy where it is one already.

    Raises
    ------
    TypeError
        Strings, objects, dates, complex numbers.
    ValueError
        Rows of different lengths.
    """
    if hasattr(value, "to_numpy"):  # pandas, polars
        value = _table(name, value)
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: expected an array of numbers, got the string {value!r}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: not a rectangular array: {error}") from None
    if array.dtype.kind not in "biuf":
        hint = " (text, mixed types, or rows of different lengths)" if array.dtype == object else ""
        raise TypeError(f"{name}: expected an array of numbers, got dtype {array.dtype}{hint}")
    return array


def finite(name: str, array: np.ndarray, dtype: str = "float64", threads: int = 1) -> None:
    """Raise a ValueError that says where the first NaN, or number beyond ``dtype``, is."""
    if array.dtype.kind != "f":
        return
    if _all_finite(array, dtype, threads):
        return
    rows = max(1, _CHUNK // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        part = array[start : start + rows]
        with np.errstate(over="ignore"):
            good = np.isfinite(part.astype(dtype, copy=False))
        if not good.all():
            at = tuple(int(i) for i in np.argwhere(~good)[0])
            place = ", ".join(str(i) for i in (at[0] + start, *at[1:]))
            raise ValueError(
                f"{name}: contains {part[at]} at index [{place}]; expected finite numbers"
                f"{f' within the range of {dtype}' if np.isfinite(part[at]) else ''}"
            )


def _all_finite(array: np.ndarray, dtype: str, threads: int) -> bool:
    """A fast search of most arrays; where it says no, or cannot look, a slow one must decide."""
    if array.dtype not in (np.float32, np.float64) or not array.dtype.isnative:
        return False
    limit = min(float(np.finfo(array.dtype).max), float(np.finfo(dtype).max))
    workers = min(threads, 1 + array.nbytes // _THREAD_BYTES)
    return array.flags.forc and executor.all_within(array, limit, workers)


def features(
    name: str, value: Any, shape: tuple[int, ...], dtype: str, threads: int = 1
) -> np.ndarray:
    """Rows of examples as a 2-D array (n, features) that can be gathered from as it lies.

    uint8, float32 and float64 are read in place with any strides; other types are converted.
    """
    array = numeric(name, value)
    expected = f"(n, {', '.join(str(s) for s in shape)})"
    if array.ndim != len(shape) + 1:
        hint = f"; for one example use {name}[None]" if array.ndim == len(shape) else ""
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}{hint}")
    if array.shape[1:] != shape:
        raise ValueError(f"{name}: expected shape {expected}, got {array.shape}")
    if len(array) == 0:
        raise ValueError(f"{name}: is empty, shape {array.shape}; expected at least one row")
    finite(name, array, dtype, threads)
    if array.dtype not in (np.uint8, np.float32, np.float64) or not array.dtype.isnative:
        array = array.astype(dtype)
    return array if array.ndim == 2 else array.reshape(len(array), -1)


def rows_as_they_lie(
    name: str,
    array: np.ndarray,
    types: tuple[str, ...],
    shape: tuple[int | None, ...],
    gaps: bool = False,
) -> None:
    """Raise unless native code can read or write the array where it is.

    ``None`` in the shape is any number of rows above 0. With ``gaps`` the numbers of a row may lie
    apart, if there are two dimensions.
    """
    if array.dtype.name not in types or not array.dtype.isnative:
        raise ValueError(f"{name}: expected {' or '.join(types)}, got {array.dtype}")
    if not array.flags.aligned:
        raise ValueError(f"{name}: expected numbers at multiples of their size in memory")
    fits = array.ndim == len(shape) and all(
        size == wanted if wanted is not None else size > 0
        for size, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join("n > 0" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: expected shape ({expected}), got {array.shape}")
    if not array[0].flags.c_contiguous and not (gaps and array.ndim == 2):
        raise ValueError(
            f"{name}: expected rows without gaps between their numbers, got strides "
            f"{array.strides} for shape {array.shape} of {array.dtype}"
        )


def flat(array: np.ndarray) -> np.ndarray:
    """Rows of numbers, (n, numbers), that share the array's memory."""
    if array.ndim == 2:
        return array
    numbers = math.prod(array.shape[1:])
    strides = (array.strides[0], array.itemsize)
    return np.lib.stride_tricks.as_strided(array, (len(array), numbers), strides)


def same_length(name: str, array: np.ndarray, other: str, n: int) -> None:
    """Raise a ValueError unless the array has n rows."""
    if len(array) != n:
        raise ValueError(f"{name}: has {len(array)} rows, but {other} has {n}")


def labels(name: str, array: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers 0 .. classes - 1 as int32 (n,)."""
    if array.dtype.kind == "f":
        raise TypeError(
            f"{name}: expected integer class labels (n,) or one-hot rows (n, {classes}), got "
            f"{array.dtype} of shape {array.shape}; convert labels with {name}.astype(int)"
        )
    array = array.reshape(-1)
    if len(array):
        low, high = int(array.min()), int(array.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise ValueError(
                f"{name}: label {wrong} is out of range; the model has {classes} outputs, so "
                f"labels are 0 to {classes - 1}"
            )
    return np.ascontiguousarray(array, dtype=np.int32)


def numbers(name: str, array: np.ndarray, units: int, dtype: str) -> np.ndarray:
    """Numeric targets as (n, units) of the model's type; (n,) is taken as (n, 1)."""
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != units:
        raise ValueError(
            f"{name}: expected shape (n, {units}){' or (n,)' if units == 1 else ''} to match the "
            f"model's {units} outputs, got {array.shape}"
        )
    finite(name, array, dtype)
    return np.ascontiguousarray(array, dtype=dtype)
