"""What kernels are written with: the fields of a call, pointers, and functions of one number type.

A kernel is a Python function of ``(call, thread, threads)``, compiled to ``aot/abi.h``'s type.
Pointers are read and written as in C: ``x[i]`` checks nothing and never counts from the end. A
literal ``1.0`` is a double: one of the model's own number type is ``R(1.0)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import compiled, elementary
from .calls import in_call, in_step, share_of
from .flow import Flow
from .vectors import whole_registers  # noqa: F401

OPTIONS = elementary.OPTIONS

#: The type of every kernel: of a call, the number of this thread, and how many there are.
KERNEL = types.void(types.voidptr, types.int32, types.int32)

#: Numbers that a kernel works on while they stay in the first cache.
CHUNK = 1024

inline = elementary.jit


def pasted(function: Callable) -> Callable:
    """A function that is a part of its kernel before that is compiled.

    For long ones with few callers: what is ``inline`` is compiled by itself too.
    """
    return numba.njit(inline="always", **OPTIONS)(function)


def pointer(type_: Any) -> Any:
    return types.CPointer(type_)


# ------------------------------------------------------------------ calls and steps


def _field(name: str, type_: Any, place: Callable = in_call) -> Any:
    """``field(call)``: a pointer to a field of a call, or of its step."""

    @intrinsic
    def field(typing_context, call):
        def build(context, builder, signature, arguments):
            at = place(builder, name, arguments[0])
            return builder.bitcast(at, context.get_value_type(signature.return_type))

        return pointer(type_)(types.voidptr), build

    return field


def _step_field(name: str, type_: Any) -> Any:
    return _field(name, type_, in_step)


def _entry(name: str, type_: Any, convert: Callable) -> Any:
    """``entry(call, i)``: address i in a field of a call, as ``convert`` makes it."""

    @intrinsic
    def entry(typing_context, call, i):
        def build(context, builder, signature, arguments):
            at = builder.gep(in_call(builder, name, arguments[0]), [arguments[1]])
            to = context.get_value_type(signature.return_type)
            return convert(builder, builder.load(at), to)

        return type_(types.voidptr, types.int64), build

    return entry


sizes = _field("sizes", types.int64)
constants = _field("constants", types.float64)
#: Address of the loop of the call's formula (0) or of its companion (1); 0 where none is.
formula = _entry("formulas", types.uintp, lambda builder, value, to: value)
#: Whether operand i is there.
given = _entry("buffers", types.boolean, lambda builder, value, to: builder.icmp_unsigned(
    "!=", value, ir.Constant(value.type, 0)))  # fmt: skip

_number = _step_field("step", types.int64)
_rows = _step_field("rows", types.int64)
_seed = _step_field("seed", types.uint64)
#: The learning rate, at index 0; the numbers of the update rule.
rate = _step_field("rate", types.float64)
rule = _step_field("rule", types.float64)


@inline
def step_number(call):
    """Updates done before this one."""
    return _number(call)[0]


@inline
def batch_rows(call):
    """Rows of the whole batch, over all threads."""
    return _rows(call)[0]


@inline
def seed(call):
    return _seed(call)[0]


def _operand(type_: Any) -> Any:
    """``operand(call, i)``: operand i as a pointer to numbers of a type."""
    return _entry("buffers", pointer(type_), ir.IRBuilder.inttoptr)


doubles = _operand(types.float64)
labels = _operand(types.int32)


# ------------------------------------------------------------------ pointers and memory


@intrinsic
def at(typing_context, p, n):
    """The pointer n numbers further."""

    def build(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return p(p, types.int64), build


@intrinsic
def address(typing_context, p):
    """A pointer as a number."""

    def build(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], context.get_value_type(types.uintp))

    return types.uintp(p), build


def _local(type_: Any) -> Any:
    """``local(n)``: n numbers of this call's own; n must be a constant."""

    @intrinsic(prefer_literal=True)
    def local(typing_context, n):
        if not isinstance(n, types.IntegerLiteral):
            return None

        def build(context, builder, signature, arguments):
            of = context.get_value_type(type_)
            size = ir.Constant(ir.IntType(64), n.literal_value)
            with builder.goto_entry_block():
                made = builder.alloca(of, size)
            made.align = 64
            return made

        return pointer(type_)(n), build

    return local


local_doubles = _local(types.float64)
local_words = _local(types.uint32)


def _caller(returns: Any, *expected: Any) -> Any:
    """``call(address, ...)``: call the C function at an address."""
    to = returns(*expected)

    @intrinsic
    def call(typing_context, address, arguments):
        def build(context, builder, signature, values):
            llvm_types = [context.get_value_type(t) for t in expected]
            back = context.get_value_type(returns) if returns != types.void else ir.VoidType()
            function = ir.FunctionType(back, llvm_types).as_pointer()
            unpacked = cgutils.unpack_tuple(builder, values[1])
            result = builder.call(builder.inttoptr(values[0], function), unpacked)
            return result if returns != types.void else context.get_dummy_value()

        return to.return_type(types.uintp, types.Tuple(expected)), build

    return call


