"""Rows of features and targets as the command line trains on them: split and standardised.

A `Task` is what ``fastnn train`` needs to know about its data, wherever they come from.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import checks, datasets


@dataclass(frozen=True)
class Standardiser:
    """z = (x - mean) / deviation for each column; 0 where the column does not vary.

    A column that is constant in the training part teaches nothing: its weights would keep their
    random initial values, so it stays 0 even where a later row differs.

    Attributes
    ----------
    mean, deviation
        Of each column (columns,) of the rows it was made from; the deviation of a constant column
        is 0.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, names: Sequence[str]) -> Standardiser:
        """The statistics of ``rows`` (n, columns), usually the training part.

        Raises
        ------
        ValueError
            Numbers so large that their variance overflows; the message names the column.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        # Rounding gives equal numbers a mean beside them, hence a deviation that is not 0.
        deviation = np.where(rows.min(axis=0) == rows.max(axis=0), 0.0, deviation)
        bad = ~(np.isfinite(mean) & np.isfinite(deviation))
        if bad.any():
            column = int(bad.argmax())
            largest = np.abs(rows[:, column]).max()
            raise ValueError(
                f"column {names[column]!r}: numbers up to {largest:.3g} are too large to "
                "standardise"
            )
        return cls(mean, deviation)

    def apply(self, rows: np.ndarray, dtype: str) -> np.ndarray:
        """Standardised rows (n, columns), in C order."""
        varies = self.deviation > 0
        with np.errstate(over="ignore"):  # an infinity is found where the data are checked
            z = np.zeros(rows.shape)
            np.divide(rows - self.mean, self.deviation, out=z, where=varies)
            return z.astype(dtype)

    def undo(self, z: np.ndarray) -> np.ndarray:
        """Rows in their original units."""
        return z * self.deviation + self.mean


def split_rows(n: int, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to test on, drawn without replacement.

    The same seed gives the same split with every version of NumPy.

    Parameters
    ----------
    n
        Number of rows.
    test_fraction
        Share of the rows to test on, in (0, 1); at least one row, and at least one is left.
    seed
        Of the draw, >= 0.

    Raises
    ------
    ValueError
        A share outside (0, 1), or fewer than 2 rows.

    Examples
    --------
    >>> from fastnn import tabular
    >>> train, test = tabular.split_rows(10, 0.2, seed=0)
    >>> len(train), len(test)
    (8, 2)
    """
    fraction = checks.number("test fraction", test_fraction, 0, 1, open_low=True, open_high=True)
    checks.positive_int("seed", seed, least=0)
    if n < 2:
        raise ValueError(f"expected at least 2 rows, to train on and to test on, got {n}")
    count = min(max(round(fraction * n), 1), n - 1)
    # NumPy promises the raw numbers of a bit generator for ever, but not what permutation() makes
    # of them (NEP 19).
    order = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])


@dataclass(frozen=True, eq=False)
class Task:
    """Data to train and test on.

    Attributes
    ----------
    name
        Where they come from, for people.
    X, X_test
        Features (n, features) and (m, features).
    y
        Class numbers (n,), or standardised targets (n, 1).
    y_test
        Class numbers (m,), or targets in their own units (m,).
    classes
        The classes by their numbers; None to regress.
    scale
        Factor that brings the features to about 1, for a Rescaling layer; 1 where they are.
    target
        How the targets were standardised; None to classify.
    target_name
        Name of the target column; empty where it has none.
    epochs
        How long to train unless asked otherwise.
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    classes: np.ndarray | None
    epochs: int
    scale: float = 1.0
    target: Standardiser | None = None
    target_name: str = ""

    @property
    def outputs(self) -> int:
        """Outputs of a network for it: one for each class, or one number."""
        return 1 if self.classes is None else len(self.classes)

    def __str__(self) -> str:
        what = f"{len(self.classes):,} classes" if self.classes is not None else "regression"
        if self.target_name:
            what += f" of {self.target_name!r}"
        return (
            f"{self.name}: {len(self.X):,} rows to train on, {len(self.X_test):,} to test on, "
            f"{self.X.shape[1]:,} features, {what}"
        )


#: Epochs that bring the default network on the bundled digits to its best test accuracy, and that
#: are enough for data of other kinds and usual sizes; small tables need many, MNIST few.
DIGITS_EPOCHS, IDX_EPOCHS, CSV_EPOCHS = 200, 5, 50


def digits() -> Task:
    """The digits that come with the package."""
    (X, y), (X_test, y_test) = datasets.load_digits()
    return Task("bundled digits", X, y, X_test, y_test, np.arange(10), DIGITS_EPOCHS, 1 / 16)


def idx_directory(directory: str | os.PathLike[str]) -> Task:
    """Images and labels from a directory of four IDX files, as `datasets.load_idx_directory` reads.

    Raises
    ------
    OSError, ValueError
        As `datasets.load_idx_directory`; or all labels are the same.
    """
    (X, y), (X_test, y_test) = datasets.load_idx_directory(directory)
    # Numbered afresh: labels may start at 1, or leave gaps.
    classes, numbers = np.unique(np.concatenate([y, y_test]), return_inverse=True)
    _need_two(classes, f"{directory}: labels")
    y, y_test = numbers[: len(y)], numbers[len(y) :]
    return Task(str(directory), X, y, X_test, y_test, classes, IDX_EPOCHS, 1 / 255)


def csv_table(
    file: str | os.PathLike[str],
    target: str | None,
    test_fraction: float,
    seed: int,
    dtype: str,
    regress: bool = False,
) -> Task:
    """A table from a CSV file, as `datasets.read_csv` reads it, with a test part held out.

    Features, and a target to be regressed, are standardised by the mean and deviation of the rows
    to train on. ``regress`` takes whole numbers for quantities and not for classes.

    Raises
    ------
    OSError, ValueError
        As `datasets.read_csv`, `split_rows` and `Standardiser.of`; there is only one class, or text
        to regress.
    """
    table = datasets.read_csv(file, target)
    if table.classes is not None and regress:
        if table.classes.dtype.kind not in "iu":
            where, found = f"{file}, column {table.target_name!r}", table.classes[0].item()
            raise ValueError(f"{where}: expected numbers to regress, found {found!r}")
        table = replace(table, y=table.classes[table.y].astype(np.float64), classes=None)
    if table.classes is not None:
        _need_two(table.classes, f"{file}, column {table.target_name!r}")
    train, test = split_rows(len(table.X), test_fraction, seed)
    y, y_test = table.y[train], table.y[test]
    scale = None
    try:
        features = Standardiser.of(table.X[train], table.feature_names)
        if table.classes is None:
            scale = Standardiser.of(y[:, None], [table.target_name])
            y = scale.apply(y[:, None], dtype)
    except ValueError as error:
        raise ValueError(f"{file}, {error}") from None
    X, X_test = (features.apply(table.X[rows], dtype) for rows in (train, test))
    return Task(
        str(file), X, y, X_test, y_test, table.classes, CSV_EPOCHS,
        target=scale, target_name=table.target_name,
    )  # fmt: skip


def _need_two(classes: np.ndarray, where: str) -> None:
    if len(classes) < 2:
        found: Any = classes[0].item()
        raise ValueError(f"{where}: expected at least two classes, found only {found!r}")
