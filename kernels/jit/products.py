"""Matrix products in registers, with sizes, strides and epilogue that are known beforehand.

``C = finish(A B)`` goes by blocks of rows and panels of columns. A tile keeps its part of C in
registers over all of k: at each k, numbers of A are broadcast against a few registers of B. Each
element is summed over k in order whatever the tile, so results depend neither on the number of
threads nor on how a matrix is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from llvmlite import ir

from .flow import Size, known_size
from .vectors import Emitter

#: Bytes between rows whose numbers fall into the same few cache sets, and how many of them have
#: places there at a time.
HALF_PAGE, LOW_ROWS = 2048, 8

#: Called with a tile's registers by row, the rows' number, the first column's, and the mask of the
#: last register (None: whole).
Finish: TypeAlias = Callable[[list[list[ir.Value]], Size, Size, Any], None]


@dataclass(frozen=True)
class Operands:
    """A and B: where they begin and how far apart their numbers are.

    Row i of A at k lies at ``a[i * a_row + k * a_k]``, column j of B at k at ``b[k * b_k + j]``. If
    B is ``packed``, its panels of so many registers lie one behind the other.

    A tile leaves the memory idle, and so fetches what comes next: lines that the next one will
    change, ``written(row, column)`` for each of its registers, or, with ``ahead``, the next rows of
    A, of which each is in one piece.
    """

    a: ir.Value
    a_row: Size
    a_k: Size
    b: ir.Value
    b_k: Size
    k: Size
    packed: int = 0
    written: Callable[[Size, Size], list[ir.Value]] | None = None
    ahead: bool = False


def registers_of(
    made: Sequence[Sequence[ir.Value]], mask: Any
) -> list[tuple[int, int, ir.Value, Any]]:
    """Row and register numbers of a tile, with the values and their masks."""
    return [
        (r, v, x, mask if v == len(row) - 1 else None)
        for r, row in enumerate(made)
        for v, x in enumerate(row)
    ]


def tile_rows(registers: int, wide: int) -> int:
    """Rows of a tile that is so many registers wide: the rest hold B and a number of A."""
    return (registers - 2 - wide) // wide if wide > 1 else registers // 2


def panel_registers(e: Emitter) -> int:
    """Registers of a whole panel."""
    return 4 if e.registers == 32 else 2


def panels_of(e: Emitter, columns: int, packed: int) -> tuple[int, int, list[int]]:
    """Registers of each panel of columns: how many wide panels come first, how wide they are, and
    the rest.

    A few panels are nearly equal; of many, or where they are packed, all but the last are whole.
    """
    most = packed or panel_registers(e)
    needed = -(-columns // e.lanes)
    panels = -(-needed // most)
    if packed or panels > 4:
        whole = columns // (most * e.lanes)
        return whole, most, [needed - whole * most] if needed > whole * most else []
    return 0, 0, sorted(needed * (i + 1) // panels - needed * i // panels for i in range(panels))


def heights(most: int, rows: int | None) -> list[int]:
    """Heights of tiles, each used while as many rows are left.

    The expected rows go in equal parts; the last two are for any other number.
    """
    first, rest = most, 0
    if rows:
        first = -(-rows // -(-rows // most))
        rest = rows % first
    found = {first, rest, *(h for h in (4, 1) if h < first)} - {0}
    return sorted(found, reverse=True)


def tile(
    e: Emitter,
    o: Operands,
    a: ir.Value,
    b: ir.Value,
    rows: int,
    wide: int,
    mask: Any,
    written: Callable[[ir.Value], list[ir.Value]] | None = None,
    ahead: Sequence[ir.Value] = (),
    rare: bool = False,
) -> list[list[ir.Value]]:
    """The registers of one tile; a and b point to its first row and column, ``ahead`` to the rows
    of A that are read next. ``written`` are the lines of each register of the next tile. A tile is
    ``rare`` if most others have another height."""

    def step(_: ir.Value, carried: Sequence[ir.Value]) -> list[ir.Value]:
        a, b, *sums = carried
        of_b = [e.load(e.at(b, v * e.lanes), mask if v == wide - 1 else None) for v in range(wide)]
        made = []
        for r in range(rows):
            number = e.splat(e.builder.load(e.at(a, e.mul(r, o.a_row))))
            made += [e.fused(number, of_b[v], sums[r * wide + v]) for v in range(wide)]
        return [e.at(a, o.a_k), e.at(b, o.b_k), *made]

    carried = [a, b, *[e.zero] * (rows * wide)]
    done: Size = 0
    if written:
        count = rows * wide
        turns = e.div(o.k, count)

        def some(register: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            for line in written(register):
                e.prefetch(line, changed=True)
            return e.loop(0, turns, 1, carried, step, rare)

        carried = e.loop(0, count, 1, carried, some)
        done = e.mul(turns, count)
    elif ahead:
        done = e.rounded(o.k, e.lanes)

        def line_of_k(k: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            for row in ahead:
                e.prefetch(e.at(row, k))
            return e.loop(0, e.lanes, 1, carried, step, rare)

        carried = e.loop(0, done, e.lanes, carried, line_of_k)
    _, _, *sums = e.loop(done, o.k, 1, carried, step, rare)
    return [sums[r * wide : (r + 1) * wide] for r in range(rows)]


def multiply(
    e: Emitter,
    o: Operands,
    first: Size,
    last: Size,
    columns: Size,
    finish: Finish,
    expected: int | None = None,
) -> None:
    """Rows ``first`` to ``last`` of the product; ``expected`` is how many they usually are."""
    known = columns if isinstance(columns, int) else None
    # Rows that lie half a page apart fall into the same few cache sets: asked for ahead, they push
    # out those that are being read (256x2048x10 with AVX2: 1.34 times the time), and so do those of
    # a tall tile themselves.
    apart = isinstance(o.a_row, int) and o.a_row * e.dtype.itemsize % HALF_PAGE == 0
    fetches = o.ahead and not apart
    many, widest, others = (0, 0, [2]) if known is None else panels_of(e, known, o.packed)
    most = tile_rows(e.registers, max([widest, *others]))
    most = min(most, LOW_ROWS) if apart else most
    tallest, *lower = heights(most, expected)

    def panel(
        row: ir.Value, height: int, column: Size, wide: int, mask: Any, last: bool = False
    ) -> None:
        a = e.at(o.a, e.mul(row, o.a_row))
        b = e.at(o.b, e.mul(column, o.k) if o.packed else column)  # column k: whole panels

        def written(register: ir.Value) -> list[ir.Value]:
            # Of the next tile: of the next panel, or of the next rows.
            after = e.add(column, wide * e.lanes)
            more = e.less(after, columns)
            r = e.select(more, row, e.add(row, height))
            c = e.select(more, after, 0)
            v = e.mul(e.rem(register, wide), e.lanes)
            return o.written(e.add(r, e.div(register, wide)), e.add(c, v)) if o.written else []

        ahead = [
            e.at(a, e.mul(height + r, o.a_row)) for r in range(height if last and fetches else 0)
        ]
        changed = written if o.written else None
        made = tile(e, o, a, b, height, wide, mask, changed, ahead, height != tallest)
        finish(made, row, column, mask)

    def block(height: int, row: ir.Value) -> None:
        if known is None:
            _unknown_columns(e, columns, 2, lambda *p: panel(row, height, *p))
            return

        column = many * widest * e.lanes
        if many:
            e.each(0, column, widest * e.lanes, lambda c: panel(row, height, c, widest, None))
        for wide in others:
            inside = min(known - column, wide * e.lanes) % e.lanes
            last = column + wide * e.lanes >= known
            panel(row, height, column, wide, e.mask(inside) if inside else None, last)
            column += wide * e.lanes

    at = first
    for height in (tallest, *lower):
        stop = e.add(at, e.rounded(e.sub(last, at), height)) if height > 1 else last
        e.each(at, stop, height, partial(block, height))
        at = stop


def _unknown_columns(
    e: Emitter, columns: Size, wide: int, panel: Callable[[ir.Value, int, Any], None]
) -> None:
    """Whole panels, then the registers that are left, one at a time."""
    size = wide * e.lanes

    def rest(column: ir.Value) -> None:
        panel(column, 1, e.mask(e.least(e.sub(columns, column), e.lanes)))

    stop = e.rounded(columns, size)
    e.each(0, stop, size, lambda column: panel(column, wide, None))
    e.each(stop, columns, e.lanes, rest)


def dots(e: Emitter, a: ir.Value, b: ir.Value, k: Size) -> ir.Value:
    """The sum of a[i] b[i] over k contiguous numbers."""
    stop = e.rounded(k, e.lanes)

    def step(i: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
        return [e.fused(e.load(e.at(a, i)), e.load(e.at(b, i)), carried[0])]

    (sums,) = e.loop(0, stop, e.lanes, [e.zero], step)
    left = e.sub(k, stop)
    if known_size(left) != 0:
        mask = e.mask(left)
        sums = e.fused(e.load(e.at(a, stop), mask), e.load(e.at(b, stop), mask), sums)
    return e.total(sums)


def turned(e: Emitter, lines: list[ir.Value]) -> list[ir.Value]:
    """As many registers as a register has numbers, transposed.

    Rounds that interleave line j with line j + lanes / 2 transpose a square block.
    """
    n = e.lanes
    low = [lane // 2 + n * (lane % 2) for lane in range(n)]
    halves = [
        ir.Constant(ir.VectorType(ir.IntType(32), n), [lane + n // 2 * up for lane in low])
        for up in (0, 1)
    ]
    for _ in range(n.bit_length() - 1):
        lines = [
            e.builder.shuffle_vector(lines[r], lines[r + n // 2], half)
            for r in range(n // 2)
            for half in halves
        ]
    return lines


def transpose(e: Emitter, source: ir.Value, ld: Size, rows: Size, k: Size, to: ir.Value,
              panel: int) -> None:  # fmt: skip
    """``rows`` rows of source, k numbers of each, as columns of panels of so many, one behind the
    other: to[i * panel + j] = source[j * ld + i] in the first. By square blocks: whole registers
    are written.
    """
    n = e.lanes
    all_there = isinstance(rows, int) and rows % n == 0
    whole = e.rounded(k, n)

    def line(j: ir.Value, r: int) -> ir.Value:
        row = e.add(j, r)
        if not all_there:  # rows that are not there repeat the last one
            row = e.least(row, e.sub(rows, 1))
        return e.at(source, e.mul(row, ld))

    def block(j: ir.Value) -> None:
        lines = [line(j, r) for r in range(n)]
        inside = e.rem(j, panel)
        start = e.add(e.mul(e.sub(j, inside), k), inside)

        def place(i: ir.Value, r: int) -> ir.Value:
            return e.at(to, e.add(start, e.mul(e.add(i, r), panel)))

        def part(i: ir.Value) -> None:
            made = turned(e, [e.load(e.at(p, i)) for p in lines])
            for r, numbers in enumerate(made):
                e.store(numbers, place(i, r))

        def rest(i: ir.Value) -> None:
            count = e.sub(k, i)
            made = turned(e, [e.load(e.at(p, i), e.mask(count)) for p in lines])
            for r, numbers in enumerate(made):
                with e.builder.if_then(e.less(r, count)):
                    e.store(numbers, place(i, r))

        e.each(0, whole, n, part)
        e.each(whole, k, n, rest)

    e.each(0, rows, n, block)


def pack_rows(e: Emitter, source: ir.Value, ld: Size, k: Size, width: Size, to: ir.Value,
              panel: int) -> None:  # fmt: skip
    """k rows of source, ``width`` columns of each, as panels of so many columns one behind the
    other: each row is read in one run."""

    def row(i: ir.Value) -> None:
        start, line = e.at(source, e.mul(i, ld)), e.at(to, e.mul(i, panel))

        def part(j: ir.Value) -> None:
            mask = e.mask(e.least(e.sub(width, j), e.lanes))
            before = e.rounded(j, panel)
            place = e.add(e.mul(before, k), e.sub(j, before))
            e.store(e.load(e.at(start, j), mask), e.at(line, place))

        e.each(0, width, e.lanes, part)

    e.each(0, k, 1, row)


def column_sums(
    e: Emitter,
    b: ir.Value,
    b_k: Size,
    k: Size,
    columns: Size,
    keep: Callable[[Size, ir.Value, Any], None],
) -> None:
    """Sums over k rows of b; ``keep(column, sums, mask)`` takes each register of them.

    Rows go to two sums in turn, which hides the latency of an addition.
    """
    if columns == 1 and b_k == 1:
        total = e.splat(total_of(e, b, k))
        keep(0, total, e.mask(1))
        return

    def group(column: Size, wide: int, mask: Any) -> None:
        def load(row: Size, v: int) -> ir.Value:
            place = e.add(e.add(e.mul(row, b_k), column), v * e.lanes)
            return e.load(e.at(b, place), mask if v == wide - 1 else None)

        def two(row: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            after = e.add(row, 1)
            even = [e.builder.fadd(sums[v], load(row, v)) for v in range(wide)]
            odd = [e.builder.fadd(sums[wide + v], load(after, v)) for v in range(wide)]
            return even + odd

        def one(row: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            return [e.builder.fadd(sums[v], load(row, v)) for v in range(wide)] + sums[wide:]

        pairs = e.rounded(k, 2)
        sums = e.loop(0, pairs, 2, [e.zero] * (2 * wide), two)
        sums = e.loop(pairs, k, 1, sums, one)
        for v in range(wide):
            total = e.builder.fadd(sums[v], sums[wide + v])
            keep(e.add(column, v * e.lanes), total, mask if v == wide - 1 else None)

    if not isinstance(columns, int):
        _unknown_columns(e, columns, 4, group)
        return
    many, widest, others = panels_of(e, columns, 0)
    column = many * widest * e.lanes

    if many:
        e.each(0, column, widest * e.lanes, lambda c: group(c, widest, None))
    for wide in others:
        inside = min(columns - column, wide * e.lanes) % e.lanes
        group(column, wide, e.mask(inside) if inside else None)
        column += wide * e.lanes


def total_of(e: Emitter, x: ir.Value, n: Size) -> ir.Value:
    """The sum of n contiguous numbers."""
    stop = e.rounded(n, e.lanes)

    def step(i: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        return [e.builder.fadd(sums[0], e.load(e.at(x, i)))]

    (sums,) = e.loop(0, stop, e.lanes, [e.zero], step)
    rest = e.load(e.at(x, stop), e.mask(e.sub(n, stop)))
    return e.total(e.builder.fadd(sums, rest))


def strip(e: Emitter, o: Operands, rows: int, columns: Size, finish: Finish) -> None:
    """All of a product of a few rows, which fit into one tile."""
    wide = 2 if 2 * rows + 3 <= e.registers else 1

    def panel(column: Size, count: int, mask: Any) -> None:
        made = tile(e, o, o.a, e.at(o.b, column), rows, count, mask)
        finish(made, 0, column, mask)

    _unknown_columns(e, columns, wide, panel)
