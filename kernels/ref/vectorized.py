"""NumPy definitions made of a user's own scalar functions: of ours they are written by hand."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

import numpy as np

from .. import source
from ..source import Source

_erf = np.vectorize(math.erf, otypes=[float])

#: The functions of a formula on arrays, in the arrays' own type.
ARRAYS = {
    "abs": np.abs, "acos": np.arccos, "asin": np.arcsin, "atan": np.arctan, "cos": np.cos,
    "cosh": np.cosh, "erf": lambda x: _erf(x).astype(np.asarray(x).dtype), "exp": np.exp,
    "expm1": np.expm1, "floor": np.floor, "log": np.log, "log10": np.log10, "log1p": np.log1p,
    "log2": np.log2, "max": np.maximum, "min": np.minimum, "pow": np.power, "sign": np.sign,
    "sin": np.sin, "sinh": np.sinh, "sqrt": np.sqrt, "tan": np.tan, "tanh": np.tanh,
    "_where": np.where, "_and": np.logical_and, "_or": np.logical_or, "_not": np.logical_not,
}  # fmt: skip


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


class _Arrays(source.Target):
    """Choices become ``where``, logic and chains of comparisons functions of arrays."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return ast.copy_location(_call("_where", node.test, node.body, node.orelse), node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        name = "_and" if isinstance(node.op, ast.And) else "_or"
        joined = node.values[0]
        for value in node.values[1:]:
            joined = _call(name, joined, value)
        return ast.copy_location(joined, node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return (
            ast.copy_location(_call("_not", node.operand), node)
            if isinstance(node.op, ast.Not)
            else node
        )

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        sides = [node.left, *node.comparators]
        pairs = [ast.Compare(sides[i], [op], [sides[i + 1]]) for i, op in enumerate(node.ops)]
        joined: ast.expr = pairs[0]
        for pair in pairs[1:]:
            joined = _call("_and", joined, pair)
        return ast.copy_location(joined, node)


def on_arrays(function: Source, results: int = 1) -> Callable:
    """The function on arrays of one shape and type; it returns as many such arrays.

    A function with statements of its own, loops say, is called for one number after the other.
    """
    if source.is_expression(function):
        made = source.run(function, _Arrays(), ARRAYS)
    else:
        made = np.vectorize(function.plain(), otypes=[float] * results)

    def shaped(*arguments):
        like = next(np.asarray(a) for a in arguments if a is not None)
        found = made(*arguments)
        found = found if results > 1 else (found,)
        # A constant has neither shape nor type.
        arrays = tuple(np.broadcast_to(np.asarray(a, like.dtype), like.shape) for a in found)
        return arrays if results > 1 else arrays[0]

    return shaped
