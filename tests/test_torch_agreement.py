"""A hundred steps agree with PyTorch's: losses of every step, first gradients, final weights."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastnn as fnn

torch = pytest.importorskip("torch")
functional = torch.nn.functional

L = fnn.layers
N, BATCH, FEATURES, HIDDEN, OUTPUTS, STEPS = 70, 32, 6, 12, 4, 102  # 34 epochs of 32, 32 and 6 rows

#: Relative tolerance of losses and weights. In float32 100 steps add up the rounding of two
#: implementations that sum in different orders; for rules that divide by a root of g^2 a gradient
#: near zero decides by its rounding where a weight goes.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}

both_types = pytest.mark.parametrize("dtype", ["float64", "float32"])


@pytest.fixture(autouse=True)
def one_thread():
    """Small products are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def name_of(argument) -> str:
    """The part of a test's name that stands for an argument: the same in every process."""
    return "torch" if callable(argument) and not hasattr(argument, "config") else str(argument)


def ours(hidden="tanh", output=None, penalty=None, **options):
    model = fnn.Sequential(
        [
            fnn.Input(FEATURES),
            L.Dense(HIDDEN, hidden, kernel_regularizer=penalty),
            L.Dense(OUTPUTS, output, kernel_regularizer=penalty),
        ]
    )
    model.compile(**options)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(scale=0.5, size=w.shape) for w in model.get_weights()])
    return model


class Theirs:
    """The same network with PyTorch's own parts; stops before the output activation."""

    def __init__(self, model, dtype, hidden=torch.tanh):
        self.weights = [
            torch.tensor(w.copy(), dtype=getattr(torch, dtype), requires_grad=True)
            for w in model.get_weights()
        ]
        self.hidden = hidden

    @property
    def kernels(self):
        return self.weights[::2]

    @property
    def biases(self):
        return self.weights[1::2]

    def __call__(self, x):
        W, b, V, c = self.weights
        return self.hidden(x @ W + b) @ V + c


def data(dtype, kind):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(N, FEATURES)).astype(dtype)
    labels = rng.integers(0, OUTPUTS, N)
    return X, {
        "numbers": rng.normal(size=(N, OUTPUTS)).astype(dtype),
        "labels": labels,
        "one-hot": np.eye(OUTPUTS, dtype=dtype)[labels],
        "soft": rng.dirichlet(np.ones(OUTPUTS), N).astype(dtype),
        "yes or no": rng.integers(0, 2, (N, OUTPUTS)).astype(dtype),
        "signs": rng.choice([-1, 1], (N, OUTPUTS)).astype(dtype),
        "counts": rng.poisson(2, (N, OUTPUTS)).astype(dtype),
    }[kind]


def batches():
    """Row ranges of a hundred steps without shuffling."""
    starts = list(range(0, N, BATCH))
    return [slice(s, s + BATCH) for s in starts * (STEPS // len(starts))]


def mean(rows, w):
    """What fastnn defines: the weighted sum over the rows, divided by their number."""
    return (rows if w is None else rows * w).mean()


def compare(model, network, optimizer, row_losses, X, y, w=None, *, dtype):
    """Train both on the same batches, and compare all there is to see."""
    tolerance = TOLERANCE[dtype]

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1e-3 + np.abs(b).max()))

    tensors = [None if a is None else torch.tensor(a) for a in (X, y, w)]
    found, expected, start = [], [], model.parameters.copy()
    for step, rows in enumerate(batches()):
        x, t, v = (None if a is None else a[rows] for a in tensors)
        optimizer.zero_grad()
        loss = mean(row_losses(network(x), t), v)
        loss.backward()
        weights = None if w is None else w[rows]
        if step == 0:
            value, gradients = model.loss_and_gradients(X[rows], y[rows], weights)
            close(value, loss.item())
            for ours_, theirs in zip(gradients, network.weights, strict=True):
                first = 1e-11 if dtype == "float64" else 1e-4
                np.testing.assert_allclose(
                    ours_, theirs.grad, rtol=first, atol=first * float(theirs.grad.abs().max())
                )
        optimizer.step()
        expected.append(loss.item())
        found.append(model.train_on_batch(X[rows], y[rows], weights))
    close(found, expected)
    assert np.abs(model.parameters - start).max() > 1e-3
    for mine, theirs in zip(model.get_weights(), network.weights, strict=True):
        close(mine, theirs.detach().numpy())
    return found


