"""The equations of scalar formulas as text: derivatives, and what the code of a rule computes."""

from __future__ import annotations

import ast
import inspect
import re

import mathtext

from fastnn.kernels.formula import Formula

_STATED = re.compile(r"(?P<name>\w+)\((?P<operands>[\w, ]+)\) = ")


def is_stated(formula: Formula) -> bool:
    """Whether the docstring begins with an equation, ``f(x) = ...``."""
    return _STATED.match(formula.doc) is not None


def _left(formula: Formula) -> tuple[str, list[str]]:
    """Name and arguments in the docstring: the code's y may be z there, for a logit."""
    stated = _STATED.match(formula.doc)
    if stated is None:
        raise ValueError(f"{formula.kind} {formula.name}: {formula.doc!r} is no equation")
    return stated["name"], stated["operands"].split(", ")


def derivative(formula: Formula) -> tuple[list[str], dict[str, str]]:
    """Equations of the derivatives, ``f'(x) = ...`` or ``df/da = ...``, and the locals in them."""
    name, operands = _left(formula)
    own = list(inspect.signature(formula.function).parameters)[: len(operands)]
    new = {a: mathtext.expression(b) for a, b in zip(own, operands, strict=True)}
    local, values = mathtext.results(formula.companions["derivative"], new)
    left = [f"d{name}/d{o}" for o in operands] if len(operands) > 1 else [f"{name}'({operands[0]})"]
    equations = [f"{a} = {mathtext.text(v)}" for a, v in zip(left, values, strict=False)]
    return equations, {n: mathtext.text(v) for n, v in local.items()}


def computed(formula: Formula) -> list[str]:
    """An update rule or a schedule from its code, line by line."""
    new: dict[str, ast.expr] = {}
    if formula.kind == "schedule":
        new["step"] = mathtext.expression("k")
    if formula.constants:  # numbers of the update t, written out
        update = {"step": mathtext.expression("t")}
        local, numbers = mathtext.results(formula.companions["per_step"], update)
        written_out = [mathtext.substitute(number, local) for number in numbers]
        new |= zip(formula.constants, written_out, strict=True)
    local, values = mathtext.results(formula.function, new)
    if formula.kind != "optimizer":
        lines = [f"{name} = {mathtext.text(value)}" for name, value in local.items()]
        return [*lines, f"rate(k) = {mathtext.text(values[0])}"]
    letters = state_letters(formula)
    kept = {slot: mathtext.expression(name) for slot, name in letters.items()}
    lines = []
    for name, value in local.items():
        arrow = "<-" if name in letters.values() else "="
        lines.append(f"{name} {arrow} {mathtext.text(mathtext.substitute(value, kept))}")
    for name, value in zip(("w", *formula.state), values, strict=True):
        if name not in letters:
            lines.append(f"{name} <- {mathtext.text(mathtext.substitute(value, kept))}")
    return lines


def state_letters(formula: Formula) -> dict[str, str]:
    """State slot -> the local that it becomes, if nothing reads the old state after that."""
    local, values = mathtext.results(formula.function)
    found = {}
    for slot, value in zip(formula.state, values[1:], strict=True):
        if isinstance(value, ast.Name) and value.id in local:
            after = [*list(local.values())[list(local).index(value.id) + 1 :], *values]
            if not any(slot in mathtext.names(e) for e in after):
                found[slot] = value.id
    return found
