"""Ops that join tensors, and take them apart."""

from __future__ import annotations

import numpy as np

from ..op import count, op
from .formulas import REFERENCE


def _merge_gradient(graph, node, dy):
    needed = tuple(graph.needs_gradient(t) for t in node.inputs)
    return graph.emit("merge_grad", dy, *node.inputs, outputs=needed, **node.attrs)


@op(
    "a[...] b[...] -> y[...]",
    formula="merge",
    sizes=lambda d, attrs, binding: (count(d, "..."),),
    flops=lambda d: float(count(d, "...")),
    gradient=_merge_gradient,
    columns=1,
)
def merge(a, b, y, *, function, parameters):
    """y = f(a, b)"""
    y[...] = REFERENCE["merge"][function][0](a, b, *parameters)


@op(
    "dy[...] a[...] b[...] -> da?[...] db?[...]",
    formula="merge",
    sizes=lambda d, attrs, binding: (count(d, "..."),),
    flops=lambda d: 4.0 * count(d, "..."),
    columns=1,
)
def merge_grad(dy, a, b, da, db, *, function, parameters):
    """da = dy df/da, db = dy df/db"""
    by_a, by_b = REFERENCE["merge"][function][1](a, b, *parameters)
    if da is not None:
        np.multiply(dy, by_a, out=da)
    if db is not None:
        np.multiply(dy, by_b, out=db)


def _concatenate_gradient(graph, node, dy):
    a, b = node.inputs
    return graph.emit("split", dy, dims={"M": a.shape[1], "N": b.shape[1]})


@op(
    "a[B,M] b[B,N] -> y[B,S]",
    sizes=lambda d, attrs, binding: (d["B"], d["M"], d["N"]),
    infer={"S": lambda d: d["M"] + d["N"]},
    gradient=_concatenate_gradient,
)
def concatenate(a, b, y):
    """Rows of y = rows of a, then rows of b"""
    np.concatenate([a, b], axis=1, out=y)


@op(
    "y[B,S] -> a[B,M] b[B,N]",
    sizes=lambda d, attrs, binding: (d["B"], d["M"], d["N"]),
    infer={"S": lambda d: d["M"] + d["N"]},
    gradient=lambda graph, node, da, db: graph.emit("concatenate", da, db),
)
def split(y, a, b):
    """a = the first columns of y, b = the others"""
    a[...] = y[:, : a.shape[1]]
    b[...] = y[:, a.shape[1] :]


@op(
    "x[1] -> y[F]",
    sizes=lambda d, attrs, binding: (d["F"],),
    gradient=lambda graph, node, dy: graph.emit("total", dy),
)
def spread(x, y):
    """y = x, as often as y has numbers"""
    y[...] = x


@op(
    "x[F] -> y[1]",
    sizes=lambda d, attrs, binding: (d["F"],),
    flops=lambda d: float(d["F"]),
    gradient=lambda graph, node, dy: graph.emit("spread", dy, dims={"F": node.inputs[0].shape[0]}),
)
def total(x, y):
    """y = sum x"""
    y[0] = np.sum(x)
