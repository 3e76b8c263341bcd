"""NumPy definitions of the scalar formulas, written independently of ``scalars.py``.

An activation is a pair (f(x), f'(x)); a loss a pair (l(y, t), dl/dy) or, for a metric, its value
alone; an optimizer changes its arrays in place; a schedule is a function of the step. Parameters
come last, in the order of the formula's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..formula import FORMULAS


class Definitions(dict[str, tuple[Callable, ...]]):
    """The definitions of a kind, by name; a user's own are only found."""

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[str, tuple[Callable, ...]] = {}

    def __missing__(self, name: str) -> tuple[Callable, ...]:
        return self.own[name]


#: kind -> name -> definition.
REFERENCE: dict[str, Definitions] = {kind: Definitions() for kind in FORMULAS}


def define(kind: str, name: str, *functions: Callable) -> None:
    """Register the NumPy definition of one formula."""
    REFERENCE[kind][name] = functions


def apply(y: np.ndarray, function: str, parameters: tuple[float, ...]) -> None:
    """y = f(y)"""
    if function != "identity":
        REFERENCE["activation"][function][0](y, y, *parameters)


# ------------------------------------------------------------- activations: f(x, y), f'(x, y)
# f writes y and may be given y = x; f' may read x or y, whichever it needs.


def _sigmoid(x, out):
    np.negative(x, out=out)
    with np.errstate(over="ignore"):
        np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def _elu(x, out, alpha):
    out[...] = np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


define("activation", "identity", lambda x, y: np.copyto(y, x), lambda x, y: np.ones_like(y))
define(
    "activation",
    "heaviside",
    lambda x, y: np.heaviside(x, 1, out=y),
    lambda x, y: np.zeros_like(y),
)
define("activation", "sigmoid", _sigmoid, lambda x, y: y * (1 - y))
define("activation", "tanh", lambda x, y: np.tanh(x, out=y), lambda x, y: 1 - np.square(y))
define("activation", "relu", lambda x, y: np.maximum(x, 0, out=y), lambda x, y: y > 0)
define(
    "activation",
    "leaky_relu",
    lambda x, y, slope: np.copyto(y, np.where(x > 0, x, slope * x)),
    lambda x, y, slope: np.where(y > 0, 1, slope).astype(y.dtype),
)
define(
    "activation",
    "elu",
    _elu,
    lambda x, y, alpha: np.where(y > 0, 1, y + alpha).astype(y.dtype),
)


def _clipped(low, high):
    """x between two bounds, and its slope."""
    return (
        lambda x, y: np.clip(x, low, high, out=y),
        lambda x, y: ((y > low) & (y < high)).astype(y.dtype),
    )


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _logistic(z):
    out = np.empty_like(z)
    _sigmoid(z, out)
    return out


def _normal_cdf(x):
    # NumPy has no erf: the C library's, number by number.
    values = np.fromiter(map(math.erf, x.ravel() / math.sqrt(2)), np.float64, x.size)
    return (0.5 + 0.5 * values).reshape(x.shape).astype(x.dtype)


def _gelu_inner(x):
    return x.dtype.type(math.sqrt(2 / math.pi)) * (x + x.dtype.type(0.044715) * x**3)


def _gelu_tanh_gradient(x, y):
    s = _logistic(2 * _gelu_inner(x))
    slope = x.dtype.type(math.sqrt(8 / math.pi)) * (1 + x.dtype.type(3 * 0.044715) * x * x)
    return s + x * s * (1 - s) * slope


def _mish_gradient(x, y):
    t = np.tanh(_softplus(x))
    return t + x * _logistic(x) * (1 - t * t)


_SELU = 1.0507009873554805, 1.6732632423543772

define(
    "activation",
    "selu",
    lambda x, y: np.multiply(
        np.where(x > 0, x, _SELU[1] * np.expm1(np.minimum(x, 0))), _SELU[0], out=y
    ),
    lambda x, y: np.where(y > 0, _SELU[0], y + _SELU[0] * _SELU[1]).astype(y.dtype),
)
define(
    "activation",
    "softplus",
    lambda x, y: np.copyto(y, _softplus(x)),
    lambda x, y: -np.expm1(-y),
)
define(
    "activation",
    "gelu",
    lambda x, y: np.multiply(x, _normal_cdf(x), out=y),
    lambda x, y: _normal_cdf(x) + x * np.exp(-x * x / 2) / x.dtype.type(math.sqrt(2 * math.pi)),
)
define(
    "activation",
    "gelu_tanh",
    lambda x, y: np.multiply(x, _logistic(2 * _gelu_inner(x)), out=y),
    _gelu_tanh_gradient,
)
define(
    "activation",
    "silu",
    lambda x, y: np.multiply(x, _logistic(x), out=y),
    lambda x, y: _logistic(x) + y * (1 - _logistic(x)),
)
define(
    "activation",
    "mish",
    lambda x, y: np.multiply(x, np.tanh(_softplus(x)), out=y),
    _mish_gradient,
)
define(
    "activation",
    "hard_sigmoid",
    lambda x, y: np.clip(x / 6 + x.dtype.type(0.5), 0, 1, out=y),
    lambda x, y: ((y > 0) & (y < 1)).astype(y.dtype) / 6,
)
define("activation", "hard_tanh", *_clipped(-1, 1))
define("activation", "relu6", *_clipped(0, 6))

