"""Examples, targets and weights, checked and in the form that the native loop reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import checks
from .compiler import feed_name
from .losses import Loss


@dataclass(frozen=True)
class Data:
    """Arrays of n rows: for each input (n, features), for each output (n,) labels or (n, units).

    ``w`` (n, 1) are the weights of the rows; with ``mixup`` above 0, mixtures are trained on.
    """

    xs: tuple[np.ndarray, ...]
    ys: tuple[np.ndarray, ...]
    w: np.ndarray | None
    mixup: float = 0.0

    def __len__(self) -> int:
        return len(self.xs[0])

    @property
    def x(self) -> np.ndarray:
        """The examples of the only input."""
        (x,) = self.xs
        return x

    @property
    def y(self) -> np.ndarray:
        """The targets of the only output."""
        (y,) = self.ys
        return y

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """The arrays by the names that programs use."""
        feeds = {feed_name("x", i): x for i, x in enumerate(self.xs)}
        feeds |= {feed_name("y", i): y for i, y in enumerate(self.ys)}
        return feeds | ({} if self.w is None else {"w": self.w})

    @property
    def labels(self) -> tuple[bool, ...]:
        """Whether targets are class numbers, for each output."""
        return tuple(y.ndim == 1 for y in self.ys)

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> Data:
        """The same change to every array."""
        w = None if self.w is None else change(self.w)
        return replace(self, xs=tuple(map(change, self.xs)), ys=tuple(map(change, self.ys)), w=w)

    def rows(self, start: int, stop: int) -> Data:
        """A range of rows; nothing is copied."""
        return self.each(lambda array: array[start:stop])

    def take(self, index: np.ndarray) -> Data:
        """Copies of the rows with these numbers."""
        return self.each(lambda array: array.take(index, axis=0))


@dataclass(frozen=True)
class Examples:
    """What a user gives for one input, and the shape of an example of it."""

    array: Any
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """What a user gives for one output, the shape of that, and the loss that compares them."""

    array: Any
    shape: tuple[int, ...]
    loss: Loss


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
    examples: Mapping[str, Examples],
    targets: Mapping[str, Targets],
    sample_weight: Any,
    weight_name: str,
    dtype: str,
    threads: int,
) -> Data:
    """Check a user's arrays, by what they are called, against the model and each other.

    Raises
    ------
    ValueError, TypeError
        Whatever does not fit; the message names the argument.
    """
    xs = [checks.features(n, e.array, e.shape, dtype, threads) for n, e in examples.items()]
    first, rows = next(iter(examples)), len(xs[0])
    for name, x in zip(examples, xs, strict=True):
        checks.same_length(name, x, first, rows)
    ys = []
    for name, target in targets.items():
        if target.array is None:
            raise TypeError(f"{name}: expected targets, got None")
        raw = checks.numeric(name, target.array)
        if raw.ndim == 0:
            raise ValueError(f"{name}: expected one target per row, got a single number")
        checks.same_length(name, raw, first, rows)
        checks.finite(name, raw, dtype)
        try:
            if len(target.shape) > 1 and raw.shape[1:] == target.shape:
                raw = raw.reshape(rows, -1)
            ys.append(target.loss.targets(raw, math.prod(target.shape), dtype))
        except (ValueError, TypeError) as error:
            message = str(error)
            renamed = name + message[1:] if message.startswith("y:") else message
            raise type(error)(renamed) from None
    weights = _weights(sample_weight, weight_name, first, rows, dtype)
    return Data(tuple(xs), tuple(ys), weights)


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


def _weights(value: Any, name: str, other: str, n: int, dtype: str) -> np.ndarray | None:
    if value is None:
        return None
    array = checks.numeric(name, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name}: expected shape (n,), got {array.shape}")
    checks.same_length(name, array, other, n)
    checks.finite(name, array, dtype)
    if array.min() < 0:
        raise ValueError(f"{name}: expected weights of at least 0, got {array.min()}")
    return np.ascontiguousarray(array[:, None], dtype=dtype)


def class_labels(argument: str, data: Data, loss: Loss) -> np.ndarray:
    """The class of each row, for an argument that needs classes."""
    if len(data.ys) != 1:
        raise ValueError(f"{argument}: expected a model of one output, got {len(data.ys)}")
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


#: Least parameter of mixtures above 0. With it nearly every share is 0 or 1 to rounding; far below
#: it, the numbers that shares are made of underflow.
LEAST_MIXUP = 0.01


def mix_rows(data: Data, mixup: float, units: Sequence[int], dtype: str) -> Data:
    """The same rows, to be trained on as mixtures: labels become one-hot rows for it."""
    if mixup < LEAST_MIXUP:
        raise ValueError(f"mixup: expected 0, or at least {LEAST_MIXUP:g}, got {mixup}")
    if data.w is not None:
        raise ValueError("mixup: not together with sample_weight or class_weight")
    ys = tuple(
        np.eye(n, dtype=dtype)[y] if is_label else y
        for y, n, is_label in zip(data.ys, units, data.labels, strict=True)
    )
    return replace(data, ys=ys, mixup=mixup)


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
