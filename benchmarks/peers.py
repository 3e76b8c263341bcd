"""The peers of the whole-step benchmark, and the worker process in which one of them runs.

Every peer does the same work: one number type, the batches in the given order, one Adam step for
each (beta 0.9 and 0.999, epsilon 1e-7), and the mean of the steps' losses. Each is written the way
its own documentation advises; README.md states the settings.

Run as a script this module is a worker: it holds one peer, reads one JSON request a line from its
standard input, and answers with one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from fastnn.benchmarks.networks import (
    MANY,
    NETWORKS,
    PIXELS,
    SCALING,
    Network,
    initial_weights,
    problem,
)

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7


class Peer(ABC):
    """One library training one network from given weights."""

    name: ClassVar[str]
    # Adam adds epsilon to the bias-corrected root of v (Algorithm 1 of Kingma and Ba), or, as
    # the "epsilon hat" at the end of their section 2, to the uncorrected one. The two differ
    # visibly in the first steps, so the check needs to know which one a peer computes.
    epsilon_hat: ClassVar[bool] = False
    # A peer that compiles for minutes runs only when it is named.
    by_default: ClassVar[bool] = True

    @abstractmethod
    def __init__(
        self,
        network: Network,
        X: np.ndarray,
        y: np.ndarray,
        weights: list[np.ndarray],
        threads: int,
        learning_rate: float,
    ) -> None: ...

    @abstractmethod
    def epoch(self) -> float:
        """Train once over all batches in order; the mean of the losses before each update."""

    @abstractmethod
    def weights(self) -> list[np.ndarray]:
        """``[W, b, W, b, ...]`` with W of shape (inputs, units)."""


class Fastnn(Peer):
    name = "fastnn"
    backend: ClassVar[str] = "cython"

    def __init__(self, network, X, y, weights, threads, learning_rate) -> None:
        from fastnn import Sequential, layers, optimizers

        last = layers.Dense(network.sizes[-1], activation="softmax" if network.classifies else None)
        self.model = Sequential([*self.hidden(network), last], seed=0)
        self.model.compile(
            loss=network.loss,
            optimizer=optimizers.Adam(learning_rate=learning_rate, epsilon=EPSILON),
            backend=self.backend,
            dtype=X.dtype.name,
            threads=None if self.backend == "numpy" else threads,  # NumPy's BLAS has its own
        )
        self.model.build((network.sizes[0],))
        for own, given in zip(self.trained(self.model.get_weights()), weights, strict=True):
            own[...] = given
        self.X, self.y, self.batch = X, y, network.batch

    @staticmethod
    def hidden(network) -> list[Any]:
        from fastnn import layers

        return [layers.Dense(units, network.activation) for units in network.sizes[1:-1]]

    def epoch(self) -> float:
        history = self.model.fit(
            self.X, self.y, batch_size=self.batch, epochs=1, shuffle=False, verbose=0
        )
        return float(history.history["loss"][-1])

    def trained(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Those of the model's arrays that are trained."""
        return arrays

    def weights(self) -> list[np.ndarray]:
        return self.trained(self.model.get_weights())


class FastnnNumba(Fastnn):
    name = "fastnn-numba"
    backend = "numba"


class FastnnNumpy(Fastnn):
    name = "fastnn-numpy"
    backend = "numpy"


