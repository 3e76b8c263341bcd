"""The product with a layer's weights, which makes its output and the gradient by its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from llvmlite import ir

from . import FEW_ROWS, products, sparse
from .calls import Call
from .flow import I64, Size, known_size
from .products import Operands
from .vectors import Emitter

#: Bytes of weights up to which they are mostly not packed. Half of them are best read in one piece
#: where the second cache is small: without AVX-512 it mostly has 256 or 512 KiB.
DIRECT_BYTES = 1 << 19
#: Bytes of weights that come from the memory, or a far cache.
FAR_BYTES = 1 << 23
#: Rows of a batch from which weights are packed where theirs lie a multiple of half a page apart
#: (64x64x1024 on Zen 3: 0.82 of the time, 128x256x512: 0.94), and bytes of those that need not be:
#: they have places enough in the first cache.
MANY_ROWS, SMALL_BYTES = 48, 1 << 14
#: Bytes of weights that are packed, or transposed, all at once.
PACKED_BYTES = 1 << 18
#: Registers that fill a packed panel, which stays in the first cache: at most 32 KiB.
PANEL = 512
#: Rows of a panel for sums from a length on.
LONG_DEPTH, FAR_DEPTH = 512, 1024
#: Bytes of a row of weights that are packed together: of a line or two, each would come at the
#: latency of the memory (2048x2048 with AVX2: 0.91 of the time). A whole number of panels.
GROUP = 256
#: Bytes of a row that is worth asking for before it is needed.
LONG_ROW = 2048

#: ``finished(sums, place, column, inside)``: the results of one register from its sums, where
#: ``place`` is its index in C, ``column`` its first column and ``inside`` its mask.
Finished: TypeAlias = Callable[..., ir.Value]

#: First and last row, low and high column.
Region: TypeAlias = "tuple[Size, Size, Size, Size]"


class Way:
    """How C[rows, columns] = f(A B) goes, where B are the weights, or those transposed.

    Columns and depth may be unknown. ``rows`` are only what is usual, and so is how many
    ``threads`` divide them.
    """

    def __init__(
        self,
        e: Emitter,
        columns: int | None,
        depth: int | None,
        rows: int | None,
        threads: int,
        transposed: bool,
    ) -> None:
        self.columns, self.transposed = columns, transposed
        columns, depth, number_bytes = columns or 0, depth or 0, e.dtype.itemsize
        #: Columns of a panel, and how many are packed together.
        self.size = products.panel_registers(e) * e.lanes
        self.group = self.size if transposed else GROUP // number_bytes
        both = columns > 0 and depth > 0
        in_bytes = columns * depth * number_bytes
        # Narrow panels of rows so far apart fall into few cache sets.
        apart = columns * number_bytes % products.HALF_PAGE == 0 and self.size == 2 * e.lanes
        apart &= in_bytes > SMALL_BYTES and (rows or 0) >= MANY_ROWS
        # For few rows they are not worth packing, unless they come from far away for several tiles.
        tile = products.tile_rows(e.registers, products.panel_registers(e))
        most = FEW_ROWS if e.registers == 32 else 2 * tile
        few = 0 < (rows or 0) <= (most if in_bytes <= FAR_BYTES else tile)
        near = both and (few or (in_bytes <= DIRECT_BYTES and not apart))
        #: Whether the weights are read where they are.
        self.direct = depth == 1 or (near and not transposed)
        padded = -(-columns // self.size) * self.size * depth  # whole panels are written
        #: Whether the weights are gone through at once.
        self.simple = self.direct or (both and padded * number_bytes <= PACKED_BYTES)
        # Each thread reads all of the operand whose side is not divided: let that be the smaller.
        by_columns = self.simple and columns >= (rows or columns + 1)
        by_columns &= columns % (threads * self.size) == 0
        #: Parts of the columns, whose width is known.
        self.shares = threads if by_columns else 1
        divided = 1 if by_columns else threads
        #: Rows that a thread usually makes.
        self.expected = -(-rows // divided) if rows else None
        # Weights that would just push each other out of the second cache go by parts of the depth,
        # so that all blocks of rows but the first find them there.
        staying = DIRECT_BYTES if e.registers == 32 else DIRECT_BYTES // 2
        by_parts = self.direct and staying < in_bytes <= DIRECT_BYTES  # whatever the threads
        self.parts = 2 if by_parts and depth > 1 and (rows or 0) > FEW_ROWS else 1
        #: Whether the rows of A come from far away.
        self.ahead = depth * number_bytes >= LONG_ROW
        #: Rows of a panel, which stays in the first cache; of a long sum, C is read too often.
        self.together = PANEL * e.lanes // self.size if depth < FAR_DEPTH else LONG_DEPTH


@dataclass(frozen=True)
class Product:
    """A product that is being emitted; ``packed`` is memory for panels."""

    e: Emitter
    way: Way
    a: ir.Value
    w: ir.Value
    c: ir.Value
    columns: Size
    depth: Size
    packed: ir.Value
    finished: Finished

    def emit(self, call: Call, rows: ir.Value) -> Region:
        """This thread's part, and which it is."""
        e, region = self.e, self._divided(call, rows)
        first, last, low, high = region
        columns, depth = self.way.columns, known_size(self.depth)
        if not sparse.worth_looking(e, depth, columns):
            self._dense(*region)
            return region
        here, count = e.at(self.a, e.mul(first, self.depth)), e.sub(last, first)
        # Few rows are not worth turning the weights for.
        enough = e.less(sparse.TURNS - 1 if self.way.transposed else 0, count)
        room = sparse.room(
            e,
            e.builder.and_(enough, e.less(low, high)),
            sparse.most_percent(e, e.sub(high, low)),
            lambda: sparse.density(e, here, self.depth, count, self.depth),
        )
        sparse.either(
            e,
            e.less(room, 0),
            lambda: self._dense(*region),
            lambda: self._sparse(*region),
        )
        return region

    def _dense(self, first: Size, last: Size, low: Size, high: Size) -> None:
        way = self.way
        if way.shares > 1:
            width = self.e.div(self.columns, way.shares)
            self.e.each(low, high, width, lambda j: self._at_once(first, last, j, width))
        elif way.simple:
            self._at_once(first, last, 0, self.columns)
        else:
            self._by_panels(first, last, low, high)

    def _divided(self, call: Call, rows: ir.Value) -> Region:
        """Columns, where there are enough, for each thread packs what it reads; else rows."""

        def by_columns() -> Region:
            return 0, rows, *call.share(self.columns, unit)

        def by_rows() -> Region:
            return *call.share(rows, 4), 0, self.columns

        way = self.way
        if way.simple and way.shares == 1:
            return by_rows()
        unit = self.e.div(self.columns, way.shares) if way.simple else way.size
        first, last, low, high = self.e.one_of(call.enough(self.columns, unit), by_columns, by_rows)
        return first, last, low, high

    def _places(
        self, made: list[list[ir.Value]], row: Size, column: Size, mask: Any
    ) -> Iterator[tuple[ir.Value, Any, ir.Value, Callable[[ir.Value], ir.Value]]]:
        """Where each register of a tile goes, its mask and sums, and what makes results of them."""
        for r, v, sums, inside in products.registers_of(made, mask):
            here = self.e.add(column, v * self.e.lanes)
            place = self.e.add(self.e.mul(self.e.add(row, r), self.columns), here)
            result = partial(self.finished, place=place, column=here, inside=inside)
            yield self.e.at(self.c, place), inside, sums, result

    # ---------------------------------------------------------------- without zeros

    def _sparse(self, first: Size, last: Size, low: Size, high: Size) -> None:
        """A region, by blocks of rows and panels of columns."""
        e, size = self.e, sparse.WIDE * self.e.lanes
        depth = known_size(self.depth) or 0

        def block(top: ir.Value) -> None:
            rows = e.least(e.sub(last, top), sparse.ROWS)
            a = e.at(self.a, e.mul(top, depth))
            sparse.row_masks(e, a, depth, depth, self._masks, rows)

            def panel(low: Size, wide: int, inside: Any) -> None:
                self._sparse_panel(top, rows, low, wide, inside)

            def one(j: ir.Value) -> None:
                panel(j, 1, e.mask(e.least(e.sub(high, j), e.lanes)))

            if self.way.simple and self.way.shares == 1:  # all columns, which are known
                sparse.each_panel(e, self.way.columns or 0, sparse.WIDE, panel)
            else:
                whole = e.add(low, e.rounded(e.sub(high, low), size))
                e.each(low, whole, size, lambda j: panel(j, sparse.WIDE, None))
                e.each(whole, high, e.lanes, one)

        e.each(first, last, sparse.ROWS, block)

    @property
    def _masks(self) -> ir.Value:
        """Memory for those of a block of rows: behind that for sums and copies."""
        sums = (sparse.ROWS + sparse.DEPTH) * sparse.WIDE * self.e.lanes
        return self.e.builder.bitcast(self.e.at(self.packed, sums), I64.as_pointer())

    def _sparse_panel(self, top: Size, rows: Size, low: Size, wide: int, inside: Any) -> None:
        """Columns of a block of rows, whose sums lie in the scratch memory until all of them are
        there."""
        e, way, size = self.e, self.way, wide * self.e.lanes
        sums, copied = self.packed, e.at(self.packed, sparse.ROWS * sparse.WIDE * e.lanes)
        depth = known_size(self.depth) or 0
        a = e.at(self.a, e.mul(top, depth))
        # Rows so far apart share too few places of the first cache.
        copies = (way.columns or 0) * e.dtype.itemsize % products.HALF_PAGE == 0
        copies &= (way.expected or 0) >= sparse.COPIES
        width = size if inside is None else e.least(e.sub(self.columns, low), size)
        far = (way.columns or 0) * depth * e.dtype.itemsize > sparse.NEAR_BYTES

        def some(k: Size, only: int = sparse.ALL) -> None:
            masks = e.at(self._masks, e.mul(e.div(k, sparse.DEPTH), sparse.ROWS))
            of_w = e.mul(low, depth) if way.transposed else e.mul(k, self.columns)
            of_b = b = e.at(self.w, e.add(of_w, k if way.transposed else low))
            ldb, mask, count = self.columns, inside, sparse.DEPTH
            if depth % sparse.DEPTH:
                count = e.least(e.sub(depth, k), sparse.DEPTH)
            if way.transposed:
                products.transpose(e, b, depth, width, count, copied, size)
            elif copies:
                products.pack_rows(e, b, self.columns, count, width, copied, size)
            if way.transposed or copies:
                of_b, ldb, mask = copied, size, None

            def next_part(r: ir.Value) -> None:
                """A share of what comes next, of which ROWS rows ask for all."""
                if way.transposed:
                    row = e.at(b, e.add(e.mul(e.rem(r, size), depth), sparse.DEPTH))
                    sparse.fetch_row(e, row, sparse.DEPTH)
                else:
                    row = e.mul(e.add(e.rem(r, sparse.DEPTH), sparse.DEPTH), self.columns)
                    half = e.mul(e.div(r, sparse.DEPTH), size // 2)
                    sparse.fetch_row(e, e.at(b, e.add(row, half)), size // 2)

            sparse.add_rows(
                e, e.at(a, k), self.depth, masks, only, of_b, ldb, mask, sums, wide, rows,
                next_part if far else None,
            )  # fmt: skip

        def finish(r: ir.Value, later: ir.Value | None, last: bool | ir.Value) -> None:
            line = e.at(sums, e.mul(r, size))
            made = [[e.load(e.at(line, v * e.lanes)) for v in range(wide)]]
            for to, mask, total, result in self._places(made, e.add(top, r), low, inside):
                if later is not None:
                    known = e.builder.and_(e.splat(later), mask or e.mask(e.lanes))
                    total = e.builder.fadd(e.load(to, known), total)
                if last is not True:
                    e.store(total, to, mask)
                if last is not False:
                    with nullcontext() if last is True else e.builder.if_then(last):
                        e.store(result(total), to, mask)

        def part(start: Size, end: Size, last: bool | ir.Value) -> None:
            """Sums over part of the depth, by themselves, and what C keeps of those before."""
            sparse.clear(e, sums, e.mul(rows, size))
            for k, stop, only in sparse.chunks(start, end, depth):
                e.each(k, stop, sparse.DEPTH, partial(some, only=only))
            later = None if known_size(start) == 0 else e.less(0, start)
            e.each(0, rows, 1, partial(finish, later=later, last=last))

        if way.simple:
            for i in range(way.parts):
                part(depth * i // way.parts, depth * (i + 1) // way.parts, i == way.parts - 1)
            return
        whole = depth // way.together * way.together

        def some_part(k: ir.Value) -> None:
            end = e.add(k, way.together)
            part(k, end, e.same(end, depth) if whole == depth else False)

        e.each(0, whole, way.together, some_part)
        if whole < depth:
            part(whole, depth, True)

    # ---------------------------------------------------------------- all weights at once

    def _at_once(self, first: Size, last: Size, low: Size, width: Size) -> None:
        """So many columns from column low on."""
        e, way, depth = self.e, self.way, self.depth
        b, b_k, wide = e.at(self.w, low), self.columns, 0
        if not way.direct:
            b, b_k, wide = self.packed, way.size, way.size // e.lanes
            if way.transposed:
                start = e.at(self.w, e.mul(low, depth))
                products.transpose(e, start, depth, width, depth, self.packed, way.size)
            else:
                start = e.at(self.w, low)
                products.pack_rows(e, start, self.columns, depth, width, self.packed, way.size)

        def finish(made, row, column, mask, part):
            for to, inside, sums, result in self._places(made, row, e.add(low, column), mask):
                total = e.builder.fadd(e.load(to, inside), sums) if part else sums
                e.store(result(total) if part == way.parts - 1 else total, to, inside)

        for part in range(way.parts):
            start, end = (e.div(e.mul(depth, k), way.parts) for k in (part, part + 1))
            x, y = e.at(self.a, start), e.at(b, e.mul(start, b_k))
            operands = Operands(x, depth, 1, y, b_k, e.sub(end, start), wide, ahead=way.ahead)
            ending = partial(finish, part=part)
            products.multiply(e, operands, first, last, width, ending, way.expected)

    # ---------------------------------------------------------------- by panels

    def _by_panels(self, first: Size, last: Size, low: Size, high: Size) -> None:
        e, way = self.e, self.way

        def group(start: ir.Value) -> None:
            def some(k: ir.Value) -> None:
                part = e.least(e.sub(self.depth, k), way.together)
                self._group(first, last, start, high, k, part)

            e.each(0, self.depth, way.together, some)

        e.each(low, high, way.group, group)

    def _group(self, first: Size, last: Size, start: Size, high: Size, k: Size, part: Size) -> None:
        """Columns that are packed together, from ``start`` on, of part of the depth."""
        e, way = self.e, self.way
        a, width = e.at(self.a, k), e.least(e.sub(high, start), way.group)
        self._pack(start, width, k, part)

        def panel(j: ir.Value) -> None:
            b, left = e.at(self.packed, e.mul(j, part)), e.least(e.sub(width, j), way.size)
            whole = (way.columns or 1) % way.size == 0
            of = Operands(a, self.depth, 1, b, way.size, part)
            self._panel(of, first, last, e.add(start, j), way.size if whole else left, k, part)

        e.each(0, width, way.size, panel)

    def _pack(self, low: Size, width: Size, k: Size, part: Size) -> None:
        """So many columns from column low on, of part of the depth from k on, as panels."""
        e, way, columns = self.e, self.way, self.columns
        if way.transposed:  # by one panel
            if (way.columns or 1) % way.size == 0:
                width = way.size
            start = e.at(self.w, e.add(e.mul(low, self.depth), k))
            products.transpose(e, start, self.depth, width, part, self.packed, way.size)
            return
        start = e.at(self.w, e.add(e.mul(k, columns), low))
        # A whole group has no masks.
        with e.builder.if_else(e.same(width, way.group)) as branches:
            for branch, count in zip(branches, (way.group, width), strict=True):
                with branch:
                    products.pack_rows(e, start, columns, part, count, self.packed, way.size)

    def _panel(
        self, operands: Operands, first: Size, last: Size, low: Size, width: Size, k: Size,
        part: Size,
    ) -> None:  # fmt: skip
        """Part of the depth of the columns of one panel: sums that C keeps between the parts."""
        e = self.e
        depth = known_size(self.depth)
        if depth is not None and known_size(k) == 0 and known_size(part) == depth:
            later = final = None  # it is all of it
        else:
            later = e.splat(e.builder.not_(e.same(k, 0)))
            final = e.same(e.add(k, part), self.depth)

        def finish(made, row, column, mask):
            found = list(self._places(made, row, e.add(low, column), mask))
            if later is None:
                for to, inside, sums, result in found:
                    e.store(result(sums), to, inside)
                return
            totals = []
            for to, inside, sums, _ in found:
                again = later if inside is None else e.builder.and_(later, inside)
                totals.append(e.builder.fadd(e.load(to, again), sums))
            with e.builder.if_else(final) as (yes, no):
                with yes:
                    for (to, inside, _, result), total in zip(found, totals, strict=True):
                        e.store(result(total), to, inside)
                with no:
                    for (to, inside, _, _), total in zip(found, totals, strict=True):
                        e.store(total, to, inside)

        products.multiply(e, operands, first, last, width, finish, self.way.expected)