def squared(prediction, target):
    return ((prediction - target) ** 2).mean(dim=1)


# ---- optimizers ---------------------------------------------------------------------------------


class _Rule:
    """A rule that PyTorch does not have, in PyTorch's arithmetic."""

    def __init__(self, parameters, rate, decay=0.0):
        self.parameters, self.rate, self.decay, self.t = parameters, rate, decay, 0
        self.m, self.v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.t += 1
        for p, m, v in zip(self.parameters, self.m, self.v, strict=True):
            p -= self.rate * self.direction(p, p.grad, m, v)


class ConstantNadam(_Rule):
    """Dozat's rule with a constant momentum; PyTorch's rises."""

    def direction(self, p, g, m, v):
        m.lerp_(g, 1 - 0.9)
        v.lerp_(g * g, 1 - 0.999)
        ahead = 0.9 * m / (1 - 0.9 ** (self.t + 1)) + 0.1 * g / (1 - 0.9**self.t)
        return ahead / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)


class Lion(_Rule):
    def direction(self, p, g, m, v):
        step = (0.9 * m + (1 - 0.9) * g).sign() + self.decay * p
        m.lerp_(g, 1 - 0.99)
        return step


#: name -> (ours, at our defaults but for a rate at which much happens; the equivalent of PyTorch)
OPTIMIZERS = {
    "sgd": (fnn.optimizers.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (
        fnn.optimizers.Momentum(0.02),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.9),
    ),
    "nesterov": (
        fnn.optimizers.Nesterov(0.02),
        lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, nesterov=True),
    ),
    "adagrad": (
        fnn.optimizers.AdaGrad(0.05),
        lambda p: torch.optim.Adagrad(p, 0.05, eps=1e-10),
    ),
    "rmsprop": (
        fnn.optimizers.RMSProp(0.01),
        lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, eps=1e-8),
    ),
    "adam": (fnn.optimizers.Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adadelta": (fnn.optimizers.Adadelta(1.0), lambda p: torch.optim.Adadelta(p, 1.0)),
    "amsgrad": (fnn.optimizers.AMSGrad(0.01), lambda p: torch.optim.Adam(p, 0.01, amsgrad=True)),
    "adamax": (fnn.optimizers.AdaMax(0.01), lambda p: torch.optim.Adamax(p, 0.01)),
    "adamw": (
        fnn.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    ),
    "nadam": (fnn.optimizers.Nadam(0.01), lambda p: ConstantNadam(p, 0.01)),
    "lion": (fnn.optimizers.Lion(0.001, weight_decay=0.1), lambda p: Lion(p, 0.001, 0.1)),
}


def test_every_optimizer_is_compared():
    assert set(OPTIMIZERS) == set(fnn.optimizers.OPTIMIZERS)


