"""The product over the rows of a batch, x^T dz, which makes a gradient by a layer's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from llvmlite import ir

from . import PACKED_ROWS, products, sparse
from .flow import I64, Size, known_size, value
from .products import Operands
from .vectors import Emitter

#: Columns of an array of weights that are made together, where dz is packed; twice as many in
#: narrow panels where x is copied.
TOGETHER = 512
#: Columns of x that are copied where its rows lie half a page apart, or further.
COPIED = 96

#: ``keep(row, column, numbers, mask)`` takes each register of the product.
Keep: TypeAlias = "Callable[[Size, Size, ir.Value, Any], None]"


@dataclass(frozen=True)
class Product:
    """Rows of x^T dz; ``scratch`` is memory for panels and copies.

    ``width`` is how many of its columns are made, from where ``dz`` points on; where that is known,
    ``dz`` may be ``packed``. ``usual`` are the rows that a thread usually makes.
    ``touched(row, column)`` are the lines of memory that ``keep`` will change.
    """

    e: Emitter
    x: ir.Value
    dz: ir.Value
    rows: Size
    inputs: Size
    units: Size
    width: Size
    keep: Keep
    scratch: ir.Value
    packed: bool
    usual: int | None
    touched: Callable[[Size, Size], list[ir.Value]] | None = None

    def emit(self, first: Size, last: Size) -> None:
        """Rows first to last."""
        e, width = self.e, self.width
        if not sparse.worth_looking(e, self.inputs, width) or not isinstance(width, int):
            self._dense(first, last)
            return
        columns, of_dz = e.sub(last, first), value(-1)
        outside = e.builder.or_(e.less(self.rows, sparse.LEAST), e.less(sparse.MOST, self.rows))
        outside = e.builder.or_(outside, e.less(columns, sparse.OF_BATCH))
        inside, few = e.builder.not_(outside), e.less(self.rows, sparse.WHOLE)
        x = e.at(self.x, first)
        most = e.sub(sparse.most_percent(e, width), sparse.LESS)
        of_x = sparse.room(
            e,
            inside,
            e.select(few, e.least(most, sparse.PERCENT_LEAST), most),
            lambda: sparse.density(e, x, self.inputs, self.rows, columns),
        )
        if width >= sparse.OF_BATCH:
            of_dz = sparse.room(
                e,
                e.builder.and_(inside, e.builder.not_(few)),
                e.sub(sparse.most_percent(e, columns), sparse.LESS),
                lambda: sparse.density(e, self.dz, self.units, self.rows, width),
            )

        def without_zeros() -> None:
            if width < sparse.OF_BATCH:
                self._sparse(True, first, last)
                return
            sparse.either(
                e,
                e.less(of_x, of_dz),
                lambda: self._sparse(False, first, last),
                lambda: self._sparse(True, first, last),
            )

        sparse.either(
            e,
            e.less(e.most(of_x, of_dz), 0),
            lambda: self._dense(first, last),
            without_zeros,
        )

    def _dense(self, first: Size, last: Size) -> None:
        if isinstance(self.units, int) and self.units < self.e.lanes:
            self._of_few_units(self.units, first, last)
        elif self.packed and isinstance(self.width, int):
            with self.e.builder.if_then(self.e.less(first, last)):
                self._by_panels(self.width, first, last)
        else:
            b = (self.dz, self.units)
            self._tiles(self.x, self.inputs, first, last, self.usual, b, 0, self.width, 0)

    def _sparse(self, of_x: bool, first: Size, last: Size) -> None:
        """The product without the zeros of x, or of dz.

        Some columns at a time of that factor are turned: they are rows of a product with the other.
        If it is dz, its result is turned back.
        """
        e, lanes, width = self.e, self.e.lanes, self.width
        assert isinstance(width, int)
        zeros, ld, other, ldb = self.x, self.inputs, self.dz, self.units
        low, high, start, end = first, last, 0, width
        if not of_x:
            zeros, ld, other, ldb = other, ldb, zeros, ld
            low, high, start, end = start, end, low, high
        most = sparse.WIDE * lanes
        copied = self.scratch
        sums = e.at(copied, sparse.DEPTH * most)
        turned = e.at(sums, sparse.ROWS * most)
        left = e.at(turned, sparse.ROWS * most)
        masks = e.at(left, sparse.ROWS * (sparse.MOST + lanes))
        masks = e.builder.bitcast(masks, I64.as_pointer())
        depth = e.rounded(e.add(self.rows, sparse.DEPTH - 1), sparse.DEPTH)
        ld_left = e.add(depth, lanes)  # not a page
        known = known_size(ldb) or 0
        # Rows so far apart share too few places of the first cache.
        apart = known * e.dtype.itemsize % products.HALF_PAGE == 0
        far = known * sparse.ROWS * e.dtype.itemsize > sparse.NEAR_BYTES

        def block(top: ir.Value) -> None:
            count = e.least(e.sub(high, top), sparse.ROWS)
            products.transpose(e, e.at(zeros, top), ld, self.rows, count, left, ld_left)

            def fill(r: ir.Value) -> None:
                row = e.at(left, e.mul(r, ld_left))
                zero = ir.Constant(e.scalar, 0)
                e.each(self.rows, depth, 1, lambda i: e.builder.store(zero, e.at(row, i)) and None)

            e.each(0, count, 1, fill)
            sparse.row_masks(e, left, ld_left, depth, masks, count)

            def panel(column: Size, wide: int, inside: Any) -> None:
                self._sums_of(
                    of_x, left, ld_left, masks, count, e.at(other, column), ldb, sums, copied,
                    wide, inside, apart, far, top, column,
                )  # fmt: skip
                if of_x:
                    keep_rows(top, count, column, wide, inside)
                else:
                    keep_columns(top, count, column, wide)

            if of_x:
                sparse.each_panel(e, width, sparse.WIDE, panel)
                return
            column = start
            for wide in (8, 4, 2):
                stop = e.add(column, e.rounded(e.sub(end, column), wide * lanes))
                e.each(column, stop, wide * lanes, partial(panel, wide=wide, inside=None))
                column = stop
            e.each(column, end, lanes, lambda j: panel(j, 1, e.mask(e.least(e.sub(end, j), lanes))))

        def keep_rows(top: Size, count: Size, column: Size, wide: int, inside: Any) -> None:
            def row(r: ir.Value) -> None:
                line = e.at(sums, e.mul(r, wide * lanes))
                for v in range(wide):
                    mask = inside if v == wide - 1 else None
                    numbers = e.load(e.at(line, v * lanes))
                    self.keep(e.add(top, r), e.add(column, v * lanes), numbers, mask)

            e.each(0, count, 1, row)

        def keep_columns(top: Size, count: Size, column: Size, wide: int) -> None:
            size = wide * lanes
            products.transpose(e, sums, size, count, size, turned, sparse.ROWS)

            def row(i: ir.Value) -> None:
                line = e.at(turned, e.mul(i, sparse.ROWS))
                e.each_register(count, lambda j, mask: self.keep(
                    e.add(column, i), e.add(top, j), e.load(e.at(line, j)), mask))  # fmt: skip

            e.each(0, e.least(e.sub(end, column), size), 1, row)

        e.each(low, high, sparse.ROWS, block)

    def _sums_of(
        self, of_x: bool, left: ir.Value, ld_left: Size, masks: ir.Value, count: Size,
        other: ir.Value, ldb: Size, sums: ir.Value, copied: ir.Value, wide: int, inside: Any,
        apart: bool, far: bool, top: Size, column: Size,
    ) -> None:  # fmt: skip
        """A panel of sums over the batch, while the lines that ``keep`` will change are fetched."""
        e, size, touched = self.e, wide * self.e.lanes, self.touched

        def some(k: ir.Value) -> None:
            b = of_b = e.at(other, e.mul(k, ldb))
            step, mask = ldb, inside
            if apart:
                part = e.least(e.sub(self.rows, k), sparse.DEPTH)
                numbers = size if inside is None else e.least(e.sub(ldb, column), size)
                products.pack_rows(e, b, ldb, part, numbers, copied, size)
                of_b, step, mask = copied, size, None

            def meanwhile(r: ir.Value) -> None:
                if touched is not None:
                    with e.builder.if_then(e.same(k, 0)):
                        row, first = (top, column) if of_x else (column, top)
                        for v in range(wide if of_x else sparse.WIDE):
                            for line in touched(e.add(row, r), e.add(first, v * e.lanes)):
                                e.prefetch(line, changed=True)
                if far:
                    with e.builder.if_then(e.less(e.add(k, sparse.DEPTH), self.rows)):
                        row = e.mul(e.add(e.rem(r, sparse.DEPTH), sparse.DEPTH), ldb)
                        half = e.mul(e.div(r, sparse.DEPTH), size // 2)
                        sparse.fetch_row(e, e.at(b, e.add(row, half)), size // 2)

            of_masks = e.at(masks, e.mul(e.div(k, sparse.DEPTH), sparse.ROWS))
            sparse.add_rows(
                e, e.at(left, k), ld_left, of_masks, sparse.ALL, of_b, step, mask, sums, wide,
                count, meanwhile if touched is not None or far else None,
            )  # fmt: skip

        sparse.clear(e, sums, e.mul(count, size))
        e.each(0, self.rows, sparse.DEPTH, some)

    def _tiles(
        self,
        a: ir.Value,
        a_k: Size,
        top: Size,
        bottom: Size,
        expected: int | None,
        b: tuple[ir.Value, Size],
        low: Size,
        width: Size,
        packed: int,
    ) -> None:
        """Rows top to bottom, columns low to low + width."""
        e, touched = self.e, self.touched

        def finish(made, row, column, mask):
            for r, v, total, inside in products.registers_of(made, mask):
                self.keep(e.add(row, r), e.add(e.add(column, low), v * e.lanes), total, inside)

        def written(row: Size, column: Size) -> list[ir.Value]:
            return touched(row, e.add(column, low)) if touched else []

        operands = Operands(a, 1, a_k, *b, self.rows, packed, written if touched else None)
        products.multiply(e, operands, top, bottom, width, finish, expected)

    def _by_panels(self, units: int, first: Size, last: Size) -> None:
        """dz is packed, and x is copied where its rows are long."""
        e, scratch = self.e, self.scratch
        wide = products.panel_registers(e)
        size = wide * e.lanes
        copies = (
            isinstance(self.inputs, int) and self.inputs * e.dtype.itemsize >= products.HALF_PAGE
        )
        # A narrow panel mostly stays in the first cache for all rows of a block; where panels are
        # wide, a tile's rows of x do, and the panels pass by from the second.
        narrow = copies and wide == 2
        most = 2 * TOGETHER if narrow else TOGETHER
        copied = e.at(scratch, most * PACKED_ROWS)

        def columns_of(low: Size, width: int) -> None:
            of = e.at(self.dz, low)
            products.pack_rows(e, of, self.units, self.rows, width, scratch, size)
            if not copies:
                b = (scratch, size)
                self._tiles(self.x, self.inputs, first, last, self.usual, b, low, width, wide)
                return

            def some(top: ir.Value) -> None:
                count = e.least(e.sub(last, top), COPIED)
                start = e.at(self.x, top)
                products.pack_rows(e, start, self.inputs, self.rows, count, copied, COPIED)
                a, bottom = e.at(copied, e.sub(0, top)), e.add(top, count)

                def panels(j: Size, count: int) -> None:
                    b = (e.at(scratch, e.mul(j, self.rows)), size)
                    self._tiles(a, COPIED, top, bottom, COPIED, b, e.add(low, j), count, wide)

                alone = width // size * size if narrow else 0
                e.each(0, alone, size, lambda j: panels(j, size))
                if alone < width:
                    panels(alone, width - alone)

            e.each(first, last, COPIED, some)

        whole = units // most * most
        e.each(0, whole, most, lambda low: columns_of(low, most))
        if whole < units:
            columns_of(whole, units - whole)

    def _of_few_units(self, units: int, first: Size, last: Size) -> None:
        """The tile takes the units as its rows and the inputs as its columns, for then its
        registers are full; the result is transposed on its way out."""
        e = self.e

        def finish(made, _, column, mask):
            for v in range(len(made[0])):
                start = e.add(e.add(column, v * e.lanes), first)
                lines = [row[v] for row in made]
                if units == 1:
                    self.keep(start, 0, lines[0], mask if v == len(made[0]) - 1 else None)
                    continue
                count = e.sub(last, start)
                lines += [e.zero] * (e.lanes - len(lines))
                for i, line in enumerate(products.turned(e, lines)):
                    with e.builder.if_then(e.less(i, count)):
                        self.keep(e.add(start, i), 0, line, e.mask(units))

        operands = Operands(self.dz, 1, units, e.at(self.x, first), self.inputs, self.rows)
        products.strip(e, operands, units, e.sub(last, first), finish)


def worth_packing(units: Size, batch: int | None) -> bool:
    """Whether dz is best copied to panels, for a batch of at most so many rows: its own lie far
    apart, and fall into few cache sets."""
    few_rows = batch is not None and batch <= PACKED_ROWS
    return few_rows and isinstance(units, int) and units > TOGETHER // 2
