"""Cross-validation, and the choice of rows by their class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks
from .callbacks import History
from .data import Data, class_by_class, random_order
from .model import Model


def k_fold(
    n: int, folds: int = 5, *, y: Any = None, shuffle: bool = True, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Divide n rows into parts of equal size, each of which is left out once.

    Parameters
    ----------
    n
        Number of rows.
    folds
        Number of parts, 2 to n; sizes differ by at most one row.
    y
        Labels (n,) or one-hot rows (n, classes): stratify, so that the rows of each class in the
        parts differ by at most one, too.
    shuffle
        Draw which rows go together; else they are neighbours (those of a class are dealt out in
        turn).
    seed
        Of the draw; the same seed gives the same folds with every version of NumPy.

    Returns
    -------
    iterator of (train_index, test_index)
        Row numbers, ascending. Each row is in one ``test_index``, and in ``train_index`` of all
        others.

    Raises
    ------
    ValueError, TypeError
        Options that do not fit, or a class with fewer rows than there are folds.

    Source: Stone, Cross-validatory choice and assessment of statistical predictions (1974);
    stratified: Kohavi, A study of cross-validation and bootstrap for accuracy estimation and model
    selection, IJCAI 1995.

    Examples
    --------
    >>> for train, test in k_fold(5, folds=2, shuffle=False):
    ...     print(train, test)
    [3 4] [0 1 2]
    [0 1 2] [3 4]
    """
    n = checks.positive_int("n", n)
    if checks.positive_int("folds", folds, least=2) > n:
        raise ValueError(f"folds: expected at most the {n} rows there are, got {folds}")
    bits = np.random.PCG64(checks.positive_int("seed", seed, least=0))
    order = random_order(bits, n) if shuffle else np.arange(n)
    if y is None:
        tests = np.array_split(order, folds)
    else:
        labels = _labels(y, n, at_least=folds)
        order = class_by_class(order, labels)
        tests = [order[part::folds] for part in range(folds)]  # each class is dealt out in turn
    return ((np.setdiff1d(np.arange(n), test), np.sort(test)) for test in tests)


def _labels(y: Any, n: int | None = None, at_least: int = 1) -> np.ndarray:
    """Class of each row as 0, 1, ..., from any numbers (n,) or one-hot rows (n, classes)."""
    array = checks.numeric("y", y)
    shape = array.shape
    if array.ndim == 2 and shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2 and np.allclose(array.sum(axis=1), 1, atol=1e-3):
        array = array.argmax(axis=1)
    if array.ndim != 1 or not len(array):
        raise ValueError(
            "y: expected labels (n,) or one-hot rows (n, classes) that sum to 1, got "
            f"{'other rows of ' if len(shape) == 2 else ''}shape {shape}"
        )
    if n is not None and len(array) != n:
        raise ValueError(f"y: expected {n} labels, one for each row, got {len(array)}")
    checks.finite("y", array)
    classes, labels, counts = np.unique(array, return_inverse=True, return_counts=True)
    rarest = int(counts.argmin())
    if counts[rarest] < at_least:
        raise ValueError(
            f"y: expected at least {at_least} rows of each class, one for each fold, got "
            f"{counts[rarest]} of class {classes[rarest]}"
        )
    return labels


def balanced_indices(y: Any, *, seed: int = 0) -> np.ndarray:
    """Row numbers with which every class is there as often as the most frequent one.

    Use it as ``model.fit(X[i], y[i])``. The rows of rarer classes are repeated, each as often as
    the others of its class or once more. Split off rows for validation before, not after: copies of
    a row would be on both sides. Where repeating rows costs too much time,
    ``fit(class_weight="balanced")`` gives classes the same total weight instead.

    Parameters
    ----------
    y
        Labels (n,) or one-hot rows (n, classes).
    seed
        Of the rows that are repeated once more, and of the order.

    Returns
    -------
    array of int
        Row numbers in random order, (number of classes * rows of the most frequent class,).

    Source: random oversampling, in Japkowicz & Stephen, The class imbalance problem: a systematic
    study (2002).

    Examples
    --------
    >>> import numpy as np
    >>> y = np.array([0, 0, 0, 0, 1])
    >>> np.bincount(y[balanced_indices(y)])
    array([4, 4])
    """
    labels = _labels(y)
    bits = np.random.PCG64(checks.positive_int("seed", seed, least=0))
    order = class_by_class(random_order(bits, len(labels)), labels)
    counts = np.bincount(labels)
    classes = np.split(order, np.cumsum(counts)[:-1])
    rows = np.concatenate([np.resize(members, counts.max()) for members in classes])
    return rows[random_order(bits, len(rows))]


