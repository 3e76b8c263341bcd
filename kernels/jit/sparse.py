"""Sums of products over the numbers of a layer's input that are not zero.

Of pixels around a digit, counts of words or categories most are zero, and so is what they add. A
mask of 64 bits says which of 64 numbers are not; a sum goes through its ones in the order in which
a tile goes through all of them, and so of finite numbers is the same to the bit, but for the sign
of a sum that is zero: each thread decides by what it has before it, whether it leaves zeros out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from .flow import I64, Size, constant, known_size, value
from .vectors import Emitter

#: Numbers of a mask, and the mask of all of them.
DEPTH = 64
ALL = (1 << DEPTH) - 1
#: Registers of a row of sums.
WIDE = 8
#: Rows of sums that go through a part of the weights together, and for how many that is copied.
ROWS, COPIES = 128, 16
#: Inputs from which it is worth looking, and up to which there is room for the masks.
INPUTS, MOST_INPUTS = 128, 1 << 14
#: Rows of a batch, at least and at most, for a gradient by the weights.
LEAST, MOST = 16, 512
#: Rows that are looked at, and at most so many percent of whose numbers may be other than zero.
SAMPLE, PERCENT = 4, 40


def worth_looking(e: Emitter, inputs: Size | None, units: Size | None) -> bool:
    """Whether a layer of these sizes, None if not known, may leave zeros out."""
    known = isinstance(inputs, int) and isinstance(units, int)
    return known and INPUTS <= inputs <= MOST_INPUTS and units >= e.lanes  # type: ignore[operator]


def _nonzero(e: Emitter, numbers: ir.Value) -> ir.Value:
    """Which numbers of a register are not zero, as truth values: NaN is not."""
    return e.builder.fcmp_unordered("!=", numbers, e.zero)


def _nonzeros(e: Emitter, p: ir.Value, n: int) -> ir.Value:
    """A bit for each of n numbers, at most DEPTH: whether it is not zero."""
    mask: ir.Value = constant(0)
    for start in range(0, n, e.lanes):
        inside = e.mask(n - start) if n - start < e.lanes else None
        found = _nonzero(e, e.load(e.at(p, start), inside))
        bits = e.builder.zext(e.builder.bitcast(found, ir.IntType(e.lanes)), I64)
        mask = e.builder.or_(mask, e.builder.shl(bits, constant(start)))
    return mask


def mostly_zero(e: Emitter, x: ir.Value, ld: Size, rows: Size, columns: Size) -> ir.Value:
    """Whether few numbers of a few rows of x are not zero, of whole masks of its columns."""
    step, seen = e.most(e.div(rows, SAMPLE), 1), e.least(rows, SAMPLE)
    whole = e.rounded(columns, DEPTH)

    def row(r: ir.Value, found: Sequence[ir.Value]) -> list[ir.Value]:
        line = e.at(x, e.mul(e.mul(r, step), ld))

        def some(j: ir.Value, found: Sequence[ir.Value]) -> list[ir.Value]:
            return [e.builder.add(found[0], e.builder.ctpop(_nonzeros(e, e.at(line, j), DEPTH)))]

        return e.loop(0, whole, DEPTH, found, some)

    (found,) = e.loop(0, seen, 1, [constant(0)], row)
    return e.builder.not_(e.less(e.mul(e.mul(seen, whole), PERCENT), e.mul(found, 100)))


def _each_one(
    e: Emitter,
    mask: ir.Value,
    carried: Sequence[ir.Value],
    body: Callable[[ir.Value, Sequence[ir.Value]], Sequence[ir.Value]],
) -> list[ir.Value]:
    """``body(i, carried)`` for each bit i of the mask that is one, from the lowest on."""

    def one(_: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
        ones, *rest = carried
        i = e.builder.cttz(ones, ir.Constant(ir.IntType(1), 1))
        left = e.builder.and_(ones, e.builder.sub(ones, constant(1)))
        return [left, *body(i, rest)]

    return e.loop(0, e.builder.ctpop(mask), 1, [mask, *carried], one)[1:]


def row_masks(e: Emitter, a: ir.Value, lda: Size, k: int, masks: ir.Value, rows: Size) -> None:
    """For each DEPTH of the first k numbers of some rows, which of them are not zero: the masks of
    the same numbers lie side by side, ROWS of them.

    Rows are read whole, so that they come from the memory in long runs: the sums read a little of
    each.
    """

    def row(r: ir.Value) -> None:
        line = e.at(a, e.mul(r, lda))

        def some(start: Size, count: int) -> None:
            place = e.add(e.mul(e.div(start, DEPTH), ROWS), r)
            e.builder.store(_nonzeros(e, e.at(line, start), count), e.at(masks, place))

        whole = k // DEPTH * DEPTH
        e.each(0, whole, DEPTH, lambda start: some(start, DEPTH))
        if whole < k:
            some(whole, k - whole)

    e.each(0, rows, 1, row)


def add_rows(
    e: Emitter, a: ir.Value, lda: Size, masks: ir.Value, only: int, b: ir.Value, ldb: Size,
    inside: Any, sums: ir.Value, wide: int, rows: Size,
) -> None:  # fmt: skip
    """What DEPTH numbers of each row of a, with a mask for each row, add to the row's sums, which
    lie there without gaps. Of the masks ``only`` some bits count.

    A row of b has so many registers, of whose last the numbers ``inside`` count.
    """

    def row(r: ir.Value) -> None:
        numbers, place = e.at(a, e.mul(r, lda)), e.at(sums, e.mul(r, wide * e.lanes))
        places = [e.at(place, v * e.lanes) for v in range(wide)]

        def one(i: ir.Value, made: Sequence[ir.Value]) -> list[ir.Value]:
            number, line = e.splat(e.builder.load(e.at(numbers, i))), e.at(b, e.mul(i, ldb))
            of_b = [e.at(line, v * e.lanes) for v in range(wide)]
            masks = [None] * (wide - 1) + [inside]
            return [e.fused(number, e.load(of_b[v], masks[v]), made[v]) for v in range(wide)]

        mask = e.builder.load(e.at(masks, r))
        if only != ALL:
            mask = e.builder.and_(mask, constant(only))
        made = _each_one(e, mask, [e.load(p) for p in places], one)
        for p, numbers in zip(places, made, strict=True):
            e.store(numbers, p)

    e.each(0, rows, 1, row)


def chunks(start: Size, end: Size, depth: int) -> list[tuple[Size, Size, int]]:
    """Where the masks from ``start`` to ``end`` begin and stop, and which of their bits count.

    They lie DEPTH numbers apart from the first number on, the last of ``depth``; ends that are not
    known are theirs.
    """
    first, last = known_size(start), known_size(end)
    if first is None or last is None:
        return [(start, end, ALL)]
    found: list[tuple[Size, Size, int]] = []
    whole = -(-first // DEPTH) * DEPTH
    stop = last if last == depth else last // DEPTH * DEPTH
    if first < whole:
        found.append((whole - DEPTH, whole, ALL & ~((1 << first % DEPTH) - 1)))
    if whole < stop:
        found.append((whole, stop, ALL))
    if stop < last:
        found.append((stop, last, (1 << last % DEPTH) - 1))
    return found


def clear(e: Emitter, p: ir.Value, n: Size) -> None:
    """Whole registers of zeros."""
    e.each(0, n, e.lanes, lambda i: e.store(e.zero, e.at(p, i)))


def column_masks(
    e: Emitter, x: ir.Value, ld: Size, rows: Size, columns: Size, masks: ir.Value
) -> None:
    """For each of at most DEPTH columns of x, which of the rows are not zero there: DEPTH masks for
    every DEPTH rows."""
    of_masks = ir.VectorType(I64, e.lanes)
    none = ir.Constant(of_masks, [0] * e.lanes)

    def some(top: ir.Value) -> None:
        start, count = e.at(x, e.mul(top, ld)), e.least(e.sub(rows, top), DEPTH)

        def register(j: ir.Value) -> None:
            inside = e.mask(e.least(e.sub(columns, j), e.lanes))

            def row(r: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
                bit, found = carried
                numbers = e.load(e.at(start, e.add(e.mul(r, ld), j)), inside)
                more = e.builder.select(_nonzero(e, numbers), e.splat(bit), none)
                return [e.builder.shl(bit, constant(1)), e.builder.or_(found, more)]

            _, found = e.loop(0, count, 1, [constant(1), none], row)
            to = e.builder.bitcast(e.at(masks, e.add(top, j)), of_masks.as_pointer())
            e.builder.store(found, to, align=8)

        e.each(0, columns, e.lanes, register)

    e.each(0, rows, DEPTH, some)


def pair_of_columns(
    e: Emitter, x: ir.Value, ld: Size, rows: Size, masks: ir.Value, other: ir.Value, b: ir.Value,
    ldb: Size, wide: int, inside: Any,
) -> list[list[ir.Value]]:  # fmt: skip
    """Two rows of x^T b, so many registers of each: for a column of x, and the one that is
    ``other`` further. They are mostly alike, so that a row of b serves both."""

    def some(top: ir.Value, made: Sequence[ir.Value]) -> list[ir.Value]:
        of_rows = e.at(masks, top)
        mask = e.builder.or_(e.builder.load(of_rows), e.builder.load(e.at(of_rows, other)))

        def one(i: ir.Value, made: Sequence[ir.Value]) -> list[ir.Value]:
            r = e.add(top, i)
            numbers, line = e.at(x, e.mul(r, ld)), e.at(b, e.mul(r, ldb))
            both = [e.splat(e.builder.load(e.at(numbers, n))) for n in (0, other)]
            of_b = [
                e.load(e.at(line, v * e.lanes), inside if v == wide - 1 else None)
                for v in range(wide)
            ]
            return [
                e.fused(number, of_b[v], made[c * wide + v])
                for c, number in enumerate(both)
                for v in range(wide)
            ]

        return _each_one(e, mask, made, one)

    sums = e.loop(0, rows, DEPTH, [e.zero] * (2 * wide), some)
    return [sums[:wide], sums[wide:]]


def each_panel(e: Emitter, columns: int, most: int, work: Callable[[Size, int, Any], None]) -> None:
    """``work(column, registers, inside)`` for panels of at most so many registers: of the last, the
    numbers ``inside`` count."""
    size = most * e.lanes
    whole = columns // size * size
    e.each(0, whole, size, lambda column: work(column, most, None))
    if left := columns - whole:
        work(whole, -(-left // e.lanes), e.mask(left % e.lanes) if left % e.lanes else None)


def either(
    e: Emitter, possible: ir.Value, test: Callable[[], ir.Value], yes: Callable[[], None],
    no: Callable[[], None],
) -> None:  # fmt: skip
    """``yes()`` if the test, where that is possible, holds, else ``no()``."""
    (holds,) = e.one_of(possible, lambda: [e.builder.zext(test(), I64)], lambda: [0])
    with e.builder.if_else(e.same(holds, value(1))) as (there, elsewhere):
        with there:
            yes()
        with elsewhere:
            no()
