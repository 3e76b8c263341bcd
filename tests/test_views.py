"""Rows that are taken in order and as they lie are read from the user's array, without a copy."""

import ctypes
import mmap
import os

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers

WAYS = {
    "one thread": {"threads": 1},
    "rows divided": {"threads": 2},
    "calls shared": {"threads": 2, "deterministic": "any-threads"},
}
ways = pytest.mark.parametrize("way", WAYS)
NO_ACCESS = 0  # PROT_NONE
ROWS, FEATURES = 75, 19  # the last of the batches of 16 is smaller


def data(dtype="float32"):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, FEATURES)).astype(dtype)
    return X, rng.integers(0, 3, ROWS).astype("int32")


def classifier(way, *first, **options):
    model = fnn.Sequential([*first, layers.Dense(8, "relu"), layers.Dense(3, "softmax")], seed=1)
    model.compile(loss="cross_entropy", **WAYS[way], **options)
    return model


def copied(X):
    """The same numbers, but not row after row: these are copied."""
    return np.repeat(X, 2, axis=0)[::2]


def viewed(model):
    """Numbers of the calls that the training program leaves out, in its last run."""
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    return [np.flatnonzero(table["kernel"][0] == 0) for table in runner._tables.values()]


@ways
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_copied_and_nothing_changes(way, dtype):
    X, y = data(dtype)
    read, control = classifier(way, dtype=dtype), classifier(way, dtype=dtype)
    for shuffle in (False, True, False, False):
        read.fit(X, y, batch_size=16, epochs=2, shuffle=shuffle, verbose=0)
        control.fit(copied(X), y, batch_size=16, epochs=2, shuffle=shuffle, verbose=0)
        assert [len(calls) for calls in viewed(read)] == ([0, 0] if shuffle else [2, 2])
        assert [len(calls) for calls in viewed(control)] == ([0, 0] if shuffle else [1, 1])
        np.testing.assert_array_equal(read.parameters, control.parameters)
    np.testing.assert_array_equal(read.predict(X), control.predict(copied(X)))
    assert read.evaluate(X, y) == control.evaluate(copied(X), y)


@ways
@pytest.mark.parametrize("other", ["uint8", "float64"])
def test_other_number_types_are_converted(way, other):
    X, y = data()
    X = np.round(X * 20 + 100).clip(0, 255).astype("float32")
    read, control = classifier(way), classifier(way)
    read.fit(X, y, batch_size=16, shuffle=False, verbose=0)
    control.fit(X.astype(other), y, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_array_equal(read.parameters, control.parameters)


@ways
def test_another_array_is_read_at_its_own_place(way):
    X, y = data()
    read, control = classifier(way), classifier(way)
    for part in (X[:32], X[16:64], X):
        target = y[: len(part)]
        read.fit(part, target, batch_size=16, shuffle=False, verbose=0)
        control.fit(copied(part), target, batch_size=16, shuffle=False, verbose=0)
    np.testing.assert_array_equal(read.parameters, control.parameters)


class Guarded:
    """An array whose last byte is followed by memory that must not be touched."""

    def __init__(self, array):
        page = mmap.PAGESIZE
        room = -(-array.nbytes // page) * page
        self.memory = mmap.mmap(-1, room + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(start + room), page, NO_ACCESS) == 0
        where = np.frombuffer(self.memory, np.uint8)[room - array.nbytes : room]
        self.array = where.view(array.dtype).reshape(array.shape)
        self.array[...] = array


FIRST = {
    "dense": lambda: [],
    "activation": lambda: [layers.Activation("relu")],
    "softmax": lambda: [layers.Activation("softmax")],
    "dropout": lambda: [layers.Dropout(0.3)],
    "noise": lambda: [layers.GaussianNoise(0.1)],
    "batch normalization": lambda: [layers.BatchNormalization()],
    "layer normalization": lambda: [layers.LayerNormalization()],
    "parametric relu": lambda: [layers.PReLU()],
    "maxout": lambda: [layers.Maxout(4, 2)],
    "centering": lambda: [layers.ExampleCentering()],
}


def test_calls_that_are_measured_point_to_memory_that_lives():
    X, y = data()
    model = classifier("one thread")
    model.fit(X, y, batch_size=16, verbose=0)
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    table = runner.ready_table(16)
    assert (table["kernel"] != 0).all()
    _, order = runner._measured
    assert runner._steps["order"][0] == order.order.ctypes.data


@pytest.mark.skipif(os.name != "posix", reason="memory is protected as POSIX does it")
@pytest.mark.parametrize(
    ("way", "first", "backend"),
    [
        *((way, first, "cython") for way in WAYS for first in FIRST),
        ("one thread", "dense", "numba"),
    ],
)
def test_arrays_are_neither_changed_nor_read_beyond_their_end(way, first, backend):
    if backend == "numba":
        pytest.importorskip("numba")
    X, y = data()
    lying = Guarded(X)
    model = classifier(way, *FIRST[first](), backend=backend)
    model.fit(lying.array, Guarded(y).array, batch_size=16, epochs=2, shuffle=False, verbose=0)
    model.evaluate(lying.array, y)
    model.predict(lying.array)
    np.testing.assert_array_equal(lying.array, X)


def test_an_interrupt_leaves_no_call_at_other_rows(monkeypatch):
    X, y = data()
    X, other = copied(X), copied(X[::-1])
    model, control = classifier("one thread"), classifier("one thread")

    def train(model, X):
        model.fit(X, y, batch_size=16, epochs=1, shuffle=False, verbose=0)

    train(model, X)
    (runner,) = model._runners.values()
    with monkeypatch.context() as patched:
        patched.setattr(type(runner), "_views", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(model, other)
    train(model, X)
    train(control, X)
    train(control, X)
    np.testing.assert_array_equal(model.parameters, control.parameters)
