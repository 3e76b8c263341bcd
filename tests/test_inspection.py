"""Layer statistics, their warnings, and the learning rate range test."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn import inspection
from fastnn.inspection import copy_of, layer_outputs, layer_statistics, learning_rate_range_test
from fastnn.kernels.ref import REFERENCE

L = fnn.layers
SGD = fnn.optimizers.SGD
Normal, Constant = fnn.initializers.Normal, fnn.initializers.Constant
FEATURES, CLASSES, ROWS = 6, 3, 200


def data(seed=1, rows=ROWS):
    """Separable classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, rows)
    return rng.normal(size=(CLASSES, FEATURES))[y] + rng.normal(size=(rows, FEATURES)), y


def network(*layers, loss="cross_entropy", optimizer="adam", **options):
    model = fnn.Sequential([*layers, L.Dense(CLASSES, "softmax")], seed=3)
    model.compile(loss, optimizer, **({"backend": "numpy"} | options))
    return model


def healthy(**options):
    he = {"kernel_initializer": "he_normal"}
    return network(L.Dense(32, "relu", **he), L.Dropout(0.2), L.Dense(24, "tanh"), **options)


def by_name(found):
    return {s.name: s for s in found.layers}


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(inspection)
    assert result.attempted > 0 and result.failed == 0


# ---- copies and activations ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_a_copy_trains_as_the_model_would_and_leaves_it_alone(backend):
    X, y = data()
    model, twin = (healthy(backend=backend) for _ in range(2))
    for each in (model, twin):
        each.fit(X, y, epochs=2, verbose=0)
    copied = copy_of(model)
    copied.optimizer.learning_rate = 0.5
    copied.optimizer.learning_rate = model.optimizer.learning_rate
    copied.fit(X, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.parameters, twin.parameters)
    for each in (model, twin):
        each.fit(X, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.parameters, twin.parameters)
    np.testing.assert_array_equal(model.parameters, copied.parameters)


def test_a_copy_of_another_type_has_the_same_weights():
    X, y = data()
    model = healthy()
    model.fit(X, y, verbose=0)
    copied = copy_of(model, "float64")
    assert copied.parameters.dtype == np.float64 and model.parameters.dtype == np.float32
    np.testing.assert_array_equal(copied.parameters, model.parameters)
    assert copied.predict(X).dtype == np.float64
    np.testing.assert_allclose(copied.predict(X), model.predict(X), atol=1e-5)


def test_outputs_of_layers_are_those_of_their_formulas():
    rng = np.random.default_rng(5)
    X = rng.integers(0, 255, (7, 2, 3)).astype("uint8")
    model = network(L.Rescaling(1 / 255, -0.5), L.Flatten(), L.Dense(4, "tanh"), L.Dropout(0.5))
    model.compile("cross_entropy", backend="numpy", dtype="float64")
    model.build((2, 3))
    model.parameters[:] = rng.normal(size=model.parameters.size)
    w1, b1, _, _ = model.get_weights()
    scaled, flat, dense, dropped, out = layer_outputs(model, X)
    np.testing.assert_allclose(scaled, X / 255 - 0.5)
    np.testing.assert_array_equal(flat, scaled.reshape(7, 6))
    np.testing.assert_allclose(dense, np.tanh(flat @ w1 + b1))
    np.testing.assert_array_equal(dropped, dense)
    np.testing.assert_allclose(out, model.predict(X))
    for a, b in zip(layer_outputs(model, X, batch_size=2), (scaled, flat), strict=False):
        np.testing.assert_array_equal(a, b)


# ---- statistics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_a_healthy_model_has_no_warnings(backend):
    X, y = data()
    model = healthy(backend=backend)
    for _ in range(2):
        found = layer_statistics(model, X, y)
        assert found.warnings == [] and "warning" not in str(found)
        model.fit(X, y, epochs=5, verbose=0)


