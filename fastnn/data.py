"""Examples, targets and weights, checked and in the form that the native loop reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


def prepare(
    x: Any,
    y: Any,
    sample_weight: Any,
    class_weight: Mapping[int, float] | None,
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
    weights = _weights(sample_weight, names, len(features), dtype)
    if class_weight is not None:
        by_class = _class_weights(class_weight, loss.class_labels(targets), units, dtype)
        weights = by_class if weights is None else weights * by_class
    return Data(features, targets, weights)


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


def _class_weights(
    class_weight: Mapping[int, float], labels: np.ndarray, units: int, dtype: str
) -> np.ndarray:
    if not isinstance(class_weight, Mapping):
        raise TypeError(
            f"class_weight: expected a dict of label -> weight, got {type(class_weight).__name__}"
        )
    classes = max(units, 2)
    table = np.ones(classes, dtype)
    for label, weight in class_weight.items():
        index = checks.positive_int("class_weight", label, least=0)
        if index >= classes:
            raise ValueError(f"class_weight: label {index} is out of range 0 to {classes - 1}")
        table[index] = checks.number(f"class_weight[{index}]", weight, 0)
    return table[labels][:, None]
