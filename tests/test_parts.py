"""A wide input on two threads: each multiplies its part by the weights that it updates."""

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers

INPUTS, BATCH = 270, 32


@pytest.fixture(autouse=True)
def not_by_units(monkeypatch):
    """Units could be divided too, and mostly are."""
    monkeypatch.setattr(fnn.compiler, "divide_units", lambda graph, threads: None)


def wide(backend="cython", threads=2, units=64, inputs=INPUTS, **options):
    # Batch normalization needs the whole batch: threads share each call.
    stack = [layers.Dense(units, "tanh"), layers.BatchNormalization(), layers.Dense(3, "softmax")]
    model = fnn.Sequential([fnn.Input(inputs), *stack], seed=1)
    model.compile(loss="cross_entropy", backend=backend, threads=threads, **options)
    return model


def data(dtype="float32", inputs=INPUTS, rows=3 * BATCH + 5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, inputs)).astype(dtype), rng.integers(0, 3, rows)


def ops(model, X, y, batch=BATCH):
    model.fit(X, y, batch_size=batch, epochs=1, verbose=0)
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    return [node.op.name for node in runner.program.nodes]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_parts_train_as_the_whole(backend, shuffle):
    X, y = data("float64")
    if backend == "numba":
        pytest.importorskip("numba")
    trained = []
    for model in (
        wide(backend, dtype="float64"),
        wide(backend, dtype="float64", deterministic="any-threads"),
        wide("numpy", threads=None, dtype="float64"),
    ):
        model.fit(X, y, batch_size=BATCH, epochs=3, shuffle=shuffle, verbose=0)
        trained.append(model.parameters)
    np.testing.assert_allclose(trained[0], trained[2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(trained[1], trained[2], rtol=1e-9, atol=1e-12)


def test_inputs_are_divided_where_it_pays():
    X, y = data()
    divided = ops(wide(), X, y)
    assert divided.count("dense_parts") == divided.count("sum_parts") == 1
    assert divided.count("dense") == 1  # the narrow one
    assert divided.index("sum_parts") == divided.index("dense_parts") + 1
    # Not where results must not depend on threads, for one thread, for many rows, and for few
    # weights, or more than stay in the caches.
    assert "dense_parts" not in ops(wide(deterministic="any-threads"), X, y)
    assert "dense_parts" not in ops(wide(threads=1), X, y)
    assert "dense_parts" not in ops(wide(), *data(rows=80), batch=80)
    assert "dense_parts" not in ops(wide(units=32), X, y)
    assert "dense_parts" not in ops(wide(units=600), X, y)
    # Nor without an update: nobody has weights of its own then.
    model = wide()
    model.predict(X)
    model.loss_and_gradients(X, y)
    names = {n.op.name for r in model._runners.values() for n in r.program.nodes}
    assert "dense_parts" not in names


@pytest.mark.parametrize("threads", [2, 3])
def test_explain_shows_the_parts(threads):
    X, y = data()
    model = wide(threads=threads)
    model.fit(X, y, batch_size=BATCH, verbose=0)
    text = str(model.explain(BATCH))
    assert "dense_parts" in text and f"-> {threads}xBx64" in text
    assert "sum_parts[tanh]" in text


def test_many_models_train_to_the_same_bits_as_alone():
    X, y = data()
    alone, beside = wide(), [wide(), wide()]
    assert "dense_parts" in ops(alone, X, y)
    fnn.fit_many(beside, X, y, batch_size=BATCH, threads=2, verbose=0)
    for model in beside:
        np.testing.assert_array_equal(model.parameters, alone.parameters)