class Numpy(Peer):
    """The baseline: vectorised NumPy with everything allocated once.

    Parameters, gradients and Adam's moments are flat vectors with the layers as views, because the
    update then costs twelve NumPy calls a step and not twelve for every array. It goes by blocks
    that stay in the cache from one call to the next, a fifth of the step of the two large networks.
    In float64 this peer is the reference for the check of all of them.
    """

    name = "numpy"
    block: ClassVar[int] = 1 << 15

    def __init__(
        self,
        network,
        X,
        y,
        weights,
        threads,
        learning_rate,
        dtype=None,
        epsilon_hat: bool = False,
    ) -> None:
        dtype = X.dtype if dtype is None else dtype
        self.batch, self.classifies = network.batch, network.classifies
        self.tanh = network.activation == "tanh"
        self.learning_rate, self.hat, self.t = learning_rate, epsilon_hat, 0
        self.X, self.y = X.astype(dtype, copy=False), y if self.classifies else y.astype(dtype)
        flat = np.concatenate([array.ravel() for array in weights]).astype(dtype)
        gradient, m, v, scratch = (np.zeros_like(flat) for _ in range(4))
        self.W, self.b = self.views(flat, weights)
        self.dW, self.db = self.views(gradient, weights)
        blocks = [slice(start, start + self.block) for start in range(0, len(flat), self.block)]
        self.blocks = [(flat[i], gradient[i], m[i], v[i], scratch[i]) for i in blocks]
        shapes = [(self.batch, units) for units in network.sizes[1:]]
        self.out = [np.empty(shape, dtype) for shape in shapes]
        self.delta = [np.empty(shape, dtype) for shape in shapes]
        self.slope = [np.empty(shape, dtype if self.tanh else bool) for shape in shapes]
        self.rows = np.arange(self.batch)

    @staticmethod
    def arrays(flat, like) -> list[np.ndarray]:
        """A flat vector as arrays of the shapes of others, which share its memory."""
        edges = np.cumsum([0, *(array.size for array in like)])
        return [
            flat[start:stop].reshape(array.shape)
            for (start, stop), array in zip(pairwise(edges), like, strict=True)
        ]

    def views(self, flat, like) -> tuple[list[np.ndarray], list[np.ndarray]]:
        arrays = self.arrays(flat, like)
        return arrays[0::2], arrays[1::2]

    def epoch(self) -> float:
        starts = range(0, len(self.X), self.batch)
        total = 0.0
        for start in starts:
            x = self.X[start : start + self.batch]
            total += self.forward(x, self.y[start : start + self.batch])
            self.backward(x)
            self.update()
        return total / len(starts)

    def forward(self, x, y) -> float:
        last = len(self.W) - 1
        for i, (W, b, out) in enumerate(zip(self.W, self.b, self.out, strict=True)):
            np.matmul(x, W, out=out)
            out += b
            if i < last and self.tanh:
                np.tanh(out, out=out)
            elif i < last:
                np.maximum(out, 0, out=out)
            x = out
        return self.loss(x, y)

    def loss(self, x, y) -> float:
        """The loss of the batch's outputs x; leaves its gradient by them in delta[-1]."""
        delta = self.delta[-1]
        if self.classifies:
            x -= x.max(axis=1, keepdims=True)
            np.exp(x, out=delta)
            sums = delta.sum(axis=1, keepdims=True)
            delta /= sums
            delta[self.rows, y] -= 1
            delta /= self.batch
            return float((np.log(sums[:, 0]) - x[self.rows, y]).mean())
        np.subtract(x, y, out=delta)
        loss = float(np.square(delta).mean())
        delta *= 2 / delta.size
        return loss

    def backward(self, x) -> None:
        for i in reversed(range(len(self.W))):
            delta, below = self.delta[i], self.out[i - 1] if i else x
            np.matmul(below.T, delta, out=self.dW[i])
            delta.sum(axis=0, out=self.db[i])
            if i:
                np.matmul(delta, self.W[i].T, out=self.delta[i - 1])
                slope = self.slope[i - 1]
                if self.tanh:
                    np.multiply(below, below, out=slope)
                    np.subtract(1, slope, out=slope)
                else:
                    np.greater(below, 0, out=slope)
                self.delta[i - 1] *= slope

    def update(self) -> None:
        self.t += 1
        # Both bias corrections go into scalars: one pass over the parameters less.
        root = float(np.sqrt(1 - BETA2**self.t))
        rate = self.learning_rate * root / (1 - BETA1**self.t)
        epsilon = EPSILON if self.hat else EPSILON * root
        for w, g, m, v, scratch in self.blocks:
            m *= BETA1
            np.multiply(g, 1 - BETA1, out=scratch)
            m += scratch
            v *= BETA2
            np.multiply(g, g, out=scratch)
            scratch *= 1 - BETA2
            v += scratch
            np.sqrt(v, out=scratch)
            scratch += epsilon
            np.divide(m, scratch, out=scratch)
            scratch *= rate
            w -= scratch

    def weights(self) -> list[np.ndarray]:
        return [array.copy() for pair in zip(self.W, self.b, strict=True) for array in pair]


