"""Initial weights: the distributions that are promised, by name and by seed, and LSUV."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from scipy import stats

import fastnn as fnn
import fastnn.scaling
from fastnn import lsuv
from fastnn.initializers import INITIALIZERS

I = fnn.initializers  # noqa: E741
L = fnn.layers

N, M = 1000, 400
NAN = float("nan")


def rng(seed=0):
    return np.random.default_rng(seed)


def built(*layers, inputs=20, seed=0):
    return fnn.Sequential([fnn.Input(inputs), *layers], seed=seed)


@pytest.mark.parametrize("module", [I, fastnn.scaling])
def test_examples_of_the_docstrings_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


# ---- distributions ------------------------------------------------------------------------------

uniform, normal = stats.uniform, stats.norm

DISTRIBUTIONS = {
    I.Normal(0.3, 2.0): normal(0.3, 2),
    I.Uniform(-1, 3): uniform(-1, 4),
    I.TruncatedNormal(): stats.truncnorm(-2, 2, 0, 0.05),
    I.TruncatedNormal(1.5, 2.0): stats.truncnorm(-2, 2, 1.5, 2),
    I.TruncatedNormal(-1, 0.1, limit=0.5): stats.truncnorm(-0.5, 0.5, -1, 0.1),
    I.TruncatedNormal(0, 1, 3): stats.truncnorm(-3, 3),
    I.GlorotUniform(): uniform(-math.sqrt(6 / (N + M)), 2 * math.sqrt(6 / (N + M))),
    I.GlorotNormal(): normal(0, math.sqrt(2 / (N + M))),
    I.HeUniform(): uniform(-math.sqrt(6 / N), 2 * math.sqrt(6 / N)),
    I.HeNormal(): normal(0, math.sqrt(2 / N)),
    I.LeCunUniform(): uniform(-math.sqrt(3 / N), 2 * math.sqrt(3 / N)),
    I.LeCunNormal(): normal(0, math.sqrt(1 / N)),
}


@pytest.mark.parametrize("initializer", DISTRIBUTIONS, ids=repr)
def test_weights_have_the_stated_distribution(initializer):
    expected = DISTRIBUTIONS[initializer]
    W = initializer.sample((N, M), rng())
    mean, variance, kurtosis = (float(v) for v in expected.stats("mvk"))
    assert W.shape == (N, M) and W.dtype == np.float64
    # Four standard errors each: 0.6% of the deviation for the mean, 0.4% for the deviation itself.
    assert abs(W.mean() - mean) < 4 * math.sqrt(variance / W.size)
    assert abs(W.var() / variance - 1) < 4 * math.sqrt((kurtosis + 2) / W.size)
    low, high = expected.support()
    assert W.min() >= low and W.max() <= high
    assert stats.kstest(W.ravel(), expected.cdf).pvalue > 0.001


@pytest.mark.parametrize("limit, share", [(1, 0.54), (2, 0.88), (3, 0.99)])
def test_a_truncated_normal_has_the_deviation_of_its_docstring(limit, share):
    W = I.TruncatedNormal(5.0, 3.0, limit).sample((N, M), rng())
    phi = math.exp(-(limit**2) / 2) / math.sqrt(2 * math.pi)
    formula = math.sqrt(1 - 2 * limit * phi / math.erf(limit / math.sqrt(2)))
    assert W.std() / 3 == pytest.approx(formula, rel=0.005)
    assert formula == pytest.approx(share, abs=0.005)
    assert np.abs(W - 5).max() == pytest.approx(3 * limit, rel=0.02)


@pytest.mark.parametrize("initializer", [I.Normal(2, 0), I.TruncatedNormal(2, 0), I.Constant(2)])
def test_no_deviation_gives_the_mean(initializer):
    np.testing.assert_array_equal(initializer.sample((3, 4), rng()), np.full((3, 4), 2.0))


def test_zeros_and_ones_also_fill_biases():
    model = built(L.Dense(3, kernel_initializer="zeros", bias_initializer="ones"))
    W, b = model.get_weights()
    assert (W == 0).all() and (b == 1).all()


# ---- orthogonal, sparse, identity ---------------------------------------------------------------


@pytest.mark.parametrize("gain", [1.0, 2.5])
@pytest.mark.parametrize("n, m", [(40, 40), (60, 25), (25, 60), (1, 1), (1, 7), (7, 1)])
def test_orthogonal_rows_or_columns_are_orthonormal_times_gain(n, m, gain):
    W = I.Orthogonal(gain).sample((n, m), rng())
    assert W.shape == (n, m)
    product = W.T @ W if n >= m else W @ W.T
    np.testing.assert_allclose(product, gain**2 * np.eye(min(n, m)), atol=1e-12)


def test_a_square_orthogonal_layer_keeps_lengths_in_the_network():
    model = built(*[L.Dense(20, kernel_initializer="orthogonal", use_bias=False)] * 10)
    model.compile("mean_squared_error")
    X = rng().normal(size=(30, 20))
    lengths = np.linalg.norm(model.predict(X), axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(X, axis=1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2), (2, 1), (1, 2)])
def test_orthogonal_matrices_favour_no_direction(shape):
    drawn = rng()
    W = np.array([I.Orthogonal().sample(shape, drawn) for _ in range(8000)])
    x, y = W[:, 0, :].T if shape == (1, 2) else W[:, :, 0].T
    angles = np.arctan2(y, x)
    for turn in (2 * math.pi, math.pi / 2):  # the signs, and the directions between the axes
        assert stats.kstest(angles % turn, uniform(0, turn).cdf).pvalue > 0.001
    if shape == (2, 2):  # rotations and reflections are equally likely
        assert abs(np.linalg.det(W).mean()) < 4 / math.sqrt(len(W))


@pytest.mark.parametrize("connections, stddev", [(15, 1.0), (1, 0.2), (40, 3.0), (100, 1.0)])
def test_a_sparse_unit_has_its_number_of_connections(connections, stddev):
    n, m = 100, 3000
    W = I.Sparse(connections, stddev).sample((n, m), rng())
    assert (np.count_nonzero(W, axis=0) == connections).all()
    assert stats.kstest(W[W != 0], normal(0, stddev).cdf).pvalue > 0.001
    # Every input is chosen equally often, and by every unit on its own.
    share = connections / n
    uses = np.count_nonzero(W, axis=1)
    assert np.abs(uses - m * share).max() <= 5 * math.sqrt(m * share * (1 - share))


def test_sparse_defaults_are_those_of_the_paper():
    assert I.Sparse() == I.Sparse(connections=15, stddev=1.0)


def test_more_connections_than_inputs_are_refused_with_both_numbers():
    model = fnn.Sequential([L.Dense(4, kernel_initializer=I.Sparse(6))])
    with pytest.raises(ValueError, match=r"connections: expected .* 5, got 6"):
        model.build(5)


@pytest.mark.parametrize("n, m", [(4, 4), (3, 5), (5, 3)])
def test_identity_copies_inputs_to_units(n, m):
    model = built(L.Dense(m, kernel_initializer=I.Identity(-2.0)), inputs=n)
    model.compile("mean_squared_error")
    X = rng().normal(size=(6, n)).astype("float32")
    expected = np.zeros((6, m), "float32")
    expected[:, : min(n, m)] = -2 * X[:, : min(n, m)]
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize("name", ["orthogonal", "sparse", "identity"])
def test_what_needs_a_matrix_refuses_a_bias(name):
    model = fnn.Sequential([L.Dense(30, bias_initializer=name)])
    with pytest.raises(ValueError, match=rf"(?i){name}: expected .*\(inputs, units\), got \(30,\)"):
        model.build(30)


# ---- names, seeds, parameters -------------------------------------------------------------------


def test_every_initializer_of_the_module_has_one_name():
    public = {
        kind
        for name, kind in vars(I).items()
        if isinstance(kind, type) and issubclass(kind, I.Initializer) and name[0] != "_"
    }
    assert len(INITIALIZERS) == len(set(INITIALIZERS.values()))
    assert set(INITIALIZERS.values()) == public - {I.Initializer}


@pytest.mark.parametrize(
    "name, kind",
    [
        ("zeros", I.Zeros),
        ("glorot_uniform", I.GlorotUniform),
        ("lecun_normal", I.LeCunNormal),
        ("lecun_uniform", I.LeCunUniform),
        ("truncated_normal", I.TruncatedNormal),
    ],
)
def test_names_are_those_of_the_classes_in_small_letters(name, kind):
    assert INITIALIZERS[name] is kind


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", INITIALIZERS)
def test_every_name_makes_weights_that_the_seed_decides(name, dtype):
    def kernel(seed):
        model = built(L.Dense(12, kernel_initializer=name), L.Dense(2), seed=seed)
        model.compile("mean_squared_error", dtype=dtype)
        return model.get_weights()[0]

    W = kernel(3)
    assert W.shape == (20, 12) and W.dtype == dtype and np.isfinite(W).all()
    np.testing.assert_array_equal(W, kernel(3))
    fixed = name in ("zeros", "ones", "constant", "identity")
    assert np.array_equal(W, kernel(4)) == fixed


def test_initializers_compare_by_value_and_cannot_be_changed():
    assert I.Orthogonal(2.0) == I.Orthogonal(2.0) != I.Orthogonal(1.0)
    for kind in INITIALIZERS.values():
        for field in vars(kind()):
            with pytest.raises(AttributeError):
                setattr(kind(), field, 1.0)


@pytest.mark.parametrize(
    "kind, parameters, error, message",
    [
        (I.TruncatedNormal, {"mean": "a"}, TypeError, r"mean: expected a number, got 'a'"),
        (I.TruncatedNormal, {"mean": NAN}, ValueError, r"mean: expected .*, got nan"),
        (I.TruncatedNormal, {"stddev": -1}, ValueError, r"stddev: expected .*\[0, .*, got -1"),
        (I.TruncatedNormal, {"limit": 0}, ValueError, r"limit: expected .*\[0\.1, .*, got 0"),
        (I.TruncatedNormal, {"limit": None}, TypeError, r"limit: expected a number, got None"),
        (I.Orthogonal, {"gain": -1}, ValueError, r"gain: expected .*\[0, .*, got -1"),
        (I.Orthogonal, {"gain": "relu"}, TypeError, r"gain: expected a number, got 'relu'"),
        (I.Sparse, {"connections": 0}, ValueError, r"connections: expected at least 1, got 0"),
        (I.Sparse, {"connections": 0.1}, TypeError, r"connections: expected an integer, got 0.1"),
        (I.Sparse, {"stddev": 0}, ValueError, r"stddev: expected .*\(0, .*, got 0"),
        (I.Identity, {"gain": math.inf}, ValueError, r"gain: expected .*, got inf"),
        (I.Identity, {"gain": True}, TypeError, r"gain: expected a number, got True"),
    ],
)
def test_bad_parameters_are_named(kind, parameters, error, message):
    with pytest.raises(error, match=rf"^{message}"):
        kind(**parameters)


# ---- LSUV ---------------------------------------------------------------------------------------

#: In the range of float32, but sums of such numbers are not.
HUGE = np.full((5, 20), 3e38) * np.sign(rng().normal(size=(5, 20)))

FUNCTIONS = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "identity": lambda z: z}


def measured(model, X):
    """Variances of x W + b of each Dense layer, in NumPy and float64."""
    weights = [w.astype(np.float64) for w in model.get_weights()]
    x, variances = np.asarray(X, np.float64), []
    for layer in model.layers:
        z = x @ weights.pop(0) + (weights.pop(0) if layer.use_bias else 0.0)
        variances.append(z.var())
        x = FUNCTIONS[layer.activation.name](z)
    assert not weights
    return np.array(variances)


def deep(activation="relu", depth=12, **options):
    hidden = (L.Dense(64, activation) for _ in range(depth))
    return built(*hidden, L.Dense(3, **options))


def examples(n=700, features=20, seed=5):
    return rng(seed).normal(0.5, 2.0, size=(n, features))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_lsuv_brings_every_layer_to_variance_one_where_glorot_does_not(activation):
    X, model = examples(), deep(activation)
    glorot = np.abs(measured(model, X) - 1)
    assert (glorot > 0.1).sum() >= 12  # chance may leave one of the 13 near 1
    returned = lsuv(model, X)
    assert isinstance(returned, list) and len(returned) == 13
    after = measured(model, X)
    assert np.abs(after - 1).max() < 0.05
    np.testing.assert_allclose(returned, after, rtol=1e-4)


def test_lsuv_kernels_are_orthonormal_times_a_number():
    model = deep()
    lsuv(model, examples())
    for W in model.get_weights()[::2]:
        W = W.astype(np.float64)
        product = W.T @ W if W.shape[0] >= W.shape[1] else W @ W.T
        scale = product[0, 0]
        np.testing.assert_allclose(product / scale, np.eye(len(product)), atol=1e-5)


def test_lsuv_reaches_a_small_tolerance_against_biases():
    # A kernel's scale moves only its part of the variance, so that one division is not enough.
    def variances(**options):
        model = built(L.Dense(50, "tanh", bias_initializer=I.Normal(0, 0.5)), L.Dense(2))
        model.compile("mean_squared_error", dtype="float64")
        returned = lsuv(model, examples(), **options)
        np.testing.assert_allclose(returned, measured(model, examples()), rtol=1e-9)
        return np.abs(np.subtract(returned, 1))

    assert variances(tolerance=1e-6, max_iterations=30).max() < 1e-6
    assert variances(tolerance=1e-6, max_iterations=1)[0] > 0.05
    loose = variances(tolerance=0.1).max()
    assert 1e-3 < loose < 0.1  # and no more work than asked


def test_lsuv_takes_what_fit_takes():
    """Layers between, no biases, images of bytes, a softmax at the end, the NumPy backend."""
    X = rng().integers(0, 256, (200, 6, 6), dtype=np.uint8)
    model = fnn.Sequential(
        [
            fnn.Input((6, 6)),
            L.Rescaling(1 / 255, -0.5),
            L.Flatten(),
            L.Dense(30, use_bias=False),
            L.Activation("tanh"),
            L.Dropout(0.5),
            L.Dense(20, "relu"),
            L.Dense(10, "softmax"),
        ]
    )
    model.compile("cross_entropy", backend="numpy", threads=1)
    returned = lsuv(model, X)
    assert len(returned) == 3
    # The same network, written so that each Dense layer has its activation.
    plain = built(L.Dense(30, "tanh", use_bias=False), L.Dense(20, "relu"), L.Dense(10), inputs=36)
    plain.set_weights(model.get_weights())
    after = measured(plain, X.reshape(-1, 36) / 255 - 0.5)
    assert np.abs(after - 1).max() < 0.05
    np.testing.assert_allclose(returned, after, rtol=1e-4)


class Turn(L.Layer):
    """A layer of a user's own, with weights: it turns images (rows, columns) as vectors."""

    def output_shape(self, input_shape):
        rows, columns = input_shape
        return (rows * columns,)

    def weights(self, input_shape):
        size = math.prod(input_shape)
        return [L.Weight("turn", (size, size), I.Orthogonal())]

    def emit(self, graph, x, weights, training):
        return graph.emit("dense", x, weights[0], None, function="identity", parameters=())[0]


