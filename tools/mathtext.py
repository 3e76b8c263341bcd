"""Readable mathematics from the Python source of a formula.

>>> print(text(simplify(ast.parse("0.0 if x < 0.0 else 0.5 * x * x", mode="eval").body)))
0 if x < 0, else x^2 / 2

What formulas do for the sake of rounding, overflow and NaN is taken back: ``expm1(x)`` is written
as exp(x) - 1, a choice between two numbers as a maximum, ``0.0 * x`` as 0. A product has no sign,
as on paper: ``a b`` is a times b, and ``a (b + c)`` no call. The meaning stays the same, but for
NaN, and the tests evaluate the text to see that it does.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping

#: Numbers that have a better name.
_CONSTANTS = {
    1 / math.sqrt(2): "1 / sqrt(2)",
    1 / math.sqrt(2 * math.pi): "1 / sqrt(2 * pi)",
    math.sqrt(8 / math.pi): "sqrt(8 / pi)",
    math.log(2): "log(2)",
    math.pi: "pi",
}

#: A local that is used once is written out where it is used, if it is no longer than this.
_SHORT = 24

#: Levels of precedence: an expression stands in parentheses where a higher one is asked for.
_CHOICE, _AND, _COMPARISON, _SUM, _PRODUCT, _POWER, _ATOM = range(7)

_Bounds = tuple[ast.expr, ast.expr]

_COMPARISONS: dict[type, str] = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


def expression(source: str) -> ast.expr:
    """One expression in Python."""
    return ast.parse(source, mode="eval").body


# ---------------------------------------------------------------------------- small helpers


def _same(a: ast.AST, b: ast.AST) -> bool:
    return ast.dump(a) == ast.dump(b)


def _value(node: ast.AST) -> float | None:
    """The number that a node is, or None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return float(node.value)
    return None


def _called(node: ast.AST) -> str | None:
    """Name of the function that a node calls."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def _call(name: str, *arguments: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _negative(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return ast.BinOp(node.right, ast.Sub(), node.left)
    return node if _value(node) == 0 else ast.UnaryOp(ast.USub(), node)


def _difference(a: ast.expr, b: ast.expr) -> ast.expr:
    """a - b"""
    if _value(b) == 0:
        return a
    return _negative(b) if _value(a) == 0 else ast.BinOp(a, ast.Sub(), b)


def _bounds(test: ast.expr) -> _Bounds | None:
    """(a, b) of a test a < b, however it is written; equality is ignored."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    sides = test.left, test.comparators[0]
    return sides if isinstance(test.ops[0], (ast.Lt, ast.LtE)) else sides[::-1]


# ---------------------------------------------------------------------------- simplification


