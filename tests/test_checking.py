"""The gradient check: it passes what is right, finds what is wrong, and touches nothing."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

import fastnn as fnn
from fastnn import checking
from fastnn.checking import check_gradients
from fastnn.kernels.ref import REFERENCE

L = fnn.layers
SGD = fnn.optimizers.SGD
FEATURES, CLASSES, ROWS = 5, 3, 12


def data(seed=1, rows=ROWS):
    """X (rows, features) and one-hot targets, which any loss takes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, FEATURES)), np.eye(CLASSES)[rng.integers(0, CLASSES, rows)]


def network(*layers, loss="mean_squared_error", optimizer="adam", **options):
    """A model with weights, biases too, away from zero."""
    model = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=2)
    model.compile(loss, optimizer, **({"backend": "numpy"} | options))
    model.parameters[:] = np.random.default_rng(9).uniform(-0.9, 0.9, model.parameters.size)
    return model


def tanh_network(**options):
    return network(L.Dense(6, "tanh"), L.Dense(CLASSES), **options)


def spoil(monkeypatch, kind, name, change):
    """Let ``change`` have the last word on a formula's derivative."""
    value, derivative = REFERENCE[kind][name]
    spoiled = value, lambda *args: change(derivative(*args))
    monkeypatch.setitem(REFERENCE[kind], name, spoiled)


class OneWrong(fnn.Sequential):
    """A model with one wrong number among its gradients."""

    place, factor = (1, 2), 1.001

    def loss_and_gradients(self, X, y, sample_weight=None):
        loss, gradients = super().loss_and_gradients(X, y, sample_weight)
        gradients[0][self.place] *= self.factor
        return loss, gradients


def one_wrong():
    model = OneWrong([fnn.Input(FEATURES), L.Dense(4, "tanh"), L.Dense(CLASSES)])
    model.compile("mean_squared_error", backend="numpy")
    return model


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(checking)
    assert result.attempted > 0 and result.failed == 0


# ---- what is right passes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", fnn.activations.names())
def test_every_activation_passes(name):
    X, y = data()
    model = network(L.Dense(6, name), L.Dense(5), L.Activation(name), L.Dense(CLASSES))
    check = check_gradients(model, X, y)
    check.raise_if_wrong()
    assert check.passed and len(check.kinks) <= len(check.worst) // 10
    assert max(e.error for e in check.worst) <= 1e-6


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("last", ["sigmoid", "softmax"])
@pytest.mark.parametrize("loss", fnn.losses.LOSSES)
def test_every_loss_passes(loss, last, weighted):
    X, y = data()
    weights = np.linspace(0, 2, ROWS) if weighted else None
    model = network(L.Dense(6, "tanh"), L.Dense(CLASSES, last), loss=loss)
    check_gradients(model, X, y, sample_weight=weights).raise_if_wrong()


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_penalties_and_labels_in_the_middle_of_training_pass(dtype, backend):
    X, y = data(rows=40)
    labels = y.argmax(axis=1)
    layers = [L.Dense(8, "tanh", kernel_regularizer=0.1), L.Dropout(0.5), L.Dense(6, "elu")]
    model = network(
        *layers, L.Dense(CLASSES, "softmax"), loss="cross_entropy", backend=backend, dtype=dtype
    )
    model.fit(X, labels, epochs=3, verbose=0)
    check_gradients(model, X, labels).raise_if_wrong()


def test_a_model_that_the_data_must_build_passes_and_stays_unbuilt():
    X, y = data()
    model = fnn.Sequential([L.Dense(4, "tanh"), L.Dense(CLASSES)])
    model.compile("mean_squared_error")
    check_gradients(model, X, y).raise_if_wrong()
    with pytest.raises(RuntimeError, match="not built"):
        model.get_weights()


