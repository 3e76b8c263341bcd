"""The peers of `peers` that can train with batch normalization, which scikit-learn cannot.

A hidden layer is a product without bias, batch normalization, and relu; its arrays are the kernel,
gamma and beta. The normalization divides by the root of a population's variance plus 1e-5. fastnn
and PyTorch keep running averages for later use, as they always do; NumPy and JAX are spared that.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from fastnn.benchmarks.networks import Network
from fastnn.benchmarks.peers import (
    Fastnn,
    FastnnNumba,
    FastnnNumpy,
    Jax,
    Numpy,
    Peer,
    PyTorch,
    PyTorchCompile,
)

EPSILON = 1e-5


class NormalizedFastnn(Fastnn):
    @staticmethod
    def hidden(network: Network) -> list[Any]:
        from fastnn import layers

        return [
            layer
            for units in network.sizes[1:-1]
            for layer in (
                layers.Dense(units, use_bias=False),
                layers.BatchNormalization(epsilon=EPSILON),
                layers.Activation(network.activation),
            )
        ]

    def trained(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Without the running averages, which are the last two of the five of a hidden layer."""
        return [a for i, a in enumerate(arrays) if i >= len(arrays) - 2 or i % 5 < 3]


class NormalizedFastnnNumba(NormalizedFastnn, FastnnNumba):
    """The same on the backend ``numba``."""


class NormalizedFastnnNumpy(NormalizedFastnn, FastnnNumpy):
    """The same on the backend ``numpy``."""


class NormalizedNumpy(Numpy):
    """As `Numpy`: arrays of a batch's size exist; a few vectors of one number a unit are made."""

    def __init__(self, network, X, y, weights, threads, learning_rate, **options) -> None:
        super().__init__(network, X, y, weights, threads, learning_rate, **options)
        self.gamma, self.dgamma = self.scales
        shapes = [(self.batch, units) for units in network.sizes[1:-1]]
        self.standard = [np.empty(shape, self.X.dtype) for shape in shapes]
        self.inverse = [np.empty(units, self.X.dtype) for _, units in shapes]

    def views(self, flat, like) -> tuple[list[np.ndarray], list[np.ndarray]]:
        arrays = self.arrays(flat, like)
        self.scales = [*getattr(self, "scales", []), arrays[1:-2:3]]  # gamma, then its gradient
        return [*arrays[0:-2:3], arrays[-2]], [*arrays[2:-2:3], arrays[-1]]

    def forward(self, x, y) -> float:
        last = len(self.W) - 1
        layers = zip(self.W[:last], self.b[:last], self.gamma, self.out[:last], strict=True)
        for i, (W, beta, gamma, out) in enumerate(layers):
            standard, inverse = self.standard[i], self.inverse[i]
            np.matmul(x, W, out=out)
            np.subtract(out, out.mean(axis=0), out=standard)
            np.einsum("ij,ij->j", standard, standard, out=inverse)
            inverse /= self.batch
            inverse += EPSILON
            np.sqrt(inverse, out=inverse)
            np.reciprocal(inverse, out=inverse)
            standard *= inverse
            np.multiply(standard, gamma, out=out)
            out += beta
            np.maximum(out, 0, out=out)
            x = out
        np.matmul(x, self.W[last], out=self.out[last])
        self.out[last] += self.b[last]
        return self.loss(self.out[last], y)

    def backward(self, x) -> None:
        for i in reversed(range(len(self.W))):
            delta, below = self.delta[i], self.out[i - 1] if i else x
            if i == len(self.W) - 1:
                delta.sum(axis=0, out=self.db[i])
            else:
                standard, dgamma, dbeta = self.standard[i], self.dgamma[i], self.db[i]
                np.einsum("ij,ij->j", delta, standard, out=dgamma)
                delta.sum(axis=0, out=dbeta)
                delta -= dbeta / self.batch
                standard *= dgamma / self.batch
                delta -= standard
                delta *= self.gamma[i] * self.inverse[i]
            np.matmul(below.T, delta, out=self.dW[i])
            if i:
                np.matmul(delta, self.W[i].T, out=self.delta[i - 1])
                np.greater(below, 0, out=self.slope[i - 1])
                self.delta[i - 1] *= self.slope[i - 1]

    def weights(self) -> list[np.ndarray]:
        hidden = zip(self.W[:-1], self.gamma, self.b[:-1], strict=True)
        arrays = [array for layer in hidden for array in layer] + [self.W[-1], self.b[-1]]
        return [array.copy() for array in arrays]


class NormalizedPyTorch(PyTorch):
    def modules(self, network: Network, dtype: Any) -> list[Any]:
        nn = self.torch.nn
        found: list[Any] = []
        *hidden, (inputs, classes) = pairwise(network.sizes)
        for width, units in hidden:
            found.append(nn.Linear(width, units, bias=False, dtype=dtype))
            found += [nn.BatchNorm1d(units, eps=EPSILON, dtype=dtype), nn.ReLU()]
        return [*found, nn.Linear(inputs, classes, dtype=dtype)]


class NormalizedPyTorchCompile(NormalizedPyTorch, PyTorchCompile):
    """The same through ``torch.compile``."""


class NormalizedJax(Jax):
    def outputs(self, network: Network) -> Any:
        jax, jnp = self.jax, self.jax.numpy

        def outputs(weights, x):
            for i in range(0, len(weights) - 2, 3):
                x = x @ weights[i]
                inverse = jax.lax.rsqrt(jnp.var(x, axis=0) + EPSILON)
                x = jax.nn.relu(
                    (x - jnp.mean(x, axis=0)) * inverse * weights[i + 1] + weights[i + 2]
                )
            return x @ weights[-2] + weights[-1]

        return outputs


_PEERS: tuple[type[Peer], ...] = (
    NormalizedFastnn, NormalizedFastnnNumba, NormalizedFastnnNumpy, NormalizedNumpy,
    NormalizedPyTorch, NormalizedPyTorchCompile, NormalizedJax,
)  # fmt: skip
NORMALIZED_PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in _PEERS}
