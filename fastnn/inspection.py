"""Looking into a model: what its layers put out, how they learn, and which learning rate suits it.

Everything here works on copies: the model that is looked at does not change.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from . import activations, checks
from .callbacks import History
from .kernels.ref import REFERENCE
from .layers import Layer
from .model import Model, Sequential
from .network import Network
from .report import Table
from .training import NonFiniteLoss

SomeModel = TypeVar("SomeModel", bound=Model)

#: Share of an activation's range, from either end, in which a value counts as saturated.
_EDGE = 0.01


# ------------------------------------------------------------------ copies and activations


def expect_model(model: Any, kind: type[Model] = Model) -> None:
    """Raise a TypeError unless the argument ``model`` is one, of some kind."""
    if not isinstance(model, kind):
        raise TypeError(f"model: expected a {kind.__name__}, got {type(model).__name__}")


def copy_of(model: SomeModel, dtype: str | None = None) -> SomeModel:
    """A model in the same state, with arrays of its own, perhaps of another number type.

    Layers, loss and metrics are configuration and shared; the optimizer is not, because its
    learning rate may be assigned to.
    """
    expect_model(model)
    made = copy(model)
    if isinstance(made, Sequential) and isinstance(model, Sequential):
        made._layers = model.layers
    made._runners, made._direct = {}, {}
    made.history, made.stop_training = History(), False
    made._dtype = dtype or model._dtype
    if model._compiled:
        made.optimizer = copy(model.optimizer)
    if model._state is not None:
        made._state = model._state.copy(made._dtype)
    return made


def layer_outputs(model: Model, X: Any, *, batch_size: int | None = None) -> list[np.ndarray]:
    """What each layer puts out for X, in evaluation (nothing is dropped).

    Parameters
    ----------
    model
        A built and compiled model.
    X
        Examples (n, ...).
    batch_size
        Rows taken at a time.

    Returns
    -------
    list of arrays
        One array (n, ...) for each layer, of the model's number type; for each call, where a layer
        is called several times.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        Not a model, X that does not fit, a model that is not built or not compiled.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> from fastnn.inspection import layer_outputs
    >>> model = fnn.Sequential([fnn.Input(4), fnn.layers.Dense(3, "relu"), fnn.layers.Dense(2)])
    >>> model.compile("mean_squared_error")
    >>> [y.shape for y in layer_outputs(model, np.ones((5, 4)))]
    [(5, 3), (5, 2)]
    """
    network = _network(model)
    # The compiler fuses layers, so their values are not in memory: here each is an output.
    every = Model(network.inputs, [call.symbol for call in network.calls])
    every.compile(
        "mean_squared_error",  # to predict, any loss does
        backend=model.backend,
        threads=model.threads,
        dtype=model._dtype,
        deterministic=model.deterministic,
    )
    every.set_weights(model.get_weights())
    outputs = every.predict(X, batch_size=batch_size)
    return outputs if isinstance(outputs, list) else [outputs]


def layer_names(model: Model) -> list[str]:
    """The layers' names as `Model.summary` has them: ``dense_0``, ``dropout_1``, ..."""
    return [f"{layer.kind}_{i}" for i, layer in enumerate(_network(model, compiled=False).layers)]


def _network(model: Model, compiled: bool = True) -> Network:
    expect_model(model)
    return model._need(compiled)[0]


# ------------------------------------------------------------------ statistics


@dataclass(frozen=True)
class LayerStatistics:
    """One layer's numbers; None where a number makes no sense for the layer.

    Attributes
    ----------
    name, layer
        Name as in ``summary``, and the layer.
    mean, deviation, zeros
        Mean and standard deviation of all its outputs, and the share of exact zeros.
    dead
        Share of its units whose output is 0 for every row (layers with an activation).
    saturated
        Share of outputs within 1% of the range from an end of it (activations with two ends).
        The end at which f(0) lies is left out: with relu6 that is where a unit is off.
    weights, gradient
        Euclidean norms over all its weights, and over their gradients.
    update_ratio
        Norm of the coming update, made by the model's optimizer, over that of the weights.
    """

    name: str
    layer: Layer
    mean: float
    deviation: float
    zeros: float
    dead: float | None
    saturated: float | None
    weights: float | None
    gradient: float | None
    update_ratio: float | None


