"""Training on all rows at once by SciPy's optimizers: ``pip install "fastnn[full-batch]"``.

``model.fit(X, y, optimizer="lbfgs", epochs=200)`` hands the flat weights to one of these methods.
An epoch is one iteration of it: a step along a direction, of a length that a line search finds, so
there is no learning rate. The loss and its gradient come from one compiled program over all rows as
one batch, with penalties and sample weights; SciPy is imported when the first such ``fit`` starts.

*Precision.* The methods compute in float64. Where the model is float32, points are rounded to it
and losses and gradients come out with its errors, about 1e-7 of their size: often the line search
then finds no lower loss while the gradient is still 1e-6 to 1e-4, and training ends there. With
``compile(..., dtype="float64")`` it goes on to ``tolerance``.

*Randomness.* A method compares losses at different weights, so the function must not change in
between. With Dropout its masks are those of the coming update (``State.updates``), which does not
advance here: the loss that is minimised is that of one fixed, thinned network. Train with Dropout
by mini-batches instead. What layers keep beside their weights, such as running means, does not
change either.

*Kinks.* All three methods assume a smooth loss. They usually get along with rectifiers and an L1
penalty, but are not promised to.

*Memory* for what the layers put out grows with the number of rows.

>>> import numpy as np, fastnn as fnn
>>> X = np.linspace(-1, 1, 50)[:, None]
>>> model = fnn.Sequential([fnn.layers.Dense(8, "tanh"), fnn.layers.Dense(1)])
>>> model.compile("mean_squared_error", dtype="float64")
>>> history = model.fit(X, np.sin(3 * X), optimizer="lbfgs", epochs=200, verbose=0)
>>> history.history["loss"][-1] < 1e-4
True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, NoReturn

import numpy as np

from . import checks
from .callbacks import Callback, History
from .data import Data
from .inspection import copy_of
from .lookup import resolve
from .model import Model
from .runtime import NOT_FINITE
from .training import NonFiniteLoss, Progress, culprit, summarise, training

# ------------------------------------------------------------------ the methods


class Method:
    """Base: one of SciPy's optimizers, and its options as attributes.

    Every method ends where no entry of the gradient is larger than ``tolerance``, in absolute
    value, or where its line search finds no lower loss.
    """

    #: What ``scipy.optimize.minimize`` calls it.
    scipy_name: ClassVar[str]

    #: Whether it asks for products of the Hessian with a vector.
    second_order: ClassVar[bool] = False

    #: Whether to start again where it ends without having converged, while that gains anything.
    restarts: ClassVar[bool] = False

    tolerance: float

    def __post_init__(self) -> None:
        checks.number("tolerance", self.tolerance, 0)

    @property
    def options(self) -> dict[str, Any]:
        """SciPy's options, without tests of convergence by anything but the gradient."""
        return {"gtol": self.tolerance}


@dataclass(frozen=True)
class LBFGS(Method):
    """Limited-memory BFGS: curvature from the last few steps; the one to try first.

    Parameters
    ----------
    memory
        Steps that are remembered, each as two vectors of the size of the weights, >= 1.
    tolerance
        Largest entry of the gradient at which to stop, >= 0.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.full_batch.LBFGS(memory=20)
    LBFGS(memory=20, tolerance=1e-06)

    Source: Nocedal & Wright, Numerical Optimization, 2nd ed., algorithm 7.5; Zhu et al., Algorithm
    778: L-BFGS-B (1997), which SciPy has.
    """

    memory: int = 10
    tolerance: float = 1e-6

    scipy_name = "L-BFGS-B"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive_int("memory", self.memory)

    @property
    def options(self) -> dict[str, Any]:
        # By default SciPy ends after 15000 evaluations and where the loss falls slowly.
        return super().options | {"maxcor": self.memory, "ftol": 0.0, "maxfun": np.inf}


@dataclass(frozen=True)
class ConjugateGradient(Method):
    """Nonlinear conjugate gradients, after Polak and Ribiere; needs the least memory.

    SciPy takes a step only if the next direction will descend, or the step arrives at
    ``tolerance``. Where rounding forbids that, the method starts again along the gradient, until
    that gains nothing either.

    Parameters
    ----------
    tolerance
        Largest entry of the gradient at which to stop, >= 0.

    Source: Nocedal & Wright, Numerical Optimization, 2nd ed., section 5.2 (PR+).
    """

    tolerance: float = 1e-6

    scipy_name = "CG"
    restarts = True


