"""The dense layer: forward, gradient by its input, gradient by its parameters."""

from __future__ import annotations

import numpy as np

from ..op import count, op
from .formulas import REFERENCE, apply
from .update import add_decay, decay_weights


def _add_bias_and_apply(y, b, function, parameters):
    """y = f(y + b)"""
    if b is not None:
        y += b
    apply(y, function, parameters)


def _dense_gradient(graph, node, dz):
    x, w, b = node.inputs
    dx = None
    if graph.needs_gradient(x):
        (dx,) = graph.emit("dense_dx", dz, w, None, None, function="identity", parameters=())
    dw, db = graph.emit("dense_dw", x, dz, outputs=(True, b is not None))
    return dx, dw, db


@op(
    "x[B,I] w[I,O] b?[O] -> y[B,O]",
    formula="activation",
    sizes=lambda d, attrs, binding: (d["B"], d["I"], d["O"]),
    flops=lambda d: 2.0 * count(d, "B", "I", "O"),
    gradient=_dense_gradient,
)
def dense(x, w, b, y, *, function, parameters):
    """y = f(x w + b)"""
    np.matmul(x, w, out=y)
    _add_bias_and_apply(y, b, function, parameters)


@op(
    "x[B,I] w[I,O] b?[O] mask[B,O] -> y[B,O] dropped[B,O]",
    formula="activation",
    sizes=lambda d, attrs, binding: (d["B"], d["I"], d["O"]),
    flops=lambda d: 2.0 * count(d, "B", "I", "O"),
)
def dense_dropout(x, w, b, mask, y, dropped, *, function, parameters):
    """y = f(x w + b), dropped = y mask"""
    dense.define(x, w, b, y, function=function, parameters=parameters)
    np.multiply(y, mask, out=dropped)


#: The inputs of each term of a product are a multiple of this, but for the last one's.
UNIT = 16


@op(
    "x[B,I] w[I,O] -> parts[T,B,O]",
    sizes=lambda d, attrs, binding: (d["B"], d["I"], d["O"], d["T"], UNIT),
    flops=lambda d: 2.0 * count(d, "B", "I", "O"),
    whole=True,
)
def dense_parts(x, w, parts):
    """x w as a sum of T terms, each over its part of the inputs: the weights of one part are read
    by one thread only, which then updates them"""
    inputs, terms = len(w), len(parts)
    units = -(-inputs // UNIT)
    edges = [min(units * t // terms * UNIT, inputs) for t in range(terms + 1)]
    for part, first, last in zip(parts, edges, edges[1:], strict=False):
        np.matmul(x[:, first:last], w[first:last], out=part)


@op(
    "parts[T,B,O] b?[O] -> y[B,O]",
    formula="activation",
    sizes=lambda d, attrs, binding: (d["B"], d["O"], d["T"]),
    flops=lambda d: 1.0 * count(d, "T", "B", "O"),
    whole=True,
)
def sum_parts(parts, b, y, *, function, parameters):
    """y = f(sum of the parts + b)"""
    np.sum(parts, axis=0, out=y)
    _add_bias_and_apply(y, b, function, parameters)


@op(
    "dz[B,O] w[I,O] y?[B,I] mask?[B,I] -> dx[B,I]",
    formula="activation",
    sizes=lambda d, attrs, binding: (d["B"], d["I"], d["O"]),
    flops=lambda d: 2.0 * count(d, "B", "I", "O"),
)
def dense_dx(dz, w, y, mask, dx, *, function, parameters):
    """dx = (dz w^T) mask f'(y), mask and derivative only where mask and y are given"""
    np.matmul(dz, w.T, out=dx)
    if mask is not None:
        dx *= mask
    if y is not None:
        dx *= REFERENCE["activation"][function][1](None, y, *parameters)


@op(
    "x[B,I] dz[B,O] -> dw[I,O] db?[O]",
    sizes=lambda d, attrs, binding: (d["B"], d["I"], d["O"]),
    flops=lambda d: 2.0 * count(d, "B", "I", "O") + count(d, "B", "O"),
)
def dense_dw(x, dz, dw, db):
    """dw = x^T dz, db = sum of dz over the batch"""
    np.matmul(x.T, dz, out=dw)
    if db is not None:
        np.sum(dz, axis=0, out=db)


@op(
    "x[B,I] dz[B,O] w[I,O] b?[O] s0?[P] s1?[P] s2?[P] s3?[P] ->",
    formula="optimizer",
    sizes=lambda d, attrs, binding: (d["B"], d["I"], d["O"]),
    constants=lambda attrs: (*attrs["decay"][0], *attrs["decay"][1]),
    flops=lambda d: 2.0 * count(d, "B", "I", "O") + 10.0 * count(d, "I", "O"),
    writes=("w", "b", "s0", "s1", "s2", "s3"),
    uses_step=True,
)
def dense_update(x, dz, w, b, s0, s1, s2, s3, *, function, parameters, weight_decay, decay, step):
    """The parameters of a dense layer, updated by x^T dz and sum dz, each with its decay

    A decay is a pair (l2, l1). State is one array for w, followed by b.
    """
    (rule,) = REFERENCE["optimizer"][function]
    states = [s for s in (s0, s1, s2, s3) if s is not None]
    gradients = np.matmul(x.T, dz), None if b is None else np.sum(dz, axis=0)
    start = 0
    for p, g, factors in zip((w, b), gradients, decay, strict=True):
        if p is None:
            continue
        add_decay(g, p, factors)
        decay_weights(p, step, weight_decay)
        own = [s[start : start + p.size].reshape(p.shape) for s in states]
        rule(step.step + 1, p, g, *own, step.rate, *parameters)
        start += p.size
