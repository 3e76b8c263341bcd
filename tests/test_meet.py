"""Threads that share calls meet only where one needs what another has done."""

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers
from fastnn.compiler.meet import waits
from fastnn.kernels.aot import executor

ROWS, THREADS = 32, 2
L2 = fnn.regularizers.L2(0.01)

#: Layers before the last one, the shape of an example, and options of ``compile``.
MODELS = {
    "dense": ([layers.Dense(40, "relu"), layers.Dense(24, "tanh")], (20,), {}),
    "inputs divided": (  # batch normalization needs the whole batch
        [layers.Dense(64, "relu"), layers.BatchNormalization()],
        (270,),
        {"deterministic": None},
    ),
    "dropout and penalty": (
        [layers.Dense(24, "relu", kernel_regularizer=L2), layers.Dropout(0.3)],
        (20,),
        {"metrics": ["accuracy"]},
    ),
    "batch normalization": (
        [layers.Dense(24), layers.BatchNormalization(), layers.Activation("elu")],
        (20,),
        {},
    ),
    "changed inputs": (
        [layers.GaussianNoise(0.1), layers.Dense(24), layers.LayerNormalization(), layers.PReLU()],
        (20,),
        {},
    ),
    "clipped and averaged": (
        [layers.Dense(24, "relu", kernel_constraint=fnn.constraints.MaxNorm(1.0))],
        (20,),
        {"optimizer": fnn.optimizers.Momentum(0.1, clip_global_norm=0.1, ema=0.9)},
    ),
}


@pytest.fixture(autouse=True)
def not_by_units(monkeypatch):
    """Units could be divided too, and mostly are."""
    monkeypatch.setattr(fnn.compiler, "divide_units", lambda graph, threads: None)


def trained(name, backend, X, y):
    """A model after an epoch in which threads shared each call, and its runner."""
    stack, shape, options = MODELS[name]
    model = fnn.Sequential([fnn.Input(shape), *stack, layers.Dense(3, "softmax")], seed=1)
    model.compile(
        **{"loss": "cross_entropy", "threads": THREADS, "backend": backend,
           "deterministic": "any-threads"} | options
    )  # fmt: skip
    model.fit(X, y, batch_size=ROWS, shuffle=False, verbose=0)
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    return model, runner


def data(name):
    _, shape, _ = MODELS[name]
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, *shape)).astype("float32")
    return X, rng.integers(0, 3, ROWS).astype("int32")


def replay(runner, feeds, rows, order, meets, turns):
    """A step call by call: between two meetings one thread is as far ahead as it can be."""
    state = runner.state
    kept = [a.copy() for a in state.arrays]
    table, views = runner._fed(rows, feeds, order is None)
    for thread, lines in enumerate(views):
        for view in lines:
            table[thread, view["call"]]["buffers"][view["operand"]] = view["start"]
    runner._arenas[0][:] = runner._results[0][:] = 0xFF  # what no call has written is NaN
    steps = runner._steps
    steps["step"], steps["rows"], steps["first"] = state.updates, rows, 0
    steps["order"] = 0 if order is None else executor.address_of(order)
    calls = range(table.shape[1])
    starts = [0, *(i for i in calls[1:] if meets[i])]
    for start, end in zip(starts, [*starts[1:], len(calls)], strict=True):
        for thread in turns:
            for i in calls[start:end]:
                if table[thread, i]["kernel"]:
                    executor.call_kernel(table[thread, i : i + 1], thread, THREADS)
    made = [a.copy() for a in (*state.arrays, runner._results[0])]
    for array, before in zip(state.arrays, kept, strict=True):
        array[:] = before
    return made


@pytest.mark.parametrize("backend", ["cython", "numba"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rows, shuffle", [(ROWS, False), (ROWS, True), (ROWS - 9, False)])
def test_no_thread_can_be_too_early(name, backend, rows, shuffle):
    if backend == "numba":
        pytest.importorskip("numba")
    X, y = data(name)
    model, runner = trained(name, backend, X, y)
    assert runner.program.split.mode == "split"
    feeds = model._prepare(X, y, None).feeds
    everywhere = [True] * len(runner.program.nodes)
    order = np.random.default_rng(1).permutation(ROWS) if shuffle else None
    table, _ = runner._fed(rows, feeds, order is None)
    meets = table["waits"][0].astype(bool).tolist()
    assert not all(meets)
    meets[runner.program.compute] = True  # to look at the loss
    batch = runner, feeds, rows, order
    want = replay(*batch, everywhere, (0, 1))
    for turns in ((0, 1), (1, 0)):
        for got, expected in zip(replay(*batch, meets, turns), want, strict=True):
            np.testing.assert_array_equal(got, expected)
        # The replay would see it: without meetings there are other results.
        nowhere = replay(*batch, [False] * len(meets), turns)
        assert any(not np.array_equal(a, b) for a, b in zip(nowhere, want, strict=True))


def test_where_they_meet():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 784)).astype("float32"), rng.integers(0, 10, 64)
    stack = [layers.Dense(128, "relu"), layers.Dense(64, "relu"), layers.Dense(10, "softmax")]
    model = fnn.Sequential(stack)
    model.compile(loss="cross_entropy", threads=THREADS)
    model.fit(X, y, batch_size=64, verbose=0)
    (runner,) = model._runners.values()
    names = [node.op.name for node in runner.program.nodes]

    def meetings(without=()):
        found = waits(runner.program, without)
        return [name for name, meets in zip(names, found, strict=True) if meets]

    forward = ["sum_parts", "dense", "dense", "softmax_cross_entropy"]
    # Not before what each thread prepares for itself, nor between updates of different weights
    # (and always before the first of these, for there the loss is looked at).
    assert names[-5:] == ["dense_dx", "dense_update", "dense_dx", "dense_update", "dense_update"]
    backward = ["dense_dx", "dense_update"]
    assert meetings() == ["dense_parts", *forward, *backward]
    # Rows that are read where they lie need no gather to be waited for.
    copies = [i for i, name in enumerate(names) if name in ("gather", "gather_labels")]
    assert meetings(without=copies) == [*forward, *backward]


def test_rows_in_another_order_are_waited_for():
    X, y = (np.concatenate([array, array]) for array in data("dense"))
    model, runner = trained("dense", "cython", X, y)
    found = []
    for shuffle in (False, True, False):
        model.fit(X, y, batch_size=ROWS, shuffle=shuffle, verbose=0)
        (table,) = runner._tables.values()
        found.append(table["waits"][0].tolist())
    assert found[0] == found[2] and sum(found[1]) == sum(found[0]) + 1
