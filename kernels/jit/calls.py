"""A call and its step as a kernel reads them, as instructions; kernels that are emitted whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ..aot import executor
from .flow import I64, Flow, Size, constant, value
from .vectors import I8, I32, Emitter, prefer_whole_registers


def _place(builder: ir.IRBuilder, record: np.dtype, name: str, start: ir.Value) -> ir.Value:
    """Address of a field of the record at ``start``, as a pointer to 64-bit integers."""
    fields: Any = record.fields
    at = builder.gep(start, [constant(fields[name][1])])
    return builder.bitcast(at, I64.as_pointer())


def in_call(builder: ir.IRBuilder, name: str, call: ir.Value) -> ir.Value:
    prefer_whole_registers(builder.function)  # every kernel reads its call
    return _place(builder, executor.CALL, name, call)


def in_step(builder: ir.IRBuilder, name: str, call: ir.Value) -> ir.Value:
    step = builder.load(in_call(builder, "step", call))
    return _place(builder, executor.STEP, name, builder.inttoptr(step, call.type))


def share_of(e: Flow, n: Size, unit: Size, thread: Size, threads: Size) -> ir.Value:
    """Where a thread's part of n begins, in whole units."""

    def alone() -> list[Size]:
        return [e.builder.select(e.less(0, thread), value(n), constant(0))]

    def shared() -> list[Size]:
        blocks = e.div(e.sub(e.add(n, unit), 1), unit)
        return [e.least(e.mul(e.div(e.mul(blocks, thread), threads), unit), n)]

    # With one thread, without two divisions.
    return e.one_of(e.same(threads, 1), alone, shared)[0]


class Call:
    """The call of a kernel that is being emitted."""

    def __init__(self, e: Emitter, address: ir.Value, thread: ir.Value, threads: ir.Value) -> None:
        self.e, self._address = e, address
        self.thread = e.builder.sext(thread, I64)
        self.threads = e.builder.sext(threads, I64)

    def _entry(self, name: str, i: int) -> ir.Value:
        return self.e.builder.load(self.e.at(in_call(self.e.builder, name, self._address), i))

    def _doubles(self, at: ir.Value, i: int) -> ir.Value:
        return self.e.at(self.e.builder.bitcast(at, ir.DoubleType().as_pointer()), i)

    def size(self, i: int) -> ir.Value:
        """Number i of its sizes, in the order that the op gives (``kernels/op.py``)."""
        return self._entry("sizes", i)

    def constants(self, i: int = 0) -> ir.Value:
        """The call's doubles, from one on."""
        return self._doubles(in_call(self.e.builder, "constants", self._address), i)

    def given(self, i: int) -> ir.Value:
        """Whether operand i is there."""
        return self.e.builder.icmp_unsigned("!=", self._entry("buffers", i), constant(0))

    def _pointer(self, i: int, of: ir.Type) -> ir.Value:
        return self.e.builder.inttoptr(self._entry("buffers", i), of.as_pointer())

    def operand(self, i: int) -> ir.Value:
        """Operand i as a pointer to numbers of the model's type."""
        return self._pointer(i, self.e.scalar)

    def doubles(self, i: int) -> ir.Value:
        """Operand i as a pointer to doubles."""
        return self._pointer(i, ir.DoubleType())

    def integers(self, i: int) -> ir.Value:
        """Operand i as a pointer to 32-bit integers."""
        return self._pointer(i, I32)

    def octets(self, i: int) -> ir.Value:
        """Operand i as a pointer to octets."""
        return self._pointer(i, I8)

    def _of_step(self, name: str) -> ir.Value:
        return self.e.builder.load(in_step(self.e.builder, name, self._address))

    def scratch(self) -> ir.Value:
        """This thread's working memory."""
        return self.e.builder.inttoptr(self._of_step("scratch"), self.e.scalar.as_pointer())

    def batch_rows(self) -> ir.Value:
        """Rows of the whole batch, over all threads, as a double."""
        return self.e.builder.sitofp(self._of_step("rows"), ir.DoubleType())

    def first_position(self) -> ir.Value:
        """Position of the batch in the epoch."""
        return self._of_step("first")

    def order(self) -> ir.Value:
        """A pointer to the epoch's order of the user's rows; null: as they are."""
        return self.e.builder.inttoptr(self._of_step("order"), I64.as_pointer())

    def rule(self) -> ir.Value:
        """The numbers of the update rule."""
        return self._doubles(in_step(self.e.builder, "rule", self._address), 0)

    def part(self, n: Size, unit: Size, i: Size, parts: Size) -> tuple[ir.Value, ir.Value]:
        """Part i of n, in whole units."""
        of = (self.e, n, unit)
        return share_of(*of, i, parts), share_of(*of, self.e.add(i, 1), parts)

    def share(self, n: Size, unit: Size) -> tuple[ir.Value, ir.Value]:
        """This thread's part of n, in whole units."""
        return self.part(n, unit, self.thread, self.threads)

    def enough(self, n: Size, unit: Size) -> ir.Value:
        """Whether n has a whole unit for each thread."""
        return self.e.builder.not_(self.e.less(n, self.e.mul(self.threads, unit)))

    def if_formula(self, i: int, run: Callable[[Callable[..., None]], None]) -> None:
        """``run(loop)`` where the call has loop i of its formula: ``loop(*arguments)`` calls it."""
        builder, address = self.e.builder, self._entry("formulas", i)

        def loop(*arguments: Size) -> None:
            values = [value(argument) for argument in arguments]
            function = ir.FunctionType(ir.VoidType(), [v.type for v in values])
            builder.call(builder.inttoptr(address, function.as_pointer()), values)

        with builder.if_then(builder.icmp_unsigned("!=", address, constant(0))):
            run(loop)


#: Makes the instructions of a kernel.
Emit: TypeAlias = Callable[[Emitter, Call], None]


def emitted_kernel(t: Any, emit: Emit) -> Callable:
    """A kernel whose instructions ``emit`` makes: Numba sees a single one, which takes it half the
    time that loops and calls in Python take."""

    @intrinsic
    def body(typing_context, call, thread, threads):
        def build(context, builder, signature, arguments):
            e = Emitter(builder, t.R.__name__, t.VLEN)
            emit(e, Call(e, *arguments))
            return context.get_dummy_value()

        return types.void(call, thread, threads), build

    def kernel(call, thread, threads):
        body(call, thread, threads)

    kernel.__name__ = kernel.__qualname__ = emit.__name__
    kernel.__doc__ = emit.__doc__
    return kernel


def by_name(t: Any, emits: Sequence[Emit]) -> dict[str, Callable]:
    """Name -> kernel."""
    return {emit.__name__: emitted_kernel(t, emit) for emit in emits}
