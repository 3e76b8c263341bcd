"""The product over the rows of a batch, x^T dz, which makes a gradient by a layer's weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from llvmlite import ir

from . import PACKED_ROWS, products, sparse
from .flow import I64, Size, known_size
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
        e = self.e
        if not sparse.worth_looking(e, self.inputs, self.width):
            self._dense(first, last)
            return
        columns = e.sub(last, first)
        few = e.less(self.rows, sparse.LEAST), e.less(sparse.MOST, self.rows)
        enough = e.builder.not_(e.builder.or_(e.builder.or_(*few), e.less(columns, sparse.DEPTH)))
        sparse.either(
            e,
            enough,
            lambda: sparse.mostly_zero(e, e.at(self.x, first), self.inputs, self.rows, columns),
            lambda: self._sparse(first, last),
            lambda: self._dense(first, last),
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

    def _sparse(self, first: Size, last: Size) -> None:
        """Two rows at a time, made of the numbers of two columns of x that are not zero."""
        e, width = self.e, self.width
        assert isinstance(width, int)
        masks = e.local(I64, sparse.MOST)
        wide = sparse.WIDE // 2
        size = wide * e.lanes
        # Rows so far apart share too few places of the first cache.
        units = known_size(self.units)
        apart = units is not None and units * e.dtype.itemsize % products.HALF_PAGE == 0

        def columns_of(start: Size, width: int) -> None:
            if apart:
                of = e.at(self.dz, start)
                products.pack_rows(e, of, self.units, self.rows, width, self.scratch, size)

            def some(top: ir.Value) -> None:
                columns, x = e.least(e.sub(last, top), sparse.DEPTH), e.at(self.x, top)
                sparse.column_masks(e, x, self.inputs, self.rows, columns, masks)
                work = partial(panel, top, columns, start)
                sparse.each_panel(e, width, wide, work)

            e.each(first, last, sparse.DEPTH, some)

        def panel(
            top: ir.Value, columns: Size, start: Size, column: Size, wide: int, inside: Any
        ) -> None:
            low = e.add(start, column)
            b, ldb = e.at(self.dz, low), self.units
            if apart:
                b, ldb = e.at(self.scratch, e.mul(column, self.rows)), size

            def pair(i: ir.Value) -> None:
                x, of_columns = e.at(self.x, e.add(top, i)), e.at(masks, i)
                there = e.less(e.add(i, 1), columns)
                other = e.select(there, 1, 0)
                made = sparse.pair_of_columns(
                    e, x, self.inputs, self.rows, of_columns, other, b, ldb, wide, inside
                )

                def keep(r: int) -> None:
                    for _, v, sums, mask in products.registers_of(made[r : r + 1], inside):
                        row, column = e.add(e.add(top, i), r), e.add(low, v * e.lanes)
                        self.keep(row, column, sums, mask)

                keep(0)
                with e.builder.if_then(there):
                    keep(1)

            e.each(0, columns, 2, pair)

        whole = width // TOGETHER * TOGETHER
        e.each(0, whole, TOGETHER, lambda start: columns_of(start, TOGETHER))
        if whole < width:
            columns_of(whole, width - whole)

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
