"""Layers that normalize, learn their activation or act in training only, constraints, and what an
optimizer does beside its rule: a hundred steps agree with PyTorch's, or with PyTorch's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import fastnn as fnn
from fastnn.checking import check_gradients

torch = pytest.importorskip("torch")
functional = torch.nn.functional

# What both files share stands there.
from test_torch_agreement import (  # noqa: E402
    OPTIMIZERS,
    TOLERANCE,
    batches,
    both_types,
    cross_entropy,
    data,
    one_thread,  # noqa: F401 - a fixture
    squared,
)

L, R, C = fnn.layers, fnn.regularizers, fnn.constraints
SGD = fnn.optimizers.SGD
N, BATCH, FEATURES, HIDDEN, OUTPUTS = 70, 32, 6, 12, 4  # 32, 32 and 6 rows
EPOCHS = 34

#: How programs run: by rows of the batch or by calls where there are two threads.
ENGINES = {
    "numpy": {"backend": "numpy"},
    "one thread": {"threads": 1},
    "two threads": {"threads": 2},
    "two threads, each call shared": {"threads": 2, "deterministic": "any-threads"},
}
engines = pytest.mark.parametrize("engine", ENGINES)
three_engines = pytest.mark.parametrize("engine", list(ENGINES)[:3])


def network(*layers, seed=0):
    """A model with weights of a size that layers of other kinds can be told apart by."""
    model = fnn.Sequential([fnn.Input(FEATURES), *layers], seed=seed)
    rng = np.random.default_rng(0)
    for w in model.get_weights():
        if w.ndim == 2:
            w[...] = rng.normal(scale=0.5, size=w.shape)
    return model


@dataclass
class Twin:
    """The model's network in PyTorch's arithmetic, and how it is trained.

    ``forward(w, x, training)`` gives outputs, and perhaps what is added to the loss, from arrays
    that are those of ``get_weights``; those in ``fixed`` are not trained. ``adjust`` changes
    gradients before a step, ``enforce`` weights after it.
    """

    forward: Callable
    fixed: tuple[int, ...] = ()
    rule: Callable = field(default=lambda parameters: torch.optim.SGD(parameters, 0.1))
    adjust: Callable = field(default=lambda parameters: None)
    enforce: Callable = field(default=lambda weights: None)
    loss: Callable = squared
    weights: list[Any] = field(default_factory=list)

    def take(self, model, dtype):
        """Start from the model's weights."""
        self.weights = [
            torch.tensor(w.astype(dtype), requires_grad=i not in self.fixed)
            for i, w in enumerate(model.get_weights())
        ]
        self.optimizer = self.rule(self.trained)

    @property
    def trained(self):
        return [w for w in self.weights if w.requires_grad]

    def losses(self, x, t, training=True):
        """The loss of a batch."""
        outputs = self.forward(self.weights, x, training)
        outputs, more = outputs if isinstance(outputs, tuple) else (outputs, 0)
        return self.loss(outputs, t).mean() + more

    def step(self, x, t):
        """One update; the loss before it."""
        self.optimizer.zero_grad()
        loss = self.losses(x, t)
        loss.backward()
        with torch.no_grad():
            self.adjust(self.trained)
            self.optimizer.step()
            self.enforce(self.weights)
        return loss.item()

    def predict(self, x):
        with torch.no_grad():
            outputs = self.forward(self.weights, torch.tensor(x), False)
        return (outputs[0] if isinstance(outputs, tuple) else outputs).numpy()


