"""predict_into: what predict gives, from and into arrays as they lie."""

from __future__ import annotations

import copy
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

import fastnn as fnn
from fastnn.layers import BatchNormalization, Dense, Dropout, Flatten, Rescaling
from fastnn.runtime import BACKENDS


def make(*layers, **options):
    model = fnn.Sequential([*layers], seed=1)
    model.compile("mean_squared_error", **options)
    return model


def numbers(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


MODELS = {
    "softmax": lambda **o: make(fnn.Input(20), Dense(130, "relu"), Dense(10, "softmax"), **o),
    "everything": lambda **o: make(
        fnn.Input(20), Rescaling(0.5), Dense(33, "tanh"), BatchNormalization(), Dropout(0.5),
        Dense(3), **o,
    ),
    "one layer": lambda **o: make(fnn.Input(20), Dense(1), **o),
}  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_gives_what_predict_gives(name, backend, dtype):
    if backend == "numba":
        pytest.importorskip("numba")
    model = MODELS[name](backend=backend, dtype=dtype)
    for rows in (1, 2, 5, 1):
        X = numbers(rows, 20, seed=rows)
        expected = model.predict(X)
        out = np.full_like(expected, np.nan)
        assert model.predict_into(X, out) is out
        np.testing.assert_array_equal(out, expected)


def test_many_rows_go_in_batches_and_to_all_threads():
    model = make(fnn.Input(300), Dense(1200, "relu"), Dense(1200, "relu"), Dense(7), threads=2)
    for rows in (512, 1100):
        X = numbers(rows, 300)
        out = np.empty((rows, 7), "float32")
        np.testing.assert_array_equal(model.predict_into(X, out), model.predict(X))


@pytest.mark.parametrize("threads", [1, 2])
def test_it_follows_the_weights(threads):
    model = make(Dense(4, "tanh"), Dense(2), threads=threads)
    X = numbers(6, 5)
    model.fit(X, numbers(6, 2), verbose=0)
    out = np.empty((6, 2), "float32")
    for _ in range(3):
        np.testing.assert_array_equal(model.predict_into(X, out), model.predict(X))
        model.fit(X, numbers(6, 2), verbose=0)
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(model.predict_into(X, out), model.predict(X))
    model.compile("mean_squared_error", dtype="float64")
    out = np.empty((6, 2))
    np.testing.assert_array_equal(model.predict_into(X, out), model.predict(X))


def test_other_answers_in_between_leave_nothing_behind():
    """Another call may end with its last batch, and other numbers of rows take memory's place."""
    model = MODELS["softmax"](threads=1)
    X, out = numbers(32, 20), np.empty((32, 10), "float32")
    expected = model.predict_into(X, out).copy()
    space = np.full((3 * 32, 10), np.nan, "float32")
    for between in (
        lambda: model.predict(numbers(96, 20), batch_size=32),
        lambda: [model.predict(numbers(rows, 20)) for rows in range(1, 20)],
        lambda: [model.predict_into(numbers(n, 20), np.empty((n, 10), "f4")) for n in range(1, 20)],
    ):
        between()
        model.predict_into(X, space[:32])
        np.testing.assert_array_equal(space[:32], expected)
        assert np.isnan(space[32:]).all(), "written past the end"


def test_kernels_that_are_still_compiled_are_waited_for(monkeypatch):
    from fastnn.runtime import NativeRunner

    model = MODELS["softmax"](threads=1)
    X, out = numbers(3, 20), np.empty((3, 10), "float32")
    expected = model.predict(X)
    with monkeypatch.context() as patched:
        patched.setattr(NativeRunner, "is_waiting", True)
        np.testing.assert_array_equal(model.predict_into(X, out), expected)
        assert not model._direct
    np.testing.assert_array_equal(model.predict_into(X, out), expected)
    assert list(model._direct) == [3]


def test_numbers_between_their_places_are_refused():
    model = MODELS["softmax"]()
    raw = np.zeros(4 * 20 + 1, np.uint8)
    crooked = raw[1:].view("float32").reshape(1, 20)
    X, out = numbers(1, 20), np.zeros((1, 10), "float32")
    for _ in range(2):
        with pytest.raises(ValueError, match="X: expected numbers at multiples of their size"):
            model.predict_into(crooked, out)
        with pytest.raises(ValueError, match="out: expected numbers at multiples"):
            model.predict_into(X, raw[1:41].view("float32").reshape(1, 10))
        model.predict_into(X, out)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_memory_of_their_own(way):
    model = MODELS["softmax"]()
    X, out = numbers(1, 20), np.empty((1, 10), "float32")
    expected = model.predict_into(X, out).copy()
    other = way(model)
    other.set_weights([0 * w for w in other.get_weights()])
    np.testing.assert_array_equal(model.predict_into(X, out), expected)
    np.testing.assert_allclose(other.predict_into(X, out), 0.1, rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_arrays_are_read_and_written_as_they_lie(dtype, threads):
    model = make(fnn.Input(6), Dense(3), threads=threads)
    wide = (100 * numbers(8, 30)).astype(dtype)
    for X in (wide[:, :6], wide[::2, 3:9], wide[:, ::5], wide[::-1, 12:6:-1], wide[:6, :8].T):
        space = np.full((2 * len(X), 9), np.nan, "float32")
        out = space[::-2, 1:4]
        np.testing.assert_array_equal(model.predict_into(X, out), model.predict(X))
        assert np.isnan(space).sum() == space.size - out.size


@pytest.mark.parametrize("threads", [1, 2])
def test_images(threads):
    model = make(fnn.Input((4, 5, 3)), Flatten(), Dense(2), threads=threads)
    space = numbers(7, 9, 5, 3)
    for X in (space[:, :4], np.ascontiguousarray(space[:3, 2:6]), space[::2, :4]):
        out = np.empty((len(X), 2), "float32")
        np.testing.assert_array_equal(model.predict_into(X, out), model.predict(X))
    out = np.empty((7, 2), "float32")
    for X in (space[:, 1::2], space[:, :5, :4].swapaxes(1, 2)):
        for before in (False, True):  # at first, and where the way is prepared
            if before:
                model.predict_into(space[:, :4], out)
            with pytest.raises(ValueError, match="X: expected rows without gaps"):
                model.predict_into(X, out)


def test_not_a_number_goes_through():
    model = MODELS["one layer"]()
    X, out = numbers(2, 20), np.empty((2, 1), "float32")
    X[1, 3] = np.nan
    model.predict_into(X, out)
    assert np.isfinite(out[0]) and np.isnan(out[1])


def test_nothing_is_allocated():
    model = MODELS["softmax"]()
    X, out = numbers(4, 20), np.empty((4, 10), "float32")
    for _ in range(10):
        model.predict_into(X, out)
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            model.predict_into(X, out)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 2000, "a few of Python's own objects at a time, no array"


def test_threads_may_share_a_model():
    """With a product long enough that other Python threads run meanwhile."""
    model = make(fnn.Input(700), Dense(900, "relu"), Dense(900, "relu"), Dense(2), threads=1)
    inputs = [numbers(40, 700, seed=i) for i in range(3)]
    expected = [model.predict(X) for X in inputs]
    wrong = []

    def run(i):
        out = np.empty((40, 2), "float32")
        for _ in range(60):
            model.predict_into(inputs[i], out)
            if not np.array_equal(out, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("rows", [3, 600])
@pytest.mark.parametrize("before", [False, True], ids=["at first", "later"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": "text"}, "X: expected a NumPy array, got a str"),
        ({"X": lambda n: [[0.0] * 20] * n}, "X: expected a NumPy array, got a list"),
        ({"X": lambda n: numbers(n, 19)}, r"X: expected shape \(n > 0, 20\), got \(\d+, 19\)"),
        ({"X": lambda n: numbers(n, 20, 1)}, r"X: expected shape \(n > 0, 20\), got"),
        ({"X": lambda n: numbers(n, 20).astype("int32")}, "X: expected uint8 or float32 or"),
        ({"X": lambda n: numbers(n, 20).astype(">f4")}, "X: expected uint8 or float32 or"),
        ({"X": lambda n: numbers(0, 20)}, r"X: expected shape \(n > 0, 20\), got \(0, 20\)"),
        ({"out": None}, "out: expected a NumPy array, got a NoneType"),
        ({"out": lambda n: numbers(n + 1, 10)}, r"out: expected shape \(\d+, 10\), got"),
        ({"out": lambda n: numbers(n, 9)}, r"out: expected shape \(\d+, 10\), got \(\d+, 9\)"),
        ({"out": lambda n: numbers(n, 10, dtype="float64")}, "out: expected float32, got float64"),
        ({"out": lambda n: numbers(n, 20)[:, ::2]}, "out: expected rows without gaps"),
        ({"out": lambda n: np.broadcast_to(numbers(10), (n, 10))}, "out: .* can be written"),
    ],
)
def test_what_does_not_fit_is_named(change, message, before, rows):
    model = MODELS["softmax"]()
    arrays = {"X": numbers(rows, 20), "out": np.zeros((rows, 10), "float32")}
    if before:
        model.predict_into(**arrays)
    arrays |= {name: f(rows) if callable(f) else f for name, f in change.items()}
    with pytest.raises(ValueError, match=message):
        model.predict_into(**arrays)


def test_models_that_it_is_not_for():
    a, b = fnn.Input(2), fnn.Input(2)
    model = fnn.Model([a, b], Dense(1)(a + b))
    model.compile("mean_squared_error")
    with pytest.raises(ValueError, match="X: expected a model of one input and one output, got 2"):
        model.predict_into(numbers(1, 2), np.empty((1, 1), "float32"))
    with pytest.raises(RuntimeError, match="not compiled"):
        fnn.Sequential([fnn.Input(2), Dense(1)]).predict_into(
            numbers(1, 2), np.empty((1, 1), "float32")
        )
