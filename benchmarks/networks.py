"""The networks that the whole-step benchmark trains, and their data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from fastnn.datasets import load_mnist

CROSS_ENTROPY = "cross_entropy"
MEAN_SQUARED_ERROR = "mean_squared_error"


@dataclass(frozen=True)
class Network:
    """A multi-layer perceptron and how it is trained; the last layer is linear, the loss on top."""

    name: str
    sizes: tuple[int, ...]
    loss: str
    batch: int
    # Batches in one epoch, the same for every peer. An epoch is one call of the peer, so it must be
    # long enough that what a call costs (checking arguments, leaving Python) is spread over many
    # steps as in real training, and short enough that the data stays small (0.5 to 20 MB here) and
    # a turn of a fraction of a second holds at least one epoch of even the slowest peers.
    steps: int
    learning_rate: float = 1e-3
    activation: str = "relu"
    # Batch normalization between a hidden layer, which then has no bias, and its activation.
    normalized: bool = False
    # Networks of these sizes that are trained at once, from weights of their own.
    copies: int = 1
    pixels: bool = False  # Trained on MNIST's images, of whose pixels four of five are zero.
    seed: int = 0  # of the data, and of the weights where there are no copies

    @property
    def classifies(self) -> bool:
        return self.loss == CROSS_ENTROPY

    @property
    def rates(self) -> list[float]:
        """The learning rate of each copy: the last has the network's, the first a tenth of it."""
        least = self.learning_rate / (10 if self.copies > 1 else 1)
        return np.geomspace(least, self.learning_rate, self.copies).tolist()

    @property
    def parameters(self) -> int:
        shifts = sum(self.sizes[1:-1]) if self.normalized else 0  # gamma, and beta for the bias
        dense = sum(inputs * units + units for inputs, units in pairwise(self.sizes))
        return self.copies * (dense + shifts)

    @property
    def flops(self) -> int:
        """Floating-point operations of a step's matrix products, a multiply and an add being two.

        The first layer needs no gradient of its input, so it has two products and the others three.
        Element-wise work and the optimizer are not counted.
        """
        products = [2 * self.batch * inputs * units for inputs, units in pairwise(self.sizes)]
        return self.copies * (3 * sum(products) - products[0])

    def __str__(self) -> str:
        sizes = "-".join(map(str, self.sizes))
        times = f"{self.copies} x " if self.copies > 1 else ""
        normalized = ", batch normalization" if self.normalized else ""
        images = ", MNIST's pixels" if self.pixels else ""
        return (
            f"{self.name}: {times}{sizes}{images}, {self.activation}{normalized}, "
            f"{self.loss.replace('_', ' ')}, batch {self.batch}, {self.parameters:,} parameters, "
            f"{self.flops / 1e6:.4g} MFLOP a step, {self.steps} steps an epoch"
            f"{f', seed {self.seed}' if self.seed else ''}"
        )


NETWORKS = {
    network.name: network
    for network in (
        Network("tiny", (8, 32, 32, 1), MEAN_SQUARED_ERROR, batch=32, steps=500),
        Network("digits", (64, 64, 10), CROSS_ENTROPY, batch=32, steps=200),
        Network("mnist", (784, 128, 10), CROSS_ENTROPY, batch=64, steps=100),
        Network("wide", (784, 512, 512, 10), CROSS_ENTROPY, batch=128, steps=20),
        # At 1e-3 the first steps of a network this wide overshoot: the loss triples before it
        # falls, rounding grows with it, and the peers could be compared only loosely.
        Network(
            "big", (784, 2048, 2048, 10), CROSS_ENTROPY, batch=256, steps=8, learning_rate=1e-4
        ),
        Network("deep", (64, *[128] * 8, 10), CROSS_ENTROPY, batch=64, steps=50, normalized=True),
        # As in training on all of 10,000 rows at once.
        Network("full", (4, 32, 16, 4), CROSS_ENTROPY, batch=10_000, steps=10, activation="tanh"),
    )
}

#: Networks for MNIST, trained on its images instead of numbers none of which is zero.
PIXELS = {
    network.name: network
    for network in (
        replace(NETWORKS[name], name=f"{name}-pixels", pixels=True)
        for name in ("mnist", "wide", "big")
    )
}

