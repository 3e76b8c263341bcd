"""A graph of layers as the compiler sees it: weights at their places, and ops to emit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .compiler import Graph, Tensor
from .layers import Input, Layer, Symbol, Weight


@dataclass(frozen=True)
class PlacedWeight:
    """A layer's weight array and where it starts in the flat parameters, or in the flat buffers.

    ``layer`` is the number of the layer's first call.
    """

    layer: int
    name: str
    weight: Weight
    offset: int

    @property
    def size(self) -> int:
        return math.prod(self.weight.shape)

    def view(self, parameters: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """The array within the flat vectors."""
        flat = parameters if self.weight.trainable else buffers
        return flat[self.offset : self.offset + self.size].reshape(self.weight.shape)


@dataclass(frozen=True)
class LayerCall:
    """A layer applied once; ``first`` is the number of the layer's first call."""

    layer: Layer
    symbol: Symbol
    first: int


class Network:
    """Layers that are applied to each other, from inputs to outputs.

    Attributes
    ----------
    calls
        Every application of a layer, in an order in which they can run.
    weights
        In the order of the calls; a layer that is called again has no further ones.
    size, buffers
        How many numbers are trainable, and how many are not.

    Raises
    ------
    ValueError
        An output that does not come from the inputs, an input that leads to no output, symbols in a
        circle, or a layer that is shared by inputs of different shapes.
    """

    def __init__(self, inputs: Sequence[Input], outputs: Sequence[Symbol]) -> None:
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.calls: list[LayerCall] = []
        self.weights: list[PlacedWeight] = []
        self.size = self.buffers = 0
        first: dict[Layer, int] = {}
        for symbol in _in_order(self.inputs, self.outputs):
            layer = symbol.layer
            assert layer is not None
            number = first.setdefault(layer, len(self.calls))
            if number == len(self.calls):
                self._place(number, layer, symbol.inputs[0].shape)
            else:
                self._expect_same_weights(number, layer, symbol.inputs[0].shape)
            self.calls.append(LayerCall(layer, symbol, number))

    def _place(self, number: int, layer: Layer, shape: tuple[int, ...]) -> None:
        for weight in layer.weights(shape):
            offset = self.size if weight.trainable else self.buffers
            name = f"{layer.kind}_{number}.{weight.name}"
            placed = PlacedWeight(number, name, weight, offset)
            self.weights.append(placed)
            if weight.trainable:
                self.size += placed.size
            else:
                self.buffers += placed.size

    def _expect_same_weights(self, number: int, layer: Layer, shape: tuple[int, ...]) -> None:
        wanted = [w.shape for w in layer.weights(shape)]
        own = [p.weight.shape for p in self.weights if p.layer == number]
        if wanted != own:
            raise ValueError(
                f"layer {layer.kind}_{number}: is shared, with weights of shapes {own}, but for an "
                f"input of shape {shape} it needs {wanted}"
            )

    @property
    def features(self) -> list[int]:
        """Numbers of an example of each input."""
        return [math.prod(shape) for shape in self.input_shapes]

    @property
    def input_names(self) -> list[str]:
        """What inputs are called where a user gives X by names."""
        return [symbol.name or f"input_{i}" for i, symbol in enumerate(self.inputs)]

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of an example of each input."""
        return [symbol.shape for symbol in self.inputs]

    @property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of an example of each output."""
        return [symbol.shape for symbol in self.outputs]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an example of the only input."""
        (shape,) = self.input_shapes
        return shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an example of the only output."""
        (shape,) = self.output_shapes
        return shape

    @property
    def layers(self) -> list[Layer]:
        """The layer of each call."""
        return [call.layer for call in self.calls]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each call's result."""
        return [call.symbol.shape for call in self.calls]

    def initial(self, seed: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """Initial parameters and buffers, flat; each array draws from a generator of its own."""
        flat = np.empty(self.size, dtype), np.empty(self.buffers, dtype)
        for i, placed in enumerate(self.weights):
            rng = np.random.Generator(np.random.Philox(key=np.array([seed, i], np.uint64)))
            values = placed.weight.initializer.sample(placed.weight.shape, rng)
            placed.view(*flat)[...] = values
        return flat

    def views(self, parameters: np.ndarray, buffers: np.ndarray) -> list[np.ndarray]:
        """The weight arrays as views into the flat vectors."""
        return [placed.view(parameters, buffers) for placed in self.weights]

    def emit(
        self, graph: Graph, xs: Sequence[Tensor], training: bool
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Emit all layers' ops; the outputs and the parameters."""
        tensors = [
            (graph.parameter if p.weight.trainable else graph.buffer)(
                p.name, p.weight.shape, p.offset
            )
            for p in self.weights
        ]
        values: dict[Symbol, Tensor] = dict(zip(self.inputs, xs, strict=True))
        for call in self.calls:
            own = [t for t, p in zip(tensors, self.weights, strict=True) if p.layer == call.first]
            arguments = [values[symbol] for symbol in call.symbol.inputs]
            values[call.symbol] = call.layer.join(graph, arguments, own, training)
        trainable = []
        for tensor, placed in zip(tensors, self.weights, strict=True):
            if placed.weight.trainable:
                trainable.append(tensor)
            if placed.weight.constraint is not None:
                with graph.during("constrain"):
                    placed.weight.constraint.emit(graph, tensor)
        return [values[symbol] for symbol in self.outputs], trainable

    def emit_penalties(self, graph: Graph, parameters: list[Tensor]) -> list[Tensor]:
        """Emit the penalties of all regularized weights."""
        trainable = [p.weight for p in self.weights if p.weight.trainable]
        return [
            weight.regularizer.emit(graph, tensor)
            for tensor, weight in zip(parameters, trainable, strict=True)
            if weight.regularizer is not None
        ]


def chain(layers: Sequence[Layer], input_shape: tuple[int, ...]) -> Network:
    """Layers, one after the other, for examples of one shape.

    Raises
    ------
    ValueError
        A layer cannot take what comes before it; the message says which.
    """
    start = Input(input_shape)
    symbol: Symbol = start
    for i, layer in enumerate(layers):
        try:
            symbol = layer(symbol)
        except ValueError as error:
            raise ValueError(f"layer {i}: {error}") from None
    return Network([start], [symbol])


def _in_order(inputs: Sequence[Input], outputs: Sequence[Symbol]) -> Iterator[Symbol]:
    """What layers make on the way from the inputs to the outputs, each after what it is made of."""
    done: set[Symbol] = set()
    open_: set[Symbol] = set()
    stack = [(symbol, False) for symbol in reversed(outputs)]
    while stack:
        symbol, made = stack.pop()
        if made:
            open_.discard(symbol)
            done.add(symbol)
            if symbol.layer is not None:
                yield symbol
            continue
        if symbol in done:
            continue
        if symbol in open_:
            raise ValueError(f"outputs: the graph has a circle through {symbol!r}")
        if symbol.layer is None and symbol not in inputs:
            raise ValueError(f"inputs: {symbol!r} is used but not among them")
        open_.add(symbol)
        stack.append((symbol, True))
        stack += [(source, False) for source in reversed(symbol.inputs)]
    for i, symbol in enumerate(inputs):
        if symbol not in done:
            raise ValueError(f"inputs: input {i}, {symbol!r}, leads to no output")