@dataclass(frozen=True)
class NewtonCG(Method):
    """Newton's method, its linear systems solved by conjugate gradients up to some accuracy.

    Few iterations, each with many gradients: two for each product of the Hessian with a vector, as
    in `hessian_vector_product`. SciPy takes curvature below 7e-16 along an unscaled gradient for
    none, so gradients much shorter than 1e-8 are not reached.

    Parameters
    ----------
    tolerance
        Largest entry of the gradient at which to stop, >= 0.

    Source: Nocedal & Wright, Numerical Optimization, 2nd ed., algorithm 7.1.
    """

    tolerance: float = 1e-6

    scipy_name = "Newton-CG"
    second_order = True

    @property
    def options(self) -> dict[str, Any]:
        return {"xtol": 0.0}  # a test of the step; the gradient is tested after each iteration


#: Name -> class, of everything that ``fit``'s ``optimizer`` can name.
METHODS: dict[str, type[Method]] = {"lbfgs": LBFGS, "cg": ConjugateGradient, "newton_cg": NewtonCG}


def get(value: str | Method | type) -> Method:
    """The method that a name or object stands for."""
    return resolve("optimizer", value, METHODS, Method)


# ------------------------------------------------------------------ the function to minimise


class _Objective:
    """Loss of all rows and its gradient, as a function of the flat weights in float64.

    The model's own weights are where it is evaluated, so they move with every call.
    """

    def __init__(self, model: Model, data: Data) -> None:
        self.runner = model._runner("gradients", data, len(data))
        self.data, self.weights = data, model.parameters
        self.eps = float(np.finfo(self.weights.dtype).eps)
        self._totals = np.zeros((1, len(self.runner.program.sums)))

    def move(self, w: np.ndarray) -> None:
        """Make ``w`` the model's weights, rounded to its number type."""
        with np.errstate(over="ignore"):
            self.weights[:] = w

    def __call__(self, w: np.ndarray) -> tuple[dict[str, float], np.ndarray] | None:
        """Loss (and those of several outputs) and gradient; None where they are not finite."""
        self.move(w)
        self._totals[:] = 0
        n = len(self.data)
        with self.runner.lock:
            status, _ = self.runner.run(self.data.feeds, self._totals, rows=n, batch=n, last=1)
            gradient = self.runner.gradients().astype(np.float64)
        logs = summarise(self.runner, self._totals[0], n)
        good = status != NOT_FINITE and np.isfinite(gradient).all()
        # A large step may round to infinite weights, whose loss may be finite (tanh).
        if not (good and np.isfinite(self.weights).all()):
            return None
        return logs, gradient


def _hessian_product(
    gradient: Callable[[np.ndarray], np.ndarray], w: np.ndarray, v: np.ndarray, eps: float
) -> np.ndarray:
    """H(w) v from gradients that are rounded to ``eps``: see `hessian_vector_product`."""
    length = float(np.linalg.norm(v))
    if length == 0:
        return np.zeros_like(w)
    h = eps ** (1 / 3) * (1 + float(np.linalg.norm(w))) / length
    return (gradient(w + h * v) - gradient(w - h * v)) / (2 * h)


