"""Noise in training: its distribution, independence, the same on every backend, none elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastnn as fnn

stats = pytest.importorskip("scipy.stats")

L = fnn.layers
COLUMNS, ROWS, STEPS = 601, 5, 12  # an odd number of columns: the last number has no partner

#: Two ways to make noise, with the standard deviation that each has here.
NOISE = {
    "noise": (lambda: L.GaussianNoise(0.7), 0.7),
    "dropout": (lambda: L.GaussianDropout(0.2), 0.5),
}
each_noise = pytest.mark.parametrize("name", NOISE)
both_types = pytest.mark.parametrize("dtype", ["float32", "float64"])


def unit(*layers, columns=COLUMNS, seed=0, **options):
    """One linear unit behind the layers: its gradient is what came out of them."""
    model = fnn.Sequential(
        [fnn.Input(columns), *layers, L.Dense(1, use_bias=False, kernel_initializer="zeros")],
        seed=seed,
    )
    model.compile("mean_absolute_error", fnn.optimizers.SGD(1e-30), **options)
    return model


def outputs(model, X):
    """What the layers before the unit make of each row: its weight selects the row."""
    t = np.full(len(X), 1e9)
    found = []
    for row in np.eye(len(X)):
        _, (gradient,) = model.loss_and_gradients(X, t, sample_weight=row)
        found.append(-len(X) * gradient[:, 0])
    return np.array(found)


def drawn(name, seed=0, layers=1, **options):
    """Normal numbers as the layer draws them: (steps, rows, columns)."""
    make, deviation = NOISE[name]
    model = unit(*(make() for _ in range(layers)), seed=seed, **{"dtype": "float64"} | options)
    X = np.zeros((ROWS, COLUMNS)) if name == "noise" else np.ones((ROWS, COLUMNS))
    found = []
    for _ in range(STEPS):
        found.append(outputs(model, X) - X)
        model.train_on_batch(X, np.full(ROWS, 1e9))
    return np.array(found) / deviation


@each_noise
@pytest.mark.parametrize("seed", [0, 7])
def test_noise_is_normal(name, seed):
    values = drawn(name, seed).ravel()
    n = values.size
    # Moments of a normal distribution, each within five of its own standard errors.
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((values**power).mean() - moment) < 5 * math.sqrt(spread / n), power
    assert stats.kstest(values, "norm").pvalue > 0.01
    assert 3.5 < np.abs(values).max() < 5.8  # the largest that 23 bits give


@each_noise
def test_numbers_of_noise_are_independent(name):
    values = drawn(name)
    n = values.size
    flat = values.reshape(-1, COLUMNS)
    half = -(-COLUMNS // 2)
    pairs = {f"columns {lag} apart": (flat[:, lag:], flat[:, :-lag]) for lag in (1, 2, half)}
    pairs["rows"] = values[:, 1:], values[:, :-1]
    pairs["steps"] = values[1:], values[:-1]
    pairs["seeds"] = values, drawn(name, seed=1)
    for what, (a, b) in pairs.items():
        assert abs((a * b).mean()) < 5 / math.sqrt(a.size), what
        # The numbers of one counter share their length: squares would show it.
        assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < 10 / math.sqrt(a.size), what
    assert len(np.unique(values)) > 0.999 * n
    for axis in range(3):  # no row, column or step has a mean of its own
        means = values.mean(axis=axis).ravel()
        assert stats.kstest(means * math.sqrt(values.shape[axis]), "norm").pvalue > 0.01


def test_layers_draw_numbers_of_their_own():
    once, twice = drawn("noise"), drawn("noise", layers=2)
    second = twice - once
    assert abs((once * second).mean()) < 5 / math.sqrt(once.size)
    assert stats.kstest(second.ravel(), "norm").pvalue > 0.01


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_gaussian_dropout_has_the_variance_of_dropout(rate):
    X = np.full((1, 20_001), 3.0)
    gaussian, dropped = (
        outputs(unit(layer, columns=X.size, dtype="float64"), X)
        for layer in (L.GaussianDropout(rate), L.Dropout(rate))
    )
    variance = 9 * rate / (1 - rate)
    for values in (gaussian, dropped):
        assert values.mean() == pytest.approx(3, abs=5 * math.sqrt(variance / X.size))
        assert values.var() == pytest.approx(variance, rel=0.05)


def test_gaussian_dropout_multiplies_and_noise_adds():
    for name, expected in (("dropout", [0, -2]), ("noise", [1, 1])):
        make, _ = NOISE[name]
        model = unit(make(), dtype="float64")
        at = {x: outputs(model, np.full((ROWS, COLUMNS), x)) - x for x in (0.0, -2.0, 1.0)}
        for x, factor in zip((0.0, -2.0), expected, strict=True):
            np.testing.assert_allclose(at[x], factor * at[1.0], rtol=1e-12, atol=1e-12)


@both_types
@each_noise
def test_noise_is_the_same_on_both_backends(name, dtype):
    on_numpy, compiled = (drawn(name, dtype=dtype, backend=b) for b in ("numpy", "cython"))
    if dtype == "float64":
        np.testing.assert_allclose(compiled, on_numpy, rtol=1e-12, atol=1e-12)
    else:
        np.testing.assert_allclose(compiled, on_numpy, rtol=3e-6, atol=3e-6)


@both_types
@each_noise
def test_noise_does_not_depend_on_the_threads(name, dtype):
    alone, *others = (
        drawn(name, dtype=dtype, threads=t, deterministic=d)
        for t, d in ((1, None), (2, None), (2, "any-threads"), (3, "any-threads"))
    )
    for other in others:
        np.testing.assert_array_equal(other, alone)


@both_types
def test_noise_does_not_depend_on_which_thread_has_a_row(dtype, monkeypatch):
    """Where each thread has its rows: only one row counts, so sums have nothing to round."""
    monkeypatch.setattr(fnn.compiler, "divide_units", lambda graph, threads: None)
    X = np.random.default_rng(0).normal(size=(16, 40))
    for row in (0, 7, 8, 15):
        results = []
        for threads in (1, 2):
            layers = [L.GaussianNoise(0.5), L.Dense(40, "tanh"), L.GaussianDropout(0.4)]
            layers += [L.Dense(40, "tanh"), L.GaussianNoise(0.5), L.Dense(1)]
            model = fnn.Sequential([fnn.Input(40), *layers])
            model.compile("mean_squared_error", "sgd", threads=threads, dtype=dtype)
            model.fit(
                X, X[:, 0], sample_weight=np.eye(16)[row], batch_size=16, epochs=3, verbose=0,
                shuffle=False,
            )  # fmt: skip
            (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
            assert runner.program.split.mode == ("one" if threads == 1 else "shard")
            results.append(model.parameters)
        tolerance = 1e-6 if dtype == "float32" else 1e-14  # products of fewer rows round otherwise
        np.testing.assert_allclose(*results, rtol=tolerance, atol=tolerance)


def noisy(**options):
    layers = [L.GaussianNoise(0.3), L.Dense(17, "tanh"), L.GaussianDropout(0.3), L.Dense(4)]
    model = fnn.Sequential([fnn.Input(6), *layers])
    model.compile("mean_squared_error", "adam", **options)
    return model


def some_data(n=70):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 6)), rng.normal(size=(n, 4))


@both_types
def test_training_with_noise_is_the_same_for_any_number_of_threads(dtype):
    X, y = some_data()
    weights = []
    for threads in (1, 2, 3):
        model = noisy(threads=threads, deterministic="any-threads", dtype=dtype)
        model.fit(X, y, epochs=5, verbose=0)
        weights.append(model.parameters)
    for other in weights[1:]:
        np.testing.assert_array_equal(other, weights[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_noise(threads):
    X, y = some_data()
    a, b = noisy(threads=threads), noisy(threads=threads)
    for model in (a, b):
        model.fit(X, y, epochs=3, verbose=0)
    np.testing.assert_array_equal(a.parameters, b.parameters)


@both_types
def test_training_with_noise_agrees_between_backends(dtype):
    X, y = some_data()
    results = []
    for options in ({"backend": "numpy"}, {"threads": 1}, {"threads": 2}):
        model = noisy(dtype=dtype, **options)
        losses = model.fit(X, y, epochs=34, verbose=0).history["loss"]
        results.append(np.concatenate([losses, model.parameters]))
    tolerance = 2e-4 if dtype == "float32" else 1e-10
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_noise_is_off_in_prediction_and_evaluation(backend):
    X, y = some_data()
    model, plain = noisy(backend=backend), fnn.Sequential(
        [fnn.Input(6), L.Dense(17, "tanh"), L.Dense(4)]
    )  # fmt: skip
    plain.compile("mean_squared_error", backend=backend)
    plain.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    assert model.evaluate(X, y) == plain.evaluate(X, y)
    np.testing.assert_array_equal(model.input_gradients(X, y), plain.input_gradients(X, y))
    assert model.loss_and_gradients(X, y)[0] != plain.loss_and_gradients(X, y)[0]


@pytest.mark.parametrize("layer", [L.GaussianNoise(0), L.GaussianDropout(0)], ids=str)
def test_no_noise_is_none(layer):
    X = np.random.default_rng(0).normal(size=(3, COLUMNS))
    np.testing.assert_allclose(outputs(unit(layer, dtype="float64"), X), X, rtol=1e-12)


@each_noise
@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_gradients_through_noise(name, backend):
    """By the weights before it, where the noise is a constant: differences of the loss."""
    X, y = some_data(20)
    layers = [L.Dense(5, "tanh"), NOISE[name][0](), L.Dense(4)]
    model = fnn.Sequential([fnn.Input(6), *layers])
    model.compile("mean_squared_error", backend=backend)
    fnn.checking.check_gradients(model, X, y).raise_if_wrong()
