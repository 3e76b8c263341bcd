"""Layers whose activation has weights of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import checks, initializers
from ..compiler import Graph, Tensor
from .base import Layer, Shape, Weight
from .core import Dense


class PReLU(Layer):
    """y = x for x > 0, else slope x, with slopes that are learned.

    Parameters
    ----------
    slope
        What slopes start with; 0.25 as in the paper.
    shared
        One slope for all values, instead of one for each.

    Source: He et al., Delving deep into rectifiers, ICCV 2015.
    """

    def __init__(self, slope: float = 0.25, *, shared: bool = False) -> None:
        self.slope = checks.number("slope", slope)
        self.shared = bool(shared)

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        size = 1 if self.shared else math.prod(input_shape)
        return [Weight("slope", (size,), initializers.Constant(self.slope))]

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        (slope,) = weights
        if self.shared:
            (slope,) = graph.emit("spread", slope, dims={"F": x.shape[1]})
        return graph.emit("prelu", x, slope)[0]

    def __repr__(self) -> str:
        return f"PReLU({self.slope:g}, shared={self.shared})"


class Maxout(Dense):
    """y = max over k of (x W_k + b_k): each unit is the largest of several linear pieces.

    Parameters
    ----------
    units
        Number of outputs, >= 1.
    pieces
        k, >= 2.
    **options
        As for `Dense`; there is no activation. Piece i of unit j is column i units + j of the
        kernel.

    Source: Goodfellow et al., Maxout networks, ICML 2013.
    """

    def __init__(self, units: int, pieces: int = 2, **options: Any) -> None:
        if options.get("activation") is not None:
            raise TypeError("activation: a Maxout layer has none, the largest piece is its output")
        super().__init__(units, **options)
        self.pieces = checks.positive_int("pieces", pieces, least=2)

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        wide = Dense.__new__(Dense)
        wide.__dict__ = self.__dict__ | {"units": self.units * self.pieces}
        return Dense.weights(wide, input_shape)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        z = super().emit(graph, x, weights, training)
        largest = None
        for left in range(self.pieces - 1, 0, -1):
            piece, z = graph.emit("split", z, dims={"M": self.units, "N": self.units * left})
            largest = piece if largest is None else _larger(graph, largest, piece)
        assert largest is not None
        return _larger(graph, largest, z)

    def __repr__(self) -> str:
        return f"Maxout({self.units}, {self.pieces})"


def _larger(graph: Graph, a: Tensor, b: Tensor) -> Tensor:
    return graph.emit("merge", a, b, function="maximum", parameters=())[0]
