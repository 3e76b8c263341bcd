"""Training on all rows at once, against SciPy on functions written in NumPy, and closed forms."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize

import fastnn as fnn
from fastnn import full_batch
from fastnn.full_batch import LBFGS, ConjugateGradient, NewtonCG, hessian_vector_product

L = fnn.layers
METHODS = ["lbfgs", "cg", "newton_cg"]
all_methods = pytest.mark.parametrize("method", METHODS)
EXACT = {"lbfgs": LBFGS(10, 1e-8), "cg": ConjugateGradient(1e-8), "newton_cg": NewtonCG(1e-7)}


def line(n=60, features=4, seed=2):
    """A linear map with noise: X (n, features) and targets (n,), in float64."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, features))
    return X, X @ rng.normal(size=features) + 0.5 + 0.3 * rng.normal(size=n)


def classes(n=80, features=5, number=2, seed=3):
    """Classes that overlap: X (n, features) and labels (n,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, number, n)
    return rng.normal(size=(number, features))[y] + rng.normal(size=(n, features)), y


def linear(X, *, penalty=0.1, **options):
    """Ridge regression: its only minimum is where the gradient is 0."""
    model = fnn.Sequential([fnn.Input(X.shape[1]), L.Dense(1, kernel_regularizer=penalty)])
    model.compile(**({"loss": "mean_squared_error", "dtype": "float64"} | options))
    return model


def network(layers=(), *, seed=0, **options):
    """A small classifier of three classes with one hidden layer."""
    model = fnn.Sequential(
        [fnn.Input(5), L.Dense(6, "tanh"), *layers, L.Dense(3, "softmax", kernel_regularizer=0.01)],
        seed=seed,
    )
    model.compile(**({"loss": "cross_entropy", "dtype": "float64"} | options))
    return model


def poisson(scale=300):
    """A regression that has one minimum, and overflows the closer to it the larger the inputs."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3))
    y = rng.poisson(np.exp(X @ [0.1, 0.2, 0.3]))
    model = fnn.Sequential([fnn.Input(3), L.Dense(1, kernel_initializer="zeros")])
    model.compile("log_poisson", dtype="float64")
    return model, scale * X, y


class Recorder(fnn.callbacks.Callback):
    """Writes down what is called, logs, and weights at each begin and end of an epoch."""

    def __init__(self, stop_after=None, fail_at=None):
        self.calls, self.logs, self.before, self.weights = [], [], [], []
        self.stop_after, self.fail_at = stop_after, fail_at

    def _call(self, *call):
        self.calls.append(call)
        if call == self.fail_at:
            raise KeyboardInterrupt

    def on_train_begin(self, model):
        self._call("train_begin")

    def on_epoch_begin(self, model, epoch):
        self.before.append(model.parameters.copy())
        self._call("epoch_begin", epoch)

    def on_epoch_end(self, model, epoch, logs):
        self.logs.append(dict(logs))
        self.weights.append(model.parameters.copy())
        model.stop_training |= epoch == self.stop_after
        self._call("epoch_end", epoch)

    def on_train_end(self, model):
        self._call("train_end")


def fit(model, X, y, method, epochs=1000, **options):
    return model.fit(X, y, optimizer=method, epochs=epochs, verbose=0, **options)


def same(a, b):
    np.testing.assert_array_equal(a, b)


def run_python(code):
    """Run code in a process of its own and return what it printed."""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# ---- optima -------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cython", "numpy"])
@all_methods
def test_ridge_regression_arrives_at_the_closed_form(method, backend):
    X, y = line()
    model = linear(X, penalty=0.1, backend=backend)
    history = fit(model, X, y, EXACT[method])
    centred, targets = X - X.mean(axis=0), y - y.mean()
    system = 2 * centred.T @ centred / len(X) + 0.1 * np.eye(4)  # (0.1 / 2) |w|^2, biases are free
    w = np.linalg.solve(system, 2 * centred.T @ targets / len(X))
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(kernel[:, 0], w, rtol=1e-6)
    np.testing.assert_allclose(bias, y.mean() - X.mean(axis=0) @ w, rtol=1e-6)
    loss = np.mean((X @ w + bias - y) ** 2) + 0.05 * w @ w
    assert history.history["loss"][-1] == pytest.approx(loss, rel=1e-12)
    assert len(history.epoch) < 100  # it stopped by itself