def agree(model, twin, *, dtype, kind="numbers", after_step=lambda: None):
    """Train both on the same batches: first gradients, losses, all weights, and predictions."""
    tolerance = TOLERANCE[dtype]

    def close(a, b, relative=tolerance):
        b = np.asarray(b)
        np.testing.assert_allclose(
            a, b, rtol=relative, atol=relative * (1e-3 + float(np.abs(b).max()))
        )

    X, y = data(dtype, kind)
    twin.take(model, dtype)
    first = 1e-10 if dtype == "float64" else 2e-4
    loss, gradients = model.loss_and_gradients(X[:BATCH], y[:BATCH])
    start = [w.copy() for w in model.get_weights()]
    expected = twin.losses(torch.tensor(X[:BATCH]), torch.tensor(y[:BATCH]))
    expected.backward()
    close(loss, expected.item())
    for mine, theirs in zip(gradients, twin.weights, strict=True):
        close(mine, theirs.grad if theirs.requires_grad else torch.zeros(theirs.shape), first)
    twin.take(model, dtype)  # what keeps averages has moved

    steps = []
    for rows in batches():
        steps.append(twin.step(torch.tensor(X[rows]), torch.tensor(y[rows])))
        after_step()
    history = model.fit(X, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
    epochs = np.average(np.reshape(steps, (EPOCHS, -1)), axis=1, weights=[32, 32, 6])
    close(history.history["loss"], epochs)
    for mine, theirs, before in zip(model.get_weights(), twin.weights, start, strict=True):
        close(mine, theirs.detach().numpy())
        assert np.abs(mine - before).max() > 1e-3  # it did move
    close(model.predict(X), twin.predict(X))


def split_of(model):
    """How threads divided the steps of training."""
    (runner,) = (r for r in model._runners.values() if r.program.purpose == "train")
    return runner.program.split


# ---- layers -------------------------------------------------------------------------------------


def batch_norm(x, mean, variance, gamma, beta, training, momentum=0.1, epsilon=1e-5):
    return functional.batch_norm(x, mean, variance, gamma, beta, training, momentum, epsilon)


def after_batch_norm(w, x, training):
    W, gamma, beta, mean, variance, V, c = w
    return batch_norm(x @ W, mean, variance, gamma, beta, training).tanh() @ V + c


def other_batch_norm(w, x, training):
    """Of the input itself, and with nothing learned of its own."""
    mean, variance, W, b, gamma, mean2, variance2, V, c = w
    h = batch_norm(x, mean, variance, None, None, training, 0.5, 0.1) @ W + b
    return batch_norm(h.tanh(), mean2, variance2, gamma, None, training) @ V + c


def renormalized(most_scale, most_shift):
    """Batch renormalization as in its paper's algorithm 1."""

    def forward(w, x, training):
        W, gamma, beta, mean, variance, V, c = w
        x = x @ W
        if training:
            m, deviation = x.mean(dim=0), (x.var(dim=0, unbiased=False) + 1e-5).sqrt()
            running = (variance + 1e-5).sqrt()
            r = (deviation / running).clamp(1 / most_scale, most_scale).detach()
            d = ((m - mean) / running).clamp(-most_shift, most_shift).detach()
            y = (x - m) / deviation * r + d
            with torch.no_grad():
                mean.lerp_(m, 0.1)
                variance.lerp_(x.var(dim=0, unbiased=True), 0.1)
        else:
            y = (x - mean) / (variance + 1e-5).sqrt()
        return (y * gamma + beta).tanh() @ V + c

    return forward


def layer_norm(w, x, training):
    W, b, gamma, beta, V, c = w
    return functional.layer_norm(x @ W + b, (HIDDEN,), gamma, beta, 1e-5).tanh() @ V + c


def plain_layer_norm(w, x, training):
    W, b, V, c = w
    y = functional.layer_norm(functional.layer_norm(x, (FEATURES,), eps=1e-5) @ W + b, (HIDDEN,),
                              eps=0.1)  # fmt: skip
    return y.tanh() @ V + c


def weight_norm(w, x, training):
    v, g, b, V, g2, c = w
    h = (x @ (v / v.norm(dim=0) * g) + b).tanh()
    return h @ (V / V.norm(dim=0) * g2) + c


def cosines(gain, first=False):
    def forward(w, x, training):
        U, V, c = w[1:] if first else w
        x = (x @ w[0]) if first else x
        h = gain * functional.normalize(x, dim=1) @ functional.normalize(U, dim=0)
        return h.tanh() @ V + c

    return forward


def prelu(w, x, training):
    W, b, slope, V, c = w
    return functional.prelu(x @ W + b, slope) @ V + c


def maxout(pieces):
    def forward(w, x, training):
        W, b, V, c = w
        return (x @ W + b).reshape(len(x), pieces, HIDDEN).amax(dim=1) @ V + c

    return forward


def penalised(penalty):
    """A penalty on the hidden values, as the second result."""

    def forward(w, x, training):
        W, b, V, c = w
        h = (x @ W + b).tanh()
        return h @ V + c, penalty(h)

    return forward


def sparse(w, x, training):
    W, b, V, c = w
    h = (x @ W + b).sigmoid()
    q, p = 0.1, h.mean(dim=0)
    divergence = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    return h @ V + c, 0.05 * divergence.sum()


def hidden(*layers, **options):
    """Layers between two dense ones."""
    return lambda: [L.Dense(HIDDEN, **options), *layers, L.Dense(OUTPUTS)]


#: id: (layers, the same in PyTorch, places of what is not trained)
LAYERS = {
    "batch normalization": (
        hidden(L.BatchNormalization(), L.Activation("tanh"), use_bias=False),
        after_batch_norm, (3, 4)),
    "batch normalization of inputs": (
        lambda: [L.BatchNormalization(0.5, 0.1, scale=False, center=False),
                 L.Dense(HIDDEN, "tanh"), L.BatchNormalization(center=False), L.Dense(OUTPUTS)],
        other_batch_norm, (0, 1, 5, 6)),
    "batch renormalization": (
        hidden(L.BatchNormalization(renorm=True), L.Activation("tanh"), use_bias=False),
        renormalized(3, 5), (3, 4)),
    "batch renormalization within bounds": (
        hidden(L.BatchNormalization(renorm=True, most_scale=1.1, most_shift=0.2),
               L.Activation("tanh"), use_bias=False),
        renormalized(1.1, 0.2), (3, 4)),
    "layer normalization": (
        hidden(L.LayerNormalization(), L.Activation("tanh")), layer_norm, ()),
    "layer normalization of inputs": (
        lambda: [L.LayerNormalization(scale=False, center=False), L.Dense(HIDDEN),
                 L.LayerNormalization(0.1, scale=False, center=False), L.Activation("tanh"),
                 L.Dense(OUTPUTS)],
        plain_layer_norm, ()),
    "weight normalization": (
        lambda: [L.WeightNormDense(HIDDEN, "tanh", gain=0.7), L.WeightNormDense(OUTPUTS)],
        weight_norm, ()),
    "cosines": (lambda: [L.CosineDense(HIDDEN, "tanh"), L.Dense(OUTPUTS)], cosines(1.0), ()),
    "cosines of hidden values": (
        hidden(L.CosineDense(HIDDEN, "tanh", gain=3.0), use_bias=False), cosines(3.0, True), ()),
    "prelu": (hidden(L.PReLU()), prelu, ()),
    "prelu of one slope": (hidden(L.PReLU(0.1, shared=True)), prelu, ()),
    "maxout": (lambda: [L.Maxout(HIDDEN), L.Dense(OUTPUTS)], maxout(2), ()),
    "maxout of three": (lambda: [L.Maxout(HIDDEN, 3), L.Dense(OUTPUTS)], maxout(3), ()),
    "activity l1": (
        hidden(L.ActivityRegularization(R.L1(0.02)), activation="tanh"),
        penalised(lambda h: 0.02 * h.abs().sum(dim=1).mean()), ()),
    "activity l2": (
        hidden(L.ActivityRegularization("l2"), activation="tanh"),
        penalised(lambda h: 0.005 * h.square().sum(dim=1).mean()), ()),
    "sparsity": (
        hidden(L.SparsityRegularization(0.1, 0.05), activation="sigmoid"), sparse, ()),
}  # fmt: skip


@both_types
@engines
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, engine, dtype):
    layers, forward, fixed = LAYERS[name]
    model = network(*layers())
    model.compile("mean_squared_error", SGD(0.1), dtype=dtype, **ENGINES[engine])
    agree(model, Twin(forward, fixed), dtype=dtype)


