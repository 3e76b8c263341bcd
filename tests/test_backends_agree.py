"""A hundred steps on the compiled kernels and on the NumPy definitions give the same trajectory.

What there is to compare is enumerated from the registries. NumPy's side is the reference: it is
computed once per case, and shares no formula with the compiled side.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

import fastnn as fnn
from fastnn.kernels import aot
from fastnn.kernels.formula import FORMULAS

L = fnn.layers
N, BATCH, FEATURES, OUTPUTS, EPOCHS = 70, 32, 10, 4, 34  # 3 steps an epoch, the last one smaller

#: Relative to the size of the weights, after 102 steps. float64 has room to be tight; in float32
#: 100 steps multiply a rounding error of 6e-8 by what the training's dynamics make of it.
TOLERANCE = {"float64": 1e-10, "float32": 2e-4}

#: Rates at which each rule moves weights well within 100 steps, and none diverges.
RATES = {"sgd": 0.05, "momentum": 0.02, "nesterov": 0.02, "adagrad": 0.05}


#: Losses, those of classes with labels as targets; these with rows of numbers too.
CASES = [
    *fnn.losses.LOSSES,
    *(f"{name} of rows" for name, kind in fnn.losses.LOSSES.items() if kind.takes_labels),
]


def data(case="mean_squared_error", weighted=False, dtype="float32"):
    """X, y and weights that suit a loss."""
    rng = np.random.default_rng(5)
    if dtype == "uint8":
        X = rng.integers(0, 256, (N, FEATURES), dtype=np.uint8)
    else:
        X = rng.normal(size=(N, FEATURES)).astype(dtype)
    labels = rng.integers(0, OUTPUTS, N)
    loss, _, rows = case.partition(" of ")
    kind = FORMULAS["loss"][loss].targets if loss in FORMULAS["loss"] else None
    if fnn.losses.LOSSES[loss].takes_labels:
        kind = rows or "labels"
    soft = rng.dirichlet(np.ones(OUTPUTS), N)
    y = {
        "labels": labels,
        "rows": np.where(np.arange(N)[:, None] % 2, np.eye(OUTPUTS)[labels], soft),
        "shares": rng.integers(0, 2, (N, OUTPUTS)),
        "signs": rng.choice([-1, 1], (N, OUTPUTS)),
        "counts": rng.poisson(2.0, (N, OUTPUTS)),
    }.get(kind, rng.normal(size=(N, OUTPUTS)))
    return X, y, rng.uniform(0, 2, N) if weighted else None


def train(layers, loss, optimizer, X, y, w=None, **options):
    """Losses of the epochs, final weights, predictions, and how threads divided the steps."""
    model = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=3)
    model.compile(loss, optimizer, **options)
    history = model.fit(X, y, sample_weight=w, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    metrics = np.array(list(history.history.values()))
    split = _training(model).program.split
    return metrics, model.parameters.copy(), model.predict(X), split


def _training(model):
    """The runner that trained the model."""
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    return runner


def assert_agree(found, expected, dtype):
    tolerance = TOLERANCE[dtype]
    for a, b in zip(found[:3], expected[:3], strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def both(layers, loss, optimizer, *arrays, dtype, **options):
    """Check that both backends agree; the result of the compiled one."""
    found = train(layers, loss, optimizer, *arrays, dtype=dtype, backend="cython", **options)
    options = {k: v for k, v in options.items() if k not in ("threads", "deterministic")}
    expected = train(layers, loss, optimizer, *arrays, dtype=dtype, backend="numpy", **options)
    assert_agree(found, expected, dtype)
    initial = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=3)
    assert np.abs(found[1] - initial.parameters).max() > 1e-3  # it did move
    return found


def optimizer(name):
    kind = fnn.optimizers.OPTIMIZERS[name]
    return kind(RATES.get(name, 0.005))


both_types = pytest.mark.parametrize("dtype", ["float32", "float64"])


@both_types
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", fnn.optimizers.OPTIMIZERS)
def test_optimizers(name, weighted, dtype):
    layers = [L.Dense(17, "tanh", kernel_regularizer=0.01), L.Dense(OUTPUTS)]
    both(layers, "mean_squared_error", optimizer(name), *data(weighted=weighted), dtype=dtype)


@both_types
@pytest.mark.parametrize("where", ["fused", "alone"])
@pytest.mark.parametrize("name", fnn.activations.names())
def test_activations(name, where, dtype):
    """As Dense's own activation, and behind a dropout, where it stands alone."""
    hidden = [L.Dense(17, name)] if where == "fused" else [
        L.Dense(17), L.Dropout(0.1), L.Activation(name)
    ]  # fmt: skip
    layers = [*hidden, L.Dense(OUTPUTS)]
    rule = fnn.optimizers.SGD(0.002 if name == "log_softmax" else 0.05)  # its values are large
    both(layers, "mean_squared_error", rule, *data(), dtype=dtype)


