"""What introductory lectures state about multi-layer perceptrons, shown on this library.

The numbers are those of textbooks; the library has to reproduce them, not the other way round.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastnn as fnn
from fastnn.kernels.formula import FORMULAS

L = fnn.layers
SGD = fnn.optimizers.SGD
BACKENDS = ("numpy", "cython")

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def network(*layers, loss="mean_squared_error", optimizer="sgd", seed=0, **options):
    """A model in float64, unless asked otherwise."""
    model = fnn.Sequential(list(layers), seed=seed)
    model.compile(loss, optimizer, **({"dtype": "float64"} | options))
    return model


def logits_model(n, activation, loss, **options):
    """A network that does nothing but its output activation; its bias gradient is d loss / d z."""
    return network(
        fnn.Input(n), L.Dense(n, activation, kernel_initializer="zeros"), loss=loss, **options
    )


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ---- small numbers to get exactly ---------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("one_hot", [False, True], ids=["label", "one-hot"])
def test_the_gradient_of_cross_entropy_at_the_logits_is_prediction_minus_target(one_hot, backend):
    z = np.array([2.0, -1.0, 0.5, 30.0])
    p = np.exp(z) / np.exp(z).sum()
    for label in range(4):
        model = logits_model(4, "softmax", "cross_entropy", backend=backend)
        model.get_weights()[1][:] = z
        target = np.eye(4)[label]
        y = target[None] if one_hot else [label]
        loss, (_, gradient) = model.loss_and_gradients(np.zeros((1, 4)), y)
        close(gradient, p - target)
        close(loss, -np.log(p[label]))


@each_backend
def test_the_gradient_of_sigmoid_and_log_loss_is_prediction_minus_target(backend):
    z = np.array([3.0, -2.0, 0.0, 25.0])
    t = np.array([1.0, 1.0, 0.0, 0.25])
    model = logits_model(4, "sigmoid", "binary_cross_entropy", backend=backend)
    model.get_weights()[1][:] = z
    loss, (_, gradient) = model.loss_and_gradients(np.zeros((1, 4)), t[None])
    close(4 * gradient, sigmoid(z) - t)  # the loss is the mean over the outputs
    close(loss, -(t * np.log(sigmoid(z)) + (1 - t) * np.log(sigmoid(-z))).mean())


@each_backend
def test_the_stable_forms_survive_logits_that_overflow_the_plain_ones(backend):
    for activation, loss, y in (
        ("softmax", "cross_entropy", [1]),
        ("sigmoid", "binary_cross_entropy", [[0.0, 1.0]]),
    ):
        model = logits_model(2, activation, loss, backend=backend)
        model.get_weights()[1][:] = [1000.0, -1000.0]
        value, (_, gradient) = model.loss_and_gradients(np.zeros((1, 2)), y)
        assert value == pytest.approx({"softmax": 2000, "sigmoid": 1000}[activation], rel=1e-12)
        scale = {"softmax": 1.0, "sigmoid": 0.5}[activation]
        close(gradient, [scale, -scale])


@each_backend
def test_the_output_delta_of_a_sigmoid_network_with_squared_error(backend):
    """E = 1/2 sum (a - t)^2 is outputs / 2 times our mean: delta = (a - t) f'(z)."""
    z, t = np.array([1.5, -0.5, 0.25]), np.array([0.0, 1.0, 0.5])
    model = logits_model(3, "sigmoid", "mean_squared_error", backend=backend)
    model.get_weights()[1][:] = z
    loss, (_, gradient) = model.loss_and_gradients(np.zeros((1, 3)), t[None])
    a = sigmoid(z)
    close(3 / 2 * loss, 0.5 * ((a - t) ** 2).sum())
    close(3 / 2 * gradient, (a - t) * a * (1 - a))


