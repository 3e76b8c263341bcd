"""The end of a step: learning rate, penalties, and one pass over the flat parameters."""

from __future__ import annotations

import numpy as np

from ..op import count, op
from .formulas import REFERENCE

PENALTY_BLOCK = 4096  # numbers of one partial sum, as in the compiled kernels (abi.h)


def add_decay(g, w, decay):
    """g + l2 w + l1 sign(w), in place"""
    l2, l1 = (w.dtype.type(factor) for factor in decay)
    if l2:
        g += l2 * w
    if l1:
        g += l1 * np.sign(w)


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


def _rule_constants(attrs):
    given = attrs["parameters"]
    return *given, *(0.0,) * (7 - len(given)), attrs["weight_decay"]


def decay_weights(w, step, weight_decay):
    """w - rate weight_decay w, in place"""
    if weight_decay:
        w *= w.dtype.type(1 - step.rate * weight_decay)


@op(
    "->",
    formula="optimizer",
    sizes=lambda d, attrs, binding: (),
    constants=_rule_constants,
    uses_step=True,
)
def prepare_update(*, function, parameters, weight_decay, step):
    """Numbers that the update rule needs at this step; the rules here compute their own"""


def _penalty_constants(attrs):
    return attrs["factor"], *attrs["parameters"]


@op(
    "w[...] -> parts[P]:double",
    formula="penalty",
    sizes=lambda d, attrs, binding: (count(d, "..."),),
    constants=_penalty_constants,
    flops=lambda d: 2.0 * count(d, "..."),
    infer={"P": lambda d: -(-count(d, "...") // PENALTY_BLOCK)},
    penalty_gradient="penalty_gradient",
    shared=True,
)
def penalty(w, parts, *, function, parameters, factor):
    """Sum of parts = factor times the sum of f(w)"""
    value, _ = REFERENCE["penalty"][function]
    values = value(w.astype(np.float64).ravel(), *parameters)
    parts[...] = np.add.reduceat(values, np.arange(0, values.size, PENALTY_BLOCK))
    parts *= factor


@op(
    "dw[...] w[...] -> out[...]",
    formula="penalty",
    sizes=lambda d, attrs, binding: (count(d, "..."),),
    constants=_penalty_constants,
    flops=lambda d: 2.0 * count(d, "..."),
    in_place={"out": "dw"},
    whole=True,
)
def penalty_gradient(dw, w, out, *, function, parameters, factor):
    """out = dw + factor f'(w)"""
    _, derivative = REFERENCE["penalty"][function]
    np.add(dw, w.dtype.type(factor) * derivative(w, *parameters), out=out)


@op(
    "parameters[P] gradients[P] segments[S,4]:double s0?[P] s1?[P] s2?[P] s3?[P] ->",
    formula="optimizer",
    sizes=lambda d, attrs, binding: (d["P"], binding.copies, d["P"], d["S"]),
    flops=lambda d: 10.0 * d["P"],
    writes=("parameters", "s0", "s1", "s2", "s3"),
    uses_step=True,
    shared=True,
)
def update(w, g, segments, s0, s1, s2, s3, *, function, parameters, weight_decay, step):
    """w, state = rule(w - rate weight_decay w, g + l2 w + l1 sign(w), state) in each segment, a row
    (start, stop, l2, l1)"""
    (rule,) = REFERENCE["optimizer"][function]
    states = [s for s in (s0, s1, s2, s3) if s is not None]
    for start, stop, *decay in segments:  # other parameters are updated elsewhere
        span = slice(int(start), int(stop))
        part, own = g[span].copy(), w[span]
        add_decay(part, own, decay)
        decay_weights(own, step, weight_decay)
        rule(step.step + 1, own, part, *(s[span] for s in states), step.rate, *parameters)
