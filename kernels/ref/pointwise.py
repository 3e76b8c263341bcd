"""Ops on each element, or on each row, of a tensor."""

from __future__ import annotations

import numpy as np

from ..formula import FORMULAS
from ..op import count, op
from .formulas import REFERENCE
from .random import WORDS, words


def _elements(d, attrs, binding):
    return (count(d, "..."),)


def _activation_gradient(graph, node, dy):
    (x,), (y,) = node.inputs, node.outputs
    formula = FORMULAS["activation"][node.attrs["function"]]
    return graph.emit(
        "activation_grad",
        dy,
        x if formula.derivative_reads("x") else None,
        y if formula.derivative_reads("y") else None,
        **node.attrs,
    )


@op(
    "x[...] -> y[...]",
    formula="activation",
    sizes=_elements,
    flops=lambda d: float(count(d, "...")),
    gradient=_activation_gradient,
    in_place={"y": "x"},
    columns=1,
)
def activation(x, y, *, function, parameters):
    """y = f(x)"""
    REFERENCE["activation"][function][0](x, y, *parameters)


@op(
    "dy[...] x?[...] y?[...] -> dx[...]",
    formula="activation",
    sizes=_elements,
    flops=lambda d: 2.0 * count(d, "..."),
    in_place={"dx": "dy"},
    columns=1,
)
def activation_grad(dy, x, y, dx, *, function, parameters):
    """dx = dy f'(x, y)"""
    either = dy if x is None and y is None else y
    np.multiply(dy, REFERENCE["activation"][function][1](x, either, *parameters), out=dx)


@op(
    "a[...] b[...] -> y[...]",
    sizes=_elements,
    flops=lambda d: float(count(d, "...")),
    gradient=lambda graph, node, dy: (dy, dy),
    in_place={"y": "a"},
    columns=1,
)
def add(a, b, y):
    """y = a + b"""
    np.add(a, b, out=y)


def _masked(graph, node, dy, dmask):
    # The mask could be drawn again from its counter, but that takes many times as long.
    return graph.emit("merge", dy, node.outputs[1], function="multiply", parameters=())


def _rescale_gradient(graph, node, dy):
    return graph.emit("rescale", dy, scale=node.attrs["scale"], offset=0.0)


@op(
    "x[...] -> y[...]",
    sizes=_elements,
    constants=lambda attrs: (attrs["scale"], attrs["offset"]),
    flops=lambda d: 2.0 * count(d, "..."),
    gradient=_rescale_gradient,
    in_place={"y": "x"},
    columns=1,
)
def rescale(x, y, *, scale, offset):
    """y = scale x + offset"""
    np.multiply(x, scale, out=y)
    if offset:
        y += offset


def _drawn(d, attrs, binding):
    """Rows, columns of this thread, number of its first row, stream, number of its first column."""
    return d["B"], d["N"], binding.first_row, attrs["stream"], binding.part * d["N"]


@op(
    "x[B,N] -> y[B,N] mask?[B,N]",
    sizes=_drawn,
    columns=WORDS,
    constants=lambda attrs: (attrs["rate"],),
    flops=lambda d: float(count(d, "B", "N")),
    gradient=_masked,
    in_place={"y": "x"},
    without_gradient=("mask",),
    uses_step=True,
)
def dropout(x, y, mask, *, rate, stream, step):
    """y = x mask, mask = 1 / (1 - rate) where a random word is at least rate, else 0"""
    kept = np.empty_like(x) if mask is None else mask
    dropout_mask.define(kept, rate=rate, stream=stream, step=step)
    np.multiply(x, kept, out=y)


@op(
    "-> mask[B,N]",
    sizes=_drawn,
    columns=WORDS,
    constants=lambda attrs: (attrs["rate"],),
    flops=lambda d: float(count(d, "B", "N")),
    uses_step=True,
)
def dropout_mask(mask, *, rate, stream, step):
    """mask = 1 / (1 - rate) where a random word is at least rate, else 0"""
    random = words(step.seed, stream, step.step, np.arange(len(mask)), mask.shape[1])
    scale = mask.dtype.type(1 / (1 - rate))
    np.multiply(random >= np.uint32(int(rate * 2**32)), scale, out=mask)


@op(
    "x[B,C] -> y[B,C]",
    sizes=lambda d, attrs, binding: (d["B"], d["C"]),
    flops=lambda d: 4.0 * count(d, "B", "C"),
    gradient=lambda graph, node, dy: graph.emit("softmax_grad", dy, node.outputs[0]),
    in_place={"y": "x"},
)
def softmax(x, y):
    """y = exp(x) / sum exp(x), by rows"""
    np.subtract(x, x.max(axis=1, keepdims=True), out=y)
    np.exp(y, out=y)
    y /= y.sum(axis=1, keepdims=True)