@each_backend
def test_back_propagation_by_hand(backend):
    """Two inputs, two sigmoid units, one output: every delta as the blackboard has it."""
    x, t = np.array([0.35, 0.9]), 0.5
    W, V = np.array([[0.1, 0.4], [0.8, 0.6]]), np.array([[0.3], [0.9]])
    model = network(
        fnn.Input(2),
        L.Dense(2, "sigmoid", use_bias=False),
        L.Dense(1, "sigmoid", use_bias=False),
        backend=backend,
        optimizer=SGD(0.5),
    )
    model.set_weights([W, V])
    h = sigmoid(x @ W)
    a = sigmoid(h @ V)[0]
    assert a == pytest.approx(0.69, abs=0.005)  # the lecture's rounded numbers
    delta = (a - t) * a * (1 - a)
    deltas = delta * V[:, 0] * h * (1 - h)
    loss, (dW, dV) = model.loss_and_gradients(x[None], [t])
    close(loss, (a - t) ** 2)
    close(dV[:, 0], 2 * delta * h)
    close(dW, 2 * np.outer(x, deltas))
    model.train_on_batch(x[None], [t])
    close(model.get_weights()[1], V - 0.5 * dV)
    close(model.get_weights()[0], W - 0.5 * dW)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tanh_is_a_scaled_sigmoid_in_the_compiled_kernels(dtype):
    x = np.linspace(-9, 9, 1001)[:, None]
    tanh = network(fnn.Input(1), L.Activation("tanh"), dtype=dtype)
    scaled = network(
        fnn.Input(1), L.Rescaling(2.0), L.Activation("sigmoid"), L.Rescaling(2.0, -1.0), dtype=dtype
    )
    tolerance = {"float32": 4e-7, "float64": 1e-15}[dtype]
    np.testing.assert_allclose(tanh.predict(x), scaled.predict(x), rtol=0, atol=tolerance)


DERIVATIVES = {
    "sigmoid": lambda x, y: y * (1 - y),
    "tanh": lambda x, y: 1 - y**2,
    "elu": lambda x, y: np.where(x > 0, 1, y + 1),
    "relu": lambda x, y: (x > 0).astype(float),
    "leaky_relu": lambda x, y: np.where(x > 0, 1, 0.01),
    "heaviside": lambda x, y: 0 * x,
    "identity": lambda x, y: 0 * x + 1,
    "selu": lambda x, y: np.where(
        x > 0, 1.0507009873554805, y + 1.0507009873554805 * 1.6732632423543772
    ),
    "softplus": lambda x, y: 1 - np.exp(-y),
    "hard_sigmoid": lambda x, y: np.where((y > 0) & (y < 1), 1 / 6, 0),
    "hard_tanh": lambda x, y: np.where((y > -1) & (y < 1), 1.0, 0),
    "relu6": lambda x, y: np.where((y > 0) & (y < 6), 1.0, 0),
}


@each_backend
@pytest.mark.parametrize(
    "name", [n for n, f in FORMULAS["activation"].items() if not f.derivative_reads("x")]
)
def test_derivatives_in_terms_of_the_value(name, backend):
    """Of E = |y - t| with every t far below, whose derivative by y is 1 / outputs."""
    x = np.array([-3.0, -1.0, -0.1, 0.1, 1.0, 3.0])
    model = logits_model(6, name, "mean_absolute_error", backend=backend)
    model.get_weights()[1][:] = x
    y = model.predict(np.zeros((1, 6)))[0]
    _, (_, gradient) = model.loss_and_gradients(np.zeros((1, 6)), np.full((1, 6), -99.0))
    close(6 * gradient, DERIVATIVES[name](x, y))


@each_backend
def test_the_l2_penalty_shrinks_weights_and_not_biases(backend):
    """w <- w (1 - tau lambda) - tau g"""
    tau, decay = 0.1, 0.3
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    plain, penalised = (
        network(fnn.Input(3), L.Dense(2, kernel_regularizer=r), optimizer=SGD(tau), backend=backend)
        for r in (None, fnn.regularizers.L2(decay))
    )
    for model in (plain, penalised):
        model.get_weights()[1][:] = [1.0, -2.0]
    W, b = (w.copy() for w in plain.get_weights())
    _, (dW, db) = plain.loss_and_gradients(X, y)
    loss = penalised.train_on_batch(X, y)
    close(loss, plain.evaluate(X, y)["loss"] + decay / 2 * (W**2).sum())
    close(penalised.get_weights()[0], W * (1 - tau * decay) - tau * dW)
    close(penalised.get_weights()[1], b - tau * db)


def seen_steps(optimizer, gradients, **options):
    """Weights after each update when the gradients are these."""
    model = network(
        fnn.Input(1),
        L.Dense(1, use_bias=False, kernel_initializer="zeros"),
        loss="mean_absolute_error",
        optimizer=optimizer,
        **options,
    )
    weights = []
    for g in gradients:  # |w x - t| with t far above has the derivative -x
        model.train_on_batch([[-g]], [1e9])
        weights.append(model.parameters[0])
    return np.array(weights)


GRADIENTS = np.array([1.0, 0.5, -2.0, 3.0, 0.25, -1.0, 0.0, 4.0])


