"""Cross-validation, and the choice of rows by their class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
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
    a row would be on both sides.

    ``fit(class_weight="balanced")`` has the same expected gradient without copies: each class has
    the same share of the loss, and so has each row of a class. Its epochs are shorter; but a batch
    may have no row of a rare class, or one of a large weight, so gradients vary more from batch to
    batch. `BalancedBatches` draws new rows for each epoch.

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
    return _balanced(_labels(y), np.random.PCG64(checks.positive_int("seed", seed, least=0)))


def _balanced(labels: np.ndarray, bits: np.random.PCG64) -> np.ndarray:
    order = class_by_class(random_order(bits, len(labels)), labels)
    counts = np.bincount(labels)
    classes = np.split(order, np.cumsum(counts)[:-1])
    rows = np.concatenate([np.resize(members, counts.max()) for members in classes])
    return rows[random_order(bits, len(rows))]


class BalancedBatches:
    """Batches for ``fit_batches`` in which classes are equally frequent, drawn anew each epoch.

    An epoch has the rows that `balanced_indices` draws. ``fit`` on these is faster, but repeats the
    same rows in all epochs.

    Parameters
    ----------
    X, y, sample_weight
        Data as for ``fit``, with labels (n,) or one-hot rows (n, classes).
    batch_size
        Rows of a batch; the last one of an epoch may have fewer.
    seed
        Of all draws: the same seed gives the same epochs, one after the other.

    Raises
    ------
    ValueError, TypeError
        Data or options that do not fit.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = (X.sum(axis=1) > 2).astype(int)  # few rows of class 1
    >>> model = fnn.Sequential([fnn.layers.Dense(2, "softmax")])
    >>> model.compile("cross_entropy", fnn.optimizers.Adam(0.05))
    >>> history = model.fit_batches(BalancedBatches(X, y), epochs=20, verbose=0)
    >>> float((model.predict(X[y == 1]).argmax(axis=1) == 1).mean()) > 0.9
    True

    Source: Japkowicz & Stephen, The class imbalance problem: a systematic study (2002).
    """

    def __init__(
        self, X: Any, y: Any, *, batch_size: int = 32, sample_weight: Any = None, seed: int = 0
    ) -> None:
        self._data = as_rows(X, y, sample_weight)
        self._labels = _labels(y)
        self._size = checks.positive_int("batch_size", batch_size)
        self._bits = np.random.PCG64(checks.positive_int("seed", seed, least=0))

    def __len__(self) -> int:
        counts = np.bincount(self._labels)
        return -(-len(counts) * int(counts.max()) // self._size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        rows = _balanced(self._labels, self._bits)
        for start in range(0, len(rows), self._size):
            part = self._data.take(rows[start : start + self._size])
            yield (part.x, part.y) if part.w is None else (part.x, part.y, part.w)


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
    models = new_models(make_model, repeat((), checks.positive_int("folds", folds, least=2)))
    first = next(models)
    data = as_rows(X, y, sample_weight, first)
    if stratify and len(data.ys) > 1:
        raise ValueError(f"stratify: expected a model of one output, got {len(data.ys)}")
    parts = k_fold(len(data), folds, y=data.y if stratify else None, seed=seed)
    scores, histories = [], []
    for (train, test), model in zip(parts, chain([first], models), strict=True):
        histories.append(model.fit(**arguments(data.take(train)), **fit_options))
        scores.append(model.evaluate(**arguments(data.take(test))))
    return CrossValidation(scores, histories)


def as_rows(X: Any, y: Any, sample_weight: Any, model: Model | None = None) -> Data:
    """A user's arrays, from which rows can be taken; the rest is for ``fit`` to check.

    ``model`` tells whether X and y are several arrays; without one they are not.
    """
    xs, ys = {"X": X}, {"y": y}
    if model is not None and model._chain is not None:
        network, _ = model._need()
        xs = {name: e.array for name, e in model._examples("X", X, network).items()}
        ys = {name: t.array for name, t in model._targets("y", y, network).items()}
    given = xs | ys | ({} if sample_weight is None else {"sample_weight": sample_weight})
    arrays = {name: checks.numeric(name, array) for name, array in given.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        if array.ndim == 0:
            raise ValueError(f"{name}: expected one entry per row, got a single number")
        checks.same_length(name, array, first, len(arrays[first]))
    return Data(
        tuple(arrays[name] for name in xs),
        tuple(arrays[name] for name in ys),
        arrays.get("sample_weight"),
    )


def arguments(data: Data) -> dict[str, Any]:
    """Arrays as ``fit`` and ``evaluate`` take them."""
    return {
        "X": list(data.xs) if len(data.xs) > 1 else data.x,
        "y": list(data.ys) if len(data.ys) > 1 else data.y,
        "sample_weight": data.w,
    }


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
