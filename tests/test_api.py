"""The public API: what a user calls, and what comes back."""

from __future__ import annotations

import doctest
import importlib
import inspect
import math
import tracemalloc

import numpy as np
import pytest

import fastnn as fnn
from fastnn.compiler import available_threads
from fastnn.kernels.formula import FORMULAS

L = fnn.layers
SGD = fnn.optimizers.SGD


def blobs(n=70, features=4, classes=3, seed=1):
    """Separable classes: X (n, features) float32 and labels (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    centres = rng.normal(scale=2, size=(classes, features))
    return (centres[y] + rng.normal(size=(n, features))).astype("float32"), y


def line(n=70, features=4, outputs=1, seed=2):
    """A linear map with noise: X float64 and targets (n, outputs) float64."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, features))
    return X, X @ rng.normal(size=(features, outputs)) + 0.1 * rng.normal(size=(n, outputs))


def classifier(*, features=4, classes=3, seed=0, layers=(), **options):
    """A small compiled classifier; ``layers`` stand between its two Dense layers."""
    model = fnn.Sequential(
        [
            fnn.Input(features),
            L.Dense(8, "tanh"),
            *layers,
            L.Dense(classes, activation="softmax"),
        ],
        seed=seed,
    )
    model.compile(**({"loss": "cross_entropy", "optimizer": SGD(0.1)} | options))
    return model


def regressor(*, features=4, outputs=1, seed=0, **options):
    model = fnn.Sequential([fnn.Input(features), L.Dense(8, "tanh"), L.Dense(outputs)], seed=seed)
    model.compile(**({"loss": "mean_squared_error", "optimizer": SGD(0.05)} | options))
    return model


def fitted(model, X, y, **options):
    """The model's flat weights after a silent fit."""
    model.fit(X, y, **({"verbose": 0} | options))
    return model.parameters.copy()


def same(a, b):
    np.testing.assert_array_equal(a, b)


def close(a, b, dtype="float64"):
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


class Recorder(fnn.callbacks.Callback):
    """Writes down what is called, and the weights at each end of an epoch."""

    def __init__(self):
        self.calls, self.logs, self.weights = [], [], []

    def on_train_begin(self, model):
        self.calls.append(("train_begin",))

    def on_epoch_begin(self, model, epoch):
        self.calls.append(("epoch_begin", epoch))

    def on_epoch_end(self, model, epoch, logs):
        self.calls.append(("epoch_end", epoch))
        self.logs.append(dict(logs))
        self.weights.append(model.parameters.copy())

    def on_train_end(self, model):
        self.calls.append(("train_end",))


# ---- examples -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", ".model", ".activations", ".optimizers", ".schedules", ".layers.base", ".layers.core"],
)
def test_examples_of_the_docstrings_run(name):
    module = importlib.import_module(f"fastnn{name}")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0 and result.failed == 0


# ---- building and compiling ---------------------------------------------------------------------


def test_the_first_data_build_a_model_without_input_as_an_input_would():
    X, y = blobs()
    models = [
        fnn.Sequential([*first, L.Dense(6, "relu"), L.Dense(3, "softmax")], seed=4)
        for first in ([fnn.Input(4)], [])
    ]
    for model in models:
        model.compile("cross_entropy")
        fitted(model, X, y, epochs=2)
    same(models[0].parameters, models[1].parameters)
    assert models[1].count_parameters() == 4 * 6 + 6 + 6 * 3 + 3


def test_build_fixes_the_shape_and_says_so_when_asked_for_another():
    model = fnn.Sequential([L.Dense(2)])
    model.build((5,))
    assert [w.shape for w in model.get_weights()] == [(5, 2), (2,)]
    model.build(5)  # the same again changes nothing
    with pytest.raises(ValueError, match=r"input_shape.*\(5,\).*\(6,\)"):
        model.build(6)


def test_layers_are_added_one_by_one_and_listed():
    model = fnn.Sequential(seed=3)
    for layer in (fnn.Input(4), L.Dense(8, "tanh"), L.Dense(3, "softmax")):
        model.add(layer)
    assert [layer.kind for layer in model.layers] == ["dense", "dense"]
    model.layers.clear()  # a copy
    assert len(model.layers) == 2
    same(model.parameters, classifier(seed=3).parameters)


LOSS_DATA = {
    "mean_squared_error": (None, lambda y: np.eye(3)[y]),
    "mean_absolute_error": (None, lambda y: np.eye(3)[y]),
    "cross_entropy": ("softmax", lambda y: y),
    "binary_cross_entropy": ("sigmoid", lambda y: np.eye(3)[y]),
    "negative_log_likelihood": ("log_softmax", lambda y: y),
    "kl_divergence": ("softmax", lambda y: (np.eye(3)[y] + 0.5) / 2.5),
    "multiclass_hinge": (None, lambda y: y),
    "squared_multiclass_hinge": (None, lambda y: y),
    "cosine_proximity": (None, lambda y: np.eye(3)[y]),
    "perceptron": ("heaviside", lambda y: np.eye(3)[y]),
}


def loss_data(name):
    """An output activation and targets that suit a loss."""
    meant_for = FORMULAS["loss"][name].domain if name not in LOSS_DATA else (0, 1)
    default = ("sigmoid" if meant_for[0] == 0 else None, lambda y: np.eye(3)[y])
    return LOSS_DATA.get(name, default)


@pytest.mark.parametrize("name", fnn.losses.LOSSES)
def test_a_loss_is_taken_by_name_class_or_object(name):
    activation, encode = loss_data(name)
    X, y = blobs()
    results = []
    for loss in (name, fnn.losses.LOSSES[name], fnn.losses.LOSSES[name]()):
        model = fnn.Sequential([L.Dense(3, activation)])
        model.compile(loss, "sgd")
        results.append(fitted(model, X, encode(y)))
    same(results[0], results[1])
    same(results[0], results[2])


@pytest.mark.parametrize("name", fnn.optimizers.OPTIMIZERS)
def test_an_optimizer_is_taken_by_name_class_or_object(name):
    X, y = blobs()
    kind = fnn.optimizers.OPTIMIZERS[name]
    results = [fitted(classifier(optimizer=o), X, y) for o in (name, kind, kind())]
    same(results[0], results[1])
    same(results[0], results[2])
    assert not np.array_equal(results[0], classifier().parameters)


@pytest.mark.parametrize("name", fnn.initializers.INITIALIZERS)
def test_an_initializer_is_taken_by_name_class_or_object(name):
    kind = fnn.initializers.INITIALIZERS[name]
    weights = []
    for choice in (name, kind, kind()):
        model = fnn.Sequential([fnn.Input(16), L.Dense(4, kernel_initializer=choice)])
        weights.append(model.get_weights()[0].copy())
    same(weights[0], weights[1])
    same(weights[0], weights[2])


@pytest.mark.parametrize("name", fnn.activations.names())
def test_an_activation_is_taken_by_name_or_function(name):
    X, _ = blobs(n=9)
    outputs = []
    for choice in (name, getattr(fnn.activations, name), getattr(fnn.activations, name)()):
        for layers in ([L.Dense(5, choice)], [L.Dense(5), L.Activation(choice)]):
            model = fnn.Sequential([fnn.Input(4), *layers])
            model.compile("mean_squared_error")
            outputs.append(model.predict(X))
    for output in outputs[1:]:
        close(output, outputs[0], "float32")


@pytest.mark.parametrize("name", fnn.metrics.METRICS)
def test_a_metric_is_taken_by_name_class_or_object_alone_or_in_a_list(name):
    X, y = blobs()
    kind = fnn.metrics.METRICS[name]
    results = [
        classifier(metrics=metrics).evaluate(X, np.eye(3)[y])
        for metrics in (name, [name], (kind,), [kind()])
    ]
    assert all(r == results[0] for r in results)
    assert set(results[0]) == {"loss", name}


