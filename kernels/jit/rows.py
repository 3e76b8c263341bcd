"""Between the user's arrays and the batch: rows are picked, converted and scaled on the way in, and
predictions are put in their place on the way out. Strides are in bytes: any layout is read as is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from .calls import Call, by_name, emitted_kernel
from .flow import Size
from .vectors import I8, I32, Emitter

#: Registers of a row that are written out one by one.
UNROLLED = 8
#: How many rows before it is read a row is asked for, and lines of it: shuffled rows lie anywhere,
#: and the processor by itself looks only a few of them ahead.
ROWS_AHEAD, LINES, LINE_BYTES = 16, 4, 64

#: Types of the user's numbers, by their code in a call, and bytes of each.
SOURCES = ((I8, 1), (ir.FloatType(), 4), (ir.DoubleType(), 8))


def _each_row(
    e: Emitter, call: Call, row_bytes: int, work: Callable[[Size, ir.Value], None]
) -> None:
    """``work(r, source)`` for this thread's rows of the batch, with where they lie in the user's
    array; those that come later are asked for."""
    array, stride, order = call.octets(0), call.size(4), call.order()
    position = e.add(call.first_position(), call.size(2))
    first, last = call.share(call.size(0), 1)
    in_order = e.builder.icmp_unsigned("==", order, ir.Constant(order.type, None))

    def source(r: Size) -> ir.Value:
        place = e.add(position, r)
        (number,) = e.one_of(
            in_order, lambda: [place], lambda: [e.builder.load(e.at(order, place))]
        )
        return e.at(array, e.mul(number, stride))

    def row(r: ir.Value) -> None:
        later = source(e.least(e.add(r, ROWS_AHEAD), e.sub(last, 1)))
        for line in range(min(-(-row_bytes // LINE_BYTES), LINES)):
            e.prefetch(e.at(later, line * LINE_BYTES))
        work(r, source(r))

    e.each(first, last, 1, row)


class _Scaling:
    """x = scale source + offset."""

    def __init__(self, e: Emitter, call: Call) -> None:
        self.e = e
        numbers = (e.builder.load(call.constants(i)) for i in (0, 1))
        self.factors = [e.narrowed(number) for number in numbers]
        self.registers = [e.splat(n) for n in self.factors]

    def _converted(self, x: ir.Value, to: ir.Type) -> ir.Value:
        builder, of = self.e.builder, getattr(x.type, "element", x.type)
        if of == I8:
            return builder.uitofp(x, to)
        if of == self.e.scalar:
            return x
        return builder.fpext(x, to) if self.e.dtype.itemsize == 8 else self.e.narrowed(x)

    def row(self, code: int, source: ir.Value, stride: Size, x: ir.Value, n: Size) -> None:
        """n numbers of one type, so many bytes apart: contiguous ones are read as registers."""
        e, (of, size) = self.e, SOURCES[code]
        vector = ir.VectorType(of, e.lanes)

        def register(i: ir.Value) -> None:
            start = e.builder.bitcast(e.at(source, e.mul(i, size)), vector.as_pointer())
            numbers = self._converted(e.builder.load(start, align=size), e.type)
            e.store(e.fused(numbers, *self.registers), e.at(x, i))

        def one(i: ir.Value) -> None:
            place = e.builder.bitcast(e.at(source, e.mul(i, stride)), of.as_pointer())
            number = self._converted(e.builder.load(place, align=size), e.scalar)
            e.builder.store(e.fused(number, *self.factors), e.at(x, i))

        together = e.select(e.same(stride, size), e.rounded(n, e.lanes), 0)
        e.each(0, together, e.lanes, register)
        e.each(together, n, 1, one)

    def fixed(self, source: ir.Value, x: ir.Value, n: int) -> None:
        """Contiguous numbers of the model's own type, as many as are known."""
        e = self.e
        numbers = e.builder.bitcast(source, x.type)

        def register(at: Size, mask: Any = None) -> None:
            e.store(e.fused(e.load(e.at(numbers, at), mask), *self.registers), e.at(x, at), mask)

        def several(at: ir.Value) -> None:
            for v in range(UNROLLED):
                register(e.add(at, v * e.lanes))

        start = e.rounded(n, UNROLLED * e.lanes)
        e.each(0, start, UNROLLED * e.lanes, several)
        for at in range(start, n, e.lanes):
            register(at, e.mask(n - at) if n - at < e.lanes else None)


def _gather(e: Emitter, call: Call, known: int | None) -> None:
    columns, code, stride, x = known or call.size(1), call.size(3), call.size(5), call.operand(1)
    scaling, own = _Scaling(e, call), 1 if e.dtype.itemsize == 4 else 2

    def row(r: Size, source: ir.Value) -> None:
        to = e.at(x, e.mul(r, columns))

        def any_layout() -> None:
            for i in range(len(SOURCES)):
                with e.builder.if_then(e.same(code, i)):
                    scaling.row(i, source, stride, to, columns)

        if known is None:
            any_layout()
            return
        is_own = e.builder.and_(e.same(code, own), e.same(stride, e.dtype.itemsize))
        with e.builder.if_else(is_own) as (yes, no):
            with yes:
                scaling.fixed(source, to, known)
            with no:
                any_layout()

    _each_row(e, call, (known or 1) * e.dtype.itemsize, row)


def gather(t: Any, columns: int | None = None) -> Callable:
    """The kernel for any number of columns, or for one that is known."""

    def gather(e: Emitter, call: Call) -> None:
        """x[r] = scale source[order[r]] + offset, from uint8, float32 or float64"""
        _gather(e, call, columns)

    return emitted_kernel(t, gather)


def kernels(t: Any) -> dict[str, Callable]:
    """Name -> kernel, of the number type that the names ``t`` are of."""

    def gather_labels(e: Emitter, call: Call) -> None:
        """labels[r] = source[order[r]], both int32"""
        labels = call.integers(1)

        def row(r: Size, source: ir.Value) -> None:
            label = e.builder.load(e.builder.bitcast(source, I32.as_pointer()))
            e.builder.store(label, e.at(labels, r))

        _each_row(e, call, 4, row)

    def store(e: Emitter, call: Call) -> None:
        """out[first + r] = y[r], in the order of the batches"""
        columns, stride = call.size(1), call.size(4)
        y, out = call.operand(0), call.octets(1)
        position = e.add(call.first_position(), call.size(2))
        first, last = call.share(call.size(0), 1)

        def row(r: ir.Value) -> None:
            source = e.at(y, e.mul(r, columns))
            to = e.at(out, e.mul(e.add(position, r), stride))
            to = e.builder.bitcast(to, y.type)
            e.each_register(columns, lambda i, mask: (
                e.store(e.load(e.at(source, i), mask), e.at(to, i), mask)))  # fmt: skip

        e.each(first, last, 1, row)

    return {"gather": gather(t)} | by_name(t, [gather_labels, store])
