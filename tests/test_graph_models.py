"""Models that are graphs: merges, several inputs and outputs, shared layers, gradients by inputs.

What NumPy, PyTorch, central differences and the blackboard say, and what bad graphs raise.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import pickle
import re

import numpy as np
import pytest

import fastnn as fnn
from fastnn import ensembles, inspection, validation
from fastnn.layers.base import Layer

L = fnn.layers
SGD = fnn.optimizers.SGD
N = 20

each_backend = pytest.mark.parametrize("backend", ["numpy", "cython"])
both_types = pytest.mark.parametrize("dtype", ["float32", "float64"])


def model_of(inputs, outputs, loss="mean_squared_error", optimizer="sgd", *, seed=0, **options):
    """A compiled model, in float64 unless asked otherwise."""
    model = fnn.Model(inputs, outputs, seed=seed)
    model.compile(loss, optimizer, **({"dtype": "float64"} | options))
    return model


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def same(a, b):
    np.testing.assert_array_equal(a, b)


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def spread_weights(model, seed=7):
    """Weights of which none, biases included, is at a special point."""
    rng = np.random.default_rng(seed)
    model.parameters[:] = rng.uniform(0.2, 0.8, model.parameters.size) * rng.choice(
        [-1, 1], model.parameters.size
    )
    return model


# ---- merges -------------------------------------------------------------------------------------

#: name -> (what NumPy says, numbers of inputs)
MERGES = {
    "Add": (lambda *xs: functools.reduce(np.add, xs), (2, 3, 4)),
    "Subtract": (np.subtract, (2,)),
    "Multiply": (lambda *xs: functools.reduce(np.multiply, xs), (2, 3, 4)),
    "Maximum": (lambda *xs: functools.reduce(np.maximum, xs), (2, 3, 4)),
    "Minimum": (lambda *xs: functools.reduce(np.minimum, xs), (2, 3, 4)),
    "Average": (lambda *xs: np.mean(xs, axis=0), (2, 3, 4)),
    "Concatenate": (lambda *xs: np.concatenate(xs, axis=-1), (2, 3, 4)),
}
COUNTS = [(name, count) for name, (_, counts) in MERGES.items() for count in counts]

each_merge = pytest.mark.parametrize("name", MERGES)
each_count = pytest.mark.parametrize("name, count", COUNTS)


def test_every_merge_is_compared():
    kinds = {c.__name__ for c in vars(L).values() if isinstance(c, type) and issubclass(c, L.Merge)}
    assert set(MERGES) == kinds - {"Merge"}


@each_backend
@both_types
@each_count
def test_merges_are_what_numpy_says(name, count, dtype, backend):
    define, _ = MERGES[name]
    shape = (7,) if name == "Concatenate" else (2, 3)
    sources = [fnn.Input(shape) for _ in range(count)]
    model = model_of(sources, getattr(L, name)()(*sources), dtype=dtype, backend=backend)
    arrays = [normal(N, *shape, seed=i).astype(dtype) for i in range(count)]
    expected = define(*arrays)
    found = model.predict(arrays)
    assert found.shape == expected.shape and found.dtype == dtype
    close(found, expected, 4 * np.finfo(dtype).eps)


@each_backend
def test_concatenated_inputs_may_differ_in_length(backend):
    sizes = (1, 5, 17, 2)
    sources = [fnn.Input(size) for size in sizes]
    model = model_of(sources, fnn.concatenate(*sources), backend=backend)
    arrays = [normal(N, size, seed=size) for size in sizes]
    same(model.predict(arrays), np.concatenate(arrays, axis=1))
    cotangent = model.input_gradients(arrays, np.zeros((N, sum(sizes))))
    for array, gradient in zip(arrays, cotangent, strict=True):
        close(gradient, 2 * array / sum(sizes) / N)


#: Written with operators and functions: the same text for symbols and for arrays.
EXPRESSIONS = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "-a": lambda a, b: -a + 0 * b,
    "a + 2": lambda a, b: (a + 2) * b,
    "2 + a": lambda a, b: (2 + a) * b,
    "a - 2": lambda a, b: (a - 2) * b,
    "2 - a": lambda a, b: (2 - a) * b,
    "a * 3": lambda a, b: a * 3 + b,
    "3 * a": lambda a, b: 3 * a + b,
    "0 * a": lambda a, b: 0 * a + b,
    "NumPy's numbers": lambda a, b: np.float64(1.5) * a + (np.float32(0.5) - b) * np.int64(2),
    "a + a": lambda a, b: a + a + b,
    "a - a": lambda a, b: (a - a) + b,
    "a * a": lambda a, b: a * a * b * b,
    "a used often": lambda a, b: (a + b) * (a - b) * (2 - a) + -(b * a) - 0.5 * a,
}


@each_backend
@pytest.mark.parametrize("write", EXPRESSIONS.values(), ids=list(EXPRESSIONS))
def test_operators_compute_what_they_do_for_arrays(write, backend):
    a, b = fnn.Input(5), fnn.Input(5)
    model = model_of([a, b], write(a, b), backend=backend)
    X = normal(N, 5), normal(N, 5, seed=1)
    close(model.predict(X), write(*X))
    differences = [
        (write(*(x + 1e-6 * (i == j) for j, x in enumerate(X)))
         - write(*(x - 1e-6 * (i == j) for j, x in enumerate(X)))) / 2e-6
        for i in range(2)
    ]  # fmt: skip
    for gradient, numeric in zip(model.input_gradients(X), differences, strict=True):
        close(gradient, numeric, 1e-7)


@pytest.mark.parametrize("name", ["Maximum", "Minimum", "Average", "Concatenate"])
def test_functions_are_the_layers(name):
    sources = [fnn.Input(4) for _ in range(3)]
    symbol = getattr(fnn, name.lower())(*sources)
    assert type(symbol.layer) is getattr(L, name) and symbol.inputs == tuple(sources)
    arrays = [normal(N, 4, seed=i) for i in range(3)]
    close(model_of(sources, symbol).predict(arrays), MERGES[name][0](*arrays))


@each_backend
def test_among_equal_values_the_gradient_is_divided(backend):
    a, b = fnn.Input(3), fnn.Input(3)
    X = [np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 5.0, -5.0]])]
    for merge, left in ((fnn.maximum, [0.5, 0, 1]), (fnn.minimum, [0.5, 1, 0])):
        by_a, by_b = model_of([a, b], merge(a, b), backend=backend).input_gradients(X)
        same(by_a, [left])
        same(by_b, 1 - np.array([left]))


@each_backend
@each_count
def test_gradients_through_merges_are_those_of_the_loss(name, count, backend):
    x = fnn.Input(4)
    branches = [L.Dense(3, "tanh", kernel_regularizer=0.01)(x) for _ in range(count)]
    model = spread_weights(model_of(x, getattr(L, name)()(branches), backend=backend))
    y = normal(N, 3 * count if name == "Concatenate" else 3, seed=2)
    fnn.check_gradients(model, normal(N, 4), y).raise_if_wrong()


def everything(**options):
    """Two inputs, two outputs, every merge, a shared layer, a residual connection."""
    a, b = fnn.Input(4, name="a"), fnn.Input((2, 3), name="b")
    shared = L.Dense(5, "tanh")
    first = L.Dense(6, "sigmoid")(a)
    second = L.Dense(6, "tanh")(L.Flatten()(b))
    left, right = shared(first), shared(second - 0.5)
    joined = fnn.maximum(left, right) * fnn.minimum(left, 1 - right)
    joined = fnn.average(joined, left, -right) + L.Dense(5, "tanh")(joined)
    outputs = {
        "kind": L.Dense(3, "softmax")(fnn.concatenate(joined, a)),
        "size": L.Dense(2)(joined * left + right),
    }
    return model_of(
        [a, b],
        outputs,
        {"kind": "cross_entropy", "size": "mean_squared_error"},
        **({"loss_weights": {"kind": 0.5, "size": 2.0}} | options),
    )


def everything_data(n=70, dtype="float64"):
    rng = np.random.default_rng(3)
    X = {"a": rng.normal(size=(n, 4)), "b": rng.normal(size=(n, 2, 3))}
    y = {"kind": rng.integers(0, 3, n), "size": rng.normal(size=(n, 2)).astype(dtype)}
    return {k: v.astype(dtype) for k, v in X.items()}, y


def rows_of(data, rows):
    return {name: array[rows] for name, array in data.items()}


@each_backend
def test_gradients_of_a_model_that_uses_everything(backend):
    model = spread_weights(everything(backend=backend))
    weights = np.random.default_rng(5).uniform(0, 2, N)
    X, y = everything_data(N)
    fnn.check_gradients(model, X, y, sample_weight=weights, samples=50).raise_if_wrong()


@each_backend
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_a_hundred_steps_agree_with_pytorch(rule, backend):
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _compare_with_pytorch(torch, rule, backend)
    finally:
        torch.set_num_threads(threads)


def _compare_with_pytorch(torch, rule, backend):
    optimizer = SGD(0.05) if rule == "sgd" else fnn.optimizers.Adam(0.01)
    model = spread_weights(everything(optimizer=optimizer, backend=backend))
    mine = {placed.name: w for placed, w in zip(model._chain.weights, model.get_weights(),
                                                 strict=True)}  # fmt: skip
    theirs = [torch.tensor(w.copy(), requires_grad=True) for w in mine.values()]
    kernels = dict(zip([n.removesuffix(".kernel") for n in mine if n.endswith("kernel")],
                       zip(theirs[::2], theirs[1::2], strict=True), strict=True))  # fmt: skip
    widths = [(4, 6), (6, 5), (6, 6), (5, 5), (9, 3), (5, 2)]
    assert [tuple(W.shape) for W, _ in kernels.values()] == widths
    into_first, shared, into_second, inner, to_kind, to_size = kernels.values()

    def dense(x, weights):
        return x @ weights[0] + weights[1]

    def network(a, b):
        first = torch.sigmoid(dense(a, into_first))
        second = torch.tanh(dense(b.flatten(1), into_second))
        left, right = torch.tanh(dense(first, shared)), torch.tanh(dense(second - 0.5, shared))
        joined = torch.maximum(left, right) * torch.minimum(left, 1 - right)
        joined = (joined + left - right) / 3 + torch.tanh(dense(joined, inner))
        return dense(torch.cat([joined, a], 1), to_kind), dense(joined * left + right, to_size)

    X, y = everything_data()
    v = np.random.default_rng(4).uniform(0, 2, 70)
    make = torch.optim.SGD if rule == "sgd" else torch.optim.Adam
    theirs_optimizer = make(theirs, 0.05 if rule == "sgd" else 0.01)
    starts = itertools.cycle(range(0, 70, 32))
    found, expected, start = [], [], model.parameters.copy()
    for begin in itertools.islice(starts, 102):
        rows = slice(begin, begin + 32)
        found.append(model.train_on_batch(rows_of(X, rows), rows_of(y, rows), v[rows]))
        theirs_optimizer.zero_grad()
        logits, numbers = network(*(torch.tensor(X[k][rows]) for k in "ab"))
        kind = torch.nn.functional.cross_entropy(
            logits, torch.tensor(y["kind"][rows]), reduction="none"
        )
        size = ((numbers - torch.tensor(y["size"][rows])) ** 2).mean(1)
        loss = (torch.tensor(v[rows]) * (0.5 * kind + 2.0 * size)).mean()
        loss.backward()
        theirs_optimizer.step()
        expected.append(loss.item())
    close(found, expected, 1e-9)
    assert np.abs(model.parameters - start).max() > 0.1
    for w, theirs_w in zip(model.get_weights(), theirs, strict=True):
        close(w, theirs_w.detach().numpy(), 1e-9)


# ---- backends and threads -----------------------------------------------------------------------


def trained(epochs=12, **options):
    """A model that has been trained, its history, predictions, and gradients by its inputs."""
    dtype = options.setdefault("dtype", "float64")
    model = everything(optimizer=fnn.optimizers.Adam(0.01), metrics={"kind": "accuracy"}, **options)
    X, y = everything_data(dtype=dtype)
    weights = np.random.default_rng(6).uniform(0, 2, 70)
    history = model.fit(X, y, batch_size=32, epochs=epochs, sample_weight=weights, verbose=0)
    predicted = model.predict(X)
    gradients = [*model.input_gradients(X), *model.input_gradients(X, y, sample_weight=weights)]
    curves = np.array(list(history.history.values()))
    return [model.parameters.copy(), curves, *predicted.values(), *gradients]


@both_types
@pytest.mark.parametrize("threads", [1, 2])
def test_backends_agree(threads, dtype):
    found = trained(dtype=dtype, threads=threads)
    expected = trained(dtype=dtype, backend="numpy")
    tolerance = {"float64": 1e-11, "float32": 2e-4}[dtype]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@both_types
def test_any_threads_give_the_same_bits(dtype):
    one, two = (
        trained(dtype=dtype, threads=threads, deterministic="any-threads") for threads in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        same(a, b)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_bits(threads):
    for a, b in zip(trained(threads=threads), trained(threads=threads), strict=True):
        same(a, b)


def test_another_seed_gives_other_weights():
    x = fnn.Input(3)
    outputs = L.Dense(4)(x)
    one, again, other = (fnn.Model(x, outputs, seed=seed) for seed in (1, 1, 2))
    same(one.parameters, again.parameters)
    assert (one.get_weights()[0] != other.get_weights()[0]).all()


# ---- a Model and a Sequential -------------------------------------------------------------------


def stack():
    return [
        L.Rescaling(0.5, 0.1),
        L.Dense(9, "relu", kernel_regularizer=0.01),
        L.BatchNormalization(),
        L.Dropout(0.3),
        L.LayerNormalization(),
        L.GaussianNoise(0.1),
        L.Dense(3, "softmax", kernel_constraint="max_norm"),
    ]


@each_backend
@pytest.mark.parametrize("threads", [1, None])
def test_a_chain_is_a_sequential_bit_for_bit(threads, backend):
    x = fnn.Input(6)
    symbol = x
    for layer in stack():
        symbol = layer(symbol)
    models = fnn.Model(x, symbol, seed=5), fnn.Sequential([fnn.Input(6), *stack()], seed=5)
    X, y = normal(70, 6), np.arange(70) % 3
    found = []
    for model in models:
        model.compile("cross_entropy", "adam", "accuracy", backend=backend, threads=threads)
        history = model.fit(X, y, batch_size=32, epochs=5, verbose=0, validation_split=0.2)
        loss, gradients = model.loss_and_gradients(X, y)
        found.append(
            [history.history, model.get_weights(), model.evaluate(X, y), model.predict(X), loss,
             gradients, model.input_gradients(X), str(model.summary()), str(model.explain())]
        )  # fmt: skip
    np.testing.assert_equal(*found)


# ---- residual connections -----------------------------------------------------------------------


@each_backend
def test_a_residual_connection_passes_gradients_unchanged(backend):
    x = fnn.Input(4)
    model = model_of(x, x + L.Dense(4, kernel_initializer="zeros")(x), backend=backend)
    X = normal(N, 4)
    same(model.predict(X), X)
    same(model.input_gradients(X), np.ones((N, 4)))
    W = model.get_weights()[0]
    W[:] = normal(4, 4, seed=1)
    close(model.predict(X), X + X @ W)
    close(model.input_gradients(X), np.tile(1 + W.sum(axis=1), (N, 1)))


def test_a_hundred_residual_blocks_keep_the_gradient_that_a_chain_loses():
    def depth(join):
        x = symbol = fnn.Input(4)
        for _ in range(100):
            symbol = join(symbol, L.Dense(4, "sigmoid")(symbol))
        return model_of(x, symbol)

    X, y = normal(N, 4), normal(N, 4, seed=1)
    lengths = []
    for join in (lambda x, y: x + 0.1 * y, lambda x, y: y):
        model = depth(join)
        lengths.append(np.abs(model.loss_and_gradients(X, y)[1][0]).max())
    assert lengths[0] > 1e-3 and lengths[1] < 1e-20


@each_backend
def test_residual_networks_learn(backend):
    """The parity of three bits, which no layer alone can tell."""
    X = np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    y = X.sum(axis=1).astype(int) % 2
    x = fnn.Input(3)
    hidden = L.Dense(16, "tanh")(x)
    for _ in range(3):
        hidden = hidden + L.Dense(16, "tanh")(hidden)
    model = model_of(
        x, L.Dense(2, "softmax")(hidden), "cross_entropy", fnn.optimizers.Adam(0.01),
        metrics="accuracy", backend=backend,
    )  # fmt: skip
    assert model.fit(X, y, epochs=150, verbose=0).history["accuracy"][-1] == 1


# ---- several inputs and outputs -----------------------------------------------------------------


def two_by_two(*, named=True, inputs_named=True, seed=0, **options):
    """Two inputs, a classifier and a regressor on a common layer."""
    a, b = (fnn.Input(n, name=name if inputs_named else None) for n, name in ((4, "a"), (3, "b")))
    common = L.Dense(6, "tanh")(fnn.concatenate(a, b))
    kind, size = L.Dense(3, "softmax")(common), L.Dense(2)(common + L.Dense(6)(a))
    outputs = {"kind": kind, "size": size} if named else [kind, size]
    return model_of(
        [a, b],
        outputs,
        ["cross_entropy", "mean_squared_error"],
        **({"optimizer": SGD(0.1)} | options),
        seed=seed,
    )


def two_by_two_data(n=50):
    rng = np.random.default_rng(8)
    X = [rng.normal(size=(n, 4)), rng.normal(size=(n, 3))]
    return X, [rng.integers(0, 3, n), rng.normal(size=(n, 2))]


def losses_by_hand(predicted, y, w=1.0):
    kind, size = predicted
    each = -np.log(kind[np.arange(len(kind)), y[0]]), ((size - y[1]) ** 2).mean(axis=1)
    return [float(np.mean(w * rows)) for rows in each]


def test_data_are_given_as_lists_or_by_name():
    X, y = two_by_two_data()
    by_name = {"b": X[1], "a": X[0]}, {"size": y[1], "kind": y[0]}  # in any order
    found = []
    for form in ((X, y), (tuple(X), tuple(y)), by_name, (X, by_name[1]), (by_name[0], y)):
        model = two_by_two()
        history = model.fit(*form, epochs=3, verbose=0)
        found.append((history.history, model.evaluate(*form), model.predict(form[0])))
    for other in found[1:]:
        np.testing.assert_equal(other, found[0])


def test_predictions_come_as_outputs_were_given():
    X, _ = two_by_two_data()
    named, listed = two_by_two().predict(X), two_by_two(named=False).predict(X)
    assert list(named) == ["kind", "size"] and isinstance(listed, list)
    assert [p.shape for p in listed] == [(50, 3), (50, 2)]
    for a, b in zip(named.values(), listed, strict=True):
        same(a, b)
    for batch_size in (1, 7, 50):
        close(two_by_two().predict(X, batch_size=batch_size)["size"], named["size"])


def test_inputs_without_names_are_numbered():
    X, y = two_by_two_data()
    model = two_by_two(inputs_named=False)
    same(model.predict({"input_0": X[0], "input_1": X[1]})["kind"], model.predict(X)["kind"])
    with pytest.raises(ValueError, match=re.escape("X: expected the names ['input_0', 'input_1']")):
        model.fit({"a": X[0], "b": X[1]}, y)


def test_one_input_and_one_output_may_have_names_too():
    x = fnn.Input(3, name="x")
    X, y = normal(N, 3), normal(N, 2)
    named, plain = model_of(x, {"y": L.Dense(2)(x)}), model_of(x, L.Dense(2)(x))
    for form in ({"x": X}, X):
        same(named.predict(form)["y"], plain.predict(form))
    for model, target in ((named, {"y": y}), (named, y)):
        model.compile("mean_squared_error", dtype="float64")
        assert model.evaluate(X, target) == plain.evaluate(X, y)
    assert list(named.fit(X, {"y": y}, verbose=0).history) == ["loss"]


def test_examples_and_outputs_of_any_shape():
    a, b = fnn.Input((2, 3)), fnn.Input((2, 3))
    model = model_of([a, b], [a * b, L.Flatten()(a)])
    X = normal(N, 2, 3), normal(N, 2, 3, seed=1)
    product, flat = model.predict(X)
    same(product, X[0] * X[1])
    same(flat, X[0].reshape(N, 6))
    for gradient, expected in zip(model.input_gradients(X), (X[1] + 1, X[0]), strict=True):
        close(gradient, expected)


@each_backend
def test_the_loss_is_the_weighted_sum_and_each_output_has_its_own(backend):
    X, y = two_by_two_data()
    w = np.random.default_rng(9).uniform(0, 2, 50)
    model = two_by_two(
        loss_weights={"kind": 0.25, "size": 3.0},
        metrics={"kind": ["accuracy"], "size": "mean_absolute_error"},
        backend=backend,
    )
    predicted = list(model.predict(X).values())
    for weights, factor in ((None, 1.0), (w, w)):
        logs = model.evaluate(X, y, sample_weight=weights)
        kind, size = losses_by_hand(predicted, y, factor)
        assert list(logs) == [
            "loss", "kind_loss", "kind_accuracy", "size_loss", "size_mean_absolute_error",
        ]  # fmt: skip
        close([logs["kind_loss"], logs["size_loss"]], [kind, size])
        close(logs["loss"], 0.25 * kind + 3.0 * size)
        close(logs["kind_accuracy"], (predicted[0].argmax(axis=1) == y[0]).mean())
        close(logs["size_mean_absolute_error"], np.abs(predicted[1] - y[1]).mean())
        close(model.loss_and_gradients(X, y, weights)[0], logs["loss"])
    assert model.train_on_batch(X, y) == pytest.approx(model_loss(predicted, y, (0.25, 3)))


def model_loss(predicted, y, factors):
    return sum(f * one for f, one in zip(factors, losses_by_hand(predicted, y), strict=True))


def test_names_say_which_output_is_meant_in_any_order():
    X, y = two_by_two_data()
    a, b = fnn.Input(4), fnn.Input(3)
    outputs = {"kind": L.Dense(3, "softmax")(a), "size": L.Dense(2)(fnn.concatenate(a, b))}
    model = model_of(
        [a, b],
        outputs,
        {"size": "mean_absolute_error", "kind": "cross_entropy"},
        loss_weights={"size": 3.0, "kind": 0.25},
        metrics={"size": "mean_squared_error"},
    )
    kind, size = model.predict(X).values()
    logs = model.evaluate(X, y)
    assert list(logs) == ["loss", "kind_loss", "size_loss", "size_mean_squared_error"]
    by_kind = -np.log(kind[np.arange(50), y[0]]).mean()
    close(logs["loss"], 0.25 * by_kind + 3.0 * np.abs(size - y[1]).mean())
    close(logs["size_mean_squared_error"], np.square(size - y[1]).mean())


def test_outputs_without_names_are_numbered_in_logs():
    X, y = two_by_two_data()
    model = two_by_two(named=False, loss_weights=[2, 1])
    logs = model.evaluate(X, y)
    assert list(logs) == ["loss", "output_0_loss", "output_1_loss"]
    close(logs["loss"], 2 * logs["output_0_loss"] + logs["output_1_loss"])
    by_name = {"output_0": y[0], "output_1": y[1]}
    assert model.evaluate(X, by_name) == logs


def test_penalties_are_in_the_loss_and_not_weighted():
    x = fnn.Input(3)
    hidden = L.Dense(4, kernel_regularizer=fnn.regularizers.L2(0.5))(x)
    model = model_of(x, [L.Dense(1)(hidden), L.Dense(2)(hidden)], loss_weights=[3, 5])
    logs = model.evaluate(normal(N, 3), [normal(N, 1), normal(N, 2)])
    penalty = 0.25 * (model.get_weights()[0] ** 2).sum()
    assert list(logs) == ["loss", "output_0_loss", "output_1_loss"]
    close(logs["loss"], 3 * logs["output_0_loss"] + 5 * logs["output_1_loss"] + penalty)


@each_backend
def test_gradients_of_several_losses_are_the_weighted_sum_of_those_of_each(backend):
    X, y = two_by_two_data()
    w = np.random.default_rng(9).uniform(0, 2, 50)
    both = two_by_two(loss_weights=[0.25, 3.0], backend=backend)
    _, found = both.loss_and_gradients(X, y, w)
    total = np.zeros_like(both.parameters)
    for keep in range(2):
        one = two_by_two(loss_weights=[1.0, 1e-200][:: 1 - 2 * keep], backend=backend)
        _, gradients = one.loss_and_gradients(X, y, w)
        total += (0.25, 3.0)[keep] * np.concatenate([g.ravel() for g in gradients])
    close(np.concatenate([g.ravel() for g in found]), total, 1e-13)
    before = both.parameters.copy()
    both.train_on_batch(X, y, w)  # SGD(0.1)
    close(both.parameters, before - 0.1 * total, 1e-13)


def test_one_output_is_a_part_of_the_model_with_several():
    """A second output of weight w adds w times its gradient, to the layers that it stands on."""
    x = fnn.Input(4)
    common = L.Dense(5, "tanh")
    first, second = L.Dense(3, "softmax"), L.Dense(2)
    hidden = common(x)
    both = model_of(
        x, [first(hidden), second(hidden)], ["cross_entropy", "mse"], loss_weights=[1, 0.5]
    )
    one = model_of(x, first(hidden), "cross_entropy")
    other = model_of(x, second(hidden))
    W, b, V, c, U, d = both.get_weights()
    one.set_weights([W, b, V, c])
    other.set_weights([W, b, U, d])
    X, y = normal(N, 4), [np.arange(N) % 3, normal(N, 2)]
    _, (dW, _, dV, _, dU, _) = both.loss_and_gradients(X, y)
    _, (dW_one, _, dV_one, _) = one.loss_and_gradients(X, y[0])
    _, (dW_other, _, dU_other, _) = other.loss_and_gradients(X, y[1])
    close(dW, dW_one + 0.5 * dW_other)
    close(dV, dV_one)
    close(dU, 0.5 * dU_other)


def test_an_output_may_stand_on_another_or_be_there_twice():
    x = fnn.Input(3)
    hidden = L.Dense(2, "tanh")(x)
    outputs = [hidden, hidden, L.Dropout(0.5)(hidden), L.Dense(1)(hidden)]
    model = spread_weights(model_of(x, outputs))
    X = normal(N, 3)
    one, again, dropped, _ = model.predict(X)
    same(one, again)
    same(one, dropped)
    check_input_gradients(model, X)
    y = [normal(N, 2, seed=i) for i in range(3)] + [normal(N, 1)]
    fnn.check_gradients(model, X, y).raise_if_wrong()


def test_one_loss_and_one_list_of_metrics_serve_all_outputs():
    x = fnn.Input(3)
    model = model_of(x, [L.Dense(1)(x), L.Dense(2)(x)], "mse", metrics=["mean_absolute_error"])
    logs = model.evaluate(normal(N, 3), [normal(N), normal(N, 2)])
    assert list(logs) == [
        "loss", "output_0_loss", "output_0_mean_absolute_error", "output_1_loss",
        "output_1_mean_absolute_error",
    ]  # fmt: skip


@pytest.mark.parametrize("form", [list, dict], ids=["lists", "dicts"])
def test_rows_are_held_out_of_all_inputs_and_outputs(form):
    X, y = two_by_two_data()
    v = np.random.default_rng(9).uniform(0, 2, 50)
    if form is dict:
        X, y = dict(zip("ab", X, strict=True)), dict(zip(("kind", "size"), y, strict=True))

    def part(data, rows):
        return rows_of(data, rows) if form is dict else [array[rows] for array in data]

    kept, held = slice(0, 40), slice(40, 50)
    split, given = (two_by_two(metrics={"kind": "accuracy"}) for _ in range(2))
    found = split.fit(X, y, epochs=3, validation_split=0.2, sample_weight=v, verbose=0)
    expected = given.fit(
        part(X, kept), part(y, kept), epochs=3, sample_weight=v[kept], verbose=0,
        validation_data=(part(X, held), part(y, held), v[held]),
    )  # fmt: skip
    assert found.history == expected.history
    same(split.parameters, given.parameters)
    names = ["loss", "kind_loss", "kind_accuracy", "size_loss"]
    assert list(found.history) == names + [f"val_{name}" for name in names]
    last = split.evaluate(part(X, held), part(y, held), sample_weight=v[held])
    assert {f"val_{k}": v for k, v in last.items()} == {
        k: values[-1] for k, values in found.history.items() if k.startswith("val_")
    }


def test_a_graph_says_what_it_is_made_of():
    shared, x, y = L.Dense(3), fnn.Input(3), fnn.Input(3)
    model = fnn.Model([x, y], {"sum": shared(x) + shared(y)})
    assert model.layers[0] is shared and len(model.layers) == 2
    assert repr(model) == "<Model of input_0, input_1 -> sum: Dense, Add>"


def test_an_output_can_be_monitored():
    X, y = two_by_two_data()
    model = two_by_two(optimizer=SGD(1e-300))
    stop = fnn.callbacks.EarlyStopping(monitor="val_size_loss", patience=3)
    history = model.fit(X, y, epochs=50, validation_split=0.2, callbacks=[stop], verbose=0)
    assert stop.best == history.history["val_size_loss"][0] and len(history.epoch) == 4


def test_batches_as_they_come():
    X, y = two_by_two_data()
    parts = [slice(start, start + 16) for start in range(0, 50, 16)]
    batches = [([x[p] for x in X], {"kind": y[0][p], "size": y[1][p]}) for p in parts]
    found, expected = two_by_two(), two_by_two()
    history = found.fit_batches(batches, epochs=2, verbose=0, validation_data=(X, y))
    reference = expected.fit(X, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    same(found.parameters, expected.parameters)
    for name, values in reference.history.items():
        close(history.history[name], values)
    assert {"val_loss", "val_kind_loss", "val_size_loss"} < set(history.history)


def test_all_rows_at_once():
    X, y = two_by_two_data()
    model = two_by_two(metrics={"kind": "accuracy"})
    logs = model.fit(X, y, optimizer="lbfgs", epochs=20, verbose=0).history
    assert set(logs) == {"loss", "kind_loss", "size_loss", "kind_accuracy"}
    close(np.array(logs["loss"]), np.array(logs["kind_loss"]) + logs["size_loss"], 1e-9)
    assert logs["loss"][-1] < 0.7 * logs["loss"][0]


@each_backend
def test_a_lost_loss_is_found_in_any_output(backend):
    X, y = two_by_two_data()
    model = two_by_two(backend=backend)
    model.get_weights()[-1][:] = 1e200
    before = model.parameters.copy()
    with pytest.raises(fnn.NonFiniteLoss, match="pointwise_loss"):
        model.fit(X, y, verbose=0)
    same(model.parameters, before)


# ---- shared layers ------------------------------------------------------------------------------


def twins(share, *, sequential, layer, **options):
    """A layer applied twice, or two layers."""
    one = layer()
    other = one if share else layer()
    if sequential:
        made = fnn.Sequential([fnn.Input(4), one, L.Activation("tanh"), other, L.Dense(2)])
        made.compile("mse", **({"dtype": "float64", "optimizer": SGD(0.1)} | options))
        return made
    a, b = fnn.Input(4), fnn.Input(4)
    return model_of([a, b], L.Dense(2)(one(a) * other(b)), **({"optimizer": SGD(0.1)} | options))


SHARED = {
    "Dense": lambda: L.Dense(4, "tanh"),
    "Dense with a penalty": lambda: L.Dense(4, kernel_regularizer=0.1, bias_regularizer="l1"),
    "WeightNormDense": lambda: L.WeightNormDense(4, "tanh"),
    "CosineDense": lambda: L.CosineDense(4, "tanh"),
    "Maxout": lambda: L.Maxout(4),
    "PReLU": lambda: L.PReLU(),
    "PReLU, one slope": lambda: L.PReLU(shared=True),
    "LayerNormalization": lambda: L.LayerNormalization(),
    "BatchNormalization": lambda: L.BatchNormalization(),
}


@each_backend
@pytest.mark.parametrize("sequential", [False, True], ids=["Model", "Sequential"])
@pytest.mark.parametrize("layer", SHARED.values(), ids=list(SHARED))
def test_gradients_of_a_shared_layer_are_added(layer, sequential, backend):
    shared, apart = (
        twins(share, sequential=sequential, layer=layer, backend=backend) for share in (True, False)
    )
    spread_weights(shared)
    own = [w.copy() for w in shared.get_weights()]
    twice = len(own) - 2  # the arrays of the layer
    apart.set_weights([*own[:twice], *own[:twice], *own[twice:]])
    assert apart.count_parameters() - shared.count_parameters() == sum(
        p.size for p in shared._chain.weights[:twice] if p.weight.trainable
    )
    X = normal(N, 4) if sequential else [normal(N, 4), normal(N, 4, seed=1)]
    y = normal(N, 2, seed=2)
    same(*(model.predict(X) for model in (shared, apart)))
    loss, found = shared.loss_and_gradients(X, y)
    other, gradients = apart.loss_and_gradients(X, y)
    added = [
        np.add(*pair) for pair in zip(gradients[:twice], gradients[twice:-2], strict=True)
    ] + gradients[-2:]
    once = [_penalty_gradient(p) * 1.0 for p in zip(shared._chain.weights, own, strict=True)]
    penalty = _penalty(zip(shared._chain.weights, own, strict=True))
    close(loss, other - penalty)
    for mine, theirs, decay in zip(found, added, once, strict=True):
        close(mine, theirs - decay)
    fnn.check_gradients(shared, X, y).raise_if_wrong()
    shared.train_on_batch(X, y)
    trainable = [p.weight.trainable for p in shared._chain.weights]
    for before, after, gradient, moves in zip(
        own, shared.get_weights(), found, trainable, strict=True
    ):
        if moves:
            close(after, before - 0.1 * gradient)


def _penalty(placed):
    """What regularizers add once: two layers would pay twice."""
    total = 0.0
    for p, w in placed:
        if p.weight.regularizer is not None:
            total += 0.05 * (w**2).sum() if p.name.endswith("kernel") else 0.01 * np.abs(w).sum()
    return total


def _penalty_gradient(item):
    p, w = item
    if p.weight.regularizer is None:
        return np.zeros_like(w)
    return 0.1 * w if p.name.endswith("kernel") else 0.01 * np.sign(w)


@pytest.mark.parametrize("sequential", [False, True], ids=["Model", "Sequential"])
def test_shared_layers_train_alike_on_both_backends(sequential):
    X = normal(N, 4) if sequential else [normal(N, 4), normal(N, 4, seed=1)]
    y = normal(N, 2, seed=2)
    found = []
    for backend, threads in (("numpy", 1), ("cython", 1), ("cython", 2)):
        model = twins(
            True, sequential=sequential, backend=backend, threads=threads,
            optimizer=fnn.optimizers.Adam(0.01, clip_norm=1.0),
            layer=lambda: L.Dense(4, "tanh", kernel_regularizer=0.1, kernel_constraint="max_norm"),
        )  # fmt: skip
        model.fit(X, y, batch_size=8, epochs=30, verbose=0)
        found.append(model.parameters.copy())
    for other in found[1:]:
        close(other, found[0], 1e-10)


@each_backend
def test_running_statistics_of_a_shared_layer_see_every_call(backend):
    a, b = fnn.Input(3), fnn.Input(3)
    layer = L.BatchNormalization(momentum=0.5)
    model = model_of([a, b], layer(a) + layer(b), backend=backend)
    X = normal(N, 3), 2 + normal(N, 3, seed=1)
    model.train_on_batch(X, np.zeros((N, 3)))
    mean, variance = np.zeros(3), np.ones(3)
    for x in X:
        mean = 0.5 * mean + 0.5 * x.mean(axis=0)
        variance = 0.5 * variance + 0.5 * x.var(axis=0, ddof=1)
    close(model.get_weights()[2], mean)
    close(model.get_weights()[3], variance)


def test_a_layer_of_several_models_has_weights_in_each():
    x = fnn.Input(3)
    outputs = L.Dense(2)(x)
    one, other = model_of(x, outputs, seed=1), model_of(x, outputs, seed=2)
    before = other.parameters.copy()
    one.fit(normal(N, 3), normal(N, 2), epochs=2, verbose=0)
    same(other.parameters, before)


def test_a_dropout_that_is_applied_twice_draws_twice():
    x = fnn.Input(200)
    drop = L.Dropout(0.5)
    model = model_of(x, drop(x * 1) * drop(x * 1), "mean_absolute_error")
    loss, _ = model.loss_and_gradients(np.ones((10, 200)), np.zeros((10, 200)))
    assert loss == pytest.approx(4 / 4, abs=0.2)  # one mask alone would give 4 / 2


# ---- looking inside -----------------------------------------------------------------------------


def test_a_summary_of_a_graph_says_what_layers_are_applied_to():
    a, b = fnn.Input(3, name="left"), fnn.Input(3)
    shared = L.Dense(2, "relu")
    model = fnn.Model([a, b], shared(a) - shared(b))
    table = model.summary()
    rows = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert [r["name"] for r in rows] == ["dense_0", "dense_1", "subtract_2"]
    assert [r["applied to"] for r in rows] == ["left", "input_1", "dense_0, dense_1"]
    assert [r["parameters"] for r in rows] == [8, 0, 0]
    assert [r["output shape"] for r in rows] == [(2,)] * 3
    assert "shared with dense_0" in rows[1]["layer"] and "shared" not in rows[0]["layer"]
    for part in ("inputs (3,), (3,)", "8 parameters"):
        assert part in str(table)
    x = fnn.Input(3)
    residual = fnn.Model(x, L.Dense(1)(x + L.Dense(3)(x))).summary()
    assert [row[2] for row in residual.rows] == ["input_0", "input_0, dense_0", "add_1"]
    assert "applied to" not in fnn.Model(x, L.Dense(1)(L.Dense(3)(x))).summary().headings


def test_explain_has_the_merges_and_every_loss():
    table = everything().explain(batch_size=16)
    calls = [dict(zip(table.headings, row, strict=True))["call"] for row in table.rows]
    for call in ("concatenate", "merge[maximum]", "merge[minimum]", "add", "softmax_cross_entropy"):
        assert call in calls
    assert sum(call == "gather" for call in calls) == 3  # two inputs, and the numbers to compare
    assert everything().explain().notes[0].startswith("batch of 32 rows")


@each_backend
def test_profile_does_not_change_the_model(backend):
    model = everything(backend=backend)
    X, y = everything_data()
    before = model.parameters.copy()
    table = model.profile(X, y, seconds=0.01)
    assert [row[2] for row in table.rows[:-1]] == [row[2] for row in model.explain(32).rows]
    same(model.parameters, before)


# ---- copies, and what trains many models --------------------------------------------------------


def copied(model):
    return inspection.copy_of(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copied, copy.deepcopy, pickled])
def test_a_copy_goes_its_own_way(duplicate):
    X, y = everything_data()
    model = everything(optimizer="adam")
    model.fit(X, y, epochs=2, verbose=0)
    twin = duplicate(model)
    before = model.parameters.copy()
    twin.fit(X, y, epochs=2, verbose=0)
    same(model.parameters, before)
    assert (twin.parameters != before).any()
    model.fit(X, y, epochs=2, verbose=0)  # with the state of Adam, as its copy had it
    same(twin.parameters, model.parameters)
    same(twin.predict(X)["size"], model.predict(X)["size"])


def test_checking_gradients_leaves_the_model_alone():
    X, y = everything_data(N)
    model, untouched = everything(dtype="float32"), everything(dtype="float32")
    fnn.check_gradients(model, X, y, samples=3)
    for each in (model, untouched):
        each.fit(X, y, epochs=2, verbose=0)
    same(model.parameters, untouched.parameters)


def test_folds_of_several_inputs_and_outputs():
    X, y = two_by_two_data()
    v = np.random.default_rng(9).uniform(0, 2, 50)
    for form in ((X, y), (dict(zip("ab", X, strict=True)), y)):
        result = validation.cross_validate(
            two_by_two, *form, folds=4, seed=1, sample_weight=v, epochs=2, verbose=0
        )
        expected = []
        for train, test in validation.k_fold(50, 4, seed=1):
            model = two_by_two()
            model.fit([x[train] for x in X], [t[train] for t in y], epochs=2,
                      sample_weight=v[train], verbose=0)  # fmt: skip
            expected.append(
                model.evaluate([x[test] for x in X], [t[test] for t in y], sample_weight=v[test])
            )
        assert list(result.scores) == expected


def test_ensembles_average_every_output():
    X, y = two_by_two_data()
    for named in (True, False):
        members = [two_by_two(named=named, seed=seed) for seed in (1, 2, 3)]
        found = ensembles.Ensemble(members).predict(X)
        assert list(found) == ["kind", "size"] if named else isinstance(found, list)
        for key in ("kind", "size") if named else (0, 1):
            close(found[key], np.mean([m.predict(X)[key] for m in members], axis=0))
    ensemble = ensembles.bagging(
        lambda seed: two_by_two(seed=seed), X, y, members=2, epochs=2, verbose=0
    )
    assert [(k, p.shape) for k, p in ensemble.predict(X).items()] == [
        ("kind", (50, 3)), ("size", (50, 2)),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"models\[1\]: expected inputs .*kind \(3,\), size"):
        ensembles.Ensemble([two_by_two(), two_by_two(named=False)])


def test_rates_are_tried_on_several_inputs():
    X, y = two_by_two_data()
    model = two_by_two()
    before = model.parameters.copy()
    found = inspection.learning_rate_range_test(model, X, y, high=10.0, steps=30)
    assert len(found.rates) >= 10 and np.isfinite(found.losses[:-1]).all()
    same(model.parameters, before)
    assert found.losses[0] == pytest.approx(model.evaluate(X, y)["loss"], rel=0.5)


def test_values_and_statistics_of_every_call_in_a_graph():
    a, b = fnn.Input(3, name="a"), fnn.Input(3, name="b")
    shared = L.Dense(2, "tanh")
    model = spread_weights(model_of([a, b], shared(a) * shared(b)))
    X = {"a": normal(N, 3), "b": normal(N, 3, seed=1)}
    W, c = model.get_weights()
    left, right = (np.tanh(x @ W + c) for x in X.values())
    assert inspection.layer_names(model) == ["dense_0", "dense_1", "multiply_2"]
    for found, expected in zip(
        inspection.layer_outputs(model, X), (left, right, left * right), strict=True
    ):
        close(found, expected)
    y = normal(N, 2, seed=2)
    statistics = inspection.layer_statistics(model, X, y).layers
    assert [s.name for s in statistics] == ["dense_0", "dense_1", "multiply_2"]
    gradients = model.loss_and_gradients(X, y)[1]
    expected = math.sqrt(sum((g**2).sum() for g in gradients))
    assert statistics[0].gradient == pytest.approx(expected)
    assert statistics[1].gradient is None and statistics[2].weights is None


def test_what_needs_a_chain_says_so():
    with pytest.raises(TypeError, match="model: expected a Sequential, got Model"):
        fnn.lsuv(two_by_two(), two_by_two_data()[0])


# ---- gradients by the inputs --------------------------------------------------------------------


@each_backend
@both_types
def test_the_lecture_s_graph_of_a_sum_and_a_product(backend, dtype):
    """f = (x + y) z at x = 1, y = -3, z = 4."""
    x, y, z = (fnn.Input(1) for _ in range(3))
    model = model_of([x, y, z], (x + y) * z, backend=backend, dtype=dtype)
    at = [[[1]], [[-3]], [[4]]]
    assert model.predict(at).item() == -8
    assert [g.item() for g in model.input_gradients(at)] == [4, 4, -2]


@each_backend
def test_the_lecture_s_graph_in_which_a_variable_branches(backend):
    """f = (x1 + x2) (x2 - x3): df/dx1 = x2 - x3, df/dx2 = x1 + 2 x2 - x3, df/dx3 = -(x1 + x2)."""
    x1, x2, x3 = (fnn.Input(1) for _ in range(3))
    model = model_of([x1, x2, x3], (x1 + x2) * (x2 - x3), backend=backend)
    a, b, c = X = [normal(N, 1, seed=i) for i in range(3)]
    close(model.predict(X), (a + b) * (b - c))
    for found, expected in zip(
        model.input_gradients(X), (b - c, a + 2 * b - c, -(a + b)), strict=True
    ):
        close(found, expected)


def check_input_gradients(model, X, y=None, *, sample_weight=None, tolerance=2e-8):
    """Compare with central differences of what the model predicts, or of its loss."""
    arrays = list(X) if isinstance(X, (list, tuple)) else [X]
    found = model.input_gradients(X, y, sample_weight=sample_weight)
    found = found if isinstance(found, list) else [found]

    def value(arrays):
        given = arrays if len(arrays) > 1 else arrays[0]
        if y is not None:
            return model.evaluate(given, y, sample_weight=sample_weight)["loss"]
        predicted = model.predict(given)
        return sum(p.sum() for p in (predicted if isinstance(predicted, list) else [predicted]))

    rounding = 4 * np.finfo(float).eps * max(1.0, abs(value(arrays)))
    for i, (array, gradient) in enumerate(zip(arrays, found, strict=True)):
        assert gradient.shape == array.shape and gradient.dtype == model._dtype
        h = 1e-5 * max(1.0, float(np.abs(array).max()))
        numeric = np.empty(array.shape)
        for at in np.ndindex(array.shape):
            sides = []
            for step in (h, -h):
                moved = [a.astype(float) for a in arrays]
                moved[i][at] += step
                sides.append(value(moved))
            numeric[at] = (sides[0] - sides[1]) / (2 * h)
        allowed = tolerance * np.abs(numeric).max() + rounding / h
        np.testing.assert_allclose(gradient, numeric, rtol=0, atol=allowed)


#: Layers by class, on examples of 4 numbers unless they say otherwise.
LAYERS = {
    "Activation": lambda: L.Activation("softplus"),
    "ActivityRegularization": lambda: L.ActivityRegularization("l2"),
    "BatchNormalization": lambda: L.BatchNormalization(),
    "Centering": lambda: L.Centering().adapt(normal(30, 4)),
    "CosineDense": lambda: L.CosineDense(3, gain=2.0),
    "Dense": lambda: L.Dense(3, "tanh"),
    "Dropout": lambda: L.Dropout(0.5),
    "ExampleCentering": lambda: L.ExampleCentering(),
    "Flatten": lambda: L.Flatten(),
    "GaussianDropout": lambda: L.GaussianDropout(0.5),
    "GaussianNoise": lambda: L.GaussianNoise(1.0),
    "LayerNormalization": lambda: L.LayerNormalization(),
    "Maxout": lambda: L.Maxout(3, 3),
    "MinMaxScaling": lambda: L.MinMaxScaling(-1, 1).adapt(normal(30, 4)),
    "PReLU": lambda: L.PReLU(),
    "Rescaling": lambda: L.Rescaling(-0.5, 3.0),
    "SparsityRegularization": lambda: L.SparsityRegularization(),
    "Standardization": lambda: L.Standardization().adapt(normal(30, 4)),
    "WeightNormDense": lambda: L.WeightNormDense(3, "tanh"),
    "ZCAWhitening": lambda: L.ZCAWhitening().adapt(normal(30, 4)),
}

#: Layers that change images while training.
IMAGE_LAYERS = {
    "RandomAffine": lambda: L.RandomAffine(rotation=30),
    "RandomContrast": lambda: L.RandomContrast(0.5, 0.5),
    "RandomElastic": lambda: L.RandomElastic(),
    "RandomErasing": lambda: L.RandomErasing(1.0),
}


def test_every_layer_is_differentiated():
    public = {name for name in L.__all__ if issubclass(getattr(L, name), Layer)}
    assert public - {"Layer", "Merge"} == set(LAYERS) | set(IMAGE_LAYERS) | set(MERGES)


def single(layer, *, shape=(4,), first=(), **options):
    """A layer, or several, between dense ones, so that no gradient is constant."""
    model = fnn.Sequential(
        [fnn.Input(shape), *first, layer, L.Flatten(), L.Dense(3, "tanh"), L.Dense(2, "sigmoid")]
    )
    model.compile("mean_squared_error", **({"dtype": "float64"} | options))
    spread_weights(model)
    return model


@each_backend
@pytest.mark.parametrize("name", LAYERS)
def test_input_gradients_of_every_layer(name, backend):
    model = single(LAYERS[name](), first=[L.Dense(4, "tanh")], backend=backend)
    X, y = normal(6, 4), np.random.default_rng(1).uniform(size=(6, 2))
    v = np.random.default_rng(2).uniform(0, 2, 6)
    model.fit(X, y, epochs=3, verbose=0)  # running statistics are no longer 0 and 1
    check_input_gradients(model, X)
    check_input_gradients(model, X, y)
    check_input_gradients(model, X, y, sample_weight=v)


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_images_are_not_changed_in_the_gradient(name):
    model, plain = single(IMAGE_LAYERS[name](), shape=(4, 4)), single(L.Flatten(), shape=(4, 4))
    X = normal(6, 4, 4)
    same(model.input_gradients(X), plain.input_gradients(X))


@each_backend
@pytest.mark.parametrize("name", fnn.activations.names())
def test_input_gradients_of_every_activation(name, backend):
    x = fnn.Input(4)
    symbol = L.Activation(name)(L.Dense(4, kernel_initializer="orthogonal")(x))
    model = model_of(x, symbol * symbol, backend=backend)
    check_input_gradients(model, normal(6, 4, seed=3))


def test_what_acts_in_training_only_is_not_in_the_gradient():
    x = fnn.Input(4)
    symbol = x
    for layer in (L.Dropout(0.9), L.GaussianNoise(9.0), L.GaussianDropout(0.9),
                  L.ActivityRegularization("l2"), L.SparsityRegularization()):  # fmt: skip
        symbol = layer(symbol)
    model = model_of(x, symbol)
    X = normal(N, 4)
    same(model.input_gradients(X), np.ones((N, 4)))
    close(model.input_gradients(X, np.zeros((N, 4))), 2 * X / 4 / N)


@each_backend
def test_batch_normalization_is_the_one_of_prediction(backend):
    model = fnn.Sequential([fnn.Input(4), L.BatchNormalization()])
    model.compile("mean_squared_error", dtype="float64", backend=backend)
    gamma, _, _, variance = model.get_weights()
    gamma[:], variance[:] = [1.0, 2.0, -1.0, 0.5], [1.0, 4.0, 0.25, 2.0]
    expected = gamma / np.sqrt(variance + 1e-5)
    close(model.input_gradients(normal(N, 4)), np.tile(expected, (N, 1)))


@each_backend
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "int64"])
def test_a_rescaling_that_is_done_while_gathering_is_in_the_gradient(dtype, backend):
    model = single(L.Rescaling(1 / 64, -0.5), shape=(2, 2), backend=backend)
    assert "rescale" not in str(model.explain())
    X = np.random.default_rng(0).integers(0, 256, (6, 2, 2)).astype(dtype)
    check_input_gradients(model, X)
    check_input_gradients(model, X, np.random.default_rng(1).uniform(size=(6, 2)))
    same(model.input_gradients(X), model.input_gradients(X.astype(float)))


def test_gradients_by_inputs_with_any_strides():
    model = single(L.Dense(4))
    X = normal(6, 4)
    expected = model.input_gradients(X)
    for array in (np.asfortranarray(X), np.repeat(X, 3, axis=1)[:, ::3], X[::-1][::-1]):
        same(model.input_gradients(array), expected)


@each_backend
def test_the_gradient_of_the_loss_has_every_output_with_its_weight(backend):
    X, y = two_by_two_data(8)
    model = two_by_two(loss_weights=[0.5, 3.0], backend=backend)
    v = np.random.default_rng(2).uniform(0, 2, 8)
    check_input_gradients(model, X, y)
    check_input_gradients(model, X, y, sample_weight=v)
    given = {"kind": np.eye(3)[y[0]], "size": y[1]}  # one-hot rows are the same targets
    for a, b in zip(model.input_gradients(X, given), model.input_gradients(X, y), strict=True):
        close(a, b)


def test_the_gradient_of_the_loss_is_without_penalties():
    plain, penalised = (
        single(L.Dense(3, kernel_regularizer=penalty)) for penalty in (None, fnn.regularizers.L2(9))
    )
    X, y = normal(6, 4), np.zeros((6, 2))
    same(plain.input_gradients(X, y), penalised.input_gradients(X, y))


@each_backend
@pytest.mark.parametrize("output, loss", [
    ("softmax", "cross_entropy"), ("log_softmax", "negative_log_likelihood"),
    ("sigmoid", "binary_cross_entropy"), (None, "multiclass_hinge"), (None, "huber"),
])  # fmt: skip
def test_the_gradient_of_stable_losses(output, loss, backend):
    x = fnn.Input(4)
    model = model_of(x, L.Dense(3, output)(x), loss, backend=backend)
    labels = np.arange(6) % 3
    y = np.eye(3)[labels] if loss in ("binary_cross_entropy", "huber") else labels
    check_input_gradients(model, normal(6, 4), y, sample_weight=np.arange(6.0))


def test_gradients_by_inputs_of_more_rows_than_threads_share_alike():
    X = normal(999, 4)
    found = []
    for threads in (1, 2):
        model = single(L.Dense(64, "relu"), threads=threads)
        found += [model.input_gradients(X), model.input_gradients(X, np.zeros((999, 2)))]
    close(found[2], found[0])
    close(found[3], found[1])
    close(single(L.Dense(64, "relu")).input_gradients(X[:5]), found[0][:5])


def test_gradients_by_inputs_change_nothing():
    X, y = two_by_two_data()
    model, other = two_by_two(optimizer="adam"), two_by_two(optimizer="adam")
    model.input_gradients(X)
    model.input_gradients(X, y)
    for each in (model, other):
        each.fit(X, y, epochs=2, verbose=0)
    same(model.parameters, other.parameters)


# ---- odd graphs ---------------------------------------------------------------------------------


@each_backend
def test_a_model_without_weights(backend):
    a, b = fnn.Input(3), fnn.Input(3)
    model = model_of([a, b], a * b, "mean_squared_error", "adam", backend=backend)
    X = [normal(N, 3), normal(N, 3, seed=1)]
    expected = ((X[0] * X[1]) ** 2).mean()
    assert model.count_parameters() == 0 and model.get_weights() == []
    close(model.fit(X, np.zeros((N, 3)), verbose=0).history["loss"], [expected])
    loss, gradients = model.loss_and_gradients(X, np.zeros((N, 3)))
    close(loss, expected)
    assert gradients == []


def test_an_input_may_be_an_output():
    x = fnn.Input(3)
    model = model_of(x, [x, L.Dense(3)(x)])
    X = normal(N, 3)
    same(model.predict(X)[0], X)
    check_input_gradients(model, X)
    fnn.check_gradients(model, X, [normal(N, 3, seed=1), normal(N, 3, seed=2)]).raise_if_wrong()


def test_layers_off_the_way_to_the_outputs_do_not_count():
    x = fnn.Input(3)
    hidden = L.Dense(2)(x)
    L.Dense(50)(hidden)
    assert fnn.Model(x, hidden).count_parameters() == 8


def test_a_part_of_a_graph_is_a_model_of_its_own():
    x = fnn.Input(3)
    hidden = L.Dense(4, "tanh")(x)
    whole, part = model_of(x, L.Dense(2)(hidden)), model_of(x, hidden)
    part.set_weights(whole.get_weights()[:2])
    middle = fnn.Input(4)
    rest = model_of(middle, L.Dense(2)(middle))
    rest.set_weights(whole.get_weights()[2:])
    X = normal(N, 3)
    close(rest.predict(part.predict(X)), whole.predict(X))


def test_a_diamond_of_thirty_floors_is_gone_through_once():
    """2^30 ways lead through it."""
    x = symbol = fnn.Input(2)
    for _ in range(30):
        symbol = 0.5 * symbol + 0.5 * symbol
    model = model_of(x, symbol)
    X = normal(N, 2)
    close(model.predict(X), X)
    close(model.input_gradients(X), np.ones((N, 2)))


def random_graph(seed):
    """Inputs and outputs of a graph in which values are joined, shared and left at random."""
    rng = np.random.default_rng(seed)
    inputs = values = [fnn.Input(4) for _ in range(rng.integers(1, 4))]
    shared = [L.Dense(4, "tanh"), L.LayerNormalization(), L.Maxout(4), L.WeightNormDense(4, "relu")]
    joins = [
        lambda a, b: a + b, lambda a, b: a - b, lambda a, b: L.Activation("tanh")(a * b),
        fnn.maximum, fnn.minimum, lambda a, b: fnn.average(a, b, a),
        lambda a, b: L.Dense(4, "sigmoid")(fnn.concatenate(a, b)), lambda a, b: 0.5 - a,
        lambda a, b: L.Dropout(0.3)(a), lambda a, b: L.Activation("softmax")(a),
        *(lambda a, b, layer=layer: layer(a) for layer in shared * 2),
    ]  # fmt: skip
    for _ in range(rng.integers(5, 20)):
        a, b = (values[rng.integers(max(0, len(values) - 5), len(values))] for _ in range(2))
        values = [*values, joins[rng.integers(len(joins))](a, b)]
    outputs = [values[-1], values[rng.integers(len(inputs), len(values))]]
    return inputs, [*outputs, L.Dense(2)(fnn.concatenate(values[-1], *inputs))]


@pytest.mark.parametrize("seed", range(16))
def test_graphs_at_random(seed):
    inputs, outputs = random_graph(seed)
    X = [normal(N, 4, seed=i) for i in range(len(inputs))]
    X = X if len(X) > 1 else X[0]
    y = [normal(N, *symbol.shape, seed=9) for symbol in outputs]
    found = []
    for backend, threads in (("numpy", 1), ("cython", 1), ("cython", 2)):
        model = spread_weights(
            model_of(
                inputs, outputs, "mse", SGD(0.01), loss_weights=[0.5, 1.0, 2.0],
                backend=backend, threads=threads,
            )
        )  # fmt: skip
        loss, gradients = model.loss_and_gradients(X, y)
        by_inputs = [model.input_gradients(X), model.input_gradients(X, y)]
        if backend == "numpy":
            assert not fnn.check_gradients(model, X, y, samples=4).wrong
        model.fit(X, y, batch_size=8, epochs=3, verbose=0)
        found.append([loss, *gradients, *by_inputs, model.parameters.copy(), *model.predict(X)])
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


# ---- bad input ----------------------------------------------------------------------------------


def circle():
    x = fnn.Input(3)
    inner = L.Dense(3)(x)
    outer = L.Dense(3)(inner)
    inner.inputs = (outer,)
    fnn.Model(x, outer)


def graph(build):
    """A call with three inputs of sizes 3, 3 and 4."""
    return lambda: build(fnn.Input(3), fnn.Input(3), fnn.Input(4))


def shared_on(*shapes):
    def call():
        layer, inputs = L.Dense(2), [fnn.Input(shape) for shape in shapes]
        fnn.Model(inputs, [layer(symbol) for symbol in inputs])

    return call


def compiled(loss=("cross_entropy", "mean_squared_error"), **options):
    return lambda: two_by_two().compile(list(loss) if type(loss) is tuple else loss, **options)


def method(name, *, X=None, y=None, **options):
    """A call with the data of the model, but for what is given."""

    def call():
        own = two_by_two_data()
        arguments = [own[0] if X is None else X, own[1] if y is None else y]
        options.setdefault("verbose", 0) if name == "fit" else None
        getattr(two_by_two(), name)(*arguments[: 1 if name == "predict" else 2], **options)

    return call


XS, YS = two_by_two_data()

#: id: (call, type of the error, parts of its message: the argument, what came, what was expected)
CASES = {
    # ---- graphs
    "shapes that differ": (graph(lambda a, b, c: L.Add()(a, c)), ValueError,
                           ("Add", "same shape", "(3,), (4,)")),
    "an operator on shapes that differ": (graph(lambda a, b, c: a * c), ValueError,
                                          ("Multiply", "same shape", "(3,), (4,)")),
    "a third shape that differs": (graph(lambda a, b, c: fnn.maximum(a, b, c)), ValueError,
                                   ("Maximum", "same shape", "(3,), (3,), (4,)")),
    "one input to a merge": (graph(lambda a, b, c: L.Average()(a)), ValueError,
                             ("Average", "at least two inputs", "got 1")),
    "no input to a merge": (graph(lambda a, b, c: L.Minimum()([])), ValueError,
                            ("Minimum", "at least two inputs", "got 0")),
    "one input to concatenate": (graph(lambda a, b, c: fnn.concatenate(a)), ValueError,
                                 ("Concatenate", "at least two inputs", "got 1")),
    "three inputs to subtract": (graph(lambda a, b, c: L.Subtract()(a, a, b)), ValueError,
                                 ("Subtract", "two inputs", "got 3")),
    "images to concatenate": (lambda: fnn.concatenate(fnn.Input((2, 2)), fnn.Input(3)), ValueError,
                              ("Concatenate", "shape (n,)", "got (2, 2)", "Flatten()")),
    "two inputs to a layer of one": (graph(lambda a, b, c: L.Dense(2)(a, b)), ValueError,
                                     ("Dense", "one input", "got 2")),
    "no input to a layer": (graph(lambda a, b, c: L.Dense(2)()), ValueError,
                            ("Dense", "one input", "got 0")),
    "a merge in a chain": (lambda: fnn.Sequential([L.Add()]).build(3), ValueError,
                           ("layer 0", "Add", "at least two inputs", "got 1")),
    "a layer on an array": (lambda: L.Dense(2)(np.ones(3)), TypeError,
                            ("Dense", "Input", "array")),
    "a merge with an array": (graph(lambda a, b, c: L.Add()(a, np.ones(3))), TypeError,
                              ("Add", "Input", "array")),
    "a layer on a layer": (lambda: L.Dense(2)(L.Dense(3)), TypeError,
                           ("Dense", "Input", "Dense(3")),
    "a symbol and an array": (graph(lambda a, b, c: a + np.ones(3)), TypeError,
                              ("Add", "a number", "Input", "array")),
    "an array and a symbol": (graph(lambda a, b, c: np.ones(3) * a), TypeError,
                              ("Multiply", "a number", "Input", "array")),
    "a symbol and a string": (graph(lambda a, b, c: a - "b"), TypeError,
                              ("Subtract", "a number", "Input", "'b'")),
    "a symbol and NaN": (graph(lambda a, b, c: a * math.nan), ValueError,
                         ("Multiply", "a number", "nan")),
    "an unused input": (graph(lambda a, b, c: fnn.Model([a, b], L.Dense(2)(a))), ValueError,
                        ("inputs", "input 1", "Input((3,))", "no output")),
    "an input that is not listed": (graph(lambda a, b, c: fnn.Model(a, a + b)), ValueError,
                                    ("inputs", "Input((3,))", "not among them")),
    "a named input that is not listed": (
        graph(lambda a, b, c: fnn.Model(a, a + fnn.Input(3, name="other"))), ValueError,
        ("inputs", "name='other'", "not among them")),
    "an output that is not from the inputs": (
        graph(lambda a, b, c: fnn.Model(a, [L.Dense(2)(a), L.Dense(2)(c)])), ValueError,
        ("inputs", "Input((4,))", "not among them")),
    "a circle": (circle, ValueError, ("outputs", "circle", "dense")),
    "an input twice": (graph(lambda a, b, c: fnn.Model([a, a], a + b)), ValueError,
                       ("inputs", "Input((3,))", "twice")),
    "a layer's result as input": (graph(lambda a, b, c: fnn.Model(a + b, L.Dense(2)(a + b))),
                                  TypeError, ("inputs", "Input objects", "<add of shape (3,)>")),
    "no inputs": (graph(lambda a, b, c: fnn.Model([], a)), ValueError,
                  ("inputs", "at least one Input", "none")),
    "an array as input": (graph(lambda a, b, c: fnn.Model(np.ones((2, 3)), a)), TypeError,
                          ("inputs", "Input objects", "array")),
    "inputs of one name": (
        lambda: (lambda a, b: fnn.Model([a, b], a + b))(*(fnn.Input(3, name="x") for _ in "ab")),
        ValueError, ("inputs", "different names", "['x', 'x']")),
    "an input named like a numbered one": (
        lambda: (lambda a, b: fnn.Model([a, b], a + b))(fnn.Input(3, name="input_1"), fnn.Input(3)),
        ValueError, ("inputs", "different names", "['input_1', 'input_1']")),
    "a name that is no string": (lambda: fnn.Input(3, name=5), TypeError, ("name", "string", "5")),
    "an empty name": (lambda: fnn.Input(3, name=""), ValueError, ("name", "string", "empty")),
    "no outputs": (graph(lambda a, b, c: fnn.Model(a, [])), ValueError,
                   ("outputs", "at least one", "none")),
    "an output that is no symbol": (graph(lambda a, b, c: fnn.Model(a, [a, None])), TypeError,
                                    ("outputs", "layer", "None", "output_1")),
    "a layer as output": (graph(lambda a, b, c: fnn.Model(a, {"y": L.Dense(2)})), TypeError,
                          ("outputs", "layer", "Dense(2", "y")),
    "an output without a name": (graph(lambda a, b, c: fnn.Model(a, {"": a, "b": a})), ValueError,
                                 ("outputs", "names", "empty", "''")),
    "an output with a number": (graph(lambda a, b, c: fnn.Model(a, {0: a, 1: a})), ValueError,
                                ("outputs", "names", "got 0")),
    "an output that logs confuse": (graph(lambda a, b, c: fnn.Model(a, {"x": a, "val_x": a})),
                                    ValueError, ("outputs", "'val_...'", "got 'val_x'")),
    "a shared layer on other shapes": (shared_on(3, 4), ValueError,
                                       ("dense_0", "shared", "(3, 2)", "(4,)", "(4, 2)")),
    "a shared layer in a chain": (
        lambda: (lambda d: fnn.Sequential([fnn.Input(3), d, d]).summary())(L.Dense(2)), ValueError,
        ("dense_0", "shared", "(3, 2)", "(2,)", "(2, 2)")),
    "a model as a layer": (lambda: fnn.Sequential([two_by_two()]), TypeError,
                           ("layers", "Layer objects", "Model")),
    "build of a graph": (lambda: two_by_two().build(5), ValueError,
                         ("input_shape", "built for (4,), (3,)", "got (5,)")),
    # ---- compile
    "too few losses": (compiled(["mse"]), ValueError,
                       ("loss", "expected 2", "one per output", "got 1")),
    "too many losses": (compiled(["mse"] * 3), ValueError, ("loss", "expected 2", "got 3")),
    "losses of other names": (compiled({"kind": "mse", "sort": "mse"}), ValueError,
                              ("loss", "['kind', 'size']", "['kind', 'sort']")),
    "a loss left out": (compiled({"kind": "mse"}), ValueError,
                        ("loss", "['kind', 'size']", "['kind']")),
    "an unknown loss of an output": (compiled({"kind": "crossentropy", "size": "mse"}), ValueError,
                                     ("loss", "'crossentropy'", "'cross_entropy'")),
    "metrics of an unknown output": (compiled(metrics={"kind": "accuracy", "sort": "accuracy"}),
                                     ValueError, ("metrics", "['kind', 'size']", "'sort'")),
    "lists of metrics": (compiled(metrics=[["accuracy"], []]), TypeError,
                         ("metrics", "a name or Metric object", "list")),
    "too few loss weights": (compiled(loss_weights=[1.0]), ValueError,
                             ("loss_weights", "expected 2", "got 1")),
    "loss weights of other names": (compiled(loss_weights={"kind": 1, "sort": 1}), ValueError,
                                    ("loss_weights", "['kind', 'size']", "['kind', 'sort']")),
    "a negative loss weight": (compiled(loss_weights={"kind": 1, "size": -0.5}), ValueError,
                               ("loss_weights", "(0, inf)", "-0.5")),
    "a loss weight of 0": (compiled(loss_weights=[0, 1]), ValueError,
                           ("loss_weights", "(0, inf)", "0.0")),
    "an infinite loss weight": (compiled(loss_weights=[1, math.inf]), ValueError,
                                ("loss_weights", "(0, inf)", "got inf")),
    "a loss weight that is no number": (compiled(loss_weights=["1", 1]), TypeError,
                                        ("loss_weights", "a number", "'1'")),
    # ---- data
    "one array for two inputs": (method("fit", X=XS[0]), ValueError,
                                 ("X", "a list of 2 arrays", "ndarray")),
    "a list of one": (method("fit", X=XS[:1]), ValueError, ("X", "a list of 2 arrays", "got 1")),
    "a list of three": (method("predict", X=[*XS, XS[0]]), ValueError,
                        ("X", "a list of 2 arrays", "got 3")),
    "an iterator": (method("fit", X=iter(XS)), ValueError, ("X", "a list of 2", "iterator")),
    "an input left out": (method("predict", X={"a": XS[0]}), ValueError,
                          ("X", "['a', 'b']", "['a']")),
    "an input of another name": (method("evaluate", X={"a": XS[0], "c": XS[1]}), ValueError,
                                 ("X", "['a', 'b']", "['a', 'c']")),
    "inputs in another order": (method("fit", X=XS[::-1]), ValueError,
                                ("X[0]", "(n, 4)", "(50, 3)")),
    "an input of another shape": (method("fit", X={"a": XS[0], "b": XS[1][:, :2]}), ValueError,
                                  ("X['b']", "(n, 3)", "(50, 2)")),
    "one example of an input": (method("predict", X=[XS[0], XS[1][0]]), ValueError,
                                ("X[1]", "(n, 3)", "(3,)", "X[1][None]")),
    "fewer rows of an input": (method("fit", X=[XS[0], XS[1][1:]]), ValueError,
                               ("X[1]", "49 rows", "X[0]", "50")),
    "fewer rows of an input, in prediction": (method("predict", X=[XS[0][1:], XS[1]]), ValueError,
                                              ("X[1]", "50 rows", "X[0]", "49")),
    "NaN in an input": (method("fit", X={"a": XS[0], "b": XS[1] * np.nan}), ValueError,
                        ("X['b']", "nan", "[0, 0]")),
    "None as an input": (method("fit", X=[XS[0], None]), TypeError, ("X[1]", "numbers", "object")),
    "one array for two outputs": (method("fit", y=YS[1]), ValueError,
                                  ("y", "a list of 2 arrays", "ndarray")),
    "targets of one output": (method("evaluate", y=YS[:1]), ValueError,
                              ("y", "a list of 2 arrays", "got 1")),
    "targets of other names": (method("fit", y={"kind": YS[0], "sort": YS[1]}), ValueError,
                               ("y", "['kind', 'size']", "['kind', 'sort']")),
    "no targets of an output": (method("fit", y=[YS[0], None]), TypeError,
                                ("y[1]", "targets", "None")),
    "targets of another shape": (method("fit", y=[YS[0], XS[1]]), ValueError,
                                 ("y[1]", "(n, 2)", "(50, 3)")),
    "fewer targets": (method("fit", y={"kind": YS[0], "size": YS[1][2:]}), ValueError,
                      ("y['size']", "48 rows", "X[0]", "50")),
    "a label out of range": (method("fit", y={"kind": YS[0] + 1, "size": YS[1]}), ValueError,
                             ("y['kind']", "label 3", "3 outputs", "0 to 2")),
    "labels with decimals": (method("fit", y=[YS[0] / 2, YS[1]]), TypeError,
                             ("y[0]", "integer class labels", "float64")),
    "weights of rows by output": (method("fit", sample_weight={"kind": np.ones(50)}), TypeError,
                                  ("sample_weight", "numbers", "object")),
    "too few weights of rows": (method("fit", sample_weight=np.ones(49)), ValueError,
                                ("sample_weight", "49 rows", "X[0]", "50")),
    "validation with one input": (method("fit", validation_data=(XS[:1], YS)), ValueError,
                                  ("validation_data[0]", "a list of 2 arrays", "got 1")),
    "validation with one output": (method("fit", validation_data=(XS, YS[1])), ValueError,
                                   ("validation_data[1]", "a list of 2 arrays", "ndarray")),
    "validation of other lengths": (
        method("fit", validation_data=(XS, [YS[0], YS[1][1:]])), ValueError,
        ("validation_data[1][1]", "49 rows", "validation_data[0][0]", "50")),
    "a batch of one input": (
        lambda: two_by_two().fit_batches([(XS[:1], YS)], verbose=0), ValueError,
        ("batches[0][0]", "a list of 2 arrays", "got 1")),
    "classes of several outputs": (method("fit", class_weight="balanced"), ValueError,
                                   ("class_weight", "one output", "got 2")),
    "weights of classes of several outputs": (method("fit", class_weight={0: 2.0}), ValueError,
                                              ("class_weight", "one output", "got 2")),
    "stratified rows of several outputs": (
        method("fit", stratify=True, validation_split=0.2), ValueError,
        ("stratify", "one output", "got 2")),
    "stratified folds of several outputs": (
        lambda: validation.cross_validate(two_by_two, XS, YS, stratify=True), ValueError,
        ("stratify", "one output", "got 2")),
    "folds of one array": (lambda: validation.cross_validate(two_by_two, XS[0], YS), ValueError,
                           ("X", "a list of 2 arrays", "ndarray")),
    "weights without targets": (
        lambda: two_by_two().input_gradients(XS, sample_weight=np.ones(50)), ValueError,
        ("sample_weight", "targets", "y=None")),
    "gradients of one input": (lambda: two_by_two().input_gradients(XS[:1]), ValueError,
                               ("X", "a list of 2 arrays", "got 1")),
    "not compiled": (
        graph(lambda a, b, c: fnn.Model([a, b], a + b).input_gradients([np.ones((1, 3))] * 2)),
        RuntimeError, ("not compiled", "compile(")),
}  # fmt: skip


@pytest.mark.parametrize("call, kind, parts", CASES.values(), ids=list(CASES))
def test_bad_input_is_named(call, kind, parts):
    looks = "".join(f"(?=.*{re.escape(part)})" for part in parts)
    start = "" if kind is RuntimeError else rf"(layer )?{re.escape(parts[0])}"
    with pytest.raises(kind, match=f"(?s)^{looks}{start}", check=lambda e: type(e) is kind):
        call()


def test_bad_data_leave_the_model_as_it_was():
    model, other = two_by_two(), two_by_two()
    for bad in (([XS[0], XS[1][1:]], YS), (XS, YS[:1]), ([XS[0], XS[1] * np.nan], YS)):
        with pytest.raises(ValueError):
            model.fit(*bad, verbose=0)
    with pytest.raises(ValueError):
        model.compile(["mse", "mse"], loss_weights=[1, -1])
    for each in (model, other):
        each.fit(XS, YS, verbose=0)
    same(model.parameters, other.parameters)
