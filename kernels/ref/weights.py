"""What is asked of weights and activations beside a small loss, and what is done to gradients."""

from __future__ import annotations

import numpy as np

from ..op import count, op
from .formulas import REFERENCE
from .update import PENALTY_BLOCK


def _elements(d, attrs, binding):
    return (count(d, "..."),)


_PARTS = {"P": lambda d: -(-count(d, "...") // PENALTY_BLOCK)}


def _partial_sums(values, parts):
    flat = values.ravel()
    parts[...] = np.add.reduceat(flat, np.arange(0, flat.size, PENALTY_BLOCK))


# ------------------------------------------------------------------ penalties


@op(
    "x[B,F] -> rows[B]:double dx?[B,F]",
    formula="penalty",
    sizes=lambda d, attrs, binding: (d["B"], d["F"]),
    constants=lambda attrs: (attrs["factor"], *attrs["parameters"]),
    flops=lambda d: 4.0 * count(d, "B", "F"),
    loss_gradient="dx",
    uses_step=True,
)
def activity_penalty(x, rows, dx, *, function, parameters, factor, step):
    """rows = factor times the sum of f(x) over a row; dx = factor f'(x) / B"""
    value, derivative = REFERENCE["penalty"][function]
    np.sum(value(x, *parameters), axis=1, out=rows)
    rows *= factor
    if dx is not None:
        np.multiply(derivative(x, *parameters), x.dtype.type(factor / step.rows), out=dx)


@op(
    "x[B,F] -> parts[F]:double dx?[B,F]",
    sizes=lambda d, attrs, binding: (d["B"], d["F"]),
    constants=lambda attrs: (attrs["factor"], attrs["target"]),
    flops=lambda d: 3.0 * count(d, "B", "F"),
    loss_gradient="dx",
    whole=True,
    domain={"x": (0.01, 1.0)},
)
def sparsity_penalty(x, parts, dx, *, factor, target):
    """parts = factor (q log(q / p) + (1 - q) log((1 - q) / (1 - p))) with p the mean of a column
    and q the target; p is clipped to [1e-6, 1 - 1e-6]"""
    rows = max(len(x), 1)
    mean = x.sum(axis=0, dtype=np.float64) / rows
    p = np.clip(mean, 1e-6, 1 - 1e-6)
    entropy = target * np.log(target) + (1 - target) * np.log(1 - target)
    parts[...] = factor * (entropy - target * np.log(p) - (1 - target) * np.log(1 - p))
    if dx is not None:
        dx[...] = factor * ((1 - target) / (1 - p) - target / p) / rows


def _gram_gradient(graph, node, dg):
    # dg is symmetric, as what is asked of g is.
    (dw,) = graph.emit("dense", node.inputs[0], dg, None, function="identity", parameters=())
    return graph.emit("rescale", dw, scale=2.0, offset=0.0)


@op(
    "w[I,O] -> g[O,O]",
    sizes=lambda d, attrs, binding: (d["I"], d["O"], d["O"]),
    flops=lambda d: 2.0 * count(d, "I", "O", "O"),
    gradient=_gram_gradient,
)
def gram(w, g):
    """g = w^T w"""
    np.matmul(w.T, w, out=g)


@op(
    "g[O,O] -> parts[O]:double dg?[O,O]",
    sizes=lambda d, attrs, binding: (d["O"],),
    constants=lambda attrs: (attrs["factor"],),
    flops=lambda d: 3.0 * count(d, "O", "O"),
    loss_gradient="dg",
    whole=True,
)
def identity_distance(g, parts, dg, *, factor):
    """parts = factor times the sum of |g - 1| over a row; dg = factor sign(g - 1)"""
    apart = g - np.eye(len(g), dtype=g.dtype)
    np.sum(np.abs(apart), axis=1, out=parts, dtype=np.float64)
    parts *= factor
    if dg is not None:
        np.multiply(np.sign(apart), g.dtype.type(factor), out=dg)


# ------------------------------------------------------------------ gradients


@op(
    "g[...] -> parts[P]:double",
    sizes=_elements,
    flops=lambda d: 2.0 * count(d, "..."),
    infer=_PARTS,
    whole=True,
)
def squared_norm(g, parts):
    """Sum of parts = sum of g^2"""
    _partial_sums(np.square(g, dtype=np.float64), parts)


@op(
    "g[...] parts[P]:double -> out[...]",
    sizes=lambda d, attrs, binding: (count(d, "..."), d["P"]),
    constants=lambda attrs: (attrs["limit"],),
    flops=lambda d: float(count(d, "...")),
    in_place={"out": "g"},
    whole=True,
)
def clip_norm(g, parts, out, *, limit):
    """out = g limit / length where the length, the root of the sum of parts, is above the limit"""
    length = np.sqrt(parts.sum())
    np.multiply(g, g.dtype.type(limit / length if length > limit else 1.0), out=out)


@op(
    "g[...] -> out[...]",
    sizes=_elements,
    constants=lambda attrs: (attrs["limit"],),
    flops=lambda d: float(count(d, "...")),
    in_place={"out": "g"},
    whole=True,
)
def clip_value(g, out, *, limit):
    """out = g, clipped to [-limit, limit]"""
    np.clip(g, -limit, limit, out=out)


# ------------------------------------------------------------------ after the update


@op(
    "w[...] average[...] ->",
    sizes=_elements,
    constants=lambda attrs: (attrs["decay_rate"],),
    flops=lambda d: 3.0 * count(d, "..."),
    writes=("average",),
    uses_step=True,
    shared=True,
)
def average_weights(w, average, *, decay_rate, step):
    """average = decay_rate average + (1 - decay_rate) w; w itself after the first update"""
    if step.step == 0:
        average[...] = w
    else:
        average += w.dtype.type(1 - decay_rate) * (w - average)


_CONSTRAINT = {"writes": ("w",), "whole": True}


@op(
    "w[I,O] ->",
    sizes=lambda d, attrs, binding: (d["I"], d["O"]),
    constants=lambda attrs: (attrs["least"], attrs["most"]),
    flops=lambda d: 3.0 * count(d, "I", "O"),
    **_CONSTRAINT,
)
def constrain_norm(w, *, least, most):
    """Columns of w, scaled so that their lengths are from least to most; zeros stay"""
    length = np.sqrt(np.einsum("ij,ij->j", w, w))
    wanted = np.clip(length, least, most)
    w *= np.where((length > 0) & (wanted != length), wanted / length, 1).astype(w.dtype)


@op(
    "w[...] ->",
    sizes=_elements,
    flops=lambda d: float(count(d, "...")),
    **_CONSTRAINT,
)
def constrain_sign(w):
    """w = max(w, 0)"""
    np.copyto(w, 0, where=w < 0)