def test_lsuv_leaves_other_layers_their_weights():
    model = built(Turn(), L.Dense(9, "tanh"), L.Dense(8, "relu"), L.Dense(3), inputs=(4, 5))
    X = examples().reshape(-1, 4, 5)
    turn = model.get_weights()[0].copy()
    returned = lsuv(model, X)
    np.testing.assert_array_equal(model.get_weights()[0], turn)
    assert len(returned) == 3
    model.compile("mean_squared_error")
    assert model.predict(X).var() == pytest.approx(returned[-1], rel=1e-4)
    assert returned[-1] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("layer", [L.WeightNormDense, L.CosineDense])
def test_lsuv_leaves_layers_whose_values_do_not_grow_with_their_kernel(layer):
    model = built(L.Dense(9, "tanh"), layer(8, "relu"), L.Dense(3))
    before = [w.copy() for w in model.get_weights()]
    returned = lsuv(model, examples())
    assert len(returned) == 2 and returned == pytest.approx([1, 1], abs=0.05)
    for mine, earlier in list(zip(model.get_weights(), before, strict=True))[2:-2]:
        np.testing.assert_array_equal(mine, earlier)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_lsuv_measures_what_the_model_itself_predicts(backend):
    X = examples(features=700)  # enough to add up for the order of the additions to show
    model = built(L.Dense(7), inputs=700)
    model.compile("mean_squared_error", backend=backend, threads=1)
    (variance,) = lsuv(model, X)
    assert variance == model.predict(X).var(dtype=np.float64)  # bit for bit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lsuv_changes_nothing_but_kernels(dtype):
    X = examples()
    y = X[:, :3] ** 2

    def trained():
        hidden = L.Dense(16, "tanh", bias_initializer=I.Normal(0, 0.2))
        model = built(hidden, L.Dropout(0.2), L.Dense(3, bias_initializer=I.Constant(0.1)))
        model.compile("mean_squared_error", "adam", dtype=dtype)
        model.fit(X, y, epochs=2, verbose=0)
        return model

    one, other = trained(), trained()
    saved, data, history = one.parameters.copy(), X.copy(), one.history
    layers, looks = one.layers, repr(one)
    lsuv(one, X)
    assert one.history is history and one.layers == layers and repr(one) == looks
    np.testing.assert_array_equal(X, data)
    for i, (old, new) in enumerate(zip(other.get_weights(), one.get_weights(), strict=True)):
        assert np.array_equal(old, new) == (i % 2 == 1)
    # With its weights back, the model goes on as if nothing had been.
    one.parameters[:] = saved
    for model in (one, other):
        model.fit(X, y, initial_epoch=2, epochs=4, verbose=0)
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_lsuv_weights_depend_on_the_seed_and_not_on_the_weights_before():
    X = examples()

    def weights(seed, shift=0.0, **options):
        model = built(L.Dense(8, "relu"), L.Dense(2), seed=seed)
        for W in model.get_weights()[::2]:
            W += shift
        lsuv(model, X, **options)
        return model.parameters.copy()

    np.testing.assert_array_equal(weights(1), weights(1))
    np.testing.assert_array_equal(weights(1), weights(1, shift=7.0))
    assert not np.array_equal(weights(1), weights(2))
    np.testing.assert_allclose(weights(1), weights(1, batch_size=33), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "model, X, options, error, message",
    [
        ("a", None, {}, TypeError, r"model: expected a Sequential, got str"),
        (fnn.Sequential([L.Dense(2)]), None, {}, RuntimeError, r"the model is not built"),
        (built(L.Flatten()), None, {}, ValueError, r"model: expected at least one Dense layer"),
        (None, np.ones((5, 19)), {}, ValueError, r"X: expected shape \(n, 20\), got \(5, 19\)"),
        (None, np.ones(20), {}, ValueError, r"X: expected shape \(n, 20\)"),
        (None, np.ones((0, 20)), {}, ValueError, r"X: is empty"),
        (None, np.full((5, 20), NAN), {}, ValueError, r"X: contains nan"),
        (None, "data", {}, TypeError, r"X: expected an array of numbers"),
        (None, np.zeros((5, 20)), {}, ValueError, r"X: expected .*layer 0 .* variance of 0$"),
        (None, HUGE, {}, ValueError, r"X: expected .*layer 0 .* variance of (nan|inf)$"),
        (None, None, {"tolerance": 0}, ValueError, r"tolerance: expected .*, got 0"),
        (None, None, {"max_iterations": 0}, ValueError, r"max_iterations: expected .*, got 0"),
        (None, None, {"batch_size": 1.5}, TypeError, r"batch_size: expected .*, got 1.5"),
    ],
)
def test_lsuv_names_what_is_wrong(model, X, options, error, message):
    model = built(L.Dense(4, "relu"), L.Dense(2)) if model is None else model
    with pytest.raises(error, match=rf"^{message}"):
        lsuv(model, examples() if X is None else X, **options)


def test_lsuv_changes_nothing_when_a_later_layer_is_dead():
    dead = L.Dense(8, "relu", bias_initializer=I.Constant(-1000))
    model = built(L.Dense(8, "relu"), dead, L.Dense(2))
    before = model.parameters.copy()
    with pytest.raises(ValueError, match=r"^X: expected .* layer 2 \(Dense\) .* variance of 0$"):
        lsuv(model, examples())
    np.testing.assert_array_equal(model.parameters, before)


def test_a_model_that_an_initializer_refuses_stays_as_it_was():
    model = fnn.Sequential([fnn.layers.Dense(4, kernel_initializer="sparse")])
    for _ in range(2):  # the second time says the same
        with pytest.raises(ValueError, match="connections"):
            model.build(3)
    model.build(20)
    assert model.get_weights()[0].shape == (20, 4)
