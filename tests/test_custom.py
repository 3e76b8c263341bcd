"""Functions of a user's own: the same models on every backend, and clear words where they fail."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from math import exp, log, sin, sqrt, tanh

import numpy as np
import pytest

import fastnn as fnn
from fastnn import custom
from fastnn.kernels import jit
from fastnn.kernels.formula import FORMULAS

pytest.importorskip("numba")

STEEP = 2.0


def helper(x):
    return STEEP * x


@pytest.fixture(autouse=True)
def forgotten():
    """Nothing that a test defines is left for the next one."""
    yield
    for name in {name for _, name in custom._made}:
        custom.forget(name)


def data(outputs: int = 1, rows: int = 70):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 5))
    return X, np.sin(X[:, :outputs]) + 0.1 * rng.normal(size=(rows, outputs))


def trained(backend="cython", activation="tanh", loss="mse", optimizer="sgd", metrics=(), **more):
    """A small model after three epochs, and its history."""
    options = {k: more.pop(k) for k in ("kernel_regularizer",) if k in more}
    layers = [fnn.Input(5), fnn.layers.Dense(7, activation, **options), fnn.layers.Dense(1)]
    model = fnn.Sequential(layers, seed=1)
    more = {"dtype": "float64", **more}
    model.compile(loss=loss, optimizer=optimizer, metrics=list(metrics), backend=backend, **more)
    X, y = data()
    history = model.fit(X, y, batch_size=16, epochs=3, verbose=0).history
    return model, history


def same_everywhere(**choices):
    """The same weights and history on both backends; float32 agrees with float64."""
    ours, history = trained(**choices)
    numpy, expected = trained(backend="numpy", **choices)
    np.testing.assert_allclose(ours.parameters, numpy.parameters, rtol=1e-10, atol=1e-12)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-10)
    single, _ = trained(dtype="float32", **choices)
    np.testing.assert_allclose(single.parameters, numpy.parameters, rtol=1e-3, atol=1e-4)
    return ours, history


# ------------------------------------------------------------------ each kind


def test_an_activation():
    @fnn.custom.activation
    def snake(x, frequency=1.0):
        return x + sin(frequency * x) ** 2 / frequency

    @snake.derivative
    def _(x, y, frequency):
        return 1 + sin(2 * frequency * x)

    model, _ = same_everywhere(activation="snake")
    other, _ = same_everywhere(activation=snake)
    np.testing.assert_array_equal(model.parameters, other.parameters)
    steep, _ = same_everywhere(activation=snake(frequency=2.0))
    assert not np.allclose(model.parameters, steep.parameters)
    assert fnn.check_gradients(steep, *data()).passed
    with pytest.raises(TypeError, match="no parameter 'speed'"):
        snake(speed=1.0)


def test_a_loss():
    @fnn.custom.loss
    def asymmetric(y, t, steep=3.0):
        return steep * (y - t) ** 2 if y < t else (y - t) ** 2

    @asymmetric.derivative
    def _(y, t, steep):
        return 2 * (y - t) * (steep if y < t else 1.0)

    model, _ = same_everywhere(loss=asymmetric(steep=2.0))
    X, y = data()
    off = model.predict(X) - y
    expected = np.mean(np.where(off < 0, 2.0, 1.0) * off**2)
    assert model.evaluate(X, y)["loss"] == pytest.approx(expected)
    same_everywhere(loss="asymmetric")
    same_everywhere(loss=asymmetric)
    # Weights of rows multiply it, as with our own losses.
    weights = np.linspace(0, 2, len(X))
    for backend in ("numpy", "cython"):
        fresh, _ = trained(backend, loss=asymmetric(steep=1.0))
        plain, _ = trained(backend, loss="mse")
        fresh.fit(X, y, sample_weight=weights, epochs=1, verbose=0, shuffle=False)
        plain.fit(X, y, sample_weight=weights, epochs=1, verbose=0, shuffle=False)
        np.testing.assert_allclose(fresh.parameters, plain.parameters, rtol=1e-10, atol=1e-13)


def test_a_loss_of_signs_takes_zero_and_one():
    @fnn.custom.loss(targets="signs")
    def exponential(y, t):
        return exp(-t * y)

    X, y = data()
    for targets in (np.where(y > 0, 1.0, -1.0), (y > 0).astype(float)):
        model = fnn.Sequential([fnn.Input(5), fnn.layers.Dense(1)], seed=0)
        model.compile(loss=exponential, optimizer="sgd", dtype="float64")
        margins = np.where(y > 0, 1.0, -1.0) * model.predict(X)
        assert model.evaluate(X, targets)["loss"] == pytest.approx(np.exp(-margins).mean())


def test_an_optimizer():
    @fnn.custom.optimizer(state=("v",))
    def heavy_ball(w, g, v, rate, mu=0.9):
        new = mu * v - rate * g
        return w + new, new

    ours, history = same_everywhere(optimizer=heavy_ball(0.02, mu=0.8))
    built_in, expected = trained(optimizer=fnn.optimizers.Momentum(0.02, mu=0.8))
    np.testing.assert_allclose(ours.parameters, built_in.parameters, rtol=1e-12)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-12)
    same_everywhere(optimizer="heavy_ball")
    # With the options that all optimizers have.
    options = {"weight_decay": 0.1, "clip_norm": 0.05}
    ours, _ = same_everywhere(optimizer=heavy_ball(0.02, **options))
    built_in, _ = trained(optimizer=fnn.optimizers.Momentum(0.02, **options))
    np.testing.assert_allclose(ours.parameters, built_in.parameters, rtol=1e-12)
    with pytest.raises(TypeError, match="has no option 'nu'"):
        heavy_ball(0.1, nu=1.0)


def test_a_rule_with_as_many_parameters_as_there_may_be():
    @fnn.custom.optimizer(state=("v",))
    def spread(w, g, v, rate, a=0.1, b=0.2, c=0.3, d=0.4, e=0.5, f=0.6, h=0.7):
        new = (a + b + c + d + e + f + h) / 4.0 * v - rate * g
        return w + new, new

    for given in ({"e": 0.9}, {}):  # every parameter in its place, with and without a penalty
        for options in ({}, {"kernel_regularizer": fnn.regularizers.L2(0.1)}):
            ours, history = same_everywhere(optimizer=spread(0.02, **given), **options)
            mu = (2.3 + given.get("e", 0.5)) / 4
            momentum = fnn.optimizers.Momentum(0.02, mu=mu)
            built_in, expected = trained(optimizer=momentum, **options)
            np.testing.assert_allclose(ours.parameters, built_in.parameters, rtol=1e-12)
            np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-12)


def define_adam():
    @fnn.custom.optimizer(state=("m", "v"), constants=("c1", "c2"))
    def my_adam(w, g, m, v, rate, beta1=0.9, beta2=0.999, epsilon=1e-8, c1=1.0, c2=1.0):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        return w - rate * (m * c1) / (sqrt(v * c2) + epsilon), m, v

    @my_adam.per_step
    def _(step, beta1, beta2, epsilon):
        return 1 / (1 - beta1**step), 1 / (1 - beta2**step)

    return my_adam


def test_adam_written_by_hand_is_adam():
    my_adam = define_adam()
    ours, history = same_everywhere(optimizer=my_adam(0.01))
    built_in, expected = trained(optimizer=fnn.optimizers.Adam(0.01, epsilon=1e-8))
    np.testing.assert_allclose(ours.parameters, built_in.parameters, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-10)


def test_tanh_written_by_hand_is_tanh():
    @fnn.custom.activation
    def my_tanh(x):
        return tanh(x)

    @my_tanh.derivative
    def _(x, y):
        return 1 - y * y

    for dtype in ("float32", "float64"):
        ours, _ = trained(activation="my_tanh", dtype=dtype)
        built_in, _ = trained(dtype=dtype)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(ours.parameters, built_in.parameters, rtol=1e3 * eps, atol=eps)


def test_a_regularizer():
    @fnn.custom.regularizer
    def student(w, scale=1.0):
        return log(1 + (w / scale) ** 2)

    model, _ = same_everywhere(kernel_regularizer=student(0.1, scale=0.5))
    plain, _ = trained()
    assert not np.allclose(model.parameters, plain.parameters)
    X, y = data()
    w = model.get_weights()[0]
    expected = np.mean((model.predict(X) - y) ** 2) + 0.1 * np.log(1 + (w / 0.5) ** 2).sum()
    assert model.evaluate(X, y)["loss"] == pytest.approx(expected)
    assert fnn.check_gradients(model, X, y).passed
    same_everywhere(kernel_regularizer="student")
    same_everywhere(kernel_regularizer=student)


def test_a_schedule():
    @fnn.custom.schedule
    def halved(step, rate, every):
        return rate * 0.5 ** (step // every)

    ours, _ = same_everywhere(optimizer=fnn.optimizers.SGD(halved(0.1, 4)))
    built_in, _ = trained(optimizer=fnn.optimizers.SGD(fnn.schedules.StepDecay(0.1, 0.5, 4)))
    np.testing.assert_allclose(ours.parameters, built_in.parameters, rtol=1e-12)
    warm, _ = same_everywhere(optimizer=fnn.optimizers.SGD(fnn.schedules.WarmUp(halved(0.1, 4), 5)))
    assert not np.allclose(ours.parameters, warm.parameters)


def test_a_metric():
    @fnn.custom.metric
    def within(y, t, distance=0.5):
        return 1.0 if abs(y - t) < distance else 0.0

    model, history = same_everywhere(metrics=[within(distance=0.3)])
    X, y = data()
    expected = np.mean(np.abs(model.predict(X) - y) < 0.3)
    assert model.evaluate(X, y)["within"] == pytest.approx(expected)
    assert len(history["within"]) == 3
    _, named = same_everywhere(metrics=["within"])
    assert named["within"] != history["within"]


def test_numbers_helpers_and_loops():
    """Numbers of the module, other functions, math by its module, statements of every sort."""
    import math

    local = 0.25

    @fnn.custom.activation
    def busy(x):
        total = local * math.pi
        for k in range(3):
            total = total + np.exp(-x * x) * k
        if x > 0:  # noqa: SIM108
            total = total + helper(x)
        else:
            total = total + max(helper(x), -1.0) ** 3
        return total

    @busy.derivative
    def _(x, y):
        slope = -6.0 * x * np.exp(-x * x)
        if x > 0:
            return slope + STEEP
        return slope + 3.0 * STEEP * (STEEP * x) ** 2 if STEEP * x > -1.0 else slope

    same_everywhere(activation=busy)
    x = np.linspace(-2, 2, 5).reshape(1, 5)
    identity = fnn.Sequential([fnn.Input(5), fnn.layers.Activation(busy)])
    identity.compile(loss="mse", optimizer="sgd", dtype="float64")
    expected = (
        0.25 * np.pi + 3 * np.exp(-x * x) + np.where(x > 0, 2 * x, np.maximum(2 * x, -1) ** 3)
    )
    np.testing.assert_allclose(identity.predict(x), expected, rtol=1e-12)


def test_threads_give_the_same():
    @fnn.custom.activation
    def bent(x):
        return (sqrt(x * x + 1) - 1) / 2 + x

    one, _ = trained(activation=bent, threads=1, deterministic="any-threads")
    two, _ = trained(activation=bent, threads=2, deterministic="any-threads")
    np.testing.assert_array_equal(one.parameters, two.parameters)


# ------------------------------------------------------------------ derivatives


SYMBOLIC = {
    "smooth": lambda: _define_smooth(),
    "kinks": lambda: _define_kinks(),
    "choices": lambda: _define_choices(),
}


def _define_smooth():
    @fnn.custom.activation
    def smooth(x, a=0.7):
        inner = exp(-a * x * x) + log(1 + x * x)
        return tanh(inner) * x

    return smooth


def _define_kinks():
    @fnn.custom.activation
    def kinks(x):
        return abs(x) + max(x, 0.5 * x - 1) + min(x, 1.0)

    return kinks


def _define_choices():
    @fnn.custom.activation
    def choices(x):
        return x * x if -1 < x < 0.5 and not x > 0.25 else (sin(x) if x > 1 or x < -3 else x)

    return choices


@pytest.mark.parametrize("name", SYMBOLIC)
def test_sympy_finds_the_derivative(name):
    """Whatever SymPy makes of it is compared with central differences, and trains."""
    pytest.importorskip("sympy")
    model, _ = same_everywhere(activation=SYMBOLIC[name]())
    assert fnn.check_gradients(model, *data()).passed


def test_what_sympy_cannot_differentiate_says_so():
    pytest.importorskip("sympy")

    @fnn.custom.activation
    def repeated(x):
        total = x
        for _ in range(3):
            total = total * 0.5
        return total

    with pytest.raises(ValueError, match=r"repeated: SymPy finds no derivative.*statements"):
        fnn.layers.Dense(3, activation=repeated)


def test_without_sympy_a_derivative_is_asked_for(monkeypatch):
    @fnn.custom.activation
    def lonely(x):
        return x * x

    monkeypatch.setitem(sys.modules, "fastnn.symbolic", None)
    with pytest.raises(
        ImportError, match=r"@lonely.derivative, or install SymPy.*fastnn\[custom\]"
    ):
        fnn.layers.Dense(3, activation=lonely)


def test_a_wrong_derivative_is_refused_with_the_place():
    @fnn.custom.activation
    def square(x, scale=2.0):
        return scale * x * x

    with pytest.raises(ValueError, match=r"square: its derivative at x = \S+, scale = 2 is"):

        @square.derivative
        def _(x, y, scale):
            return scale * x

    @fnn.custom.loss
    def distance(y, t):
        return (y - t) ** 2

    with pytest.raises(ValueError, match=r"distance: its derivative at y = \S+, t = \S+ is"):

        @distance.derivative
        def _(y, t):
            return 2 * (t - y)


def test_check_can_be_turned_off():
    """The straight-through estimator's derivative is not the slope, on purpose."""

    @fnn.custom.activation(check=False)
    def rounded(x):
        return 1.0 if x > 0 else -1.0

    @rounded.derivative
    def _(x, y):
        return 1.0

    model, _ = same_everywhere(activation=rounded)
    plain, _ = trained()
    assert not np.allclose(model.parameters, plain.parameters)