def test_compiling_again_keeps_the_weights_and_forgets_the_optimizers_state():
    X, y = blobs()
    rule = fnn.optimizers.Momentum(0.1, mu=0.9)
    model = classifier(optimizer=rule)
    trained = fitted(model, X, y, epochs=2)
    model.compile("cross_entropy", rule)
    same(model.parameters, trained)
    _, gradients = model.loss_and_gradients(X, y)
    model.train_on_batch(X, y)  # with no velocity left this is one plain step
    expected = trained - 0.1 * np.concatenate([g.ravel() for g in gradients])
    close(model.parameters, expected, "float32")


def test_compiling_for_another_number_type_keeps_the_weights():
    X, y = blobs()
    model = classifier()
    trained = fitted(model, X, y)
    model.compile("cross_entropy", dtype="float64")
    assert model.parameters.dtype == np.float64
    same(model.parameters, trained.astype("float64"))


def test_one_optimizer_object_serves_two_models():
    X, y = blobs()
    rule = fnn.optimizers.Adam(0.01)
    models = [classifier(optimizer=rule), classifier(optimizer=rule)]
    for _ in range(3):
        for model in models:
            fitted(model, X, y)
    same(models[0].parameters, models[1].parameters)
    same(models[0].parameters, fitted(classifier(optimizer=fnn.optimizers.Adam(0.01)), X, y,
                                      epochs=3))  # fmt: skip


# ---- shapes and values --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_predict_computes_the_network(dtype, backend):
    X, _ = blobs()
    model = fnn.Sequential([fnn.Input(4), L.Dense(8, "relu"), L.Dense(3, "softmax")])
    model.compile("cross_entropy", backend=backend, dtype=dtype)
    (W, b, V, c), x = [w.astype("float64") for w in model.get_weights()], X.astype("float64")
    z = np.maximum(x @ W + b, 0) @ V + c
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    predicted = model.predict(X)
    assert predicted.shape == (70, 3) and predicted.dtype == dtype
    close(predicted, expected, dtype)
    for size in (1, 7, 70, 1000):
        close(model.predict(X, batch_size=size), expected, dtype)


def test_evaluate_computes_loss_and_metrics_whatever_the_batch_size():
    X, y = blobs()
    model = classifier(metrics=["accuracy"], dtype="float64")
    p = model.predict(X)
    expected = {
        "loss": -np.log(p[np.arange(70), y]).mean(),
        "accuracy": (p.argmax(axis=1) == y).mean(),
    }
    for size in (None, 1, 32, 70, 1000):
        result = model.evaluate(X, y, batch_size=size)
        assert set(result) == set(expected)
        assert all(isinstance(v, float) for v in result.values())
        for name, value in expected.items():
            assert result[name] == pytest.approx(value, rel=1e-12)


def test_evaluate_of_numbers_computes_errors():
    X, y = line(outputs=2)
    model = regressor(outputs=2, metrics=["mean_absolute_error", "mean_squared_error"],
                      dtype="float64")  # fmt: skip
    error = model.predict(X) - y
    result = model.evaluate(X, y)
    assert result["loss"] == pytest.approx((error**2).mean(), rel=1e-12)
    assert result["mean_squared_error"] == pytest.approx((error**2).mean(), rel=1e-12)
    assert result["mean_absolute_error"] == pytest.approx(np.abs(error).mean(), rel=1e-12)


@pytest.mark.parametrize("from_logits", [False, True])
def test_accuracy_of_yes_or_no_questions(from_logits):
    X, y = blobs(classes=2)
    model = fnn.Sequential([fnn.Input(4), L.Dense(1, None if from_logits else "sigmoid")])
    model.compile(fnn.losses.BinaryCrossEntropy(from_logits), metrics="accuracy", dtype="float64")
    p = model.predict(X)[:, 0]
    p = 1 / (1 + np.exp(-p)) if from_logits else p
    result = model.evaluate(X, y)
    assert result["accuracy"] == pytest.approx(((p > 0.5) == y).mean())
    assert result["loss"] == pytest.approx(
        -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), rel=1e-12
    )


def test_labels_one_hot_rows_and_columns_of_labels_mean_the_same():
    X, y = blobs()
    reference = fitted(classifier(dtype="float64"), X, y, epochs=3)
    one_hot = np.eye(3)[y]
    for targets in (y.astype("uint8"), y[:, None], y.tolist(), one_hot, one_hot.astype(int)):
        close(fitted(classifier(dtype="float64"), X, targets, epochs=3), reference)


def test_a_vector_of_targets_is_one_column():
    X, y = line()
    same(fitted(regressor(), X, y), fitted(regressor(), X, y[:, 0]))


def test_the_penalty_is_part_of_the_loss():
    X, y = line()
    plain, penalised = (
        fnn.Sequential([fnn.Input(4), L.Dense(1, kernel_regularizer=r)]) for r in (None, 0.3)
    )
    for model in (plain, penalised):
        model.compile("mean_squared_error", dtype="float64")
    W = plain.get_weights()[0]
    expected = plain.evaluate(X, y)["loss"] + 0.15 * (W**2).sum()
    assert penalised.evaluate(X, y)["loss"] == pytest.approx(expected, rel=1e-12)


# ---- fit ----------------------------------------------------------------------------------------


def test_fit_learns_and_returns_the_history():
    X, y = blobs()
    model = classifier(metrics=["accuracy"])
    history = model.fit(X, y, epochs=40, verbose=0)
    assert isinstance(history, fnn.History) and history is model.history
    assert set(history.history) == {"loss", "accuracy"}
    assert history.epoch == list(range(40))
    assert all(len(v) == 40 for v in history.history.values())
    assert history.history["loss"][-1] < history.history["loss"][0] / 2
    assert history.history["accuracy"][-1] > 0.9
    assert "40 epochs" in repr(history)


def test_the_history_is_the_mean_over_the_rows_as_they_were_trained_on():
    X, y = blobs()  # 70 rows: two batches of 32 and one of 6
    still = classifier(optimizer=SGD(1e-30), metrics=["accuracy"], dtype="float64")
    history = still.fit(X, y, batch_size=32, verbose=0).history
    for name, value in still.evaluate(X, y).items():
        assert history[name][0] == pytest.approx(value, rel=1e-12)
    moving = classifier(dtype="float64")
    losses = [moving.train_on_batch(X[a : a + 32], y[a : a + 32]) for a in (0, 32, 64)]
    history = classifier(dtype="float64").fit(X, y, batch_size=32, shuffle=False, verbose=0)
    expected = np.average(losses, weights=[32, 32, 6])
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_shuffling_fit_is_one_update_after_the_other(dtype, backend):
    X, y = blobs()
    options = {"layers": [L.Dropout(0.3)], "optimizer": "adam", "dtype": dtype}
    options |= {"threads": 1, "backend": backend}
    model = classifier(**options)
    for _ in range(2):
        for start in range(0, 70, 32):
            model.train_on_batch(X[start : start + 32], y[start : start + 32])
    result = fitted(classifier(**options), X, y, epochs=2, shuffle=False)
    close(model.parameters, result, dtype)


def test_the_last_smaller_batch_counts():
    X, y = blobs()
    changed = X.copy()
    changed[-1] += 1  # in the batch of 6
    options = {"batch_size": 32, "shuffle": False}
    a, b = (fitted(classifier(), x, y, **options) for x in (X, changed))
    assert not np.array_equal(a, b)
    # Its gradient is divided by its own six rows.
    model = classifier(dtype="float64", optimizer=SGD(1.0))
    before = model.parameters.copy()
    _, gradients = model.loss_and_gradients(X[64:], y[64:])
    model.train_on_batch(X[64:], y[64:])
    close(before - model.parameters, np.concatenate([g.ravel() for g in gradients]))


