"""Plots for matplotlib, which is imported where one is drawn: ``pip install "fastnn[plots]"``.

Every function draws into the Axes it is given, or into a new figure, and returns the Axes.

>>> from fastnn import plots
>>> history = {"loss": [2.3, 0.9, 0.4], "val_loss": [2.2, 1.0, 0.8]}
>>> ax = plots.training_curves(history)  # doctest: +SKIP
>>> ax.figure.savefig("loss.png")  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .callbacks import History
from .inspection import expect_model, layer_names, layer_outputs
from .layers import Symbol
from .lookup import near_matches
from .model import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def _matplotlib(module: str) -> Any:
    """One of matplotlib's modules.

    Raises
    ------
    ImportError
        It is not installed; the message says how to.
    """
    try:
        return import_module(f"matplotlib.{module}")
    except ImportError as error:
        raise ImportError(
            f"plots: need the package matplotlib, which cannot be imported ({error}): "
            'pip install "fastnn[plots]"'
        ) from error


def _axes(ax: Axes | None) -> Axes:
    pyplot = _matplotlib("pyplot")
    return pyplot.figure(layout="constrained").add_subplot() if ax is None else ax


# ------------------------------------------------------------------ training


def training_curves(
    history: History | Mapping[str, Sequence[float]],
    quantity: str = "loss",
    *,
    ax: Axes | None = None,
) -> Axes:
    """Loss or a metric after each epoch, with that of the validation data where there are any.

    Parameters
    ----------
    history
        What ``fit`` returns, or its dictionary of lists.
    quantity
        ``"loss"`` or the name of a metric.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        One line of ``quantity``, and one of ``val_...``, over the epochs, from 1.

    Raises
    ------
    ValueError
        The history has no such quantity.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn import plots
    >>> (X, y), test = fnn.datasets.load_digits()
    >>> model = fnn.Sequential([fnn.layers.Dense(10, "softmax")])
    >>> model.compile("cross_entropy", metrics="accuracy")
    >>> history = model.fit(X, y, epochs=3, validation_data=test, verbose=0)
    >>> plots.training_curves(history, "accuracy")  # doctest: +SKIP

    Source: Prechelt, Early stopping - but when? (1998), which reads such curves.
    """
    values = history.history if isinstance(history, History) else history
    if not isinstance(values, Mapping):
        raise TypeError(f"history: expected a History, got {history!r}")
    if quantity not in values:
        raise ValueError(
            f"quantity: expected one of {', '.join(values) or 'none, there are no epochs'}, got "
            f"{quantity!r}.{near_matches(str(quantity), list(values))}"
        )
    ax = _axes(ax)
    for name in (quantity, f"val_{quantity}"):
        if name in values:
            first = history.epoch[0] if isinstance(history, History) else 0
            epochs = np.arange(len(values[name])) + first + 1
            # A line through one epoch would be invisible.
            marker = "o" if len(epochs) == 1 else None
            ax.plot(epochs, values[name], label=name.replace("_", " "), marker=marker)
    ax.set(xlabel="epoch", ylabel=quantity.replace("_", " "))
    ax.xaxis.set_major_locator(_matplotlib("ticker").MaxNLocator(integer=True))
    ax.legend()
    return ax


# ------------------------------------------------------------------ classes


def _classes(name: str, y: Any, threshold: float = 0.5) -> np.ndarray:
    """The class of each row: of labels (n,), of rows (n, classes), or of one number (n, 1)."""
    array = checks.numeric(name, y)
    if array.ndim == 2 and array.shape[1] > 1:
        return array.argmax(axis=1)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name}: expected labels (n,) or rows (n, classes), got {array.shape}")
    if array.dtype.kind == "f" and array.ndim == 2:
        return (array[:, 0] > threshold).astype(int)
    checks.finite(name, array)
    labels = array.reshape(-1)
    wrong = (labels < 0) | (labels % 1 != 0)
    if wrong.any():
        raise ValueError(
            f"{name}: expected class labels 0, 1, ... or rows (n, classes), got {labels[wrong][0]}"
        )
    return labels.astype(int)


def confusion_matrix(
    y_true: Any, y_pred: Any, *, labels: Sequence[str] | None = None, ax: Axes | None = None
) -> Axes:
    """How often each class was taken for each: true classes in rows, predicted ones in columns.

    Parameters
    ----------
    y_true, y_pred
        Class labels (n,), or rows (n, classes), as ``predict`` returns, whose largest number
        counts; with one column the classes are 0, and 1 above 1/2.
    labels
        Names of the classes.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        The counts as an image, whose array is the matrix, and as numbers.

    Raises
    ------
    ValueError, TypeError
        Not classes, different numbers of rows, or too few names.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> from fastnn import plots
    >>> ax = plots.confusion_matrix([0, 1, 1], [0, 1, 0])  # doctest: +SKIP

    Source: Bishop, Pattern Recognition and Machine Learning, section 1.5 (decision theory).
    """
    true, predicted = _classes("y_true", y_true), _classes("y_pred", y_pred)
    checks.same_length("y_pred", predicted, "y_true", len(true))
    classes = 1 + max(int(true.max()), int(predicted.max()))
    for array in (checks.numeric("y_true", y_true), checks.numeric("y_pred", y_pred)):
        if array.ndim == 2:  # some classes may not occur
            classes = max(classes, array.shape[1])
    if labels is not None:
        if len(labels) < classes:
            raise ValueError(f"labels: expected names of {classes} classes, got {len(labels)}")
        classes = len(labels)
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (true, predicted), 1)

    ax = _axes(ax)
    ax.imshow(counts, cmap="Blues", vmin=0)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if counts[row, column] > counts.max() / 2 else "black"
        ax.text(
            column, row, f"{counts[row, column]}", color=colour, ha="center", va="center"
        )  # fmt: skip
    names = [str(i) for i in range(classes)] if labels is None else [str(n) for n in labels]
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_xticks(range(classes), names)
    ax.set_yticks(range(classes), names)
    return ax


def decision_boundary(
    model: Model,
    X: Any,
    y: Any,
    *,
    resolution: int = 200,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Which class the model gives to every point of the plane, below the examples.

    Parameters
    ----------
    model
        A built and compiled classifier of examples of shape (2,).
    X, y
        Examples (n, 2) and their classes: labels (n,) or rows (n, classes).
    resolution
        Points along each axis, >= 2.
    threshold
        With one output: above it the class is 1, else 0. By default that of the loss: 1/2, or 0
        where it takes logits.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        A mesh of predicted classes, and the examples as points.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        The examples do not have two features, or do not fit the model or each other.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> from fastnn import plots
    >>> X, y = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    >>> model = fnn.Sequential([fnn.layers.Dense(8, "tanh"), fnn.layers.Dense(2, "softmax")])
    >>> model.compile("cross_entropy", fnn.optimizers.Adam(0.05))
    >>> history = model.fit(X, y, epochs=200, verbose=0)
    >>> ax = plots.decision_boundary(model, X, y)  # doctest: +SKIP

    Source: Bishop, Pattern Recognition and Machine Learning, section 4.1.
    """
    expect_model(model)
    resolution = checks.positive_int("resolution", resolution, least=2)
    points = checks.numeric("X", X)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"X: expected examples with two features, (n, 2), got {points.shape}")
    checks.finite("X", points)
    classes = _classes("y", y)
    checks.same_length("y", classes, "X", len(points))
    if threshold is None:
        loss = getattr(model, "loss", None)
        logits = getattr(loss, "from_logits", False)
        threshold = float(getattr(loss, "threshold", 0.0 if logits else 0.5))
    axes = []
    for low, high in zip(points.min(axis=0), points.max(axis=0), strict=True):
        margin = 0.1 * (float(high) - float(low)) or 1.0
        axes.append(np.linspace(float(low) - margin, float(high) + margin, resolution))
    horizontal, vertical = np.meshgrid(*axes)
    predicted = model.predict(np.stack([horizontal.ravel(), vertical.ravel()], axis=1))
    regions = _classes("model", predicted, threshold).reshape(horizontal.shape)

    ax = _axes(ax)
    last = max(1, int(regions.max()), int(classes.max()))
    colours: dict[str, Any] = {
        "cmap": "tab10" if last < 10 else "turbo",
        "vmin": 0,
        "vmax": max(9, last),
    }
    ax.pcolormesh(*axes, regions, shading="nearest", alpha=0.35, **colours)
    ax.scatter(points[:, 0], points[:, 1], c=classes, edgecolors="white", **colours)
    ax.set(xlabel="feature 0", ylabel="feature 1")
    return ax


