"""The dense layer: forward, gradient by its input, gradient by its parameters, and their update.

Made for any sizes, or for those of one layer: then these are constants of the code, the tiles have
the shape that suits them, and the layer's formula runs over a tile while it is in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .. import source
from ..formula import Formula
from . import FEW_ROWS, PACKED_ROWS, products
from .products import Operands, Size, value
from .update import rule_over
from .vectors import Emitter, Vector, choose, constant, emitted, parameters_of

#: Bytes of weights up to which they are not packed. Half of them are best read in one piece where
#: the second cache is small: without AVX-512 it mostly has 256 or 512 KiB.
DIRECT_BYTES = 1 << 19
#: Bytes of weights that are packed, or transposed, all at once.
PACKED_BYTES = 1 << 18
#: Registers that fill a packed panel, which stays in the first cache: at most 32 KiB.
PANEL = 512
#: Rows of a panel for sums from a length on.
LONG_DEPTH, FAR_DEPTH = 512, 1024
#: Bytes of a row of weights that are packed together: of a line or two, each would come at the
#: latency of the memory (2048x2048 with AVX2: 0.91 of the time). A whole number of panels.
GROUP = 256
#: Columns from which A is copied; a copied row, and how many are copied together.
FAR_COLUMNS, LINE, ROWS = 512, LONG_DEPTH + 16, 256
#: Bytes of weights and their state from which they are fetched ahead.
FAR_BYTES = 3 << 19
#: Columns of an array of weights that are updated together, where they are packed; twice as
#: many in narrow panels where x is copied.
TOGETHER = 512
#: Columns of x that are copied where its rows lie further apart than this many bytes: their numbers
#: would fall into the same few cache sets.
COPIED, PAGE = 96, 2048
#: Numbers of a gradient that an update rule takes at a time; one row may be more.
BLOCK = 4096


@dataclass(frozen=True)
class Known:
    """What is known of a call when its kernel is made.

    ``rows`` are only what is usual, and so is how many ``threads`` divide them.

    ``decays`` says whether the update rule comes with a penalty or weight decay, ``masks`` whether
    a mask of dropout multiplies the result while it is in registers.
    """

    rows: int | None = None
    inputs: int | None = None
    units: int | None = None
    formula: Formula | None = None
    decays: bool = True
    masks: bool = False
    threads: int = 1

    def of_a_thread(self, n: int | None) -> int | None:
        """Its part of n rows."""
        return -(-n // self.threads) if n else None


def on_vectors(e: Emitter, formula: Formula, part: str, *arguments: Any) -> list[ir.Value]:
    return e.apply(source.of(formula, part), *arguments)


def _each(
    e: Emitter, made: Sequence[Sequence[ir.Value]], mask: Any
) -> list[tuple[int, int, ir.Value, Any]]:
    """Row and register numbers of a tile, with the values and their masks."""
    return [
        (r, v, x, mask if v == len(row) - 1 else None)
        for r, row in enumerate(made)
        for v, x in enumerate(row)
    ]


def _place(e: Emitter, row: ir.Value, r: int, ld: Size, column: ir.Value, v: int) -> ir.Value:
    """Index of register v of row + r of a matrix, from a tile's first column on."""
    start = e.builder.mul(e.builder.add(row, constant(r)), value(ld))
    return e.builder.add(e.builder.add(start, column), constant(v * e.lanes))


# ------------------------------------------------------------------ products by weights


@dataclass(frozen=True)
class _Form:
    """C[rows, columns] = f(A B) over a depth, where B are the weights, or those transposed."""

    columns: int | None
    depth: int | None
    transposed: bool


@dataclass(frozen=True)
class _ByWeights:
    """The product with the weights.

    ``made(a, w, c, columns, depth, first, last, low, high, packed, extra)`` makes columns low to
    high of rows first to last, and ``divided(rows, columns, thread, threads)`` says which a thread
    makes.
    """

    made: Any
    divided: Any