def test_kinks_and_steps_are_no_mistakes():
    @fnn.custom.activation
    def stairs(x):
        return abs(x) if x < 1.0 else x + 3.0

    @stairs.derivative
    def _(x, y):
        return 1.0 if x > 0 else -1.0


# ------------------------------------------------------------------ names and lives


def test_a_new_function_of_the_same_name():
    """As when a notebook's cell runs again: models that were made of the first one keep it."""

    @fnn.custom.activation
    def again(x):
        return 0.5 * x

    X, _ = data()
    first = fnn.Sequential([fnn.Input(5), fnn.layers.Activation("again")])
    first.compile(loss="mse", optimizer="sgd")

    @fnn.custom.activation
    def again(x):  # noqa: F811
        return 2.0 * x

    second = fnn.Sequential([fnn.Input(5), fnn.layers.Activation("again")])
    second.compile(loss="mse", optimizer="sgd")
    np.testing.assert_allclose(first.predict(X), 0.5 * X, rtol=1e-6)
    np.testing.assert_allclose(second.predict(X), 2.0 * X, rtol=1e-6)
    assert repr(second.layers[0].activation) == repr(first.layers[0].activation) == "again"


def test_a_copy_of_an_old_model_does_not_take_the_name_back():
    @fnn.custom.activation
    def again(x):
        return 0.5 * x

    @fnn.custom.loss
    def measure(y, t):
        return (y - t) ** 2

    old, _ = trained(activation="again", loss="measure")

    @fnn.custom.activation
    def again(x):  # noqa: F811
        return 2.0 * x

    @fnn.custom.loss
    def measure(y, t):  # noqa: F811
        return 3.0 * (y - t) ** 2

    X, y = data()
    for duplicate in (copy.deepcopy(old), pickle.loads(pickle.dumps(old))):
        np.testing.assert_array_equal(duplicate.predict(X), old.predict(X))
        assert duplicate.evaluate(X, y) == old.evaluate(X, y)
    layer = fnn.Sequential([fnn.Input(5), fnn.layers.Activation("again")])
    layer.compile(loss="measure", optimizer="sgd")
    np.testing.assert_allclose(layer.predict(X), 2.0 * X, rtol=1e-6)
    assert layer.evaluate(X, X)["loss"] == pytest.approx(3.0 * np.mean(X**2), rel=1e-5)


