"""Sums of products over the numbers of a matrix that are not zero.

Of pixels around a digit, counts of words or categories most are zero, and so is what they add; of
what leaves a layer of relu, or comes back through it, about half are. A mask of 64 bits says which
of 64 numbers are not; a sum goes through its ones in the order in which a tile goes through all of
them, and so of finite numbers is the same to the bit, but for the sign of a sum that is zero: each
thread decides by what it has before it, whether it leaves zeros out.
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
#: Columns of a matrix from which it is worth looking, and up to which there is room for the masks;
#: of the products in a gradient by the weights.
INPUTS, MOST_INPUTS, OF_BATCH = 128, 1 << 14, 64
#: Rows of sums for which a part of the weights is transposed.
TURNS = 32
#: Rows of a batch, at least and at most, for a gradient by the weights; from which masks are full.
LEAST, MOST, WHOLE = 16, 512, 64
#: Bytes of a row of sums that are added to while a number is found.
FINDING = 96
#: Rows that are looked at, and at most so many percent of whose numbers may be other than zero, by
#: the number of registers; so many less for a gradient by the weights; and for one of few rows.
SAMPLE, PERCENT, LESS, PERCENT_LEAST = 4, {32: 70, 16: 60}, 6, 40
#: Bytes of a matrix that comes from the memory, or a far cache, of which the next part is fetched.
NEAR_BYTES = 1 << 19
LINE_BYTES = 64


def worth_looking(e: Emitter, inputs: Size | None, units: Size | None) -> bool:
    """Whether a product with so many inputs and units, None if not known, may leave zeros out."""
    known = isinstance(inputs, int) and isinstance(units, int)
    if not known or not INPUTS <= inputs <= MOST_INPUTS:  # type: ignore[operator]
        return False
    return known_size(most_percent(e, units)) > 0  # type: ignore[operator]


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


def density(e: Emitter, x: ir.Value, ld: Size, rows: Size, columns: Size) -> ir.Value:
    """Of a hundred numbers of x how many are not zero, in whole masks of a few of its rows."""
    step, seen = e.most(e.div(rows, SAMPLE), 1), e.least(rows, SAMPLE)
    whole = e.rounded(columns, DEPTH)

    def row(r: ir.Value, found: Sequence[ir.Value]) -> list[ir.Value]:
        line = e.at(x, e.mul(e.mul(r, step), ld))

        def some(j: ir.Value, found: Sequence[ir.Value]) -> list[ir.Value]:
            return [e.builder.add(found[0], e.builder.ctpop(_nonzeros(e, e.at(line, j), DEPTH)))]

        return e.loop(0, whole, DEPTH, found, some)

    (found,) = e.loop(0, seen, 1, [constant(0)], row)
    return value(e.div(e.mul(found, 100), e.most(e.mul(seen, whole), 1)))


def most_percent(e: Emitter, columns: Size) -> Size:
    """Of a hundred numbers at most so many may be other than zero, where each row of sums has so
    many columns: below zero for a few, to which to add is less than to find what."""
    finding = e.div(100 * FINDING // e.dtype.itemsize, e.most(columns, 1))
    return e.least(PERCENT[e.registers], e.sub(100, finding))


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


def row_masks(e: Emitter, a: ir.Value, lda: Size, k: Size, masks: ir.Value, rows: Size) -> None:
    """For each DEPTH of the first k numbers of some rows, which of them are not zero: the masks of
    the same numbers lie side by side, ROWS of them. A k that is not known is a multiple of DEPTH.

    Rows are read whole, so that they come from the memory in long runs: the sums read a little of
    each.
    """

    def row(r: ir.Value) -> None:
        line = e.at(a, e.mul(r, lda))

        def some(start: Size, count: int) -> None:
            place = e.add(e.mul(e.div(start, DEPTH), ROWS), r)
            e.builder.store(_nonzeros(e, e.at(line, start), count), e.at(masks, place))

        known = known_size(k)
        left = known % DEPTH if known is not None else 0
        whole = e.sub(k, left)
        e.each(0, whole, DEPTH, lambda start: some(start, DEPTH))
        if left:
            some(whole, left)

    e.each(0, rows, 1, row)


def add_rows(
    e: Emitter, a: ir.Value, lda: Size, masks: ir.Value, only: int, b: ir.Value, ldb: Size,
    inside: Any, sums: ir.Value, wide: int, rows: Size,
    meanwhile: Callable[[ir.Value], None] | None = None,
) -> None:  # fmt: skip
    """What DEPTH numbers of each row of a, with a mask for each row, add to the row's sums, which
    lie there without gaps. Of the masks ``only`` some bits count. Before a row comes
    ``meanwhile(row)``, which may fetch what is needed next.

    A row of b has so many registers, of whose last the numbers ``inside`` count.
    """

    def row(r: ir.Value) -> None:
        numbers, place = e.at(a, e.mul(r, lda)), e.at(sums, e.mul(r, wide * e.lanes))
        places = [e.at(place, v * e.lanes) for v in range(wide)]
        if meanwhile is not None:
            meanwhile(r)

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


def fetch_row(e: Emitter, row: ir.Value, numbers: int) -> None:
    """So many numbers of a row, which are read soon."""
    for first in range(0, numbers, LINE_BYTES // e.dtype.itemsize):
        e.prefetch(e.at(row, first))


def each_panel(e: Emitter, columns: int, most: int, work: Callable[[Size, int, Any], None]) -> None:
    """``work(column, registers, inside)`` for panels of at most so many registers: of the last, the
    numbers ``inside`` count."""
    size = most * e.lanes
    whole = columns // size * size
    e.each(0, whole, size, lambda column: work(column, most, None))
    if left := columns - whole:
        work(whole, -(-left // e.lanes), e.mask(left % e.lanes) if left % e.lanes else None)


def either(e: Emitter, test: ir.Value, yes: Callable[[], None], no: Callable[[], None]) -> None:
    """``yes()`` if the test holds, else ``no()``."""
    with e.builder.if_else(test) as (there, elsewhere):
        with there:
            yes()
        with elsewhere:
            no()


def room(e: Emitter, possible: ir.Value, most: Size, found: Callable[[], ir.Value]) -> ir.Value:
    """By how much of a hundred ``found()`` is less than ``most``: -1 where that is not possible."""
    return e.one_of(possible, lambda: [e.sub(most, found())], lambda: [-1])[0]