@op(
    "dy[B,C] y[B,C] -> dx[B,C]",
    sizes=lambda d, attrs, binding: (d["B"], d["C"]),
    flops=lambda d: 4.0 * count(d, "B", "C"),
    in_place={"dx": "dy"},
)
def softmax_grad(dy, y, dx):
    """dx = y (dy - sum of dy y), by rows"""
    dot = np.einsum("ij,ij->i", dy, y)
    np.subtract(dy, dot[:, None], out=dx)
    dx *= y


def _prelu_gradient(graph, node, dy):
    x, slope = node.inputs
    dx = None
    if graph.needs_gradient(x):
        (dx,) = graph.emit("prelu_grad", dy, x, slope)
    (dslope,) = graph.emit("prelu_dw", dy, x)
    return dx, dslope


_MATRIX = {
    "sizes": lambda d, attrs, binding: (d["B"], d["F"]),
    "flops": lambda d: 2.0 * count(d, "B", "F"),
    "columns": 1,
}


@op("x[B,F] slope[F] -> y[B,F]", gradient=_prelu_gradient, **_MATRIX)
def prelu(x, slope, y):
    """y = x if x > 0 else slope x, one slope for a column"""
    np.multiply(x, np.where(x > 0, x.dtype.type(1), slope), out=y)


@op("dy[B,F] x[B,F] slope[F] -> dx[B,F]", in_place={"dx": "dy"}, **_MATRIX)
def prelu_grad(dy, x, slope, dx):
    """dx = dy if x > 0 else slope dy"""
    np.multiply(dy, np.where(x > 0, x.dtype.type(1), slope), out=dx)


@op("dy[B,F] x[B,F] -> dslope[F]", **_MATRIX)
def prelu_dw(dy, x, dslope):
    """dslope = sum over the rows of dy x where x <= 0"""
    np.einsum("ij,ij->j", dy, np.where(x > 0, x.dtype.type(0), x), out=dslope)


@op(
    "x[B,C] -> y[B,C]",
    sizes=lambda d, attrs, binding: (d["B"], d["C"]),
    flops=lambda d: 4.0 * count(d, "B", "C"),
    gradient=lambda graph, node, dy: graph.emit("log_softmax_grad", dy, node.outputs[0]),
    in_place={"y": "x"},
)
def log_softmax(x, y):
    """y = x - log sum exp(x), by rows"""
    np.subtract(x, x.max(axis=1, keepdims=True), out=y)
    y -= np.log(np.exp(y).sum(axis=1, keepdims=True))


@op(
    "dy[B,C] y[B,C] -> dx[B,C]",
    sizes=lambda d, attrs, binding: (d["B"], d["C"]),
    flops=lambda d: 4.0 * count(d, "B", "C"),
    in_place={"dx": "dy"},
)
def log_softmax_grad(dy, y, dx):
    """dx = dy - exp(y) sum of dy, by rows"""
    total = dy.sum(axis=1, keepdims=True)
    np.subtract(dy, np.exp(y) * total, out=dx)


def _normal(step, stream, shape, dtype):
    """Normal numbers by Box & Muller's transform of 23 bits for the length, 24 for the angle."""
    rows, columns = shape
    random = words(step.seed, stream, step.step, np.arange(rows), 2 * columns)
    length = ((random[:, ::2] >> np.uint32(9)) + 0.5) / 2**23
    angle = (random[:, 1::2] >> np.uint32(8)) / 2**24
    return (np.sqrt(-2 * np.log(length)) * np.cos(2 * np.pi * angle)).astype(dtype)


_NOISE = {
    "sizes": _drawn,
    "columns": WORDS,
    "constants": lambda attrs: (attrs["deviation"],),
    "flops": lambda d: 10.0 * count(d, "B", "N"),
    "in_place": {"y": "x"},
    "uses_step": True,
}


@op("x[B,N] -> y[B,N]", gradient=lambda graph, node, dy: (dy,), **_NOISE)
def gaussian_noise(x, y, *, deviation, stream, step):
    """y = x + n with n from N(0, deviation^2)"""
    np.add(x, x.dtype.type(deviation) * _normal(step, stream, x.shape, x.dtype), out=y)


@op(
    "x[B,N] -> y[B,N]",
    gradient=lambda graph, node, dy: graph.emit("gaussian_dropout", dy, **node.attrs),
    **_NOISE,
)
def gaussian_dropout(x, y, *, deviation, stream, step):
    """y = x n with n from N(1, deviation^2)"""
    np.multiply(x, 1 + x.dtype.type(deviation) * _normal(step, stream, x.shape, x.dtype), out=y)
