"""Softmax by rows, alone and with cross-entropy.

Rows are short (a few classes) and a register is long, so up to NARROW columns a block of LANES rows
is transposed: lane i belongs to row i, and maximum, exponential and sum need no operation across
lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

NARROW = 64  # columns of the longest rows that are transposed
VECTORS = 4  # of rows that are transposed together


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    rows = _rows(t)
    return {**_alone(t, rows), **_gradients(t), **_with_cross_entropy(t, rows)}


def _rows(t: Any) -> Any:
    """What the kernels do to blocks of rows. Up to LANES narrow rows are worked on at once, in
    whole vectors: the lanes beyond the last row hold zeros.
    """
    R, VLEN, CHUNK = t.R, t.VLEN, t.CHUNK
    at, blocks_of, exp, local, row_max, row_sum, whole_registers = (
        t.at, t.blocks_of, t.exp, t.local, t.row_max, t.row_sum, t.whole_registers
    )  # fmt: skip
    LANES = VECTORS * VLEN

    @t.inline
    def lanes_of(n):
        return blocks_of(n, VLEN) * VLEN

    @t.inline
    def narrow_exponentials(x, n, columns, e, largest, total):
        """e = exp(x - largest) of n <= LANES rows, transposed; total = its sums."""
        lanes = lanes_of(n)
        for c in range(columns):
            of_column = at(e, c * lanes)
            for lane in range(n):
                of_column[lane] = x[lane * columns + c]
            for lane in range(n, lanes):
                of_column[lane] = R(0.0)
        for lane in range(lanes):
            largest[lane] = e[lane]
            total[lane] = R(0.0)
        for c in range(1, columns):
            of_column = at(e, c * lanes)
            for lane in range(lanes):
                value, most = of_column[lane], largest[lane]
                largest[lane] = value if value > most else most
        for c in range(columns):
            of_column = at(e, c * lanes)
            for lane in range(lanes):
                of_column[lane] -= largest[lane]
        for i in range(columns * lanes):
            e[i] = exp(e[i])
        for c in range(columns):
            of_column = at(e, c * lanes)
            for lane in range(lanes):
                total[lane] += of_column[lane]

    @t.inline
    def narrow_result(e, factor, n, columns, y):
        """y = e factor, one factor for a row, with the rows back in order."""
        lanes = lanes_of(n)
        for c in range(columns):
            of_column = at(e, c * lanes)
            for lane in range(lanes):
                of_column[lane] *= factor[lane]
        for lane in range(n):
            for c in range(columns):
                y[lane * columns + c] = e[c * lanes + lane]

    @t.inline
    def wide_exponentials(x, columns, y, kept):
        """y = exp(x - largest) of one row, if it is to be kept; returns largest and the sum."""
        whole_registers()
        block = local(CHUNK)
        largest, total = row_max(x, columns), R(0.0)
        for first in range(0, columns, CHUNK):
            n = min(columns - first, CHUNK)
            e = at(y, first) if kept else block
            for i in range(n):
                e[i] = exp(x[first + i] - largest)
            total += row_sum(e, n)
        return largest, total

    return SimpleNamespace(
        narrow_exponentials=narrow_exponentials,
        narrow_result=narrow_result,
        wide_exponentials=wide_exponentials,
        lanes_of=lanes_of,
        LANES=LANES,
    )


def _alone(t: Any, rows: Any) -> dict[str, Callable]:
    R, LANES, SPACE = t.R, rows.LANES, NARROW * rows.LANES
    at, local, log, reals, share, sizes = t.at, t.local, t.log, t.reals, t.share, t.sizes
    lanes_of, narrow_exponentials, narrow_result, wide_exponentials = (
        rows.lanes_of, rows.narrow_exponentials, rows.narrow_result, rows.wide_exponentials
    )  # fmt: skip

    def softmax(call, thread, threads):
        """y = exp(x - max x) / sum of the same, by rows"""
        columns = sizes(call)[1]
        start = share(sizes(call)[0], 1, thread, threads)
        stop = share(sizes(call)[0], 1, thread + 1, threads)
        e, largest, total = local(SPACE), local(LANES), local(LANES)
        for first in range(start, stop, LANES):
            n = min(stop - first, LANES)
            x, y = at(reals(call, 0), first * columns), at(reals(call, 1), first * columns)
            if columns <= NARROW:
                narrow_exponentials(x, n, columns, e, largest, total)
                for lane in range(lanes_of(n)):
                    total[lane] = R(1.0) / total[lane]
                narrow_result(e, total, n, columns, y)
            else:
                for lane in range(n):
                    of_row = at(y, lane * columns)
                    _, sum_ = wide_exponentials(at(x, lane * columns), columns, of_row, True)
                    for i in range(columns):
                        of_row[i] /= sum_

    @t.in_place_too
    def normalized(x, y, largest, normal, n):
        for i in range(n):
            y[i] = (x[i] - largest) - normal

    def log_softmax(call, thread, threads):
        """y = x - log sum exp(x), by rows"""
        columns = sizes(call)[1]
        start = share(sizes(call)[0], 1, thread, threads)
        stop = share(sizes(call)[0], 1, thread + 1, threads)
        e, largest, total = local(SPACE), local(LANES), local(LANES)
        for first in range(start, stop, LANES):
            n = min(stop - first, LANES)
            x, y = at(reals(call, 0), first * columns), at(reals(call, 1), first * columns)
            if columns <= NARROW:
                narrow_exponentials(x, n, columns, e, largest, total)
            else:
                for lane in range(n):
                    largest[lane], total[lane] = wide_exponentials(
                        at(x, lane * columns), columns, e, False
                    )
            for lane in range(lanes_of(n)):
                total[lane] = log(total[lane])
            for lane in range(n):
                i = lane * columns
                normalized(at(x, i), at(y, i), largest[lane], total[lane], columns)

    return {f.__name__: f for f in (softmax, log_softmax)}


def _gradients(t: Any) -> dict[str, Callable]:
    at, exp, reals, row_dot, row_sum, share, sizes = (
        t.at, t.exp, t.reals, t.row_dot, t.row_sum, t.share, t.sizes
    )  # fmt: skip

    @t.in_place_too
    def of_softmax(dy, dx, y, dot, n):
        for i in range(n):
            dx[i] = y[i] * (dy[i] - dot)

    @t.in_place_too
    def of_log_softmax(dy, dx, y, total, n):
        for i in range(n):
            dx[i] = dy[i] - exp(y[i]) * total

    def softmax_grad(call, thread, threads):
        """dx = y (dy - sum of dy y), by rows"""
        rows, columns = sizes(call)[0], sizes(call)[1]
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            dy, y = at(reals(call, 0), r * columns), at(reals(call, 1), r * columns)
            dx = at(reals(call, 2), r * columns)
            of_softmax(dy, dx, y, row_dot(dy, y, columns), columns)

    def log_softmax_grad(call, thread, threads):
        """dx = dy - exp(y) sum of dy, by rows"""
        rows, columns = sizes(call)[0], sizes(call)[1]
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            dy, y = at(reals(call, 0), r * columns), at(reals(call, 1), r * columns)
            dx = at(reals(call, 2), r * columns)
            of_log_softmax(dy, dx, y, row_sum(dy, columns), columns)

    return {f.__name__: f for f in (softmax_grad, log_softmax_grad)}


def _with_cross_entropy(t: Any, rows: Any) -> dict[str, Callable]:
    R, LANES, SPACE = t.R, rows.LANES, NARROW * rows.LANES
    at, batch_rows, doubles, given, labels_of, local, log, reals, row_dot, row_sum, share, sizes = (
        t.at, t.batch_rows, t.doubles, t.given, t.labels, t.local, t.log, t.reals, t.row_dot,
        t.row_sum, t.share, t.sizes,
    )  # fmt: skip
    row_weight = t.row_weight
    lanes_of, narrow_exponentials, narrow_result, wide_exponentials = (
        rows.lanes_of, rows.narrow_exponentials, rows.narrow_result, rows.wide_exponentials
    )  # fmt: skip

    @t.inline
    def target_entropy(targets, n):
        """sum t log t"""
        total = 0.0
        for i in range(n):
            value = targets[i]
            total += np.float64(value * log(R(1.0) if value == R(0.0) else value))
        return total

    def softmax_cross_entropy(call, thread, threads):
        """rows = -weight sum t log softmax(z); dz = weight / B (softmax(z) sum t - t)"""
        columns, divergence = sizes(call)[1], sizes(call)[2] != 0
        start = share(sizes(call)[0], 1, thread, threads)
        stop = share(sizes(call)[0], 1, thread + 1, threads)
        labelled, wanted = given(call, 1), given(call, 5)
        e, largest, total = local(SPACE), local(LANES), local(LANES)
        scale, mass, factor = local(LANES), local(LANES), local(LANES)
        for first in range(start, stop, LANES):
            n = min(stop - first, LANES)
            z, targets = at(reals(call, 0), first * columns), at(reals(call, 2), first * columns)
            dz, losses = at(reals(call, 5), first * columns), at(doubles(call, 4), first)
            labels = at(labels_of(call, 1), first)
            for lane in range(n):
                scale[lane] = R(row_weight(call, first + lane) / np.float64(batch_rows(call)))
                mass[lane] = R(1.0) if labelled else row_sum(at(targets, lane * columns), columns)
            if columns <= NARROW:
                narrow_exponentials(z, n, columns, e, largest, total)
            else:
                for lane in range(n):
                    i = lane * columns
                    largest[lane], total[lane] = wide_exponentials(
                        at(z, i), columns, at(dz, i), wanted
                    )
            for lane in range(lanes_of(n)):
                factor[lane] = scale[lane] * mass[lane] / total[lane]
                total[lane] = log(total[lane])
            for lane in range(n):
                i = lane * columns
                normal = np.float64(total[lane]) + np.float64(largest[lane])
                if labelled:
                    loss = normal - np.float64(z[i + labels[lane]])
                else:
                    dot = row_dot(at(targets, i), at(z, i), columns)
                    loss = normal * np.float64(mass[lane]) - np.float64(dot)
                    if divergence:
                        loss += target_entropy(at(targets, i), columns)
                losses[lane] = loss * row_weight(call, first + lane)
            if wanted:
                if columns <= NARROW:
                    narrow_result(e, factor, n, columns, dz)
                else:
                    for lane in range(n):
                        for i in range(lane * columns, (lane + 1) * columns):
                            dz[i] *= factor[lane]
                for lane in range(n):
                    i = lane * columns
                    if labelled:
                        dz[i + labels[lane]] -= scale[lane]
                    else:
                        for k in range(i, i + columns):
                            dz[k] -= scale[lane] * targets[k]

    return {"softmax_cross_entropy": softmax_cross_entropy}