# ------------------------------------------------------------------ inside a model


def first_layer_weights(model: Model, shape: tuple[int, int], *, ax: Axes | None = None) -> Axes:
    """The weights of each unit of the first layer that has some, as images in a grid.

    Parameters
    ----------
    model
        A built model whose inputs are the pixels of an image.
    shape
        Rows and columns of the image.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        One image for each unit, in rows from the top left; all with the same scale of colours, blue
        for negative weights, white for 0, red for positive ones.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        The first layer does not have as many inputs as pixels; a model without such a layer, or one
        that is not built.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn import plots
    >>> model = fnn.Sequential([fnn.Input(64), fnn.layers.Dense(16, "relu")])
    >>> ax = plots.first_layer_weights(model, (8, 8))  # doctest: +SKIP

    Source: LeCun et al., Efficient BackProp (1998); Olshausen & Field, Nature 381 (1996).
    """
    expect_model(model)
    rows, columns = (checks.positive_int("shape", s) for s in shape)
    kernel = next((w for w in model.get_weights() if w.ndim == 2), None)
    if kernel is None:
        raise ValueError("model: expected a layer with weights of shape (inputs, units), got none")
    if len(kernel) != rows * columns:
        raise ValueError(
            f"shape: expected (rows, columns) with {len(kernel)} pixels, one for each input of the "
            f"first layer, got ({rows}, {columns})"
        )
    units = kernel.shape[1]
    across = math.ceil(math.sqrt(units * rows / columns))  # the grid becomes about square
    down = math.ceil(units / across)
    largest = float(np.abs(kernel).max()) or 1.0

    ax = _axes(ax)
    gap = 0.1
    for unit in range(units):
        row, column = divmod(unit, across)
        left, top = column * columns * (1 + gap), row * rows * (1 + gap)
        ax.imshow(
            kernel[:, unit].reshape(rows, columns),
            cmap="bwr",
            vmin=-largest,
            vmax=largest,
            extent=(left, left + columns, top + rows, top),
        )
    ax.set_xlim(0, (across * (1 + gap) - gap) * columns)
    ax.set_ylim((down * (1 + gap) - gap) * rows, 0)
    ax.set_axis_off()
    return ax


