"""Plots hold the data they should, draw where they are told to, and load matplotlib only then."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pytest

import fastnn as fnn
from fastnn import plots
from fastnn.inspection import layer_outputs

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot  # noqa: E402 (the backend comes first)

L = fnn.layers


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def drawn(ax):
    """The same axes, once everything in them has been drawn without complaint."""
    ax.figure.canvas.draw()
    return ax


def digits_model():
    model = fnn.Sequential(
        [
            fnn.Input((4, 6)),
            L.Flatten(),
            L.Dense(10, "relu"),
            L.Dropout(0.1),
            L.Dense(3, "softmax"),
        ]
    )
    model.compile("cross_entropy", backend="numpy")
    return model


def plane(n=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2)) * [1, 30]
    return X, (X[:, 0] > 0).astype(int)


def plane_model(*layers, loss="cross_entropy"):
    model = fnn.Sequential([fnn.Input(2), *layers], seed=1)
    model.compile(loss, backend="numpy")
    return model


def calls():
    """Each function with arguments that suit it, but for the axes."""
    X, y = plane()
    return [
        (plots.training_curves, ({"loss": [2.0, 1.0], "val_loss": [2.1, 1.2]},)),
        (plots.confusion_matrix, ([0, 1, 2], [0, 2, 2])),
        (plots.first_layer_weights, (digits_model(), (4, 6))),
        (plots.decision_boundary, (plane_model(L.Dense(2, "softmax")), X, y)),
        (plots.activation_histograms, (digits_model(), np.ones((5, 4, 6)))),
        (plots.model_graph, (digits_model(),)),
    ]


each_call = pytest.mark.parametrize(("function", "arguments"), calls(), ids=lambda v: (
    v.__name__ if callable(v) else ""))  # fmt: skip


# ---- what they share ----------------------------------------------------------------------------


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(plots, extraglobs={"plt": pyplot})
    assert result.attempted > 0 and result.failed == 0


def test_each_function_is_tested_here():
    public = {
        name for name, value in vars(plots).items()
        if callable(value) and getattr(value, "__module__", "") == plots.__name__
        and not name.startswith("_")
    }  # fmt: skip
    assert public == {function.__name__ for function, _ in calls()}


@each_call
def test_it_draws_into_the_axes_it_is_given(function, arguments):
    _, (left, right) = pyplot.subplots(1, 2)
    assert function(*arguments, ax=right) is right
    drawn(right)
    assert right.has_data() or right.texts
    assert not left.has_data() and not left.texts
    assert len(pyplot.get_fignums()) == 1


@each_call
def test_without_axes_it_makes_a_figure(function, arguments):
    pyplot.subplots()
    before = pyplot.gca()
    ax = drawn(function(*arguments))
    assert isinstance(ax, matplotlib.axes.Axes)
    assert ax is not before and not before.has_data()  # not whatever figure is current


def test_importing_fastnn_does_not_load_matplotlib():
    code = (
        "import sys, fastnn, fastnn.plots, fastnn.inspection, fastnn.checking\n"
        "assert not [m for m in sys.modules if m.startswith('matplotlib')]"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


@each_call
def test_without_matplotlib_it_says_what_to_install(function, arguments, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "fastnn\[plots\]"'):
        function(*arguments)


# ---- training curves ----------------------------------------------------------------------------


def test_curves_are_the_history():
    X, y = plane()
    model = plane_model(L.Dense(2, "softmax"))
    model.compile("cross_entropy", metrics="accuracy", backend="numpy")
    history = model.fit(X, y, epochs=4, validation_data=(X[:9], y[:9]), verbose=0)
    for quantity in ("loss", "accuracy"):
        ax = drawn(plots.training_curves(history, quantity))
        assert [line.get_label() for line in ax.lines] == [quantity, f"val {quantity}"]
        for line, name in zip(ax.lines, (quantity, f"val_{quantity}"), strict=True):
            assert list(line.get_ydata()) == history.history[name]
            assert list(line.get_xdata()) == [1, 2, 3, 4]
        assert ax.get_legend() is not None and ax.get_ylabel() == quantity
    again = model.fit(X, y, epochs=6, initial_epoch=4, verbose=0)
    (line,) = plots.training_curves(again).lines
    assert list(line.get_xdata()) == [5, 6]


def test_a_single_epoch_can_be_seen():
    (line,) = plots.training_curves({"loss": [1.0]}).lines
    assert line.get_marker() == "o"


def test_a_quantity_that_is_not_in_the_history_is_named():
    with pytest.raises(ValueError, match=r"quantity: expected one of loss, got 'los'.*'loss'"):
        plots.training_curves({"loss": [1.0]}, "los")
    with pytest.raises(ValueError, match="no epochs"):
        plots.training_curves(fnn.History())
    with pytest.raises(TypeError, match="history: expected"):
        plots.training_curves([1.0, 2.0])


# ---- confusion matrix ---------------------------------------------------------------------------


def matrix(ax):
    (image,) = drawn(ax).images
    return np.asarray(image.get_array())


def test_the_matrix_counts_true_classes_in_rows():
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 4, (2, 50))
    ax = plots.confusion_matrix(true, predicted)
    counts = matrix(ax)
    assert counts.sum() == 50 and counts.shape == (4, 4)
    for i in range(4):
        for j in range(4):
            assert counts[i, j] == ((true == i) & (predicted == j)).sum()
    written = {t.get_position(): int(t.get_text()) for t in ax.texts}
    assert written == {(j, i): counts[i, j] for i in range(4) for j in range(4)}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")


def test_classes_come_as_labels_rows_or_one_column():
    labels = np.array([0, 1, 1, 0, 1])
    expected = [[2, 0], [1, 2]]
    predicted = np.array([0, 1, 0, 0, 1])
    column = np.where(predicted, 0.9, 0.2)[:, None]
    for y in (predicted, predicted[:, None], np.eye(2)[predicted], column, predicted > 0):
        np.testing.assert_array_equal(matrix(plots.confusion_matrix(labels, y)), expected)
    rows = np.eye(4)[labels]  # two classes that do not occur
    assert matrix(plots.confusion_matrix(rows, rows)).shape == (4, 4)


def test_classes_have_names():
    ax = drawn(plots.confusion_matrix([0, 1], [0, 0], labels=["cat", "dog", "eel"]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "eel"]
    assert matrix(ax).shape == (3, 3)


def test_what_are_no_classes_is_refused():
    for y, message in (
        ([0.5, 1.0], "y_pred: expected class labels"),
        ([-1, 1], "y_pred: expected class labels.*got -1"),
        ([np.nan, 1], "y_pred: contains nan"),
        ([0, 1, 1], "y_pred: has 3 rows, but y_true has 2"),
        ([], "y_pred: expected labels"),
    ):
        with pytest.raises(ValueError, match=message):
            plots.confusion_matrix([0, 1], y)
    with pytest.raises(ValueError, match="labels: expected names of 2 classes, got 1"):
        plots.confusion_matrix([0, 1], [0, 1], labels=["one"])
    with pytest.raises(TypeError, match="y_true: expected an array of numbers"):
        plots.confusion_matrix(["a", "b"], [0, 1])


# ---- decision boundary --------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
def test_regions_are_predictions_and_points_are_examples(outputs):
    X, y = plane()
    last = L.Dense(3, "softmax") if outputs == 3 else L.Dense(1, "sigmoid")
    loss = "cross_entropy" if outputs == 3 else "binary_cross_entropy"
    model = plane_model(L.Dense(8, "tanh"), last, loss=loss)
    ax = drawn(plots.decision_boundary(model, X, y, resolution=20))
    mesh, points = ax.collections
    np.testing.assert_array_equal(points.get_offsets(), X)
    np.testing.assert_array_equal(points.get_array(), y)
    regions = np.asarray(mesh.get_array())
    assert regions.shape == (20, 20) and mesh.get_clim() == points.get_clim()
    corners = mesh.get_coordinates()
    centres = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    out = model.predict(centres.reshape(-1, 2))
    expected = out.argmax(axis=1) if outputs == 3 else out[:, 0] > 0.5
    assert len(np.unique(expected)) > 1
    assert (regions.ravel() == expected).mean() > 0.99  # centres are rounded
    assert (corners[0, 0] < X.min(axis=0)).all() and (corners[-1, -1] > X.max(axis=0)).all()


def test_logits_are_divided_at_zero():
    X, y = plane()
    loss = fnn.losses.BinaryCrossEntropy(from_logits=True)
    model = plane_model(L.Dense(1), loss=loss)
    model.set_weights([[[0.1], [0.0]], [0.0]])
    X[:, 0] = np.linspace(-1, 1, len(X))
    regions = np.asarray(plots.decision_boundary(model, X, y).collections[0].get_array())
    assert regions.mean() == pytest.approx(0.5)
    regions = plots.decision_boundary(model, X, y, threshold=1.0).collections[0].get_array()
    assert np.asarray(regions).max() == 0


def test_more_than_ten_classes_have_colours():
    X, _ = plane()
    model = plane_model(L.Dense(12, "softmax"))
    mesh, points = plots.decision_boundary(model, X, np.arange(60) % 12).collections
    assert mesh.get_clim() == points.get_clim() == (0, 11)


def test_a_boundary_needs_two_features():
    model = plane_model(L.Dense(2, "softmax"))
    with pytest.raises(ValueError, match=r"X: expected examples with two features.*\(3, 4\)"):
        plots.decision_boundary(model, np.ones((3, 4)), [0, 1, 0])
    with pytest.raises(ValueError, match="y: has 2 rows, but X has 3"):
        plots.decision_boundary(model, np.ones((3, 2)), [0, 1])
    with pytest.raises(TypeError, match="model: expected a Model, got str"):
        plots.decision_boundary("model", np.ones((3, 2)), [0, 1, 0])
    drawn(plots.decision_boundary(model, np.ones((3, 2)), [0, 1, 0]))  # all in one place


# ---- inside a model -----------------------------------------------------------------------------


def test_each_unit_is_an_image_of_its_weights():
    model = digits_model()
    ax = drawn(plots.first_layer_weights(model, (4, 6)))
    kernel = model.get_weights()[0]
    assert len(ax.images) == 10
    for unit, image in enumerate(ax.images):
        np.testing.assert_array_equal(image.get_array(), kernel[:, unit].reshape(4, 6))
        assert image.get_clim() == pytest.approx((-np.abs(kernel).max(), np.abs(kernel).max()))
    extents = [image.get_extent() for image in ax.images]
    left, right = sorted(ax.get_xlim())
    low, high = sorted(ax.get_ylim())
    for i, (x0, x1, y1, y0) in enumerate(extents):
        assert left <= x0 < x1 <= right + 1e-9 and low <= y0 < y1 <= high + 1e-9
        for u0, u1, v1, v0 in extents[:i]:  # no two overlap
            assert x0 >= u1 or u0 >= x1 or y0 >= v1 or v0 >= y1


def test_images_must_have_a_pixel_for_each_input():
    with pytest.raises(ValueError, match=r"shape: expected .* 24 pixels.*got \(5, 5\)"):
        plots.first_layer_weights(digits_model(), (5, 5))
    model = fnn.Sequential([fnn.Input(4), L.Activation("relu")])
    with pytest.raises(ValueError, match="model: expected a layer with weights"):
        plots.first_layer_weights(model, (2, 2))
    with pytest.raises(RuntimeError, match="not built"):
        plots.first_layer_weights(fnn.Sequential([L.Dense(2)]), (2, 2))
    with pytest.raises(TypeError, match="model: expected a Model, got list"):
        plots.first_layer_weights([], (2, 2))


def test_histograms_count_the_outputs_of_each_layer():
    model = digits_model()
    X = np.random.default_rng(3).normal(size=(20, 4, 6))
    ax = drawn(plots.activation_histograms(model, X, bins=12))
    outputs = layer_outputs(model, X)
    assert len(ax.patches) == len(outputs) == 4
    for patch, values in zip(ax.patches, outputs, strict=True):
        tops, edges, base = patch.get_data()
        counts, expected = np.histogram(values, 12)
        np.testing.assert_allclose(edges, expected, rtol=1e-5)
        np.testing.assert_allclose((tops - base) / 0.9 * counts.max(), counts, atol=1e-9)
    bases = [patch.get_data().baseline for patch in ax.patches]
    assert bases == [3, 2, 1, 0]  # the first layer at the top
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == ["dense_3", "dropout_2", "dense_1", "flatten_0"]


def test_a_layer_without_any_variation_has_a_histogram():
    model = digits_model()
    model.parameters[:] = 0
    drawn(plots.activation_histograms(model, 1e6 * np.ones((5, 4, 6))))


def test_the_graph_has_a_box_for_each_layer_and_arrows_between():
    ax = drawn(plots.model_graph(digits_model()))
    boxes = [t for t in ax.texts if t.get_text()]
    arrows = [t for t in ax.texts if getattr(t, "arrow_patch", None) is not None]
    first, *lines = [box.get_text() for box in boxes]
    assert first == "input\n(4, 6)"
    assert [line.split(":")[0] for line in lines] == [
        "flatten_0",
        "dense_1",
        "dropout_2",
        "dense_3",
    ]
    assert "Dense(10, activation=relu)" in lines[1] and "(10,), 250 weights" in lines[1]
    assert lines[0].endswith("(24,)")
    assert len(arrows) == len(boxes) - 1
    extents = [box.get_bbox_patch().get_window_extent() for box in boxes]
    for above, below, arrow in zip(extents[:-1], extents[1:], arrows, strict=True):
        assert above.y0 > below.y1
        path = arrow.arrow_patch.get_window_extent()
        assert below.y0 <= path.y0 and path.y1 <= above.y1


def test_a_graph_needs_a_built_sequential():
    with pytest.raises(RuntimeError, match="not built"):
        plots.model_graph(fnn.Sequential([L.Dense(2)]))
    with pytest.raises(TypeError, match="model: expected a Model"):
        plots.model_graph(None)
