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
    sizes=lambda d, attrs, binding: (d["B"], d["C"], attrs["divergence"]),
    uses_step=True,
)
def softmax_cross_entropy(z, labels, targets, weights, rows, dz, *, divergence, step):
    """rows = -sum t log softmax(z), plus sum t log t for a divergence; dz = (softmax(z) sum t - t)
    / B"""
    shifted = z - z.max(axis=1, keepdims=True)
    exponential = np.exp(shifted)
    total = exponential.sum(axis=1, keepdims=True)
    if labels is not None:
        at = np.arange(len(z)), labels
        np.subtract(np.log(total[:, 0]), shifted[at], out=rows)
    else:
        np.sum(targets * (np.log(total) - shifted), axis=1, out=rows)
        if divergence:
            rows += np.sum(targets * np.log(np.where(targets == 0, 1, targets)), axis=1)
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
    sizes=lambda d, attrs, binding: (d["B"], d["O"], d["O"] if attrs["mean"] else 1),
    flops=lambda d: 4.0 * count(d, "B", "O"),
    loss_gradient="dy",
    uses_step=True,
)
def pointwise_loss(y, labels, targets, weights, rows, dy, *, function, parameters, mean, step):
    """rows = mean (or sum) over the outputs of l(y, t); dy = l'(y, t) / (B O), or / B"""
    value, *derivative = REFERENCE["loss"][function]
    (np.mean if mean else np.sum)(value(y, targets, *parameters), axis=1, out=rows)
    if weights is not None:
        rows *= weights[:, 0]
    if dy is not None:
        np.multiply(
            derivative[0](y, targets, *parameters),
            _scale(weights, step, y.dtype) * y.dtype.type(1 / y.shape[1] if mean else 1),
            out=dy,
        )


@op(
    "l[B,C] labels?[B]:int32 targets?[B,C] weights?[B,1] -> rows[B]:double dl?[B,C]",
    flops=lambda d: 2.0 * count(d, "B", "C"),
    loss_gradient="dl",
    **_CLASSES,
)
def negative_log_likelihood(l, labels, targets, weights, rows, dl, *, step):  # noqa: E741
    """rows = -sum t l; dl = -t / B"""
    t = _targets(labels, targets, l)
    if labels is not None:
        np.negative(l[np.arange(len(l)), labels], out=rows)
    else:
        np.negative(np.einsum("ij,ij->i", t, l), out=rows)
    if weights is not None:
        rows *= weights[:, 0]
    if dl is not None:
        np.multiply(-t, _scale(weights, step, l.dtype), out=dl)


@op(
    "z[B,C] labels?[B]:int32 targets?[B,C] weights?[B,1] -> rows[B]:double dz?[B,C]",
    flops=lambda d: 4.0 * count(d, "B", "C"),
    loss_gradient="dz",
    sizes=lambda d, attrs, binding: (d["B"], d["C"], attrs["squared"]),
    constants=lambda attrs: (attrs["margin"],),
    uses_step=True,
)
def multiclass_hinge(z, labels, targets, weights, rows, dz, *, margin, squared, step):
    """rows = sum over the wrong classes of max(0, margin + z - z of the right one), or its square.
    The right class of a row of targets is its largest"""
    right = targets.argmax(axis=1) if labels is None else labels
    at = np.arange(len(z)), right
    excess = np.maximum(0, z.dtype.type(margin) + z - z[at][:, None])
    excess[at] = np.where(np.isnan(z[at]), z[at], 0)
    np.sum(np.square(excess) if squared else excess, axis=1, out=rows)
    if weights is not None:
        rows *= weights[:, 0]
    if dz is not None:
        dz[...] = 2 * excess if squared else excess > 0
        dz[at] = 0
        dz[at] = -dz.sum(axis=1)
        dz *= _scale(weights, step, z.dtype)


@op(
    "y[B,O] labels?[B]:int32 targets?[B,O] weights?[B,1] -> rows[B]:double dy?[B,O]",
    sizes=lambda d, attrs, binding: (d["B"], d["O"]),
    flops=lambda d: 8.0 * count(d, "B", "O"),
    loss_gradient="dy",
    uses_step=True,
)
def cosine_proximity(y, labels, targets, weights, rows, dy, *, step):
    """rows = -cosine of the angle between y and t; lengths below 1e-7 count as 1e-7"""
    t = _targets(labels, targets, y)
    floor = y.dtype.type(1e-7)
    own = np.maximum(np.sqrt(np.einsum("ij,ij->i", y, y)), floor)
    other = np.maximum(np.sqrt(np.einsum("ij,ij->i", t, t)), floor)
    cosine = np.einsum("ij,ij->i", y, t) / (own * other)
    np.negative(cosine, out=rows)
    if weights is not None:
        rows *= weights[:, 0]
    if dy is not None:
        along = np.where(own <= floor, 0, cosine)
        # In this order y of one number gives an exact 0.
        np.subtract(y * along[:, None] / own[:, None], t / other[:, None], out=dy)
        dy /= own[:, None]
        dy *= _scale(weights, step, y.dtype)


@op(
    "y[B,C] labels?[B]:int32 targets?[B,C] -> rows[B]:double",
    sizes=lambda d, attrs, binding: (d["B"], d["C"]),
    flops=lambda d: float(count(d, "B", "C")),
)
def accuracy(y, labels, targets, rows):
    """rows = 1 where the largest prediction is at the target's place, else 0"""
    truth = targets.argmax(axis=1) if labels is None else labels
    np.equal(y.argmax(axis=1), truth, out=rows, casting="unsafe", dtype=None)