class _Simplify(ast.NodeTransformer):
    """From the inside out, so that each rule sees operands that are simple already."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        left, right = _value(node.left), _value(node.right)
        match node.op:
            case ast.Mult():
                if left == 0 or right == 0:
                    return ast.Constant(0)
                if left == 1 or right == 1:
                    return node.right if left == 1 else node.left
            case ast.Add():
                if left == 0 or right == 0:
                    return node.right if left == 0 else node.left
            case ast.Sub() if right == 0:
                return node.left
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return _negative(node.operand) if isinstance(node.op, ast.USub) else node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        match _called(node), node.args:
            case "expm1", [x]:
                return ast.BinOp(_call("exp", x), ast.Sub(), ast.Constant(1))
            case "log1p", [x]:
                return _call("log", ast.BinOp(ast.Constant(1), ast.Add(), x))
            case "exp", [x]:  # exp(a log(b)) is b^a
                sign, over, under = _factors(x)
                logs = [f for f in over if _called(f) == "log"]
                if len(logs) == 1 and not under and sign > 0 and len(over) > 1:
                    exponent = _product([f for f in over if f is not logs[0]])
                    assert isinstance(logs[0], ast.Call)
                    return ast.BinOp(logs[0].args[0], ast.Pow(), exponent)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if (bounds := _bounds(node.test)) is None:
            return node
        a, b = bounds  # body where a < b
        body, other = node.body, node.orelse
        if _same(body, b) and _same(other, a):
            return _call("max", *_variable_first(a, b))
        if _same(body, a) and _same(other, b):
            return _call("min", *_variable_first(a, b))
        # Between two bounds, which do not cross.
        if _same(body, b) and (limit := _limit(other, "min", a)):
            return _call("clip", a, b, limit)
        if _same(body, a) and (limit := _limit(other, "max", b)):
            return _call("clip", b, limit, a)
        way = _difference(b, a)
        if _same(body, way) and _same(other, _negative(way)):
            return _call("abs", way)
        if _same(other, way) and _same(body, _negative(way)):
            return _negative(_call("abs", way))
        if isinstance(other, ast.IfExp) and _reversed(bounds, _bounds(other.test)):
            if _same(other.orelse, way) or _same(other.orelse, _negative(way)):
                other.orelse = ast.Constant(0)  # a = b, or NaN
            ends = _value(body), _value(_negative(other.body)), _value(other.orelse)
            if ends == (1, 1, 0):
                return _call("sign", way)
        if isinstance(body, ast.IfExp) and _same(body.orelse, other):
            return ast.IfExp(_both(node.test, body.test), body.body, other)
        return node


def _reversed(first: _Bounds, second: _Bounds | None) -> bool:
    """Whether the second compares what the first does, the other way round."""
    return second is not None and _same(first[0], second[1]) and _same(first[1], second[0])


def _variable_first(a: ast.expr, b: ast.expr) -> tuple[ast.expr, ast.expr]:
    return (a, b) if _value(a) is None else (b, a)


def _limit(node: ast.expr, name: str, of: ast.expr) -> ast.expr | None:
    """The other argument of a minimum or maximum that has this one."""
    if _called(node) == name and isinstance(node, ast.Call):
        rest = [x for x in node.args if not _same(x, of)]
        return rest[0] if len(rest) == 1 else None
    return None


def _both(first: ast.expr, second: ast.expr) -> ast.expr:
    """Two conditions; low < x and x < high as one."""
    below, above = _bounds(first), _bounds(second)
    if below and above and _same(below[1], above[0]):
        return ast.Compare(below[0], [ast.Lt(), ast.Lt()], [below[1], above[1]])
    return ast.BoolOp(ast.And(), [first, second])


class _Substitute(ast.NodeTransformer):
    def __init__(self, new: Mapping[str, ast.expr]) -> None:
        self.new = new

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return copy.deepcopy(self.new.get(node.id, node))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        node.args = [self.visit(a) for a in node.args]  # a function is not a name in it
        return node


class _Name(ast.NodeTransformer):
    """Numbers as what they stand for."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        for number, name in _CONSTANTS.items():
            if math.isclose(_value(node) or 0.0, number, rel_tol=1e-14):
                return expression(name)
        return node


def simplify(node: ast.expr) -> ast.expr:
    """The same expression as one would write it on paper."""
    result: ast.expr = _Simplify().visit(node)
    return result


def substitute(node: ast.expr, new: Mapping[str, ast.expr]) -> ast.expr:
    """An expression with other expressions in the place of names."""
    result: ast.expr = _Substitute(new).visit(copy.deepcopy(node))
    return result


def names(node: ast.expr) -> list[str]:
    """The names in an expression, as often as they occur, but not those of functions."""
    functions = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    found = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    return [n.id for n in found if not any(n is f for f in functions)]


# ---------------------------------------------------------------------------- text


def number(value: float) -> str:
    """A number to six digits: ``1``, ``0.01``, ``1e-8``."""
    mantissa, *exponent = f"{value:.6g}".split("e")
    return mantissa + (f"e{int(exponent[0])}" if exponent else "")


