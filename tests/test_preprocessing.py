"""Layers that bring inputs to a standard form: what is found in data, and what is made of it."""

from __future__ import annotations

import copy
import doctest
import math

import numpy as np
import pytest

import fastnn as fnn
from fastnn.checking import check_gradients
from fastnn.layers import preprocessing as module

L = fnn.layers
SGD = fnn.optimizers.SGD
BACKENDS = ("numpy", "cython")
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}

FITTED = {
    "standardization": L.Standardization,
    "min-max": lambda: L.MinMaxScaling(-1, 3),
    "centering": L.Centering,
    "zca": lambda: L.ZCAWhitening(0.1),
}
each_fitted = pytest.mark.parametrize("make", FITTED.values(), ids=list(FITTED))
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def table(n=200, shape=(6,), seed=0):
    """Rows whose features have different means and deviations, and depend on each other."""
    rng = np.random.default_rng(seed)
    size = math.prod(shape)
    rows = rng.normal(size=(n, size)) @ rng.normal(size=(size, size))
    return (rows * np.linspace(0.5, 4, size) + np.linspace(-20, 30, size)).reshape(n, *shape)


def made(layers, X, **options):
    """What layers make of X."""
    layers = layers if isinstance(layers, list) else [layers]
    model = fnn.Sequential([fnn.Input(X.shape[1:]), *layers])
    model.compile("mean_squared_error", SGD(0.1), **({"dtype": "float64"} | options))
    return model.predict(X)


def classifier(layers, X, seed=0, optimizer=None, **options):
    model = fnn.Sequential(
        [fnn.Input(X.shape[1:]), *layers, L.Flatten(), L.Dense(8, "tanh"), L.Dense(3, "softmax")],
        seed=seed,
    )
    model.compile("cross_entropy", optimizer or SGD(0.1), metrics="accuracy", **options)
    return model


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# ---- against scikit-learn and the definitions ---------------------------------------------------


@pytest.mark.parametrize("kind", ["StandardScaler", "MinMaxScaler", "centred"])
@each_dtype
@each_backend
def test_scaling_is_scikit_learns(backend, dtype, kind):
    scalers = pytest.importorskip("sklearn.preprocessing")
    layer, scaler = {
        "StandardScaler": (L.Standardization(), scalers.StandardScaler()),
        "MinMaxScaler": (L.MinMaxScaling(-2, 5), scalers.MinMaxScaler((-2, 5))),
        "centred": (L.Centering(), scalers.StandardScaler(with_std=False)),
    }[kind]
    X, other = table(), table(seed=1)
    X[:, 2], other[:30, 2] = 0.1, 0.1  # a feature that does not vary
    scaler.fit(X)
    layer.adapt(X)
    for rows in (X, other):
        found = made(layer, rows, backend=backend, dtype=dtype)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, scaler.transform(rows), atol=20 * TOLERANCE[dtype])


@each_backend
def test_standardized_features_have_mean_0_and_deviation_1(backend):
    X = table(shape=(3, 4, 2))
    found = made(L.Standardization().adapt(X), X, backend=backend)
    assert found.shape == X.shape
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-12)


def test_min_max_reaches_both_ends_and_goes_beyond_them_for_others():
    X = table()
    layer = L.MinMaxScaling(-1, 3).adapt(X)
    found = made(layer, X)
    np.testing.assert_allclose(found.min(axis=0), -1, atol=1e-12)
    np.testing.assert_allclose(found.max(axis=0), 3, atol=1e-12)
    beyond = X.max(axis=0, keepdims=True) + np.ptp(X, axis=0) / 4
    np.testing.assert_allclose(made(layer, beyond), 4, atol=1e-12)
    plain = made(L.MinMaxScaling().adapt(X), X)
    assert plain.min() >= -1e-12 and plain.max() <= 1 + 1e-12


@pytest.mark.parametrize("value", [0.0, 0.1, -1 / 3, 1e6 + 0.1, 1e-8])
@each_dtype
def test_features_that_do_not_vary(dtype, value):
    """However the mean of equal numbers is rounded: the deviation is 0."""
    X = table(1000)
    X[:, 3] = value
    scale = abs(value) * (1e-6 if dtype == "float32" else 1e-12)
    for layer, want in ((L.Standardization(), 0), (L.Centering(), 0), (L.MinMaxScaling(2, 3), 2)):
        found = made(layer.adapt(X), X, dtype=dtype)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[:, 3], want, atol=scale + 1e-6 * want)
        # In other rows, what is beyond that value is neither lost nor blown up.
        other = X[:1].copy()
        other[:, 3] = value + 0.5
        atol = 0.07 if dtype == "float32" and value > 1e5 else 1e-5
        unit = 0.5 * (layer.high - layer.low) if isinstance(layer, L.MinMaxScaling) else 0.5
        np.testing.assert_allclose(made(layer, other, dtype=dtype)[:, 3], want + unit, atol=atol)


