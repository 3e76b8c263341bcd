"""fit_many: models side by side end as each would have alone."""

from __future__ import annotations

import concurrent.futures
import threading
import time

import numpy as np
import pytest

import fastnn as fnn
from fastnn.layers import BatchNormalization, Dense, Dropout, Rescaling

ROWS = 700


def data(inputs=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, inputs)).astype("float32")
    return X, (X[:, :1] * X[:, 1:2] + 0.1 * rng.normal(size=(ROWS, 1))).astype("float32")


def make(*layers, seed=0, rate=1e-2, loss="mean_squared_error", optimizer=None, **options):
    model = fnn.Sequential([*layers], seed=seed)
    model.compile(loss=loss, optimizer=optimizer or fnn.optimizers.Adam(rate), **options)
    return model


def different(backend="cython"):
    """Models that have little in common but their data."""
    options = {"backend": backend}
    return [
        make(fnn.Input(6), Dense(8, "tanh"), Dense(1), **options),
        make(Dense(16, "relu"), Dropout(0.3), Dense(16, "relu"), Dense(1), seed=1, **options),
        make(Dense(12), BatchNormalization(), Dense(1), rate=1e-3, seed=2, **options),
        make(Rescaling(0.5), Dense(1), optimizer="sgd", seed=3, **options),
        make(Dense(8, "tanh"), Dense(1), dtype="float64", seed=4, **options),
        # Units that two threads can divide, and that they cannot.
        make(Dense(900, "relu"), Dense(900), Dense(1), rate=1e-4, threads=2, seed=5, **options),
        make(Dense(901, "relu"), Dense(901), Dense(1), rate=1e-4, threads=2, seed=7, **options),
        # Threads that divide a batch by rows sum its gradients in another order than one thread.
        make(Dense(64, "relu"), Dense(1), threads=2, seed=6, **options),
    ]


def assert_same(one, other):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_models_end_as_each_would_alone(backend):
    if backend == "numba":
        pytest.importorskip("numba")
    X, y = data()
    held_out = data(seed=1)
    which = (
        range(8) if backend == "cython" else (1, 5, 6, 7)
    )  # the others' kernels compile for long
    together, alone = ([different(backend)[i] for i in which] for _ in range(2))
    sizes = [[32, 50, 33, 7, 32, 128, 128, 256][i] for i in which]
    epochs = [[2, 3, 2, 1, 2, 1, 1, 2][i] for i in which]
    histories = fnn.fit_many(
        together, X, y, batch_size=sizes, epochs=epochs, validation_data=held_out, threads=3,
        verbose=0,
    )  # fmt: skip
    splits = set()
    for one, other, history, size, count in zip(
        together, alone, histories, sizes, epochs, strict=True
    ):
        expected = other.fit(
            X, y, batch_size=size, epochs=count, validation_data=held_out, verbose=0
        )
        assert_same(one, other)
        assert history is one.history
        assert history.history == expected.history and history.epoch == expected.epoch
        splits |= {runner.program.split.mode for runner in other._runners.values()}
    if fnn.compiler.available_threads() > 1:
        assert splits == {"one", "split", "shard", "units"}, (
            "all four ways to divide work were compared"
        )


