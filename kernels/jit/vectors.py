"""Explicit vectors: LLVM instructions on whole registers, and formulas on them.

LLVM's own vectorisation prefers half registers and stays away from a product's inner loop, so the
hot kernels are emitted: Python runs once, on values that are not numbers but registers, and each
operation becomes an instruction. A formula is run just so: its choices become masks.
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .. import source
from ..formula import Formula
from ..source import Source
from . import elementary
from .flow import I64, Flow, Size, known_size

I32, I8, I1 = ir.IntType(32), ir.IntType(8), ir.IntType(1)
CONTRACT = ("contract",)


def prefer_whole_registers(function: ir.Function) -> None:
    """Have LLVM vectorise a function's loops for whole registers, not for halves as it prefers."""
    set.add(function.attributes, '"prefer-vector-width"="512"')  # llvmlite knows no such names


@intrinsic
def whole_registers(typing_context):
    """In a function: vectorise its loops for whole registers."""

    def build(context, builder, signature, arguments):
        prefer_whole_registers(builder.function)
        return context.get_dummy_value()

    return types.void(), build


class NotOnVectors(Exception):
    """A formula has a function that takes one number at a time."""


class Vector:
    """A register of real numbers, of whole ones of the same width, or of truth values."""

    __array_ufunc__ = None  # numbers of NumPy leave arithmetic with vectors to us

    def __init__(self, emitter: Emitter, value: ir.Value) -> None:
        self.emitter, self.value = emitter, value

    @property
    def real(self) -> bool:
        return not isinstance(self.value.type.element, ir.IntType)

    @property
    def truth(self) -> bool:
        return self.value.type.element == I1

    @property
    def number(self) -> Vector:
        """Itself; of truth values ones and zeros, which is what they are in arithmetic."""
        if not self.truth:
            return self
        return Vector(self.emitter, self.emitter.builder.uitofp(self.value, self.emitter.type))

    def _with(self, other: Any, real: str, whole: str, swap: bool = False) -> Vector:
        builder, own = self.emitter.builder, self.number
        sides = [own.value, self.emitter.like(other, own).value]
        if swap:
            sides.reverse()
        made = (
            getattr(builder, real)(*sides, flags=CONTRACT)
            if own.real
            else getattr(builder, whole)(*sides)
        )
        return Vector(self.emitter, made)

    def __add__(self, other: Any) -> Vector:
        return self._with(other, "fadd", "add")

    def __sub__(self, other: Any) -> Vector:
        return self._with(other, "fsub", "sub")

    def __rsub__(self, other: Any) -> Vector:
        return self._with(other, "fsub", "sub", swap=True)

    def __mul__(self, other: Any) -> Vector:
        return self._with(other, "fmul", "mul")

    def __truediv__(self, other: Any) -> Vector:
        return self._with(other, "fdiv", "sdiv")

    def __rtruediv__(self, other: Any) -> Vector:
        return self._with(other, "fdiv", "sdiv", swap=True)

    def __lshift__(self, other: Any) -> Vector:
        return self._with(other, "", "shl")

    def __rshift__(self, other: Any) -> Vector:
        return self._with(other, "", "ashr")

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Vector:
        builder, own = self.emitter.builder, self.number
        made = builder.fneg(own.value) if own.real else builder.neg(own.value)
        return Vector(self.emitter, made)

    def __pos__(self) -> Vector:
        return self

    def __pow__(self, power: Any) -> Vector:
        """Small whole powers are multiplications."""
        if not isinstance(power, (int, float)) or abs(power) not in range(
            1, elementary.LARGEST_POWER + 1
        ):
            raise NotOnVectors("pow")
        product = self.number
        for _ in range(int(abs(power)) - 1):
            product = product * self
        return product if power > 0 else 1.0 / product

    def __rpow__(self, base: Any) -> Vector:
        raise NotOnVectors("pow")

    def _compared(self, other: Any, how: str) -> Vector:
        builder, own = self.emitter.builder, self.number
        sides = own.value, self.emitter.like(other, own).value
        if not own.real:
            return Vector(self.emitter, builder.icmp_signed(how, *sides))
        compare = builder.fcmp_unordered if how == "!=" else builder.fcmp_ordered
        return Vector(self.emitter, compare(how, *sides))

    def __lt__(self, other: Any) -> Vector:
        return self._compared(other, "<")

    def __gt__(self, other: Any) -> Vector:
        return self._compared(other, ">")

    def __le__(self, other: Any) -> Vector:
        return self._compared(other, "<=")

    def __ge__(self, other: Any) -> Vector:
        return self._compared(other, ">=")

    def __eq__(self, other: Any) -> Vector:  # type: ignore[override]
        return self._compared(other, "==")

    def __ne__(self, other: Any) -> Vector:  # type: ignore[override]
        return self._compared(other, "!=")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise NotOnVectors("a choice that is not rewritten")


