"""What a layer is: configuration that says which weights it has and which ops it emits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import checks
from ..compiler import Graph, Tensor
from ..initializers import Initializer
from ..lookup import snake_case
from ..regularizers import Regularizer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """A weight array that a layer asks for."""

    name: str
    shape: Shape
    initializer: Initializer
    regularizer: Regularizer | None = None


class Layer:
    """Base of all layers. A layer holds no arrays and no backward pass of its own.

    Shapes are of one example, without the batch. On the graph an example is one row: a tensor of
    shape (B, number of values), whatever its shape here.
    """

    name: str | None = None

    @property
    def kind(self) -> str:
        """Name of the layer's class as users write names: ``dense``."""
        return snake_case(type(self).__name__)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of the result; raises a ValueError for an input the layer cannot take."""
        return input_shape

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        """The weight arrays that the layer needs, in the order of ``get_weights``."""
        return ()

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        """Emit the layer's ops on x of shape (B, values) and return the result."""
        return x


class Input(Layer):
    """The shape of one example, given ahead so that the model is built before it sees data.

    Parameters
    ----------
    shape
        Shape of one example without the batch: ``(784,)``, ``(28, 28)``, or ``784``.

    Examples
    --------
    >>> import fastnn as fnn
    >>> fnn.Sequential([fnn.Input((4,)), fnn.layers.Dense(3)]).count_parameters()
    15
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        sizes = shape if isinstance(shape, Iterable) else (shape,)
        self.shape = tuple(checks.positive_int("shape", s) for s in sizes)
        if not self.shape:
            raise ValueError("shape: an example has at least one dimension, got ()")

    def __repr__(self) -> str:
        return f"Input({self.shape})"
