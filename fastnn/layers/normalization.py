"""Layers that normalize: over a batch, over an example, or their own weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import checks, initializers, regularizers
from ..compiler import Graph, Tensor
from .base import Layer, Shape, Weight
from .core import Dense


class _Scaled(Layer):
    """What normalizing layers share: a learned scale (gamma) and shift (beta) of every value."""

    def __init__(self, epsilon: float, scale: bool, center: bool, regularizer: Any) -> None:
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)
        self.scale, self.center = bool(scale), bool(center)
        self.gamma_regularizer = regularizers.get("gamma_regularizer", regularizer, 1)

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        size = (math.prod(input_shape),)
        found = []
        if self.scale:
            found.append(Weight("gamma", size, initializers.Ones(), self.gamma_regularizer))
        if self.center:
            found.append(Weight("beta", size, initializers.Zeros()))
        return found

    def factors(self, weights: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """gamma and beta, or None for what is not there."""
        rest = list(weights)
        gamma = rest.pop(0) if self.scale else None
        return gamma, rest.pop(0) if self.center else None

    def rescale(self, graph: Graph, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Emit gamma x + beta."""
        gamma, beta = self.factors(weights)
        return x if gamma is beta is None else graph.emit("affine", x, gamma, beta)[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epsilon={self.epsilon:g})"


class BatchNormalization(_Scaled):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta, with those of the batch, by unit.

    While training, the mean and the variance are those of the batch; evaluation and prediction use
    running averages, running <- momentum running + (1 - momentum) new, which start at 0 and 1. The
    batch is divided by the root of its variance with n degrees of freedom; averaged is the variance
    with n - 1, as in the paper (Keras averages the first). The mean of a batch is not rounded
    before it is subtracted, so large means cost no precision.

    Parameters
    ----------
    momentum
        In [0, 1): 0.9 is PyTorch's ``momentum=0.1`` (Keras: 0.99).
    epsilon
        Added to the variance, > 0: 1e-5 as in PyTorch (Keras: 1e-3).
    scale, center
        Whether there is a gamma, and a beta.
    gamma_regularizer
        Penalty on gamma, or None.
    renorm
        Batch renormalization: also while training, values are those that the running averages would
        give, as far as they are not too far off: y = (x - mean) / deviation r + d with
        r = deviation / running deviation in [1 / most_scale, most_scale] and
        d = (mean - running mean) / running deviation in [-most_shift, most_shift], both taken for
        constants by the gradient. It helps where batches are small. `check_gradients` therefore
        finds the gradient of what comes before it to differ from the slope of the loss.
    most_scale, most_shift
        Bounds of r (>= 1) and d (>= 0); 3 and 5 are the paper's.

    Examples
    --------
    >>> import fastnn as fnn
    >>> model = fnn.Sequential([fnn.Input(4), fnn.layers.BatchNormalization()])
    >>> [w.shape for w in model.get_weights()]  # gamma, beta, running mean and variance
    [(4,), (4,), (4,), (4,)]
    >>> model.count_parameters()
    8

    Source: Ioffe & Szegedy, Batch normalization, ICML 2015; Ioffe, Batch renormalization, NIPS
    2017.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        *,
        scale: bool = True,
        center: bool = True,
        gamma_regularizer: Any = None,
        renorm: bool = False,
        most_scale: float = 3.0,
        most_shift: float = 5.0,
    ) -> None:
        super().__init__(epsilon, scale, center, gamma_regularizer)
        self.momentum = checks.number("momentum", momentum, 0, 1, open_high=True)
        self.renorm = bool(renorm)
        self.most_scale = checks.number("most_scale", most_scale, 1)
        self.most_shift = checks.number("most_shift", most_shift, 0)

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        size = (math.prod(input_shape),)
        return [
            *super().weights(input_shape),
            Weight("running_mean", size, initializers.Zeros(), trainable=False),
            Weight("running_variance", size, initializers.Ones(), trainable=False),
        ]

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        *own, running_mean, running_variance = weights
        running = (running_mean, running_variance)
        if not training:
            (y,) = graph.emit("standardize", x, *running, epsilon=self.epsilon)
            return self.rescale(graph, y, own)
        factors = (None, None) if self.renorm else self.factors(own)
        changes = any(t is not None for t in factors)
        y, mean, variance, _ = graph.emit(
            "standardize_columns", x, *factors, outputs=(True, True, True, changes),
            epsilon=self.epsilon, function="identity", parameters=(),
        )  # fmt: skip
        if self.renorm:
            corrections = graph.emit(
                "renormalization", mean, variance, *running, epsilon=self.epsilon,
                most_scale=self.most_scale, most_shift=self.most_shift,
            )  # fmt: skip
            (y,) = graph.emit("affine", y, *corrections)
            y = self.rescale(graph, y, own)
        with graph.during("update"):
            graph.emit("running_statistics", mean, variance, *running, momentum=self.momentum)
        return y


