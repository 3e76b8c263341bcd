"""Passes over a matrix by blocks of up to COLUMNS columns, with one number or more for each column.

What belongs to a column lies in local memory, with room for COLUMNS numbers, and in registers while
a strip of a block is gone through. Where rows are narrow and nothing lies between them, several are
worked on as one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir

from .flow import Size
from .vectors import Emitter, Vector, emitted, parameters_of

COLUMNS = 64  # of a block
RUN = 64  # rows summed in the model's type, before they are added in double
STRIP = 4  # registers side by side: as many sums hide the latency of an addition


def _strips(e: Emitter, n: Size, strip: Callable[[int, ir.Value | None, Size], None]) -> None:
    """``strip(registers, mask of the last one, first column)`` for all of n columns."""

    at: Size = 0
    for count in (STRIP, 1):
        stop = e.rounded(n, count * e.lanes)
        e.each(at, stop, count * e.lanes, partial(strip, count, None))
        at = stop
    with e.builder.if_then(e.less(at, n)):
        strip(1, e.mask(e.sub(n, at)), at)


def _registers(
    e: Emitter, p: ir.Value, column: Size, count: int, mask: ir.Value | None
) -> list[Vector]:
    start = e.at(p, column)
    return [Vector(e, e.load(e.at(start, v * e.lanes), mask)) for v in range(count)]


def passing(t: Any, f: Callable, writes: int = 1, sums: int = 0, parameters: int = 0) -> Any:
    """One pass over the rows of n columns, as a function of a tuple: ``(a, b, y, z, rows, n, ld, u,
    v, w, total, second, numbers)``.

    ``f(a, b, u, v, w, *parameters)``, of registers, gives what is written to y, and to z if there
    are two ``writes``, then what is added to the columns' ``total``, and to ``second``. Rows of
    matrices are ``ld`` numbers apart; matrices may be the same, and y is written last. ``u``, ``v``
    and ``w`` belong to the columns; the parameters are the first ``numbers``.
    """

    def emit(e, a, b, y, z, rows, n, ld, u, v, w, total, second, numbers):
        given = [Vector(e, x) for x in parameters_of(e, numbers, parameters)]
        totals = (total, second)[:sums]

        def strip(count, mask, column):
            of_columns = [_registers(e, p, column, count, mask) for p in (u, v, w)]

            def row(r, carried):
                start = e.add(e.mul(r, ld), column)
                of_rows = [_registers(e, p, start, count, mask) for p in (a, b)]
                added = []
                for i, registers in enumerate(zip(*of_rows, *of_columns, strict=True)):
                    found = f(*registers, *given)
                    made = found if isinstance(found, tuple) else (found,)
                    for x, to in reversed(list(zip(made[:writes], (y, z), strict=False))):
                        e.store(x.value, e.at(e.at(to, start), i * e.lanes), mask)
                    added += made[writes:]
                return [(Vector(e, s) + x).value for s, x in zip(carried, added, strict=True)]

            before = [_registers(e, p, column, count, mask) for p in totals]
            in_order = [p[i].value for i in range(count) for p in before]
            after = e.loop(0, rows, 1, in_order, row)
            for k, x in enumerate(after):
                to = e.at(totals[k % sums], column)
                e.store(x, e.at(to, k // sums * e.lanes), mask)

        _strips(e, n, strip)

    return emitted(t, emit)


def mapping(t: Any, f: Callable, writes: int = 1, parameters: int = 0) -> Callable:
    """``mapped(x, y, b, rows, n, ld, u, v, w, numbers)``: y = f(x, b, u, v, w, *parameters) for
    n <= COLUMNS columns; of two writes the second goes to b.

    ``u``, ``v`` and ``w`` are local, of COLUMNS numbers: what is beyond n is changed.
    """
    at, columns_of = t.at, passing(t, f, writes, 0, parameters)

    @t.pasted
    def mapped(x, y, b, rows, n, ld, u, v, w, numbers):
        together, start = COLUMNS // n if n == ld else 1, 0
        for i in range(n, n * together):
            u[i], v[i], w[i] = u[i - n], v[i - n], w[i - n]
        while start < rows:  # as many rows as lie together, then one by one
            most, place = (rows - start) // together, start * ld
            x_here, y_here, b_here = at(x, place), at(y, place), at(b, place)
            columns_of(
                (x_here, b_here, y_here, b_here, most, n * together, ld * together, u, v, w, u, u,
                 numbers)
            )  # fmt: skip
            start += most * together
            together = 1

    return mapped


def _adding(t: Any, f: Callable, writes: int = 0, sums: int = 1) -> Callable:
    """``added(a, b, u, v, rows, n, ld, to, second)``: to[i] = sum over the rows of f(a, b, u, v),
    in order, for n <= COLUMNS columns.

    f may give a second term, and before them what is written to b. ``u`` and ``v`` are local, of
    COLUMNS numbers: what is beyond n is changed.
    """
    R, VLEN, at, local, local_doubles = t.R, t.VLEN, t.at, t.local, t.local_doubles
    columns_of = passing(t, lambda a, b, u, v, w: f(a, b, u, v), writes, sums)

    @t.pasted
    def added(a, b, u, v, rows, n, ld, to, second):
        total, other, none = local(COLUMNS), local(COLUMNS), local_doubles(1)
        for i in range(COLUMNS):
            total[i], other[i] = R(0.0), R(0.0)
        # Where threads could divide the columns, rows are not summed together.
        together, start = COLUMNS // n if n == ld and n <= VLEN else 1, 0
        for i in range(n, n * together):
            u[i], v[i] = u[i - n], v[i - n]
        while start < rows:
            most, wide, place = (rows - start) // together, n * together, start * ld
            a_here, b_here = at(a, place), at(b, place)
            columns_of(
                (a_here, b_here, b_here, b_here, most, wide, ld * together, u, v, u, total, other,
                 none)
            )  # fmt: skip
            for i in range(n, wide):
                total[i % n] += total[i]
                other[i % n] += other[i]
            start += most * together
            together = 1
        for i in range(n):
            to[i] = total[i]
            if sums == 2:
                second[i] = other[i]

    return added


def summing(t: Any, term: Callable) -> Callable:
    """``sums(a, b, rows, n, ld, to)``: to[i] = sum over the rows of ``term(a, b)``, in order, for
    n <= COLUMNS columns.

    ``a`` and ``b`` are matrices whose rows are ``ld`` numbers apart.
    """
    added, local = _adding(t, lambda a, b, u, v: term(a, b)), t.local

    @t.pasted
    def sums(a, b, rows, n, ld, to):
        none = local(COLUMNS)
        added(a, b, none, none, rows, n, ld, to, to)

    return sums


def in_runs(t: Any, f: Callable, writes: int = 0, sums: int = 1) -> Callable:
    """``totals(a, b, u, v, rows, n, ld, total, other)``: sums of f(a, b, u, v) over the rows, of
    RUN rows in the model's type and of all of them in double.

    Of two sums the second goes to ``other``; what f gives before them is written to b.
    """
    added, at, local = _adding(t, f, writes, sums), t.at, t.local

    @t.pasted
    def totals(a, b, u, v, rows, n, ld, total, other):
        run, second = local(COLUMNS), local(COLUMNS)
        for i in range(n):
            total[i], other[i] = 0.0, 0.0
        start = 0
        while start < rows:
            count, place = min(rows - start, RUN), start * ld
            added(at(a, place), at(b, place), u, v, count, n, ld, run, second)
            for i in range(n):
                total[i] += float(run[i])
                if sums == 2:
                    other[i] += float(second[i])
            start += RUN

    return totals


def product(a: Vector, b: Vector) -> Vector:
    return a * b


def scaled(x: Vector, b: Vector, u: Vector, v: Vector, w: Vector) -> Vector:
    return x * u
