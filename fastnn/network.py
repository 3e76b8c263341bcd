"""A chain of layers as the compiler sees it: weights at their places, and ops to emit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .compiler import Graph, Tensor
from .layers import Layer, Weight


@dataclass(frozen=True)
class PlacedWeight:
    """A layer's weight array and where it starts in the flat parameters."""

    layer: int
    name: str
    weight: Weight
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.weight.shape)


class Chain:
    """Layers, one after the other, for examples of one shape.

    Raises
    ------
    ValueError
        A layer cannot take what comes before it; the message says which.
    """

    def __init__(self, layers: Sequence[Layer], input_shape: tuple[int, ...]) -> None:
        self.layers = list(layers)
        self.input_shape = input_shape
        self.features = math.prod(input_shape)
        self.shapes: list[tuple[int, ...]] = []
        self.weights: list[PlacedWeight] = []
        shape, offset = input_shape, 0
        for i, layer in enumerate(self.layers):
            try:
                after = layer.output_shape(shape)
            except ValueError as error:
                raise ValueError(f"layer {i}: {error}") from None
            for weight in layer.weights(shape):
                name = f"{layer.kind}_{i}.{weight.name}"
                self.weights.append(PlacedWeight(i, name, weight, offset))
                offset += self.weights[-1].size
            shape = after
            self.shapes.append(shape)
        self.size = offset
        self.output_shape = shape

    def initial(self, seed: int, dtype: str) -> np.ndarray:
        """Initial parameters, flat; each array draws from a generator of its own."""
        flat = np.empty(self.size, dtype)
        for i, placed in enumerate(self.weights):
            rng = np.random.Generator(np.random.Philox(key=np.array([seed, i], np.uint64)))
            values = placed.weight.initializer.sample(placed.weight.shape, rng)
            flat[placed.offset : placed.offset + placed.size] = values.ravel()
        return flat

    def views(self, flat: np.ndarray) -> list[np.ndarray]:
        """The weight arrays as views into a flat vector."""
        return [flat[p.offset : p.offset + p.size].reshape(p.weight.shape) for p in self.weights]

    def emit(self, graph: Graph, x: Tensor, training: bool) -> tuple[Tensor, list[Tensor]]:
        """Emit all layers' ops; the prediction and the parameters."""
        parameters = [graph.parameter(p.name, p.weight.shape, p.offset) for p in self.weights]
        for i, layer in enumerate(self.layers):
            own = [t for t, p in zip(parameters, self.weights, strict=True) if p.layer == i]
            x = layer.emit(graph, x, own, training)
        return x, parameters

    def emit_penalties(self, graph: Graph, parameters: list[Tensor]) -> list[Tensor]:
        """Emit the penalties of all regularized weights."""
        return [
            placed.weight.regularizer.emit(graph, tensor)
            for tensor, placed in zip(parameters, self.weights, strict=True)
            if placed.weight.regularizer is not None
        ]
