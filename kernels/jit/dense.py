"""The dense layer: forward, gradient by its input, gradient by its parameters, and their update.

Made for any sizes, or for those of one layer: then these are constants of the code, the tiles have
the shape that suits them, and the layer's formula runs over a tile while it is in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .. import source
from ..formula import Formula
from . import PACKED_ROWS, by_batch, by_weights, products, update
from .by_weights import Region, Way
from .calls import Call, Emit, by_name
from .flow import Size, value
from .products import Operands
from .vectors import I32, Emitter, parameters_of

#: Bytes of weights and their state from which they are fetched ahead.
FAR_BYTES = 3 << 19
#: Numbers of a gradient that an update rule takes at a time.
BLOCK = 4096
#: Operand at which a rule's state begins, and places of the decay of weights and bias.
STATE, OF_WEIGHTS, OF_BIAS = 4, 0, 2


@dataclass(frozen=True)
class Known:
    """What is known of a call when its kernel is made.

    ``rows`` are only what is usual, and so is how many ``threads`` divide them; but what is summed
    over at most PACKED_ROWS takes no more.

    ``decays`` says whether the update rule comes with a penalty or weight decay, ``masks`` whether
    a mask of dropout multiplies the result while it is in registers, ``rest`` whether a mask or
    formula may be left for after the product.
    """

    rows: int | None = None
    inputs: int | None = None
    units: int | None = None
    formula: Formula | None = None
    decays: bool = True
    masks: bool = False
    threads: int = 1
    rest: bool = True

    def sizes(self, call: Call) -> tuple[ir.Value, Size, Size]:
        """Rows, inputs and units of a call."""
        return call.size(0), self.inputs or call.size(1), self.units or call.size(2)

    def parameters(self, call: Call) -> list[ir.Value]:
        """Those of the activation."""
        count = len(self.formula.parameters) if self.formula is not None else 0
        return parameters_of(call.e, call.constants(), count)

    def inputs_of_a_thread(self) -> int | None:
        return -(-self.inputs // self.threads) if self.inputs else None


def on_vectors(e: Emitter, formula: Formula, part: str, *arguments: Any) -> list[ir.Value]:
    return e.apply(source.of(formula, part), *arguments)


# ------------------------------------------------------------------ forward


def _forward(known: Known, e: Emitter, call: Call, mask: int, y: int, dropped: int) -> None:
    """y = f(x w + b) and, where that is known to be asked, dropped = y mask; operands by number."""
    rows, inputs, units = known.sizes(call)
    x, w = call.operand(0), call.operand(1)
    formula, parameters = known.formula, known.parameters(call)
    of_mask, of_y, of_dropped = call.operand(mask), call.operand(y), call.operand(dropped)
    offsets = _Bias(e, call, 2)

    def finished(sums: ir.Value, place: Size, column: Size, inside: Any) -> ir.Value:
        result = e.builder.fadd(sums, e.load(offsets.at(column), inside))
        if formula is not None:
            (result,) = on_vectors(e, formula, "function", result, *parameters)
        if known.masks:
            kept = e.builder.fmul(result, e.load(e.at(of_mask, place), inside))
            e.store(kept, e.at(of_dropped, place), inside)
        return result

    if known.units == 1:
        offset = e.builder.load(offsets.at(0))

        def one(row: ir.Value) -> None:
            """A scalar product."""
            total = products.dots(e, e.at(x, e.mul(row, inputs)), w, inputs)
            total = e.builder.fadd(total, offset)
            if formula is not None:
                (result,) = on_vectors(e, formula, "function", e.splat(total), *parameters)
                total = e.builder.extract_element(result, ir.Constant(I32, 0))
            e.builder.store(total, e.at(of_y, row))

        region: Region = (*call.share(rows, 4), 0, 1)
        e.each(region[0], region[1], 1, one)
    else:
        way = Way(e, known.units, known.inputs, known.rows, known.threads, transposed=False)
        scratch = call.scratch()
        product = by_weights.Product(e, way, x, w, of_y, units, inputs, scratch, finished)
        region = product.emit(call, rows)

    def rest(start: Size, n: Size) -> None:
        if formula is None:
            _activate(e, call, e.at(of_y, start), n)
        if dropped != y and not known.masks:
            _multiply(e, of_y, of_mask, of_dropped, start, n)

    if known.rest:
        _each_row(e, region, units, rest)


class _Bias:
    """An operand that may be missing: then it is zero."""

    def __init__(self, e: Emitter, call: Call, i: int) -> None:
        self.e, self._given, self._bias = e, call.given(i), call.operand(i)
        zeros = cgutils.alloca_once_value(e.builder, ir.Constant(ir.ArrayType(e.type, 1), None))
        self._zeros = e.builder.bitcast(zeros, self._bias.type)

    def at(self, column: Size) -> ir.Value:
        """Where a register of it lies."""
        return self.e.builder.select(self._given, self.e.at(self._bias, column), self._zeros)


def _each_row(
    e: Emitter, region: Region, columns: Size, work: Callable[[Size, Size], None]
) -> None:
    """``work(start, n)`` for each row of a region: n numbers from index ``start`` on."""
    first, last, low, high = region
    n = e.sub(high, low)
    e.each(first, last, 1, lambda row: work(e.add(e.mul(row, columns), low), n))


def _activate(e: Emitter, call: Call, y: ir.Value, n: Size) -> None:
    """The call's formula, if it has one, over n numbers."""
    call.if_formula(0, lambda loop: loop(y, n, call.constants()))