@both_types
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, weighted, dtype):
    rule, theirs = OPTIMIZERS[name]
    X, y = data(dtype, "numbers")
    w = np.random.default_rng(2).uniform(0, 2, N).astype(dtype) if weighted else None
    model = ours(loss="mean_squared_error", optimizer=rule, dtype=dtype)
    network = Theirs(model, dtype)
    compare(model, network, theirs(network.weights), squared, X, y, w, dtype=dtype)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_default_rates_and_constants(name, backend):
    """Where PyTorch's default is ours, it is taken from there."""
    kind = fnn.optimizers.OPTIMIZERS[name]
    model = ours(loss="mean_squared_error", optimizer=kind(), dtype="float64", backend=backend)
    network = Theirs(model, "float64")
    theirs = {
        "sgd": lambda p: torch.optim.SGD(p, 0.01),
        "momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        "nesterov": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
        "adagrad": torch.optim.Adagrad,
        "rmsprop": lambda p: torch.optim.RMSprop(p, 0.001, alpha=0.9),
        "adam": torch.optim.Adam,
        "adadelta": torch.optim.Adadelta,
        "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
        "adamax": torch.optim.Adamax,
        "adamw": torch.optim.AdamW,
        "nadam": lambda p: ConstantNadam(p, 0.002),
        "lion": lambda p: Lion(p, 0.0001),
    }[name](network.weights)
    compare(model, network, theirs, squared, *data("float64", "numbers"), dtype="float64")


@pytest.mark.parametrize(
    "mine, theirs",
    [
        (fnn.optimizers.Momentum(0.03, mu=0.5), lambda p: torch.optim.SGD(p, 0.03, momentum=0.5)),
        (
            fnn.optimizers.RMSProp(0.01, rho=0.5, epsilon=0.01),
            lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.5, eps=0.01),
        ),
        (
            fnn.optimizers.Adam(0.01, beta1=0.5, beta2=0.6, epsilon=0.01),
            lambda p: torch.optim.Adam(p, 0.01, betas=(0.5, 0.6), eps=0.01),
        ),
        (
            fnn.optimizers.AdaGrad(0.05, epsilon=0.1),
            lambda p: torch.optim.Adagrad(p, 0.05, eps=0.1),
        ),
        (
            fnn.optimizers.RMSProp(0.01, centered=True),
            lambda p: torch.optim.RMSprop(p, 0.01, alpha=0.9, eps=1e-8, centered=True),
        ),
        (
            fnn.optimizers.Adadelta(0.5, rho=0.8, epsilon=1e-3),
            lambda p: torch.optim.Adadelta(p, 0.5, rho=0.8, eps=1e-3),
        ),
        (
            fnn.optimizers.AdaMax(0.01, beta1=0.5, beta2=0.6, epsilon=0.01),
            lambda p: torch.optim.Adamax(p, 0.01, betas=(0.5, 0.6), eps=0.01),
        ),
    ],
    ids=["momentum", "rmsprop", "adam", "adagrad", "centered", "adadelta", "adamax"],
)
def test_other_constants(mine, theirs):
    model = ours(loss="mean_squared_error", optimizer=mine, dtype="float64")
    network = Theirs(model, "float64")
    X, y = data("float64", "numbers")
    compare(model, network, theirs(network.weights), squared, X, y, dtype="float64")


def test_linear_decay():
    rate, final, steps = 0.1, 0.01, 60
    schedule = fnn.schedules.LinearDecay(rate, final, steps)
    model = ours(loss="mean_squared_error", optimizer=fnn.optimizers.SGD(schedule), dtype="float64")
    network = Theirs(model, "float64")
    sgd = torch.optim.SGD(network.weights, rate)
    decay = torch.optim.lr_scheduler.LinearLR(sgd, 1.0, final / rate, steps)
    sgd.register_step_post_hook(lambda *_: decay.step())
    X, y = data("float64", "numbers")
    compare(model, network, sgd, squared, X, y, dtype="float64")


S = fnn.schedules


