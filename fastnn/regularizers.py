"""Penalties on weights that are added to the loss.

There is a class for every formula of kind penalty in ``kernels/scalars.py``: its first argument is
the factor (>= 0) of the sum of f(w) over an array of weights, the others are the formula's.

>>> import fastnn as fnn
>>> fnn.layers.Dense(10, kernel_regularizer=fnn.regularizers.ElasticNet(0.001, l1_share=0.2))
Dense(10, activation=identity)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import checks, formulas
from .compiler import Graph, Tensor
from .kernels.formula import FORMULAS, Formula
from .lookup import camel_case, near_matches


class Regularizer:
    """Base: configuration of a penalty; ``emit`` puts it on the graph."""

    dims: int | None = None  # of the arrays it is for; None is any number

    def emit(self, graph: Graph, weight: Tensor) -> Tensor:
        """Emit the penalty of one weight array: numbers whose sum is added to the loss."""
        raise TypeError(f"{type(self).__name__} does not define emit()")


class Penalty(Regularizer):
    """factor times the sum of a scalar formula f(w)."""

    function: str

    def __init__(self, factor: float = 0.01, *values: float, **given: float) -> None:
        self.factor = checks.number("factor", factor, 0)
        given = formulas.named(self.formula, (factor, *values), given, "factor")
        del given["factor"]
        self.parameters = formulas.parameters(self.formula, given)

    @property
    def formula(self) -> Formula:
        """The scalar formula."""
        return FORMULAS["penalty"][self.function]

    def emit(self, graph: Graph, weight: Tensor) -> Tensor:
        return graph.emit("penalty", weight, **self.attributes)[0]

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the ops that compute it."""
        return {
            "function": self.function,
            "parameters": self.parameters,
            "factor": float(self.factor),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Penalty) and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._values)

    @property
    def _values(self) -> tuple[Any, ...]:
        return self.function, self.factor, self.parameters

    def __repr__(self) -> str:
        values = formulas.describe(self.formula, self.parameters)
        return f"{type(self).__name__}({self.factor:g}{values and ', '}{values})"


class Orthogonality(Regularizer):
    """factor times the sum of |W^T W - 1| over all pairs of units: columns of W (inputs, units).

    With the units' weights as rows this is the sum of |W W^T - 1|.

    Parameters
    ----------
    factor
        >= 0.

    Source: Brock et al., Neural photo editing with introspective adversarial networks, ICLR 2017,
    equation 2.
    """

    dims = 2

    def __init__(self, factor: float = 0.01) -> None:
        self.factor = checks.number("factor", factor, 0)

    def emit(self, graph: Graph, weight: Tensor) -> Tensor:
        if len(weight.shape) != self.dims:
            raise ValueError(
                f"Orthogonality: is of kernels (inputs, units), not of {weight.name} of shape "
                f"{weight.shape}"
            )
        (products,) = graph.emit("gram", weight)
        return graph.emit("identity_distance", products, factor=self.factor)[0]

    def __repr__(self) -> str:
        return f"Orthogonality({self.factor:g})"


#: What formulas cannot say about their classes.
_NOTES = {
    "l2": "\n\nKeras's L2 has no 1/2: its factor is half of ours. PyTorch's weight_decay of SGD\n"
    "is the same as ours.",
    "lp": "\n\np is at least 1. p = 1 is `L1`, and p = 2 twice `L2`.",
}


def class_of(formula: Formula, name: str) -> type[Penalty]:
    """The penalty class of a formula."""
    arguments = ", ".join(("factor", *formula.parameters))
    about = f"({arguments}): factor times the sum of {formulas.documentation(formula)}"
    contents = {
        "__doc__": about + _NOTES.get(formula.name, ""),
        "__module__": __name__,
        "__signature__": formulas.signature(formula, factor=0.01),
        "function": formula.name,
    }
    return type(camel_case(name), (Penalty,), contents)


#: Name -> class, of everything a user can name.
REGULARIZERS: dict[str, type[Any]] = {
    name: class_of(formula, name) for name, formula in FORMULAS["penalty"].items()
}
globals().update({c.__name__: c for c in REGULARIZERS.values()})
REGULARIZERS["orthogonality"] = Orthogonality


def get(argument: str, value: Any, dims: int | None = None) -> Regularizer | None:
    """A regularizer, one by name, L2 by its factor, or None.

    ``dims`` is the number of dimensions of the array that it is chosen for, if that is known.
    """
    chosen = _resolve(argument, value)
    checks.suited(argument, chosen, dims)
    return chosen


def _resolve(argument: str, value: Any) -> Regularizer | None:
    if value is None or isinstance(value, Regularizer):
        return value
    if isinstance(value, type) and issubclass(value, Regularizer):
        return value()
    if isinstance(value, str):
        if value not in REGULARIZERS:
            names = sorted(REGULARIZERS)
            raise ValueError(
                f"{argument}: unknown name {value!r}.{near_matches(value, names)}"
                f" Known names: {', '.join(names)}"
            )
        return REGULARIZERS[value]()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return REGULARIZERS["l2"](float(value))
    raise TypeError(f"{argument}: expected a Regularizer, a name, a factor or None, got {value!r}")


if TYPE_CHECKING:  # classes made above

    def __getattr__(name: str) -> type[Any]: ...
