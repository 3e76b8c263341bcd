"""Networks on several threads, each of which has its part of the hidden units."""

import contextlib
import copy
import threading
from dataclasses import replace

import numpy as np
import pytest

import fastnn as fnn
from fastnn import layers as L
from fastnn import training
from fastnn.compiler import split
from fastnn.kernels.aot import executor

FEATURES, CLASSES, BATCH = 30, 3, 32
BACKENDS = ["cython", "numba"]


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Units are divided wherever they can be: whether that is fastest does not matter here."""
    choose = split.choose

    def chosen(*arguments, units=None, **options):
        found = choose(*arguments, units=units, **options)
        can = units is not None and found.threads > 1
        return split.Split("units", found.threads, "a test") if can else found

    monkeypatch.setattr(fnn.compiler, "choose", chosen)


def make(units=48, backend="cython", threads=2, outputs=CLASSES, layers=None, **options):
    options = {"loss": "cross_entropy", "optimizer": "adam", "dtype": "float64"} | options
    if layers is None:
        last = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}
        activation = last.get(options["loss"], "identity")
        layers = [L.Dense(units, "tanh"), L.Dense(outputs, activation)]
    model = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=1)
    threads = None if backend == "numpy" else threads
    model.compile(backend=backend, threads=threads, **options)
    return model


def data(rows=3 * BATCH + 5, dtype="float64"):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, FEATURES)).astype(dtype), rng.integers(0, CLASSES, rows)


def runner_of(model):
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    return runner


def mode(model, X=None, y=None):
    if X is None:
        X, y = data()
    model.fit(X, y, batch_size=BATCH, verbose=0)
    return runner_of(model).program.split.mode


def agree(model, other, tolerance=1e-10):
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    assert list(model.history.history) == list(other.history.history)
    for name, values in model.history.history.items():
        np.testing.assert_allclose(values, other.history.history[name], rtol=tolerance)


# ------------------------------------------------------------------ the same training

TASKS = {
    "labels": {"metrics": ["accuracy"]},
    "one-hot": {},
    "numbers": {"loss": "mean_squared_error"},
    "yes or no": {"loss": "binary_cross_entropy", "outputs": 1},
    "activated": {
        "loss": "mean_absolute_error",
        "layers": [L.Dense(32, "elu"), L.Dense(3, "tanh")],
    },
    "no bias": {
        "layers": [L.Dense(48, use_bias=False), L.Dense(CLASSES, "softmax", use_bias=False)]
    },
    "coupled decay": {"optimizer": fnn.optimizers.Momentum(0.1, weight_decay=0.01)},
    "mixtures": {"mixup": 0.3},
    "noise on the inputs": {
        "layers": [L.GaussianNoise(0.1), L.Dense(32, "relu"), L.Dense(CLASSES, "softmax")]
    },
    "layers in pairs": {
        "layers": [
            L.Dense(32, "relu"),
            L.Dense(48, "tanh"),
            L.Dense(34, "elu"),
            L.Dense(32, "sigmoid"),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "one layer more": {
        "layers": [L.Dense(32, "tanh"), L.Dense(20, use_bias=False), L.Dense(CLASSES, "softmax")],
    },
    "functions of the input": {  # their derivative reads what comes before them
        "layers": [
            L.Dense(32, "gelu"),
            L.Dense(32, "swish"),
            L.Dense(32, "mish"),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "batch normalization": {
        "layers": [
            L.Dense(32, use_bias=False),
            L.BatchNormalization(),
            L.Activation("elu"),
            L.Dense(20),
            L.BatchNormalization(renorm=True),
            L.PReLU(),
            L.Dense(32),
            L.PReLU(),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "rows normalized between": {
        "layers": [
            L.Dense(32, "tanh"),
            L.Dense(32),
            L.LayerNormalization(),
            L.Dense(32, "elu"),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "dropout between": {
        "layers": [
            L.Dense(32, "tanh"),
            L.Dense(32, "elu"),
            L.Dense(24, "tanh"),
            L.Dropout(0.3),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "dropout": {  # of what is divided, of what is not, and before what is
        "layers": [
            L.Dropout(0.1),
            L.Dense(40, "tanh"),
            L.Dropout(0.5),
            L.Dense(24, "elu"),
            L.Dropout(0.2),
            L.Dense(32),
            L.BatchNormalization(),
            L.Activation("tanh"),
            L.Dropout(0.3),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "noise": {
        "layers": [
            L.Dense(32, "tanh"),
            L.GaussianNoise(0.2),
            L.GaussianDropout(0.3),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "weights that are made of others": {
        "layers": [
            L.WeightNormDense(32, "tanh"),
            L.Dense(32, "tanh"),
            L.Dense(24, "tanh"),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "a penalty on the first": {
        "layers": [
            L.Dense(32, "tanh", kernel_regularizer=0.01),
            L.Dense(32, "tanh"),
            L.Dense(20),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "orthogonal weights": {
        "layers": [
            L.Dense(32, kernel_regularizer=fnn.regularizers.Orthogonality(0.01)),
            L.LayerNormalization(),
            L.Dense(32, "tanh"),
            L.Dense(CLASSES, "softmax"),
        ],
    },
    "a penalty on what is not divided": {
        "layers": [
            L.Dense(32, "tanh"),
            L.Dense(24, "tanh"),
            L.Dense(CLASSES, "softmax", kernel_regularizer=fnn.regularizers.L1(0.01)),
        ],
    },
    "decay by time": {
        "optimizer": fnn.optimizers.AdamW(
            fnn.schedules.LinearDecay(0.01, 1e-4, 12), weight_decay=0.1
        )
    },
}


def targets(name):
    X, y = data()
    if TASKS[name].get("loss", "cross_entropy") == "cross_entropy" and name != "one-hot":
        return X, y
    return X, (y == 1).astype(float)[:, None] if name == "yes or no" else np.eye(CLASSES)[y]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", TASKS)
def test_it_trains_as_one_thread_does(name, backend):
    if backend == "numba":
        pytest.importorskip("numba")
    X, y = targets(name)
    rng = np.random.default_rng(1)
    weights = rng.uniform(0.5, 2.0, len(X)) if name in ("labels", "numbers") else None
    found, options = [], dict(TASKS[name])
    mixup = options.pop("mixup", 0.0)
    for one in ("numpy", backend):
        model = make(backend=one, **options)
        model.fit(X, y, batch_size=BATCH, epochs=5, sample_weight=weights, mixup=mixup, verbose=0)
        found.append(model)
    assert runner_of(model).program.split.mode == "units"
    agree(*found)
    np.testing.assert_allclose(*(m._state.buffers for m in found), rtol=1e-8)


GRAPHS = {
    "read twice": lambda x, h: [L.Dense(CLASSES, "softmax")(h) for _ in range(2)],
    "past a layer": lambda x, h: [
        L.Dense(CLASSES, "softmax")(x + L.Dense(FEATURES, "tanh")(h)),
        L.Dense(CLASSES, "softmax")(L.Dense(FEATURES, "elu")(x)),
    ],
    "two halves": lambda x, h: [
        L.Dense(CLASSES, "softmax")(h * L.Dense(32, "sigmoid")(x)),
        L.Dense(CLASSES, "softmax")(fnn.maximum(h, L.Dense(32)(x))),
    ],
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_graphs_train_as_one_thread_does(graph):
    X, y = data()
    found = []
    for backend in ("numpy", "cython"):
        x = fnn.Input(FEATURES)
        model = fnn.Model(x, GRAPHS[graph](x, L.Dense(32, "tanh")(x)), seed=1)
        threads = 2 if backend == "cython" else None
        model.compile("cross_entropy", "adam", dtype="float64", threads=threads, backend=backend)
        model.fit(X, [y, y[::-1].copy()], batch_size=BATCH, epochs=3, verbose=0)
        found.append(model)
    assert runner_of(model).program.split.mode == "units"
    agree(*found)


@pytest.mark.parametrize("optimizer", sorted(fnn.optimizers.OPTIMIZERS))
def test_every_optimizer(optimizer):
    X, y = data()
    rule = fnn.optimizers.OPTIMIZERS[optimizer](learning_rate=0.01)
    found = [make(backend=b, optimizer=rule) for b in ("numpy", "cython")]
    for model in found:
        model.fit(X, y, batch_size=BATCH, epochs=3, verbose=0)
    assert runner_of(found[1]).program.split.mode == "units"
    agree(*found)


def stack(exchanges, units=96):
    """Layers whose threads exchange something so often in a step."""
    before = {
        1: [],
        2: [L.Dense(20, "tanh")],  # one sum each way
        3: [L.Dense(units, "elu"), L.Dense(units)],
        5: [
            L.Dense(units, use_bias=False),
            L.BatchNormalization(),
            L.Dropout(0.2),
            L.Dense(units, "elu"),
        ]
        * 2,
    }
    layers = [*before[exchanges], L.Dense(units, "tanh"), L.Dense(CLASSES, "softmax")]
    return [copy.deepcopy(layer) for layer in layers]


each_number_of_exchanges = pytest.mark.parametrize("exchanges", [1, 2, 3, 5])


@each_number_of_exchanges
def test_how_often_they_exchange(exchanges):
    model = make(layers=stack(exchanges))
    assert mode(model) == "units"
    names = [node.op.name for node in runner_of(model).program.nodes]
    assert names.count("sum_parts") == exchanges


@each_number_of_exchanges
@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_and_rows(threads, shuffle, dtype, exchanges):
    """Also rows that are read where they lie, and a last batch of five."""
    X, y = data(dtype=dtype)
    found = []
    for backend in ("numpy", "cython"):
        model = make(96, backend, threads, dtype=dtype, layers=stack(exchanges))
        model.fit(X, y, batch_size=BATCH, epochs=4, shuffle=shuffle, verbose=0)
        found.append(model)
    program = runner_of(model).program
    assert (program.split.mode, program.split.threads) == ("units", threads)
    agree(*found, 1e-10 if dtype == "float64" else 2e-5)


def test_gradients_of_many_rows_are_stored_before_weights_are_updated():
    X, y = data(rows=1300)
    found = []
    for backend in ("numpy", "cython"):
        model = make(backend=backend, layers=[L.Dense(32, "tanh"), L.Dense(32), *HIDDEN[1:]])
        model.fit(X, y, batch_size=600, epochs=3, verbose=0)
        found.append(model)
    program = runner_of(model).program
    assert program.split.mode == "units" and program.gradients == program.parameters
    agree(*found)


def test_single_steps_copy_no_large_weights(monkeypatch):
    """They would take longer than the step."""
    monkeypatch.undo()
    model = make(layers=[L.Dense(512, "relu"), L.Dense(512), L.Dense(CLASSES, "softmax")])
    X, y = data(rows=128)
    model.fit(X, y, batch_size=64, verbose=0)
    model.train_on_batch(X[:64], y[:64])
    fit, single = (r for r in model._runners.values() if r.program.purpose == "train")
    assert fit.program.split.mode == "units" and single.program.split.mode != "units"


@each_number_of_exchanges
def test_the_same_bits_every_time(exchanges):
    """Of more threads than there may be processors, which are never at the same place."""
    X, y = data(dtype="float32")
    found = []
    for _ in range(4):
        model = make(threads=3, dtype="float32", layers=stack(exchanges))
        model.fit(X, y, batch_size=8, epochs=100, verbose=0)
        found.append(model.parameters.copy())
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


# ------------------------------------------------------------------ what is seen between steps


@each_number_of_exchanges
def test_weights_are_the_model_s_between_runs(exchanges):
    """What is set is trained further, and what was trained is seen: by callbacks and one step."""
    X, y = data()
    seen = []

    class Look(fnn.callbacks.Callback):
        def on_epoch_end(self, model, epoch, logs):
            seen.append((model.parameters.copy(), model.evaluate(X, y)["loss"]))

    for backend in ("numpy", "cython"):
        model = make(backend=backend, layers=stack(exchanges))
        model.fit(X, y, batch_size=BATCH, epochs=2, callbacks=[Look()], verbose=0)
        model.set_weights([w * 0.5 for w in model.get_weights()])
        for start in (0, BATCH):
            model.train_on_batch(X[start : start + BATCH], y[start : start + BATCH])
            seen.append((model.parameters.copy(), model.evaluate(X, y)["loss"]))
    for (a, loss), (b, other) in zip(seen[:4], seen[4:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(loss, other, rtol=1e-10)


def test_batches_of_several_sizes_in_turn():
    """Each size has memory of its own, and all go on with the same weights."""
    X, y = data()
    found = []
    for backend in ("numpy", "cython"):
        model = make(backend=backend)
        for size in (BATCH, 16, BATCH, 50, 16):
            model.fit(X, y, batch_size=size, epochs=2, verbose=0)
        found.append(model)
    runners = [r for r in model._runners.values() if r.program.purpose == "train"]
    assert [r.program.split.mode for r in runners] == ["units"] * 3
    agree(*found)


@each_number_of_exchanges
@pytest.mark.parametrize("steps", [2, 3, 7])
def test_runs_may_end_at_any_step(steps, exchanges, monkeypatch):
    """A run whose time is over ends after a step that all threads have done."""
    X, y = data(rows=steps * BATCH)
    whole, cut = (make(layers=stack(exchanges)) for _ in range(2))
    whole.fit(X, y, batch_size=BATCH, epochs=5, verbose=0)
    monkeypatch.setattr(training, "SLICE", 0.0)
    runs = []
    run = type(runner_of(whole)).run

    def counted(self, *arguments, **options):
        runs.append(options["first"])
        return run(self, *arguments, **options)

    monkeypatch.setattr(type(runner_of(whole)), "run", counted)
    cut.fit(X, y, batch_size=BATCH, epochs=5, verbose=0)
    assert len(set(runs)) > 2  # each of a step or two
    np.testing.assert_array_equal(cut.parameters, whole.parameters)
    assert cut.history.history == whole.history.history


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_a_lost_loss(backend):
    X, y = data()
    X[2 * BATCH + 3] = 1e200  # squared by the loss
    model = make(backend=backend, loss="mean_squared_error", layers=[L.Dense(32), L.Dense(CLASSES)])
    with pytest.raises(fnn.NonFiniteLoss, match="step 2 ") as raised:
        model.fit(X, np.eye(CLASSES)[y], batch_size=BATCH, shuffle=False, verbose=0)
    assert raised.value.step == 2
    expected = make(backend="numpy", loss="mean_squared_error",
                    layers=[L.Dense(32), L.Dense(CLASSES)])  # fmt: skip
    # The loss of step 1 was the last finite one: that of the weights after step 0.
    expected.fit(X[:BATCH], np.eye(CLASSES)[y][:BATCH], batch_size=BATCH, shuffle=False, verbose=0)
    assert np.isfinite(model.parameters).all()
    np.testing.assert_allclose(model.parameters, expected.parameters, rtol=1e-10, atol=1e-12)


@each_number_of_exchanges
def test_a_thread_that_sees_another_loss_is_not_waited_for(exchanges):
    """As it may be where another part of a program changes the targets meanwhile."""
    X, y = data()
    model = make(layers=stack(exchanges))
    model.fit(X, y, batch_size=BATCH, verbose=0)
    lost = np.full(BATCH, np.nan)
    runner_of(model)._sums[1]["values"] = executor.address_of(lost)
    raised = []

    def fit():
        try:
            model.fit(X, y, batch_size=BATCH, epochs=3, verbose=0)
        except fnn.NonFiniteLoss as error:
            raised.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert [error.step for error in raised] in ([0], [1])  # thread 0 may find out a step later


def test_nothing_is_updated_where_one_thread_loses_the_loss():
    """Not even by what another has read of it after it left."""
    X, y = data(rows=BATCH)
    model = make(layers=stack(2))
    model.train_on_batch(X, y)
    *_, runner = (r for r in model._runners.values() if r.program.purpose == "train")
    assert runner.program.by_units
    lost = np.full(BATCH, np.nan)
    runner._sums[1]["values"] = executor.address_of(lost)
    before = [a.copy() for a in model._state.arrays]
    for _ in range(20):
        with contextlib.suppress(fnn.NonFiniteLoss):  # the other thread may find out too late
            model.train_on_batch(X, y)
        for array, kept in zip(model._state.arrays, before, strict=True):
            np.testing.assert_array_equal(array, kept)


def test_many_models_train_to_the_same_bits_as_alone():
    X, y = data()
    together, alone = (
        [*(make(units) for units in (32, 64)), make(layers=stack(3))] for _ in range(2)
    )
    fnn.fit_many(together, X, y, batch_size=BATCH, epochs=3, verbose=0)
    for one, other in zip(together, alone, strict=True):
        other.fit(X, y, batch_size=BATCH, epochs=3, verbose=0)
        assert runner_of(other).program.split.mode == "units"
        np.testing.assert_array_equal(one.parameters, other.parameters)


# ------------------------------------------------------------------ which networks

HIDDEN = [L.Dense(32, "relu"), L.Dense(CLASSES, "softmax")]
OTHERS = {
    "no hidden layer": {"layers": [HIDDEN[1]]},
    "numbers drawn in fours": {"layers": [L.Dense(36, "relu"), L.Dropout(0.1), HIDDEN[1]]},
    "rows normalized": {"layers": [HIDDEN[0], L.LayerNormalization(), HIDDEN[1]]},
    "softmax inside": {"layers": [L.Dense(32, "softmax"), HIDDEN[1]]},
    "a penalty": {"layers": [L.Dense(32, "relu", kernel_regularizer=0.01), HIDDEN[1]]},
    "a constraint": {
        "layers": [L.Dense(32, kernel_constraint=fnn.constraints.MaxNorm(1.0)), HIDDEN[1]]
    },
    "clipping": {"optimizer": fnn.optimizers.SGD(0.1, clip_norm=1.0)},
    "averaged weights": {"optimizer": fnn.optimizers.SGD(0.1, ema=0.9)},
    "units that leave a rest": {"units": 49},
    "few units": {"units": 30},
    "much to copy": {"units": 22_000},
    "results for any threads": {"deterministic": "any-threads"},
    "one thread": {"threads": 1},
}


def test_which_networks_are_divided():
    assert mode(make()) == "units"
    assert mode(make(32)) == "units"
    for name, options in OTHERS.items():
        assert mode(make(**options)) != "units", name


def test_which_networks_are_best_divided_so(monkeypatch):
    """By the estimate: where the rows are not so many that what all threads repeat for each is more
    than the gradients that they would add, and the weights fewer than would take long to copy."""
    monkeypatch.undo()

    def way(inputs, units, rows, depth=1):
        layers = [L.Dense(units, "relu") for _ in range(depth)]
        model = fnn.Sequential([fnn.Input(inputs), *layers, L.Dense(10, "softmax")])
        model.compile("cross_entropy", threads=2)
        return str(model.explain(rows)).split("threads: ")[1].split(";")[0]

    assert way(64, 64, 32) == way(30, 128, 32) == "units"
    assert way(64, 64, 256) == "units" and way(64, 64, 1024) == "shard"
    assert way(784, 128, 64) == way(64, 128, 64, depth=8) == way(784, 512, 128, depth=2) == "units"
    assert way(784, 2048, 256, depth=2) == "split"


@pytest.mark.parametrize("twice", [
    lambda x, shared: shared(shared(x)),
    lambda x, shared: shared(x) + shared(L.Dense(32, "tanh")(x)),
], ids=["in a row", "side by side"])  # fmt: skip
def test_one_layer_used_twice(twice):
    """In a row its weights would have to be divided in both ways."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(70, 32)), rng.integers(0, CLASSES, 70)
    found = []
    for backend in ("numpy", "cython"):
        x = fnn.Input(32)
        model = fnn.Model(x, L.Dense(CLASSES, "softmax")(twice(x, L.Dense(32, "tanh"))), seed=1)
        threads = 2 if backend == "cython" else None
        model.compile("cross_entropy", "adam", dtype="float64", threads=threads, backend=backend)
        model.fit(X, y, batch_size=BATCH, epochs=3, verbose=0)
        found.append(model)
    agree(*found)