def test_the_batch_size_is_32_or_all_rows_by_default():
    X, y = blobs()
    same(fitted(classifier(), X, y), fitted(classifier(), X, y, batch_size=32))
    X, y = X[:20], y[:20]
    same(fitted(classifier(), X, y), fitted(classifier(), X, y, batch_size=20))


def test_shuffling_draws_another_order_for_each_epoch_and_visits_every_row_once():
    """With X = identity and a rate that never moves much, weights count the visits."""
    n = 50
    model = fnn.Sequential([fnn.Input(n), L.Dense(1, kernel_initializer="zeros", use_bias=False)])
    model.compile("mean_absolute_error", SGD(1.0), dtype="float64")
    X, y = np.eye(n), np.full(n, 1e6)
    for epoch in range(1, 4):
        model.fit(X, y, batch_size=1, verbose=0)
        same(model.parameters, np.full(n, float(epoch)))

    X, y = blobs()
    in_order = fitted(classifier(), X, y, epochs=2, shuffle=False)
    shuffled = fitted(classifier(), X, y, epochs=2)
    assert not np.array_equal(in_order, shuffled)
    one_order_twice = classifier()
    fitted(one_order_twice, X, y)
    first = one_order_twice.parameters.copy()
    again = classifier()
    again.fit(X, y, verbose=0)
    same(again.parameters, first)
    frozen = classifier(optimizer=SGD(1e-30), dtype="float64")
    orders = Recorder()
    frozen.fit(X, y, epochs=2, callbacks=[orders], verbose=0)
    assert orders.logs[0]["loss"] == pytest.approx(orders.logs[1]["loss"], rel=1e-12)


@pytest.mark.parametrize("threads", [1, 2])
def test_one_batch_of_all_rows_is_not_shuffled_unless_it_is_mixed(threads):
    """Its sums would only be rounded in another order."""
    X, y = blobs()
    of_all = {"epochs": 3, "batch_size": len(X)}

    def trained(**options):
        return fitted(classifier(threads=threads), X, y, **of_all, **options)

    same(trained(shuffle=True), trained(shuffle=False))
    assert not np.array_equal(trained(mixup=1.0), trained(mixup=1.0, shuffle=False))


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_epochs_may_be_trained_in_several_calls(backend):
    X, y = blobs()
    options = {"layers": [L.Dropout(0.4)], "optimizer": "adam", "backend": backend}
    at_once = classifier(**options)
    whole = at_once.fit(X, y, epochs=4, verbose=0)
    model = classifier(**options)
    first = model.fit(X, y, epochs=2, verbose=0)
    second = model.fit(X, y, initial_epoch=2, epochs=4, verbose=0)
    same(model.parameters, at_once.parameters)
    assert first.history["loss"] + second.history["loss"] == whole.history["loss"]
    assert second.epoch == [2, 3]


def test_linear_decay_goes_on_in_the_next_call():
    X, y = blobs()
    rate = fnn.schedules.LinearDecay(0.5, 0.0, decay_steps=6)
    at_once, model = classifier(optimizer=SGD(rate)), classifier(optimizer=SGD(rate))
    fitted(at_once, X, y, epochs=2)
    fitted(model, X, y)
    fitted(model, X, y)
    same(model.parameters, at_once.parameters)
    same(fitted(model, X, y), at_once.parameters)  # six updates: the rate is 0 from here on


# ---- validation ---------------------------------------------------------------------------------


def test_validation_data_are_evaluated_after_each_epoch():
    X, y = blobs()
    Xv, yv = blobs(n=40, seed=5)
    model = classifier(metrics=["accuracy"])
    history = model.fit(X, y, epochs=3, validation_data=(Xv, yv), verbose=0).history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert all(len(v) == 3 for v in history.values())
    for name, value in model.evaluate(Xv, yv).items():
        assert history[f"val_{name}"][-1] == value
    same(model.parameters, fitted(classifier(metrics=["accuracy"]), X, y, epochs=3))


def test_validation_data_may_have_weights():
    X, y = blobs()
    Xv, yv = blobs(n=40, seed=5)
    w = np.linspace(0, 2, 40)
    model = classifier()
    history = model.fit(X, y, validation_data=(Xv, yv, w), verbose=0).history
    weighted = model.evaluate(Xv, yv, sample_weight=w)["loss"]
    assert history["val_loss"] == [weighted]
    assert weighted != model.evaluate(Xv, yv)["loss"]


def test_validation_split_holds_out_the_last_rows():
    X, y = blobs()
    w = np.linspace(1, 2, 70)
    options = {"epochs": 2, "batch_size": 16, "verbose": 0}
    model, expected = classifier(), classifier()
    history = model.fit(X, y, validation_split=0.2, sample_weight=w, **options)
    other = expected.fit(
        X[:56], y[:56], sample_weight=w[:56], validation_data=(X[56:], y[56:], w[56:]), **options
    )
    same(model.parameters, expected.parameters)
    assert history.history == other.history


# ---- weights of rows and classes ----------------------------------------------------------------


@pytest.mark.parametrize("name", fnn.losses.LOSSES)
def test_weight_two_is_the_row_given_twice(name):
    activation, encode = loss_data(name)
    X, y = blobs(n=12)
    doubled = np.arange(12) % 3 == 0
    w = np.where(doubled, 2.0, 1.0)
    model = fnn.Sequential([fnn.Input(4), L.Dense(3, activation)])
    model.compile(name, dtype="float64")
    targets = encode(y)
    loss, gradients = model.loss_and_gradients(X, targets, sample_weight=w)
    more = np.concatenate([np.arange(12), np.flatnonzero(doubled)])
    loss_more, gradients_more = model.loss_and_gradients(X[more], targets[more])
    assert loss * 12 == pytest.approx(loss_more * len(more), rel=1e-12)
    assert model.evaluate(X, targets, sample_weight=w)["loss"] == pytest.approx(loss, rel=1e-12)
    for a, b in zip(gradients, gradients_more, strict=True):
        close(12 * a, len(more) * b)


def test_rows_of_weight_zero_change_nothing():
    X, y = blobs()
    w = np.ones(70)
    w[10:30] = 0
    noise = X.copy()
    noise[10:30] = 1e3
    a, b = (fitted(classifier(), x, y, sample_weight=w, epochs=2) for x in (X, noise))
    same(a, b)
    model = classifier()
    before = model.parameters.copy()
    model.fit(X, y, sample_weight=np.zeros(70), verbose=0)
    same(model.parameters, before)
    assert model.history.history["loss"] == [0.0]


def test_weights_of_one_are_no_weights():
    X, y = blobs()
    reference = fitted(classifier(), X, y, epochs=2)
    for w in (np.ones(70), np.ones((70, 1)), np.ones(70, int), [1] * 70):
        close(fitted(classifier(), X, y, sample_weight=w, epochs=2), reference, "float32")


@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weights_are_the_weights_of_the_rows_of_a_class(one_hot):
    X, y = blobs()
    targets = np.eye(3)[y] if one_hot else y
    by_class = {0: 0.5, 2: 3}
    by_row = np.array([0.5, 1.0, 3.0])[y]
    a = fitted(classifier(), X, targets, class_weight=by_class)
    same(a, fitted(classifier(), X, targets, sample_weight=by_row))
    w = np.linspace(0.5, 1.5, 70).astype("float32")
    a = fitted(classifier(), X, targets, class_weight=by_class, sample_weight=w)
    same(a, fitted(classifier(), X, targets, sample_weight=by_row.astype("float32") * w))


