"""Layers that join what several others make."""

from __future__ import annotations

from collections.abc import Sequence

from ..compiler import Graph, Tensor
from .base import Layer, Shape, Symbol


class Merge(Layer):
    """Base of layers that take two or more inputs of the same shape."""

    def joined_shape(self, shapes: Sequence[Shape]) -> Shape:
        name = type(self).__name__
        if len(shapes) < 2:
            raise ValueError(f"{name}: expected at least two inputs, got {len(shapes)}")
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"{name}: expected inputs of the same shape, got {', '.join(map(str, shapes))}"
            )
        return shapes[0]

    def join(
        self, graph: Graph, xs: Sequence[Tensor], weights: Sequence[Tensor], training: bool
    ) -> Tensor:
        joined, *rest = xs
        for x in rest:
            joined = self.pair(graph, joined, x)
        return joined

    def pair(self, graph: Graph, a: Tensor, b: Tensor) -> Tensor:
        """Emit the op that joins two tensors."""
        return graph.emit("merge", a, b, function=self.kind, parameters=())[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Add(Merge):
    """y = a + b + ..., value by value; also written ``a + b``.

    Around other layers it makes a residual connection, through which gradients pass unchanged.

    Examples
    --------
    >>> import fastnn as fnn
    >>> x = fnn.Input(3)
    >>> fnn.layers.Add()(x, fnn.layers.Dense(3)(x)).shape
    (3,)

    Source: He et al., Deep residual learning for image recognition, CVPR 2016.
    """

    def pair(self, graph: Graph, a: Tensor, b: Tensor) -> Tensor:
        return graph.emit("add", a, b)[0]


class Subtract(Merge):
    """y = a - b; also written ``a - b``.

    Source: Griewank & Walther, Evaluating Derivatives, table 2.3.
    """

    def joined_shape(self, shapes: Sequence[Shape]) -> Shape:
        if len(shapes) != 2:
            raise ValueError(f"Subtract: expected two inputs, got {len(shapes)}")
        return super().joined_shape(shapes)


class Multiply(Merge):
    """y = a b ..., value by value; also written ``a * b``.

    Source: Griewank & Walther, Evaluating Derivatives, table 2.3.
    """


class Maximum(Merge):
    """y = max(a, b, ...), value by value; among equal values the gradient is divided.

    Source: Griewank & Walther, Evaluating Derivatives, section 14.1.
    """


class Minimum(Merge):
    """y = min(a, b, ...), value by value; among equal values the gradient is divided.

    Source: Griewank & Walther, Evaluating Derivatives, section 14.1.
    """


class Average(Add):
    """y = (a + b + ...) / number of inputs, value by value.

    Source: Hansen & Salamon, Neural network ensembles (1990).
    """

    def join(
        self, graph: Graph, xs: Sequence[Tensor], weights: Sequence[Tensor], training: bool
    ) -> Tensor:
        sum_ = super().join(graph, xs, weights, training)
        return graph.emit("rescale", sum_, scale=1 / len(xs), offset=0.0)[0]


class Concatenate(Merge):
    """The values of a, then those of b, ...; inputs of shape (n,), which may differ.

    Source: Huang et al., Densely connected convolutional networks, CVPR 2017.
    """

    def joined_shape(self, shapes: Sequence[Shape]) -> Shape:
        if len(shapes) < 2:
            raise ValueError(f"Concatenate: expected at least two inputs, got {len(shapes)}")
        for shape in shapes:
            if len(shape) != 1:
                raise ValueError(
                    f"Concatenate: expected inputs of shape (n,), got {shape}; "
                    "put a Flatten() layer before it"
                )
        return (sum(size for (size,) in shapes),)

    def pair(self, graph: Graph, a: Tensor, b: Tensor) -> Tensor:
        return graph.emit("concatenate", a, b)[0]


def maximum(*inputs: Symbol) -> Symbol:
    """The largest of several symbols, value by value: see `fastnn.layers.Maximum`."""
    return Maximum()(*inputs)


def minimum(*inputs: Symbol) -> Symbol:
    """The least of several symbols, value by value: see `fastnn.layers.Minimum`."""
    return Minimum()(*inputs)


def average(*inputs: Symbol) -> Symbol:
    """The mean of several symbols, value by value: see `fastnn.layers.Average`."""
    return Average()(*inputs)


def concatenate(*inputs: Symbol) -> Symbol:
    """The values of several symbols, one after the other: see `fastnn.layers.Concatenate`."""
    return Concatenate()(*inputs)