@pytest.mark.skipif(fnn.compiler.available_threads() < 2, reason="needs two processors")
def test_long_sums_of_a_layer_that_threads_share():
    """Of a size at which one thread's share of the weights could be multiplied another way."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(96, 784)).astype("float32"), rng.integers(0, 10, 96)

    def model():
        layers = [Dense(256, "relu"), Dense(10, "softmax")]
        return make(*layers, loss="cross_entropy", threads=2, deterministic="any-threads")

    together, alone = model(), model()
    fnn.fit_many([together, make(Dense(10, "softmax"), loss="cross_entropy")], X, y, verbose=0)
    alone.fit(X, y, verbose=0)
    assert [r.program.split.mode for r in alone._runners.values()] == ["split"]
    assert_same(together, alone)


def test_training_goes_on_where_it_ended():
    X, y = data()
    together, alone = different()[:3], different()[:3]
    for _ in range(2):
        fnn.fit_many(together, X, y, epochs=2, verbose=0)
    for one, other in zip(together, alone, strict=True):
        other.fit(X, y, epochs=2, verbose=0)
        other.fit(X, y, epochs=2, verbose=0)
        assert_same(one, other)


def test_data_are_converted_once_for_models_that_read_them_alike(monkeypatch):
    seen = []
    original = fnn.Model._prepare
    monkeypatch.setattr(
        fnn.Model, "_prepare", lambda self, *a, **k: seen.append(self) or original(self, *a, **k)
    )
    X, y = data()
    models = [make(fnn.Input(6), Dense(2 + i), Dense(1), seed=i) for i in range(5)]
    models.append(make(fnn.Input(6), Dense(1), loss="mean_absolute_error"))
    models.append(make(fnn.Input(6), Dense(1), dtype="float64"))
    fnn.fit_many(models, X.astype("int64"), y, verbose=0)
    assert seen == [models[0], models[5], models[6]]


def test_models_run_at_the_same_time():
    """Each waits for the other at its first epoch: one after the other they would never end."""
    meeting = threading.Barrier(2, timeout=30)

    class Meet(fnn.callbacks.Callback):
        def on_epoch_begin(self, model, epoch):
            meeting.wait()

    X, y = data()
    for threads in (1, 2):  # that each model would have alone
        models = [make(Dense(32), Dense(1), seed=i, threads=threads) for i in range(2)]
        fnn.fit_many(models, X, y, callbacks=lambda model: [Meet()], threads=2, verbose=0)


@pytest.mark.parametrize("threads, workers", [(1, 1), (2, 1), (4, 2), (9, 4)])
def test_few_models_have_the_rest_of_the_threads(threads, workers, monkeypatch):
    """What each model's native calls are given, of which its program may use fewer: at first an
    equal share, and all once the other model is trained."""
    seen = []
    original = fnn.runtime.Runner.run

    def spy(self, *args, workers=None, **options):
        seen.append(workers)
        return original(self, *args, workers=workers, **options)

    class UntilAllAreGiven(fnn.callbacks.Callback):
        def on_epoch_begin(self, model, epoch):
            model.stop_training = (bool(seen) and seen[-1] == threads) or time.monotonic() > end

    monkeypatch.setattr(fnn.runtime.Runner, "run", spy)
    X, y = data()
    models = [make(Dense(32), Dense(1), seed=i, threads=2) for i in range(2)]
    end = time.monotonic() + 60
    fnn.fit_many(
        models, X, y, validation_data=(X, y), threads=threads, verbose=0, epochs=[1, 10**6],
        callbacks=lambda model: [UntilAllAreGiven()] if model is models[1] else [],
    )  # fmt: skip
    assert seen[0] == workers and seen[-1] == threads and set(seen) == {workers, threads}


def test_callbacks_are_those_of_each_model():
    X, y = data()
    stopping = {}

    def callbacks(model):
        stopping[model] = fnn.callbacks.EarlyStopping("loss", patience=0, min_delta=1e9)
        return [stopping[model]]

    models = [make(Dense(4), Dense(1), seed=i) for i in range(4)]
    histories = fnn.fit_many(models, X, y, epochs=50, callbacks=callbacks, verbose=0)
    assert list(stopping) == models
    assert [len(history.epoch) for history in histories] == [2] * 4


def test_a_lost_loss_stops_its_model_only():
    X, y = data()

    def models():
        rates = (0.01, 1e30, 0.02, 1e30)
        return [make(Dense(4), Dense(1), optimizer=fnn.optimizers.SGD(rate)) for rate in rates]

    found = models()
    histories = fnn.fit_many(found, X, y, epochs=3, lost="keep", verbose=0)
    assert [len(history.epoch) for history in histories] == [3, 0, 3, 0]
    assert all(np.isfinite(w).all() for model in found for w in model.get_weights())
    found = models()
    with pytest.raises(fnn.NonFiniteLoss, match="step") as caught:
        fnn.fit_many(found, X, y, epochs=3, verbose=0)
    assert "models[1], models[3] of 4" in caught.value.__notes__[0]
    assert [len(model.history.epoch) for model in found] == [3, 0, 3, 0]


def test_an_error_of_a_callback_ends_everything():
    class Wrong(fnn.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            raise KeyError("mine")

    X, y = data()
    models = [make(Dense(4), Dense(1), seed=i) for i in range(8)]
    begun = []

    def callbacks(model):
        return [Wrong()] if model is models[3] else []

    with pytest.raises(KeyError, match="mine"):
        fnn.fit_many(models, X, y, epochs=100000, callbacks=callbacks, threads=8, verbose=0)
    begun = [model for model in models if model.history is not None]
    assert all(len(model.history.epoch) < 100000 for model in begun)


def test_an_interrupt_ends_everything(monkeypatch):
    X, y = data()
    models = [make(Dense(4), Dense(1), seed=i) for i in range(3)]
    running, original = threading.Event(), concurrent.futures.wait

    class Tell(fnn.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            running.set()

    def interrupted(futures, **options):
        if "timeout" in options:
            return original(futures, **options)
        assert running.wait(30)
        raise KeyboardInterrupt

    monkeypatch.setattr(concurrent.futures, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fnn.fit_many(models, X, y, epochs=10**7, callbacks=lambda m: [Tell()], threads=2, verbose=0)
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("fit_many") for thread in threading.enumerate()
    )


def test_progress_is_told_once(capsys):
    X, y = data()
    models = [make(Dense(4), Dense(1), seed=i) for i in range(3)]
    fnn.fit_many(models, X, y, epochs=2, verbose=2)
    lines = sorted(capsys.readouterr().out.splitlines())
    assert [line.split("  ")[0] for line in lines] == ["models[0]", "models[1]", "models[2]"]
    assert all("loss 0." in line or "loss 1." in line for line in lines)
    fnn.fit_many(models, X, y, epochs=2, verbose=1)
    shown = capsys.readouterr().err
    assert "model 3/3" in shown and f"{3 * 2 * 22}/{3 * 2 * 22}" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "models: expected at least one Model, got none"),
        ({"models": 3}, "models: expected a list of Model objects, got 3"),
        ({"models": [3]}, r"models\[0\]: expected a Model, got 3"),
        ({"twice": True}, r"models\[2\]: is models\[0\]; expected different models"),
        ({"batch_size": [32]}, "batch_size: expected 2, one for each model, got 1"),
        ({"batch_size": [32, 10**6]}, r"models\[1\]: batch_size: expected at most the 700 rows"),
        ({"epochs": [1, 0]}, r"models\[1\]: epochs: expected .* got 0"),
        ({"callbacks": lambda model: [3]}, r"models\[0\]: callbacks: expected Callback objects"),
        ({"epochs": [1, 2, 3]}, "epochs: expected 2, one for each model, got 3"),
        ({"threads": 0}, "threads: expected .* got 0"),
        ({"lost": "ignore"}, "lost: expected 'raise' or 'keep', got 'ignore'"),
        ({"callbacks": [fnn.callbacks.Callback()]}, "callbacks: expected a function of a model"),
        ({"verbose": 3}, "verbose: expected 0, 1, 2 or 'auto', got 3"),
        ({"X": np.zeros((3, 6))}, r"models\[0\]: y: has 700 rows, but X has 3"),
        ({"X": np.zeros((ROWS, 5))}, r"models\[1\]: X: expected shape \(n, 6\), got \(700, 5\)"),
        ({"uncompiled": True}, r"models\[2\]: the model is not compiled"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(change, message):
    X, y = data()
    models = [make(Dense(4), Dense(1)), make(fnn.Input(6), Dense(1))]
    options = {"X": X, "y": y, "models": models, "verbose": 0} | change
    if options.pop("twice", False):
        options["models"] = [*models, models[0]]
    if options.pop("uncompiled", False):
        options["models"] = [*models, fnn.Sequential([fnn.Input(6), Dense(1)])]
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        fnn.fit_many(options.pop("models"), options.pop("X"), options.pop("y"), **options)
    assert all(model.history is None or not model.history.epoch for model in models)


def test_all_are_compiled_before_any_is_trained(monkeypatch):
    X, y = data()
    models = [make(Dense(4), Dense(1), seed=i) for i in range(3)]

    def fails(*arguments):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(models[2], "_make_runner", fails)
    with pytest.raises(RuntimeError, match=r"models\[2\]: no such kernel"):
        fnn.fit_many(models, X, y, verbose=0)
    assert all(model._need()[1].updates == 0 for model in models)


def test_callbacks_need_optimizers_of_each_model():
    X, y = data()
    one = fnn.optimizers.Adam(0.01)
    models = [make(Dense(4), Dense(1), optimizer=one, seed=i) for i in range(2)]
    fnn.fit_many(models, X, y, verbose=0)
    with pytest.raises(ValueError, match=r"models\[1\]: has the optimizer of models\[0\]"):
        fnn.fit_many(models, X, y, callbacks=lambda m: fnn.callbacks.Callback(), verbose=0)


def test_a_callback_cannot_serve_two_models():
    X, y = data()
    one = fnn.callbacks.EarlyStopping("loss")
    models = [make(Dense(4), Dense(1), seed=i) for i in range(2)]
    with pytest.raises(ValueError, match="callbacks: expected new callbacks for each model"):
        fnn.fit_many(models, X, y, callbacks=lambda model: one, verbose=0)
