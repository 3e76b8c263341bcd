"""Losses and metrics: one double per row of the batch, and a loss's gradient by the prediction.

The loss of a batch is the sum of its rows divided by their number; a row's sample weight multiplies
it. Gradients are of that mean, so they are divided by the rows of the whole batch.
"""

from __future__ import annotations

import numpy as np

from ..op import count, op
from .formulas import REFERENCE


def _targets(labels, targets, like):
    if labels is None:
        return targets
    one_hot = np.zeros_like(like)
    one_hot[np.arange(len(labels)), labels] = 1
    return one_hot


def _scale(weights, step, dtype):
    """Factor of a row's gradient, a column or a number."""
    one = dtype.type(1 / step.rows)
    return one if weights is None else weights * one


_CLASSES = {"sizes": lambda d, attrs, binding: (d["B"], d["C"]), "uses_step": True}


@op(
    "z[B,C] labels?[B]:int32 targets?[B,C] weights?[B,1] -> rows[B]:double dz?[B,C]",
    flops=lambda d: 6.0 * count(d, "B", "C"),
    loss_gradient="dz",
    **_CLASSES,
)
def softmax_cross_entropy(z, labels, targets, weights, rows, dz, *, step):
    """rows = -sum t log softmax(z); dz = (softmax(z) sum t - t) / B"""
    shifted = z - z.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=1, keepdims=True)
    if labels is not None:
        at = np.arange(len(z)), labels
        np.subtract(np.log(total[:, 0]), shifted[at], out=rows)
    else:
        np.sum(targets * (np.log(total) - shifted), axis=1, out=rows)
    if weights is not None:
        rows *= weights[:, 0]
    if dz is None:
        return
    np.divide(exponential, total, out=dz)
    if labels is not None:
        dz[at] -= 1
    else:
        dz *= targets.sum(axis=1, keepdims=True)
        dz -= targets
    dz *= _scale(weights, step, z.dtype)


@op(
    "p[B,C] labels?[B]:int32 targets?[B,C] weights?[B,1] -> rows[B]:double dp?[B,C]",
    flops=lambda d: 4.0 * count(d, "B", "C"),
    loss_gradient="dp",
    constants=lambda attrs: (attrs["floor"],),
    domain={"p": (0.01, 1.0)},
    **_CLASSES,
)
def cross_entropy(p, labels, targets, weights, rows, dp, *, floor, step):
    """rows = -sum t log p with p clipped to floor from below; dp = -t / p / B"""
    t = _targets(labels, targets, p)
    clipped = np.maximum(p, p.dtype.type(floor))
    np.sum(-t * np.log(clipped), axis=1, out=rows)
    if weights is not None:
        rows *= weights[:, 0]
    if dp is not None:
        np.divide(-t, clipped, out=dp)
        dp *= _scale(weights, step, p.dtype)


@op(
    "y[B,O] labels?[B]:int32 targets?[B,O] weights?[B,1] -> rows[B]:double dy?[B,O]",
    formula="loss",
    sizes=lambda d, attrs, binding: (d["B"], d["O"]),
    flops=lambda d: 4.0 * count(d, "B", "O"),
    loss_gradient="dy",
    uses_step=True,
)
def pointwise_loss(y, labels, targets, weights, rows, dy, *, function, parameters, step):
    """rows = mean over the outputs of l(y, t); dy = l'(y, t) / (B O)"""
    value, *derivative = REFERENCE["loss"][function]
    np.mean(value(y, targets, *parameters), axis=1, out=rows)
    if weights is not None:
        rows *= weights[:, 0]
    if dy is not None:
        np.multiply(
            derivative[0](y, targets, *parameters),
            _scale(weights, step, y.dtype) * y.dtype.type(1 / y.shape[1]),
            out=dy,
        )


@op(
    "y[B,C] labels?[B]:int32 targets?[B,C] -> rows[B]:double",
    sizes=lambda d, attrs, binding: (d["B"], d["C"]),
    flops=lambda d: float(count(d, "B", "C")),
)
def accuracy(y, labels, targets, rows):
    """rows = 1 where the largest prediction is at the target's place, else 0"""
    truth = targets.argmax(axis=1) if labels is None else labels
    np.equal(y.argmax(axis=1), truth, out=rows, casting="unsafe", dtype=None)