@pytest.mark.parametrize("backend", ["cython", "numba"])
def test_an_activation_of_most_parameters_follows_batch_normalization(backend):
    @custom.activation
    def stretched(x, a=0.25, b=0.5, c=0.125, d=0.25, e=0.5, f=0.25, g=0.125, h=0.5):
        return x * (a + b + c + d) - (e + f + g + h) * 0.5

    @stretched.derivative
    def _(x, y, a, b, c, d, e, f, g, h):
        return a + b + c + d

    def predictions(backend):
        layers = [
            fnn.Input(5), fnn.layers.Dense(7), fnn.layers.BatchNormalization(),
            fnn.layers.Activation(stretched(h=2.0)), fnn.layers.Dense(1),
        ]  # fmt: skip
        model = fnn.Sequential(layers, seed=1)
        model.compile("mse", "sgd", backend=backend, dtype="float64")
        X, y = data()
        model.fit(X, y, batch_size=16, epochs=3, verbose=0)
        return model.predict(X)

    np.testing.assert_allclose(predictions(backend), predictions("numpy"), rtol=1e-9, atol=1e-12)


def test_forget():
    @fnn.custom.loss
    def passing(y, t):
        return (y - t) ** 2

    fnn.custom.forget("passing")
    with pytest.raises(ValueError, match="unknown name 'passing'"):
        trained(loss="passing")
    assert not any("passing" in registry for registry in (fnn.losses.LOSSES, FORMULAS["loss"]))
    with pytest.raises(ValueError, match="forget: nothing of that name was defined: 'passing'"):
        fnn.custom.forget("passing")


