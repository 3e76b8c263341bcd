"""Normalization but for that over a batch, which ``batches`` has.

What sums over rows goes by blocks of columns, which threads divide; what sums over the numbers of a
row goes by rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import columns

COLUMNS = columns.COLUMNS
SHORTEST = 1e-12  # vectors below this length are divided by it


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    makers = (_affine, _statistics, _over_rows, _to_length_one)
    return {f.__name__: f for make in makers for f in make(t)}


def _affine(t: Any) -> tuple[Callable, ...]:
    R, VLEN, at, constants, copy, given, local, reals, share, sizes = (
        t.R, t.VLEN, t.at, t.constants, t.copy, t.given, t.local, t.reals, t.share, t.sizes
    )  # fmt: skip

    def moved(x, b, u, v, w):
        return x * u + v

    def itself(a, b):
        return a

    move, scale_columns = columns.mapping(t, moved), columns.mapping(t, columns.scaled)
    sums_of_products, sums_of_one = (
        columns.summing(t, columns.product), columns.summing(t, itself)
    )  # fmt: skip

    def affine(call, thread, threads):
        """y = scale x + shift, one number of each for a column"""
        ld = sizes(call)[1]
        first = share(sizes(call)[0], 1, thread, threads)
        rows = share(sizes(call)[0], 1, thread + 1, threads) - first
        scale, shift = local(COLUMNS), local(COLUMNS)
        j = 0
        while j < ld:
            n = min(ld - j, COLUMNS)
            x, y = at(reals(call, 0), first * ld + j), at(reals(call, 3), first * ld + j)
            for i in range(n):
                scale[i], shift[i] = R(1.0), R(0.0)
            if given(call, 1):
                copy(at(reals(call, 1), j), scale, n)
            if given(call, 2):
                copy(at(reals(call, 2), j), shift, n)
                move(x, y, x, rows, n, ld, scale, shift, shift, constants(call))
            else:
                scale_columns(x, y, x, rows, n, ld, scale, scale, scale, constants(call))
            j += n

    def affine_dw(call, thread, threads):
        """dscale = sum over the rows of dy x, dshift = sum of dy"""
        rows, ld = sizes(call)[0], sizes(call)[1]
        j, stop = share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)
        while j < stop:
            n = min(stop - j, COLUMNS)
            x, dy = at(reals(call, 0), j), at(reals(call, 1), j)
            if given(call, 2):
                sums_of_products(dy, x, rows, n, ld, at(reals(call, 2), j))
            if given(call, 3):
                sums_of_one(dy, dy, rows, n, ld, at(reals(call, 3), j))
            j += n

    return affine, affine_dw


def _statistics(t: Any) -> tuple[Callable, ...]:
    R, VLEN, sqrt = t.R, t.VLEN, t.sqrt
    batch_rows, clipped, constants, reals, share, sizes = (
        t.batch_rows, t.clipped, t.constants, t.reals, t.share, t.sizes
    )  # fmt: skip

    def running_statistics(call, thread, threads):
        """running = momentum running + (1 - momentum) new, with the variance of n - 1 degrees"""
        mean, variance = reals(call, 0), reals(call, 1)
        running_mean, running_variance = reals(call, 2), reals(call, 3)
        new = R(1.0) - R(constants(call)[0])
        unbiased = R(float(batch_rows(call)) / float(max(batch_rows(call) - 1, 1)))
        n = sizes(call)[0]
        for i in range(share(n, VLEN, thread, threads), share(n, VLEN, thread + 1, threads)):
            running_mean[i] += new * (mean[i] - running_mean[i])
            running_variance[i] += new * (unbiased * variance[i] - running_variance[i])

    def renormalization(call, thread, threads):
        """scale = deviation / running deviation, shift = (mean - running mean) / the same"""
        mean, variance = reals(call, 0), reals(call, 1)
        running_mean, running_variance = reals(call, 2), reals(call, 3)
        scale, shift = reals(call, 4), reals(call, 5)
        epsilon, most, away = R(constants(call)[0]), R(constants(call)[1]), R(constants(call)[2])
        least = R(1.0) / most
        n = sizes(call)[0]
        for i in range(share(n, VLEN, thread, threads), share(n, VLEN, thread + 1, threads)):
            deviation = sqrt(running_variance[i] + epsilon)
            scale[i] = clipped(sqrt(variance[i] + epsilon) / deviation, least, most)
            shift[i] = clipped((mean[i] - running_mean[i]) / deviation, -away, away)

    return running_statistics, renormalization


def _over_rows(t: Any) -> tuple[Callable, ...]:
    R, sqrt = t.R, t.sqrt
    at, constants, reals, row_dot, row_sum, share, sizes = (
        t.at, t.constants, t.reals, t.row_dot, t.row_sum, t.share, t.sizes
    )  # fmt: skip

    @t.in_place_too
    def adjust_row(dy, dx, y, n, middle, slope, inverse):
        for i in range(n):
            dx[i] = (dy[i] - middle - y[i] * slope) * inverse

    def standardize_rows(call, thread, threads):
        """y = (x - mean) inverse, inverse = 1 / sqrt(variance + epsilon), with those of each row"""
        rows, n = sizes(call)[0], sizes(call)[1]
        epsilon = R(constants(call)[0])
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            x, y = at(reals(call, 0), r * n), at(reals(call, 1), r * n)
            first = x[0]
            for i in range(n):
                y[i] = x[i] - first
            middle = row_sum(y, n) / R(n)
            for i in range(n):
                y[i] -= middle
            inverse = R(1.0) / sqrt(row_dot(y, y, n) / R(n) + epsilon)
            for i in range(n):
                y[i] *= inverse
            reals(call, 2)[r] = inverse

    def standardize_rows_grad(call, thread, threads):
        """dx = (dy - mean of dy - y mean of dy y) inverse, by rows"""
        rows, n = sizes(call)[0], sizes(call)[1]
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            dy, y = at(reals(call, 0), r * n), at(reals(call, 1), r * n)
            dx, inverse = at(reals(call, 3), r * n), reals(call, 2)[r]
            middle, slope = row_sum(dy, n) / R(n), row_dot(dy, y, n) / R(n)
            adjust_row(dy, dx, y, n, middle, slope, inverse)

    return standardize_rows, standardize_rows_grad


def _to_length_one(t: Any) -> tuple[Callable, ...]:
    R, VLEN, sqrt = t.R, t.VLEN, t.sqrt
    at, constants, copy, local, reals, row_dot, share, sizes = (
        t.at, t.constants, t.copy, t.local, t.reals, t.row_dot, t.share, t.sizes
    )  # fmt: skip
    shortest = R(SHORTEST)

    def reduced(x, b, u, v, w):
        return (x - b * u) * v

    product_sums = columns.summing(t, columns.product)
    scale_columns, reduce = columns.mapping(t, columns.scaled), columns.mapping(t, reduced)

    @t.in_place_too
    def reduce_row(dy, dx, y, n, slope, inverse):
        for i in range(n):
            dx[i] = (dy[i] - y[i] * slope) * inverse

    @t.inline
    def inverse_length(square):
        length = sqrt(square)
        return R(1.0) / (shortest if length < shortest else length)

    def unit_rows(call, thread, threads):
        """y = x inverse, inverse = 1 / length of the row"""
        rows, n = sizes(call)[0], sizes(call)[1]
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            x, y = at(reals(call, 0), r * n), at(reals(call, 1), r * n)
            inverse = inverse_length(row_dot(x, x, n))
            for i in range(n):
                y[i] = x[i] * inverse
            reals(call, 2)[r] = inverse

    def unit_rows_grad(call, thread, threads):
        """dx = (dy - y sum of dy y) inverse, by rows"""
        rows, n = sizes(call)[0], sizes(call)[1]
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            dy, y = at(reals(call, 0), r * n), at(reals(call, 1), r * n)
            dx, inverse = at(reals(call, 3), r * n), reals(call, 2)[r]
            reduce_row(dy, dx, y, n, row_dot(dy, y, n), inverse)

    def unit_columns(call, thread, threads):
        """u = w inverse, inverse = 1 / length of the column"""
        rows, ld = sizes(call)[0], sizes(call)[1]
        j, stop = share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)
        scale = local(COLUMNS)
        while j < stop:
            n = min(stop - j, COLUMNS)
            w, u, inverse = at(reals(call, 0), j), at(reals(call, 1), j), at(reals(call, 2), j)
            product_sums(w, w, rows, n, ld, scale)
            for i in range(n):
                scale[i] = inverse_length(scale[i])
            copy(scale, inverse, n)
            scale_columns(w, u, w, rows, n, ld, scale, scale, scale, constants(call))
            j += n

    def unit_columns_grad(call, thread, threads):
        """dw = (du - u sum of du u) inverse, by columns"""
        rows, ld = sizes(call)[0], sizes(call)[1]
        j, stop = share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)
        slope, inverse = local(COLUMNS), local(COLUMNS)
        while j < stop:
            n = min(stop - j, COLUMNS)
            du, u, dw = at(reals(call, 0), j), at(reals(call, 1), j), at(reals(call, 3), j)
            product_sums(du, u, rows, n, ld, slope)
            copy(at(reals(call, 2), j), inverse, n)
            reduce(du, dw, u, rows, n, ld, slope, inverse, inverse, constants(call))
            j += n

    return unit_rows, unit_rows_grad, unit_columns, unit_columns_grad