@dataclass(frozen=True, repr=False)
class Statistics:
    """What `layer_statistics` returns; ``print`` shows a table and the warnings.

    Attributes
    ----------
    layers
        One `LayerStatistics` for each layer.
    loss
        Training loss of the rows, with penalties and dropout.
    warnings
        Sentences that begin with a layer's name.
    """

    layers: list[LayerStatistics]
    loss: float
    warnings: list[str]

    def __str__(self) -> str:
        headings = (
            "layer", "mean", "std", "zeros", "dead", "saturated", "|weights|", "|gradient|",
            "update/weights",
        )  # fmt: skip
        rows = [
            (s.name, s.mean, s.deviation, s.zeros, s.dead, s.saturated, s.weights, s.gradient,
             s.update_ratio)
            for s in self.layers
        ]  # fmt: skip
        notes = [f"loss {self.loss:.6g}", *(f"warning: {w}" for w in self.warnings)]
        return str(Table(headings, rows, notes))

    __repr__ = __str__


def layer_statistics(
    model: Model,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    dead: float = 0.1,
    saturated: float = 0.5,
    vanishing: float = 1e-3,
    exploding: float = 100.0,
) -> Statistics:
    """Activations, weights, gradients and the coming update of each layer, and what is wrong.

    Activations are those of evaluation; loss and gradients those of training on all rows as one
    batch, which is what the update would be made from. Some hundred rows tell enough.

    Parameters
    ----------
    model
        A compiled model.
    X, y, sample_weight
        As for ``fit``.
    dead
        Warn where more than this share of a layer's units is 0 for every row: rectifiers that no
        example reaches have no gradient any more.
    saturated
        Warn where more than this share of a hidden layer's values is at the ends of its activation,
        where the derivative is close to 0. At the output this is what training aims for.
    vanishing
        Warn where the root mean square of a layer's gradients is below this share of that of a
        layer behind it.
    exploding
        Warn where a layer's gradient is longer than this many times its weights: gradient descent
        with a rate of 1 / ``exploding`` would then change them by more than themselves.

    Returns
    -------
    Statistics
        Numbers of each layer, and the warnings. An update ratio of about 1e-3 is usual; far below,
        a layer hardly learns, far above, it forgets.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As ``fit``; not a model.
    NonFiniteLoss
        The loss is not finite.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.inspection import layer_statistics
    >>> (X, y), _ = fnn.datasets.load_digits()
    >>> model = fnn.Sequential([
    ...     fnn.layers.Dense(32, "sigmoid", kernel_initializer=fnn.initializers.Normal(stddev=1)),
    ...     fnn.layers.Dense(10, "softmax"),
    ... ])
    >>> model.compile("cross_entropy")
    >>> found = layer_statistics(model, X[:200], y[:200])  # the pixels go up to 16
    >>> found.layers[0].saturated > 0.9, len(found.warnings)
    (True, 1)

    Source: Glorot & Bengio, Understanding the difficulty of training deep feedforward neural
    networks, AISTATS 2010; Pascanu, Mikolov & Bengio, On the difficulty of training recurrent
    neural networks, ICML 2013 (gradients); Lu et al., Dying ReLU and initialization (2019).
    """
    dead = checks.number("dead", dead, 0, 1)
    saturated = checks.number("saturated", saturated, 0, 1)
    vanishing = checks.number("vanishing", vanishing, 0)
    exploding = checks.number("exploding", exploding, 0, open_low=True)
    expect_model(model)
    model = copy_of(model)
    loss, gradients = model.loss_and_gradients(X, y, sample_weight)  # builds the copy, if needed
    network = _network(model)
    outputs = layer_outputs(model, X)
    before = [w.copy() for w in model.get_weights()]
    model.train_on_batch(X, y, sample_weight)
    updates = [new - old for new, old in zip(model.get_weights(), before, strict=True)]

    found = []
    for i, (name, layer, y_i) in enumerate(
        zip(layer_names(model), network.layers, outputs, strict=True)
    ):
        own = [k for k, placed in enumerate(network.weights) if placed.layer == i]
        weights, gradient, update = (
            _norm([arrays[k] for k in own]) if own else None
            for arrays in (before, gradients, updates)
        )
        found.append(
            LayerStatistics(
                name, layer, float(y_i.mean(dtype=np.float64)),
                float(y_i.std(dtype=np.float64)), float((y_i == 0).mean()),
                _dead(layer, y_i), _saturated(layer, y_i), weights, gradient,
                update / weights if weights and update is not None else None,
            )
        )  # fmt: skip
    warnings = [
        *_activation_warnings(found, dead, saturated),
        *_gradient_warnings(found, _sizes(network), vanishing, exploding),
    ]
    return Statistics(found, loss, warnings)