class PlainNumpy(Peer):
    """NumPy as a textbook writes it: whole-array expressions, a loop over the layers."""

    name = "numpy-plain"

    def __init__(self, network, X, y, weights, threads, learning_rate) -> None:
        self.X, self.y, self.batch = X, y, network.batch
        self.classifies, self.learning_rate, self.t = network.classifies, learning_rate, 0
        self.tanh = network.activation == "tanh"
        self.parameters = [array.copy() for array in weights]
        self.m = [np.zeros_like(p) for p in weights]
        self.v = [np.zeros_like(p) for p in weights]

    def epoch(self) -> float:
        losses = []
        for start in range(0, len(self.X), self.batch):
            batch = slice(start, start + self.batch)
            loss, gradients = self.gradients(self.X[batch], self.y[batch])
            self.update(gradients)
            losses.append(loss)
        return float(np.mean(losses))

    def gradients(self, x, y) -> tuple[float, list[np.ndarray]]:
        Ws, bs = self.parameters[0::2], self.parameters[1::2]
        inputs = [x]
        for W, b in zip(Ws[:-1], bs[:-1], strict=True):
            z = inputs[-1] @ W + b
            inputs.append(np.tanh(z) if self.tanh else np.maximum(z, 0))
        z = inputs[-1] @ Ws[-1] + bs[-1]
        if self.classifies:
            shifted = z - z.max(axis=1, keepdims=True)
            p = np.exp(shifted)
            p /= p.sum(axis=1, keepdims=True)
            right = np.arange(len(x)), y
            loss = -np.log(p[right]).mean()
            p[right] -= 1
            delta = p / len(x)
        else:
            loss = np.square(z - y).mean()
            delta = 2 * (z - y) / z.size
        gradients: list[np.ndarray] = []
        for W, a in zip(reversed(Ws), reversed(inputs), strict=True):
            gradients = [a.T @ delta, delta.sum(axis=0), *gradients]
            if a is not x:
                delta = (delta @ W.T) * (1 - a**2 if self.tanh else a > 0)
        return float(loss), gradients

    def update(self, gradients) -> None:
        self.t += 1
        for i, g in enumerate(gradients):
            self.m[i] = BETA1 * self.m[i] + (1 - BETA1) * g
            self.v[i] = BETA2 * self.v[i] + (1 - BETA2) * g**2
            m = self.m[i] / (1 - BETA1**self.t)
            v = self.v[i] / (1 - BETA2**self.t)
            self.parameters[i] -= self.learning_rate * m / (np.sqrt(v) + EPSILON)

    def weights(self) -> list[np.ndarray]:
        return [array.copy() for array in self.parameters]


class PyTorch(Peer):
    name = "pytorch"

    def __init__(self, network, X, y, weights, threads, learning_rate) -> None:
        import torch
        from torch import nn

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = nn.Sequential(*self.modules(network, getattr(torch, X.dtype.name)))
        with torch.no_grad():
            for parameter, array in zip(self.model.parameters(), weights, strict=True):
                parameter.copy_(torch.from_numpy(array.T))
        loss = nn.functional.cross_entropy if network.classifies else nn.functional.mse_loss
        self.loss = self.compiled(lambda x, y: loss(self.model(x), y))
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), learning_rate, (BETA1, BETA2), EPSILON, fused=True
        )
        # Slicing once and not in every epoch spares PyTorch two operators a step.
        batches = torch.from_numpy(X).split(network.batch), torch.from_numpy(y).split(network.batch)
        self.batches = list(zip(*batches, strict=True))

    def modules(self, network: Network, dtype: Any) -> list[Any]:
        nn = self.torch.nn
        found: list[Any] = []
        for i, (inputs, units) in enumerate(pairwise(network.sizes)):
            found += [nn.Tanh() if network.activation == "tanh" else nn.ReLU()] if i else []
            found.append(nn.Linear(inputs, units, dtype=dtype))
        return found

    def compiled(self, function: Any) -> Any:
        return function

    def epoch(self) -> float:
        losses = []
        for x, y in self.batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(x, y)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())  # an .item() here would cost a synchronisation a step
        return float(self.torch.stack(losses).mean())

    def weights(self) -> list[np.ndarray]:
        return [parameter.detach().numpy().T.copy() for parameter in self.model.parameters()]


