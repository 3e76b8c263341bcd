"""How many workers do the work of a program's threads: it changes no result, and is well chosen."""

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers as L
from fastnn import pace as pacing
from fastnn import runtime
from fastnn.pace import Pace

FEATURES, ROWS, BATCH = 300, 333, 64

#: Ways for threads to divide a step: layers, options of compile, and what the program must have.
WAYS = {
    "units": ([L.Dense(64, "relu"), L.BatchNormalization(), L.Dropout(0.25), L.Dense(48)], {}),
    "rows": ([L.Dense(24, "relu"), L.Dropout(0.25)], {}),
    "calls": ([L.Dense(50, "relu", kernel_constraint=fnn.constraints.MaxNorm(2.0))], {}),
    "any threads": ([L.Dense(64, "relu")], {"deterministic": "any-threads"}),
}  # fmt: skip
MODES = {"units": "units", "rows": "shard", "calls": "split", "any threads": "split"}


def make(way, threads, backend="cython", dtype="float32", optimizer="adam"):
    layers, options = WAYS[way]
    model = fnn.Sequential([fnn.Input(FEATURES), *layers, L.Dense(5, "softmax")], seed=3)
    model.compile(
        "cross_entropy", optimizer, metrics=["accuracy"], threads=threads, backend=backend,
        dtype=dtype, **options,
    )  # fmt: skip
    return model


def data(dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, FEATURES)).astype(dtype), rng.integers(0, 5, ROWS)


def trained(way, threads, workers, **options):
    """Weights and history of a model whose native calls all have so many workers."""
    model = make(way, threads, **options)
    X, y = data(options.get("dtype", "float32"))
    prepared = model._prepare(X, y, None)
    loop = model._loop(
        prepared, prepared, BATCH, range(3), True, [], lambda: fnn.training.Progress(0, 1, 1),
        workers,
    )  # fmt: skip
    assert loop.runner.program.split.mode == MODES[way]
    return loop.run().history, model.get_weights()