# ------------------------------------------------------------- losses: l(y, t), l'(y, t)


def _clip(p):
    return np.clip(p, p.dtype.type(1e-7), p.dtype.type(1) - p.dtype.type(1e-7))


def _bce_gradient(y, t):
    p = _clip(y)
    return (p - t) / (p * (1 - p))


def _focal(y, t, gamma, alpha):
    p = _clip(y)
    yes, no = (1 - p) ** gamma * np.log(p), p**gamma * np.log(1 - p)
    return -alpha * t * yes - (1 - alpha) * (1 - t) * no


def _focal_gradient(y, t, gamma, alpha):
    p = _clip(y)
    yes = (1 - p) ** gamma / p - gamma * (1 - p) ** (gamma - 1) * np.log(p)
    no = p**gamma / (1 - p) - gamma * p ** (gamma - 1) * np.log(1 - p)
    return -alpha * t * yes + (1 - alpha) * (1 - t) * no


def _huber(y, t, delta):
    size = np.abs(y - t)
    return np.where(size < delta, size * size / 2, delta * (size - delta / 2))


def _log_cosh(y, t):
    e = y - t
    near = np.log1p(2 * np.sinh(np.clip(e, -1, 1) / 2) ** 2)
    return np.where(np.abs(e) < 1, near, np.logaddexp(e, -e) - e.dtype.type(math.log(2)))


def _rate(y):
    return np.maximum(y, y.dtype.type(1e-7))


define("loss", "squared_error", lambda y, t: np.square(y - t), lambda y, t: 2 * (y - t))
define("loss", "absolute_error", lambda y, t: np.abs(y - t), lambda y, t: np.sign(y - t))
define(
    "loss",
    "binary_cross_entropy",
    lambda y, t: -t * np.log(_clip(y)) - (1 - t) * np.log(1 - _clip(y)),
    _bce_gradient,
)
define(
    "loss",
    "sigmoid_cross_entropy",
    lambda z, t: np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z))),
    lambda z, t: _logistic(z) - t,
)
define("loss", "huber", _huber, lambda y, t, delta: np.clip(y - t, -delta, delta))
define("loss", "log_cosh", _log_cosh, lambda y, t: np.tanh(y - t))
define(
    "loss",
    "quantile",
    lambda y, t, q: np.where(y > t, (1 - q) * (y - t), q * (t - y)),
    lambda y, t, q: np.where(y > t, 1 - q, np.where(y < t, -q, y - t)),
)
define(
    "loss",
    "poisson",
    lambda y, t: _rate(y) - t * np.log(_rate(y)),
    lambda y, t: 1 - t / _rate(y),
)
define("loss", "log_poisson", lambda z, t: np.exp(z) - t * z, lambda z, t: np.exp(z) - t)
define("loss", "focal", _focal, _focal_gradient)
define(
    "loss",
    "hinge",
    lambda y, t: np.maximum(1 - t * y, 0),
    lambda y, t: np.where(t * y < 1, -t, 0 * t * y),
)
define(
    "loss",
    "squared_hinge",
    lambda y, t: np.square(np.maximum(1 - t * y, 0)),
    lambda y, t: np.where(t * y < 1, -2 * t * (1 - t * y), 0 * t * y),
)
define(
    "loss",
    "perceptron",
    lambda z, t: np.maximum(z, 0) - t * z,
    lambda z, t: np.heaviside(z, 1) - t,
)
define("loss", "binary_match", lambda y, t, threshold: (y > threshold) == (t > 0.5))

define(
    "loss",
    "kl_divergence",
    lambda y, t: t * np.log(np.where(t > 0, t, 1) / np.maximum(y, y.dtype.type(1e-7))),
    lambda y, t: -t / np.maximum(y, y.dtype.type(1e-7)),
)

# ------------------------------------------------------------- optimizers, in place


def _sgd(step, w, g, rate):
    w -= rate * g


def _momentum(step, w, g, v, rate, mu):
    v *= mu
    v -= rate * g
    w += v


def _nesterov(step, w, g, v, rate, mu):
    v *= mu
    v -= rate * g
    w += mu * v
    w -= rate * g


def _adagrad(step, w, g, r, rate, epsilon):
    r += np.square(g)
    w -= rate * g / (np.sqrt(r) + epsilon)


def _rmsprop(step, w, g, r, rate, rho, epsilon):
    r *= rho
    r += (1 - rho) * np.square(g)
    w -= rate * g / (np.sqrt(r) + epsilon)


def _adam(step, w, g, m, v, rate, beta1, beta2, epsilon):
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * np.square(g)
    denominator = np.sqrt(v)
    denominator /= np.sqrt(1 - beta2**step)
    denominator += epsilon
    np.divide(m, denominator, out=denominator)
    denominator *= rate / (1 - beta1**step)
    w -= denominator


