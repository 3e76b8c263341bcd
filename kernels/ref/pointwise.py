"""Ops on each element, or on each row, of a tensor."""

from __future__ import annotations

import numpy as np

from ..formula import FORMULAS
from ..op import count, op
from .formulas import REFERENCE
from .random import words


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
)
def add(a, b, y):
    """y = a + b"""
    np.add(a, b, out=y)


def _rescale_gradient(graph, node, dy):
    return graph.emit("rescale", dy, scale=node.attrs["scale"], offset=0.0)


@op(
    "x[...] -> y[...]",
    sizes=_elements,
    constants=lambda attrs: (attrs["scale"], attrs["offset"]),
    flops=lambda d: 2.0 * count(d, "..."),
    gradient=_rescale_gradient,
    in_place={"y": "x"},
)
def rescale(x, y, *, scale, offset):
    """y = scale x + offset"""
    np.multiply(x, scale, out=y)
    if offset:
        y += offset


@op(
    "x[B,N] -> y[B,N]",
    sizes=lambda d, attrs, binding: (d["B"], d["N"], binding.first_row, attrs["stream"]),
    constants=lambda attrs: (attrs["rate"],),
    flops=lambda d: float(count(d, "B", "N")),
    # The mask is a function of the counter, so the gradient is the same op on the same counter.
    gradient=lambda graph, node, dy: graph.emit("dropout", dy, **node.attrs),
    in_place={"y": "x"},
    uses_step=True,
)
def dropout(x, y, *, rate, stream, step):
    """y = x / (1 - rate) where a random word is at least rate, else 0"""
    random = words(step.seed, stream, step.step, np.arange(len(x)), x.shape[1])
    kept = random >= np.uint32(int(rate * 2**32))
    np.multiply(x, kept * x.dtype.type(1 / (1 - rate)), out=y)


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