@each_dtype
@each_backend
def test_a_large_mean_costs_no_more_than_the_rounding_of_the_inputs(backend, dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(2000, 10, (500, 2)).astype(dtype)
    want = (X.astype("float64") - X.mean(axis=0, dtype="float64")) / X.std(axis=0, dtype="float64")
    found = made(L.Standardization().adapt(X), X, backend=backend, dtype=dtype)
    np.testing.assert_allclose(found, want, atol=4 * 200 * np.finfo(dtype).eps)


def covariance(rows):
    return np.cov(rows, rowvar=False, bias=True)


@each_backend
def test_zca_makes_features_uncorrelated(backend):
    X = table(400)
    layer = L.ZCAWhitening(1e-10).adapt(X)
    found = made(layer, X, backend=backend)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-8)
    np.testing.assert_allclose(covariance(found), np.eye(6), atol=1e-7)


@pytest.mark.parametrize("epsilon", [1e-2, 1.0])
@each_dtype
@each_backend
def test_zca_is_the_inverse_root_of_the_covariance(backend, dtype, epsilon):
    linalg = pytest.importorskip("scipy.linalg")
    X = table(400)
    layer = L.ZCAWhitening(epsilon).adapt(X)
    kernel = np.linalg.inv(linalg.sqrtm(covariance(X) + epsilon * np.eye(6)))
    found = made(layer, X, backend=backend, dtype=dtype)
    atol = 200 * TOLERANCE[dtype]
    np.testing.assert_allclose(found, (X - X.mean(axis=0)) @ kernel, atol=atol)
    stored, shift = classifier([layer], X, dtype="float64").get_weights()[:2]
    np.testing.assert_allclose(stored, stored.T, atol=1e-14)
    np.testing.assert_allclose(stored, kernel, atol=1e-10)
    np.testing.assert_allclose(shift, -X.mean(axis=0) @ kernel, atol=1e-9)


def test_zca_stays_closest_to_the_original_of_all_that_whiten():
    X = table(400)
    centred = X - X.mean(axis=0)
    found = made(L.ZCAWhitening(1e-12).adapt(X), X)
    distance = ((found - centred) ** 2).sum()
    rng = np.random.default_rng(0)
    for strength in (0.1, 0.5, 5.0):
        q, _ = np.linalg.qr(np.eye(6) + strength * rng.normal(size=(6, 6)))
        q *= np.sign(np.diag(q))
        turned = found @ q  # whitened too
        np.testing.assert_allclose(covariance(turned), np.eye(6), atol=1e-6)
        assert ((turned - centred) ** 2).sum() > distance
    _, directions = np.linalg.eigh(covariance(X))
    assert ((found @ directions - centred) ** 2).sum() > distance  # that of PCA


@each_dtype
def test_zca_of_dependent_and_constant_features_is_finite(dtype):
    X = table(300)
    X[:, 1] = 0.1
    X[:, 4] = X[:, 0] - 2 * X[:, 3]
    found = made(L.ZCAWhitening(1e-3).adapt(X), X, dtype=dtype)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-3 if dtype == "float32" else 1e-10)
    few = table(4, (3, 3))  # fewer rows than features
    assert np.abs(made(L.ZCAWhitening(0.01).adapt(few), few)).max() < 10


def test_zca_leaves_what_is_small_against_epsilon():
    X = table() * 1e-3
    found = made(L.ZCAWhitening(1e6).adapt(X), X)
    np.testing.assert_allclose(found, (X - X.mean(axis=0)) * 1e-3, rtol=1e-3, atol=1e-12)


@each_dtype
@each_backend
def test_each_example_gets_a_mean_of_0(backend, dtype):
    X = table(50, (3, 4, 2)).astype(dtype)
    found = made(L.ExampleCentering(), X, backend=backend, dtype=dtype)
    want = X - X.mean(axis=(1, 2, 3), keepdims=True, dtype="float64")
    np.testing.assert_allclose(found, want, atol=20 * TOLERANCE[dtype])
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0, atol=TOLERANCE[dtype])


def test_gradients_through_the_centering_of_examples():
    X, y = table(20) / 10, np.arange(20) % 3
    layers = [L.Dense(7, "tanh"), L.ExampleCentering(), L.Dense(3, "softmax")]
    for backend in BACKENDS:
        model = fnn.Sequential(layers)
        model.compile("cross_entropy", backend=backend)
        check = check_gradients(model, X, y)
        assert check.passed, check