def _multiply(e: Emitter, x: ir.Value, mask: ir.Value, y: ir.Value, start: Size, n: Size) -> None:
    def register(i: ir.Value, inside: Any) -> None:
        at = e.add(start, i)
        factor = e.load(e.at(mask, at), inside)
        e.store(e.builder.fmul(e.load(e.at(x, at), inside), factor), e.at(y, at), inside)

    e.each_register(n, register)


def forward(known: Known) -> tuple[Emit, ...]:
    """y = f(x w + b), alone or with dropout"""

    def dense(e: Emitter, call: Call) -> None:
        """y[B, O] = f(x[B, I] w[I, O] + b[O])"""
        _forward(known, e, call, mask=3, y=3, dropped=3)

    def dense_dropout(e: Emitter, call: Call) -> None:
        """y[B, O] = f(x[B, I] w[I, O] + b[O]), dropped[B, O] = y mask"""
        _forward(known, e, call, mask=3, y=4, dropped=5)

    return dense, dense_dropout


def parts(known: Known) -> tuple[Emit, ...]:
    """x w as a sum of terms, and f(their sum + b)"""

    def dense_parts(e: Emitter, call: Call) -> None:
        """parts[t, B, O] = x[B, I of t] w[I of t, O], each by one thread"""
        rows, inputs, units = known.sizes(call)
        terms, unit = call.size(3), call.size(4)
        x, w, out = (call.operand(i) for i in range(3))

        def part(term: ir.Value) -> None:
            to = e.at(out, e.mul(term, e.mul(rows, units)))
            first, last = call.part(inputs, unit, term, terms)

            def finish(made, row, column, mask):
                for r, v, sums, inside in products.registers_of(made, mask):
                    place = e.add(e.add(e.mul(e.add(row, r), units), column), v * e.lanes)
                    e.store(sums, e.at(to, place), inside)

            b, k = e.at(w, e.mul(first, units)), e.sub(last, first)
            operands = Operands(e.at(x, first), inputs, 1, b, units, k, ahead=True)
            products.multiply(e, operands, 0, rows, units, finish, known.rows)

        e.each(call.thread, terms, call.threads, part)

    def sum_parts(e: Emitter, call: Call) -> None:
        """y[B, O] = f(sum of parts[t, B, O] + b[O])"""
        rows, units, terms = (call.size(i) for i in range(3))
        given, y, offsets = call.operand(0), call.operand(2), _Bias(e, call, 1)
        stride = e.mul(rows, units)

        def row(start: Size, n: Size) -> None:
            def register(i: ir.Value, inside: Any) -> None:
                place = e.add(start, i)
                total = e.sum_of_copies(e.at(given, place), stride, terms, inside)
                total = e.builder.fadd(total, e.load(offsets.at(i), inside))
                e.store(total, e.at(y, place), inside)

            e.each_register(n, register)
            _activate(e, call, e.at(y, start), n)

        _each_row(e, (*call.share(rows, 1), 0, units), units, row)

    return dense_parts, sum_parts


# ------------------------------------------------------------------ gradient by the input


def input_gradient(known: Known) -> tuple[Emit, ...]:
    """dx = (dz w^T) mask f'(y)"""

    def dense_dx(e: Emitter, call: Call) -> None:
        """dx[B, I] = (dz[B, O] w[I, O]^T) mask f'(y[B, I])"""
        rows, inputs, units = known.sizes(call)
        dz, w, y, mask, dx = (call.operand(i) for i in range(5))
        formula, parameters = known.formula, known.parameters(call)

        def finished(sums: ir.Value, place: Size, column: Size, inside: Any) -> ir.Value:
            if known.masks:
                sums = e.builder.fmul(sums, e.load(e.at(mask, place), inside))
            if formula is not None:
                of_y = e.load(e.at(y, place), inside)
                (slope,) = on_vectors(e, formula, "derivative", None, of_y, *parameters)
                sums = e.builder.fmul(sums, slope)
            return sums

        way = Way(e, known.inputs, known.units, known.rows, known.threads, transposed=True)
        scratch = call.scratch()
        product = by_weights.Product(e, way, dz, w, dx, inputs, units, scratch, finished)
        region = product.emit(call, rows)

        def rest(start: Size, n: Size) -> None:
            if not known.masks:
                with e.builder.if_then(call.given(3)):
                    _multiply(e, dx, mask, dx, start, n)
            if formula is None:
                with e.builder.if_then(call.given(2)):
                    to, of_y = e.at(dx, start), e.at(y, start)
                    call.if_formula(1, lambda loop: loop(to, dx, of_y, n, call.constants()))

        if known.rest:
            _each_row(e, region, inputs, rest)

    return (dense_dx,)


