"""Layers that bring inputs to a standard form, fitted on training data.

``adapt(X)`` looks at examples once; what it found is part of the model's weights, not trained, and
so is saved and copied with them.

>>> import numpy as np, fastnn as fnn
>>> X = np.random.default_rng(0).normal(50, 10, (100, 3))
>>> model = fnn.Sequential([fnn.layers.Standardization().adapt(X), fnn.layers.Dense(1)])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from .. import checks
from ..compiler import Graph, Tensor
from ..initializers import Initializer
from .base import Layer, Shape, Weight

Adapted = TypeVar("Adapted", bound="Fitted")


class _Found(Initializer):
    """Values that were found in data."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def sample(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return self.values.reshape(shape)

    def __repr__(self) -> str:
        return f"<found in data, {self.values.shape}>"


class Fitted(Layer):
    """Base of layers that are fitted by ``adapt`` before the model is built."""

    names: tuple[str, ...]  # of what is found

    def __init__(self) -> None:
        self._shape: Shape | None = None
        self._found: tuple[np.ndarray, ...] = ()

    def adapt(self: Adapted, X: Any) -> Adapted:
        """Look at examples (n, ...), those of the training; returns the layer.

        Raises
        ------
        ValueError, TypeError
            No rows, NaN or infinity, or no numbers.
        """
        array = checks.numeric("X", X)
        if array.ndim < 2 or array.size == 0:
            raise ValueError(
                f"X: expected examples in rows, shape (n, ...) with n > 0, got {array.shape}"
            )
        checks.finite("X", array)
        rows = array.reshape(len(array), -1).astype(np.float64)
        self._found = self.find(rows)
        self._shape = array.shape[1:]
        return self

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """What is found in rows (n, features), in the order of ``names``."""
        raise TypeError(f"{type(self).__name__} does not define find()")

    def output_shape(self, input_shape: Shape) -> Shape:
        name = type(self).__name__
        if self._shape is None:
            raise ValueError(f"{name}: call adapt(X) with training data first")
        if self._shape != input_shape:
            raise ValueError(f"{name}: is fitted to examples {self._shape}, got {input_shape}")
        return input_shape

    def weights(self, input_shape: Shape) -> Sequence[Weight]:
        return [
            Weight(name, values.shape, _Found(values), trainable=False)
            for name, values in zip(self.names, self._found, strict=True)
        ]

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class _Affine(Fitted):
    """y = scale x + shift, one number of each for a feature."""

    names: tuple[str, ...] = ("scale", "shift")

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        return graph.emit("affine", x, *weights)[0]


def _or_one(spread: np.ndarray) -> np.ndarray:
    """Features that do not vary are only centred."""
    return np.where(spread > 0, spread, 1.0)


class Standardization(_Affine):
    """y = (x - mean) / deviation of each feature, over the examples that it was adapted to.

    A feature that does not vary becomes 0. The deviation is that with n degrees of freedom.

    Source: LeCun, Bottou, Orr & Müller, Efficient backprop (1998), section 4.3.
    """

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        # Of equal numbers NumPy's deviation may be a little above 0, because their mean is rounded.
        deviation = _or_one(np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), 0.0))
        return 1 / deviation, -rows.mean(axis=0) / deviation


class MinMaxScaling(_Affine):
    """y = low + (high - low) (x - least) / (largest - least) of each feature.

    A feature that does not vary becomes ``low``. Examples beyond those that it was adapted to lie
    outside of the range.

    Parameters
    ----------
    low, high
        The range that features are brought to.

    Source: Han, Kamber & Pei, Data mining: concepts and techniques, section 3.5.2.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.low = checks.number("low", low)
        self.high = checks.number("high", high, self.low, open_low=True)

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        least = rows.min(axis=0)
        scale = (self.high - self.low) / _or_one(rows.max(axis=0) - least)
        return scale, self.low - least * scale

    def __repr__(self) -> str:
        return f"MinMaxScaling({self.low:g}, {self.high:g})"


class Centering(_Affine):
    """y = x - mean of each feature, over the examples that it was adapted to.

    Source: LeCun, Bottou, Orr & Müller, Efficient backprop (1998), section 4.3.
    """

    names = ("shift",)

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        return (-rows.mean(axis=0),)

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        return graph.emit("affine", x, None, *weights)[0]


class ExampleCentering(Layer):
    """y = x - mean of the example's own values: each image has the mean 0. Nothing is fitted.

    Source: Coates, Ng & Lee, An analysis of single-layer networks in unsupervised feature learning,
    AISTATS 2011, section 3.1.
    """

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        return graph.emit("center_rows", x)[0]

    def __repr__(self) -> str:
        return "ExampleCentering()"


class ZCAWhitening(Fitted):
    """y = (x - mean) U (S + epsilon)^(-1/2) U^T, where U S U^T is the covariance of the features.

    Features become uncorrelated, with variance 1 where it was large against epsilon, and stay as
    close to what they were as that allows: whitened images still look like images.

    Parameters
    ----------
    epsilon
        Added to the variance in each direction, > 0, in the units of x squared.

    Source: Bell & Sejnowski, The independent components of natural scenes are edge filters (1997);
    Krizhevsky, Learning multiple layers of features from tiny images (2009), appendix A.
    """

    names = ("kernel", "shift")

    def __init__(self, epsilon: float = 1e-2) -> None:
        super().__init__()
        self.epsilon = checks.number("epsilon", epsilon, 0, open_low=True)

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        mean = rows.mean(axis=0)
        centred = rows - mean
        variances, directions = np.linalg.eigh(centred.T @ centred / len(rows))
        scale = 1 / np.sqrt(np.maximum(variances, 0) + self.epsilon)
        kernel = (directions * scale) @ directions.T
        return kernel, -mean @ kernel

    def emit(self, graph: Graph, x: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
        return graph.emit("dense", x, *weights, function="identity", parameters=())[0]

    def __repr__(self) -> str:
        return f"ZCAWhitening({self.epsilon:g})"