def test_class_weights_of_a_yes_or_no_question():
    X, y = blobs(classes=2)
    weights = []
    for options in ({"class_weight": {1: 4.0}}, {"sample_weight": np.where(y == 1, 4.0, 1.0)}):
        model = fnn.Sequential([fnn.Input(4), L.Dense(1, "sigmoid")])
        model.compile("binary_cross_entropy")
        weights.append(fitted(model, X, y, **options))
    same(*weights)


# ---- loops of one's own -------------------------------------------------------------------------


def test_train_on_batch_returns_the_loss_before_its_update():
    X, y = blobs()
    model = classifier(dtype="float64")
    before = model.parameters.copy()
    expected = model.evaluate(X, y)["loss"]
    loss = model.train_on_batch(X, y)
    assert isinstance(loss, float) and loss == pytest.approx(expected, rel=1e-12)
    assert not np.array_equal(model.parameters, before)
    assert model.evaluate(X, y)["loss"] < loss
    weighted = model.evaluate(X, y, sample_weight=np.full(70, 0.5))["loss"]
    assert model.train_on_batch(X, y, np.full(70, 0.5)) == pytest.approx(weighted, rel=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_loss_and_gradients_change_nothing_and_are_those_of_the_coming_update(backend):
    X, y = blobs()
    model = fnn.Sequential(
        [fnn.Input(4), L.Dense(8, "tanh"), L.Dropout(0.5), L.Dense(3, "softmax",
                                                                   kernel_regularizer=0.1)]
    )  # fmt: skip
    model.compile("cross_entropy", SGD(0.25), backend=backend, dtype="float64")
    for _ in range(3):
        before = model.parameters.copy()
        loss, gradients = model.loss_and_gradients(X, y)
        again, copies = model.loss_and_gradients(X, y)
        same(model.parameters, before)
        assert loss == again and isinstance(loss, float)
        assert [g.shape for g in gradients] == [w.shape for w in model.get_weights()]
        for a, b in zip(gradients, copies, strict=True):
            same(a, b)
            assert a.dtype == np.float64 and not np.shares_memory(a, b)
        assert model.train_on_batch(X, y) == pytest.approx(loss, rel=1e-12)
        flat = np.concatenate([g.ravel() for g in gradients])
        close(model.parameters, before - 0.25 * flat)


def test_a_loop_over_the_flat_parameters_trains():
    X, y = line()
    model = regressor(dtype="float64")
    first = model.evaluate(X, y)["loss"]
    for _ in range(200):
        _, gradients = model.loss_and_gradients(X, y)
        model.parameters[:] -= 0.1 * np.concatenate([g.ravel() for g in gradients])
    assert model.evaluate(X, y)["loss"] < first / 10


# ---- weights ------------------------------------------------------------------------------------


def test_weights_are_writable_views_of_the_flat_parameters():
    X, y = blobs()
    model = classifier()
    W, b, V, c = model.get_weights()
    assert [w.shape for w in (W, b, V, c)] == [(4, 8), (8,), (8, 3), (3,)]
    assert model.parameters.shape == (67,) and model.count_parameters() == 67
    assert model.parameters.flags.writeable and model.parameters.flags.c_contiguous
    for w in (W, b, V, c):
        assert np.shares_memory(w, model.parameters) and w.dtype == np.float32
    same(np.concatenate([w.ravel() for w in (W, b, V, c)]), model.parameters)
    V[:] = 0
    c[:] = [0, 5, 0]
    assert (model.predict(X).argmax(axis=1) == 1).all()
    model.parameters[:] = 0
    close(model.predict(X), np.full((70, 3), 1 / 3), "float32")
    assert (W == 0).all()
    before = W.copy()
    model.parameters[:] = np.linspace(-1, 1, 67)
    fitted(model, X, y)
    assert np.shares_memory(W, model.parameters) and not np.array_equal(W, before)


def test_set_weights_copies():
    X, y = blobs()
    model, other = classifier(seed=0), classifier(seed=1)
    fitted(model, X, y)
    other.set_weights(model.get_weights())
    same(other.parameters, model.parameters)
    same(other.predict(X), model.predict(X))
    fitted(model, X, y)
    assert not np.array_equal(other.parameters, model.parameters)
    other.set_weights([w.tolist() for w in model.get_weights()])
    same(other.parameters, model.parameters)
    order = [np.asfortranarray(w.astype("float64")) for w in model.get_weights()]
    other.set_weights(order)
    same(other.parameters, model.parameters)


def test_layers_without_bias_have_none():
    model = fnn.Sequential([fnn.Input(4), L.Dense(3, use_bias=False)])
    assert [w.shape for w in model.get_weights()] == [(4, 3)]
    model.compile("mean_squared_error", dtype="float64")
    X, _ = line()
    close(model.predict(X), X @ model.get_weights()[0])


# ---- callbacks ----------------------------------------------------------------------------------


def test_callbacks_are_called_in_order():
    X, y = blobs()
    first, second = Recorder(), Recorder()
    second.calls = first.calls
    model = classifier(metrics=["accuracy"])
    history = model.fit(
        X, y, epochs=3, initial_epoch=1, callbacks=[first, second], validation_split=0.2, verbose=0
    )
    events = [("train_begin",)]
    for epoch in (1, 2):
        events += [("epoch_begin", epoch), ("epoch_end", epoch)]
    events.append(("train_end",))
    assert first.calls == [event for event in events for _ in range(2)]
    assert [list(logs) for logs in first.logs] == [list(history.history)] * 2
    assert [logs["val_loss"] for logs in first.logs] == history.history["val_loss"]
    same(first.weights[-1], model.parameters)


def test_callbacks_change_nothing_in_the_training():
    X, y = blobs()
    recorder = Recorder()
    a = fitted(classifier(layers=[L.Dropout(0.2)]), X, y, epochs=3, callbacks=recorder)
    same(a, fitted(classifier(layers=[L.Dropout(0.2)]), X, y, epochs=3))
    for epochs, weights in enumerate(recorder.weights, 1):
        same(weights, fitted(classifier(layers=[L.Dropout(0.2)]), X, y, epochs=epochs))


def test_stop_training_ends_after_the_epoch():
    class Stop(Recorder):
        def on_epoch_end(self, model, epoch, logs):
            super().on_epoch_end(model, epoch, logs)
            model.stop_training = epoch == 2

    X, y = blobs()
    stop = Stop()
    model = classifier()
    history = model.fit(X, y, epochs=10, callbacks=[stop], verbose=0)
    assert history.epoch == [0, 1, 2] and stop.calls[-1] == ("train_end",)
    same(model.parameters, fitted(classifier(), X, y, epochs=3))
    assert model.fit(X, y, epochs=2, verbose=0).epoch == [0, 1]  # not stopped for ever


def test_a_callback_that_fails_ends_training_and_leaves_the_model_usable():
    class Fails(fnn.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            if epoch == 1:
                raise KeyError("mine")

    X, y = blobs()
    model, recorder = classifier(), Recorder()
    with pytest.raises(KeyError, match="mine"):
        model.fit(X, y, epochs=5, callbacks=[recorder, Fails()], verbose=0)
    assert recorder.calls[-1] == ("train_end",)
    assert model.history.epoch == [0, 1]
    fitted(model, X, y)
    same(model.parameters, fitted(classifier(), X, y, epochs=3))


def test_a_rate_that_a_callback_sets_takes_effect():
    """The docstring of learning_rate: an assignment takes effect at the next step."""

    class Freeze(fnn.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            model.optimizer.learning_rate = 1e-30

    X, y = blobs()
    frozen = fitted(classifier(), X, y, epochs=3, callbacks=Freeze())
    same(frozen, fitted(classifier(), X, y, epochs=1))


def test_a_rate_assigned_between_two_calls_takes_effect():
    X, y = blobs()
    model = classifier()
    first = fitted(model, X, y)
    model.optimizer.learning_rate = 1e-30
    same(fitted(model, X, y), first)


def test_a_rate_that_prints_like_the_last_one_is_still_another():
    """A rate decides which compiled program runs, also where six digits do not show it."""
    rates = 1.0, 1.0 + 1e-9
    names = {r: f"{fnn.schedules.get(r)}" for r in rates}
    assert len(set(names.values())) == 1
    assert len({fnn.schedules.get(r) for r in rates}) == 2
    assert len({fnn.regularizers.L2(r) for r in rates}) == 2
    assert fnn.schedules.get(rates[1]) == fnn.schedules.get(rates[1])
    assert fnn.regularizers.L2(rates[1]) == fnn.regularizers.L2(rates[1])


class Scripted:
    """What EarlyStopping needs of a model."""

    def __init__(self):
        self.stop_training = False
        self.parameters = np.zeros(1)

    def get_weights(self):
        return [self.parameters]

    def set_weights(self, weights):
        (self.parameters[:],) = weights


def stops_after(callback, values, name):
    """Epoch after which training stops when the monitored values are these, and the model."""
    model = Scripted()
    callback.on_train_begin(model)
    for epoch, value in enumerate(values):
        model.parameters[:] = epoch
        callback.on_epoch_end(model, epoch, {name: value})
        if model.stop_training:
            break
    callback.on_train_end(model)
    return (epoch if model.stop_training else None), model


@pytest.mark.parametrize(
    "options, values, stopped, best_epoch",
    [
        ({}, [3, 2, 1], None, 2),
        ({}, [3, 2, 2, 1], 2, 1),
        ({"patience": 1}, [3, 2, 1, 5, 5], 3, 2),
        ({"patience": 2}, [3, 2, 4, 1, 5, 5, 5], 5, 3),
        ({"patience": 3}, [3, 2, 4, 5, 1], None, 4),
        ({"patience": 3}, [1, 2, 2, 2, 0], 3, 0),
        ({"min_delta": 0.5}, [3, 2.6, 1], 1, 0),
        ({"min_delta": 0.5}, [3, 2.4, 1.8], None, 2),
        ({"mode": "max"}, [1, 2, 3, 3], 3, 2),
        ({"mode": "max", "min_delta": 0.5}, [1, 2, 2.2], 2, 1),
        ({"monitor": "val_accuracy"}, [0.1, 0.2, 0.15], 2, 1),
        ({"monitor": "val_accuracy", "mode": "min"}, [0.1, 0.2], 1, 0),
        ({"monitor": "accuracy"}, [0.5, 0.6, 0.7], None, 2),
        ({}, [math.nan, 1.0], 0, None),
    ],
)
def test_early_stopping_rules(options, values, stopped, best_epoch):
    callback = fnn.callbacks.EarlyStopping(**options)
    after, model = stops_after(callback, values, callback.monitor)
    assert after == stopped == callback.stopped_epoch
    assert callback.best_epoch == best_epoch
    if best_epoch is not None:
        assert callback.best == values[best_epoch]
    last = len(values) - 1 if stopped is None else stopped
    assert model.parameters[0] == last  # weights stay unless asked


@pytest.mark.parametrize("values", [[3, 2, 4, 5], [3, 2, 1]])
def test_early_stopping_restores_the_best_weights(values):
    callback = fnn.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    _, model = stops_after(callback, values, "val_loss")
    assert model.parameters[0] == np.argmin(values)


def test_early_stopping_on_a_real_training():
    X, y = blobs(n=60, seed=3)
    noise = np.random.default_rng(0).integers(0, 3, 60)  # what cannot be learned
    stopping = fnn.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    recorder = Recorder()
    model = classifier(optimizer=fnn.optimizers.Adam(0.05))
    history = model.fit(
        X, noise, epochs=300, validation_split=0.3, callbacks=[recorder, stopping], verbose=0
    )
    losses = history.history["val_loss"]
    assert len(losses) < 300
    assert stopping.stopped_epoch == len(losses) - 1 == stopping.best_epoch + 3
    assert stopping.best_epoch == int(np.argmin(losses)) and stopping.best == min(losses)
    same(model.parameters, recorder.weights[stopping.best_epoch])
    # A second use starts afresh.
    model.fit(X, y, epochs=2, validation_split=0.3, callbacks=[stopping], verbose=0)
    assert stopping.best_epoch in (0, 1)


# ---- looking inside -----------------------------------------------------------------------------


def test_summary_lists_layers_shapes_and_weights():
    model = fnn.Sequential(
        [fnn.Input((2, 3)), L.Flatten(), L.Dense(5, "relu"), L.Dropout(0.5), L.Dense(2)]
    )
    table = model.summary()
    assert table.headings == ("name", "layer", "output shape", "parameters")
    assert [row[2:] for row in table.rows] == [((6,), 0), ((5,), 35), ((5,), 0), ((2,), 12)]
    assert [row[0] for row in table.rows] == ["flatten_0", "dense_1", "dropout_2", "dense_3"]
    text = str(table)
    for part in ("Dense(5, activation=relu)", "Dropout(0.5)", "47 parameters", "(2, 3)"):
        assert part in text


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_explain_lists_the_calls_of_a_step(backend):
    model = classifier(backend=backend, optimizer="adam", metrics=["accuracy"])
    before = model.parameters.copy()
    table = model.explain(batch_size=16)
    same(model.parameters, before)
    rows = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert [row["#"] for row in rows] == list(range(len(rows)))
    calls = " ".join(row["call"] for row in rows)
    for part in ("gather", "dense[tanh]", "softmax_cross_entropy", "accuracy", "[adam]"):
        assert part in calls
    phases = [row["phase"] for row in rows]
    assert phases == sorted(phases, key=["gather", "forward", "backward", "update"].index)
    assert all(row["kernel"].startswith(backend) for row in rows)
    dense = next(row for row in rows if row["call"] == "dense[tanh]")
    assert dense["FLOPs"] == 2 * 16 * 4 * 8
    assert dense["bytes"] == 4 * (16 * 4 + 4 * 8 + 8 + 16 * 8)
    notes = " ".join(table.notes)
    for part in ("batch of 16 rows", "FLOPs", "peak memory", "parameters 268", "threads:"):
        assert part in notes
    assert str(table).count("\n") == len(rows) + 1 + len(table.notes)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_profile_measures_each_call_and_leaves_the_model_alone(backend):
    X, y = blobs()
    model = classifier(backend=backend, optimizer="adam")
    fitted(model, X, y)
    before = model.parameters.copy()
    table = model.profile(X, y, batch_size=16, seconds=0.02)
    same(model.parameters, before)
    rows = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    explained = [row[2] for row in model.explain(16).rows]
    assert [row["call"] for row in rows] == [*explained, "between calls"]
    assert all(row["us"] > 0 for row in rows[:-1])
    assert sum(row["% of step"] for row in rows) == pytest.approx(100)
    for row in rows[:-1]:
        assert row["% of FMA"] >= 0 and row["% of memory"] >= 0
    notes = " ".join(table.notes)
    for part in ("us a step", "GFLOP/s", "FMA peak", "memory"):
        assert part in notes
    # What is trained after a profile is what would have been trained without one.
    other = classifier(backend=backend, optimizer="adam")
    same(fitted(model, X, y), fitted(other, X, y, epochs=2))


def test_profile_has_no_rate_for_rows_that_are_read_where_they_lie():
    X, y = blobs()
    model = classifier(backend="cython")
    table = model.profile(X.astype("float32"), y, batch_size=len(X), seconds=0.02)
    rows = {row[2]: dict(zip(table.headings, row, strict=True)) for row in table.rows}
    assert rows["gather"]["us"] == 0 and rows["gather"]["GB/s"] is None
    assert rows["dense[tanh]"]["us"] > 0 and rows["dense[tanh]"]["GB/s"] > 0
    assert "gather " in str(table)


# ---- progress -----------------------------------------------------------------------------------


def test_verbose_2_prints_a_line_per_epoch(capsys):
    X, y = blobs()
    model = classifier(metrics=["accuracy"])
    model.fit(X, y, epochs=3, validation_split=0.2, verbose=2)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3 and not err
    for i, text in enumerate(lines):
        assert text.startswith(f"epoch {i + 1}/3")
        for name, values in model.history.history.items():
            assert f"{name} {values[i]:.4f}" in text


def test_verbose_1_shows_a_bar(capsys):
    X, y = blobs()
    classifier().fit(X, y, epochs=2, verbose=1)
    out, err = capsys.readouterr()
    assert not out and "epoch 2/2" in err and "6/6" in err and "loss=" in err


@pytest.mark.parametrize("verbose", [0, "auto"])
def test_verbose_0_and_auto_without_a_terminal_are_silent(capsys, verbose):
    X, y = blobs()
    classifier().fit(X, y, epochs=2, verbose=verbose)
    assert capsys.readouterr() == ("", "")


# ---- schedules and initial values ---------------------------------------------------------------


def rates(schedule, steps, **options):
    """Learning rates of consecutive updates, seen in weights whose gradient is always -1."""
    model = fnn.Sequential([fnn.Input(1), L.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile("mean_absolute_error", SGD(schedule), dtype="float64", **options)
    X, y = np.ones((1, 1)), np.full(1, 1e9)
    seen = []
    for _ in range(steps):
        before = model.parameters[0]
        model.train_on_batch(X, y)
        seen.append(model.parameters[0] - before)
    return seen


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_linear_decay_gives_the_rates(backend):
    schedule = fnn.schedules.LinearDecay(0.5, 0.1, decay_steps=8)
    expected = [0.5 + (0.1 - 0.5) * min(k / 8, 1) for k in range(12)]
    close(rates(schedule, 12, backend=backend), expected)


def test_a_constant_rate_stays():
    close(rates(0.125, 5), [0.125] * 5)
    close(rates(fnn.schedules.Constant(0.125), 5), [0.125] * 5)


def kernel(initializer, shape=(300, 200), seed=0, **options):
    model = fnn.Sequential(
        [fnn.Input(shape[0]), L.Dense(shape[1], kernel_initializer=initializer, **options)],
        seed=seed,
    )
    return model.get_weights()


VARIANCES = {
    "zeros": 0.0,
    "constant": 0.0,
    "normal": 0.05**2,
    "uniform": 0.05**2 / 3,
    "glorot_uniform": 2 / 500,
    "glorot_normal": 2 / 500,
    "he_uniform": 2 / 300,
    "he_normal": 2 / 300,
    "lecun_normal": 1 / 300,
}


@pytest.mark.parametrize("name", VARIANCES)
def test_initializers_have_their_variance_and_limits(name):
    W, b = kernel(name)
    variance = VARIANCES[name]
    assert (b == 0).all()
    assert abs(W.mean()) < 0.02 * max(math.sqrt(variance), 1e-12) + 1e-12
    assert W.var() == pytest.approx(variance, rel=0.03, abs=1e-12)
    if name.endswith("uniform"):
        limit = math.sqrt(3 * variance)
        assert np.abs(W).max() <= limit * (1 + 1e-6) and np.abs(W).max() > 0.99 * limit
    elif name.endswith("normal"):
        z = W / math.sqrt(variance)
        assert 3 < (z**4).mean() + 0.15 < 3.3  # the fourth moment of a normal is 3


def test_initializers_take_their_parameters():
    init = fnn.initializers
    assert (kernel(init.Constant(0.7))[0] == np.float32(0.7)).all()
    W = kernel(init.Uniform(2, 3))[0]
    assert W.min() >= 2 and W.max() <= 3 and W.mean() == pytest.approx(2.5, abs=0.01)
    W = kernel(init.Normal(5.0, 0.1))[0]
    assert W.mean() == pytest.approx(5, abs=0.01) and W.std() == pytest.approx(0.1, rel=0.03)
    assert (kernel("zeros", bias_initializer=init.Constant(0.1))[1] == np.float32(0.1)).all()


def test_initial_weights_differ_from_layer_to_layer_and_seed_to_seed():
    def weights(seed):
        layers = [L.Dense(6, kernel_initializer="normal") for _ in range(3)]
        return fnn.Sequential([fnn.Input(6), *layers], seed=seed).get_weights()[::2]

    a, b, c = weights(0)
    assert not np.array_equal(a, b) and not np.array_equal(b, c) and not np.array_equal(a, c)
    for first, again in zip(weights(7), weights(7), strict=True):
        same(first, again)
    assert not np.array_equal(weights(7)[0], weights(8)[0])


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1])
def test_large_seeds_are_seeds_of_their_own(seed):
    X, y = blobs()
    layers = [L.Dropout(0.5)]
    a, b = (fitted(classifier(seed=seed, layers=layers), X, y) for _ in range(2))
    same(a, b)
    other = seed - 1 if seed else 1
    assert not np.array_equal(classifier(seed=other).parameters, classifier(seed=seed).parameters)


# ---- layers -------------------------------------------------------------------------------------


def images(n=40, seed=6):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 5, 6), dtype=np.uint8), rng.integers(0, 3, n)


def image_model(*layers, **options):
    model = fnn.Sequential([*layers, L.Dense(8, "relu"), L.Dense(3, "softmax")])
    model.compile("cross_entropy", SGD(0.05), **options)
    return model


def test_flatten_takes_the_last_dimension_fastest():
    X, y = images()
    X = X / 255
    a = fitted(image_model(L.Flatten()), X, y, epochs=2)
    same(a, fitted(image_model(), X.reshape(40, 30), y, epochs=2))
    same(a, fitted(image_model(L.Flatten()), np.asfortranarray(X), y, epochs=2))
    same(a, fitted(image_model(L.Flatten()), X.transpose(1, 2, 0).copy().transpose(2, 0, 1), y,
                   epochs=2))  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_rescaling_inside_is_scaling_outside(dtype, backend):
    X, y = images()
    options = {"dtype": dtype, "backend": backend}
    inside = image_model(L.Rescaling(1 / 255, -0.5), L.Flatten(), **options)
    outside = image_model(L.Flatten(), **options)
    scaled = X.astype(dtype) / 255 - 0.5
    a, b = fitted(inside, X, y, epochs=3), fitted(outside, scaled.astype(dtype), y, epochs=3)
    close(a, b, dtype)
    close(inside.predict(X), outside.predict(scaled), dtype)
    assert inside.evaluate(X, y)["loss"] == pytest.approx(
        outside.evaluate(scaled, y)["loss"], rel=1e-5 if dtype == "float32" else 1e-12
    )


def test_rescalings_follow_each_other():
    X, y = images()
    twice = image_model(L.Rescaling(1 / 255, -0.5), L.Rescaling(3.0, 1.0), L.Flatten())
    once = image_model(L.Flatten())
    scaled = (X / 255 - 0.5) * 3 + 1
    close(fitted(twice, X, y), fitted(once, scaled, y), "float32")
    close(twice.predict(X), once.predict(scaled), "float32")


def test_rescaling_in_the_middle_scales_values_and_gradients():
    X, y = line()
    model = fnn.Sequential([fnn.Input(4), L.Dense(1), L.Rescaling(3.0, 2.0)])
    model.compile("mean_squared_error", dtype="float64")
    W, b = model.get_weights()
    prediction = 3 * (X @ W + b) + 2
    close(model.predict(X), prediction)
    _, (dW, db) = model.loss_and_gradients(X, y)
    close(dW, X.T @ (6 * (prediction - y)) / 70)
    close(db, (6 * (prediction - y)).sum(axis=0) / 70)


def test_bytes_stay_bytes_in_memory():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (20_000, 500), dtype=np.uint8)  # 10 MB; 40 MB as float32
    y = rng.integers(0, 3, len(X))
    model = image_model(L.Rescaling(1 / 255))
    tracemalloc.start()
    try:
        model.fit(X, y, batch_size=64, verbose=0)
        model.evaluate(X, y, batch_size=64)
        model.predict(X, batch_size=64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < X.nbytes / 2


def test_dropout_acts_in_training_only():
    X, y = blobs()
    dropped, plain = classifier(layers=[L.Dropout(0.5)]), classifier()
    same(dropped.predict(X), plain.predict(X))
    assert dropped.evaluate(X, y) == plain.evaluate(X, y)
    assert dropped.loss_and_gradients(X, y)[0] != plain.loss_and_gradients(X, y)[0]
    same(fitted(classifier(layers=[L.Dropout(0)]), X, y), fitted(plain, X, y))


def masks(model, steps, features):
    """Dropout masks of consecutive updates, read off the gradients of one linear unit."""
    found = []
    for _ in range(steps):
        _, (dW,) = model.loss_and_gradients(np.ones((1, features)), [1e9])
        found.append(dW[:, 0] / dW.min())
        model.train_on_batch(np.ones((1, features)), [1e9])
    return np.array(found)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_drops_its_share_scales_the_rest_and_is_the_same_on_both_backends(rate):
    results = []
    for backend in ("numpy", "cython"):
        model = fnn.Sequential([fnn.Input(500), L.Dropout(rate), L.Dense(1, use_bias=False)])
        model.compile("mean_absolute_error", SGD(1e-9), backend=backend, dtype="float64")
        _, (dW,) = model.loss_and_gradients(np.ones((1, 500)), [1e9])
        close(np.unique(dW), [-1 / (1 - rate), 0])
        results.append(masks(model, 12, 500))
    same(*results)
    same(np.unique(results[0]), [0, 1])
    kept = results[0].mean()
    assert kept == pytest.approx(1 - rate, abs=5 * math.sqrt(rate * (1 - rate) / 6000))
    assert len(np.unique(results[0], axis=0)) == 12  # another mask for each step


def test_dropout_masks_differ_from_row_to_row_and_layer_to_layer():
    def first_mask(n, layers):
        model = fnn.Sequential([fnn.Input(64), *layers, L.Dense(1, use_bias=False)])
        model.compile("mean_absolute_error", SGD(1e-9), dtype="float64")
        _, (dW,) = model.loss_and_gradients(np.ones((n, 64)), np.full(n, 1e9))
        return -dW[:, 0] * n

    rows = first_mask(40, [L.Dropout(0.5)])
    assert len(np.unique(rows)) > 5  # sums over rows of masks that are not all the same
    twice = first_mask(1, [L.Dropout(0.5), L.Dropout(0.5)]) > 0
    once = first_mask(1, [L.Dropout(0.5)]) > 0
    assert not (twice & ~once).any() and twice.sum() < once.sum()


# ---- what X may be ------------------------------------------------------------------------------


def as_memmap(X, path, order="C"):
    array = np.memmap(path, X.dtype, "w+", shape=X.shape, order=order)
    array[...] = X
    array.flush()
    return np.memmap(path, X.dtype, "r", shape=X.shape, order=order)


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def field_of_records(X):
    records = np.zeros(len(X), [("tag", "u1"), ("x", "f4", X.shape[1:])])
    records["x"] = X
    return records["x"]  # strided, and not aligned


def wide(X, dtype):
    """The columns of X as every third column, in every second row, of a larger array."""
    large = np.full((2 * len(X), 3 * X.shape[1]), 77, dtype)
    large[::2, ::3] = X
    return large[::2, ::3]


KINDS = {
    "float32": lambda X, path: X.astype("f4"),
    "float64": lambda X, path: X.astype("f8"),
    "uint8": lambda X, path: X.astype("u1"),
    "float16": lambda X, path: X.astype("f2"),
    "int64": lambda X, path: X.astype("i8"),
    "int8": lambda X, path: X.astype("i1"),
    "uint16": lambda X, path: X.astype("u2"),
    "longdouble": lambda X, path: X.astype("g"),
    "big-endian": lambda X, path: X.astype(">f4"),
    "F order": lambda X, path: np.asfortranarray(X, "f4"),
    "F order uint8": lambda X, path: np.asfortranarray(X, "u1"),
    "strided": lambda X, path: wide(X, "f4"),
    "strided float64": lambda X, path: wide(X, "f8"),
    "strided uint8": lambda X, path: wide(X, "u1"),
    "reversed": lambda X, path: X.astype("f4")[::-1, ::-1].copy()[::-1, ::-1],
    "unaligned": lambda X, path: field_of_records(X),
    "read-only": lambda X, path: read_only(X.astype("f4")),
    "memory-mapped": lambda X, path: as_memmap(X.astype("f4"), path),
    "memory-mapped uint8": lambda X, path: as_memmap(X.astype("u1"), path),
    "memory-mapped F order": lambda X, path: as_memmap(X.astype("f8"), path, "F"),
    "lists": lambda X, path: X.tolist(),
    "tuple of arrays": lambda X, path: tuple(X),
    "matrix rows": lambda X, path: [list(map(int, row)) for row in X],
}


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_arrays_give_the_same_result(kind, backend, tmp_path):
    rng = np.random.default_rng(3)
    base = rng.integers(0, 8, (45, 5)).astype("float32")  # what every type can hold
    y = rng.integers(0, 3, 45)
    X = KINDS[kind](base, tmp_path / "data")
    before = np.array(X)
    results = []
    for data in (base, X):
        model = classifier(features=5, backend=backend)
        weights = fitted(model, data, y, epochs=2, batch_size=20)
        results.append((weights, model.predict(data), model.evaluate(data, y)["loss"]))
    same(results[0][0], results[1][0])
    same(results[0][1], results[1][1])
    assert results[0][2] == results[1][2]
    same(np.array(X), before)


def test_booleans_are_zeros_and_ones():
    X, y = blobs()
    X = X > 0
    same(fitted(classifier(), X, y), fitted(classifier(), X.astype("f4"), y))


def test_pandas_frames_and_series():
    pandas = pytest.importorskip("pandas")
    X, y = blobs()
    frame, labels = pandas.DataFrame(X, columns=list("abcd")), pandas.Series(y, index=y + 100)
    w = pandas.Series(np.linspace(1, 2, 70))
    a = fitted(classifier(), frame, labels, sample_weight=w)
    same(a, fitted(classifier(), X, y, sample_weight=w.to_numpy()))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (fnn.losses.Huber, "(delta: 'float' = 1.0)"),
        (fnn.regularizers.Lp, "(factor: 'float' = 0.01, *, p: 'float')"),
        (fnn.schedules.LinearDecay, "(rate: 'float', final_rate: 'float', decay_steps: 'float')"),
        (fnn.activations.leaky_relu, "(slope: 'float' = 0.01)"),
    ],
)
def test_classes_made_from_formulas_say_how_they_are_called(make, text):
    assert str(inspect.signature(make)) == text
    values = range(1, 1 + len(inspect.signature(make).parameters))
    named = dict(zip(inspect.signature(make).parameters, values, strict=True))
    assert repr(make(*values)) == repr(make(**named))