@pytest.mark.parametrize(
    "mine, theirs",
    [
        (S.StepDecay(0.1, 0.5, 7), lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5)),
        (S.ExponentialDecay(0.1, 0.97, 1),
            lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.97)),
        (S.PolynomialDecay(0.1, 0.0, 60, 1.7),
            lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 60, 1.7)),
        (S.CosineDecay(0.1, 0.01, 102),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 102, 0.01)),
        (S.CosineRestarts(0.1, 0.01, 9, 2),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 9, 2, 0.01)),
        (S.CosineRestarts(0.1, 0.01, 9),
            lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 9, 1, 0.01)),
        (S.OneCycle(0.1, 102, 0.4, 10, 100),
            lambda o: torch.optim.lr_scheduler.OneCycleLR(
                o, 0.1, 102, pct_start=0.4, div_factor=10, final_div_factor=100,
                cycle_momentum=False)),
        (S.WarmUp(0.1, 9),
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 9)),
    ],
    ids=name_of,
)  # fmt: skip
def test_schedules(mine, theirs):
    model = ours(loss="mean_squared_error", optimizer=fnn.optimizers.SGD(mine), dtype="float64")
    network = Theirs(model, "float64")
    sgd = torch.optim.SGD(network.weights, 0.1)
    schedule = theirs(sgd)
    sgd.register_step_post_hook(lambda *_: schedule.step() if schedule.last_epoch < 101 else None)
    X, y = data("float64", "numbers")
    compare(model, network, sgd, squared, X, y, dtype="float64")


@both_types
@pytest.mark.parametrize("l2", [0.01, 0.3])
def test_the_l2_penalty_is_weight_decay(l2, dtype):
    """In the loss we report the penalty too; PyTorch has it in the gradient only."""
    model = ours(
        loss="mean_squared_error", optimizer=fnn.optimizers.SGD(0.1), penalty=l2, dtype=dtype
    )
    network = Theirs(model, dtype)
    groups = [{"params": network.kernels, "weight_decay": l2}, {"params": network.biases}]
    sgd = torch.optim.SGD(groups, 0.1)
    X, y = data(dtype, "numbers")
    tolerance = TOLERANCE[dtype]
    for rows in batches():
        sgd.zero_grad()
        loss = squared(network(torch.tensor(X[rows])), torch.tensor(y[rows])).mean()
        penalty = l2 / 2 * sum((w.detach() ** 2).sum() for w in network.kernels)
        loss.backward()
        sgd.step()
        found = model.train_on_batch(X[rows], y[rows])
        assert found == pytest.approx((loss + penalty).item(), rel=tolerance)
    for mine, theirs in zip(model.get_weights(), network.weights, strict=True):
        expected = theirs.detach().numpy()
        np.testing.assert_allclose(
            mine, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max()
        )


R = fnn.regularizers

#: name -> (ours, the penalty of one array with PyTorch)
PENALTIES = {
    "l1": (R.L1(0.02), lambda w: 0.02 * w.abs().sum()),
    "l2": (R.L2(0.02), lambda w: 0.01 * w.square().sum()),
    "elastic_net": (
        R.ElasticNet(0.02, l1_share=0.3),
        lambda w: 0.02 * (0.3 * w.abs() + 0.35 * w.square()).sum(),
    ),
    "lp": (R.Lp(0.02, p=1.5), lambda w: 0.02 * (w.abs() ** 1.5).sum()),
    "orthogonality": (
        R.Orthogonality(0.004),
        lambda w: 0.004 * (w.T @ w - torch.eye(w.shape[1], dtype=w.dtype)).abs().sum(),
    ),
}


def test_every_penalty_is_compared():
    assert set(PENALTIES) == set(R.REGULARIZERS)


@both_types
@pytest.mark.parametrize("backend, threads", [("numpy", 1), ("cython", 1), ("cython", 2)])
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties(name, backend, threads, dtype):
    mine, theirs = PENALTIES[name]
    options = {"backend": backend, "dtype": dtype, "threads": threads}
    model = ours(
        loss="mean_squared_error", optimizer=fnn.optimizers.SGD(0.1), penalty=mine, **options
    )
    network = Theirs(model, dtype)
    sgd = torch.optim.SGD(network.weights, 0.1)
    X, y = data(dtype, "numbers")

    def rows(prediction, target):
        return squared(prediction, target) + sum(map(theirs, network.kernels))

    compare(model, network, sgd, rows, X, y, dtype=dtype)


