"""Parameters of scalar formulas: what a user gives, checked, with defaults for the rest."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from . import checks
from .kernels.formula import EVERYTHING, Formula


def parameters(formula: Formula, given: Mapping[str, Any]) -> tuple[float, ...]:
    """Values of a formula's parameters, in its order.

    Raises
    ------
    TypeError
        A parameter that the formula does not have, one that is missing, or no number.
    ValueError
        A parameter out of its range.
    """
    formula.prepare()
    values: dict[str, Any] = {**formula.defaults, **given}
    for name in values:
        if name not in formula.parameters:
            known = sorted(formula.parameters)
            raise TypeError(f"{formula.name}: has no parameter {name!r}; it has {known}")
    for name in formula.parameters:
        if name not in values:
            raise TypeError(f"{formula.name}: needs the parameter {name!r}")
    return tuple(
        float(checks.positive_int(name, values[name]))
        if name in formula.counts
        else checks.number(name, values[name], *formula.limits.get(name, EVERYTHING))
        for name in formula.parameters
    )


def named(
    formula: Formula, values: Sequence[Any], given: Mapping[str, Any], *before: str
) -> dict[str, Any]:
    """What a call gives, by name: positions stand for ``before`` and then for the parameters.

    Raises
    ------
    TypeError
        Too many values, one that is given twice, or a name that is none of these.
    """
    names = (*before, *formula.parameters)
    if len(values) > len(names):
        raise TypeError(f"{formula.name}: takes {len(names)} parameters, got {len(values)}")
    found = dict(zip(names, values, strict=False))
    for name, value in given.items():
        if name in found:
            raise TypeError(f"{formula.name}: got {name!r} twice")
        if name not in names:
            raise TypeError(f"{formula.name}: has no parameter {name!r}; it has {sorted(names)}")
        found[name] = value
    return found


def signature(formula: Formula, **before: Any) -> inspect.Signature:
    """How a class or function made from a formula is called: what comes ``before`` the parameters
    has defaults (or ``inspect.Parameter.empty``)."""
    empty: Any = inspect.Parameter.empty
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    given = formula.defaults
    defaults = before | {name: given.get(name, empty) for name in formula.parameters}
    found: list[inspect.Parameter] = []
    for name, default in defaults.items():
        if default is empty and found and found[-1].default is not empty:
            kind = inspect.Parameter.KEYWORD_ONLY  # must be given, after what need not be
        found.append(inspect.Parameter(name, kind, default=default, annotation="float"))
    return inspect.Signature(found)


def describe(formula: Formula, values: tuple[float, ...]) -> str:
    """``name=value, ...`` as in the call that gives these parameters."""
    return ", ".join(f"{n}={v:g}" for n, v in zip(formula.parameters, values, strict=True))


def documentation(formula: Formula) -> str:
    """A formula's docstring and its source."""
    return f"{formula.doc}\n\nSource: {formula.source}."
