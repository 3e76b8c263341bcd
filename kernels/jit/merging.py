"""Ops that join tensors, and take them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    VLEN, CHUNK = t.VLEN, t.CHUNK
    at, constants, copy, formula, given, local, reals, row_sum, share, sizes = (
        t.at, t.constants, t.copy, t.formula, t.given, t.local, t.reals, t.row_sum, t.share, t.sizes
    )  # fmt: skip
    run_merge, run_merge_grad = t.run_merge, t.run_merge_grad

    def merge(call, thread, threads):
        """y = f(a, b)"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        n = share(sizes(call)[0], VLEN, thread + 1, threads) - start
        a, b, y = at(reals(call, 0), start), at(reals(call, 1), start), at(reals(call, 2), start)
        run_merge(formula(call, 0), (a, b, y, n, constants(call)))

    def merge_grad(call, thread, threads):
        """da = dy df/da, db = dy df/db, either of which may be absent"""
        start = share(sizes(call)[0], VLEN, thread, threads)
        stop = share(sizes(call)[0], VLEN, thread + 1, threads)
        by_a, by_b = local(CHUNK), local(CHUNK)
        for first in range(start, stop, CHUNK):
            n = min(stop - first, CHUNK)
            dy = at(reals(call, 0), first)
            a, b = at(reals(call, 1), first), at(reals(call, 2), first)
            run_merge_grad(formula(call, 1), (a, b, by_a, by_b, n, constants(call)))
            if given(call, 3):
                da = at(reals(call, 3), first)
                for i in range(n):
                    da[i] = dy[i] * by_a[i]
            if given(call, 4):
                db = at(reals(call, 4), first)
                for i in range(n):
                    db[i] = dy[i] * by_b[i]

    def concatenate(call, thread, threads):
        """Rows of y = rows of a, then rows of b"""
        rows, m, n = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        a, b, y = reals(call, 0), reals(call, 1), reals(call, 2)
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            copy(at(a, r * m), at(y, r * (m + n)), m)
            copy(at(b, r * n), at(y, r * (m + n) + m), n)

    def split(call, thread, threads):
        """a = the first columns of y, b = the others"""
        rows, m, n = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        y, a, b = reals(call, 0), reals(call, 1), reals(call, 2)
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            copy(at(y, r * (m + n)), at(a, r * m), m)
            copy(at(y, r * (m + n) + m), at(b, r * n), n)

    def spread(call, thread, threads):
        """y = x, as often as y has numbers"""
        x, y, n = reals(call, 0)[0], reals(call, 1), sizes(call)[0]
        for i in range(share(n, VLEN, thread, threads), share(n, VLEN, thread + 1, threads)):
            y[i] = x

    def total(call, thread, threads):
        """y = sum x"""
        if thread == 0:
            reals(call, 1)[0] = row_sum(reals(call, 0), sizes(call)[0])

    return {f.__name__: f for f in (merge, merge_grad, concatenate, split, spread, total)}
