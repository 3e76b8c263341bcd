"""NumPy definitions of the scalar formulas, written independently of ``scalars.py``.

An activation is a pair (f(x), f'(x)); a loss a pair (l(y, t), dl/dy) or, for a metric, its value
alone; an optimizer changes its arrays in place; a schedule is a function of the step. Parameters
come last, in the order of the formula's own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..formula import FORMULAS

#: kind -> name -> definition.
REFERENCE: dict[str, dict[str, tuple[Callable, ...]]] = {kind: {} for kind in FORMULAS}


def define(kind: str, name: str, *functions: Callable) -> None:
    """Register the NumPy definition of one formula."""
    REFERENCE[kind][name] = functions


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

# ------------------------------------------------------------- losses: l(y, t), l'(y, t)


def _clip(p):
    return np.clip(p, p.dtype.type(1e-7), p.dtype.type(1) - p.dtype.type(1e-7))


def _bce_gradient(y, t):
    p = _clip(y)
    return (p - t) / (p * (1 - p))


def _logistic(z):
    out = np.empty_like(z)
    _sigmoid(z, out)
    return out


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
define("loss", "binary_match", lambda y, t, threshold: (y > threshold) == (t > 0.5))

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


for _rule in (_sgd, _momentum, _nesterov, _adagrad, _rmsprop, _adam):
    define("optimizer", _rule.__name__[1:], _rule)

# ------------------------------------------------------------- schedules

define("schedule", "constant", lambda step, rate: rate)
define(
    "schedule",
    "linear_decay",
    lambda step, rate, final, steps: float(np.interp(step, [0, steps], [rate, final])),
)
