"""Loops round scalar formulas, compiled by Numba to functions of ``aot/core.pxi``'s loop types.

They take the places of the loops that the build makes, so any kernel can run them: a formula
written by a user costs no more than one of ours.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from .. import source
from ..formula import Formula
from ..source import Source
from . import elementary
from .vectors import emitted, fits, parameters_of, whole_registers


class Scalars(source.Target):
    """Numbers of one type: every literal is of it, and small powers are multiplications."""

    def compile(self, function: Callable) -> Callable:
        return elementary.jit(function)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool) or not isinstance(node.value, (int, float)):
            return node
        made = ast.Call(ast.Name("R", ast.Load()), [ast.Constant(float(node.value))], [])
        return ast.copy_location(made, node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node  # a docstring

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "range":
            return node
        self.generic_visit(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if not isinstance(node.op, ast.Pow):
            self.generic_visit(node)
            return node
        base, power, name = self.visit(node.left), node.right, "power"
        if isinstance(power, ast.UnaryOp) and isinstance(power.op, ast.USub):
            power, name = power.operand, "inverse"
        times: Any = power.value if isinstance(power, ast.Constant) else None
        if times in range(1, elementary.LARGEST_POWER + 1):
            made = ast.Call(ast.Name(f"{name}_{times:.0f}", ast.Load()), [base], [])
        else:
            exponent = self.visit(node.right)
            made = ast.Call(ast.Name("pow", ast.Load()), [base, exponent], [])
        return ast.copy_location(made, node)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if node.value is None:
            raise source.Refused(node, "a formula returns numbers")
        self.generic_visit(node)
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        typed: list[ast.expr] = [ast.Call(ast.Name("R", ast.Load()), [part], []) for part in parts]
        node.value = ast.Tuple(typed, ast.Load()) if isinstance(node.value, ast.Tuple) else typed[0]
        return node


#: How far ahead memory is asked for, in numbers.
AHEAD = 512

#: By kind of loop: its arrays, the formula's operands, and where the results go.
_ARRAYS = {
    "activation": ("y", "y", "y"),
    "activation_grad": ("d x y", "x y", "d"),
    "loss": ("y t out", "y t", "out"),
    "loss_grad": ("y t out", "y t", "out"),
    "penalty": ("w out", "w", "out"),
    "penalty_grad": ("w out", "w", "out"),
    "merge": ("a b out", "a b", "out"),
    "merge_grad": ("a b da db", "a b", "da db"),
}


@cache
def _types(dtype: str) -> tuple[Any, Any]:
    """A number and a pointer to numbers."""
    number = numba.from_dtype(np.dtype(dtype))
    return number, types.CPointer(number)


@cache
def _pointer_at(dtype: str) -> Any:
    """``pointer_at(array, i)``: element i of an array of addresses, as a pointer to numbers."""
    _, to = _types(dtype)

    @intrinsic
    def pointer_at(typing_context, array, i):
        def build(context, builder, signature, arguments):
            address = builder.load(builder.gep(arguments[0], [arguments[1]]))
            return builder.inttoptr(address, context.get_value_type(to))

        return to(array, i), build

    return pointer_at


def scalar(function: Source, dtype: str, arguments: int) -> Any:
    """A scalar function for Numba, of one number type (``double``: of what is done once a step).

    Raises
    ------
    ValueError
        Numba cannot compile it; the message is Numba's and shows the line.
    """
    names = elementary.double() if dtype == "double" else elementary.functions(dtype)
    made: Any = source.run(function, Scalars(), names)
    number, _ = _types("float64" if dtype == "double" else dtype)
    try:
        made.compile((number,) * arguments)
    except Exception as error:  # Numba raises many sorts
        raise ValueError(f"{function.name}: Numba cannot compile it: {error}") from None
    return made


def _define(text: str, scope: dict[str, Any], signature: Any) -> Any:
    head, body = text.split("\n", 1)
    scope = {"whole_registers": whole_registers, **scope}
    exec(f"{head}\n    whole_registers()\n{body}", scope)
    return numba.cfunc(signature, **elementary.OPTIONS)(scope["loop"])


def _over_arrays(loop: str, function: Source, parameters: int, dtype: str, reads: set[str]) -> Any:
    arrays, operands, results = (names.split() for names in _ARRAYS[loop])
    number, pointer = _types(dtype)
    values = [f"{name}[i]" if name in reads else "R(0.0)" for name in operands]
    call = f"f({', '.join([*values, *(f'p{k}' for k in range(parameters))])})"
    if loop == "activation_grad":
        call = f"d[i] * {call}"
    lines = [
        f"def loop({', '.join(arrays)}, n, p):",
        *(f"    p{k} = R(p[{k}])" for k in range(parameters)),
        "    for i in range(n):",
        f"        {', '.join(f'{r}[i]' for r in results)} = {call}",
    ]
    scope = {"f": scalar(function, dtype, len(operands) + parameters), "R": number}
    doubles = types.CPointer(types.float64)
    signature = types.void(*[pointer] * len(arrays), types.int64, doubles)
    return _define("\n".join(lines), scope, signature)


def _activation_on_registers(formula: Formula, dtype: str) -> Any:
    """Where a number may be its own result, as with relu, LLVM leaves that one in memory and stores
    the others by a mask, which on Zen 3 takes seven times as long. It does not while something that
    it must keep in order, here a request for memory further on, is between load and store."""
    from . import names

    function = source.of(formula, "function")

    def emit(e, y, n, numbers):
        parameters = parameters_of(e, numbers, len(formula.parameters))

        def work(i: Any, mask: Any) -> None:
            place = e.at(y, i)
            x = e.load(place, mask)
            ahead = e.least(e.add(i, AHEAD), e.sub(n, 1))
            e.prefetch(e.at(y, ahead), changed=True)
            (found,) = e.apply(function, x, *parameters)
            e.store(found, place, mask)

        e.each_register(n, work)

    _, pointer = _types(dtype)
    signature = types.void(pointer, types.int64, types.CPointer(types.float64))
    scope = {"run": emitted(names.of(dtype), emit)}
    return _define("def loop(y, n, p):\n    run((y, n, p))", scope, signature)


def _optimizer_on_registers(formula: Formula, dtype: str) -> Any:
    """Root and quotient share one slow unit, and only what is emitted has another way to the root:
    Adam takes nine tenths of the time."""
    from . import names

    function = source.of(formula, "function")
    count = 1 + len(formula.parameters) + len(formula.constants)

    def emit(e, w, g, n, numbers, *state):
        parameters = parameters_of(e, numbers, count)

        def work(i: Any, mask: Any) -> None:
            places = [e.at(p, i) for p in (w, *state)]
            weight, *before = (e.load(p, mask) for p in places)
            gradient = e.load(e.at(g, i), mask)
            found = e.apply(function, weight, gradient, *before, *parameters)
            for new, place in zip(found, places, strict=True):
                e.store(new, place, mask)

        e.each_register(n, work)

    slots = range(len(formula.state))
    pointers = "".join(f", pointer_at(states, {k})" for k in slots)
    text = f"def loop(w, g, states, n, p):\n    run((w, g, n, p{pointers}))"
    scope = {"run": emitted(names.of(dtype), emit), "pointer_at": _pointer_at(dtype)}
    return _define(text, scope, _optimizer_type(dtype))


def _optimizer_type(dtype: str) -> Any:
    _, pointer = _types(dtype)
    addresses, doubles = types.CPointer(types.uintp), types.CPointer(types.float64)
    return types.void(pointer, pointer, addresses, types.int64, doubles)


def _optimizer(formula: Formula, dtype: str) -> Any:
    if fits(formula, "function", dtype):
        return _optimizer_on_registers(formula, dtype)
    number, _ = _types(dtype)
    state = [f"s{k}" for k in range(len(formula.state))]
    numbers = 1 + len(formula.parameters) + len(formula.constants)
    arrays = ["w", *state]
    arguments = [f"{a}[i]" for a in ("w", "g", *state)] + [f"p{k}" for k in range(numbers)]
    targets = "".join(f"{a}[i], " for a in arrays) if state else "w[i]"
    lines = [
        "def loop(w, g, states, n, p):",
        *(f"    {s} = pointer_at(states, {k})" for k, s in enumerate(state)),
        *(f"    p{k} = R(p[{k}])" for k in range(numbers)),
        "    for i in range(n):",
        f"        {targets} = f({', '.join(arguments)})",
    ]
    made = scalar(source.of(formula, "function"), dtype, len(arguments))
    scope = {"f": made, "R": number, "pointer_at": _pointer_at(dtype)}
    return _define("\n".join(lines), scope, _optimizer_type(dtype))


def _result(function: Source) -> ast.expr | None:
    """What a function returns, the first time."""
    returns = (n for n in ast.walk(function.tree) if isinstance(n, ast.Return))
    return next(returns).value


def _per_step(formula: Formula) -> Any:
    first = 1 + len(formula.parameters)
    lines = ["def loop(step, p):"]
    scope: dict[str, Any] = {}
    if formula.constants:
        count = first + len(formula.constants)
        function = source.of(formula, "per_step")
        values = ", ".join(["float(step)", *(f"p[{k}]" for k in range(1, first))])
        targets = ", ".join(f"p[{k}]" for k in range(first, count))
        if count == first + 1 and isinstance(_result(function), ast.Tuple):
            targets += ","
        lines.append(f"    {targets} = f({values})")
        scope["f"] = scalar(function, "double", first)
    else:
        lines.append("    pass")
    doubles = types.CPointer(types.float64)
    return _define("\n".join(lines), scope, types.void(types.int64, doubles))


def _schedule(formula: Formula) -> Any:
    count = 1 + len(formula.parameters)
    values = ", ".join(["float(step)", *(f"p[{k}]" for k in range(count))])
    text = f"def loop(step, p):\n    return f({values})"
    scope = {"f": scalar(source.of(formula, "function"), "double", 1 + count)}
    return _define(text, scope, types.float64(types.int64, types.CPointer(types.float64)))


def loop(formula: Formula, dtype: str) -> Any:
    """The loop of a formula, as a C function."""
    if formula.kind == "optimizer":
        return _optimizer(formula, dtype)
    if formula.kind == "schedule":
        return _schedule(formula)
    if formula.kind == "activation" and fits(formula, "function", dtype):
        return _activation_on_registers(formula, dtype)
    operands = set(_ARRAYS[formula.kind][1].split())
    function = source.of(formula, "function")
    return _over_arrays(formula.kind, function, len(formula.parameters), dtype, operands)


def companion(formula: Formula, dtype: str) -> Any:
    """The loop of the derivative, or what an optimizer does once a step."""
    if formula.kind == "optimizer":
        return _per_step(formula)
    kind = f"{formula.kind}_grad"
    reads = {n for n in _ARRAYS[kind][1].split() if formula.derivative_reads(n)}
    reads |= {"d"} if formula.kind == "activation" else set()
    function = source.of(formula, "derivative")
    return _over_arrays(kind, function, len(formula.parameters), dtype, reads)