def assert_same(one, other):
    (history, weights), (expected, wanted) = one, other
    assert history == expected
    for a, b in zip(weights, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_how_many_workers_there_are_changes_no_bit(way, threads):
    expected = trained(way, threads, threads)
    for workers in range(1, threads):
        assert_same(trained(way, threads, workers), expected)


@pytest.mark.parametrize("way", WAYS)
def test_nor_with_kernels_made_for_a_model(way):
    pytest.importorskip("numba")
    options = {"backend": "numba", "dtype": "float64"}
    assert_same(trained(way, 2, 1, **options), trained(way, 2, 2, **options))


@pytest.mark.parametrize("way", WAYS)
def test_to_change_them_while_training_changes_no_bit(way, monkeypatch):
    """Trials of one step each, after each of which the number of workers changes."""
    seen = []
    original = runtime.executor.run

    def spy(*arguments, workers, **options):
        seen.append(workers)
        return original(*arguments, workers=workers, **options)

    def tried(self, steps, seconds):
        self.workers = self.other

    monkeypatch.setattr(runtime.executor, "run", spy)
    monkeypatch.setattr(runtime, "TRIAL", 1e-9)
    monkeypatch.setattr(Pace, "is_due", True)
    monkeypatch.setattr(Pace, "tried", tried)
    monkeypatch.setattr(fnn.model, "available_threads", lambda: 2)
    X, y = data()
    chosen = []
    for threads in (None, 2):
        model = make(way, threads)
        if model.threads is None:  # the estimate must not say one thread
            monkeypatch.setattr(fnn.compiler.split, "LEAST_GAIN", 0.0)
        model.fit(X, y, batch_size=BATCH, epochs=4, validation_data=(X, y), verbose=0)
        chosen.append((model.history.history, model.get_weights()))
        if threads is None:
            assert {1, 2} == set(seen) and len(seen) > 8
            seen.clear()
    assert set(seen) == {0}, "as many workers as threads where their number is given"
    assert_same(*chosen)


def test_one_worker_does_what_all_threads_would_repeat_only_once(monkeypatch):
    """The output layer, its loss and the copies of rows; what prepares a step is each thread's."""
    model = make("units", 2)
    prepared = model._prepare(*data(), None)
    runner = model._runner("train", prepared, BATCH)
    nodes, tables = runner.program.nodes, {}
    monkeypatch.setattr(
        runtime.executor, "run", lambda full, *a, workers, **o: tables.update({workers: full})
    )
    order = runtime.Order(ROWS)  # rows are copied
    for workers in (1, 2):
        runner._run_with(
            workers, prepared.feeds, np.zeros((1, 2)),
            runtime._Span(ROWS, BATCH, 0, 1, order, 1.0, None, True, workers),
        )  # fmt: skip
    table = tables[1]
    left_out = {
        node.op.name for node, call in zip(nodes, table[1], strict=True) if not call["kernel"]
    }
    assert {"gather", "softmax_cross_entropy", "sum_parts"} <= left_out
    assert not left_out & {"schedule", "prepare_update", "dropout_mask"}
    assert table["kernel"][0].all() and tables[2]["kernel"].all()


def test_a_loss_that_all_threads_lost_is_not_lost_for_one():
    """Of results that every thread has, one worker makes the first thread's only."""
    X, y = data()
    model = make("units", 2)
    model.fit(X, y, batch_size=BATCH, verbose=0)
    (runner,) = model._runners.values()
    feeds = model._prepare(X, y, None).feeds
    lost = feeds | {"x": np.full_like(X, np.nan)}  # which `fit` would refuse

    def status(feeds, workers):
        totals = np.zeros((1, len(runner.program.sums)))
        return runner.run(
            feeds, totals, rows=ROWS, batch=BATCH, last=1, update=False, workers=workers
        )[0]

    assert status(lost, 2) == status(lost, 1) == runtime.NOT_FINITE
    assert status(lost, 2) == runtime.NOT_FINITE and status(feeds, 1) != runtime.NOT_FINITE


@pytest.mark.parametrize("way", ["rows", "calls", "any threads"])
def test_a_loss_that_is_lost_in_a_trial_is_told(way, monkeypatch):
    monkeypatch.setattr(fnn.model, "available_threads", lambda: 2)
    monkeypatch.setattr(fnn.compiler.split, "LEAST_GAIN", 0.0)
    monkeypatch.setattr(Pace, "is_due", True)
    model = make(way, None, optimizer=fnn.optimizers.SGD(1e30))
    with pytest.raises(fnn.NonFiniteLoss):
        model.fit(*data(), batch_size=BATCH, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


# ------------------------------------------------------------------ the choice


class Machine:
    """On which a step takes, for some number of workers, what a function of the time says."""

    def __init__(self, seconds_per_step, threads=2, call=pacing.TRIAL * 25):
        self.pace, self.at, self.call = Pace(threads), seconds_per_step, call
        self.now, self.tries, self.steps = 0.0, 0, 0
        self.with_workers = {1: 0.0, threads: 0.0}

    def run(self, workers, seconds):
        each = self.at(workers, self.now)
        steps = max(1, int(seconds / each))
        self.now += steps * each
        self.with_workers[workers] += steps * each
        self.steps += steps
        return steps, steps * each

    def until(self, end):
        while self.now < end:
            if self.pace.is_due:
                self.tries += 1
                self.pace.tried(*self.run(self.pace.other, min(pacing.TRIAL, self.call)))
            self.pace.went(*self.run(self.pace.workers, self.call))
        return self


@pytest.mark.parametrize("call", [1e-3, 0.05])
@pytest.mark.parametrize("step", [5e-6, 3e-4, 0.03])
@pytest.mark.parametrize("gain", [0.3, 0.8, 1.5, 2.0])
def test_the_faster_way_is_taken_nearly_all_the_time(gain, step, call):
    machine = Machine(lambda workers, now: step if workers == 1 else step / gain, call=call)
    # At first all threads work, until the first trial.
    first = pacing.SOONEST * max(pacing.TRIAL, 2 * step / gain) + call + step / gain
    machine.until(first + 20)
    best = 2 if gain > 1 else 1
    assert machine.with_workers[best] > 0.98 * (machine.now - (best == 1) * first)
    assert machine.tries >= 1


def test_a_machine_that_changes_is_followed():
    """Cores that are near for five seconds, and then far apart for five."""

    def seconds(workers, now):
        near = now % 10 < 5
        return 1e-5 if workers == 1 else 6e-6 if near else 1.5e-5

    machine = Machine(seconds).until(40)
    best = 40 / 2 * (1 / 6e-6 + 1 / 1e-5)
    assert machine.steps > 0.95 * best


def test_a_sudden_change_is_noticed_at_once():
    """Somebody else takes one of the cores, after a trial with which one could long be content."""
    busy = False
    machine = Machine(lambda workers, now: 1e-5 if workers == 1 else 3e-5 if busy else 6e-6)
    machine.until(10)
    tries = machine.tries
    while machine.tries == tries:
        machine.until(machine.now + 0.01)
    alone, busy = machine.with_workers[1], True
    machine.until(machine.now + 0.5)
    assert machine.with_workers[1] - alone > 0.3


def test_what_makes_no_difference_changes_nothing():
    machine = Machine(lambda workers, now: 1e-5 * (1 + 0.02 * workers)).until(10)
    assert machine.with_workers[1] < 0.02 * machine.now


def test_trials_become_rare_while_they_find_nothing():
    machine = Machine(lambda workers, now: 2e-5 / workers).until(1)
    at_first = machine.tries
    machine.until(9)
    assert 2 <= at_first <= 5 and machine.tries - at_first <= 11  # one for each 0.8 seconds