def test_an_optimizer_shows_what_was_chosen():
    rule = fnn.optimizers.RMSProp(0.1, centered=True)
    assert repr(rule) == "RMSProp(learning_rate=0.1, rho=0.9, epsilon=1e-08, centered=True)"
    assert "centered" not in repr(fnn.optimizers.RMSProp(0.1))


@pytest.mark.parametrize(
    ("loss", "last", "hint"),
    [
        ("cross_entropy", L.Dense(3), "make it 'softmax'"),
        ("kl_divergence", L.Dense(3), "make it 'softmax'"),
        ("cross_entropy", L.Dense(3, "log_softmax"), "take 'negative_log_likelihood'"),
        ("binary_cross_entropy", L.Dense(3), "make it 'sigmoid'"),
    ],
)
def test_outputs_that_are_no_probabilities_are_refused(loss, last, hint):
    X, y = blobs()
    model = fnn.Sequential([L.Dense(8, "relu"), last])
    model.compile(loss)
    with pytest.raises(ValueError, match=f"loss: {loss} expects probabilities.*{hint}"):
        model.fit(X, np.eye(3)[y], verbose=0)


def test_targets_may_have_the_shape_of_the_output():
    X = np.random.default_rng(0).normal(size=(20, 4, 3))
    losses = []
    for y in (X, X.reshape(20, 12)):
        model = fnn.Sequential([fnn.Input((4, 3)), L.Activation("relu")])
        model.compile("mean_squared_error")
        losses.append(model.evaluate(X, y)["loss"])
    assert losses[0] == losses[1] == pytest.approx(np.mean(np.minimum(X, 0) ** 2), rel=1e-5)
    with pytest.raises(ValueError, match=r"y: expected shape \(n, 12\).* got \(20, 3, 4\)"):
        model.evaluate(X, X.transpose(0, 2, 1))