def in_place_too(work: Callable) -> Callable:
    """``work(x, y, ...)`` for arrays x and y that are apart, or the same.

    A loop that reads one and writes the other is vectorised where they are seen to be apart at run
    time; where they are the same, its code must say so.
    """
    x, y, *others = inspect.signature(work).parameters
    rest = "".join(f", {name}" for name in others)
    text = (
        f"def either({x}, {y}{rest}):\n"
        f"    if address({x}) == address({y}):\n"
        f"        work({y}, {y}{rest})\n"
        f"    else:\n"
        f"        work({x}, {y}{rest})\n"
    )
    # Inlined by Numba: a function of its own would be vectorised before its arguments are known.
    scope: dict[str, Any] = {"address": address, "work": pasted(work)}
    exec(text, scope)
    return inline(scope["either"])


# ------------------------------------------------------------------ division of work


@inline
def blocks_of(n, size):
    """How many blocks of a size cover n."""
    return (n + size - 1) // size


@intrinsic
def share(typing_context, n, unit, thread, threads):
    """Where this thread's part of n begins, in whole units."""

    def build(context, builder, signature, arguments):
        return share_of(Flow(builder), *arguments)

    return types.int64(*[types.int64] * 4), build


# ------------------------------------------------------------------ one number type


@cache
def of(dtype: str) -> Any:
    """All names, those of one number type among them.

    ``R`` converts to it, ``reals(call, i)`` is an operand of it, ``VLEN`` how many a vector
    register holds, ``exp`` and the like are its functions.
    """
    number = numba.from_dtype(np.dtype(dtype))
    reals = pointer(number)
    n, p = types.int64, pointer(types.float64)
    operand = _operand(number)
    lanes = compiled.vector_bytes() // np.dtype(dtype).itemsize

    @intrinsic
    def scratch(typing_context, call):
        """This thread's working memory."""

        def build(context, builder, signature, arguments):
            address = builder.load(in_step(builder, "scratch", arguments[0]))
            return builder.inttoptr(address, context.get_value_type(signature.return_type))

        return reals(types.voidptr), build

    @inline
    def row_weight(call, r):
        """The sample weight of row r: every loss has the weights as its fourth operand."""
        return np.float64(operand(call, 3)[r]) if given(call, 3) else 1.0

    @inline
    def rows_at_once(columns):
        """How many narrow rows a formula runs over in one call, from a multiple of VLEN on.

        The compiler may contract a b - c d one way in a loop's vectors and the other way in its
        tail: where a number lies in a vector must not depend on the threads.
        """
        return max(CHUNK // columns // lanes * lanes, 1)

    named = {
        "scratch": scratch,
        "rows_at_once": rows_at_once,
        "row_weight": row_weight,
        "reals": operand,
        "local": _local(number),
        "VLEN": lanes,
        "BYTES": np.dtype(dtype).itemsize,
        # The loops of formulas, by the types of aot/core.pxi.
        "run_activation": _caller(types.void, reals, n, p),
        "run_activation_grad": _caller(types.void, reals, reals, reals, n, p),
        "run_loss": _caller(types.void, reals, reals, reals, n, p),
        "run_per_step": _caller(types.void, n, p),
        "run_penalty": _caller(types.void, reals, reals, n, p),
        "run_merge": _caller(types.void, reals, reals, reals, n, p),
        "run_merge_grad": _caller(types.void, reals, reals, reals, reals, n, p),
        "run_schedule": _caller(types.float64, n, p),
    }
    own = {k: v for k, v in globals().items() if not k.startswith("_")}
    return SimpleNamespace(**own, **{**elementary.functions(dtype), **named, **_rows_of(number)})


def _rows_of(number: Any) -> dict[str, Any]:
    """Reductions of a row. Sums may be taken in any order, the same for every row of a length."""
    R: Any = numba.np.numpy_support.as_dtype(number).type
    options = {**OPTIONS, **elementary.INLINED, "fastmath": {"contract", "reassoc"}}
    any_order: Callable = numba.njit(**options)
    local, LANES = _local(number), compiled.vector_bytes() // np.dtype(R).itemsize

    @any_order
    def row_sum(x, n):
        total = R(0.0)
        for i in range(n):
            total += x[i]
        return total

    @any_order
    def double_sum(x, n):
        """In double precision."""
        total = 0.0
        for i in range(n):
            total += np.float64(x[i])
        return total

    @any_order
    def row_dot(x, y, n):
        total = R(0.0)
        for i in range(n):
            total += x[i] * y[i]
        return total

    @inline
    def row_max(x, n):
        """Of a row with NaN, NaN or any of its numbers."""
        most = local(LANES)  # as many maxima side by side hide the latency of the comparison
        for lane in range(LANES):
            most[lane] = x[min(lane, n - 1)]
        whole = n // LANES
        for block in range(1, whole):
            for lane in range(LANES):
                value = x[block * LANES + lane]
                most[lane] = value if value > most[lane] else most[lane]
        largest = most[0]
        for lane in range(1, LANES):
            largest = most[lane] if most[lane] > largest else largest
        for i in range(whole * LANES, n):
            largest = x[i] if x[i] > largest else largest
        return largest

    @inline
    def clipped(x, low, high):
        """NaN stays NaN."""
        return low if x < low else (high if x > high else x)

    @inline
    def copy(x, to, n):
        if address(x) != address(to):
            for i in range(n):
                to[i] = x[i]

    return {
        "row_sum": row_sum, "row_dot": row_dot, "row_max": row_max, "double_sum": double_sum,
        "clipped": clipped, "copy": copy,
    }  # fmt: skip