def _by_weights(t: Any, known: Known, form: _Form, epilogue: Callable[..., Any]) -> _ByWeights:
    """``epilogue(e, *extra)`` returns ``finished(sums, place, column, mask)``, the results of one
    register from the sums, their index in C and their first column."""
    size = 4 * t.VLEN if t.VECTOR_BYTES == 64 else 2 * t.VLEN
    group = size if form.transposed else GROUP // t.BYTES
    columns_known, depth_known = form.columns or 0, form.depth or 0
    both = columns_known > 0 and depth_known > 0
    numbers = columns_known * depth_known
    direct = depth_known == 1 or (
        not form.transposed and both and numbers * t.BYTES <= DIRECT_BYTES
    )
    padded = -(-columns_known // size) * size * depth_known  # whole panels are written
    simple = direct or (both and padded * t.BYTES <= PACKED_BYTES)
    # Each thread reads all of the operand whose side is not divided: let that be the smaller one.
    by_columns = simple and columns_known >= (known.rows or columns_known + 1)
    by_columns &= columns_known % (known.threads * size) == 0
    shares = known.threads if by_columns else 1
    expected = known.rows if shares > 1 else known.of_a_thread(known.rows)
    # Weights that would just push each other out of the second cache go by parts of the depth, so
    # that all blocks of rows but the first find them there.
    staying = DIRECT_BYTES if t.VECTOR_BYTES == 64 else DIRECT_BYTES // 2
    by_parts = direct and staying < numbers * t.BYTES <= DIRECT_BYTES  # whatever the threads
    parts = 2 if by_parts and depth_known > 1 and (known.rows or 0) > FEW_ROWS else 1
    # Where A does not stay in the second cache, a block of it is read for all columns; its rows are
    # copied, for they lie so far apart that they would fall into few cache sets.
    far = depth_known >= FAR_DEPTH and columns_known > FAR_COLUMNS
    copies = far and (known.rows or ROWS + 1) <= ROWS
    # The rows of A come from far away, and each is worth asking for before it is needed.
    long_rows = depth_known * t.BYTES >= PAGE
    # A panel stays in the first cache; of a long sum, C would be read too often.
    together = PANEL * t.VLEN // size if depth_known < FAR_DEPTH else LONG_DEPTH

    def emit_pack(e, w, columns, depth, low, width, k, part, packed):
        """Columns low to low + width of rows k to k + part, as panels."""
        columns, depth = form.columns or columns, form.depth or depth
        if form.transposed:  # by one panel
            if columns_known and columns_known % size == 0:
                width = size
            start = e.builder.add(e.builder.mul(low, value(depth)), k)
            products.transpose(e, e.at(w, start), depth, width, part, packed, size)
        else:
            start = e.builder.add(e.builder.mul(k, value(columns)), low)
            source = e.at(w, start)
            # A whole group has no masks.
            is_whole = e.builder.icmp_signed("==", width, constant(group))
            with e.builder.if_else(is_whole) as (whole, rest):
                with whole:
                    products.pack_rows(e, source, columns, part, group, packed, size)
                with rest:
                    products.pack_rows(e, source, columns, part, width, packed, size)

    def places(e, c, made, row, column, mask, columns, finished):
        """Where each register of a tile goes, its mask and sums, and what makes results of them."""
        for r, v, sums, inside in _each(e, made, mask):
            place = _place(e, row, r, columns, column, v)
            first = e.builder.add(column, constant(v * e.lanes))
            result = partial(finished, place=place, column=first, inside=inside)
            yield e.at(c, place), inside, sums, result

    def emit_share(e, a, w, c, columns, depth, first, last, low, packed, *extra):
        """A share of the columns, from column low on."""
        columns, depth = form.columns or columns, form.depth or depth
        width = columns // shares if shares > 1 else columns
        b, b_k, wide = e.at(w, low), columns, 0
        if not direct:
            assert form.transposed, "others are direct up to more bytes"
            b, b_k, wide = packed, size, size // e.lanes
            start = e.at(w, e.builder.mul(low, value(depth)))
            products.transpose(e, start, depth, width, depth, packed, size)
        finished = epilogue(e, *extra)

        def finish(made, row, column, mask, part=0):
            column = e.builder.add(low, column)
            found = places(e, c, made, row, column, mask, columns, finished)
            for to, inside, sums, result in found:
                total = e.builder.fadd(e.load(to, inside), sums) if part else sums
                e.store(result(total) if part == parts - 1 else total, to, inside)

        for part in range(parts):
            start, end = depth_known * part // parts, depth_known * (part + 1) // parts
            x, y = e.at(a, constant(start)), e.at(b, value(products.times(e, start, b_k)))
            k = end - start or depth
            operands = Operands(x, depth, 1, y, b_k, k, wide, ahead=long_rows)
            ending = partial(finish, part=part)
            products.multiply(e, operands, first, last, width, ending, expected)

    def emit_copy(e, a, depth, first, last, k, part, to):
        products.copy_rows(e, e.at(a, k), form.depth or depth, first, last, part, to, LINE)

    def emit_panel(e, a, c, columns, depth, first, last, low, width, k, part, packed, *extra):
        columns, depth = form.columns or columns, form.depth or depth
        if columns_known and columns_known % size == 0:
            width = size
        finished = epilogue(e, *extra)
        later = e.splat(e.builder.icmp_signed("!=", k, constant(0)))
        final = e.builder.icmp_signed("==", e.builder.add(k, part), value(depth))

        def finish(made, row, column, mask):
            column = e.builder.add(low, column)
            found = list(places(e, c, made, row, column, mask, columns, finished))
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

        if copies:
            operands = Operands(a, LINE, 1, packed, size, part)
        else:
            operands = Operands(e.at(a, k), depth, 1, packed, size, part)
        products.multiply(e, operands, first, last, width, finish, expected)

    one_share, pack, panel, copy = map(
        partial(emitted, t), (emit_share, emit_pack, emit_panel, emit_copy)
    )
    share, at = t.share, t.at

    def at_once(a, w, c, columns, depth, first, last, low, high, packed, extra):
        one_share((a, w, c, columns, depth, first, last, 0, packed, *extra))

    def in_shares(a, w, c, columns, depth, first, last, low, high, packed, extra):
        while low < high:
            one_share((a, w, c, columns, depth, first, last, low, packed, *extra))
            low += columns // shares

    @t.pasted
    def columns_of(rows, w, c, columns, depth, first, last, low, high, k, part, packed, extra):
        """Columns low to high of rows first to last, of part of the depth."""
        for start in range(low, high, group):
            end = min(start + group, high)
            pack((w, columns, depth, start, end - start, k, part, packed))
            for j in range(start, end, size):
                b, width = at(packed, (j - start) * part), min(size, end - j)
                panel((rows, c, columns, depth, first, last, j, width, k, part, b, *extra))

    def panels_of_copies(a, w, c, columns, depth, first, last, low, high, packed, extra):
        copied = at(packed, LONG_DEPTH * group)
        for top in range(first, last, ROWS):  # once, but for batches larger than is usual
            bottom = min(top + ROWS, last)
            for k in range(0, depth, LONG_DEPTH):
                part = min(LONG_DEPTH, depth - k)
                copy((a, depth, top, bottom, k, part, copied))
                rows = at(copied, -top * LINE)
                columns_of(
                    rows, w, c, columns, depth, top, bottom, low, high, k, part, packed, extra
                )

    def panels(a, w, c, columns, depth, first, last, low, high, packed, extra):
        for start in range(low, high, group):
            end = min(start + group, high)
            for k in range(0, depth, together):
                part = min(together, depth - k)
                columns_of(a, w, c, columns, depth, first, last, start, end, k, part, packed, extra)

    def divided(rows, columns, thread, threads):
        """First and last row, low and high column: columns, where there are enough, for each thread
        packs what it reads."""
        unit = columns // shares if simple else size
        if columns >= threads * unit:
            low, high = (
                share(columns, unit, thread, threads),
                share(columns, unit, thread + 1, threads),
            )
            return 0, rows, low, high
        return share(rows, 4, thread, threads), share(rows, 4, thread + 1, threads), 0, columns

    in_one_piece = at_once if shares == 1 else in_shares
    made = in_one_piece if simple else panels_of_copies if copies else panels
    return _ByWeights(t.pasted(made), t.pasted(divided))


# ------------------------------------------------------------------ forward


def forward(t: Any, known: Known) -> dict[str, Callable]:
    """y = f(x w + b), alone or with dropout"""
    rule = known.formula
    inlined = rule is not None

    def epilogue(e, bias, mask, dropped, numbers):
        zeros = cgutils.alloca_once_value(e.builder, ir.Constant(ir.ArrayType(e.type, 1), None))
        zeros = e.builder.bitcast(zeros, bias.type)
        no_bias = cgutils.is_null(e.builder, bias)
        parameters = parameters_of(e, numbers, len(rule.parameters)) if rule is not None else []

        def finished(sums, place, column, inside):
            start = e.builder.select(no_bias, zeros, e.at(bias, column))
            result = e.builder.fadd(sums, e.load(start, inside))
            if rule is not None:
                (result,) = on_vectors(e, rule, "function", result, *parameters)
            if known.masks:
                kept = e.builder.fmul(result, e.load(e.at(mask, place), inside))
                e.store(kept, e.at(dropped, place), inside)
            return result

        return finished

    def emit_one(e, x, w, bias, y, first, last, numbers):
        """One unit: a scalar product for each row."""
        zero = cgutils.alloca_once_value(e.builder, ir.Constant(e.scalar, 0.0))
        start = e.builder.select(cgutils.is_null(e.builder, bias), zero, bias)
        start = e.builder.load(start)

        def body(row, _):
            at = e.at(x, e.builder.mul(row, constant(known.inputs)))
            total = e.builder.fadd(products.dots(e, at, w, known.inputs), start)
            if rule is not None:
                parameters = parameters_of(e, numbers, len(rule.parameters))
                (result,) = on_vectors(e, rule, "function", e.splat(total), *parameters)
                total = e.builder.extract_element(result, constant(0))
            e.builder.store(total, e.at(y, row))
            return []

        e.loop(first, last, 1, [], body)

    by = _by_weights(t, known, _Form(known.units, known.inputs, transposed=False), epilogue)
    by_weights, divided = by.made, by.divided
    scalar_products = emitted(t, emit_one)
    one_unit = known.units == 1
    constants, formula, reals, scratch, sizes = (
        t.constants, t.formula, t.reals, t.scratch, t.sizes
    )  # fmt: skip
    at, run_activation = t.at, t.run_activation

    multiply, masked = _multiply(t), known.masks

    def product(call, mask, y, dropped, thread, threads):
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        x, w, bias = reals(call, 0), reals(call, 1), reals(call, 2)
        first, last, low, high = divided(rows, units, thread, threads)
        if one_unit:
            scalar_products((x, w, bias, y, first, last, constants(call)))
        else:
            extra = (bias, mask, dropped, constants(call))
            by_weights(x, w, y, units, inputs, first, last, low, high, scratch(call), extra)
        if not inlined and formula(call, 0) != 0:
            for r in range(first, last):
                part = at(y, r * units + low)
                run_activation(formula(call, 0), (part, high - low, constants(call)))
        return first, last, low, high

    product = t.pasted(product)

    def dense(call, thread, threads):
        """y[B, O] = f(x[B, I] w[I, O] + b[O])"""
        product(call, reals(call, 3), reals(call, 3), reals(call, 3), thread, threads)

    def dense_dropout(call, thread, threads):
        """y[B, O] = f(x[B, I] w[I, O] + b[O]), dropped[B, O] = y mask"""
        mask, y, dropped = reals(call, 3), reals(call, 4), reals(call, 5)
        first, last, low, high = product(call, mask, y, dropped, thread, threads)
        if not masked:
            for r in range(first, last):
                place = r * sizes(call)[2] + low
                multiply(at(y, place), at(mask, place), at(dropped, place), high - low)

    return {"dense": dense, "dense_dropout": dense_dropout}


def _multiply(t: Any) -> Callable:
    @t.in_place_too
    def multiply(x, mask, y, n):
        for i in range(n):
            y[i] = x[i] * mask[i]

    return multiply


def parts(t: Any, known: Known) -> dict[str, Callable]:
    """x w as a sum of terms, and f(their sum + b)"""

    def emit(e, x, w, out, rows, inputs, units, first, last):
        inputs, units = known.inputs or inputs, known.units or units

        def finish(made, row, column, mask):
            for r, v, sums, inside in _each(e, made, mask):
                e.store(sums, e.at(out, _place(e, row, r, units, column, v)), inside)

        b = e.at(w, e.builder.mul(first, value(units)))
        k = e.builder.sub(last, first)
        operands = Operands(e.at(x, first), inputs, 1, b, units, k, ahead=True)
        products.multiply(e, operands, constant(0), rows, units, finish, known.rows)

    product = emitted(t, emit)
    at, constants, copy, formula, given, reals, share, sizes = (
        t.at, t.constants, t.copy, t.formula, t.given, t.reals, t.share, t.sizes
    )  # fmt: skip
    run_activation = t.run_activation

    def dense_parts(call, thread, threads):
        """parts[t, B, O] = x[B, I of t] w[I of t, O], each by one thread"""
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        terms, unit, term = sizes(call)[3], sizes(call)[4], thread
        while term < terms:  # a range of variable step could raise
            to = at(reals(call, 2), term * rows * units)
            first, last = share(inputs, unit, term, terms), share(inputs, unit, term + 1, terms)
            product((reals(call, 0), reals(call, 1), to, rows, inputs, units, first, last))
            term += threads

    @t.in_place_too
    def add(x, y, n):
        for i in range(n):
            y[i] += x[i]

    def sum_parts(call, thread, threads):
        """y[B, O] = f(sum of parts[t, B, O] + b[O])"""
        rows, units, terms = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
            y = at(reals(call, 2), r * units)
            copy(at(reals(call, 0), r * units), y, units)
            for term in range(1, terms):
                add(at(reals(call, 0), (term * rows + r) * units), y, units)
            if given(call, 1):
                add(reals(call, 1), y, units)
            if formula(call, 0) != 0:
                run_activation(formula(call, 0), (y, units, constants(call)))

    return {"dense_parts": dense_parts, "sum_parts": sum_parts}


# ------------------------------------------------------------------ gradient by the input


def input_gradient(t: Any, known: Known) -> dict[str, Callable]:
    """dx = (dz w^T) mask f'(y)"""
    rule = known.formula
    inlined = rule is not None

    def epilogue(e, y, mask, numbers):
        parameters = parameters_of(e, numbers, len(rule.parameters)) if rule is not None else []

        def finished(sums, place, column, inside):
            if known.masks:
                sums = e.builder.fmul(sums, e.load(e.at(mask, place), inside))
            if rule is not None:
                of_y = e.load(e.at(y, place), inside)
                (slope,) = on_vectors(e, rule, "derivative", None, of_y, *parameters)
                sums = e.builder.fmul(sums, slope)
            return sums

        return finished

    by = _by_weights(t, known, _Form(known.inputs, known.units, transposed=True), epilogue)
    by_weights, divided = by.made, by.divided
    constants, formula, given, reals, scratch, sizes = (
        t.constants, t.formula, t.given, t.reals, t.scratch, t.sizes
    )  # fmt: skip
    at, run_activation_grad = t.at, t.run_activation_grad
    multiply, masked = _multiply(t), known.masks

    def dense_dx(call, thread, threads):
        """dx[B, I] = (dz[B, O] w[I, O]^T) mask f'(y[B, I])"""
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        dz, w, y, mask, dx = (
            reals(call, 0), reals(call, 1), reals(call, 2), reals(call, 3), reals(call, 4)
        )  # fmt: skip
        first, last, low, high = divided(rows, inputs, thread, threads)
        extra = (y, mask, constants(call))
        by_weights(dz, w, dx, inputs, units, first, last, low, high, scratch(call), extra)
        for r in range(first, last):
            place = r * inputs + low
            if not masked and given(call, 3):
                multiply(at(dx, place), at(mask, place), at(dx, place), high - low)
            if not inlined and formula(call, 1) != 0 and given(call, 2):
                run_activation_grad(
                    formula(call, 1), (at(dx, place), dx, at(y, place), high - low, constants(call))
                )

    return {"dense_dx": dense_dx}


# ------------------------------------------------------------------ gradient by the parameters


def _weight_product(
    e: Emitter,
    known: Known,
    values: tuple[Any, ...],
    keep: Callable[[ir.Value, ir.Value, ir.Value, Any], None],
    scratch: ir.Value,
    touched: Callable[[ir.Value, ir.Value], list[ir.Value]] | None = None,
) -> None:
    """Rows first to last of x^T dz; ``keep(row, column, numbers, mask)`` takes each register.

    ``width`` is how many of its columns are made, from where ``dz`` points on: a number if that is
    all of them, and then ``dz`` may be packed. ``touched(row, column)`` are the lines of memory
    that ``keep`` will change.
    """
    x, dz, rows, inputs, units, first, last, width = values
    inputs, units = known.inputs or inputs, known.units or units
    if _few(e.lanes, known):
        _of_few_units(e, (x, dz, rows, inputs, units, first, last), keep)
        return

    def rows_of(a, a_k, top, bottom, expected, b, b_k, low, width, packed):
        """Rows top to bottom, columns low to low + width."""

        def finish(made, row, column, mask):
            for r, v, total, inside in _each(e, made, mask):
                at = e.builder.add(e.builder.add(column, low), constant(v * e.lanes))
                keep(e.builder.add(row, constant(r)), at, total, inside)

        def written(row, column):
            return touched(row, e.builder.add(column, low)) if touched else []

        operands = Operands(a, 1, a_k, b, b_k, rows, packed, written if touched else None)
        products.multiply(e, operands, top, bottom, width, finish, expected)

    if not (isinstance(width, int) and _packs(known)):
        expected = known.of_a_thread(known.inputs)
        rows_of(x, inputs, first, last, expected, dz, units, constant(0), width, 0)
        return
    wide = products.panel_registers(e)
    size = wide * e.lanes
    copies = inputs * e.dtype.itemsize >= PAGE
    # A narrow panel mostly stays in the first cache for all rows of a block; where panels are wide,
    # a tile's rows of x do, and the panels pass by from the second.
    narrow = copies and wide == 2
    most = 2 * TOGETHER if narrow else TOGETHER
    copied = e.at(scratch, most * PACKED_ROWS)

    def columns_of(low: ir.Value, width: int) -> None:
        products.pack_rows(e, e.at(dz, low), units, rows, width, scratch, size)
        if not copies:
            expected = known.of_a_thread(known.inputs)
            rows_of(x, inputs, first, last, expected, scratch, size, low, width, wide)
            return

        def some(top: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            count = e.least(e.builder.sub(last, top), constant(COPIED))
            products.pack_rows(e, e.at(x, top), inputs, rows, count, copied, COPIED)
            a = e.at(copied, e.builder.neg(top))
            bottom = e.builder.add(top, count)

            def panels(j: ir.Value, count: int) -> None:
                b = e.at(scratch, e.builder.mul(j, rows))
                start = e.builder.add(low, j)
                rows_of(a, COPIED, top, bottom, COPIED, b, size, start, count, wide)

            def panel(j: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                panels(j, size)
                return []

            alone = width // size * size if narrow else 0
            if alone:
                e.loop(constant(0), constant(alone), size, [], panel)
            if alone < width:
                panels(constant(alone), width - alone)
            return []

        e.loop(first, last, COPIED, [], some)

    def together(low: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        columns_of(low, most)
        return []

    whole = units // most * most
    if whole:
        e.loop(constant(0), constant(whole), most, [], together)
    if whole < units:
        columns_of(constant(whole), units - whole)


def _of_few_units(
    e: Emitter, values: tuple[Any, ...], keep: Callable[[ir.Value, ir.Value, ir.Value, Any], None]
) -> None:
    """The tile takes the units as its rows and the inputs as its columns, for then its registers
    are full; the result is transposed on its way out."""
    x, dz, rows, inputs, units, first, last = values

    def finish(made, _, column, mask):
        for v in range(len(made[0])):
            start = e.builder.add(e.builder.add(column, constant(v * e.lanes)), first)
            lines = [row[v] for row in made]
            if units == 1:
                keep(start, constant(0), lines[0], mask if v == len(made[0]) - 1 else None)
                continue
            count = e.builder.sub(last, start)
            lines += [e.zero] * (e.lanes - len(lines))
            for i, line in enumerate(products.turned(e, lines)):
                with e.builder.if_then(e.builder.icmp_signed("<", constant(i), count)):
                    keep(e.builder.add(start, constant(i)), constant(0), line, e.mask(units))

    operands = Operands(dz, 1, units, e.at(x, first), inputs, rows)
    products.strip(e, operands, units, e.builder.sub(last, first), finish)


def _packs(known: Known) -> bool:
    """Whether dz is copied to panels: its rows lie far apart, and fall into few cache sets."""
    return (known.units or 0) > TOGETHER // 2 and (known.rows or PACKED_ROWS + 1) <= PACKED_ROWS


def _few(lanes: int, known: Known) -> bool:
    return known.units is not None and known.units < lanes


def _emit_column_sums(e, dz, units, rows, columns, to):
    def keep(column, sums, mask):
        e.store(sums, e.at(to, column), mask)

    products.column_sums(e, dz, units, rows, columns, keep)


def weight_gradient(t: Any, known: Known) -> dict[str, Callable]:
    """dw = x^T dz; db = sum of dz over the batch"""
    # A large batch goes by blocks of rows, which stay in the caches while all of dw is made.
    blocks = (known.rows or PACKED_ROWS + 1) > PACKED_ROWS
    of_a_block = replace(known, rows=PACKED_ROWS) if known.rows else known

    def emit(e, x, dz, dw, start, rows, inputs, units, first, last, packed):
        later = e.splat(e.builder.icmp_signed("!=", start, constant(0)))

        def keep(row, column, numbers, mask):
            place = e.builder.add(e.builder.mul(row, value(known.units or units)), column)
            if blocks:
                before = later if mask is None else e.builder.and_(later, mask)
                numbers = e.builder.fadd(e.load(e.at(dw, place), before), numbers)
            e.store(numbers, e.at(dw, place), mask)

        values = (x, dz, rows, inputs, units, first, last, known.units or units)
        _weight_product(e, of_a_block, values, keep, packed)

    block, column_sums = emitted(t, emit), emitted(t, _emit_column_sums)
    at, given, reals, scratch, share, sizes, VLEN = (
        t.at, t.given, t.reals, t.scratch, t.share, t.sizes, t.VLEN
    )  # fmt: skip

    @t.pasted
    def product(x, dz, dw, rows, inputs, units, first, last, packed):
        for start in range(0, max(rows, 1), PACKED_ROWS):
            a, b, count = at(x, start * inputs), at(dz, start * units), rows - start
            count = min(count, PACKED_ROWS)
            block((a, b, dw, start, count, inputs, units, first, last, packed))

    def dense_dw(call, thread, threads):
        """dw[I, O] = x[B, I]^T dz[B, O]; db[O] = sum of dz over the batch"""
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        x, dz, dw, db = reals(call, 0), reals(call, 1), reals(call, 2), reals(call, 3)
        first, last = share(inputs, VLEN, thread, threads), share(inputs, VLEN, thread + 1, threads)
        product(x, dz, dw, rows, inputs, units, first, last, scratch(call))
        if given(call, 3):
            j0, j1 = share(units, VLEN, thread, threads), share(units, VLEN, thread + 1, threads)
            column_sums((at(dz, j0), units, rows, j1 - j0, at(db, j0)))

    def gram(call, thread, threads):
        """g = w^T w"""
        rows, units = sizes(call)[0], sizes(call)[1]
        w, g = reals(call, 0), reals(call, 1)
        first, last = share(units, VLEN, thread, threads), share(units, VLEN, thread + 1, threads)
        product(w, w, g, rows, units, units, first, last, scratch(call))

    return {"dense_dw": dense_dw} if known.units else {"dense_dw": dense_dw, "gram": gram}


# ------------------------------------------------------------------ update


def update(t: Any, known: Known) -> dict[str, Callable]:
    """w, b and their state, updated by x^T dz and sum dz, which are never stored."""
    rule = known.formula
    states = len(rule.state) if rule is not None else 4
    count = 1 + len(rule.parameters) + len(rule.constants) if rule is not None else 0
    # Whole registers are updated as they come; others are a run of numbers only together.
    units = known.units or 0
    in_registers = rule is not None and (
        units == 1 or units > 4 * t.VLEN or (units > 0 and units % t.VLEN == 0)
    )
    numbers_touched = (known.inputs or 0) * units * (1 + states)
    far = in_registers and numbers_touched * t.BYTES > FAR_BYTES

    def numbers_of(e, numbers, decay, kept):
        """What the rule needs beside its arrays, as registers."""
        parameters = parameters_of(e, numbers, count)
        if not known.decays:
            return parameters, None
        l2, l1 = parameters_of(e, decay, 2)
        if e.dtype.itemsize == 4:
            kept = e.builder.fptrunc(kept, e.scalar)
        return parameters, (l2, l1, e.splat(kept))

    def apply(e, gradient, w, state, place, mask, numbers):
        parameters, decay = numbers
        places = [e.at(p, place) for p in (w, *state[:states])]
        weight, *before = (e.load(p, mask) for p in places)
        if decay is not None:
            gradient, weight = _decayed(e, gradient, weight, *decay)
        found = on_vectors(e, rule, "function", weight, gradient, *before, *parameters)
        for new, p in zip(found, places, strict=True):
            e.store(new, p, mask)

    def emit(e, x, dz, w, s0, s1, s2, s3, rows, inputs, units, first, last, width, numbers, decay,
             kept, out, packed):  # fmt: skip
        """Rows first to last of the gradient, into ``out`` or straight into the parameters."""
        state = (s0, s1, s2, s3)
        if in_registers:
            made = numbers_of(e, numbers, decay, kept)

        def keep(row, column, gradient, mask):
            if in_registers:
                place = e.builder.add(e.builder.mul(row, constant(known.units)), column)
                apply(e, gradient, w, state, place, mask, made)
            else:
                row = e.builder.mul(e.builder.sub(row, first), width)
                e.store(gradient, e.at(out, e.builder.add(row, column)), mask)

        def touched(row, column):
            place = e.builder.add(e.builder.mul(row, constant(known.units)), column)
            return [e.at(p, place) for p in (w, *state[:states])]

        # The gradient of a narrow layer is always made whole; that of a wide one, for a rule that
        # is not on registers, in parts, which are not worth packing.
        whole = in_registers or 0 < (known.units or 0) <= TOGETHER // 2
        values = (x, dz, rows, inputs, units, first, last, known.units if whole else width)
        _weight_product(e, known, values, keep, packed, touched if far else None)

    def emit_rule(e, g, w, s0, s1, s2, s3, at, n, numbers, decay, kept):
        """The rule over n parameters from position ``at`` on."""
        made = numbers_of(e, numbers, decay, kept)
        whole = e.builder.mul(e.builder.sdiv(n, constant(e.lanes)), constant(e.lanes))

        def part(mask):
            def body(i, _):
                gradient = e.load(e.at(g, i), mask)
                apply(e, gradient, w, (s0, s1, s2, s3), e.builder.add(at, i), mask, made)
                return []

            return body

        e.loop(constant(0), whole, e.lanes, [], part(None))
        e.loop(whole, n, e.lanes, [], part(e.mask(e.builder.sub(n, whole))))

    def emit_bias(e, dz, w, s0, s1, s2, s3, rows, units, ahead, numbers, decay, kept):
        """The bias, whose state follows that of the weights."""
        made, units = numbers_of(e, numbers, decay, kept), known.units or units

        def keep(column, gradient, mask):
            place = e.builder.add(ahead, column)
            apply(e, gradient, w, (s0, s1, s2, s3), place, mask, made)

        products.column_sums(e, dz, units, rows, units, keep)

    product, run_rule, update_bias, column_sums = map(
        partial(emitted, t), (emit, emit_rule, emit_bias, _emit_column_sums)
    )
    at, constants, given, reals, scratch, share, sizes, VLEN = (
        t.at, t.constants, t.given, t.reals, t.scratch, t.share, t.sizes, t.VLEN
    )  # fmt: skip
    apply_rule, kept, rule_numbers = rule_over(t, 4), t.kept, t.rule
    inlined = rule is not None

    def dense_update(call, thread, threads):
        """w, b and their state, updated by their gradients x^T dz and sum dz"""
        rows, inputs, units = sizes(call)[0], sizes(call)[1], sizes(call)[2]
        x, dz, w, b = reals(call, 0), reals(call, 1), reals(call, 2), reals(call, 3)
        gradient = scratch(call)
        packed = at(gradient, BLOCK)
        first, end = share(inputs, VLEN, thread, threads), share(inputs, VLEN, thread + 1, threads)
        together = units if in_registers else min(units, BLOCK)
        block = end - first if in_registers else max(BLOCK // together // VLEN * VLEN, 1)
        while first < end:
            last = min(first + block, end)
            low = 0
            while low < units:
                width = min(together, units - low)
                product(
                    (x, at(dz, low), w, reals(call, 4), reals(call, 5), reals(call, 6),
                     reals(call, 7), rows, inputs, units, first, last, width, rule_numbers(call),
                     at(constants(call), 4), kept(call), gradient, packed)
                )  # fmt: skip
                if not in_registers:  # whole rows of w, or a part of one
                    n, place = (last - first) * width, first * units + low
                    if inlined:
                        run_rule(
                            (gradient, w, reals(call, 4), reals(call, 5), reals(call, 6),
                             reals(call, 7), place, n, rule_numbers(call), at(constants(call), 4),
                             kept(call))
                        )  # fmt: skip
                    else:
                        apply_rule(call, place, at(w, place), gradient, n, at(constants(call), 4))
                low += width
            first = last
        if not given(call, 3) or thread != 0:
            return
        ahead = inputs * units
        if inlined:
            update_bias(
                (dz, at(b, -ahead), reals(call, 4), reals(call, 5), reals(call, 6), reals(call, 7),
                 rows, units, ahead, rule_numbers(call), at(constants(call), 6), kept(call))
            )  # fmt: skip
            return
        for j in range(0, units, BLOCK):
            n = min(BLOCK, units - j)
            column_sums((at(dz, j), units, rows, n, gradient))
            apply_rule(call, ahead + j, at(b, j), gradient, n, at(constants(call), 6))

    return {"dense_update": dense_update}


def _decayed(
    e: Emitter, gradient: ir.Value, weight: ir.Value, l2: ir.Value, l1: ir.Value, kept: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """The gradient with that of the penalties, and the weight that decay leaves."""
    w, of_l1 = Vector(e, weight), Vector(e, l1)
    signed = choose(w > 0.0, of_l1, choose(w < 0.0, -of_l1, w))
    gradient = e.builder.fadd(e.fused(l2, weight, gradient), signed.value)
    return gradient, e.builder.fmul(weight, kept)


def kernels(t: Any, known: Known | None = None) -> dict[str, Callable]:
    """Name -> kernel, for any sizes or for what is known of them."""
    known = known or Known()
    makers = (forward, parts, input_gradient, weight_gradient, update)
    return {name: kernel for make in makers for name, kernel in make(t, known).items()}


__all__ = ["Known", "kernels"]