def test_what_is_used_in_every_epoch_is_compiled_once():
    """While another learning rate in each asks for new programs."""
    X, y = blobs()
    made = []

    class Slower(fnn.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            model.optimizer.learning_rate = 0.1 / (epoch + 2)

    model = classifier()
    make = model._make_runner

    def counted(purpose, *rest):
        made.append(purpose.kind)
        return make(purpose, *rest)

    model._make_runner = counted
    model.fit(X, y, epochs=40, validation_data=(X, y), callbacks=Slower(), verbose=0)
    assert made.count("evaluate") == 1 and len(model._runners) <= 16


def test_metrics_have_the_short_names_of_losses():
    X, y = blobs()
    model = fnn.Sequential([L.Dense(1)])
    model.compile("mse", metrics=["mae", "mse"])
    assert list(model.fit(X, y, verbose=0).history) == [
        "loss", "mean_absolute_error", "mean_squared_error"
    ]  # fmt: skip


def test_pandas_columns_of_several_types():
    pandas = pytest.importorskip("pandas")
    X, y = blobs()
    X = np.round(X)
    X[:, 0] = X[:, 0] > 0
    frame = pandas.DataFrame(X, columns=list("abcd"))
    mixed = frame.astype({"a": bool, "b": "Int64", "c": "Float32"})
    same(fitted(classifier(), mixed, y), fitted(classifier(), X, y))
    with pytest.raises(ValueError, match=r"X: contains nan at index \[3, 1\]"):
        mixed.iloc[3, 1] = pandas.NA
        fitted(classifier(), mixed, y)
    with pytest.raises(TypeError, match=r"X: expected columns of numbers, not so: b, 7$"):
        texts = {"b": "one", "7": pandas.Series(["x"] * 70, dtype="category")}
        fitted(classifier(), frame.assign(**texts), y)


def test_anything_with_to_numpy_is_an_array():
    class Frame:
        def __init__(self, values):
            self.values = values

        def to_numpy(self):
            return self.values

    X, y = blobs()
    same(fitted(classifier(), Frame(X), Frame(y)), fitted(classifier(), X, y))


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_strided_targets_and_weights(name):
    X, y = line()
    w = np.linspace(1, 2, 70)
    strided = {
        "y": np.repeat(y, 2, axis=0)[::2],
        "sample_weight": np.repeat(w, 2)[::-2][::-1] if name == "sample_weight" else w,
    }
    a = fitted(regressor(), X, strided["y"], sample_weight=strided["sample_weight"])
    same(a, fitted(regressor(), X, y, sample_weight=w))


def test_one_row_and_one_feature_and_one_unit():
    for n, features, units in ((1, 4, 3), (5, 1, 1), (1, 1, 1)):
        X, y = line(n, features, units)
        weights = []
        for backend in ("numpy", "cython"):
            model = regressor(features=features, outputs=units, backend=backend, dtype="float64")
            weights.append(fitted(model, X, y, epochs=3))
            assert model.predict(X).shape == (n, units)
        close(*weights)


# ---- float64 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_float64_is_float64_everywhere(backend):
    X, y = line(outputs=2)
    model = regressor(outputs=2, dtype="float64", backend=backend, optimizer="adam")
    assert model.parameters.dtype == np.float64
    assert {w.dtype for w in model.get_weights()} == {np.dtype("float64")}
    assert {g.dtype for g in model.loss_and_gradients(X, y)[1]} == {np.dtype("float64")}
    assert model.predict(X).dtype == np.float64
    # Digits beyond those of float32 get through: a tiny change of X is seen.
    shifted = X * (1 + 1e-12)
    assert not np.array_equal(model.predict(X), model.predict(shifted))
    _, gradients = model.loss_and_gradients(X, y)
    step = 1e-6
    for weights, gradient in zip(model.get_weights(), gradients, strict=True):
        index = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        kept = weights[index]
        weights[index] = kept + step
        above = model.evaluate(X, y)["loss"]
        weights[index] = kept - step
        below = model.evaluate(X, y)["loss"]
        weights[index] = kept
        assert (above - below) / (2 * step) == pytest.approx(gradient[index], rel=1e-7)


# ---- determinism --------------------------------------------------------------------------------


def trained(mode, threads, *, layers=1, n=70, **options):
    """Weights after a fit whose steps are divided in this mode, and the mode it really was."""
    X, y = blobs(n=n, features=20)
    deterministic = "any-threads" if mode == "split" else None
    model = fnn.Sequential(
        [
            fnn.Input(20),
            *[L.Dense(24, "tanh") for _ in range(layers)],
            L.Dropout(0.25),
            L.Dense(3, "softmax", kernel_regularizer=0.01),
        ]
    )
    model.compile("cross_entropy", "adam", threads=threads, deterministic=deterministic, **options)
    weights = fitted(model, X, y, epochs=2)
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    return weights, runner.program.split


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mode, threads", [("one", 1), ("shard", 2), ("split", 2), ("shard", 3)])
def test_the_same_seed_gives_the_same_result_bit_for_bit(mode, threads, dtype):
    a, split = trained(mode, threads, dtype=dtype)
    assert (split.mode, split.threads) == (mode, threads)
    for _ in range(3):
        same(a, trained(mode, threads, dtype=dtype)[0])


@pytest.mark.parametrize("layers", [1, 3])
def test_any_threads_gives_the_same_result_for_every_number_of_threads(layers):
    alone, _ = trained("split", 1, layers=layers)
    for threads in (2, 3):
        together, split = trained("split", threads, layers=layers)
        assert (split.mode, split.threads) == ("split", threads)
        same(together, alone)


def test_threads_differ_from_one_only_by_rounding():
    alone, _ = trained("one", 1, dtype="float64")
    for threads in (2, 3):
        together, split = trained("shard", threads, dtype="float64")
        assert split.mode == "shard"
        close(together, alone)


def test_the_number_of_threads_is_chosen_where_none_is_given():
    _, split = trained("one", None)
    assert 1 <= split.threads <= available_threads()


def test_both_backends_take_the_same_steps_with_dropout():
    X, y = blobs()
    results = []
    for backend in ("numpy", "cython"):
        model = classifier(
            layers=[L.Dropout(0.5)], backend=backend, dtype="float64", optimizer="adam"
        )
        history = model.fit(X, y, epochs=5, verbose=0)
        results.append((model.parameters.copy(), history.history["loss"]))
    close(results[0][0], results[1][0])
    close(results[0][1], results[1][1])