def test_it_passes_at_a_minimum_where_gradients_are_zero():
    X, y = data()
    model = network(L.Dense(CLASSES))
    with_ones = np.column_stack([X, np.ones(len(X))])
    solution = np.linalg.lstsq(with_ones, y, rcond=None)[0]
    model.compile("mean_squared_error", dtype="float64")
    model.set_weights([solution[:-1], solution[-1]])
    check = check_gradients(model, X, y)
    assert check.passed and max(abs(e.analytic) for e in check.worst) < 1e-12


@pytest.mark.parametrize("activation", ["elu", "tanh"])
def test_curvature_that_jumps_is_no_error(activation):
    """An example of zeros and biases of zero are where an elu's second derivative jumps."""
    X, y = data(rows=40)
    X[::2] = 0
    model = network(L.Dense(20, activation), L.Dense(20, activation), L.Dense(CLASSES))
    model.get_weights()[1][:] = model.get_weights()[3][:] = 0
    check = check_gradients(model, X, y)
    check.raise_if_wrong()
    assert not check.kinks


@pytest.mark.parametrize("scale", [1e-4, 300.0])
def test_features_of_any_scale_pass(scale):
    X, y = data()
    check_gradients(tanh_network(), scale * X, y).raise_if_wrong()


# ---- what is wrong is found ---------------------------------------------------------------------


@pytest.mark.parametrize("change", [np.negative, lambda d: 1.00001 * d, np.zeros_like])
def test_a_wrong_derivative_is_found_and_named(monkeypatch, change):
    spoil(monkeypatch, "activation", "tanh", change)
    X, y = data()
    model = network(L.Dense(6, "elu"), L.Dense(5, "tanh"), L.Dense(CLASSES))
    check = check_gradients(model, X, y)
    found = {a.name: a.count("wrong") for a in check.arrays}
    assert not check.passed
    assert found["dense_2.kernel"] == found["dense_2.bias"] == 0  # behind the spoiled layer
    for name in ("dense_0.kernel", "dense_0.bias", "dense_1.kernel", "dense_1.bias"):
        assert found[name] > 0
    with pytest.raises(AssertionError, match=r"dense_\d\.\w+\[\d.*analytic"):
        check.raise_if_wrong()


@pytest.mark.parametrize("loss", ["mean_squared_error", "binary_cross_entropy"])
def test_a_wrong_derivative_of_a_loss_is_found(monkeypatch, loss):
    model = network(L.Dense(4, "tanh"), L.Dense(CLASSES, "sigmoid"), loss=loss)
    spoil(monkeypatch, "loss", model.loss.function, lambda d: 2 * d)
    spoil(monkeypatch, "loss", "sigmoid_cross_entropy", lambda d: 2 * d)  # what they fuse to
    check = check_gradients(model, *data())
    assert all(a.count("wrong") for a in check.arrays)
    entry = check.wrong[0]
    assert entry.analytic == pytest.approx(2 * entry.numeric, rel=1e-5)
    assert entry.error == pytest.approx(0.5, rel=1e-5)


def test_a_single_wrong_number_is_named_with_its_place():
    check = check_gradients(one_wrong(), *data())
    (entry,) = check.wrong
    assert (entry.array, entry.index) == ("dense_0.kernel", (1, 2))
    assert entry is check.worst[0]
    assert entry.analytic == pytest.approx(1.001 * entry.numeric, rel=1e-7)
    assert entry.error == pytest.approx(1 - 1 / 1.001, rel=1e-4)
    kernel = check.arrays[0]
    assert kernel.error == entry.error and 1e-6 < kernel.norm_error < entry.error
    assert all(a.norm_error < 1e-6 for a in check.arrays[1:])


def test_a_gradient_that_is_not_a_number_is_wrong(monkeypatch):
    monkeypatch.setattr(OneWrong, "factor", np.nan)
    (entry,) = check_gradients(one_wrong(), *data()).wrong
    assert entry.index == (1, 2) and entry.error == np.inf