def numpy_logistic(X, t, weights, penalty):
    """Loss and gradient of weighted logistic regression by (w, b), in plain NumPy."""

    def value(flat):
        z = X @ flat[:-1] + flat[-1]
        loss = np.mean(weights * (np.logaddexp(0, z) - t * z)) + penalty / 2 * flat[:-1] @ flat[:-1]
        slope = weights * (1 / (1 + np.exp(-z)) - t) / len(X)
        return loss, np.append(X.T @ slope + penalty * flat[:-1], slope.sum())

    return value


@all_methods
def test_logistic_regression_arrives_where_scipy_does_on_a_function_in_numpy(method):
    X, t = classes()
    weights = np.linspace(0.2, 2, len(X))
    model = fnn.Sequential([fnn.Input(5), L.Dense(1, "sigmoid", kernel_regularizer=0.02)])
    model.compile("binary_cross_entropy", dtype="float64")
    history = fit(model, X, t, EXACT[method], sample_weight=weights, class_weight={1: 3.0})
    weights = weights * np.where(t == 1, 3.0, 1.0)
    value = numpy_logistic(X, t, weights, 0.02)
    known = optimize.minimize(value, np.zeros(6), jac=True, method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(model.parameters, known.x, rtol=1e-5)
    assert history.history["loss"][-1] == pytest.approx(known.fun, rel=1e-12)


def test_all_methods_arrive_at_the_same_optimum_of_softmax_regression():
    X, y = classes(number=3)
    found = []
    for method in METHODS:
        model = fnn.Sequential(
            [fnn.Input(5), L.Dense(3, "softmax", use_bias=False, kernel_regularizer=0.05)]
        )
        model.compile("cross_entropy", dtype="float64")
        loss = fit(model, X, y, EXACT[method]).history["loss"][-1]
        found.append((model.parameters.copy(), loss))
    for weights, loss in found[1:]:
        np.testing.assert_allclose(weights, found[0][0], atol=1e-5)
        assert loss == pytest.approx(found[0][1], rel=1e-12)


@all_methods
def test_float32_comes_as_close_as_it_can_and_ends(method):
    X, y = line()
    exact, model = linear(X), linear(X, dtype="float32")
    fit(exact, X, y, EXACT[method])
    history = fit(model, X, y, method)
    assert model.parameters.dtype == np.float32
    np.testing.assert_allclose(model.parameters, exact.parameters, rtol=2e-3)
    assert len(history.epoch) < 100


@all_methods
def test_each_method_is_the_one_of_scipy(method):
    """Step by step, from the same start on the same function."""
    X, t = classes()
    model = fnn.Sequential([fnn.Input(5), L.Dense(1, "sigmoid", kernel_regularizer=0.02)], seed=1)
    model.compile("binary_cross_entropy", dtype="float64")
    start = model.parameters.copy()
    value = numpy_logistic(X, t, 1.0, 0.02)

    def product(w, v):  # from complex steps of the gradient's formula: exact to rounding
        s = 1 / (1 + np.exp(-(X @ w[:-1] + w[-1])))
        rows = s * (1 - s) * (X @ v[:-1] + v[-1]) / len(X)
        return np.append(X.T @ rows + 0.02 * v[:-1], rows.sum())

    steps = []
    optimize.minimize(
        value, start, jac=True, callback=lambda w: steps.append(w.copy()),
        method={"lbfgs": "L-BFGS-B", "cg": "CG", "newton_cg": "Newton-CG"}[method],
        options={"maxiter": 4} | ({"maxcor": 3} if method == "lbfgs" else {}),
        **({"hessp": product} if method == "newton_cg" else {}),
    )  # fmt: skip
    recorder = Recorder()
    fit(model, X, t, LBFGS(3) if method == "lbfgs" else method, epochs=4, callbacks=recorder)
    assert len(steps) == len(recorder.weights) == 4
    np.testing.assert_allclose(recorder.weights, steps, rtol=1e-6)


def test_the_memory_of_lbfgs_matters():
    X, y = classes(number=3)
    losses = []
    for memory in (1, 30):
        losses.append(fit(network(), X, y, LBFGS(memory), epochs=15).history["loss"])
    assert losses[0][0] == losses[1][0] and losses[0][-1] != losses[1][-1]


def test_digits_are_fitted():
    (X, y), (X_test, y_test) = fnn.datasets.load_digits()
    model = fnn.Sequential(
        [L.Rescaling(1 / 16), L.Dense(32, "tanh"), L.Dense(10, activation="softmax")]
    )
    model.compile("cross_entropy", metrics="accuracy")
    history = fit(model, X, y, "lbfgs", epochs=200).history
    assert history["loss"][-1] < 1e-3 and history["accuracy"][-1] == 1
    assert model.evaluate(X_test, y_test)["accuracy"] > 0.93


@pytest.mark.parametrize("seed", range(10))
def test_conjugate_gradients_take_the_last_step_of_a_quadratic_problem(seed):
    """It arrives where the gradient is nothing but rounding."""
    X, y = line(seed=seed)
    model = linear(X)
    assert len(fit(model, X, y, ConjugateGradient(1e-8)).epoch) < 20
    assert max(np.abs(g).max() for g in model.loss_and_gradients(X, y)[1]) <= 1e-8


# ---- products of the Hessian with a vector ------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_hessian_of_linear_regression_is_that_of_the_squares(dtype):
    X, y = line()
    X, y = X.astype("float32"), y.astype("float32")
    weights = np.linspace(0.5, 2, len(X)).astype("float32")
    model = linear(X, penalty=0.1, dtype=dtype)
    before = model.parameters.copy()
    A = np.column_stack([X, np.ones(len(X))]).astype("float64")  # the bias comes last
    H = 2 * A.T @ (weights[:, None] * A) / len(X) + 0.1 * np.diag([1, 1, 1, 1, 0])
    products = [hessian_vector_product(model, X, y, v, sample_weight=weights) for v in np.eye(5)]
    np.testing.assert_allclose(products, H, rtol=1e-8, atol=1e-9)
    v = np.array([3.0, -100.0, 1e-3, 7.0, 2.0])
    product = hessian_vector_product(model, X, y, v.tolist(), sample_weight=weights)
    np.testing.assert_allclose(product, H @ v, rtol=1e-8)
    assert product.dtype == np.float64
    same(model.parameters, before)


def test_the_hessian_of_a_network_agrees_with_differences_of_its_gradients():
    X, y = classes(number=3)
    model = network()
    n = model.count_parameters()
    products = np.array([hessian_vector_product(model, X, y, v) for v in np.eye(n)])
    np.testing.assert_allclose(products, products.T, atol=1e-8)
    differences = np.empty((n, n))
    step = 1e-4  # four points: the error of the formula is of the order of 1e-16
    for i in range(n):
        kept = model.parameters[i]
        rows = []
        for k in (-2, -1, 1, 2):
            model.parameters[i] = kept + k * step
            rows.append(np.concatenate([g.ravel() for g in model.loss_and_gradients(X, y)[1]]))
        model.parameters[i] = kept
        differences[i] = (rows[0] - 8 * rows[1] + 8 * rows[2] - rows[3]) / (12 * step)
    np.testing.assert_allclose(products, differences, atol=1e-8)
    assert np.abs(differences).max() > 0.1


def test_products_are_linear_in_the_vector():
    X, y = classes(number=3)
    model = network()
    v = np.random.default_rng(0).normal(size=model.count_parameters())
    one = hessian_vector_product(model, X, y, v)
    for factor in (1e-6, 1e6):
        np.testing.assert_allclose(
            hessian_vector_product(model, X, y, factor * v), factor * one, rtol=1e-6
        )
    same(hessian_vector_product(model, X, y, 0 * v), 0 * v)


@pytest.mark.parametrize(
    "vector, error, message",
    [
        (np.ones(4), ValueError, "vector: expected shape (5,), a number for each weight, got (4,)"),
        (np.ones((5, 1)), ValueError, "got (5, 1)"),
        ([1, 2, np.nan, 4, 5], ValueError, "vector: contains nan at index [2]"),
        ("abc", TypeError, "vector: expected an array of numbers, got the string 'abc'"),
    ],
)
def test_vectors_that_do_not_fit(vector, error, message):
    X, y = line()
    with pytest.raises(error, match=re.escape(message)):
        hessian_vector_product(linear(X), X, y, vector)


def test_no_product_where_gradients_are_not_finite():
    model, X, y = poisson()
    model.parameters[:] = 1e3
    with pytest.raises(ValueError, match="loss: expected finite gradients"):
        hessian_vector_product(model, X, y, np.ones(4))


# ---- what is written down -----------------------------------------------------------------------


@all_methods
def test_the_history_has_loss_and_metrics_after_each_iteration(method):
    X, y = classes(number=3)
    X_val, y_val = classes(number=3, seed=9)
    model = network(metrics=["accuracy"])
    start, recorder = model.parameters.copy(), Recorder()
    history = fit(model, X, y, method, epochs=6, validation_data=(X_val, y_val), callbacks=recorder)
    assert history is model.history and history.epoch == list(range(6))
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    ends = [("epoch_begin", "epoch_end")[i % 2] for i in range(12)]
    middle = [(name, i // 2) for i, name in enumerate(ends)]
    assert recorder.calls == [("train_begin",), *middle, ("train_end",)]
    same(recorder.before, [start, *recorder.weights[:-1]])
    for i, (logs, weights) in enumerate(zip(recorder.logs, recorder.weights, strict=True)):
        assert logs == {name: values[i] for name, values in history.history.items()}
        model.parameters[:] = weights
        assert logs["loss"] == model.loss_and_gradients(X, y)[0]
        there = model.evaluate(X_val, y_val)
        assert (logs["val_loss"], logs["val_accuracy"]) == (there["loss"], there["accuracy"])
        assert logs["accuracy"] == model.evaluate(X, y)["accuracy"]
    assert (np.diff(history.history["loss"]) < 0).all()


def test_rows_that_are_held_out_are_not_trained_on():
    X, y = line()
    model, expected = linear(X), linear(X)
    history = fit(model, X, y, EXACT["lbfgs"], validation_split=0.25).history
    fit(expected, X[:45], y[:45], EXACT["lbfgs"])
    same(model.parameters, expected.parameters)
    assert history["val_loss"][-1] == model.evaluate(X[45:], y[45:])["loss"]


def test_epochs_are_counted_from_the_initial_one_and_shown(capsys):
    X, y = classes(number=3)
    history = network().fit(X, y, optimizer="lbfgs", initial_epoch=3, epochs=5, verbose=2)
    assert history.epoch == [3, 4] and len(history.history["loss"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", "4/5"], ["epoch", "5/5"]]
    assert all(f"loss {x:.4f}" in line for x, line in zip(history.history["loss"], lines, strict=1))


def test_a_progress_bar_counts_iterations(capsys):
    X, y = classes(number=3)
    network().fit(X, y, optimizer="lbfgs", epochs=7, verbose=1)
    shown = capsys.readouterr().err
    assert "| 7/7 [" in shown and shown.endswith("\n")  # closed


def test_the_order_of_the_rows_stays_the_same():
    X, y = classes(number=3)
    a, b = network(), network()
    fit(a, X, y, "lbfgs", epochs=5, shuffle=True)
    fit(b, X, y, "lbfgs", epochs=5, shuffle=False)
    same(a.parameters, b.parameters)


# ---- the end ------------------------------------------------------------------------------------


@all_methods
def test_training_ends_where_the_gradient_is_small(method):
    X, y = line()
    numbers = []
    for tolerance in (1e-2, 1e-5):
        model = linear(X)
        recorder = Recorder()
        option = {"lbfgs": LBFGS, "cg": ConjugateGradient, "newton_cg": NewtonCG}[method]
        fit(model, X, y, option(tolerance=tolerance), callbacks=recorder)
        sizes = []
        for weights in recorder.weights:
            model.parameters[:] = weights
            gradients = model.loss_and_gradients(X, y)[1]
            sizes.append(max(np.abs(g).max() for g in gradients))
        assert sizes[-1] <= tolerance < min(sizes[:-1])
        assert recorder.calls[-2:] == [("epoch_end", len(sizes) - 1), ("train_end",)]
        numbers.append(len(sizes))
    assert numbers[0] < numbers[1] < 50
    # From there on there is nothing to do, and nothing is done.
    before, recorder = model.parameters.copy(), Recorder()
    history = fit(model, X, y, option(tolerance=1e-5), callbacks=recorder)
    assert (history.epoch, history.history) == ([], {})
    assert recorder.calls == [("train_begin",), ("train_end",)]
    same(model.parameters, before)


@all_methods
def test_a_tolerance_of_zero_ends_where_nothing_lower_is_found(method):
    X, y = line()
    model = linear(X)
    option = {"lbfgs": LBFGS, "cg": ConjugateGradient, "newton_cg": NewtonCG}[method]
    recorder = Recorder()
    assert len(fit(model, X, y, option(tolerance=0), callbacks=recorder).epoch) < 200
    assert (np.abs(np.diff(recorder.weights, axis=0)).max(axis=1) > 0).all()  # no empty steps
    assert max(np.abs(g).max() for g in model.loss_and_gradients(X, y)[1]) < 1e-6


def test_conjugate_gradients_start_again_where_they_ended_early(monkeypatch):
    """Whether rounding ends them depends on the machine: here each run ends after two iterations,
    and one in the middle of nowhere."""
    minimize, asked = full_batch._minimize(), []

    def short(value, start, options, **rest):
        asked.append(options["maxiter"])
        if len(asked) == lost:
            value(np.full_like(start, 1e300))
            return
        minimize(value, start, options=options | {"maxiter": 2}, **rest)

    monkeypatch.setattr(full_batch, "_minimize", lambda: short)
    X, y = line()
    model, lost = linear(X), 0
    found = fit(model, X, y, ConjugateGradient(1e-9), epochs=50)
    assert len(asked) > 2 and asked == [50 - 2 * run for run in range(len(asked))]
    assert max(np.abs(g).max() for g in model.loss_and_gradients(X, y)[1]) <= 1e-9
    assert len(found.epoch) < 50 and (np.diff(found.history["loss"]) <= 0).all()

    # A run that finds nothing finite says nothing about the one before: its weights are kept.
    other, lost, expected = linear(X), 2, linear(X)
    asked.clear()
    assert fit(other, X, y, ConjugateGradient(1e-9), epochs=50).epoch == [0, 1] and len(asked) == 2
    lost = 0
    fit(expected, X, y, ConjugateGradient(1e-9), epochs=2)
    same(other.parameters, expected.parameters)

    # The other methods end where they end.
    asked.clear()
    assert fit(linear(X), X, y, LBFGS(tolerance=1e-9), epochs=50).epoch == [0, 1]
    assert asked == [50]


@all_methods
def test_a_callback_can_end_training(method):
    X, y = classes(number=3)
    model, expected = network(), network()
    recorder = Recorder(stop_after=2)
    assert fit(model, X, y, method, callbacks=recorder).epoch == [0, 1, 2]
    fit(expected, X, y, method, epochs=3)
    same(model.parameters, expected.parameters)
    assert recorder.calls[-1] == ("train_end",)
    with_wish = Recorder()
    with_wish.on_train_begin = lambda model: setattr(model, "stop_training", True)
    assert fit(model, X, y, method, callbacks=with_wish).epoch == []
    # The next fit is not ended by the wish of the one before.
    assert len(fit(model, X, y, method, epochs=2).epoch) == 2


def test_weights_that_a_callback_sets_last_are_kept():
    class Changes(fnn.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            model.parameters[:] = epoch

    X, y = classes(number=3)
    model, expected = network(), network()
    history = fit(model, X, y, "lbfgs", epochs=4, callbacks=Changes()).history
    assert (model.parameters == 3).all()
    assert history == fit(expected, X, y, "lbfgs", epochs=4).history  # the method goes its way


def test_early_stopping_goes_back_to_the_best_weights():
    X, y = classes(n=30, number=3)
    model = network()
    stopping = fnn.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    held_out = classes(n=200, number=3, seed=9)
    fit(model, X, y, "lbfgs", validation_data=held_out, callbacks=stopping)
    values = model.history.history["val_loss"]
    assert stopping.best_epoch == int(np.argmin(values)) == len(values) - 4
    assert model.evaluate(*held_out)["loss"] == pytest.approx(min(values), rel=1e-12)


@all_methods
@pytest.mark.parametrize("place", ["epoch_begin", "epoch_end"])
def test_an_interrupted_training_is_a_shorter_training(method, place):
    X, y = classes(number=3)
    model, expected = network(), network()
    recorder = Recorder(fail_at=(place, 2))
    with pytest.raises(KeyboardInterrupt):
        fit(model, X, y, method, callbacks=recorder)
    whole = fit(expected, X, y, method, epochs=2 + (place == "epoch_end"))
    same(model.parameters, expected.parameters)
    assert model.history.history == whole.history
    assert recorder.calls[-1] == ("train_end",)


def failing(monkeypatch, model, calls, result):
    """Let the loss end in ``result``, None or an error, from some number of evaluations on."""
    evaluate = full_batch._Objective.__call__
    number = 0

    def call(objective, w):
        nonlocal number
        number += 1
        found = evaluate(objective, w)
        if number < calls:
            return found
        if result is None:
            return None
        raise result

    monkeypatch.setattr(full_batch._Objective, "__call__", call)


@all_methods
@pytest.mark.parametrize("calls", [1, 2, 12, 31])
def test_an_interrupt_while_steps_are_tried_goes_back_to_the_last_iteration(
    method, calls, monkeypatch
):
    X, y = classes(number=3)
    model, recorder = network(), Recorder()
    start = model.parameters.copy()
    failing(monkeypatch, model, calls, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fit(model, X, y, method, callbacks=recorder)
    same(model.parameters, recorder.weights[-1] if recorder.weights else start)
    assert model.history.epoch == list(range(len(recorder.weights)))
    assert recorder.calls[-1] == ("train_end",)


# ---- losses that are not finite -----------------------------------------------------------------


@all_methods
def test_a_loss_that_is_not_finite_at_the_start_changes_nothing(method):
    model, X, y = poisson()
    model.parameters[:] = 1e3
    recorder = Recorder()
    with pytest.raises(fnn.NonFiniteLoss, match=r"step 0 \(epoch 4\).*loss") as caught:
        fit(model, X, y, method, initial_epoch=4, callbacks=recorder)
    assert caught.value.step == 0 and "loss" in caught.value.op
    assert (model.parameters == 1e3).all() and model.history.epoch == []
    assert recorder.calls == [("train_begin",), ("train_end",)]


@pytest.mark.parametrize(
    "method, scale, factor",
    [
        (LBFGS(tolerance=1e-4), 9000, 1),
        (ConjugateGradient(1e-4), 9000, 1),
        (NewtonCG(1e-3), 300, 1e4),
    ],
)
def test_a_line_search_steps_back_from_where_the_loss_is_not_finite(
    method, scale, factor, monkeypatch
):
    model, X, y = poisson(scale)
    finite = []
    evaluate = full_batch._Objective.__call__

    def watch(objective, w):
        found = evaluate(objective, w)
        finite.append(found is not None)
        return found

    monkeypatch.setattr(full_batch._Objective, "__call__", watch)
    losses = fit(model, X, factor * y, method).history["loss"]
    assert not all(finite) and finite[-1]
    assert np.isfinite(losses).all() and (np.diff(losses) <= 0).all()
    # Scaled inputs and targets scale the weights and shift the bias of the optimum.
    easy, X, y = poisson(scale=1)
    fit(easy, X, y, LBFGS(tolerance=1e-9))
    expected = easy.parameters / [scale, scale, scale, 1] + [0, 0, 0, np.log(factor)]
    np.testing.assert_allclose(model.parameters, expected, rtol=1e-3)


@all_methods
@pytest.mark.parametrize("calls", [2, 12, 31])
def test_a_loss_that_is_lost_for_good_leaves_the_last_iteration(method, calls, monkeypatch):
    X, y = classes(number=3)
    model, recorder = network(), Recorder()
    start = model.parameters.copy()
    failing(monkeypatch, model, calls, None)
    with pytest.raises(fnn.NonFiniteLoss) as caught:
        fit(model, X, y, method, callbacks=recorder)
    assert caught.value.step == len(recorder.weights) == len(model.history.epoch)
    same(model.parameters, recorder.weights[-1] if recorder.weights else start)


def test_a_step_to_where_the_loss_is_lost_is_no_iteration(monkeypatch):
    """Whatever a method may think of it."""

    def accepts(value, start, callback, **options):
        value(start + 1e6)
        with pytest.raises(StopIteration):
            callback(start + 1e6)

    model, X, y = poisson()
    monkeypatch.setattr(full_batch, "_minimize", lambda: accepts)
    with pytest.raises(fnn.NonFiniteLoss, match=r"step 0 \(epoch 0\).* is call \d+, "):
        fit(model, X, y, "lbfgs")
    assert (model.parameters == 0).all() and model.history.epoch == []


def test_a_loss_that_overflows_while_its_gradient_does_not_is_lost():
    model = fnn.Sequential([fnn.Input(1), L.Dense(1, use_bias=False)])
    model.compile("mean_squared_error")
    data = model._prepare(np.ones((2, 1)), np.zeros(2), None)
    objective = full_batch._Objective(model, data)
    assert objective(np.array([1e18])) is not None
    assert objective(np.array([1e25])) is None


def test_weights_that_overflow_are_not_accepted():
    """tanh of infinity is 1, and its loss is finite."""
    model = fnn.Sequential([fnn.Input(1), L.Dense(1, "tanh", use_bias=False)])
    model.compile("mean_squared_error")
    data = model._prepare(np.ones((2, 1)), np.zeros(2), None)
    objective = full_batch._Objective(model, data)
    assert objective(np.array([3e38])) is not None
    assert objective(np.array([1e39])) is None


# ---- what stays as it is ------------------------------------------------------------------------


@all_methods
def test_dropout_is_one_mask_throughout(method):
    X, y = classes(number=3)
    models = [network([L.Dropout(0.5)], metrics="accuracy") for _ in range(2)]
    for model in models:
        mask = model.loss_and_gradients(X, y)[0]
        history = fit(model, X, y, method, epochs=10).history
        assert (np.diff([mask, *history["loss"]]) < 0).all()
        assert history["loss"][-1] == model.loss_and_gradients(X, y)[0]
        assert history["accuracy"][-1] == model.evaluate(X, y)["accuracy"]  # nothing is dropped
    same(models[0].parameters, models[1].parameters)


def test_the_optimizer_of_compile_goes_on_as_if_nothing_had_been():
    X, y = classes(number=3)
    model, expected = (network([L.Dropout(0.5)], optimizer="adam") for _ in range(2))
    for m in (model, expected):
        m.fit(X, y, epochs=2, verbose=0)
    fit(model, X, y, "lbfgs", epochs=3)
    expected.parameters[:] = model.parameters
    for m in (model, expected):
        m.fit(X, y, epochs=2, verbose=0)
    same(model.parameters, expected.parameters)


def test_the_first_data_build_a_model():
    X, y = line()
    built, model = linear(X), fnn.Sequential([L.Dense(1, kernel_regularizer=0.1)])
    model.compile("mean_squared_error", dtype="float64")
    for m in (built, model):
        fit(m, X, y, "lbfgs", epochs=3)
    same(built.parameters, model.parameters)


def test_bytes_and_strides_are_read_as_they_lie():
    X = np.random.default_rng(0).integers(0, 5, (60, 8), dtype=np.uint8)[:, ::2]
    y = X @ np.array([1.0, -1.0, 0.5, 2.0])
    a, b = linear(X), linear(X)
    fit(a, X, y, "lbfgs", epochs=5)
    fit(b, X.astype("float64"), y, "lbfgs", epochs=5)
    np.testing.assert_allclose(a.parameters, b.parameters, rtol=1e-9)


# ---- bad options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"optimizer": "lbgfs"}, ValueError, "optimizer: unknown name 'lbgfs'. Did you mean 'lbf"),
        ({"optimizer": "adam"}, ValueError, "Known names: cg, lbfgs, newton_cg"),
        ({"optimizer": 3}, TypeError, "optimizer: expected a name or Method object, got int"),
        ({"optimizer": fnn.optimizers.Adam()}, TypeError, "Method object, got Adam"),
        ({"batch_size": 60}, ValueError, "batch_size: expected None together with optimizer"),
        ({"batch_size": 60}, ValueError, "all rows are one batch, got 60"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
        ({"verbose": 5}, ValueError, "verbose: expected 0, 1, 2 or 'auto', got 5"),
        ({"callbacks": 5}, TypeError, "callbacks: expected Callback objects, got 5"),
    ],
)
def test_options_of_fit_that_do_not_fit(options, error, message):
    X, y = line()
    model = linear(X)
    before = model.parameters.copy()
    with pytest.raises(error, match=re.escape(message)):
        model.fit(X, y, **({"optimizer": "lbfgs", "epochs": 5, "verbose": 0} | options))
    same(model.parameters, before)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: LBFGS(memory=0), ValueError, "memory: expected at least 1, got 0"),
        (lambda: LBFGS(memory=2.5), TypeError, "memory: expected an integer, got 2.5"),
        (lambda: LBFGS(tolerance=-1.0), ValueError, "tolerance: expected a number in [0, inf)"),
        (lambda: ConjugateGradient("x"), TypeError, "tolerance: expected a number, got 'x'"),
        (lambda: NewtonCG(np.inf), ValueError, "tolerance: expected a number in [0, inf), got inf"),
    ],
)
def test_options_of_methods_that_do_not_fit(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()


def test_methods_go_by_name_class_or_object():
    for name, method in full_batch.METHODS.items():
        for value in (name, method, method()):
            assert full_batch.get(value) == method()
    assert full_batch.get(LBFGS(3)) == LBFGS(3) != LBFGS()


# ---- SciPy --------------------------------------------------------------------------------------


def test_without_scipy_the_error_says_how_to_install_it(monkeypatch):
    X, y = line()
    model, recorder = linear(X), Recorder()
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=re.escape('pip install "fastnn[full-batch]"')):
        fit(model, X, y, "lbfgs", callbacks=recorder)
    assert recorder.calls == []


def test_scipy_is_loaded_by_the_first_fit_that_needs_it():
    code = (
        "import sys, numpy as np, fastnn as fnn\n"
        "loaded = lambda: any(m.split('.')[0] == 'scipy' for m in sys.modules)\n"
        "model = fnn.Sequential([fnn.Input(2), fnn.layers.Dense(1)])\n"
        "model.compile('mean_squared_error')\n"
        "X, y = np.eye(2), np.ones(2)\n"
        "model.fit(X, y, verbose=0)\n"
        "fnn.full_batch.hessian_vector_product(model, X, y, np.ones(3))\n"
        "print(loaded())\n"
        "model.fit(X, y, optimizer=fnn.full_batch.LBFGS(), verbose=0)\n"
        "print(loaded())\n"
    )
    assert run_python(code).split() == ["False", "True"]


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(full_batch)
    assert result.attempted > 10 and result.failed == 0