@pytest.mark.parametrize(
    "name", [n for n, f in FORMULAS["activation"].items() if f.parameters], ids=str
)
def test_activations_with_other_parameters(name):
    parameters = dict.fromkeys(FORMULAS["activation"][name].parameters, 0.3)
    layers = [L.Dense(17, fnn.activations.make(name, **parameters)), L.Dense(OUTPUTS)]
    both(layers, "mean_squared_error", optimizer("sgd"), *data(), dtype="float64")


#: Output activations of each loss: with the first, and with logits, it is one stable op. Other
#: losses take what their formula is meant for.
OUTPUT = {
    "mean_squared_error": [None, "tanh"],
    "mean_absolute_error": [None, "sigmoid"],
    "cross_entropy": ["softmax", "logits"],
    "cross_entropy of rows": ["softmax", "logits", "sigmoid"],
    "binary_cross_entropy": ["sigmoid", "logits"],
    "negative_log_likelihood": ["log_softmax", None],
    "kl_divergence": ["softmax", "sigmoid"],
    "multiclass_hinge": [None, "tanh"],
    "squared_multiclass_hinge": [None, "tanh"],
    "cosine_proximity": [None, "tanh"],
    "perceptron": ["heaviside", None],
}


def outputs(case: str) -> list[str | None]:
    loss = case.partition(" of ")[0]
    if case in OUTPUT or loss in OUTPUT:
        return OUTPUT.get(case) or OUTPUT[loss]
    return ["sigmoid"] if FORMULAS["loss"][loss].domain[0] == 0 else [None, "tanh"]


@both_types
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case, output", [(c, o) for c in CASES for o in outputs(c)])
def test_losses(case, output, weighted, dtype):
    kind = fnn.losses.LOSSES[case.partition(" of ")[0]]
    loss = kind(from_logits=True) if output == "logits" else kind()
    layers = [L.Dense(17, "relu"), L.Dense(OUTPUTS, None if output == "logits" else output)]
    metrics = list(fnn.metrics.METRICS)
    if kind.takes_labels and case in fnn.losses.LOSSES:  # whose targets are labels
        metrics = ["accuracy"]
    both(layers, loss, optimizer("momentum"), *data(case, weighted), dtype=dtype, metrics=metrics)


@both_types
def test_a_probability_that_no_op_can_fuse(dtype):
    """Cross-entropy on probabilities that a layer has changed: the clipped form."""
    layers = [L.Dense(17, "tanh"), L.Dense(OUTPUTS, "softmax"), L.Rescaling(0.9, 0.025)]
    both(layers, "cross_entropy", optimizer("sgd"), *data("cross_entropy"), dtype=dtype)


@both_types
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_and_penalties(rate, dtype):
    layers = [
        L.Dropout(rate / 2),
        L.Dense(17, "relu", kernel_regularizer=0.02, bias_regularizer=0.01),
        L.Dropout(rate),
        L.Dense(9, "tanh", use_bias=False),
        L.Dropout(rate),
        L.Dense(OUTPUTS, "softmax", kernel_regularizer="l2"),
    ]
    both(layers, "cross_entropy", "adam", *data("cross_entropy", True), dtype=dtype)


@both_types
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_rescaling_of_what_is_gathered(kind, dtype):
    layers = [L.Rescaling(1 / 128, -1.0), L.Dense(17, "tanh"), L.Dense(OUTPUTS)]
    both(layers, "mean_squared_error", optimizer("nesterov"), *data(dtype=kind), dtype=dtype)


@both_types
@pytest.mark.parametrize("name", fnn.optimizers.OPTIMIZERS)
def test_batches_too_large_to_fuse_their_update(name, dtype):
    """A pass of its own over the flat parameters updates them then, penalties and all."""
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(1300, FEATURES)), rng.normal(size=(1300, OUTPUTS))
    layers = [
        L.Dense(17, "tanh", kernel_regularizer=0.02),
        L.Dense(OUTPUTS, kernel_regularizer=0.05, bias_regularizer=0.01),
    ]
    results = []
    for options in ({"backend": "numpy"}, {"threads": 1}, {"threads": 2}):
        model = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=3)
        model.compile("mean_squared_error", optimizer(name), dtype=dtype, **options)
        history = model.fit(X, y, batch_size=600, epochs=10, verbose=0)
        results.append((history.history["loss"], model.parameters.copy(), model.predict(X[:9])))
        if len(results) < 3:  # by rows, gradients are added up and then always take this way
            assert "update" in {node.op.name for node in _training(model).program.nodes}
    for result in results[1:]:
        assert_agree(result, results[0], dtype)


@both_types
def test_a_decaying_rate(dtype):
    rule = fnn.optimizers.SGD(fnn.schedules.LinearDecay(0.1, 0.001, decay_steps=60))
    both([L.Dense(17, "tanh"), L.Dense(OUTPUTS)], "mean_squared_error", rule, *data(), dtype=dtype)


