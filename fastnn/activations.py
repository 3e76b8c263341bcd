"""Activation functions by name, with their parameters.

Every formula of kind activation in ``kernels/scalars.py`` is here under its name, as a function of
its parameters; ``softmax`` and ``log_softmax`` act
on whole rows and have none.

>>> import fastnn as fnn
>>> fnn.activations.leaky_relu(slope=0.2)
leaky_relu(slope=0.2)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import formulas
from .compiler import Graph, Tensor
from .kernels.formula import FORMULAS
from .lookup import near_matches

#: Functions of whole rows, each an op of the same name: what they are and where they come from.
ROW_FUNCTIONS = {
    "softmax": "f(x)_i = exp(x_i) / sum_j exp(x_j), over each row\n\n"
    "Source: Bridle, Probabilistic interpretation of feedforward outputs (1990).",
    "log_softmax": "f(x)_i = x_i - log(sum_j exp(x_j)), over each row\n\n"
    "The loss that goes with it is 'negative_log_likelihood'.\n\n"
    "Source: Goodfellow, Bengio & Courville, Deep Learning, section 6.2.2.3.",
}

#: Other names that the field uses.
ALIASES = {"linear": "identity", "swish": "silu"}


@dataclass(frozen=True)
class ActivationFunction:
    """An activation function with chosen parameters."""

    name: str
    parameters: tuple[float, ...] = ()

    def emit(self, graph: Graph, x: Tensor) -> Tensor:
        """Emit the op that applies it."""
        if self.name == "identity":
            return x
        if self.name in ROW_FUNCTIONS:
            return graph.emit(self.name, x)[0]
        return graph.emit("activation", x, function=self.name, parameters=self.parameters)[0]

    def __reduce__(self) -> Any:
        formula = FORMULAS["activation"].find(self.name)
        definition = getattr(formula, "definition", None)
        if definition is None:
            return ActivationFunction, (self.name, self.parameters)
        from .custom import restored_activation  # it is made of this module

        return restored_activation, (definition, self.parameters)

    def __repr__(self) -> str:
        name = self.name.split("#")[0]  # a user's own may have had predecessors
        if not self.parameters:
            return name
        formula = FORMULAS["activation"][self.name]
        return f"{name}({formulas.describe(formula, self.parameters)})"


def names() -> list[str]:
    """All activation functions that can be named."""
    return [*FORMULAS["activation"], *ROW_FUNCTIONS]


def make(name: str, **parameters: float) -> ActivationFunction:
    """An activation function by name.

    Raises
    ------
    ValueError
        No such activation, or a parameter out of its range.
    TypeError
        A parameter that the function does not have.
    """
    name = ALIASES.get(name, name)
    formula = FORMULAS["activation"].find(name)
    if formula is None and name not in ROW_FUNCTIONS:
        raise ValueError(
            f"activation: unknown name {name!r}.{near_matches(name, names())}"
            f" Known names: {', '.join(sorted(names()))}"
        )
    if formula is None:  # of whole rows: they have no parameters
        if parameters:
            raise TypeError(f"{name}: has no parameter {next(iter(parameters))!r}; it has []")
        return ActivationFunction(name)
    return ActivationFunction(name, formulas.parameters(formula, parameters))


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
    if name in names() or name in ALIASES:
        formula = FORMULAS["activation"].find(ALIASES.get(name, name))

        def function(*values: float, **parameters: float) -> ActivationFunction:
            if values and formula is not None:
                parameters = formulas.named(formula, values, parameters)
            elif values:
                raise TypeError(f"{name}: takes 0 parameters, got {len(values)}")
            return make(name, **parameters)

        function.__name__ = function.__qualname__ = name
        if formula is not None:
            function.__signature__ = formulas.signature(formula)  # type: ignore[attr-defined]
        function.__doc__ = formulas.documentation(formula) if formula else ROW_FUNCTIONS[name]
        return function
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *names(), *ALIASES])
