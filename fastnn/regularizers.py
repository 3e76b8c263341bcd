"""Penalties on weights that are added to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import checks
from .compiler import Graph, Tensor


class Regularizer:
    """Base: configuration of a penalty; ``emit`` puts it on the graph."""

    def emit(self, graph: Graph, weight: Tensor) -> Tensor:
        """Emit the penalty of one weight array: numbers whose sum is added to the loss."""
        raise TypeError(f"{type(self).__name__} does not define emit()")


@dataclass(frozen=True)
class L2(Regularizer):
    """factor / 2 * sum of w^2, so that its gradient is factor * w.

    (Keras's L2 has no 1/2: its factor is half of ours. PyTorch's weight_decay of SGD is ours.)

    Parameters
    ----------
    factor
        >= 0.

    Source: Goodfellow, Bengio & Courville, Deep Learning, section 7.1.1.
    """

    factor: float = 0.01

    def __post_init__(self) -> None:
        checks.number("factor", self.factor, 0)

    def emit(self, graph: Graph, weight: Tensor) -> Tensor:
        (parts,) = graph.emit("l2_penalty", weight, factor=float(self.factor))
        return parts


def get(argument: str, value: Any) -> Regularizer | None:
    """A regularizer, L2 by name or by its factor, or None."""
    if value is None or isinstance(value, Regularizer):
        return value
    if value == "l2":
        return L2()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return L2(float(value))
    raise TypeError(f"{argument}: expected a Regularizer, 'l2', a factor or None, got {value!r}")