def _adadelta(step, w, g, r, s, rate, rho, epsilon):
    r *= rho
    r += (1 - rho) * np.square(g)
    d = g * np.sqrt(s + epsilon) / np.sqrt(r + epsilon)
    s *= rho
    s += (1 - rho) * np.square(d)
    w -= rate * d


def _centered_rmsprop(step, w, g, r, m, rate, rho, epsilon):
    r *= rho
    r += (1 - rho) * np.square(g)
    m *= rho
    m += (1 - rho) * g
    w -= rate * g / (np.sqrt(np.maximum(r - np.square(m), 0)) + epsilon)


def _moments(g, m, v, beta1, beta2):
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * np.square(g)


def _amsgrad(step, w, g, m, v, u, rate, beta1, beta2, epsilon):
    _moments(g, m, v, beta1, beta2)
    np.maximum(u, v, out=u)
    w -= rate / (1 - beta1**step) * m / (np.sqrt(u / (1 - beta2**step)) + epsilon)


def _adamax(step, w, g, m, u, rate, beta1, beta2, epsilon):
    m *= beta1
    m += (1 - beta1) * g
    u *= beta2
    np.maximum(u, np.abs(g) + epsilon, out=u)
    w -= rate / (1 - beta1**step) * m / u


def _nadam(step, w, g, m, v, rate, beta1, beta2, epsilon):
    _moments(g, m, v, beta1, beta2)
    ahead = beta1 / (1 - beta1 ** (step + 1)) * m + (1 - beta1) / (1 - beta1**step) * g
    w -= rate * ahead / (np.sqrt(v / (1 - beta2**step)) + epsilon)


def _lion(step, w, g, m, rate, beta1, beta2):
    w -= rate * np.sign(beta1 * m + (1 - beta1) * g)
    m *= beta2
    m += (1 - beta2) * g


for _rule in (
    _sgd, _momentum, _nesterov, _adagrad, _adadelta, _rmsprop, _centered_rmsprop,
    _adam, _amsgrad, _adamax, _nadam, _lion,
):  # fmt: skip
    define("optimizer", _rule.__name__[1:], _rule)

# ------------------------------------------------------------- schedules


def _cosine(a, rate, final):
    return final + (rate - final) * (1 + math.cos(math.pi * a)) / 2


def _cosine_restarts(step, rate, final, period, growth):
    length = period
    if growth == 1:
        return _cosine(step % period / period, rate, final)
    while step >= length:
        step, length = step - length, length * growth
    return _cosine(step / length, rate, final)


def _one_cycle(step, rate, total, warm_share, start_divisor, final_divisor):
    start = rate / start_divisor
    top, last = warm_share * total - 1, total - 1
    if step < top:
        return _cosine(step / top, start, rate)
    return _cosine(min((step - top) / (last - top), 1), rate, start / final_divisor)


define("schedule", "constant", lambda step, rate: rate)
define(
    "schedule",
    "linear_decay",
    lambda step, rate, final, steps: float(np.interp(step, [0, steps], [rate, final])),
)
define("schedule", "step_decay", lambda step, rate, factor, every: rate * factor ** (step // every))
define(
    "schedule",
    "exponential_decay",
    lambda step, rate, factor, steps: rate * factor ** (step / steps),
)
define(
    "schedule",
    "inverse_time_decay",
    lambda step, rate, decay, steps: rate / (1 + decay * step / steps),
)
define(
    "schedule",
    "polynomial_decay",
    lambda step, rate, final, steps, power: (
        final + (rate - final) * max(1 - step / steps, 0) ** power
    ),
)
define(
    "schedule",
    "cosine_decay",
    lambda step, rate, final, steps: _cosine(min(step / steps, 1), rate, final),
)
define("schedule", "cosine_restarts", _cosine_restarts)
define("schedule", "one_cycle", _one_cycle)

# ------------------------------------------------------------- penalties: f(w), f'(w)

define("penalty", "l1", np.abs, np.sign)
define("penalty", "l2", lambda w: w * w / 2, lambda w: w)
define(
    "penalty",
    "elastic_net",
    lambda w, share: share * np.abs(w) + (1 - share) * w * w / 2,
    lambda w, share: share * np.sign(w) + (1 - share) * w,
)
define(
    "penalty",
    "lp",
    lambda w, p: np.abs(w) ** p,
    lambda w, p: p * np.sign(w) * np.abs(w) ** (p - 1),
)

# ------------------------------------------------------------- merges: f(a, b), both derivatives


def _chosen(wins):
    return lambda a, b: (np.where(a == b, 0.5, wins(a, b)), np.where(a == b, 0.5, wins(b, a)))


define("merge", "subtract", np.subtract, lambda a, b: (np.ones_like(a), -np.ones_like(b)))
define("merge", "multiply", np.multiply, lambda a, b: (b, a))
define("merge", "maximum", np.maximum, _chosen(np.greater))
define("merge", "minimum", np.minimum, _chosen(np.less))
