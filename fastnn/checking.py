"""Checking gradients: what training computes, against differences of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks
from .inspection import copy_of
from .model import Model
from .report import Table

#: Step of the differences, unless asked otherwise: see ``check_gradients``.
_EPSILON = float(np.finfo(np.float64).eps ** (1 / 3))

#: Relative error up to which a derivative counts as right, unless asked otherwise.
_TOLERANCE = 1e-6

#: Times the loss's measured rounding error that a difference of two losses may be off.
_SAFETY = 4.0

#: Steps that are tried one after the other, as shares of ``epsilon``.
_STEPS = (1, 1 / 4, 1 / 16, 1 / 64)

#: How many entries are named in a report.
_NAMED = 5


@dataclass(frozen=True)
class Entry:
    """One weight: its derivative as training computes it, and as measured by differences.

    Attributes
    ----------
    array, index
        Name of the weight array, such as ``dense_0.kernel``, and the place in it.
    analytic, numeric
        The two derivatives.
    error
        |analytic - numeric| / max(|analytic|, |numeric|, tiny).
    verdict
        ``"right"``, ``"wrong"``, or ``"kink"``: there is no derivative to compare with.
    """

    array: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    verdict: str

    def __str__(self) -> str:
        place = ", ".join(map(str, self.index))
        kink = ", at a kink" if self.verdict == "kink" else ""
        return (
            f"{self.array}[{place}]: analytic {self.analytic:.9g}, numeric {self.numeric:.9g}, "
            f"relative error {self.error:.1e}{kink}"
        )


@dataclass(frozen=True)
class ArrayCheck:
    """The checked entries of one weight array.

    Attributes
    ----------
    name, shape
        Of the weight array.
    entries
        What was checked, in the order of the array.
    tiny
        Least length of a gradient that ``norm_error`` can tell from rounding.
    """

    name: str
    shape: tuple[int, ...]
    entries: list[Entry]
    tiny: float

    def count(self, verdict: str) -> int:
        """Number of entries with this verdict."""
        return sum(e.verdict == verdict for e in self.entries)

    @property
    def compared(self) -> list[Entry]:
        """The entries that are not at a kink."""
        return [e for e in self.entries if e.verdict != "kink"]

    @property
    def error(self) -> float:
        """The largest relative error of an entry."""
        return max((e.error for e in self.compared), default=0.0)

    @property
    def norm_error(self) -> float:
        """|a - n| / max(|a|, |n|, tiny) of the vectors of all entries' derivatives."""
        a, n = (np.array([getattr(e, k) for e in self.compared]) for k in ("analytic", "numeric"))
        norms = (float(np.linalg.norm(v)) for v in (a - n, a, n))
        difference, *sizes = norms
        return _ratio(difference, max(*sizes, self.tiny))


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """What `check_gradients` found; ``print`` shows a table and the worst entries.

    Attributes
    ----------
    arrays
        One `ArrayCheck` for each weight array that is trained.
    loss
        The training loss at which derivatives were taken.
    tolerance
        The relative error that was allowed.
    """

    arrays: list[ArrayCheck]
    loss: float
    tolerance: float

    def _entries(self) -> Iterator[Entry]:
        return (entry for array in self.arrays for entry in array.entries)

    @property
    def wrong(self) -> list[Entry]:
        """The entries that are wrong, the worst first."""
        return [e for e in self.worst if e.verdict == "wrong"]

    @property
    def worst(self) -> list[Entry]:
        """All entries that are not at a kink, by falling error."""
        compared = (e for e in self._entries() if e.verdict != "kink")
        return sorted(compared, key=lambda e: e.error, reverse=True)

    @property
    def kinks(self) -> list[Entry]:
        """The entries without a derivative; they do not count."""
        return [e for e in self._entries() if e.verdict == "kink"]

    @property
    def passed(self) -> bool:
        """Whether something was compared, and no entry is wrong."""
        return bool(self.worst) and not self.wrong

    def raise_if_wrong(self) -> None:
        """Raise unless the check has passed.

        Raises
        ------
        AssertionError
            An entry is wrong, or all are at kinks; the message is the table.
        """
        if not self.passed:
            raise AssertionError(f"gradients: expected those of the loss, got\n{self}")

    def __str__(self) -> str:
        headings = (
            "weights", "shape", "checked", "at a kink", "wrong", "largest error", "error of norm",
        )  # fmt: skip
        rows: list[tuple[Any, ...]] = [
            (a.name, a.shape, len(a.entries), a.count("kink"), a.count("wrong"), a.error,
             a.norm_error)
            for a in self.arrays
        ]  # fmt: skip
        wrong = f"{len(self.wrong)} wrong" if self.worst else "nothing to compare"
        verdict = "passed" if self.passed else wrong
        named = self.wrong[:_NAMED] or self.worst[:1]
        note = f"{verdict}; relative errors, up to {self.tolerance:g} allowed; loss {self.loss:.6g}"
        return str(Table(headings, rows, [note, *map(str, named)]))

    __repr__ = __str__


