"""The layers of a multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import activations, checks, constraints, initializers, regularizers
from ..compiler import Graph, Tensor
from .base import Layer, Shape, Weight


class Dense(Layer):
    """y = f(x W + b) with x (B, inputs), W (inputs, units), b (units,).

    Parameters
    ----------
    units
        Number of outputs, >= 1.
    activation
        f: a name such as ``"relu"``, one of ``fnn.activations``, or None for the identity.
    use_bias
        Whether there is a b.
    kernel_initializer, bias_initializer
        Names or objects of ``fnn.initializers``. Glorot uniform and zeros, as in Keras.
    kernel_regularizer, bias_regularizer
        Penalties of ``fnn.regularizers``, or None. Biases are not penalised unless asked.
    kernel_constraint, bias_constraint
        What ``fnn.constraints`` enforce after each update, or None.

    Raises
    ------
    ValueError, TypeError
        Units below 1, an unknown name; at building, an example of more than one dimension.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Input(4), fnn.layers.Dense(2, activation="tanh")])
    >>> [w.shape for w in model.get_weights()]
    [(4, 2), (2,)]

    Source: Rumelhart, Hinton & Williams, Nature 323 (1986).
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        *,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
    ) -> None:
        self.units = checks.positive_int("units", units)
        self.activation = activations.get(activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = initializers.get("kernel_initializer", kernel_initializer)
        self.bias_initializer = initializers.get("bias_initializer", bias_initializer)
        self.kernel_regularizer = regularizers.get("kernel_regularizer", kernel_regularizer, 2)
        self.bias_regularizer = regularizers.get("bias_regularizer", bias_regularizer, 1)
        self.kernel_constraint = constraints.get("kernel_constraint", kernel_constraint, 2)
        self.bias_constraint = constraints.get("bias_constraint", bias_constraint, 1)

    def output_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise ValueError(
                f"Dense: expected examples of shape (inputs,), got {input_shape}; "
                "put a Flatten() layer before it"
            )
        return (self.units,)

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        kernel = Weight(
            "kernel",
            (input_shape[0], self.units),
            self.kernel_initializer,
            self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        bias = Weight(
            "bias",
            (self.units,),
            self.bias_initializer,
            self.bias_regularizer,
            constraint=self.bias_constraint,
        )
        return (kernel, bias) if self.use_bias else (kernel,)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        kernel, bias = weights if self.use_bias else (weights[0], None)
        (z,) = graph.emit("dense", x, kernel, bias, function="identity", parameters=())
        return self.activation.emit(graph, z)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.units}, activation={self.activation!r})"


class Activation(Layer):
    """y = f(x) for each value, or for each row with softmax.

    Parameters
    ----------
    activation
        A name such as ``"relu"`` or one of ``fnn.activations``.
    """

    def __init__(self, activation: Any) -> None:
        self.activation = activations.get(activation)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        return self.activation.emit(graph, x)

    def __repr__(self) -> str:
        return f"Activation({self.activation!r})"


class Dropout(Layer):
    """In training, each value becomes 0 with probability ``rate``, else x / (1 - rate).

    In evaluation and prediction nothing happens: the scaling keeps the expected value. Masks come
    from a counter (seed, layer, step, row, column), so they are the same on every backend and for
    any number of threads.

    Parameters
    ----------
    rate
        Share that is dropped, in [0, 1). 0.5 is usual for hidden units, 0.2 for inputs.

    Source: Srivastava et al., Dropout, JMLR 15 (2014).
    """

    def __init__(self, rate: float) -> None:
        self.rate = checks.number("rate", rate, 0, 1, open_high=True)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        stream = graph.new_stream()  # also when unused: a layer's number must not depend on others
        if not training or self.rate == 0:
            return x
        return graph.emit("dropout", x, rate=self.rate, stream=stream)[0]

    def __repr__(self) -> str:
        return f"Dropout({self.rate:g})"


class Flatten(Layer):
    """Examples of any shape become vectors, the last dimension fastest. Costs nothing."""

    def output_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def __repr__(self) -> str:
        return "Flatten()"


class Rescaling(Layer):
    """y = scale x + offset. As the first layer it happens while rows are gathered.

    Parameters
    ----------
    scale, offset
        Finite numbers; ``Rescaling(1 / 255)`` brings the bytes of an image to [0, 1].
    """

    def __init__(self, scale: float, offset: float = 0.0) -> None:
        self.scale = checks.number("scale", scale)
        self.offset = checks.number("offset", offset)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        return graph.emit("rescale", x, scale=self.scale, offset=self.offset)[0]

    def __repr__(self) -> str:
        return f"Rescaling({self.scale:g}, {self.offset:g})"