def test_every_new_layer_is_compared():
    """Or is one of those that others test."""
    made = {type(layer).__name__ for make, _, _ in LAYERS.values() for layer in make()}
    assert made >= {
        "BatchNormalization", "LayerNormalization", "WeightNormDense", "CosineDense", "PReLU",
        "Maxout", "ActivityRegularization", "SparsityRegularization",
    }  # fmt: skip


@both_types
def test_weight_normalization_is_pytorchs(dtype):
    """Its own parametrization, with each unit normalized, from its own start."""
    linear = torch.nn.Linear(FEATURES, OUTPUTS, dtype=getattr(torch, dtype))
    linear = torch.nn.utils.parametrizations.weight_norm(linear, dim=0)
    gains = linear.parametrizations.weight.original0
    directions = linear.parametrizations.weight.original1
    model = network(L.WeightNormDense(OUTPUTS))
    model.compile("mean_squared_error", SGD(0.1), dtype=dtype)

    def arrays():
        return [a.detach().numpy() for a in (directions.T, gains[:, 0], linear.bias)]

    model.set_weights(arrays())
    X, y = data(dtype, "numbers")
    optimizer = torch.optim.SGD(linear.parameters(), 0.1)
    for rows in batches():
        optimizer.zero_grad()
        squared(linear(torch.tensor(X[rows])), torch.tensor(y[rows])).mean().backward()
        optimizer.step()
        model.train_on_batch(X[rows], y[rows])
    for mine, theirs in zip(model.get_weights(), arrays(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_batch_renormalization_starts_as_batch_normalization_ends():
    """With no room between the bounds the two are the same in training."""
    X, y = data("float64", "numbers")
    weights = []
    for options in ({}, {"renorm": True, "most_scale": 1, "most_shift": 0}):
        model = network(L.Dense(HIDDEN), L.BatchNormalization(**options), L.Dense(OUTPUTS))
        model.compile("mean_squared_error", SGD(0.1), dtype="float64")
        model.fit(X, y, epochs=3, verbose=0)
        weights.append(model.parameters)
    np.testing.assert_allclose(*weights, rtol=1e-12, atol=1e-14)


def test_training_normalizes_by_the_batch_and_evaluation_by_what_was_seen():
    X, y = data("float64", "numbers")
    model = network(L.BatchNormalization(scale=False, center=False))
    model.compile("mean_squared_error", SGD(0.1), dtype="float64")
    y = np.zeros((N, FEATURES))
    loss = model.loss_and_gradients(X, y)[0]
    variance = X.var(axis=0)
    assert loss == pytest.approx((variance / (variance + 1e-5)).mean(), rel=1e-12)
    np.testing.assert_allclose(model.predict(X), X / np.sqrt(1 + 1e-5), rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_normalization_of_a_large_mean(engine):
    """Numbers of 1e4 +- 1 in float32: no more digits are lost than X has lost itself."""
    rng = np.random.default_rng(3)
    X = (1e4 + rng.normal(size=(N, FEATURES))).astype("float32")
    y = rng.normal(size=(N, OUTPUTS)).astype("float32")
    results, means = [], []
    for options in ({"dtype": "float64"}, ENGINES[engine]):
        model = network(L.BatchNormalization(), L.Dense(HIDDEN, "tanh"), L.Dense(OUTPUTS))
        model.compile("mean_squared_error", SGD(0.05), **options)
        _, gradients = model.loss_and_gradients(X, y)
        assert np.isfinite(model.predict(X)).all()
        losses = model.fit(X, y, batch_size=BATCH, epochs=EPOCHS, verbose=0).history["loss"]
        results.append((gradients, losses, model.parameters.copy(), model.get_weights()[3]))
        means.append(model.get_weights()[2])
    (gradients, *rest), (gradients_32, *rest_32) = results
    for a, b in zip(gradients_32, gradients, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3 * max(np.abs(b).max(), 1e-9))
    for a, b in zip(rest_32, rest, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    # An average of momentum 0.9 stops moving five units in the last place away, also PyTorch's.
    np.testing.assert_allclose(*means, rtol=0, atol=5 * np.spacing(np.float32(1e4)))


# ---- constraints --------------------------------------------------------------------------------


def max_norm(w, limit):
    length = w.norm(dim=0)
    w *= torch.where(length > limit, limit / length, 1.0)


def unit_norm(w):
    w /= w.norm(dim=0)


def two_layers(w, x, training=True):
    W, b, V, c = w
    return (x @ W + b).tanh() @ V + c


#: id: (of the first kernel, of its bias, the same by hand)
CONSTRAINTS = {
    "max_norm": (C.MaxNorm(0.8), None, lambda w: max_norm(w[0], 0.8)),
    "unit_norm": ("unit_norm", None, lambda w: unit_norm(w[0])),
    "non_negative": ("non_negative", None, lambda w: w[0].clamp_(min=0)),
    "non_negative bias": (None, C.NonNegative, lambda w: w[1].clamp_(min=0)),
    "both": (C.MaxNorm(1.2), C.NonNegative(),
             lambda w: (max_norm(w[0], 1.2), w[1].clamp_(min=0))),
}  # fmt: skip


def test_every_constraint_is_compared():
    assert set(CONSTRAINTS) >= set(C.CONSTRAINTS)


@both_types
@engines
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints(name, engine, dtype):
    kernel, bias, enforce = CONSTRAINTS[name]
    model = network(
        L.Dense(HIDDEN, "tanh", kernel_constraint=kernel, bias_constraint=bias), L.Dense(OUTPUTS)
    )
    rule = fnn.optimizers.Momentum(0.03)
    model.compile("mean_squared_error", rule, dtype=dtype, **ENGINES[engine])
    twin = Twin(two_layers, rule=lambda p: torch.optim.SGD(p, 0.03, momentum=0.9), enforce=enforce)
    agree(model, twin, dtype=dtype)
    W, b, *_ = model.get_weights()
    length = np.linalg.norm(W, axis=0)
    if name == "max_norm":
        assert length.max() <= 0.8 * (1 + 1e-6) and (length > 0.799).sum() > 2
    if name == "unit_norm":
        np.testing.assert_allclose(length, 1, rtol=1e-6)
    if name == "non_negative":
        assert W.min() == 0 and W.max() > 0
    if bias is not None:
        assert b.min() == 0 and b.max() > 0


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_a_unit_whose_weights_are_zero_keeps_them(backend):
    model = network(L.Dense(3, kernel_constraint=C.UnitNorm()))
    model.compile("mean_squared_error", SGD(1e-30), backend=backend)
    W, _ = model.get_weights()
    W[:, 1] = 0
    X, _ = data("float32", "numbers")
    model.fit(X, np.zeros((N, 3)), verbose=0)
    np.testing.assert_allclose(np.linalg.norm(W, axis=0), [1, 0, 1], rtol=1e-6)


# ---- decay of weights ---------------------------------------------------------------------------

DECAY = 0.1


def shrink(rate):
    """Decoupled decay by hand."""

    def adjust(parameters):
        for p in parameters:
            p *= 1 - rate * DECAY

    return adjust


def pull(parameters):
    """Coupled decay by hand."""
    for p in parameters:
        p.grad += DECAY * p


#: Rules with a coupled decay that PyTorch has.
COUPLED = {
    "sgd": lambda p, rate: torch.optim.SGD(p, rate, weight_decay=DECAY),
    "momentum": lambda p, rate: torch.optim.SGD(p, rate, momentum=0.9, weight_decay=DECAY),
    "nesterov": lambda p, rate: torch.optim.SGD(p, rate, momentum=0.9, nesterov=True,
                                                weight_decay=DECAY),
    "rmsprop": lambda p, rate: torch.optim.RMSprop(p, rate, alpha=0.9, weight_decay=DECAY),
    "adam": lambda p, rate: torch.optim.Adam(p, rate, weight_decay=DECAY),
    "adadelta": lambda p, rate: torch.optim.Adadelta(p, rate, weight_decay=DECAY),
    "adagrad": lambda p, rate: torch.optim.Adagrad(p, rate, weight_decay=DECAY),
    "adamax": lambda p, rate: torch.optim.Adamax(p, rate, weight_decay=DECAY),
    "amsgrad": lambda p, rate: torch.optim.Adam(p, rate, amsgrad=True, weight_decay=DECAY),
}  # fmt: skip


def rate_of(name):
    return OPTIMIZERS[name][0].learning_rate.parameters[0]


@both_types
@three_engines
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_coupled_decay(name, engine, dtype):
    rate = rate_of(name)
    rule = fnn.optimizers.OPTIMIZERS[name](rate, weight_decay=DECAY, decoupled=False)
    model = network(L.Dense(HIDDEN, "tanh"), L.Dense(OUTPUTS))
    model.compile("mean_squared_error", rule, dtype=dtype, **ENGINES[engine])
    native = COUPLED.get(name)
    if native is not None:
        twin = Twin(two_layers, rule=lambda p: native(p, rate))
    else:
        plain = {"adamw": lambda p: torch.optim.Adam(p, rate), "lion": lambda p: Lion(p, rate)}
        twin = Twin(two_layers, rule=plain.get(name, OPTIMIZERS[name][1]), adjust=pull)
    agree(model, twin, dtype=dtype)


@both_types
@three_engines
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decoupled_decay(name, engine, dtype):
    rate = rate_of(name)
    rule = fnn.optimizers.OPTIMIZERS[name](rate, weight_decay=DECAY)
    model = network(L.Dense(HIDDEN, "tanh"), L.Dense(OUTPUTS))
    model.compile("mean_squared_error", rule, dtype=dtype, **ENGINES[engine])
    theirs = OPTIMIZERS[name][1]
    if name == "sgd":  # the same as the coupled one
        twin = Twin(two_layers, rule=lambda p: COUPLED["sgd"](p, rate))
    elif name in ("adamw", "lion"):  # which have it
        twin = Twin(two_layers, rule=theirs)
    else:
        twin = Twin(two_layers, rule=theirs, adjust=shrink(rate))
    agree(model, twin, dtype=dtype)


class Lion(torch.optim.Optimizer):
    """Without a decay."""

    def __init__(self, parameters, rate):
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            m = self.state[p].setdefault("mean", torch.zeros_like(p))
            p -= self.param_groups[0]["lr"] * (0.9 * m + (1 - 0.9) * p.grad).sign()
            m.lerp_(p.grad, 1 - 0.99)


@three_engines
def test_decay_follows_the_schedule(engine):
    """Decoupled decay is a share of the rate of the step."""
    schedule = fnn.schedules.ExponentialDecay(0.05, 0.97, 1)
    rule = fnn.optimizers.Momentum(schedule, mu=0.0, weight_decay=DECAY)
    model = network(L.Dense(HIDDEN, "tanh"), L.Dense(OUTPUTS))
    model.compile("mean_squared_error", rule, dtype="float64", **ENGINES[engine])
    twin = Twin(two_layers, rule=lambda p: COUPLED["sgd"](p, 0.05))

    def after_step():
        for group in twin.optimizer.param_groups:
            group["lr"] *= 0.97

    agree(model, twin, dtype="float64", after_step=after_step)


# ---- clipping -----------------------------------------------------------------------------------


def to_length(gradients, limit):
    """Scale gradients together where their common length is above the limit.

    As clip_grad_norm_, which divides by the length plus 1e-6.
    """
    length = torch.sqrt(sum(g.square().sum() for g in gradients))
    for g in gradients:
        g *= min(1.0, limit / float(length))
    return float(length) > limit


def each_to_length(gradients, limit):
    clipped = [to_length([g], limit) for g in gradients]
    return any(clipped)


def to_values(parameters, limit):
    beyond = any(float(p.grad.abs().max()) > limit for p in parameters)
    torch.nn.utils.clip_grad_value_(parameters, limit)
    return beyond


def grads(parameters):
    return [p.grad for p in parameters]


#: id: (options, the same on PyTorch's parameters: whether something was clipped)
CLIPPING = {
    "value": ({"clip_value": 0.05}, lambda p: to_values(p, 0.05)),
    "norm": ({"clip_norm": 0.15}, lambda p: each_to_length(grads(p), 0.15)),
    "global norm": ({"clip_global_norm": 0.25}, lambda p: to_length(grads(p), 0.25)),
    "all three": (
        {"clip_value": 0.08, "clip_norm": 0.2, "clip_global_norm": 0.3},
        lambda p: [to_values(p, 0.08), each_to_length(grads(p), 0.2), to_length(grads(p), 0.3)]),
    "global norm before decay": (
        {"clip_global_norm": 0.25, "weight_decay": DECAY, "decoupled": False},
        lambda p: (to_length(grads(p), 0.25), pull(p))[0]),
}  # fmt: skip


@both_types
@three_engines
@pytest.mark.parametrize("penalty", [None, R.L2(0.2), R.Lp(0.05, p=1.5)], ids=str)
@pytest.mark.parametrize("name", CLIPPING)
def test_clipping(name, penalty, engine, dtype):
    """With a penalty its gradient is part of what is clipped."""
    options, clip = CLIPPING[name]
    of = {
        type(None): lambda w: 0.0,
        R.L2: lambda w: 0.1 * w.square().sum(),
        R.Lp: lambda w: 0.05 * (w.abs() ** 1.5).sum(),
    }[type(penalty)]

    def forward(w, x, training):
        return two_layers(w, x), of(w[0]) + of(w[2])

    seen = []
    model = network(
        L.Dense(HIDDEN, "tanh", kernel_regularizer=penalty),
        L.Dense(OUTPUTS, kernel_regularizer=penalty),
    )
    rule = fnn.optimizers.Momentum(0.03, **options)
    model.compile("mean_squared_error", rule, dtype=dtype, **ENGINES[engine])
    twin = Twin(
        forward,
        rule=lambda p: torch.optim.SGD(p, 0.03, momentum=0.9),
        adjust=lambda p: seen.append(np.any(clip(p))),
    )
    agree(model, twin, dtype=dtype)
    assert seen[0] and sum(seen) > 10


def test_clipping_by_the_global_norm_is_pytorchs():
    model = network(L.Dense(HIDDEN, "tanh"), L.Dense(OUTPUTS))
    model.compile("mean_squared_error", SGD(0.1, clip_global_norm=0.25), dtype="float64")
    twin = Twin(two_layers)
    twin.take(model, "float64")
    X, y = data("float64", "numbers")
    start = model.parameters.copy()
    twin.losses(torch.tensor(X), torch.tensor(y)).backward()
    assert torch.nn.utils.clip_grad_norm_(twin.weights, 0.25) > 0.25
    model.train_on_batch(X, y)
    moved = np.concatenate([w.grad.ravel() for w in twin.weights])
    np.testing.assert_allclose(start - model.parameters, 0.1 * moved, rtol=1e-5)
    assert np.linalg.norm(start - model.parameters) == pytest.approx(0.1 * 0.25, rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_limits_that_are_never_reached_change_nothing_but_rounding(engine):
    X, y = data("float64", "numbers")
    results = []
    for options in ({}, {"clip_value": 1e6, "clip_norm": 1e6, "clip_global_norm": 1e6}):
        model = network(L.Dense(HIDDEN, "tanh", kernel_regularizer=0.1), L.Dense(OUTPUTS))
        rule = fnn.optimizers.Adam(0.01, **options)
        model.compile("mean_squared_error", rule, dtype="float64", **ENGINES[engine])
        model.fit(X, y, epochs=10, verbose=0)
        results.append(model.parameters)
    np.testing.assert_allclose(*results, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_large_arrays_are_measured_whole(engine):
    """The length is a sum of parts: of more numbers than one part has."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 150)), rng.normal(size=(40, 3))
    for options in ({"clip_norm": 0.1}, {"clip_global_norm": 0.1}):
        model = fnn.Sequential([fnn.Input(150), L.Dense(90, "tanh"), L.Dense(3)])
        model.compile("mean_squared_error", SGD(1.0, **options), dtype="float64", **ENGINES[engine])
        _, gradients = model.loss_and_gradients(X, y)
        before = [w.copy() for w in model.get_weights()]
        model.train_on_batch(X, y)
        steps = [a - b for a, b in zip(before, model.get_weights(), strict=True)]
        whole = np.sqrt(sum((g**2).sum() for g in gradients))
        for step, gradient in zip(steps, gradients, strict=True):
            length = whole if "clip_global_norm" in options else np.linalg.norm(gradient)
            expected = gradient * min(1, 0.1 / length)
            np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-14)


# ---- averages of weights ------------------------------------------------------------------------


class Arrays(torch.nn.Module):
    """PyTorch averages the weights of modules."""

    def __init__(self, arrays):
        super().__init__()
        self.arrays = torch.nn.ParameterList(arrays)


def averaging(model, twin, decay, dtype):
    """Train both and compare their averages; PyTorch's starts with the first weights it is given,
    those after the first update."""
    averaged: list[Any] = []

    def after_step():
        if not averaged or averaged[0] is not twin.weights[0]:
            module = Arrays(twin.trained)
            averaged[:] = twin.weights[0], module, torch.optim.swa_utils.AveragedModel(
                module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
            )  # fmt: skip
        averaged[2].update_parameters(averaged[1])

    agree(model, twin, dtype=dtype, after_step=after_step)
    found = model.averaged_weights()
    expected = list(averaged[2].module.arrays)
    tolerance = TOLERANCE[dtype]
    for i, (mine, own) in enumerate(zip(found, model.get_weights(), strict=True)):
        assert not np.shares_memory(mine, own)
        if i in twin.fixed:
            np.testing.assert_array_equal(mine, own)
            continue
        want = expected.pop(0).detach().numpy()
        np.testing.assert_allclose(mine, want, rtol=tolerance, atol=tolerance * np.abs(want).max())
        assert np.abs(mine - own).max() > 1e-3


@both_types
@engines
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
def test_averages_of_weights(decay, engine, dtype):
    model = network(L.Dense(HIDDEN, "tanh"), L.Dense(OUTPUTS))
    rule = fnn.optimizers.Adam(0.01, ema=decay)
    model.compile("mean_squared_error", rule, dtype=dtype, **ENGINES[engine])
    averaging(model, Twin(two_layers, rule=lambda p: torch.optim.Adam(p, 0.01)), decay, dtype)


@both_types
def test_averages_where_each_thread_has_its_rows(dtype):
    """Enough parameters that both threads have a part of them, and enough calls for this mode."""
    X, y = data(dtype, "numbers")
    results = []
    for options in ({"backend": "numpy"}, {"threads": 2}):
        model = network(*(L.Dense(40, "tanh") for _ in range(4)), L.Dense(OUTPUTS))
        rule = fnn.optimizers.SGD(0.05, ema=0.9)
        model.compile("mean_squared_error", rule, dtype=dtype, **options)
        model.fit(X, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
        results.append(np.concatenate([w.ravel() for w in model.averaged_weights()]))
    assert (split_of(model).mode, split_of(model).threads) == ("shard", 2)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(*reversed(results), rtol=tolerance, atol=tolerance)
    assert np.abs(results[0] - model.parameters).max() > 1e-3


@engines
def test_averages_beside_batch_normalization_and_constraints(engine):
    layers = [
        L.Dense(HIDDEN, use_bias=False, kernel_constraint="non_negative"),
        L.BatchNormalization(),
        L.Activation("tanh"),
        L.Dense(OUTPUTS),
    ]
    model = network(*layers)
    model.compile("mean_squared_error", SGD(0.1, ema=0.9), dtype="float64", **ENGINES[engine])
    twin = Twin(after_batch_norm, (3, 4), enforce=lambda w: w[0].clamp_(min=0))
    averaging(model, twin, 0.9, "float64")
    assert model.averaged_weights()[0].min() >= 0  # constraints come before the average


def test_averages_go_on_in_the_next_call_and_start_afresh_after_compile():
    X, y = data("float64", "numbers")
    at_once, model = (network(L.Dense(HIDDEN, "tanh"), L.Dense(OUTPUTS)) for _ in range(2))
    for m in (at_once, model):
        m.compile("mean_squared_error", SGD(0.1, ema=0.9), dtype="float64")
        for mine, own in zip(m.averaged_weights(), m.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, own)  # there is nothing to average yet
    at_once.fit(X, y, epochs=4, verbose=0)
    model.fit(X, y, epochs=2, verbose=0)
    model.fit(X, y, epochs=2, verbose=0)
    for a, b in zip(model.averaged_weights(), at_once.averaged_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    model.compile("mean_squared_error", SGD(0.1, ema=0.9), dtype="float64")
    model.train_on_batch(X, y)
    for mine, own in zip(model.averaged_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, own)  # those after the first update


def test_an_average_that_is_not_kept_cannot_be_had():
    model = network(L.Dense(OUTPUTS))
    model.compile("mean_squared_error", SGD(0.1))
    with pytest.raises(RuntimeError, match=r"average.*ema.*SGD"):
        model.averaged_weights()


# ---- combinations -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize(
    "layers",
    [
        [L.Dense(8, use_bias=False), L.BatchNormalization(), L.Activation("tanh"), L.Dropout(0.4)],
        [L.BatchNormalization(), L.Dense(8), L.BatchNormalization(gamma_regularizer=0.1)],
        [L.Dropout(0.3), L.Dense(8, "gelu"), L.LayerNormalization(gamma_regularizer="l2")],
        [L.WeightNormDense(8, "tanh", kernel_regularizer=0.1), L.Dropout(0.3)],
        [L.Dense(7, "tanh"), L.CosineDense(8, "tanh", gain=2.0, kernel_regularizer=0.1)],
        [L.Dense(8), L.PReLU(), L.Dropout(0.3)],
        [L.Dense(8), L.BatchNormalization(center=False), L.PReLU(shared=True)],
        [L.Dropout(0.3), L.Maxout(8, 3)],
        [L.GaussianNoise(0.3), L.Dense(8, "tanh"), L.GaussianDropout(0.4)],
        [L.GaussianDropout(0.4), L.Dense(8, "tanh"), L.GaussianNoise(0.3), L.LayerNormalization()],
        [L.Dense(8, "tanh"), L.ActivityRegularization(R.ElasticNet(0.1)), L.Dropout(0.3)],
        [L.Dense(8, "sigmoid"), L.SparsityRegularization(0.2, 0.3), L.Dropout(0.3)],
        [L.Dense(8, "tanh", kernel_regularizer=R.Orthogonality(0.1)), L.BatchNormalization()],
    ],
    ids=str,
)
def test_gradients(layers, backend):
    X, y = data("float64", "labels")
    model = network(*layers, L.Dense(OUTPUTS, "softmax"))
    model.compile("cross_entropy", backend=backend)
    w = np.random.default_rng(2).uniform(0.5, 2, N)
    check_gradients(model, X[:40], y[:40], sample_weight=w[:40]).raise_if_wrong()


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_gradients_of_activities_add_to_those_of_the_loss_at_the_output(backend):
    X, y = data("float64", "labels")
    model = network(
        L.Dense(8, "tanh"),
        L.ActivityRegularization(0.1),
        L.Dense(OUTPUTS, "softmax"),
        L.SparsityRegularization(0.3, 0.5),
    )
    model.compile("cross_entropy", backend=backend)
    check_gradients(model, X[:40], y[:40]).raise_if_wrong()


@both_types
@engines
def test_a_network_of_many_parts(engine, dtype):
    """Normalized, smoothed, penalised, clipped, decayed and averaged at once."""

    def forward(w, x, training):
        W, gamma, beta, mean, variance, slope, V, g, c = w
        h = batch_norm(x @ W, mean, variance, gamma, beta, training)
        h = functional.prelu(h, slope)
        activity = 0.01 * h.square().sum(dim=1).mean() / 2
        penalty = 0.05 * W.square().sum()
        return h @ (V / V.norm(dim=0) * g) + c, penalty + (activity if training else 0)

    model = network(
        L.Dense(HIDDEN, use_bias=False, kernel_regularizer=0.1, kernel_constraint=C.MaxNorm(1.0)),
        L.BatchNormalization(),
        L.PReLU(),
        L.ActivityRegularization("l2"),
        L.WeightNormDense(OUTPUTS),
    )
    rule = SGD(0.1, clip_global_norm=0.4, weight_decay=DECAY, ema=0.9)
    loss = fnn.losses.CrossEntropy(from_logits=True, label_smoothing=0.1)
    model.compile(loss, rule, dtype=dtype, **ENGINES[engine])
    twin = Twin(
        forward,
        (3, 4),
        adjust=lambda p: (to_length(grads(p), 0.4), shrink(0.1)(p)),
        enforce=lambda w: max_norm(w[0], 1.0),
        loss=lambda z, t: functional.cross_entropy(z, t, reduction="none", label_smoothing=0.1),
    )
    agree(model, twin, dtype=dtype, kind="labels")
    X, y = data(dtype, "labels")
    expected = twin.losses(torch.tensor(X), torch.tensor(y), training=False).item()
    assert model.evaluate(X, y)["loss"] == pytest.approx(expected, rel=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("batch_size", [40, 600])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_fused_and_what_is_not_is_updated_once(name, batch_size):
    """Some parameters are updated with their gradients, others in a pass of their own."""
    rng = np.random.default_rng(6)
    X, y = rng.normal(size=(640, FEATURES)), rng.normal(size=(640, OUTPUTS))
    results = []
    for options in ENGINES.values():
        model = network(
            L.Dense(9, "tanh", kernel_regularizer=R.Lp(0.01, p=1.5)),
            L.PReLU(),
            L.Dense(9),
            L.LayerNormalization(),
            L.WeightNormDense(OUTPUTS),
        )
        rule = fnn.optimizers.OPTIMIZERS[name](rate_of(name) / 2, weight_decay=DECAY)
        model.compile("mean_squared_error", rule, dtype="float64", **options)
        model.fit(X, y, batch_size=batch_size, epochs=5, verbose=0)
        results.append(model.parameters)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-8, atol=1e-9)


def test_label_smoothing_is_soft_targets():
    X, y = data("float64", "labels")
    soft = np.eye(OUTPUTS)[y] * 0.7 + 0.3 / OUTPUTS
    results = []
    for loss, targets in (
        (fnn.losses.CrossEntropy(label_smoothing=0.3), y),
        (fnn.losses.CrossEntropy(label_smoothing=0.3), np.eye(OUTPUTS)[y]),
        (fnn.losses.CrossEntropy(), soft),
    ):
        model = network(L.Dense(OUTPUTS, "softmax"))
        model.compile(loss, SGD(0.1), metrics="accuracy", dtype="float64")
        before = model.evaluate(X, targets)
        model.fit(X, targets, epochs=3, verbose=0)
        results.append((before["loss"], before["accuracy"], model.parameters))
    for loss, accuracy, weights in results[1:]:
        assert (loss, accuracy) == pytest.approx(results[0][:2], rel=1e-12)
        np.testing.assert_allclose(weights, results[0][2], rtol=1e-12)
    assert cross_entropy(torch.tensor(model.predict(X)).log(), torch.tensor(y)).isfinite().all()