@each_backend
def test_linear_decay_of_the_rate(backend):
    """tau_k = (1 - a) tau_0 + a tau_end with a = min(k / K, 1)"""
    tau, end, steps = 0.4, 0.04, 5
    schedule = fnn.schedules.LinearDecay(tau, end, decay_steps=steps)
    weights = seen_steps(SGD(schedule), np.ones(9), backend=backend)
    a = np.minimum(np.arange(9) / steps, 1)
    close(-np.diff(weights, prepend=0), (1 - a) * tau + a * end)


@each_backend
def test_the_forms_of_momentum_are_equal(backend):
    rate, mu = 0.1, 0.8
    expected = np.zeros((4, len(GRADIENTS)))
    w, v = np.zeros(4), np.zeros(4)
    for k, g in enumerate(GRADIENTS):
        v[0] = mu * v[0] - rate * g
        w[0] += v[0]
        v[1] = mu * v[1] + rate * g
        w[1] -= v[1]
        v[2] = mu * v[2] + g
        w[2] -= rate * v[2]
        v[3] = mu * v[3] + (1 - mu) * g
        w[3] -= rate / (1 - mu) * v[3]
        expected[:, k] = w
    found = seen_steps(fnn.optimizers.Momentum(rate, mu), GRADIENTS, backend=backend)
    for form in expected:
        close(found, form)


@each_backend
def test_nesterov_looks_ahead(backend):
    """The lecture's form keeps the point before the momentum's step; ours the one after it."""
    rate, mu = 0.1, 0.8
    before, v, expected = 0.0, 0.0, []
    for g in GRADIENTS:
        v = mu * v - rate * g
        before += v
        expected.append(before + mu * v)
    found = seen_steps(fnn.optimizers.Nesterov(rate, mu), GRADIENTS, backend=backend)
    close(found, expected)


@each_backend
def test_the_adaptive_rules(backend):
    rate, rho, rho1, rho2, delta = 0.1, 0.9, 0.9, 0.999, 1e-8
    w, total, mean, first, second = np.zeros(3), 0.0, 0.0, 0.0, 0.0
    expected = []
    for t, g in enumerate(GRADIENTS, 1):
        total += g * g
        mean = rho * mean + (1 - rho) * g * g
        first = rho1 * first + (1 - rho1) * g
        second = rho2 * second + (1 - rho2) * g * g
        w[0] -= rate * g / (delta + np.sqrt(total))
        w[1] -= rate * g / (delta + np.sqrt(mean))
        w[2] -= rate * first / (1 - rho1**t) / (delta + np.sqrt(second / (1 - rho2**t)))
        expected.append(w.copy())
    rules = (
        fnn.optimizers.AdaGrad(rate, epsilon=delta),
        fnn.optimizers.RMSProp(rate, rho, epsilon=delta),
        fnn.optimizers.Adam(rate, rho1, rho2, epsilon=delta),
    )
    for rule, weights in zip(rules, np.transpose(expected), strict=True):
        close(seen_steps(rule, GRADIENTS, backend=backend), weights)


def test_the_first_step_of_adam_is_the_rate_whatever_the_gradient():
    for g in (1e-3, 1.0, 1e3):
        close(seen_steps(fnn.optimizers.Adam(0.01), [g]), [-0.01], 1e-4)