# ------------------------------------------------------------------ its program


def test_verify_finds_what_one_thread_changes_of_what_all_make_alike():
    """A worker keeps one copy of it for its threads, of which the first to come would change it."""
    model = make(layers=[*(L.Dense(48, "tanh") for _ in range(3)), L.Dense(CLASSES, "softmax")])
    assert mode(model) == "units"
    program = runner_of(model).program
    program.verify()
    (i,) = (i for i, node in enumerate(program.nodes) if node.op.name == "activation_grad")
    assert i in program.repeated
    with pytest.raises(ValueError, match=rf"call {i} .*changes what all threads make alike"):
        replace(program, repeated=program.repeated - {i}).verify()


def test_verify_finds_exchanges_that_overtake_each_other():
    """Two pieces of memory serve all: what is written next must not be what is still read."""
    model = make(layers=[L.Dense(32, "tanh"), L.Dense(32), L.Dense(32, "tanh"), *HIDDEN])
    assert mode(model) == "units"
    program = runner_of(model).program
    sums = [i for i, node in enumerate(program.nodes) if node.op.name == "sum_parts"]
    assert len(sums) == 3  # two forward, and one for what is behind the first two layers
    nodes = list(program.nodes)
    last = nodes.pop(sums[1])
    nodes.insert(sums[0], last)
    with pytest.raises(ValueError, match="written and read in turn"):
        replace(program, nodes=tuple(nodes))._verify_meeting()
    del nodes[sums[0]]
    with pytest.raises(ValueError, match="written and read in turn"):
        replace(program, nodes=tuple(nodes))._verify_meeting()


