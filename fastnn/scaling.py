"""Initial weights that are scaled by what the data make of them."""

from __future__ import annotations

import math
from copy import copy
from typing import Any, TypeGuard

import numpy as np

from . import activations, checks
from .initializers import Orthogonal
from .layers import Activation, CosineDense, Dense, Input, Layer, WeightNormDense
from .model import Sequential


def lsuv(
    model: Sequential,
    X: Any,
    *,
    tolerance: float = 0.05,
    max_iterations: int = 10,
    batch_size: int = 512,
) -> list[float]:
    """Give every Dense layer a kernel with which its outputs over X have variance 1.

    Layer-sequential unit variance: from the first layer to the last, the kernel becomes a random
    matrix with orthonormal columns or rows, and is then divided by the standard deviation of
    z = x W + b over all rows and units, again and again until the variance of z is close to 1.
    Unlike rules that look at n and m alone, this holds for any activation, depth and scale of X.

    Biases and everything else stay, and so do layers whose values do not grow with their kernel:
    `CosineDense` and `WeightNormDense`. Call it before ``fit``: what was learned is lost.

    Parameters
    ----------
    model
        A built model with Dense layers. It need not be compiled.
    X
        Examples (n, ...) like those of the training; some hundred are enough.
    tolerance
        How far from 1 a variance may be, > 0.
    max_iterations
        How often a kernel is divided at most.
    batch_size
        Rows taken at a time; the result does not depend on it but for rounding.

    Returns
    -------
    list of float
        The variance of z of each Dense layer. With biases of more than zero variance, or a very
        small tolerance, some may not have come within it.

    Raises
    ------
    TypeError, ValueError
        Not a Sequential, no Dense layer, data or options that do not fit, or a layer whose outputs
        do not vary or are not finite. Nothing is changed then.
    RuntimeError
        The model is not built.

    Examples
    --------
    >>> import numpy as np, fastnn as fnn
    >>> from fastnn import lsuv
    >>> X = np.random.default_rng(0).uniform(size=(300, 20))
    >>> hidden = [fnn.layers.Dense(50, "relu") for _ in range(8)]
    >>> model = fnn.Sequential([fnn.Input(20), *hidden, fnn.layers.Dense(1)])
    >>> bool(np.allclose(lsuv(model, X), 1, atol=0.05))
    True

    Source: Mishkin & Matas, All you need is a good init, ICLR 2016.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model: expected a Sequential, got {type(model).__name__}")
    chain, state = model._need(compiled=False)
    if not any(_is_scaled(layer) for layer in chain.layers):
        raise ValueError(f"model: expected at least one Dense layer, got {model!r}")
    checks.number("tolerance", tolerance, 0, open_low=True)
    checks.positive_int("max_iterations", max_iterations)
    dtype = state.parameters.dtype.name
    values = checks.features("X", X, chain.input_shape, dtype).reshape(-1, *chain.input_shape)

    rng = np.random.Generator(np.random.Philox(key=model.seed))
    weights = [w.copy() for w in model.get_weights()]
    variances = []
    # Each probe takes the z of the Dense layer before as its data: on what comes before that one,
    # nothing has to run again.
    between: list[Layer] = []
    between_weights: list[np.ndarray] = []
    for i, layer in enumerate(chain.layers):
        own = [w for w, placed in zip(weights, chain.weights, strict=True) if placed.layer == i]
        if not _is_scaled(layer):
            between.append(layer)
            between_weights += own
            continue
        linear = copy(layer)
        linear.activation = activations.get(None)
        probe = Sequential([Input(values.shape[1:]), *between, linear])
        probe.compile(
            "mean_squared_error",  # to predict, any loss does
            backend=getattr(model, "backend", "auto"),  # chosen when a model is compiled
            threads=getattr(model, "threads", None),
            dtype=dtype,
        )
        probe.set_weights([*between_weights, *own])
        kernel = probe.get_weights()[len(between_weights)]
        kernel[...] = Orthogonal().sample(kernel.shape, rng)
        z, variance = _outputs(probe, values, batch_size, i)
        for _ in range(max_iterations):
            if abs(variance - 1) <= tolerance:
                break
            kernel /= math.sqrt(variance)
            z, variance = _outputs(probe, values, batch_size, i)
        own[0][...] = kernel
        variances.append(variance)
        values, between, between_weights = z, [Activation(layer.activation)], []
    model.set_weights(weights)
    return variances


def _is_scaled(layer: Layer) -> TypeGuard[Dense]:
    """Whether the layer's values grow with its kernel."""
    return isinstance(layer, Dense) and not isinstance(layer, (CosineDense, WeightNormDense))


def _outputs(
    probe: Sequential, values: np.ndarray, batch_size: int, layer: int
) -> tuple[np.ndarray, float]:
    """A layer's z for all rows, and its variance over rows and units; checked to be usable."""
    z = probe.predict(values, batch_size=batch_size)
    with np.errstate(over="ignore", invalid="ignore"):
        variance = float(z.var(dtype=np.float64))
    if not 0 < variance < math.inf:
        raise ValueError(
            f"X: expected examples for which the outputs of layer {layer} (Dense) vary and are "
            f"finite, got a variance of {variance:g}"
        )
    return z, variance