# ---- losses -------------------------------------------------------------------------------------


def cross_entropy(logits, target):
    return functional.cross_entropy(logits, target, reduction="none")


def binary_cross_entropy(logits, target):
    rows = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return rows.mean(dim=1)


def each(function, **options):
    """A loss of PyTorch's by output, its mean over the outputs of a row."""
    return lambda p, t: function(p, t, reduction="none", **options).mean(dim=1)


def likelihood(z, t):
    """Negative log-likelihood of log-probabilities of labels, or of rows of targets."""
    rows = z.log_softmax(dim=1)
    if t.ndim == 1:
        return functional.nll_loss(rows, t, reduction="none")
    return -(t * rows).sum(dim=1)


def divergence(z, t):
    if t.ndim == 1:
        return cross_entropy(z, t)
    return functional.kl_div(z.log_softmax(dim=1), t, reduction="none").sum(dim=1)


def margins(p=1, margin=1.0):
    """PyTorch divides the sum by the number of classes."""
    return lambda z, t: (
        OUTPUTS
        * functional.multi_margin_loss(
            z, t if t.ndim == 1 else t.argmax(dim=1), p, margin, reduction="none"
        )
    )


def proximity(y, t):
    return -functional.cosine_similarity(y, t, eps=1e-7)


def quantile(p, t, q=0.5):
    e = t - p
    return torch.maximum(q * e, (q - 1) * e).mean(dim=1)


def focal(z, t):
    """As torchvision.ops.sigmoid_focal_loss."""
    p = z.sigmoid()
    right = p * t + (1 - p) * (1 - t)
    entropy = functional.binary_cross_entropy_with_logits(z, t, reduction="none")
    return ((0.25 * t + 0.75 * (1 - t)) * (1 - right) ** 2 * entropy).mean(dim=1)