@dataclass(frozen=True)
class CrossValidation:
    """What `cross_validate` returns.

    Attributes
    ----------
    scores
        Loss and metrics of each fold, over the rows that its model had not seen.
    histories
        The `History` of each fold's training.
    """

    scores: Sequence[dict[str, float]]
    histories: Sequence[History]

    @property
    def mean(self) -> dict[str, float]:
        """Mean of each quantity over the folds."""
        return {name: float(np.mean(values)) for name, values in self._columns().items()}

    @property
    def std(self) -> dict[str, float]:
        """Standard deviation of each quantity between the folds (divided by folds - 1)."""
        return {name: float(np.std(values, ddof=1)) for name, values in self._columns().items()}

    def _columns(self) -> dict[str, list[float]]:
        return {name: [score[name] for score in self.scores] for name in self.scores[0]}

    def __repr__(self) -> str:
        std = self.std
        parts = (f"{name} {mean:.4g} +- {std[name]:.2g}" for name, mean in self.mean.items())
        return f"<CrossValidation of {len(self.scores)} folds: {', '.join(parts)}>"


def cross_validate(
    make_model: Callable[[], Model],
    X: Any,
    y: Any,
    *,
    folds: int = 5,
    stratify: bool = False,
    seed: int = 0,
    sample_weight: Any = None,
    **fit_options: Any,
) -> CrossValidation:
    """Train a new model without each part of the rows, and evaluate it on that part.

    Parameters
    ----------
    make_model
        Returns a new compiled model at each call.
    X, y, sample_weight
        Data as for ``fit``.
    folds, seed
        As for `k_fold`.
    stratify
        Give all parts the same share of each class; ``y`` are labels or one-hot rows then.
    **fit_options
        Passed on to ``fit``.

    Raises
    ------
    ValueError, TypeError
        Data or options that do not fit, or a ``make_model`` that does not make new models.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> def make():
    ...     model = fnn.Sequential([fnn.layers.Dense(2, "softmax")])
    ...     model.compile("cross_entropy", "adam", metrics="accuracy")
    ...     return model
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = (X.sum(axis=1) > 0).astype(int)
    >>> result = cross_validate(make, X, y, stratify=True, epochs=50, verbose=0)
    >>> len(result.scores), result.mean["accuracy"] > 0.9
    (5, True)
    """
    data = as_rows(X, y, sample_weight)
    parts = k_fold(len(data), folds, y=y if stratify else None, seed=seed)
    scores, histories = [], []
    for (train, test), model in zip(parts, new_models(make_model, [()] * int(folds)), strict=True):
        seen, unseen = data.take(train), data.take(test)
        histories.append(model.fit(seen.x, seen.y, sample_weight=seen.w, **fit_options))
        scores.append(model.evaluate(unseen.x, unseen.y, sample_weight=unseen.w))
    return CrossValidation(scores, histories)


def as_rows(X: Any, y: Any, sample_weight: Any) -> Data:
    """A user's arrays, from which rows can be taken; the rest is for ``fit`` to check."""
    arrays = {"X": checks.numeric("X", X), "y": checks.numeric("y", y)}
    if sample_weight is not None:
        arrays["sample_weight"] = checks.numeric("sample_weight", sample_weight)
    for name, array in arrays.items():
        if array.ndim == 0:
            raise ValueError(f"{name}: expected one entry per row, got a single number")
        checks.same_length(name, array, "X", len(arrays["X"]))
    return Data(arrays["X"], arrays["y"], arrays.get("sample_weight"))


def new_models(
    make_model: Callable[..., Model], calls: Iterable[tuple[int, ...]]
) -> Iterator[Model]:
    """The models that ``make_model`` makes, one for each tuple of arguments.

    Raises
    ------
    TypeError, ValueError
        It does not take them, or returns something else or the same model again.
    """
    made: list[Model] = []
    for arguments in calls:
        try:
            inspect.signature(make_model).bind(*arguments)
        except TypeError:
            takes = "one argument, a seed" if arguments else "no arguments"
            raise TypeError(
                f"make_model: expected a function of {takes}, got {make_model!r}"
            ) from None
        model = make_model(*arguments)
        if not isinstance(model, Model):
            raise TypeError(f"make_model: expected a function that returns a Model, got {model!r}")
        if any(model is other for other in made):
            raise ValueError(
                "make_model: expected a new model at each call, got one that it had returned before"
            )
        made.append(model)
        yield model
