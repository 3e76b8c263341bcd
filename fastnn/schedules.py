"""Learning rates as functions of the step, evaluated once per step in the native loop.

There is a class for every formula of kind schedule in ``kernels/scalars.py``: ``linear_decay`` is
``LinearDecay(rate, final_rate, decay_steps)``. The first argument is the rate (> 0), the others are
the formula's. Steps are updates, so batches and not epochs, and count from 0. Every formula is
proportional to its rates: to ``rate`` and to the parameters whose names end in ``_rate``.

>>> import fastnn as fnn
>>> fnn.optimizers.SGD(fnn.schedules.LinearDecay(0.1, 0.001, decay_steps=1000))
SGD(learning_rate=LinearDecay(0.1, 0.001, 1000))
"""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

from . import checks, formulas
from .kernels.formula import FORMULAS, Formula
from .lookup import camel_case


class Schedule:
    """Base: ``function`` names a formula of kind schedule, ``parameters`` are its numbers.

    During the first ``warm_up`` steps the rate rises in equal steps to that of the formula's step
    0, where the formula then begins.
    """

    function: str
    parameters: tuple[float, ...]
    warm_up: int = 0

    @property
    def rate(self) -> float:
        """The first argument."""
        return self.parameters[0]

    def with_rate(self, rate: float) -> Schedule:
        """The same course with another first argument: all rates change in that proportion.

        >>> CosineDecay(0.1, 0.01, decay_steps=900).with_rate(0.05)
        CosineDecay(0.05, 0.005, 900)
        """
        first = checks.number("rate", rate, 0, open_low=True)
        names = FORMULAS["schedule"][self.function].parameters
        scaled = (
            value * (first / self.rate) if name.endswith("_rate") else value
            for name, value in zip(names, self.parameters[1:], strict=True)
        )
        changed = copy.copy(self)
        changed.parameters = (first, *scaled)
        return changed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._values)

    @property
    def _values(self) -> tuple[Any, ...]:
        return self.function, self.parameters, self.warm_up

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{p:g}' for p in self.parameters)})"


def class_of(formula: Formula, name: str) -> type[Schedule]:
    """The schedule class of a formula."""

    def __init__(self: Schedule, *values: float, **given: float) -> None:
        given = formulas.named(formula, values, given, "rate")
        if "rate" not in given:
            raise TypeError(f"{formula.name}: needs the parameter 'rate'")
        # Of a constant rate a user sees nothing but the optimizer's argument.
        argument = "rate" if formula.parameters else "learning_rate"
        rate = checks.number(argument, given.pop("rate"), 0, open_low=True)
        self.parameters = (rate, *formulas.parameters(formula, given))

    arguments = ", ".join(("rate", *formula.parameters))
    contents = {
        "__init__": __init__,
        "__signature__": formulas.signature(formula, rate=inspect.Parameter.empty),
        "__doc__": f"({arguments})\n\n{formulas.documentation(formula)}",
        "__module__": __name__,
        "function": formula.name,
    }
    return type(camel_case(name), (Schedule,), contents)


#: Name -> class, of every schedule that has a formula.
SCHEDULES: dict[str, Any] = {
    name: class_of(formula, name) for name, formula in FORMULAS["schedule"].items()
}
globals().update({c.__name__: c for c in SCHEDULES.values()})


class WarmUp(Schedule):
    """rate(k) = rate(0) (k + 1) / (steps + 1) for k < steps, then the schedule from its step 0 on.

    Parameters
    ----------
    schedule
        What follows: a schedule, or a number for a constant rate.
    steps
        Updates that the rise takes, >= 1.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.schedules.WarmUp(fnn.schedules.CosineDecay(0.1, 0.0, decay_steps=900), steps=100)
    WarmUp(CosineDecay(0.1, 0, 900), 100)

    Source: Goyal et al., Accurate, large minibatch SGD (2017), section 2.2.
    """

    def __init__(self, schedule: float | Schedule, steps: int) -> None:
        inner = get(schedule)
        if inner.warm_up:
            raise ValueError(f"schedule: expected one without a warm-up, got {inner!r}")
        self.function, self.parameters = inner.function, inner.parameters
        self.warm_up = checks.positive_int("steps", steps)
        self._inner = inner

    def with_rate(self, rate: float) -> Schedule:
        return WarmUp(self._inner.with_rate(rate), self.warm_up)

    def __repr__(self) -> str:
        return f"WarmUp({self._inner!r}, {self.warm_up})"


def get(value: Any) -> Schedule:
    """A schedule, or the constant one that a number stands for."""
    return value if isinstance(value, Schedule) else SCHEDULES["constant"](value)


if TYPE_CHECKING:  # classes made above

    def __getattr__(name: str) -> type[Any]: ...