def check_gradients(
    model: Model,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    epsilon: float | None = None,
    tolerance: float | None = None,
    samples: int = 30,
) -> GradientCheck:
    """Compare the gradients of training with central differences of the training loss.

    For a weight w and a step h = epsilon max(1, |w|)::

        numeric = (L(w + h) - L(w - h)) / 2 h
        error = |analytic - numeric| / max(|analytic|, |numeric|, tiny)

    where tiny is the least derivative that rounding lets be measured to ``tolerance``; how far L is
    rounded is measured too. L is the loss of all rows as one batch, with penalties and with
    dropout, whose masks are those of the coming update for every L.

    Where an entry is off, steps of a 4th, a 16th and a 64th of h are tried too: they count where
    they see something else than h did. If then the slopes to the left and to the right of w differ
    and do not come closer as the step shrinks, w is at a kink, as of a rectifier at 0, and there is
    no derivative. Such entries are reported and do not count. Where several layers are at kinks at
    once, as with biases of 0 and an example of zeros, the slopes may agree by chance and differ
    from what training computes: move the biases a little first.

    Everything runs on a copy of the model in float64: the model is not changed.

    Parameters
    ----------
    model
        A compiled model, of either number type.
    X, y, sample_weight
        As for ``fit``; some tens of rows are enough. With many rows and rectifiers, some kink is
        close to nearly every weight.
    epsilon
        Step, > 0; by default the cube root of the rounding unit, 6e-6, where the errors of rounding
        and of the formula are about the same.
    tolerance
        Relative error that is allowed, > 0; 1e-6 by default.
    samples
        How many entries of an array are checked: all where it has no more, else as many at random,
        always the same ones.

    Returns
    -------
    GradientCheck
        ``passed``, ``raise_if_wrong()``, and a table when printed.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As ``fit``; a loss that is not finite.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> from fastnn.checking import check_gradients
    >>> X = np.random.default_rng(0).normal(size=(20, 4))
    >>> model = fnn.Sequential([fnn.layers.Dense(8, "tanh"), fnn.layers.Dense(3, "softmax")])
    >>> model.compile("cross_entropy")
    >>> check_gradients(model, X, np.arange(20) % 3).passed
    True

    Source: Bishop, Pattern Recognition and Machine Learning, section 5.3.3; Press et al., Numerical
    Recipes, 3rd ed., section 5.7 (the step).
    """
    epsilon = _EPSILON if epsilon is None else checks.number("epsilon", epsilon, 0, open_low=True)
    tolerance = _TOLERANCE if tolerance is None else tolerance
    tolerance = checks.number("tolerance", tolerance, 0, open_low=True)
    samples = checks.positive_int("samples", samples)
    model = copy_of(model, "float64")
    loss, gradients = model.loss_and_gradients(X, y, sample_weight)
    if not math.isfinite(loss):
        raise ValueError(f"loss: expected a finite number to take differences of, got {loss}")
    differences = _Differences(model, (X, y, sample_weight), loss, epsilon, tolerance)
    rng = np.random.default_rng(0)
    arrays = []
    for placed, gradient in zip(model._need()[0].weights, gradients, strict=True):
        if not placed.weight.trainable:  # the loss of training does not depend on it
            continue
        picks = np.arange(gradient.size)
        if gradient.size > samples:
            picks = np.sort(rng.choice(gradient.size, samples, replace=False))
        entries = []
        for pick in picks:
            analytic = float(gradient.flat[pick])
            judged = differences.judge(placed.offset + int(pick), analytic)
            index = tuple(int(k) for k in np.unravel_index(pick, gradient.shape))
            entries.append(Entry(placed.name, index, analytic, *judged))
        tiny = differences.tiny(epsilon) * math.sqrt(len(entries))
        arrays.append(ArrayCheck(placed.name, gradient.shape, entries, tiny))
    return GradientCheck(arrays, loss, tolerance)


