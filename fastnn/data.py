"""Examples, targets and weights, checked and in the form that the native loop reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import checks
from .losses import Loss


@dataclass(frozen=True)
class Data:
    """Arrays of n rows: ``x`` (n, features), ``y`` (n,) labels or (n, units), ``w`` (n, 1)."""

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray | None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """The arrays by the names that programs use."""
        return {"x": self.x, "y": self.y} | ({} if self.w is None else {"w": self.w})

    @property
    def labels(self) -> bool:
        """Whether targets are class numbers."""
        return self.y.ndim == 1

    def rows(self, start: int, stop: int) -> Data:
        """A range of rows; nothing is copied."""
        w = None if self.w is None else self.w[start:stop]
        return Data(self.x[start:stop], self.y[start:stop], w)

    def take(self, index: np.ndarray) -> Data:
        """Copies of the rows with these numbers."""
        w = None if self.w is None else self.w.take(index, axis=0)
        return Data(self.x.take(index, axis=0), self.y.take(index, axis=0), w)


def random_order(bits: np.random.PCG64, n: int) -> np.ndarray:
    """The numbers 0 .. n - 1 in a random order.

    NumPy promises the raw numbers of a bit generator for ever, but not what ``permutation`` makes
    of them (NEP 19).
    """
    return np.argsort(bits.random_raw(n), kind="stable")


def class_by_class(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Row numbers sorted by their labels; those of one class stay in their order."""
    return order[np.argsort(labels[order], kind="stable")]


def prepare(
    x: Any,
    y: Any,
    sample_weight: Any,
    *,
    shape: tuple[int, ...],
    units: int,
    loss: Loss,
    dtype: str,
    threads: int,
    names: tuple[str, str, str] = ("X", "y", "sample_weight"),
) -> Data:
    """Check a user's arrays against the model and each other.

    Raises
    ------
    ValueError, TypeError
        Whatever does not fit; the message names the argument.
    """
    features = checks.features(names[0], x, shape, dtype, threads)
    if y is None:
        raise TypeError(f"{names[1]}: expected targets, got None")
    raw = checks.numeric(names[1], y)
    if raw.ndim == 0:
        raise ValueError(f"{names[1]}: expected one target per row, got a single number")
    checks.same_length(names[1], raw, names[0], len(features))
    checks.finite(names[1], raw, dtype)
    try:
        targets = loss.targets(raw, units, dtype)
    except (ValueError, TypeError) as error:
        message = str(error)
        renamed = names[1] + message[1:] if message.startswith("y:") else message
        raise type(error)(renamed) from None
    return Data(features, targets, _weights(sample_weight, names, len(features), dtype))


def take_apart(name: str, value: Any) -> tuple[Any, Any, Any, tuple[str, str, str]]:
    """X, y and sample weights (or None) out of one argument, and their names for messages."""
    listed = isinstance(value, (tuple, list))
    if not listed or len(value) not in (2, 3):
        came = f" of {len(value)}" if listed else ""
        raise ValueError(
            f"{name}: expected (X, y) or (X, y, sample_weight), got a {type(value).__name__}{came}"
        )
    x, y, weights = (*value, None)[:3]
    return x, y, weights, (f"{name}[0]", f"{name}[1]", f"{name}[2]")


def _weights(value: Any, names: tuple[str, ...], n: int, dtype: str) -> np.ndarray | None:
    if value is None:
        return None
    name = names[2]
    array = checks.numeric(name, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name}: expected shape (n,), got {array.shape}")
    checks.same_length(name, array, names[0], n)
    checks.finite(name, array, dtype)
    if array.min() < 0:
        raise ValueError(f"{name}: expected weights of at least 0, got {array.min()}")
    return np.ascontiguousarray(array[:, None], dtype=dtype)


def class_labels(argument: str, data: Data, loss: Loss) -> np.ndarray:
    """The class of each row, for an argument that needs classes."""
    try:
        return loss.class_labels(data.y)
    except ValueError as error:
        _, _, reason = str(error).partition(":")
        raise ValueError(f"{argument}:{reason}") from None


def weigh_classes(
    data: Data, class_weight: Mapping[int, float] | str, *, loss: Loss, units: int, dtype: str
) -> Data:
    """The same rows, each with its weight multiplied by that of its class.

    ``"balanced"`` stands for n / (number of classes present * rows of the class), with which every
    class has the same total weight.

    Source: King & Zeng, Logistic regression in rare events data (2001).
    """
    labels = class_labels("class_weight", data, loss)
    classes = max(units, 2)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(
                f"class_weight: expected 'balanced' or a dict of label -> weight, got "
                f"{class_weight!r}"
            )
        counts = np.bincount(labels, minlength=classes)
        table = len(data) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        table = _class_table(class_weight, classes)
    by_class = table.astype(dtype)[labels][:, None]
    return replace(data, w=by_class if data.w is None else data.w * by_class)


def _class_table(class_weight: Mapping[int, float], classes: int) -> np.ndarray:
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            "class_weight: expected 'balanced' or a dict of label -> weight, got "
            f"{type(class_weight).__name__}"
        )
    table = np.ones(classes)
    for label, weight in class_weight.items():
        index = checks.positive_int("class_weight", label, least=0)
        if index >= classes:
            raise ValueError(f"class_weight: label {index} is out of range 0 to {classes - 1}")
        table[index] = checks.number(f"class_weight[{index}]", weight, 0)
    return table


def stratified_split(labels: np.ndarray, held: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers, ascending, to train on and to hold out, with the same share of each class.

    Each class holds out ``held / n`` of its rows, as nearly as whole rows allow, and keeps at
    least one.

    Parameters
    ----------
    labels
        Class of each row (n,), at least 0.
    held
        Number of rows to hold out in all.
    seed
        Of the draw.

    Raises
    ------
    ValueError
        A class would keep no row; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    >>> train, held_out = stratified_split(labels, 3, seed=0)
    >>> labels[train], labels[held_out]
    (array([0, 0, 0, 0, 1, 1]), array([0, 0, 1]))
    """
    n = len(labels)
    order = class_by_class(random_order(np.random.PCG64(seed), n), labels)
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    rank = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    size = np.repeat(counts, counts)
    # Each class spreads its rows evenly over (0, 1), so any part of that range has the same share
    # of every class. The last row of each class comes after all others, to be kept.
    place = np.where(rank < size - 1, (rank + 0.5) / size, np.inf)
    by_place = np.argsort(place, kind="stable")
    last = by_place[held - 1]
    if np.isinf(place[last]):
        raise ValueError(
            f"stratify: holding out {held} of {n} rows leaves none of class "
            f"{labels[order[last]]} to train on, of which there are {size[last]}; "
            f"expected at most {n - len(counts)} rows, one of each class being kept"
        )
    return np.sort(order[by_place[held:]]), np.sort(order[by_place[:held]])