def _norm(arrays: list[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))


def _sizes(chain: Network) -> list[int]:
    """Number of weights of each layer."""
    sizes = [0] * len(chain.layers)
    for placed in chain.weights:
        sizes[placed.layer] += placed.size
    return sizes


def _function(layer: Layer) -> activations.ActivationFunction | None:
    """The activation function of a layer that applies one to each value."""
    function = getattr(layer, "activation", None)
    if not isinstance(function, activations.ActivationFunction):
        return None
    return function if function.name in REFERENCE["activation"] else None


def _dead(layer: Layer, y: np.ndarray) -> float | None:
    function = _function(layer)
    if function is None or function.name == "identity":
        return None
    return float((y == 0).all(axis=0).mean())


def _saturated(layer: Layer, y: np.ndarray) -> float | None:
    function = _function(layer)
    if function is None:
        return None
    # Its ends, if it has two: far out, ten times as far changes nothing.
    x = np.array([-1e4, -1e3, 0.0, 1e3, 1e4])
    at = np.empty_like(x)
    with np.errstate(all="ignore"):
        REFERENCE["activation"][function.name][0](x, at, *function.parameters)
    low, start, high = at[0], at[2], at[4]
    if low != at[1] or high != at[3]:
        return None
    edge = _EDGE * abs(high - low)
    at_end = np.zeros(y.shape, bool)
    for end in (low, high):
        if abs(start - end) > edge:
            at_end |= np.abs(y - end) < edge
    return float(at_end.mean())


def _activation_warnings(found: list[LayerStatistics], dead: float, saturated: float) -> list[str]:
    warnings = []
    for s in found:
        if s.dead is not None and s.dead > dead:
            warnings.append(f"{s.name}: {s.dead:.0%} of its units are dead, 0 for every row")
        if s.saturated is not None and s.saturated > saturated and s is not found[-1]:
            warnings.append(f"{s.name}: {s.saturated:.0%} of its values are saturated")
    return warnings


def _gradient_warnings(
    found: list[LayerStatistics], sizes: list[int], vanishing: float, exploding: float
) -> list[str]:
    warnings: list[str] = []
    behind = 0.0  # the largest mean gradient of the layers behind
    for s, size in zip(reversed(found), reversed(sizes), strict=True):
        if s.gradient is None or s.weights is None:
            continue
        mean = s.gradient / math.sqrt(size)
        if mean < vanishing * behind:
            warnings.append(
                f"{s.name}: the gradient vanishes, {mean / behind:.1e} of that of a layer behind it"
            )
        if s.weights and s.gradient > exploding * s.weights:
            warnings.append(
                f"{s.name}: the gradient explodes, {s.gradient / s.weights:.1e} times the weights"
            )
        behind = max(behind, mean)
    return warnings[::-1]


# ------------------------------------------------------------------ learning rates


