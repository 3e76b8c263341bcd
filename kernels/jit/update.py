"""The end of a step: learning rate, penalties, and one pass over the flat parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .names import DECAY

UPDATE_BLOCK = 1024  # numbers whose gradient is summed before the rule runs over them
PENALTY_BLOCK = 4096  # numbers of one partial sum
STATES = 4  # that a rule has at most


def rule_over(t: Any, first_state: int) -> Callable:
    """``apply_rule(call, start, w, g, n, decay)``, for calls whose state begins at an operand."""
    R = t.R
    address, at, formula, local_addresses, reals, rule, run_optimizer = (
        t.address, t.at, t.formula, t.local_addresses, t.reals, t.rule, t.run_optimizer
    )  # fmt: skip

    @t.inline
    def apply_rule(call, start, w, g, n, decay):
        """Run the rule over n parameters from w on, at position ``start``, with gradients
        g + l2 w + l1 sign(w) for decay = (l2, l1), once the weights have decayed by the rate times
        their weight decay."""
        numbers = rule(call)
        l2, l1 = R(decay[0]), R(decay[1])
        if l2 != R(0.0):
            for i in range(n):
                g[i] += l2 * w[i]
        if l1 != R(0.0):
            for i in range(n):
                g[i] += l1 if w[i] > R(0.0) else (-l1 if w[i] < R(0.0) else w[i])
        if numbers[DECAY] != 0.0:
            kept = R(1.0 - numbers[0] * numbers[DECAY])
            for i in range(n):
                w[i] *= kept
        state = local_addresses(STATES)
        for i in range(STATES):
            state[i] = address(at(reals(call, first_state + i), start))
        run_optimizer(formula(call, 0), (w, g, state, n, numbers))

    return apply_rule


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    R, VLEN = t.R, t.VLEN
    at, blocks_of, constants, doubles, formula, local = (
        t.at, t.blocks_of, t.constants, t.doubles, t.formula, t.local
    )  # fmt: skip
    copy, rate, reals, row_sum, rule, share, sizes, step_number = (
        t.copy, t.rate, t.reals, t.row_sum, t.rule, t.share, t.sizes, t.step_number
    )  # fmt: skip
    run_penalty, run_per_step, run_schedule = t.run_penalty, t.run_per_step, t.run_schedule
    apply_rule = rule_over(t, 3)

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

    def update(call, thread, threads):
        """w, state = rule(w, sum of the threads' gradients + decay, state) for this thread"""
        low = share(sizes(call)[0], UPDATE_BLOCK, thread, threads)
        high = share(sizes(call)[0], UPDATE_BLOCK, thread + 1, threads)
        copies, stride, segments = sizes(call)[1], sizes(call)[2], sizes(call)[3]
        w, g, table = reals(call, 0), reals(call, 1), doubles(call, 2)
        total = local(UPDATE_BLOCK)
        # Segments are runs of parameters with the same decay: start, stop, l2, l1.
        for segment in range(segments):
            row = at(table, 4 * segment)
            start, stop = max(low, int(row[0])), min(high, int(row[1]))
            while start < stop:
                n = min(stop - start, UPDATE_BLOCK)
                copy(at(g, start), total, n)
                for k in range(1, copies):
                    other = at(g, k * stride + start)
                    for i in range(n):
                        total[i] += other[i]
                apply_rule(call, start, at(w, start), total, n, at(row, 2))
                start += n

    made = (schedule, penalty, penalty_gradient, prepare_update, update)
    return {f.__name__: f for f in made}