# ------------------------------------------------------------------ gradient by the parameters


def weight_gradient(known: Known) -> tuple[Emit, ...]:
    """dw = x^T dz; db = sum of dz over the batch"""
    # A large batch goes by blocks of rows, which stay in the caches while all of dw is made.
    blocks = (known.rows or PACKED_ROWS + 1) > PACKED_ROWS

    def product(
        e: Emitter, call: Call, x: ir.Value, dz: ir.Value, dw: ir.Value, rows: ir.Value,
        inputs: Size, units: Size,
    ) -> None:  # fmt: skip
        first, last = call.share(inputs, e.lanes)
        scratch = call.scratch()

        packed = by_batch.worth_packing(units, PACKED_ROWS)

        def block(start: ir.Value) -> None:
            later = e.splat(e.builder.not_(e.same(start, 0))) if blocks else None

            def keep(row: Size, column: Size, numbers: ir.Value, mask: Any) -> None:
                to = e.at(dw, e.add(e.mul(row, units), column))
                if blocks:
                    before = later if mask is None else e.builder.and_(later, mask)
                    numbers = e.builder.fadd(e.load(to, before), numbers)
                e.store(numbers, to, mask)

            a, b = e.at(x, e.mul(start, inputs)), e.at(dz, e.mul(start, units))
            count = e.least(e.sub(rows, start), PACKED_ROWS) if blocks else rows
            by_batch.Product(
                e, a, b, count, inputs, units, units, keep, scratch, packed,
                known.inputs_of_a_thread(),
            ).emit(first, last)  # fmt: skip

        if not blocks:
            block(value(0))
        else:  # once at least: of no rows it is zero
            e.each(0, e.most(rows, 1), PACKED_ROWS, block)

    def dense_dw(e: Emitter, call: Call) -> None:
        """dw[I, O] = x[B, I]^T dz[B, O]; db[O] = sum of dz over the batch"""
        rows, inputs, units = known.sizes(call)
        x, dz, dw, db = (call.operand(i) for i in range(4))
        product(e, call, x, dz, dw, rows, inputs, units)
        with e.builder.if_then(call.given(3)):
            start, stop = call.share(units, e.lanes)

            def keep(column: Size, sums: ir.Value, mask: Any) -> None:
                e.store(sums, e.at(db, e.add(start, column)), mask)

            width = e.sub(stop, start)
            products.column_sums(e, e.at(dz, start), units, rows, width, keep)

    def gram(e: Emitter, call: Call) -> None:
        """g = w^T w"""
        rows, units, w = call.size(0), call.size(1), call.operand(0)
        product(e, call, w, w, call.operand(1), rows, units, units)

    return (dense_dw,) if known.units else (dense_dw, gram)


# ------------------------------------------------------------------ update


class _Rule:
    """A rule that is known, on registers."""

    def __init__(self, e: Emitter, call: Call, known: Known, rule: Formula, decay: int) -> None:
        """``decay`` is the place of the penalties among the call's numbers."""
        self.e, self.rule = e, rule
        self.state = [call.operand(STATE + i) for i in range(len(rule.state))]
        count = 1 + len(rule.parameters) + len(rule.constants)
        self.numbers = parameters_of(e, call.rule(), count)
        self.decay = update.Decay(e, call, call.constants(decay)) if known.decays else None

    def places(self, w: ir.Value, position: Size) -> list[ir.Value]:
        """Of the parameter at a position, and of its state."""
        return [self.e.at(p, position) for p in (w, *self.state)]

    def apply(self, w: ir.Value, position: Size, gradient: ir.Value, mask: Any) -> None:
        places = self.places(w, position)
        weight, *before = (self.e.load(p, mask) for p in places)
        if self.decay is not None:
            gradient, weight = self.decay.apply(gradient, weight)
        found = on_vectors(self.e, self.rule, "function", weight, gradient, *before, *self.numbers)
        for new, p in zip(found, places, strict=True):
            self.e.store(new, p, mask)


def _one_by_one(units: int, lanes: int) -> bool:
    """Whether the registers of a gradient are updated as they come; others are a run of numbers
    only together."""
    return units == 1 or units > 4 * lanes or (units > 0 and units % lanes == 0)


