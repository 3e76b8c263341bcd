"""Scalar formulas and their registry: one function, written once, for every backend.

A formula is a plain Python function of numbers. The build turns it into a compiled loop; nothing
here knows how. Each kind fixes what the first arguments mean; the arguments behind them are the
formula's parameters, given by the user (a slope, a decay rate) and passed by position.

=============  ==============================  =======================================
kind           ``f``                           companions
=============  ==============================  =======================================
activation     ``f(x, *params)``               ``derivative(x, y, *params)``, y = f(x)
loss           ``f(y, t, *params)``            ``derivative(y, t, *params)`` by y
optimizer      ``f(w, g, *state, rate,         ``per_step(step, *params)``: further
               *params, *per_step)``           numbers computed once a step, step = 1, 2, ...
schedule       ``f(step, rate, *params)``      none; step = 0, 1, ...
penalty        ``f(w, *params)``               ``derivative(w, *params)``
merge          ``f(a, b, *params)``            ``derivative(a, b, *params)``: by a, and by b
=============  ==============================  =======================================
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from . import source

Function = Callable[..., object]
Range = tuple[float, float]
EVERYTHING: Range = (-math.inf, math.inf)


#: Number of arguments, by kind, that are not chosen by a user; an optimizer's state is beside them.
_OPERANDS = {"activation": 1, "loss": 2, "optimizer": 3, "schedule": 2, "penalty": 1, "merge": 2}


@dataclass
class Formula:
    """One scalar formula with its companions and where it comes from.

    ``state`` and ``constants`` are only an optimizer's: the names of its state slots, and of the
    numbers that ``per_step`` computes. ``limits`` are the ranges of parameters that have one,
    ``counts`` the parameters that are whole numbers from 1 on, ``domain`` the range of the first
    argument, outside of which the formula is not meant.
    ``targets`` says what a loss compares with: "numbers", "counts" (at least 0), "shares" (in
    [0, 1]) or "signs" (-1 and 1).
    """

    kind: str
    name: str
    function: Function
    source: str
    state: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    limits: Mapping[str, Range] = field(default_factory=dict)
    domain: Range = EVERYTHING
    targets: str = "numbers"
    counts: tuple[str, ...] = ()
    companions: dict[str, Function] = field(default_factory=dict)

    def prepare(self) -> None:
        """Called before something is made of it; a user's own formula completes itself."""

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of the arguments that a user chooses, in order."""
        names = tuple(inspect.signature(self.function).parameters)
        operands = _OPERANDS[self.kind] + len(self.state)
        return names[operands : len(names) - len(self.constants)]

    @property
    def defaults(self) -> dict[str, float]:
        """Default values of the parameters that have one."""
        found = inspect.signature(self.function).parameters
        values = {n: found[n].default for n in self.parameters}
        return {n: float(v) for n, v in values.items() if v is not inspect.Parameter.empty}

    @property
    def doc(self) -> str:
        """The formula in mathematical notation: the first paragraph of the docstring."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())

    def derivative(self, function: Function) -> Function:
        """Register the derivative (decorator)."""
        self.companions["derivative"] = function
        return function

    def per_step(self, function: Function) -> Function:
        """Register what an optimizer computes once per step (decorator)."""
        self.companions["per_step"] = function
        return function

    def derivative_reads(self, operand: str) -> bool:
        """Whether the derivative uses this argument, ``x`` or ``y``: what must be kept for it."""
        tree = source.of(self, "derivative").tree
        return any(isinstance(n, ast.Name) and n.id == operand for n in ast.walk(tree))


class Members(dict[str, Formula]):
    """The formulas of a kind, by name: ours are listed, a user's own are only found."""

    def __init__(self) -> None:
        super().__init__()
        self.own: dict[str, Formula] = {}

    def __missing__(self, name: str) -> Formula:
        return self.own[name]

    def find(self, name: str) -> Formula | None:
        """The formula of this name, if there is one."""
        return self.get(name) or self.own.get(name)


#: kind -> name -> formula, in the order of definition.
FORMULAS: dict[str, Members] = {kind: Members() for kind in _OPERANDS}


def _register(kind: str, origin: str, **more: Any) -> Callable[[Function], Formula]:
    def decorate(function: Function) -> Formula:
        name = function.__name__.rstrip("_")  # tanh_ is tanh: the name is taken by math.tanh
        if name in FORMULAS[kind]:
            raise ValueError(f"{kind} {name!r} is defined twice")
        FORMULAS[kind][name] = Formula(kind, name, function, origin, **more)
        return FORMULAS[kind][name]

    return decorate


def activation(source: str, **limits: Range) -> Callable[[Function], Formula]:
    """Register ``f(x, *params)``; add ``@f.derivative`` with arguments ``(x, y, *params)``."""
    return _register("activation", source, limits=limits)


def loss(
    source: str, domain: Range = EVERYTHING, targets: str = "numbers", **limits: Range
) -> Callable[[Function], Formula]:
    """Register ``f(y, t, *params)``; add ``@f.derivative``, or leave it out for a metric."""
    return _register("loss", source, domain=domain, targets=targets, limits=limits)


def optimizer(
    source: str, state: tuple[str, ...] = (), constants: tuple[str, ...] = ()
) -> Callable[[Function], Formula]:
    """Register an update rule that returns the new ``w`` followed by the new state."""
    return _register("optimizer", source, state=state, constants=constants)


def schedule(
    source: str, counts: tuple[str, ...] = (), **limits: Range
) -> Callable[[Function], Formula]:
    """Register ``f(step, rate, *params)``, the learning rate at step 0, 1, ..."""
    return _register("schedule", source, counts=counts, limits=limits)


def penalty(source: str, **limits: Range) -> Callable[[Function], Formula]:
    """Register ``f(w, *params)``, summed over an array of weights; add ``@f.derivative``."""
    return _register("penalty", source, limits=limits)


def merge(source: str, **limits: Range) -> Callable[[Function], Formula]:
    """Register ``f(a, b, *params)``; add ``@f.derivative``, which returns both derivatives."""
    return _register("merge", source, limits=limits)