def activation_histograms(model: Model, X: Any, *, bins: int = 50, ax: Axes | None = None) -> Axes:
    """How the outputs of each layer are distributed over all rows and units, in evaluation.

    Parameters
    ----------
    model
        A built and compiled model.
    X
        Examples (n, ...).
    bins
        Number of bins of each layer, between its least and its largest output.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        One histogram for each layer, the first at the top, each scaled to the same height.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        X that does not fit; not a model, or one that is not built and compiled.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> from fastnn import plots
    >>> model = fnn.Sequential([fnn.Input(4), fnn.layers.Dense(8, "tanh"), fnn.layers.Dense(2)])
    >>> model.compile("mean_squared_error")
    >>> ax = plots.activation_histograms(model, np.ones((5, 4)))  # doctest: +SKIP

    Source: Glorot & Bengio, Understanding the difficulty of training deep feedforward neural
    networks, AISTATS 2010, figures 2 to 4.
    """
    bins = checks.positive_int("bins", bins)
    names, outputs = layer_names(model), layer_outputs(model, X)
    ax = _axes(ax)
    for i, values in enumerate(outputs):
        # In double precision, where even the values of a nearly constant layer have room for bins.
        counts, edges = np.histogram(values.astype(np.float64), bins)
        base = len(outputs) - 1 - i
        ax.stairs(
            base + 0.9 * counts / counts.max(), edges, baseline=base, fill=True, label=names[i]
        )
    ax.set_yticks(range(len(names)), names[::-1])
    ax.set(xlabel="output", ylim=(-0.1, len(names)))
    return ax


def model_graph(model: Model, *, ax: Axes | None = None) -> Axes:
    """The calls of layers as boxes from top to bottom, each with the shape of its result.

    Parameters
    ----------
    model
        A built model.
    ax
        Where to draw; None makes a figure.

    Returns
    -------
    matplotlib.axes.Axes
        A box for each input and each call of a layer, joined by arrows.

    Raises
    ------
    TypeError, RuntimeError
        Not a model, or one that is not built.
    ImportError
        matplotlib is missing.

    Examples
    --------
    >>> import fastnn as fnn
    >>> from fastnn import plots
    >>> model = fnn.Sequential([fnn.Input(64), fnn.layers.Dense(10, "softmax")])
    >>> ax = plots.model_graph(model)  # doctest: +SKIP
    """
    names = layer_names(model)
    network, _ = model._need(compiled=False)
    boxes: dict[Symbol, str] = {x: f"input\n{x.shape}" for x in network.inputs}
    depths: dict[Symbol, int] = dict.fromkeys(network.inputs, 0)
    for i, (name, call) in enumerate(zip(names, network.calls, strict=True)):
        size = sum(p.size for p in network.weights if p.layer == i)
        weights = f", {size:,} weights" if size else ""
        boxes[call.symbol] = f"{name}: {call.layer!r}\n{call.symbol.shape}{weights}"
        depths[call.symbol] = 1 + max(depths[source] for source in call.symbol.inputs)
    levels = [[s for s in boxes if depths[s] == d] for d in range(max(depths.values()) + 1)]

    if ax is None:
        wide = max(map(len, levels))
        figure = _matplotlib("pyplot").figure(figsize=(5 * wide, 1 + 0.9 * len(levels)))
        ax = figure.add_subplot()
    style = {"boxstyle": "round,pad=0.5", "facecolor": "whitesmoke", "edgecolor": "gray"}
    drawn: dict[Symbol, Any] = {}
    for depth, level in enumerate(levels):
        for j, symbol in enumerate(level):
            place = ((j + 0.5) / len(level), -depth)
            # Arrows join boxes, which keep their size in points, whatever the axes' is.
            drawn[symbol] = ax.annotate(boxes[symbol], place, ha="center", va="center", bbox=style)
            for source in symbol.inputs:
                ax.annotate(
                    "", xy=(0.5, 1), xycoords=drawn[symbol].get_bbox_patch(), xytext=(0.5, 0),
                    textcoords=drawn[source].get_bbox_patch(),
                    arrowprops={"arrowstyle": "-|>", "color": "gray"},
                )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0.5 - len(levels), 0.5))
    ax.set_axis_off()
    return ax