class PyTorchCompile(PyTorch):
    """Forward, loss and backward through torch.compile; the optimizer is the fused one already."""

    name = "pytorch-compile"
    by_default = False

    def compiled(self, function: Any) -> Any:
        return self.torch.compile(function)


class Jax(Peer):
    """One jitted call an epoch: lax.scan over the batches, the state donated."""

    name = "jax"

    def __init__(self, network, X, y, weights, threads, learning_rate) -> None:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_enable_x64", X.dtype == np.float64)
        self.jax = jax
        self.run = jax.jit(self.epochs(network), donate_argnums=0)
        self.state, self.rate = self.start(weights), learning_rate
        self.X = jnp.asarray(X.reshape(-1, network.batch, X.shape[1]))
        self.y = jnp.asarray(y.reshape(-1, network.batch, *y.shape[1:]))

    def epochs(self, network: Network) -> Any:
        """A function of state, learning rate and data that trains for an epoch."""
        jax, jnp = self.jax, self.jax.numpy
        outputs = self.outputs(network)

        def loss(weights, x, y):
            x = outputs(weights, x)
            if network.classifies:
                picked = jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1)
                return -jnp.mean(picked)
            return jnp.mean(jnp.square(x - y))

        def step(learning_rate, state, batch):
            weights, m, v, t = state
            value, gradient = jax.value_and_grad(loss)(weights, *batch)
            t = t + 1
            m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, gradient)
            v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, gradient)
            # expm1, because 1 - 0.999**t in float32 has lost four digits in the first step.
            root = jnp.sqrt(-jnp.expm1(t * np.log(BETA2)))
            rate = learning_rate * root / -jnp.expm1(t * np.log(BETA1))
            weights = jax.tree.map(
                lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON * root), weights, m, v
            )
            return (weights, m, v, t), value

        def epoch(state, learning_rate, X, y):
            state, losses = jax.lax.scan(partial(step, learning_rate), state, (X, y))
            return state, jnp.mean(losses)

        return epoch

    def outputs(self, network: Network) -> Any:
        """A function of the weights and rows: what the last layer gives, before the loss."""
        jax = self.jax
        activation = jax.numpy.tanh if network.activation == "tanh" else jax.nn.relu

        def outputs(weights, x):
            for i in range(0, len(weights), 2):
                x = (activation(x) if i else x) @ weights[i] + weights[i + 1]
            return x

        return outputs

    def start(self, weights: list[np.ndarray]) -> Any:
        jnp = self.jax.numpy
        start = [jnp.asarray(array) for array in weights]
        zeros = [[jnp.zeros_like(array) for array in start] for _ in range(2)]
        return (start, *zeros, jnp.zeros(()))

    def epoch(self) -> float:
        result = self.run(self.state, self.rate, self.X, self.y)
        self.state, loss = self.jax.block_until_ready(result)
        return float(loss)

    def weights(self) -> list[np.ndarray]:
        return [np.array(array) for array in self.state[0]]


