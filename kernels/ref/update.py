"""The end of a step: learning rate, penalties, and one pass over the flat parameters."""

from __future__ import annotations

import numpy as np

from ..op import count, op
from .formulas import REFERENCE

PENALTY_BLOCK = 4096  # numbers of one partial sum, as in the compiled kernel


@op(
    "->",
    formula="schedule",
    sizes=lambda d, attrs, binding: (attrs["warm_up"],),
    uses_step=True,
)
def schedule(*, function, parameters, warm_up, step):
    """rate = f(step - warm_up), or before a share of f(0) that rises in equal steps"""
    (formula,) = REFERENCE["schedule"][function]
    if step.step >= warm_up:
        step.rate = formula(step.step - warm_up, *parameters)
    else:
        step.rate = formula(0, *parameters) * (step.step + 1) / (warm_up + 1)


@op("->", formula="optimizer", sizes=lambda d, attrs, binding: (), uses_step=True)
def prepare_update(*, function, parameters, step):
    """Numbers that the update rule needs at this step; the rules here compute their own"""


@op(
    "w[...] -> parts[P]:double",
    sizes=lambda d, attrs, binding: (count(d, "..."),),
    constants=lambda attrs: (attrs["factor"],),
    flops=lambda d: 2.0 * count(d, "..."),
    infer={"P": lambda d: -(-count(d, "...") // PENALTY_BLOCK)},
    penalty_gradient="l2_gradient",
    shared=True,
)
def l2_penalty(w, parts, *, factor):
    """Sum of parts = factor / 2 sum w^2"""
    squares = np.square(w, dtype=np.float64).ravel()
    parts[...] = np.add.reduceat(squares, np.arange(0, squares.size, PENALTY_BLOCK))
    parts *= 0.5 * factor


@op(
    "dw[...] w[...] -> out[...]",
    sizes=lambda d, attrs, binding: (count(d, "..."),),
    constants=lambda attrs: (attrs["factor"],),
    flops=lambda d: 2.0 * count(d, "..."),
    in_place={"out": "dw"},
)
def l2_gradient(dw, w, out, *, factor):
    """out = dw + factor w"""
    np.add(dw, w.dtype.type(factor) * w, out=out)


@op(
    "parameters[P] gradients[P] segments[S,3]:double s0?[P] s1?[P] s2?[P] s3?[P] ->",
    formula="optimizer",
    sizes=lambda d, attrs, binding: (d["P"], binding.copies, d["P"], d["S"]),
    flops=lambda d: 10.0 * d["P"],
    writes=("parameters", "s0", "s1", "s2", "s3"),
    uses_step=True,
    shared=True,
)
def update(w, g, segments, s0, s1, s2, s3, *, function, parameters, step):
    """w, state = rule(w, g + l2 w, state); segments are rows (start, stop, l2)"""
    (rule,) = REFERENCE["optimizer"][function]
    if segments[:, 2].any():
        g = g.copy()
        for start, stop, factor in segments:
            span = slice(int(start), int(stop))
            g[span] += w.dtype.type(factor) * w[span]
    states = [s for s in (s0, s1, s2, s3) if s is not None]
    rule(step.step + 1, w, g, *states, step.rate, *parameters)