def updating(known: Known) -> tuple[Emit, ...]:
    """w, b and their state, updated by x^T dz and sum dz, which are never stored."""
    rule, of_a_layer = known.formula, known.units or 0

    def dense_update(e: Emitter, call: Call) -> None:
        """w, b and their state, updated by their gradients x^T dz and sum dz"""
        rows, inputs, units = known.sizes(call)
        x, dz, w, b = (call.operand(i) for i in range(4))
        gradient = call.scratch()
        memory = e.at(gradient, BLOCK)
        first, end = call.share(inputs, e.lanes)
        # The gradient of a narrow layer, or one that is updated in registers, is made whole.
        in_registers = rule is not None and _one_by_one(of_a_layer, e.lanes)
        whole = in_registers or 0 < of_a_layer <= by_batch.TOGETHER // 2
        packed = whole and by_batch.worth_packing(units, known.rows)

        def product(
            low: Size,
            width: Size,
            keep: by_batch.Keep,
            touched: Callable[[Size, Size], list[ir.Value]] | None = None,
        ) -> by_batch.Product:
            return by_batch.Product(
                e, x, e.at(dz, low), rows, inputs, units, width, keep, memory, packed,
                known.inputs_of_a_thread(), touched,
            )  # fmt: skip

        def at_once(rule: _Rule) -> None:
            def keep(row: Size, column: Size, numbers: ir.Value, mask: Any) -> None:
                rule.apply(w, e.add(e.mul(row, units), column), numbers, mask)

            def touched(row: Size, column: Size) -> list[ir.Value]:
                return rule.places(w, e.add(e.mul(row, units), column))

            numbers = (known.inputs or 0) * of_a_layer * (1 + len(rule.state))
            far = numbers * e.dtype.itemsize > FAR_BYTES
            product(0, units, keep, touched if far else None).emit(first, end)

        def run(of: ir.Value, position: Size, n: Size, decay: int) -> None:
            """The rule over n parameters from a position on, whose gradient is there."""
            if rule is None:
                at, numbers = e.at(of, position), call.constants(decay)
                update.apply_rule(e, call, STATE, position, at, gradient, n, numbers)
                return
            known_rule = _Rule(e, call, known, rule, decay)
            e.each_register(n, lambda i, mask: known_rule.apply(
                of, e.add(position, i), e.load(e.at(gradient, i), mask), mask))  # fmt: skip

        def by_parts() -> None:
            together = e.least(units, BLOCK)
            block = e.most(e.rounded(e.div(BLOCK, together), e.lanes), 1)

            def rows_from(start: ir.Value) -> None:
                stop = e.least(e.add(start, block), end)

                def columns_from(low: ir.Value) -> None:
                    width = units if whole else e.least(together, e.sub(units, low))

                    def keep(row: Size, column: Size, numbers: ir.Value, mask: Any) -> None:
                        place = e.add(e.mul(e.sub(row, start), width), column)
                        e.store(numbers, e.at(gradient, place), mask)

                    product(low, width, keep).emit(start, stop)
                    position = e.add(e.mul(start, units), low)  # whole rows of w, or part of one
                    run(w, position, e.mul(e.sub(stop, start), width), OF_WEIGHTS)

                e.each(0, units, together, columns_from)

            e.each(first, end, block, rows_from)

        def bias() -> None:
            before = e.mul(inputs, units)  # the state of the weights comes first
            of = e.at(b, e.sub(0, before))  # so that a position counts in b as in its state
            if rule is not None:
                known_rule = _Rule(e, call, known, rule, OF_BIAS)
                products.column_sums(e, dz, units, rows, units, lambda column, sums, mask: (
                    known_rule.apply(of, e.add(before, column), sums, mask)))  # fmt: skip
                return

            def some(j: ir.Value) -> None:
                n = e.least(BLOCK, e.sub(units, j))
                products.column_sums(e, e.at(dz, j), units, rows, n, lambda column, sums, mask: (
                    e.store(sums, e.at(gradient, column), mask)))  # fmt: skip
                run(of, e.add(before, j), n, OF_BIAS)

            e.each(0, units, BLOCK, some)

        if rule is not None and in_registers:
            at_once(_Rule(e, call, known, rule, OF_WEIGHTS))
        else:
            by_parts()
        with e.builder.if_then(e.builder.and_(call.given(3), e.same(call.thread, 0))):
            bias()

    return (dense_update,)


def kernels(t: Any, known: Known | None = None) -> dict[str, Callable]:
    """Name -> kernel, for any sizes or for what is known of them."""
    known = known or Known()
    makers = (forward, parts, input_gradient, weight_gradient, updating)
    return by_name(t, [emit for make in makers for emit in make(known)])


__all__ = ["Known", "kernels"]