class ScikitLearn(Peer):
    """MLPClassifier or MLPRegressor; one partial_fit of the whole data is one epoch of batches.

    Two things are its own. Its squared loss is half of ours, hence half the gradient: with half
    the epsilon Adam does the same steps, and the loss is doubled here. And its Adam has the
    epsilon-hat form.
    """

    name = "scikit-learn"
    epsilon_hat = True

    def __init__(self, network, X, y, weights, threads, learning_rate) -> None:
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        self.scale = 1 if network.classifies else 2
        self.X, self.y = X, y.ravel()
        self.model = (MLPClassifier if network.classifies else MLPRegressor)(
            hidden_layer_sizes=network.sizes[1:-1],
            activation=network.activation,
            alpha=0.0,
            batch_size=network.batch,
            learning_rate_init=learning_rate,
            shuffle=False,
            beta_1=BETA1,
            beta_2=BETA2,
            epsilon=EPSILON / self.scale,
            n_iter_no_change=sys.maxsize,
        )
        # Weights exist only after a first call, and that call also makes the optimizer; without
        # its optimizer the next call makes a new one, for the weights given here.
        classes = {"classes": np.arange(network.sizes[-1])} if network.classifies else {}
        self.model.partial_fit(X[: network.batch], self.y[: network.batch], **classes)
        self.model.coefs_ = [array.copy() for array in weights[0::2]]
        self.model.intercepts_ = [array.copy() for array in weights[1::2]]
        del self.model._optimizer

    def epoch(self) -> float:
        return self.scale * float(self.model.partial_fit(self.X, self.y).loss_)

    def weights(self) -> list[np.ndarray]:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return [array.copy() for pair in pairs for array in pair]


class OneByOne(Peer):
    """All copies of a network, each trained for an epoch before the next one."""

    one: ClassVar[type[Any]]

    def __init__(self, network, X, y, weights, threads, learning_rate, **options) -> None:
        starts = [initial_weights(network.sizes, seed) for seed in range(network.copies)]
        starts = [[array.astype(X.dtype) for array in start] for start in starts]
        self.peers = [
            self.one(network, X, y, start, threads, rate, **options)
            for start, rate in zip(starts, network.rates, strict=True)
        ]

    def epoch(self) -> float:
        return float(np.mean([peer.epoch() for peer in self.peers]))

    def weights(self) -> list[np.ndarray]:
        return [array for peer in self.peers for array in peer.weights()]


class NumpyOneByOne(OneByOne):
    name = "numpy"
    one = Numpy


class ScikitLearnOneByOne(OneByOne):
    name = "scikit-learn"
    epsilon_hat = True
    one = ScikitLearn


class PyTorchOneByOne(OneByOne):
    name = "pytorch"
    by_default = False  # ten times as long as scikit-learn
    one = PyTorch


class FastnnTogether(OneByOne):
    """``fit_many``: each model on one of the threads."""

    name = "fastnn"
    one = Fastnn

    def __init__(self, network, X, y, weights, threads, learning_rate) -> None:
        super().__init__(network, X, y, weights, 1, learning_rate)
        self.X, self.y, self.batch, self.threads = X, y, network.batch, threads
        self.models = [peer.model for peer in self.peers]

    def epoch(self) -> float:
        from fastnn import fit_many

        found = fit_many(
            self.models, self.X, self.y, batch_size=self.batch, shuffle=False,
            threads=self.threads, verbose=0,
        )  # fmt: skip
        return float(np.mean([history.history["loss"][-1] for history in found]))


class FastnnNumbaTogether(FastnnTogether):
    name = "fastnn-numba"
    one = FastnnNumba


class JaxTogether(Jax):
    """The epoch of `Jax` under ``vmap`` over weights, state and learning rate."""

    def __init__(self, network, X, y, weights, threads, learning_rate) -> None:
        super().__init__(network, X, y, weights, threads, learning_rate)
        jnp = self.jax.numpy
        every = [initial_weights(network.sizes, seed) for seed in range(network.copies)]
        starts = [self.start([array.astype(X.dtype) for array in one]) for one in every]
        self.state = self.jax.tree.map(lambda *copies: jnp.stack(copies), *starts)
        self.rate = jnp.asarray(network.rates, X.dtype)

    def epochs(self, network: Network) -> Any:
        together = self.jax.vmap(super().epochs(network), in_axes=(0, 0, None, None))

        def epoch(state, rates, X, y):
            state, losses = together(state, rates, X, y)
            return state, self.jax.numpy.mean(losses)

        return epoch

    def weights(self) -> list[np.ndarray]:
        stacked = super().weights()
        return [array[i] for i in range(len(stacked[0])) for array in stacked]