def test_every_initial_weight_is_the_same():
    for name in fnn.initializers.INITIALIZERS:
        layers = [L.Dense(5, kernel_initializer=name)]
        for dtype in ("float32", "float64"):
            weights = []
            for backend in ("numpy", "cython"):
                model = fnn.Sequential([fnn.Input(16), *layers], seed=1)
                model.compile("mean_squared_error", backend=backend, dtype=dtype)
                weights.append(model.parameters.copy())
            np.testing.assert_array_equal(*weights)


# ---- threads ------------------------------------------------------------------------------------


def deep():
    """Enough calls that dividing rows is the better way for several threads."""
    return [
        L.Dropout(0.1),
        L.Dense(17, "elu", kernel_regularizer=0.01),
        L.Dropout(0.2),
        L.Dense(13, "tanh"),
        L.Dense(OUTPUTS, "softmax"),
    ]


@cache
def on_numpy(dtype):
    arrays = data("cross_entropy", weighted=True)
    return train(deep(), "cross_entropy", "adam", *arrays, dtype=dtype, backend="numpy",
                 metrics=["accuracy"])  # fmt: skip


@both_types
@pytest.mark.parametrize("mode", ["shard", "split"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads, mode, dtype):
    """70 rows in batches of 32 and 6: threads have unequal numbers of rows."""
    found = train(
        deep(), "cross_entropy", "adam", *data("cross_entropy", weighted=True), dtype=dtype,
        threads=threads, deterministic="any-threads" if mode == "split" else None,
        metrics=["accuracy"],
    )  # fmt: skip
    split = found[3]
    assert (split.mode, split.threads) == ("one" if threads == 1 else mode, threads)
    assert_agree(found, on_numpy(dtype), dtype)


@both_types
@pytest.mark.parametrize("units", [1, 2, 3, 5, 64, 200])
def test_threads_that_share_each_call_of_layers_of_any_width(units, dtype):
    layers = [L.Dense(units, "relu"), L.Dense(OUTPUTS)]
    for threads in (2, 3):
        found = both(
            layers, "mean_squared_error", optimizer("sgd"), *data(), dtype=dtype,
            threads=threads, deterministic="any-threads",
        )  # fmt: skip
        assert found[3].mode == "split"


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 33, 34])
def test_last_batches_with_fewer_rows_than_threads(rows):
    """The last batch of an epoch may leave a thread without work."""
    X, y, _ = data()
    X, y = X[:rows], y[:rows]
    results = []
    for options in ({"backend": "numpy"}, {"threads": 2}, {"threads": 3}):
        model = fnn.Sequential([fnn.Input(FEATURES), L.Dense(8, "tanh"), L.Dense(OUTPUTS)])
        model.compile("mean_squared_error", "sgd", dtype="float64", **options)
        model.fit(X, y, batch_size=min(rows, 32), epochs=5, verbose=0)
        results.append((model.parameters.copy(), model.evaluate(X, y)["loss"], model.predict(X)))
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


# ---- instruction sets ---------------------------------------------------------------------------

#: Every op, formula and number type on one level, in a process of its own.
COMPACT = """
import sys
sys.path.insert(0, {here!r})
import test_backends_agree as t
from fastnn.kernels import aot
assert aot.choose_isa() == {isa!r}
for dtype in ("float32", "float64"):
    for name in t.fnn.optimizers.OPTIMIZERS:
        t.test_optimizers(name, True, dtype)
    for name in t.fnn.activations.names():
        t.test_activations(name, "fused", dtype)
        t.test_activations(name, "alone", dtype)
    for case in t.CASES:
        for output in t.outputs(case):
            t.test_losses(case, output, True, dtype)
    t.test_dropout_and_penalties(0.5, dtype)
    t.test_rescaling_of_what_is_gathered("uint8", dtype)
    t.test_threads(2, "shard", dtype)
    t.test_threads(2, "split", dtype)
model = t.fnn.Sequential([t.fnn.Input(4), t.L.Dense(2)])
model.compile("mean_squared_error")
assert all(row[-1] == "cython/" + {isa!r} for row in model.explain().rows)
print("agreed")
"""


@pytest.mark.parametrize("isa", aot.AVAILABLE)
def test_every_instruction_set(isa):
    code = COMPACT.format(here=os.path.dirname(__file__), isa=isa)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "FASTNN_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "agreed\n", done.stderr[-3000:]


def test_an_instruction_set_that_does_not_exist_is_refused():
    done = subprocess.run(
        [sys.executable, "-c",
         "import fastnn as fnn\n"
         "m = fnn.Sequential([fnn.Input(2), fnn.layers.Dense(1)])\n"
         "m.compile('mean_squared_error')\n"
         "m.predict([[1.0, 2.0]])"],
        env={**os.environ, "FASTNN_ISA": "avx9", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode != 0
    for part in ("FASTNN_ISA", "'avx9'", aot.AVAILABLE[-1]):
        assert part in done.stderr.splitlines()[-1]