#: Networks of which many are trained side by side.
MANY = {
    "many": Network(
        "many", (16, 32, 32, 1), MEAN_SQUARED_ERROR, batch=32, steps=500, learning_rate=1e-2,
        copies=64,
    )
}  # fmt: skip


#: Networks in which, with the first seed, an activation comes so close to a relu's kink that
#: float32 and float64 do not agree on its side: no peer could be checked.
RESEEDED = {"depth-16": 1}


def _sweep(name: str, sizes: Sequence[int], make: Callable[[int], tuple[list[int], int]]) -> dict:
    """Networks that differ in a number, from which ``make`` makes hidden layers and the batch."""
    found = {}
    for size in sizes:
        hidden, batch = make(size)
        network = Network(
            f"{name}-{size}",
            (64, *hidden, 10),
            CROSS_ENTROPY,
            batch,
            steps=1,
            learning_rate=1e-3 if max(hidden) < 512 else 1e-4,
        )
        if network.name in RESEEDED:
            network = replace(network, seed=RESEEDED[network.name])
        # About the same work in each epoch, but neither a step alone nor thousands.
        steps = min(max(int(1e9 / network.flops), 4), 500)
        found[network.name] = replace(network, steps=steps)
    return found


#: Networks that grow in one respect: how wide two hidden layers are, how many there are, and how
#: many rows a batch has.
SCALING = {
    **_sweep("width", [8 << i for i in range(10)], lambda width: ([width] * 2, 128)),
    **_sweep("depth", [1 << i for i in range(6)], lambda depth: ([64] * depth, 64)),
    **_sweep("batch", [1 << i for i in range(0, 17, 2)], lambda batch: ([64] * 2, batch)),
}


def initial_weights(
    sizes: Sequence[int], seed: int = 0, normalized: bool = False
) -> list[np.ndarray]:
    """``[W, b, W, b, ...]`` in float32: W of shape (inputs, units) He-uniform, b zero.

    Where hidden layers are ``normalized``, each has a gamma of ones and a beta for its b.
    """
    rng = np.random.default_rng([seed, 0])
    weights = []
    for inputs, units in pairwise(sizes):
        limit = np.sqrt(6 / inputs)
        weights.append(rng.uniform(-limit, limit, (inputs, units)).astype(np.float32))
        if normalized and len(weights) < 3 * (len(sizes) - 2):
            weights.append(np.ones(units, np.float32))
        weights.append(np.zeros(units, np.float32))
    return weights


def problem(
    network: Network, steps: int | None = None
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Data for ``steps`` batches (``network.steps`` when None), and the weights to start from.

    X is float32 (steps * batch, inputs), standard normal. The labels come from a random linear
    teacher and can be learnt: int64 classes (n,), or float32 (n, 1). They carry noise, so that the
    loss of a peer that trains for many epochs does not sink to zero, where vanishing gradients
    turn denormal and time something else. The network's seed gives the same problem in every
    process. A network that is trained on pixels gets MNIST's first images, from 0 to 1, and their
    labels: `load_mnist` finds them, or says what to do.
    """
    seed, count = network.seed, (network.steps if steps is None else steps) * network.batch
    inputs, outputs = network.sizes[0], network.sizes[-1]
    weights = initial_weights(network.sizes, seed, network.normalized)
    if network.pixels:
        images, labels = load_mnist()[0]
        return images[:count].reshape(count, -1) / np.float32(255), labels[:count], weights
    teacher = np.random.default_rng([seed, 1]).standard_normal((inputs, outputs)) / np.sqrt(inputs)
    rng = np.random.default_rng([seed, 2])
    X = rng.standard_normal((count, inputs), dtype=np.float32)
    scores = X @ teacher
    if network.classifies:
        y = np.argmax(4 * scores + rng.gumbel(size=scores.shape), axis=1).astype(np.int64)
    else:
        y = (np.sin(2 * scores) + 0.1 * rng.standard_normal(scores.shape)).astype(np.float32)
    return X, y, weights