_OURS = (Fastnn, FastnnNumba, FastnnNumpy, Numpy, PlainNumpy)
_OTHERS = (PyTorch, PyTorchCompile, Jax, ScikitLearn)
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (*_OURS, *_OTHERS)}

_TOGETHER = (
    FastnnTogether, FastnnNumbaTogether, NumpyOneByOne, PyTorchOneByOne, JaxTogether,
    ScikitLearnOneByOne,
)  # fmt: skip
#: Those that train many networks.
PEERS_OF_MANY: dict[str, type[Peer]] = {peer.name: peer for peer in _TOGETHER}


def peers_of(network: Network) -> dict[str, type[Peer]]:
    """The peers of a network by name."""
    if network.normalized:
        from fastnn.benchmarks.normalized_peers import NORMALIZED_PEERS

        return NORMALIZED_PEERS
    return PEERS_OF_MANY if network.copies > 1 else PEERS


class Worker:
    """What a worker process does on request; every method answers with something JSON can hold."""

    def __init__(self, peer: str, network: str, threads: int, dtype: str) -> None:
        self.network = (NETWORKS | PIXELS | MANY | SCALING)[network]
        self.make = peers_of(self.network)[peer]
        self.threads, self.dtype = threads, dtype
        self.peer: Peer | None = None

    def build(self, steps: int | None) -> Peer:
        X, y, weights = problem(self.network, steps)
        X, weights = X.astype(self.dtype), [array.astype(self.dtype) for array in weights]
        y = y if self.network.classifies else y.astype(self.dtype)
        return self.make(self.network, X, y, weights, self.threads, self.network.learning_rate)

    def check(self, steps: int, epochs: int, file: str) -> dict[str, Any]:
        """Train a short while, write the weights to ``file``, answer with the epochs' losses."""
        peer = self.build(steps)
        losses = [peer.epoch() for _ in range(epochs)]
        np.savez(file, *peer.weights())
        return {"losses": losses}

    def start(self) -> dict[str, Any]:
        """Make the peer that will be timed and run its first epoch, which compiles what it must."""
        self.peer = self.build(None)
        return {"loss": self.peer.epoch()}

    def turn(self, seconds: float) -> dict[str, Any]:
        """Time whole epochs until they fill ``seconds``, after an untimed one for the caches.

        An epoch that is longer than the turn is timed at once: a cold start is lost in it.
        """
        assert self.peer is not None
        begin = time.perf_counter()
        loss = self.peer.epoch()
        elapsed, epochs = time.perf_counter() - begin, 1
        if elapsed < seconds:
            elapsed, epochs, begin = 0.0, 0, time.perf_counter()
            while elapsed < seconds:
                loss = self.peer.epoch()
                epochs += 1
                elapsed = time.perf_counter() - begin
        return {"us_per_step": 1e6 * elapsed / (epochs * self.network.steps), "loss": loss}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return getattr(self, request.pop("do"))(**request)
        except ImportError as error:
            return {"missing": str(error)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def serve() -> None:
    parser = argparse.ArgumentParser(description="A worker of train_step.py.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("network", choices=NETWORKS | PIXELS | MANY | SCALING)
    parser.add_argument("threads", type=int)
    parser.add_argument("dtype", choices=("float32", "float64"))
    worker = Worker(**vars(parser.parse_args()))
    # Answers go to a private copy of standard output; what a library prints goes to standard error.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        for line in sys.stdin:
            print(json.dumps(worker.answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    serve()