def test_a_wrong_derivative_of_a_tiny_loss_is_found(monkeypatch):
    """What rounding excuses is measured on the loss, not fixed."""
    X, y = data()
    model = network(L.Dense(CLASSES), dtype="float64")
    model.parameters[:] *= 1e-6
    check_gradients(model, X, 1e-6 * y).raise_if_wrong()
    spoil(monkeypatch, "loss", "squared_error", lambda d: 1.01 * d)
    assert not check_gradients(model, X, 1e-6 * y).passed


@pytest.mark.parametrize("change", [lambda d: ~d, lambda d: 0.5 * d, np.ones_like])
def test_kinks_do_not_hide_a_wrong_rectifier(monkeypatch, change):
    spoil(monkeypatch, "activation", "relu", change)
    model = network(L.Dense(6, "relu"), L.Dense(CLASSES))
    assert not check_gradients(model, *data()).passed


def test_the_tolerance_decides():
    X, y = data()
    assert check_gradients(one_wrong(), X, y, tolerance=1e-2).passed
    assert not check_gradients(one_wrong(), X, y, tolerance=1e-4).passed


# ---- kinks --------------------------------------------------------------------------------------


def at_zero():
    """One rectifier that the only example puts exactly at its kink."""
    model = fnn.Sequential([fnn.Input(1), L.Dense(1, "relu"), L.Dense(1)])
    model.compile("mean_squared_error", backend="numpy", dtype="float64")
    model.set_weights([[[2.0]], [-2.0], [[1.0]], [0.0]])
    return model, [[1.0]], [5.0]


def test_a_kink_is_reported_and_does_not_count():
    check = check_gradients(*at_zero())
    assert {e.array for e in check.kinks} == {"dense_0.kernel", "dense_0.bias"}
    assert check.passed and [e.array for e in check.worst] != []
    assert all(e.analytic == 0 for e in check.kinks)
    assert str(check.kinks[0]).endswith("at a kink")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_kinks_are_seen_at_losses_of_any_size(scale):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(30, FEATURES))
    X[0] = 0  # one row of thirty has a kink in each bias
    model = network(L.Dense(12, "relu"), L.Dense(CLASSES))
    model.get_weights()[1][:] = 0
    check = check_gradients(model, X, scale * rng.normal(size=(30, CLASSES)))
    check.raise_if_wrong()
    assert {e.array for e in check.kinks} == {"dense_0.bias"} and len(check.kinks) == 12


def test_a_kink_beside_the_weight_is_no_excuse():
    """At a distance of less than the first step, a smaller one tells right from wrong."""
    model, X, y = at_zero()
    for distance in (2e-6, -2e-6, 2e-7, -2e-7):
        model.get_weights()[1][:] = -2 + distance
        check = check_gradients(model, X, y)
        assert check.passed and not check.kinks
        spoiled = OneWrong([fnn.Input(1), L.Dense(1, "relu"), L.Dense(1)])
        spoiled.place, spoiled.factor = (0, 0), 0.9
        spoiled.compile("mean_squared_error", backend="numpy", dtype="float64")
        spoiled.set_weights(model.get_weights())
        wrong = check_gradients(spoiled, X, y).wrong
        assert [e.array for e in wrong] == (["dense_0.kernel"] if distance > 0 else [])


def test_the_middle_of_a_kink_is_right_where_training_takes_it():
    """Where a prediction is right, the absolute error's two slopes have the mean 0, as its own."""
    model = fnn.Sequential([fnn.Input(2), L.Dense(1, kernel_initializer="zeros")])
    model.compile("mean_absolute_error", backend="numpy")
    check = check_gradients(model, np.ones((3, 2)), np.zeros(3))
    assert check.passed and not check.kinks


