"""Normalization over the rows of a batch, by blocks of columns, which threads divide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import source
from ..formula import Formula
from . import columns
from .vectors import Vector

COLUMNS = columns.COLUMNS


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    makers = (forward, _gradient, _by_given_statistics)
    return {f.__name__: f for f in (make(t) for make in makers)}


def _inverse_deviations(t: Any) -> Callable:
    R, sqrt = t.R, t.sqrt

    @t.inline
    def inverse_deviations(variance, epsilon, n, to):
        for i in range(n):
            to[i] = R(1.0) / sqrt(variance[i] + epsilon)

    return inverse_deviations


def forward(t: Any, formula: Formula | None = None) -> Callable:
    """The forward kernel; a formula that is known is a part of it."""
    R, VLEN, at, constants, copy, given, local, local_doubles, reals, share, sizes = (
        t.R, t.VLEN, t.at, t.constants, t.copy, t.given, t.local, t.local_doubles, t.reals, t.share,
        t.sizes,
    )  # fmt: skip
    formula_of, run_activation, inlined = t.formula, t.run_activation, formula is not None
    count = len(formula.parameters) if formula is not None else 0

    def difference(x, _, first, __):
        return x - first

    def centered(x, _, first, middle):
        made = x - first - middle
        return made, made * made

    def finished(x, _, inverse, scale, shift, *parameters):
        standard = x * inverse
        y = standard * scale + shift
        if formula is not None:
            e = y.emitter
            values = (v.value for v in (y, *parameters))
            y = Vector(e, *e.apply(source.of(formula, "function"), *values))
        return y, standard

    differences = columns.in_runs(t, difference)
    center = columns.in_runs(t, centered, writes=1)
    finish = columns.mapping(t, finished, writes=2, parameters=count)
    inverse_deviations = _inverse_deviations(t)

    def standardize_columns(call, thread, threads):
        """y = f(scale standard + shift), standard = (x - mean) / sqrt(variance + epsilon), with the
        mean and variance of each column

        Sums are of differences to the first row, and the mean itself is never rounded on the way to
        the result: a large mean costs no digits of the variance.
        """
        rows, ld = sizes(call)[0], sizes(call)[1]
        j, stop = share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)
        epsilon, numbers = R(constants(call)[0]), at(constants(call), 1)
        per_row = 1.0 / float(max(rows, 1))
        first, middle, inverse, scale, shift = (
            local(COLUMNS), local(COLUMNS), local(COLUMNS), local(COLUMNS), local(COLUMNS)
        )  # fmt: skip
        total, none = local_doubles(COLUMNS), local_doubles(COLUMNS)
        while j < stop:
            n = min(stop - j, COLUMNS)
            x, y = at(reals(call, 0), j), at(reals(call, 3), j)
            mean, variance = at(reals(call, 4), j), at(reals(call, 5), j)
            standard = at(reals(call, 6), j) if given(call, 6) else y
            for i in range(n):
                first[i] = x[i] if rows > 0 else R(0.0)
                scale[i], shift[i] = R(1.0), R(0.0)
            if given(call, 1):
                copy(at(reals(call, 1), j), scale, n)
            if given(call, 2):
                copy(at(reals(call, 2), j), shift, n)
            differences(x, x, first, first, rows, n, ld, total, none)
            for i in range(n):
                middle[i] = R(total[i] * per_row)
                mean[i] = first[i] + middle[i]
            center(x, standard, first, middle, rows, n, ld, total, none)
            for i in range(n):
                variance[i] = R(total[i] * per_row)
            inverse_deviations(variance, epsilon, n, inverse)
            finish(standard, y, standard, rows, n, ld, inverse, scale, shift, numbers)
            if not inlined and formula_of(call, 0) != 0:
                if ld <= VLEN:  # which is never divided
                    run_activation(formula_of(call, 0), (y, rows * ld, numbers))
                else:
                    for r in range(rows):
                        run_activation(formula_of(call, 0), (at(y, r * ld), n, numbers))
            j += n

    return standardize_columns


def _gradient(t: Any) -> Callable:
    R, VLEN, at, constants, given, local, local_doubles, reals, share, sizes = (
        t.R, t.VLEN, t.at, t.constants, t.given, t.local, t.local_doubles, t.reals, t.share, t.sizes
    )  # fmt: skip

    def itself_and_product(dy, standard, _, __):
        return dy, dy * standard

    def adjusted(dy, standard, middle, slope, factor):
        return (dy - middle - standard * slope) * factor

    sums = columns.in_runs(t, itself_and_product, sums=2)
    adjust, inverse_deviations = columns.mapping(t, adjusted), _inverse_deviations(t)

    def standardize_columns_grad(call, thread, threads):
        """dx = scale (dy - mean of dy - s mean of dy s) / sqrt(variance + epsilon), by columns,
        dscale = sum over the rows of dy s, dshift = sum of dy, with s for ``standard``"""
        rows, ld = sizes(call)[0], sizes(call)[1]
        j, stop = share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)
        epsilon, per_row = R(constants(call)[0]), 1.0 / float(max(rows, 1))
        middle, slope, factor = local(COLUMNS), local(COLUMNS), local(COLUMNS)
        total, products = local_doubles(COLUMNS), local_doubles(COLUMNS)
        while j < stop:
            n = min(stop - j, COLUMNS)
            dy, standard = at(reals(call, 0), j), at(reals(call, 1), j)
            sums(dy, standard, middle, slope, rows, n, ld, total, products)
            for i in range(n):
                middle[i], slope[i] = R(total[i] * per_row), R(products[i] * per_row)
            inverse_deviations(at(reals(call, 2), j), epsilon, n, factor)
            for i in range(n):
                if given(call, 3):
                    factor[i] *= reals(call, 3)[j + i]
                if given(call, 5):
                    reals(call, 5)[j + i] = R(products[i])
                if given(call, 6):
                    reals(call, 6)[j + i] = R(total[i])
            if given(call, 4):
                dx = at(reals(call, 4), j)
                adjust(dy, dx, standard, rows, n, ld, middle, slope, factor, constants(call))
            j += n

    return standardize_columns_grad


def _by_given_statistics(t: Any) -> Callable:
    R, at, constants, copy, given, local, reals, share, sizes = (
        t.R, t.at, t.constants, t.copy, t.given, t.local, t.reals, t.share, t.sizes
    )  # fmt: skip

    def standardized(x, _, middle, inverse, __):
        return (x - middle) * inverse

    move, inverse_deviations = columns.mapping(t, standardized), _inverse_deviations(t)

    def standardize(call, thread, threads):
        """y = (x - mean) / sqrt(variance + epsilon), one mean and variance for a column"""
        ld = sizes(call)[1]
        first = share(sizes(call)[0], 1, thread, threads)
        rows = share(sizes(call)[0], 1, thread + 1, threads) - first
        epsilon = R(constants(call)[0])
        inverse, middle = local(COLUMNS), local(COLUMNS)
        j = 0
        while j < ld:
            n = min(ld - j, COLUMNS)
            x, y = at(reals(call, 0), first * ld + j), at(reals(call, 3), first * ld + j)
            for i in range(n):
                middle[i] = R(0.0)
            if given(call, 1):
                copy(at(reals(call, 1), j), middle, n)
            inverse_deviations(at(reals(call, 2), j), epsilon, n, inverse)
            move(x, y, x, rows, n, ld, middle, inverse, inverse, constants(call))
            j += n

    return standardize