class Emitter(Flow):
    """Instructions on registers of one number type, and on sizes.

    ``lanes`` is how many numbers a register holds; pointers are to numbers of that type, sizes and
    indices 64-bit integers.
    """

    def __init__(self, builder: ir.IRBuilder, dtype: str, lanes: int) -> None:
        super().__init__(builder)
        self.dtype, self.lanes = np.dtype(dtype), lanes
        double = self.dtype.itemsize == 8
        self.scalar = ir.DoubleType() if double else ir.FloatType()
        self.type = ir.VectorType(self.scalar, lanes)
        self.whole = ir.VectorType(I64 if double else I32, lanes)
        self.zero = ir.Constant(self.type, [0.0] * lanes)
        self.registers = 32 if lanes * self.dtype.itemsize == 64 else 16

    # ---------------------------------------------------------------- values

    def splat(self, number: ir.Value) -> ir.Value:
        """A register full of one number."""
        undefined = ir.Constant(ir.VectorType(number.type, self.lanes), ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(I32, 0))
        everywhere = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, everywhere)

    def number(self, value: float) -> ir.Constant:
        return ir.Constant(self.type, [float(self.dtype.type(value))] * self.lanes)

    def like(self, value: Any, other: Vector) -> Vector:
        """A value as a register of the type of another one."""
        if isinstance(value, Vector):
            return value.number
        if other.real:
            return Vector(self, self.number(value))
        made = ir.Constant(other.value.type, [int(value)] * self.lanes)
        return Vector(self, made)

    def narrowed(self, x: ir.Value) -> ir.Value:
        """A double, or a register of them, as of the model's type."""
        if self.dtype.itemsize == 8:
            return x
        to = self.type if isinstance(x.type, ir.VectorType) else self.scalar
        return self.builder.fptrunc(x, to)

    def fused(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a b + c"""
        product = self.builder.fmul(a, b, flags=CONTRACT)
        return self.builder.fadd(product, c, flags=CONTRACT)

    # ---------------------------------------------------------------- memory

    def load(self, p: ir.Value, mask: ir.Value | None = None) -> ir.Value:
        """A register from memory; numbers outside the mask are zero and not touched."""
        to = self.builder.bitcast(p, self.type.as_pointer())
        if mask is None:
            return self.builder.load(to, align=self.dtype.itemsize)
        function = self._masked("load", self.type, [to.type, I32, mask.type, self.type])
        align = ir.Constant(I32, self.dtype.itemsize)
        return self.builder.call(function, [to, align, mask, self.zero])

    def store(self, value: ir.Value, p: ir.Value, mask: ir.Value | None = None) -> None:
        """A register to memory, or the first numbers of it: those of ``mask(n)``."""
        to = self.builder.bitcast(p, self.type.as_pointer())
        if mask is None:
            self.builder.store(value, to, align=self.dtype.itemsize)
            return
        if self.lanes * self.dtype.itemsize == 64:
            function = self._masked("store", ir.VoidType(), [self.type, to.type, I32, mask.type])
            self.builder.call(function, [value, to, ir.Constant(I32, self.dtype.itemsize), mask])
        else:
            self._store_by_halves(value, p, mask)

    def _store_by_halves(self, value: ir.Value, p: ir.Value, mask: ir.Value) -> None:
        """The first numbers of a register: AVX2's masked stores take 3.7 to 6.5 ns on Zen 3, these
        take 0.8."""
        builder, align = self.builder, self.dtype.itemsize
        known = isinstance(mask, ir.Constant)
        if known:
            count = sum(bit.constant for bit in mask.constant)
        else:
            bits = builder.bitcast(mask, ir.IntType(self.lanes))
            count = builder.zext(builder.ctpop(bits), I32)
        size = self.lanes
        while size:
            places = ir.Constant(ir.VectorType(I32, size), list(range(size)))
            rest = ir.Constant(ir.VectorType(I32, size), list(range(size, 2 * size)))
            left = value  # from here on, of twice the size
            value = builder.shuffle_vector(left, left, places) if size < self.lanes else left
            to = builder.bitcast(p, value.type.as_pointer())
            if known:
                if count & size:
                    builder.store(value, to, align=align)
                    p = self.at(p, size)
                    value = builder.shuffle_vector(left, left, rest) if size < self.lanes else left
            else:
                bit = builder.and_(count, ir.Constant(I32, size))
                there = builder.icmp_signed("!=", bit, ir.Constant(I32, 0))
                with builder.if_then(there):
                    builder.store(value, to, align=align)
                if size < self.lanes:
                    p = builder.select(there, self.at(p, size), p)
                    value = builder.select(there, builder.shuffle_vector(left, left, rest), value)
            size //= 2

    def prefetch(self, p: ir.Value, changed: bool = False) -> None:
        """Bring a line of memory to the second cache, to be read or changed."""
        octets = self.builder.bitcast(p, I8.as_pointer())
        types = [octets.type, I32, I32, I32]
        function = self.function("llvm.prefetch.p0", ir.FunctionType(ir.VoidType(), types))
        self.builder.call(function, [octets, *(ir.Constant(I32, n) for n in (int(changed), 2, 1))])

    def _masked(self, what: str, returns: ir.Type, types: Sequence[ir.Type]) -> ir.Function:
        kind = "f64" if self.dtype.itemsize == 8 else "f32"
        name = f"llvm.masked.{what}.v{self.lanes}{kind}.p0"
        return self.function(name, ir.FunctionType(returns, types))

    def function(self, name: str, type_: ir.FunctionType) -> ir.Function:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, type_, name)

    def mask(self, n: Size) -> ir.Value:
        """The first n numbers of a register."""
        known = known_size(n)
        if known is not None:
            inside = [int(i < known) for i in range(self.lanes)]
            return ir.Constant(ir.VectorType(I1, self.lanes), inside)
        places = ir.Constant(ir.VectorType(I32, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", places, self.splat(self.builder.trunc(n, I32)))

    def sum_of_copies(
        self, p: ir.Value, stride: Size, copies: Size, mask: ir.Value | None
    ) -> ir.Value:
        """The sum, in order, of the registers at p and at so many strides from there on."""

        def add(copy: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            other = self.load(self.at(p, self.mul(copy, stride)), mask)
            return [self.builder.fadd(sums[0], other)]

        return self.loop(1, copies, 1, [self.load(p, mask)], add)[0]

    def each_register(self, n: Size, body: Callable[[ir.Value, ir.Value | None], None]) -> None:
        """``body(i, mask)`` for the registers of n numbers; a whole one's mask is None."""
        whole = self.rounded(n, self.lanes)
        rest = self.sub(n, whole)
        self.each(0, whole, self.lanes, lambda i: body(i, None))
        self.each(whole, n, self.lanes, lambda i: body(i, self.mask(rest)))

    # ---------------------------------------------------------------- what is more than one step

    def sqrt(self, x: ir.Value) -> ir.Value:
        """The square root; on AVX-512 in float32 by Newton's method (see aot/simd.h)."""
        if self.lanes != 16 or self.dtype.itemsize != 4:
            kind = "f64" if self.dtype.itemsize == 8 else "f32"
            function = ir.FunctionType(self.type, [self.type])
            return self.builder.call(self.function(f"llvm.sqrt.v{self.lanes}{kind}", function), [x])
        short = ir.IntType(16)
        function = ir.FunctionType(self.type, [self.type, self.type, short])
        estimate = self.function("llvm.x86.avx512.rsqrt14.ps.512", function)
        inverse = Vector(self, self.builder.call(estimate, [x, self.zero, ir.Constant(short, -1)]))
        of = Vector(self, x)
        root = of * inverse
        better = root + (root * 0.5) * (1.0 - root * inverse)
        # NaN, the zeros and infinity are their own roots.
        bits = ir.VectorType(I1, self.lanes)
        special = self.function(
            "llvm.x86.avx512.fpclass.ps.512", ir.FunctionType(bits, [self.type, I32])
        )
        itself = self.builder.call(special, [x, ir.Constant(I32, 0x0F)])
        return self.builder.select(itself, x, better.value)

    def total(self, x: ir.Value) -> ir.Value:
        """The sum of a register's numbers."""
        kind = "f64" if self.dtype.itemsize == 8 else "f32"
        type_ = ir.FunctionType(self.scalar, [self.scalar, self.type])
        function = self.function(f"llvm.vector.reduce.fadd.v{self.lanes}{kind}", type_)
        zero = ir.Constant(self.scalar, 0.0)
        return self.builder.call(function, [zero, x], fastmath=("reassoc",))

    def apply(self, function: Source, *arguments: ir.Value | None) -> list[ir.Value]:
        """The results of a formula on registers.

        Raises
        ------
        NotOnVectors
            The formula has a function, or a statement, that takes one number at a time.
        """
        made = _rewritten(function, self.dtype.name)
        found = made(*(Vector(self, a) if a is not None else None for a in arguments))
        results = found if isinstance(found, tuple) else (found,)
        like = Vector(self, self.zero)
        return [self.like(result, like).value for result in results]


def emitted(t: Any, emit: Callable[..., None]) -> Any:
    """A function of one tuple of values, whose instructions ``emit(emitter, *values)`` makes."""

    @intrinsic
    def function(typing_context, values):
        def build(context, builder, signature, arguments):
            e = Emitter(builder, t.R.__name__, t.VLEN)
            emit(e, *cgutils.unpack_tuple(builder, arguments[0]))
            return context.get_dummy_value()

        return types.void(values), build

    return function


def parameters_of(e: Emitter, numbers: ir.Value, count: int) -> list[ir.Value]:
    """Doubles as registers full of them."""
    return [e.splat(e.narrowed(e.builder.load(e.at(numbers, i)))) for i in range(count)]


def fits(formula: Formula, part: str, dtype: str) -> bool:
    """Whether a formula, or its derivative, can run on registers."""
    builder = ir.IRBuilder(
        ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "f").append_basic_block()
    )
    e = Emitter(builder, dtype, 4)
    function = source.of(formula, part)
    try:
        results = e.apply(function, *[e.zero] * len(function.tree.args.args))
    except (NotOnVectors, TypeError, ValueError):  # it runs on one number at a time
        return False
    return all(result.type == e.type for result in results)