#: id: (loss, output activation, kind of targets, losses of the rows with PyTorch)
LOSSES = {
    "mean_squared_error": ("mean_squared_error", None, "numbers", squared),
    "mean_absolute_error": (
        "mean_absolute_error", None, "numbers",
        lambda p, t: functional.l1_loss(p, t, reduction="none").mean(dim=1)),
    "huber": ("huber", None, "numbers", each(functional.huber_loss)),
    "huber of a narrow border": (
        fnn.losses.Huber(delta=0.3), None, "numbers", each(functional.huber_loss, delta=0.3)),
    "log_cosh": (
        "log_cosh", None, "numbers", lambda p, t: (p - t).cosh().log().mean(dim=1)),
    "quantile": (fnn.losses.Quantile(quantile=0.8), None, "numbers",
        lambda p, t: quantile(p, t, 0.8)),
    "poisson": ("poisson", "softplus", "counts",
        lambda z, t: each(functional.poisson_nll_loss, log_input=False, eps=0)(
            functional.softplus(z), t)),
    "log_poisson": ("log_poisson", None, "counts", each(functional.poisson_nll_loss)),
    "focal": ("focal", "sigmoid", "yes or no", focal),
    "hinge": ("hinge", None, "signs", lambda p, t: (1 - p * t).clamp(min=0).mean(dim=1)),
    "squared_hinge": (
        "squared_hinge", None, "signs", lambda p, t: (1 - p * t).clamp(min=0).square().mean(dim=1)),
    "hinge of yes and no": ("hinge", None, "yes or no",
        lambda p, t: (1 - p * (2 * t - 1)).clamp(min=0).mean(dim=1)),
    "perceptron": ("perceptron", None, "yes or no",
        lambda z, t: (z.clamp(min=0) - z * t).mean(dim=1)),
    "cross_entropy of labels": ("cross_entropy", "softmax", "labels", cross_entropy),
    "cross_entropy of one-hot rows": ("cross_entropy", "softmax", "one-hot", cross_entropy),
    "cross_entropy of soft targets": ("cross_entropy", "softmax", "soft", cross_entropy),
    "cross_entropy of logits": (
        fnn.losses.CrossEntropy(from_logits=True), None, "labels", cross_entropy),
    "cross_entropy of soft targets from logits": (
        fnn.losses.CrossEntropy(from_logits=True), None, "soft", cross_entropy),
    **{
        f"smoothed cross_entropy of {kind}": (
            fnn.losses.CrossEntropy(label_smoothing=0.2), "softmax", kind,
            lambda z, t: functional.cross_entropy(z, t, reduction="none", label_smoothing=0.2))
        for kind in ("labels", "one-hot", "soft")
    },
    "smoothed cross_entropy of logits": (
        fnn.losses.CrossEntropy(from_logits=True, label_smoothing=0.2), None, "labels",
        lambda z, t: functional.cross_entropy(z, t, reduction="none", label_smoothing=0.2)),
    **{
        f"{name} of {kind}": (name, output, kind, rows)
        for kind in ("labels", "one-hot", "soft")
        for name, output, rows in (
            ("negative_log_likelihood", "log_softmax", likelihood),
            ("kl_divergence", "softmax", divergence),
            ("multiclass_hinge", None, margins()),
            ("squared_multiclass_hinge", None, margins(p=2)))
    },
    "likelihood of what is not normalized": ("negative_log_likelihood", "tanh", "labels",
        lambda z, t: functional.nll_loss(z.tanh(), t, reduction="none")),
    "kl_divergence of sigmoids": ("kl_divergence", "sigmoid", "soft",
        lambda z, t: functional.kl_div(z.sigmoid().log(), t, reduction="none").sum(dim=1)),
    "multiclass_hinge of a wide margin": (
        fnn.losses.MulticlassHinge(2.5), None, "labels", margins(margin=2.5)),
    "squared_multiclass_hinge of a narrow margin": (
        fnn.losses.SquaredMulticlassHinge(0.3), None, "labels", margins(p=2, margin=0.3)),
    "cosine_proximity": ("cosine_proximity", None, "numbers", proximity),
    "cosine_proximity of tanh": ("cosine_proximity", "tanh", "numbers",
        lambda z, t: proximity(z.tanh(), t)),
    "binary_cross_entropy": (
        "binary_cross_entropy", "sigmoid", "yes or no", binary_cross_entropy),
    "binary_cross_entropy of logits": (
        fnn.losses.BinaryCrossEntropy(from_logits=True), None, "yes or no", binary_cross_entropy),
    "mean_squared_error of probabilities": (
        "mean_squared_error", "softmax", "one-hot", lambda z, t: squared(z.softmax(dim=1), t)),
    "mean_squared_error of sigmoids": (
        "mean_squared_error", "sigmoid", "yes or no", lambda z, t: squared(z.sigmoid(), t)),
}  # fmt: skip


#: Rates other than 0.1, where at that one training multiplies rounding errors, also PyTorch's.
RATES = {"cosine_proximity": 0.05, "cosine_proximity of tanh": 0.05}


def test_every_loss_is_compared():
    names = {getattr(case[0], "name", case[0]) for case in LOSSES.values()}
    assert names == set(fnn.losses.LOSSES)


@both_types
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", LOSSES)
def test_losses(case, weighted, dtype):
    loss, output, kind, rows = LOSSES[case]
    X, y = data(dtype, kind)
    w = np.random.default_rng(2).uniform(0, 2, N).astype(dtype) if weighted else None
    rate = RATES.get(case, 0.1)
    model = ours(output=output, loss=loss, optimizer=fnn.optimizers.SGD(rate), dtype=dtype)
    network = Theirs(model, dtype)
    sgd = torch.optim.SGD(network.weights, rate)
    compare(model, network, sgd, rows, X, y, w, dtype=dtype)


