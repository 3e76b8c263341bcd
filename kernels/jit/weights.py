"""What is asked of weights and activations beside a small loss, and what is done to gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from . import columns
from .update import PENALTY_BLOCK, UPDATE_BLOCK

COLUMNS = columns.COLUMNS


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    found = [_activity_penalty(t), *_penalties(t), *_gradients(t), *_after_the_update(t)]
    return {f.__name__: f for f in found}


def _activity_penalty(t: Any) -> Callable:
    R, VLEN, CHUNK = t.R, t.VLEN, t.CHUNK
    at, batch_rows, constants, doubles, formula, given = (
        t.at, t.batch_rows, t.constants, t.doubles, t.formula, t.given
    )  # fmt: skip
    local, reals, row_sum, rows_at_once, run_penalty, share, sizes = (
        t.local, t.reals, t.row_sum, t.rows_at_once, t.run_penalty, t.share, t.sizes
    )  # fmt: skip

    @t.inline
    def sum_by_parts(call, x, n, values):
        """The sum of f(x) over a row that is worked on in parts."""
        total, first = 0.0, 0
        while first < n:
            part = min(n - first, CHUNK)
            run_penalty(formula(call, 0), (at(x, first), values, part, at(constants(call), 1)))
            total += float(row_sum(values, part))
            first += part
        return total

    def activity_penalty(call, thread, threads):
        """rows = factor times the sum of f(x) over a row; dx = factor f'(x) / B"""
        columns = sizes(call)[1]
        r = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        factor, parameters = constants(call)[0], at(constants(call), 1)
        scale = R(factor / float(batch_rows(call)))
        rows, values = doubles(call, 1), local(CHUNK)
        while r < stop:
            n = min(rows_at_once(columns), stop - r)
            x = at(reals(call, 0), r * columns)
            if n * columns <= CHUNK:
                run_penalty(formula(call, 0), (x, values, n * columns, parameters))
                if columns == 1:
                    for i in range(n):
                        rows[r + i] = float(values[i]) * factor
                else:
                    for i in range(n):
                        rows[r + i] = float(row_sum(at(values, i * columns), columns)) * factor
            else:
                rows[r] = sum_by_parts(call, x, columns, values) * factor
            if given(call, 2):
                dx = at(reals(call, 2), r * columns)
                run_penalty(formula(call, 1), (x, dx, n * columns, parameters))
                for i in range(n * columns):
                    dx[i] *= scale
            r += n

    return activity_penalty


def _penalties(t: Any) -> tuple[Callable, ...]:
    R, VLEN, log = t.R, t.VLEN, math.log
    at, constants, doubles, given, reals, share, sizes = (
        t.at, t.constants, t.doubles, t.given, t.reals, t.share, t.sizes
    )  # fmt: skip

    def sparsity_penalty(call, thread, threads):
        """parts = factor KL(target, mean of a column), dx its derivative"""
        rows, ld = sizes(call)[0], sizes(call)[1]
        x, parts, dx = reals(call, 0), doubles(call, 1), reals(call, 2)
        factor, q = constants(call)[0], constants(call)[1]
        entropy = q * log(q) + (1.0 - q) * log(1.0 - q)
        count = float(max(rows, 1))
        for i in range(share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)):
            mean = 0.0
            for r in range(rows):
                mean += float(x[r * ld + i])
            mean /= count
            p = 1e-6 if mean < 1e-6 else (1.0 - 1e-6 if mean > 1.0 - 1e-6 else mean)
            parts[i] = factor * (entropy - q * log(p) - (1.0 - q) * log(1.0 - p))
            if given(call, 2):
                slope = R(factor * ((1.0 - q) / (1.0 - p) - q / p) / count)
                for r in range(rows):
                    dx[r * ld + i] = slope

    def identity_distance(call, thread, threads):
        """parts = factor times the sum of |g - 1| over a row; dg = factor sign(g - 1)"""
        n = sizes(call)[0]
        parts = doubles(call, 1)
        factor = R(constants(call)[0])
        for r in range(share(n, 1, thread, threads), share(n, 1, thread + 1, threads)):
            g = at(reals(call, 0), r * n)
            total = 0.0
            for i in range(n):
                apart = g[i] - R(1.0 if i == r else 0.0)
                total += float(apart if apart > R(0.0) else -apart)
            parts[r] = total * constants(call)[0]
            if given(call, 2):
                dg = at(reals(call, 2), r * n)
                for i in range(n):
                    apart = g[i] - R(1.0 if i == r else 0.0)
                    dg[i] = factor if apart > R(0.0) else (-factor if apart < R(0.0) else apart)

    return sparsity_penalty, identity_distance


