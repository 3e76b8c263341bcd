"""Between the user's arrays and the batch: rows are picked, converted and scaled on the way in, and
predictions are put in their place on the way out. Strides are in bytes: any layout is read as is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .vectors import Emitter, emitted

#: Registers of a row that are written out one by one.
UNROLLED = 8
#: How many rows before it is read a row is asked for, and lines of it: shuffled rows lie anywhere,
#: and the processor by itself looks only a few of them ahead.
ROWS_AHEAD, LINES, LINE_BYTES = 16, 4, 64


def _asked_for(t: Any, columns: int) -> Callable:
    """``ask(call, r, end)`` for the row that a loop up to ``end`` comes to after row r."""

    def emit(e: Emitter, row: Any) -> None:
        for line in range(min(-(-columns * t.BYTES // LINE_BYTES), LINES)):
            e.prefetch(e.at(row, line * LINE_BYTES))

    lines = emitted(t, emit)
    at, octets, row_at, sizes = t.at, t.octets, t.row_at, t.sizes

    @t.inline
    def ask(call, r, end):
        later = row_at(call, sizes(call)[2] + min(r + ROWS_AHEAD, end - 1))
        lines((at(octets(call, 0), later * sizes(call)[4]),))

    return ask


def _converter(t: Any, view: Callable, size: int) -> Callable:
    """``convert(source, stride, x, n, scale, offset)`` from numbers of one type."""
    R, at = t.R, t.at

    @t.inline
    def convert(source, stride, x, n, scale, offset):
        if stride == size:  # contiguous numbers are read as vectors
            numbers = view(source)
            for i in range(n):
                x[i] = R(numbers[i]) * scale + offset
        else:
            for i in range(n):
                x[i] = R(view(at(source, i * stride))[0]) * scale + offset

    return convert


def _fixed(t: Any, columns: int) -> Any:
    """``convert((source, x, scale, offset))``: contiguous numbers of the model's own type."""

    def emit(e: Emitter, source: Any, x: Any, scale: Any, offset: Any) -> None:
        scales, offsets = e.splat(scale), e.splat(offset)

        def register(at: Any, mask: Any) -> None:
            e.store(e.fused(e.load(e.at(source, at), mask), scales, offsets), e.at(x, at), mask)

        def several(at: Any) -> None:
            for v in range(UNROLLED):
                register(e.add(at, v * e.lanes), None)

        size = UNROLLED * e.lanes
        start = columns // size * size
        e.each(0, start, size, several)
        for at in range(start, columns, e.lanes):
            register(at, e.mask(columns - at) if columns - at < e.lanes else None)

    return emitted(t, emit)


def gather(t: Any, columns: int | None = None) -> Callable:
    """The kernel for any number of columns, or for one that is known."""
    R = t.R
    at, constants, octets, reals, row_at, share, sizes, view_reals = (
        t.at, t.constants, t.octets, t.reals, t.row_at, t.share, t.sizes, t.view_reals
    )  # fmt: skip
    from_octets = _converter(t, t.inline(lambda p: p), 1)
    from_floats = _converter(t, t.as_floats, 4)
    from_doubles = _converter(t, t.as_doubles, 8)
    own_code, known = (1 if t.BYTES == 4 else 2), columns is not None
    own_bytes, fixed, ask = t.BYTES, _fixed(t, columns or 0), _asked_for(t, columns or 1)

    def gather(call, thread, threads):
        """x[r] = scale source[order[r]] + offset, from uint8, float32 or float64"""
        rows, columns, first = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        code, row_stride, stride = sizes(call)[3], sizes(call)[4], sizes(call)[5]
        scale, offset = R(constants(call)[0]), R(constants(call)[1])
        end = share(rows, 1, thread + 1, threads)
        for r in range(share(rows, 1, thread, threads), end):
            ask(call, r, end)
            source = at(octets(call, 0), row_at(call, first + r) * row_stride)
            x = at(reals(call, 1), r * columns)
            if known and code == own_code and stride == own_bytes:
                fixed((view_reals(source), x, scale, offset))
            elif code == 0:
                from_octets(source, stride, x, columns, scale, offset)
            elif code == 1:
                from_floats(source, stride, x, columns, scale, offset)
            else:
                from_doubles(source, stride, x, columns, scale, offset)

    return gather


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""
    as_labels, at, copy, first_position, labels_of, octets, reals, row_at, share = (
        t.as_labels, t.at, t.copy, t.first_position, t.labels, t.octets, t.reals, t.row_at, t.share
    )  # fmt: skip
    sizes, view_reals, ask = t.sizes, t.view_reals, _asked_for(t, 1)

    def gather_labels(call, thread, threads):
        """labels[r] = source[order[r]], both int32"""
        rows, first, row_stride = sizes(call)[0], sizes(call)[2], sizes(call)[4]
        labels, end = labels_of(call, 1), share(rows, 1, thread + 1, threads)
        for r in range(share(rows, 1, thread, threads), end):
            ask(call, r, end)
            source = at(octets(call, 0), row_at(call, first + r) * row_stride)
            labels[r] = as_labels(source)[0]

    def store(call, thread, threads):
        """out[first + r] = y[r], in the order of the batches"""
        rows, columns, row_stride = sizes(call)[0], sizes(call)[1], sizes(call)[4]
        first = first_position(call) + sizes(call)[2]
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            out = view_reals(at(octets(call, 1), (first + r) * row_stride))
            copy(at(reals(call, 0), r * columns), out, columns)

    return {f.__name__: f for f in (gather(t), gather_labels, store)}
