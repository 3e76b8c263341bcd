"""What weights must fulfil: enforced in the native loop after every update.

>>> import fastnn as fnn
>>> fnn.layers.Dense(10, "relu", kernel_constraint=fnn.constraints.MaxNorm(3.0))
Dense(10, activation=relu)
"""

from __future__ import annotations

from typing import Any

from . import checks
from .compiler import Graph, Tensor
from .lookup import resolve, snake_case


class Constraint:
    """Base: ``emit`` puts the op on the graph that changes a weight so that it fulfils this."""

    dims: int | None = None  # of the arrays it is for; None is any number

    def emit(self, graph: Graph, weight: Tensor) -> None:
        """Emit the op."""
        raise TypeError(f"{type(self).__name__} does not define emit()")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Norm(Constraint):
    """The length of each unit's incoming weights: the columns of a kernel (inputs, units)."""

    dims = 2
    least: float
    most: float

    def emit(self, graph: Graph, weight: Tensor) -> None:
        if len(weight.shape) != self.dims:
            raise ValueError(
                f"{type(self).__name__}: constrains kernels (inputs, units), not {weight.name} of "
                f"shape {weight.shape}"
            )
        graph.emit("constrain_norm", weight, least=self.least, most=self.most)


class MaxNorm(_Norm):
    """The weights of a unit have length of at most ``limit``: longer ones are scaled down to it.

    Parameters
    ----------
    limit
        > 0; 3 to 4 are usual beside dropout.

    Source: Srivastava et al., Dropout, JMLR 15 (2014), section 5.1.
    """

    def __init__(self, limit: float = 3.0) -> None:
        self.least, self.most = 0.0, checks.number("limit", limit, 0, open_low=True)

    def __repr__(self) -> str:
        return f"MaxNorm({self.most:g})"


class UnitNorm(_Norm):
    """The weights of a unit have length 1. A unit whose weights are all 0 keeps them.

    Source: Salimans & Kingma, Weight normalization, NIPS 2016 (the same by another parameter).
    """

    least = most = 1.0


class NonNegative(Constraint):
    """No weight is below 0: those that are become 0.

    Source: Lee & Seung, Learning the parts of objects by non-negative matrix factorization (1999).
    """

    def emit(self, graph: Graph, weight: Tensor) -> None:
        graph.emit("constrain_sign", weight)


#: Name -> class, of everything a user can name.
CONSTRAINTS: dict[str, type[Constraint]] = {
    snake_case(c.__name__): c for c in (MaxNorm, UnitNorm, NonNegative)
}


def get(argument: str, value: Any, dims: int | None = None) -> Constraint | None:
    """The constraint that a name or object stands for, or None.

    ``dims`` is the number of dimensions of the array that it is chosen for, if that is known.
    """
    chosen = None if value is None else resolve(argument, value, CONSTRAINTS, Constraint)
    checks.suited(argument, chosen, dims)
    return chosen