def test_where_all_is_kinks_nothing_passes():
    layer = L.Dense(1, "relu", use_bias=False, kernel_initializer="zeros")
    model = fnn.Sequential([fnn.Input(1), layer])
    model.compile("mean_squared_error", backend="numpy")
    check = check_gradients(model, [[1.0]], [5.0])
    assert len(check.kinks) == 1 and not check.wrong and not check.passed
    with pytest.raises(AssertionError, match="nothing to compare"):
        check.raise_if_wrong()


# ---- which entries ------------------------------------------------------------------------------


def test_small_arrays_are_checked_whole_and_large_ones_in_part():
    X, y = data()
    model = network(L.Dense(40, "tanh"), L.Dense(CLASSES))
    first, again = (check_gradients(model, X, y, samples=50) for _ in range(2))
    counts = {a.name: len(a.entries) for a in first.arrays}
    assert counts == {
        "dense_0.kernel": 50, "dense_0.bias": 40, "dense_1.kernel": 50, "dense_1.bias": 3,
    }  # fmt: skip
    for array, other in zip(first.arrays, again.arrays, strict=True):
        assert array.entries == other.entries
        assert len({e.index for e in array.entries}) == len(array.entries)
        assert all(len(e.index) == len(array.shape) for e in array.entries)


def test_the_numbers_belong_to_their_places():
    X, y = data()
    model = tanh_network(dtype="float64")
    check = check_gradients(model, X, y, samples=7)
    gradients = model.loss_and_gradients(X, y)[1]
    for array, gradient in zip(check.arrays, gradients, strict=True):
        assert array.shape == gradient.shape
        for entry in array.entries:
            assert entry.analytic == gradient[entry.index]
            assert entry.numeric == pytest.approx(entry.analytic, rel=1e-5, abs=1e-8)


def test_the_report_is_a_table_with_the_worst_entries():
    right, wrong = (check_gradients(m, *data()) for m in (tanh_network(), one_wrong()))
    assert "passed" in str(right) and "dense_1.bias" in repr(right)
    assert "1 wrong" in str(wrong) and "dense_0.kernel[1, 2]: analytic" in str(wrong)
    assert str(wrong).count("relative error ") == 1


# ---- the model stays as it is -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_model_does_not_change(dtype):
    X, y = data()
    models = [
        network(L.Dense(6, "tanh"), L.Dropout(0.3), L.Dense(CLASSES), dtype=dtype) for _ in range(2)
    ]
    for model in models:
        model.fit(X, y, epochs=2, verbose=0)
    checked, untouched = models
    history, arrays = checked.history, [checked.parameters, *checked._state.slots]
    before = [a.copy() for a in arrays]
    check_gradients(checked, X, y).raise_if_wrong()
    assert checked.history is history and checked.parameters is arrays[0]
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)
        assert array.dtype == dtype
    assert (checked._state.updates, checked._state.epochs) == (2, 2)
    for model in models:  # it trains on as one that was not checked
        model.fit(X, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(checked.parameters, untouched.parameters)


# ---- arguments ----------------------------------------------------------------------------------


def test_impossible_arguments_are_named():
    X, y = data()
    model = tanh_network()
    for options, message in (
        ({"epsilon": 0}, "epsilon: expected"),
        ({"tolerance": -1}, "tolerance: expected"),
        ({"samples": 0}, "samples: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            check_gradients(model, X, y, **options)
    with pytest.raises(TypeError, match="model: expected a Model, got str"):
        check_gradients("model", X, y)
    with pytest.raises(ValueError, match="X: expected shape"):
        check_gradients(model, X[:, 1:], y)
    with pytest.raises(RuntimeError, match="not compiled"):
        check_gradients(fnn.Sequential([L.Dense(3)]), X, y)


def test_a_loss_that_is_not_finite_cannot_be_checked():
    X, y = data()
    model = network(L.Dense(CLASSES), dtype="float64")
    model.parameters[:] = 1e200
    with pytest.raises(ValueError, match="loss: expected a finite number"):
        check_gradients(model, X, y)