def test_the_numbers_are_those_of_their_definitions():
    X, y = data()
    model = network(
        fnn.Input(FEATURES), L.Dense(5, "relu"), L.Dense(4, "tanh"), dtype="float64",
        optimizer=SGD(0.1),
    )  # fmt: skip
    weights = np.linspace(0.5, 2, ROWS)
    loss, gradients = model.loss_and_gradients(X, y, weights)
    found = layer_statistics(model, X, y, sample_weight=weights)
    assert found.loss == loss
    values = layer_outputs(model, X)
    for i, s in enumerate(found.layers):
        assert (s.mean, s.deviation) == pytest.approx((values[i].mean(), values[i].std()))
        assert s.zeros == (values[i] == 0).mean()
        w, b = model.get_weights()[2 * i : 2 * i + 2]
        dw, db = gradients[2 * i : 2 * i + 2]
        assert s.weights == pytest.approx(math.hypot(np.linalg.norm(w), np.linalg.norm(b)))
        assert s.gradient == pytest.approx(math.hypot(np.linalg.norm(dw), np.linalg.norm(db)))
        assert s.update_ratio == pytest.approx(0.1 * s.gradient / s.weights)
    first, second, last = found.layers
    assert first.dead == (values[0] == 0).all(axis=0).mean() and first.saturated is None
    assert second.saturated == (np.abs(values[1]) > 0.98).mean() and second.dead == 0
    assert last.dead is None and last.saturated is None
    assert first.layer is model.layers[0] and first.name == "dense_0"


def test_the_update_is_the_optimizers():
    X, y = data()
    model = healthy(optimizer=fnn.optimizers.Adam(0.01))
    found = by_name(layer_statistics(model, X, y))
    # The first step of Adam moves every weight that has a gradient by the learning rate.
    size = math.sqrt(24 * CLASSES + CLASSES)
    assert found["dense_3"].update_ratio == pytest.approx(
        0.01 * size / found["dense_3"].weights, rel=1e-3
    )
    assert found["dropout_1"].weights is found["dropout_1"].update_ratio is None


def test_dead_rectifiers_are_reported():
    X, y = data()
    model = network(L.Dense(10, "relu"), L.Dense(8, "relu"))
    model.build(FEATURES)
    model.get_weights()[1][:4] = -1e3
    found = layer_statistics(model, X, y)
    assert by_name(found)["dense_0"].dead == 0.4
    assert found.warnings == ["dense_0: 40% of its units are dead, 0 for every row"]
    assert layer_statistics(model, X, y, dead=0.5).warnings == []


def test_zeros_of_some_rows_are_not_dead_units():
    X, y = data()
    found = by_name(layer_statistics(network(L.Dense(50, "relu")), X, y))
    assert found["dense_0"].dead == 0 and 0.3 < found["dense_0"].zeros < 0.7


def test_features_that_are_always_zero_are_no_dead_units():
    X, y = data()
    X[:, :3] = 0
    found = layer_statistics(network(L.Rescaling(2.0), L.Dense(8, "tanh")), X, y)
    assert found.warnings == [] and found.layers[0].dead is None


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_saturation_is_reported(name):
    X, y = data()
    model = network(L.Dense(20, name, kernel_initializer=Normal(stddev=100)))
    found = layer_statistics(model, X, y)
    (share,) = (s.saturated for s in found.layers if s.name == "dense_0")
    assert share > 0.9
    assert found.warnings == [f"dense_0: {share:.0%} of its values are saturated"]
    assert layer_statistics(model, X, y, saturated=0.999).warnings == []


def test_a_saturated_output_is_what_training_aims_for():
    X, y = data()
    model = fnn.Sequential([L.Dense(1, "sigmoid", kernel_initializer=Normal(stddev=100))])
    model.compile("binary_cross_entropy")
    found = layer_statistics(model, X, y > 0)
    assert found.layers[0].saturated > 0.9
    assert not any("saturated" in w for w in found.warnings)


@pytest.mark.parametrize("name", REFERENCE["activation"])
def test_saturation_is_at_the_ends_of_every_bounded_activation(name):
    """Where values are at the ends, a derivative is small; a rectifier that is off is at none."""
    layer = L.Activation(name)
    x = np.linspace(-30, 30, 601)
    y, slope = np.empty_like(x), None
    value, derivative = REFERENCE["activation"][name]
    parameters = layer.activation.parameters
    value(x, y, *parameters)
    slope = np.broadcast_to(derivative(x, y, *parameters), x.shape)
    shares = [inspection._saturated(layer, v[None]) for v in y]
    if None in shares:
        assert np.ptp(y) > 10 or not np.isfinite(y).all()
        return
    at_end = np.array(shares) == 1
    assert at_end.any() and (np.abs(slope[at_end]) < 0.05).all()
    off = (y == value_at_zero(value, parameters)) & (x < 0)
    assert not at_end[off].any()