def hessian_vector_product(
    model: Model, X: Any, y: Any, vector: Any, *, sample_weight: Any = None
) -> np.ndarray:
    """The Hessian of the training loss by the weights, times a vector, from two gradients.

    For the gradient g of the loss of all rows as one batch, at the weights w::

        H v = (g(w + h v) - g(w - h v)) / 2 h,   h = eps^(1/3) (1 + |w|) / |v|

    where eps is the rounding unit: the errors of rounding and of the formula are then about the
    same, about 1e-9 where the derivatives are near 1. The loss must be smooth between the two
    points: with rectifiers, what they would do at their kinks is left out or badly measured.

    Everything runs on a copy of the model in float64: the model is not changed.

    Parameters
    ----------
    model
        A compiled model, of either number type.
    X, y, sample_weight
        As for ``fit``.
    vector
        As long as ``model.parameters``, and in that order.

    Returns
    -------
    array of float64
        As long as ``vector``.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As ``fit``; a vector of another shape; a gradient that is not finite at w + h v or w - h v.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> X, y = np.array([[1.0], [2.0]]), np.zeros(2)
    >>> model = fnn.Sequential([fnn.layers.Dense(1, use_bias=False)])
    >>> model.compile("mean_squared_error")  # (w^2 + 4 w^2) / 2, so the Hessian is 5
    >>> fnn.full_batch.hessian_vector_product(model, X, y, [2.0]).round(6)
    array([10.])

    Source: Nocedal & Wright, Numerical Optimization, 2nd ed., section 8.1; Pearlmutter, Fast exact
    multiplication by the Hessian (1994), section 2.
    """
    made = copy_of(model, "float64")
    data = made._prepare(X, y, sample_weight)
    w = made.parameters.copy()
    v = checks.numeric("vector", vector)
    if v.shape != w.shape:
        raise ValueError(
            f"vector: expected shape {w.shape}, a number for each weight, got {v.shape}"
        )
    checks.finite("vector", v)
    objective = _Objective(made, data)

    def gradient(w: np.ndarray) -> np.ndarray:
        found = objective(w)
        if found is None:
            raise ValueError("loss: expected finite gradients close by to take differences of")
        return found[1]

    return _hessian_product(gradient, w, v.astype(np.float64), objective.eps)


# ------------------------------------------------------------------ training


def _minimize() -> Callable[..., Any]:
    """``scipy.optimize.minimize``.

    Raises
    ------
    ImportError
        SciPy is not installed; the message says how to.
    """
    try:
        return import_module("scipy.optimize").minimize
    except ImportError as error:
        raise ImportError(
            f"optimizer: needs the package scipy, which cannot be imported ({error}): "
            'pip install "fastnn[full-batch]"'
        ) from error


def train(
    method: Method,
    model: Model,
    data: Data,
    epochs: range,
    callbacks: list[Callback],
    validate: Callable[[], dict[str, float]] | None,
    verbose: int | str,
) -> History:
    """What ``Model.fit`` does where it is given an ``optimizer``: see there.

    Parameters
    ----------
    method
        With its options.
    model, data
        What to train, and on what: checked, and built for each other.
    epochs
        Numbers of the iterations, as many as there may be at most.
    callbacks, verbose
        As for ``fit``.
    validate
        Evaluates the validation data.
    """
    minimize = _minimize()
    progress = Progress(verbose, len(epochs), epochs.stop)
    return _Training(method, model, data, epochs, callbacks, validate, progress).run(minimize)


@dataclass(frozen=True)
class _Point:
    """Weights, the losses there, and the gradient of their sum."""

    w: np.ndarray
    logs: dict[str, float]
    gradient: np.ndarray