def test_what_each_thread_repeats_is_counted_once():
    model = make(layers=[L.Dense(32, "tanh"), L.Dense(32, "tanh"), L.Dense(CLASSES, "softmax")])
    assert mode(model) == "units"
    program = runner_of(model).program
    products = [n for n in program.nodes if n.op.name.startswith("dense")]
    whole = [n for n in program.unsharded().nodes if n.op.name.startswith("dense")]
    assert len(products) == len(whole)
    flops = [sum(p.cost(n, BATCH).flops for n in nodes)
             for p, nodes in ((program, products), (program.unsharded(), whole))]  # fmt: skip
    assert flops[0] == flops[1]


def test_the_program():
    model = make(48)
    assert mode(model) == "units"
    program = runner_of(model).program
    program.verify()
    program.unsharded().verify()
    size = (FEATURES + 1 + CLASSES) * 24 + CLASSES
    assert program.parameters == size and program.unsharded().parameters == model.parameters.size
    assert program.peak_bytes["threads' own weights and state"] == 2 * 3 * 8 * size
    text = str(model.explain(BATCH))
    assert "units" in text and f"2xBx{CLASSES} {CLASSES} -> Bx{CLASSES}" in text
    names = [row[2] for row in model.explain(BATCH).rows]
    assert names.count("sum_parts") == 1 and names.count("dense_update[adam]") == 2
    assert len(model.profile(*data(), batch_size=BATCH, seconds=0.01).rows) == len(names) + 1
