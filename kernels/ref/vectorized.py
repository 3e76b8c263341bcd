"""NumPy definitions made of a user's own scalar functions: of ours they are written by hand."""

from __future__ import annotations

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
    "_choose": np.where, "_and": np.logical_and, "_or": np.logical_or, "_not": np.logical_not,
}  # fmt: skip


def on_arrays(function: Source, results: int = 1) -> Callable:
    """The function on arrays of one shape and type; it returns as many such arrays.

    A function with statements of its own, loops say, is called for one number after the other.
    """
    if source.is_expression(function):
        made = source.run(function, source.Functional(), ARRAYS)
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
