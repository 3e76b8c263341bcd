"""Parameters of scalar formulas: what a user gives, checked, with defaults for the rest."""

from __future__ import annotations

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


def named(formula: Formula, values: Sequence[Any]) -> dict[str, Any]:
    """Parameters given by position, by name."""
    if len(values) > len(formula.parameters):
        raise TypeError(
            f"{formula.name}: takes {len(formula.parameters)} parameters, got {len(values)}"
        )
    return dict(zip(formula.parameters, values, strict=False))


def describe(formula: Formula, values: tuple[float, ...]) -> str:
    """``name=value, ...`` as in the call that gives these parameters."""
    return ", ".join(f"{n}={v:g}" for n, v in zip(formula.parameters, values, strict=True))


def documentation(formula: Formula) -> str:
    """A formula's docstring and its source."""
    return f"{formula.doc}\n\nSource: {formula.source}."