def _factors(node: ast.expr) -> tuple[int, list[ast.expr], list[ast.expr]]:
    """Sign, numerators and denominators of a product or quotient."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, over, under = _factors(node.operand)
        return -sign, over, under
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
        left, right = _factors(node.left), _factors(node.right)
        up, down = right[1:] if isinstance(node.op, ast.Mult) else right[:0:-1]
        return left[0] * right[0], left[1] + up, left[2] + down
    return 1, [node], []


def _product(factors: list[ast.expr]) -> ast.expr:
    result = factors[0]
    for factor in factors[1:]:
        result = ast.BinOp(result, ast.Mult(), factor)
    return result


def _factor_texts(factors: list[ast.expr]) -> tuple[float, list[str]]:
    """The number in a product, and the texts of the others, equal ones as a power."""
    coefficient = math.prod(v for f in factors if (v := _value(f)) is not None)
    equal: dict[str, list[ast.expr]] = {}
    for factor in factors:
        if _value(factor) is None:
            equal.setdefault(ast.dump(factor), []).append(factor)
    return coefficient, [
        _at(_POWER, first) if not more else f"{_at(_ATOM, first)}^{1 + len(more)}"
        for first, *more in equal.values()
    ]


def _product_text(node: ast.expr) -> tuple[str, int]:
    sign, over, under = _factors(node)
    times, numerators = _factor_texts(over)
    by, denominators = _factor_texts(under)
    if times == 0.5:  # a half reads best as a quotient
        times, by = 1.0, 2 * by
    if times != 1 or not numerators:
        numerators.insert(0, number(times))
    if by != 1:
        denominators.insert(0, number(by))
    result = " ".join(numerators)
    if denominators:
        below = " ".join(denominators)
        result += f" / ({below})" if len(denominators) > 1 else f" / {below}"
    single = len(over) == 1 and not denominators
    level = _ATOM if single and not under and _value(over[0]) is not None else _PRODUCT
    return ("-" + result, _SUM) if sign < 0 else (result, level)


def _sum_text(node: ast.BinOp) -> str:
    minus = isinstance(node.op, ast.Sub)
    right = node.right
    if _factors(right)[0] < 0:
        minus, right = not minus, _negative(right)
    return f"{_at(_SUM, node.left)} {'-' if minus else '+'} {_at(_PRODUCT, right)}"


def _text(node: ast.expr) -> tuple[str, int]:
    """The text of an expression, and its level."""
    match node:
        case ast.IfExp():
            parts = _at(_AND, node.body), _at(_AND, node.test), _at(_CHOICE, node.orelse)
            return "{} if {}, else {}".format(*parts), _CHOICE
        case ast.BoolOp(op=ast.And()):
            return " and ".join(_at(_COMPARISON, v) for v in node.values), _AND
        case ast.Compare():
            result = _at(_SUM, node.left)
            for operator, side in zip(node.ops, node.comparators, strict=True):
                result += f" {_COMPARISONS[type(operator)]} {_at(_SUM, side)}"
            return result, _COMPARISON
        case ast.BinOp(op=ast.Add() | ast.Sub()):
            return _sum_text(node), _SUM
        case ast.BinOp(op=ast.Pow()):
            base, exponent = _at(_ATOM, node.left), _at(_ATOM, node.right)
            return f"{base}^{exponent}", _POWER
        case ast.BinOp() | ast.UnaryOp(op=ast.USub()) | ast.Constant():
            return _product_text(node)
        case ast.Name():
            return node.id, _ATOM
        case ast.Call() if name := _called(node):
            inside = ", ".join(_at(_CHOICE, a) for a in node.args)
            return (f"|{inside}|" if name == "abs" else f"{name}({inside})"), _ATOM
    raise ValueError(f"formulas cannot hold {ast.unparse(node)!r}")


def _at(level: int, node: ast.expr) -> str:
    """The text, in parentheses where its level is lower than this."""
    result, own = _text(node)
    return result if own >= level else f"({result})"


def text(node: ast.expr) -> str:
    """An expression as text."""
    return _at(_CHOICE, _Name().visit(copy.deepcopy(node)))


# ---------------------------------------------------------------------------- functions


def results(
    function: Callable[..., object], new: Mapping[str, ast.expr] | None = None
) -> tuple[dict[str, ast.expr], list[ast.expr]]:
    """Locals and results of a formula's function, with other expressions for some arguments."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(definition, ast.FunctionDef)
    chosen = dict(new or {})
    found: dict[str, ast.expr] = {}
    values: list[ast.expr] = []
    for statement in definition.body:
        match statement:
            case ast.Expr():  # the docstring
                continue
            case ast.Assign(targets=[ast.Name(id=name)]):
                found[name] = simplify(substitute(statement.value, chosen))
                chosen.pop(name, None)
            case ast.Return(value=ast.expr() as value):
                value = substitute(value, chosen)
                values = value.elts if isinstance(value, ast.Tuple) else [value]
            case _:
                raise ValueError(f"formulas cannot use {ast.unparse(statement)!r}")
    return _inlined(found, [simplify(v) for v in values])


def _inlined(
    found: dict[str, ast.expr], values: list[ast.expr]
) -> tuple[dict[str, ast.expr], list[ast.expr]]:
    """The same without locals that are not used, or only once and short."""
    for name in reversed(list(found)):
        uses = sum(names(e).count(name) for e in [*found.values(), *values])
        if uses == 0:
            del found[name]
        elif uses == 1 and len(text(found[name])) <= _SHORT:
            here = {name: found.pop(name)}
            found = {n: simplify(substitute(e, here)) for n, e in found.items()}
            values = [simplify(substitute(e, here)) for e in values]
    return found, values
