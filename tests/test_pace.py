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
        prepared, prepared, BATCH, range(3), True, [], lambda: fnn.training.Progress(0, 1, 1)
    )
    loop.workers = workers
    assert loop.runner.program.split.mode == MODES[way]
    return loop.run().history, model.get_weights()


def watch(monkeypatch, seen):
    """Note workers, whether they update, and how it ended, of each native call."""
    original = runtime.executor.run

    def run(*arguments, workers, update, **options):
        found = original(*arguments, workers=workers, update=update, **options)
        seen.append((workers, update, found[0]))
        return found

    monkeypatch.setattr(runtime.executor, "run", run)


def two_threads_by_choice(monkeypatch):
    """Of a model that leaves it to us, also where there is one processor, or little to do."""
    monkeypatch.setattr(fnn.model, "available_threads", lambda: 2)
    monkeypatch.setattr(fnn.compiler.split, "LEAST_GAIN", 0.0)


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
    watch(monkeypatch, seen)

    def ran(self, steps, within, seconds):
        assert steps > 0 and 0 < within < seconds
        self.usual = 3 - self.usual

    monkeypatch.setattr(runtime, "SAMPLE", 1e-9)
    monkeypatch.setattr(Pace, "begin", lambda self: True)
    monkeypatch.setattr(Pace, "ran", ran)
    two_threads_by_choice(monkeypatch)
    X, y = data()
    chosen = []
    for threads in (None, 2):
        model = make(way, threads)
        model.fit(X, y, batch_size=BATCH, epochs=4, validation_data=(X, y), verbose=0)
        chosen.append((model.history.history, model.get_weights()))
        if threads is None:
            trained = [workers for workers, update, _ in seen if update]
            assert trained.count(1) >= 6 and trained.count(2) >= 6
            seen.clear()
    assert {workers for workers, *_ in seen} == {2}, "all, where a number of threads is given"
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
        runner.run(
            prepared.feeds, np.zeros((1, 2)), rows=ROWS, batch=BATCH, last=1, order=order,
            workers=workers,
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


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_is_lost_in_a_trial_ends_the_run(way, monkeypatch):
    two_threads_by_choice(monkeypatch)
    model = make(way, None)
    prepared = model._prepare(*data(), None)
    feeds, runner = prepared.feeds, model._runner("train", prepared, BATCH)
    (pace,) = model._paces.values()
    pace.trying = True
    seen = []
    watch(monkeypatch, seen)
    lost = feeds | {"x": np.full((ROWS, FEATURES), np.nan, "float32")}
    totals = np.zeros((1, len(runner.program.sums)))
    found = runner.run(lost, totals, rows=ROWS, batch=BATCH, last=3)
    assert found == (runtime.NOT_FINITE, 0)
    assert seen == [(1, True, runtime.NOT_FINITE)]


def test_only_steps_that_train_are_measured(monkeypatch):
    """With callbacks the loss of a step is looked at before each epoch: that is no trial."""
    two_threads_by_choice(monkeypatch)
    monkeypatch.setattr(Pace, "begin", lambda self: pytest.fail("a trial") if looking else False)
    looking = False
    original = runtime.NativeRunner._run

    def run(self, feeds, totals, span):
        nonlocal looking
        looking = not span.update
        return original(self, feeds, totals, span)

    monkeypatch.setattr(runtime.NativeRunner, "_run", run)
    seen = []
    watch(monkeypatch, seen)
    model = make("rows", None)
    X, y = data()
    model.fit(X, y, batch_size=BATCH, epochs=3, callbacks=[fnn.callbacks.Callback()], verbose=0)
    model.predict(X)
    model.evaluate(X, y)
    assert len(model._paces) == 1 and len(model._runners) == 3
    assert [update for _, update, _ in seen if not update], "steps were looked at"


def test_what_was_measured_holds_for_another_learning_rate(monkeypatch):
    """Which is another program: a callback may set a rate in each epoch."""
    two_threads_by_choice(monkeypatch)
    model = make("units", None)
    X, y = data()
    model.fit(X, y, batch_size=BATCH, verbose=0)
    (pace,) = model._paces.values()
    pace.usual, pace.since = 1, -1e9
    model.optimizer.learning_rate = 1e-4
    seen = []
    watch(monkeypatch, seen)
    model.fit(X, y, batch_size=BATCH, verbose=0)
    assert len(model._runners) == 2 and {workers for workers, *_ in seen} == {1}


def test_a_model_that_has_all_threads_of_fit_many_is_measured_too(monkeypatch):
    two_threads_by_choice(monkeypatch)
    X, y = data()
    models = [make("rows", None) for _ in range(3)]
    for model in models:
        model.fit(X, y, batch_size=BATCH, verbose=0)
        (pace,) = model._paces.values()
        monkeypatch.setattr(pace, "ran", lambda *numbers: ran.append(numbers))
    ran, seen = [], []
    watch(monkeypatch, seen)
    fnn.fit_many(models[:2], X, y, batch_size=BATCH, threads=1, verbose=0)
    assert not ran and {workers for workers, *_ in seen} == {1}
    seen.clear()
    fnn.fit_many(models[2:], X, y, batch_size=BATCH, threads=2, verbose=0)
    assert ran and {workers for workers, *_ in seen} == {2}


# ------------------------------------------------------------------ the choice


class Machine:
    """On which a step takes, for some number of workers, what a function of the time says.

    A native call of ``call`` seconds takes ``fixed`` more than its steps, and a share of the calls
    half as long again, by chance.
    """

    def __init__(self, seconds_per_step, threads=2, call=0.05, fixed=0.0, disturbed=0.0):
        self.pace, self.at, self.call, self.fixed = Pace(threads), seconds_per_step, call, fixed
        self.now, self.tries, self.steps, self.disturbed = 0.0, 0, 0, disturbed
        self.with_workers = {1: 0.0, threads: 0.0}
        self.rng = np.random.default_rng(0)

    def until(self, end):
        while self.now < end:
            was_trying = self.pace.trying
            trying, workers = self.pace.begin(), self.pace.workers
            self.tries += trying and not was_trying
            each = self.at(workers, self.now)
            steps = max(1, int((min(runtime.SAMPLE, self.call) if trying else self.call) / each))
            within = steps * each * (1.5 if self.rng.random() < self.disturbed else 1)
            self.now += within + self.fixed
            self.with_workers[workers] += within + self.fixed
            self.steps += steps
            self.pace.ran(steps, within, within + self.fixed)
        return self


@pytest.mark.parametrize("call, fixed", [(1e-4, 0.0), (1e-3, 0.0), (0.05, 0.0), (0.05, 5e-4)])
@pytest.mark.parametrize("step", [5e-6, 3e-4, 0.03])
@pytest.mark.parametrize("gain", [0.3, 0.8, 1.5, 2.0])
def test_the_faster_way_is_taken_nearly_all_the_time(gain, step, call, fixed):
    machine = Machine(lambda w, now: step if w == 1 else step / gain, call=call, fixed=fixed)
    # At first all threads work, until the first trial.
    first = pacing.SOONEST * max(pacing.SAMPLE, 2 * step / gain) + call + step / gain
    machine.until(first + 20)
    best = 2 if gain > 1 else 1
    assert machine.with_workers[best] > 0.98 * (machine.now - (best == 1) * first)
    assert machine.tries >= 1


def test_what_a_call_costs_does_not_speak_against_short_trials():
    """Weights are copied for each call: 4 milliseconds of 50, but most of a trial."""
    machine = Machine(lambda w, now: 4e-3 if w == 1 else 6e-3, fixed=4e-3).until(20)
    assert machine.with_workers[1] > 0.9 * machine.now


@pytest.mark.parametrize("call", [1e-4, 0.05])
def test_single_calls_that_take_long_do_not_decide(call):
    """Every tenth takes half as long again with all threads, longer than with one worker."""
    machine = Machine(lambda w, now: 1.3e-5 if w == 1 else 1e-5, call=call, disturbed=0.1)
    machine.until(20)
    assert machine.with_workers[2] > 0.95 * machine.now


def test_a_trial_that_took_long_is_not_soon_repeated():
    """With one worker in use, a step with all threads may take any time: under a quota, say."""
    machine = Machine(lambda w, now: 1e-5 if w == 1 else 0.1, threads=64).until(2000)
    assert machine.with_workers[1] > 0.97 * (machine.now - pacing.SOONEST * 64 * 0.1)
    tries = machine.tries
    assert machine.until(2100).tries - tries <= 10


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
    while machine.tries == tries and machine.now < 20:
        machine.until(machine.now + 0.01)
    alone, busy = machine.with_workers[1], True
    machine.until(machine.now + 0.5)
    assert machine.with_workers[1] - alone > 0.3


def test_long_steps_are_not_tried_in_short_training():
    assert not Machine(lambda workers, now: 0.06 / workers).until(2).tries


def test_last_batches_count_by_their_rows():
    span = runtime._Span(100, 64, 0, 0, None, 1.0, None, True, None)
    assert [span.whole_steps(step) for step in (0, 1, 2, 5)] == [0, 1, 100 / 64, 2 * 100 / 64 + 1]


def test_what_makes_no_difference_changes_nothing():
    machine = Machine(lambda workers, now: 1e-5 * (1 + 0.02 * workers)).until(10)
    assert machine.with_workers[1] < 0.02 * machine.now


def test_trials_become_rare_while_they_find_nothing():
    machine = Machine(lambda workers, now: 2e-5 / workers).until(1)
    at_first = machine.tries
    machine.until(9)
    assert 2 <= at_first <= 5
    assert machine.tries - at_first <= 1 + 8 / (pacing.LATEST * pacing.SAMPLE)
