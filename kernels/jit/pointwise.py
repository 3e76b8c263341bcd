"""Elementwise ops over a whole tensor. ``y`` may be ``x`` itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import columns
from .vectors import choose

COLUMNS = columns.COLUMNS


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    R, VLEN, CHUNK = t.R, t.VLEN, t.CHUNK
    at, constants, formula, given, reals, share, sizes = (
        t.at, t.constants, t.formula, t.given, t.reals, t.share, t.sizes
    )  # fmt: skip
    copy = t.copy
    run_activation, run_activation_grad = t.run_activation, t.run_activation_grad

    def activation(call, thread, threads):
        """y = f(x)"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        x, y = reals(call, 0), reals(call, 1)
        while start < stop:
            n = min(stop - start, CHUNK)  # a part is copied and worked on while it is in the cache
            copy(at(x, start), at(y, start), n)
            if formula(call, 0) != 0:
                run_activation(formula(call, 0), (at(y, start), n, constants(call)))
            start += n

    def activation_grad(call, thread, threads):
        """dx = dy f'(x, y)"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        dy, x, y, dx = reals(call, 0), reals(call, 1), reals(call, 2), reals(call, 3)
        while start < stop:
            n = min(stop - start, CHUNK)
            copy(at(dy, start), at(dx, start), n)
            if formula(call, 1) != 0:  # else the identity
                run_activation_grad(
                    formula(call, 1),
                    (
                        at(dx, start),
                        at(x, start) if given(call, 1) else x,
                        at(y, start) if given(call, 2) else y,
                        n,
                        constants(call),
                    ),
                )
            start += n

    @t.in_place_too
    def add_part(a, y, b, start, stop):
        for i in range(start, stop):
            y[i] = a[i] + b[i]

    def add(call, thread, threads):
        """y = a + b"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        add_part(reals(call, 0), reals(call, 2), reals(call, 1), start, stop)

    @t.in_place_too
    def rescale_part(x, y, scale, offset, start, stop):
        for i in range(start, stop):
            y[i] = x[i] * scale + offset

    def rescale(call, thread, threads):
        """y = scale x + offset"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        scale, offset = R(constants(call)[0]), R(constants(call)[1])
        rescale_part(reals(call, 0), reals(call, 1), scale, offset, start, stop)

    found = (activation, activation_grad, add, rescale, *_prelu(t))
    return {f.__name__: f for f in found}


def _prelu(t: Any) -> tuple[Callable, ...]:
    VLEN, at, constants, copy, local, reals, share, sizes = (
        t.VLEN, t.at, t.constants, t.copy, t.local, t.reals, t.share, t.sizes
    )  # fmt: skip

    def sloped(x, b, u, v, w):
        return x * choose(b > 0.0, 1.0, u)

    def unless_positive(a, b):
        return a * choose(b > 0.0, 0.0, b)

    slope_by, sums = columns.mapping(t, sloped), columns.summing(t, unless_positive)

    @t.inline
    def apply(call, x, y, by, slopes, thread, threads):
        """y = x where ``by`` is positive, else slope x, for these operands."""
        ld = sizes(call)[1]
        first = share(sizes(call)[0], 1, thread, threads)
        rows = share(sizes(call)[0], 1, thread + 1, threads) - first
        slope = local(COLUMNS)
        j = 0
        while j < ld:
            n, here = min(ld - j, COLUMNS), first * ld + j
            copy(at(reals(call, slopes), j), slope, n)
            slope_by(
                at(reals(call, x), here), at(reals(call, y), here), at(reals(call, by), here),
                rows, n, ld, slope, slope, slope, constants(call),
            )  # fmt: skip
            j += n

    def prelu(call, thread, threads):
        """y = x if x > 0 else slope x, one slope for a column"""
        apply(call, 0, 2, 0, 1, thread, threads)

    def prelu_grad(call, thread, threads):
        """dx = dy if x > 0 else slope dy"""
        apply(call, 0, 3, 1, 2, thread, threads)

    def prelu_dw(call, thread, threads):
        """dslope = sum over the rows of dy x where x <= 0"""
        rows, ld = sizes(call)[0], sizes(call)[1]
        j, stop = share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)
        while j < stop:
            n = min(stop - j, COLUMNS)
            sums(at(reals(call, 0), j), at(reals(call, 1), j), rows, n, ld, at(reals(call, 2), j))
            j += n

    return prelu, prelu_grad, prelu_dw
