"""Learning rates as functions of the step, evaluated once per step in the native loop."""

from __future__ import annotations

from typing import Any

from . import checks


class Schedule:
    """Base: ``function`` names a formula of kind schedule, ``parameters`` are its numbers."""

    function: str
    parameters: tuple[float, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{p:g}' for p in self.parameters)})"


class Constant(Schedule):
    """rate(k) = rate

    Parameters
    ----------
    rate
        Learning rate, > 0.
    """

    function = "constant"

    def __init__(self, rate: float) -> None:
        self.parameters = (checks.number("learning_rate", rate, 0, open_low=True),)


class LinearDecay(Schedule):
    """rate(k) = (1 - a) rate + a final_rate with a = min(k / decay_steps, 1); constant after.

    Parameters
    ----------
    rate, final_rate
        Learning rate at step 0 (> 0) and from step ``decay_steps`` on (>= 0).
    decay_steps
        Number of updates (batches, not epochs), >= 1.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.optimizers.SGD(fnn.schedules.LinearDecay(0.1, 0.001, decay_steps=1000))
    SGD(learning_rate=LinearDecay(0.1, 0.001, 1000))

    Source: Goodfellow, Bengio & Courville, Deep Learning, section 8.3.1.
    """

    function = "linear_decay"

    def __init__(self, rate: float, final_rate: float, decay_steps: int) -> None:
        self.parameters = (
            checks.number("rate", rate, 0, open_low=True),
            checks.number("final_rate", final_rate, 0),
            float(checks.positive_int("decay_steps", decay_steps)),
        )


def get(value: Any) -> Schedule:
    """A schedule, or the constant one that a number stands for."""
    return value if isinstance(value, Schedule) else Constant(value)