# ------------------------------------------------------------------ what formulas call


def choose(test: Any, a: Any, b: Any) -> Any:
    """a where the test holds, else b."""
    if not isinstance(test, Vector):
        return a if test else b
    emitter = test.emitter
    if not test.truth:
        test = test != 0.0
    known = next((x.number for x in (a, b) if isinstance(x, Vector)), Vector(emitter, emitter.zero))
    sides = (emitter.like(x, known).value for x in (a, b))
    return Vector(emitter, emitter.builder.select(test.value, *sides))


def _logic(name: str, plain: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``and`` or ``or`` of truth values, some of which may be known already."""

    def function(a: Any, b: Any) -> Any:
        if isinstance(a, Vector) and isinstance(b, Vector):
            if not (a.truth and b.truth):
                raise NotOnVectors("and, or: of numbers")
            return Vector(a.emitter, getattr(a.emitter.builder, name)(a.value, b.value))
        if isinstance(a, Vector):
            a, b = b, a
        return plain(a, b)  # with what is known first, that decides or leaves it to the other

    return function


both = _logic("and_", lambda a, b: a and b)
either = _logic("or_", lambda a, b: a or b)


def negated(a: Any) -> Any:
    if not isinstance(a, Vector):
        return not a
    return Vector(a.emitter, a.emitter.builder.not_(a.value if a.truth else (a != 0.0).value))


def _sqrt(x: Any) -> Any:
    return Vector(x.emitter, x.emitter.sqrt(x.value)) if isinstance(x, Vector) else math.sqrt(x)


def on_registers(e: Emitter) -> dict[str, Any]:
    """Elementary functions of registers of the emitter's number type, by name."""
    return _names(e.dtype.name)


def _refuses(name: str) -> Callable:
    def function(*arguments: Any) -> Any:
        raise NotOnVectors(name)

    return function


@cache
def _rewritten(function: Source, dtype: str) -> Callable:
    """A formula for registers of a number type."""
    if not source.is_expression(function):
        raise NotOnVectors(function.name)
    return source.run(function, source.Functional(), _names(dtype))


@cache
def _names(dtype: str) -> dict[str, Any]:
    """What a formula may call, on registers of a number type."""
    real_type = np.dtype(dtype).type
    whole_type: type = np.int64 if dtype == "float64" else np.int32

    def real(x: Any) -> Any:
        if not isinstance(x, Vector):
            return real_type(x)
        if x.real:
            return x
        return Vector(x.emitter, x.emitter.builder.sitofp(x.value, x.emitter.type))

    def whole(x: Any) -> Any:
        if not isinstance(x, Vector):
            return whole_type(x)
        if x.real:
            raise NotOnVectors("a whole number")
        return x

    def bits_of(x: Vector) -> Vector:
        return Vector(x.emitter, x.emitter.builder.bitcast(x.value, x.emitter.whole))

    def real_of(x: Vector) -> Vector:
        return Vector(x.emitter, x.emitter.builder.bitcast(x.value, x.emitter.type))

    scope = {
        "R": real, "I": whole, "bits_of": bits_of, "real_of": real_of,
        "_choose": choose, "_and": both, "_or": either, "_not": negated,
    }  # fmt: skip

    def rewritten(function: Callable) -> Callable:
        """An elementary function whose choices are calls."""
        try:
            lines, line = inspect.getsourcelines(function)
        except OSError:  # made from text: it chooses nothing
            return function
        tree = ast.parse(textwrap.dedent("".join(lines)))
        definition = tree.body[0]
        assert isinstance(definition, ast.FunctionDef)
        definition.decorator_list = []
        tree = ast.fix_missing_locations(source.Functional().visit(tree))
        ast.increment_lineno(tree, line - 1)
        around = inspect.getclosurevars(function)
        names = {**around.globals, **around.nonlocals, **scope}
        exec(compile(tree, str(inspect.getsourcefile(function)), "exec"), names)
        return names[function.__name__]

    found = elementary.functions(dtype, rewritten)
    one_at_a_time = {name: _refuses(name) for name in elementary.LIBRARY}
    return {**found, **scope, **one_at_a_time, "sqrt": _sqrt}