@dataclass(frozen=True, repr=False)
class RangeTest:
    """What `learning_rate_range_test` returns.

    Attributes
    ----------
    rates, losses
        The learning rate of each step, and the loss of its batch before the update. The last loss
        may not be finite.
    suggestion
        The rate at which the loss falls fastest, or None where it does not fall.
    """

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float | None

    def __repr__(self) -> str:
        advice = "none: the loss does not fall" if self.suggestion is None else self.suggestion
        shown = f"{advice:.2g}" if isinstance(advice, float) else advice
        return (
            f"<RangeTest of {len(self.rates)} rates from {self.rates[0]:.2g} to "
            f"{self.rates[-1]:.2g}, suggestion {shown}>"
        )


def learning_rate_range_test(
    model: Model,
    X: Any,
    y: Any,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    batch_size: int = 32,
) -> RangeTest:
    """Train for some steps with a rate that grows from step to step, and see what the loss does.

    rate(k) = low (high / low)^(k / (steps - 1)). While rates are too small the loss stays, then it
    falls, and in the end it grows. The suggestion is where, before the losses are least, a line
    through those of a tenth of the steps, over the logarithm of the rate, falls most steeply.

    The test ends early at a loss that is not finite, or once the mean of the last five losses is 4
    times the least such mean so far.

    Parameters
    ----------
    model
        A compiled model; a copy of it is trained, with its optimizer in its present state.
    X, y
        As for ``fit``.
    low, high
        First and last rate, 0 < low < high.
    steps
        Number of updates, >= 10.
    batch_size
        Rows of a batch, in random order; all rows where there are fewer. Suited rates depend on it.

    Returns
    -------
    RangeTest
        Rates, losses and the suggestion.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As ``fit``, or options that do not fit.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn.inspection import learning_rate_range_test
    >>> (X, y), _ = fnn.datasets.load_digits()
    >>> model = fnn.Sequential([
    ...     fnn.layers.Rescaling(1 / 16),
    ...     fnn.layers.Dense(64, "relu"),
    ...     fnn.layers.Dense(10, "softmax"),
    ... ])
    >>> model.compile("cross_entropy", "adam")
    >>> 1e-4 < learning_rate_range_test(model, X, y).suggestion < 1e-1
    True

    Source: Smith, Cyclical learning rates for training neural networks, WACV 2017, section 3.3,
    with rates that grow by a factor, so that small ones are tried as finely as large ones.
    """
    low = checks.number("low", low, 0, open_low=True)
    high = checks.number("high", high, low, open_low=True)
    steps = checks.positive_int("steps", steps, least=10)
    batch_size = checks.positive_int("batch_size", batch_size)
    model = copy_of(model)
    data = model._prepare(X, y, None)
    batch_size = min(batch_size, len(data))

    rng = np.random.default_rng(model.seed)
    epochs = -(-steps * batch_size // len(data))
    order = np.concatenate([rng.permutation(len(data)) for _ in range(epochs)])
    rates = np.geomspace(low, high, steps)
    losses: list[float] = []
    best = math.inf
    for step, rate in enumerate(rates):
        rows = order[step * batch_size : (step + 1) * batch_size]
        model.optimizer.learning_rate = float(rate)
        try:
            losses.append(model._train_step(data.take(rows))["loss"])
        except NonFiniteLoss:
            losses.append(math.nan)
            break
        recent = float(np.mean(losses[-5:]))
        best = min(best, recent)
        if recent > 4 * best:
            break
    made = np.array(losses)
    return RangeTest(rates[: len(made)], made, _steepest(rates, made, steps))


def _steepest(rates: np.ndarray, losses: np.ndarray, steps: int) -> float | None:
    """The rate in the middle of those steps through which a fitted line falls most steeply."""
    losses = losses[np.isfinite(losses)]
    side = max(1, steps // 20)  # single batches differ: a slope needs several
    if len(losses) < 2 * side + 1:
        return None
    offsets = np.arange(-side, side + 1)
    means = np.correlate(losses, np.full(offsets.size, 1 / offsets.size), mode="valid")
    slopes = np.correlate(losses, offsets / np.square(offsets).sum(), mode="valid")
    # Losses that a large rate has thrown up may fall faster afterwards than ever before.
    at = int(slopes[: means.argmin() + 1].argmin())
    return float(rates[at + side]) if slopes[at] < 0 else None