def _whole_model():
    @fnn.custom.activation
    def snake(x, frequency=1.0):
        return x + sin(frequency * x) ** 2 / frequency

    @fnn.custom.regularizer
    def soft(w):
        return STEEP * w * w

    @fnn.custom.loss
    def squared(y, t, scale=1.0):
        return scale * (y - t) ** 2

    @fnn.custom.metric
    def off(y, t):
        return abs(y - t)

    @fnn.custom.schedule
    def falling(step, rate, steps):
        return rate / (1 + step / steps)

    return trained(
        activation=snake(frequency=1.5),
        kernel_regularizer=soft(0.01),
        loss=squared(scale=0.5),
        metrics=[off],
        optimizer=define_adam()(falling(0.01, 10)),
    )[0]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_go_on_alike(duplicate):
    model = _whole_model()
    other = duplicate(model)
    X, y = data()
    for one in (model, other):
        one.fit(X, y, batch_size=16, epochs=2, verbose=0)
    np.testing.assert_array_equal(model.parameters, other.parameters)


def test_a_pickle_brings_its_functions_along(tmp_path):
    """Into a process that has never heard of them, and without SymPy."""
    model = _whole_model()
    X, y = data()
    file = tmp_path / "model.pickle"
    file.write_bytes(pickle.dumps((model, X, y)))
    program = """
        import pickle, sys
        sys.modules["sympy"] = None
        model, X, y = pickle.load(open(sys.argv[1], "rb"))
        model.fit(X, y, batch_size=16, epochs=2, verbose=0)
        print(model.parameters.tobytes().hex())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    model.fit(X, y, batch_size=16, epochs=2, verbose=0)
    assert run.stdout.strip() == model.parameters.tobytes().hex()


def test_two_threads_compile_and_train_at_once():
    @fnn.custom.activation
    def bent(x):
        return (sqrt(x * x + 1) - 1) / 2 + x

    found = {}

    def work(dtype):
        found[dtype] = trained(activation=bent, dtype=dtype, threads=1)[0].parameters

    workers = [threading.Thread(target=work, args=(d,)) for d in ("float32", "float64")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for dtype, parameters in found.items():
        expected = trained(activation=bent, dtype=dtype, threads=1)[0].parameters
        np.testing.assert_array_equal(parameters, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_after_compiling():
    @fnn.custom.activation
    def bent(x):
        return (sqrt(x * x + 1) - 1) / 2 + x

    model, _ = trained(activation=bent)
    X, y = data()
    expected = model.predict(X)
    child = os.fork()
    if child == 0:
        good = np.array_equal(model.predict(X), expected)
        model.fit(X, y, epochs=1, verbose=0)
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ------------------------------------------------------------------ what is refused


def test_numba_missing_old_or_turned_off(monkeypatch):
    import importlib.metadata

    @fnn.custom.activation
    def twice(x):
        return 2.0 * x

    X, _ = data()
    model = fnn.Sequential([fnn.Input(5), fnn.layers.Activation(twice)])
    model.compile(loss="mse", optimizer="sgd")
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT=1 turns it off; unset it"):
            model.predict(X)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "0.58.1")
        with pytest.raises(RuntimeError, match=r"needs Numba 0.60 or newer; 0.58.1 is installed"):
            model.predict(X)

    def missing(name):
        raise importlib.metadata.PackageNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", missing)
        with pytest.raises(RuntimeError, match=r"needs Numba 0.60 or newer: pip install 'fastnn"):
            model.predict(X)
    np.testing.assert_allclose(model.predict(X), 2.0 * X, rtol=1e-6)
    assert jit.OLDEST == (0, 60)


def test_importing_fastnn_loads_no_compiler():
    program = "import sys, fastnn; print({'numba', 'sympy', 'llvmlite'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "set()"


def _wrong_types(x):
    if x > 100.0:
        return float("1" + x)
    return x


def _no_bytecode(x):
    if x > 100.0:
        return float(f"{x:.3f}")
    return x


@pytest.mark.parametrize(
    ("function", "line"),
    [(_wrong_types, r'return float\("1" \+ x\)'), (_no_bytecode, r"test_custom.py \(\d+\)")],
)
def test_what_numba_cannot_compile_shows_the_line(function, line):
    made = fnn.custom.activation(function)

    @made.derivative
    def _(x, y):
        return 1.0

    model = fnn.Sequential([fnn.Input(2), fnn.layers.Activation(made)])
    model.compile(loss="mse", optimizer="sgd")
    with pytest.raises(ValueError, match=rf"(?s){function.__name__}: Numba cannot compile.*{line}"):
        model.predict(np.ones((3, 2)))


THING = object()


def _uses_a_thing():
    @fnn.custom.activation
    def strange(x):
        return THING * x


def _uses_an_attribute():
    @fnn.custom.activation
    def strange(x):
        return x.real


def _has_a_star():
    @fnn.custom.activation
    def strange(x, *more):
        return x


def _has_our_name():
    @fnn.custom.activation
    def relu(x):
        return x


def _has_our_loss():
    @fnn.custom.loss
    def huber(y, t):
        return y - t


def _is_a_lambda():
    fnn.custom.activation(lambda x: x)


def _has_no_operand():
    @fnn.custom.loss
    def strange(y):
        return y


def _returns_too_little():
    @fnn.custom.optimizer(state=("m",))
    def strange(w, g, m, rate):
        return w - rate * g


def _has_other_arguments():
    @fnn.custom.optimizer(state=("m",))
    def strange(w, g, rate):
        return w - rate * g


def _has_much_state():
    @fnn.custom.optimizer(state=("a", "b", "c", "d", "e"))
    def strange(w, g, a, b, c, d, e, rate):
        return w, a, b, c, d, e


def _returns_a_word():
    @fnn.custom.schedule
    def strange(step, rate):
        return "fast"


def _is_never_finite():
    @fnn.custom.activation
    def strange(x):
        return log(-1 - x * x)


def _derivative_has_other_arguments():
    @fnn.custom.activation
    def strange(x, a=1.0):
        return a * x

    @strange.derivative
    def _(x, y):
        return 1.0


def _derivative_has_other_names():
    @fnn.custom.activation
    def strange(x):
        return x

    @strange.derivative
    def _(u, v):
        return 1.0


def _parameter_is_called_y():
    @fnn.custom.activation
    def strange(x, y=1.0):
        return x * y


def _targets_are_unknown():
    @fnn.custom.loss(targets="labels")
    def strange(y, t):
        return y - t


def _domain_is_empty():
    @fnn.custom.loss(domain=(1.0, 0.0))
    def strange(y, t):
        return y - t


REFUSED = {
    _uses_a_thing: (
        ValueError,
        r"strange .*test_custom.py, line \d+: 'return THING \* x'.*'THING'",
    ),
    _uses_an_attribute: (ValueError, r"line \d+: 'return x.real'\): a formula cannot use 'x.real'"),
    _has_a_star: (ValueError, r"strange: expected plain arguments"),
    _has_our_name: (ValueError, r"activation: 'relu' is one of fastnn's own names"),
    _has_our_loss: (ValueError, r"loss: 'huber' is one of fastnn's own names"),
    _is_a_lambda: (TypeError, r"expected a function written with def, got <function"),
    _has_no_operand: (ValueError, r"strange: expected the arguments \(y, t, ...\), got \['y'\]"),
    _returns_too_little: (ValueError, r"strange: expected 2 results.*\['m'\], got 1"),
    _has_other_arguments: (ValueError, r"strange: expected the arguments \(w, g, m, rate, ...\)"),
    _has_much_state: (ValueError, r"state: expected at most 4 names, got 5"),
    _returns_a_word: (TypeError, r"strange: expected numbers to be returned, got 'fast'"),
    _is_never_finite: (ValueError, r"strange: gives no finite number"),
    _derivative_has_other_arguments: (ValueError, r"3 arguments \(x, y, a\), got \['x', 'y'\]"),
    _derivative_has_other_names: (ValueError, r"first arguments are x and y, by name"),
    _parameter_is_called_y: (ValueError, r"strange: a parameter cannot be called 'y'"),
    _targets_are_unknown: (ValueError, r"targets: expected one of numbers, .*, got 'labels'"),
    _domain_is_empty: (ValueError, r"domain: expected two numbers \(low, high\), low < high"),
}


@pytest.mark.parametrize("define", REFUSED, ids=lambda f: f.__name__.strip("_"))
def test_refused(define):
    error, message = REFUSED[define]
    with pytest.raises(error, match=message):
        define()
    # Only a derivative may be refused once the function itself has been taken.
    left = any(name == "strange" for _, name in custom._made)
    assert left == define.__name__.startswith("_derivative")