def value_at_zero(value, parameters):
    y = np.empty(1)
    value(np.zeros(1), y, *parameters)
    return y[0]


def test_vanishing_gradients_are_reported_from_the_front():
    X, y = data()
    found = layer_statistics(network(*[L.Dense(16, "sigmoid") for _ in range(10)]), X, y)
    named = [w.split(":")[0] for w in found.warnings]
    assert named and named == [f"dense_{i}" for i in range(len(named))] and len(named) < 9
    assert all("the gradient vanishes" in w for w in found.warnings)
    gradients = [s.gradient for s in found.layers]
    assert gradients[0] < 1e-4 * max(gradients)
    loose = layer_statistics(network(*[L.Dense(16, "sigmoid") for _ in range(10)]), X, y,
                             vanishing=0)  # fmt: skip
    assert loose.warnings == []


def test_depth_alone_does_not_make_gradients_vanish():
    X, y = data()
    deep = [L.Dense(32, "relu", kernel_initializer="he_normal") for _ in range(10)]
    warnings = layer_statistics(network(*deep), X, y).warnings
    assert not any("gradient" in w for w in warnings)


def test_exploding_gradients_are_reported():
    X, y = data()
    deep = [L.Dense(32, kernel_initializer=Normal(stddev=1)) for _ in range(6)]
    found = layer_statistics(network(*deep), X, y)
    assert any("the gradient explodes" in w for w in found.warnings)
    assert not any("vanishes" in w for w in found.warnings)
    assert layer_statistics(network(*deep), X, y, exploding=1e9).warnings == []


def test_the_table_shows_each_layer_and_each_warning():
    X, y = data()
    text = repr(layer_statistics(network(L.Dense(4, "relu", bias_initializer=Constant(-99))), X, y))
    assert text.startswith("layer") and "dense_1" in text
    assert "warning: dense_0: 100% of its units are dead" in text


def test_statistics_do_not_change_the_model():
    X, y = data()
    model, twin = healthy(), healthy()
    for each in (model, twin):
        each.fit(X, y, epochs=2, verbose=0)
    history, before = model.history, model.parameters.copy()
    layer_statistics(model, X, y)
    assert model.history is history
    np.testing.assert_array_equal(model.parameters, before)
    for each in (model, twin):
        each.fit(X, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.parameters, twin.parameters)


def test_impossible_arguments_are_named():
    X, y = data()
    model = healthy()
    for options in ({"dead": 2}, {"saturated": -1}, {"vanishing": -1}, {"exploding": 0}):
        (name,) = options
        with pytest.raises(ValueError, match=f"{name}: expected"):
            layer_statistics(model, X, y, **options)
    for function in (layer_outputs, layer_statistics):
        arguments = (X,) if function is layer_outputs else (X, y)
        with pytest.raises(TypeError, match="model: expected a Model, got list"):
            function([], *arguments)
    with pytest.raises(RuntimeError, match="not built"):
        layer_outputs(model, X)
    with pytest.raises(RuntimeError, match="not compiled"):
        layer_statistics(fnn.Sequential([L.Dense(3)]), X, y)


# ---- learning rates -----------------------------------------------------------------------------


def test_rates_grow_by_a_factor_from_low_to_high():
    X, y = data()
    found = learning_rate_range_test(healthy(), X, y, low=1e-5, high=1e-2, steps=31)
    assert found.rates == pytest.approx(np.geomspace(1e-5, 1e-2, 31))
    assert len(found.losses) == 31 and np.isfinite(found.losses).all()


def test_losses_are_those_of_training_with_these_rates():
    X, y = data(rows=16)
    model, twin = (network(L.Dense(5, "tanh"), dtype="float64") for _ in range(2))
    found = learning_rate_range_test(model, X, y, low=1e-3, high=1e-1, steps=10, batch_size=16)
    for rate, loss in zip(found.rates, found.losses, strict=True):
        twin.optimizer.learning_rate = float(rate)
        assert twin.train_on_batch(X, y) == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("optimizer", fnn.optimizers.OPTIMIZERS)
