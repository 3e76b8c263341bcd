"""Passes over a matrix by blocks of up to COLUMNS columns, with one number or more for each column.

What belongs to a column lies in local memory, with room for COLUMNS numbers, and in registers while
a strip of a block is gone through. Where rows are narrow and nothing lies between them, several are
worked on as one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from llvmlite import ir

from .vectors import Emitter, Vector, constant, emitted

COLUMNS = 64  # of a block
RUN = 64  # rows summed in the model's type, before they are added in double
STRIP = 4  # registers side by side: as many sums hide the latency of an addition


def _strips(
    e: Emitter, n: ir.Value, strip: Callable[[ir.Value, int, ir.Value | None], None]
) -> None:
    """``strip(first column, registers, mask of the last one)`` for all of n columns."""

    def whole(count: int) -> Callable[[ir.Value, list[ir.Value]], list[ir.Value]]:
        def body(column: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            strip(column, count, None)
            return []

        return body

    at = constant(0)
    for count in (STRIP, 1):
        size = constant(count * e.lanes)
        stop = e.builder.mul(e.builder.sdiv(n, size), size)
        e.loop(at, stop, count * e.lanes, [], whole(count))
        at = stop
    with e.builder.if_then(e.builder.icmp_signed("<", at, n)):
        strip(at, 1, e.mask(e.builder.sub(n, at)))


def _registers(
    e: Emitter, p: ir.Value, column: ir.Value, count: int, mask: ir.Value | None
) -> list[Vector]:
    start = e.at(p, column)
    return [Vector(e, e.load(e.at(start, v * e.lanes), mask)) for v in range(count)]


def mapping(t: Any, f: Callable) -> Callable:
    """``mapped(x, y, b, rows, n, ld, u, v, w)``: y = f(x, b, u, v, w) for n <= COLUMNS columns.

    ``x``, ``y`` and ``b`` are matrices whose rows are ``ld`` numbers apart, and ``y`` may be ``x``;
    ``u``, ``v`` and ``w`` belong to the columns. ``f`` is of registers.
    """

    def emit(e, x, y, b, rows, n, ld, u, v, w):
        def strip(column, count, mask):
            of_columns = [_registers(e, p, column, count, mask) for p in (u, v, w)]

            def row(r, _):
                start = e.builder.add(e.builder.mul(r, ld), column)
                of_x, of_b = (_registers(e, p, start, count, mask) for p in (x, b))
                for i, numbers in enumerate(zip(of_x, of_b, *of_columns, strict=True)):
                    e.store(f(*numbers).value, e.at(e.at(y, start), i * e.lanes), mask)
                return []

            e.loop(constant(0), rows, 1, [], row)

        _strips(e, n, strip)

    at, columns_of = t.at, emitted(t, emit)

    @t.inline
    def mapped(x, y, b, rows, n, ld, u, v, w):
        together = COLUMNS // n if n == ld else 1
        for i in range(n, n * together):
            u[i], v[i], w[i] = u[i - n], v[i - n], w[i - n]
        columns_of((x, y, b, rows // together, n * together, ld * together, u, v, w))
        done = rows // together * together
        if done < rows:
            start = done * ld
            columns_of((at(x, start), at(y, start), at(b, start), rows - done, n, ld, u, v, w))

    return mapped


def summing(t: Any, term: Callable) -> Callable:
    """``sums(a, b, u, rows, n, ld, to)``: to[i] = sum over the rows of ``term(a, b, u)``, in order,
    for n <= COLUMNS columns.

    ``a`` and ``b`` are matrices whose rows are ``ld`` numbers apart; ``u`` belongs to the columns.
    ``term`` is of registers.
    """

    def emit(e, a, b, u, rows, n, ld, total):
        def strip(column, count, mask):
            of_columns = _registers(e, u, column, count, mask)

            def row(r, sums):
                start = e.builder.add(e.builder.mul(r, ld), column)
                of_a, of_b = (_registers(e, p, start, count, mask) for p in (a, b))
                terms = map(term, of_a, of_b, of_columns)
                return [(Vector(e, s) + x).value for s, x in zip(sums, terms, strict=True)]

            before = [s.value for s in _registers(e, total, column, count, mask)]
            for i, s in enumerate(e.loop(constant(0), rows, 1, before, row)):
                e.store(s, e.at(e.at(total, column), i * e.lanes), mask)

        _strips(e, n, strip)

    R, VLEN, at, local = t.R, t.VLEN, t.at, t.local
    add = emitted(t, emit)

    @t.inline
    def sums(a, b, u, rows, n, ld, to):
        total = local(COLUMNS)
        for i in range(COLUMNS):
            total[i] = R(0.0)
        # Where threads could divide the columns, rows are not summed together.
        together = COLUMNS // n if n == ld and n <= VLEN else 1
        for i in range(n, n * together):
            u[i] = u[i - n]
        add((a, b, u, rows // together, n * together, ld * together, total))
        for k in range(1, together):
            for i in range(n):
                total[i] += total[k * n + i]
        done = rows // together * together
        if done < rows:
            add((at(a, done * ld), at(b, done * ld), u, rows - done, n, ld, total))
        for i in range(n):
            to[i] = total[i]

    return sums


def averaging(t: Any, sums: Callable) -> Callable:
    """``means(a, b, u, rows, n, ld, to)``: the sums divided by the number of rows."""
    R, at, local, local_doubles = t.R, t.at, t.local, t.local_doubles

    @t.inline
    def means(a, b, u, rows, n, ld, to):
        total, run = local_doubles(COLUMNS), local(COLUMNS)
        for i in range(n):
            total[i] = 0.0
        start = 0
        while start < rows:
            sums(at(a, start * ld), at(b, start * ld), u, min(rows - start, RUN), n, ld, run)
            for i in range(n):
                total[i] += float(run[i])
            start += RUN
        for i in range(n):
            to[i] = R(total[i] / float(max(rows, 1)))

    return means


def of(t: Any) -> Any:
    """What several ops do: ``sums`` of a b, ``means`` of it, and ``scale``: y = x u."""

    def product(a, b, u):
        return a * b

    def scaled(x, b, u, v, w):
        return x * u

    sums = summing(t, product)
    return SimpleNamespace(sums=sums, means=averaging(t, sums), scale=mapping(t, scaled))
