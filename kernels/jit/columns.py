"""Passes over a matrix by blocks of up to COLUMNS columns, with one number or more for each column.

What belongs to a column lies in local memory, with room for COLUMNS numbers. Loops over COLUMNS
numbers have no remainder, and keep sums in registers. So where rows are narrow and nothing lies
between them, several are worked on as one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

COLUMNS = 64  # of a block
RUN = 64  # rows summed in the model's type, before they are added in double


def mapping(t: Any, f: Callable) -> Callable:
    """``mapped(x, y, b, rows, n, ld, u, v, w)``: y = f(x, b, u, v, w) for n <= COLUMNS columns.

    ``x``, ``y`` and ``b`` are matrices whose rows are ``ld`` numbers apart, and ``y`` may be ``x``;
    ``u``, ``v`` and ``w`` belong to the columns.
    """
    at = t.at

    @t.in_place_too
    def blocks(x, y, b, rows, ld, u, v, w):
        for r in range(rows):
            x_r, y_r, b_r = at(x, r * ld), at(y, r * ld), at(b, r * ld)
            for i in range(COLUMNS):
                y_r[i] = f(x_r[i], b_r[i], u[i], v[i], w[i])

    @t.in_place_too
    def others(x, y, b, rows, n, ld, u, v, w):
        for r in range(rows):
            x_r, y_r, b_r = at(x, r * ld), at(y, r * ld), at(b, r * ld)
            for i in range(n):
                y_r[i] = f(x_r[i], b_r[i], u[i], v[i], w[i])

    @t.inline
    def mapped(x, y, b, rows, n, ld, u, v, w):
        together = COLUMNS // n if n == ld else 1
        wide, most = n * together, rows // together
        for i in range(n, wide):
            u[i], v[i], w[i] = u[i - n], v[i - n], w[i - n]
        if wide == COLUMNS:
            blocks(x, y, b, most, ld * together, u, v, w)
        else:
            others(x, y, b, most, wide, ld * together, u, v, w)
        done = most * together
        if done < rows:
            start = done * ld
            others(at(x, start), at(y, start), at(b, start), rows - done, n, ld, u, v, w)

    return mapped


def summing(t: Any, term: Callable) -> Callable:
    """``sums(a, b, u, rows, n, ld, to)``: to[i] = sum over the rows of ``term(a, b, u)``, in order,
    for n <= COLUMNS columns.

    ``a`` and ``b`` are matrices whose rows are ``ld`` numbers apart; ``u`` belongs to the columns.
    """
    R, VLEN, at, local = t.R, t.VLEN, t.at, t.local

    @t.inline
    def add_blocks(a, b, u, rows, ld, total):
        for r in range(rows):
            a_r, b_r = at(a, r * ld), at(b, r * ld)
            for i in range(COLUMNS):
                total[i] += term(a_r[i], b_r[i], u[i])

    @t.inline
    def add(a, b, u, rows, n, ld, total):
        for r in range(rows):
            a_r, b_r = at(a, r * ld), at(b, r * ld)
            for i in range(n):
                total[i] += term(a_r[i], b_r[i], u[i])

    @t.inline
    def sums(a, b, u, rows, n, ld, to):
        total = local(COLUMNS)
        for i in range(COLUMNS):
            total[i] = R(0.0)
        # Where threads could divide the columns, rows are not summed together.
        together = COLUMNS // n if n == ld and n <= VLEN else 1
        wide, done = n * together, 0
        for i in range(n, wide):
            u[i] = u[i - n]
        if n == COLUMNS:
            done = rows
        elif n == ld:
            # What follows these rows is read too, as far as there are rows, and its sums not used.
            done = max(rows * n - COLUMNS + wide, 0) // wide * together
        if done > 0:
            for i in range(wide, COLUMNS):
                u[i] = R(0.0)
            add_blocks(a, b, u, done // together, ld * together, total)
            for k in range(1, together):
                for i in range(n):
                    total[i] += total[k * n + i]
        add(at(a, done * ld), at(b, done * ld), u, rows - done, n, ld, total)
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

    @t.inline
    def product(a, b, u):
        return a * b

    @t.inline
    def scaled(x, b, u, v, w):
        return x * u

    sums = summing(t, product)
    return SimpleNamespace(sums=sums, means=averaging(t, sums), scale=mapping(t, scaled))