def _ratio(difference: float, size: float) -> float:
    """A relative error; infinite where NaN would pass every comparison."""
    error = difference / size if size else 0.0
    return error if math.isfinite(error) else math.inf


class _Differences:
    """The training loss as a function of one weight, and the judgement of its derivative."""

    def __init__(
        self, model: Model, data: tuple[Any, Any, Any], loss: float, step: float, tolerance: float
    ) -> None:
        self.model, self.data, self.loss = model, data, loss
        self.step, self.tolerance = step, tolerance
        self.w = model.parameters
        self.rounding = self._measure_rounding()

    def value(self) -> float:
        return self.model.loss_and_gradients(*self.data)[0]

    def _measure_rounding(self) -> float:
        """How far the loss is rounded: its second difference over steps far too small to see more.

        Not at the weights but close by: a rectifier may have its kink exactly at the weights.
        """
        rng = np.random.default_rng(0)
        kept = self.w.copy()
        size = np.maximum(1, np.abs(kept)) / math.sqrt(kept.size)
        found = []
        for _ in range(5):
            start = kept + 1e-4 * size * rng.normal(size=kept.size)
            way = 1e-12 * size * rng.normal(size=kept.size)
            losses = []
            for k in (-1, 0, 1):
                self.w[:] = start + k * way
                losses.append(self.value())
            found.append(abs(losses[0] - 2 * losses[1] + losses[2]))
        self.w[:] = kept
        return max(float(np.median(found)), np.finfo(np.float64).eps * abs(self.loss))

    def noise(self, h: float) -> float:
        """What rounding can do to a derivative that is measured with a step h."""
        return _SAFETY * self.rounding / h

    def tiny(self, h: float) -> float:
        """The least derivative that can be checked to the tolerance.

        Less than five times the noise is not held against a derivative: whether a smaller step
        sees something else could not be told, as that has four times the noise.
        """
        return 5 * self.noise(h) / self.tolerance

    def error(self, a: float, b: float, h: float) -> float:
        return _ratio(abs(a - b), max(abs(a), abs(b), self.tiny(h)))

    def slopes(self, i: int, h: float) -> tuple[float, float]:
        """The slopes from w - h to w and from w to w + h, for weight number i."""
        kept = float(self.w[i])
        found = []
        for step in (-h, h):
            self.w[i] = kept + step
            moved = float(self.w[i]) - kept  # not quite the step: w + h is rounded
            found.append((self.value() - self.loss) / moved)
        self.w[i] = kept
        return found[0], found[1]

    def judge(self, i: int, analytic: float) -> tuple[float, float, str]:
        """Numeric derivative, relative error and verdict for weight number i."""
        first, first_gap, shown = 0.0, 0.0, (0.0, 0.0)
        bent = seen = False
        for share in _STEPS:
            h = share * self.step * max(1.0, abs(float(self.w[i])))
            left, right = self.slopes(i, h)
            numeric, gap = (left + right) / 2, abs(right - left)
            if share == 1:
                first, first_gap = numeric, gap
            # A smaller step sees less well: it only counts where it sees something else.
            if share == 1 or abs(numeric - first) > self.noise(h):
                shown = numeric, self.error(analytic, numeric, h)
                if shown[1] <= self.tolerance:
                    return *shown, "right"
            # Where the loss is smooth, the gap shrinks with the step, as far as that can be seen.
            if first_gap > 2 * self.noise(h):
                bent |= gap > 2 * share * first_gap
                seen = gap > max(2 * self.noise(h), 0.001 * abs(analytic - numeric))
        return *shown, "kink" if bent and seen else "wrong"