class LayerNormalization(_Scaled):
    """y = gamma (x - mean) / sqrt(variance + epsilon) + beta, with those of the example's values.

    The same in training and prediction, and for any size of batch.

    Parameters
    ----------
    epsilon
        Added to the variance, > 0: 1e-5 as in PyTorch (Keras: 1e-3).
    scale, center
        Whether there is a gamma, and a beta: one number for each value of an example.
    gamma_regularizer
        Penalty on gamma, or None.

    Source: Ba, Kiros & Hinton, Layer normalization (2016).
    """

    def __init__(
        self,
        epsilon: float = 1e-5,
        *,
        scale: bool = True,
        center: bool = True,
        gamma_regularizer: Any = None,
    ) -> None:
        super().__init__(epsilon, scale, center, gamma_regularizer)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        y, _ = graph.emit("standardize_rows", x, epsilon=self.epsilon)
        return self.rescale(graph, y, weights)


class WeightNormDense(Dense):
    """y = f(x W + b) with W = g V / |V|: direction and length of each unit's weights apart.

    |V| is the length of each column. V is scaled to columns of length 1 in the forward pass only,
    and learned as it is.

    Parameters
    ----------
    units, activation, use_bias, bias_initializer, bias_regularizer
        As for `Dense`.
    kernel_initializer, kernel_regularizer
        Of V.
    gain
        What g starts with, > 0.

    Source: Salimans & Kingma, Weight normalization, NIPS 2016.
    """

    def __init__(self, units: int, activation: Any = None, *, gain: float = 1.0, **options: Any):
        super().__init__(units, activation, **options)
        self.gain = checks.number("gain", gain, 0, open_low=True)

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        kernel, *bias = super().weights(input_shape)
        return [kernel, Weight("gain", (self.units,), initializers.Constant(self.gain)), *bias]

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        kernel, gain, *bias = weights
        unit, _ = graph.emit("unit_columns", kernel)
        (w,) = graph.emit("affine", unit, gain, None)
        return super().emit(graph, x, [w, *bias], training)


class CosineDense(Dense):
    """y = f(gain cos(x, w)), the cosine of the angle between an example and each unit's weights.

    Values before f are in [-gain, gain], whatever the lengths of x and of the weights.

    Parameters
    ----------
    units, activation, kernel_initializer, kernel_regularizer
        As for `Dense`. There is no bias.
    gain
        > 0; the paper's cosine has 1.

    Source: Luo et al., Cosine normalization: using cosine similarity instead of dot product in
    neural networks, ICANN 2018.
    """

    def __init__(self, units: int, activation: Any = None, *, gain: float = 1.0, **options: Any):
        for name in options:
            if "bias" in name:
                raise TypeError(f"{name}: a CosineDense layer has no bias")
        super().__init__(units, activation, use_bias=False, **options)
        self.gain = checks.number("gain", gain, 0, open_low=True)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        examples, _ = graph.emit("unit_rows", x)
        units, _ = graph.emit("unit_columns", weights[0])
        (y,) = graph.emit("dense", examples, units, None, function="identity", parameters=())
        if self.gain != 1:
            (y,) = graph.emit("rescale", y, scale=self.gain, offset=0.0)
        return self.activation.emit(graph, y)
