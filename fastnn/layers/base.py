"""What layers are, and what they are applied to: configuration that says which ops to emit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import checks
from ..compiler import Graph, Tensor
from ..constraints import Constraint
from ..initializers import Initializer
from ..lookup import snake_case
from ..regularizers import Regularizer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A weight array that a layer asks for; one that is not trainable has no gradient."""

    name: str
    shape: Shape
    initializer: Initializer
    regularizer: Regularizer | None = None
    trainable: bool = True
    constraint: Constraint | None = None


class Symbol:
    """A value of one example somewhere in a graph of layers: a shape, and where it comes from.

    Calling a layer on symbols gives another one. ``+``, ``-`` and ``*`` join symbols of the same
    shape, or a symbol and a number, value by value.

    Attributes
    ----------
    shape
        Of one example, without the batch.
    layer, inputs
        The layer that makes it (None for an `Input`), and what that layer is applied to.
    """

    def __init__(
        self, shape: Shape, layer: Layer | None = None, inputs: tuple[Symbol, ...] = ()
    ) -> None:
        self.shape = shape
        self.layer = layer
        self.inputs = inputs

    # NumPy must not take `array + symbol` apart.
    __array_ufunc__ = None

    def __add__(self, other: Any) -> Symbol:
        return self._join("Add", other, offset=1.0)

    def __radd__(self, other: Any) -> Symbol:
        return self + other

    def __sub__(self, other: Any) -> Symbol:
        return self._join("Subtract", other, offset=-1.0)

    def __rsub__(self, other: Any) -> Symbol:
        return (-self) + other

    def __neg__(self) -> Symbol:
        return self * -1.0

    def __mul__(self, other: Any) -> Symbol:
        return self._join("Multiply", other, scale=1.0)

    def __rmul__(self, other: Any) -> Symbol:
        return self * other

    def _join(self, merge: str, other: Any, scale: float = 0.0, offset: float = 0.0) -> Symbol:
        """With another symbol, or by a number: x * (scale number), or x + offset number."""
        from .. import layers  # which stand on this module

        if isinstance(other, Symbol):
            return getattr(layers, merge)()(self, other)
        try:
            number = checks.number(merge, other)
        except TypeError:
            raise TypeError(
                f"{merge}: expected a number, an Input or what a layer makes of one, got {other!r}"
            ) from None
        return layers.Rescaling(scale * number if scale else 1.0, offset * number)(self)

    def __repr__(self) -> str:
        return f"<{self.layer.kind if self.layer else 'input'} of shape {self.shape}>"


class Layer:
    """Base of all layers. A layer holds no arrays and no backward pass of its own.

    Shapes are of one example, without the batch. On the graph an example is one row: a tensor of
    shape (B, number of values), whatever its shape here. A layer that is applied several times uses
    the same weights each time.
    """

    @property
    def kind(self) -> str:
        """Name of the layer's class as users write names: ``dense``."""
        return snake_case(type(self).__name__)

    def __call__(self, *inputs: Any) -> Symbol:
        """The symbol that the layer makes of others.

        Raises
        ------
        TypeError
            Not symbols.
        ValueError
            The layer cannot take their shapes, or not so many of them.
        """
        (first, *_) = inputs or (None,)
        symbols = tuple(first if len(inputs) == 1 and isinstance(first, (list, tuple)) else inputs)
        for symbol in symbols:
            if not isinstance(symbol, Symbol):
                raise TypeError(
                    f"{type(self).__name__}: expected an Input or what a layer makes of one, got "
                    f"{symbol!r}"
                )
        return Symbol(self.joined_shape([s.shape for s in symbols]), self, symbols)

    def joined_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the result for several inputs; most layers take one."""
        if len(shapes) != 1:
            raise ValueError(f"{type(self).__name__}: expected one input, got {len(shapes)}")
        return self.output_shape(shapes[0])

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the result; raises a ValueError for an input the layer cannot take."""
        return input_shape

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        """The weight arrays that the layer needs, in the order of ``get_weights``."""
        return ()

    def join(
        self, graph: Graph, xs: Sequence[Tensor], weights: Sequence[Tensor], training: bool
    ) -> Tensor:
        """Emit the layer's ops on several tensors; most layers take one."""
        (x,) = xs
        return self.emit(graph, x, weights, training)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        """Emit the layer's ops on x of shape (B, values) and return the result."""
        return x


class Input(Symbol):
    """Where examples come in, and their shape.

    First in a `Sequential` it gives the shape ahead, so that the model is built before it sees
    data; in a `Model` it is what layers are applied to.

    Parameters
    ----------
    shape
        Shape of one example without the batch: ``(784,)``, ``(28, 28)``, or ``784``.
    name
        For models of several inputs, whose examples can then be given by name.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Input((4,)), fnn.layers.Dense(3)]).count_parameters()
    15
    >>> x = fnn.Input(4)
    >>> fnn.Model(x, x + fnn.layers.Dense(4, "relu")(x)).count_parameters()
    20
    """

    def __init__(self, shape: int | Sequence[int], name: str | None = None) -> None:
        sizes = shape if isinstance(shape, Iterable) else (shape,)
        super().__init__(tuple(checks.positive_int("shape", s) for s in sizes))
        if not self.shape:
            raise ValueError("shape: an example has at least one dimension, got ()")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {name!r}")
        if name == "":
            raise ValueError("name: expected a string that is not empty")
        self.name = name

    def __repr__(self) -> str:
        return f"Input({self.shape}{f', name={self.name!r}' if self.name else ''})"