class _Training:
    """One run of a method: what SciPy calls back, and the state that must survive any end of it.

    Attributes
    ----------
    last
        Where the model's weights are, if the loss was evaluated there: SciPy asks more than once.
    good
        Where the last iteration has arrived. A method takes a step only if the loss falls, so it is
        the best as well.
    lost
        Whether the loss is not finite at ``last``. If a method ends there, this is why: it has
        found a finite one nowhere. After a finite one closer by it is not.
    """

    def __init__(
        self,
        method: Method,
        model: Model,
        data: Data,
        epochs: range,
        callbacks: list[Callback],
        validate: Callable[[], dict[str, float]] | None,
        progress: Progress,
    ) -> None:
        self.method, self.model, self.data = method, model, data
        self.epochs, self.callbacks = epochs, callbacks
        self.validate, self.progress = validate, progress
        self.objective = _Objective(model, data)
        self.history = model.history = History()
        self.last: _Point | None = None
        self.good: _Point | None = None
        self.lost = False
        self._begun = False  # whether the callbacks know of the current iteration
        self._moved = False  # whether the weights are others than those of `good`

    def run(self, minimize: Callable[..., Any]) -> History:
        """Train, and leave model and history in a sound state however it ends."""
        with training(self.model, self.callbacks, self.progress):
            start = self.objective.weights.astype(np.float64)
            try:
                self.good = self._evaluate(start)
                if not self._done:
                    self._minimize(minimize)
                if self.lost:
                    self._fail()
            finally:
                if self._moved:
                    self.objective.move(start if self.good is None else self.good.w)
        return self.history

    def _minimize(self, minimize: Callable[..., Any]) -> None:
        assert self.good is not None
        before, again = np.inf, False
        while self.good.logs["loss"] < before:  # the last run has gained something
            before, epochs = self.good.logs["loss"], len(self.history.epoch)
            minimize(
                self._value,
                self.good.w,
                jac=True,
                hessp=self._hessian_product if self.method.second_order else None,
                method=self.method.scipy_name,
                callback=self._end_iteration,
                options=self.method.options | {"maxiter": len(self.epochs) - epochs},
            )
            if again and epochs == len(self.history.epoch):
                self.lost = False  # the run before had ended for another reason
            if self._done or self.lost or not self.method.restarts:
                return
            again = True

    @property
    def _done(self) -> bool:
        assert self.good is not None
        left = len(self.epochs) - len(self.history.epoch)
        return left == 0 or self._converged(self.good) or self.model.stop_training

    @property
    def _epoch(self) -> int:
        """Number of the current iteration."""
        return self.epochs.start + len(self.history.epoch)

    def _converged(self, point: _Point) -> bool:
        return float(np.abs(point.gradient).max(initial=0.0)) <= self.method.tolerance

    def _evaluate(self, w: np.ndarray) -> _Point:
        """Loss and gradient at ``w``.

        Line searches interpolate, and cannot with NaN. So weights whose loss is not finite are told
        as the far side of a valley, as high as ``good`` and as steep: no method takes such a step,
        and all try half of it next.
        """
        if self.last is not None and np.array_equal(w, self.last.w):
            return self.last
        w = w.copy()
        self._moved = True
        found = self.objective(w)
        if found is not None:
            self.last, self.lost = _Point(w, *found), False
        elif self.good is None:
            self._fail()
        else:
            self.lost = True
            self.last = _Point(w, self.good.logs, -self.good.gradient)
        return self.last

    def _begin_iteration(self) -> None:
        """Called before each evaluation: whether a method goes on is not known any earlier."""
        if not self._begun:
            self._begun = True
            for callback in self.callbacks:
                callback.on_epoch_begin(self.model, self._epoch)

    def _value(self, w: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss and gradient, for SciPy, which may write to what it gets."""
        self._begin_iteration()
        point = self._evaluate(w)
        return point.logs["loss"], point.gradient.copy()

    def _hessian_product(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """For SciPy, which would go on for long with NaN."""
        self._begin_iteration()
        self.last, self._moved = None, True
        return _hessian_product(self._gradient, w, v, self.objective.eps)

    def _gradient(self, w: np.ndarray) -> np.ndarray:
        found = self.objective(w)
        if found is None:
            self._fail()
        return found[1]

    def _end_iteration(self, w: np.ndarray) -> None:
        """Called by SciPy with the weights that an iteration has arrived at."""
        assert self.good is not None
        if np.array_equal(w, self.good.w):  # a step of 0: nothing is left that could be gained
            raise StopIteration
        point = self._evaluate(w)
        if self.lost:
            raise StopIteration
        logs = self._measure(point)
        self.good = point
        self._moved = self._begun = False
        epoch = self._epoch
        self.history.append(epoch, logs)
        self.progress.advance(1)
        self.progress.epoch(epoch, logs)
        for callback in self.callbacks:
            callback.on_epoch_end(self.model, epoch, logs)
        if self._done:
            raise StopIteration  # which SciPy takes as the wish to end

    def _measure(self, point: _Point) -> dict[str, float]:
        """Loss and metrics, and those of the validation data."""
        logs = point.logs
        if any(head.metrics for head in self.model.heads):
            logs = logs | self.model._evaluate(self.data, None) | logs  # the losses: of training
        held_out = self.validate() if self.validate is not None else {}
        return logs | {f"val_{name}": value for name, value in held_out.items()}

    def _fail(self) -> NoReturn:
        """Say what is not finite where the weights are; `run` goes back to good ones."""
        op = culprit(self.objective.runner, self.data, len(self.data), 0, None)
        raise NonFiniteLoss(len(self.history.epoch), self._epoch, op)