def test_evaluation_weighs_rows_as_training_does():
    X, y = data("float64", "labels")
    w = np.random.default_rng(2).uniform(0, 2, N)
    model = ours(output="softmax", loss="cross_entropy", dtype="float64")
    network = Theirs(model, "float64")
    expected = mean(cross_entropy(network(torch.tensor(X)), torch.tensor(y)), torch.tensor(w))
    found = model.evaluate(X, y, sample_weight=w)["loss"]
    assert found == pytest.approx(expected.item(), rel=1e-12)


# ---- activations --------------------------------------------------------------------------------

ACTIVATIONS = {
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "selu": functional.selu,
    "softplus": lambda z: functional.softplus(z, threshold=80),  # at 20 it becomes the identity
    "gelu": functional.gelu,
    # By its own form, 1 + tanh, PyTorch loses digits where this is near 0.
    "gelu_tanh": lambda z: z * (math.sqrt(8 / math.pi) * (z + 0.044715 * z**3)).sigmoid(),
    "silu": functional.silu,
    "mish": functional.mish,
    "hard_sigmoid": lambda z: (z / 6 + 0.5).clamp(0, 1),  # PyTorch's slope is a float32 in float64
    "hard_tanh": functional.hardtanh,
    "relu6": functional.relu6,
    "softmax": lambda z: z.softmax(dim=1),
    "log_softmax": lambda z: z.log_softmax(dim=1),
}


def test_every_activation_is_compared():
    without_gradient = {"heaviside"}  # its derivative is 0: PyTorch's has none to compare with
    assert set(ACTIVATIONS) | without_gradient == set(fnn.activations.names())


@both_types
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_a_network(name, dtype):
    X, y = data(dtype, "numbers")
    rate = 0.005 if name == "log_softmax" else 0.05  # its values are large
    rule = fnn.optimizers.SGD(rate)
    model = ours(hidden=name, loss="mean_squared_error", optimizer=rule, dtype=dtype)
    network = Theirs(model, dtype, hidden=ACTIVATIONS[name])
    sgd = torch.optim.SGD(network.weights, rate)
    compare(model, network, sgd, squared, X, y, dtype=dtype)


@both_types
@pytest.mark.parametrize(
    "mine, theirs",
    [
        *((fnn.activations.make(n), f) for n, f in ACTIVATIONS.items()),
        (fnn.activations.leaky_relu(slope=0.3), lambda z: functional.leaky_relu(z, 0.3)),
        (fnn.activations.elu(alpha=0.5), lambda z: functional.elu(z, 0.5)),
    ],
    ids=name_of,
)
def test_values_and_derivatives_from_small_to_large(mine, theirs, dtype):
    """Through a layer of identity weights, whose bias gradient is the derivative."""
    values = np.concatenate([-np.logspace(2, -6, 40), np.logspace(-6, 2, 41)]).astype(dtype)
    n = len(values)
    model = fnn.Sequential([fnn.Input(n), L.Dense(n, mine, kernel_initializer="zeros")])
    model.compile("mean_absolute_error", dtype=dtype)
    model.get_weights()[1][:] = values
    z = torch.tensor(values[None], requires_grad=True)
    expected = theirs(z)
    tiny = np.finfo(dtype).tiny  # the compiled kernels take subnormal numbers for zero
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    predicted = model.predict(np.zeros((1, n)))
    np.testing.assert_allclose(predicted, expected.detach(), rtol=4 * tolerance, atol=tiny)
    # With all targets below the predictions the loss is their mean, and each derivative 1 / n.
    weights = torch.linspace(0.5, 1.5, n, dtype=z.dtype) if "softmax" in str(mine) else None
    if weights is not None:  # the sum of a softmax is 1 whatever its input: weigh the outputs
        return
    expected.sum().backward()
    _, (_, gradient) = model.loss_and_gradients(np.zeros((1, n)), np.full((1, n), -1e3))
    np.testing.assert_allclose(
        gradient * n, z.grad[0].numpy(), rtol=1e2 * tolerance, atol=4 * tolerance
    )
