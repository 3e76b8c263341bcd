"""Derivatives of scalar functions by SymPy."""

from __future__ import annotations

from typing import Any

import sympy

from .kernels import source
from .kernels.source import Source

_FUNCTIONS: dict[str, Any] = {
    "abs": sympy.Abs, "acos": sympy.acos, "asin": sympy.asin, "atan": sympy.atan,
    "cos": sympy.cos, "cosh": sympy.cosh, "erf": sympy.erf, "exp": sympy.exp,
    "expm1": lambda x: sympy.exp(x) - 1, "floor": sympy.floor, "log": sympy.log,
    "log10": lambda x: sympy.log(x, 10), "log1p": lambda x: sympy.log(1 + x),
    "log2": lambda x: sympy.log(x, 2), "max": sympy.Max, "min": sympy.Min, "pow": sympy.Pow,
    "sign": sympy.sign, "sin": sympy.sin, "sinh": sympy.sinh, "sqrt": sympy.sqrt,
    "tan": sympy.tan, "tanh": sympy.tanh, "_and": sympy.And, "_or": sympy.Or, "_not": sympy.Not,
    "_choose": lambda test, a, b: sympy.Piecewise((a, test), (b, True)),
}  # fmt: skip


def derivative(function: Source, operands: tuple[str, ...], parameters: tuple[str, ...]) -> Source:
    """The derivative by the first argument, as a function of ``operands`` and the parameters.

    Raises
    ------
    ValueError
        SymPy finds none that can be computed.
    """
    count = len(function.tree.args.args)
    names = [*operands, *parameters]
    given = names if len(names) == count else [operands[0], *parameters]  # not y = f(x)
    symbols = [sympy.Symbol(name, real=True) for name in given]
    problem = (
        f"{function.name}: SymPy finds no derivative of it ({{}}); give one, "
        f"@{function.name}.derivative"
    )
    if not source.is_expression(function):
        raise ValueError(problem.format("it has statements other than assignments and a return"))
    try:
        value = sympy.sympify(source.run(function, source.Functional(), _FUNCTIONS)(*symbols))
        found = sympy.diff(value, symbols[0])
        # Steps have no slope but at their edge; |x| and the like as choices.
        found = found.rewrite(sympy.Piecewise).replace(
            sympy.DiracDelta, lambda *_: sympy.Integer(0)
        )
        found = sympy.piecewise_fold(found) if found.has(sympy.Piecewise) else found
        shared, (result,) = sympy.cse([found], symbols=sympy.numbered_symbols("_v"))
        lines = [f"    {name} = {_code(part)}" for name, part in shared]
        lines.append(f"    return {_code(result)}")
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(problem.format(error)) from None
    if "Derivative" in "".join(lines) or "Not supported" in "".join(lines):
        raise ValueError(problem.format("its result cannot be computed"))
    name = f"derivative_of_{function.name}"
    text = "\n".join([f"def {name}({', '.join(names)}):", *lines]) + "\n"
    return source.from_text(name, text)


def _code(expression: Any) -> str:
    return sympy.pycode(expression, fully_qualified_modules=False)