def test_the_suggested_rate_trains_better_than_far_smaller_and_larger_ones(optimizer):
    X, y = data(rows=600)

    def loss_after(factor):
        model = healthy(optimizer=optimizer)
        model.optimizer.learning_rate = factor * found.suggestion
        try:
            model.fit(X, y, epochs=3, verbose=0)
            return model.evaluate(X, y)["loss"]
        except fnn.NonFiniteLoss:
            return math.inf

    found = learning_rate_range_test(healthy(optimizer=optimizer), X, y, high=100.0)
    assert found.rates[0] < found.suggestion < found.rates[-1]
    assert loss_after(1) < min(loss_after(1e-3), loss_after(1e3))


def test_the_suggestion_is_where_the_loss_falls_most_steeply():
    rates = np.geomspace(1e-6, 1, 100)
    falls = 2 - 1.5 / (1 + np.exp(-3 * (np.log(rates) - np.log(1e-3))))
    falls[80:] += np.linspace(0, 8, 20)  # it is thrown up ...
    falls[90:] -= np.linspace(0, 9, 10)  # ... and falls again, faster
    found = inspection._steepest(rates, falls, 100)
    assert 0.7e-3 < found < 1.5e-3
    noise = np.random.default_rng(0).normal(scale=0.02, size=100)
    assert 0.4e-3 < inspection._steepest(rates, falls + noise, 100) < 2.5e-3
    assert inspection._steepest(rates, np.linspace(1, 2, 100), 100) is None


def test_it_stops_once_the_loss_has_grown():
    X, y = data()
    model = network(L.Dense(16, "relu"), optimizer="sgd")
    found = learning_rate_range_test(model, X, y, high=1e4)
    assert len(found.rates) == len(found.losses) < 100
    assert np.isfinite(found.losses).all() and found.losses[-5:].mean() > 4 * found.losses.min()
    assert found.suggestion < found.rates[-1]


def test_it_stops_at_a_loss_that_is_not_finite():
    X, y = data()
    model = fnn.Sequential([L.Dense(1)], seed=3)
    model.compile("mean_squared_error", SGD(1.0))
    found = learning_rate_range_test(model, 1e18 * X, y.astype(float), low=1e15, high=1e25)
    assert len(found.losses) < 100 and not np.isfinite(found.losses[-1])
    assert found.suggestion is None and "does not fall" in repr(found)


def test_few_rows_are_one_batch():
    found = learning_rate_range_test(healthy(), *data(rows=7), steps=10)
    assert len(found.losses) == 10


def test_the_range_test_does_not_change_the_model():
    X, y = data()
    model, twin = (healthy(optimizer=SGD(0.03)) for _ in range(2))
    learning_rate_range_test(model, X, y)
    with pytest.raises(RuntimeError, match="not built"):
        model.get_weights()
    assert repr(model.optimizer) == "SGD(learning_rate=0.03)"
    for each in (model, twin):
        each.fit(X, y, epochs=2, verbose=0)
    history, before = model.history, model.parameters.copy()
    found = learning_rate_range_test(model, X, y)
    assert f"suggestion {found.suggestion:.2g}" in repr(found)
    assert model.history is history and repr(model.optimizer) == "SGD(learning_rate=0.03)"
    np.testing.assert_array_equal(model.parameters, before)
    for each in (model, twin):
        each.fit(X, y, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.parameters, twin.parameters)


def test_impossible_ranges_are_named():
    X, y = data()
    for options in ({"low": 0}, {"low": 2.0}, {"high": 1e-7}, {"steps": 9}, {"batch_size": 0}):
        name = "high" if options == {"low": 2.0} else next(iter(options))
        with pytest.raises(ValueError, match=f"{name}: expected"):
            learning_rate_range_test(healthy(), X, y, **options)
    with pytest.raises(TypeError, match="model: expected a Model, got NoneType"):
        learning_rate_range_test(None, X, y)
    with pytest.raises(ValueError, match="y: has 3 rows, but X has 200"):
        learning_rate_range_test(healthy(), X, y[:3])