@each_fitted
def test_gradients_through_fitted_layers(make):
    """Of weights before the layer, and by the inputs."""
    X, y = table(20), np.arange(20) % 3
    between = np.tanh(table(50, (5,), seed=1))
    x = fnn.Input(6)
    hidden = make().adapt(between)(L.Dense(5, "tanh")(make().adapt(X)(x)))
    model = fnn.Model(x, L.Dense(3, "softmax")(L.ExampleCentering()(hidden)))
    for backend in BACKENDS:
        model.compile("cross_entropy", backend=backend, dtype="float64")
        check = check_gradients(model, X, y)
        assert check.passed, check
        found = model.input_gradients(X, y)
        for i, j in ((0, 0), (7, 5), (19, 3)):
            losses = []
            for step in (-1e-5, 1e-5):
                moved = X.copy()
                moved[i, j] += step
                losses.append(model.evaluate(moved, y)["loss"])
            slope = (losses[1] - losses[0]) / 2e-5
            np.testing.assert_allclose(found[i, j], slope, rtol=1e-4, atol=1e-9)


# ---- a part of the model ------------------------------------------------------------------------


@each_fitted
def test_what_was_found_is_among_the_weights_and_not_counted(make):
    X = table(shape=(2, 3))
    plain, model = classifier([], X), classifier([make().adapt(X)], X)
    assert model.count_parameters() == plain.count_parameters() == model.parameters.size
    extra = model.get_weights()[: -len(plain.get_weights())]
    assert len(extra) == {"Centering": 1}.get(type(make()).__name__, 2)
    assert all(w.size in (6, 36) for w in extra)


@each_fitted
@each_backend
def test_set_weights_carries_it_to_another_model(backend, make):
    X, other, y = table(), table(seed=1), np.arange(200) % 3
    model = classifier([make().adapt(X)], X, backend=backend)
    model.fit(X, y, epochs=2, verbose=0)
    second = classifier([make().adapt(other * 3 + 1)], X, seed=5, backend=backend)
    assert np.abs(model.predict(other) - second.predict(other)).max() > 1e-3
    second.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(other), second.predict(other))
    third = copy.deepcopy(model)
    np.testing.assert_array_equal(model.predict(other), third.predict(other))


@each_fitted
@each_backend
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: fnn.optimizers.SGD(0.1, ema=0.9),
        lambda: fnn.optimizers.Adam(0.05),
        lambda: fnn.optimizers.AdamW(0.05, weight_decay=0.1),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_training_does_not_change_it(backend, make, optimizer):
    X, y = table(), np.arange(200) % 3
    model = classifier([make().adapt(X)], X, optimizer=optimizer(), backend=backend)
    before = [w.copy() for w in model.get_weights()]
    model.fit(X, y, epochs=3, verbose=0)
    for i, (old, new) in enumerate(zip(before, model.get_weights(), strict=True)):
        if i < len(before) - 4:
            np.testing.assert_array_equal(old, new)
        else:
            assert (old != new).any()


@each_fitted
@each_dtype
def test_training_is_that_on_data_brought_to_the_form_before(make, dtype):
    X, y = table(), np.arange(200) % 3
    layer = make().adapt(X)
    ready = made(layer, X)
    wide = {"float32": 1e-3, "float64": 1e-9}[dtype]
    for backend in BACKENDS:
        inside = classifier([layer], X, dtype=dtype, backend=backend)
        outside = classifier([], X, dtype=dtype, backend=backend)
        start = inside.get_weights()[-4:]
        outside.set_weights(start)
        losses = []
        for model, rows in ((inside, X), (outside, ready)):
            history = model.fit(rows, y, epochs=5, verbose=0).history
            losses.append(history["loss"])
        np.testing.assert_allclose(*losses, rtol=wide)
        np.testing.assert_allclose(
            inside.get_weights()[-2], outside.get_weights()[-2], atol=wide
        )  # fmt: skip


@each_fitted
def test_compiling_for_another_number_type_keeps_it(make):
    X = table()
    model = classifier([make().adapt(X)], X, dtype="float64")
    double = model.predict(X)
    model.compile("cross_entropy", dtype="float32")
    assert model.predict(X).dtype == np.float32
    np.testing.assert_allclose(model.predict(X), double, atol=1e-4)


@each_fitted
@each_backend
def test_first_on_bytes(backend, make):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (100, 4, 4), np.uint8)
    layer = make().adapt(X)
    found = made(layer, X, backend=backend)
    np.testing.assert_array_equal(found, made(layer, X.astype("float64"), backend=backend))
    if not isinstance(layer, L.ZCAWhitening):
        want = made(make().adapt(X.astype("float64")), X.astype("float64"), backend=backend)
        np.testing.assert_array_equal(found, want)
    # Centred bytes are still large: units would be saturated from the start.
    model = classifier([layer, L.Rescaling(min(1, 1 / found.std()))], X, backend=backend)
    y = (X[:, 0, 0] > 127).astype(int)
    assert model.fit(X, y, epochs=60, verbose=0).history["accuracy"][-1] > 0.9