def _gradients(t: Any) -> tuple[Callable, ...]:
    R, VLEN, sqrt = t.R, t.VLEN, math.sqrt
    blocks_of, clipped, constants, doubles, reals, share, sizes = (
        t.blocks_of, t.clipped, t.constants, t.doubles, t.reals, t.share, t.sizes
    )  # fmt: skip

    def squared_norm(call, thread, threads):
        """Sum of parts = sum of g^2"""
        n = sizes(call)[0]
        g, parts = reals(call, 0), doubles(call, 1)
        blocks = blocks_of(n, PENALTY_BLOCK)
        for part in range(share(blocks, 1, thread, threads), share(blocks, 1, thread + 1, threads)):
            a, b, c, d = 0.0, 0.0, 0.0, 0.0
            i = part * PENALTY_BLOCK
            stop = min(i + PENALTY_BLOCK, n)
            while i + 4 <= stop:
                a += float(g[i]) * float(g[i])
                b += float(g[i + 1]) * float(g[i + 1])
                c += float(g[i + 2]) * float(g[i + 2])
                d += float(g[i + 3]) * float(g[i + 3])
                i += 4
            while i < stop:
                a += float(g[i]) * float(g[i])
                i += 1
            parts[part] = (a + b) + (c + d)

    @t.in_place_too
    def scale_part(g, out, scale, start, stop):
        for i in range(start, stop):
            out[i] = g[i] * scale

    def clip_norm(call, thread, threads):
        """out = g limit / length where the length, the root of the sum of parts, is above it"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        parts, limit = doubles(call, 1), constants(call)[0]
        square = 0.0
        for i in range(sizes(call)[1]):
            square += parts[i]
        length = sqrt(square)
        scale = R(limit / length if length > limit else 1.0)
        scale_part(reals(call, 0), reals(call, 2), scale, start, stop)

    @t.in_place_too
    def clip_part(g, out, limit, start, stop):
        for i in range(start, stop):
            out[i] = clipped(g[i], -limit, limit)

    def clip_value(call, thread, threads):
        """out = g, clipped to [-limit, limit]"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        clip_part(reals(call, 0), reals(call, 1), R(constants(call)[0]), start, stop)

    return squared_norm, clip_norm, clip_value


def _after_the_update(t: Any) -> tuple[Callable, ...]:
    R, VLEN, sqrt = t.R, t.VLEN, t.sqrt
    at, constants, local, reals, share, sizes, step_number = (
        t.at, t.constants, t.local, t.reals, t.share, t.sizes, t.step_number
    )  # fmt: skip
    sums_of_products = columns.summing(t, columns.product)
    scale_columns = columns.mapping(t, columns.scaled)

    def average_weights(call, thread, threads):
        """average = decay_rate average + (1 - decay_rate) w; w itself after the first update"""
        # Divided as the update is: no thread reads what another has yet to write.
        start = share(sizes(call)[0], UPDATE_BLOCK, thread, threads)
        stop = share(sizes(call)[0], UPDATE_BLOCK, thread + 1, threads)
        w, average = reals(call, 0), reals(call, 1)
        new = R(1.0 - constants(call)[0])
        if step_number(call) == 0:
            for i in range(start, stop):
                average[i] = w[i]
        else:
            for i in range(start, stop):
                average[i] += new * (w[i] - average[i])

    def constrain_norm(call, thread, threads):
        """Columns of w, scaled so that their lengths are from least to most; zeros stay"""
        rows, ld = sizes(call)[0], sizes(call)[1]
        j, stop = share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)
        least, most = R(constants(call)[0]), R(constants(call)[1])
        scale = local(COLUMNS)
        while j < stop:
            n = min(stop - j, COLUMNS)
            w = at(reals(call, 0), j)
            sums_of_products(w, w, rows, n, ld, scale)
            for i in range(n):
                length = sqrt(scale[i])
                if length > most:
                    scale[i] = most / length
                elif length < least and length > R(0.0):
                    scale[i] = least / length
                else:
                    scale[i] = R(1.0)
            scale_columns(w, w, w, rows, n, ld, scale, scale, scale, constants(call))
            j += n

    def constrain_sign(call, thread, threads):
        """w = max(w, 0)"""
        n = sizes(call)[0]
        w = reals(call, 0)
        for i in range(share(n, VLEN, thread, threads), share(n, VLEN, thread + 1, threads)):
            w[i] = R(0.0) if w[i] < R(0.0) else w[i]

    return average_weights, constrain_norm, constrain_sign
