"""Activation functions by name, with their parameters.

Every formula of kind activation in ``kernels/scalars.py`` is here under its name, as a function of
its parameters; ``softmax`` acts on whole rows and has none.

>>> import fastnn as fnn
>>> fnn.activations.leaky_relu(slope=0.2)
leaky_relu(slope=0.2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import checks
from .compiler import Graph, Tensor
from .kernels.formula import FORMULAS
from .lookup import near_matches


@dataclass(frozen=True)
class ActivationFunction:
    """An activation function with chosen parameters."""

    name: str
    parameters: tuple[float, ...] = ()

    def emit(self, graph: Graph, x: Tensor) -> Tensor:
        """Emit the op that applies it."""
        if self.name == "identity":
            return x
        if self.name == "softmax":
            return graph.emit("softmax", x)[0]
        return graph.emit("activation", x, function=self.name, parameters=self.parameters)[0]

    def __repr__(self) -> str:
        if not self.parameters:
            return self.name
        names = FORMULAS["activation"][self.name].parameters
        values = (f"{n}={p:g}" for n, p in zip(names, self.parameters, strict=True))
        return f"{self.name}({', '.join(values)})"


def names() -> list[str]:
    """All activation functions that can be named."""
    return [*FORMULAS["activation"], "softmax"]


def make(name: str, **parameters: float) -> ActivationFunction:
    """An activation function by name.

    Raises
    ------
    ValueError
        No such activation, or a parameter out of its range.
    TypeError
        A parameter that the function does not have.
    """
    if name not in names():
        raise ValueError(
            f"activation: unknown name {name!r}.{near_matches(name, names())}"
            f" Known names: {', '.join(sorted(names()))}"
        )
    formula = FORMULAS["activation"].get(name)
    values = formula.defaults if formula else {}
    for given in parameters:
        if given not in values:
            raise TypeError(f"{name}: has no parameter {given!r}; it has {sorted(values)}")
    values |= parameters
    limits = formula.limits if formula else {}
    return ActivationFunction(
        name, tuple(checks.number(n, v, limits.get(n, -float("inf"))) for n, v in values.items())
    )


def get(value: Any) -> ActivationFunction:
    """The activation function that a name, an object or None (identity) stands for."""
    if value is None:
        return make("identity")
    if isinstance(value, ActivationFunction):
        return value
    if isinstance(value, str):
        return make(value)
    if callable(value) and getattr(value, "__module__", None) == __name__:
        made = value()
        if isinstance(made, ActivationFunction):
            return made
    raise TypeError(f"activation: expected a name or an activation function, got {value!r}")


def __getattr__(name: str) -> Any:
    if name in names():

        def function(**parameters: float) -> ActivationFunction:
            return make(name, **parameters)

        function.__name__ = name
        formula = FORMULAS["activation"].get(name)
        function.__doc__ = (
            f"{formula.doc}\n\nSource: {formula.source}."
            if formula
            else (
                "f(x)_i = exp(x_i) / sum_j exp(x_j), over each row\n\n"
                "Source: Bridle, Probabilistic interpretation of feedforward outputs (1990)."
            )
        )
        return function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *names()])