def test_the_error_of_the_gradient_falls_with_the_root_of_the_batch():
    """A hundred times the work for ten times the accuracy."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 4))
    y = X @ rng.normal(size=(4, 1)) + rng.normal(size=(20_000, 1))
    model = network(fnn.Input(4), L.Dense(1))
    _, (exact, _) = model.loss_and_gradients(X, y)

    def error(n):
        rows = [rng.integers(0, len(X), n) for _ in range(200)]
        parts = [model.loss_and_gradients(X[r], y[r])[1][0] - exact for r in rows]
        return np.sqrt(np.mean(np.square(parts)))

    assert error(10) / error(1000) == pytest.approx(10, rel=0.15)


# ---- claims to show -----------------------------------------------------------------------------

XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32"), np.array([0, 1, 1, 0])


@pytest.mark.parametrize("seed", range(3))
def test_xor_is_out_of_reach_of_one_layer_and_easy_for_two(seed):
    X, y = XOR
    accuracy = {}
    for layers in (1, 2):
        hidden = [L.Dense(8, "tanh")] * (layers - 1)
        model = network(
            fnn.Input(2), *hidden, L.Dense(1, "sigmoid"),
            loss="binary_cross_entropy", optimizer=fnn.optimizers.Adam(0.05),
            metrics=["accuracy"], seed=seed,
        )  # fmt: skip
        model.fit(X, y, epochs=600, verbose=0)
        accuracy[layers] = model.evaluate(X, y)
    assert accuracy[1]["accuracy"] <= 0.75
    assert accuracy[1]["loss"] == pytest.approx(np.log(2), abs=0.01)  # the best there is
    assert accuracy[2]["accuracy"] == 1 and accuracy[2]["loss"] < 0.05


@each_backend
def test_all_zero_weights_keep_the_units_of_a_layer_equal(backend):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(64, 3)), rng.normal(size=(64, 2))
    options = {"backend": backend, "optimizer": fnn.optimizers.Adam(0.01)}
    zero = network(
        fnn.Input(3),
        L.Dense(5, "sigmoid", kernel_initializer="zeros"),
        L.Dense(2, kernel_initializer="zeros"),
        **options,
    )
    random = network(fnn.Input(3), L.Dense(5, "sigmoid"), L.Dense(2), **options)
    for model in (zero, random):
        model.fit(X, y, epochs=20, verbose=0)
    W, b, V, _ = zero.get_weights()
    assert np.abs(W).max() > 1e-3 and np.abs(V).max() > 1e-3  # they did learn
    close(W, W[:, :1] + 0 * W)
    close(b, b[:1] + 0 * b)
    close(V, V[:1] + 0 * V)
    W, b, V, _ = random.get_weights()
    assert np.ptp(W, axis=1).min() > 1e-3


def test_all_zero_weights_before_a_relu_or_tanh_learn_nothing_but_the_output_bias():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(32, 3)), rng.normal(size=(32, 1))
    for activation in ("relu", "tanh"):
        model = network(
            fnn.Input(3),
            L.Dense(4, activation, kernel_initializer="zeros"),
            L.Dense(1, kernel_initializer="zeros"),
        )
        model.fit(X, y, epochs=3, verbose=0)
        *rest, c = model.get_weights()
        assert all((w == 0).all() for w in rest) and c[0] != 0


@each_backend
def test_stacked_linear_layers_are_one_linear_layer(backend):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 4))
    deep = network(fnn.Input(4), L.Dense(7), L.Dense(3), L.Dense(2), backend=backend)
    for w in deep.get_weights():
        w[...] = rng.normal(size=w.shape)
    A, a, B, b, C, c = deep.get_weights()
    flat = network(fnn.Input(4), L.Dense(2), backend=backend)
    flat.set_weights([A @ B @ C, (a @ B + b) @ C + c])
    close(deep.predict(X), flat.predict(X))


def test_stacked_linear_layers_learn_no_more_than_one():
    """Both end at the least-squares solution; one hidden tanh layer goes below it."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 2))
    y = X[:, :1] * X[:, 1:]
    design = np.c_[X, np.ones(80)]
    best = ((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).mean()
    losses = {}
    for name, layers in {
        "one": [L.Dense(1)],
        "stacked": [L.Dense(6), L.Dense(1)],
        "tanh": [L.Dense(12, "tanh"), L.Dense(1)],
    }.items():
        model = network(fnn.Input(2), *layers, optimizer=fnn.optimizers.Adam(0.01))
        model.fit(X, y, batch_size=80, epochs=2000, verbose=0)
        losses[name] = model.evaluate(X, y)["loss"]
    assert losses["one"] == pytest.approx(best, rel=1e-3)
    assert losses["stacked"] == pytest.approx(best, rel=1e-3)
    assert losses["tanh"] < best / 4


def test_large_weights_saturate_sigmoids_and_stop_the_gradient():
    X = np.random.default_rng(0).normal(size=(50, 10))
    y = np.zeros((50, 1))
    norms = []
    for stddev in (0.3, 30.0):
        initial = fnn.initializers.Normal(0, stddev)
        model = network(
            fnn.Input(10), L.Dense(10, "sigmoid", kernel_initializer=initial), L.Dense(1)
        )
        _, gradients = model.loss_and_gradients(X, y)
        norms.append(np.median(np.abs(gradients[0])))
    assert norms[1] < norms[0] / 20


@pytest.mark.parametrize(
    "activation, good, bad",
    [("tanh", "glorot_normal", 0.01), ("relu", "he_normal", 0.01), ("relu", "he_uniform", 0.01)],
)
def test_good_initial_weights_keep_the_variance_from_layer_to_layer(activation, good, bad):
    X = np.random.default_rng(0).normal(size=(200, 100))

    def last_spread(initializer):
        layers = [L.Dense(100, activation, kernel_initializer=initializer) for _ in range(6)]
        return network(fnn.Input(100), *layers).predict(X).std()

    assert 0.15 < last_spread(good) < 2
    assert last_spread(fnn.initializers.Normal(0, bad)) < 1e-4


def test_a_dead_relu_stays_dead_and_a_leaky_one_does_not():
    X = np.random.default_rng(0).normal(size=(40, 3))
    y = X @ np.ones((3, 1))
    for activation, dead in (("relu", True), ("leaky_relu", False)):
        model = network(
            fnn.Input(3),
            L.Dense(4, activation, bias_initializer=fnn.initializers.Constant(-30.0)),
            L.Dense(1),
        )
        before = model.get_weights()[0].copy()
        model.fit(X, y, epochs=5, verbose=0)
        assert np.array_equal(model.get_weights()[0], before) == dead


def test_a_rate_that_is_too_high_diverges_and_the_limit_is_that_of_theory():
    """Gradient descent on a quadratic converges below 2 / the largest eigenvalue of its Hessian."""
    X = np.random.default_rng(0).normal(size=(60, 3))
    y = X @ np.array([[1.0], [-2.0], [0.5]])
    limit = 2 / np.linalg.eigvalsh(2 * X.T @ X / 60).max()
    losses = []
    for rate in (0.9 * limit, 1.1 * limit):
        model = network(fnn.Input(3), L.Dense(1, use_bias=False), optimizer=SGD(rate))
        history = model.fit(X, y, batch_size=60, epochs=200, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0][-1] < 1e-6 * losses[0][0]
    assert losses[1][-1] > 1e6 * losses[1][0]


def test_momentum_is_faster_in_a_narrow_valley():
    X = np.random.default_rng(0).normal(size=(100, 2)) * [1.0, 0.05]
    y = X @ np.array([[1.0], [4.0]])
    losses = {}
    for rule in (SGD(0.3), fnn.optimizers.Momentum(0.3, mu=0.9)):
        model = network(fnn.Input(2), L.Dense(1, use_bias=False), optimizer=rule)
        model.fit(X, y, batch_size=100, epochs=200, verbose=0)
        losses[type(rule).__name__] = model.evaluate(X, y)["loss"]
    assert losses["Momentum"] < losses["SGD"] / 10


def test_class_weights_cure_the_answer_that_is_always_the_same():
    """With 95% of one class, few rows of the other are found unless they weigh more."""
    rng = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(int)
    X = rng.normal(size=(400, 2)) + 1.5 * y[:, None]

    def found(class_weight):
        model = network(
            fnn.Input(2), L.Dense(2, "softmax"), loss="cross_entropy", optimizer=SGD(0.5)
        )
        model.fit(X, y, epochs=30, class_weight=class_weight, verbose=0)
        answer = model.predict(X).argmax(axis=1)
        return (answer[y == 1] == 1).mean()

    assert found(None) < 0.5
    assert found({0: 1.0, 1: 19.0}) > 0.7


def test_a_permutation_of_the_pixels_changes_nothing_for_a_fully_connected_network():
    """W = W' R: the same training, with rows of the first weights in another order."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 9)), rng.integers(0, 3, 60)
    order = rng.permutation(9)
    models = [
        network(
            fnn.Input(9), L.Dense(7, "tanh"), L.Dense(3, "softmax"),
            loss="cross_entropy", optimizer=fnn.optimizers.Adam(0.01),
        )
        for _ in range(2)
    ]  # fmt: skip
    W, *rest = models[0].get_weights()
    models[1].set_weights([W[order], *rest])
    models[0].fit(X, y, epochs=5, verbose=0)
    models[1].fit(X[:, order], y, epochs=5, verbose=0)
    close(models[0].predict(X), models[1].predict(X[:, order]), 1e-9)


def test_early_stopping_against_overfitting_restores_the_best_weights():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 10))
    y = (X[:, 0] + 0.8 * rng.normal(size=60) > 0).astype(int)
    layers = fnn.Input(10), L.Dense(64, "relu"), L.Dense(2, "softmax")
    options = {"loss": "cross_entropy", "optimizer": fnn.optimizers.Adam(0.02)}
    split = {"epochs": 150, "validation_split": 0.5, "verbose": 0}
    long, stopped = network(*layers, **options), network(*layers, **options)
    history = long.fit(X, y, **split).history
    assert history["loss"][-1] < 0.05 and history["val_loss"][-1] > 1.2 * min(history["val_loss"])
    stopping = fnn.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    stopped.fit(X, y, callbacks=stopping, **split)
    assert stopping.stopped_epoch is not None
    assert stopped.evaluate(X[30:], y[30:])["loss"] == pytest.approx(
        min(history["val_loss"]), rel=1e-9
    )
