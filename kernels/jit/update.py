"""The end of a step: learning rate, penalties, and one pass over the flat parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from ..aot import executor
from .calls import Call, by_name
from .flow import I64, Size
from .vectors import Emitter, Vector, choose, parameters_of

UPDATE_BLOCK, PENALTY_BLOCK = executor.UPDATE_BLOCK, executor.PENALTY_BLOCK
MOST_STATES, DECAY = executor.MOST_STATES, executor.DECAY


class Decay:
    """What is done to a gradient and its weight before the rule, on registers.

    The gradient gets l2 w + l1 sign(w), for ``numbers`` = (l2, l1); the weight decays by the rate
    times its weight decay. Where any of the three is not zero, all are applied."""

    def __init__(self, e: Emitter, call: Call, numbers: ir.Value) -> None:
        self.e, self._numbers = e, numbers
        self._l2, self._l1 = parameters_of(e, numbers, 2)
        rule = call.rule()
        rate, self._decay = e.builder.load(rule), e.builder.load(e.at(rule, DECAY))
        one = ir.Constant(rate.type, 1.0)
        kept = e.builder.fsub(one, e.builder.fmul(rate, self._decay))
        self._kept = e.splat(e.narrowed(kept))

    def apply(self, gradient: ir.Value, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
        e = self.e
        w, l1 = Vector(e, weight), Vector(e, self._l1)
        signed = choose(w > 0.0, l1, choose(w < 0.0, -l1, w))
        gradient = e.builder.fadd(e.fused(self._l2, weight, gradient), signed.value)
        return gradient, e.builder.fmul(weight, self._kept)

    def any(self) -> ir.Value:
        """Whether it changes anything."""
        builder = self.e.builder
        penalties = (builder.load(self.e.at(self._numbers, i)) for i in (0, 1))
        tests = [
            builder.fcmp_unordered("!=", number, ir.Constant(number.type, 0.0))
            for number in (*penalties, self._decay)
        ]
        return builder.or_(builder.or_(tests[0], tests[1]), tests[2])


def apply_rule(
    e: Emitter,
    call: Call,
    first_state: int,
    position: Size,
    w: ir.Value,
    g: ir.Value,
    n: Size,
    numbers: ir.Value,
) -> None:
    """Run the call's rule over n parameters from w on, which are those from a position on, with
    gradients g and the decay by ``numbers``; the state begins at an operand."""
    decay = Decay(e, call, numbers)

    def decayed(i: ir.Value, mask: Any) -> None:
        places = e.at(g, i), e.at(w, i)
        for x, place in zip(decay.apply(*(e.load(p, mask) for p in places)), places, strict=True):
            e.store(x, place, mask)

    with e.builder.if_then(decay.any()):
        e.each_register(n, decayed)
    state = e.local(I64, MOST_STATES)
    for i in range(MOST_STATES):
        address = e.builder.ptrtoint(e.at(call.operand(first_state + i), position), I64)
        e.builder.store(address, e.at(state, i))
    call.if_formula(0, lambda run: run(w, g, state, n, call.rule()))


def update(e: Emitter, call: Call) -> None:
    """w, state = rule(w, sum of the threads' gradients + decay, state) for this thread"""
    low, high = call.share(call.size(0), UPDATE_BLOCK)
    copies, stride, segments = (call.size(i) for i in (1, 2, 3))
    w, g, table = call.operand(0), call.operand(1), call.doubles(2)
    total = e.local(e.scalar, UPDATE_BLOCK)

    def segment(number: ir.Value) -> None:
        """A run of parameters with the same decay: start, stop, l2, l1."""
        row = e.at(table, e.mul(number, 4))
        start, stop = (e.builder.fptosi(e.builder.load(e.at(row, i)), I64) for i in (0, 1))
        first, last = e.most(low, start), e.least(high, stop)

        def block(start: ir.Value) -> None:
            n = e.least(e.sub(last, start), UPDATE_BLOCK)

            def summed(i: ir.Value, mask: Any) -> None:
                found = e.sum_of_copies(e.at(g, e.add(start, i)), stride, copies, mask)
                e.store(found, e.at(total, i), mask)

            e.each_register(n, summed)
            apply_rule(e, call, 3, start, e.at(w, start), total, n, e.at(row, 2))

        e.each(first, last, UPDATE_BLOCK, block)

    e.each(0, segments, 1, segment)


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    R, VLEN = t.R, t.VLEN
    at, blocks_of, constants, doubles, formula, local = (
        t.at, t.blocks_of, t.constants, t.doubles, t.formula, t.local
    )  # fmt: skip
    rate, reals, row_sum, rule, share, sizes, step_number = (
        t.rate, t.reals, t.row_sum, t.rule, t.share, t.sizes, t.step_number
    )  # fmt: skip
    run_penalty, run_per_step, run_schedule = t.run_penalty, t.run_per_step, t.run_schedule

    def schedule(call, thread, threads):
        """rate = f(step - warm_up), or before a share of f(0) that rises in equal steps"""
        step, warm_up = step_number(call), sizes(call)[0]
        if step >= warm_up:
            made = run_schedule(formula(call, 0), (step - warm_up, constants(call)))
            rate(call)[0] = made
        else:
            made = run_schedule(formula(call, 0), (0, constants(call)))
            rate(call)[0] = made * float(step + 1) / float(warm_up + 1)

    def penalty(call, thread, threads):
        """parts[i] = factor times the sum of f(w) over block i"""
        n = sizes(call)[0]
        w, parts = reals(call, 0), doubles(call, 1)
        values = local(UPDATE_BLOCK)
        blocks = blocks_of(n, PENALTY_BLOCK)
        for i in range(share(blocks, 1, thread, threads), share(blocks, 1, thread + 1, threads)):
            start = i * PENALTY_BLOCK
            stop = min(start + PENALTY_BLOCK, n)
            total = 0.0
            while start < stop:
                length = min(stop - start, UPDATE_BLOCK)
                run_penalty(
                    formula(call, 0), (at(w, start), values, length, at(constants(call), 1))
                )
                total += float(row_sum(values, length))
                start += length
            parts[i] = total * constants(call)[0]

    @t.in_place_too
    def add_slopes(dw, out, slopes, factor, n):
        for i in range(n):
            out[i] = dw[i] + factor * slopes[i]

    def penalty_gradient(call, thread, threads):
        """out = dw + factor f'(w)"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        dw, w, out = reals(call, 0), reals(call, 1), reals(call, 2)
        factor = R(constants(call)[0])
        slopes = local(UPDATE_BLOCK)
        while start < stop:
            n = min(stop - start, UPDATE_BLOCK)
            run_penalty(formula(call, 1), (at(w, start), slopes, n, at(constants(call), 1)))
            add_slopes(at(dw, start), at(out, start), slopes, factor, n)
            start += n

    def prepare_update(call, thread, threads):
        """What the update rule needs at this step beside its arrays, computed once"""
        numbers = rule(call)
        numbers[0] = rate(call)[0]
        for i in range(7):
            numbers[1 + i] = constants(call)[i]
        numbers[DECAY] = constants(call)[7]
        run_per_step(formula(call, 1), (step_number(call) + 1, numbers))

    made = (schedule, penalty, penalty_gradient, prepare_update)
    return {f.__name__: f for f in made} | by_name(t, [update])