def test_standardization_lets_a_network_learn_what_it_does_not_otherwise():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 4)) * (1, 100, 0.01, 1) + (0, 3000, 5, -50)
    y = (X[:, 2] > 5).astype(int)
    accuracy = []
    for layers in ([], [L.Standardization().adapt(X)]):
        model = classifier(layers, X)
        accuracy.append(model.fit(X, y, epochs=40, verbose=0).history["accuracy"][-1])
    assert accuracy[1] > 0.95 > accuracy[0] + 0.2


def test_adapting_looks_once_and_again_only_before_building():
    X = table()
    kept = X.copy()
    layer = L.Standardization().adapt(X)
    X *= 100
    want = (kept - kept.mean(axis=0)) / kept.std(axis=0)
    np.testing.assert_allclose(made(layer, kept), want, atol=1e-12)
    model = classifier([layer], kept)
    before = model.predict(kept)
    assert layer.adapt(X) is layer
    np.testing.assert_array_equal(model.predict(kept), before)
    np.testing.assert_allclose(made(layer, X), want, atol=1e-12)


def test_one_layer_can_serve_two_inputs():
    X = table()
    layer = L.Standardization().adapt(X)
    a, b = fnn.Input(6), fnn.Input(6)
    model = fnn.Model([a, b], layer(a) - layer(b))
    model.compile("mean_squared_error", dtype="float64")
    assert len(model.get_weights()) == 2
    found = model.predict([X, X[::-1]])
    np.testing.assert_allclose(found, (X - X[::-1]) / X.std(axis=0), atol=1e-12)


def test_rows_are_those_of_any_array():
    X = table().round(3)
    want = made(L.Standardization().adapt(X), X)
    for rows in (X.tolist(), X[:, ::-1][:, ::-1], np.asfortranarray(X)):
        np.testing.assert_allclose(made(L.Standardization().adapt(rows), X), want, atol=1e-10)


def test_rows_of_a_data_frame():
    pandas = pytest.importorskip("pandas")
    X = table()
    frame = pandas.DataFrame(X)
    want = made(L.Standardization().adapt(X), X)
    np.testing.assert_allclose(made(L.Standardization().adapt(frame), X), want, atol=1e-10)


# ---- errors -------------------------------------------------------------------------------------


@each_fitted
@pytest.mark.parametrize(
    ("X", "error"),
    [
        (np.zeros((0, 3)), ValueError),
        (np.zeros((3, 0)), ValueError),
        (np.zeros(3), ValueError),
        (1.0, ValueError),
        ([[1.0, math.nan]], ValueError),
        ([[math.inf, 1.0]], ValueError),
        ([["a", "b"]], TypeError),
        ([[1.0, 2.0], [3.0]], ValueError),
        (None, TypeError),
    ],
)
def test_adapting_to_nothing_sensible(make, X, error):
    layer = make()
    with pytest.raises(error, match=r"^X: "):
        layer.adapt(X)
    with pytest.raises(ValueError, match=r"call adapt\(X\)"):  # nothing was kept
        layer(fnn.Input(3))


@each_fitted
def test_use_before_adapting(make):
    layer = make()
    name = type(layer).__name__
    with pytest.raises(ValueError, match=rf"{name}: call adapt\(X\) with training data first"):
        layer(fnn.Input(6))
    model = fnn.Sequential([layer, L.Dense(2)])
    model.compile("mean_squared_error")
    with pytest.raises(ValueError, match=rf"layer 0: {name}: call adapt\(X\)"):
        model.fit(np.ones((4, 6)), np.ones((4, 2)), verbose=0)


@each_fitted
def test_examples_of_another_shape(make):
    layer = make().adapt(table())
    message = rf"{type(layer).__name__}: is fitted to examples \(6,\), got \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        layer(fnn.Input((2, 3)))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("MinMaxScaling", [{"low": math.nan}, {"low": "0"}]),
        ("MinMaxScaling", [{"high": 0}, {"high": -1.0}, {"high": math.inf}, {"high": None}]),
        ("ZCAWhitening", [{"epsilon": 0}, {"epsilon": -1.0}, {"epsilon": math.nan}]),
    ],
)
def test_errors_name_the_argument(kind, values):
    for options in values:
        (name,) = options
        with pytest.raises((ValueError, TypeError), match=rf"^{name}: "):
            getattr(L, kind)(**options)
